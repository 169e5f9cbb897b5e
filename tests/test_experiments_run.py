"""A run of a study: seeds, results that survive, folders that are not overwritten, threads, the report."""

import ast
import base64
import functools
import gc
import importlib
import inspect
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest
import threadpoolctl

from experiments import fingerprints
from experiments.cells import Cell, CellResult, Record, ResultStore, cell_rng
from experiments.clusters import code_of_cells
from experiments.executors import run_cell
from experiments.run import FolderError, OutputFolder, plan, reproduce_command, run_settings, run_study
from experiments.threads import one_thread

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
QUICK = toy.ToyOptions.quick()


def names(folder):
    return {path.name for path in folder.iterdir()}


# -- reproducibility ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    run_study(toy.STUDY, out=tmp_path / "inline", workers=1)
    run_study(toy.STUDY, out=tmp_path / "processes", workers=2)
    with ThreadPoolExecutor(3) as executor:
        run_study(toy.STUDY, out=tmp_path / "threads", executor=executor)
    run_study(toy.STUDY, out=tmp_path / "other", seed=1)
    for file in ("summary.csv", "report.html", "squares.png", "squares.svg"):
        contents = {(tmp_path / run / file).read_bytes() for run in ("inline", "processes", "threads")}
        if file == "report.html":  # says when it was run
            contents = {re.sub(rb"run [-0-9]+ [0-9:]+ UTC", b"", page, count=1) for page in contents}
        assert len(contents) == 1, file
    assert (tmp_path / "other" / "summary.csv").read_bytes() != (tmp_path / "inline" / "summary.csv").read_bytes()


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


def test_a_study_that_was_part_of_another_keeps_its_numbers(tmp_path):
    for name, seeds_of in (("toy", ""), ("part", "toy"), ("new", "")):
        run_study(replace(toy.UNDRAWN, name=name, seeds_of=seeds_of), QUICK, out=tmp_path / name)
    old, part, new = ((tmp_path / name / "summary.csv").read_bytes() for name in ("toy", "part", "new"))
    assert old == part != new


def test_machine_dependent_numbers_stay_out_of_the_summary(tmp_path):
    summary = run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run").summary
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
        run_study(toy.UNDRAWN, options, out=tmp_path / "run", progress=interrupt)
    assert len(log.read_text().splitlines()) == 4
    outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "run")
    assert outcome.reused == 4
    assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 9
    run_study(toy.UNDRAWN, options, out=tmp_path / "whole")
    assert (tmp_path / "run" / "summary.csv").read_bytes() == (tmp_path / "whole" / "summary.csv").read_bytes()
    assert run_study(toy.UNDRAWN, options, out=tmp_path / "run").reused == 9


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
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_cell_without_a_run_has_a_temporary_scratch_folder():
    (cell, _) = toy.LONG.checked_cells(toy.LongOptions())
    result = run_cell(cell, "long", 0)
    assert result.error is None and result.records[0].value == 16.0


def test_a_failing_cell_does_not_stop_the_others_and_is_tried_again(tmp_path):
    log = tmp_path / "log"
    options = toy.ToyOptions(mood="failing", log=str(log))
    outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "run", workers=2)
    (failure,) = outcome.failures
    assert "'size': 2" in failure.where and "'replicate': 1" in failure.where
    assert failure.last_line == "ArithmeticError: two is <b>odd</b>"
    assert [row.seeds for row in outcome.summary.select("square")] == [3, 2, 3]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "1 failed" in report and "two is &lt;b&gt;odd" in report and "<b>odd" not in report
    again = run_study(toy.UNDRAWN, options, out=tmp_path / "run")
    assert again.reused == 8 and len(again.failures) == 1
    assert log.read_text().splitlines().count("2 1") == 2


