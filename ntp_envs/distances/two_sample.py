"""Two-sample tests: are two sets of sequences from one law, and if not, how far apart? Where neither has a density.

Three tests, each at every prefix length: a classifier on held-out sequences, a kernel that counts common prefixes, and
the laws of n-grams; `two_sample_test` is the door to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray, binomial_log_coefficients
from ntp_envs.checks import (
    check_generator,
    check_in,
    check_int,
    check_keywords,
    check_probability,
    check_real,
    keywords_of,
)
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.intervals import (
    CONFIDENCE,
    each_of,
    least_share,
    normal_interval,
    normal_quantile,
    score_interval,
    unseen_probability,
)

#: numbers held together (permutations x sequences, or x n-grams); bounds the memory to some tens of MB
BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class TwoSampleResult:
    """A comparison of two samples of sequences at every prefix length asked for.

    Attributes:
        curve: the estimate and its interval, at each length by itself unless asked for otherwise; what it estimates is
            said by the test. Entries at lengths that were not asked for are NaN.
        p_values: ``(H,)`` p-values of "both laws are equal up to this length", each valid on its own; NaN likewise.
            The laws of whole sequences are equal only if those of all prefixes are, so one test at H needs no
            correction for the others.
        lengths: ``(L,)`` the prefix lengths asked for, ascending.
        n_p, n_q: sequences in the first and in the second sample.
    """

    curve: DistanceCurve
    p_values: FloatArray
    lengths: IntArray
    n_p: int
    n_q: int

    @classmethod
    def at(
        cls,
        lengths: IntArray,
        samples: tuple[Demonstrations, Demonstrations],
        *,
        metric: str,
        method: str,
        values: FloatArray,
        lower: FloatArray,
        upper: FloatArray,
        std_error: FloatArray,
        p_values: FloatArray,
        confidence: float,
        simultaneous: bool,
    ) -> TwoSampleResult:
        """From ``(L,)`` numbers at these lengths."""
        horizon, n_p, n_q = samples[0].horizon, len(samples[0]), len(samples[1])

        def spread(array: FloatArray) -> FloatArray:
            out = np.full(horizon, np.nan)
            out[lengths - 1] = array
            return out

        curve = DistanceCurve(
            metric,
            spread(values),
            spread(lower),
            spread(upper),
            method,
            n_p + n_q,
            spread(std_error),
            confidence=confidence,
            simultaneous=simultaneous,
            unseen=float(
                unseen_probability(
                    min(n_p, n_q), confidence=each_of(confidence, len(lengths), simultaneous=simultaneous)
                )
            ),
        )
        return cls(curve, spread(p_values), lengths, n_p, n_q)

    @property
    def p_value(self) -> float:
        """The p-value at the longest prefix asked for."""
        return float(self.p_values[self.lengths[-1] - 1])

    def __repr__(self) -> str:
        return f"TwoSampleResult({self.curve!r}, p_value={self.p_value:.4g})"


def check_samples(
    p: Demonstrations, q: Demonstrations, rng: np.random.Generator, *, minimum: int
) -> tuple[Demonstrations, Demonstrations]:
    """Two samples of equal shape, unweighted, of at least ``minimum`` sequences each, and a generator.

    Raises:
        TypeError, ValueError: naming the sample that does not fit.
    """
    for name, sample in (("p", p), ("q", q)):
        if not isinstance(sample, Demonstrations):
            raise TypeError(
                f"{name} must be Demonstrations, not {type(sample).__name__}; "
                "wrap arrays in Demonstrations(prompts, tokens, vocab_size=A)."
            )
        if not sample.are_draws:
            raise ValueError(f"{name} is weighted; draws of equal weight are needed: collect(task, n, rng).")
        check_int(f"the number of sequences in {name}", len(sample), minimum=minimum)
    for what in ("vocab_size", "prompt_length", "horizon"):
        ours, theirs = getattr(p, what), getattr(q, what)
        if ours != theirs:
            raise ValueError(f"p has {what}={ours} and q {theirs}; both samples must come from sequences of one shape.")
    check_generator(rng)
    return p, q


def check_lengths(lengths: Iterable[int] | None, horizon: int) -> IntArray:
    """``(L,)`` prefix lengths, ascending without repetition; all of 1..H for ``None``."""
    if lengths is None:
        return np.arange(1, horizon + 1)
    chosen = sorted({check_int("a prefix length", length, minimum=1, maximum=horizon) for length in lengths})
    if not chosen:
        raise ValueError(f"lengths is empty; choose prefix lengths in [1, {horizon}], or None for all of them.")
    return np.array(chosen, dtype=np.int64)


def pooled_lines(p: Demonstrations, q: Demonstrations) -> IntArray:
    """``(n_p + n_q, P + H)`` prompts and tokens, those of ``p`` first."""
    return np.concatenate([np.concatenate([sample.prompts, sample.tokens], axis=1) for sample in (p, q)])


def permuted_labels(n_p: int, n_q: int, permutations: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """``(permutations + 1, n_p + n_q)``, True for members of the first sample: as they are, then shuffled."""
    labels = np.tile(np.arange(n_p + n_q) < n_p, (permutations + 1, 1))
    rng.permuted(labels[1:], axis=1, out=labels[1:])
    return labels


def permutation_p_values(statistics: FloatArray) -> FloatArray:
    """``(L,)`` p-values ``#{null >= observed} / (R + 1)`` of ``(R + 1, L)`` statistics, the observed in row 0.

    The observed labelling counts as one of the permutations, which makes the level exact (Phipson and Smyth 2010).
    A difference within rounding of the observed one is a tie.
    """
    observed = statistics[0]
    return np.mean(statistics >= observed - 1e-12 * (1.0 + np.abs(observed)), axis=0)


def surest_gap(rate_p: FloatArray, rate_q: FloatArray, n_p: int, n_q: int) -> int:
    """Which of ``(K,)`` events tells the laws apart most surely: ``rate_p - rate_q`` less two standard errors is most.

    The largest gap alone would often be that of an event of probability near 1/2 under both, all noise, which hides
    a rare one that is real. Rates are frequencies among ``n_p`` and ``n_q`` sequences (or means of scores in [0, 1],
    whose errors are smaller).
    """
    rate_p, rate_q = np.clip(rate_p, 0.0, 1.0), np.clip(rate_q, 0.0, 1.0)
    gap = rate_p - rate_q
    sure = gap - 2.0 * np.sqrt(rate_p * (1.0 - rate_p) / n_p + rate_q * (1.0 - rate_q) / n_q)
    return int(np.argmax(sure if sure.max() > 1e-12 else gap))


# Classifier two-sample test: a lower bound on total variation from held-out sequences, at every prefix length.


MAX_GRAMS = 64  # n-grams counted, the most frequent ones
MAX_INDICATORS = 512  # single tokens seen, the latest ones
ITERATIONS = 50  # of L-BFGS; a classifier that is not quite fitted is as valid as any


def classifier_test(
    p: Demonstrations,
    q: Demonstrations,
    *,
    rng: np.random.Generator,
    order: int = 2,
    lengths: Iterable[int] | None = None,
    test_fraction: float = 0.5,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> TwoSampleResult:
    """A lower bound on the TV of prefixes: how well a logistic regression tells held-out sequences apart.

    For any classifier, fitted on other data, ``TV >= P(says p) - Q(says p) = 2 accuracy - 1`` with both laws
    equally frequent; with equality for the best one (Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests",
    ICLR 2017; the bound is our reading). The features at length h are the one-hot prompt and tokens, the frequencies
    of n-grams so far and their squares. The cut is where the training data, each half scored by the other's fit, tell
    the laws apart most surely (the gap of the rates less two standard errors), so that what is rare is seen too.

    The lower end of the interval is a one-sided confidence bound, exact at any n. At 95 % it is the larger of two
    Clopper-Pearson bounds, each at 97.5 %: on the accuracy (the number of correct answers is a sum of two binomials,
    less dispersed than one of equal mean: Hoeffding 1956), and on both rates separately at 98.75 %, which is the
    sharper one where sequences that differ are rare. The upper end is 1: no classifier bounds TV from above. The
    p-value is Fisher's exact test of held-out answers against labels. Each length has its own classifier, and the
    bound holds for each length by itself unless ``simultaneous``.

    Args:
        p, q: the samples, at least 8 unweighted sequences each.
        rng: source of the split.
        order: n of the n-grams.
        lengths: prefix lengths wanted; all by default. One classifier each, so choose some where H is large.
        test_fraction: held out of the smaller sample, in (0, 1), and as many of the larger one.
        confidence: level of the bounds.
        simultaneous: make the bounds hold at all lengths asked for together (Bonferroni).

    Returns:
        A `TwoSampleResult` whose curve has metric ``"tv"``: the held-out ``2 accuracy - 1``, at least 0.

    Raises:
        TypeError, ValueError: samples of different shapes, weighted, or too small; arguments out of range.

    >>> from ntp_envs import collect, make_task
    >>> rng = np.random.default_rng(0)
    >>> p, q = (collect(make_task("Contamination", horizon=8, eps=eps), 400, rng) for eps in (0.01, 0.2))
    >>> bool(0 < classifier_test(p, q, rng=rng).curve.lower[-1] < 0.19)
    True
    """
    check_samples(p, q, rng, minimum=8)
    wanted = check_lengths(lengths, p.horizon)
    order = check_int("order", order, minimum=1)
    level = each_of(confidence, len(wanted), simultaneous=simultaneous)
    test_fraction = check_probability("test_fraction", test_fraction)
    smaller = min(len(p), len(q))
    held_out = min(max(round(test_fraction * smaller), 1), smaller - 1)
    is_p = np.arange(len(p) + len(q)) < len(p)
    test = np.concatenate([rng.permutation(len(p)) < held_out, rng.permutation(len(q)) < held_out])
    fold = np.concatenate([rng.permutation(len(p)) % 2, rng.permutation(len(q)) % 2]) == 0  # of the training data
    features = _PrefixFeatures(p, q, order, ~test)
    hits, alarms = np.empty((2, len(wanted)), dtype=np.int64)  # held-out sequences called p: rightly, wrongly
    for column, length in enumerate(wanted):
        x = features.at(length)
        says_p = x[test] @ _fit_logistic(x[~test], is_p[~test]) > _crossed_cut(x[~test], is_p[~test], fold[~test])
        hits[column], alarms[column] = says_p[is_p[test]].sum(), says_p[~is_p[test]].sum()
    rate_p, rate_q = hits / held_out, alarms / held_out
    return TwoSampleResult.at(
        wanted,
        (p, q),
        metric="tv",
        method="samples only (classifier, lower bound)",
        values=np.maximum(rate_p - rate_q, 0.0),
        lower=tv_lower_bound(hits, alarms, held_out, level=1.0 - level),
        upper=np.ones(len(wanted)),
        std_error=np.sqrt((rate_p * (1 - rate_p) + rate_q * (1 - rate_q)) / held_out),
        p_values=_fisher(hits, alarms, held_out),
        confidence=confidence,
        simultaneous=simultaneous,
    )


def _crossed_cut(x: FloatArray, is_p: NDArray[np.bool_], fold: NDArray[np.bool_]) -> float:
    """The best cut of scores that each half of the training data gets from a fit to the other half."""
    scores = np.empty(len(x))
    for half in (fold, ~fold):
        if not (is_p[half].any() and (~is_p[half]).any()):
            return 0.0  # a handful of sequences
        scores[~half] = x[~half] @ _fit_logistic(x[half], is_p[half])
    return _best_cut(scores, is_p)


def _best_cut(scores: FloatArray, is_p: NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] < ranked[:-1]), len(ranked) - 1)  # equal scores stay together
    counts = int(is_p.sum()), int((~is_p).sum())
    rates = [np.cumsum(of_class[order])[ends] / count for of_class, count in zip((is_p, ~is_p), counts)]
    best = surest_gap(rates[0], rates[1], *counts)
    if best == len(ends) - 1:
        return -np.inf
    return float(0.5 * (ranked[ends[best]] + ranked[ends[best] + 1]))


def tv_lower_bound(hits: IntArray, alarms: IntArray, held_out: int, *, level: float = 1.0 - CONFIDENCE) -> FloatArray:
    """Exact lower confidence bound on ``P(says p) - Q(says p)`` from answers on ``held_out`` sequences of each law."""
    correct = hits + held_out - alarms
    by_accuracy = 2.0 * least_share(correct, 2 * held_out, level / 2) - 1.0
    by_rates = least_share(hits, held_out, level / 4) - 1.0 + least_share(held_out - alarms, held_out, level / 4)
    return np.maximum(np.maximum(by_accuracy, by_rates), 0.0)


def hellinger2_bound(tv: FloatArray) -> FloatArray:
    """``sum (sqrt P - sqrt Q)^2`` at least, where TV is at least so much: ``2 (1 - sqrt(1 - TV^2))``.

    From ``TV^2 <= 1 - BC^2``.
    """
    return 2.0 * tv * tv / (1.0 + np.sqrt(1.0 - tv * tv))


def _fisher(hits: IntArray, alarms: IntArray, held_out: int) -> FloatArray:
    """``P(X >= hits)`` for X hypergeometric: as many calls of p in all, at random among the 2 ``held_out``."""
    log_choose = binomial_log_coefficients(held_out)
    every = binomial_log_coefficients(2 * held_out)
    out = np.empty(len(hits))
    for i, (right, called) in enumerate(zip(hits, hits + alarms)):
        x = np.arange(right, min(called, held_out) + 1)
        out[i] = np.exp(log_choose[x] + log_choose[called - x] - every[called]).sum()
    return np.minimum(out, 1.0)


class _PrefixFeatures:
    """What the classifier sees of prompt and first h tokens: chosen and scaled by the training data alone."""

    def __init__(self, p: Demonstrations, q: Demonstrations, order: int, train: NDArray[np.bool_]) -> None:
        lines = pooled_lines(p, q)
        codes, size = ngram_codes(lines, order, p.prompt_length)
        frequency = np.bincount(codes[train].ravel(), minlength=size)
        rank = np.argsort(np.argsort(-frequency, kind="stable"), kind="stable")
        self.grams = min(int((frequency > 0).sum()), MAX_GRAMS)
        self.codes = np.minimum(rank[codes], self.grams)  # (N, H); all others share the last number
        self.train = train
        self.counts = np.zeros((len(lines), self.grams + 1))  # of the first `read` tokens
        self.read = 0
        self.prompt_length = p.prompt_length
        tokens = np.arange(1, p.vocab_size)
        self.width = max(1, MAX_INDICATORS // max(len(tokens), 1))  # positions whose tokens are seen
        self.lines, self.tokens = lines, tokens

    def at(self, length: int) -> FloatArray:
        """``(N, d)`` standardised features and a constant; lengths must come in ascending order."""
        rows = np.arange(len(self.codes))
        for column in self.codes[:, self.read : length].T:
            self.counts[rows, column] += 1.0
        self.read = length
        rates = self.counts / length
        end = self.prompt_length + length
        seen = self.lines[:, max(0, end - self.width) : end]
        indicators = (seen[:, :, None] == self.tokens).reshape(len(rows), -1)
        x = np.concatenate([indicators, rates, rates**2], axis=1)
        spread = x[self.train].std(axis=0)
        varies = spread > 1e-9
        x = (x[:, varies] - x[self.train][:, varies].mean(axis=0)) / spread[varies]
        return np.concatenate([x, np.ones((len(rows), 1))], axis=1)


def _fit_logistic(x: FloatArray, is_p: NDArray[np.bool_]) -> FloatArray:
    """``(d,)`` coefficients of ridge logistic regression with both classes equally heavy; the last is the constant."""
    from scipy.optimize import minimize
    from scipy.special import expit

    sign = np.where(is_p, 1.0, -1.0)
    share = np.where(is_p, 0.5 / is_p.sum(), 0.5 / (~is_p).sum())
    ridge = np.full(x.shape[1], 1.0 / len(x))
    ridge[-1] = 0.0
    signed = x * sign[:, None]

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        margin = signed @ w
        value = share @ np.logaddexp(0.0, -margin) + 0.5 * ridge @ (w * w)
        return float(value), ridge * w - (share * expit(-margin)) @ signed

    return minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x


# Maximum mean discrepancy with a kernel that counts common prefixes, at every prefix length in one pass.


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


# Total variation between laws of n-grams, from samples, at every prefix length.


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


# Two-sample tests: distances between rollout laws where neither has a density, from sequences only.


_TESTS: dict[str, Callable[..., TwoSampleResult]] = {
    "classifier": classifier_test,
    "n-gram": ngram_test,
    "mmd": mmd_test,
}
#: what ``method`` of `two_sample_test` may be
TWO_SAMPLE_METHODS = tuple(_TESTS)


def two_sample_test(
    p: Demonstrations, q: Demonstrations, *, rng: np.random.Generator, method: str = "classifier", **options: Any
) -> TwoSampleResult:
    """Are two samples of sequences from one law, up to each prefix length, and if not, how far are they apart?

    Which method: ``"mmd"`` is the most sensitive where sequences repeat (few tokens, or nearly deterministic laws) and
    costs least; ``"n-gram"`` looks for local differences at any length; ``"classifier"`` gives a bound in units of TV.

    Args:
        p, q: unweighted samples of one shape, say of an expert and of a learner.
        rng: source of splits and permutations.
        method: ``"classifier"`` (`classifier_test`), ``"n-gram"`` (`ngram_test`) or ``"mmd"`` (`mmd_test`).
        **options: of that test; all of them take ``lengths``, ``confidence`` and ``simultaneous``.

    Returns:
        Estimates, intervals and p-values at every prefix length.

    Raises:
        TypeError, ValueError: an unknown method (the nearest is suggested), or samples or options that do not fit.

    >>> from ntp_envs import collect, make_task
    >>> rng, task = np.random.default_rng(0), make_task("Tightrope", horizon=6)
    >>> two_sample_test(collect(task, 99, rng), collect(task, 99, rng), rng=rng, method="mmd").p_value
    1.0
    """
    test = _TESTS[check_in("method", method, TWO_SAMPLE_METHODS)]
    check_keywords(f"two_sample_test(method={method!r})", options, {*keywords_of(test)} - {"p", "q"})
    return test(p, q, rng=rng, **options)
