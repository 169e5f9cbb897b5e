# %% [markdown]
# # 2. More data does not help
#
# **Goal.** Tell the error that more demonstrations remove from the one that they do not.
# **Minutes.** 20. **Needs.** Sheet 1.
#
# The expert of sheet 1 again, with short documents of 16 tokens, one in twenty contaminated. Log-loss now sees n
# documents. Every row is a mean over 20 draws of them.

# %%
import numpy as np

from agents import LogLossBC
from experiments.classroom import check
from ntp_envs import collect, distance, make_task

task = make_task("Contamination", horizon=16, eps=0.05)
sizes = (100, 300, 1000, 3000)
learnt = {
    n: [LogLossBC().fit(collect(task, n, np.random.default_rng(seed)), task.policy_class).policy_ for seed in range(20)]
    for n in sizes
}
for n in sizes:
    print(n, round(np.mean([distance(task.expert, policy, task).final for policy in learnt[n]]), 4))

# %% [markdown]
# ## a. Where does it end?
#
# What does this number tend to as n grows? Compute it, without sampling.

# %%
limit = LogLossBC().fit(task.population(), task.policy_class).policy_  # gap
end = distance(task.expert, limit, task).final  # gap
check(2, end)

# %% [markdown] tags=["hint"]
# `task.population()` stands for infinitely many demonstrations. Fit to it, as in sheet 1, and take
# `distance(task.expert, policy, task).final`.

# %% [markdown]
# ## b. What does shrink?
#
# The policy that n documents teach comes nearer and nearer to the one that infinitely many do. Its mean distance to
# *that* policy goes like a power of n. Which?

# %%
taught = LogLossBC().fit(task.population(), task.policy_class).policy_
apart = [np.mean([distance(taught, policy, task).final for policy in learnt[n]]) for n in sizes]
print(dict(zip(sizes, np.round(apart, 5).tolist())))

exponent = np.polyfit(np.log(sizes), np.log(apart), 1)[0]  # gap
check(2, exponent, part="b")

# %% [markdown] tags=["hint"]
# On axes that are both logarithmic a power is a straight line. `np.polyfit(x, y, 1)[0]` is its slope.

# %% [markdown] tags=["solution"]
# The error of θ is of order 1/√n, and a squared distance is quadratic in it: 1/n. That is the part for which data
# are paid. The other, between the limit and the expert, is the same for every n: it is what the class and the
# loss make of infinitely many demonstrations.

# %% tags=["solution"]
best = task.best_in_class().hellinger2
print(f"limit of log-loss {end:.3f}, best in class {best:.3f}")
assert end > 10 * best

# %% [markdown]
# ## c. A surprise
#
# With the default ε = 0.001 and H = 64 the error of log-loss *rises* with n. Why? After how many documents has a
# learner seen a contaminated one with probability 1/2?

# %%
default = make_task("Contamination", horizon=64)
for n in (100, 1000, 10_000):
    seeds = [np.random.default_rng(seed) for seed in range(10)]
    policies = [LogLossBC().fit(collect(default, n, rng), default.policy_class).policy_ for rng in seeds]
    print(n, round(np.mean([distance(default.expert, policy, default).final for policy in policies]), 4))


def half(eps):
    return np.log(1 / 2) / np.log(1 - eps)  # gap


check(2, half, part="c")

# %% [markdown] tags=["hint"]
# n documents are all clean with probability (1 − ε) to the power n.

# %% [markdown] tags=["solution"]
# A learner that has seen no contaminated document cannot be misled by one: it takes θ near p, which is the best
# in class. Only as the contaminated documents come in does log-loss spread them over all tokens. Fewer data,
# better documents: that is luck, not a method.

# %% tags=["solution"]
clean = LogLossBC().fit(collect(default, 100, np.random.default_rng(0)), default.policy_class).policy_
gone = LogLossBC().fit(default.population(), default.policy_class).policy_
print(f"{half(default.eps):.0f} documents; clean data: theta {clean.theta:.2g}; all data: theta {gone.theta:.2g}")
assert distance(default.expert, clean, default).final < 1.01 * default.best_in_class().hellinger2
