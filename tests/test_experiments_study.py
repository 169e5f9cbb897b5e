"""The study machinery: seeds, results that survive, folders that are not overwritten, reports."""

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import stats

import experiments
from experiments.cells import Cell, CellResult, Record, ResultStore, cell_rng
from experiments.measure import SLOPE_IN_H
from experiments.run import FolderError, OutputFolder, reproduce_command, run_cell, run_settings, run_study
from experiments.studies.compare import CompareOptions, Runs, means_of
from experiments.summary import (
    Series,
    Summary,
    SummaryRow,
    Table,
    interval_words,
    loglog_slope,
    mean_interval,
    number,
    paired_difference,
    slope_interval,
    slope_rows,
    summarise,
    summary_lines,
    with_interval,
)
from experiments.threads import one_thread

QUICK = toy.ToyOptions.quick()


def names(folder):
    return {path.name for path in folder.iterdir()}


# -- reproducibility ---------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    run_study(toy.STUDY, out=tmp_path / "inline", workers=1)
    run_study(toy.STUDY, out=tmp_path / "processes", workers=2)
    with ThreadPoolExecutor(3) as executor:
        run_study(toy.STUDY, out=tmp_path / "threads", executor=executor)
    run_study(toy.STUDY, out=tmp_path / "other", seed=1)
    for file in ("summary.csv", "config.json", "report.html", "squares.png", "squares.svg"):
        contents = {(tmp_path / run / file).read_bytes() for run in ("inline", "processes", "threads")}
        assert len(contents) == 1, file
    assert (tmp_path / "other" / "summary.csv").read_bytes() != (tmp_path / "inline" / "summary.csv").read_bytes()


def test_a_cell_s_numbers_do_not_depend_on_the_other_cells(tmp_path):
    few = run_study(toy.STUDY, toy.ToyOptions(sizes=(2,)), out=tmp_path / "few").summary
    many = run_study(toy.STUDY, toy.ToyOptions(sizes=(4, 2, 1)), out=tmp_path / "many").summary
    assert few.select("square", K=2).rows == many.select("square", K=2).rows


def test_cell_streams_are_keyed_by_identity():
    cell = Cell("a", toy.noisy_square, {"size": 1, "mood": "x"})
    same = Cell("a", toy.noisy_square, {"mood": "x", "size": 1})
    others = [replace(cell, part="b"), replace(cell, parameters={"size": 2, "mood": "x"})]
    draw = cell_rng(0, "toy", cell).random(4)
    assert (draw == cell_rng(0, "toy", same).random(4)).all()
    for generator in (
        *(cell_rng(0, "toy", other) for other in others),
        cell_rng(1, "toy", cell),
        cell_rng(0, "u", cell),
    ):
        assert not np.isclose(draw, generator.random(4)).any()


def test_machine_dependent_numbers_stay_out_of_the_summary(tmp_path):
    summary = run_study(toy.STUDY, QUICK, out=tmp_path / "run").summary
    assert {row.metric for row in summary} == {"square", "total"}
    assert [(row.metric, row["K"], row.seeds) for row in summary.timings] == [("seconds", 1, 3), ("seconds", 2, 3)]
    assert all(row.lower < row.mean < row.upper for row in summary.timings)
    assert "seconds" not in (tmp_path / "run" / "summary.csv").read_text()
    timings = (tmp_path / "run" / "timings.csv").read_text().splitlines()
    assert len(timings) == 1 + 2 * 6  # a cell's own wall time, and the number it measured


# -- what is finished is kept ------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_finished_without_repeating_anything(tmp_path):
    log = tmp_path / "log"
    options = toy.ToyOptions(log=str(log))

    def interrupt(done, total, result):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(toy.STUDY, options, out=tmp_path / "run", progress=interrupt)
    assert len(log.read_text().splitlines()) == 4
    outcome = run_study(toy.STUDY, options, out=tmp_path / "run")
    assert outcome.reused == 4
    assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 9
    run_study(toy.STUDY, options, out=tmp_path / "whole")
    assert (tmp_path / "run" / "summary.csv").read_bytes() == (tmp_path / "whole" / "summary.csv").read_bytes()
    assert run_study(toy.STUDY, options, out=tmp_path / "run").reused == 9


