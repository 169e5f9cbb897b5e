"""Tightrope: costs and distance against simulation, enumeration and the published numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import make_task
from ntp_envs.automata import TableAutomaton

SETTINGS = examples(30)


def walk(tokens, recoverable):
    """Steps off the rope of one token sequence, told as a story."""
    off, cost = False, 0
    for token in tokens:
        if token == 1:
            off = True
        elif recoverable:
            off = False
        cost += off
    return cost


def expectation(policy, horizon, values):
    rows = np.array(list(itertools.product(range(2), repeat=horizon)))
    return np.exp(policy.log_probs(rows[:, :0], rows).sum(axis=1)) @ [values(row) for row in rows]


def test_published_values():
    task = make_task("Tightrope", horizon=256, eps=1e-3)
    assert task.bc_cost() == pytest.approx(30.269, abs=5e-4)
    assert task.dagger_cost() == pytest.approx(0.25575, abs=5e-6)
    assert task.best_in_class().hellinger2 == pytest.approx(0.24041, abs=5e-6)


@given(horizon=st.integers(1, 9), eps=st.floats(0.001, 0.499))
@SETTINGS
def test_costs_are_those_of_the_members(horizon, eps):
    for_good = make_task("Tightrope", horizon=horizon, eps=eps)
    recoverable = make_task("Tightrope", horizon=horizon, eps=eps, recoverable=True)
    stays_down, climbs = recoverable.policy_class
    slips = for_good.best_in_class().policy
    assert slips.theta == eps
    for task, policy, cost in [
        (for_good, slips, for_good.bc_cost()),
        (recoverable, stays_down, recoverable.bc_cost()),
        (recoverable, climbs, recoverable.dagger_cost()),
        (recoverable, slips, horizon * eps),
    ]:
        brute = expectation(policy, horizon, lambda row, task=task: walk(row, task.recoverable))
        assert cost == pytest.approx(brute, rel=1e-9)
        assert task.expected_cost(policy) == pytest.approx(brute, rel=1e-9)


@given(horizon=st.integers(1, 8), seed=st.integers(0, 1000), recoverable=st.booleans())
@SETTINGS
def test_expected_cost_of_any_automaton(horizon, seed, recoverable):
    rng = np.random.default_rng(seed)
    policy = TableAutomaton(
        rng.dirichlet([1, 1], (horizon, 3)), rng.integers(0, 3, (horizon, 3, 2)), int(rng.integers(3))
    )
    task = make_task("Tightrope", horizon=horizon, recoverable=recoverable)
    brute = expectation(policy, horizon, lambda row: walk(row, recoverable))
    assert task.expected_cost(policy) == pytest.approx(brute, rel=1e-9)


@given(horizon=st.integers(1, 9), eps=st.floats(0.001, 0.499), slack=st.floats(0, 0.5))
@SETTINGS
def test_distance_by_enumeration_and_least_slip_is_best(horizon, eps, slack):
    def hellinger2(policy):
        return expectation(policy, horizon, lambda row: 0.0 if not row.any() else 1.0) + (
            (1 - np.exp(0.5 * policy.log_probs(np.empty((1, 0), int), np.zeros((1, horizon), int)).sum())) ** 2
        )

    for recoverable in (False, True):
        task = make_task("Tightrope", horizon=horizon, eps=eps, recoverable=recoverable)
        best = task.best_in_class()
        assert best.hellinger2 == pytest.approx(hellinger2(best.policy), rel=1e-9)
        members = task.policy_class
        others = members if recoverable else [members.policy(members.clip(eps + slack))]
        assert all(hellinger2(other) >= best.hellinger2 - 1e-12 for other in others)


def test_demonstrations_cannot_tell_the_recoverable_members_apart():
    task = make_task("Tightrope", horizon=32, eps=0.05, recoverable=True)
    demos = task.population()
    stays_down, climbs = task.policy_class.log_probs(demos.prompts, demos.tokens)
    assert np.array_equal(stays_down, climbs)
    assert task.bc_cost() > 10 * task.dagger_cost()


@pytest.mark.parametrize("recoverable", [False, True])
def test_cost_and_success_tell_the_same_story(recoverable, rng):
    task = make_task("Tightrope", horizon=12, recoverable=recoverable)
    tokens = (rng.random((300, 12)) < 0.15).astype(np.uint8)
    cost = [walk(row, recoverable) for row in tokens]
    assert task.cost(tokens).tolist() == cost
    assert task.success(tokens[:, :0], tokens) == pytest.approx(1 - np.array(cost) / 12)
    assert np.array_equal(task.off_rope(tokens)[:, :5], task.off_rope(tokens[:, :5]))  # a function of the prefix
    expert = task.expert.sample(np.empty((3, 0), int), 12, rng)
    assert task.cost(expert).tolist() == [0, 0, 0]


def test_quadratic_against_linear():
    tasks = [make_task("Tightrope", horizon=h, eps=1e-5) for h in (128, 256, 512, 1024)]
    slope = [
        np.polyfit(np.log([t.horizon for t in tasks]), np.log(costs), 1)[0]
        for costs in ([t.bc_cost() for t in tasks], [t.dagger_cost() for t in tasks])
    ]
    assert slope == pytest.approx([2.0, 1.0], abs=0.01)


def test_no_member_attains_the_cost_of_dagger_where_a_fall_is_for_good():
    """But for one step, where there is nothing to climb back from."""
    one = make_task("Tightrope", horizon=1, eps=0.1)
    assert one.bc_cost() == pytest.approx(one.dagger_cost()) == pytest.approx(0.1)
    for horizon in (2, 5, 64):
        task = make_task("Tightrope", horizon=horizon, eps=0.1)
        assert task.bc_cost() > task.dagger_cost() * 1.01  # the least cost in the class: slips of eps
