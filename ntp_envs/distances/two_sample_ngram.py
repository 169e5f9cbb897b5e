"""Total variation between laws of n-grams, from samples, at every prefix length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances._two_sample import (
    TwoSampleResult,
    check_lengths,
    check_samples,
    permutation_p_values,
    permuted_labels,
    pooled_lines,
    surest_gap,
)
from ntp_envs.distances.intervals import CONFIDENCE, each_of, score_interval

__all__ = ["ngram_codes", "ngram_test"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: numbers (permutations x sequences, and permutations x n-grams) held together
BLOCK = 2**22


def ngram_test(
    p: Demonstrations,
    q: Demonstrations,
    *,
    rng: np.random.Generator,
    order: int = 2,
    lengths: Iterable[int] | None = None,
    permutations: int = 199,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> TwoSampleResult:
    """Total variation between the laws of n-grams in the first h tokens, for every h.

    The n-gram law at h: take one of the first h tokens at random, with the ``order - 1`` tokens before it (of the
    prompt too; "before the start" is a symbol of its own). It is a function of prefix and independent coin flips, so
    in the population its TV is a *lower bound* on the TV of prefixes; it misses what shows only in longer n-grams or
    at certain positions, and a single deviation counts for about 1/h.

    The plug-in estimate ``1/2 sum |p_hat - q_hat|`` is biased upwards, by Jensen's inequality, up to about
    ``sum_g sqrt(p_g (1/n_p + 1/n_q) / (2 pi h))`` at equality for independent n-grams. Its cross-fitted twin (the
    n-grams most clearly more frequent under p are chosen on one half of the sequences and counted on the other half,
    and vice versa) estimates a lower bound, so it is biased downwards. The value is their mean, at least 0. The
    interval goes from the lower end of the twin's to the upper end of the plug-in's; both are Newcombe's hybrid of
    score intervals for a difference of two means over sequences (Statistics in Medicine 17, 1998, method 10). The
    plug-in is the same number counted on the n-grams more frequent under p and on those more frequent under q; its
    upper end is the larger of the two, so it has room for an event that the smaller sample has not shown. No
    bootstrap: it is inconsistent for a sum of absolute values where two frequencies agree. The p-value is by shuffling
    the labels of whole sequences, whose n-grams depend on each other, with the plug-in as the statistic.

    Args:
        p, q: the samples, at least 4 unweighted sequences each.
        rng: source of the halves and permutations.
        order: n >= 1; an order of P + H or more looks at whole prefixes.
        lengths: prefix lengths wanted; all by default.
        permutations: R; the smallest possible p-value is 1 / (R + 1).
        confidence: level of the intervals.
        simultaneous: make the intervals hold at all lengths asked for together (Bonferroni), not each by itself.

    Returns:
        A `TwoSampleResult` whose curve has metric ``"ngram_tv"``: value and interval are of the n-gram law.

    Raises:
        TypeError, ValueError: samples of different shapes, weighted, or too small; arguments out of range.

    >>> from ntp_envs import collect, make_task
    >>> rng = np.random.default_rng(0)
    >>> p, q = (collect(make_task("Contamination", horizon=8, eps=eps), 400, rng) for eps in (0.01, 0.2))
    >>> bool(ngram_test(p, q, rng=rng).curve.lower[-1] > 0.1)
    True
    """
    check_samples(p, q, rng, minimum=4)
    wanted = check_lengths(lengths, p.horizon)
    order = check_int("order", order, minimum=1)
    permutations = check_int("permutations", permutations, minimum=1)
    level = each_of(confidence, len(wanted), simultaneous=simultaneous)
    n_p, n_q = len(p), len(q)
    codes, size = ngram_codes(pooled_lines(p, q), order, p.prompt_length)
    labels = permuted_labels(n_p, n_q, permutations, rng)
    step = max(1, BLOCK // max(labels.shape[1], size))
    plug_in = np.concatenate([_plug_in(codes, labels[i : i + step], size, wanted) for i in range(0, len(labels), step)])
    halves = np.concatenate([_halves(n_p, rng), _halves(n_q, rng)])
    low, lower, upper, std_error = _interval(codes, labels[0], halves, size, wanted, level)
    return TwoSampleResult.at(
        wanted,
        (p, q),
        metric="ngram_tv",
        method=f"samples only ({order}-grams)",
        values=np.clip(0.5 * (plug_in[0] + low), 0.0, 1.0),
        lower=lower,
        upper=upper,
        std_error=std_error,
        p_values=permutation_p_values(plug_in),
        confidence=confidence,
        simultaneous=simultaneous,
    )


def ngram_codes(lines: IntArray, order: int, prompt_length: int) -> tuple[IntArray, int]:
    """``(N, H)`` the n-gram that ends at each token, as a number in [0, G), and G, the number of those that occur.

    ``lines`` are ``(N, P + H)`` prompts and tokens.
    """
    tokens = lines + 1  # 0 is "before the start"
    symbols = int(tokens.max(initial=0)) + 1
    current = np.zeros_like(tokens)
    for back in range(min(order, lines.shape[1])):
        earlier = np.zeros_like(tokens)
        earlier[:, back:] = tokens[:, : lines.shape[1] - back]
        current = np.unique(current * symbols + earlier, return_inverse=True)[1].reshape(lines.shape)
    grams, codes = np.unique(current[:, prompt_length:], return_inverse=True)
    return np.asfortranarray(codes.reshape(len(lines), -1)), len(grams)  # it is read by columns


def _halves(n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.permutation(n) < n // 2


def _plug_in(codes: IntArray, labels: NDArray[np.bool_], size: int, lengths: IntArray) -> FloatArray:
    """``(R, L)`` plug-in TV of the n-gram laws, one row a labelling; equal counts give equal numbers."""
    out = np.empty((len(labels), len(lengths)))
    in_p = labels[0].sum()  # of every labelling
    in_q = labels.shape[1] - in_p
    every = np.ones((len(codes), 1), dtype=np.int64)
    counts = zip(_counts(codes, labels.T, size, lengths), _counts(codes, every, size, lengths))
    for column, (ours, all_) in enumerate(counts):
        gaps = np.abs(ours * (in_p + in_q) - all_ * in_p).sum(axis=0)  # n_q counts in p less n_p counts in q
        out[:, column] = gaps / (2.0 * in_p * in_q * lengths[column])
    return out


def _counts(codes: IntArray, members: NDArray[Any], size: int, lengths: IntArray) -> Iterator[IntArray]:
    """For each length, ``(G, R)`` how often every n-gram occurs in each of R sets, given as ``(N, R)`` memberships."""
    from scipy.sparse import csr_array

    members = members.astype(np.int64)
    total, start = np.zeros((size, members.shape[1]), dtype=np.int64), 0
    rows = np.arange(len(codes))
    for length in lengths:
        block = codes[:, start:length]
        where = block.ravel(), np.repeat(rows, block.shape[1])
        total += csr_array((np.ones(block.size, dtype=np.int64), where), shape=(size, len(codes))) @ members
        start = length
        yield total


def _interval(
    codes: IntArray,
    labels: NDArray[np.bool_],
    halves: NDArray[np.bool_],
    size: int,
    lengths: IntArray,
    confidence: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """``(L,)`` cross-fitted estimates, both ends of the interval, and the plug-in's standard error."""
    members = np.stack([half & of for of in (labels, ~labels) for half in (np.ones_like(halves), halves, ~halves)], 1)
    sizes = members.sum(axis=0)  # of p, then of q: all sequences, one half, the other
    seen = np.zeros((len(codes), size)) if len(codes) * size <= BLOCK else None  # how often each, if that is small
    start, out = 0, np.empty((4, len(lengths)))
    for column, (length, counts) in enumerate(zip(lengths, _counts(codes, members, size, lengths))):
        surplus = counts[:, 0] * sizes[3] - counts[:, 3] * sizes[0]
        shares = counts / (sizes * length)
        surest = (_surest_ngrams(shares[:, j], shares[:, j + 3], sizes[j], sizes[j + 3]) for j in (1, 2))
        sets = np.stack([surplus > 0, surplus < 0, *surest], axis=1)
        if seen is None:
            chosen = sets[codes[:, :length]].sum(axis=1)  # (N, 4) how many of the first tokens end a chosen n-gram
        else:
            for block in codes[:, start:length].T:
                seen[np.arange(len(codes)), block] += 1.0
            chosen, start = np.rint(seen @ sets.astype(np.float64)).astype(np.int64), int(length)
        _, _, high, std_error = _difference(chosen[:, 0], length, labels, confidence)
        _, _, other_high, _ = _difference(chosen[:, 1], length, ~labels, confidence)
        twin = np.where(halves, chosen[:, 3], chosen[:, 2])
        low, lower, _, _ = _difference(twin, length, labels, confidence)
        out[:, column] = low, max(lower, 0.0), min(max(high, other_high), 1.0), std_error
    return out[0], out[1], out[2], out[3]


