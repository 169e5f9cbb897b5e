"""Unknown keyword arguments are refused in Python's own words, all at once, with the nearest that are known."""

import gymnasium as gym
import numpy as np
import pytest

from agents import make_agent
from ntp_envs import (
    RolloutDistance,
    TokenEnv,
    TokenVectorEnv,
    collect,
    make_task,
    two_sample_test,
)
from ntp_envs.tasks.registry import BUILT_IN

RNG = np.random.default_rng(0)
TASK = make_task("Contamination", horizon=3)
DEMOS = collect(TASK, 16, RNG)
IDS = [f"ntp/{family}-v0" for family in sorted(BUILT_IN)]


def curve(**keywords):
    env = RolloutDistance(TokenEnv(TASK), policy=TASK.expert)
    for _ in range(8):
        env.reset()
        for _ in range(3):
            env.step(0)
    return env.curve(**keywords)


def sb3_envs(**keywords):
    pytest.importorskip("stable_baselines3")
    from agents.rl import make_vec_env

    return make_vec_env("Contamination", 2, **keywords)


CALLS = {
    "gym.make": lambda **k: gym.make("ntp/Contamination-v0", **k),
    "gym.make_vec": lambda **k: gym.make_vec("ntp/Contamination-v0", num_envs=2, **k),
    "gym.make_vec sync": lambda **k: gym.make_vec("ntp/Contamination-v0", num_envs=2, vectorization_mode="sync", **k),
    "TokenEnv": lambda **k: TokenEnv("Contamination", **k),
    "TokenEnv of a task": lambda **k: TokenEnv(TASK, **k),
    "TokenVectorEnv": lambda **k: TokenVectorEnv(2, "Contamination", **k),
    "TokenVectorEnv of a task": lambda **k: TokenVectorEnv(2, TASK, **k),
    "make_task": lambda **k: make_task("Contamination", **k),
    "make_agent": lambda **k: make_agent("SmoothedLogLossBC", **k),
    "two_sample_test": lambda **k: two_sample_test(DEMOS, DEMOS, rng=RNG, **k),
    "RolloutDistance.curve": lambda **k: curve(**k),
    "RolloutDistance.curve of samples": lambda **k: curve(method="classifier", metric="tv", **k),
    "agents.rl.make_vec_env": sb3_envs,
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_unknown_keywords_in_the_words_of_python(call):
    """TorchRL's GymEnv looks for exactly this."""
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'frameskip'\. .*Known: "):
        CALLS[call](frameskip=4)
    with pytest.raises(TypeError) as raised:
        CALLS[call](frameskip=4, frame_skip=3)
    for name in ("frameskip", "frame_skip"):
        assert f"got an unexpected keyword argument {name!r}" in str(raised.value)
    assert str(raised.value).count("Known: ") == 1


@pytest.mark.parametrize("name", IDS)
def test_every_id(name):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'"):
            make(name, frameskip=4)


def test_the_nearest_is_suggested_whosever_it_is():
    with pytest.raises(TypeError, match=r"'horizn'. Did you mean 'horizon'.*'rewards'. Did you mean 'reward'"):
        TokenEnv("Contamination", horizn=3, rewards="none")
    with pytest.raises(TypeError, match=r"'autoreset'. Did you mean 'autoreset_mode'"):
        TokenVectorEnv(2, "Contamination", autoreset="SameStep")
    with pytest.raises(ValueError, match="'horizon' cannot be set on a task that is already built"):
        TokenEnv(TASK, horizon=3)


def test_unknown_options_of_reset_at_once():
    wanted = r"no option 'promt'. Did you mean 'prompt.*no option 'sed'.*Known"
    for env in (TokenEnv(TASK), TokenVectorEnv(2, TASK)):
        with pytest.raises(ValueError, match=wanted):
            env.reset(options={"promt": [0], "sed": 3})
