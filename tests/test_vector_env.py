"""TokenVectorEnv is SyncVectorEnv of TokenEnv, trajectory for trajectory, in every autoreset mode; only faster."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import TokenEnv, TokenVectorEnv, make_task
from ntp_envs.env import REWARDS
from ntp_envs.observations import OBSERVATION_FORMS
from ntp_envs.tasks.registry import BUILT_IN

FAMILIES = sorted(BUILT_IN)
MODES = list(AutoresetMode)
#: many episodes in few steps
SHORTER = {"Multiplication": {"digits": 1}, "TuringMachine": {"width": 3}}


def short(family):
    free = make_task(family).parameters().get("horizon", 0) > 8
    return make_task(family, **({"horizon": 8} if free else SHORTER.get(family, {})))


SHORT = {family: short(family) for family in FAMILIES}


def assert_same(ours, theirs):
    """Equal in type, shape, dtype and value; probabilities and log-probabilities to rounding."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs):
            assert_same(left, right)
    elif isinstance(ours, np.ndarray):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if ours.dtype == object:
            for left, right in zip(ours, theirs):
                assert_same(left, right)
        elif np.issubdtype(ours.dtype, np.floating):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)
        else:
            np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def pair(num_envs, task, *, mode, seed, limit=None, **arguments):
    """The native environment, and SyncVectorEnv of single ones that share one generator in the same state.

    So both draw the same prompts wherever sequences that start together are drawn in ascending order.
    """

    def single():
        env = TokenEnv(task, **arguments)
        return env if limit is None else TimeLimit(env, limit)

    ours = TokenVectorEnv(num_envs, task, autoreset_mode=mode, max_episode_steps=limit, **arguments)
    theirs = SyncVectorEnv([single] * num_envs, autoreset_mode=mode)
    ours.np_random = np.random.default_rng(seed)
    shared = np.random.default_rng(seed)
    for env in theirs.envs:
        env.unwrapped.np_random = shared
    return ours, theirs


@examples(4)
@given(
    seed=st.integers(0, 2**32 - 1),
    reward=st.sampled_from(REWARDS),
    expert_info=st.booleans(),
    observation=st.sampled_from(OBSERVATION_FORMS),
    limit=st.sampled_from([None, None, 1, 5, 1000]),
    partial=st.sampled_from([0.0, 0.15]),
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_trajectories(family, mode, seed, reward, expert_info, observation, limit, partial):
    """Several episodes of random tokens, with sequences reset at random moments so that the batch is out of step."""
    task = SHORT[family]
    if not task.has_success and reward == "success":
        reward = None
    num_envs, rng = 4, np.random.default_rng(seed)
    ours, theirs = pair(
        num_envs,
        task,
        mode=mode,
        seed=seed,
        limit=limit,
        reward=reward,
        expert_info=expert_info,
        observation=observation,
    )
    assert_same(ours.reset(), theirs.reset())
    over = np.zeros(num_envs, dtype=bool)
    for _ in range(min(2 * task.horizon + 7, 75)):
        mask = rng.random(num_envs) < partial
        if mode is AutoresetMode.DISABLED:
            mask |= over
        if mask.any():
            options = {"reset_mask": mask}
            if rng.random() < 0.3:
                options["prompt"] = rng.integers(0, task.vocab_size, task.prompt_length)
            assert_same(ours.reset(options=options), theirs.reset(options=dict(options)))
            assert "reset_mask" in options
        actions = rng.integers(0, task.vocab_size, num_envs)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions))
        over = step[2] | step[3]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocab_size", [3, 5])
def test_same_trajectories_with_more_tokens(vocab_size, mode, rng):
    arguments = {"horizon": 6, "vocab_size": vocab_size, "expert_info": True}
    ours, theirs = pair(3, "ARLinear", mode=mode, seed=1, **arguments)
    assert_same(ours.reset(), theirs.reset())
    for t in range(1, 20):
        actions = rng.integers(0, vocab_size, 3)
        assert_same(ours.step(actions), theirs.step(actions))
        if mode is AutoresetMode.DISABLED and t % 6 == 0:
            assert_same(ours.reset(), theirs.reset())


