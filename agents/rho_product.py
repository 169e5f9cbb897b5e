"""The rho game in a product class: one game a chunk, over the joint choices of options at the chunk's layers.

Layers share no parameters, so the sum over chunks is minimised chunk by chunk. Two ways to play a chunk:

* Every option gives every observed token probability 0 or 1. Then tau is a difference of indicators for both choices
  of tau, ``F(pi, pi') = mass(err pi) - mass(err pi')``, and the winner is the joint choice whose union of errors has
  the least mass: an integer program, solved by HiGHS, whatever the number of joint choices.
* Otherwise the joint choices are enumerated, layer by layer. Equal vectors of log-densities are merged. A vector that
  is nowhere above another is dropped: tau(p, p') falls in p and rises in p', so it is at least as bad a choice and at
  most as good a reply, now and after any completion, which adds the same to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agents.rho_game import group_rows, solve_finite_game
from agents.rho_units import Unit, distinct_units
from ntp_envs import Demonstrations, NotTractableError, ProductClass
from ntp_envs._numerics import ROUNDING, first_best

__all__ = ["ProductSolution", "solve_product_game"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PRUNE_UP_TO = 300_000_000  # comparisons of log-densities a layer


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
    for unit in distinct_units(demonstrations, chunk):
        prompts, tokens = demonstrations.prompts[unit.rows], demonstrations.tokens[unit.rows]
        layers = range(unit.positions.start, unit.positions.stop)
        tables = [policy_class.option_log_probs(h, prompts, tokens) for h in layers]
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