@pytest.mark.slow
def test_a_cell_that_kills_its_worker_fails_alone(tmp_path):
    log = tmp_path / "log"
    options = toy.ToyOptions(sizes=(1, 2), mood="dying", log=str(log))
    outcome = run_study(toy.UNDRAWN, options, out=tmp_path / "run", workers=2)
    (failure,) = outcome.failures
    assert "worker was lost, and another" in failure.error
    assert "'size': 2" in failure.where and "'replicate': 1" in failure.where
    assert [row.seeds for row in outcome.summary.select("square")] == [3, 2]
    assert log.read_text().splitlines().count("2 1") == 3
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
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    before = (tmp_path / "run" / "summary.csv").read_bytes()
    with pytest.raises(FolderError) as refusal:
        run_study(toy.UNDRAWN, toy.ToyOptions(sizes=(1,)), out=tmp_path / "run", seed=5)
    for words in ("seed: 0 there, 5 now", "--out", "--overwrite"):
        assert words in str(refusal.value)
    assert "sizes" not in str(refusal.value)
    assert (tmp_path / "run" / "summary.csv").read_bytes() == before
    outcome = run_study(toy.UNDRAWN, toy.ToyOptions(sizes=(1,)), out=tmp_path / "run", seed=5, overwrite=True)
    assert outcome.reused == 0 and len(outcome.summary.select("square")) == 1


def test_a_run_grows_and_shows_what_is_asked_for(tmp_path):
    """More values cost their own cells, fewer cost none, and the summary is that of a run that never was another."""
    log = tmp_path / "log"

    def run(out, *sizes, seeds=3):
        return run_study(toy.UNDRAWN, toy.ToyOptions(sizes=sizes, seeds=seeds, log=str(log)), out=tmp_path / out)

    grown = [run("grown", *sizes, seeds=n).reused for sizes, n in (((1, 2), 2), ((1, 2), 3), ((4, 2, 1), 3))]
    assert grown == [0, 4, 6]
    assert len(log.read_text().splitlines()) == 9
    assert run("grown", 2).reused == 3
    run("fresh", 2)
    assert (tmp_path / "grown" / "summary.csv").read_bytes() == (tmp_path / "fresh" / "summary.csv").read_bytes()
    assert run("grown", 4, 2, 1).reused == 9


