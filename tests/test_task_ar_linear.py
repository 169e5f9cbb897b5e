"""ARLinear: the dial, exact distances and their gradient, best in class, populations."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import approx_fprime

from agents.linear_likelihood import maximum_likelihood
from ntp_envs import collect, make_task
from ntp_envs.distances import distance

KINDS = ("interaction", "contamination")
QUICK = examples(20)


def linear(**parameters):
    return make_task("ARLinear", **parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [2, 3])
def test_at_zero_the_expert_is_a_member(kind, vocab_size):
    task = linear(misspecification=0.0, kind=kind, vocab_size=vocab_size, horizon=64)
    best = task.best_in_class()
    assert (best.hellinger2, best.tolerance, best.method) == (0.0, 0.0, "closed form")
    assert distance(task.expert, best.policy, task).final == pytest.approx(0.0, abs=1e-13)
    assert np.linalg.norm(task.member) <= task.radius


@pytest.mark.parametrize("kind", KINDS)
def test_the_dial_moves_the_expert_out_of_the_class(kind):
    values = [linear(kind=kind, misspecification=m).best_in_class().hellinger2 for m in (0.0, 0.5, 1.0)]
    assert values[0] == 0 and all(after > before + 1e-4 for before, after in pairwise(values))


@QUICK
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    dial=st.floats(0, 1),
    vocab_size=st.integers(2, 3),
    width=st.integers(2, 3),
    horizon=st.integers(1, 6),
)
def test_distance_and_gradient(seed, kind, dial, vocab_size, width, horizon):
    task = linear(seed=seed, kind=kind, misspecification=dial, vocab_size=vocab_size, width=width, horizon=horizon)
    theta = np.random.default_rng(seed).normal(size=task.features.dimension) * 0.5
    policy = task.policy_class.policy(theta)
    for method in ("enumeration", "automaton"):
        exact = distance(task.expert, policy, task, method=method).final
        assert task.member_hellinger2(theta) == pytest.approx(exact, rel=1e-9, abs=1e-14)
    objective = task._affinity(horizon)
    numeric = approx_fprime(theta, lambda t: objective(t)[0], 1e-7)
    np.testing.assert_allclose(objective(theta)[1], numeric, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_no_other_member_found_is_better(kind, vocab_size):
    task = linear(kind=kind, misspecification=0.5, vocab_size=vocab_size, horizon=32 // (vocab_size - 1))
    best = task.best_in_class()
    assert math.isnan(best.tolerance) and best.method.startswith("local search")
    assert distance(task.expert, best.policy, task).final == pytest.approx(best.hellinger2, rel=1e-9)
    assert np.linalg.norm(best.policy.theta) <= task.radius * (1 + 1e-9)
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(100, task.features.dimension))
    draws *= rng.random((100, 1)) * task.radius / np.linalg.norm(draws, axis=1, keepdims=True)
    near = best.policy.theta + 0.05 * rng.normal(size=draws.shape)
    near *= np.minimum(1, task.radius / np.linalg.norm(near, axis=1, keepdims=True))
    fit, _ = maximum_likelihood(task.features, task.radius, collect(task, 2000, rng))
    others = [task.member, fit, *draws, *near]
    assert best.hellinger2 <= min(task.member_hellinger2(theta) for theta in others)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_contamination_makes_log_loss_worse_with_the_horizon(seed):
    factors = []
    for horizon in (16, 64):
        task = linear(kind="contamination", misspecification=1.0, horizon=horizon, seed=seed, radius=8.0)
        demos = collect(task, 3000, np.random.default_rng(0))
        theta, _ = maximum_likelihood(task.features, task.radius, demos)
        factors.append(task.member_hellinger2(theta) / task.best_in_class().hellinger2)
    assert factors[0] > 1.2 and factors[1] > 1.5 * factors[0]


def test_contaminated_documents_are_marked_by_their_prompt_only():
    task = linear(kind="contamination", misspecification=1.0, vocab_size=3, eps=0.2)
    prompts, law = task.prompt_law()
    assert prompts.ravel().tolist() == [0, 1, 2] and law.tolist() == pytest.approx([0.4, 0.4, 0.2])
    tails = np.array([[0, 1, 2]] * 3)
    rows = task.expert.next_log_probs(prompts, tails)
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-12)
    assert np.abs(rows[2] - rows[0]).max() > 0.1
    seen = task.policy_class.policy(task.member).next_log_probs(prompts, tails)
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], seen.shape), atol=1e-12)


def test_the_interaction_favours_the_sum_of_the_window():
    plain, moved = (linear(misspecification=m, vocab_size=3, width=2, radius=4.0) for m in (0.0, 1.0))
    prompts, tokens = np.zeros((4, 1), int), np.array([[0, 0], [1, 2], [2, 2], [2, 0]])
    gain = moved.expert.next_log_probs(prompts, tokens) - plain.expert.next_log_probs(prompts, tokens)
    for row, answer in zip(gain, tokens.sum(axis=1) % 3):
        others = np.delete(row, answer)
        np.testing.assert_allclose(others, others[0], atol=1e-12)
        assert row[answer] - others[0] == pytest.approx(1.0)  # radius / 4


@pytest.mark.parametrize("kind", KINDS)
def test_population_is_the_complete_law(kind):
    task = linear(kind=kind, horizon=6)
    demos = task.population()
    assert demos.exactness.everything and demos.weights.sum() == pytest.approx(1.0)
    first = np.bincount(demos.prompts[:, 0], weights=demos.weights)
    np.testing.assert_allclose(first, task.prompt_law()[1])
    member = linear(kind=kind, horizon=6, misspecification=0.0)
    theta, _ = maximum_likelihood(task.features, task.radius, member.population(), tol=1e-12)
    assert member.member_hellinger2(theta) < 1e-10  # well specified: the population fit is the expert
    assert len(linear(kind=kind, horizon=15).population()) == 1 << 16


def test_the_seed_draws_the_member():
    np.testing.assert_array_equal(linear(seed=3).member, linear(seed=3).member)
    assert not np.array_equal(linear(seed=3).member, linear(seed=4).member)
