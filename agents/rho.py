"""The rho-estimator, on whole sequences and on chunks: the game of `agents.rho_game`, class by class.

In a product class there is one game a chunk, over the joint choices of options at the chunk's layers. Layers share no
parameters, so the sum over chunks is minimised chunk by chunk. Two ways to play a chunk:

* Every option gives every observed token probability 0 or 1. Then tau is a difference of indicators for both choices
  of tau, ``F(pi, pi') = mass(err pi) - mass(err pi')``, and the winner is the joint choice whose union of errors has
  the least mass: an integer program, solved by HiGHS, whatever the number of joint choices.
* Otherwise the joint choices are enumerated, layer by layer. Equal vectors of log-densities are merged. A vector that
  is nowhere above another is dropped: tau(p, p') falls in p and rises in p', so it is at least as bad a choice and at
  most as good a reply, now and after any completion, which adds the same to both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks, ConvergenceWarning, FitReport
from agents.log_loss import RegisteredClasses
from agents.rho_game import (
    TAU_SCALE,
    OneParameterSolution,
    Unit,
    distinct_units,
    group_rows,
    solve_bernoulli_game,
    solve_finite_game,
)
from agents.rho_linear import solve_linear_game, solve_linear_game_on_line
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    EndedClass,
    EndedPolicy,
    FiniteClass,
    NotTractableError,
    ParametricClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, first_best
from ntp_envs.checks import check_in

_PRUNE_UP_TO = 300_000_000  # comparisons of log-densities a layer
GRID, FINEST = 65, 1e-6  # points at first, and relative spacing in the end, in a class of one parameter


@dataclass
class ProductSolution:
    """The winners of all chunks together.

    Attributes:
        options: ``(H,)`` option numbers.
        value: sum over chunks of the value of the game; 0 for a chunk solved to optimality by integer programming.
        gap: sum over chunks of HiGHS' proved gaps, in units of the game's value; enumeration adds nothing.
        deterministic, enumerated: how many chunks were solved each way.
        rows_evaluated: rows of payoff matrices, over all enumerated chunks.
        erring_mass: sum over deterministic chunks of the mass of data points given up.
    """

    options: IntArray
    value: float = 0.0
    gap: float = 0.0
    deterministic: int = 0
    enumerated: int = 0
    rows_evaluated: int = 0
    erring_mass: float = 0.0


def solve_product_game(
    policy_class: ProductClass,
    demonstrations: Demonstrations,
    chunk: int,
    tau: str,
    *,
    memory_gb: float = 4.0,
    time_limit: float = 60.0,
) -> ProductSolution:
    """Solve the game of every chunk.

    Args:
        policy_class: its options are evaluated at the distinct data points only.
        demonstrations: weights are normalised.
        chunk: K in [1, H].
        tau: ``"ratio"`` or ``"psi"``.
        memory_gb: refuse an enumeration that needs more.
        time_limit: seconds for each integer program; past it the best choice found is used and ``gap`` is positive.

    Ties: least option numbers, layer by layer; in an integer program, among the choices that err on no data point
    outside the set that HiGHS gives up, which is the same in every run; in an enumeration, among those that remain.

    Raises:
        NotTractableError: too many joint choices in a chunk.
    """
    solution = ProductSolution(np.zeros(demonstrations.horizon, dtype=np.int64))
    written = demonstrations.written
    for unit in distinct_units(demonstrations, chunk):
        prompts, tokens = demonstrations.prompts[unit.rows], demonstrations.tokens[unit.rows]
        layers = range(unit.positions.start, unit.positions.stop)
        tables = [
            np.where(written[unit.rows, h][:, None], policy_class.option_log_probs(h, prompts, tokens), 0.0)
            for h in layers
        ]
        if all(((table == 0.0) | np.isneginf(table)).all() for table in tables):
            options, mass, gap = least_union([np.isneginf(table) for table in tables], unit.weights, time_limit)
            solution.deterministic += 1
            solution.erring_mass += mass
            solution.gap += gap
            solution.value += gap  # F(pi, pi') = mass(pi) - mass(pi') <= gap
        else:
            choices, vectors, weights = _joint_choices(tables, unit, memory_gb)
            game = solve_finite_game(vectors.T, weights, tau)
            options = choices[game.index]
            solution.enumerated += 1
            solution.rows_evaluated += game.rows_evaluated
            solution.value += game.value
        solution.options[unit.positions] = options
    return solution


# -- deterministic layers ----------------------------------------------------------------------------------------------


def least_union(
    errors: list[NDArray[np.bool_]], weights: FloatArray, time_limit: float
) -> tuple[IntArray, float, float]:
    """One option a layer, so that the union of their error sets has the least mass.

    Args:
        errors: for each layer ``(n, options)``: does the option err at the data point.
        weights: ``(n,)`` positive masses.
        time_limit: seconds.

    Returns:
        ``(layers,)`` options, the mass of the union, and a bound on how far that is from the least.
    """
    if len(errors) == 1:
        masses = weights @ errors[0]
        option = int(first_best(-masses, slack=ROUNDING))
        return np.array([option]), float(masses[option]), 0.0
    table = np.concatenate(errors, axis=1)  # (n, Z): one column an option of a layer
    starts = np.cumsum([0, *(error.shape[1] for error in errors)])
    _, first, group = np.unique(np.packbits(table, axis=1), axis=0, return_index=True, return_inverse=True)
    pattern, masses = table[first], np.bincount(group.ravel(), weights=weights).astype(np.float64)
    lost = np.zeros(len(pattern), dtype=bool)
    for start, stop in pairwise(starts):
        lost |= pattern[:, start:stop].all(axis=1)
    open_ = pattern.any(axis=1) & ~lost
    given_up = lost.copy()
    lower = 0.0
    if open_.any():
        given_up[open_], lower = _solve_integer_program(pattern[open_], masses[open_], starts, time_limit)
    harmless = ~np.logical_or.reduce(pattern[~given_up], axis=0)  # options that err only where we have given up
    options = np.array([int(harmless[a:b].argmax()) for a, b in pairwise(starts)])
    erring = np.logical_or.reduce(pattern[:, starts[:-1] + options], axis=1)
    mass = float(masses[erring].sum())
    gap = mass - float(masses[lost].sum()) - lower
    return options, mass, gap if gap > ROUNDING else 0.0


def _solve_integer_program(
    pattern: NDArray[np.bool_], masses: FloatArray, starts: IntArray, time_limit: float
) -> tuple[NDArray[np.bool_], float]:
    """Which rows of ``pattern`` to give up, and a proved lower bound on their mass.

    Variables: z_o in {0, 1} for each option, e_x in [0, 1] for each row (integral at an optimum). Minimise the mass of
    e subject to one option a layer and e_x >= z_o wherever option o errs at x.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    rows, options = pattern.shape
    scale = 1e6 / masses.sum()  # so that HiGHS' absolute tolerance of 1e-6 is 1e-12 of the mass
    x, o = np.nonzero(pattern)
    number = np.arange(len(x))
    covers = coo_array(
        (
            np.concatenate([np.ones(len(x)), -np.ones(len(x))]),
            (np.concatenate([number, number]), np.concatenate([options + x, o])),
        ),
        shape=(len(x), options + rows),
    )
    layer = np.searchsorted(starts, np.arange(options), side="right") - 1
    one_each = coo_array((np.ones(options), (layer, np.arange(options))), shape=(len(starts) - 1, options + rows))
    result = milp(
        np.concatenate([np.zeros(options), masses * scale]),
        integrality=np.concatenate([np.ones(options), np.zeros(rows)]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(covers.tocsc(), lb=0.0), LinearConstraint(one_each.tocsc(), lb=1.0, ub=1.0)],
        options={"mip_rel_gap": 0.0, "time_limit": time_limit},
    )
    if result.x is None:  # nothing found in time: any choice will do, with the bound that is known
        chosen = starts[:-1]
        lower = 0.0
    else:
        z = result.x[:options]
        chosen = np.array([a + int(z[a:b].argmax()) for a, b in pairwise(starts)])
        lower = float(result.mip_dual_bound) / scale
    return np.logical_or.reduce(pattern[:, chosen], axis=1), lower


