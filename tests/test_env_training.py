"""Every id trains: a rollout and an update with stable-baselines3's algorithms, in spaces of every size."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FlattenObservation
from rl_tasks import Dice

from ntp_envs import TokenEnv, TokenVectorEnv
from ntp_envs.tasks.registry import BUILT_IN

FAMILIES = sorted(BUILT_IN)
ARGUMENTS = {
    "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 1},
    "A2C": {"n_steps": 8},
    "DQN": {"learning_starts": 2, "buffer_size": 16, "batch_size": 2, "train_freq": 4},
}
POLICIES = {"multi_discrete": "MlpPolicy", "dict": "MultiInputPolicy", "one_hot": "MlpPolicy"}
INTEGERS = ["dict", "multi_discrete"]


def train(algorithm, env, form="multi_discrete"):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    model = getattr(stable_baselines3, algorithm)(
        POLICIES[form], env, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0, **ARGUMENTS[algorithm]
    )
    before = model.policy.parameters_to_vector()
    model.learn(8)
    after = model.policy.parameters_to_vector()
    assert np.isfinite(after).all() and not np.array_equal(before, after)
    return model


def parts(space):
    return space.values() if isinstance(space, gym.spaces.Dict) else [space]


@pytest.mark.parametrize("algorithm", sorted(ARGUMENTS))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_id_at_its_defaults_trains(family, algorithm):
    train(algorithm, gym.make(f"ntp/{family}-v0"))


@pytest.mark.parametrize("form", ["dict", "one_hot"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_id_trains_in_the_other_forms(family, form):
    train("PPO", gym.make(f"ntp/{family}-v0", observation=form), form)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("vocab_size", "horizon"),
    [
        (2, 84),  # (P + H)(A + 1) = 255, the largest number of a byte
        (2, 85),  # 258: a sum of bytes would say 2
        (4, 51),  # 260
        (31, 7),  # 256: ... and here 0
        (254, 1),  # 510, with the largest vocabulary whose observations are bytes
        (255, 1),  # 512, in two bytes
        (255, 255),  # 65536, where a sum of two bytes would be 0
        pytest.param(2, 21_845, marks=pytest.mark.slow),  # 65538, of bytes
    ],
)
def test_spaces_around_what_small_integers_hold(vocab_size, horizon, form):
    env = TokenEnv(Dice(horizon=horizon, vocab_size=vocab_size), observation=form, reward="none", expert_info=False)
    assert sum(sum(part.nvec) for part in parts(env.observation_space)) == (1 + horizon) * (vocab_size + 1)
    for algorithm in ARGUMENTS if horizon < 100 else ["A2C"]:
        train(algorithm, gym.wrappers.TimeLimit(env, 4), form)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize("vocab_size", [2, 254, 255, 300])
def test_a_space_survives_what_is_done_to_spaces(vocab_size, form):
    """Sizes are wide and samples narrow, after copying, pickling and batching too; both sorts of environment agree."""
    task = Dice(horizon=90, vocab_size=vocab_size)
    single, batch = TokenEnv(task, observation=form), TokenVectorEnv(3, task, observation=form)
    space, narrow = single.observation_space, np.dtype(np.uint8 if vocab_size < 255 else np.uint16)
    assert batch.single_observation_space == space
    assert batch.observation_space == batch_space(space, 3)
    observation, batched = single.reset(seed=0)[0], batch.reset(seed=0)[0]
    for one in (
        space,
        copy.deepcopy(space),
        pickle.loads(pickle.dumps(space)),
        pickle.loads(pickle.dumps(single)).observation_space,
    ):
        assert one == space and observation in one
        one.seed(0)
        assert one.sample() in space
        for part in parts(one):
            assert part.nvec.dtype == np.int64 and part.dtype == part.sample().dtype == narrow
            assert sum(part.nvec) == len(part.nvec) * (vocab_size + 1)
    assert batched in batch.observation_space and batch.observation_space.sample() in batch.observation_space
    for part in parts(batch.observation_space):
        assert part.dtype == narrow and (part.high == vocab_size).all() and not part.low.any()
    flat = FlattenObservation(single)
    assert flat.observation_space.shape == (91 * (vocab_size + 1),)
    recovered = gym.spaces.unflatten(space, flat.reset(seed=0)[0])
    np.testing.assert_equal(recovered, observation)
    check_env(single, skip_render_check=True)
