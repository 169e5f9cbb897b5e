"""The study pathstar at tiny sizes: trainings that go on where they were stopped, and what is read off them."""

import dataclasses
import json
import math
import sys

import experiments_toy as toy
import numpy as np
import pytest

from experiments.cells import Record, cached_records
from experiments.studies import load_study
from experiments.studies import pathstar as sweep
from experiments.study import Analysis
from experiments.summary import Series, Summary, SummaryRow
from experiments.testing import check_study

SMALL = toy.small_options("pathstar")
STUDY = load_study("pathstar")
#: the same without tables and figures
PLAIN = dataclasses.replace(STUDY, analyse=lambda options, summary: Analysis(STUDY.analyse(options, summary).rows))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    pytest.importorskip("torch")
    return check_study(STUDY, SMALL, out=tmp_path_factory.mktemp("pathstar") / "run")


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_every_mode_is_evaluated_at_every_stop(outcome):
    for mode, stops in (
        (sweep.FORCING, [2, 4]),
        (sweep.REVERSED, [2, 4]),
        (sweep.TEACHERLESS, [2, 4, 6]),
        (sweep.SECOND, [2, 3]),
    ):
        for h in (1, 2, 3, 4):
            series = outcome.summary.series("step", sweep.FORCED, part=sweep.NETWORK, mode=mode, h=h)
            assert list(series.x) == stops
            assert (series.lower <= series.mean).all() and (series.mean <= series.upper).all()
        whole = [
            len(outcome.summary.select(metric, part=sweep.NETWORK, mode=mode))
            for metric in (sweep.GREEDY, sweep.SAMPLED, sweep.NATS)
        ]
        assert whole == [0 if mode == sweep.SECOND else len(stops)] * 3  # an answer takes more than its second token
    assert {row.seeds for row in outcome.summary.select(part=sweep.NETWORK)} == {SMALL.seeds, 0} - {0}


# -- copying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "vector"), [(sweep.FORCING, [1, 1 / 3, 1, 1]), (sweep.REVERSED, [1, 1, 1, 1])])
def test_copying_is_exact(mode, vector):
    records = sweep.copying(mode=mode, degree=3, length=4, nodes=4, rng=np.random.default_rng(0))
    assert [r.value for r in records if r.metric == sweep.FORCED] == pytest.approx(vector)
    whole = {r.metric: r.value for r in records if r.metric != sweep.FORCED}
    assert whole == pytest.approx(
        {sweep.GREEDY: min(vector), sweep.SAMPLED: min(vector), sweep.NATS: -math.log(min(vector)) / 4}
    )


# -- trainings ---------------------------------------------------------------------------------------------------------


def training(scratch, mode=sweep.FORCING, **changes):
    sizes = {"degree": 2, "length": 4, "nodes": 8, "steps": 4, "every": 2, "prompts": 12, "batch_size": 8}
    network = {"width": 8, "layers": 1, "heads": 2}
    more = {"learning_rate": 1e-3, "network": network, "device": "cpu", "replicate": 0}
    return sweep.trained(mode=mode, **{**sizes, **more, **changes}, rng=np.random.default_rng(3), scratch=scratch)


@pytest.mark.parametrize("mode", sweep.MODES)
def test_an_evaluation_does_not_depend_on_the_others(mode, tmp_path):
    pytest.importorskip("torch")
    often, once = training(tmp_path / "a", mode, every=1), training(tmp_path / "b", mode, every=4)
    assert {r.labels["step"] for r in often} == {1, 2, 3, 4}
    assert [r for r in often if r.labels["step"] == 4] == once


#: the draw or the evaluation at which it is stopped, in the third cell; and the updates that are repeated: the one that
#: was stopped, and one since the checkpoint
STOPS = {"training": (16, None, 2), "evaluating": (None, 8, 0)}


@pytest.mark.parametrize(("draw", "evaluation", "repeated"), STOPS.values(), ids=STOPS)
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_bytes(
    draw, evaluation, repeated, outcome, tmp_path, monkeypatch
):
    folder = tmp_path / "stopped"
    again, draws = toy.stopped_and_resumed(monkeypatch, PLAIN, SMALL, folder, draw, evaluation)
    assert again.reused == 2 and not again.failures
    assert again.folder.summary.read_bytes() == outcome.folder.summary.read_bytes()
    assert len(draws) == SMALL.seeds * sum((4, 4, 6, 3)) + repeated


def test_records_are_made_once(tmp_path):
    made = []
    records = [Record("a", 0.1 + 0.2, {"step": 3}, 0.0, 1 / 3), Record("b", math.inf, {"mode": "x"})]

    def make():
        made.append(1)
        return records

    assert cached_records(tmp_path / "r.json", make) == records == cached_records(tmp_path / "r.json", make)
    assert made == [1] and [path.name for path in tmp_path.iterdir()] == ["r.json"]
    for broken in ("{", json.dumps([{"metric": "a"}]), json.dumps(3)):
        (tmp_path / "r.json").write_text(broken)
        with pytest.raises(ValueError, match=r"r\.json does not hold records .* delete it"):
            cached_records(tmp_path / "r.json", make)