@pytest.mark.parametrize("family", FAMILIES)
def test_same_trajectories_for_given_prompts(family, rng):
    task = make_task(family)
    prompts = rng.integers(0, task.vocab_size, (5, task.prompt_length))
    ours = TokenVectorEnv(5, task, expert_info=True)
    singles = [TokenEnv(task) for _ in range(5)]
    observations, infos = ours.reset(options={"prompts": prompts})
    for i, env in enumerate(singles):
        observation, info = env.reset(options={"prompt": prompts[i]})
        np.testing.assert_array_equal(observations[i], observation)
        np.testing.assert_allclose(infos["expert_probs"][i], info["expert_probs"], rtol=1e-9)
    for _ in range(task.horizon):
        actions = rng.integers(0, task.vocab_size if task.end_token is None else task.end_token, 5)
        observations, rewards, terminations, truncations, infos = ours.step(actions)
        for i, env in enumerate(singles):
            observation, reward, terminated, truncated, info = env.step(actions[i])
            np.testing.assert_array_equal(observations[i], observation)
            assert rewards[i] == pytest.approx(reward, rel=1e-9)
            assert (terminations[i], truncations[i]) == (terminated, truncated)
            np.testing.assert_allclose(infos["expert_probs"][i], info["expert_probs"], rtol=1e-9, atol=1e-15)
            assert infos["_expert_probs"].all()
    assert not infos["expert_probs"].any()  # nobody has a next token


