"""The rl study: which rewards recover the expert's distribution, and the cost of a slip with and without DAgger."""

import builtins
import math
import sys

import experiments_toy as toy
import numpy as np
import pytest

from experiments.run import run_study
from experiments.studies import load_study
from experiments.studies import rl as sweep
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs import BernoulliPolicy, make_task

SUCCESS_REWARD, MODE_REWARD, MAX_ENT = sweep.REWARDS
SMALL = {"rounds": 3, "rollouts": 200, "n": 20, "replicate": 0}


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


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("H", [16, 64, 256])
def test_cloning_and_dagger_cost_what_the_closed_forms_say(H):
    eps = 1e-3
    records = sweep.costs(H=H, eps=eps, rng=np.random.default_rng(0), **SMALL)
    slow = sum(1 - (1 - eps) ** h for h in range(1, H + 1))
    off = [0.0]
    for _ in range(H):  # off the rope at the next step only by a slip from on it
        off.append(eps * (1 - off[-1]))
    for learner in sweep.IMITATION:
        found = values(records, learner=learner)
        assert found[sweep.COST] == pytest.approx(sum(off) if learner == sweep.DAGGER else slow, rel=0.05), learner
        assert found[sweep.QUERIES] == (3 * 200 * H if learner == sweep.DAGGER else 0)
    assert [values(records, learner=form)[sweep.COST] for form in sweep.CLOSED_FORMS] == pytest.approx([slow, sum(off)])


def test_a_dagger_that_never_slipped_is_no_better_than_cloning():
    records = sweep.costs(H=2, eps=1e-6, rng=np.random.default_rng(0), **{**SMALL, "rounds": 1, "rollouts": 1})
    assert values(records, learner=sweep.DAGGER)[sweep.COST] == values(records, learner="log-loss")[sweep.COST]


@pytest.mark.slow
def test_without_ppo_the_rest_of_the_study_runs():
    outcome = check_study(load_study("rl"), toy.small_options("rl"))
    summary = outcome.summary
    for task in sweep.TASKS:
        assert set(sweep.IMITATION) < {row["learner"] for row in summary.select(sweep.ENTROPY, task=task)}
    assert summary.value(sweep.SLOPE, learner="log-loss") == pytest.approx(2, abs=0.1)  # below 2 as falls saturate
    assert summary.value(sweep.SLOPE, learner=sweep.DAGGER) == pytest.approx(1, abs=0.01)
    assert max(row.mean for row in summary.select(sweep.GAP)) <= 0.05
    assert "all within 5 %" in outcome.analysis.findings[-1]


def test_findings_say_so_where_a_cost_is_off_its_closed_form():
    records = sweep.costs(H=4, eps=1e-6, rng=np.random.default_rng(0), **{**SMALL, "rounds": 1, "rollouts": 1})
    summary = Summary(SummaryRow(sweep.COSTS, r.labels, r.metric, r.value, r.value, r.value, 1) for r in records)
    (said,) = sweep.cost_findings(sweep.cost_rows(summary), summary)
    assert "not within 5 %" in said


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
    options = sweep.RLOptions(horizon=4, n=200, steps=2048, seeds=1, horizons=(16, 32), rounds=2)
    outcome = run_study(load_study("rl"), options, out=tmp_path / "run")
    assert not outcome.failures
    for task in sweep.TASKS:
        learners = {row["learner"] for row in outcome.summary.select("hellinger2", part=sweep.REWARDED, task=task)}
        assert {*sweep.learners_of(task), *sweep.IMITATION, sweep.EXPERT} < learners
    said = " ".join(outcome.analysis.findings)
    assert all(f"{name}: " in said for name in sweep.REWARDS)
