"""How well a policy writes: position by position and as a whole, under the true prefix and on its own, and with search.

`evaluate` reads and draws once each and gives an `Evaluation`; `backtracking_search`, `backtracking_walk` and `best_of`
write with the task's verifier at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import BoolArray, FloatArray, IntArray, first_best, sample_categorical
from ntp_envs.checked import check_policy
from ntp_envs.checks import NotTractableError, check_generator, check_in, check_int, check_kind, check_tokens
from ntp_envs.demonstrations import Demonstrations, row_blocks
from ntp_envs.intervals import (
    CONFIDENCE,
    check_confidence,
    normal_quantile,
    score_interval,
    student_margin,
    unseen_probability,
)
from ntp_envs.plots import Axes, axes_or_new, draw_line, name_axes
from ntp_envs.policies import GreedyPolicy, Policy
from ntp_envs.tasks.base import Task, collect, misfits

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

        A score interval (`ntp_envs.intervals.score_interval`) for shares, at the standard error reached (with weights,
        at least that of as many draws as the weights are worth), and for cross-entropies, both ends infinite for an
        infinite one.
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
        if self.effective_n < 0.999 * self.n and name not in _UNBOUNDED:  # weighted: that of so many draws
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

    def plot(self, ax: Axes | None = None, *, confidence: float = CONFIDENCE) -> Axes:
        """Accuracy by position under the true prefix, greedy and sampled, with bands that hold at each h by itself.

        Where the first stays up and the others fall, errors add up; where the first falls, something is not learnt.

        Args:
            ax: matplotlib's Axes to draw on; those of a new figure by default.
            confidence: level of the bands.

        Returns:
            The Axes.

        Raises:
            TypeError: ``ax`` is something else.

        >>> from matplotlib.figure import Figure
        >>> from ntp_envs import UniformPolicy, make_task
        >>> found = evaluate(UniformPolicy(2), make_task("Contamination"), n=50, rng=np.random.default_rng(0))
        >>> [text.get_text() for text in found.plot(Figure().subplots()).get_legend().get_texts()]
        ['true prefix', 'own prefix, greedy', 'own prefix, sampled']
        """
        ax = axes_or_new(ax)
        lines = {"forced": "true prefix", "greedy": "own prefix, greedy", "sampled": "own prefix, sampled"}
        for (how, label), dashes in zip(lines.items(), ("-", "--", ":")):
            name = f"{how}_accuracy"
            ends = self.interval(name, confidence=confidence)
            draw_line(ax, getattr(self, name), *ends, band=True, label=label, linestyle=dashes)
        words = f"{100.0 * confidence:.12g} % at each h, n = {self.n}"
        name_axes(ax, "share of tokens that are right", words)
        ax.set_ylim(0.0, 1.05)
        return ax

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


# Evaluation of a policy on a task: forced, greedy and sampled, one pass each.


def evaluate(
    policy: Policy,
    task: Task,
    *,
    n: int = 1000,
    rng: np.random.Generator,
    demonstrations: Demonstrations | None = None,
    samples: int = 4,
    backtrack: int | None = None,
) -> Evaluation:
    """Accuracy, exact match, cross-entropy and success of a policy, with the true prefix and on its own.

    Args:
        policy: over the task's vocabulary.
        task: gives the prompts, the demonstrations by default, ``success`` and ``decode``.
        n: demonstrations to collect from the task's expert; not read where ``demonstrations`` are given.
        rng: source of all randomness.
        demonstrations: true sequences, all of which are used. Weights are kept: every measure is a weighted mean.
        samples: how many prompts to show with their answers, the first ones.
        backtrack: also write with the task's verifier at hand, going back so many tokens where it says no
            (`ntp_envs.evaluation.backtracking_search`).

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: vocabulary, horizon or prompt length of policy, task and demonstrations do not match; or the
            demonstrations are a population of representatives instead of the complete law.
        NotTractableError: ``backtrack`` without a verifier.
        TypeError: something else than a policy or a generator.

    >>> from ntp_envs import UniformPolicy, make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> round(evaluate(UniformPolicy(2), task, n=50, rng=np.random.default_rng(0)).bits_per_token, 6)
    1.0
    """
    check_kind("task", task, Task)
    check_generator(rng)
    check_int("samples", samples, minimum=0)
    demos = collect(task, n, rng) if demonstrations is None else demonstrations
    policy = check_policy("policy", policy, task)
    _check_shapes(task, demos)
    if demos.exactness is not None and not demos.exactness.everything:
        raise ValueError(
            f"the demonstrations are representatives, {demos.exactness.describe()}; what is measured here depends on "
            "every token of every sequence. Use collect(task, n, rng), or leave demonstrations out."
        )
    weights = np.ones(len(demos)) if demos.weights is None else demos.weights
    parts: dict[str, list[_Part]] = {}
    shown: tuple[IntArray, ...] = ()
    range_ = np.full(demos.horizon, np.inf), np.zeros(demos.horizon)
    for rows in row_blocks(len(demos), demos.horizon):
        measured, texts, costs = _measured(policy, task, *demos.block(rows), rng=rng, backtrack=backtrack)
        range_ = np.minimum(range_[0], costs[0]), np.maximum(range_[1], costs[1])
        shown = shown or texts
        for name, values in measured.items():
            parts.setdefault(name, []).extend(_part(values, weights[rows]))
    found = {name: _mean(of) for name, of in parts.items()}
    fields: dict[str, Any] = {name: mean for name, (mean, _) in found.items() if name not in _PROPERTIES}
    return Evaluation(
        task=task.name,
        n=len(demos),
        **{"greedy_success": None, "sampled_success": None, **fields},
        std_errors={name: error for name, (_, error) in found.items() if name != "unknown_share"},
        samples=tuple(
            SampleText(*(task.decode(row) for row in rows)) for rows in zip(*(array[:samples] for array in shown))
        ),
        effective_n=_worth(weights),
        cross_entropy_range=range_,
        error_n=_worth((weights / weights.max()) ** 2),
    )


#: measured for their standard errors; an `Evaluation` computes the values from those by position
_PROPERTIES = (
    "forced_token_accuracy",
    "greedy_token_accuracy",
    "sampled_token_accuracy",
    "mean_cross_entropy",
)


def _measured(
    policy: Policy, task: Task, prompts: IntArray, target: IntArray, *, rng: np.random.Generator, backtrack: int | None
) -> tuple[dict[str, FloatArray], tuple[IntArray, ...], tuple[FloatArray, FloatArray]]:
    """Every measure, a row a demonstration; prompts, demonstrations and what was written; and the range of costs."""
    best, log_probs, costs = _forced(policy, prompts, target)
    greedy = GreedyPolicy(policy).sample(prompts, task.horizon, rng)
    sampled = policy.sample(prompts, task.horizon, rng)
    measured: dict[str, FloatArray] = {}
    for name, tokens in (("forced", best), ("greedy", greedy), ("sampled", sampled)):
        right = (tokens == target).astype(np.float64)
        measured[f"{name}_accuracy"] = right
        measured[f"{name}_token_accuracy"] = right.mean(axis=1)
        measured[f"{name}_exact"] = right.min(axis=1)
    if task.has_success:
        measured["greedy_success"] = task.success(prompts, greedy)
        measured["sampled_success"] = task.success(prompts, sampled)
    if backtrack is not None:
        search = backtracking_search(policy, task, prompts, rng=rng, depth=backtrack)
        measured["backtracking_accepted"] = search.accepted.astype(np.float64)
        measured["backtracking_cost"] = search.drawn / task.horizon
    measured["impossible"] = np.isneginf(log_probs).astype(np.float64)
    measured["sequence_probability"] = np.exp(log_probs.sum(axis=1))
    measured["cross_entropy"] = 0.0 - log_probs
    measured["mean_cross_entropy"] = measured["cross_entropy"].mean(axis=1)
    measured["unknown_share"] = (target == task.unknown_token).mean(axis=1)
    return measured, (prompts, target, greedy, sampled), costs


def _check_shapes(task: Task, demos: Demonstrations) -> None:
    if not isinstance(demos, Demonstrations):
        raise TypeError(f"demonstrations must be ntp_envs.Demonstrations, not {type(demos).__name__}.")
    for name, (theirs, mine) in misfits(demos, task).items():
        raise ValueError(
            f"the demonstrations have {name}={theirs} and {task.name} has {name}={mine}; "
            "use demonstrations of this task: collect(task, n, rng)."
        )


def _forced(
    policy: Policy, prompts: IntArray, tokens: IntArray
) -> tuple[IntArray, FloatArray, tuple[FloatArray, FloatArray]]:
    """The most probable token after each true prefix and the log-probability of the true token, both ``(n, H)``; and
    the least and the most that any token would cost after any of these prefixes, in nats, ``(H,)`` each."""
    best, log_probs = np.empty_like(tokens), np.empty(tokens.shape)
    low, high = np.zeros(tokens.shape[1]), np.full(tokens.shape[1], -np.inf)  # log-probabilities
    for rows, h, law in policy.each_forced_law(prompts, tokens):
        best[rows, h], log_probs[rows, h] = first_best(law), law[np.arange(len(law)), tokens[rows, h]]
        low[h], high[h] = np.minimum(low[h], law.min()), np.maximum(high[h], law.max())
    if np.isnan(log_probs).any():
        raise ValueError("policy returned NaN for the log-probability of a demonstrated token.")
    high = np.minimum(high, 0.0)  # rounding may leave a log-probability at +1e-16
    return best, np.minimum(log_probs, 0.0), (0.0 - high, 0.0 - low)


def _worth(weights: FloatArray) -> float:
    """How many equal weights have the same sum of squares, as a share of their sum."""
    shares = weights / weights.max()
    return float(shares.sum() ** 2 / (shares @ shares))


class _Part(NamedTuple):
    """What `_mean` needs to know of some rows of a measure."""

    total: Any  # of the weights
    sum: Any  # of the weighted values
    least: Any
    most: Any
    mean: Any
    squares: Any  # of the weights
    spread: Any  # sums of the deviations from the mean, and of their squares, with squared weights
    spread2: Any


def _part(values: FloatArray, weights: FloatArray) -> list[_Part]:
    """Of the rows with a weight, if there are any."""
    used = weights > 0  # no 0 * inf
    if not used.any():
        return []
    values, weights = values[used], weights[used]
    total, summed, least, most = weights.sum(), weights @ values, values.min(axis=0), values.max(axis=0)
    mean, squared = np.clip(summed / total, least, most), weights**2
    with np.errstate(invalid="ignore"):
        off = values - mean
        return [_Part(total, summed, least, most, mean, squared.sum(), squared @ off, squared @ off**2)]


def _mean(parts: list[_Part]) -> tuple[Any, Any]:
    """Weighted mean over the rows and its standard error, for independent rows; infinite values make both infinite.

    For weights that count copies (`Demonstrations.pooled`) the standard error is an upper bound: copies are taken to
    be one draw.
    """
    total = sum(part.total for part in parts)
    # a mean lies between its values, whatever the rounding; for equal weights a share is exact
    least, most = np.min([part.least for part in parts], axis=0), np.max([part.most for part in parts], axis=0)
    mean = np.clip(sum(part.sum for part in parts) / total, least, most)
    squares: Any = 0.0
    with np.errstate(invalid="ignore"):
        for part in parts:
            off = part.mean - mean
            squares = squares + part.spread2 + off * (2.0 * part.spread + off * part.squares)
        error = np.sqrt(np.maximum(squares, 0.0)) / total
    error = np.where(np.isfinite(mean), error, np.inf)
    return (mean, error) if np.ndim(mean) else (float(mean), float(error))


# Writing with a verifier at hand: backtracking token by token, and whole answers drawn again until one passes.


DECODINGS = ("sampled", "greedy")
#: default budget of a backtracking search, in tokens a token of the answer
DEFAULT_BUDGET = 20


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search wrote for each of B prompts, and what it cost.

    Attributes:
        tokens: ``(B, H)`` int64; -1 where nothing that the verifier lets pass was written (see ``length``).
        accepted: ``(B,)`` whether the whole answer passed the verifier.
        length: ``(B,)`` number of tokens written; H where accepted.
        drawn: ``(B,)`` tokens drawn from the policy, those that were thrown away included: the cost.
        rejected: ``(B,)`` how often the verifier said no.
        restarts: ``(B,)`` how often the search went back to the bare prompt.
    """

    tokens: IntArray
    accepted: BoolArray
    length: IntArray
    drawn: IntArray
    rejected: IntArray
    restarts: IntArray

    def share_within(self, budget: float = np.inf) -> float:
        """Share of prompts answered and accepted with at most ``budget`` drawn tokens: the curve of the search."""
        return float((self.accepted & (self.drawn <= budget)).mean())

    def interval(self, budget: float = np.inf, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval of `share_within` (`ntp_envs.distances.score_interval`)."""
        share, n = self.share_within(budget), len(self.accepted)
        lower, upper = score_interval(share, np.sqrt(share * (1.0 - share) / n), n, confidence=confidence)
        return float(lower), float(upper)

    def __repr__(self) -> str:
        return (
            f"SearchResult({len(self.tokens)} prompts, accepted={self.share_within():.4g}, "
            f"mean tokens drawn={self.drawn.mean():.4g}, H={self.tokens.shape[1]})"
        )


def backtracking_search(
    policy: Policy,
    task: Task,
    prompts: ArrayLike,
    *,
    rng: np.random.Generator,
    depth: int | None = 1,
    budget: int | None = None,
    decoding: str = "sampled",
) -> SearchResult:
    """Write token by token and ask ``task.verify`` after each one; where it says no, go back and draw again.

    * ``depth=k``: a rejected token is taken back with the k - 1 tokens before it, and drawn anew from the policy's own
      law. ``depth=1`` draws from the policy conditioned on passing the verifier, one token at a time; with an
      independent error eps a token that costs H / (1 - eps) tokens. ``depth=H`` starts again. A search that never
      looks farther back than k tokens cannot take back an early choice that only the end shows to be wrong.
    * ``depth=None``: depth-first search. A token rejected at a prefix is not tried there again, and a prefix after
      which nothing is left is itself rejected, one token back. Every sequence of positive probability is reached with
      enough budget: this is exhaustive, and costs accordingly.

    A verifier knows rules, not plans. It repairs what goes wrong in the writing; where the policy's law of an early
    token says nothing of the right choice, only exhaustive search finds the answer, and the policy is no guide to it
    (the distinction of Bachmann and Nagarajan 2024, arXiv:2403.06963, between failures of inference and of learning).

    Args:
        policy: what is asked for tokens; its law is asked for once a prefix, however many draws are made there.
        task: its `ntp_envs.Task.verify` is the verifier, ``has_verifier`` must hold.
        prompts: ``(B, P)`` tokens.
        rng: source of all randomness.
        depth: how many tokens a rejection takes back, at least 1, or ``None`` for depth-first search; it then keeps
            a table of B * H * A rejected tokens.
        budget: tokens to draw a prompt, at least H; 20 H by default.
        decoding: ``"sampled"``, or ``"greedy"`` (the most probable token not yet rejected), which needs ``depth=None``:
            it would only repeat itself.

    Returns:
        A `SearchResult`. Rows that ran out of budget (or of tokens, with ``depth=None``) keep the prefix that passed.

    Raises:
        NotTractableError: the task has no verifier.
        ValueError: prompts, depth, budget or decoding out of range, or a policy that does not fit the task.

    >>> from ntp_envs import make_task
    >>> task = make_task("Snowball", horizon=30, eps=0.1)
    >>> rng = np.random.default_rng(0)
    >>> found = backtracking_search(task.sloppy_copier(), task, task.sample_prompts(50, rng), rng=rng)
    >>> found.share_within(), bool(found.drawn.mean() < 1.2 * 30)
    (1.0, True)
    """
    policy, prompts = _checked(policy, task, prompts, rng)
    _check_verifier(task)
    horizon = task.horizon
    if depth is not None:
        check_int("depth", depth, minimum=1)
    budget = DEFAULT_BUDGET * horizon if budget is None else check_int("budget", budget, minimum=horizon)
    check_in("decoding", decoding, DECODINGS)
    if decoding == "greedy" and depth is not None:
        raise ValueError(f"decoding='greedy' with depth={depth} draws the same token again; use depth=None.")
    return _Search(policy, task, prompts, rng, depth, budget, greedy=decoding == "greedy").run()


class _Search:
    """The state of a batch. All rows at the shortest prefix are served at once, so that laggards catch up."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        prompts: IntArray,
        rng: np.random.Generator,
        depth: int | None,
        budget: int,
        *,
        greedy: bool,
    ) -> None:
        n, horizon = len(prompts), task.horizon
        self.policy, self.task, self.prompts, self.rng = policy, task, prompts, rng
        self.depth, self.budget, self.greedy = depth, budget, greedy
        self.tokens = np.full((n, horizon), -1, dtype=np.int64)
        self.length, self.drawn, self.rejected, self.restarts = (np.zeros(n, dtype=np.int64) for _ in range(4))
        self.active = np.ones(n, dtype=bool)
        self.law = np.empty((n, policy.vocab_size))  # after the present prefix, where known
        self.known = np.zeros(n, dtype=bool)
        shape = (n, horizon, policy.vocab_size) if depth is None else (0, 0, 0)
        self.tried = np.zeros(shape, dtype=bool)  # rejected at each prefix of the present one

    def run(self) -> SearchResult:
        while self.active.any():
            step = int(self.length[self.active].min())
            self._serve(np.flatnonzero(self.active & (self.length == step)), step)
        self.tokens[np.arange(self.tokens.shape[1]) >= self.length[:, None]] = -1
        accepted = self.length == self.tokens.shape[1]
        return SearchResult(self.tokens, accepted, self.length, self.drawn, self.rejected, self.restarts)

    def _serve(self, rows: IntArray, step: int) -> None:
        """One draw for each of these rows, which all have ``step`` tokens."""
        log_probs = self._laws(rows, step)
        if self.depth is None:
            possible = np.isfinite(log_probs).any(axis=1)
            self._give_up(rows[~possible], step)
            rows, log_probs = rows[possible], log_probs[possible]
        if not len(rows):
            return
        self.tokens[rows, step] = first_best(log_probs) if self.greedy else sample_categorical(log_probs, self.rng)
        self.drawn[rows] += 1
        passed = np.asarray(self.task.verify(self.prompts[rows], self.tokens[rows, : step + 1]))
        self._move(rows[passed], step + 1)
        self._reject(rows[~passed], step)
        self.active[rows] = (self.length[rows] < self.task.horizon) & (self.drawn[rows] < self.budget)

    def _laws(self, rows: IntArray, step: int) -> FloatArray:
        """The next-token law without what was tried, its largest log-probability 0; ``-inf`` where nothing is left."""
        new = rows[~self.known[rows]]
        if len(new):
            self.law[new] = self.policy.next_log_probs(self.prompts[new], self.tokens[new, :step])
            self.known[new] = True
        log_probs = self.law[rows]
        if self.depth is None:
            log_probs[self.tried[rows, step]] = -np.inf
        top = log_probs.max(axis=1, keepdims=True)
        return log_probs - np.where(np.isfinite(top), top, 0.0)

    def _move(self, rows: IntArray, length: int) -> None:
        self.length[rows] = length
        self.known[rows] = False

    def _reject(self, rows: IntArray, step: int) -> None:
        self.rejected[rows] += 1
        if self.depth is None:
            self.tried[rows, step, self.tokens[rows, step]] = True
        elif self.depth > 1 and step > 0:
            back = max(step - self.depth + 1, 0)
            self._move(rows, back)
            self.restarts[rows] += back == 0

    def _give_up(self, rows: IntArray, step: int) -> None:
        """Nothing is left to try after these prefixes: the last token of each is rejected."""
        if step == 0:
            self.active[rows] = False
            return
        self.tried[rows, step] = False
        self.tried[rows, step - 1, self.tokens[rows, step - 1]] = True
        self._move(rows, step - 1)
        self.restarts[rows] += step == 1


