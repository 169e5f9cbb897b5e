"""The study of decoding: its numbers are those of the decoded law, and its verdict is that of its numbers."""

from dataclasses import replace

import experiments_toy as toy
import numpy as np
import pytest
from small_studies import HARBOUR, ROOT
from tiny_model import save_tiny

from agents import make_agent
from experiments.run import run_study
from experiments.studies import decoding, load_study
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs import DecodedPolicy, NGramClass, collect, distance_curves
from ntp_envs.tasks import Text

TEXT = {"corpus": str(ROOT / HARBOUR), "expert_order": 3, "horizon": 3, "prompt_length": 2}


@pytest.mark.parametrize(("way", "value"), [("temperature", 0.6), ("top_p", 0.8)])
def test_distance_and_coverage_are_those_of_the_decoded_law(way, value):
    sizes = {"order": 2, "thresholds": (4.0,), "n": 300, "draws": 4000, "replicate": 0}
    records = decoding.decoded(text=TEXT, way=way, values=(value,), **sizes, rng=np.random.default_rng(1))
    task, rng = Text(**TEXT), np.random.default_rng(1)
    learner = make_agent("NGramBC").fit(collect(task, 300, rng), NGramClass(task.vocab_size, 2), rng=rng).policy_
    metrics = ("hellinger2", "coverage")
    exact = distance_curves(
        task.expert,
        DecodedPolicy(learner, **{way: value}),
        task,
        metrics=metrics,
        thresholds=4.0,
        method="monte carlo",
        n=40_000,
        rng=np.random.default_rng(2),
    )
    for record in records:
        curve, h = exact[record.metric], record.labels["h"]
        value, lower, upper = (float(np.ravel(end)[h - 1]) for end in (curve.values, curve.lower, curve.upper))
        assert abs(record.value - value) <= record.upper - record.lower + upper - lower, "four standard errors"


def test_the_small_run():
    outcome = check_study(load_study("decoding"), toy.small_options("decoding"))
    for way in decoding.WAYS:
        own = outcome.summary.select(decoding.DISTANCE2, part=way, h=4, **{way: 1.0})
        assert own[0].seeds == 2
    one, other = (outcome.summary.value(decoding.DISTANCE2, part=way, h=1, **{way: 1.0}) for way in decoding.WAYS)
    assert one == pytest.approx(other, abs=0.1), "the same learner, on other draws"


def rows(distances, uncovered):
    made = []
    for metric, numbers in ((decoding.DISTANCE2, distances), (decoding.COVERAGE, uncovered)):
        for temperature, value in numbers.items():
            values = tuple(value + 0.01 * k * temperature for k in range(3))
            labels = {"temperature": temperature, "h": 4, **({"N": 9.0} if metric == decoding.COVERAGE else {})}
            made.append(SummaryRow("temperature", labels, metric, value, value, value, 3, "", values))
    return Summary(made)


def test_the_verdict_is_that_of_the_numbers():
    options = decoding.DecodingOptions(temperatures=(0.5, 1.0), thresholds=(9.0,), horizon=4, detail=4)
    (apart,) = decoding.findings(options, rows({0.5: 1.0, 1.0: 1.2}, {0.5: 0.6, 1.0: 0.3}))
    assert "least at 0.5" in apart and "no setting serves both" in apart
    (both,) = decoding.findings(options, rows({0.5: 1.2, 1.0: 1.0}, {0.5: 0.6, 1.0: 0.3}))
    assert "1 is nearest and covers best" in both


def test_a_language_model_is_decoded(tmp_path):
    """Its own law at temperature 1 is nowhere, and all values are measured on the same texts of the expert."""
    pytest.importorskip("transformers")
    tiny = str(save_tiny(tmp_path / "tiny"))
    values = {"temperatures": (0.5, 1.0), "top_ps": (0.5, 1.0), "thresholds": (4.0,)}
    options = decoding.DecodingOptions(expert=tiny, learner="none", horizon=4, detail=4, draws=16, seeds=2, **values)
    undrawn = replace(decoding.STUDY, analyse=lambda o, s: replace(decoding.STUDY.analyse(o, s), figures=()))
    outcome = run_study(undrawn, options, out=tmp_path / "run")
    assert not outcome.failures
    for way in decoding.WAYS:
        own, cut = (outcome.summary.select(decoding.DISTANCE2, part=way, h=4, **{way: x})[0] for x in (1.0, 0.5))
        assert own.mean == pytest.approx(0, abs=1e-9) and cut.mean > 0.1 and own.seeds == 2
    assert "tiny with none" in outcome.analysis.tables[0].note
