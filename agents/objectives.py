"""Objectives from the neighbouring literature: other things than log-loss that demonstrations can be fitted by.

Bounded losses of tokens or chunks share one descent (`minimise_bounded`): `TaiLrBC`, which but for its limit *is*
smoothed log-loss, `ClippedRatioBC` and `JSDPlusTVBC`. `TotalVariationBC` compares the members of a finite class on
sets instead.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, singledispatch
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import COUNT, NOT_NEGATIVE, SHARE, Agent, Checks, ConvergenceWarning, FitReport
from agents.fit_class import RegisteredClasses, fit_class, fit_parametric, minimise_parametric
from agents.interactive import with_details
from agents.linear_rows import check_dimension
from agents.targets import Targets
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    NGramClass,
    NotTractableError,
    ParametricClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.arrays import ROUNDING, TIE, FloatArray, IntArray, all_sequences, first_best
from ntp_envs.checks import check_in, check_positive, optional
from ntp_envs.ngram import NGramLevel

# -- Bounded losses of demonstrated tokens, minimised by maximum likelihood with weights that follow the loss ---------
#
# The slopes of a loss that falls in the log-likelihoods, used as weights, make a weighted log-likelihood with the same
# gradient. Each step fits that (`agents.fit_class.fit_class` does it for every class) and goes towards the fit as far
# as the loss falls. A loss with kinks is approached through smooth ones.


MAX_ITERATIONS = 500
GRID = 65


class BoundedLoss(ABC):
    """A loss of teacher-forced log-probabilities, token by token or chunk by chunk.

    Attributes:
        by_token: entry h of the loss depends on token h alone.
    """

    by_token: bool

    @abstractmethod
    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        """``(n, H)`` losses from ``(n, H)`` log-probabilities (``(n, 1)`` if ``rows`` picks one position); they sum to
        the loss of a sequence."""

    def stages(self) -> Sequence[BoundedLoss]:
        """Losses to descend one after the other, ever closer to this one, which comes last; smooth losses need none."""
        return (self,)

    @abstractmethod
    def slopes(self, log_probs: FloatArray) -> FloatArray:
        """``(n, H)`` minus the derivatives of a sequence's loss in the log-probabilities of its tokens, >= 0."""


