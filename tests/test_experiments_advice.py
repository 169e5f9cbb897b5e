"""The study advice: what the adviser says on tasks whose expert is known."""

import experiments_toy as toy
import pytest

from experiments.evaluation import build_task
from experiments.studies import advice as scoring
from experiments.testing import check_study


@pytest.mark.slow
def test_the_study_scores_what_was_said(monkeypatch):
    monkeypatch.setattr(scoring, "QUICK", scoring.QUICK[1:2])
    outcome = check_study(scoring.STUDY, toy.small_options("advice"))
    met = scoring.shares(outcome.summary)
    assert met["well specified, and not called misspecified"] == (1, 1)
    found = outcome.summary.select(scoring.FOUND, eps=0.2)
    assert len(found) == 1
    assert any("1 of 1 (100%" in line for line in outcome.analysis.findings)


def test_instances_are_drawn_from_their_ranges():
    for task, policy_class, well in scoring.drawn(12, seed=5):
        made = build_task(task)
        assert policy_class == "" and made.horizon in (16, 32, 64, 32)
        if well and task.startswith("ARLinear"):
            assert made.best_in_class().hellinger2 < 1e-14


def test_instances_that_are_called_well_specified_are():
    for task, _, well in scoring.INSTANCES:
        if task.startswith(("Text", "Snowball")):
            continue
        assert (build_task(task).best_in_class().hellinger2 < 1e-9) == well, task
