"""Messages whose advice works, and names that are found where they are."""

import contextlib
import inspect
import math
import re
import sys

import numpy as np
import pytest

from agents import (
    AdversarialImitation,
    ClippedRatioBC,
    CrossValidatedBC,
    LogLossBC,
    OnPolicyDistillation,
    ScheduledSampling,
    SmoothedLogLossBC,
    TournamentBC,
    agent_names,
    make_agent,
)
from agents.registry import WITH_AN_EXTRA, agent_class
from agents.testing import CHECKS, check_agent
from experiments.cli import main
from ntp_envs import (
    BernoulliMixturePolicy,
    CallablePolicy,
    NGramClass,
    TargetPolicy,
    UniformPolicy,
    collect,
    evaluate,
    make_task,
    task_names,
)
from ntp_envs.checks import check_real
from ntp_envs.distances.metrics import check_metrics
from ntp_envs.evaluation import backtracking_search
from ntp_envs.features import CallableFeatures, PrefixSigns, WindowOneHot
from ntp_envs.tasks.registry import task_class

TASK = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)


@pytest.mark.parametrize(
    ("limits", "interval"),
    [
        ({"minimum": 0.0}, "[0, inf)"),
        ({"maximum": 1.0}, "(-inf, 1]"),
        ({}, "(-inf, inf)"),
        ({"minimum": 0, "maximum": 1}, "[0, 1]"),
    ],
)
def test_the_interval_shown_is_the_one_that_is_allowed(limits, interval):
    for bad in (np.inf, np.nan, 10**400):
        with pytest.raises(ValueError, match=re.escape(f"must be a finite number in {interval}.")):
            check_real("radius", bad, **limits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: UniformPolicy(10**20),
            r"vocab_size=10+ must be an integer >= 1 and <= 9223372036854775807",
        ),
        (lambda: NGramClass(2, 10**9), "order=1000000000 must be an integer >= 1 and <= 64"),
        (lambda: WindowOneHot(10**9, 2), r"vocab_size=1000000000 must be at most \d+: one-hot rows take"),
        (
            lambda: BernoulliMixturePolicy([0.5], [1.0], horizon=10**15),
            "horizon=10+ must be at most .* counts of",
        ),
        (lambda: PrefixSigns(2, 1, 10**18, 10**18), "products of 10+ signs, or more; at most 16384"),
        (lambda: CallablePolicy(len, 2), r"function=<built-in function len> must be callable: \(prompts, tokens\) ->"),
        (
            lambda: CallableFeatures(lambda one: one, 2, 1),
            r"must be callable: \(prompts, tokens\) -> \(B, c\) features",
        ),
        (lambda: TargetPolicy(3, 2, horizon=1, prompt_length=0), r"targets=3 must be callable: \(prompts\) ->"),
        (lambda: check_metrics(object), r"metric 'object'=<class 'object'> must be callable: \(log-ratios\) ->"),
    ],
)
def test_sizes_and_functions_are_looked_at_before_they_are_used(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_one_name_to_skip_is_a_name():
    others = [name for name in CHECKS if name != "weights"]
    check_agent(LogLossBC(), skip=others)
    with pytest.raises(ValueError, match=r"skip='weight'.*Did you mean 'weights'"):
        check_agent(LogLossBC(), skip="weight")


@pytest.mark.parametrize("name", ["NeuralBC", "NeuralRhoBC", "NeuralJSDPlusTVBC", "SB3Agent"])
def test_agents_of_an_extra_are_found_or_name_it(name, monkeypatch):
    module = "agents.rl" if name == "SB3Agent" else "agents.neural"
    assert name not in agent_names()
    for loaded in [key for key in sys.modules if key == module or key.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ValueError, match=rf"{name}' cannot be imported.*pip install .*ntp-envs\[{module[7:]}\]"):
        make_agent(name)


def test_agents_of_an_extra_are_made_where_it_is_there():
    pytest.importorskip("torch")
    assert type(make_agent("NeuralBC", steps=3)).__name__ == "NeuralBC"
    with pytest.raises(ValueError, match="Did you mean 'NeuralBC'"):
        make_agent("NeuralBD")


@pytest.mark.parametrize(
    "agent",
    [ScheduledSampling(), AdversarialImitation(rounds=2), SmoothedLogLossBC(), LogLossBC(), ClippedRatioBC(chunk=3)],
)
def test_the_advice_about_populations_works(agent):
    for population in (TASK.population(), TASK.population(chunk=2)):
        try:
            agent.clone().fit(population, TASK.policy_class)
        except ValueError as error:
            advice = str(error)
        else:
            continue
        if "not exact" in advice:
            for chunk in re.findall(r"task\.population\(chunk=(\d+)\)", advice):
                exact = TASK.population(chunk=int(chunk)).exactness
                assert exact.covers(int(chunk), TASK.policy_class)
            assert "collect(task, n, rng)" in advice


def test_the_way_out_of_an_infinite_reverse_divergence_is_a_parameter():
    task = make_task("PathStar", degree=2, length=3, nodes=5)
    agent = OnPolicyDistillation(task, divergence="reverse", rounds=1, rollouts=5)
    demos = collect(task, 20, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"Use divergence='forward', or .* floor=1e-3") as caught:
        agent.fit(demos, task.policy_class)
    floor = float(re.search(r"floor=([\d.e-]+\d)", str(caught.value))[1])
    agent.set_params(floor=floor).fit(demos, task.policy_class)


def test_no_search_is_advised_that_is_refused_too():
    prompts = TASK.sample_prompts(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"no verifier.*no success either"):
        backtracking_search(UniformPolicy(2), TASK, prompts, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="no verifier"):
        evaluate(UniformPolicy(2), TASK, n=5, rng=np.random.default_rng(0), backtrack=1)


def parameters_of(names, find):
    """Every parameter of every class of a list whose libraries are here, with values that are right for those asked."""
    right = {"chunk": 2, "agents": [LogLossBC()], "agent": LogLossBC(), "grid": {"tol": [1.0]}, "task": TASK}
    for name in names:
        with contextlib.suppress(ValueError):  # an extra is missing
            kind = find(name)
            known = {key: one for key, one in inspect.signature(kind).parameters.items() if one.kind != one.VAR_KEYWORD}
            asked = {key for key, one in known.items() if one.default is one.empty}
            yield from ((kind, {key: right.get(key, "PPO") for key in asked}, key) for key in known)


AGENTS = [*parameters_of([*agent_names(), *WITH_AN_EXTRA], agent_class)]
TASKS = [*parameters_of(task_names(), task_class)]
RIGHT = {"error_score": math.nan, "checkpoint": "nonsense"}


@pytest.mark.parametrize(("kind", "right", "name"), [*AGENTS, *TASKS], ids=lambda value: getattr(value, "__name__", ""))
def test_a_parameter_that_cannot_be_is_refused_where_it_is_given(kind, right, name):
    """None of these is a size, a share, a name or an agent: the message says which parameter it is."""
    for wrong in (object(), [object()], -1, -0.5, math.nan, "nonsense"):
        if wrong is not RIGHT.get(name):
            with pytest.raises((ValueError, TypeError, FileNotFoundError), match=rf"\b{name}\b"):
                kind(**{**right, name: wrong})
            if kind.__module__.startswith("agents"):
                with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
                    kind(**right).set_params(**{name: wrong})


class _Private(ValueError):
    pass


class Picky(LogLossBC):
    def _fit(self, demonstrations, policy_class, rng):
        raise _Private("no")


def test_cross_validation_shows_no_private_names():
    demos = collect(TASK, 20, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ValueError: no"):
        CrossValidatedBC(Picky(), {"tol": [1e-8]}, folds=2).fit(demos, TASK.policy_class)


def test_who_needs_the_experts_log_probabilities():
    assert ClippedRatioBC().needs_expert_log_probs
    assert TournamentBC([LogLossBC(), ClippedRatioBC()]).needs_expert_log_probs
    assert CrossValidatedBC(ClippedRatioBC(), {"beta": [0.1]}).needs_expert_log_probs
    assert not TournamentBC([LogLossBC(), SmoothedLogLossBC()]).needs_expert_log_probs


@pytest.mark.slow
def test_every_listed_agent_that_reads_the_expert_runs_from_the_command_line(tmp_path, capsys):
    words = ["evaluate", "Contamination(horizon=6)", "ClippedRatioBC", "--n", "20", "--demonstrations", "20"]
    assert main(words) == 0
    folder = str(tmp_path / "compare")
    sizes = ["--horizons", "4", "--n", "20", "--seeds", "1", "--workers", "1", "--out", folder]
    assert main(["run", "compare", "--agents", "ClippedRatioBC", "--tasks", "Contamination", *sizes]) == 0
    assert "failed" not in capsys.readouterr().out
