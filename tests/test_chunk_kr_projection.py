"""The projection oracle of ChunkKR against general-purpose solvers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize

from agents import project_onto_ball_and_simplices
from agents.chunk_kr.program import project_onto_simplex, smallest_feasible_norm


def random_problem(seed, n, bits, extra, radius):
    """A point and coordinates in which the constant function is the first one: uniform rows are feasible."""
    rng = np.random.default_rng(seed)
    size = 2**bits
    rank = max(2, min(n * size, n + extra))
    phi = rng.normal(size=(n * size, rank))
    phi[:, 0] = 1.0
    point = rng.normal(size=rank) * rng.choice([0.1, 1.0, 5.0])
    return point, phi, size, {"tight": 1.2 / size, "middle": 0.5 + 1.0 / size, "none": np.inf}[radius]


def slsqp(point, phi, size, radius):
    rows = phi.reshape(-1, size, phi.shape[1]).sum(axis=1)
    constraints = [
        {"type": "ineq", "fun": lambda c: phi @ c, "jac": lambda c: phi},
        {"type": "eq", "fun": lambda c: rows @ c - 1.0, "jac": lambda c: rows},
    ]
    if np.isfinite(radius):
        constraints.append({"type": "ineq", "fun": lambda c: radius**2 - c @ c, "jac": lambda c: -2.0 * c})
    start = np.zeros(len(point))
    start[0] = 1.0 / size
    return minimize(
        lambda c: 0.5 * np.square(c - point).sum(),
        start,
        jac=lambda c: c - point,
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-16},
    )


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 3),
    bits=st.integers(1, 3),
    extra=st.integers(0, 12),
    radius=st.sampled_from(["tight", "middle", "none"]),
)
@examples(60)
def test_projection_agrees_with_slsqp(seed, n, bits, extra, radius):
    point, phi, size, ball = random_problem(seed, n, bits, extra, radius)
    ours = project_onto_ball_and_simplices(point, phi, size, ball)
    theirs = slsqp(point, phi, size, ball)
    assert ours.converged
    f = (phi @ ours.point).reshape(-1, size)
    assert f.min() > -1e-8 and np.abs(f.sum(axis=1) - 1).max() < 1e-8
    assert np.linalg.norm(ours.point) <= ball * (1 + 1e-12)
    # never farther than theirs, to rounding; and the same point where theirs has finished
    assert np.linalg.norm(ours.point - point) <= np.linalg.norm(theirs.x - point) + 1e-8
    if theirs.success:
        assert np.abs(ours.point - theirs.x).max() < 1e-7


@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), bits=st.integers(1, 3))
@examples(30)
def test_projection_satisfies_the_variational_inequality(seed, n, bits):
    """<x - P x, y - P x> <= 0 for feasible y: what it is to be the nearest point of a convex set."""
    point, phi, size, ball = random_problem(seed, n, bits, 12, "middle")
    nearest = project_onto_ball_and_simplices(point, phi, size, ball).point
    rng = np.random.default_rng(seed + 1)
    for _ in range(5):
        other = project_onto_ball_and_simplices(rng.normal(size=len(point)), phi, size, ball).point
        assert (point - nearest) @ (other - nearest) <= 1e-7 * (1 + np.linalg.norm(point))


def test_a_feasible_point_stays_where_it_is(rng):
    phi = np.eye(8)
    law = rng.dirichlet(np.ones(4), size=2).ravel()
    assert np.allclose(project_onto_ball_and_simplices(law, phi, 4, 2.0).point, law, atol=1e-10)


def test_without_ball_and_with_unit_coordinates_it_is_the_simplex_projection(rng):
    rows = rng.normal(size=(6, 4))
    found = project_onto_ball_and_simplices(rows.ravel(), np.eye(24), 4).point.reshape(6, 4)
    assert np.allclose(found, project_onto_simplex(rows), atol=1e-9)


def test_simplex_projection_agrees_with_slsqp(rng):
    for row in rng.normal(size=(5, 6)) * 2:
        best = minimize(
            lambda z, row=row: np.square(z - row).sum(),
            np.full(6, 1 / 6),
            bounds=[(0, None)] * 6,
            constraints={"type": "eq", "fun": lambda z: z.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert np.allclose(project_onto_simplex(row[None]), best.x, atol=1e-6)


def test_too_small_a_ball_is_refused_with_the_smallest_radius():
    # two strings, one prefix, f = c: the shortest probability vector is (1/2, 1/2)
    with pytest.raises(ValueError, match=r"radius=0.5 is too small.*0\.70710"):
        project_onto_ball_and_simplices([1.0, 0.0], np.eye(2), 2, 0.5)
    assert smallest_feasible_norm(np.eye(2), 2) == pytest.approx(np.sqrt(0.5), abs=1e-8)
