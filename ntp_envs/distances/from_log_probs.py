"""Distances between two models from the log-probabilities that each gives to texts of one or of both: no policy needed.

What is read is the log-probability of each token under the law that *sampled*, after temperature, top-k, top-p and
penalties; ``docs/log_probs.md`` says how to have it from vLLM, SGLang, llama.cpp and TRL. The estimators are those of
`sampled`.

Whether texts can have been drawn from the law that is given for them is looked at too, in two ways.

* Whatever Q is, ``W_h = Q / P`` of the first h tokens is over draws from P a non-negative supermartingale that begins
  at 1. Then so is the ``product over texts of (1 + b (W_h - 1))`` for a bet b in (0, 1), and so is the mean over bets:
  the probability that it ever reaches ``1 / a`` is at most a (Ville's inequality), for any number of texts and whatever
  the tails of W. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
  2024.
* ``E_P Q / (P + Q) = E_Q P / (P + Q)``, the overlap of the two laws, seen from both sides. Both are means of numbers in
  [0, 1]; the empirical Bernstein bound says how far apart they may be. Source: Maurer and Pontil, "Empirical Bernstein
  bounds and sample variance penalization", COLT 2009, theorem 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import BoolArray, FloatArray
from ntp_envs.checks import as_array, check_int
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.distances.metrics import DEFAULT_THRESHOLDS, SAMPLED_METRICS, check_sampled, check_thresholds
from ntp_envs.distances.sampled import Level, blocks, bridge_curves, one_sided_curves, running_log_ratio
from ntp_envs.intervals import CONFIDENCE

#: a log-probability may be so much above 0: float32 differences of logits round by less
POSITIVE = 1e-4
#: finite values from here down stand for -inf or for no value in what engines write (-9999.0, -3.4e38)
PLACEHOLDER = -9999.0
#: a column of zeros is a placeholder if texts like these are less probable than this under zeros that are meant
IMPOSSIBLE = 1e-9
#: probability of a warning although the texts were drawn from the laws given, for each way of looking
ALARM = 1e-3
BETS = 0.25 ** np.array([0.5, 1.5, 2.5, 3.5])
#: what is not said because half precision, off by 1 % a token, explains it: half the square of that, a token
SLACK = 1e-4


class SamplingLawWarning(UserWarning):
    """Texts are not as if drawn from the log-probabilities given for their own model."""


def distance_from_log_probs(
    p_on_p: ArrayLike,
    q_on_p: ArrayLike,
    p_on_q: ArrayLike,
    q_on_q: ArrayLike,
    *,
    mask_p: ArrayLike | None = None,
    mask_q: ArrayLike | None = None,
    metrics: Any = SAMPLED_METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """Distances at every prefix length from what two models say about texts of both: the bridge estimator.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2]; KL is in nats, P first. Intervals as in
    `monte_carlo_distances`. A text that has ended is one document at every later length: its ratio stays. Both models
    answer the same prompts, drawn alike, and write up to the same H tokens.

    Args:
        p_on_p, q_on_p: ``(n, H)`` log-probability that P, and that Q, gives each token of n >= 2 texts that P wrote,
            given the prompt and the tokens before it, under the law that samples (after temperature, top-k, top-p).
            Any dtype or nested lists; computed in float64. ``q_on_p`` may be ``-inf``; what follows in that row is then
            not read.
        p_on_q, q_on_q: ``(m, H)`` the same for texts that Q wrote; ``p_on_q`` may be ``-inf``.
        mask_p, mask_q: shaped like these, True where a token was written, the end token included; all of them by
            default. What stands elsewhere is not read.
        metrics: any of ``SAMPLED_METRICS``, registered ones, or functions of the log-ratio.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        confidence, simultaneous: of the intervals.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: ``"chi2"``, and metrics that grow as fast.
        TypeError, ValueError: arrays that cannot be what they are said to be; the message names array, text, position
            and value. Refused are values above 0 by more than 1e-4, NaN, what engines write for no value (-9999.0,
            -3.4e38, a column of zeros that the texts contradict), a text impossible under the model that wrote it,
            other shapes, and masks that go on after an end or begin with one.

    Warns:
        SamplingLawWarning: the mean of Q / P over texts of P, or of P / Q over texts of Q, is above 1 at some length by
            more than chance makes it in one case of 1000, or the two samples disagree as much on the overlap of the
            laws; or the first tokens of one model are all certain.

    >>> import numpy as np
    >>> fair, biased = np.log(np.full((4, 3), 0.5)), np.log([[0.75, 0.75, 0.25]] * 4)
    >>> distance_from_log_probs(fair, biased, fair, biased, metrics="tv")["tv"]
    DistanceCurve(tv, H=3, final=0.0588235, monte carlo (bridge), n=8)
    """
    found, levels, level = check_sampled(metrics), check_thresholds(thresholds), Level(confidence, simultaneous)
    of_p = _Texts(("p", "q"), p_on_p, q_on_p, "mask_p", mask_p)
    of_q = _Texts(("q", "p"), q_on_q, p_on_q, "mask_q", mask_q)
    if of_p.horizon != of_q.horizon:
        raise ValueError(
            f"the texts of P have {of_p.horizon} positions and those of Q {of_q.horizon}; both models must be allowed "
            "the same number of tokens. Where no text was cut off, pad the shorter arrays and give masks."
        )
    n = len(of_p) + len(of_q)
    of_p_from_q = (-ratio for ratio in of_q.log_ratios())
    curves = bridge_curves(of_p.log_ratios(), of_p_from_q, found, *levels, level, n)
    _warn([of_p.doubt, of_q.doubt, of_p.objection or of_q.objection or _disagreement(of_p, of_q)])
    return curves


def one_sided_distance_from_log_probs(
    p_on_p: ArrayLike,
    q_on_p: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    metrics: Any = SAMPLED_METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """Distances at every prefix length from what two models say about texts of P alone: the one-sided estimator.

    Arguments, conventions, errors and warnings as in `distance_from_log_probs`, which has the smaller error in squared
    Hellinger and is to be preferred where texts of Q can be had.

    Args:
        p_on_p, q_on_p: ``(n, H)`` log-probabilities of texts that P wrote.
        mask: ``(n, H)`` True where a token was written.

    >>> import numpy as np
    >>> fair, biased = np.log(np.full((2, 3), 0.5)), np.log([[0.75, 0.75, 0.25], [0.25, 0.25, 0.75]])
    >>> one_sided_distance_from_log_probs(fair, biased, metrics="kl")["kl"].values.round(3).tolist()
    [0.144, 0.288, 0.432]
    """
    found, levels = check_sampled(metrics, one_sided=True), check_thresholds(thresholds)
    level = Level(confidence, simultaneous)
    of_p = _Texts(("p", "q"), p_on_p, q_on_p, "mask", mask)
    curves = one_sided_curves(of_p.log_ratios(), found, *levels, level)
    _warn([of_p.doubt, of_p.objection])
    return curves


class _Texts:
    """Checked log-probabilities of the texts that one model wrote, under it and under the other one.

    Where no token was written, and after a token that the other model excludes, both are 0. The ratios are gone through
    once, and what speaks against the law is gathered on the way.
    """

    def __init__(
        self, models: tuple[str, str], own: ArrayLike, other: ArrayLike, mask_name: str, mask: ArrayLike | None
    ) -> None:
        self.models = models
        self.names = own_name, other_name = tuple(f"{model}_on_{models[0]}" for model in models)
        arrays = [_table(name, value) for name, value in zip(self.names, (own, other))]
        written = _written(mask_name, mask, arrays[0].shape) if mask is not None else np.ones(arrays[0].shape, bool)
        if arrays[0].shape != arrays[1].shape:
            raise ValueError(
                f"{own_name} has shape {arrays[0].shape} and {other_name} {arrays[1].shape}; both are about the same "
                "tokens, a row a text and a column a position."
            )
        check_int(f"the number of texts in {own_name}", len(written), minimum=2)
        excluded = np.logical_or.accumulate(written & np.isneginf(arrays[1]), axis=1)
        read = written.copy()
        read[:, 1:] &= ~excluded[:, :-1]
        for name, array, where in zip(self.names, arrays, (written, read)):
            _check_values(name, array, where)
        _refuse(
            own_name,
            arrays[0],
            written & np.isneginf(arrays[0]),
            f"for a token that model {models[0].upper()} is said to have written; it cannot have. Either the texts are "
            "of another model or law, or the token lies outside a mask that is missing.",
        )
        self.own, self.other = (np.where(read, array, 0.0) for array in arrays)
        self._check_zeros(written)
        self.horizon = written.shape[1]
        self.wealth = np.zeros((len(BETS), self.horizon))  # log-wealth of each bet against E other / own <= 1
        self.ratio, self.overlap = np.zeros((2, 2, self.horizon))  # sums and sums of squares

    def __len__(self) -> int:
        return len(self.own)

    def _check_zeros(self, written: BoolArray) -> None:
        """Columns that are exactly 0 in one array and not in the other."""
        own_name, other_name = self.names
        of_own, of_other = (
            ((array == 0.0) | ~written).all(axis=0) & written.any(axis=0) for array in (self.own, self.other)
        )
        placeholder = of_other & (self.own.sum(axis=0) < np.log(IMPOSSIBLE))
        if placeholder.any():
            h = int(placeholder.argmax())
            raise ValueError(
                f"{other_name}[:, {h}] is exactly 0.0 in every text and {own_name}[:, {h}] is not: model "
                f"{self.models[1].upper()} would have been certain of every token there that model "
                f"{self.models[0].upper()} drew. Engines write 0.0 for a first or padded token without a value; score "
                "the text with its prompt before it, or begin both arrays a token later."
            )
        if of_own[0] and not of_other[0] and not of_own.all():
            self.doubt = (
                f"{own_name}[:, 0] is exactly 0.0 in every text and {other_name}[:, 0] is not, as if model "
                f"{self.models[0].upper()} had had no choice there. Some engines write 0.0 for a first token without a "
                "value; if this one did, score the text with its prompt before it."
            )
        else:
            self.doubt = ""

    def log_ratios(self) -> Iterator[FloatArray]:
        """``(B, H)`` log own - log other of every prefix."""
        from scipy.special import expit

        for rows in blocks(len(self), self.horizon):
            ratio = running_log_ratio(self.own[rows], self.other[rows])
            yield ratio
            with np.errstate(over="ignore"):
                weight, share = np.exp(-ratio - SLACK * np.arange(1, self.horizon + 1)), expit(-ratio)
                self.ratio += weight.sum(axis=0), (weight**2).sum(axis=0)
                self.overlap += share.sum(axis=0), (share**2).sum(axis=0)
            for wealth, bet in zip(self.wealth, BETS):
                wealth += np.log1p(bet * (weight - 1.0)).sum(axis=0)

    def moments(self, sums: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``(H,)`` mean and its standard error."""
        n = len(self)
        mean, square = sums / n
        with np.errstate(invalid="ignore"):
            return mean, np.sqrt(np.maximum(square - mean**2, 0.0) / (n - 1))

    @property
    def objection(self) -> str:
        """What the ratio says against the law, in a sentence, after the ratios were gone through."""
        wealth = np.logaddexp.reduce(self.wealth, axis=0) - np.log(len(BETS))
        h = int(wealth.argmax())
        if wealth[h] <= -np.log(ALARM):
            return ""
        (own, other), (mean, error) = self.models, self.moments(self.ratio)
        return (
            f"after {h + 1} tokens the mean of {other} / {own} over the texts of {own.upper()} is {mean[h]:.4g} "
            f"(standard error {error[h]:.2g}), and at most 1 over texts drawn from {self.names[0]}: that is not the "
            f"law that wrote them. {CAUSE}"
        )


