"""The study tightrope: the cost of a slip with and without asking the expert is what the closed forms say."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies import tightrope as sweep
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study

SMALL = {"rounds": 3, "rollouts": 200, "n": 20, "replicate": 0}


def values(records, **labels):
    return {r.metric: r.value for r in records if all(r.labels.get(k) == v for k, v in labels.items())}


@pytest.mark.parametrize("H", [16, 64, 256])
def test_cloning_and_dagger_cost_what_the_closed_forms_say(H):
    eps = 1e-3
    records = sweep.costs(H=H, eps=eps, rng=np.random.default_rng(0), **SMALL)
    slow = sum(1 - (1 - eps) ** h for h in range(1, H + 1))
    off = [0.0]
    for _ in range(H):  # off the rope at the next step only by a slip from on it
        off.append(eps * (1 - off[-1]))
    for learner in sweep.FORMS:
        found = values(records, learner=learner)
        assert found[sweep.COST] == pytest.approx(sum(off) if learner == sweep.DAGGER else slow, rel=0.05), learner
        assert found[sweep.QUERIES] == (3 * 200 * H if learner == sweep.DAGGER else 0)
    assert [values(records, learner=form)[sweep.COST] for form in sweep.CLOSED_FORMS] == pytest.approx([slow, sum(off)])


def test_a_dagger_that_never_slipped_is_no_better_than_cloning():
    records = sweep.costs(H=2, eps=1e-6, rng=np.random.default_rng(0), **{**SMALL, "rounds": 1, "rollouts": 1})
    assert values(records, learner=sweep.DAGGER)[sweep.COST] == values(records, learner="log-loss")[sweep.COST]


@pytest.mark.slow
def test_costs_grow_as_the_closed_forms_do():
    outcome = check_study(load_study("tightrope"), toy.small_options("tightrope"))
    summary = outcome.summary
    assert summary.value(sweep.SLOPE, learner="log-loss") == pytest.approx(2, abs=0.1)  # below 2 as falls saturate
    assert summary.value(sweep.SLOPE, learner=sweep.DAGGER) == pytest.approx(1, abs=0.01)
    assert max(row.mean for row in summary.select(sweep.GAP)) <= 0.05
    assert "all within 5 %" in outcome.analysis.findings[-1]


def test_findings_say_so_where_a_cost_is_off_its_closed_form():
    records = sweep.costs(H=4, eps=1e-6, rng=np.random.default_rng(0), **{**SMALL, "rounds": 1, "rollouts": 1})
    summary = Summary(SummaryRow(sweep.COSTS, r.labels, r.metric, r.value, r.value, r.value, 1) for r in records)
    (said,) = sweep.cost_findings(None, Summary([*summary, *sweep.cost_rows(None, summary)]))
    assert "not within 5 %" in said
