"""Gymnasium ids: every family, single and vectorised, without a warning however often it is imported."""

import importlib
import subprocess
import sys
import warnings
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ntp_envs
from ntp_envs import TokenEnv, TokenVectorEnv, register_environment
from ntp_envs.registration import environment_id
from ntp_envs.tasks import Contamination
from ntp_envs.tasks.registry import BUILT_IN


@dataclass(frozen=True)
class Mine(Contamination):
    """A family of somebody else's."""


@pytest.fixture
def registries():
    """What a test registers is gone after it."""
    from ntp_envs.tasks.registry import _registered

    environments, tasks = dict(gym.registry), dict(_registered)
    yield
    for registry, before in ((gym.registry, environments), (_registered, tasks)):
        registry.clear()
        registry.update(before)


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
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
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
    from importlib.metadata import EntryPoint

    from ntp_envs import registry as _registry
    from ntp_envs.registration import register_known

    announced = EntryPoint(name="Elsewhere", value="package_that_is_not_there:Elsewhere", group="ntp_envs.tasks")
    monkeypatch.setattr(_registry, "entry_points", lambda group: [announced] if group == announced.group else [])
    register_known()
    assert gym.spec("ntp/Elsewhere-v0").kwargs == {"task": "Elsewhere"}
    with pytest.raises(ValueError, match="No module named 'package_that_is_not_there'"):
        gym.make("ntp/Elsewhere-v0")


def test_what_cannot_be_registered():
    with pytest.raises(ValueError, match=r"unknown task 'Contaminaton'. Did you mean 'Contamination'"):
        register_environment("Contaminaton")
    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        register_environment(TokenEnv)
