"""Distances at every prefix length, against the loops one would write first.

* Exactly, all metrics and six thresholds of coverage, between the expert of `Contamination` and a policy of its class,
  by the prefix tree. The ``numpy loop`` takes all A^h sequences of every length h, 1024 at a time, each read from its
  beginning token by token with `Policy.next_log_probs`; ``with log_probs`` is the same with `Policy.log_probs`, which
  reads a sequence once: what is left is what the tree shares between sequences.
* Squared Hellinger by pairs of states, against the dynamic programme one would write in numpy: a dense array of the
  affinity of every pair, from which the distance is a difference to 2. At the longer horizon its first steps are timed,
  and scaled: all cost the same.
* By Monte Carlo on real text, against a loop that draws from dense laws and keeps the log-ratios of both. They agree
  within five standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks import Clock, Row, timed
from experiments.benchmarks.ngram import numpy_loop
from ntp_envs import AutomatonPolicy, BernoulliPolicy, DistanceCurve, NGramPolicy, Policy, Task
from ntp_envs.distances import (
    DEFAULT_THRESHOLDS,
    METRICS,
    automaton_distances,
    enumeration_distances,
    monte_carlo_distances,
)
from ntp_envs.tasks import Contamination, Text

Arrays = dict[str, NDArray[np.float64]]
LogProb = Callable[[Policy, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


def batched_loop(p: Policy, q: Policy, task: Task, log_prob: LogProb, *, batch: int = 1024) -> Arrays:
    """Every sequence of every length from its beginning, ``batch`` at a time, read by ``log_prob``."""
    prompts, masses = task.prompt_law()
    out = {m: np.zeros((task.horizon, len(DEFAULT_THRESHOLDS)) if m == "coverage" else task.horizon) for m in METRICS}
    for h in range(1, task.horizon + 1):
        for prompt, mass in zip(prompts, masses):
            for start in range(0, task.vocab_size**h, batch):
                tokens = _sequences(np.arange(start, min(start + batch, task.vocab_size**h)), h, task.vocab_size)
                xs = np.repeat(prompt[None, :], len(tokens), axis=0)
                a, b = (np.exp(log_prob(policy, xs, tokens)) * mass for policy in (p, q))
                for metric, value in _sums(a, b).items():
                    out[metric][h - 1] += value
    return out


def _sequences(codes: NDArray[np.int64], length: int, vocab_size: int) -> NDArray[np.int64]:
    return codes[:, None] // vocab_size ** np.arange(length - 1, -1, -1) % vocab_size


def _token_log_probs(policy: Policy, prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(B, H)``, token by token, each time from the beginning."""
    rows = np.arange(len(tokens))
    laws = (policy.next_log_probs(prompts, tokens[:, :t])[rows, tokens[:, t]] for t in range(tokens.shape[1]))
    return np.stack(list(laws), axis=1)


def _log_prob(policy: Policy, prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    return _token_log_probs(policy, prompts, tokens).sum(axis=1)


def _log_prob_in_one_reading(
    policy: Policy, prompts: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    return policy.log_probs(prompts, tokens).sum(axis=1)


def _sums(a: NDArray[np.float64], b: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "hellinger2": ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(),
        "tv": 0.5 * np.abs(a - b).sum(),
        "kl": (a * np.log(a / b)).sum(),
        "chi2": ((a - b) ** 2 / b).sum(),
        "coverage": np.array([a[a >= n * b].sum() for n in DEFAULT_THRESHOLDS]),
    }


def agree(ours: dict[str, DistanceCurve], theirs: Arrays) -> bool:
    """Equal curves."""
    return all(np.allclose(curve.values, theirs[name], rtol=1e-9, atol=1e-12) for name, curve in ours.items())


def dynamic_programme(p: AutomatonPolicy, q: AutomatonPolicy, task: Task, steps: int) -> NDArray[np.float64]:
    """``(steps,)`` squared Hellinger distances."""
    prompts, masses = task.prompt_law()
    affinity = np.zeros((p.n_states, q.n_states))
    np.add.at(affinity, (p.initial_states(prompts), q.initial_states(prompts)), masses)
    values = np.empty(steps)
    for h in range(steps):
        root_p, root_q = np.exp(p.emissions(h) / 2), np.exp(q.emissions(h) / 2)
        to_p, to_q, before, affinity = p.transitions(h), q.transitions(h), affinity, np.zeros_like(affinity)
        for a in range(task.vocab_size):
            part = before * root_p[:, a, None] * root_q[:, a]
            np.add.at(affinity, (to_p[:, a, None], to_q[:, a]), part)
        values[h] = 2 - 2 * affinity.sum()
    return values


def by_states(work: str, horizon: int, steps: int) -> Row:
    """Of two coins and one; the peer does the first ``steps``."""
    task = Contamination(horizon=horizon, eps=0.02, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.15, on="flips")

    def peer(clock: Clock) -> NDArray[np.float64]:
        with clock(steps / horizon):
            return dynamic_programme(p, q, task, steps)

    return Row(
        work,
        f"A=2, H={horizon}",
        timed(lambda: automaton_distances(p, q, task, metrics="hellinger2")["hellinger2"].values),
        {"numpy loop": peer},
        lambda ours, theirs: bool(np.allclose(ours[:steps], theirs, rtol=1e-9, atol=1e-9)),
    )


def by_drawing(n: int, horizon: int) -> Row:
    """Between the expert on text and a model of a lower order."""
    task, rng = Text(horizon=horizon), np.random.default_rng(0)
    real = task.windows(n, rng)
    learner = NGramPolicy.fit(real.prompts, real.tokens, task.vocab_size, 3)

    def theirs() -> NDArray[np.float64]:
        parts = []
        for writer in (task.expert, learner):
            prompts = task.sample_prompts(n // 2, rng)
            tokens = numpy_loop(writer, prompts, horizon, rng)
            p, q = (_token_log_probs(policy, prompts, tokens) for policy in (task.expert, learner))
            parts.append((p - q).cumsum(axis=1))
        with np.errstate(over="ignore"):
            return np.mean([2 - 2 / np.cosh(ratio / 2) for ratio in parts], axis=(0, 1))

    return Row(
        "distance by Monte Carlo",
        f"A={task.vocab_size}, H={horizon}, n={n}",
        timed(lambda: monte_carlo_distances(task.expert, learner, task, n=n, rng=rng, metrics="hellinger2")),
        {"numpy loop": timed(theirs)},
        lambda ours, found: bool(
            (abs(ours["hellinger2"].values - found) <= 5 * np.sqrt(2) * ours["hellinger2"].std_error).all()
        ),
        "5x",
    )


def rows(quick: bool) -> Iterator[Row]:
    """Every way; ``quick`` has short horizons."""
    task = Contamination(horizon=6 if quick else 16, eps=0.02, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.15, on="flips")
    peers = {
        "numpy loop": timed(lambda: batched_loop(p, q, task, _log_prob)),
        "with log_probs": timed(lambda: batched_loop(p, q, task, _log_prob_in_one_reading)),
    }
    ours = timed(lambda: enumeration_distances(p, q, task))
    yield Row("all distances by prefix tree", f"A=2, H={task.horizon}, 2 prompts", ours, peers, agree, "10x")
    yield by_states("Hellinger distance by pairs of states", 20 if quick else 1000, 20 if quick else 1000)
    yield by_states("the same, long", 60 if quick else 10_000, 20 if quick else 200)
    yield by_drawing(100 if quick else 2000, 4 if quick else 64)
