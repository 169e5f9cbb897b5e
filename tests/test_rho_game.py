"""The rho games: finite ones against brute force in other arithmetic, one parameter against dense searches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit, xlog1py, xlogy

from agents import rho_game
from agents.rho_game import _Game, group_rows, rho_tau, solve_bernoulli_game, solve_finite_game
from ntp_envs.arrays import ROUNDING

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


@pytest.mark.parametrize("precision", ["single", pytest.param("double", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tau", TAUS)
def test_same_argmin_as_brute_force_on_small_games(tau, precision, monkeypatch):
    """Densities from a short list, zero included, so that ties and equal rows and columns are common."""
    if precision == "single":
        monkeypatch.setattr(rho_game, "_FLOAT32_FROM", 0)
    rng = np.random.default_rng(1)
    values = np.array([0.0, 1e-30, 1e-6, 0.01, 0.25, 0.3, 0.5, 1.0])
    for _ in range(500):
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


@pytest.mark.parametrize(
    "spread", [pytest.param(1.0, marks=pytest.mark.slow), pytest.param(1e-2, marks=pytest.mark.slow), 1e-6, 1e-7, 1e-8]
)
@pytest.mark.parametrize("tau", TAUS)
def test_single_precision_decides_near_ties_like_double(tau, spread):
    """Policies ever more alike: in the end float32 does not tell the values of the game apart, and float64 does."""
    rng = np.random.default_rng(2)
    n, m = 10_000, 20
    base = rng.normal(size=(n, 1)) * 20
    log_densities = base + spread * rng.normal(size=(n, m))
    weights = np.full(n, 1 / n)
    assert n * m >= rho_game._FLOAT32_FROM
    scale = 0.5 if tau == "ratio" else 0.25
    worst = [float((weights @ np.tanh(scale * (log_densities - log_densities[:, [j]]))).max()) for j in range(m)]
    assert np.diff(np.sort(worst))[0] > 10 * ROUNDING  # no tie
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
    for _ in range(100):
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


# == one parameter =====================================================================================================


few = examples(40)


def payoffs(events, lengths, weights, theta, others, tau):
    """F(theta, others), another way: densities of each unit, by `rho_tau`."""
    density = lambda t: xlogy(events[:, None], t) + xlog1py((lengths - events)[:, None], -t)  # noqa: E731
    return weights @ rho_tau(density(np.array([theta])), density(others), tau)


def worst_case(events, lengths, weights, theta, ends, tau):
    """max over replies: a grid at the scale of 1 / length around theta, then scipy at the highest peaks."""
    near = logit(theta) + np.outer([-1, 1], np.geomspace(1e-2, 1e2, 1000) / lengths.max()).ravel()
    replies = np.unique(np.clip(np.concatenate([expit(near), expit(np.linspace(-30, 30, 2000)), ends]), *ends))
    values = payoffs(events, lengths, weights, theta, replies, tau)
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    peaks = np.flatnonzero((values > padded[:-2]) & (values >= padded[2:]) & (values > 0.9 * values.max()))
    found = [0.0, float(values.max())]  # theta itself is a reply
    for peak in peaks[np.argsort(-values[peaks])][:6]:
        cell = replies[max(peak - 1, 0)], replies[min(peak + 1, len(replies) - 1)]
        best = minimize_scalar(
            lambda reply: -payoffs(events, lengths, weights, theta, np.array([reply]), tau)[0],
            bounds=cell,
            method="bounded",
            options={"xatol": 1e-6 * (cell[1] - cell[0])},
        )
        found.append(-float(best.fun))
    return max(found)


def random_game(rng):
    length = int(rng.integers(2, 13))
    units = int(rng.integers(1, 8))
    events = rng.integers(0, length + 1, size=units)
    lengths = np.full(units, length)
    lengths[0] = max(events[0], rng.integers(1, length + 1))  # a shorter last chunk
    return events, lengths, rng.random(units) ** 3 + 1e-3


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))])
def test_certified_against_dense_searches(seed, tau):
    events, lengths, weights = random_game(np.random.default_rng(seed))
    low, high = 0.003, 0.997
    game = solve_bernoulli_game(events, lengths, weights, (low, high), tau)
    thetas = expit(np.linspace(logit(low), logit(high), 3001))
    assert low <= game.theta <= high
    # no reply beats the reported value, and the reported reply attains it
    assert payoffs(events, lengths, weights, game.theta, thetas, tau).max() <= game.value + 1e-9
    attained = payoffs(events, lengths, weights, game.theta, np.array([game.reply]), tau)[0]
    assert attained == pytest.approx(game.value, abs=1e-9)
    # no other theta has a smaller worst case (a dense search for replies finds all but a step's square of it)
    others = [payoffs(events, lengths, weights, theta, thetas, tau).max() for theta in thetas[::15]]
    assert min(others) >= game.value * (1 - 1e-3) - 1e-6 * weights.sum()
    assert game.gap <= 1e-6 * game.value + 1e-12


@given(
    st.integers(1, 999),
    st.floats(0.0, 0.4),
    st.sampled_from(["ratio", "psi"]),
)
@few
def test_one_token_a_unit_is_maximum_likelihood(ones, theta_min, tau):
    """Fact 1 for the convex class of all Bernoulli laws (psi has the same first-order conditions)."""
    mean = ones / 1000
    game = solve_bernoulli_game(
        np.array([0, 1]), np.array([1, 1]), np.array([1 - mean, mean]), (theta_min, 1 - theta_min), tau
    )
    assert game.theta == pytest.approx(np.clip(mean, theta_min, 1 - theta_min), rel=1e-9)
    assert game.value <= 1e-12


@pytest.mark.parametrize("tau", ["ratio", "psi"])
def test_in_a_well_specified_population_the_truth_loses_to_nobody(tau):
    from scipy.stats import binom

    k = np.arange(21)
    game = solve_bernoulli_game(k, np.full(21, 20), binom.pmf(k, 20, 0.37), (0.0, 1.0), tau)
    assert game.theta == pytest.approx(0.37, rel=1e-9)
    assert game.value <= 1e-12


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize(
    ("events", "theta_range", "expected"),
    [
        ([0, 0], (0.0, 1.0), 0.0),
        ([7, 7], (0.0, 1.0), 1.0),
        ([0, 0], (1e-5, 0.5), 1e-5),
        ([7, 7], (0.0, 0.25), 0.25),
        ([3, 3], (0.3, 0.3), 0.3),
        ([0, 0], (0.0, 1e-40), 0.0),
    ],
)
def test_all_units_alike(events, theta_range, expected, tau):
    game = solve_bernoulli_game(np.array(events), np.array([7, 7]), np.array([1.0, 2.0]), theta_range, tau)
    assert (game.theta, game.value) == (expected, 0.0)


def test_parameters_at_zero_lose_every_unit_with_an_event():
    """theta = 0 is a member; with half the weight on (0 of 1) and half on (1 of 1) it is not the best one."""
    k, m, w = np.array([0, 1]), np.array([1, 1]), np.array([0.5, 0.5])
    assert solve_bernoulli_game(k, m, w, (0.0, 1.0), "ratio").theta == pytest.approx(0.5)
    assert payoffs(k, m, w, 0.0, np.array([0.5]), "ratio")[0] == pytest.approx(0.5 * (-1 / 3) + 0.5)


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize(
    "length", [3, pytest.param(20, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.slow)]
)
def test_no_better_parameter_nearby_at_any_scale(length, tau):
    """A zoom that loses the minimum would leave a smaller worst case beside the solution; rounding decides nothing."""
    from scipy.stats import binom

    rng = np.random.default_rng(length)
    k, lengths = np.arange(length + 1), np.full(length + 1, length)
    for theta_min in (1e-4, 1e-6, 0.0):
        eps, p, q = 10 ** rng.uniform(-3, -0.7), 10 ** rng.uniform(-4, -1), rng.uniform(0.3, 1)
        weights = (1 - eps) * binom.pmf(k, length, p) + eps * binom.pmf(k, length, q)
        game = solve_bernoulli_game(k, lengths, weights, (theta_min, 1 - theta_min), tau)
        assert game.gap <= 1e-6 * game.value + 1e-12
        jittered = solve_bernoulli_game(
            k, lengths, weights * (1 + 1e-13 * rng.normal(size=length + 1)), (theta_min, 1 - theta_min), tau
        )
        assert jittered.value == pytest.approx(game.value, rel=2e-6, abs=1e-12)
        centre = logit(game.theta)
        for away in np.outer([-1, 1], np.geomspace(1e-7, 1, 8)).ravel():
            theta = float(np.clip(expit(centre + away), theta_min, 1 - theta_min))
            worst = worst_case(k, lengths, weights, theta, (theta_min, 1 - theta_min), tau)
            assert worst >= game.value * (1 - 1e-6) - 1e-12


def random_shares(rng):
    """A few distinct counts that share 1000 sequences, or arbitrary weights; a reply inside and one at an end of the
    class are all but equally good at the solution of many of them."""
    points = int(rng.integers(2, 5))
    lengths = np.full(points, rng.integers(4, 65)) if rng.random() < 0.7 else rng.integers(1, 65, size=points)
    events, shares = rng.integers(0, lengths + 1), rng.dirichlet(np.ones(points))
    weights = rng.multinomial(1000, shares) / 1000 if rng.random() < 0.5 else shares ** rng.choice([1, 4])
    ends = [(0.0, 1.0), (0.01, 0.99), (1e-5, 1 - 1e-5)][rng.integers(3)]
    some = weights > 0
    return events[some], lengths[some], weights[some], ends, ["ratio", "psi"][rng.integers(2)]


A_STAIRCASE = (np.array([8, 32]), np.array([32, 32]), np.array([0.48, 0.52]), (0.0, 1.0), "ratio")
NEARLY_TIED = (np.array([64, 0, 21]), np.array([64] * 3), np.array([0.525, 0.433, 0.042]), (0.0, 1.0), "psi")


def check_certificate(events, lengths, weights, ends, tau, rng):
    game = solve_bernoulli_game(events, lengths, weights, ends, tau)
    rounding = 1e-12 * weights.sum()
    assert game.gap <= 1e-6 * game.value + rounding
    if not 0 < game.theta < 1:
        assert game.value <= rounding or len(np.unique(events / lengths)) > 1
        return
    worst = worst_case(events, lengths, weights, game.theta, ends, tau)
    assert worst <= game.value + game.reply_gap + rounding
    for away in rng.choice([-1, 1], 3) * 10 ** rng.uniform(-7, 1, 3):
        theta = float(np.clip(expit(logit(game.theta) + away), *ends))
        if 0 < theta < 1:
            assert worst_case(events, lengths, weights, theta, ends, tau) >= game.value - game.slack - rounding


@pytest.mark.parametrize("case", [A_STAIRCASE, NEARLY_TIED], ids=["staircase", "nearly tied"])
def test_a_reply_inside_that_nearly_ties_with_an_end_of_the_class(case):
    check_certificate(*case, np.random.default_rng(0))


@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 220), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_the_certificate_bounds_what_a_dense_search_finds(seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        check_certificate(*random_shares(rng), rng)


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_bounds_over_cells_hold_inside_them(seed):
    """Finite, infinite and tiny cells, seen from finite log-odds and from the ends of the class."""
    rng = np.random.default_rng(seed)
    events, lengths, weights, _, tau = random_shares(rng)
    game = _Game(np.array([[0.0, 1.0]]), np.column_stack([lengths - events, events]), weights, tau, (-np.inf, np.inf))
    own = rng.choice([rng.normal(scale=3.0), rng.normal(scale=20.0), -np.inf, np.inf], p=[0.5, 0.3, 0.1, 0.1])
    low = (own if np.isfinite(own) else 0.0) + rng.normal(scale=rng.choice([1e-9, 1e-3, 1.0, 10.0]))
    edges = [-np.inf, low, low + 10 ** rng.uniform(-9, 1.5), np.inf]
    left, right, bound = game.bounds(game.laws(np.array([own])), np.array(edges[:-1]), np.array(edges[1:]))[:, 0]
    step = np.concatenate([np.linspace(0, 1, 41), np.geomspace(1e-9, 1, 10)])
    density = lambda eta: sum(  # noqa: E731
        np.where(n[:, None] > 0, np.maximum(n[:, None], 1) * log_expit(sign * np.atleast_1d(eta)), 0.0)
        for sign, n in ((1, events), (-1, lengths - events))
    )
    for cell, (a, b) in enumerate(itertools.pairwise(edges)):
        a, b = max(a, min(b, 0.0) - 40.0), min(b, max(a, 0.0) + 40.0)
        met = weights @ rho_tau(density(own), density(a + step * (b - a)), tau)
        assert met.max() <= bound[cell] + 1e-12 * weights.sum()
        assert bound[cell] >= max(left[cell], right[cell])


def test_order_and_copies_of_units_do_not_matter():
    rng = np.random.default_rng(6)
    events, lengths, weights = random_game(rng)
    order = rng.permutation(len(events))
    one = solve_bernoulli_game(events, lengths, weights, (0.01, 0.99), "ratio")
    twice = [np.concatenate([array[order], array]) for array in (events, lengths, weights / 2)]
    assert solve_bernoulli_game(*twice, (0.01, 0.99), "ratio").theta == pytest.approx(one.theta, rel=1e-6)
