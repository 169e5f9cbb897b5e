"""``ntp-bench evaluate``: what it prints and writes, and what it refuses."""

import json

import numpy as np
import pytest

from experiments.cli import main
from ntp_envs import make_task
from ntp_envs.evaluation import evaluate


def run(capsys, *words):
    code = main(["evaluate", *words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_the_expert_of_a_task_is_always_right(capsys, tmp_path):
    out = tmp_path / "numbers.json"
    code, printed, _ = run(capsys, "Snowball(horizon=12)", "--n", "50", "--backtrack", "1", "--json", str(out))
    assert code == 0 and "greedy exact" in printed and "target" in printed
    numbers = json.loads(out.read_text())
    totals = {row["measure"]: row["value"] for row in numbers["totals"]}
    assert totals["greedy_exact"] == totals["sampled_success"] == totals["backtracking_accepted"] == 1.0
    assert totals["backtracking_cost"] == 1.0 and totals["mean_cross_entropy"] == 0.0
    assert [row["h"] for row in numbers["positions"]] == list(range(1, 13)) and len(numbers["samples"]) == 2


def test_an_agent_is_fitted_and_its_numbers_are_those_of_the_library(capsys, tmp_path):
    words = ("PathStar(degree=3, length=4)", "LogLossBC(tol=1e-6)", "--demonstrations", "200", "--n", "300")
    saved, out = tmp_path / "agent", tmp_path / "numbers.json"
    code, _, _ = run(capsys, *words, "--save", str(saved), "--json", str(out), "--seed", "3")
    assert code == 0
    first = json.loads(out.read_text())
    code, printed, _ = run(capsys, words[0], "--load", str(saved), "--n", "300", "--json", str(out), "--seed", "3")
    assert code == 0 and "LogLossBC" in printed
    assert json.loads(out.read_text()) == first
    totals = {row["measure"]: (row["value"], row["lower"], row["upper"]) for row in first["totals"]}
    _, lower, upper = totals["sampled_exact"]
    assert lower < 1 / 3 < upper  # Clever Hans
    task = make_task("PathStar", degree=3, length=4)
    from agents import LogLossBC

    again = evaluate(LogLossBC.load(saved).policy_, task, n=300, rng=np.random.default_rng([3, 1]))
    assert again.sampled_exact == totals["sampled_exact"][0]
    assert again.forced_accuracy.tolist() == [row["forced_accuracy"] for row in first["positions"]]


def test_a_network_in_the_place_of_the_task_s_class(capsys):
    pytest.importorskip("torch")
    code, printed, _ = run(
        capsys,
        "Contamination(horizon=6)",
        "agents.neural:NeuralBC(steps=3)",
        *("--network", "mlp(width=4, layers=1)", "--demonstrations", "20", "--n", "10"),
    )
    assert code == 0 and "NeuralBC(steps=3)" in printed


def test_infinite_numbers_are_written_as_text(capsys, tmp_path):
    out = tmp_path / "numbers.json"
    words = ("RareMode(horizon=4)", "LogLossBC", "--demonstrations", "3", "--n", "2000", "--json", str(out))
    assert run(capsys, *words)[0] == 0
    assert json.loads(out.read_text())["n"] == 2000


def test_without_words_it_says_how_it_is_used(capsys):
    code, printed, _ = run(capsys)
    assert code == 0 and "TASK" in printed and "--backtrack" in printed
