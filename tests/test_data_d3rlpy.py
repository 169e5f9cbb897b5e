"""Arrays for `d3rlpy` are what the environment shows as one-hot. The library itself is in tests/interop."""

import sys

import numpy as np
import pytest

from ntp_envs import Demonstrations, TokenEnv, collect, make_task
from ntp_envs.data import to_d3rlpy

TASKS = {"Contamination": {"horizon": 6}, "Tightrope": {"horizon": 5}, "ConsistencyGame": {"horizon": 4}}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_arrays_are_what_stepping_gives(name, rng):
    task = make_task(name, **TASKS[name])
    demos = collect(task, 5, rng)
    arrays = to_d3rlpy(demos, form="arrays")
    env = TokenEnv(task, observation="one_hot")
    rows = []
    for prompt, tokens in zip(demos.prompts, demos.tokens):
        observation, _ = env.reset(options={"prompt": prompt})
        for token in tokens:
            after, reward, done, _, _ = env.step(token)
            rows.append((observation, [token], [reward], done))
            observation = after
    for key, wanted in zip(("observations", "actions", "rewards", "terminals"), zip(*rows)):
        np.testing.assert_allclose(arrays[key], np.array(wanted), rtol=1e-6)
        assert arrays[key].dtype == (np.int64 if key == "actions" else np.float32)
    assert arrays["action_size"] == task.vocab_size


def test_rewards_only_where_the_task_is_known():
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0], [0, 1]]), vocab_size=2)
    assert not to_d3rlpy(demos, form="arrays")["rewards"].any()
    task = make_task("Tightrope", horizon=2)
    paid = to_d3rlpy(demos, form="arrays", task=task)["rewards"][1::2, 0]
    np.testing.assert_array_equal(paid, task.success(demos.prompts, demos.tokens))


def test_unequal_weights_are_refused_or_drawn(rng):
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0], [1]]), vocab_size=2, weights=np.array([1.0, 3.0]))
    with pytest.raises(ValueError, match=r"unequal weights, which d3rlpy cannot use; pass rng="):
        to_d3rlpy(demos, form="arrays")
    assert to_d3rlpy(demos, form="arrays", n=4000, rng=rng)["actions"].mean() == pytest.approx(0.75, abs=0.03)
    with pytest.raises(ValueError, match="form='array'"):
        to_d3rlpy(demos, form="array")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    demos = Demonstrations(np.zeros((1, 0), int), np.array([[0]]), vocab_size=2)
    with pytest.raises(ImportError, match=r"needs d3rlpy.*--no-deps d3rlpy==2\.8\.1"):
        to_d3rlpy(demos)