def test_a_long_cell_goes_on_from_its_own_checkpoint(tmp_path):
    stop = tmp_path / "stop"
    options = toy.LongOptions(stop=str(stop))
    stop.touch()
    with pytest.raises(KeyboardInterrupt):
        run_study(toy.LONG, options, out=tmp_path / "run")
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert (kept / "state").read_text() == "2 11"
    stop.unlink()
    outcome = run_study(toy.LONG, options, out=tmp_path / "run")
    assert [row.mean for row in outcome.summary.select("total")] == [16.0, 26.0]
    assert [row.mean for row in outcome.summary.timings if row.metric == "steps made"] == [2.0, 4.0]
    assert not (tmp_path / "run" / "checkpoints").exists()
    stop.touch()
    with pytest.raises(KeyboardInterrupt):
        run_study(toy.LONG, options, out=tmp_path / "run", seed=1, overwrite=True)
    assert (tmp_path / "run" / "checkpoints").exists()
    run_study(toy.STUDY, QUICK, out=tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_cell_without_a_run_has_a_temporary_scratch_folder():
    (cell, _) = toy.LONG.checked_cells(toy.LongOptions())
    result = run_cell(cell, "long", 0)
    assert result.error is None and result.records[0].value == 16.0


def test_a_failing_cell_does_not_stop_the_others_and_is_tried_again(tmp_path):
    log = tmp_path / "log"
    options = toy.ToyOptions(mood="failing", log=str(log))
    outcome = run_study(toy.STUDY, options, out=tmp_path / "run", workers=2)
    (failure,) = outcome.failures
    assert "'size': 2" in failure.where and "'replicate': 1" in failure.where
    assert failure.last_line == "ArithmeticError: two is <b>odd</b>"
    assert [row.seeds for row in outcome.summary.select("square")] == [3, 2, 3]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "1 failed" in report and "two is &lt;b&gt;odd" in report and "<b>odd" not in report
    again = run_study(toy.STUDY, options, out=tmp_path / "run")
    assert again.reused == 8 and len(again.failures) == 1
    assert log.read_text().splitlines().count("2 1") == 2


def test_a_worker_that_dies_is_a_failure_and_not_a_hang(tmp_path):
    outcome = run_study(toy.STUDY, toy.ToyOptions(sizes=(1, 2), mood="dying"), out=tmp_path / "run", workers=2)
    assert outcome.failures and any("worker was lost" in failure.error for failure in outcome.failures)
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(("mood", "where"), [("inkless", "figure broken"), ("confused", "the analysis")])
def test_a_failing_figure_or_analysis_is_reported_and_the_numbers_are_written(tmp_path, mood, where):
    outcome = run_study(toy.STUDY, toy.ToyOptions(mood=mood), out=tmp_path / "run")
    assert [failure.where for failure in outcome.failures] == [where]
    assert len((tmp_path / "run" / "summary.csv").read_text().splitlines()) >= 4
    assert where in (tmp_path / "run" / "report.html").read_text()


def test_the_store_replaces_a_failure_and_keeps_every_bit(tmp_path):
    cell = Cell("part", toy.noisy_square, {"size": 1})
    record = Record("x", np.float64(0.1) + 0.2, {"K": np.int64(3), "n": float("inf")}, upper=float("nan"))
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.put(cell, CellResult(cell.key, (), "went wrong", 1.0))
        store.put(cell, CellResult(cell.key, (record,), None, 2.0))
    with ResultStore(tmp_path / "r.sqlite") as store:
        (kept,) = store.results().values()
    assert kept.error is None
    assert kept.records[0].value == 0.1 + 0.2 and np.isnan(kept.records[0].upper)
    assert kept.records[0].labels == {"K": 3, "n": float("inf")}


def test_a_results_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "r.sqlite").write_text("not a data base, but long enough to be looked at " * 20)
    with pytest.raises(ValueError, match="not a readable results file"):
        ResultStore(tmp_path / "r.sqlite")