def test_cells_whose_code_was_edited_run_again_and_no_others(tmp_path, monkeypatch):
    """Of two functions one changes, directly or in a module that it imports; comments and the analysis do not count."""
    text = """
        from experiments.cells import Cell, Record
        from experiments.study import Analysis, Study
        from toy_options import Options
        {imports}

        def first(*, rng): return [Record("first", {value})]
        def second(*, rng): return [Record("second", helped())]
        def cells(options): return [Cell("part", first, {{}}), Cell("other part", second, {{}})]
        {analysis}
        STUDY = Study("edited", "?", Options, cells, lambda options, summary: Analysis())
    """
    options = "import dataclasses\n@dataclasses.dataclass\nclass Options:\n    quick = classmethod(lambda cls: cls())"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_helper", raising=False)
    (tmp_path / "toy_options.py").write_text(options)

    def run(value=1.0, helped=2.0, analysis="", **more):
        told = []
        words = {"value": value, "imports": "from toy_helper import helped", "analysis": analysis}
        (tmp_path / "toy_edited.py").write_text(textwrap.dedent(text).format(**words))
        (tmp_path / "toy_helper.py").write_text(f"def helped(): return {helped}")
        for name in ("toy_edited", "toy_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        study = importlib.import_module("toy_edited").STUDY
        outcome = run_study(study, out=tmp_path / "run", tell=told.append, **more)
        return [row.mean for row in outcome.summary], told

    assert run() == ([1.0, 2.0], [])
    assert run(analysis="# a comment\ndef more(): pass") == ([1.0, 2.0], [])
    assert run(value=10.0) == ([10.0, 2.0], ["1 cell of part runs again: toy_edited.py changed."])
    assert run(value=10.0, helped=20.0) == ([10.0, 20.0], ["1 cell of other part runs again: toy_helper.py changed."])
    assert run(value=11.0, helped=20.0, reuse_stale=True) == ([10.0, 20.0], [])
    study = sys.modules["toy_edited"].STUDY
    for reuse_stale, todo in ((False, [1, 0]), (True, [0, 0])):
        planned = plan(study, study.options(), out=tmp_path / "run", reuse_stale=reuse_stale)
        assert [part.todo for part in planned] == todo
    sys.modules.pop("toy_edited"), sys.modules.pop("toy_helper")


@pytest.mark.parametrize(("old", "new", "counts"), [("timeout=30", "timeout=9", False), ("(number)", "(1)", True)])
def test_what_keeps_numbers_is_no_part_of_what_made_them(tmp_path, monkeypatch, old, new, counts):
    """Of the modules of `experiments` what a cell uses counts, such as records, and not the store beside them."""
    cell = Cell("part", toy.noisy_square, {})
    before = code_of_cells([cell])[cell.key]
    find, text = fingerprints._find, Path(inspect.getfile(Cell)).read_text()
    assert old in text
    (tmp_path / "cells.py").write_text(text.replace(old, new))
    elsewhere = functools.cache(lambda module: tmp_path / "cells.py" if module == "experiments.cells" else find(module))
    monkeypatch.setattr(fingerprints, "_find", elsewhere)
    after = code_of_cells([cell])[cell.key]
    fingerprints.look_again()
    assert {name for name in after if after[name] != before[name]} == ({"experiments/cells.py"} if counts else set())


@pytest.mark.parametrize("module", ["experiments.cells", "ntp_envs.policies", "ntp_envs", "agents.registry"])
def test_the_hash_of_a_file_is_that_of_its_syntax_without_docstrings(module):
    """As another reading of it has it, whole and name by name; and garbage is looked for again afterwards."""
    fingerprints._parsed.cache_clear()
    source = fingerprints._read(module)
    tree = ast.parse(source.path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    assert source.digest == fingerprints.digest(ast.dump(tree))
    for node, part in zip(tree.body, source.parts, strict=True):
        assert part.uses() == {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    assert gc.isenabled()


@pytest.mark.slow
def test_two_runs_do_not_write_to_one_folder(tmp_path):
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    with ResultStore(tmp_path / "run" / "results.sqlite"), pytest.raises(ValueError, match="by another run"):
        run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    assert run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run").reused == 6


@pytest.mark.parametrize("name", ["x" * 300, "taken/run"])
def test_a_folder_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FolderError, match=rf"{name} cannot be written to .* --out"):
        run_study(toy.UNDRAWN, QUICK, out=tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of what is written")
@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_finished(tmp_path):
    """No file may grow beyond so many bytes: at ten points of a run, from its first file to its last, that is told."""
    resource = pytest.importorskip("resource")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    options, out, kept, said = toy.ToyOptions(sizes=(1, 2), seeds=20), tmp_path / "run", 0, []
    whole = run_study(toy.UNDRAWN, options, out=tmp_path / "whole").folder
    most = max(path.stat().st_size for path in whole.path.iterdir())
    for limit in (0, 700, *np.linspace(4096, most - 1, 10).astype(int).tolist()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            run_study(toy.UNDRAWN, options, out=out)
        except (OSError, ValueError) as error:
            said.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if (out / "results.sqlite").exists() and (out / "results.sqlite").stat().st_size:
            with ResultStore(out / "results.sqlite") as store:
                assert len(store.results()) >= kept
                kept = len(store.results())
    assert len(said) >= 10 and all(str(out) in sentence for sentence in said), said
    outcome = run_study(toy.UNDRAWN, options, out=out)
    assert outcome.reused == kept > 10
    assert outcome.folder.summary.read_bytes() == whole.summary.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of what is written")
def test_a_disk_that_is_full_from_the_start_is_not_a_damaged_file(tmp_path):
    """Nothing was there to be damaged, and to start anew would not help."""
    resource = pytest.importorskip("resource")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # a page of SQLite has 4096 bytes
    try:
        with pytest.raises(OSError, match=r"results\.sqlite cannot be written to \(d"):
            ResultStore(tmp_path / "results.sqlite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with ResultStore(tmp_path / "results.sqlite") as store:
        assert not store.results()


def test_a_plan_knows_the_memory_of_finished_cells(tmp_path):
    (before,) = plan(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    assert math.isnan(before.megabytes) and math.isnan(before.seconds)
    run_study(toy.UNDRAWN, toy.ToyOptions(sizes=(1,), seeds=1), out=tmp_path / "run")
    (after,) = plan(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    assert after.todo == before.todo - 1 and 10 < after.megabytes < 1e5


def test_more_cells_than_a_run_may_have_are_refused_at_once(monkeypatch):
    monkeypatch.setattr("experiments.study.MOST_CELLS", 100)
    with pytest.raises(ValueError, match=r"more than 100 cells .*seeds=100000000"):
        toy.UNDRAWN.checked_cells(toy.ToyOptions(seeds=100_000_000))


def test_overwriting_removes_nothing_but_a_run(tmp_path):
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run", seed=1, overwrite=True)
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


def test_settings_hold_versions_and_what_it_was_made_from(tmp_path):
    run_study(toy.UNDRAWN, QUICK, out=tmp_path / "run", seed=3)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["study"] == "toy" and config["seed"] == 3 and config["options"]["sizes"] == [1, 2]
    assert set(config["versions"]) == {"python", "numpy", "scipy", "gymnasium", "ntp-envs"}
    assert config["versions"]["numpy"] == np.__version__
    assert set(config) == {"study", "quick", "seed", "options", "versions", "platform", "threads", "kernels", "made"}
    assert {"first", "last", "commit", "distributions", "code"} == set(config["made"])
    assert set(config["made"]["distributions"]) >= set(config["versions"]) - {"python"}
    assert re.fullmatch(re.escape(np.__version__) + r"( [0-9a-f]{16})?", config["made"]["distributions"]["numpy"])
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


# -- wherever it is called from ----------------------------------------------------------------------------------------


PROGRAM = """
import multiprocessing, sys, threading
import experiments_toy as toy
from experiments.run import run_study

def main():
    run_study(toy.UNDRAWN, out=sys.argv[1], workers=2)

def refused():
    try:
        main()
    except ValueError as error:
        assert "use workers=1" in str(error)
        sys.exit(7)

def inside(make, **options):
    one = make(**options)
    one.start()
    one.join()
    sys.exit(getattr(one, "exitcode", 0))

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    {"main": main, "thread": lambda: inside(threading.Thread, target=main, daemon=True),
     "child": lambda: inside(multiprocessing.Process, target=main),
     "daemon": lambda: inside(multiprocessing.Process, target=refused, daemon=True)}[sys.argv[3]]()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="fork, names with newlines")
@pytest.mark.parametrize(
    ("method", "where"),
    [("fork", "main"), ("fork", "child"), ("spawn", "thread"), ("forkserver", "child"), ("forkserver", "daemon")],
)
def test_a_study_runs_wherever_it_is_called_from(tmp_path, method, where):
    """From any parent, without a home, in a locale of ASCII alone, and in a folder with a newline and an emoji."""
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "LC_CTYPE")}
    variables |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    here, folder = Path(__file__).parent, tmp_path / "two\nlines é😀"
    variables["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    words = [sys.executable, folder / "main.py", folder / "run", method, where]
    done = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert done.returncode == (7 if where == "daemon" else 0), done.stderr
    if where != "daemon":
        assert not done.stderr
        run_study(toy.UNDRAWN, out=tmp_path / "here")
        assert (folder / "run" / "summary.csv").read_bytes() == (tmp_path / "here" / "summary.csv").read_bytes()


# -- report ------------------------------------------------------------------------------------------------------------


def test_the_report_holds_everything_and_refers_to_files_beside_it_only(tmp_path):
    run_study(toy.STUDY, out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    (inside,) = (source for source in sources if source.startswith("data:"))
    head, _, data = inside.partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (tmp_path / "run" / "squares.svg").read_bytes()
    places = {source[1:] for source in sources if source.startswith("#")}
    assert places == {"squares", "numbers", "reproduce", "settings"} == {*re.findall(r' id="([^"]*)"', page)}
    assert [source for source in sources if source[0] != "#" and source != inside] == ["squares.svg"]
    assert re.search(r"run 20\d\d-\d\d-\d\d \d\d:\d\d UTC", page)
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
