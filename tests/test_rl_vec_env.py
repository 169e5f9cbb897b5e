"""TokenVecEnv is DummyVecEnv of single environments, only faster; the maximum-entropy reward around it."""
# ruff: noqa: E402

import inspect

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

torch = pytest.importorskip("torch")
stable_baselines3 = pytest.importorskip("stable_baselines3")

from gymnasium.wrappers.vector import RecordEpisodeStatistics
from rl_tasks import Dice, Fork
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env as peer_make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, is_vecenv_wrapped

from agents.rl import SB3Policy, TokenVecEnv, make_vec_env
from ntp_envs import TabularPolicy, TokenEnv, TokenVectorEnv, UniformPolicy, make_task, task_names
from ntp_envs.observations import OBSERVATION_FORMS

torch.set_num_threads(1)
TASKS = [
    make_task("Contamination", horizon=4),
    make_task("Tightrope", horizon=3),
    make_task("NoisyParity", bits=2, subset=(0, 1)),
    make_task("ARLinear", horizon=5),
    make_task("ConsistencyGame", horizon=4),
]


def pair(task, num_envs, limit=None, **arguments):
    """Ours and DummyVecEnv; the single environments are patched so that all draw from one generator, as ours do."""

    def single():
        env = TokenEnv(task, **arguments)
        return env if limit is None else TimeLimit(env, limit)

    ours = make_vec_env(task, num_envs, max_episode_steps=limit, **arguments).unwrapped
    theirs = DummyVecEnv([single] * num_envs)
    return ours, theirs


def share_generator(ours, theirs, seed):
    ours.envs.np_random = np.random.default_rng(seed)
    shared = np.random.default_rng(seed)
    for env in theirs.envs:
        env.unwrapped.np_random = shared


def assert_same_observations(ours, theirs):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same_observations(ours[key], theirs[key])
    else:
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours, theirs)


def assert_same_infos(ours, theirs):
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs):
        assert left.keys() == right.keys()
        for key in right:
            if key == "terminal_observation":
                assert_same_observations(left[key], right[key])
            elif key == "expert_probs":
                np.testing.assert_allclose(left[key], right[key], rtol=1e-9, atol=1e-14)
            else:
                assert left[key] is right[key]  # Python booleans


@examples(60)
@given(
    task=st.sampled_from(TASKS),
    seed=st.integers(0, 2**32 - 1),
    reward=st.sampled_from(["success", "expert_log_prob", "none"]),
    expert_info=st.booleans(),
    form=st.sampled_from(OBSERVATION_FORMS),
    limit=st.sampled_from([None, None, 1, 3, 1000]),
)
def test_same_as_dummy_vec_env(task, seed, reward, expert_info, form, limit):
    if reward == "success" and not task.has_success:
        reward = None
    ours, theirs = pair(task, 3, limit, reward=reward, expert_info=expert_info, observation=form)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(seed)
    prompts = [{"prompt": prompt} for prompt in task.sample_prompts(3, rng)]
    for envs in (ours, theirs):
        envs.set_options(prompts)
    assert_same_observations(ours.reset(), theirs.reset())
    assert_same_infos(ours.reset_infos, theirs.reset_infos)
    share_generator(ours, theirs, seed)  # for what the autoreset draws
    length = min(task.horizon, limit or task.horizon)
    for _ in range(2 * length + 2):
        actions = rng.integers(task.vocab_size, size=3)
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        assert_same_observations(observations, expected[0])
        assert rewards.dtype == expected[1].dtype
        np.testing.assert_allclose(rewards, expected[1], rtol=1e-6, atol=1e-7)
        assert dones.dtype == expected[2].dtype
        np.testing.assert_array_equal(dones, expected[2])
        assert_same_infos(infos, expected[3])
        assert_same_infos(ours.reset_infos, theirs.reset_infos)


