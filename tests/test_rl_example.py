"""The CleanRL-style example runs, and learns."""

import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
EXAMPLE = Path(__file__).parent.parent / "examples" / "ppo_cleanrl_style.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE), run_name="example")


def options(**given):
    return [text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ({"horizon": 4}, ["success of 1000", "enumeration"]),
        ({"env_id": "ntp/NoisyParity-v0", "horizon": 0}, ["success of 1000"]),
        ({"env_id": "ntp/Contamination-v0", "horizon": 4, "reward": "expert_log_prob"}, ["squared Hellinger"]),
    ],
)
def test_it_runs(example, capsys, given, printed):
    example["main"](options(**given, total_timesteps=300, num_envs=16))
    out = capsys.readouterr().out
    assert all(text in out for text in printed)
    assert ("success of" in out) == ("Contamination" not in str(given))


def test_the_adapted_network_is_its_law(example):
    """Against the network at the observations of the environment itself."""
    envs = gym.make_vec("ntp/Contamination-v0", num_envs=2, horizon=3, observation="one_hot")
    torch.manual_seed(0)
    network = example["ActorCritic"](4 * 3, 2)
    policy = example["as_policy"](network, envs.unwrapped.task)
    prompts, tokens = np.array([[0], [1]]), np.array([[0, 0, 1], [1, 1, 0]])
    observations, _ = envs.reset(options={"prompts": prompts})
    for h in range(3):
        with torch.no_grad():
            expected = network(torch.as_tensor(observations))[0].probs.numpy()
        probabilities = np.exp(policy.next_log_probs(prompts, tokens[:, :h]))
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        observations = envs.step(tokens[:, h])[0]
    with pytest.raises(ValueError, match="at most 3"):
        policy.log_probs(prompts, np.zeros((2, 4), int))


@pytest.mark.slow
def test_it_learns(example):
    """Chance is 0.117 on this rope."""
    for seed in range(2):
        args = example["Args"](horizon=8, total_timesteps=15_000, seed=seed)
        task, policy, returns = example["train"](args)
        rng = np.random.default_rng(0)
        prompts = task.sample_prompts(500, rng)
        assert returns[0] < 0.3
        assert task.success(prompts, policy.sample(prompts, 8, rng)).mean() > 0.8
