"""Writing and scoring texts of n-gram models, against numpy, nltk, KenLM and JAX.

* ``numpy loop`` writes out the law of every row at every step, from ``next_log_probs``, and inverts its cumulative sum;
  of large vocabularies a few rows are timed and scaled by their number.
* ``JAX lax.scan`` does so on a table of all cumulative laws, for one order for which there is one; compiled before. It
  is the work of any number of threads, all of whose processor time counts.
* ``nltk MLE`` is relative frequencies, which a model without ``escape`` is too; a few texts are timed and scaled.
* ``KenLM`` reads the model from an ARPA file and scores whole lines through its Python module: an interpolated model is
  one that backs off, with the shares that are left to shorter contexts as weights.

Texts that are drawn agree in their mean log-probability, within five standard errors, and scores to rounding: KenLM's
are in single precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import Clock, Row, Side, optional, timed
from ntp_envs import NGramPolicy, Policy
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.tasks import Text


def numpy_loop(policy: Policy, prompts: IntArray, horizon: int, rng: np.random.Generator) -> IntArray:
    """Texts drawn from dense laws."""
    tokens = np.empty((len(prompts), horizon), dtype=np.int64)
    for t in range(horizon):
        cumulative = np.exp(policy.next_log_probs(prompts, tokens[:, :t])).cumsum(axis=1)
        tokens[:, t] = (cumulative < rng.random((len(prompts), 1)) * cumulative[:, -1:]).sum(axis=1)
    return tokens


def jax_scan(policy: NGramPolicy, prompts: IntArray, horizon: int) -> Side:
    """Texts of a trigram model, drawn by one compiled function."""
    import jax
    import jax.numpy as jnp

    size = policy.vocab_size
    contexts = np.stack(np.divmod(np.arange(size**2), size), axis=1)
    laws = np.exp(policy.next_log_probs(contexts, np.empty((size**2, 0), dtype=np.int64)))
    cumulative = jnp.asarray(laws.cumsum(axis=1), dtype=jnp.float32)

    @jax.jit
    def draw(key: Any, start: Any) -> Any:
        def step(code: Any, uniforms: Any) -> Any:
            rows = cumulative[code]
            tokens = (rows < uniforms[:, None] * rows[:, -1:]).sum(axis=1)
            return code % size * size + tokens, tokens

        return jax.lax.scan(step, start, jax.random.uniform(key, (horizon, len(start))))[1].T

    key, start = jax.random.PRNGKey(0), jnp.asarray(prompts[:, -2] * size + prompts[:, -1])
    draw(key, start).block_until_ready()
    return timed(lambda: np.asarray(draw(key, start)))


def nltk_model(text: IntArray, order: int) -> Any:
    """Relative frequencies."""
    from nltk.lm import MLE
    from nltk.util import everygrams

    letters = [chr(token) for token in text]
    model = MLE(order)
    model.fit([everygrams(letters, max_len=order)], vocabulary_text=letters)
    return model


def kenlm_scores(policy: NGramPolicy, texts: IntArray) -> Side:
    """Log-probabilities of whole texts, which it reads as lines of words."""
    import kenlm

    heads, parts, contexts = [], [], np.empty((1, 0), dtype=np.int64)  # (N, k) tokens of each context of k
    for k, level in enumerate(policy.levels):
        before, last = np.divmod(level.keys, policy.vocab_size)
        grams = np.column_stack([contexts[before], last])
        written = np.flatnonzero((grams >= 0).all(axis=1))  # not those that go on from before the beginning
        contexts, grams = np.concatenate([grams, np.full((1, k + 1), -1)]), grams[written]
        scores = policy.log_probs(grams[:, :k], grams[:, k:])[:, 0] / np.log(10)
        kept = [""] * len(grams)
        if k + 1 < policy.order:
            kept = [f"\t{share:.9g}" for share in np.log10(policy.levels[k + 1].keep[written])]
        heads.append(f"ngram {k + 1}={len(grams) + 3 * (k == 0)}")
        parts += ["", f"\\{k + 1}-grams:", *(["-99\t<unk>", "-99\t<s>\t0", "-99\t</s>"] if k == 0 else [])]
        parts += [f"{p:.9g}\t{' '.join(map(str, gram))}{b}" for p, gram, b in zip(scores, grams.tolist(), kept)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.arpa"
        path.write_text("\n".join(["\\data\\", *heads, *parts, "", "\\end\\", ""]), encoding="utf-8")
        config = kenlm.Config()
        config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        model = kenlm.Model(str(path), config)
    strings = [" ".join(map(str, row)) for row in texts.tolist()]
    return timed(lambda: np.array([model.score(line, bos=False, eos=False) for line in strings]) * np.log(10))


def sampling(work: str, policy: NGramPolicy, prompts: IntArray, horizon: int, peers: Any, goal: str) -> Row:
    """A row for writing texts after these prompts."""
    rng = np.random.default_rng(0)

    def agree(ours: IntArray, theirs: IntArray) -> bool:
        means = [-policy.log_probs(prompts[: len(tokens)], tokens).mean(axis=1) for tokens in (ours, theirs)]
        error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in means))
        return bool(abs(means[0].mean() - means[1].mean()) <= 5 * error)

    size = f"order {policy.order}, A={policy.vocab_size}, H={horizon}, B={len(prompts)}"
    return Row(work, size, timed(lambda: policy.sample(prompts, horizon, rng)), peers, agree, goal)


def rows(quick: bool) -> Iterator[Row]:
    """Letters of English, words and word pieces of nobody's; ``quick`` has fewer and shorter texts."""
    rng = np.random.default_rng(0)
    count, horizon, letters = (64, 4, 3000) if quick else (1024, 64, 100_000)

    def looped(policy: Policy, prompts: IntArray, part: int) -> Side:
        def side(clock: Clock) -> IntArray:
            with clock(part / len(prompts)):
                return numpy_loop(policy, prompts[:part], horizon, rng)

        return side

    task = Text(horizon=horizon)
    size, real = task.vocab_size, task.windows(letters // (task.prompt_length + horizon), rng)
    text = np.concatenate([real.prompts, real.tokens], axis=1).ravel()
    starts = rng.integers(len(text) - horizon - 8, size=count)
    prompts = text[starts[:, None] + np.arange(4)]
    law, trigrams, shares = (
        NGramPolicy.fit_text(text, size, order, escape=escape) for order, escape in ((5, 1.0), (3, 1.0), (5, 0.0))
    )
    yield sampling("writing letters", law, prompts, horizon, {"numpy loop": looped(law, prompts, count)}, "5x")
    peer = optional(lambda: jax_scan(trigrams, prompts, horizon))
    yield sampling("writing letters by trigrams", trigrams, prompts, horizon, {"JAX lax.scan": peer}, "1x")

    model = optional(lambda: nltk_model(text, 5))
    names = [[chr(token) for token in row] for row in prompts.tolist()]
    few = names[:8]

    def generated(clock: Clock) -> IntArray:
        with clock(len(few) / count):
            found = [model.generate(horizon, text_seed=row, random_seed=i) for i, row in enumerate(few)]
        return np.array([[ord(letter) for letter in row] for row in found])

    peers = {"nltk MLE": model if isinstance(model, ImportError) else generated}
    yield sampling("writing letters by relative frequencies", shares, prompts, horizon, peers, "100x")

    for work, vocabulary, part, goal in (("words", 10_000, 16, "100x"), ("word pieces", 50_000, 4, "500x")):
        vocabulary //= 100 if quick else 1
        frequent = 1 / np.arange(1, vocabulary + 1)
        corpus = rng.choice(vocabulary, size=letters * 3, p=frequent / frequent.sum())
        policy = NGramPolicy.fit_text(corpus, vocabulary, 3)
        begin = corpus[rng.integers(len(corpus) - 2, size=count)[:, None] + np.arange(2)]
        yield sampling(f"writing {work}", policy, begin, horizon, {"numpy loop": looped(policy, begin, part)}, goal)

    texts = text[starts[:, None] + np.arange(horizon + 4)]
    nothing = np.empty((count, 0), dtype=np.int64)
    yield Row(
        "scoring letters",
        f"order 5, A={size}, H={horizon}, B={count}",
        timed(lambda: law.log_probs(nothing, texts).sum(axis=1)),
        {"KenLM": optional(lambda: kenlm_scores(law, texts))},
        lambda ours, theirs: bool(np.allclose(ours, theirs, rtol=1e-4, atol=1e-3)),
    )
    contexts = texts[:, :4], texts[:, 4:]

    def scored(clock: Clock) -> FloatArray:
        lines = [[chr(token) for token in row] for row in texts[: len(few)].tolist()]
        with clock(len(lines) / count):
            return np.array([sum(model.logscore(c, row[t : t + 4]) for t, c in enumerate(row[4:])) for row in lines])

    yield Row(
        "scoring letters by relative frequencies",
        f"order 5, A={size}, H={horizon}, B={count}",
        timed(lambda: shares.log_probs(*contexts).sum(axis=1)),
        {"nltk MLE": model if isinstance(model, ImportError) else scored},
        lambda ours, theirs: bool(np.allclose(ours[: len(theirs)], theirs * np.log(2))),
        "100x",
    )