def test_fresh_arrays_and_dicts():
    envs = make_vec_env("Tightrope", 2, horizon=3)
    first = envs.reset()
    kept = first.copy()
    seen = [envs.step(np.ones(2, int)) for _ in range(3)]
    np.testing.assert_array_equal(first, kept)
    dicts = [info for step in seen for info in step[3]]
    assert len({id(info) for info in dicts}) == len(dicts)
    seen[2][3][0]["terminal_observation"][:] = 9
    np.testing.assert_array_equal(seen[2][3][1]["terminal_observation"], [1, 1, 1])
    np.testing.assert_array_equal(seen[2][0], kept)


# -- seeds and prompts -------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_prompts_and_is_used_once():
    def prompts(seed):
        envs = make_vec_env("Contamination", 32, horizon=2, seed=seed)
        return [envs.reset()[:, 0].tolist() for _ in range(2)]

    assert prompts(5) == prompts(5)
    assert prompts(5) != prompts(6)
    first, second = prompts(5)
    assert first != second
    native = TokenVectorEnv(32, "Contamination", horizon=2)
    assert first == native.reset(seed=5)[0][:, 0].tolist()


def test_seeding_touches_no_global_generator():
    envs = make_vec_env("Contamination", 4, horizon=2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    seeds = envs.seed(None)
    envs.reset()
    assert len(seeds) == 4
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_some_prompts_fixed_the_others_drawn():
    envs = make_vec_env("Contamination", 64, horizon=2, seed=0, expert_info=True)
    envs.set_options([{"prompt": [1]} if i < 32 else {} for i in range(64)])
    drawn = envs.reset()[:, 0]
    assert (drawn[:32] == 1).all()
    assert 0 < drawn[32:].sum() < 32
    infos = envs.unwrapped.reset_infos
    assert all("expert_probs" in info for info in infos)
    expert = envs.get_attr("task")[0].expert
    law = np.exp(expert.next_log_probs(drawn[:, None].astype(int), np.empty((64, 0), int)))
    np.testing.assert_allclose([info["expert_probs"] for info in infos], law)
    assert 0 < envs.reset()[:32, 0].sum() < 32  # options are used once


# -- the single environments -------------------------------------------------------------------------------------------


def test_attributes():
    ours, theirs = pair(make_task("Contamination", horizon=4), 3)
    for envs in (ours, theirs):
        envs.set_options([{"prompt": [i % 2]} for i in range(3)])
        envs.reset()
        envs.step(np.array([0, 1, 1]))
    for name in ("reward", "render_mode", "expert_info", "log_prob_floor", "task", "metadata", "observation_space"):
        if name not in ("metadata", "expert_info"):
            assert ours.get_attr(name, [0, 2]) == theirs.get_attr(name, [0, 2])
        assert len(ours.get_attr(name)) == 3
    for name in ("prompt", "tokens"):
        assert [a.tolist() for a in ours.get_attr(name)] == [a.tolist() for a in theirs.get_attr(name)]
        assert ours.get_attr(name, 1)[0].tolist() == theirs.get_attr(name, 1)[0].tolist()
    assert ours.has_attr("task")
    assert not ours.has_attr("no_such_thing")
    with pytest.raises(AttributeError):
        ours.get_attr("no_such_thing")
    with pytest.raises(IndexError):
        ours.get_attr("task", 3)


def test_setting_attributes():
    envs = make_vec_env("Tightrope", 3, horizon=2, reward="expert_log_prob")
    envs.set_attr("log_prob_floor", -3.0)
    envs.reset()
    assert envs.step(np.array([0, 1, 1]))[1].tolist() == [0, -3, -3]
    with pytest.raises(ValueError, match="shared by all 3"):
        envs.set_attr("log_prob_floor", -1.0, indices=[0])
    for name in ("reward", "task", "num_envs", "tokens"):
        with pytest.raises(AttributeError, match="fixed when the environment is made"):
            envs.set_attr(name, None)
    envs.set_attr("label", "a", indices=[0, 2])
    envs.set_attr("label", "b", indices=1)
    assert envs.get_attr("label") == ["a", "b", "a"]
    envs.set_attr("only_one", 1, indices=1)
    assert envs.get_attr("only_one", 1) == [1]
    with pytest.raises(AttributeError, match="not set for all"):
        envs.get_attr("only_one")
    envs.set_attr("greet", lambda name: f"hello {name}")
    assert envs.env_method("greet", "you", indices=[0, 1]) == ["hello you"] * 2


def test_methods():
    envs = make_vec_env("Contamination", 3, horizon=3, render_mode="ansi", expert_info=True)
    envs.reset()
    envs.step(np.zeros(3, int))
    (observation, info), *rest = envs.env_method("reset", options={"prompt": [1]}, indices=[1])
    assert not rest
    assert observation.tolist() == [1, 2, 2, 2]
    assert envs.unwrapped.reset_infos[1] is info
    assert info["expert_probs"].shape == (2,)
    assert [len(tokens) for tokens in envs.get_attr("tokens")] == [1, 0, 1]
    _, _, dones, _ = envs.step(np.zeros(3, int))
    assert not dones.any()
    pictures = envs.env_method("render", indices=[2, 0])
    assert len(pictures) == 2
    assert all(isinstance(picture, str) for picture in pictures)
    assert envs.env_method("get_wrapper_attr", "reward") == ["expert_log_prob"] * 3
    with pytest.raises(AttributeError, match="Known: action_masks, get_wrapper_attr, render, reset"):
        envs.env_method("rendr")
    assert envs.env_is_wrapped(Monitor, indices=[0, 1]) == [False, False]
    envs.close()


@pytest.mark.parametrize("task", [make_task("PathStar", degree=2, length=3), make_task("Tightrope", horizon=3)])
def test_action_masks(task):
    """By sb3-contrib's convention: one method of each environment; before and after sequences end."""
    ours, theirs = pair(task, 3)
    prompts = [{"prompt": prompt} for prompt in task.sample_prompts(3, np.random.default_rng(0))]
    for envs in (ours, theirs):
        assert envs.has_attr("action_masks")
        envs.set_options(prompts)
        envs.reset()
    share_generator(ours, theirs, 0)
    for _ in range(2 * task.horizon):
        masks = np.stack(ours.env_method("action_masks"))
        assert masks.shape == (3, task.vocab_size)
        np.testing.assert_array_equal(masks, np.stack(theirs.env_method("action_masks")))
        np.testing.assert_array_equal(masks[[2, 0]], ours.env_method("action_masks", indices=[2, 0]))
        actions = np.array([np.flatnonzero(mask)[0] if mask.any() else 0 for mask in masks])
        actions[2] = 0  # one that may break the rules
        for envs in (ours, theirs):
            envs.step(actions)
    wrapped = make_vec_env(task, 3)  # found through the monitor
    wrapped.reset()
    assert wrapped.has_attr("action_masks") and len(wrapped.env_method("action_masks")) == 3


def test_sequences_out_of_step_end_at_their_own_time():
    envs = make_vec_env("Tightrope", 2, horizon=3)
    envs.reset()
    envs.step(np.zeros(2, int))
    envs.env_method("reset", indices=0)
    envs.step(np.zeros(2, int))
    observations, rewards, dones, infos = envs.step(np.zeros(2, int))
    assert dones.tolist() == [False, True]
    assert rewards.tolist() == [0, 1]
    assert "terminal_observation" not in infos[0]
    assert infos[1]["terminal_observation"].tolist() == [0, 0, 0]
    assert observations.tolist() == [[0, 0, 2], [2, 2, 2]]


def test_pictures():
    envs = make_vec_env("Tightrope", 4, horizon=3, render_mode="rgb_array")
    envs.reset()
    assert envs.render().shape == (320, 1280, 3)  # tiled two by two
    assert make_vec_env("Tightrope", 4, horizon=3).get_images() == [None] * 4


# -- what it is made from ----------------------------------------------------------------------------------------------


def one_rollout(algorithm, envs, policy):
    """The policy after one rollout and update, with as little else as the algorithm allows."""
    own = {"device": "cpu", "policy_kwargs": {"net_arch": [4]}}
    if algorithm is DQN:
        own |= {"buffer_size": 8, "learning_starts": 1, "batch_size": 2}
    else:
        own |= {"n_steps": 2} | ({"batch_size": 4, "n_epochs": 1} if algorithm is PPO else {})
    return algorithm(policy, envs, **own).learn(8)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
@pytest.mark.parametrize("form", OBSERVATION_FORMS)
def test_every_id_trains_at_its_defaults(algorithm, form):
    """Libraries add up the sizes of the observation, (P + H)(A + 1), which must not wrap at a byte."""
    entries = set()
    for name in task_names():
        envs = make_vec_env(f"ntp/{name}-v0", 2, observation=form)
        assert envs.spec.id == f"ntp/{name}-v0"
        model = one_rollout(algorithm, envs, "MultiInputPolicy" if form == "dict" else "MlpPolicy")
        task = envs.get_attr("task")[0]
        prompts = task.sample_prompts(2, np.random.default_rng(0))
        law = SB3Policy(model, task).next_log_probs(prompts, np.empty((2, 0), int))
        np.testing.assert_allclose(np.exp(law).sum(axis=1), 1.0)
        entries.add((task.prompt_length + task.horizon) * (task.vocab_size + 1))
    assert min(entries) < 256 < max(entries)


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize(
    ("vocab_size", "horizon"),
    [(2, 84), (2, 85), (14, 16), (15, 15), (126, 1), (127, 1), (253, 1), (254, 1), (255, 1), (256, 1), (300, 217)],
)
def test_boundaries_of_the_number_of_entries(vocab_size, horizon, form):
    """(1 + H)(A + 1) around 255 and above 65,535, A + 1 around 255: where sums and dtypes would wrap.

    The network reads what the environment shows.
    """
    task = Dice(vocab_size, horizon)
    envs = make_vec_env(task, 2, reward="none", observation=form)
    model = one_rollout(A2C, envs, "MultiInputPolicy" if form == "dict" else "MlpPolicy")
    assert model.policy.features_dim == (task.prompt_length + horizon) * (vocab_size + 1)
    written = np.random.default_rng(0).integers(vocab_size, size=(2, horizon))
    written[0, 0] = vocab_size - 1
    observations = envs.reset()
    lines = np.column_stack([envs.get_attr("prompt"), np.full((2, horizon), vocab_size)])
    for h in range(min(2, horizon)):
        with torch.no_grad():
            shown = model.policy.extract_features(model.policy.obs_to_tensor(observations)[0])
        np.testing.assert_array_equal(shown.numpy(), np.eye(vocab_size + 1)[lines].reshape(2, -1))
        lines[:, 1 + h] = written[:, h]
        observations = envs.step(written[:, h])[0]


def test_wrappers_of_vector_environments_stay_visible():
    inner = RecordEpisodeStatistics(TokenVectorEnv(3, "Tightrope", horizon=2, autoreset_mode="SameStep"))
    envs = TokenVecEnv(inner)
    envs.reset()
    _, _, _, infos = envs.step(np.zeros(3, int))
    assert all("episode" not in info for info in infos)
    _, _, _, infos = envs.step(np.array([0, 1, 1]))
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(1.0, 2), (0.5, 2), (0.5, 2)]


