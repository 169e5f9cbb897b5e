# %% [markdown]
# # 8. Near in every token, far as a text
#
# **Goal.** See that distances summed over tokens can prefer the worse of two policies. **Minutes.** 25.
# **Needs.** Total variation; sheet 7 b.
#
# A fair coin is thrown T times. Two policies imitate it. *Every* is off by e at every toss: heads with
# probability 1/2 + e. *First* is fair but for the first toss, where it is off by T e / 2. Token by token the
# total variations add up to T e for *every* and to T e / 2 for *first*: whoever goes by tokens takes *first*.

# %%
import numpy as np

from experiments.classroom import check
from ntp_envs.tasks import BernoulliMixture

e, lengths = 1e-6, (100, 400, 1600)
every = {T: BernoulliMixture(horizon=T, q=0.5).distance_to(0.5 + e, "tv") for T in lengths}  # of whole texts, exactly
for T in lengths:
    print(f"T = {T}: every is at {every[T]:.3g} as a text, {T * e:.3g} summed over the tokens")

# %% [markdown]
# ## a. *First*, as a text
#
# What is the total variation between whole texts of *first* and of the fair coin?


# %%
def tv_of_first(T, e):
    return T * e / 2  # gap


check(8, tv_of_first)

# %% [markdown] tags=["hint"]
# After the first toss the two laws are the same. Total variation is half the sum of |P − Q|, over all texts.

# %% [markdown]
# ## b. How much farther?
#
# As texts *first* is farther than *every*, by a ratio that grows like a power of T. Which power?

# %%
ratios = np.array([tv_of_first(T, e) / every[T] for T in lengths])  # gap
power = np.polyfit(np.log(lengths), np.log(ratios), 1)[0]  # gap
check(8, power, part="b")

# %% [markdown] tags=["hint"]
# The log-ratio of a text under *every* and under the fair coin is a sum of T terms of random sign: how does such
# a sum grow with T?

# %% [markdown] tags=["solution"]
# Errors of random sign cancel: heads say "more likely" and tails "less likely", and the sum over a text is of order
# √T e, not T e. To leading order its total variation is e √(2 T / π), and the ratio √(π T / 8).

# %% tags=["solution"]
for T, ratio in zip(lengths, ratios):
    print(f"T = {T}: {ratio:.2f} times farther; sqrt(pi T / 8) = {np.sqrt(np.pi * T / 8):.2f}")
    assert abs(ratio / np.sqrt(np.pi * T / 8) - 1) < 0.01

# %% [markdown]
# ## c. The same question to squared Hellinger distance
#
# How many times farther than *every* is *first*, as whole texts, in squared Hellinger distance (small e, leading
# order)? And summed over the tokens? Which of the two policies does it take, by tokens and as a text?


# %%
def hellinger_ratio(T):
    return T / 4  # gap


check(8, hellinger_ratio, part="c")

# %% [markdown] tags=["hint"]
# Two coins of 1/2 and 1/2 + δ are at δ², to leading order. Small squared distances of independent tokens add up.

# %% [markdown] tags=["solution"]
# *Every*: T e². *First*: (T e / 2)². The ratio is T / 4, by tokens and as a text: squared Hellinger distance takes
# *every* both times, as soon as T > 4. It is of second order in the errors, as the variance of a sum is, and so it
# knows that they cancel. That is why this suite measures in it.
