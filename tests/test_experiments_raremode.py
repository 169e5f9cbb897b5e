"""The study raremode: the choice of log-loss changes where the closed form says, that of rho does not."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies.raremode import rare_mode
from experiments.testing import check_study

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("ratio", "switch"), [("e", 64.715), ("10", 28.671)])
def test_rare_mode_jumps_at_its_switch_and_only_for_log_loss(ratio, switch):
    for H, expected in ((math.floor(switch), 1.0), (math.ceil(switch), 22.5727)):
        records = [r for r in rare_mode(H=H, ratio=ratio, eps=0.01, rng=RNG) if r.metric == "C_apx"]
        assert {r.labels["learner"]: pytest.approx(r.value, abs=5e-5) for r in records} == {
            "log-loss": expected,
            "rho": 1.0,
        }


def test_rare_mode_grows_linearly_with_a_bounded_ratio():
    expected = {16: 2.217, 32: 5.729, 64: 13.443, 128: 29.845, 256: 64.021}
    for H, value in expected.items():
        assert round(rare_mode(H=H, ratio="10", eps=None, rng=RNG)[1].value, 3) == value


@pytest.mark.slow
def test_the_small_study_says_where_log_loss_changes_its_choice():
    outcome = check_study(load_study("raremode"), toy.small_options("raremode"))
    e, ten = outcome.analysis.findings
    assert "is 22.5727 from H=65 on (closed form 64.715)" in e and "from H=29 on (closed form 28.671)" in ten
