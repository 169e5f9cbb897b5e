"""The result of an evaluation: what a policy gets right, position by position and as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_in, check_int
from ntp_envs.distances.intervals import (
    CONFIDENCE,
    check_confidence,
    normal_quantile,
    score_interval,
    student_margin,
    unseen_probability,
)

__all__ = ["BY_POSITION", "TOTALS", "Evaluation", "SampleText"]

FloatArray = NDArray[np.float64]

#: measures that are ``(H,)`` arrays
BY_POSITION = ("forced_accuracy", "greedy_accuracy", "sampled_accuracy", "cross_entropy", "impossible")
#: measures that are one number; those of success are ``None`` where the task has none, of backtracking if not asked for
TOTALS = (
    "forced_token_accuracy",
    "greedy_token_accuracy",
    "sampled_token_accuracy",
    "forced_exact",
    "greedy_exact",
    "sampled_exact",
    "sequence_probability",
    "greedy_success",
    "sampled_success",
    "backtracking_accepted",
    "backtracking_cost",
    "mean_cross_entropy",
    "perplexity",
    "bits_per_token",
)
#: functions of the mean cross-entropy, which are monotone: their intervals are those of the ends
_OF_CROSS_ENTROPY = {"perplexity": lambda nats: _exp(nats), "bits_per_token": lambda nats: nats / math.log(2.0)}
_UNBOUNDED = ("cross_entropy", "mean_cross_entropy", "backtracking_cost")


class SampleText(NamedTuple):
    """One prompt and what was written after it, as a person would read it (`ntp_envs.Task.decode`)."""

    prompt: str
    target: str
    greedy: str
    sampled: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A policy against demonstrations of a task, under the true prefix and writing on its own.

    *Forced*: the most probable token after the demonstration's own prefix (teacher forcing). *Greedy*: every token the
    most probable one after the policy's own greedy tokens. *Sampled*: every token drawn, after its own draws. All are
    compared with the demonstration's tokens. A greedy sequence is right as a whole exactly when the forced one is, so
    ``forced_exact`` and ``greedy_exact`` agree; token by token they differ. Of tokens within 1e-9 nats of the most
    probable one the smallest is taken.

    Attributes:
        task: name of the task.
        n: number of demonstrations.
        forced_accuracy, greedy_accuracy, sampled_accuracy: ``(H,)`` share of tokens equal to the demonstration's.
        forced_exact, greedy_exact, sampled_exact: share of sequences equal to the demonstration's.
        sequence_probability: mean probability of the demonstrated sequence given its prompt: the expectation of
            ``sampled_exact``, with less noise.
        cross_entropy: ``(H,)`` mean ``-log pi(a_h | x, a_<h)`` in nats, infinite where a demonstrated token has
            probability zero.
        impossible: ``(H,)`` share of demonstrated tokens of probability zero.
        greedy_success, sampled_success: mean of ``task.success``, ``None`` where the task has none.
        backtracking_accepted: share of prompts whose whole answer the verifier let pass when the policy wrote with
            backtracking (`backtracking_search`), within its default budget; ``None`` where that was not asked for.
        backtracking_cost: tokens drawn there a token of the answer; 1 if nothing was rejected.
        std_errors: standard errors by name of the measure, of the same shape.
        samples: some prompts with what was written after them.
        effective_n: 1 over the sum of squared normalised weights; n without weights.
        cross_entropy_range: the least and the most nats, ``(H,)`` each, that any token would cost after any of the
            demonstrated prefixes; infinite where the policy excludes a token. ``None``: not known.
        unknown_share: share of the demonstrated tokens that are the task's unknown token, which hides what it stands
            for: cross-entropy, perplexity and bits are too low by that.
    """

    task: str
    n: int
    forced_accuracy: FloatArray
    greedy_accuracy: FloatArray
    sampled_accuracy: FloatArray
    forced_exact: float
    greedy_exact: float
    sampled_exact: float
    sequence_probability: float
    cross_entropy: FloatArray
    impossible: FloatArray
    greedy_success: float | None
    sampled_success: float | None
    std_errors: Mapping[str, Any] = field(repr=False)
    samples: tuple[SampleText, ...] = field(repr=False)
    effective_n: float
    backtracking_accepted: float | None = None
    backtracking_cost: float | None = None
    cross_entropy_range: tuple[FloatArray, FloatArray] | None = None
    error_n: float | None = None
    unknown_share: float = 0.0

    @property
    def horizon(self) -> int:
        """H, the number of tokens a sequence."""
        return len(self.forced_accuracy)

    @property
    def forced_token_accuracy(self) -> float:
        """Mean of ``forced_accuracy`` over the positions."""
        return float(self.forced_accuracy.mean())

    @property
    def greedy_token_accuracy(self) -> float:
        """Mean of ``greedy_accuracy`` over the positions."""
        return float(self.greedy_accuracy.mean())

    @property
    def sampled_token_accuracy(self) -> float:
        """Mean of ``sampled_accuracy`` over the positions."""
        return float(self.sampled_accuracy.mean())

    @property
    def mean_cross_entropy(self) -> float:
        """Nats a token, over all positions."""
        return float(self.cross_entropy.mean())

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean cross-entropy."""
        return _exp(self.mean_cross_entropy)

    @property
    def bits_per_token(self) -> float:
        """The mean cross-entropy in bits."""
        return self.mean_cross_entropy / math.log(2.0)

    def interval(self, name: str, *, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
        """``(lower, upper)``: the interval of a measure, shaped like it; by position, each holds by itself.

        Wilson's score interval for shares (at the standard error reached; with weights, at least that of as many draws
        as the weights are worth), a score interval for cross-entropies, both ends infinite for an infinite one.
        Demonstrations count as independent draws; where they are the complete law of a task only the sampled measures
        have sampling error, and the other intervals are too wide.

        A mean cross-entropy, and with it perplexity and bits, may rest on rare demonstrations that n draws do not
        show. Their probability is limited by n, and what they cost by ``cross_entropy_range``: the upper end has
        room for that, and is far above the value where the policy is sure of itself and n is small. Where the policy
        excludes tokens there is no such limit, and the interval does not show what has not been drawn: see `caveat`.

        Args:
            name: one of `BY_POSITION` or `TOTALS`.
            confidence: level of the interval.

        Raises:
            ValueError: an unknown name, success of a task without one, or backtracking that was not asked for.
        """
        check_confidence(confidence)
        check_in("name", name, (*BY_POSITION, *TOTALS))
        if name in _OF_CROSS_ENTROPY:
            lower, upper = self.interval("mean_cross_entropy", confidence=confidence)
            return _OF_CROSS_ENTROPY[name](lower), _OF_CROSS_ENTROPY[name](upper)
        value = getattr(self, name)
        if value is None:
            why = "backtrack=None" if name.startswith("backtracking") else f"{self.task} has no notion of success"
            raise ValueError(f"{name} was not measured ({why}), so it has no interval.")
        least, most = self._range(name)
        # an infinite mean has an infinite standard error; its interval does not depend on it
        error = np.where(np.isfinite(self.std_errors[name]), self.std_errors[name], 0.0)
        if name in _UNBOUNDED:  # their spread is known by the sample only: Student's t for what its squares are worth
            worth = max(self.error_n or self.effective_n, 2.0)
            error = error * student_margin(1.0, worth, confidence=confidence) / normal_quantile(confidence)
        if self.effective_n < 0.999 * self.n and name not in _UNBOUNDED:  # weighted: Wilson's, for so many draws
            share = np.clip(value, 0.0, 1.0)
            error = np.maximum(error, np.sqrt(share * (1.0 - share) / self.effective_n))
        over, n = np.maximum(value - least, 0.0), self.effective_n
        lower, upper = (
            least + end for end in score_interval(over, error, n, bound=most - least, confidence=confidence)
        )
        return (lower, upper) if name in BY_POSITION else (float(lower), float(upper))

    def _range(self, name: str) -> tuple[Any, Any]:
        """The least and the largest value that a measure can have for one demonstration."""
        if name not in _UNBOUNDED:
            return 0.0, 1.0
        if name == "backtracking_cost" or self.cross_entropy_range is None:
            return 0.0, math.inf
        least, most = self.cross_entropy_range
        return (least, most) if name in BY_POSITION else (float(least.mean()), float(most.mean()))

    @property
    def caveat(self) -> str:
        """What the intervals of cross-entropy, perplexity and bits do not show, or why they are wide; one sentence."""
        rare = f"Demonstrations of probability below {float(unseen_probability(self.effective_n)):.2g} may not be among"
        _, most = self._range("mean_cross_entropy")
        if math.isfinite(most):
            return f"{rare} these {self.n}; the upper ends allow up to {most:.3g} nats a token for them."
        return f"{rare} these {self.n}; what they add to a cross-entropy has no bound here, and is not in its interval."

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a position: ``h`` (from 1) and the measures by position."""
        measured = {name: getattr(self, name) for name in BY_POSITION}
        return [{"h": h + 1, **{name: float(v[h]) for name, v in measured.items()}} for h in range(self.horizon)]

    def totals(self, *, confidence: float = CONFIDENCE) -> list[dict[str, Any]]:
        """One mapping for each measure of the whole that was made: ``measure``, ``value``, ``lower``, ``upper``."""
        known = [name for name in TOTALS if getattr(self, name) is not None]
        return [
            dict(zip(("measure", "value", "lower", "upper"), (name, getattr(self, name), *ends)))
            for name in known
            for ends in [self.interval(name, confidence=confidence)]
        ]

    def table(self, positions: int = 12) -> str:
        """Plain text for a terminal: the totals with 95 % intervals, then up to ``positions`` positions and samples."""
        lines = [f"{self.task}, H={self.horizon}, n={self.n}", ""]
        for row in self.totals():
            name = row["measure"].replace("_", " ")
            lines.append(f"{name:<24}{row['value']:>9.4g}   [{row['lower']:.4g}, {row['upper']:.4g}]")
        if self.unknown_share > 0:
            lines.append(f"{'unknown tokens':<24}{self.unknown_share:>9.4g}   (what they hide is in no measure)")
        lines += ["", f"95 % intervals. {self.caveat}"]
        shown = self.some_rows(positions)
        if shown:
            lines += ["", f"{'h':>5}" + "".join(f"{name.split('_')[0]:>12}" for name in BY_POSITION)]
            for at in shown:
                lines.append(f"{at['h']:>5}" + "".join(f"{at[name]:>12.4g}" for name in BY_POSITION))
        for sample in self.samples:
            lines += ["", *(f"{name:<9}{text}" for name, text in sample._asdict().items())]
        return "\n".join(lines)

    def some_rows(self, positions: int) -> list[dict[str, Any]]:
        """At most so many of the `rows`, evenly spread, the first and the last among them."""
        check_int("positions", positions, minimum=0)
        shown = np.linspace(0, self.horizon - 1, min(positions, self.horizon)).round().astype(int)
        rows = self.rows()
        return [rows[h] for h in np.unique(shown)]

    def __repr__(self) -> str:
        exact = f"forced={self.forced_token_accuracy:.4g} a token, exact greedy={self.greedy_exact:.4g}"
        return (
            f"Evaluation({self.task}, H={self.horizon}, n={self.n}, {exact} sampled={self.sampled_exact:.4g}, "
            f"{self.mean_cross_entropy:.4g} nats a token)"
        )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700.0 else math.inf
