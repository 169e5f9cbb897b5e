"""The barrier study says what the theory says: closed forms, slopes with intervals, the halving bound."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.measure import POPULATION, SLOPE_IN_H
from experiments.studies import barrier as sweep
from experiments.studies import load_study
from experiments.testing import check_study

RNG = np.random.default_rng(0)
SMALL = toy.small_options("barrier")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("barrier"), SMALL)


@pytest.mark.slow
def test_population_factors_are_the_closed_form(outcome):
    """Next-token learners: (1 - eta) H, exactly; chunks of K: (H / K) (1 - eta (J - k) / J); whole sequences: 1."""
    part = "multi-scale, population"
    for H in SMALL.horizons:
        for learner in sweep.NEXT_TOKEN:
            assert outcome.summary.value("C_apx", part=part, learner=learner, H=H) == pytest.approx(H / 2, rel=1e-9)
        J = H.bit_length() - 1
        expected = H / 4 * (1 - 0.5 * (J - 2) / J)
        found = outcome.summary.value("C_apx", part=part, learner="chunked rho", K=4, H=H)
        assert found == pytest.approx(expected, rel=1e-9)
        assert outcome.summary.value("C_apx", part=part, learner="rho", H=H) == pytest.approx(1.0, rel=1e-9)
    closed = outcome.summary.select("C_apx in closed form", part=part)
    measured = [outcome.summary.value("C_apx", part=part, **row.labels) for row in closed]
    assert measured == pytest.approx([row.mean for row in closed], rel=1e-9)


@pytest.mark.slow
def test_the_factor_is_linear_in_h_whatever_the_number_of_demonstrations(outcome):
    for learner in sweep.NEXT_TOKEN:
        (limit,) = outcome.summary.select(SLOPE_IN_H, part="multi-scale, population", learner=learner)
        assert limit.mean == pytest.approx(1.0, abs=1e-9)
    rows = outcome.summary.select(SLOPE_IN_H, part="multi-scale, samples", learner="log-loss")
    assert [row["n"] for row in rows] == [100, 10_000]
    for row in rows:
        assert row.seeds == SMALL.seeds and row.lower <= row.mean <= row.upper
        assert row.lower >= (0.95 if row["n"] == 10_000 else 0.8)  # with 100, ties and luck at H=4 blur the slope
    at = {
        n: outcome.summary.value("C_apx", part="multi-scale, samples", learner="log-loss", n=n, H=64) for n in SMALL.n
    }
    assert at[10_000] > 20 and at[100] > 20  # 32 in the limit, 1 possible
    ties = {n: outcome.summary.value(sweep.TIES, part="multi-scale, samples", n=n, H=64) for n in SMALL.n}
    assert ties[100] > 0.9 and ties[10_000] < 0.2


def test_the_published_factor_at_256():
    records = sweep.multi_scale_population(horizons=[256], eta=0.1, learner="log-loss", rng=RNG)
    assert [r.value for r in records if r.metric == "C_apx"] == pytest.approx([230.4], rel=1e-9)


@pytest.mark.slow
def test_halving_uses_as_many_sets_as_the_bound_says_in_expectation(outcome):
    """First option: a set in use is dropped with probability 1/2 a layer, so 1 + Bin(H - 1, 1/2) sets are used."""
    for H in SMALL.halving_horizons:
        bound = 1 + (H - 1) / 2
        assert outcome.summary.value(sweep.BOUND, part="halving", H=H) == bound
        standard_error = np.sqrt((H - 1) / 4 / SMALL.halving_seeds)
        for learner in sweep.NEXT_TOKEN[:4]:
            for n in (POPULATION, SMALL.halving_n):
                (row,) = outcome.summary.select(sweep.SETS, part="halving", learner=learner, H=H, n=n)
                assert row.seeds == SMALL.halving_seeds
                assert row.mean == pytest.approx(bound, abs=4 * standard_error)
        (random,) = outcome.summary.select(sweep.SETS, part="halving", learner=sweep.NEXT_TOKEN[4], H=H, n=POPULATION)
        assert random.upper >= bound
        assert outcome.summary.value(sweep.SETS, part="halving", learner="rho", H=H) == 1.0
    (row,) = outcome.summary.select(sweep.SETS, part="halving", learner="chunked rho", H=6)
    assert 1 <= row.mean <= 2  # one set a chunk at most


def test_a_game_is_drawn_once_for_all_learners():
    records = sweep.halving(H=6, n=None, replicate=0, chunks=[], rng=np.random.default_rng(3))
    used = {r.labels["learner"]: r.value for r in records if r.metric == sweep.SETS}
    assert len({used[name] for name in sweep.NEXT_TOKEN[:4]}) == 1


@pytest.mark.parametrize("n", [None, 1_000_000])
def test_rare_mode_switches_at_its_closed_form(n):
    below, above = int(sweep.rare_task().switch_horizon()), int(sweep.rare_task().switch_horizon()) + 1
    assert (below, above) == (28, 29)
    horizons = [below, above] if n is None else [20, 40]
    records = sweep.rare_mode(horizons=horizons, n=n, rng=np.random.default_rng(0))
    factors = {(r.labels["learner"], r.labels["H"]): r.value for r in records if r.metric == "C_apx"}
    assert factors["log-loss", horizons[0]] == pytest.approx(1.0)
    assert factors["log-loss", horizons[1]] == pytest.approx(22.5727, abs=1e-4)
    assert [factors["rho", H] for H in horizons] == pytest.approx([1.0, 1.0])