@singledispatch
def minimise_bounded(
    policy_class: PolicyClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    """The member of a class with the least mean loss of a sequence.

    Finite classes, and product classes if the loss is by token: exact, ties to the smallest index (``gap`` 0). Other
    classes: a point from which a step towards the reweighted fit no longer lowers the loss by ``tol`` (``gap`` ``nan``;
    of a smooth loss a stationary point, of one with kinks near a local minimum), reached from the maximum likelihood
    or, in the Bernoulli class, from the best point of a grid. `ntp_envs.NotTractableError` in autoregressive linear
    classes of more than 8192 weights.
    """
    raise TypeError(
        f"{type(policy_class).__name__} is not known here; write a function for it and register it with "
        "agents.objectives.minimise_bounded.register."
    )


@minimise_bounded.register
def _finite(
    policy_class: FiniteClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    values = [_value(loss, policy, demonstrations) for policy in policy_class.readers()]
    best = _least(values)
    return policy_class.policy(best), FitReport(values[best], gap=0.0)


@minimise_bounded.register
def _product(
    policy_class: ProductClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    if not loss.by_token:
        raise NotTractableError(
            "in a product class the loss of longer chunks does not separate by layers; use chunk=1."
        )
    weights, total = demonstrations.normalised_weights(), 0.0
    options = np.zeros(len(policy_class.n_options), dtype=np.int64)
    for h in range(demonstrations.horizon):
        log_probs = policy_class.option_log_probs(h, demonstrations.prompts, demonstrations.tokens)  # (n, options)
        position = slice(h, h + 1)
        values = [float(weights @ loss.losses(column[:, None], position)[:, 0]) for column in log_probs.T]
        options[h] = _least(values)
        total += values[options[h]]
    return policy_class.policy(options), FitReport(total, gap=0.0)


def _least(values: Sequence[float]) -> int:
    """The first of the smallest, rounding apart."""
    losses = np.array(values)
    return int(first_best(-losses, slack=ROUNDING * np.abs(losses).max()))


def _value(loss: BoundedLoss, policy: Policy, demonstrations: Demonstrations) -> float:
    log_probs = policy.log_probs(demonstrations.prompts, demonstrations.tokens)
    return float(demonstrations.normalised_weights() @ loss.losses(log_probs).sum(axis=1))


# -- classes with continuous parameters --------------------------------------------------------------------------------


@minimise_bounded.register(MarkovClass)
@minimise_bounded.register(NGramClass)
def _from_likelihood(
    policy_class: PolicyClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    return _descend(policy_class, demonstrations, loss, fit_class(policy_class, demonstrations)[0], tol)


@minimise_bounded.register
def _bernoulli(
    policy_class: BernoulliClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    inside = BernoulliClass(
        max(policy_class.theta_min, 1e-9), min(policy_class.theta_max, 1 - 1e-9), on=policy_class.on
    )
    grid = [policy_class.policy(member.theta) for member in inside.grid(GRID)]  # type: ignore[attr-defined]
    starts = [*grid, fit_class(policy_class, demonstrations)[0]]
    start = starts[_least([_value(loss, policy, demonstrations) for policy in starts])]
    return _descend(policy_class, demonstrations, loss, start, tol)


@minimise_bounded.register
def _ar_linear(
    policy_class: ARLinearClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    check_dimension(policy_class.features, "a bounded loss, which takes tens to hundreds of likelihood fits,")
    return _from_likelihood(policy_class, demonstrations, loss, tol=tol)


def _between(policy_class: PolicyClass, one: Any, two: Any, share: float) -> Policy:
    """The member on the segment from one to another, in the parameters in which the class is convex.

    Of n-gram models it is a mixture after the contexts of full length; where ``two`` has no law of its own, what
    ``one`` backs off to. All fits to the same tokens number contexts alike.
    """
    if isinstance(policy_class, MarkovClass):
        return policy_class.policy((1 - share) * np.exp(one.emissions(0)) + share * np.exp(two.emissions(0)))
    if isinstance(policy_class, NGramClass):
        top, other = one.levels[-1], two.levels[-1]
        own, keep = ((1 - share) * a + share * b for a, b in ((top.own, other.own), (top.keep, other.keep)))
        return policy_class.policy([*one.levels[:-1], NGramLevel(top.keys, own, keep)])
    theta = (1 - share) * one.theta + share * two.theta
    return policy_class.policy(policy_class.clip(theta) if isinstance(policy_class, BernoulliClass) else theta)


@minimise_bounded.register
def _parametric(
    policy_class: ParametricClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    """Projected gradient descent from the maximum likelihood, stage by stage but for a last one with kinks."""
    prompts, tokens, weights = demonstrations.prompts, demonstrations.tokens, demonstrations.normalised_weights()
    where = tokens[:, :, None]

    def chosen(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        laws = policy_class.laws(theta, prompts, tokens)
        return laws, np.take_along_axis(laws, where, axis=2)[:, :, 0]

    def mean(stage: BoundedLoss, log_probs: FloatArray) -> float:
        return float(weights @ stage.losses(log_probs).sum(axis=1))

    theta, report = fit_parametric(policy_class, Targets.of(demonstrations))
    ends, stages = [theta], loss.stages()
    for stage in stages[:-1] or stages:

        def value_and_gradient(theta: FloatArray, stage: BoundedLoss = stage) -> tuple[float, FloatArray]:
            laws, log_probs = chosen(theta)
            by_log_prob, slopes = np.zeros(laws.shape), -weights[:, None] * stage.slopes(log_probs)
            np.put_along_axis(by_log_prob, where, np.where(np.isneginf(log_probs), 0.0, slopes)[:, :, None], axis=2)
            return mean(stage, log_probs), policy_class.pull_back(theta, prompts, tokens, by_log_prob)

        starts = np.stack(ends[-1:])
        theta, report = minimise_parametric(value_and_gradient, policy_class, tol, name="the loss", starts=starts)
        ends.append(theta)
    values = [mean(loss, chosen(theta)[1]) for theta in ends]
    best = _least(values)
    return policy_class.policy(ends[best]), replace(report, objective=values[best])


def _descend(
    policy_class: PolicyClass,
    demonstrations: Demonstrations,
    loss: BoundedLoss,
    policy: Policy,
    tol: float,
) -> tuple[Policy, FitReport]:
    """Reweighted maximum likelihood from ``policy``, each step shortened until the loss falls.

    Classes are convex in the parameters that `_between` mixes, and log-likelihoods concave in them; so the fit lies in
    a direction of descent unless the point is stationary.
    """
    targets, iterations, gain = Targets.of(demonstrations), 0, 0.0
    best, least = policy, _value(loss, policy, demonstrations)
    for stage in loss.stages():
        value, gain = _value(stage, policy, demonstrations), np.inf
        for _ in range(MAX_ITERATIONS):
            slopes = stage.slopes(policy.log_probs(demonstrations.prompts, demonstrations.tokens))
            weights = targets.weights * slopes
            if gain <= tol or weights.sum() <= 0.0:  # flat: every unit has reached the end of its loss
                break
            iterations += 1
            candidate, _ = fit_class(policy_class, replace(targets, weights=weights), tol=min(tol, 1e-8))
            target, share, new_value = candidate, 1.0, _value(stage, candidate, demonstrations)
            while new_value >= value and share > 1e-8:
                share *= 0.5
                candidate = _between(policy_class, policy, target, share)
                new_value = _value(stage, candidate, demonstrations)
            gain = max(value - new_value, 0.0)
            if gain > 0.0:
                policy, value = candidate, new_value
        if (exact := _value(loss, policy, demonstrations)) < least:
            best, least = policy, exact
        policy = best
    converged = gain <= tol or not np.isfinite(gain)
    if not converged:
        warnings.warn(
            f"the loss still falls by {gain:.3g} a step after {iterations} reweighted fits (tol={tol:g}); raise tol.",
            ConvergenceWarning,
            stacklevel=3,
        )
    details = {"certificate": "none: a step towards the reweighted fit no longer lowers the loss by tol"}
    return best, FitReport(least, float("nan"), converged, iterations, details)


# -- TaiLr: log-loss in which tokens that the model finds unlikely weigh less, towards a token-wise total variation ---


def equivalent_smoothing(gamma: float, vocab_size: int) -> float:
    """The lambda with which `agents.SmoothedLogLossBC` minimises the same objective as TaiLr with gamma in [0, 1).

    >>> round(equivalent_smoothing(0.2, 2), 6)
    0.333333
    """
    return gamma * vocab_size / (1.0 - gamma + gamma * vocab_size)


class _OneMinusProbability(BoundedLoss):
    """``1 - pi(token)``: the total variation between the policy and a law that puts all mass on the token."""

    by_token = True

    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        return -np.expm1(log_probs)

    def slopes(self, log_probs: FloatArray) -> FloatArray:
        return np.exp(log_probs)


class TaiLrBC(Agent):
    """Token-wise total variation as estimated by TaiLr (Ji et al. 2023, arXiv:2302.13344).

    The paper minimises ``-sum_h w_h log pi(a_h)`` with weights ``w = pi(a) / (gamma + (1 - gamma) pi(a))`` through
    which no gradient passes. Its gradient, ``pi' / (gamma + (1 - gamma) pi)``, is that of an objective in closed form,

    ``sum_h -log(gamma + (1 - gamma) pi(a_h)) / (1 - gamma)``,

    which is what we minimise. Two limits follow. ``gamma=0`` is maximum likelihood. ``gamma=1`` is
    ``sum_h (1 - pi(a_h))`` (up to a constant), the total variation to the *one-hot* law of each demonstrated token: its
    minimiser puts all mass on the likeliest token of a context and so is not the expert even in an unrestricted class.
    (The total variation to the expert's own law, which needs its probabilities, is
    `ClippedRatioBC` with ``chunk=1, beta=1``.)

    In between, TaiLr *is* smoothed log-loss: ``gamma + (1 - gamma) pi`` is proportional to
    ``(1 - lambda) pi + lambda / A`` with ``lambda = gamma A / (1 - gamma + gamma A)`` (`equivalent_smoothing`), so the
    two have the same minimisers, and `agents.SmoothedLogLossBC`'s solvers, with what they certify, are used.

    ``objective`` of the report is the formula above, in nats a sequence; at ``gamma=1`` it is the expected number of
    tokens missed.

    Args:
        gamma: in [0, 1]; the paper uses 1e-7 to 0.1.
        tol: as in `agents.LogLossBC`.

    Raises:
        ValueError: on `fit`, gamma outside [0, 1].

    Warns:
        ConvergenceWarning: as the solver of the class does; at ``gamma=1`` autoregressive linear classes are fitted
            to a local minimum.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> [
    ...     round(TaiLrBC(gamma).fit(task.population(), task.policy_class).policy_.theta, 8) for gamma in (0.0, 0.01)
    ... ]
    [0.00100998, 1e-05]
    """

    supports = RegisteredClasses(minimise_bounded)  # type: ignore[assignment]

    allowed: ClassVar[Checks] = {"gamma": SHARE, "tol": NOT_NEGATIVE}

    def __init__(self, gamma: float = 0.01, *, tol: float = 1e-8) -> None:
        self.gamma = gamma
        self.tol = tol

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        gamma, tol = self.gamma, self.tol
        if gamma == 1.0:
            policy, report = minimise_bounded(policy_class, demonstrations.pooled(), _OneMinusProbability(), tol=tol)
            return policy, with_details(report, "expected number of tokens missed")
        lam = equivalent_smoothing(gamma, demonstrations.vocab_size)
        policy, report = fit_class(policy_class, demonstrations, smoothing=lam, tol=tol)
        with np.errstate(divide="ignore"):  # gamma = 0, and a token of probability zero
            losses = np.log1p(
                (gamma - 1.0) * -np.expm1(policy.log_probs(demonstrations.prompts, demonstrations.tokens))
            )
        report = FitReport(
            float(demonstrations.normalised_weights() @ -losses.sum(axis=1)) / (1.0 - gamma),
            report.gap / (1.0 - gamma),
            report.converged,
            report.iterations,
            report.details,
        )
        return policy, with_details(report, "TaiLr", lam=lam)


# -- Clipped likelihood ratio: what the learner gives less probability than the expert does, and nothing else ---------


SHARPNESS = (4.0, 16.0, 64.0, 256.0, 1024.0)


def known_expert(demonstrations: Demonstrations) -> FloatArray:
    """``(n, H)`` the expert's log-probabilities of the demonstrated tokens; ``ValueError`` where there are none."""
    if demonstrations.expert_log_probs is None:
        raise ValueError(
            "ratios to the expert need its log-probabilities of the demonstrated tokens, and the "
            "demonstrations have none; use collect(task, n, rng, expert_log_probs=True), or "
            "dataclasses.replace(demos, expert_log_probs=expert.log_probs(demos.prompts, demos.tokens))."
        )
    return demonstrations.expert_log_probs


class RatioLoss(BoundedLoss):
    """A function of the log-ratio, learner over expert, of each chunk of tokens given its prefix, summed over chunks.

    Args:
        demonstrations: with the expert's log-probabilities, log p.
        chunk: K; H is whole sequences.
        sharpness: s; wherever min(1, r) stands, it is replaced by ``(1 + r^-s)^(-1/s)``, which is smooth and tends to
            it as s grows.
    """

    def __init__(self, demonstrations: Demonstrations, chunk: int, sharpness: float = np.inf) -> None:
        self.demonstrations, self.chunk, self.sharpness = demonstrations, chunk, sharpness
        self.by_token = chunk == 1
        self.expert = known_expert(demonstrations)
        self.starts = [positions.start for positions in demonstrations.chunks(chunk)]
        self.lengths = np.diff([*self.starts, demonstrations.horizon])

    @abstractmethod
    def of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        """The loss of a chunk from its log-ratio, nats in any shape."""

    @abstractmethod
    def slopes_of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        """Minus its derivative, >= 0."""

    @abstractmethod
    def smoothed(self, sharpness: float) -> RatioLoss:
        """The same with another sharpness."""

    def stages(self) -> tuple[RatioLoss, ...]:
        return (*(self.smoothed(sharpness) for sharpness in SHARPNESS), self)

    def _log_ratios(
        self, log_probs: FloatArray, expert: FloatArray, starts: list[int]
    ) -> tuple[FloatArray, FloatArray]:
        """``(n, C)`` log(q/p) of the chunks, and 1 where it counts: a sequence that the expert excludes does not."""
        ours, theirs = (np.add.reduceat(array, starts, axis=1) for array in (log_probs, expert))
        seen = ~np.isneginf(theirs)
        return ours - np.where(seen, theirs, 0.0), seen.astype(np.float64)

    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        starts = [0] if log_probs.shape[1] == 1 else self.starts
        log_ratios, counted = self._log_ratios(log_probs, self.expert[:, rows], starts)
        return counted * self.of_ratios(log_ratios)

    def slopes(self, log_probs: FloatArray) -> FloatArray:
        log_ratios, counted = self._log_ratios(log_probs, self.expert, self.starts)
        return np.repeat(counted * self.slopes_of_ratios(log_ratios), self.lengths, axis=1)


def clipped(log_ratios: FloatArray, sharpness: float = np.inf) -> FloatArray:
    """``log min(1, r)`` from log r, or its smooth form."""
    if np.isinf(sharpness):
        return np.minimum(log_ratios, 0.0)
    return -np.logaddexp(0.0, -sharpness * log_ratios) / sharpness


def clipped_slope(log_ratios: FloatArray, sharpness: float = np.inf) -> FloatArray:
    """The derivative of ``min(1, r)`` in log r, or of its smooth form."""
    from scipy.special import expit

    below = log_ratios < 0.0 if np.isinf(sharpness) else expit(-sharpness * log_ratios)
    return np.exp(clipped(log_ratios, sharpness)) * below


class ClippedRatioLoss(RatioLoss):
    """``1 - min(1, (q/p)^beta)`` of each chunk of tokens given its prefix, summed over chunks.

    Args:
        beta: > 0.
        demonstrations, chunk, sharpness: as in `RatioLoss`, r being the ratio to the power beta.

    >>> demos = Demonstrations(np.zeros((1, 0), int), np.zeros((1, 2), int), 2, expert_log_probs=np.log([[0.8, 0.5]]))
    >>> ClippedRatioLoss(demos, 1.0, 1).losses(np.log([[0.2, 0.9]])).round(3).tolist()
    [[0.75, 0.0]]
    """

    def __init__(self, demonstrations: Demonstrations, beta: float, chunk: int, sharpness: float = np.inf) -> None:
        super().__init__(demonstrations, chunk, sharpness)
        self.beta = beta

    def of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        return 0.0 - np.expm1(clipped(self.beta * log_ratios, self.sharpness))

    def slopes_of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        return self.beta * clipped_slope(self.beta * log_ratios, self.sharpness)

    def smoothed(self, sharpness: float) -> ClippedRatioLoss:
        return ClippedRatioLoss(self.demonstrations, self.beta, self.chunk, sharpness)


class _RatioBC(Agent):
    """What the two learners of ratios share: chunks, and that they read the expert's probabilities."""

    supports = RegisteredClasses(minimise_bounded)  # type: ignore[assignment]
    reads_expert = True
    allowed: ClassVar[Checks] = {"chunk": optional(COUNT), "tol": NOT_NEGATIVE}

    chunk: int | None
    tol: float
    formula: ClassVar[str]

    @abstractmethod
    def _loss(self, data: Demonstrations, chunk: int) -> RatioLoss: ...

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return demonstrations.horizon if self.chunk is None else self.chunk

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        data = demonstrations.pooled()
        loss = self._loss(data, data.horizon if self.chunk is None else self.chunk)
        policy, report = minimise_bounded(policy_class, data, loss, tol=self.tol)
        return policy, with_details(report, f"{self.formula}, summed over chunks")


class ClippedRatioBC(_RatioBC):
    """``argmin_q E_p[1 - min(1, (q(o)/p(o))^beta)]`` over the policies q of a class, p being the expert.

    The expectation is over demonstrations, whose probabilities under the expert must be known
    (``collect(..., expert_log_probs=True)``). At ``beta=1`` and whole sequences the objective *is* the total variation
    distance, ``E_p[1 - min(1, q/p)] = sum (p - q)_+``. As beta falls to 0 the objective over beta tends to
    ``E_p[(log p/q)_+]``, the positive part of the KL divergence; as it grows, to ``P_p(q < p)``. A clipped ratio is
    bounded, so that a few demonstrations that no member explains cost a constant, which is what protects it from the
    misspecification that breaks log-loss: for ``beta <= 1`` it is between beta TV (small deviations: the slope at its
    kink, where q = p) and TV (sequences left out), so that the total variation of the minimiser is at most 1/beta times
    the least, and the tests attain that. The name and the family in beta are ours; clipping of likelihood ratios is
    as in the surrogate objective of PPO (Schulman et al. 2017, arXiv:1707.06347), the identity with total variation
    as in Devroye & Lugosi 2001 ("Combinatorial methods in density estimation", Scheffe's identity).

    Exact in finite classes, and in product classes with ``chunk=1``. Elsewhere the objective is not convex and has
    kinks; it is descended through smooth approximations from the maximum likelihood, without a certificate (``gap`` is
    ``nan``; see `agents.objectives.minimise_bounded`): ``converged`` says that a step no longer lowers the loss by
    ``tol``, which at a kink may be about 1e-3 above a local minimum. Where no gradient is left, because every
    demonstration has ratio 0 at the start, it stays there.

    Args:
        beta: > 0.
        chunk: the loss is summed over chunks of this many tokens given their prefix; ``None`` is whole sequences.
            ``chunk=1, beta=1`` is the token-wise total variation along the expert's prefixes.
        tol: in the loss, where it is minimised by iteration.

    Raises:
        ValueError: on `fit`, parameters out of range, demonstrations without ``expert_log_probs``, a population that
            is not exact for the expert's probabilities of such chunks.
        NotTractableError: on `fit`, a product class with another chunk than 1.

    >>> import numpy as np
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("RareMode", horizon=256)  # log-loss prefers policy 1, at 22.6 times the distance
    >>> demos = collect(task, 2000, np.random.default_rng(0), expert_log_probs=True)
    >>> agent = ClippedRatioBC().fit(demos, task.policy_class)
    >>> agent.fit_report_.details["index"]
    0
    """

    allowed: ClassVar[Checks] = {"beta": check_positive}
    formula = "E_p[1 - min(1, (q/p)^beta)]"

    def __init__(self, beta: float = 1.0, *, chunk: int | None = None, tol: float = 1e-9) -> None:
        self.beta = beta
        self.chunk = chunk
        self.tol = tol

    def _loss(self, data: Demonstrations, chunk: int) -> RatioLoss:
        return ClippedRatioLoss(data, self.beta, chunk)


# -- Jensen-Shannon divergence plus total variation: a kink where the laws agree, and a slope wherever they differ ----


class JSDPlusTVLoss(RatioLoss):
    """The summand of ``JSD(P, Q) + weight TV(P, Q)`` as a mean under P: of a chunk with ratio r = q/p,

    ``log 2 - (log(1 + r) + r log(1 + 1/r)) / 2 + weight (1 - min(1, r))``.

    The linear term ``(r - 1) log(2) / 2``, whose integral is 0, is taken out, so that nothing is missed where p is 0:
    the mean under P is the objective whatever the supports. Its slope in log r, ``r log(1 + 1/r) / 2`` but for the
    second part, stays below 1/2 + weight, and its second moment under P is finite.

    Args:
        weight: >= 0.
        demonstrations, chunk, sharpness: as in `RatioLoss`.

    >>> demos = Demonstrations(np.zeros((1, 0), int), np.zeros((1, 2), int), 2, expert_log_probs=np.log([[0.8, 0.5]]))
    >>> JSDPlusTVLoss(demos, 1.0, 1).losses(np.log([[1e-9, 0.5]])).round(3).tolist()  # 1 + log 2, and nothing
    [[1.693, 0.0]]
    """

    def __init__(self, demonstrations: Demonstrations, weight: float, chunk: int, sharpness: float = np.inf) -> None:
        super().__init__(demonstrations, chunk, sharpness)
        self.weight = weight

    def of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        jensen = math.log(2.0) - 0.5 * (np.logaddexp(0.0, log_ratios) + _ratio_term(log_ratios))
        return jensen - self.weight * np.expm1(clipped(log_ratios, self.sharpness))

    def slopes_of_ratios(self, log_ratios: FloatArray) -> FloatArray:
        return 0.5 * _ratio_term(log_ratios) + self.weight * clipped_slope(log_ratios, self.sharpness)

    def smoothed(self, sharpness: float) -> JSDPlusTVLoss:
        return JSDPlusTVLoss(self.demonstrations, self.weight, self.chunk, sharpness)


def _ratio_term(log_ratios: FloatArray) -> FloatArray:
    """``r log(1 + 1/r)`` from log r, from 0 (r = 0) to 1."""
    near = np.clip(log_ratios, -700.0, 40.0)
    return np.exp(near) * np.logaddexp(0.0, -near)


class JSDPlusTVBC(_RatioBC):
    """``argmin_q JSD(P, Q) + weight TV(P, Q)`` over the policies q of a class, P being the law of the expert.

    The Jensen-Shannon divergence in nats, ``KL(P, M) / 2 + KL(Q, M) / 2`` with ``M = (P + Q) / 2``, is smooth where the
    laws agree and has a slope wherever q differs from p, also where q > p; the total variation is flat there, but has a
    kink where q = p. The kink is what counts under misspecification: ``0 <= JSD <= log(2) TV``, so that the objective
    is between weight TV and (weight + log 2) TV, and the total variation of its minimiser is at most
    ``1 + log(2) / weight`` times the least in the class (our own statement; 1.6931 at weight 1, which the tests attain,
    against 1/beta of `ClippedRatioBC`). With ``weight=0`` there is no such constant.

    The mean is over demonstrations, whose probabilities under the expert must be known
    (``collect(..., expert_log_probs=True)``); see `agents.objectives.JSDPlusTVLoss` for what is averaged. On a sample
    it may be below 0, as a member that makes the demonstrations likelier than the expert does gains by that.

    How it is minimised, and what ``gap`` and ``converged`` say, is as for `ClippedRatioBC`.

    Args:
        weight: >= 0, of the total variation.
        chunk: the objective is summed over chunks of this many tokens given their prefix; ``None`` is whole sequences.
        tol: in the objective, where it is minimised by iteration.

    Raises:
        ValueError: on `fit`, as `ClippedRatioBC`.

    >>> import numpy as np
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("RareMode", horizon=256)  # log-loss prefers policy 1, at 22.6 times the distance
    >>> demos = collect(task, 2000, np.random.default_rng(0), expert_log_probs=True)
    >>> JSDPlusTVBC().fit(demos, task.policy_class).fit_report_.details["index"]
    0
    """

    allowed: ClassVar[Checks] = {"weight": NOT_NEGATIVE}
    formula = "JSD + weight TV"

    def __init__(self, weight: float = 1.0, *, chunk: int | None = None, tol: float = 1e-9) -> None:
        self.weight = weight
        self.chunk = chunk
        self.tol = tol

    def _loss(self, data: Demonstrations, chunk: int) -> RatioLoss:
        return JSDPlusTVLoss(data, self.weight, chunk)


# -- Total variation in finite classes: minimum distance and tournament over Scheffe sets -----------------------------


METHODS = ("minimum distance", "tournament")
MAX_POINTS = 1 << 14
MAX_COMPARISONS = 1 << 40
MAX_TOKENS = 1 << 34


class TotalVariationBC(Agent):
    """The member of a finite class that agrees best with the data on the sets where members disagree.

    For members f_j, f_k let ``A_jk = {o : f_j(o) > f_k(o)}`` (o a prompt with its whole sequence), on which they differ
    by their total variation (Scheffe), and mu the law of the demonstrations. Devroye & Lugosi 2001 ("Combinatorial
    methods in density estimation", chapter 6):

    * ``"minimum distance"`` (Yatracos 1985): ``argmin_i max_jk |f_i(A_jk) - mu(A_jk)|``. Whatever the
      expert P, ``TV(f_i, P) <= 3 min_j TV(f_j, P) + 2 Delta`` with ``Delta = max_jk |mu(A_jk) - P(A_jk)|``, by three
      triangle inequalities; Delta is of order ``sqrt(log(M) / n)``, and 0 for a population. M^3 probabilities.
    * ``"tournament"``: j beats k if ``f_j(A_jk)`` is nearer to ``mu(A_jk)`` than ``f_k(A_jk)`` is; most
      wins take it. Between two members the same factor 3 holds; among more the constant is larger (9). 2 M^2
      probabilities.

    The probabilities are under the demonstrations' prompts, exact by enumeration while there are at most 16384
    sequences of prompts and tokens, and otherwise means over ``samples`` sequences drawn from each member, on which all
    M members are evaluated, one drawer at a time. Ties (probabilities within 1e-12, log-densities within 1e-9 nats) go
    to the first member, and win nothing.

    ``objective`` of the report is the winner's largest discrepancy ``max_jk |f_i(A_jk) - mu(A_jk)|`` over the sets that
    the method compares it on, in [0, 1]. ``gap`` is 0 where exact; otherwise twice the radius within which all sampled
    probabilities are with probability 95 % (Hoeffding).

    Args:
        method: ``"minimum distance"`` or ``"tournament"``.
        samples: a member, where they are needed.
        memory_gb: refuse a fit that needs more.

    Raises:
        NotTractableError: on `fit`, more than ``memory_gb``, densities of more than 2**34 tokens (M^2 samples H;
            minutes), or more than 2**40 comparisons of two densities (M^3 samples, or M^2 by tournament).
        TypeError: on `fit`, a class that is not finite.
        ValueError: on `fit`, an unknown method, or ``samples`` below 1.

    >>> from ntp_envs import make_task
    >>> task = make_task("RareMode", horizon=8)
    >>> agent = TotalVariationBC().fit(task.population(), task.policy_class)
    >>> agent.fit_report_.details["index"], agent.fit_report_.details["probabilities"]
    (0, 'enumeration')
    """

    supports = (FiniteClass,)

    allowed: ClassVar[Checks] = {
        "method": partial(check_in, options=METHODS),
        "samples": COUNT,
        "memory_gb": NOT_NEGATIVE,
    }

    def __init__(self, method: str = "minimum distance", *, samples: int = 4096, memory_gb: float = 4.0) -> None:
        self.method = method
        self.samples = samples
        self.memory_gb = memory_gb

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, FiniteClass)  # `supports` says so
        method, samples = self.method, self.samples
        data, members = demonstrations.pooled(), policy_class.readers()
        weights = data.normalised_weights()
        n_prompts = len(np.unique(data.prompts, axis=0))
        exact = n_prompts * data.vocab_size**data.horizon <= MAX_POINTS
        points = n_prompts * data.vocab_size**data.horizon if exact else samples
        _check_size(method, len(members), points, data, 1 if exact else len(members), self.memory_gb)
        on_data = _log_densities(members, data.prompts, data.tokens)
        mu = np.stack([_more(row, on_data) @ weights for row in on_data])  # (M, M) mu(A_jk)
        draws = _enumerated(members, data, weights) if exact else _drawn(members, data, weights, samples, rng)
        worst, wins = np.zeros(len(members)), np.zeros(len(members), dtype=np.int64)
        if method == "minimum distance":
            for i, (log_densities, law) in enumerate(draws):
                off = (np.abs(_more(row, log_densities) @ law - mu[j]) for j, row in enumerate(log_densities))
                worst[i] = max(row.max() for row in off)
            winner, n_sets = int(first_best(-worst, slack=ROUNDING)), len(members) ** 3
        else:
            nearness = np.empty((2, len(members), len(members)))  # of f_j on A_jk, and of f_j on A_kj
            for j, (log_densities, law) in enumerate(draws):
                nearness[0, j] = np.abs(_more(log_densities[j], log_densities) @ law - mu[j])
                nearness[1, j] = np.abs(_more(log_densities, log_densities[j]) @ law - mu[:, j])
            wins = (nearness[0] < nearness[1].T - ROUNDING).sum(axis=1)
            worst, winner, n_sets = nearness.max(axis=(0, 2)), int(np.argmax(wins)), 2 * len(members) ** 2
        details = {
            "objective": "largest discrepancy on Scheffe sets",
            "index": winner,
            "method": method,
            "wins": wins.tolist(),
            "probabilities": "enumeration" if exact else f"Monte Carlo, {samples} sequences a member",
        }
        radius = 0.0 if exact else math.sqrt(math.log(2 * n_sets / 0.05) / (2 * samples))
        return policy_class.policy(winner), FitReport(float(worst[winner]), gap=2 * radius, details=details)


def _check_size(method: str, members: int, points: int, data: Demonstrations, drawers: int, memory_gb: float) -> None:
    """What a fit takes, said before it is taken: densities of all members on sets of points, and comparisons."""
    comparisons = members**2 * points * (members if method == "minimum distance" else 1)
    tokens = members * drawers * points * data.horizon
    needed = 8e-9 * members * (3 * points + len(data) + members)
    if needed <= memory_gb and comparisons <= MAX_COMPARISONS and tokens <= MAX_TOKENS:
        return
    raise NotTractableError(
        f"{method} among {members} policies needs about {needed:.3g} GB (memory_gb={memory_gb:g}), densities of "
        f"{tokens:.3g} tokens (at most {MAX_TOKENS:.3g}) and {comparisons:.3g} comparisons of densities (at most "
        f"{MAX_COMPARISONS:.3g}). Use fewer policies, a smaller samples=, method='tournament', or RhoEstimatorBC."
    )


def _more(one: FloatArray, others: FloatArray) -> NDArray[np.bool_]:
    """``(M, n)`` where the first of two log-densities is larger, by more than rounding."""
    return one > others + TIE


def _log_densities(members: list[Policy], prompts: IntArray, tokens: IntArray) -> FloatArray:
    """``(M, n)`` log-probabilities of whole sequences given their prompts."""
    return np.stack([member.log_probs(prompts, tokens).sum(axis=1) for member in members])


def _enumerated(
    members: list[Policy], data: Demonstrations, weights: FloatArray
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each member in turn: ``(M, N)`` log-densities of all on all sequences, and ``(N,)`` its law on them."""
    prompts, tokens, masses = _everything(data, weights)
    log_densities = _log_densities(members, prompts, tokens)
    return ((log_densities, np.exp(own) * masses) for own in log_densities)


def _drawn(
    members: list[Policy], data: Demonstrations, weights: FloatArray, samples: int, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each member in turn: ``(M, samples)`` log-densities of all on what it draws, and equal weights."""
    chosen = data.prompts[rng.choice(len(data), size=samples, p=weights)]
    for member in members:
        tokens = member.sample(chosen, data.horizon, rng)
        yield _log_densities(members, chosen, tokens), np.full(samples, 1.0 / samples)


def _everything(data: Demonstrations, weights: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """All sequences on every prompt of the data, and the prompt's weight."""
    prompts, which = np.unique(data.prompts, axis=0, return_inverse=True)
    masses = np.bincount(which.ravel(), weights=weights)
    sequences = all_sequences(data.vocab_size, data.horizon)
    return (
        np.repeat(prompts, len(sequences), axis=0),
        np.tile(sequences, (len(prompts), 1)),
        np.repeat(masses, len(sequences)),
    )
