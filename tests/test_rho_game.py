"""The finite rho game against brute force in other arithmetic: densities, not log-densities, and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples

from agents import rho_game
from agents.rho_game import group_rows, rho_tau, solve_finite_game

TAUS = ("ratio", "psi")
fixed = examples(60)


def tau_of_densities(p, other, tau):
    if tau == "psi":
        p, other = np.sqrt(p), np.sqrt(other)
    total = p + other
    return np.divide(other - p, total, out=np.zeros_like(total), where=total > 0)


def brute_force(densities, weights, tau):
    """Index and value of the game from an (n, M) matrix of densities, one row of payoffs after another."""
    worst = []
    for j in range(densities.shape[1]):
        payoffs = [
            float(weights @ tau_of_densities(densities[:, j], densities[:, k], tau)) for k in range(densities.shape[1])
        ]
        worst.append(max(payoffs))
    worst = np.array(worst)
    return int(np.flatnonzero(worst <= worst.min() + 1e-12 * weights.sum())[0]), float(worst.min())


def log(densities):
    with np.errstate(divide="ignore"):
        return np.log(densities)


@pytest.mark.parametrize("tau", TAUS)
def test_tau_is_the_ratio_of_densities_and_keeps_its_conventions_at_zero(tau):
    rng = np.random.default_rng(0)
    p, other = rng.random((2, 500)) ** 8
    np.testing.assert_allclose(rho_tau(np.log(p), np.log(other), tau), tau_of_densities(p, other, tau), atol=1e-13)
    zero = np.array([-np.inf, -np.inf, -3.0])
    assert rho_tau(zero, np.array([-np.inf, -700.0, -np.inf]), tau).tolist() == [0.0, 1.0, -1.0]


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("tau", TAUS)
def test_same_argmin_as_brute_force_on_small_games(tau, precision, monkeypatch):
    """Densities from a short list, zero included, so that ties and equal rows and columns are common."""
    if precision == "single":
        monkeypatch.setattr(rho_game, "_FLOAT32_FROM", 0)
    rng = np.random.default_rng(1)
    values = np.array([0.0, 1e-30, 1e-6, 0.01, 0.25, 0.3, 0.5, 1.0])
    for _ in range(1500):
        n, m = rng.integers(1, 8, size=2)
        densities = values[rng.integers(rng.integers(1, 9), size=(n, m))]
        weights = rng.integers(0, 4, size=n) + (0.0 if rng.random() < 0.5 else rng.random(n))
        weights[rng.integers(n)] += 1.0
        game = solve_finite_game(log(densities), weights, tau)
        index, value = brute_force(densities, weights, tau)
        assert game.index == index
        assert game.value == pytest.approx(value, abs=1e-12 * weights.sum())
        reply = tau_of_densities(densities[:, game.index], densities[:, game.reply], tau)
        assert float(weights @ reply) == pytest.approx(value, abs=1e-12 * weights.sum())


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("tau", TAUS)
def test_single_precision_decides_near_ties_like_double(tau, spread):
    """Policies ever more alike: in the end all values of the game lie within the rounding of float32."""
    rng = np.random.default_rng(2)
    n, m = 6_000, 40
    base = rng.normal(size=(n, 1)) * 20
    log_densities = base + spread * rng.normal(size=(n, m)) + spread * rng.normal(size=(m,))
    weights = np.full(n, 1 / n)
    assert n * m >= rho_game._FLOAT32_FROM
    scale = 0.5 if tau == "ratio" else 0.25
    worst = [float((weights @ np.tanh(scale * (log_densities - log_densities[:, [j]]))).max()) for j in range(m)]
    game = solve_finite_game(log_densities, weights, tau)
    assert game.index == int(np.argmin(worst))
    assert game.value == pytest.approx(min(worst), abs=1e-13)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("tau", TAUS)
def test_huge_log_ratios_and_impossible_points(tau, precision, monkeypatch):
    """exp() of any of these log-densities over- or underflows; the differences decide."""
    if precision == "single":
        monkeypatch.setattr(rho_game, "_FLOAT32_FROM", 0)
    rng = np.random.default_rng(3)
    for _ in range(300):
        n, m = rng.integers(2, 10, size=2)
        log_densities = rng.choice([-5000.0, -2000.0, -100.0, 0.0, 900.0], size=(n, 1)) + rng.normal(size=(n, m))
        log_densities[rng.random((n, m)) < 0.2] -= 3000.0
        log_densities[rng.random((n, m)) < 0.2] = -np.inf
        weights = rng.random(n) + 0.1
        worst = [max(float(weights @ rho_tau(own, other, tau)) for other in log_densities.T) for own in log_densities.T]
        game = solve_finite_game(log_densities, weights, tau)
        assert game.value == pytest.approx(min(worst), abs=1e-12)
        assert game.index == np.flatnonzero(np.array(worst) <= min(worst) + 1e-12 * weights.sum())[0]


@given(
    arrays(np.float64, (40, 6), elements=st.floats(-60, 0)),
    arrays(np.float64, 40, elements=st.floats(0.01, 1)),
    st.sampled_from(TAUS),
)
@fixed
def test_rounding_of_single_precision_stays_within_its_bound(log_densities, weights, tau):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rho_game, "_FLOAT32_FROM", 0)
        game = rho_game._Elimination(log_densities, weights, tau)
    assert game.dtype == np.float32
    game._centre(0)
    for j, row in enumerate(game._rows(np.arange(6))):
        exact = game._exact(j, np.arange(6))
        assert np.abs(row - exact).max() <= game._error(j)
        assert game._error(j) < 5e-5 * weights.sum()


@pytest.mark.parametrize("tau", TAUS)
def test_ties_go_to_the_smallest_index(tau):
    column = np.log([[0.2], [0.5], [0.3]])
    weights = np.array([1.0, 2.0, 1.0])
    game = solve_finite_game(np.repeat(column, 50, axis=1), weights, tau)
    assert (game.index, game.value, game.policies) == (0, 0.0, 1)
    mirrored = np.log([[0.3, 0.7, 0.5], [0.7, 0.3, 0.5]])  # 0 and 1 are images of each other, 2 lies between
    two = solve_finite_game(mirrored[:, :2], np.array([0.5, 0.5]), tau)
    assert (two.index, two.value) == (0, pytest.approx(0.0, abs=1e-15))


def test_equal_points_are_pooled():
    rng = np.random.default_rng(4)
    log_densities = np.log(rng.random((5, 30)))
    copies = rng.integers(1, 6, size=5)
    once = solve_finite_game(log_densities, copies.astype(float), "ratio")
    often = solve_finite_game(np.repeat(log_densities, copies, axis=0), np.ones(copies.sum()), "ratio")
    assert often.points == 5
    assert (once.index, once.reply) == (often.index, often.reply)
    assert once.value == pytest.approx(often.value, abs=1e-14)


def test_a_few_rows_decide():
    rng = np.random.default_rng(5)
    theta = rng.uniform(0.05, 0.95, size=500)
    heads = np.concatenate([rng.binomial(30, 0.2, size=1900), rng.binomial(30, 0.9, size=100)])[:, None]
    game = solve_finite_game(heads * np.log(theta) + (30 - heads) * np.log1p(-theta), np.ones(2000), "ratio")
    assert game.points <= 31
    assert game.rows_evaluated <= 25


@given(arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(1, 12)), elements=st.integers(0, 1)))
@fixed
def test_groups_of_rows_are_equal_rows(matrix):
    """Ones and zeros in twelve columns, eight of which are hashed: different rows share keys all the time."""
    first, group = group_rows(matrix.astype(np.float64))
    np.testing.assert_array_equal(matrix[first][group], matrix)
    assert (group[first] == np.arange(len(first))).all()
    if matrix.shape[1] <= 8:
        assert len(first) == len(np.unique(matrix, axis=0))
