"""d3rlpy's DiscreteBC learns from our demonstrations; skipped where it is not installed.

Run with ``.ci/interop d3rlpy``, which installs it in an environment of its own. It pins gymnasium 1.0; installed
without its dependencies it works on the current one.
"""

import gymnasium as gym
import numpy as np
import pytest

d3rlpy = pytest.importorskip("d3rlpy")
torch = pytest.importorskip("torch")

from d3rlpy.algos import DiscreteBCConfig, DiscreteCQLConfig  # noqa: E402
from d3rlpy.logging import NoopAdapterFactory  # noqa: E402
from d3rlpy.metrics import EnvironmentEvaluator  # noqa: E402

from ntp_envs import CallablePolicy, collect, distance, make_task  # noqa: E402
from ntp_envs.data import to_d3rlpy  # noqa: E402
from ntp_envs.observations import observe  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    d3rlpy.seed(0)


def as_policy(cloner, task):
    """The law of a DiscreteBC."""

    def law(prompts, tokens):
        with torch.no_grad():
            choice = cloner.impl.modules.imitator(torch.as_tensor(observe(task, prompts, tokens, "one_hot")))
        return torch.log_softmax(choice.logits.double(), dim=1).numpy()

    return CallablePolicy(law, task.vocab_size, horizon=task.horizon, prompt_length=task.prompt_length)


def fit(learner, data, steps):
    learner.fit(data, n_steps=steps, n_steps_per_epoch=steps, logger_adapter=NoopAdapterFactory(), show_progress=False)


def test_its_episodes_are_ours(rng):
    task = make_task("Contamination", horizon=5)
    demos = collect(task, 6, rng)
    data = to_d3rlpy(demos)
    assert data.size() == 6 and data.transition_count == 30
    assert data.dataset_info.action_size == 2 and data.dataset_info.action_space is d3rlpy.ActionSpace.DISCRETE
    env = gym.make("ntp/Contamination-v0", horizon=5, observation="one_hot")
    for episode, prompt, tokens in zip(data.episodes, demos.prompts, demos.tokens):
        assert episode.terminated and episode.actions[:, 0].tolist() == tokens.tolist()
        observation, _ = env.reset(options={"prompt": prompt})
        for h, token in enumerate(tokens):
            np.testing.assert_array_equal(episode.observations[h], observation)
            assert episode.observations.dtype == observation.dtype == np.float32
            observation, reward, _, _, _ = env.step(token)
            assert episode.rewards[h, 0] == pytest.approx(reward, rel=1e-6)


@pytest.mark.parametrize("name", ["Tightrope", "Contamination"])
def test_behaviour_cloning_approaches_the_expert(name, rng):
    task = make_task(name, horizon=8)
    cloner = DiscreteBCConfig(batch_size=256, learning_rate=1e-3, beta=0.0).create(device=False)
    data = to_d3rlpy(collect(task, 2000, rng))
    cloner.build_with_dataset(data)
    before = distance(task.expert, as_policy(cloner, task), task).final
    fit(cloner, data, 800)
    after = distance(task.expert, as_policy(cloner, task), task).final
    print(name, before, after)
    assert before > 0.3 and after < before / 5


def test_an_offline_learner_of_values_and_its_evaluation(rng):
    """Its own loop steps the environment, which it takes in the form of vectors only."""
    task = make_task("Tightrope", horizon=4)
    data = to_d3rlpy(collect(task, 300, rng, policy=None))
    learner = DiscreteCQLConfig(batch_size=64, learning_rate=1e-3).create(device=False)
    env = gym.make("ntp/Tightrope-v0", horizon=4, observation="one_hot")
    fit(learner, data, 300)
    assert EnvironmentEvaluator(env, n_trials=3)(learner, data) == 1.0  # greedy, and the expert never slips