# -- folders -----------------------------------------------------------------------------------------------------------


def test_other_settings_are_refused_and_named(tmp_path):
    run_study(toy.STUDY, QUICK, out=tmp_path / "run")
    before = (tmp_path / "run" / "summary.csv").read_bytes()
    with pytest.raises(FolderError) as refusal:
        run_study(toy.STUDY, toy.ToyOptions(sizes=(1,)), out=tmp_path / "run", seed=5)
    for words in ("options.sizes: [1, 2] there, [1] now", "seed: 0 there, 5 now", "--out", "--overwrite"):
        assert words in str(refusal.value)
    assert "mood" not in str(refusal.value)
    assert (tmp_path / "run" / "summary.csv").read_bytes() == before
    outcome = run_study(toy.STUDY, toy.ToyOptions(sizes=(1,)), out=tmp_path / "run", seed=5, overwrite=True)
    assert outcome.reused == 0 and len(outcome.summary.select("square")) == 1


def test_overwriting_removes_nothing_but_a_run(tmp_path):
    run_study(toy.STUDY, QUICK, out=tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run_study(toy.STUDY, QUICK, out=tmp_path / "run", seed=1, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("file", "content"),
    [("thesis.tex", "words"), ("config.json", '{"colour": 3}'), ("config.json", "[1"), ("config.json", "7")],
)
def test_a_folder_that_is_not_ours_is_refused(tmp_path, file, content, overwrite):
    (tmp_path / file).write_text(content)
    with pytest.raises(FolderError, match="--out"):
        run_study(toy.STUDY, QUICK, out=tmp_path, overwrite=overwrite)
    assert names(tmp_path) == {file}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(FolderError, match="is a file"):
        run_study(toy.STUDY, QUICK, out=tmp_path / "run")


def test_settings_hold_versions_and_nothing_of_the_moment(tmp_path):
    run_study(toy.STUDY, QUICK, out=tmp_path / "run", seed=3)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["study"] == "toy" and config["seed"] == 3 and config["options"]["sizes"] == [1, 2]
    assert set(config["versions"]) == {"python", "numpy", "scipy", "gymnasium", "ntp-envs"}
    assert config["versions"]["numpy"] == np.__version__
    assert set(config) == {"study", "quick", "seed", "options", "versions", "platform", "threads", "kernels"}
    assert config["threads"] == 1 and any(name.startswith("numpy ") for name in config["kernels"])


def test_another_version_counts_as_other_settings(tmp_path):
    found = run_settings(toy.STUDY, QUICK, quick=False, seed=0)
    OutputFolder(tmp_path / "run").prepare(found)
    found["versions"]["numpy"] = "1.0"
    with pytest.raises(FolderError, match=r"versions\.numpy"):
        OutputFolder(tmp_path / "run").prepare(found)


def test_a_run_goes_on_where_sums_are_taken_in_another_order(tmp_path):
    """Another processor computes with other kernels: they are kept in mind, and nothing is refused for them."""
    for kernel in ("openblas 1.0 Prescott", "openblas 1.0 SkylakeX"):
        found = {**run_settings(toy.STUDY, QUICK, quick=False, seed=0), "kernels": [kernel]}
        OutputFolder(tmp_path / "run").prepare(found)
    both = ["openblas 1.0 Prescott", "openblas 1.0 SkylakeX"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["kernels"] == both
    OutputFolder(tmp_path / "run").prepare(found, overwrite=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["kernels"] == both[1:]


# -- threads -----------------------------------------------------------------------------------------------------------


def pools():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_the_limit_holds_until_the_last_of_several_threads_has_left():
    if not pools():
        pytest.skip("no library here has threads to limit")
    with threadpoolctl.threadpool_limits(2):
        before, variables = pools(), dict(os.environ)
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert pools() == {1} and os.environ["OMP_NUM_THREADS"] == "1"
        second.__exit__(None, None, None)
        assert pools() == before and dict(os.environ) == variables


@pytest.mark.slow
@pytest.mark.parametrize("asked", [None, "2"])
def test_cells_compute_on_one_thread_whatever_the_user_has_set(tmp_path, asked):
    """In this process, where numpy was imported before anybody could set a limit, and in workers: the same numbers."""
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    if asked is not None:
        variables.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), asked))
    here = Path(__file__).parent
    variables["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    code = (
        "import sys, numpy, experiments_toy as toy; from experiments.run import run_study\n"
        "if __name__ == '__main__':\n"
        "    for workers in (1, 2):\n"
        "        run_study(toy.THREADED, out=f'{sys.argv[1]}/{workers}', workers=workers)\n"
    )
    (tmp_path / "main.py").write_text(code)
    subprocess.run([sys.executable, str(tmp_path / "main.py"), str(tmp_path)], env=variables, check=True)
    one, two = ((tmp_path / str(workers) / "summary.csv").read_bytes() for workers in (1, 2))
    assert one == two
    assert b"threads,1," in one


