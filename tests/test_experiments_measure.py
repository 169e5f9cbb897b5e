"""What the cells of studies measure: records of an evaluation, data by counts, and what a fit costs."""

import math

import numpy as np
import pytest

from experiments import measure
from ntp_envs import UniformPolicy, collect, make_task
from ntp_envs.evaluation import evaluate


def measured(name):
    task = make_task(name)
    return evaluate(UniformPolicy(2), task, n=30, rng=np.random.default_rng(0))


def test_records_hold_every_measure_with_its_interval_and_place():
    evaluation = measured("NoisyParity")
    records = measure.evaluation_records(evaluation, {"task": "NoisyParity", "learner": "uniform"})
    by_position = [record for record in records if record.metric == "sampled_accuracy"]
    assert [record.labels["h"] for record in by_position] == list(range(1, evaluation.horizon + 1))
    lower, upper = evaluation.interval("sampled_accuracy")
    assert [record.value for record in by_position] == evaluation.sampled_accuracy.tolist()
    assert [record.lower for record in by_position] == lower.tolist()
    assert [record.upper for record in by_position] == upper.tolist()
    (exact,) = (record for record in records if record.metric == "sampled_success")
    assert (exact.value, exact.labels) == (
        evaluation.sampled_success,
        {"task": "NoisyParity", "learner": "uniform"},
    )
    assert (exact.lower, exact.upper) == pytest.approx(evaluation.interval("sampled_success"))
    for record in records:
        assert record.lower <= record.value <= record.upper
        assert isinstance(record.to_json()["value"], float)
    assert "n=30" in exact.method


def test_a_task_without_success_has_no_record_of_it():
    records = measure.evaluation_records(measured("Contamination"), {})
    assert not any("success" in record.metric for record in records)


def test_drawing_counts_has_the_law_of_collecting():
    task = make_task("ConsistencyGame", horizon=4, eps=0.125, eta=0.5)
    n, masses = 20_000, task.population().normalised_weights()
    spread = 5 * np.sqrt(n * masses * (1 - masses))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for demonstrations in (measure.draw(task, n, rng), collect(task, n, rng).pooled()):
            contexts = demonstrations.prompts @ (1 << np.arange(task.prompt_length)[::-1])
            counts = np.bincount(contexts, weights=demonstrations.weights, minlength=len(masses))
            assert counts.sum() == n
            assert (np.abs(counts - n * masses) <= spread).all()
            assert (demonstrations.tokens == 0).all() and demonstrations.exactness is None


def test_a_costed_fit_measures_without_changing_the_fit():
    task = make_task("Contamination", horizon=16, eps=0.05, p=1e-3, q=1 - 1e-3, theta_min=1e-3)
    demonstrations = collect(task, 200, np.random.default_rng(0))
    plain = measure.build_learner("ChunkKR", task, 4, 1.0)
    plain.fit(demonstrations, task.policy_class, rng=np.random.default_rng(3))
    agent = measure.build_learner("ChunkKR", task, 4, 1.0)
    fit = measure.costed_fit(agent, demonstrations, task.policy_class, 3, memory=True)
    assert fit.agent.fit_report_.objective == plain.fit_report_.objective
    assert fit.converged and fit.seconds > 0 and fit.megabytes > 0.01
    assert {record.metric for record in fit.records({}) if record.machine} == {measure.SECONDS, measure.MEGABYTES}
    without = measure.costed_fit(agent.clone(), demonstrations, task.policy_class, 3, memory=False)
    assert [record.metric for record in without.records({})] == [measure.SECONDS]
    short = measure.build_learner("ChunkKR", task, 4, 1.0).set_params(max_iterations=1)
    assert not measure.costed_fit(short, demonstrations, task.policy_class, 3, memory=False).converged


def test_a_curve_passes_a_level_on_the_line_between_two_points():
    curves = {(0.5, 0.75, 1.25): 2.5, (0.5, 1.0, 1.5): 2.0, (2.0, 2.0): 0.5, (0.9,) * 7: math.inf}
    assert [measure.passing(np.array(curve)) for curve in curves] == pytest.approx(list(curves.values()))


def test_lengths_that_are_shown():
    assert measure.shown_lengths(3) == [1, 2, 3]
    assert measure.shown_lengths(256)[:32] == list(range(1, 33)) and measure.shown_lengths(256)[-1] == 256
    assert len(measure.shown_lengths(256)) == 32 + 30


def test_kept_draws_are_those_of_the_policy_and_the_generator_goes_on_as_it_would(rng):
    task = make_task("Contamination", horizon=8, eps=0.1, p=0.05, q=0.7, theta_min=0.05)
    once, prompts = measure.drawn_once(task.expert), task.sample_prompts(5, rng)
    one, two, three = (np.random.default_rng(seed) for seed in (1, 1, 2))
    wanted, kept, others = (
        policy.sample_with_log_probs(prompts, 8, each)
        for policy, each in ((task.expert, one), (once, two), (once, three))
    )
    np.testing.assert_array_equal(np.array(kept), np.array(wanted))
    assert one.random() == two.random() and (others[0] != kept[0]).any()
    again = once.sample_with_log_probs(prompts, 8, np.random.default_rng(1))
    assert again[0] is kept[0]
