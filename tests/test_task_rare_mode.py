"""RareMode: the switch of log-loss and its jump, against brute force and the published numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import distance, make_task

SETTINGS = examples(40)


def law(policy, horizon):
    rows = np.array(list(itertools.product(range(2), repeat=horizon)))
    return np.exp(policy.log_probs(np.empty((len(rows), 0), int), rows).sum(axis=1))


def population_log_loss(task):
    """Of each member on the exact population, a sum over the two documents."""
    demos = task.population()
    log_probs = task.policy_class.log_probs(demos.prompts, demos.tokens).sum(axis=2)
    return -log_probs @ demos.normalised_weights()


@given(horizon=st.integers(1, 8), eps=st.floats(0.001, 0.999), ratio=st.floats(1.001, 1e4))
@SETTINGS
def test_closed_forms_equal_enumeration(horizon, eps, ratio):
    task = make_task("RareMode", horizon=horizon, eps=eps, density_ratio=ratio)
    expert = law(task.expert, horizon)
    for member, hellinger2, kl in zip(task.policy_class, task.member_hellinger2(), task.member_kl()):
        q = law(member, horizon)
        assert q.sum() == pytest.approx(1.0, abs=1e-12)
        assert hellinger2 == pytest.approx(((np.sqrt(expert) - np.sqrt(q)) ** 2).sum(), rel=1e-9, abs=1e-13)
        seen = expert > 0
        brute_kl = (expert[seen] * np.log(expert[seen] / q[seen])).sum()
        assert kl == pytest.approx(brute_kl, rel=1e-9, abs=1e-13)
    assert task.best_in_class().hellinger2 == min(task.member_hellinger2())


@given(horizon=st.integers(2, 200), eps=st.floats(0.001, 0.4), ratio=st.floats(1.1, 100.0))
@SETTINGS
def test_log_loss_choice_equals_the_fit_to_the_population(horizon, eps, ratio):
    task = make_task("RareMode", horizon=horizon, eps=eps, density_ratio=ratio)
    losses = population_log_loss(task)
    if abs(losses[0] - losses[1]) > 1e-12:
        assert task.log_loss_choice() == int(losses.argmin())
        assert (horizon > task.switch_horizon()) == bool(task.log_loss_choice())


@pytest.mark.parametrize(("ratio", "switch"), [(np.e, 64.715), (10.0, 28.671)])
def test_published_switch_points(ratio, switch):
    task = make_task("RareMode", eps=0.01, density_ratio=ratio)
    assert task.switch_horizon() == pytest.approx(switch, abs=5e-4)
    below, above = (
        make_task("RareMode", eps=0.01, density_ratio=ratio, horizon=h) for h in (int(switch), int(switch) + 1)
    )
    assert population_log_loss(below).argmin() == 0 and below.log_loss_factor() == 1.0
    assert population_log_loss(above).argmin() == 1


def test_published_jump():
    task = make_task("RareMode", eps=0.01, horizon=65)
    assert task.log_loss_factor() == pytest.approx(22.5727, abs=5e-5)
    assert task.best_in_class().policy is task.policy_class.policies[0]


def test_published_growth_with_eps_one_over_horizon():
    factors = [
        make_task("RareMode", horizon=h, eps=1 / h, density_ratio=10.0).log_loss_factor() for h in 2 ** np.arange(4, 9)
    ]
    assert factors == pytest.approx([2.217, 5.729, 13.443, 29.845, 64.021], abs=5e-4)


def test_small_distances_keep_their_relative_accuracy():
    task = make_task("RareMode", horizon=2, eps=1e-9, density_ratio=1 + 1e-9)
    assert task.member_hellinger2()[0] == pytest.approx(1e-18, rel=1e-6)
    near = make_task("RareMode", horizon=2, eps=0.5 + 1e-9)
    assert near.member_hellinger2()[1] == pytest.approx(1e-18, rel=1e-6)  # delta^2 at eps = 1/2 + delta


def test_the_density_ratio_is_what_it_says():
    task = make_task("RareMode", horizon=5, density_ratio=7.0)
    ones = np.ones((1, 5), int)
    gap = task.expert.log_probs(ones[:, :0], ones) - task.policy_class.policies[0].log_probs(ones[:, :0], ones)
    assert np.exp(gap[0]) == pytest.approx([1, 7, 7, 7, 7])


def test_samples_are_consistent_and_rarely_rare(rng):
    task = make_task("RareMode", horizon=20, eps=0.2)
    prompts = task.sample_prompts(5000, rng)
    tokens = task.expert.sample(prompts, 20, rng)
    assert task.success(prompts, tokens).min() == 1.0
    assert tokens[:, 0].mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / 5000))
    broken = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert task.success(broken[:, :0], broken).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "density_ratio", [pytest.param(1.5, marks=pytest.mark.slow), 10.0, pytest.param(1e6, marks=pytest.mark.slow)]
)
def test_which_member_is_the_best(density_ratio):
    """pi_0 wherever the mode is rare; pi_1 at large eps and long horizons, where log-loss is right to take it."""
    for horizon in (2, 64, 1024):
        task = make_task("RareMode", horizon=horizon, eps=0.103, density_ratio=density_ratio)
        members = task.policy_class.policies
        costs = [distance(task.expert, member, task).final for member in members]
        assert costs[0] <= costs[1]
        assert task.best_in_class().hellinger2 == pytest.approx(min(costs))
    task = make_task("RareMode", horizon=1024, eps=0.45, density_ratio=density_ratio)
    costs = [distance(task.expert, member, task).final for member in task.policy_class.policies]
    assert costs[1] < costs[0] and task.log_loss_factor() == pytest.approx(1.0)
    tv = distance(task.expert, task.policy_class.policies[1], task, metric="tv").final
    assert tv == pytest.approx(0.5 - 0.45)
