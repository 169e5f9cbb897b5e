"""The stability study: closed forms of the Gram matrix in one dimension, refusals, and what low rank does."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies.stability import EXCESS, REFUSED, growth, longest_chunks, low_rank
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study

RNG = np.random.default_rng(0)
CONTAMINATION, LINEAR = "Contamination eps=.01", "ARLinear eps=.02"


def facts(records):
    return {record.metric: record.value for record in records}


@pytest.mark.parametrize("K", [1, 3, 6])
def test_in_one_dimension_the_gram_matrix_is_known(K):
    """The K-fold Kronecker power of [[2, 2/3], [2/3, 2]], whose eigenvalues are 8/3 and 4/3."""
    found = facts(growth(task=CONTAMINATION, H=64, K=K, n=500, rng=RNG))
    assert found["condition number"] == pytest.approx(2**K, rel=1e-9)
    assert found["points"] == found["rank kept"] == 2**K
    assert found["largest log kernel product"] == pytest.approx(K * math.log(2))
    assert found["smallest log kernel product"] == pytest.approx(K * math.log(2 / 3))
    assert found["converged"] == 1 and found["gap"] <= 1e-6 and found["trace left out"] == 0


def test_too_long_a_chunk_is_refused_and_recorded():
    (record,) = growth(task=CONTAMINATION, H=64, K=18, n=500, rng=RNG)
    assert record.metric == REFUSED and record.labels["K"] == 18


def test_low_rank_approaches_the_full_fit_from_above():
    records = low_rank(task=LINEAR, H=16, K=4, n=500, shares=[0.25, 0.5, 1.0], rng=RNG)

    def column(metric):
        return [record.value for record in records if record.metric == metric and "rank" in record.labels]

    trace, excess = column("trace left out"), column(EXCESS)
    assert trace[0] > trace[1] > trace[2] == pytest.approx(0, abs=1e-9)
    assert excess[0] > excess[1] > 0.1 and excess[2] <= 1e-4
    assert column("C_apx")[0] > column("C_apx")[2]


def test_the_longest_chunk_lies_below_the_first_that_fails():
    def row(metric, K, value):
        return SummaryRow("chunk length", {"task": CONTAMINATION, "K": K}, metric, value, value, value, 1)

    rows = [row("converged", K, 1.0) for K in (1, 2, 4, 5)] + [row("trace left out", K, 0.0) for K in (1, 2)]

    def longest(*more):
        return [found.mean for found in longest_chunks(None, Summary([*rows, *more]))]

    assert longest() == [5]
    assert longest(row("trace left out", 4, 0.3)) == [2]  # although K=5 would do
    assert longest(row("converged", 2, 0.0)) == [1]
    assert longest(row(REFUSED, 5, 1.0)) == [4]
    assert longest(row("converged", 1, 0.0)) == []


@pytest.mark.slow
def test_a_small_run_says_where_it_breaks():
    outcome = check_study(load_study("stability"), toy.small_options("stability"))
    longest = {row["task"]: row.mean for row in outcome.summary.select("longest chunk that works")}
    assert longest == {CONTAMINATION: 5, LINEAR: 4}
    assert "up to K=5" in outcome.analysis.findings[0] and "K=18 is refused" in outcome.analysis.findings[0]
