"""NoisyParity: values of theory, best in class, populations, the expert's law."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents.linear_likelihood import maximum_likelihood
from ntp_envs import ARLinearPolicy, UniformPolicy, collect, make_task
from ntp_envs.distances import distance

QUICK = examples(40)


def parity(**parameters):
    return make_task("NoisyParity", **parameters)


def brute_force_law(task):
    """Probability of every sequence, written out from the definition."""
    law = {}
    for tokens in itertools.product((0, 1), repeat=task.horizon):
        probability = 1.0
        for r in range(task.episodes):
            *bits, answer = tokens[r * (task.bits + 1) : (r + 1) * (task.bits + 1)]
            right = sum(bits[s] for s in task.subset) % 2 == answer
            probability *= 0.5**task.bits * (1 - task.noise if right else task.noise)
        law[tokens] = probability
    return law


@pytest.mark.parametrize("parameters", [{"bits": 2, "subset": (0, 1), "episodes": 2}, {"bits": 3, "subset": (1,)}, {}])
def test_expert_law_is_the_definition(parameters):
    task = parity(**parameters)
    law = brute_force_law(task)
    tokens = np.array(list(law))
    log_probs = task.expert.log_probs(np.empty((len(tokens), 0), int), tokens).sum(axis=1)
    np.testing.assert_allclose(np.exp(log_probs), list(law.values()), rtol=1e-12)


def test_the_value_of_theory():
    task = parity(bits=4, subset=(0, 1, 2), noise=0.1, episodes=1)
    best = task.best_in_class()
    assert task.uniform_hellinger2() == pytest.approx(0.211146, abs=5e-7)
    assert best.hellinger2 == task.uniform_hellinger2() and best.method == "closed form" and best.tolerance == 0
    np.testing.assert_array_equal(best.policy.theta, np.zeros(5))


@pytest.mark.parametrize("episodes", [1, 3, 60])
def test_uniform_distance_is_exact_at_any_number_of_episodes(episodes):
    task = parity(episodes=episodes)
    assert task.horizon == 5 * episodes
    exact = distance(task.expert, UniformPolicy(2), task).final if episodes < 4 else None
    automaton = distance(task.expert, task.policy_class.policy(np.zeros(5)), task)
    assert automaton.method == "automaton"
    assert automaton.final == pytest.approx(task.uniform_hellinger2(), rel=1e-10)
    if exact is not None:
        assert exact == pytest.approx(task.uniform_hellinger2(), rel=1e-10)


@QUICK
@given(seed=st.integers(0, 10**6), episodes=st.integers(1, 4))
def test_member_distance_is_the_automaton_distance(seed, episodes):
    rng = np.random.default_rng(seed)
    task = parity(bits=3, subset=tuple(rng.choice(3, size=rng.integers(1, 4), replace=False)), episodes=episodes)
    theta = rng.normal(size=4)
    exact = distance(task.expert, ARLinearPolicy(task.policy_class.features, theta), task, method="enumeration")
    assert task.member_hellinger2(theta) == pytest.approx(exact.final, rel=1e-9)


@QUICK
@given(seed=st.integers(0, 10**6), noise=st.floats(0.05, 0.45), size=st.integers(2, 4), radius=st.floats(0.1, 4.0))
def test_no_member_beats_a_closed_form(seed, noise, size, radius):
    rng = np.random.default_rng(seed)
    task = parity(subset=tuple(range(size)), noise=noise, radius=radius)
    best = task.best_in_class()
    theta = rng.normal(size=(200, 5))
    theta *= radius * rng.random((200, 1)) / np.linalg.norm(theta, axis=1, keepdims=True)
    assert best.hellinger2 <= min(task.member_hellinger2(t) for t in theta) + 1e-12
    if best.method == "closed form":
        assert best.hellinger2 == pytest.approx(task.uniform_hellinger2(), rel=1e-12)


def test_the_uniform_guess_is_best_at_noise_a_tenth_in_a_far_larger_ball():
    task = parity(radius=60.0)
    assert task.best_in_class().hellinger2 == pytest.approx(task.uniform_hellinger2(), rel=1e-12)
    assert math.isnan(task.best_in_class().tolerance)


def test_the_uniform_guess_is_not_best_without_noise_in_a_large_ball():
    """Majority agrees with a parity of three on 3/4 of the strings: worth betting on if errors cost little."""
    task = parity(noise=0.0, radius=20.0)
    against_majority = np.array([0.0, -1.0, -1.0, -1.0, 0.0]) * 11
    assert task.member_hellinger2(against_majority) < task.uniform_hellinger2() - 0.05
    assert task.best_in_class().hellinger2 <= task.member_hellinger2(against_majority)
    exact = distance(task.expert, task.best_in_class().policy, task, method="enumeration").final
    assert task.best_in_class().hellinger2 == pytest.approx(exact, rel=1e-9)


def test_a_single_bit_is_linear():
    inside = parity(subset=(2,), radius=6.0).best_in_class()
    assert inside.hellinger2 == 0.0
    theta = math.sqrt(5) * math.log(9)
    np.testing.assert_allclose(inside.policy.theta, [0, 0, 0, theta, 0])
    short = parity(subset=(2,), radius=2.0)
    assert short.best_in_class().method == "closed form" and short.best_in_class().hellinger2 > 0
    np.testing.assert_allclose(short.best_in_class().policy.theta, [0, 0, 0, 2.0, 0])
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(500, 5))
    theta *= 2.0 / np.linalg.norm(theta, axis=1, keepdims=True)
    assert short.best_in_class().hellinger2 <= min(short.member_hellinger2(t) for t in theta)


@pytest.mark.parametrize("episodes", [1, 2, 40])
def test_population_log_loss_is_uniform(episodes):
    task = parity(episodes=episodes)
    demos = task.population()
    assert demos.exactness.everything == (episodes <= 2)
    assert demos.exactness.covers(1, task.policy_class) and demos.exactness.covers(5, task.policy_class)
    assert demos.exactness.covers(2, task.policy_class) == (episodes <= 2)
    theta, report = maximum_likelihood(task.policy_class.features, task.radius, demos)
    np.testing.assert_allclose(theta, 0, atol=1e-9)
    assert report.converged and report.objective == pytest.approx(task.horizon * math.log(2))


def test_representatives_have_the_same_chunk_law_as_the_complete_population():
    """Weighted counts of whole episodes agree between the two populations, episode by episode."""
    complete = parity(bits=2, subset=(0, 1), episodes=2).population()
    representatives = parity(bits=2, subset=(0, 1), episodes=6).population()
    assert complete.exactness.everything and not representatives.exactness.everything
    for demos in (complete, representatives):
        weights = demos.normalised_weights()
        codes = demos.tokens.reshape(len(demos), -1, 3) @ np.array([4, 2, 1])
        expected = [0.25 * p for p in (0.9, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1)]
        for episode in codes.T:
            np.testing.assert_allclose(np.bincount(episode, weights=weights, minlength=8), expected, rtol=1e-12)


def test_success_means_every_answer_is_the_true_parity():
    task = parity(bits=2, subset=(0, 1), episodes=2)
    tokens = np.array([[0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0]])
    assert task.success(np.empty((3, 0), int), tokens).tolist() == [1.0, 0.0, 0.0]
    assert task.true_parities(tokens).tolist() == [[1, 0]] * 3
    demos = collect(task, 4000, np.random.default_rng(0))
    assert task.success(demos.prompts, demos.tokens).mean() == pytest.approx(0.81, abs=0.03)
