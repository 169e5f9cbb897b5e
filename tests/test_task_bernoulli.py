"""BernoulliMixture and Contamination: published ratios, closed forms against enumeration, populations."""

import decimal
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.stats import binom

from ntp_envs import (
    BernoulliMixturePolicy,
    BernoulliPolicy,
    NotTractableError,
    Task,
    collect,
    make_task,
    register_task,
    task_names,
)
from ntp_envs.distances import distance
from ntp_envs.tasks.bernoulli import count_distance


@pytest.mark.parametrize(
    ("horizon", "tv_ratio", "hellinger_ratio"),
    [
        (10, 1.12, 1.00),
        (100, 2.13, 1.03),
        (1000, 5.53, 1.40),
        pytest.param(10_000, 16.28, 4.93, marks=pytest.mark.slow),
    ],
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


# -- Contamination -----------------------------------------------------------------------------------------------------


SETTINGS = examples(25)
probability = st.floats(0.02, 0.98)


def law(policy, horizon):
    """Probabilities of all (prompt, sequence) pairs, the prompt a uniform bit."""
    rows = np.array(list(itertools.product(range(2), repeat=1 + horizon)))
    return 0.5 * np.exp(policy.log_probs(rows[:, :1], rows[:, 1:]).sum(axis=1))


@given(eps=probability, p=probability, q=probability, theta=probability, horizon=st.integers(1, 7))
@SETTINGS
def test_count_distances_equal_enumeration(eps, p, q, theta, horizon):
    task = make_task("Contamination", horizon=horizon, eps=eps, p=p, q=q, theta_min=0.01)
    expert, member = law(task.expert, horizon), law(BernoulliPolicy(theta, on="flips"), horizon)
    brute = {
        "hellinger2": ((np.sqrt(expert) - np.sqrt(member)) ** 2).sum(),
        "tv": 0.5 * np.abs(expert - member).sum(),
        "kl": (expert * np.log(expert / member)).sum(),
    }
    for metric, value in brute.items():
        assert count_distance(task.expert, theta, horizon, metric) == pytest.approx(value, rel=1e-9, abs=1e-13)


@given(eps=probability, p=probability, q=probability, horizon=st.integers(1, 40))
@SETTINGS
@pytest.mark.slow
def test_best_in_class_beats_a_fine_grid(eps, p, q, horizon):
    task = make_task("Contamination", horizon=horizon, eps=eps, p=p, q=q, theta_min=0.01)
    best = task.best_in_class()
    grid = [count_distance(task.expert, theta, horizon) for theta in np.linspace(0.01, 0.99, 120)]
    assert best.hellinger2 <= min(grid) + 1e-12
    assert best.hellinger2 == pytest.approx(count_distance(task.expert, best.policy.theta, horizon), abs=1e-14)


@given(eps=probability, p=probability, q=probability, horizon=st.integers(1, 8), data=st.data())
@SETTINGS
def test_population_has_the_chunk_laws_it_claims(eps, p, q, horizon, data):
    """Number of flips in each chunk: weights of the population against the enumerated law of the expert."""
    chunk = data.draw(st.integers(1, horizon))
    task = make_task("Contamination", horizon=horizon, eps=eps, p=p, q=q, theta_min=0.01)
    demos = task.population(chunk=chunk)
    rows = np.array(list(itertools.product(range(2), repeat=1 + horizon)))
    truth = law(task.expert, horizon)
    assert demos.exactness.units == {1, chunk}
    for piece in demos.chunks(chunk):
        length = piece.stop - piece.start
        seen = task.policy_class.events(demos.prompts, demos.tokens)[:, piece].sum(axis=1)
        true = task.policy_class.events(rows[:, :1], rows[:, 1:])[:, piece].sum(axis=1)
        np.testing.assert_allclose(
            np.bincount(seen, weights=demos.normalised_weights(), minlength=length + 1),
            np.bincount(true, weights=truth, minlength=length + 1),
            atol=1e-12,
        )


@pytest.mark.parametrize(
    ("horizon", "chunk"), [(64, None), (64, 33), (1000, 700), (50, 49), (50, 26), (9, 1), (64, 16)]
)
def test_a_population_has_the_size_that_is_said(horizon, chunk):
    """At most 2 (H + 1), and with a chunk 2 (K + r + 1): not one for each pair of counts."""
    size = chunk or horizon
    found = len(make_task("Contamination", horizon=horizon, p=0.1, q=0.6).population(chunk=chunk))
    assert size + 1 <= found / 2 <= size + horizon % size + 1 <= horizon + 1


def test_rare_counts_keep_their_weight_in_a_short_last_chunk():
    """Weights far below 1e-16, of full chunks and of the shorter one alike, keep their relative accuracy."""
    task = make_task("Contamination", horizon=17, eps=1e-3, p=1e-5, q=1e-4)
    demos = task.population(chunk=10)
    weights, events = demos.normalised_weights(), task.policy_class.events(demos.prompts, demos.tokens)
    for piece, length in ((slice(0, 10), 10), (slice(10, 17), 7)):
        seen = np.bincount(events[:, piece].sum(axis=1), weights=weights, minlength=length + 1)
        law = sum(w * binom.pmf(np.arange(length + 1), length, t) for w, t in ((1 - 1e-3, 1e-5), (1e-3, 1e-4)))
        np.testing.assert_allclose(seen, law, rtol=1e-12)


@pytest.mark.parametrize("horizon", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_error_of_the_best_in_class_is_within_its_tolerance(horizon):
    """The two components are mutually singular in the limit: the best member is the heavier one, at 2 (1 - sqrt .7)."""
    best = make_task("Contamination", horizon=horizon, eps=0.3, p=0.1, q=0.4).best_in_class()
    limit = 2 * (1 - np.sqrt(0.7))
    assert abs(best.hellinger2 - limit) <= best.tolerance < 1e-10


def test_tasks_of_others_by_path_and_by_registration():
    by_path = make_task("ntp_envs.tasks.bernoulli:Contamination", horizon=3)
    assert by_path == make_task("Contamination", horizon=3)
    with pytest.raises(TypeError, match="frozen dataclass"):
        register_task(Task)
    family = type("Mine", (type(by_path),), {})
    try:
        assert register_task(family) is family
        assert "Mine" in task_names() and make_task("Mine", horizon=2).horizon == 2
    finally:
        from ntp_envs.tasks import registry

        registry._tasks.registered.pop("Mine", None)


@pytest.mark.parametrize("on", ["tokens", "flips"])
@pytest.mark.parametrize("cells", [1 << 19, 40])  # room for all steps, and for few
def test_laws_of_several_steps_are_those_of_each(on, cells, monkeypatch):
    monkeypatch.setattr("ntp_envs.automata.LAWS_CELLS", cells)
    together, alone = (BernoulliMixturePolicy([0.0, 0.3, 0.9], [0.1, 0.6, 0.3], horizon=12, on=on) for _ in range(2))
    states = np.arange(together.n_states)[::2]
    expected = [alone.emissions(step)[states] for step in range(12)]
    together.emissions(4)
    for steps in (range(3, 9), range(12)):
        found = together.emissions_during(states, steps)
        np.testing.assert_array_equal(found, expected[steps.start : steps.stop])
        found[:] = 0.0  # one's own
    assert len(together._laws) * together.n_states <= cells
    np.testing.assert_array_equal(together.emissions_in(states[:1], 5), expected[5][:1])