#: of the prompts and of as many prefixes: how good what may come of them is, at least 0
Value = Callable[[IntArray, IntArray], Any]


def backtracking_walk(
    policy: Policy,
    task: Task,
    prompts: ArrayLike,
    *,
    rng: np.random.Generator,
    value: Value | None = None,
    visits: int = 1,
    budget: int | None = None,
) -> SearchResult:
    """A random walk on the tree of prefixes, which goes on by a token or back by one; values of prefixes guide it.

    From a prefix y it goes back with weight V(y), and on to y a with weight pi(a | y) V(y a); it ends at visit number
    ``visits`` to a whole answer. Our reading of Rohatgi et al. (2025, arXiv:2510.03149), who generalise the walk of
    Sinclair and Jerrum (1989); that the visits end it, not a number of steps, is ours. What it draws from:

    * Whatever the values of prefixes are: the walk is reversible, with pi(y) V(y) the weight of the edge that leads to
      y, and a whole answer has that edge only. So its visits to whole answers are a chain that is reversible under
      **the law pi(y) V(y) / Z of whole answers**, and the later visits come as near to that as one likes: wrong values
      of prefixes cost time, not fidelity.
    * If V(y) is the mean of V over what pi makes of y, the first visit has that law exactly, after ``H**2`` steps on
      average, ``H (H + 1) / 2`` of them tokens drawn: which length the walk is at is then a fair walk on 0, ..., H, and
      tells nothing of which tokens stand there.

    Token by token (`backtracking_search` with ``depth=1``) a verifier samples from another law, in which an error of V
    at every token adds up.

    Args:
        policy: pi; its law is asked for once a visit to a prefix from before.
        task: gives prompts and length, and its verifier is the value by default.
        prompts: ``(B, P)`` tokens.
        rng: source of all randomness.
        value: function of ``(m, P)`` prompts and ``(m, t)`` tokens, t = 1, ..., H, that gives ``(m,)`` values, finite
            and at least 0. It is asked for every possible next token of each prefix. ``None``: 1 where ``task.verify``
            passes, so that the law is the policy's own given that the answer passes.
        visits: to whole answers, at least 1.
        budget: tokens to draw a prompt, at least H; by default 20 H**2 for each visit.

    Returns:
        A `SearchResult`: ``rejected`` counts the tokens taken back, ``restarts`` the returns to the empty answer. Rows
        that ran out of budget, or have no token of positive value to begin with, keep the prefix they stand at; those
        that would have taken long are then missing among the accepted ones.

    Memory: two tables of ``B H A`` numbers.

    Raises:
        NotTractableError: no ``value``, and the task has no verifier.
        ValueError: prompts, visits or budget out of range, a policy that does not fit the task, or values that are
            negative, not finite or not one a row.

    >>> from ntp_envs import make_task
    >>> task = make_task("Snowball", horizon=10, eps=0.1)
    >>> rng = np.random.default_rng(0)
    >>> found = backtracking_walk(task.sloppy_copier(), task, task.sample_prompts(50, rng), rng=rng)
    >>> found.share_within(), bool(found.drawn.mean() > 10)
    (1.0, True)
    """
    policy, prompts = _checked(policy, task, prompts, rng)
    if value is None:
        _check_verifier(task)
        value = task.verify
    elif not callable(value):
        raise TypeError(f"value={value!r} must be a function of (prompts, tokens), or None.")
    visits, horizon = check_int("visits", visits, minimum=1), task.horizon
    least = DEFAULT_BUDGET * horizon**2 * visits
    budget = least if budget is None else check_int("budget", budget, minimum=horizon)
    return _Walk(policy, prompts, horizon, value, rng, visits, budget).run()


