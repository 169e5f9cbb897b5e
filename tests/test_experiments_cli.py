"""The command line: what it prints, its exit codes, Ctrl-C, and a stranger's package called ``agents``."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import experiments_toy as toy
import pytest
from crashes import group_lives, happens
from scipy import stats

from experiments import info
from experiments.cells import ResultStore
from experiments.cli import main, parse_run
from experiments.run import reproduce_command, run_study
from experiments.studies import load_study
from experiments.summary import number

ROOT = Path(__file__).parent.parent
TOY = "experiments_toy:STUDY"


def run(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def environment(*first):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, first), str(ROOT), str(ROOT / "tests")])}


def test_list_names_studies_tasks_and_agents(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    for name in ("amplification", "Contamination", "RareMode", "LogLossBC"):
        assert len(lines[name].split()) > 4, f"{name} needs a line that says what it is"
    for name, extra in (("LanguageModel", "lm"), ("NeuralBC", "neural"), ("SB3Agent", "rl")):
        assert len(lines[name].split()) > 4 and lines[name].endswith(f"(extra {extra})")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk")
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["list"], marks=pytest.mark.slow),
        ["list", "--json"],
        pytest.param(["info", "PathStar", "--json"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_full_disk_behind_standard_output_is_said(words):
    command = [sys.executable, "-m", "experiments.cli", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "nothing can be printed" in done.stderr and "Traceback" not in done.stderr


def test_list_survives_a_package_that_announces_what_it_lacks(capsys, monkeypatch):
    title, _, load = info.SECTIONS["agents"]
    monkeypatch.setitem(info.SECTIONS, "agents", (title, lambda: ["LogLossBC", "no_such_module:Agent"], load))
    code, out, _ = run(capsys, "list")
    assert code == 0 and "cannot be loaded" in out and "Behaviour cloning" in out


def test_run_prints_the_table_and_writes_the_folder(capsys, tmp_path):
    code, out, err = run(capsys, "run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1", "--seed", "4")
    assert code == 0
    assert "Squares" in out and "squares grow" in out and "report.html" in out
    assert "6 of 6 cells, about 0 s left" in err
    code, _, err = run(capsys, "run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1", "--seed", "4")
    assert code == 0 and "6 cells were taken" in err


@pytest.mark.slow
def test_tables_and_findings_in_other_forms(capsys, tmp_path):
    words = ["run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1"]
    code, out, err = run(capsys, *words, "--quiet", "--pdf")
    assert (code, err) == (0, "") and out.startswith("report: ") and out.count("\n") == 1
    assert (tmp_path / "run" / "squares.pdf").read_bytes().startswith(b"%PDF")
    found = json.loads(run(capsys, *words, "--json")[1])
    assert found["findings"] == ["squares grow"] and found["failed"] == []
    (table,) = found["tables"]
    shown = {kind: run(capsys, *words, "--table", kind, "--quiet")[1] for kind in ("csv", "markdown", "latex")}
    rows = [table["columns"], *table["rows"]]
    assert [line.split(",") for line in shown["csv"].splitlines()[:-1]] == rows
    lines = shown["markdown"].splitlines()
    assert [line.strip("| ").split(" | ") for line in (lines[0], *lines[2:-1])] == rows
    assert rows[1][1] + r" \\" in shown["latex"] and r"\begin{tabular}{lr}" in shown["latex"]
    assert {path.suffix for path in (tmp_path / "run").glob("table-1.*")} == {".csv", ".md", ".tex"}


def test_a_dry_run_writes_nothing_and_knows_what_is_there(capsys, tmp_path):
    words = ["run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1"]
    code, out, _ = run(capsys, *words, "--dry-run")
    assert code == 0 and "6 cells to run" in out and "how long is known when" in out
    assert not (tmp_path / "run").exists()
    run(capsys, *words)
    assert "squares: 0 of 6 cells to run" in run(capsys, *words, "--dry-run")[1]
    more = run(capsys, *words, "--dry-run", "--seeds", "5")[1]
    assert "squares: 4 of 10 cells to run" in more and "s of one processor" in more


def test_several_values_may_be_given_one_by_one():
    options = parse_run(load_study("lm"), ["--learner", "a", "--n", "4", "--learner=b.gguf", "--forced", "2"])[1]
    assert options.learners == ("a", "b.gguf") and options.n == 4
    assert parse_run(toy.STUDY, ["--size", "1", "2", "--size", "4"])[1].sizes == (1, 2, 4)
    assert parse_run(toy.STUDY, ["--sizes", "1", "2", "--seed", "1", "--sizes", "4"])[1].sizes == (4,)


def test_list_as_json(capsys):
    found = json.loads(run(capsys, "list", "--json")[1])
    assert set(found) == {"studies", "tasks", "agents"} and "Contamination" in found["tasks"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PathStar(degree=3)", ["degree: 3", "vocabulary A: 24", "a sample episode", "success: 1"]),
        ("Contamination", ["squared Hellinger distance", "theta_min: "]),
        ("SmoothedLogLossBC", ["lam: '1/H'", "BernoulliClass", "2502.12465"]),
        ("robust", ["seeds: 20 (quick: 5)"]),
    ],
)
def test_info_says_what_something_is(capsys, name, words):
    code, out, _ = run(capsys, "info", name)
    assert code == 0 and all(word in out for word in words)
    assert json.loads(run(capsys, "info", name, "--json")[1])["summary"]


def test_info_of_something_unknown_names_the_nearest(capsys):
    code, _, err = run(capsys, "info", "Contaminatio")
    assert code == 2 and "Did you mean 'Contamination'?" in err


@pytest.mark.slow
def test_diff_says_what_changed_and_compares_equal_cells_one_by_one(capsys, tmp_path):
    """Toy squares with another seed are independent samples; with the same seed and more cells nothing has changed."""
    runs = {name: str(tmp_path / name) for name in ("first", "again", "other", "shifted")}
    for name, words in (("first", ["--seeds", "4"]), ("again", []), ("other", ["--seed", "1"])):
        run(capsys, "run", TOY, "--workers", "1", "--quiet", "--out", runs[name], *words)
    code, out, _ = run(capsys, "diff", runs["first"], runs["again"])
    assert code == 0 and "options.seeds: 4 -> 3" in out and "0 of 3 numbers changed clearly" in out
    found = json.loads(run(capsys, "diff", runs["again"], runs["other"], "--all", "--json")[1])
    assert found["compared"] == 3 and found["settings"]["seed"] == [0, 1]
    for change in found["changed"]:
        ours, theirs = (
            [
                row
                for row in run_study(toy.STUDY, out=runs[name], seed=seed).summary
                if row["K"] == change["labels"]["K"]
            ]
            for name, seed in (("again", 0), ("other", 1))
        )
        expected = stats.ttest_ind(theirs[0].replicates, ours[0].replicates, equal_var=False).confidence_interval()
        assert (change["lower"], change["upper"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert change["lower"] < change["difference"] < change["upper"] and not change["paired"]
    run_study(toy.STUDY, out=runs["shifted"])
    with ResultStore(tmp_path / "shifted" / "results.sqlite") as store:  # as if edited code had added 5 to one size
        for cell in toy.STUDY.checked_cells(toy.ToyOptions()):
            if cell.parameters["size"] == 4:
                result = store.results()[cell.key]
                moved = [replace(record, value=record.value + 5) for record in result.records]
                store.put(cell, replace(result, records=tuple(moved)))
    (change,) = json.loads(run(capsys, "diff", runs["again"], runs["shifted"], "--json")[1])["changed"]
    assert change["labels"] == {"K": 4} and change["paired"] and change["difference"] == pytest.approx(5)


def test_diff_refuses_what_is_no_run(capsys, tmp_path):
    run(capsys, "run", TOY, "--quick", "--workers", "1", "--quiet", "--out", str(tmp_path / "run"))
    code, _, err = run(capsys, "diff", str(tmp_path / "run"), str(tmp_path / "nothing"))
    assert code == 2 and "holds no run" in err
    code, _, err = run(capsys, "diff", str(tmp_path / "run"), str(tmp_path / "run"), "--metrics", "cube")
    assert code == 2 and "cube" in err and "square" in err


@pytest.mark.slow
def test_no_number_of_the_table_is_cut_short_in_a_narrow_terminal(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    words = ["run", TOY, "--out", str(tmp_path / "run"), "--workers", "1"]
    _, out, _ = run(capsys, *words)
    value = run_study(toy.STUDY, out=tmp_path / "run").summary.value("square", K=4)
    assert number(value) in out and "…" not in out


def test_the_default_folder_says_what_it_holds(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "run", TOY, "--quick", "--workers", "1")[0] == 0
    assert run(capsys, "run", TOY, "--workers", "1", "--sizes", "1")[0] == 0
    assert (tmp_path / "runs/toy-quick/summary.csv").exists() and (tmp_path / "runs/toy/summary.csv").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["run", "--help"], ["run", TOY, "--help"]])
def test_help_is_a_success(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0 and "ntp-bench" in out


def test_failed_cells_are_listed_with_exit_code_1(capsys, tmp_path):
    out_folder = str(tmp_path / "run")
    code, out, err = run(capsys, "run", TOY, "--mood", "failing", "--workers", "1", "--out", out_folder)
    assert code == 1 and "1 failed" in err and "'size': 2" in err and "ArithmeticError" in err
    assert "Squares" in out


def test_the_command_of_a_report_gives_the_same_run():
    options = toy.ToyOptions(sizes=(3, 5), seeds=2, mood="slow")
    words = reproduce_command(toy.STUDY, options, quick=True, seed=9).split()
    settings, parsed = parse_run(toy.STUDY, words[3:])
    assert (settings.quick, settings.seed, parsed) == (True, 9, options)


def test_quick_changes_defaults_and_yields_to_options():
    assert parse_run(toy.STUDY, ["--quick"])[1] == toy.ToyOptions.quick()
    assert parse_run(toy.STUDY, ["--sizes", "7", "--quick"])[1] == toy.ToyOptions(sizes=(7,))


@pytest.mark.skipif(os.name != "posix", reason="signals to a process group")
@pytest.mark.parametrize(
    ("workers", "stop"),
    [("1", "SIGTERM"), *(pytest.param("2", stop, marks=pytest.mark.slow) for stop in ("Ctrl-C", "SIGHUP", "SIGKILL"))],
)
def test_a_stopped_run_keeps_what_is_finished_and_leaves_no_worker(tmp_path, workers, stop):
    words = ["run", TOY, "--mood", "slow", "--seeds", "30", "--workers", workers, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *words],
        env=environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def kept():
        try:
            with sqlite3.connect(f"file:{tmp_path}/run/results.sqlite?mode=ro", uri=True) as db:
                return db.execute("SELECT count(*) FROM cells").fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    deadline = time.monotonic() + 300
    while kept() < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if stop == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    else:
        process.send_signal(getattr(signal, stop))  # as a scheduler may: to the parent alone
    _, err = process.communicate(timeout=300)  # until the last process that has this stderr is gone
    if stop == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "goes on from there" in err
    assert "Traceback" not in err
    assert 2 <= kept() < 90
    assert happens(lambda: not group_lives(process.pid)), "a worker was left behind"


@pytest.mark.parametrize(
    "content",
    [
        "",
        pytest.param("class Agent: pass", marks=pytest.mark.slow),
        pytest.param("raise RuntimeError('mine')", marks=pytest.mark.slow),
    ],
)
def test_a_stranger_s_agents_is_named_with_the_way_round(tmp_path, content):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text(content)
    words = [sys.executable, "-m", "experiments", "list"]
    result = subprocess.run(words, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    message = " ".join(result.stderr.split())
    assert str(ROOT / "agents") in message and f"PYTHONPATH={ROOT}" in message
    assert (str(tmp_path / "agents") if content != "raise RuntimeError('mine')" else "RuntimeError: mine") in message