# -- report ------------------------------------------------------------------------------------------------------------


def test_the_report_holds_everything_and_refers_to_nothing(tmp_path):
    run_study(toy.STUDY, out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 1
    head, _, data = sources[0].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == (tmp_path / "run" / "squares.png").read_bytes()
    assert not re.search(r"https?:|url\(|<script|<link|@import", page)
    for words in (
        "Do squares grow?",
        "They do &amp; fast.",
        "Squares &lt;i&gt;",
        "ntp-bench run toy --seed 0",
        "numpy",
    ):
        assert words in page
    assert names(tmp_path / "run") == {
        *("config.json", "results.sqlite", "summary.csv", "timings.csv", "report.html", "squares.png", "squares.svg")
    }
    svg = (tmp_path / "run" / "squares.svg").read_text()
    assert "<dc:date>" not in svg
    with sqlite3.connect(tmp_path / "run" / "results.sqlite") as db:
        assert db.execute("SELECT count(*) FROM cells WHERE error IS NULL").fetchone() == (9,)


def test_the_command_in_the_report_names_what_was_changed():
    changed = toy.ToyOptions(sizes=(1, 2), seeds=7, mood="two words")
    assert reproduce_command(toy.STUDY, changed, quick=True, seed=4) == (
        "ntp-bench run toy --quick --seed 4 --seeds 7 --mood 'two words'"
    )


# -- studies that contradict themselves --------------------------------------------------------------------------------


# -- intervals, slopes, summaries, tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 10, 19])
def test_few_replicates_have_the_interval_of_student(n):
    rng = np.random.default_rng(n)
    for confidence in (0.5, 0.95, 0.999):
        sample = rng.normal(size=n)
        mean, low, high = mean_interval(sample, rng, confidence=confidence)
        expected = stats.ttest_1samp(sample, 0.0).confidence_interval(confidence)
        assert (mean, low, high) == pytest.approx((sample.mean(), expected.low, expected.high))


@pytest.mark.parametrize(("draw", "n"), [("normal", 5), ("normal", 20), ("exponential", 20), ("exponential", 100)])
def test_intervals_of_replicates_cover_the_mean(draw, n):
    rng, repetitions = np.random.default_rng(1), 400
    truth = 1.0 if draw == "exponential" else 0.0
    covered = [
        low <= truth <= high
        for _ in range(repetitions)
        for _, low, high in [mean_interval(getattr(rng, draw)(size=n), rng, resamples=999)]
    ]
    assert stats.binom.ppf(1e-3, repetitions, 0.93) <= sum(covered) <= 0.985 * repetitions


@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 30))
@examples()
def test_equal_replicates_have_no_interval(value, n):
    mean, low, high = mean_interval([value] * n, np.random.default_rng(0))
    assert mean == value and np.isnan([low, high]).all()
    rounded = value * (1 + 1e-15 * np.arange(n))  # another processor's last bits
    assert np.isnan(mean_interval(rounded, np.random.default_rng(0))[1:]).all()
    assert with_interval(mean, low, high) == number(value, 3)


