# %% [markdown]
# # 9. A linear predictor that computes
#
# **Goal.** See what a chain of thought adds to a class that is linear. **Minutes.** 30. **Needs.** Turing machines; the
# perceptron.
#
# A Turing machine writes down its tape after every step: S cells and a bar, step after step. The symbol under the
# head carries the state, as in `1@carry`. The learner is linear: each next token is the largest of some sums of
# weights, one for each of three tokens that it sees.

# %%
import numpy as np

from agents import PerceptronBC
from experiments.classroom import check
from ntp_envs import GreedyPolicy, collect, evaluate, make_task

long = make_task("TuringMachine", machine="increment", width=6, steps=20)  # adds one to a binary number
prompts = long.sample_prompts(1, np.random.default_rng(1))
configurations = np.concatenate([prompts, long.targets(prompts)], axis=1).reshape(-1, 7)
for configuration in configurations[:9]:
    print(long.decode(configuration))

# %% [markdown]
# ## a. Three tokens
#
# A cell after the next step depends on three cells before it. How many tokens back are they, on a tape of S
# cells, from the nearest to the farthest?


# %%
def distances(S):
    return [S, S + 1, S + 2]  # gap


check(9, distances)

# %% [markdown] tags=["hint"]
# The head moves by one cell, so a cell and its two neighbours are enough. From a cell to the same cell of the next
# configuration it is as many tokens as a line above has, the bar included.

# %% [markdown]
# The class sees just these three tokens. The perceptron learns it from single steps of random configurations, and is
# then left alone for 20 steps of the real thing. How many does it need, and which ones does it wait for?

# %%
short = make_task("TuringMachine", machine="increment", width=6, inputs="random", steps=1)
right = {}
for n in (50, 100, 200, 400):
    learnt = PerceptronBC().fit(collect(short, n, np.random.default_rng(0)), short.policy_class).policy_
    right[n] = evaluate(GreedyPolicy(learnt), long, n=200, rng=np.random.default_rng(1)).greedy_exact
    print(f"{n} single steps: {right[n]:.2f} of the runs right")

# %% tags=["solution"]
assert right[50] == 0 and right[400] == 1

# %% [markdown] tags=["solution"]
# All or nothing: a run is right if every rule of the table has been seen often enough, and wrong as soon as it
# meets one that has not. With a few hundred steps all have been. Nothing of it depends on how long the run is.

# %% [markdown]
# ## b, c. Without the chain
#
# Now the machine is `parity`, which walks over a word and writes behind it whether the number of ones is odd.
# Without the chain (`cot=False`) the learner sees the whole prompt, and writes the last configuration at once. At
# which token of the answer does it fail (counted from 1)? What share of its answers is right?

# %%
import warnings

parity = make_task("TuringMachine", machine="parity", width=8, cot=False)
demonstrations = collect(parity, 300, np.random.default_rng(0))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the perceptron says that it finds no theta that is right on all of them
    learnt = PerceptronBC(max_epochs=20).fit(demonstrations, parity.policy_class).policy_
found = evaluate(GreedyPolicy(learnt), parity, n=1000, rng=np.random.default_rng(1))
print(parity.decode(demonstrations.prompts[0]), " becomes ", parity.decode(demonstrations.tokens[0]))

place = int(found.forced_accuracy.argmin()) + 1  # gap
check(9, place, part="b")

# %%
share = found.greedy_exact  # gap
check(9, share, part="c")

# %% [markdown] tags=["hint"]
# `found.forced_accuracy` is by position; `found.greedy_exact` is of whole answers.

# %% [markdown] tags=["solution"]
# The one token that needs all bits of the word is a coin toss: parity is the textbook example of what no linear
# function of the bits can do, however many examples it sees. With the chain the state carries the parity so far
# from cell to cell, and each step is linear in three tokens.

# %% tags=["solution"]
chain = parity.replace(cot=True)
learnt = PerceptronBC().fit(collect(chain, 300, np.random.default_rng(0)), chain.policy_class).policy_
with_chain = evaluate(GreedyPolicy(learnt), chain, n=1000, rng=np.random.default_rng(1)).greedy_exact
print(f"right without the chain {share:.2f}, with it {with_chain:.2f}")
assert abs(share - 0.5) < 0.1 and with_chain == 1