# -- the rest ----------------------------------------------------------------------------------------------------------


def _joint_choices(tables: list[FloatArray], unit: Unit, memory_gb: float) -> tuple[IntArray, FloatArray, FloatArray]:
    """Joint choices ``(S, layers)`` that may win or matter as replies, their log-densities ``(S, n)``, weights."""
    first, group = group_rows(np.concatenate(tables, axis=1))
    weights = np.bincount(group, weights=unit.weights).astype(np.float64)
    choices = np.zeros((1, 0), dtype=np.int64)
    vectors = np.zeros((1, len(first)))
    for number, table in enumerate(tables):
        options = table[first].T  # (m, n)
        needed = 3 * 8 * len(vectors) * options.size / 1e9
        if needed > memory_gb:
            start, stop = unit.positions.start, unit.positions.stop
            raise NotTractableError(
                f"the chunk of tokens {start} to {stop - 1} has {'*'.join(str(t.shape[1]) for t in tables)} joint "
                f"choices; {len(vectors)} distinct ones remain after {number} layers, and the next needs about "
                f"{needed:.3g} GB at {len(first)} data points. Use a smaller chunk than {stop - start}, fewer options "
                f"or demonstrations, or raise memory_gb={memory_gb:g}."
            )
        vectors = (vectors[:, None, :] + options[None]).reshape(-1, len(first))
        choices = np.column_stack(
            [np.repeat(choices, len(options), axis=0), np.tile(np.arange(len(options)), len(choices))]
        )
        kept, _ = group_rows(vectors)
        kept = kept[_undominated(vectors[kept])]
        vectors, choices = vectors[kept], choices[kept]
    return choices, vectors, weights


