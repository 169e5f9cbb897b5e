# %% [markdown]
# # 5. Two ways to be wrong
#
# **Goal.** Tell a failure of execution, which a verifier repairs, from a failure of learning, which it does not.
# **Minutes.** 20. **Needs.** Sheet 4.
#
# `Snowball` has its prompt copied by someone who errs with probability ε a token. Clever Hans walks a path-star
# of the same length. Both have a small loss a token. Each is then given a verifier that says after every token
# whether it may stand (a right copy; a step along an edge), and may go one token back where it says no.

# %%
import numpy as np

from experiments.classroom import check
from ntp_envs import evaluate, make_task
from ntp_envs.tasks import CleverHansPolicy

copying = make_task("Snowball", horizon=32, eps=0.05)
path = make_task("PathStar", degree=5, length=32, nodes=160)
found = {}
for task, policy in ((copying, copying.sloppy_copier()), (path, CleverHansPolicy(path))):
    found[task.name] = tried = evaluate(policy, task, n=300, rng=np.random.default_rng(0), backtrack=1)
    print(f"{task.name}: {tried.mean_cross_entropy:.3f} nats a token,")
    print(f"    answers right {tried.sampled_exact:.2f}, with the verifier {tried.backtracking_accepted:.2f}")

# %% [markdown]
# ## a. A snowball
#
# With what probability is a copy of H tokens right?


# %%
def exact(eps, H):
    return (1 - eps) ** H  # gap


check(5, exact)

# %% [markdown] tags=["hint"]
# Every token has to be right, and each is right or wrong independently of all others.

# %% [markdown]
# ## b. What does the repair cost?
#
# With the verifier every wrong token is seen at once and drawn again. How many tokens are drawn *for each token
# of the answer*, on average?


# %%
def cost(eps, H):
    return 1 / (1 - eps)  # gap


check(5, cost, part="b")

# %% [markdown] tags=["hint"]
# How often do you throw a die until you have anything but a six?

# %% [markdown]
# ## c. How far back?
#
# On a path-star every step along an edge is allowed; that the arm is the wrong one shows only at its end. How many
# tokens back must a verifier be able to go, on paths of L nodes, before Clever Hans is repaired? Try it.

# %%
for back in (1, 2, 3, 4):
    task = make_task("PathStar", degree=5, length=5, nodes=30)
    tried = evaluate(CleverHansPolicy(task), task, n=200, rng=np.random.default_rng(0), backtrack=back)
    print(back, round(tried.backtracking_accepted, 2), f"{tried.backtracking_cost:.1f} tokens drawn a token")


def back_to_the_error(L):
    return L - 1  # gap


check(5, back_to_the_error, part="c")

# %% [markdown] tags=["hint"]
# The last node is refused. Which one was wrong, and how many tokens have to be taken back, that one included?

# %% [markdown] tags=["solution"]
# The copier's law is right but for noise: whoever sees a slip can mend it, for a factor of 1 / (1 − ε) in tokens.
# Clever Hans does not know where to go. His error is made at the second node and seen at the last, L − 1 tokens
# later; going back that far is a search through all d arms, which is to solve the task without him.

# %% tags=["solution"]
measured = found["Snowball"].backtracking_cost
print(f"{exact(0.05, 32):.3f} of copies right; {cost(0.05, 32):.3f} tokens a token, {measured:.3f} measured")
assert found["Snowball"].backtracking_accepted == 1 and found["PathStar"].backtracking_accepted < 0.3
assert abs(measured - cost(0.05, 32)) < 0.02
