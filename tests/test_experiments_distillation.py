"""The study of distillation: its small run, and that what it says of equal divergences is read off the curves."""

import math
from dataclasses import replace

import experiments_toy as toy
import pytest
from tiny_model import save_tiny

from experiments.executors import run_cell
from experiments.studies import distillation, lm, load_study
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study

WAYS = list(distillation.COLOUR)


@pytest.mark.slow
def test_the_small_run():
    summary = check_study(load_study("distillation"), toy.small_options("distillation")).summary
    for order in (1, 2):
        forced = {way: summary.value(distillation.FORCED, learner=way, order=order) for way in WAYS}
        assert forced[distillation.LAWS] < forced[distillation.REVERSE]  # which is not what it minimises


def rows(curves):
    made = []
    for way, points in curves.items():
        for order, (forced, rate) in enumerate(points, 1):
            for metric, value in ((distillation.FORCED, forced), (distillation.RATE, rate)):
                made.append(SummaryRow("students", {"learner": way, "order": order}, metric, value, value, value, 3))
    return Summary(made)


def test_curves_are_compared_where_all_have_the_same_divergence():
    options = distillation.DistillationOptions(orders=(1, 2))
    curves = {way: [(4.0, 0.4), (1.0, 0.1)] for way in WAYS}
    curves[distillation.REVERSE] = [(16.0, 0.4), (1.0, 0.1)]
    kl, drift = distillation.at_equal(options, rows(curves))
    assert kl == pytest.approx(2.0)
    assert drift[distillation.LAWS] == pytest.approx(0.2) and drift[distillation.REVERSE] == pytest.approx(
        math.sqrt(0.02)
    )
    assert "taught on policy by reverse KL drift least" in distillation.title(options, rows(curves))
    curves[distillation.REVERSE] = [(16.0, 0.4), (8.0, 0.1)]
    assert distillation.at_equal(options, rows(curves)) is None, "there is no such divergence"


def test_a_language_model_teaches(tmp_path):
    pytest.importorskip("transformers")
    sizes = {"orders": (1,), "networks": ("mlp",), "width": 4, "steps": 2, "horizon": 3}
    options = distillation.DistillationOptions(
        expert=str(save_tiny(tmp_path / "tiny")), **sizes, n=8, draws=4, forced=2, seeds=1
    )
    records = [record for cell in distillation.cells(options) for record in run_cell(cell, "distillation", 0).records]
    rates = {
        (r.labels["learner"], r.labels.get("student", "1-gram")): r.value for r in records if r.metric == lm.FORCED
    }
    assert len(rates) == 2 * len(WAYS) and all(value > 0 for value in rates.values())
    assert "Students of tiny" in distillation.figures(options, Summary([]))[0].caption
    with pytest.raises(ValueError, match=r"GB each would not fit .* fewer texts \(--n\)"):
        distillation.check_machine(replace(options, n=2**24, horizon=2000), 1)