def test_replicates_that_have_no_mean():
    assert mean_interval([1.0, np.inf], np.random.default_rng(0)) == (np.inf,) * 3
    with pytest.raises(ValueError, match="empty"):
        mean_interval([], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"confidence=95 must lie in \(0, 1\)"):
        mean_interval([1.0, 2.0], np.random.default_rng(0), confidence=95)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Record("m", 2.0, {"n": 10}), None),  # measured once
        (Record("m", 2.0, {"n": 10}, 2.0, 2.0), None),  # exact for one data set: nothing is known of the next
        (Record("m", 2.0, {"n": 10}, 1.5, 3.0), (1.5, 3.0)),
        (Record("m", 2.0, {"n": np.inf}, 2.0, 2.0), (2.0, 2.0)),  # exact, and there is one population
    ],
)
def test_the_interval_of_a_single_replicate(record, expected):
    cell = Cell("part", toy.noisy_square, {"replicate": 0})
    summary = summarise(toy.STUDY, [cell], {cell.key: CellResult(cell.key, (record,), None, 0.0)}, seed=0)
    (row,) = summary
    assert row.seeds == 1 and row.replicates == (2.0,)
    assert np.isnan([row.lower, row.upper]).all() if expected is None else (row.lower, row.upper) == expected
    assert row.top == (2.0 if expected is None else expected[1])
    header, (line,) = summary_lines(toy.STUDY, summary)
    assert line[header.index("seeds")] == 1
    assert (line[header.index("lower")] is None) == (expected is None), "an empty place in the file"
    assert "without an interval" in interval_words(1) and "5 data sets" in interval_words(5)


def test_the_interval_of_a_few_replicates_is_at_least_that_of_their_own_errors():
    """Two replicates that only scatter by their own errors: bootstrap alone would cover half of the time."""
    rng = np.random.default_rng(0)
    cells = [Cell("part", toy.noisy_square, {"replicate": replicate}) for replicate in range(2)]
    covered = alone = 0
    for _ in range(300):
        values = rng.normal(size=2)
        results = {
            cell.key: CellResult(cell.key, (Record("m", value, {}, value - 1.96, value + 1.96),), None, 0.0)
            for cell, value in zip(cells, values)
        }
        (row,) = summarise(toy.STUDY, cells, results, seed=0)
        assert row.mean == pytest.approx(values.mean())
        covered += row.lower <= 0.0 <= row.upper
        alone += min(values) <= 0.0 <= max(values)
    assert covered > 300 * 0.95 - 3 * np.sqrt(300 * 0.95 * 0.05)
    assert alone < 200


@given(slope=st.floats(-3, 3), scale=st.floats(0.1, 10), n=st.integers(2, 8))
@examples()
def test_slope_of_a_power_law(slope, scale, n):
    x = 2.0 ** np.arange(n)
    assert loglog_slope(x, scale * x**slope) == pytest.approx(slope, abs=1e-9)
    assert np.isnan(loglog_slope(x[:1], x[:1])) and np.isnan(loglog_slope([1, 2], [0.0, 1.0]))
    found = slope_interval(x, np.repeat(scale * x[:, None] ** slope, 5, axis=1))
    assert found[0] == pytest.approx(slope, abs=2e-9) and np.isnan(found[1:]).all(), "replicates that all agree"


@pytest.mark.parametrize("s", [3, 5, 20])
@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_of_a_slope_covers_the_truth(s, shared):
    rng, x, inside = np.random.default_rng(0), np.array([8.0, 16.0, 32.0]), 0
    for _ in range(400):
        noise = rng.gamma(20.0, 0.05, size=(3, s))
        if shared:  # a data set that is hard at one horizon is hard at all
            noise = noise * rng.gamma(20.0, 0.05, size=s)
        _, lower, upper = slope_interval(x, x[:, None] ** 0.7 * noise)
        inside += lower <= 0.7 <= upper
    assert stats.binom.ppf(1e-3, 400, 0.94) <= inside <= 395


