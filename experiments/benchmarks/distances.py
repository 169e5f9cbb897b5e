"""All distances at every prefix length by exact methods, against the loops one would write first.

Run ``python -m experiments.benchmarks.distances``; it prints seconds of ours, of each peer, and their ratio in the same
run. All compute squared Hellinger, TV, KL, chi-squared and coverage at six thresholds, for every h = 1..H, between the
expert of `Contamination` and a policy of its class, with one thread. Their answers are compared before times are.

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

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def naive_loop_seconds(p: Policy, q: Policy, task: Task, *, sample: int, rng: np.random.Generator) -> float:
    """Estimated seconds of the loop over single sequences: ``sample`` of each length are timed and scaled up."""
    prompts, _ = task.prompt_law()
    total = 0.0
    for h in range(1, task.horizon + 1):
        count = len(prompts) * task.vocab_size**h
        codes = rng.integers(task.vocab_size**h, size=min(sample, count))
        values = np.empty((len(codes), 2))
        start = time.perf_counter()
        for i, code in enumerate(codes):
            tokens = _sequences(np.array([code]), h, task.vocab_size)
            values[i] = [_log_prob(policy, prompts[:1], tokens)[0] for policy in (p, q)]
        _sums(*np.exp(values).T)
        total += (time.perf_counter() - start) * count / len(codes)
    return total


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


def _timed(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The fastest of some runs, and the result."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def _check(ours: dict[str, DistanceCurve], theirs: Arrays) -> None:
    for metric, curve in ours.items():
        if not np.allclose(curve.values, theirs[metric], rtol=1e-9, atol=1e-12):
            raise RuntimeError(f"{metric} differs from the peer's; the times would compare different work.")


def _row(work: str, ours_s: float, peer: str, peer_s: float) -> dict[str, Any]:
    return {"work": work, "ours_s": ours_s, "peer": peer, "peer_s": peer_s, "ratio": peer_s / ours_s}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows with keys ``work``, ``ours_s``, ``peer``, ``peer_s``, ``ratio``; ``quick`` uses H = 12 for a smoke test."""
    horizon, sample = (12, 5) if quick else (20, 100)
    task = Contamination(horizon=horizon, eps=0.02, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.15, on="flips")
    tree_s, tree = _timed(lambda: enumeration_distances(p, q, task), repeats=3)
    pairs_s, pairs = _timed(lambda: automaton_distances(p, q, task), repeats=3)
    batched_s, theirs = _timed(lambda: batched_loop(p, q, task, _log_prob), repeats=1)
    read_s, _ = _timed(lambda: batched_loop(p, q, task, _log_prob_in_one_reading), repeats=1)
    naive_s = naive_loop_seconds(p, q, task, sample=sample, rng=np.random.default_rng(0))
    _check(tree, theirs)
    _check(pairs, theirs)
    rows = []
    for name, ours_s in (("prefix tree", tree_s), ("pairs of states", pairs_s)):
        work = f"all distances, all prefixes, A=2, H={horizon}, 2 prompts: {name}"
        rows.append(_row(work, ours_s, f"naive loop (estimated from {sample} sequences a length)", naive_s))
        rows.append(_row(work, ours_s, "batched loop (1024 sequences)", batched_s))
        rows.append(_row(work, ours_s, "batched log_probs (1024 sequences)", read_s))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="H = 12 instead of 20")
    for row in run(**vars(parser.parse_args())):
        print(row["work"])
        print(f"    ours {row['ours_s']:.4g} s   {row['peer']}: {row['peer_s']:.4g} s   {row['ratio']:.0f}x")


if __name__ == "__main__":
    main()
