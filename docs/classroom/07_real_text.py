# %% [markdown]
# # 7. How fast does text drift?
#
# **Goal.** Measure drift on real text, in units that add up. **Minutes.** 30. **Needs.** Sheet 4 (nats).
#
# The expert is a model of a text (the help pages that come with Python, so nothing is downloaded): it sees five
# characters back. Learners see fewer, and learn from 4000 windows of the text. `task = make_task("Text",
# corpus="book.txt", horizon=32)` does all of this on a text of your own; the answers are then other ones than those
# that `check` computes in c.

# %%
import numpy as np

from agents import NGramBC
from experiments.classroom import check
from ntp_envs import NGramClass, compare_curves, distance, make_task

task = make_task("Text", horizon=32)
windows = task.windows(4000, np.random.default_rng(0))
learners = {
    f"{order}-gram": NGramBC().fit(windows, NGramClass(task.vocab_size, order)).policy_ for order in (2, 3, 4, 5)
}
for name, learner in learners.items():
    print(name, repr(task.decode(learner.sample(windows.prompts[:1], 32, np.random.default_rng(1))[0])))

# %% [markdown]
# ## a. Bits a character
#
# `policy.log_probs(texts.prompts, texts.tokens)` gives the log-probability, in nats, of every character of every
# text, each given the characters before it: an array with a row for each text. How many bits does a character
# cost?


# %%
def bits(policy, texts):
    return -policy.log_probs(texts.prompts, texts.tokens).mean() / np.log(2)  # gap


check(7, bits)

# %% [markdown] tags=["hint"]
# The costs of the characters of a text add up, so the mean is one of logarithms; a nat is 1 / ln 2 bits; and a
# cost is positive.

# %% tags=["solution"]
unseen = task.windows(2000, np.random.default_rng(2), held_out=True)
for name, learner in learners.items():
    print(f"{name}: {bits(learner, unseen):.2f} bits a character of text that nobody has seen")
assert bits(learners["5-gram"], unseen) < bits(learners["3-gram"], unseen) < bits(learners["2-gram"], unseen)

# %% [markdown]
# ## b. A scale that adds up
#
# Squared Hellinger distances do not add up: they end at 2. If every one of H tokens is independent of the others and
# D² = d2 apart, how far apart are the whole sequences?


# %%
def whole(d2, H):
    return 2 * (1 - (1 - d2 / 2) ** H)  # gap


check(7, whole, part="b")

# %% [markdown] tags=["hint"]
# D² = 2 − 2 Σ √(P Q), and for independent tokens the sum on the right is a product of H sums, one a token.

# %% [markdown] tags=["solution"]
# So −2 ln(1 − D²/2) is H times that of one token: it adds up, and is near D² where that is small. On this scale,
# `additive=True`, a straight line is a constant drift a token.

# %%
curves = {name: distance(task.expert, learner, task, n=2000) for name, learner in learners.items()}
ax = compare_curves(curves, additive=True)

# %% [markdown]
# ## c. Half way
#
# After how many tokens is the text of the 5-gram more than half way (D² > 1) from the expert's? (Sampled: give or
# take two.)

# %%
half_way = int((curves["5-gram"].values > 1).argmax()) + 1  # gap
check(7, half_way, part="c")

# %% [markdown] tags=["hint"]
# `curve.values[0]` is the distance after one token. `(curve.values > 1).argmax()` finds the first place where it
# is true.

# %% [markdown] tags=["solution"]
# One or two tenths of a bit a character more than the expert looks like little, and the text is another one within a
# line. Two kinds of numbers, and both are right: bits are under the true prefix, the distance is of what is written on
# one's own.

# %% tags=["solution"]
found = {name: int((curve.values > 1).argmax()) + 1 for name, curve in curves.items()}
print("tokens until half way:", found)
more = bits(learners["5-gram"], unseen) - bits(task.expert, unseen)
print(f"the 5-gram costs {more:.2f} bits a character more than the expert")
assert 0.05 < more < 0.25
assert found["2-gram"] < found["4-gram"] < found["5-gram"]