def _undominated(vectors: FloatArray) -> IntArray:
    """Rows of ``(S, n)`` that are not everywhere <= another; all of them where finding out would take too long."""
    count = len(vectors)
    if count * vectors.size > _PRUNE_UP_TO:
        return np.arange(count)
    order = np.argsort(-np.maximum(vectors, -1e6).sum(axis=1), kind="stable")  # a row comes after those above it
    kept = np.empty(count, dtype=np.int64)
    size = 0
    for row in order:
        if not (vectors[kept[:size]] >= vectors[row]).all(axis=1).any():
            kept[size] = row
            size += 1
    return np.sort(kept[:size])


# -- The rho-estimator over whole sequences, and over chunks of K tokens ----------------------------------------------


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
    `RhoEstimatorBC` and `ChunkedRhoBC`, another class. Where texts end, ``demonstrations.written`` says which tokens
    count.
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
        log_probs = np.where(data.written, policy.log_probs(data.prompts, data.tokens), 0.0)
        sums = np.add.reduceat(log_probs, starts, axis=1)  # (n, chunks)
        log_densities[:, j] = sums[rows, chunks]
    game = solve_finite_game(log_densities, weights, settings.tau)
    details = {"index": game.index, "reply": game.reply, "rows_evaluated": game.rows_evaluated, "points": game.points}
    return policy_class.policy(game.index), _report(settings, game.value, 0.0, game.rows_evaluated, details)


