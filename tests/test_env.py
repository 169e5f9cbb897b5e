"""TokenEnv: Gymnasium's own checker on every id, the rules of an episode, training in spaces of every size, masks."""

import copy
import pickle
import warnings
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FlattenObservation
from rl_tasks import Dice

from ntp_envs import TokenEnv, TokenVectorEnv, make_task
from ntp_envs.observations import OBSERVATION_FORMS
from ntp_envs.tasks.registry import BUILT_IN, task_class

FAMILIES = sorted(BUILT_IN)
FORMS = OBSERVATION_FORMS


def play(env, rng, **reset):
    """One episode of random tokens; the transitions, the first one being the reset."""
    steps = [env.reset(**reset)]
    while len(steps) == 1 or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(int(rng.integers(env.action_space.n))))
    return steps


def tokens_of(observation, vocab_size):
    """Prompt and tokens in one line, whatever the form."""
    if isinstance(observation, dict):
        return np.concatenate([observation.get("prompt", observation["tokens"][:0]), observation["tokens"]])
    if observation.dtype == np.float32:
        places, values = np.divmod(np.flatnonzero(observation), vocab_size + 1)
        assert (observation[observation != 0] == 1).all() and places.tolist() == list(range(len(places)))
        return values.astype(np.uint8)
    return observation


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gymnasium_has_nothing_to_say(family, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(f"ntp/{family}-v0", observation=form).unwrapped)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_stable_baselines3_has_nothing_to_say(family, form):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.make(f"ntp/{family}-v0", observation=form), warn=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_episode_is_the_prompt_and_the_tokens_written(family, form, rng):
    env = TokenEnv(family, observation=form)
    task = env.task
    (start, info), *steps = play(env, rng, seed=3)
    lines = [tokens_of(observation, task.vocab_size) for observation in (start, *(step[0] for step in steps))]
    length = len(steps)
    ended = task.end_token is not None and tokens_of(steps[-1][0], task.vocab_size)[task.prompt_length + length - 1]
    assert length == task.horizon or (length < task.horizon and ended == task.end_token)
    assert all(line.dtype == np.uint8 for line in lines)
    prompt = lines[0][: task.prompt_length]
    assert (lines[0][task.prompt_length :] == task.vocab_size).all()
    written = lines[-1][task.prompt_length :]
    for t, line in enumerate(lines):
        np.testing.assert_array_equal(line[: task.prompt_length], prompt)
        np.testing.assert_array_equal(line[task.prompt_length :][:t], written[:t])
        assert (line[task.prompt_length :][t:] == task.vocab_size).all()
    assert [step[2] for step in steps] == [False] * (length - 1) + [True]
    assert all(type(step[2]) is bool and step[3] is False and type(step[1]) is float for step in steps)

    # the expert's law at each state, against a reading from scratch
    infos = [info, *(step[4] for step in steps)]
    assert infos[-1].keys() == {"expert_probs"} and infos[-1]["expert_probs"].shape == (task.vocab_size,)
    assert infos[-1]["expert_probs"].dtype == np.float64 and not infos.pop()["expert_probs"].any()  # no token follows
    for t, info in enumerate(infos):
        law = np.exp(task.expert.next_log_probs(prompt[None].astype(int), written[None, :t].astype(int))[0])
        np.testing.assert_allclose(info["expert_probs"], law, rtol=1e-9, atol=1e-15)
        assert info["expert_probs"].dtype == np.float64


@pytest.mark.parametrize("reward", ["none", "expert_log_prob"])
@pytest.mark.parametrize("family", FAMILIES)
def test_info_has_one_structure_through_an_episode(family, reward, rng):
    """Collectors stack the infos of a run; Minari's compares every one with the first."""
    for expert_info in (True, False):
        env = TokenEnv(family, reward=reward, expert_info=expert_info)
        infos = [out[-1] for _ in range(2) for out in play(env, rng, seed=0)]
        outlines = {tuple((key, value.shape, value.dtype) for key, value in info.items()) for info in infos}
        assert outlines == {(("expert_probs", (env.task.vocab_size,), np.dtype(float)),) if expert_info else ()}