CAUSE = (
    "The usual cause: raw log-probabilities, though the sampling had a temperature, top-k or top-p (vLLM's default "
    "logprobs_mode; see docs/log_probs.md). The distances and intervals do not hold then."
)


def _disagreement(of_p: _Texts, of_q: _Texts) -> str:
    """What the two samples say against the laws together."""
    level = np.log(8.0 * of_p.horizon / ALARM)  # two sides of two samples at every length
    (by_p, error_p), (by_q, error_q) = (sample.moments(sample.overlap) for sample in (of_p, of_q))
    room = sum(7.0 * level / (3.0 * (len(sample) - 1)) for sample in (of_p, of_q)) + SLACK * np.arange(1, len(by_p) + 1)
    beyond = np.abs(by_p - by_q) - np.sqrt(2.0 * level) * (error_p + error_q) - room
    h = int(beyond.argmax())
    if beyond[h] <= 0.0:
        return ""
    return (
        f"after {h + 1} tokens the mean of q / (p + q) over the texts of P is {by_p[h]:.4f} and that of p / (p + q) "
        f"over the texts of Q {by_q[h]:.4f}; they are equal in expectation if each model drew its texts from the "
        f"log-probabilities given. {CAUSE}"
    )


def _warn(said: list[str]) -> None:
    for message in filter(None, said):
        warnings.warn(message, SamplingLawWarning, stacklevel=3)


