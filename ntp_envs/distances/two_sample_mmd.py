"""Maximum mean discrepancy with a kernel that counts common prefixes, at every prefix length in one pass."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int, check_real
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances._two_sample import (
    TwoSampleResult,
    check_lengths,
    check_samples,
    permutation_p_values,
    permuted_labels,
    pooled_lines,
)
from ntp_envs.distances.intervals import CONFIDENCE, each_of, normal_interval, normal_quantile, score_interval

__all__ = ["mmd_test"]

FloatArray = NDArray[np.float64]

#: labels (permutations x sequences) held together; bounds the memory to some tens of MB
BLOCK = 2**22


def mmd_test(
    p: Demonstrations,
    q: Demonstrations,
    *,
    rng: np.random.Generator,
    discount: float = 1.0,
    lengths: Iterable[int] | None = None,
    permutations: int = 199,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> TwoSampleResult:
    """Squared maximum mean discrepancy under a prefix kernel, unbiased, with permutation p-values.

    The kernel is ``k_h(x, y) = sum_{t<=h} discount^t 1[x and y agree in prompt and first t tokens]``, so

        MMD^2_h = sum_{t<=h} discount^t sum_s (P_t(s) - Q_t(s))^2,     P_t, Q_t the laws of the prefixes s of length t.

    It is 0 only for equal laws, and ``TV_h >= sqrt(MMD^2_h / (2 sum_{t<=h} discount^t))``. The estimator is the
    U-statistic of Gretton, Borgwardt, Rasch, Schoelkopf and Smola, "A Kernel Two-Sample Test", JMLR 13 (2012), eq. 3.
    Sequences sorted once share their prefixes in runs, so that a length costs O(runs) and not O(n^2); the p-values
    are by shuffling the labels of whole sequences. Values are unbiased, hence can be negative; neither they nor
    the interval is clipped.

    The variance of the estimate is that of its first-order projection plus that of the permutation null. The first is
    in proportion to MMD^2 itself, as the projection is: the upper end is the D with ``D - value = z sd(D)``, the lower
    end that of a normal interval. Near equality both are conservative. And there is room for an event that the smaller
    sample shows not even twice (pairs are all that the estimator sees): of probability d it moves MMD by at most
    ``d sqrt(2 sum_t discount^t)``.

    Args:
        p, q: the samples, at least 2 unweighted sequences each.
        rng: source of the permutations.
        discount: weight ratio of one more token, in (0, 1]. Below 1 early differences count for more.
        lengths: prefix lengths wanted; all by default (the cost is the same).
        permutations: R; the smallest possible p-value is 1 / (R + 1).
        confidence: level of the intervals.
        simultaneous: make the intervals hold at all lengths asked for together (Bonferroni), not each by itself.

    Returns:
        A `TwoSampleResult` whose curve has metric ``"mmd2"``.

    Raises:
        TypeError, ValueError: samples of different shapes, weighted, or too small; arguments out of range.

    >>> from ntp_envs import collect, make_task
    >>> rng = np.random.default_rng(0)
    >>> p, q = (collect(make_task("Contamination", horizon=8, eps=eps), 400, rng) for eps in (0.01, 0.2))
    >>> bool(mmd_test(p, q, rng=rng).p_value < 0.05)
    True
    """
    check_samples(p, q, rng, minimum=2)
    wanted = check_lengths(lengths, p.horizon)
    discount = check_real("discount", discount, minimum=np.nextafter(0.0, 1.0), maximum=1.0)
    permutations = check_int("permutations", permutations, minimum=1)
    level = each_of(confidence, len(wanted), simultaneous=simultaneous)
    runs = _PrefixRuns(p, q)
    labels = permuted_labels(len(p), len(q), permutations, rng)
    size = max(1, BLOCK // labels.shape[1])
    terms = np.concatenate([runs.terms(labels[i : i + size]) for i in range(0, len(labels), size)])  # (R + 1, H)
    weights = np.power(discount, np.arange(1.0, p.horizon + 1.0), dtype=np.float64)
    statistics = np.cumsum(terms * weights, axis=1)[:, wanted - 1]  # (R + 1, L)
    projection, null = runs.projection_variance(weights)[wanted - 1], statistics[1:].var(axis=0)
    values, std_error = statistics[0], np.sqrt(projection + null)
    lower, upper = normal_interval(values, std_error, confidence=level)
    upper = np.maximum(upper, _score_upper(values, projection, null, level))
    lower, upper = _with_unseen(values, lower, upper, np.cumsum(weights)[wanted - 1], min(len(p), len(q)), level)
    return TwoSampleResult.at(
        wanted,
        (p, q),
        metric="mmd2",
        method="samples only (MMD, prefix kernel)",
        values=values,
        lower=lower,
        upper=upper,
        std_error=std_error,
        p_values=permutation_p_values(statistics),
        confidence=confidence,
        simultaneous=simultaneous,
    )


def _score_upper(values: FloatArray, projection: FloatArray, null: FloatArray, confidence: float) -> FloatArray:
    """The larger D with ``(D - value)^2 = z^2 (null + projection D / value)``.

    A value within the null's error of 0 says nothing of its own projection, and counts there as that error.
    """
    z2 = normal_quantile(confidence) ** 2
    scale = np.maximum(values, np.sqrt(null))
    half = values + 0.5 * z2 * projection / np.where(scale > 0, scale, np.inf)
    return half + np.sqrt(np.maximum(half**2 - values**2 + z2 * null, 0.0))


def _with_unseen(
    values: FloatArray, lower: FloatArray, upper: FloatArray, weights: FloatArray, n: int, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """The interval with room for an event that n sequences show at most once; ``weights`` are ``sum_t discount^t``."""
    once = score_interval(1.0 / n, np.sqrt((1.0 - 1.0 / n) / n**2), n, confidence=confidence)[1]
    mmd, reach = np.sqrt(np.maximum(values, 0.0)), once * np.sqrt(2.0 * weights)
    return np.minimum(lower, np.maximum(mmd - reach, 0.0) ** 2), np.maximum(upper, (mmd + reach) ** 2)


class _PrefixRuns:
    """All sequences in lexicographic order: those with a common prefix follow one another, at every length."""

    def __init__(self, p: Demonstrations, q: Demonstrations) -> None:
        lines = pooled_lines(p, q)
        self.order = np.lexsort(lines.T[::-1]) if lines.shape[1] else np.arange(len(lines))
        lines = lines[self.order]
        differs = lines[1:] != lines[:-1]
        self.common = np.where(differs.any(axis=1), differs.argmax(axis=1), lines.shape[1])  # with the next line
        self.n, self.m, self.horizon, self.prompt_length = len(p), len(q), p.horizon, p.prompt_length

    def runs(self, t: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and one-past-last places of the runs of two or more that agree in prompt and ``t`` tokens."""
        edges = np.concatenate([[0], np.flatnonzero(self.common < self.prompt_length + t) + 1, [self.n + self.m]])
        several = np.diff(edges) > 1  # one on its own adds nothing, however it is labelled
        return edges[:-1][several], edges[1:][several]

    def terms(self, labels: NDArray[np.bool_]) -> FloatArray:
        """``(R, H)`` unbiased estimates of ``sum_s (P_t(s) - Q_t(s))^2``, one row a labelling."""
        n, m = self.n, self.m
        before = np.zeros((len(labels), n + m + 1), dtype=np.int32)
        np.cumsum(labels[:, self.order], axis=1, out=before[:, 1:])
        out = np.zeros((len(labels), self.horizon))
        previous: tuple[int, int] | None = None
        for t in range(1, self.horizon + 1):
            first, last = self.runs(t)
            covered = len(first), int((last - first).sum())
            if covered == previous:  # runs only ever split and shrink: nothing has changed
                out[:, t - 1] = out[:, t - 2]
                continue
            previous = covered
            c = (before[:, last] - before[:, first]).astype(np.float64)  # (R, runs) members of the first sample
            d = (last - first) - c
            same = (c * (c - 1)).sum(axis=1) / (n * (n - 1)) + (d * (d - 1)).sum(axis=1) / (m * (m - 1))
            out[:, t - 1] = same - 2.0 * (c * d).sum(axis=1) / (n * m)
        return out

    def projection_variance(self, weights: FloatArray) -> FloatArray:
        """``(H,)`` ``4 Var_P(w) / n + 4 Var_Q(w) / m``, w the leave-one-out mean embedding of P less that of Q."""
        n, m = self.n, self.m
        first_sample = self.order < n
        witness = np.zeros(n + m)
        before = np.concatenate([[0], np.cumsum(first_sample)])
        out = np.empty(self.horizon)
        for t in range(1, self.horizon + 1):
            first, last = self.runs(t)
            sizes = last - first
            places = np.repeat(first - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
            c = np.repeat(before[last] - before[first], sizes)
            d = np.repeat(sizes, sizes) - c
            of_p = (c - 1) / (n - 1) - d / m
            of_q = c / n - (d - 1) / (m - 1)
            witness[places] += weights[t - 1] * np.where(first_sample[places], of_p, of_q)
            out[t - 1] = 4.0 * (witness[first_sample].var() / n + witness[~first_sample].var() / m)
        return out
