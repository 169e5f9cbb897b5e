"""Contamination: closed forms against brute force, and a population that is exact for what it says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.stats import binom

from ntp_envs import BernoulliPolicy, Task, make_task, register_task, task_names
from ntp_envs.tasks.bernoulli import count_distance

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
def test_best_in_class_beats_a_fine_grid(eps, p, q, horizon):
    task = make_task("Contamination", horizon=horizon, eps=eps, p=p, q=q, theta_min=0.01)
    best = task.best_in_class()
    grid = [count_distance(task.expert, theta, horizon) for theta in np.linspace(0.01, 0.99, 400)]
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


@pytest.mark.parametrize("horizon", [2000, 20_000])
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
