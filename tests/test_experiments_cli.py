"""The command line: what it prints, its exit codes, Ctrl-C, and a stranger's package called ``agents``."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import experiments_toy as toy
import pytest

from experiments.cli import main, parse_run
from experiments.run import reproduce_command, run_study
from experiments.summary import number

ROOT = Path(__file__).parent.parent
TOY = "experiments_toy:STUDY"


def run(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def gone(group, within=10.0):
    """Whether a process group is empty soon."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def environment(*first):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, first), str(ROOT), str(ROOT / "tests")])}


def test_list_names_studies_tasks_and_agents(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    for name in ("amplification", "Contamination", "RareMode", "LogLossBC"):
        assert len(lines[name].split()) > 4, f"{name} needs a line that says what it is"


def test_list_survives_a_package_that_announces_what_it_lacks(capsys, monkeypatch):
    import agents.registry

    monkeypatch.setattr(agents.registry, "agent_names", lambda: ["LogLossBC", "no_such_module:Agent"])
    code, out, _ = run(capsys, "list")
    assert code == 0 and "cannot be loaded" in out and "Behaviour cloning" in out


def test_run_prints_the_table_and_writes_the_folder(capsys, tmp_path):
    code, out, err = run(capsys, "run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1", "--seed", "4")
    assert code == 0
    assert "Squares" in out and "squares grow" in out and "report.html" in out
    assert "6/6" in err
    code, _, err = run(capsys, "run", TOY, "--quick", "--out", str(tmp_path / "run"), "--workers", "1", "--seed", "4")
    assert code == 0 and "6 cells were taken" in err


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
@pytest.mark.parametrize(("workers", "stop"), [("1", "SIGTERM"), ("2", "Ctrl-C"), ("2", "SIGHUP"), ("2", "SIGKILL")])
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

    deadline = time.monotonic() + 60
    while kept() < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if stop == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    else:
        process.send_signal(getattr(signal, stop))  # as a scheduler may: to the parent alone
    _, err = process.communicate(timeout=30)  # until the last process that has this stderr is gone
    if stop == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "goes on from there" in err
    assert "Traceback" not in err
    assert 2 <= kept() < 90
    assert gone(process.pid), "a worker was left behind"


@pytest.mark.parametrize("content", ["", "class Agent: pass", "raise RuntimeError('mine')"])
def test_a_stranger_s_agents_is_named_with_the_way_round(tmp_path, content):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text(content)
    words = [sys.executable, "-m", "experiments", "list"]
    result = subprocess.run(words, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    message = " ".join(result.stderr.split())
    assert str(ROOT / "agents") in message and f"PYTHONPATH={ROOT}" in message
    assert (str(tmp_path / "agents") if content != "raise RuntimeError('mine')" else "RuntimeError: mine") in message
