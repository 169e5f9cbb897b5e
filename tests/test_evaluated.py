"""Records of an evaluation for a study."""

import numpy as np
import pytest

from experiments.measure import evaluation_records
from ntp_envs import UniformPolicy, make_task
from ntp_envs.evaluation import evaluate


def measured(name):
    task = make_task(name)
    return evaluate(UniformPolicy(2), task, n=30, rng=np.random.default_rng(0))


def test_records_hold_every_measure_with_its_interval_and_place():
    evaluation = measured("NoisyParity")
    records = evaluation_records(evaluation, {"task": "NoisyParity", "learner": "uniform"})
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
    records = evaluation_records(measured("Contamination"), {})
    assert not any("success" in record.metric for record in records)