@pytest.mark.parametrize("family", FAMILIES)
def test_rewards(family, rng):
    task = make_task(family)
    env = TokenEnv(task, reward="expert_log_prob", log_prob_floor=-5.0, expert_info=False)
    _, *steps = play(env, rng, seed=0)
    assert all(step[4] == {} for step in steps)
    log_probs = task.expert.log_probs(env.prompt[None], env.tokens[None])[0]
    np.testing.assert_allclose([step[1] for step in steps], np.maximum(log_probs, -5.0), rtol=1e-9, atol=1e-12)

    assert all(step[1] == 0.0 for step in play(TokenEnv(task, reward="none"), rng)[1:])
    assert TokenEnv(task).reward == ("success" if task.has_success else "expert_log_prob")
    if not task.has_success:
        with pytest.raises(ValueError, match=r"no notion of success; use 'expert_log_prob' or 'none'"):
            TokenEnv(task, reward="success")
        return
    env = TokenEnv(task, reward="success", expert_info=False)
    for draw in (lambda: rng.integers(0, task.vocab_size, task.horizon), None):  # somebody, and the expert
        env.reset()
        tokens = draw() if draw else task.expert.sample(env.prompt[None], task.horizon, rng)[0]
        rewards = [env.step(token)[1] for token in tokens]
        assert rewards[:-1] == [0.0] * (task.horizon - 1)
        assert rewards[-1] == task.success(env.prompt[None], tokens[None])[0]


def test_a_token_the_expert_never_writes_has_the_floor_as_reward():
    env = TokenEnv("RareMode", horizon=4, eps=0.01, reward="expert_log_prob")
    env.reset()
    assert env.step(0)[1] == pytest.approx(np.log(0.99))
    assert env.step(1)[1] == -20.0  # once 0, always 0


def test_seeding():
    family = "ConsistencyGame"  # a long prompt: two draws differ
    first, again, other = TokenEnv(family), TokenEnv(family), TokenEnv(family)
    prompts = [[env.reset(seed=s)[0]] + [env.reset()[0] for _ in range(8)] for env, s in zip((first, again), (5, 5))]
    np.testing.assert_array_equal(prompts[0], prompts[1])
    assert not np.array_equal(prompts[0], [other.reset(seed=6)[0]] + [other.reset()[0] for _ in range(8)])


def test_prompts_follow_the_task_s_law():
    task = make_task("ConsistencyGame", horizon=4, eps=0.1)
    env = TokenEnv(task, expert_info=False)
    env.reset(seed=0)
    codes, n = {}, 4000
    for _ in range(n):
        env.reset()
        codes[tuple(env.prompt)] = codes.get(tuple(env.prompt), 0) + 1
    for prompt, probability in zip(*task.prompt_law()):
        assert codes.get(tuple(prompt), 0) / n == pytest.approx(probability, abs=5 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("form", FORMS)
def test_returned_arrays_are_the_caller_s_own(form, rng):
    env = TokenEnv("Contamination", horizon=6, observation=form)
    transitions = play(env, rng, seed=0)
    kept = copy.deepcopy(transitions)
    tampered = TokenEnv("Contamination", horizon=6, observation=form)
    rng = np.random.default_rng(0)
    written = tokens_of(kept[-1][0], 2)[1:]
    steps = [tampered.reset(seed=0)]
    for token in written:
        for array in steps[-1][0].values() if form == "dict" else [steps[-1][0]]:
            array[:] = 0
        steps[-1][-1]["expert_probs"][:] = 0.5
        steps.append(tampered.step(token))
    np.testing.assert_equal(steps[-1], kept[-1])


def test_a_fixed_prompt():
    env = TokenEnv("ConsistencyGame", horizon=4)
    prompt = env.task.prompt_law()[0][-1]
    np.testing.assert_array_equal(env.reset(options={"prompt": prompt.tolist()})[0][: len(prompt)], prompt)
    np.testing.assert_array_equal(env.prompt, prompt)
    state = copy.deepcopy(env.np_random.bit_generator.state)
    env.reset(options={"prompt": prompt})
    assert env.np_random.bit_generator.state == state  # nothing was drawn


@pytest.mark.parametrize(
    "action", [-1, 2, 0.0, "1", None, np.array([0, 1]), 2**70, True, False, np.True_, np.array(True), np.uint64(2**63)]
)
def test_actions_that_are_not_tokens(action):
    env = TokenEnv("Contamination", horizon=4)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"is not a token; an integer in \[0, 1\] is needed"):
        env.step(action)
    assert len(env.tokens) == 0


@pytest.mark.parametrize("action", [1, np.int8(1), np.uint64(1), np.array(1)])
def test_any_integer_is_a_token(action):
    env = TokenEnv("Contamination", horizon=4)
    env.reset(seed=0)
    assert env.step(action)[0][1] == 1


