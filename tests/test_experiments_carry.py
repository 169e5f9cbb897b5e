"""The study carry: one column of an addition against arithmetic, and fits that are certified or no result."""

import dataclasses
import warnings

import experiments_toy as toy
import numpy as np
import pytest

from agents import ConvergenceWarning, LogLossBC
from experiments.cells import Cell, cell_rng
from experiments.run import run_study
from experiments.studies import carry as sweep
from experiments.studies import load_study
from experiments.testing import check_study
from ntp_envs import Demonstrations, collect
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import ColumnAddition

STUDY = load_study("carry")
SMALL = toy.small_options("carry")
ENOUGH = dataclasses.replace(SMALL, n=2500, fresh=1000)  # to learn a column


@pytest.mark.slow
def test_the_small_study_keeps_the_contract():
    outcome = check_study(STUDY, dataclasses.replace(SMALL, n=100))
    (said,) = outcome.analysis.findings
    assert all(f"{addends} digits: " in said for addends in SMALL.addends)


@pytest.mark.slow
def test_a_column_is_linear_with_its_carry_and_chance_without(tmp_path):
    written = run_study(STUDY, ENOUGH, out=tmp_path / "run")
    assert not written.failures
    for addends in SMALL.addends:
        values = {
            m: written.summary.value(m, addends=addends) for m in (sweep.CARRY, sweep.DIGIT, sweep.STEP, sweep.ALONE)
        }
        assert values[sweep.CARRY] > 0.97 and values[sweep.DIGIT] > 0.97
        assert (
            values[sweep.CARRY] + values[sweep.DIGIT] - 1.000001
            <= values[sweep.STEP]
            <= min(values[sweep.CARRY], values[sweep.DIGIT])
        )
        assert values[sweep.ALONE] == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 2000))
        assert written.summary.value(sweep.ALONE_NATS, addends=addends) > np.log(10)  # theta = 0 is optimal


def test_a_small_ball_leaves_the_digits_unlearned():
    shape = {"addends": 3, "n": 500, "fresh": 500, "replicate": 0}
    records = sweep.columns(**shape, radius=1.0, rng=np.random.default_rng(0))
    found = {record.metric: record.value for record in records}
    assert found[sweep.DIGIT] < 0.3 and found[sweep.ALONE_NATS] == pytest.approx(np.log(13), abs=0.1)  # nearly uniform


def test_a_fit_that_is_not_certified_is_no_result():
    class Stubborn(LogLossBC):
        def _fit(self, demonstrations, policy_class, rng):
            warnings.warn("it stopped", ConvergenceWarning, stacklevel=2)
            return super()._fit(demonstrations, policy_class, rng)

    data = Demonstrations(collect(ColumnAddition(3), 50, np.random.default_rng(0)).prompts, np.full((50, 1), 4), 13)
    features = WindowOneHot(13, 4)
    assert sweep.certified(data, features, 30.0, np.random.default_rng(0)).vocab_size == 13
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LogLossBC", Stubborn)
        with pytest.raises(ValueError, match="not certified: it stopped"):
            sweep.certified(data, features, 30.0, np.random.default_rng(0))


@pytest.mark.slow
def test_a_fit_goes_on_while_its_loss_falls_though_its_gap_does_not(monkeypatch):
    """Nearly separable columns, a large ball: the certified gap was no smaller for twenty iterations, and it ended."""
    monkeypatch.setattr(sweep, "TOLERANCE", 1e-2)
    parameters = {"addends": 7, "fresh": 5000, "n": 5000, "radius": 3000.0, "replicate": 2}
    rng = cell_rng(0, STUDY.seeds_of, Cell("columns", sweep.columns, parameters))
    found = {record.metric: record.value for record in sweep.columns(**{**parameters, "fresh": 50}, rng=rng)}
    assert found[sweep.DIGIT] > 0.9