def test_slopes_that_are_not_defined():
    assert np.isnan(slope_interval([1, 2], [[0, 0], [1, 1]])).all()
    assert np.isnan(slope_interval([1], [[1, 2]])).all()
    slope, lower, upper = slope_interval([1, 2], [[0, 0, 1], [2, 2, 2]])
    assert slope == pytest.approx(np.log2(6)) and lower < slope < upper, "only the means must be positive"
    assert slope_interval([1, 2], [[1], [2]])[0] == 1.0 and np.isnan(slope_interval([1, 2], [[1], [2]])[1])


def test_every_study_computes_a_slope_in_one_way():
    """The same rows, jumps and all, give the same slope and interval to whoever asks."""
    rng = np.random.default_rng(3)
    options = CompareOptions(tasks=("Contamination",), agents=("LogLossBC",), horizons=(4, 8, 16))
    labels = {"task": options.tasks[0], "learner": options.baseline}
    values = {H: tuple(float(v) for v in H * rng.choice([0.2, 5.0], size=6)) for H in (4, 8, 16)}
    rows = [
        SummaryRow("runs", {**labels, "H": H, "seed": seed}, "C_apx", v, v, v, 1, "", (v,))
        for H, replicates in values.items()
        for seed, v in enumerate(replicates)
    ]
    of_means = [
        SummaryRow("means", {**labels, "H": H}, "C_apx", float(np.mean(v)), 0.0, 0.0, 6, "", v)
        for H, v in values.items()
    ]
    (pooled,) = slope_rows(of_means, "H", SLOPE_IN_H)
    (compared,) = means_of(Runs(options, Summary(rows))).select(SLOPE_IN_H, **labels)
    intervals = {(row.mean, row.lower, row.upper) for row in (pooled, compared)}
    assert len(intervals) == 1 and pooled.seeds == compared.seeds == 6
    assert pooled.mean == pytest.approx(loglog_slope([4, 8, 16], [np.mean(v) for v in values.values()]))
    sources = {path: path.read_text() for path in Path(experiments.__file__).parent.rglob("*.py")}
    names = [path.name for path, text in sources.items() if '"slope of log C_apx in log' in text]
    assert names == ["measure.py"], "one name, in one place"


def test_a_difference_is_taken_pair_by_pair():
    rng = np.random.default_rng(0)
    common = 10.0 * rng.normal(size=8)  # what data sets differ by, and both share
    ours, theirs = common + 1.0 + 0.1 * rng.normal(size=8), common
    found = paired_difference(ours, theirs, rng)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found == pytest.approx(((ours - theirs).mean(), expected.low, expected.high))
    mean, low, high = paired_difference(theirs + 1e-12, theirs, rng, rounding=1e-9)
    assert mean == 0.0 and np.isnan([low, high]).all()


def test_series_are_sorted_and_selected_by_label():
    rows = [SummaryRow("p", {"H": h, "learner": who}, "C", h * 1.0, h, h, 1) for h in (4, 1, 2) for who in "ab"]
    series = Summary(rows).series("H", "C", learner="a")
    assert series.x.tolist() == series.mean.tolist() == [1, 2, 4] and not series.sampled
    assert Series(*([np.array([1.0])] * 3), np.array([2.0])).sampled
    assert np.isnan(Summary(rows).value("C", H=9))
    with pytest.raises(ValueError, match="2 rows match"):
        Summary(rows).value("C", H=4)


def test_tables_escape_markup_and_shorten_numbers():
    table = Table("a < b", ["x"], [[0.123456], [float("nan")], ["<script>"]], note="c & d")
    assert "<script>" not in table.to_html() and "0.1235" in table.to_html()
    assert number(199.99234, 6) == "199.992"
    assert with_interval(2.0, 1.0, 3.0) == "2 [1, 3]" and with_interval(2.0, 2.0, 2.0) == "2"
