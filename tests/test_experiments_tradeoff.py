"""The tradeoff study: slopes near -1 in K, the factor 1 + H/K, and costs that stay out of summary.csv."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.measure import (
    MEGABYTES,
    SECONDS,
    SLOPE_IN_K,
    fit_population,
    measured,
    named,
)
from experiments.studies import load_study
from experiments.studies.tradeoff import EXCESS_SLOPE_IN_K, limit
from experiments.testing import check_study
from ntp_envs import make_task

RNG = np.random.default_rng(0)
SMALL = toy.small_options("tradeoff")


@pytest.mark.slow
def test_a_small_run_has_the_slopes_of_the_theory_and_keeps_costs_apart():
    outcome = check_study(load_study("tradeoff"), SMALL)
    summary = outcome.summary

    def slope(metric, learner):
        (row,) = summary.select(metric, part="contamination", learner=learner)
        assert row.lower <= row.mean <= row.upper and row.seeds == 3
        return row

    line = 1 + 64 / np.array([2.0, 4.0, 8.0])
    expected = np.polyfit(np.log([2.0, 4.0, 8.0]), np.log(line), 1)[0]  # -0.937
    assert slope(SLOPE_IN_K, "ChunkKR").mean == pytest.approx(expected, abs=0.06)
    assert slope(EXCESS_SLOPE_IN_K, "ChunkKR").mean == pytest.approx(-1.0, abs=0.06)
    assert -1.0 < slope(SLOPE_IN_K, "chunked rho").mean < -0.6
    for K in (2, 4, 8):
        exact = summary.value("C_apx", part="contamination, limit", K=K)
        assert exact == pytest.approx(1 + 64 / K, rel=0.09)  # 1 + H/K, to first order in eps
        found = summary.value("C_apx", part="contamination", learner="ChunkKR", K=K)
        assert found == pytest.approx(exact, rel=0.3)  # the common factor of three data sets: sd 8 % each

    parity = {"part": "parity", "learner": "ChunkKR"}
    assert summary.value("C_apx", K=1, B=8.0, **parity) < 0.1 < summary.value("C_apx", K=1, B=1.0, **parity) < 1
    assert summary.value("C_apx", K=5, B=1.0, **parity) < 0.1
    assert summary.value("C_apx", part="parity", learner="log-loss") == pytest.approx(1.0, abs=0.05)

    assert not {SECONDS, MEGABYTES} & {row.metric for row in summary}
    for learner, K in (("log-loss", 1), ("ChunkKR", 8), ("ChunkKR", 9), ("chunked rho", 16), ("rho", 64)):
        place = {"part": "contamination", "learner": learner, "K": K}
        assert 0 < summary.timings.value(SECONDS, **place) < 60
        assert 0 < summary.timings.value(MEGABYTES, **place) < 500
    assert any("each further token" in finding for finding in outcome.analysis.findings)


@pytest.mark.parametrize("K", [2, 4])
def test_with_infinitely_many_demonstrations_chunkkr_is_at_its_limit(K):
    """A norm bound that does not bind: the expert's own chunks, drawn independently."""
    task = make_task("Contamination", horizon=8)
    records = []
    for learner, bound in (("ChunkKR", 4.0), ("improper chunks", None)):
        policy = fit_population(learner, task, RNG, K, bound)
        records.append(measured(task, policy, named("", learner, 8, np.inf, K), RNG)[1].value)
    assert records[0] == pytest.approx(records[1], rel=1e-3)


def test_the_limit_is_one_plus_the_number_of_chunks():
    (_, found) = limit(H=64, K=16, rng=RNG)
    assert found.value == pytest.approx(1 + 4, rel=0.05)