def test_without_torch_it_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"extra 'neural' .* ntp-bench run pointers"):
        list(sweep.cells(SMALL))


# -- reading the summary -----------------------------------------------------------------------------------------------


def curve(mode, accuracies, length=4, degree=2):
    """A training from ``{h: accuracy at steps 10, 20, ...}``; 0 for whole answers."""
    rows = []
    for h, values in accuracies.items():
        for i, value in enumerate(values, 1):
            place = {"mode": mode, "degree": degree, "H": length, "step": 10 * i, **({"h": h} if h else {})}
            interval = (max(value - 0.1, 0.0), min(value + 0.1, 1.0))
            rows.append(SummaryRow(sweep.NETWORK, place, sweep.FORCED if h else sweep.GREEDY, value, *interval, 1))
    return sweep.Training(Summary(rows), mode, degree, length)


def test_nodes_are_found_wherever_they_are_written():
    forcing = curve(sweep.FORCING, {1: [1, 1], 2: [0.4, 0.5], 3: [0.8, 1], 4: [1, 1], 0: [0.4, 0.5]})
    assert [forcing.at_end(node=node).mean for node in (2, 3, 4)] == [0.5, 1, 1]
    back = curve(sweep.REVERSED, {1: [1, 1], 2: [0.2, 0.9], 3: [0.1, 0.8], 4: [0, 0.7], 0: [0, 0.7]})
    assert [back.at_end(node=node).mean for node in (1, 2, 3, 4)] == [0.7, 0.8, 0.9, 1]
    assert list(back.node(3).mean) == [0.2, 0.9] and back.steps == 20


def test_a_level_is_reached_once_it_is_kept():
    def series(*mean):
        at = np.arange(1.0, len(mean) + 1)
        return Series(at, *(np.array(mean),) * 3)

    assert sweep.first_above(series(0.1, 0.95, 0.5, 0.9, 1.0), 0.9) == 4
    assert sweep.first_above(series(1.0, 1.0), 0.9) == 1
    assert sweep.first_above(series(1.0, 0.8), 0.9) is None


def test_headings_say_what_the_numbers_say():
    stuck = curve(sweep.FORCING, {2: [0.4, 0.52], 3: [1, 1], 4: [1, 1], 0: [0.4, 0.52]})
    solved = curve(sweep.REVERSED, {2: [1, 1], 3: [1, 1], 4: [1, 1], 0: [0.5, 1]})
    right_to_left = curve(sweep.TEACHERLESS, {2: [0.1, 0.1, 0.2], 3: [0.1, 0.1, 1], 4: [0.3, 1, 1], 0: [0, 0.1, 0.2]})
    found = sweep.headings(
        {sweep.FORCING: stuck, sweep.REVERSED: solved, sweep.TEACHERLESS: right_to_left, sweep.SECOND: stuck}
    )
    assert found == {
        sweep.FORCING: "stuck at 1/2",
        sweep.REVERSED: "solved",
        sweep.TEACHERLESS: "from the last node backwards",
    }
    gap = curve(sweep.TEACHERLESS, {2: [0.1, 1, 1], 3: [0.1, 0.1, 0.1], 4: [0.3, 1, 1], 0: [0, 0.1, 0.1]})
    assert (
        not sweep.backwards(gap)
        and sweep.headings({sweep.TEACHERLESS: gap})[sweep.TEACHERLESS] == "10% of answers so far"
    )
    all_of_it = curve(sweep.TEACHERLESS, {2: [0.1, 0.1, 1], 3: [0.1, 1, 1], 4: [1, 1, 1], 0: [0, 0.1, 1]})
    assert sweep.headings({sweep.TEACHERLESS: all_of_it})[sweep.TEACHERLESS] == "solved, last node first"
    lucky = curve(sweep.FORCING, {2: [0.1, 0.8], 3: [1, 1], 4: [1, 1], 0: [0.1, 0.8]})
    assert sweep.headings({sweep.FORCING: lucky})[sweep.FORCING] == "80% of answers so far"
    young = curve(sweep.FORCING, {2: [0.1, 0.5], 3: [0.2, 0.6], 4: [1, 1], 0: [0.1, 0.5]})
    assert sweep.headings({sweep.FORCING: young})[sweep.FORCING] == "50% of answers so far"
    assert (
        sweep.title_of({sweep.FORCING: stuck})
        != sweep.title_of({sweep.FORCING: young})
        == sweep.title_of({sweep.REVERSED: solved})
    )


def test_learned_rows_are_only_of_what_was_learned(outcome):
    assert not len(outcome.summary.select(sweep.LEARNED))  # a handful of updates
    assert (
        outcome.summary.value(sweep.GREEDY, part=sweep.REFERENCE, learner=sweep.HANS, mode=sweep.FORCING, degree=2)
        == 0.5
    )
