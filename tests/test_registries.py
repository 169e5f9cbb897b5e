"""Names: of task families and of learners in their two lists, and the Gymnasium ids of the families."""

import ast
import importlib
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agents
import agents.registry
import ntp_envs
import ntp_envs.registry
import ntp_envs.tasks
from agents import Agent, FitReport, LayerwiseBC, LogLossBC, agent_names, make_agent, register_agent
from agents.registry import _agents, agent_class
from agents.testing import check_agent
from experiments.cli import main
from ntp_envs import TokenEnv, TokenVectorEnv, UniformPolicy, make_task, register_environment, task_names
from ntp_envs.registration import environment_id, register_known
from ntp_envs.tasks import Contamination
from ntp_envs.tasks.registry import BUILT_IN, _tasks
from ntp_envs.testing import check_task

PACKAGES = (agents, ntp_envs.tasks)


@dataclass(frozen=True)
class Mine(Contamination):
    """A family of somebody else's."""


class Fair(Agent):
    """A learner of somebody else's, which ignores the data."""

    def __init__(self, *, option=None):
        self.option = option

    def _fit(self, demonstrations, policy_class, rng):
        return UniformPolicy(demonstrations.vocab_size), FitReport(0.0, 0.0)


@pytest.fixture
def registries():
    """What a test registers is gone after it."""
    known = gym.registry, _tasks.registered, _agents.registered
    states = [dict(registry) for registry in known]
    yield
    for registry, before in zip(known, states):
        registry.clear()
        registry.update(before)


