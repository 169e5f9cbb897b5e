# %% [markdown]
# # 1. Where does the factor H come from?
#
# **Goal.** See how a learner that gets every token nearly right gets whole documents wrong, and by how much.
# **Minutes.** 15. **Needs.** Means and square roots.
#
# An expert writes H bits. A *flip* is a bit unlike the one before. In most documents flips are rare, of
# probability p; in a fraction ε of the documents they are nearly certain, of probability q. A learner may choose
# one flip probability θ for all documents, so nothing that it can choose is the expert: its class is
# *misspecified*.
#
# Two laws of whole documents are compared by their squared Hellinger distance D², which is 0 where they are equal
# and 2 where they have nothing in common. The *approximation factor* says how many times farther from the expert
# a learner ends up than the best θ there is.

# %%
from agents import LogLossBC
from ntp_envs import approximation_factor, compare_curves, distance, make_task

for horizon in (16, 64, 256):
    task = make_task("Contamination", horizon=horizon)  # eps = 0.001, p = 0.00001, q = 1 - p
    learnt = LogLossBC().fit(task.population(), task.policy_class).policy_  # from infinitely many documents
    best = task.best_in_class().policy
    factor = approximation_factor(task, learnt)
    print(f"H = {horizon}: learnt theta {learnt.theta:.3g}, best {best.theta:.3g}, factor {factor:.1f}")

# %%
curves = {"log-loss": distance(task.expert, learnt, task), "best in class": distance(task.expert, best, task)}
ax = compare_curves(curves)

# %% [markdown]
# ## a. What does log-loss learn?
#
# Write the θ that minimises log-loss as a function of ε, p and q. `check` tries it on tasks of its own.

# %%
from experiments.classroom import check


def theta(eps, p, q):
    return p + eps * (q - p)  # gap


check(1, theta)

# %% [markdown] tags=["hint"]
# Log-loss looks at one token at a time. Of all tokens of all documents, what share are flips?

# %% [markdown] tags=["solution"]
# Maximum likelihood in a class of one probability takes the share of events among all tokens: p in a share 1 − ε
# of the documents and q in the others, so θ = (1 − ε) p + ε q.

# %% [markdown]
# ## b. What does it pay?
#
# The best in class gives up on the contaminated documents: it is at a distance of about ε. Show that log-loss
# pays that too, and beyond it (√θ − √p)² for every token of every clean document. Write the factor to first
# order.

# %%
from math import sqrt


def factor(H, eps, p, q):
    return 1 + H * (sqrt(p + eps * (q - p)) - sqrt(p)) ** 2 / eps  # gap


check(1, factor, part="b")

# %% [markdown] tags=["hint"]
# For two coins that rarely flip, one of p and one of θ, the sum of (√P − √Q)² over "flip" and "no flip" is (√θ −
# √p)² to first order: the other term is of second order. Over H independent tokens small distances add up.

# %% [markdown] tags=["solution"]
# Nearly all documents are clean. There the learner's law is that of H flips of θ instead of p, at a distance of H
# (√θ − √p)² as long as that is small. The contaminated documents have a mass of ε, and the learner writes none of
# them: ε more. The best in class pays the ε alone. At H = 256 the first order is 5 % too much, as distances do
# not add up for ever: they end at 2.

# %% tags=["solution"]
for horizon in (16, 64, 256):
    task = make_task("Contamination", horizon=horizon)
    measured = approximation_factor(task, LogLossBC().fit(task.population(), task.policy_class).policy_)
    first_order = factor(horizon, task.eps, task.p, task.q)
    print(f"H = {horizon}: {measured:.1f} measured, {first_order:.1f} to first order")
assert 1.04 < first_order / measured < 1.06