class _Walk:
    """The state of a batch of walks. All rows move at once but those at new prefixes, which wait for others there."""

    def __init__(
        self, policy: Policy, prompts: IntArray, horizon: int, value: Value, rng: np.random.Generator, visits: int,
        budget: int,
    ) -> None:  # fmt: skip
        n = len(prompts)
        self.policy, self.prompts, self.horizon, self.value = policy, prompts, horizon, value
        self.rng, self.budget = rng, budget
        self.tokens = np.full((n, horizon), -1, dtype=np.int64)
        self.length, self.drawn, self.rejected, self.restarts = (np.zeros(n, dtype=np.int64) for _ in range(4))
        self.left = np.full(n, visits)
        self.active = np.ones(n, dtype=bool)
        self.known = np.zeros(n, dtype=bool)  # whether the next two hold for the present prefix; they do for shorter
        self.laws, self.values = (np.zeros((n, horizon, policy.vocab_size)) for _ in range(2))
        self.own = np.zeros((n, horizon + 1))  # V of each prefix of the present one; 0 for the empty one: no way back

    def run(self) -> SearchResult:
        while self.active.any():
            new = np.flatnonzero(self.active & ~self.known & (self.length < self.horizon))
            if len(new):
                step = int(np.bincount(self.length[new]).argmax())
                self._look(new[self.length[new] == step], step)
            whole = np.flatnonzero(self.active & (self.length == self.horizon))
            self._move(np.flatnonzero(self.active & self.known))
            self._back(whole)
        self.tokens[np.arange(self.horizon) >= self.length[:, None]] = -1
        return SearchResult(self.tokens, self.left == 0, self.length, self.drawn, self.rejected, self.restarts)

    def _move(self, rows: IntArray) -> None:
        """One step of each of these rows, the law and values after whose prefixes are known."""
        if not len(rows):
            return
        at = self.length[rows]
        weights = np.column_stack([self.own[rows, at], self.laws[rows, at] * self.values[rows, at]])  # (m, 1 + A)
        stuck = weights.sum(axis=1) == 0.0
        self.active[rows[stuck]] = False
        rows, weights = rows[~stuck], weights[~stuck]
        with np.errstate(divide="ignore"):
            to = sample_categorical(np.log(weights / weights.sum(axis=1, keepdims=True)), self.rng)
        self._back(rows[to == 0])
        self._on(rows[to > 0], to[to > 0] - 1)

    def _look(self, rows: IntArray, step: int) -> None:
        """The law after these prefixes of ``step`` tokens, and the values of all possible next ones."""
        law = np.exp(self.policy.next_log_probs(self.prompts[rows], self.tokens[rows, :step]))
        at, token = np.nonzero(law)
        prefixes = np.column_stack([self.tokens[rows[at], :step], token])
        found = np.asarray(self.value(self.prompts[rows[at]], prefixes), dtype=np.float64)
        if found.shape != at.shape or not np.isfinite(found).all() or (found < 0.0).any():
            raise ValueError(
                f"value must give one finite number of at least 0 for each of {len(at)} prefixes, not {found!r}."
            )
        self.laws[rows, step], self.values[rows, step] = law, 0.0
        self.values[rows[at], step, token] = found
        self.known[rows] = True

    def _on(self, rows: IntArray, tokens: IntArray) -> None:
        at = self.length[rows]
        self.tokens[rows, at] = tokens
        self.own[rows, at + 1] = self.values[rows, at, tokens]
        self.length[rows] = at + 1
        self.known[rows] = False
        self.drawn[rows] += 1
        self.left[rows] -= at + 1 == self.horizon
        self.active[rows] = (self.left[rows] > 0) & (self.drawn[rows] < self.budget)

    def _back(self, rows: IntArray) -> None:
        self.length[rows] -= 1
        self.known[rows] = True
        self.rejected[rows] += 1
        self.restarts[rows] += self.length[rows] == 0