@pytest.mark.usefixtures("registries")
def test_a_line_in_the_list_is_all_that_a_family_or_a_learner_needs(monkeypatch, capsys):
    monkeypatch.setitem(BUILT_IN, "Mine", f"{__name__}:Mine")
    monkeypatch.setitem(agents.registry.BUILT_IN, "Fair", f"{__name__}:Fair")
    register_known()  # as importing ntp_envs does

    assert "Mine" in task_names() and make_task("Mine", horizon=3) == Mine(horizon=3)
    assert gym.make("ntp/Mine-v0", horizon=3).unwrapped.task == Mine(horizon=3)
    assert gym.make_vec("ntp/Mine-v0", num_envs=2, horizon=3).task == Mine(horizon=3)
    assert ntp_envs.tasks.Mine is Mine and "Mine" in dir(ntp_envs.tasks)
    check_task(make_task("Mine", horizon=4))

    assert "Fair" in agent_names() and type(make_agent("Fair")) is Fair
    assert agents.Fair is Fair and "Fair" in dir(agents)
    check_agent(make_agent("Fair"))

    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "A family of somebody else's." in said and "A learner of somebody else's" in said
    for package, name in ((agents, "Fair"), (ntp_envs.tasks, "Mine")):
        del vars(package)[name]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_hands_out_what_its_list_names(package):
    for name in package.__all__:
        item = getattr(package, name)
        assert item.__module__.startswith(package.__name__) and name in dir(package)
        assert pickle.loads(pickle.dumps(item)) is item
    everything = {}
    exec(f"from {package.__name__} import *", everything)
    assert everything.keys() >= set(package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Nonsense'"):
        package.Nonsense  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nonsense'"):
        exec(f"from {package.__name__} import Nonsense")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_what_type_checkers_read_is_what_is_handed_out(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    read = {alias.name: node.module for node in block.body for alias in node.names}
    assert {name: getattr(package, name).__module__ for name in read} == read
    assert read.keys() | vars(package).keys() >= set(package.__all__)


def test_nothing_is_imported_before_it_is_made():
    code = (
        "import sys, ntp_envs, agents, ntp_envs.tasks; ntp_envs.make_task('RareMode')\n"
        "print(sorted(m for m in sys.modules if m.startswith(('ntp_envs.tasks.', 'agents.'))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    few = ["agents.base", "agents.registry", "ntp_envs.tasks.base", "ntp_envs.tasks.rare_mode"]
    assert ast.literal_eval(out) == [*few, "ntp_envs.tasks.registry"]


@pytest.mark.parametrize("family", sorted(BUILT_IN))
def test_every_family_has_an_id(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            env = gym.make(f"ntp/{family}-v0", reward="none")
            assert type(env.unwrapped) is TokenEnv and env.unwrapped.task.name == family
            env.reset(seed=0)
            env.step(0)
        envs = gym.make_vec(f"ntp/{family}-v0", num_envs=3)
        sync = gym.make_vec(f"ntp/{family}-v0", num_envs=3, vectorization_mode="sync")
    assert type(envs) is TokenVectorEnv and type(sync) is SyncVectorEnv
    assert envs.observation_space == sync.observation_space
    assert envs.action_space == sync.action_space
    assert EnvSpec.from_json(env.spec.to_json()).make().unwrapped.task == env.unwrapped.task


def test_parameters_pass_through():
    env = gym.make("ntp/Contamination-v0", horizon=5, eps=0.2, observation="dict", expert_info=False)
    assert env.unwrapped.task == Contamination(horizon=5, eps=0.2)
    assert env.reset()[1] == {} and set(env.observation_space) == {"prompt", "tokens"}
    envs = gym.make_vec(
        "ntp/Contamination-v0", num_envs=1024, horizon=64, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=9
    )
    assert envs.num_envs == 1024 and envs.task.horizon == 64 and envs.max_episode_steps == 9
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert gym.make_vec(envs.spec).max_episode_steps == 9


def test_max_episode_steps_of_both_kinds():
    for mode in ("vector_entry_point", "sync"):
        envs = gym.make_vec("ntp/Contamination-v0", num_envs=2, horizon=8, vectorization_mode=mode, max_episode_steps=2)
        envs.reset(seed=0)
        ends = [envs.step(np.array([0, 1]))[2:4] for _ in range(2)]
        assert [(t.tolist(), u.tolist()) for t, u in ends] == [([False] * 2,) * 2, ([False] * 2, [True] * 2)]


def test_importing_again_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(importlib.import_module("ntp_envs.registration"))
        importlib.reload(ntp_envs)


def test_an_id_names_its_module():
    code = "import gymnasium; print(gymnasium.make('ntp_envs:ntp/RareMode-v0', horizon=3).unwrapped.task.name)"
    # numpy warns of features to be disabled that the processor has not
    environment = {name: value for name, value in os.environ.items() if name != "NPY_DISABLE_CPU_FEATURES"}
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "RareMode"


@pytest.mark.usefixtures("registries")
def test_a_family_of_one_s_own():
    assert TokenEnv(Mine(horizon=3)).task.name == "Mine"  # as it is
    with pytest.raises(gym.error.NameNotFound):
        gym.make("ntp/Mine-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register_environment(Mine) == register_environment(Mine) == "ntp/Mine-v0"
    assert gym.make("ntp/Mine-v0", horizon=3).unwrapped.task == Mine(horizon=3)
    assert gym.make_vec("ntp/Mine-v0", num_envs=2, horizon=3).task == Mine(horizon=3)


@pytest.mark.usefixtures("registries")
def test_a_family_by_its_path():
    path = "ntp_envs.tasks.rare_mode:RareMode"
    with pytest.raises(ValueError, match="ntp/RareMode-v0 is already registered"):
        register_environment(path)
    assert environment_id(path) == "ntp/RareMode-v0"
    del gym.registry["ntp/RareMode-v0"]
    assert gym.make(register_environment(path), horizon=3).unwrapped.task.name == "RareMode"


@pytest.mark.usefixtures("registries")
def test_names_announced_by_a_package_are_not_imported(monkeypatch):
    announced = EntryPoint(name="Elsewhere", value="package_that_is_not_there:Elsewhere", group="ntp_envs.tasks")
    monkeypatch.setattr(
        ntp_envs.registry, "entry_points", lambda group: [announced] if group == announced.group else []
    )
    register_known()
    assert gym.spec("ntp/Elsewhere-v0").kwargs == {"task": "Elsewhere"}
    with pytest.raises(ValueError, match="No module named 'package_that_is_not_there'"):
        gym.make("ntp/Elsewhere-v0")


def test_agents_by_name():
    assert {"BestInClass", "LayerwiseBC", "LogLossBC", "SmoothedLogLossBC"} <= set(agent_names())
    assert isinstance(make_agent("LogLossBC"), LogLossBC)
    assert isinstance(make_agent("agents.log_loss:LayerwiseBC", tie_break="random"), LayerwiseBC)


@pytest.mark.usefixtures("registries")
def test_registered_agents():
    assert register_agent(Fair) is Fair
    assert "Fair" in agent_names() and make_agent("Fair", option=3).option == 3
    with pytest.raises(ValueError, match="is the name of a built-in agent"):
        register_agent(type("LogLossBC", (Fair,), {}))


def test_agents_from_entry_points(monkeypatch):
    class Point:
        name = "Theirs"

        def load(self):
            return Fair

    monkeypatch.setattr(
        ntp_envs.registry, "entry_points", lambda group: [Point()] if group == "ntp_envs.agents" else []
    )
    assert "Theirs" in agent_names()
    assert agent_class("Theirs") is Fair


def test_a_file_of_the_current_folder_that_is_not_looked_for_there_is_said(tmp_path, monkeypatch):
    (tmp_path / "my_learners.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    with pytest.raises(ValueError, match=r"No module named 'my_learners'\..*current folder.*set PYTHONPATH=\."):
        agent_class("my_learners:Mine")
    with pytest.raises(ValueError, match=r"No module named 'no_such'\.$"):
        agent_class("no_such:Mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"no attribute 'Mine'\.$"):
        agent_class("my_learners:Mine")
