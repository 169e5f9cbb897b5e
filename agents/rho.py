"""The rho-estimator over whole sequences, and over chunks of K tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np

from agents.base import Agent, ConvergenceWarning, FitReport
from agents.log_loss import RegisteredClasses
from agents.rho_game import TAU_SCALE, solve_finite_game
from agents.rho_one_parameter import OneParameterSolution, solve_bernoulli_game
from agents.rho_product import solve_product_game
from agents.rho_units import distinct_units
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    NotTractableError,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["ChunkedRhoBC", "RhoEstimatorBC", "RhoSettings", "solve_rho_game"]


@dataclass(frozen=True)
class RhoSettings:
    """Checked hyper-parameters of a rho fit."""

    chunk: int
    tau: str
    tol: float
    memory_gb: float
    time_limit: float
    candidates: int = 32
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@singledispatch
def solve_rho_game(
    policy_class: PolicyClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    """The winner of the rho game in a class, on chunks of ``settings.chunk`` tokens.

    A generic function (`functools.singledispatch`): ``solve_rho_game.register(YourClass)`` teaches it, and with it
    `RhoEstimatorBC` and `ChunkedRhoBC`, another class.
    """
    raise TypeError(
        f"the rho game does not know {type(policy_class).__name__}; write a function for it and register it with "
        "agents.rho.solve_rho_game.register."
    )


@solve_rho_game.register
def _finite(
    policy_class: FiniteClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    data = demonstrations.pooled()
    units = list(distinct_units(data, settings.chunk))
    starts = [unit.positions.start for unit in units]
    weights = np.concatenate([unit.weights for unit in units])
    rows = np.concatenate([unit.rows for unit in units])
    chunks = np.repeat(np.arange(len(units)), [len(unit.rows) for unit in units])
    needed = 16 * len(rows) * len(policy_class) / 1e9
    if needed > settings.memory_gb:
        raise NotTractableError(
            f"{len(policy_class)} policies at {len(rows)} distinct data points need about {needed:.3g} GB, more than "
            f"memory_gb={settings.memory_gb:g}. Use fewer demonstrations or policies, "
            + ("longer chunks, " if len(units) > 1 else "")
            + "or raise memory_gb."
        )
    log_densities = np.empty((len(rows), len(policy_class)))
    for j, policy in enumerate(policy_class.readers()):
        sums = np.add.reduceat(policy.log_probs(data.prompts, data.tokens), starts, axis=1)  # (n, chunks)
        log_densities[:, j] = sums[rows, chunks]
    game = solve_finite_game(log_densities, weights, settings.tau)
    details = {"index": game.index, "reply": game.reply, "rows_evaluated": game.rows_evaluated, "points": game.points}
    return policy_class.policy(game.index), _report(settings, game.value, 0.0, game.rows_evaluated, details)


@solve_rho_game.register
def _bernoulli(
    policy_class: BernoulliClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    happened = policy_class.events(demonstrations.prompts, demonstrations.tokens)
    chunks = list(demonstrations.chunks(settings.chunk))
    counts = np.add.reduceat(happened, [chunk.start for chunk in chunks], axis=1, dtype=np.int64)  # (n, chunks)
    game = solve_bernoulli_game(
        counts.ravel(),
        np.tile([chunk.stop - chunk.start for chunk in chunks], len(counts)),
        np.repeat(demonstrations.normalised_weights(), len(chunks)),
        (policy_class.theta_min, policy_class.theta_max),
        settings.tau,
        tol=settings.tol,
    )
    return policy_class.policy(game.theta), _certified(settings, game, len(chunks))


@solve_rho_game.register
def _product(
    policy_class: ProductClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    game = solve_product_game(
        policy_class,
        demonstrations,
        settings.chunk,
        settings.tau,
        memory_gb=settings.memory_gb,
        time_limit=settings.time_limit,
    )
    details = {
        "deterministic_chunks": game.deterministic,
        "enumerated_chunks": game.enumerated,
        "erring_mass": game.erring_mass,
        "rows_evaluated": game.rows_evaluated,
    }
    size = game.value + game.erring_mass
    advice = f"raise time_limit={settings.time_limit:g}, use shorter chunks, or a larger tol"
    report = _report(settings, game.value, game.gap, game.rows_evaluated, details, size=size, advice=advice)
    return policy_class.policy(game.options), report


@solve_rho_game.register
def _ar_linear(
    policy_class: ARLinearClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    from agents.rho_ar_linear import solve_linear_game, solve_linear_game_on_line

    if policy_class.features.dimension == 1:
        line = solve_linear_game_on_line(
            policy_class,
            demonstrations,
            settings.chunk,
            settings.tau,
            tol=settings.tol,
            memory_gb=settings.memory_gb,
            time_limit=settings.time_limit,
        )
        chunks = -(-demonstrations.horizon // settings.chunk)
        advice = f"raise time_limit={settings.time_limit:g}, or use a larger tol"
        return policy_class.policy([line.theta]), _certified(settings, line, chunks, advice=advice)
    game = solve_linear_game(
        policy_class,
        demonstrations,
        settings.chunk,
        settings.tau,
        tol=settings.tol,
        candidates=settings.candidates,
        memory_gb=settings.memory_gb,
        time_limit=settings.time_limit,
        rng=settings.rng,
    )
    reply_gap = game.reply_value - game.value
    if not game.converged:
        warnings.warn(
            f"the search in the rho game ended after {game.rounds} rounds and {game.candidates} candidates with value "
            f"{game.value:.3g}; the best reply tried is worth {reply_gap:.3g} more. Raise "
            f"candidates={settings.candidates}, time_limit={settings.time_limit:g} or tol={settings.tol:g}.",
            ConvergenceWarning,
            stacklevel=5,
        )
    details = {
        "objective": "value of the finite rho game over the candidates",
        "tau": settings.tau,
        "chunk": settings.chunk,
        "certificate": "local: best reply found, a lower bound on the worst case; none that no theta is better",
        "reply_value": game.reply_value,
        "reply_gap": reply_gap,
        "candidates": game.candidates,
        "replies": game.replies,
        "points": game.points,
        "norm": float(np.linalg.norm(game.theta)),
        "predicted_seconds": game.predicted_seconds,
    }
    report = FitReport(game.value, float("nan"), game.converged, game.rounds, details)
    return policy_class.policy(game.theta), report


def _certified(
    settings: RhoSettings, game: OneParameterSolution, chunks: int, *, advice: str = "use a larger tol"
) -> FitReport:
    """Of a game with one parameter."""
    details = {
        "theta": game.theta,
        "reply": game.reply,
        "reply_gap": game.reply_gap,
        "slack": game.slack,
        "points": game.points,
    }
    rounding = 1e-12 * chunks
    return _report(settings, game.value, game.gap, game.evaluations, details, rounding=rounding, advice=advice, level=7)


def _report(
    settings: RhoSettings,
    value: float,
    gap: float,
    iterations: int,
    details: Mapping[str, float],
    *,
    size: float | None = None,
    rounding: float = 1e-12,
    advice: str = "use a larger tol",
    level: int = 6,
) -> FitReport:
    """Warns if ``gap`` is more than ``tol`` times ``size`` (by default the value), and more than rounding."""
    converged = gap <= settings.tol * (value if size is None else size) + rounding
    if not converged:
        warnings.warn(
            f"the rho game ended with a gap of {gap:.3g} at value {value:.3g}: not solved to tol={settings.tol:g}; "
            f"{advice}.",
            ConvergenceWarning,
            stacklevel=level,
        )
    named = {"objective": "value of the rho game", "tau": settings.tau, "chunk": settings.chunk, **details}
    return FitReport(objective=value, gap=gap, converged=converged, iterations=iterations, details=named)


class _RhoAgent(Agent):
    """What the two learners share."""

    supports = RegisteredClasses(solve_rho_game)  # type: ignore[assignment]

    def __init__(
        self,
        tau: str = "ratio",
        *,
        tol: float = 1e-6,
        memory_gb: float = 4.0,
        time_limit: float = 60.0,
        candidates: int = 32,
    ) -> None:
        self.tau = tau
        self.tol = tol
        self.memory_gb = memory_gb
        self.time_limit = time_limit
        self.candidates = candidates

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        chunk = self.unit(demonstrations)
        settings = RhoSettings(
            chunk=check_int("chunk", chunk, minimum=1),
            tau=check_in("tau", self.tau, TAU_SCALE),
            tol=check_real("tol", self.tol, minimum=0.0),
            memory_gb=check_real("memory_gb", self.memory_gb, minimum=0.0),
            time_limit=check_real("time_limit", self.time_limit, minimum=0.0),
            candidates=check_int("candidates", self.candidates, minimum=1),
            rng=rng,
        )
        return solve_rho_game(policy_class, demonstrations, settings)


class RhoEstimatorBC(_RhoAgent):
    """The rho-estimator: ``argmin_pi max_pi' sum_i w_i tau(P^pi(o_i), P^pi'(o_i))`` over whole sequences o_i.

    A policy loses to another by how much more likely the other finds each sequence, each sequence counting at most 1:
    a few sequences that a policy calls impossible cannot outweigh the rest. So its approximation factor in squared
    Hellinger distance is a constant, whatever the horizon, where that of next-token log-loss grows with H.

    tau(p, p') is ``(p' - p) / (p' + p)`` (``"ratio"``) or the same of square roots (``"psi"``: Baraud and Birge), from
    log-densities; tau(0, 0) = 0, tau(0, p') = 1, tau(p, 0) = -1.

    * `FiniteClass`: exact, by best-first elimination. Ties (within 1e-12 of the smallest value) go to the smallest
      index.
    * `BernoulliClass`: to ``tol``, relative to the value of the game, by branch and bound. The objective is flat near
      its minimum: theta, and the approximation factor, are determined much less sharply than the value.
      ``fit_report_.gap`` is proved (up to rounding, 1e-13): how much better a reply there may be than the best one
      found (``reply_gap``), and how much smaller the worst case may be elsewhere in the class (``slack``).
    * `ProductClass`: exact, by integer programming if every option is deterministic on the data and by enumeration
      with pruning otherwise; see `agents.rho_product`.

    * `ARLinearClass` of dimension 1: as `BernoulliClass`, with a proved gap.
    * `ARLinearClass` of more dimensions: by search, see `agents.rho_ar_linear`. Guaranteed is the exact solution of the
      finite game over the candidates that the search met; ``fit_report_.gap`` is ``nan``, as nothing bounds the worst
      case over the whole ball from above or shows theta to be global: the game is not convex, and hard in general.
      ``details["reply_value"]`` is the best of ``details["replies"]`` replies tried, a lower bound on the worst case.
      ``converged`` says no more than that the search ended by itself and that this exceeds the value by at most
      ``tol``, relative, and 1e-9 a chunk (`ConvergenceWarning` otherwise): a better theta may have been missed.

    Markov chains and other continuous classes are not supported. (One token a unit, over a convex class of next-token
    laws, the rho-estimator with ``"ratio"`` *is* maximum likelihood: use `LogLossBC`.)

    Args:
        tau: ``"ratio"`` or ``"psi"``.
        tol: see above.
        memory_gb: refuse a fit that needs more, with `NotTractableError`.
        time_limit: seconds for each integer program of a product class, and for the search in an autoregressive linear
            class (which may run over by a few local searches); past it, `ConvergenceWarning`.
        candidates: with which the search starts in an autoregressive linear class; more find more of its modes.

    Source: Baraud and Birge (2018) for the estimator; its use for imitation is our reading of Rohatgi et al. (2025,
    arXiv:2502.12465).

    >>> from ntp_envs import approximation_factor, make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> agent = RhoEstimatorBC().fit(task.population(), task.policy_class)
    >>> round(approximation_factor(task, agent.policy_), 2), agent.fit_report_.converged
    (3.24, True)
    """

    def unit(self, demonstrations: Demonstrations) -> int:
        return demonstrations.horizon


class ChunkedRhoBC(_RhoAgent):
    """The rho game on chunks of K tokens given their prefix, summed over chunks: between log-loss and `RhoEstimatorBC`.

    One policy plays all chunks; in a product class, where no parameters are shared, each chunk is a game of its own.
    The policy is a member of the class (the learner is proper). K = H is `RhoEstimatorBC`; K = 1 with ``"ratio"`` is
    maximum likelihood in classes that are convex in the next-token law. The approximation factor falls like H / K:
    ``E D_H^2(P(. | prefix), Q(. | prefix)) <= 2 D_H^2(P, Q)`` for each chunk.

    If K does not divide H the last chunk is shorter. Classes and the rest of the arguments are those of
    `RhoEstimatorBC`.

    Args:
        chunk: K, at least 1 and at most H (checked in `fit`, where H is known).

    Source: our reading of Rohatgi et al. (2025, arXiv:2502.12465).

    >>> from ntp_envs import approximation_factor, make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> agent = ChunkedRhoBC(8).fit(task.population(chunk=8), task.policy_class)
    >>> round(approximation_factor(task, agent.policy_), 1)
    17.3
    """

    def __init__(
        self,
        chunk: int,
        tau: str = "ratio",
        *,
        tol: float = 1e-6,
        memory_gb: float = 4.0,
        time_limit: float = 60.0,
        candidates: int = 32,
    ) -> None:
        super().__init__(tau, tol=tol, memory_gb=memory_gb, time_limit=time_limit, candidates=candidates)
        self.chunk = chunk

    def unit(self, demonstrations: Demonstrations) -> int:
        horizon = demonstrations.horizon
        chunk = check_int("chunk", self.chunk, minimum=1)
        if chunk > horizon:
            raise ValueError(
                f"chunk={chunk} must be an integer in [1, {horizon}]: the demonstrations have {horizon} tokens; "
                f"use chunk={horizon}, or RhoEstimatorBC, for whole sequences."
            )
        return chunk
