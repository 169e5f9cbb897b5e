# %% [markdown]
# # 6. A dial between tokens and documents
#
# **Goal.** Turn next-token prediction into learning of whole documents, step by step, and read a log-log plot.
# **Minutes.** 25. **Needs.** Sheet 1.
#
# `ChunkedRhoBC(chunk=K)` compares policies on chunks of K tokens instead of single ones. K = 1 is next-token
# prediction; K = H looks at whole documents. Between them a chunk is what the learner pays for: its cost grows
# with K.

# %%
import matplotlib.pyplot as plt
import numpy as np

from agents import ChunkedRhoBC
from experiments.classroom import check
from ntp_envs import approximation_factor, make_task

task = make_task("Contamination", horizon=256)
chunks = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
thetas, factors = [], []
for chunk in chunks:
    learnt = ChunkedRhoBC(chunk=int(chunk)).fit(task.population(chunk=int(chunk)), task.policy_class).policy_
    thetas.append(learnt.theta)
    factors.append(approximation_factor(task, learnt))
    print(f"K = {chunk:3}: theta {thetas[-1]:.3g}, factor {factors[-1]:.1f}")
factors = np.array(factors)
ax = plt.subplots(layout="constrained")[1]
ax.loglog(chunks, factors, "o-", base=2)
_ = ax.set(xlabel="tokens a chunk, K", ylabel="approximation factor")

# %% [markdown]
# ## a. The slope
#
# In the middle, from K = 8 to K = 128, the points lie nearly on a line. What is its slope?

# %%
middle = (chunks >= 8) & (chunks <= 128)
slope = np.polyfit(np.log(chunks[middle]), np.log(factors[middle]), 1)[0]  # gap
check(6, slope)

# %% [markdown] tags=["hint"]
# `np.polyfit(x, y, 1)[0]` of the logarithms of both.

# %% [markdown]
# ## b. The flat end
#
# The curve is flat at its *left* end: short chunks buy nothing. Up to which K, among those above, is the learnt θ
# still the one of next-token prediction, and why does it stop there?

# %%
flat_until = max(K for K, theta in zip(chunks, thetas) if np.isclose(theta, thetas[0], rtol=1e-6))  # gap
check(6, flat_until, part="b")

# %% [markdown] tags=["hint"]
# Print the θ in full. How large would θ have to be for clean chunks of K tokens to cost what a missed
# contaminated chunk does, and is there any reason to go beyond the share of flips among all tokens?

# %% [markdown] tags=["solution"]
# A learner on chunks lets the clean chunks pay, K (√θ − √p)², until that is of the order of ε, what it loses with
# the contaminated ones: θ falls as K grows. The other way round it would rise as K shrinks, but at the share of
# flips among all tokens single tokens are matched exactly, and nothing is gained beyond. For the shortest chunks
# that end is reached: they all take the θ of log-loss.

# %% [markdown]
# ## c. The other end
#
# The line bends at the right end, too, because a factor cannot fall below 1. Take the 1 away: what is the slope,
# on the same chunks, of the factor less 1? What does it say about the price of a document, and of a chunk?

# %%
straightened = np.polyfit(np.log(chunks[middle]), np.log(factors[middle] - 1), 1)[0]  # gap
check(6, straightened, part="c")

# %% [markdown] tags=["hint"]
# The same line as in a, through `factors - 1`.

# %% [markdown] tags=["solution"]
# Nearly −1. A chunk costs the same at any K (of the order of ε), and a document of H tokens has H / K of them:
# that is the factor less 1, but for a constant. Chunks twice as long halve it.

# %% tags=["solution"]
print(f"slopes {slope:.2f} and {straightened:.2f}; (factor - 1) K = {np.round((factors - 1) * chunks)}")
assert -1.05 < straightened < slope < -0.85 and flat_until == 2