def best_of(policy: Policy, task: Task, prompts: ArrayLike, k: int, *, rng: np.random.Generator) -> SearchResult:
    """Up to k independent complete samples a prompt, until one passes the verdict on the whole answer.

    The verdict is ``task.verify`` at the full length, or full success (1) where a task has no verifier. An answer
    that is right with probability p is found with probability ``1 - (1 - p)**k``, at ``H (1 - (1 - p)**k) / p``
    tokens on average.

    Args:
        policy: what is sampled.
        task: gives the verdict.
        prompts: ``(B, P)`` tokens.
        k: samples a prompt at most, at least 1.
        rng: source of all randomness.

    Returns:
        A `SearchResult`: the first sample that passed, or the last one. `SearchResult.share_within` (j H) is the share
        that j samples would have found, for every j up to k.

    Raises:
        NotTractableError: the task has neither a verifier nor a success.
        ValueError: prompts or k out of range, or a policy that does not fit the task.

    >>> from ntp_envs import make_task
    >>> task = make_task("Snowball", horizon=10, eps=0.1)
    >>> rng = np.random.default_rng(0)
    >>> found = best_of(task.sloppy_copier(), task, task.sample_prompts(400, rng), 5, rng=rng)
    >>> bool(abs(found.share_within() - (1 - (1 - 0.9**10) ** 5)) < 0.1)
    True
    """
    policy, prompts = _checked(policy, task, prompts, rng)
    check_int("k", k, minimum=1)
    verdict = _verdict(task)
    n, horizon = len(prompts), task.horizon
    tokens = np.full((n, horizon), -1, dtype=np.int64)
    accepted = np.zeros(n, dtype=bool)
    samples = np.zeros(n, dtype=np.int64)
    for _ in range(k):
        rows = np.flatnonzero(~accepted)
        if not len(rows):
            break
        tokens[rows] = policy.sample(prompts[rows], horizon, rng)
        samples[rows] += 1
        accepted[rows] = verdict(prompts[rows], tokens[rows])
    return SearchResult(
        tokens, accepted, np.full(n, horizon), samples * horizon, samples - accepted, np.maximum(samples - 1, 0)
    )


def _check_verifier(task: Task) -> None:
    if not task.has_verifier:
        raise NotTractableError(
            f"{task.name} has no verifier to backtrack with."
            + (" best_of needs its success only." if task.has_success else " It has no success either.")
        )


def _verdict(task: Task) -> Callable[[IntArray, IntArray], BoolArray]:
    if task.has_verifier:
        return lambda prompts, tokens: np.asarray(task.verify(prompts, tokens))
    if task.has_success:
        return lambda prompts, tokens: np.asarray(task.success(prompts, tokens)) >= 1.0
    raise NotTractableError(f"{task.name} has neither a verifier nor a success, so no answer can be chosen.")


def _checked(policy: Policy, task: Task, prompts: ArrayLike, rng: np.random.Generator) -> tuple[Policy, IntArray]:
    check_kind("task", task, Task)
    check_generator(rng)
    policy = check_policy("policy", policy, task)
    checked = check_tokens("prompts", prompts, task.vocab_size, width=task.prompt_length)
    if not len(checked):
        raise ValueError("there are no prompts (0 rows); at least one is needed.")
    return policy, checked