def _table(name: str, value: ArrayLike) -> FloatArray:
    try:
        array: FloatArray = as_array(name, value, np.float64)
    except ValueError as error:
        raise ValueError(
            f"{error}; pad texts of different lengths to one, and mark in a mask what was written."
        ) from error
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; (n, H) is needed, a row a text and a column a position.")
    return array


def _written(name: str, value: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    mask = as_array(name, value)
    if mask.shape != shape:
        raise ValueError(f"{name} has shape {mask.shape}; that of its log-probabilities is needed, {shape}.")
    written: BoolArray = mask == 1
    if not (written | (mask == 0)).all():
        at = tuple(np.argwhere(~(written | (mask == 0)))[0])
        raise ValueError(f"{name}[{at[0]}, {at[1]}]={mask[at]} must be True (or 1) for a written token, else False.")
    again = written[:, 1:] & ~written[:, :-1]
    if again.any():
        row, h = np.argwhere(again)[0]
        raise ValueError(
            f"{name}[{row}, {h + 1}] is True after a False: text {row} goes on after its end. Move what is padded on "
            "the left to the left edge, mask and log-probabilities alike."
        )
    if not written[:, 0].all():
        row = int(written[:, 0].argmin())
        raise ValueError(
            f"{name}[{row}] is False everywhere: nothing was written in text {row}. The end token counts as written; "
            "include it, and its log-probability."
        )
    return written


def _check_values(name: str, array: FloatArray, where: BoolArray) -> None:
    """Refuse what is no log-probability, where a token was written."""
    with np.errstate(invalid="ignore"):
        _refuse(
            name,
            array,
            where & np.isnan(array),
            "(or None), where a token was written. Engines give no value to the first token of what they score, and "
            "none to padding: score the text with its prompt before it, and mark in the mask what was written.",
        )
        _refuse(
            name,
            array,
            where & (array > POSITIVE),
            f"is above 0 (by more than {POSITIVE:g}, for rounding), and no log-probability. Probabilities need np.log, "
            "logits log_softmax over the vocabulary.",
        )
        _refuse(
            name,
            array,
            where & (array <= PLACEHOLDER) & ~np.isneginf(array),
            "is what engines write for a token without a value or of probability 0. Write -inf if the model excludes "
            "the token; else ask for the value of this very token, not of the most probable ones alone.",
        )


def _refuse(name: str, array: FloatArray, wrong: BoolArray, says: str) -> None:
    if wrong.any():
        row, h = np.unravel_index(int(wrong.argmax()), wrong.shape)
        many = f" ({wrong.sum()} such values)" if wrong.sum() > 1 else ""
        raise ValueError(f"{name}[{row}, {h}]={array[row, h]:.7g}{many} {says}")