def test_steps_out_of_turn():
    env = TokenEnv("Contamination", horizon=2, render_mode="ansi")
    with pytest.raises(ResetNeeded, match="before reset"):
        env.step(0)
    with pytest.raises(ResetNeeded, match="before reset"):
        env.render()
    env.reset()
    env.step(0)
    env.step(0)
    with pytest.raises(ResetNeeded, match="has all its 2 tokens"):
        env.step(0)
    env.reset()
    env.step(0)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(254, np.uint8), (255, np.uint16), (300, np.uint16)])
def test_large_vocabularies(vocab_size, dtype):
    env = TokenEnv(Dice(horizon=3, vocab_size=vocab_size))
    observation, _ = env.reset(options={"prompt": [vocab_size - 1]})
    assert observation.dtype == env.observation_space.dtype == dtype
    assert observation.tolist() == [vocab_size - 1] + [vocab_size] * 3
    assert env.observation_space.contains(observation)
    assert env.step(vocab_size - 1)[0].tolist() == [vocab_size - 1] * 2 + [vocab_size] * 2


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_go_their_own_way(family, clone):
    env = TokenEnv(family)
    env.reset(seed=0)
    env.step(0)
    other = clone(env)
    for _ in range(env.task.horizon - 1):
        left, right = env.step(0), other.step(0)
        assert left[1:4] == right[1:4]
        np.testing.assert_array_equal(left[0], right[0])
        assert left[4].keys() == right[4].keys()
        assert not np.shares_memory(env._line, other._line)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_predicts_from_observations(family, form):
    """The expert, followed greedily through `predict`, writes its own most probable continuation."""
    env = TokenEnv(family, observation=form)
    expert = env.task.expert
    expert.prompt_length = env.task.prompt_length
    observation, info = env.reset(seed=1)
    for _ in range(min(4, env.task.horizon)):
        action, _ = expert.predict(observation, deterministic=True)
        assert info["expert_probs"][action] == info["expert_probs"].max()
        batch = {k: v[None] for k, v in observation.items()} if form == "dict" else observation[None]
        assert expert.predict(batch, deterministic=True)[0].tolist() == [action]
        observation, _, _, _, info = env.step(action)


