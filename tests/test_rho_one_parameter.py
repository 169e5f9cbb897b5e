"""The one-parameter game: certificates against dense searches, and the cases with a known answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit, xlog1py, xlogy

from agents.rho_game import _Game, rho_tau, solve_bernoulli_game

fixed = examples(40)


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
@pytest.mark.parametrize("seed", range(12))
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
@fixed
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
@pytest.mark.parametrize("length", [3, 7, 20, 64, 200])
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
@fixed
def test_bounds_over_cells_hold_inside_them(seed):
    """Finite, infinite and tiny cells, seen from finite log-odds and from the ends of the class."""
    rng = np.random.default_rng(seed)
    events, lengths, weights, _, tau = random_shares(rng)
    game = _Game(np.array([[0.0, 1.0]]), np.column_stack([lengths - events, events]), weights, tau, (-np.inf, np.inf))
    own = rng.choice([rng.normal(scale=3.0), rng.normal(scale=20.0), -np.inf, np.inf], p=[0.5, 0.3, 0.1, 0.1])
    low = (own if np.isfinite(own) else 0.0) + rng.normal(scale=rng.choice([1e-9, 1e-3, 1.0, 10.0]))
    edges = [-np.inf, low, low + 10 ** rng.uniform(-9, 1.5), np.inf]
    left, right, bound = game.bounds(np.array([own]), np.array(edges[:-1]), np.array(edges[1:]))[:, 0]
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
