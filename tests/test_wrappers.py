"""RolloutDistance sees everything and changes nothing."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset, FlattenObservation, RecordEpisodeStatistics, TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from rollouts import play, play_batch, task_of

from ntp_envs import (
    RolloutDistance,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    VectorRolloutDistance,
)
from ntp_envs.observations import OBSERVATION_FORMS

MODES = list(AutoresetMode)
FORMS = OBSERVATION_FORMS


def equal(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            equal(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            equal(one, other)
    elif isinstance(left, np.ndarray) and left.dtype == object:
        equal(tuple(left), tuple(right))
    else:
        assert type(left) is type(right)
        np.testing.assert_array_equal(left, right)


# -- transparent, and complete -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["Contamination", "Tightrope", "ConsistencyGame"])  # with and without a prompt
@pytest.mark.parametrize("limit", [None, 5])
def test_single_environment_is_unchanged_and_every_sequence_recorded(family, form, limit):
    def make():
        env = gym.make(f"ntp/{family}-v0", horizon=8, observation=form)
        return env if limit is None else TimeLimit(env, limit)

    plain, wrapped = make(), RolloutDistance(make(), window=50)
    rng, seen = np.random.default_rng(1), []
    equal(plain.reset(seed=3), wrapped.reset(seed=3))
    equal(plain.reset(), wrapped.reset())  # nothing was written: nothing is dropped
    dropped = 0
    for t in range(200):
        action = int(rng.integers(plain.action_space.n))
        left = plain.step(action)
        equal(left, wrapped.step(action))
        base = plain.unwrapped
        over = left[2] or left[3]
        if left[2]:
            seen.append([*base.prompt.tolist(), *base.tokens.tolist()])
        if left[3] or (not over and t % 37 == 36):
            dropped += 1
        if over or t % 37 == 36:
            equal(plain.reset(), wrapped.reset())
        if t % 60 == 59 and limit is None:
            wrapped.curve("mmd2", rng=np.random.default_rng(0))  # does not touch the environment's randomness
    assert wrapped.rollouts.dropped == dropped and wrapped.rollouts.finished == len(seen)
    if limit is None:
        found = wrapped.demonstrations()
        assert np.concatenate([found.prompts, found.tokens], axis=1).tolist() == seen
        assert found.source["task"] == family and found.vocab_size == plain.action_space.n
    else:
        with pytest.raises(ValueError, match=r"no rollout of 8 tokens has finished yet \(\d+ were dropped"):
            wrapped.demonstrations()


@examples(25)
@given(
    seed=st.integers(0, 2**32 - 1),
    family=st.sampled_from(["Contamination", "Tightrope", "ConsistencyGame"]),
    form=st.sampled_from(FORMS),
    limit=st.sampled_from([None, None, 5, 8]),
    partial=st.sampled_from([0.0, 0.1]),
    native=st.booleans(),
)
@pytest.mark.parametrize("mode", MODES)
def test_vector_environment_is_unchanged_and_every_sequence_recorded(mode, seed, family, form, limit, partial, native):
    """Against bookkeeping from the observations alone: terminal ones hold the whole sequence."""

    def make():
        if native:
            return TokenVectorEnv(
                3, family, horizon=8, observation=form, autoreset_mode=mode, max_episode_steps=limit, expert_info=True
            )

        def single():
            env = TokenEnv(family, horizon=8, observation=form)
            return env if limit is None else TimeLimit(env, limit)

        return SyncVectorEnv([single] * 3, autoreset_mode=mode)

    plain, wrapped = make(), VectorRolloutDistance(make(), window=1000)
    empty = int(plain.single_action_space.n)  # "not yet"

    def line(observation, row=None):
        parts = observation.values() if isinstance(observation, dict) else [observation]
        whole = np.concatenate([part if row is None else part[row] for part in parts])
        return (np.flatnonzero(whole) % (empty + 1) if form == "one_hot" else whole).tolist()

    rng, seen, dropped = np.random.default_rng(seed), [], 0
    start = int(rng.integers(1000))
    left = plain.reset(seed=start)
    equal(left, wrapped.reset(seed=start))
    prompt_length = len(line(left[0], 0)) - 8
    over = np.zeros(3, dtype=bool)
    for _ in range(40):
        mask = rng.random(3) < partial
        if mode is AutoresetMode.DISABLED:
            mask |= over
        if mask.any():
            for row in np.flatnonzero(mask & ~over):
                dropped += line(left[0], row)[prompt_length] != empty
            left = plain.reset(options={"reset_mask": mask.copy()})
            equal(left, wrapped.reset(options={"reset_mask": mask.copy()}))
            over = over & ~mask
        actions = rng.integers(0, empty, 3)
        left = plain.step(actions)
        equal(left, wrapped.step(actions))
        over = left[2] | left[3]
        for row in np.flatnonzero(over):
            last = line(left[4]["final_obs"][row]) if mode is AutoresetMode.SAME_STEP else line(left[0], row)
            if empty in last:
                dropped += 1
            else:
                seen.append(last)
    assert wrapped.rollouts.finished == len(seen) and wrapped.rollouts.dropped == dropped
    if seen:
        found = wrapped.demonstrations()
        assert np.concatenate([found.prompts, found.tokens], axis=1).tolist() == seen


def test_gymnasium_checks_pass_and_specs_are_kept():
    env = RolloutDistance(gym.make("ntp/Contamination-v0", horizon=6))
    with pytest.warns(UserWarning, match="is different from the unwrapped version"):
        check_env(RolloutDistance(TokenEnv("Contamination", horizon=6)), skip_render_check=True)
    assert env.spec.additional_wrappers[-1].name == "RolloutDistance" and env.unwrapped.task.horizon == 6


def test_through_other_wrappers():
    """One-hot observations below, an Autoreset below, statistics above."""
    task = task_of()
    env = RecordEpisodeStatistics(RolloutDistance(FlattenObservation(TokenEnv(task))))
    seen = play(env, task.expert, 10)
    found = env.env.demonstrations()
    assert np.concatenate([found.prompts, found.tokens], axis=1).tolist() == seen
    env = RolloutDistance(Autoreset(TokenEnv(task)))
    env.reset(seed=0)
    rng, prompts = np.random.default_rng(0), []
    for t in range(7 * 5):  # 6 tokens, and one step that starts anew
        env.step(int(rng.integers(2)))
        if t % 7 == 5:
            prompts.append(env.unwrapped.prompt.tolist())
    assert env.rollouts.finished == 5 and env.rollouts.dropped == 0
    assert env.demonstrations().prompts.tolist() == prompts


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_wrapped_in_the_middle_of_a_sequence(mode):
    inner = TokenVectorEnv(2, task_of(), autoreset_mode=mode)
    inner.reset(seed=0)
    inner.step(np.array([0, 0]))
    envs, env = VectorRolloutDistance(inner), TokenEnv(task_of())
    for _ in range(6 + (mode is AutoresetMode.NEXT_STEP) + 5):
        envs.step(np.array([0, 1]))
    assert envs.rollouts.finished == 2 and envs.rollouts.dropped == 0
    assert envs.demonstrations().tokens.tolist() == [[0] * 6, [1] * 6]
    env.reset(seed=0)
    env.step(0)
    env = RolloutDistance(env)
    for _ in range(5):
        env.step(1)
    assert env.rollouts.finished == 0 and env.rollouts.dropped == 0


def test_errors_of_the_environment_are_its_own():
    env, envs = RolloutDistance(TokenEnv(task_of())), VectorRolloutDistance(TokenVectorEnv(2, task_of()))
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(2)
    with pytest.raises(InvalidAction):
        envs.step(np.array([0.5, 1.0]))
    env.step(1)
    assert env.unwrapped.tokens.tolist() == [1] and env._written == 1


def test_memory_is_bounded_and_the_latest_are_kept():
    envs = VectorRolloutDistance(TokenVectorEnv(5, task_of(), autoreset_mode="SameStep"), window=7)
    size = envs.rollouts._lines.nbytes
    assert size == 7 * 7  # one byte a token
    rng, written = np.random.default_rng(0), []
    envs.reset(seed=0)
    for _ in range(40):
        columns = rng.integers(0, 2, (6, 5))
        for actions in columns:
            envs.step(actions)
        written += columns.T.tolist()
    assert envs.rollouts.finished == 200 and len(envs.rollouts) == 7 and envs.rollouts._lines.nbytes == size
    assert envs.demonstrations().tokens.tolist() == written[-7:]
    envs.clear()
    assert len(envs.rollouts) == envs.rollouts.finished == 0
    wide = VectorRolloutDistance(TokenVectorEnv(5, task_of(), autoreset_mode="SameStep"), window=3)
    play_batch(wide, UniformPolicy(2, prompt_length=1), 6)  # five at once into a window of three
    assert len(wide.demonstrations()) == 3