# -- the arguments of stable-baselines3's function of the same name ----------------------------------------------------


def logged(envs, algorithm=PPO):
    """What a short training writes to its logger."""
    own = {"n_steps": 4} if algorithm is A2C else {"n_steps": 4, "batch_size": 8, "n_epochs": 1}
    model = algorithm("MlpPolicy", envs, device="cpu", seed=0, **own)
    kept = {}
    model.set_logger(Logger(None, []))
    model.logger.dump = lambda step: kept.update(model.logger.name_to_value)
    model.learn(32 * envs.num_envs, log_interval=1)
    return kept


@pytest.mark.parametrize("reward", [None, "expert_log_prob"])
def test_returns_are_logged_as_by_its_own_function(reward):
    ours = logged(make_vec_env("ntp/Tightrope-v0", 4, seed=0, horizon=4, reward=reward))
    peer = logged(peer_make_vec_env("ntp/Tightrope-v0", 4, seed=0, env_kwargs={"horizon": 4, "reward": reward}))
    assert ours.keys() == peer.keys()
    assert "rollout/ep_rew_mean" in ours and ours["rollout/ep_len_mean"] == 4
    # no prompts: the same seed of the model writes the same sequences
    assert ours["rollout/ep_rew_mean"] == pytest.approx(peer["rollout/ep_rew_mean"], rel=1e-6)


