"""Snowball: closed forms against enumeration, sampling and numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import make_agent
from ntp_envs import Demonstrations, collect, distance, make_task
from ntp_envs.arrays import all_sequences
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import Snowball

SETTINGS = examples(25)
SMALL = {"eps": st.floats(0.01, 0.45), "horizon": st.integers(1, 4), "vocab": st.integers(2, 3)}


@pytest.mark.parametrize(("eps", "horizon", "wanted"), [(0.01, 10, 0.904), (0.01, 100, 0.366), (0.05, 50, 0.077)])
def test_exact_match_of_the_specification(eps, horizon, wanted):
    task = Snowball(horizon=horizon, eps=eps)
    assert task.exact_match() == pytest.approx(wanted, abs=5e-4)
    assert task.exact_match(0.0) == 1.0


@given(**SMALL)
@SETTINGS
def test_closed_forms_by_enumeration(eps, horizon, vocab):
    task = Snowball(horizon=horizon, eps=eps, vocab_size=vocab)
    copier = task.sloppy_copier()
    prompts, masses = task.prompt_law()
    tokens = all_sequences(vocab, horizon)
    hellinger2 = right = nats = 0.0
    for prompt, mass in zip(prompts, masses, strict=True):
        same = np.tile(prompt, (len(tokens), 1))
        law, truth = (np.exp(pi.log_probs(same, tokens).sum(axis=1)) for pi in (copier, task.expert))
        assert law.sum() == pytest.approx(1.0)
        hellinger2 += mass * ((np.sqrt(law) - np.sqrt(truth)) ** 2).sum()
        right += mass * law @ task.success(same, tokens)
        nats -= mass * truth @ np.where(truth > 0, np.log(law), 0.0) / horizon
    assert task.member_hellinger2() == pytest.approx(hellinger2)
    assert task.exact_match() == pytest.approx(right)
    assert task.log_loss() == pytest.approx(nats)


@given(**SMALL, slack=st.floats(0.0, 0.5))
@SETTINGS
def test_the_least_sloppy_copier_is_the_best_in_class(eps, horizon, vocab, slack):
    task = Snowball(horizon=horizon, eps=eps, vocab_size=vocab)
    best = task.best_in_class()
    rates = [member.error for member in task.policy_class]
    assert rates[0] == eps == best.policy.error and rates == sorted(rates)
    assert rates[-1] == pytest.approx(1 - 1 / vocab)
    assert best.hellinger2 <= task.member_hellinger2(min(eps + slack, 0.999)) + 1e-15
    exact = distance(task.expert, best.policy, task, metric="hellinger2", method="enumeration")
    assert exact.final == pytest.approx(best.hellinger2, rel=1e-9)


@pytest.mark.parametrize("learner", ["LogLossBC", "RhoEstimatorBC"])
def test_learners_find_the_best_in_class_from_a_population_and_from_data(learner):
    task = Snowball(horizon=12, eps=0.1)
    agent = make_agent(learner)
    for demos in (task.population(), collect(task, 5, np.random.default_rng(0))):
        agent.fit(demos, task.policy_class, rng=np.random.default_rng(0))
        assert agent.policy_.error == 0.1


def test_teacher_forced_loss_is_tiny_and_the_exact_match_is_not_near_one():
    task = Snowball(horizon=200, eps=0.01)
    found = evaluate(task.sloppy_copier(), task, n=1500, rng=np.random.default_rng(0))
    assert found.forced_token_accuracy == 1.0  # the most probable token is right everywhere
    assert found.mean_cross_entropy == pytest.approx(task.log_loss()) == pytest.approx(0.01005, abs=1e-5)
    assert found.sampled_token_accuracy == pytest.approx(0.99, abs=4 * math.sqrt(0.01 * 0.99 / 300_000))
    assert task.exact_match() == pytest.approx(0.134, abs=5e-4)
    assert found.sampled_exact == pytest.approx(task.exact_match(), abs=4 * math.sqrt(0.134 * 0.866 / 1500))
    assert found.sequence_probability == pytest.approx(task.exact_match())


def test_errors_are_independent_and_uniform_among_the_wrong_tokens():
    task, n = Snowball(horizon=3, eps=0.3, vocab_size=4), 30_000
    rng = np.random.default_rng(1)
    prompts = task.sample_prompts(n, rng)
    tokens = task.sloppy_copier().sample(prompts, 3, rng)
    off = (tokens - prompts) % 4
    counts = np.stack([(off == k).mean(axis=0) for k in range(4)])
    assert np.abs(counts - np.array([[0.7], [0.1], [0.1], [0.1]])).max() < 4.5 * math.sqrt(0.21 / n)
    wrong = off > 0
    assert (wrong[:, 0] & wrong[:, 1]).mean() == pytest.approx(0.09, abs=4.5 * math.sqrt(0.08 / n))


def test_costs():
    task = Snowball(horizon=50, eps=0.05)
    assert task.backtracking_cost() == pytest.approx(50 / 0.95)
    assert task.restart_cost() == pytest.approx(50 / task.exact_match())
    assert Snowball(horizon=10_000, eps=0.4).restart_cost() == math.inf


def test_verify_reads_a_prefix_and_at_the_end_the_answer():
    task = Snowball(horizon=3, vocab_size=3)
    prompts = np.array([[0, 1, 2]] * 4)
    tokens = np.array([[0, 1, 2], [0, 1, 1], [0, 0, 2], [2, 1, 0]], dtype=np.uint8)
    assert task.verify(prompts, tokens[:, :0]).tolist() == [True] * 4
    assert task.verify(prompts, tokens[:, :1]).tolist() == [True, True, True, False]
    assert task.verify(prompts, tokens[:, :2]).tolist() == [True, True, False, False]
    assert task.verify(prompts, tokens).tolist() == [True, False, False, False]
    assert np.array_equal(task.verify(prompts, tokens), task.success(prompts, tokens))


def test_decode():
    assert Snowball(vocab_size=12).decode(np.array([0, 9, 11])) == "09b"
    assert Snowball(vocab_size=40).decode(np.array([0, 39])) == "0 39"


def test_population_is_refused_for_another_class():
    population = Snowball(horizon=3).population(chunk=2)
    assert isinstance(population, Demonstrations) and len(population) == 1
    assert not population.exactness.covers(1, make_task("RareMode").policy_class)