@pytest.mark.parametrize("mode", ["ansi", pytest.param("rgb_array", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_at_every_length(family, mode):
    env = TokenEnv(family, render_mode=mode, reward="none")
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = [env_render_passive_checker(env)]
        for token in np.random.default_rng(0).integers(0, env.task.vocab_size, env.task.horizon):
            over = env.step(token)[2]
            frames.append(env_render_passive_checker(env))
            if over:
                break
    assert all(len(frame) for frame in frames)
    if mode == "rgb_array":
        assert {(frame.shape, frame.dtype) for frame in frames} == {((160, 640, 3), np.dtype(np.uint8))}
    assert all(not np.array_equal(a, b) for a, b in pairwise(frames))


def test_the_picture_shows_where_the_sequence_leaves_the_expert():
    """Blue reaches as high as the expert's probability of the token; vermilion is the rest."""
    env = TokenEnv("Contamination", horizon=3, eps=0.5, p=0.25, q=0.25, render_mode="rgb_array")
    env.reset(options={"prompt": [0]})
    for token in (0, 1):  # stays with probability 3/4, flips with 1/4
        env.step(token)
    image = env.render()
    blue, vermilion, paper = (0, 114, 178), (213, 94, 0), (236, 236, 236)
    for cell, share in ((1, 0.75), (2, 0.25)):
        column = image[64:152, 80 + 160 * cell]
        assert (column == blue).all(axis=1).mean() == pytest.approx(share, abs=0.01)
        assert (column == vermilion).all(axis=1).mean() == pytest.approx(1 - share, abs=0.01)
    assert (image[64:152, 80 + 160 * 3] == paper).all()
    assert tuple(image[30, 80]) == tuple(image[30, 80 + 160]) != tuple(image[30, 80 + 320])


def test_one_slip_in_a_long_sequence_is_seen():
    env = TokenEnv("Contamination", horizon=1500, reward="none", render_mode="rgb_array", expert_info=False)
    env.reset(options={"prompt": [0]})
    for t in range(1500):
        env.step(int(t >= 617))
    vermilion = (env.render()[150] == (213, 94, 0)).all(axis=1)
    assert np.flatnonzero(vermilion).tolist() == [618 * 640 // 1501]


def test_text_rendering():
    env = TokenEnv("Contamination", horizon=4, eps=0.5, p=0.25, q=0.25, render_mode="ansi")
    env.reset(options={"prompt": [1]})
    env.step(1)
    env.step(0)
    text = env.render().splitlines()
    assert text[0] == "Contamination: token 2 of 4, prompt 1"
    assert text[1].split() == ["token", "1", "0"]
    assert text[2].split() == ["expert", "0.75", "0.25"]
    assert text[3] == f"log-probability under the expert: {np.log(3 / 16):.4g} nats"
    assert text[4] == "next: 0 (0.75), 1 (0.25)"


def test_rendering_without_a_mode_warns_and_returns_nothing():
    env = TokenEnv("Contamination", horizon=4)
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode"):
        assert env.render() is None


# -- every id trains ---------------------------------------------------------------------------------------------------


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


# -- action masks ------------------------------------------------------------------------------------------------------


def allowed(task, prompt, tokens):
    """``(A,)`` by asking once for each token."""
    if len(tokens) == task.horizon:
        return [False] * task.vocab_size
    if not task.has_verifier:
        return [True] * task.vocab_size
    return [bool(task.verify(prompt[None], np.append(tokens, a)[None])[0]) for a in range(task.vocab_size)]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_the_verifier_s(family, rng):
    """Along a sequence of the expert's, of tokens that are allowed, and of any tokens."""
    env = gym.make(f"ntp/{family}-v0", reward="none", expert_info=False)
    base = env.unwrapped
    task = base.task
    with pytest.raises(ResetNeeded, match="action_masks was called before reset"):
        base.action_masks()
    for way in ("expert", "allowed", "any"):
        env.reset(seed=int(rng.integers(100)))
        written = task.expert.sample(base.prompt[None], task.horizon, rng)[0]
        for t in range(task.horizon):
            mask = env.get_wrapper_attr("action_masks")()
            assert mask.dtype == bool and mask.shape == (task.vocab_size,)
            if t < 20 or t + 1 == task.horizon:
                assert mask.tolist() == allowed(task, base.prompt, base.tokens)
            if way == "expert":
                token = written[t]
                assert mask[token] or not task.has_verifier or not task.verify(base.prompt[None], written[None])[0]
            elif way == "allowed" and mask.any():
                token = rng.choice(np.flatnonzero(mask))
            else:
                token = rng.integers(task.vocab_size)
            if env.step(int(token))[2]:
                break
        assert not base.action_masks().any()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("family", [name for name in FAMILIES if task_class(name).has_verifier] + ["Contamination"])
def test_masks_of_a_batch_out_of_step(family, mode, rng):
    task = make_task(family)
    envs = TokenVectorEnv(3, task, reward="none", autoreset_mode=mode)
    with pytest.raises(ResetNeeded, match="action_masks was called before reset"):
        envs.action_masks()
    envs.reset(seed=0)
    over = np.zeros(3, dtype=bool)
    for t in range(min(task.horizon + 4, 20)):
        start = over if mode is AutoresetMode.DISABLED else np.arange(3) == t % 5
        if start.any():
            envs.reset(options={"reset_mask": start.copy()})
            over = over & ~start
        masks = envs.action_masks()
        assert masks.dtype == bool and masks.shape == (3, task.vocab_size)
        for row in range(3):
            line = envs._lines[row].astype(int)
            tokens = line[task.prompt_length :]
            wanted = allowed(task, line[: task.prompt_length], tokens[tokens < task.vocab_size])
            if over[row] and mode is AutoresetMode.NEXT_STEP:
                wanted = [True] * task.vocab_size
            assert masks[row].tolist() == wanted
        actions = [rng.choice(np.flatnonzero(mask if mask.any() else ~mask)) for mask in masks]
        _, _, terminations, truncations, _ = envs.step(np.array(actions))
        over = terminations | truncations


def test_masked_writing_solves_what_the_rules_decide():
    """On Snowball every token is decided by the rules, so a uniform writer under the mask copies the prompt."""
    env, rng = TokenEnv("Snowball", horizon=12, expert_info=False), np.random.default_rng(0)
    env.reset(seed=1)
    for _ in range(12):
        reward = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))[1]
    assert reward == 1.0 and env.tokens.tolist() == env.prompt.tolist()
