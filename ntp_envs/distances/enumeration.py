"""Exact distances by enumeration: the prefix tree, all metrics at every prefix length in one pass.

Each prefix is visited once and costs one step of each policy's cursor. The tree is walked in blocks of prefixes of one
length, the deepest block first, so memory stays bounded; a prefix that both policies exclude is cut off with all that
follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._numerics import kl_terms
from ntp_envs._validation import check_int
from ntp_envs.distances._common import check_metrics, check_pair, prompt_masses
from ntp_envs.distances.coverage import DEFAULT_THRESHOLDS, check_thresholds
from ntp_envs.distances.result import METRICS, DistanceCurve
from ntp_envs.errors import NotTractableError
from ntp_envs.policies import Cursor, Policy
from ntp_envs.tasks.base import Task

__all__ = ["MAX_PREFIXES", "enumeration_distances", "tree_size"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: prefixes of all lengths (prompts counted) visited by default: some seconds for a fast policy
MAX_PREFIXES = 2**24

#: prefixes read together; keeps a block's arrays in cache
BLOCK = 2**12


def tree_size(task: Task, n_prompts: int) -> int:
    """The most prefixes, of lengths 1..H, that ``n_prompts`` prompts can have: ``M (A + A^2 + ... + A^H)``."""
    a, h = task.vocab_size, task.horizon
    return n_prompts * (h if a == 1 else (a ** (h + 1) - a) // (a - 1))


def enumeration_distances(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    metrics: Iterable[str] = METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    max_prefixes: int = MAX_PREFIXES,
) -> dict[str, DistanceCurve]:
    """Distances between the laws of two policies, prompts drawn from the task, at every prefix length.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2], a sum of squares (never 2 minus something), as accurate
    as differences of the policies' log-probabilities are. KL is in nats, ``p`` first; KL and chi-squared ``sum (P -
    Q)^2 / Q`` are ``inf`` where p gives mass to a prefix that q excludes.

    Args:
        p, q: any policies over the task's vocabulary, for at least its horizon.
        task: gives the prompt law and the horizon H.
        metrics: which ones.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        max_prefixes: refuse to visit more prefixes than this, over all lengths and prompts. What counts is those
            that at least one policy can produce, which may be few at any horizon.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: more prefixes than ``max_prefixes``, or a prompt law that cannot be listed.
        TypeError, ValueError: a policy that does not fit the task, one that returns NaN, an unknown metric.

    >>> from ntp_envs import BernoulliPolicy, make_task
    >>> task = make_task("Contamination", horizon=4)
    >>> enumeration_distances(task.expert, BernoulliPolicy(0.5), task)["tv"].final.__round__(4)
    0.9365
    """
    names = check_metrics(metrics)
    p, q = check_pair(p, q, task)
    max_prefixes = check_int("max_prefixes", max_prefixes, minimum=1)
    levels, log_levels = check_thresholds(thresholds)
    prompts, masses = prompt_masses(task)
    sums = {name: np.zeros((task.horizon, len(levels)) if name == "coverage" else task.horizon) for name in names}
    log_masses = np.log(masses)
    stack = [
        _Block(p.cursor(prompts[rows]), q.cursor(prompts[rows]), log_masses[rows], log_masses[rows])
        for rows in _pieces(len(prompts))
    ]
    visited = 0
    while stack:
        block = stack.pop()
        step = block.of_p.step
        log_p, log_q = _extend(block.log_p, block.of_p.log_probs()), _extend(block.log_q, block.of_q.log_probs())
        cells = np.flatnonzero(np.maximum(log_p, log_q) > -np.inf)  # of (B, A): the prefixes that are possible
        log_p, log_q = log_p.ravel()[cells], log_q.ravel()[cells]
        visited += len(cells)
        if visited > max_prefixes:
            full = tree_size(task, len(prompts))
            many = str(full) if full < 10**15 else f"about 1e{int(math.log10(full))}"  # it may not fit into a float
            raise NotTractableError(
                f"enumeration would visit more than max_prefixes={max_prefixes} prefixes (there are "
                f"{many} for A={task.vocab_size}, H={task.horizon}, "
                f"{len(prompts)} prompts). Use method='monte carlo', a shorter horizon, or a larger max_prefixes."
            )
        _accumulate(sums, step, log_p, log_q, log_levels)
        if step + 1 < task.horizon:
            parents, tokens = np.divmod(cells, task.vocab_size)
            stack += [
                _Block(
                    block.of_p.branch(parents[rows], tokens[rows]),
                    block.of_q.branch(parents[rows], tokens[rows]),
                    log_p[rows],
                    log_q[rows],
                )
                for rows in _pieces(len(cells))
            ]
    for name, bound in (("hellinger2", 2.0), ("tv", 1.0), ("coverage", 1.0)):
        if name in sums:
            np.minimum(sums[name], bound, out=sums[name])
    return {
        name: DistanceCurve.exact(name, values, "enumeration", thresholds=levels if name == "coverage" else None)
        for name, values in sums.items()
    }


class _Block(NamedTuple):
    """B prefixes of one length, read by both policies, with their log-probabilities ``(B,)``."""

    of_p: Cursor
    of_q: Cursor
    log_p: FloatArray
    log_q: FloatArray


def _pieces(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def _extend(log_prefix: FloatArray, log_next: FloatArray) -> FloatArray:
    """``(B, A)`` log-probabilities of the prefixes one token longer; nothing follows an impossible prefix."""
    out = log_prefix[:, None] + log_next
    impossible = np.isneginf(log_prefix)
    if impossible.any():
        out[impossible] = -np.inf
    if np.isnan(out).any():
        raise ValueError("a policy returned NaN for a log-probability after a prefix that it can produce.")
    return out


def _accumulate(
    sums: dict[str, FloatArray], step: int, log_p: FloatArray, log_q: FloatArray, log_levels: FloatArray
) -> None:
    """Add what these prefixes of ``step + 1`` tokens contribute to each metric."""
    with np.errstate(invalid="ignore"):
        ratio = log_p - log_q
    # with e = sqrt(low / high) - 1: sqrt high - sqrt low = -e sqrt high, and high - low = -e (2 + e) high
    high = np.exp(np.maximum(log_p, log_q))
    e = np.expm1(-0.5 * np.abs(ratio))
    he, more_in_p = high * e, ratio >= 0
    change = -he * (2.0 + e)  # |P - Q|
    low = high - change  # loses digits only where it is negligible next to high
    p = np.where(more_in_p, high, low)
    if "hellinger2" in sums:
        sums["hellinger2"][step] += (he * e).sum()  # not a dot product: BLAS would start threads for it
    if "tv" in sums:
        sums["tv"][step] += 0.5 * change.sum()
    if "kl" in sums:
        sums["kl"][step] += kl_terms(log_p, log_q, p, np.where(more_in_p, low, high)).sum()
    if "chi2" in sums:
        with np.errstate(over="ignore"):  # (P - Q)^2 / Q is high^2 / Q times (1 - low / high)^2
            scale = np.exp(np.where(more_in_p, 2.0 * log_p - log_q, log_q))
            sums["chi2"][step] += (scale * (e * (2.0 + e)) ** 2).sum()
    if "coverage" in sums:
        near = ratio >= log_levels.min()
        p, ratio = p[near], ratio[near]
        sums["coverage"][step] += [p[ratio >= level].sum() for level in log_levels]
