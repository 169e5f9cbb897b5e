"""BernoulliMixture: published ratios, closed forms against enumeration, populations."""

import decimal
import math
import tracemalloc

import numpy as np
import pytest

from ntp_envs import BernoulliPolicy, NotTractableError, collect, make_task
from ntp_envs.distances import distance


@pytest.mark.parametrize(
    ("horizon", "tv_ratio", "hellinger_ratio"),
    [(10, 1.12, 1.00), (100, 2.13, 1.03), (1000, 5.53, 1.40), (10_000, 16.28, 4.93)],
)
def test_ratios_of_log_loss_to_the_best(horizon, tv_ratio, hellinger_ratio):
    task = make_task("BernoulliMixture", horizon=horizon, weight=0.01, q=0.7)
    theta = task.log_loss_theta()
    assert theta == pytest.approx(0.502, abs=1e-15)
    assert task.distance_to(theta, "tv") / task.best_theta("tv").value == pytest.approx(tv_ratio, abs=5e-3)
    assert task.distance_to(theta) / task.best_in_class().hellinger2 == pytest.approx(hellinger_ratio, abs=5e-3)


def test_closed_forms_agree_with_enumeration():
    task = make_task("BernoulliMixture", horizon=9, weight=0.2, q=0.9)
    for theta in (0.3, 0.58):
        for metric in ("hellinger2", "tv", "kl"):
            exact = distance(task.expert, BernoulliPolicy(theta), task, metric=metric, method="enumeration").final
            assert task.distance_to(theta, metric) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("metric", ["hellinger2", "tv", "kl"])
def test_nothing_on_a_fine_grid_beats_the_best(metric):
    task = make_task("BernoulliMixture", horizon=40, weight=0.2, q=0.9)
    grid = min(task.distance_to(theta, metric) for theta in np.linspace(0.001, 0.999, 1999))
    best = task.best_in_class().hellinger2 if metric == "hellinger2" else task.best_theta(metric).value
    assert best <= grid + 1e-12
    if metric == "kl":  # its minimiser is the log-loss theta
        assert task.best_theta("kl").theta == pytest.approx(task.log_loss_theta(), abs=1e-6)


def test_population_gives_log_loss_its_theta():
    task = make_task("BernoulliMixture", horizon=12, weight=0.3, q=0.9)
    demos = task.population()
    assert demos.normalised_weights() @ demos.tokens.mean(axis=1) == pytest.approx(task.log_loss_theta())
    assert demos.exactness.covers(1, task.policy_class) and demos.exactness.covers(12, task.policy_class)
    assert not demos.exactness.covers(3, task.policy_class)
    assert task.population(chunk=3).exactness.covers(3, task.policy_class)


def test_samples_have_the_right_mean_and_clumping():
    task = make_task("BernoulliMixture", horizon=50, weight=0.3, q=0.9)
    ones = collect(task, 4000, np.random.default_rng(0)).tokens.sum(axis=1)
    assert ones.mean() / 50 == pytest.approx(task.log_loss_theta(), abs=0.01)
    assert (ones > 37).mean() == pytest.approx(0.3, abs=0.03)  # the second kind; sd of the share is .007


def test_a_long_horizon_refuses_a_population_of_its_size():
    task = make_task("BernoulliMixture", horizon=10_000)
    with pytest.raises(NotTractableError, match="closed forms"):
        task.population()
    assert len(task.population(chunk=8)) == 9


@pytest.mark.parametrize(
    ("name", "parameters", "chunk"),
    [
        ("BernoulliMixture", {"horizon": 20_000}, None),
        ("BernoulliMixture", {"horizon": 20_001}, 12_000),
        ("Contamination", {"horizon": 20_000}, 1_001),
        ("ConsistencyGame", {"horizon": 1 << 13, "eps": 1e-6}, None),
        ("NoisyParity", {"bits": 14, "subset": (0, 1), "episodes": 1_000}, None),
        ("RareMode", {"horizon": 10**9}, None),
        ("Tightrope", {"horizon": 10**9, "eps": 1e-3}, None),
    ],
)
def test_a_population_too_large_is_refused_before_it_takes_memory(name, parameters, chunk):
    task = make_task(name, **parameters)
    tracemalloc.start()
    try:
        with pytest.raises(NotTractableError, match=r"documents of \d+ tokens, more than 67108864 tokens"):
            task.population(chunk=chunk)
        assert tracemalloc.get_traced_memory()[1] < 5e7  # the smallest of them would take 1.1 GB
    finally:
        tracemalloc.stop()


# -- distances that are tiny -------------------------------------------------------------------------------------------


def by_decimals(horizon, weight, q, theta):
    """Distances between the mixture and Bern(theta)^T in 60 digits, written out."""
    with decimal.localcontext() as context:
        context.prec = 60
        w, q, theta, half = (decimal.Decimal(x) for x in (weight, q, theta, 0.5))
        found = dict.fromkeys(("kl", "tv", "hellinger2"), decimal.Decimal(0))
        for k in range(horizon + 1):
            choose = math.comb(horizon, k)
            p = choose * ((1 - w) * half**horizon + w * q**k * (1 - q) ** (horizon - k))
            r = choose * theta**k * (1 - theta) ** (horizon - k)
            found["kl"] += p * (p / r).ln()
            found["tv"] += abs(p - r) / 2
            found["hellinger2"] += (p.sqrt() - r.sqrt()) ** 2
        return {metric: float(value) for metric, value in found.items()}


@pytest.mark.parametrize(
    ("horizon", "weight", "q", "theta"),
    [
        (64, 1e-9, 0.50001, 0.5),
        (1000, 1e-14, 0.7, 0.5),
        (300, 0.01, 0.5 + 1e-9, 0.5),
        (64, 0.3, 0.9, 0.4),
        (200, 1e-3, 0.99, 1e-4),
        (30, 0.5, 0.6, 0.999),
        (1, 0.5, 0.6, 0.7),
    ],
)
def test_distances_keep_their_relative_accuracy(horizon, weight, q, theta):
    task = make_task("BernoulliMixture", horizon=horizon, weight=weight, q=q)
    for metric, value in by_decimals(horizon, weight, q, theta).items():
        assert task.distance_to(theta, metric) == pytest.approx(value, rel=1e-12 + 1e-14 * horizon, abs=1e-17 * value)


def test_tiny_distance_at_a_long_horizon():
    """To leading order KL is ``H w^2 d^2 / (2 theta (1 - theta))`` and the squared Hellinger distance half of that."""
    horizon, weight, off = 10_000, 0.01, 2.0**-30
    task = make_task("BernoulliMixture", horizon=horizon, weight=weight, q=0.5 + off)
    kl = horizon * (weight * off) ** 2 / (2 * 0.25)
    assert task.distance_to(0.5, "kl") == pytest.approx(kl, rel=1e-4)
    assert task.distance_to(0.5) == pytest.approx(kl / 2, rel=1e-4)
