# %% [markdown]
# # 3. A control: nothing is wrong in the well-specified case
#
# **Goal.** Check that misspecification, and not the horizon by itself, is what sheets 1 and 2 are about.
# **Minutes.** 20. **Needs.** Sheets 1 and 2.
#
# An expert from the class itself is `task.policy_class.policy(theta)`, and `collect(..., policy=expert)` lets it
# demonstrate. The best in class is then the expert, at distance 0, and there is no approximation factor (it would be
# x / 0). What is left is the distance itself.

# %%
import numpy as np

from agents import LogLossBC
from experiments.classroom import check
from ntp_envs import collect, distance, make_task


def mean_distance(n, H, seeds=100):
    """Squared Hellinger distance between a coin of probability 0.1 and what log-loss learns of n documents of it."""
    task = make_task("Contamination", horizon=H)
    expert = task.policy_class.policy(0.1)
    found = []
    for seed in range(seeds):
        documents = collect(task, n, np.random.default_rng(seed), policy=expert)
        learnt = LogLossBC().fit(documents, task.policy_class).policy_
        found.append(distance(expert, learnt, task).final)
    return np.mean(found)


sizes, lengths = (50, 200, 800), (16, 64, 256)
by_size = [mean_distance(n, 16) for n in sizes]
by_length = [mean_distance(50, H) for H in lengths]
print("H = 16:", dict(zip(sizes, np.round(by_size, 5).tolist())))
print("n = 50:", dict(zip(lengths, np.round(by_length, 5).tolist())))

# %% [markdown]
# ## a, b. Two exponents
#
# The distance goes like a power of n (at fixed H) and like a power of H (at fixed n). Which two powers?

# %%
of_n = np.polyfit(np.log(sizes), np.log(by_size), 1)[0]  # gap
check(3, of_n)

# %%
of_H = np.polyfit(np.log(lengths), np.log(by_length), 1)[0]  # gap
check(3, of_H, part="b")

# %% [markdown] tags=["hint"]
# As in sheet 2: the slope of a line on axes that are both logarithmic. These are 100 draws, so a measured
# exponent is a little off a round number.

# %% [markdown]
# ## c. The constant
#
# The distance is about 1 / (c n). Which whole number is c?

# %%
c = round(1 / np.mean(by_size * np.array(sizes)))  # gap
check(3, c, part="c")

# %% [markdown] tags=["hint"]
# Either from the numbers above, or on paper: two coins of θ and θ + δ are at a squared Hellinger distance of about
# δ² / (4 θ (1 − θ)) a token, and of n H tokens the share of flips has the variance θ (1 − θ) / (n H).

# %% [markdown] tags=["solution"]
# H tokens add up H times δ² / (4 θ (1 − θ)), and δ² is θ (1 − θ) / (n H) on average: H cancels, θ cancels, 1 / (4
# n) is left, a quarter for each parameter of the class. Longer documents have more tokens to err on and teach as
# much more. Where the class contains the expert, next-token prediction has no problem with the horizon.

# %% tags=["solution"]
print(f"exponents {of_n:.2f} and {of_H:.2f}; n D² = {np.mean(by_size * np.array(sizes)):.3f}")
assert abs(of_n + 1) < 0.25 and abs(of_H) < 0.25 and c == 4