@solve_rho_game.register
def _bernoulli(
    policy_class: BernoulliClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    written = demonstrations.written
    happened = policy_class.events(demonstrations.prompts, demonstrations.tokens) & written
    chunks = [chunk.start for chunk in demonstrations.chunks(settings.chunk)]
    events, lengths = (np.add.reduceat(each, chunks, axis=1, dtype=np.int64) for each in (happened, written))
    game = solve_bernoulli_game(
        events.ravel(),
        lengths.ravel(),  # (n, chunks) before
        np.repeat(demonstrations.normalised_weights(), len(chunks)),
        (policy_class.theta_min, policy_class.theta_max),
        settings.tau,
        tol=settings.tol,
    )
    return policy_class.policy(game.theta), _certified(settings, game, len(chunks))


@solve_rho_game.register
def _ending(
    policy_class: EndedClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    """What is inside plays for what was written: after the end all members agree."""
    policy, report = solve_rho_game(policy_class.members, demonstrations, settings)
    return EndedPolicy(policy, policy_class.end_token), report


@solve_rho_game.register
def _product(
    policy_class: ProductClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    limits: dict[str, Any] = {"memory_gb": settings.memory_gb, "time_limit": settings.time_limit}
    game = solve_product_game(policy_class, demonstrations, settings.chunk, settings.tau, **limits)
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
    asked = policy_class, demonstrations, settings.chunk, settings.tau
    limits: dict[str, Any] = {"tol": settings.tol, "memory_gb": settings.memory_gb, "time_limit": settings.time_limit}
    if policy_class.features.dimension == 1:
        line = solve_linear_game_on_line(*asked, **limits)
        chunks = -(-demonstrations.horizon // settings.chunk)
        advice = f"raise time_limit={settings.time_limit:g}, or use a larger tol"
        return policy_class.policy([line.theta]), _certified(settings, line, chunks, advice=advice)
    game = solve_linear_game(*asked, **limits, candidates=settings.candidates, rng=settings.rng)
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


@solve_rho_game.register
def _one_parameter(
    policy_class: ParametricClass, demonstrations: Demonstrations, settings: RhoSettings
) -> tuple[Policy, FitReport]:
    """The finite game over a grid, solved exactly; the grid is refined about the winner and its best reply."""
    low, high = policy_class.lower[0], policy_class.upper[0]
    if policy_class.dimension > 1 or not np.isfinite(high - low):
        raise NotTractableError(
            f"the rho game is solved on a grid in a class of one parameter between finite bounds, and "
            f"{type(policy_class).__name__} has {policy_class.dimension} in [{low:g}, {high:g}]; give it a FiniteClass "
            "of candidates instead."
        )
    grid, finest = np.linspace(low, high, GRID), FINEST * (high - low)
    while True:
        members = FiniteClass([policy_class.policy(policy_class.project(np.array([theta]))) for theta in grid])
        _, report = solve_rho_game(members, demonstrations, settings)
        chosen = np.array([report.details["index"], report.details["reply"]])
        ends = grid[np.maximum(chosen - 1, 0)], grid[np.minimum(chosen + 1, len(grid) - 1)]
        if (ends[1] - ends[0]).max() <= finest:
            break
        coarse = ends[1] - ends[0] > finest
        grid = np.union1d(grid, np.linspace(ends[0][coarse], ends[1][coarse], 9))
    winner, reply = grid[chosen]
    details = {name: value for name, value in report.details.items() if name != "index"}
    details.update(certificate="exact over a grid", parameter=float(winner), reply=float(reply), grid=len(grid))
    return policy_class.policy(np.array([winner])), replace(report, gap=np.nan, details=details)


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


@dataclass(eq=False, repr=False, kw_only=True)
class _RhoAgent(Agent):
    """What the two learners share."""

    supports = RegisteredClasses(solve_rho_game)  # type: ignore[assignment]
    allowed: ClassVar[Checks] = {
        **dict.fromkeys(("tol", "memory_gb", "time_limit"), NOT_NEGATIVE),
        **dict.fromkeys(("candidates", "chunk"), COUNT),
        "tau": partial(check_in, options=TAU_SCALE),
    }

    tol: float = 1e-6
    memory_gb: float = 4.0
    time_limit: float = 60.0
    candidates: int = 32

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        own = {name: getattr(self, name) for name in ("tau", "tol", "memory_gb", "time_limit", "candidates")}
        settings = RhoSettings(chunk=self.chunk_length(demonstrations), rng=rng, **own)  # type: ignore[arg-type]
        return solve_rho_game(policy_class, demonstrations, settings)


@dataclass(eq=False, repr=False)
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
      with pruning otherwise; see `agents.rho`.
    * `ARLinearClass` of dimension 1: as `BernoulliClass`, with a proved gap.
    * `ARLinearClass` of more dimensions: by search, see `agents.rho_linear`. Guaranteed is the exact solution of the
      finite game over the candidates that the search met; ``fit_report_.gap`` is ``nan``, as nothing bounds the worst
      case over the whole ball from above or shows theta to be global: the game is not convex, and hard in general.
      ``details["reply_value"]`` is the best of ``details["replies"]`` replies tried, a lower bound on the worst case.
      ``converged`` says no more than that the search ended by itself and that this exceeds the value by at most
      ``tol``, relative, and 1e-9 a chunk (`ConvergenceWarning` otherwise): a better theta may have been missed.
    * `ntp_envs.ParametricClass` of one parameter between finite bounds: exact over a grid that is
      refined about the winner and its best reply; ``fit_report_.gap`` is ``nan``.
    * `ntp_envs.EndedClass` of one of these: the same, on what was written of each text.

    Markov chains and other continuous classes are not supported. (One token a unit, over a convex class of next-token
    laws, the rho-estimator with ``"ratio"`` *is* maximum likelihood: use `LogLossBC`.)

    Args:
        tau: ``"ratio"`` or ``"psi"``.
        tol: see above.
        memory_gb: refuse a fit that needs more, with `NotTractableError`.
        time_limit: seconds for each integer program of a product class, and processor seconds for the searches in
            others (which may run over by a few local ones); past it, `ConvergenceWarning`.
        candidates: with which the search starts in an autoregressive linear class; more find more of its modes.

    Source: Baraud and Birge (2018) for the estimator; its use for imitation is our reading of Rohatgi et al. (2025,
    arXiv:2502.12465).

    >>> from ntp_envs import approximation_factor, make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> agent = RhoEstimatorBC().fit(task.population(), task.policy_class)
    >>> round(approximation_factor(task, agent.policy_), 2), agent.fit_report_.converged
    (3.24, True)
    """

    tau: str = "ratio"

    def chunk_length(self, demonstrations: Demonstrations) -> int:
        return demonstrations.horizon


@dataclass(eq=False, repr=False)
class ChunkedRhoBC(_RhoAgent):
    """The rho game on chunks of K tokens given their prefix, summed over chunks: between log-loss and `RhoEstimatorBC`.

    One policy plays all chunks; in a product class, where no parameters are shared, each chunk is a game of its own.
    The policy is a member of the class (the learner is proper). K = H is `RhoEstimatorBC`; K = 1 with ``"ratio"`` is
    maximum likelihood in classes that are convex in the next-token law. The approximation factor falls like H / K:
    ``E D_H^2(P(. | prefix), Q(. | prefix)) <= 2 D_H^2(P, Q)`` for each chunk.

    If K does not divide H the last chunk is shorter. Classes and the rest of the arguments are those of
    `RhoEstimatorBC`.

    Args:
        chunk: K, at least 1 and at most H (which is checked in `fit`, where H is known).

    Source: our reading of Rohatgi et al. (2025, arXiv:2502.12465).

    >>> from ntp_envs import approximation_factor, make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> agent = ChunkedRhoBC(8).fit(task.population(chunk=8), task.policy_class)
    >>> round(approximation_factor(task, agent.policy_), 1)
    17.3
    """

    chunk: int
    tau: str = "ratio"

    def chunk_length(self, demonstrations: Demonstrations) -> int:
        horizon = demonstrations.horizon
        if self.chunk > horizon:
            raise ValueError(
                f"chunk={self.chunk} must be an integer in [1, {horizon}]: the demonstrations have {horizon} tokens; "
                f"use chunk={horizon}, or RhoEstimatorBC, for whole sequences."
            )
        return self.chunk
