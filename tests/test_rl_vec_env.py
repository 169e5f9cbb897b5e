"""TokenVecEnv is DummyVecEnv of single environments, only faster; the maximum-entropy reward around it."""
# ruff: noqa: E402

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

torch = pytest.importorskip("torch")
stable_baselines3 = pytest.importorskip("stable_baselines3")

from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from rl_tasks import Fork
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, is_vecenv_wrapped

from agents.rl import MaxEntropyReward, TokenVecEnv, make_vec_env
from ntp_envs import TabularPolicy, TokenEnv, TokenVectorEnv, UniformPolicy, make_task, task_names

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

    ours = make_vec_env(task, num_envs, max_episode_steps=limit, **arguments)
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
    form=st.sampled_from(["multi_discrete", "dict"]),
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
    assert all("expert_probs" in info for info in envs.reset_infos)
    expert = envs.get_attr("task")[0].expert
    law = np.exp(expert.next_log_probs(drawn[:, None].astype(int), np.empty((64, 0), int)))
    np.testing.assert_allclose([info["expert_probs"] for info in envs.reset_infos], law)
    assert 0 < envs.reset()[:32, 0].sum() < 32  # options are used once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[1]]}, "no option 'prompts'"),
        ({"prompt": [2]}, "outside the vocabulary"),
        ({"prompt": [0, 1]}, "shape"),
        ([{}], "1 options; one for each of the 3"),
    ],
)
def test_bad_options(options, message):
    envs = make_vec_env("Contamination", 3, horizon=2)
    envs.set_options(options)
    with pytest.raises(ValueError, match=message):
        envs.reset()


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
    assert envs.reset_infos[1] is info
    assert info["expert_probs"].shape == (2,)
    assert [len(tokens) for tokens in envs.get_attr("tokens")] == [1, 0, 1]
    _, _, dones, _ = envs.step(np.zeros(3, int))
    assert not dones.any()
    pictures = envs.env_method("render", indices=[2, 0])
    assert len(pictures) == 2
    assert all(isinstance(picture, str) for picture in pictures)
    assert envs.env_method("get_wrapper_attr", "reward") == ["expert_log_prob"] * 3
    with pytest.raises(AttributeError, match="Known: get_wrapper_attr, render, reset"):
        envs.env_method("rendr")
    assert envs.env_is_wrapped(Monitor, indices=[0, 1]) == [False, False]
    envs.close()


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


def test_every_id():
    for name in task_names():
        envs = make_vec_env(f"ntp/{name}-v0", 2)
        assert envs.spec.id == f"ntp/{name}-v0"
        assert envs.reset().shape == (2, *envs.observation_space.shape)


def test_wrappers_of_vector_environments_stay_visible():
    inner = RecordEpisodeStatistics(TokenVectorEnv(3, "Tightrope", horizon=2, autoreset_mode="SameStep"))
    envs = TokenVecEnv(inner)
    envs.reset()
    _, _, _, infos = envs.step(np.zeros(3, int))
    assert all("episode" not in info for info in infos)
    _, _, _, infos = envs.step(np.array([0, 1, 1]))
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(1.0, 2), (0.5, 2), (0.5, 2)]


def test_what_cannot_be_adapted():
    with pytest.raises(ValueError, match="autoreset_mode='NextStep'"):
        TokenVecEnv(TokenVectorEnv(2, "Tightrope"))
    sync = SyncVectorEnv([lambda: TokenEnv("Tightrope")])
    for wrong in (TokenEnv("Tightrope"), sync, "ntp/Tightrope-v0", gym.make("CartPole-v1")):
        with pytest.raises(TypeError, match=r"must be an ntp_envs\.TokenVectorEnv"):
            TokenVecEnv(wrong)
    with pytest.raises(ValueError, match="same-step mode"):
        make_vec_env("Tightrope", 2, autoreset_mode="NextStep")
    with pytest.raises(ValueError, match="Did you mean 'max_ent'"):
        make_vec_env("Tightrope", 2, reward="maxent")
    with pytest.raises(TypeError, match="horizon"):
        make_vec_env("Tightrope", 2, horizn=3)
    envs = make_vec_env("Tightrope", 2, horizon=3)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros(2, int))
    envs.reset()
    with pytest.raises(InvalidAction, match=r"actions\[1\]=2"):
        envs.step(np.array([0, 2]))


# -- with stable-baselines3's own tools --------------------------------------------------------------------------------


def test_monitor_and_evaluation_of_our_policies():
    envs = VecMonitor(make_vec_env("Tightrope", 16, horizon=8))
    assert is_vecenv_wrapped(envs, VecMonitor)
    stays = TabularPolicy([np.tile([1.0, 0.0], (2**h, 1)) for h in range(8)])
    assert evaluate_policy(stays, envs, 32) == (1.0, 0.0)
    mean, deviation = evaluate_policy(UniformPolicy(2, prompt_length=0), envs, 4000, deterministic=False)
    exact = (1 - 0.5**8) / 8  # the share of steps before the first slip
    assert abs(mean - exact) < 4 * deviation / np.sqrt(4000)


@pytest.mark.parametrize("form", ["multi_discrete", "dict"])
@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_algorithms_train_on_it(algorithm, form):
    envs = make_vec_env("Contamination", 4, horizon=3, observation=form, max_episode_steps=2, seed=0)
    policy = "MlpPolicy" if form == "multi_discrete" else "MultiInputPolicy"
    own = {"learning_starts": 8, "buffer_size": 64} if algorithm is DQN else {"n_steps": 4}
    own |= {"batch_size": 8} if algorithm is PPO else {}
    model = algorithm(policy, envs, device="cpu", **own).learn(48)
    assert model.num_timesteps == 48


# -- the maximum-entropy reward ----------------------------------------------------------------------------------------


def test_max_ent_reward_is_the_log_ratio():
    envs = make_vec_env("ARLinear", 5, reward="max_ent", horizon=6, seed=1)
    task = envs.get_attr("task")[0]
    model = PPO("MlpPolicy", envs, device="cpu", n_steps=6, batch_size=30, seed=0)
    assert envs.bind(model) is envs
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


def test_max_ent_misuse():
    plain = make_vec_env("Tightrope", 2, horizon=3)
    with pytest.raises(ValueError, match="have reward 'success'"):
        MaxEntropyReward(plain)
    with pytest.raises(ValueError, match="of their own"):
        MaxEntropyReward(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    envs = make_vec_env("Tightrope", 2, horizon=3, reward="max_ent")
    envs.reset()
    with pytest.raises(RuntimeError, match=r"bind\(model\)"):
        envs.step(np.zeros(2, int))
    with pytest.raises(TypeError, match="DQN is greedy"):
        envs.bind(DQN("MlpPolicy", plain, device="cpu", buffer_size=10))
    with pytest.raises(ValueError, match="horizon 3"):
        envs.bind(A2C("MlpPolicy", make_vec_env("Tightrope", 2, horizon=4), device="cpu"))
    with pytest.raises(TypeError, match="must be a PPO, A2C or DQN model"):
        envs.bind(UniformPolicy(2))
