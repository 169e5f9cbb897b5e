"""Classifier two-sample test: a lower bound on total variation from held-out sequences, at every prefix length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import binomial_log_coefficients
from ntp_envs._validation import check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances._two_sample import TwoSampleResult, check_lengths, check_samples, pooled_lines, surest_gap
from ntp_envs.distances.intervals import CONFIDENCE, each_of
from ntp_envs.distances.two_sample_ngram import ngram_codes

__all__ = ["classifier_test"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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
    by_accuracy = 2.0 * _lower_rate(correct, 2 * held_out, level / 2) - 1.0
    by_rates = _lower_rate(hits, held_out, level / 4) - 1.0 + _lower_rate(held_out - alarms, held_out, level / 4)
    return np.maximum(np.maximum(by_accuracy, by_rates), 0.0)


def _lower_rate(k: IntArray, n: int, level: float) -> FloatArray:
    """Clopper and Pearson's one-sided lower bound on a probability, from k successes in n."""
    from scipy.special import betaincinv

    return np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1.0, level), 0.0)


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
