"""The example package: installed elsewhere, found through its entry points, conforming, and compared with ours."""

import inspect
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from agents import (
    DAgger,
    LogLossBC,
    OnPolicyDistillation,
    RhoEstimatorBC,
    SmoothedLogLossBC,
    agent_names,
    make_agent,
)
from agents.testing import Problem, check_agent
from experiments.cli import main
from ntp_envs import BernoulliPolicy, collect, distance, make_task, task_names

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "third_party_agent"
COMPARE = [
    "run",
    "compare",
    "--agents",
    "TrimmedLogLossBC(trim=0.05),LogLossBC",
    "RhoEstimatorBC",
    "--horizons",
    "8",
    "16",
]
COMPARE += [
    "--tasks",
    "Contamination(eps=0.02, p=0.001, q=0.99, theta_min=0.001),LoadedCoin",
    "--n",
    "300",
    "--seeds",
    "3",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that the example is installed in, as pip does it, without a network and without touching ours."""
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(EXAMPLE, folder / "source")  # a build leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    target = ["--target", str(folder / "site"), str(folder / "source")]
    subprocess.run([*pip, *offline, *target], check=True, capture_output=True, text=True)
    return folder / "site"


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("trimmed_imitation", None)


def bench(site, folder, *words):
    """``ntp-bench`` in a process of its own, outside the repository."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def test_nothing_is_found_before_it_is_installed():
    assert "TrimmedLogLossBC" not in agent_names() and "LoadedCoin" not in task_names()
    with pytest.raises(ValueError, match="unknown agent 'TrimmedLogLossBC'"):
        make_agent("TrimmedLogLossBC")


def test_it_is_found_through_its_entry_points(installed):
    assert {point.name for point in entry_points(group="ntp_envs.agents")} >= {"TrimmedLogLossBC"}
    assert "TrimmedLogLossBC" in agent_names() and "LoadedCoin" in task_names()
    agent, task = make_agent("TrimmedLogLossBC", trim=0.1), make_task("LoadedCoin", heads=0.2)
    assert inspect.getfile(type(agent)).startswith(str(installed)) and agent.trim == 0.1
    assert type(make_agent("trimmed_imitation:TrimmedLogLossBC")) is type(agent)
    assert task.expert.theta == 0.2
    assert len(inspect.getsource(type(agent)).splitlines()) <= 36, "it is there to be read"


def test_it_passes_the_conformance_suites_as_its_readme_shows(installed):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text(), flags=re.DOTALL))
    assert "check_agent(" in code and "check_task(" in code and "check_policy_class(" in code
    exec(compile(code, "README.md", "exec"), {})


def test_its_metric_is_known_by_name_once_it_is_imported(installed):
    from distance_instances import by_hand

    task, other = make_task("trimmed_imitation:LoadedCoin", horizon=4), BernoulliPolicy(0.5)
    curve = distance(task.expert, other, task, metric="triangular")
    found = by_hand(task.expert, other, task, lambda p, q: ((p - q) ** 2 / (p + q)).sum())
    assert curve.metric == "triangular" and curve.method == "enumeration"
    assert curve.values == pytest.approx(found, rel=1e-12)


def test_trimming_leaves_out_the_worst_documents_and_nothing_else(installed, rng):
    task = make_task("Contamination", horizon=16, eps=0.02, p=0.01, q=0.99, theta_min=0.001)
    fitted = make_agent("TrimmedLogLossBC", trim=0.02).fit(task.population(), task.policy_class)
    # of the clean documents, those with the most flips go with the odd ones only in so far as 2 % is not reached
    assert fitted.policy_.theta == pytest.approx(0.01, rel=0.02)
    plain = make_agent("LogLossBC").fit(task.population(), task.policy_class)
    none = make_agent("TrimmedLogLossBC", trim=0.0).fit(task.population(), task.policy_class)
    assert none.policy_.theta == pytest.approx(plain.policy_.theta, rel=1e-12)
    with pytest.raises(ValueError, match="trim=1"):
        make_agent("TrimmedLogLossBC", trim=1).fit(task.population(), task.policy_class)


