"""The study pointers says what the closed forms say."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.measure import POPULATION
from experiments.studies import load_study
from experiments.studies import pathstar as path
from experiments.studies import pointers as sweep
from experiments.testing import check_study

pytestmark = pytest.mark.slow  # the run behind all of them is
SMALL = toy.small_options("pointers")
#: the table of the family at L = 5: free exact match for 0, 1 and 3 hops
TABLE = {
    (path.FORCING, 2): (0.5, 0.5, 1.0),
    (path.FORCING, 5): (0.2, 0.2, 1.0),
    (path.REVERSED, 2): (1.0, 1.0, 1.0),
    (path.REVERSED, 5): (1.0, 1.0, 1.0),
    (path.TEACHERLESS, 2): (1 / 32, 1 / 6, 1.0),
    (path.TEACHERLESS, 5): (1 / 500, 1 / 45, 1.0),
}


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("pointers"), SMALL)


def test_the_gap_is_the_largest_one(outcome):
    (gap,) = outcome.summary.select(sweep.GAP)
    found = []
    for row in outcome.summary.select(path.EXPECTED, part=sweep.POINTER):
        task = path.star(row["degree"], row["H"], SMALL.nodes, hops=row["hops"], **sweep.MODES[row["mode"]])
        found.append(abs(row.mean - task.class_exact_match))
    assert len(found) == 3 * 2 * 3 and gap.mean == pytest.approx(max(found), abs=1e-9)
    assert gap.mean < 1e-5


@pytest.mark.parametrize(("mode", "degree"), TABLE)
def test_pointer_learners_are_on_the_table(mode, degree):
    n = 2000
    records = sweep.pointer(mode=mode, degree=degree, length=5, nodes=20, n=n, rng=np.random.default_rng(1))
    values = {(r.metric, r.labels["learner"], r.labels["hops"]): r for r in records}
    for hops, p in zip((0, 1, 3), TABLE[mode, degree], strict=True):
        assert values[path.SAMPLED, path.CLOSED, hops].value == pytest.approx(p, rel=1e-12)
        assert values[path.EXPECTED, sweep.POINTER, hops].value == pytest.approx(p, rel=1e-4)
        slack = 4 * math.sqrt(p * (1 - p) / n) + 1e-3 * (p == 1)
        sampled, greedy = values[path.SAMPLED, sweep.POINTER, hops], values[path.GREEDY, sweep.POINTER, hops]
        assert sampled.value == pytest.approx(p, abs=slack) and sampled.lower <= sampled.value <= sampled.upper
        assert sampled.labels["n"] == POPULATION
        same_label_twice = (mode, hops) == (path.TEACHERLESS, 0)
        assert values[path.GREEDY, path.CLOSED, hops].value == pytest.approx(0.0 if same_label_twice else p, rel=1e-12)
        assert greedy.value == pytest.approx(values[path.GREEDY, path.CLOSED, hops].value, abs=slack)


def test_hops_are_none_one_and_all():
    assert [sweep.hops_of(length) for length in (3, 4, 5, 7)] == [[0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 5]]


def test_published_numbers_are_labelled_as_such(outcome):
    rows = outcome.summary.select(part=sweep.PUBLISHED_ROWS)
    assert {(row["degree"], row["H"]): row.mean for row in rows} == {(2, 10): 0.494, (5, 5): 0.186, (7, 7): 0.126}
    assert all(row.method.startswith("published, not ours") and row.seeds == 0 for row in rows)


def test_findings_are_of_the_largest_gap_and_of_every_number_of_arms(outcome):
    hops, law = outcome.analysis.findings
    assert "0 | 1 | 2 hops seen" in hops and "of its closed form (over 18 learners)" in hops
    assert law.startswith("Teacher forcing against 1/d: pointers 0.500 (d=2), 0.333 (d=3). Published, not ours: 49.4%")
    copied = outcome.summary.series("degree", path.SAMPLED, part=path.REFERENCE, mode=path.FORCING)
    np.testing.assert_allclose(copied.mean, 1 / copied.x)