def test_the_monitor_sees_the_maximum_entropy_reward():
    envs = make_vec_env("Contamination", 3, horizon=4, reward="max_ent")
    envs.bind(A2C("MlpPolicy", envs, device="cpu")).reset()
    envs.reset()
    total = sum(envs.step(np.array([0, 1, 1]))[1] for _ in range(3))
    _, rewards, _, infos = envs.step(np.array([0, 0, 1]))
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total + rewards, rtol=1e-5)


def test_its_signature():
    ours, theirs = inspect.signature(make_vec_env).parameters, inspect.signature(peer_make_vec_env).parameters
    assert list(ours)[1 : len(theirs)] == list(theirs)[1:]  # the first is a task here
    for name in list(theirs)[1:]:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)


def test_monitor_files(tmp_path):
    envs = make_vec_env("Tightrope", 3, start_index=5, monitor_dir=str(tmp_path / "new" / "folder"), horizon=2)
    envs.reset()
    for _ in range(2):
        envs.step(np.array([0, 1, 1]))
    envs.close()
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert file.name == "5.monitor.csv"
    assert np.genfromtxt(file, delimiter=",", names=True, skip_header=1)["r"].tolist() == [1.0, 0.0, 0.0]
    single = make_vec_env("Tightrope", 3, start_index=5, monitor_dir=str(tmp_path), horizon=2, vec_env_cls=DummyVecEnv)
    assert sorted(file.name for file in tmp_path.glob("*.csv")) == [f"{i}.monitor.csv" for i in (5, 6, 7)]
    single.close()


