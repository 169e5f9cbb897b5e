"""The amplification study says what the theory says: its own summary rows against published and derived numbers."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies.amplification import consistency, control, population, samples
from experiments.summary import loglog_slope
from experiments.testing import check_study

RNG = np.random.default_rng(0)

# C_apx on Contamination A with infinitely many demonstrations, as derived independently of this code
LOG_LOSS = {16: 14.058, 64: 52.721, 256: 199.992}
RHO = {16: 3.219, 64: 3.238, 256: 3.108}
RHO_PSI = {16: 5.20, 64: 5.78, 256: 5.69}
CHUNKED = {
    (16, 4): 8.188,
    (16, 8): 5.099,
    (64, 4): 29.599,
    (64, 8): 17.347,
    (64, 16): 9.863,
    (64, 32): 5.537,
    (256, 4): 112.964,
    (256, 8): 65.592,
    (256, 16): 36.217,
    (256, 32): 19.087,
    (256, 64): 9.937,
}
IMPROPER = {(16, 4): 4.995, (64, 4): 16.932, (64, 16): 4.995, (256, 4): 63.971, (256, 16): 16.932, (256, 64): 4.995}

SMALL = toy.small_options("amplification")


def factor(records):
    (record,) = [record for record in records if record.metric == "C_apx"]
    return record.value


@pytest.mark.slow
def test_a_whole_small_run_reproduces_the_table_and_its_slopes():
    summary = check_study(load_study("amplification"), SMALL).summary

    def found(learner, H, K=None):
        return summary.value("C_apx", part="horizon, population", learner=learner, H=H, K=K)

    for H, expected in LOG_LOSS.items():
        assert round(found("log-loss", H), 3) == expected
        assert found("smoothed 1/(nH)", H) == pytest.approx(expected, abs=1e-3)
        assert found("smoothed 1/H", H) == found("best in class", H) == pytest.approx(1.0, abs=1e-9)
        assert found("rho", H) == pytest.approx(RHO[H], rel=0.01)
        assert found("rho psi", H) == pytest.approx(RHO_PSI[H], rel=0.01)
    for (H, K), expected in CHUNKED.items():
        assert found("chunked rho", H, K) == pytest.approx(expected, rel=0.01)
    for (H, K), expected in IMPROPER.items():
        assert round(found("improper chunks", H, K), 3) == expected
    assert found("chunked rho", 64, 64) == pytest.approx(found("rho", 64), rel=1e-9)

    def slope(metric, **labels):
        (row,) = summary.select(metric, part=labels.pop("part", "horizon, population"), **labels)
        assert row.seeds == 1 and np.isnan(row.upper) and row.method.startswith("least squares")
        return row.mean

    assert slope("slope of log C_apx in log H", learner="log-loss") == pytest.approx(0.959, abs=5e-4)
    assert slope("slope of log C_apx in log H", learner="rho") == pytest.approx(-0.015, abs=5e-3)
    in_k = slope("slope of log C_apx in log K", part="chunk, population", learner="chunked rho")
    assert in_k == pytest.approx(-0.923, abs=2e-3)

    part = "consistency"
    for row in summary.select("C_apx", part=part):
        assert row.mean == pytest.approx(summary.value("C_apx in closed form", part=part, **row.labels), rel=1e-9)
    prefix = summary.series("h", "hellinger2", part="prefix", learner="log-loss")
    assert (np.diff(prefix.mean) > 0).all() and prefix.x[-1] == 256
    assert prefix.mean[-1] == pytest.approx(
        summary.value("hellinger2", part="horizon, population", learner="log-loss", H=256)
    )


@pytest.mark.slow
def test_finite_samples_agree_with_the_reference_row():
    """H=64, n=10^4, eps=.01: log-loss 47.4 (sd 4.0), rho K=8 16.7, rho K=H 3.17 (sd .22)."""
    values = {"log-loss": [], "rho": [], 8: []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        records = samples(H=64, n=10_000, learners=["log-loss", "rho"], chunks=[8], replicate=seed, rng=rng)
        for record in records:
            if record.metric == "C_apx":
                values[record.labels.get("K", record.labels["learner"])].append(record.value)
    assert np.mean(values["log-loss"]) == pytest.approx(47.4, abs=4 * 4.0 / math.sqrt(4))
    assert np.mean(values["rho"]) == pytest.approx(3.17, abs=4 * 0.22 / math.sqrt(4) + 0.005)
    assert np.mean(values[8]) == pytest.approx(16.7, abs=4 * np.std(values[8], ddof=1) / math.sqrt(4) + 0.05)


@pytest.mark.parametrize(
    ("K", "expected"),
    [(1, 230.4), (16, 15.2), (256, 1)],
)
def test_consistency_game_has_its_exact_factor_for_every_chunk(K, expected):
    assert factor(consistency(H=256, learner="chunked rho", K=K, rng=RNG)) == pytest.approx(expected, rel=1e-9)
    if K == 1:
        for learner in ("log-loss", "layerwise"):
            assert factor(consistency(H=256, learner=learner, rng=RNG)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_the_control_follows_one_over_four_n_at_every_horizon():
    """A regular one-parameter family: D_H^2 is (1 / 4n) chi^2_1 to first order; mean 1/(4n), sd sqrt(2)/(4n)."""
    seeds, means = 30, {}
    for H, n in ((4, 400), (64, 400), (16, 100), (16, 1600)):
        values = [control(H=H, n=n, replicate=i, rng=np.random.default_rng([H, n, i])) for i in range(seeds)]
        for column in range(2):
            mean = np.mean([records[column].value for records in values])
            assert mean * 4 * n == pytest.approx(1.0, abs=4 * math.sqrt(2 / seeds))
        means[H, n] = mean
    assert loglog_slope([100, 1600], [means[16, 100], means[16, 1600]]) == pytest.approx(-1.0, abs=0.3)


def test_an_agent_of_one_s_own_joins_by_name():
    assert factor(population(H=16, learner="agents.log_loss:LogLossBC", rng=RNG)) == pytest.approx(14.058, abs=1e-3)
