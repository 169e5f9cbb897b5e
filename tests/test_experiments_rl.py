"""The study rl: which rewards recover the expert's distribution."""

import builtins
import math
import sys

import experiments_toy as toy
import numpy as np
import pytest

from experiments.run import run_study
from experiments.studies import load_study
from experiments.studies import rl as sweep
from experiments.testing import check_study
from ntp_envs import BernoulliPolicy, make_task

SUCCESS_REWARD, MODE_REWARD, MAX_ENT = sweep.REWARDS


def values(records, **labels):
    return {r.metric: r.value for r in records if all(r.labels.get(k) == v for k, v in labels.items())}


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_of_iid_slips_are_their_closed_forms():
    H, slip = 6, 0.1
    task = make_task("Tightrope", horizon=H, eps=slip)
    found = values(sweep.judged(task, BernoulliPolicy(slip), {}))
    assert found[sweep.ENTROPY] == pytest.approx(-slip * math.log(slip) - (1 - slip) * math.log(1 - slip))
    assert found[sweep.MODE] == pytest.approx((1 - slip) ** H)
    assert found[sweep.EXPERT_LOG_PROB] == pytest.approx(-20 * slip)  # the floor of each slip
    assert found[sweep.REVERSE_KL] == pytest.approx(H * (20 * slip - found[sweep.ENTROPY]))
    assert found[sweep.SUCCESS] == pytest.approx(1 - task.bc_cost() / H)
    assert found["hellinger2"] == pytest.approx(2 * (1 - (1 - slip) ** (H / 2)))  # the last one is that at H


@pytest.mark.parametrize("name", sweep.TASKS)
def test_the_expert_is_at_distance_zero_and_its_reverse_kl_is_zero(name):
    parameters = sweep.TASKS[name] if name == "NoisyParity" else {"horizon": 5, **sweep.TASKS[name]}
    task = make_task(name, **parameters)
    records = sweep.judged(task, task.expert, {})
    assert all(abs(r.value) < 1e-12 for r in records if r.metric in ("hellinger2", sweep.REVERSE_KL))
    found = values(records)
    assert found[sweep.EXPERT_LOG_PROB] == pytest.approx(-found[sweep.ENTROPY], abs=1e-12)
    assert (sweep.SUCCESS in found) == task.has_success


@pytest.mark.slow
def test_without_ppo_the_rest_of_the_study_runs():
    outcome = check_study(load_study("rl"), toy.small_options("rl"))
    summary = outcome.summary
    for task in sweep.TASKS:
        assert set(sweep.IMITATION) < {row["learner"] for row in summary.select(sweep.ENTROPY, task=task)}
    assert "Imitation within the class" in outcome.analysis.findings[-1]


def test_a_missing_stable_baselines3_is_said_once_before_anything_runs(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name == "agents.rl" or name.startswith("agents.rl.")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "stable_baselines3":
            raise ImportError("No module named 'stable_baselines3'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"ntp-envs\[rl\].*--no-rl"):
        run_study(load_study("rl"), sweep.RLOptions(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert load_study("rl").checked_cells(sweep.RLOptions(rl=False))


# -- rewards: these need stable-baselines3 -----------------------------------------------------------------------------


def test_only_tasks_with_a_success_are_rewarded_for_it():
    assert {task for task in sweep.TASKS if SUCCESS_REWARD in sweep.learners_of(task)} == {"Tightrope", "NoisyParity"}


def trained(task, learner, steps=20_000, H=4):
    pytest.importorskip("stable_baselines3")
    cell = {"task": task, "learner": learner, "H": H, "steps": steps, "n_envs": 128, "replicate": 0}
    return values(sweep.rewarded(rng=np.random.default_rng(0), **cell))


@pytest.mark.slow
def test_maximum_entropy_recovers_a_random_expert_and_its_log_probability_only_the_mode():
    task = make_task("ARLinear", horizon=4)
    expert = values(sweep.judged(task, task.expert, {}))
    law, mode = trained("ARLinear", MAX_ENT), trained("ARLinear", MODE_REWARD)
    uniform = values(sweep.judged(task, BernoulliPolicy(0.5), {}))
    assert law["hellinger2"] < 0.2 * uniform["hellinger2"]
    assert law[sweep.ENTROPY] == pytest.approx(expert[sweep.ENTROPY], rel=0.1)
    assert mode[sweep.ENTROPY] < 0.1 * expert[sweep.ENTROPY] and mode[sweep.MODE] > 0.8
    assert mode[sweep.EXPERT_LOG_PROB] > expert[sweep.EXPERT_LOG_PROB] and mode["hellinger2"] > 5 * law["hellinger2"]


@pytest.mark.slow
def test_success_is_reached_without_the_experts_distribution():
    found = trained("NoisyParity", SUCCESS_REWARD)
    assert found[sweep.SUCCESS] > 0.95 and found["hellinger2"] > 0.5
    assert found[sweep.QUERIES] == 0


@pytest.mark.slow
def test_a_small_run_with_ppo(tmp_path):
    pytest.importorskip("stable_baselines3")
    options = sweep.RLOptions(horizon=4, n=200, steps=2048, seeds=1, rounds=2)
    outcome = run_study(load_study("rl"), options, out=tmp_path / "run")
    assert not outcome.failures
    for task in sweep.TASKS:
        learners = {row["learner"] for row in outcome.summary.select("hellinger2", part=sweep.REWARDED, task=task)}
        assert {*sweep.learners_of(task), *sweep.IMITATION, sweep.EXPERT} < learners
    said = " ".join(outcome.analysis.findings)
    assert all(f"{name}: " in said for name in sweep.REWARDS)