class Doubled(gym.RewardWrapper):
    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


def test_a_wrapper_of_single_environments():
    for kwargs, factor in ((None, 2.0), ({"factor": 5.0}, 5.0)):
        envs = make_vec_env("Tightrope", 2, wrapper_class=Doubled, wrapper_kwargs=kwargs, horizon=1)
        assert envs.env_is_wrapped(Doubled) == envs.env_is_wrapped(Monitor) == [True, True]
        envs.reset()
        _, rewards, _, infos = envs.step(np.array([0, 1]))
        assert rewards.tolist() == [factor, 0.0]
        assert [info["episode"]["r"] for info in infos] == [1.0, 0.0]  # the monitor is inside, as in the peer's


@pytest.mark.parametrize("task", ["ntp/Contamination-v0", "Contamination", make_task("Contamination", horizon=6)])
def test_single_environments_of_anything_that_the_native_batch_takes(task):
    parameters = {"max_episode_steps": 2} | ({"horizon": 6} if isinstance(task, str) else {})
    native, single = (make_vec_env(task, 2, 3, env_kwargs=parameters, vec_env_cls=cls) for cls in (None, DummyVecEnv))
    assert native.observation_space == single.observation_space
    assert isinstance(native.unwrapped, TokenVecEnv) and isinstance(single, DummyVecEnv)
    for envs in (native, single):
        envs.reset()
        envs.step(np.zeros(2, int))
        _, _, dones, infos = envs.step(np.zeros(2, int))
        assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
        assert all("expert_probs" not in info for info in infos)
    peer = peer_make_vec_env("ntp/Contamination-v0", 2, 3, env_kwargs={"horizon": 6})
    fresh = make_vec_env(task, 2, 3, env_kwargs=parameters, vec_env_cls=DummyVecEnv)
    np.testing.assert_array_equal(fresh.reset(), peer.reset())