def test_its_policy_class_is_fitted_by_our_learners(installed):
    """Tempered coins are coins: the best of them is the maximum likelihood, and every learner finds it."""
    from trimmed_imitation import TemperedClass

    task = make_task("LoadedCoin", heads=0.2, horizon=8)
    members, data = TemperedClass(BernoulliPolicy(0.3)), collect(task, 200, np.random.default_rng(0))
    coins = LogLossBC().fit(data, task.policy_class)
    plain = LogLossBC().fit(data, members)
    assert plain.fit_report_.objective == pytest.approx(coins.fit_report_.objective, abs=1e-9)
    assert plain.fit_report_.details["projected_gradient"] <= 1e-8
    heads = [
        np.exp(agent.policy_.next_log_probs(data.prompts[:1], data.tokens[:1, :0]))[0, 1] for agent in (plain, coins)
    ]
    assert heads[0] == pytest.approx(heads[1], abs=1e-6)
    check_agent(plain, problems=[Problem("tempered", members, data)])
    for agent in (
        SmoothedLogLossBC(0.01),
        DAgger(task, rounds=2, rollouts=50),
        OnPolicyDistillation(task, rounds=3, rollouts=50, divergence="reverse"),
    ):
        policy = agent.fit(data, members).policy_
        found = np.exp(policy.next_log_probs(data.prompts[:1], data.tokens[:1, :0]))[0, 1]
        assert found == pytest.approx(0.2, abs=0.03), agent
    ours, theirs = (RhoEstimatorBC().fit(data, kind) for kind in (task.policy_class, members))
    chosen = np.exp(theirs.policy_.next_log_probs(data.prompts[:1], data.tokens[:1, :0]))[0, 1]
    assert theirs.fit_report_.objective <= ours.fit_report_.objective + 1e-6
    assert chosen == pytest.approx(ours.policy_.theta, abs=0.02)


@pytest.mark.slow
def test_it_is_compared_with_ours_and_what_is_finished_is_not_repeated(site, tmp_path):
    words = [*COMPARE, "--out", str(tmp_path / "run")]
    first = bench(site, tmp_path, *words, "--workers", "2")
    assert first.returncode == 0, first.stderr
    for text in (
        "TrimmedLogLossBC(trim=0.05)",
        "RhoEstimatorBC",
        "LoadedCoin, H=16",
        "slope in H",
        "expert queries",
        "4800",
    ):
        assert text in first.stdout
    summary = (tmp_path / "run" / "summary.csv").read_bytes()
    assert (tmp_path / "run" / "compare.png").exists()

    with sqlite3.connect(tmp_path / "run" / "results.sqlite") as results:  # as an interruption would leave it
        results.execute("DELETE FROM cells WHERE rowid % 3 = 0")
        left = dict(results.execute("SELECT key, seconds FROM cells").fetchall())
    assert len(left) == 24
    second = bench(site, tmp_path, *words, "--workers", "1")
    assert second.returncode == 0 and "24 cells were taken from the earlier run" in second.stderr
    with sqlite3.connect(tmp_path / "run" / "results.sqlite") as results:
        now = dict(results.execute("SELECT key, seconds FROM cells").fetchall())
    assert len(now) == 36 and all(now[key] == seconds for key, seconds in left.items()), "kept, to the last digit"
    assert (tmp_path / "run" / "summary.csv").read_bytes() == summary


def test_a_package_that_cannot_be_imported_is_named_and_harms_nobody_else(tmp_path, monkeypatch, capsys):
    info = tmp_path / "shaky-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ntp_envs.agents]\nShaky = shaky_module:Shaky\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Shaky" in agent_names()
    assert main([*COMPARE[:3], "Shaky", "--out", str(tmp_path / "run")]) == 2
    said = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().err)  # in a frame, or not
    assert "agent 'Shaky', installed as shaky_module:Shaky: No module named" in said
    small = ["--tasks", "Tightrope", "--horizons", "4", "--n", "10", "--seeds", "1", "--workers", "1"]
    assert main([*COMPARE[:3], "LogLossBC", *small, "--out", str(tmp_path / "run")]) == 0