def _surest_ngrams(in_p: FloatArray, in_q: FloatArray, n_p: int, n_q: int) -> NDArray[np.bool_]:
    """``(G,)`` n-grams more frequent in p: as many of the clearest as tell the laws apart most surely."""
    pooled = (n_p * in_p + n_q * in_q) / (n_p + n_q)
    clarity = (in_p - in_q) / np.sqrt(np.maximum(pooled * (1.0 - pooled), 1e-300))
    order = np.argsort(-clarity, kind="stable")
    best = surest_gap(np.cumsum(in_p[order]), np.cumsum(in_q[order]), n_p, n_q)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: best + 1]] = True
    return chosen


def _difference(
    counts: IntArray, length: int, labels: NDArray[np.bool_], confidence: float
) -> tuple[float, float, float, float]:
    """Mean of ``(N,)`` counts over ``length`` in the first sample less that in the second: value, interval, error."""
    samples = [counts[chosen] / length for chosen in (labels, ~labels)]
    n_a, n_b = (len(sample) for sample in samples)
    errors = [sample.std(ddof=1) / np.sqrt(len(sample)) for sample in samples]
    (mean_a, low_a, high_a), (mean_b, low_b, high_b) = (
        (sample.mean(), *score_interval(sample.mean(), error, len(sample), confidence=confidence))
        for sample, error in zip(samples, errors)
    )
    value = (int(counts[labels].sum()) * n_b - int(counts[~labels].sum()) * n_a) / (n_a * n_b * int(length))
    return (
        value,
        float(value - np.hypot(mean_a - low_a, high_b - mean_b)),
        float(value + np.hypot(high_a - mean_a, mean_b - low_b)),
        float(np.hypot(*errors)),
    )
