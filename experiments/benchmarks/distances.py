"""All distances at every prefix length by exact methods, against the loops one would write first.

All compute squared Hellinger, TV, KL, chi-squared and coverage at six thresholds, for every h = 1..H, between the
expert of `Contamination` and a policy of its class.

The peers, from the loop one writes first to the best that reads whole sequences:

* ``naive loop``: for each h, for each prompt and each of the A^h sequences, one at a time, both log-probabilities token
  by token from the beginning with `Policy.next_log_probs`; sums in numpy at the end of each h. It would take an hour at
  H = 20, so it is timed on a random sample of sequences of each length and scaled by the number of sequences (the cost
  of one depends on its length only): an estimate, and marked so.
* ``batched loop``: the same, 1024 sequences at a time, run in full.
* ``batched log_probs``: as before with `Policy.log_probs`, which reads a sequence once instead of once a token, run in
  full. This one already uses the library's cursors; what is left is what the tree shares between sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks import Clock, Row, Side, compare, main
from ntp_envs import BernoulliPolicy, DistanceCurve, Policy, Task
from ntp_envs.distances import DEFAULT_THRESHOLDS, METRICS, automaton_distances, enumeration_distances
from ntp_envs.tasks import Contamination

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


def naive_loop(p: Policy, q: Policy, task: Task, *, sample: int) -> Side:
    """The loop over single sequences, of which ``sample`` of each length are run and their time is scaled up."""
    prompts, _ = task.prompt_law()

    def side(clock: Clock) -> None:
        rng = np.random.default_rng(0)
        for h in range(1, task.horizon + 1):
            count = len(prompts) * task.vocab_size**h
            codes = rng.integers(task.vocab_size**h, size=min(sample, count))
            values = np.empty((len(codes), 2))
            with clock(len(codes) / count):
                for i, code in enumerate(codes):
                    tokens = _sequences(np.array([code]), h, task.vocab_size)
                    values[i] = [_log_prob(policy, prompts[:1], tokens)[0] for policy in (p, q)]
                _sums(*np.exp(values).T)

    return side


def _sequences(codes: NDArray[np.int64], length: int, vocab_size: int) -> NDArray[np.int64]:
    return codes[:, None] // vocab_size ** np.arange(length - 1, -1, -1) % vocab_size


def _log_prob(policy: Policy, prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Token by token, each time from the beginning."""
    rows = np.arange(len(tokens))
    total = np.zeros(len(tokens))
    for t in range(tokens.shape[1]):
        total += policy.next_log_probs(prompts, tokens[:, :t])[rows, tokens[:, t]]
    return total


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


def agree(ours: dict[str, DistanceCurve], theirs: Arrays | None) -> bool:
    """Equal curves; the estimate of the naive loop has none."""
    close = (np.allclose(curve.values, theirs[name], rtol=1e-9, atol=1e-12) for name, curve in ours.items() if theirs)
    return all(close)


def measure(quick: bool) -> Iterator[Row]:
    """Both exact ways against every loop; ``quick`` has H = 12 instead of 20."""
    horizon, sample = (12, 5) if quick else (20, 100)
    task = Contamination(horizon=horizon, eps=0.02, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.15, on="flips")

    def timed(work: Callable[[], Any]) -> Side:
        def side(clock: Clock) -> Any:
            with clock():
                return work()

        return side

    peers = {
        f"naive loop (estimated from {sample} sequences a length)": naive_loop(p, q, task, sample=sample),
        "batched loop (1024 sequences)": timed(lambda: batched_loop(p, q, task, _log_prob)),
        "batched log_probs (1024 sequences)": timed(lambda: batched_loop(p, q, task, _log_prob_in_one_reading)),
    }
    for name, ours in (("prefix tree", enumeration_distances), ("pairs of states", automaton_distances)):
        work = f"all distances, all prefixes, A=2, H={horizon}, 2 prompts: {name}"
        yield from compare(work, timed(partial(ours, p, q, task)), peers, agree=agree, repeats=2)


if __name__ == "__main__":
    main("distances")