def test_prompts_of_a_partial_reset_are_those_of_its_rows():
    envs = TokenVectorEnv(3, "Contamination", horizon=4, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(options={"prompt": [0]})
    envs.step([0, 0, 0])
    mask = np.array([True, False, True])
    observations, _ = envs.reset(options={"reset_mask": mask, "prompts": [[1], [1], [0]]})
    assert observations.tolist() == [[1, 2, 2, 2, 2], [0, 0, 2, 2, 2], [0, 2, 2, 2, 2]]


@pytest.mark.parametrize("mode", MODES)
def test_one_reset_at_a_time_is_one_reset(mode):
    """Sequences that are empty at the same time step together again, with the expert reading along."""
    task = make_task("Contamination", horizon=5)
    envs = TokenVectorEnv(4, task, expert_info=True, autoreset_mode=mode)
    envs.reset(seed=0)
    envs.step([0, 1, 0, 1])
    for row in range(4):
        _, infos = envs.reset(options={"reset_mask": np.arange(4) == row})
        assert infos["_expert_probs"].tolist() == [i == row for i in range(4)]
    assert len(envs._cohorts) == 1
    observations, _, _, _, infos = envs.step([1, 1, 0, 0])
    law = np.exp(task.expert.next_log_probs(observations[:, :1].astype(int), observations[:, 1:2].astype(int)))
    np.testing.assert_allclose(infos["expert_probs"], law, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_seeding(family):
    first, again = (TokenVectorEnv(32, family) for _ in range(2))
    draws = [[envs.reset(seed=5)[0]] + [envs.reset()[0] for _ in range(3)] for envs in (first, again)]
    np.testing.assert_array_equal(*draws)
    other = [again.reset(seed=6)[0]] + [again.reset()[0] for _ in range(3)]
    assert np.array_equal(draws[0], other) == (first.task.prompt_length == 0)


@examples(5)
@given(
    seeds=st.lists(st.integers(0, 2**40), min_size=3, max_size=3),
    partial=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["ConsistencyGame", "PathStar", "Tightrope"])  # long prompts, sampled ones, none
def test_a_seed_for_each_sequence_is_that_of_the_single_environment(family, mode, seeds, partial, seed):
    """Against SyncVectorEnv through several episodes and resets of some; and whatever B and the neighbours are."""
    rng, task = np.random.default_rng(seed), make_task(family)
    ours = TokenVectorEnv(3, task, autoreset_mode=mode, expert_info=True)
    theirs = SyncVectorEnv([lambda: TokenEnv(task)] * 3, autoreset_mode=mode)
    alone = TokenVectorEnv(1, task, autoreset_mode=mode, expert_info=True)
    assert_same(ours.reset(seed=seeds), theirs.reset(seed=seeds))
    for row, single in enumerate(seeds):
        np.testing.assert_array_equal(alone.reset(seed=[single])[0][0], ours._lines[row])
    over = np.zeros(3, dtype=bool)
    for _ in range(min(2 * task.horizon + 7, 40)):
        mask = rng.random(3) < partial
        if mode is AutoresetMode.DISABLED:
            mask |= over
        if mask.any():
            given = [int(rng.integers(2**31)), None, int(rng.integers(2**31))] if rng.random() < 0.5 else None
            calls = [envs.reset(seed=given, options={"reset_mask": mask.copy()}) for envs in (ours, theirs)]
            assert_same(*calls)
        actions = rng.integers(0, task.vocab_size, 3)
        steps = ours.step(actions), theirs.step(actions)
        assert_same(*steps)
        over = steps[0][2] | steps[0][3]


def test_one_seed_for_all_after_one_for_each():
    envs, fresh = (TokenVectorEnv(4, "ConsistencyGame") for _ in range(2))
    envs.reset(seed=[1, 2, 3, 4])
    np.testing.assert_array_equal(envs.reset(seed=5)[0], fresh.reset(seed=5)[0])
    np.testing.assert_array_equal(envs.reset()[0], fresh.reset()[0])
    envs.reset(seed=[1, None, np.int64(3), 4])


@pytest.mark.parametrize("spelling", ["next_step", "NEXT_STEP", "NextStep", AutoresetMode.NEXT_STEP])
def test_autoreset_modes_by_value_or_name(spelling):
    envs = gym.make_vec("ntp/Contamination-v0", num_envs=2, autoreset_mode=spelling)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("observation", OBSERVATION_FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_spaces_hold_what_is_returned(mode, observation):
    envs = TokenVectorEnv(3, "ConsistencyGame", horizon=4, observation=observation, autoreset_mode=mode)
    assert envs.metadata["autoreset_mode"] is mode
    assert TokenVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    peer = SyncVectorEnv([lambda: TokenEnv("ConsistencyGame", horizon=4, observation=observation)] * 3)
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(envs, name) == getattr(peer, name)
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    observations, rewards, *ends, _ = envs.step(envs.action_space.sample())
    assert observations in envs.observation_space
    assert rewards.dtype == np.float64 and all(end.dtype == bool for end in ends)


@pytest.mark.parametrize("mode", MODES)
def test_returned_arrays_are_the_caller_s_own(mode):
    def trajectory(tamper):
        envs = TokenVectorEnv(2, "Contamination", horizon=3, expert_info=True, autoreset_mode=mode)
        steps = [envs.reset(seed=1)]
        for _ in range(3):
            kept = copy.deepcopy(steps[-1])
            if tamper:
                for array in (*steps[-1][:-1], *(a for a in steps[-1][-1].values() if isinstance(a, np.ndarray))):
                    array[...] = np.zeros(1, dtype=array.dtype)
            steps[-1] = kept
            steps.append(envs.step([0, 1]))
        return steps

    assert_same(tuple(trajectory(True)), tuple(trajectory(False)))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_go_their_own_way(family, clone, rng):
    envs = TokenVectorEnv(3, family, expert_info=True)
    envs.reset(seed=0)
    envs.step(np.zeros(3, dtype=int))
    other = clone(envs)
    for _ in range(envs.task.horizon + 3):
        actions = rng.integers(0, 2, 3)
        assert_same(envs.step(actions), other.step(actions))
    assert not np.shares_memory(envs._lines, other._lines)


@pytest.mark.parametrize("mode", MODES)
def test_gymnasium_s_vector_wrappers(mode):
    envs = RecordEpisodeStatistics(TokenVectorEnv(4, "Contamination", horizon=3, autoreset_mode=mode))
    envs.reset(seed=0)
    returns = np.zeros(4)
    for _ in range(3):
        _, rewards, terminations, _, infos = envs.step(np.array([0, 1, 0, 1]))
        returns += rewards
    assert terminations.all()
    assert infos["episode"]["l"].tolist() == [3] * 4
    np.testing.assert_allclose(infos["episode"]["r"], returns)
    if mode is AutoresetMode.DISABLED:  # the wrapper reads the mask after the environment has
        envs.reset(options={"reset_mask": np.ones(4, dtype=bool)})
        assert envs.episode_lengths.tolist() == [0] * 4
    NormalizeReward(TokenVectorEnv(2, "Contamination", horizon=3, autoreset_mode=mode)).reset(seed=0)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_rendering_is_that_of_the_single_environment(mode):
    envs, peer = pair(3, "Contamination", mode=AutoresetMode.DISABLED, seed=0, horizon=6, render_mode=mode)
    with pytest.raises(ResetNeeded, match="before reset"):
        envs.render()
    for both in (envs, peer):
        both.reset()
        both.step(np.array([0, 1, 1]))
        both.reset(options={"reset_mask": np.array([False, True, False])})
        both.step(np.array([0, 0, 1]))
    assert_same(envs.render(), peer.render())
    silent = TokenVectorEnv(1, "Contamination")
    silent.reset()
    with pytest.warns(UserWarning, match="without a render mode"):
        assert silent.render() is None


@pytest.mark.parametrize("vocab_size", [2, 3])
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, -1], r"actions\[1\]=-1 is not a token; integers in \[0, \d\] are needed"),
        ([99, 0], r"actions\[0\]=99 is not a token"),
        ([-(2**63), 0], "is not a token"),
        (np.array([2**63, 0], dtype=np.uint64), "is not a token"),
        ([0, 1, 0], r"shape \(3,\) and dtype int64; \(2,\) integers are needed"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([0.0, 1.0], "dtype float64"),
        ([True, False], "dtype bool"),
        (0, r"shape \(\)"),
    ],
)
def test_actions_that_are_not_tokens(vocab_size, actions, message):
    envs = TokenVectorEnv(2, "ARLinear", horizon=4, vocab_size=vocab_size)
    before, _ = envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        envs.step(actions)
    np.testing.assert_array_equal(envs._lines, before)
    envs.reset(options={"reset_mask": np.array([True, False])})  # out of step: the same checks
    with pytest.raises(InvalidAction, match=message):
        envs.step(actions)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_integer_dtype_is_an_action(dtype):
    envs = TokenVectorEnv(2, "Contamination", horizon=4)
    envs.reset(seed=0)
    assert envs.step(np.array([1, 0], dtype=dtype))[0][:, 1].tolist() == [1, 0]
    assert envs.step((0, 1))[0][:, 2].tolist() == [0, 1]


def test_the_action_of_a_sequence_that_starts_anew_is_not_read():
    envs = TokenVectorEnv(2, "Contamination", horizon=1)
    envs.reset(seed=0)
    envs.step([0, 1])
    observations, rewards, terminations, _, _ = envs.step([-7, 99])
    assert (observations[:, 1] == 2).all() and not rewards.any() and not terminations.any()


def test_steps_out_of_turn():
    envs = TokenVectorEnv(3, "Contamination", horizon=2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="before reset"):
        envs.step([0, 0, 0])
    with pytest.raises(ResetNeeded, match="reset all sequences first"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset()
    envs.step([0, 0, 0])
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.step([0, 0, 0])
    with pytest.raises(ResetNeeded, match=r"2 sequence\(s\) are over \(the first is number 1\)"):
        envs.step([0, 0, 0])
    envs.reset(options={"reset_mask": np.array([False, True, True])})
    envs.step([0, 0, 0])
