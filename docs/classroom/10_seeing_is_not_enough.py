# %% [markdown]
# # 10. Seeing is not enough
#
# **Goal.** Follow a barrier for next-token prediction that no amount of data moves, down to its counts.
# **Minutes.** 40. **Needs.** Sheets 1 and 6.
#
# In `ConsistencyGame` a prompt is one of 2H *contexts*, and the expert answers H zeros to each. The class cannot:
# at each of the H positions (*layers*) it has to choose on which small set of contexts it errs. There is a set
# for each scale 2ʲ, which the layers of an aligned block of 2ʲ share. The larger the scale the larger the set: a
# set of scale 1 has a mass of ε (1 − η), one of scale H a mass of ε.
#
# Two learners are given the *exact* law: one decides layer by layer, as next-token prediction does, the others
# chunk by chunk.

# %%
import numpy as np

from agents import ChunkedRhoBC, LayerwiseBC
from experiments.classroom import check
from ntp_envs import approximation_factor, make_task

task = make_task("ConsistencyGame", horizon=16, eta=0.1)
fitted = {}
for agent in (LayerwiseBC(), *(ChunkedRhoBC(chunk=K) for K in (2, 4, 8, 16))):
    fitted[str(agent)] = agent.fit(task.population(), task.policy_class).policy_
    print(f"{agent}: factor {approximation_factor(task, fitted[str(agent)]):.2f}")

# %% [markdown]
# ## a. Count
#
# On how many contexts does a policy err, at one layer or more? A policy is asked by
# `policy.log_probs(prompts, tokens)`: the log-probability of each token of each answer, minus infinity where it never
# writes it. `task.prompt_law()[0]` lists the contexts.


# %%
def contexts(policy, task):
    prompts = task.prompt_law()[0]
    zeros = np.zeros((len(prompts), task.horizon), dtype=int)
    return int((policy.log_probs(prompts, zeros).sum(axis=1) < -1).sum())  # gap


check(10, contexts)

# %% [markdown] tags=["hint"]
# Ask for the expert's answer, all zeros, after every context. A policy of this class is deterministic: it errs where
# that answer has probability 0, a log-probability of minus infinity.

# %% tags=["solution"]
counted = {name: contexts(policy, task) for name, policy in fitted.items()}
print(counted)
assert list(counted.values()) == [16, 8, 4, 2, 1]

# %% [markdown] tags=["solution"]
# Layer by layer each takes the lightest set in sight, that of scale 1, which is its own: H sets in all. On chunks
# of K the lightest union is the one set of scale K that its layers share: H / K sets.

# %% [markdown]
# ## b. Weigh
#
# A policy's squared Hellinger distance is twice the mass of the contexts on which it errs, and the best in class
# takes the one set of scale H. A set of scale 2ʲ has a mass of ε (1 − η (J − j) / J), where H = 2ᴶ. Write the
# approximation factor of the learner on chunks of K tokens.


# %%
def factor(H, K, eta):
    return H / K * (1 - eta * (1 - np.log(K) / np.log(H)))  # gap


check(10, factor, part="b")

# %% [markdown] tags=["hint"]
# H / K sets of scale K = 2ᵏ, each of mass ε (1 − η (J − k) / J), against one of mass ε. What is k / J in terms of
# K and H?

# %% [markdown] tags=["solution"]
# Each layer makes the better choice by what it sees, and the choices do not fit together. It has the exact law
# already; what is missing is not data but a look at more than one layer. (The construction is this suite's
# reading of the barrier in Rohatgi et al., arXiv:2502.12465.)

# %% tags=["solution"]
for K, policy in zip((1, 2, 4, 8, 16), fitted.values()):
    print(f"K = {K}: {factor(16, K, 0.1):.2f} by the formula, {approximation_factor(task, policy):.2f} measured")
    assert np.isclose(factor(16, K, 0.1), approximation_factor(task, policy))
