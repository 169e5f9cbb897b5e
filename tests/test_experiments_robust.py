"""The robust study: what smoothing can do, what it cannot, and which criterion chooses well."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies.robust import FAMILIES, TASKS, compared
from experiments.testing import check_study

CONTAMINATION, LINEAR, PARITY = TASKS
GRID = {"lams": (0.0, 0.01, 0.03), "chunks": (1, 5), "bounds": (1.0, 4.0), "K": 5, "folds": 2, "replicate": 0}


def factors(task, n, H=64):
    records = compared(task=task, H=H, n=n, rng=np.random.default_rng(1), **GRID)
    return {
        record.labels["learner"] + str(record.labels.get("lam", "")): record.value
        for record in records
        if record.metric == "C_apx"
    }


@pytest.mark.slow
def test_on_contamination_the_right_lambda_is_enough_and_only_rho_finds_it():
    found = factors(CONTAMINATION, 4000)
    assert found["smoothed0.03"] == pytest.approx(1.0, abs=1e-9)  # lam / 2 > eps: the minority can be given up
    assert found["smoothed0.0"] == pytest.approx(found["log-loss"], rel=1e-6)
    assert found["smoothed 1/(nH)"] == pytest.approx(found["log-loss"], rel=0.01)
    assert found["smoothed, lam by held-out rho"] == found["smoothed0.03"]
    assert found["smoothed, lam by held-out log-loss"] == found["smoothed0.0"]
    assert found["log-loss"] > 20 and 1 + 64 / 5 < 1.5 * found["ChunkKR"] < found["log-loss"]


@pytest.mark.slow
def test_on_parity_nothing_within_the_class_helps():
    found = factors(PARITY, 1000)
    for name, value in found.items():
        if "ChunkKR" in name:
            assert value < 0.1
        else:
            assert value == pytest.approx(1.0, abs=0.02), name


@pytest.mark.slow
def test_a_small_run_compares_every_learner_on_every_task():
    outcome = check_study(load_study("robust"), toy.small_options("robust"))
    summary = outcome.summary
    for task in TASKS:
        assert {row["learner"] for row in summary.select("C_apx", task=task)} == {*FAMILIES, "smoothed"}

    def linear(learner):
        return summary.value("C_apx", task=LINEAR, learner=learner)

    best = summary.series("lam", "C_apx", task=LINEAR, learner="smoothed").mean.min()
    assert linear("rho") < linear("ChunkKR") < best < linear("log-loss")  # no lambda closes the gap here
    assert linear("ChunkKR, K and B by held-out rho") < linear("ChunkKR, K and B by held-out log-loss")
    verdict = outcome.analysis.findings[-1]
    assert "Contamination" in verdict.partition("not on")[0] and "ARLinear" in verdict.partition("not on")[2]
