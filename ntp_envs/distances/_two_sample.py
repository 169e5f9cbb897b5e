"""What the two-sample tests share: their result, and the checks of two sets of sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_generator, check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.intervals import each_of, unseen_probability
from ntp_envs.distances.result import DistanceCurve

__all__ = [
    "TwoSampleResult",
    "check_lengths",
    "check_samples",
    "permutation_p_values",
    "permuted_labels",
    "pooled_lines",
    "surest_gap",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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
