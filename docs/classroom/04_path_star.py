# %% [markdown]
# # 4. Right almost everywhere, and useless
#
# **Goal.** Tell accuracy under the true prefix from accuracy on one's own, and find the token that is not learnt.
# **Minutes.** 20. **Needs.** Cross-entropy.
#
# A *path-star* is d arms that meet in a start. The prompt lists the edges in random order, then the start and a
# goal at the end of one arm; the answer is the path of L nodes from start to goal. `CleverHansPolicy` copies:
# after each node it writes a node that follows it in the list of edges, without a plan.

# %%
import matplotlib.pyplot as plt
import numpy as np

from agents import LogLossBC
from experiments.classroom import check
from ntp_envs import evaluate, make_task
from ntp_envs.tasks import CleverHansPolicy

axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")[1]
for degree, ax in zip((2, 5), axes):
    task = make_task("PathStar", degree=degree, length=5, nodes=30)
    learnt = LogLossBC().fit(task.population(), task.policy_class).policy_  # next-token prediction on all graphs
    for name, policy in {"Clever Hans": CleverHansPolicy(task), "log-loss": learnt}.items():
        found = evaluate(policy, task, n=1000, rng=np.random.default_rng(0))
        print(f"d = {degree}, {name}: right given the true nodes before {found.forced_accuracy.round(2)},")
        print(f"    whole path right {found.sampled_exact:.2f}, {found.mean_cross_entropy:.3f} nats a token")
    found.plot(ax).set_title(f"log-loss, d = {degree}")

# %% [markdown]
# ## a. By position
#
# Write the accuracy of Clever Hans at each of the L nodes, given the true nodes before.


# %%
def accuracies(d, L):
    return [1, 1 / d] + (L - 2) * [1]  # gap


check(4, accuracies)

# %% [markdown] tags=["hint"]
# The first node is named in the question. How many nodes follow the start in the list of edges, and how many any
# other?

# %% [markdown]
# ## b. In nats
#
# And its cross-entropy, in nats a token?


# %%
def nats(d, L):
    return np.log(d) / L  # gap


check(4, nats, part="b")

# %% [markdown] tags=["hint"]
# A token of probability 1 costs nothing. One token is left, and the mean is over all L.

# %% [markdown] tags=["solution"]
# One node of L is a guess among d. A mean over tokens hides that: the longer the path, the smaller the loss,
# while the whole path is right once in d.

# %% [markdown]
# ## c. What would be enough?
#
# The chain rule says that a policy with all conditionals right writes whole paths right. Which conditional of the
# learner above is wrong, and why does more data not mend it (it saw all graphs)? With `hops=h` the class is shown
# the h ancestors of the goal as well. How many must it be shown, for paths of L nodes?

# %%
for hops in (0, 1, 2, 3):
    task = make_task("PathStar", degree=2, length=5, hops=hops)
    learnt = LogLossBC().fit(task.population(), task.policy_class).policy_
    print(hops, round(evaluate(learnt, task, n=500, rng=np.random.default_rng(0)).sampled_exact, 2))


def hops_needed(L):
    return L - 2  # gap


check(4, hops_needed, part="c")

# %% [markdown] tags=["hint"]
# Walk back from the goal, one hop at a time, until you stand on the node that has to be told from its d − 1 siblings.

# %% [markdown] tags=["solution"]
# The second node. All d neighbours of the start look alike to the class: their features are equal, so every
# member gives them equal probability, whatever the data. Teacher forcing then makes it worse in practice: given
# the true second node all that follows can be copied, so nothing forces a learner to find the plan. From the goal
# it is L − 2 hops back to the second node, and a class that sees that far writes the path.

# %% tags=["solution"]
for length in (4, 5, 8):
    exact = [make_task("PathStar", length=length, nodes=40, hops=hops).class_exact_match for hops in range(length - 1)]
    print(length, np.round(exact, 2))
    assert np.isclose(exact[hops_needed(length)], 1) and max(exact[: hops_needed(length)]) < 0.51