@pytest.mark.slow
def test_in_other_processes():
    envs = make_vec_env("Tightrope", 1, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"}, horizon=1)
    envs.reset()
    assert envs.step(np.array([0]))[1].tolist() == [1.0]
    envs.close()


def test_more_columns_in_the_monitor():
    envs = make_vec_env("Tightrope", 2, horizon=1, monitor_kwargs={"info_keywords": ("terminal_observation",)})
    envs.reset()
    infos = envs.step(np.array([0, 1]))[3]
    assert [info["episode"]["terminal_observation"].tolist() for info in infos] == [[0], [1]]


# -- with stable-baselines3's own tools --------------------------------------------------------------------------------


def test_monitor_and_evaluation_of_our_policies():
    envs = make_vec_env("Tightrope", 16, horizon=8)
    assert is_vecenv_wrapped(envs, VecMonitor)
    stays = TabularPolicy([np.tile([1.0, 0.0], (2**h, 1)) for h in range(8)])
    assert evaluate_policy(stays, envs, 32) == (1.0, 0.0)
    mean, deviation = evaluate_policy(UniformPolicy(2, prompt_length=0), envs, 4000, deterministic=False)
    exact = (1 - 0.5**8) / 8  # the share of steps before the first slip
    assert abs(mean - exact) < 4 * deviation / np.sqrt(4000)


def test_stacked_frames():
    """Which stable-baselines3 makes of boxes only."""
    envs = VecFrameStack(make_vec_env("Contamination", 2, horizon=3, observation="one_hot"), 2)
    first = envs.reset()
    second, _, _, _ = envs.step(np.zeros(2, int))
    assert first.shape == (2, 24) and not first[:, :12].any()
    np.testing.assert_array_equal(second[:, :12], first[:, 12:])
    assert A2C("MlpPolicy", envs, n_steps=4, device="cpu").learn(16).num_timesteps == 16


# -- the maximum-entropy reward ----------------------------------------------------------------------------------------


def test_max_ent_reward_is_the_log_ratio():
    envs = make_vec_env("ARLinear", 5, reward="max_ent", horizon=6, seed=1)
    task = envs.get_attr("task")[0]
    model = PPO("MlpPolicy", envs, device="cpu", n_steps=6, batch_size=30, seed=0)
    assert envs.bind(model) is envs.venv  # the reward is inside the monitor
    observations = envs.reset()
    rng = np.random.default_rng(0)
    for step in range(8):
        actions = rng.integers(task.vocab_size, size=5)
        tensors = model.policy.obs_to_tensor(observations)[0]
        with torch.no_grad():  # an independent way to the same number: what PPO itself stores
            _, log_pi, _ = model.policy.evaluate_actions(tensors, torch.as_tensor(actions))
        length = step % 6
        start = task.prompt_length
        prompts, tokens = observations[:, :start].astype(int), observations[:, start : start + length].astype(int)
        log_expert = task.expert.next_log_probs(prompts, tokens)[np.arange(5), actions]
        observations, rewards, _, _ = envs.step(actions)
        np.testing.assert_allclose(rewards, log_expert - log_pi.numpy(), atol=2e-5)
        with torch.no_grad():  # it follows the model as it changes
            model.policy.action_net.weight.add_(0.1)
            model.policy.action_net.bias[0].add_(0.3)


def test_max_ent_reward_vanishes_at_the_expert():
    """A network whose only logits are the expert's: every reward is zero, and so is every advantage."""
    envs = make_vec_env(Fork(horizon=1, open=0.3), 8, reward="max_ent")
    model = A2C("MlpPolicy", envs, device="cpu")
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.7, 0.3]).log() + 5.0)
    envs.bind(model).reset()
    for actions in (np.zeros(8, int), np.ones(8, int)):
        np.testing.assert_allclose(envs.step(actions)[1], 0.0, atol=1e-6)
