"""The format of observations: what is written in each form is read back, in every library's arrays."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import TokenEnv, make_task
from ntp_envs.observations import (
    OBSERVATION_FORMS,
    Sizes,
    episode_observations,
    observation_form,
    observe,
    split_observation,
    token_space,
)
from ntp_envs.tasks.registry import BUILT_IN


@examples(40)
@given(
    vocab_size=st.sampled_from([1, 2, 3, 254, 255, 300, 70_000]),
    horizon=st.integers(1, 5),
    prompt_length=st.integers(0, 3),
    batch=st.integers(1, 4),
    form=st.sampled_from(OBSERVATION_FORMS),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_back(vocab_size, horizon, prompt_length, batch, form, seed):
    rng = np.random.default_rng(seed)
    sizes = Sizes(vocab_size, horizon, prompt_length)
    space = token_space(sizes, form)
    prompts = rng.integers(0, vocab_size, (batch, prompt_length))
    for t in range(horizon + 1):
        tokens = rng.integers(0, vocab_size, (batch, t))
        seen = observe(sizes, prompts, tokens, form)
        whole = np.full((batch, horizon), vocab_size)
        whole[:, :t] = tokens
        for task in (sizes, Sizes(vocab_size, None, prompt_length)):
            for part, wanted in zip(split_observation(task, seen), (prompts, whole, np.full(batch, t))):
                assert part.dtype == np.int64
                np.testing.assert_array_equal(part, wanted)
        first = {key: value[0] for key, value in seen.items()} if form == "dict" else seen[0]
        assert first in space
        prompt, line, written = split_observation(sizes, first)
        assert (prompt.tolist(), line.tolist(), int(written)) == (prompts[0].tolist(), whole[0].tolist(), t)


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
def test_an_episode_is_written_as_the_environment_shows_it(form):
    env = TokenEnv("ConsistencyGame", horizon=4, observation=form)
    seen = [env.reset(seed=0)[0]] + [env.step(token)[0] for token in (0, 1, 1, 0)]
    episode = episode_observations(env.prompt[None], env.tokens[None], 2, form)
    for t, observation in enumerate(seen):
        row = {key: value[0, t] for key, value in episode.items()} if form == "dict" else episode[0, t]
        np.testing.assert_equal(row, observation)
    assert split_observation(env.task, episode)[2].tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("family", sorted(BUILT_IN))
def test_one_hot_is_gymnasium_s_flattening(family):
    """An independent one-hot code of the line, and of the parts too."""
    task = make_task(family)
    ours = TokenEnv(task, observation="one_hot")
    theirs = [FlattenObservation(TokenEnv(task, observation=form)) for form in ("multi_discrete", "dict")]
    left, rights = ours.reset(seed=1)[0], [env.reset(seed=1)[0] for env in theirs]
    for token in (0, 1):
        for env, right in zip(theirs, rights):
            np.testing.assert_array_equal(left, right)
            assert observation_form(task, env.observation_space) == "one_hot"
            np.testing.assert_array_equal(split_observation(task, right)[1], split_observation(task, left)[1])
        assert left.dtype == np.float32 and left in ours.observation_space
        left, rights = ours.step(token)[0], [env.step(token)[0] for env in theirs]


def test_tensors_and_other_dtypes():
    torch = pytest.importorskip("torch")
    task = make_task("Contamination", horizon=3)
    prompts, tokens = np.array([[1], [0]]), np.array([[0], [1]])
    for form in OBSERVATION_FORMS:
        seen = observe(task, prompts, tokens, form)
        tensors = {k: torch.as_tensor(v) for k, v in seen.items()} if form == "dict" else torch.as_tensor(seen)
        assert split_observation(task, tensors)[1].tolist() == [[0, 2, 2], [1, 2, 2]]
    floats = torch.tensor([[1.0, 0.0, 2.0, 2.0]], requires_grad=True)  # a line, by its length
    assert split_observation(task, floats)[1].tolist() == [[0, 2, 2]]


def test_forms_of_spaces():
    task = make_task("Contamination", horizon=3)
    for form in OBSERVATION_FORMS:
        assert observation_form(task, token_space(task, form)) == form
        assert observation_form(make_task("Contamination", horizon=4), token_space(task, form)) is None
    assert observation_form(task, gym.spaces.MultiDiscrete([3] * 4)) == "multi_discrete"  # of another dtype
    assert observation_form(task, gym.spaces.Box(-1.0, 1.0, (12,), np.float32)) is None
    assert observation_form(task, gym.spaces.Discrete(3)) is None
