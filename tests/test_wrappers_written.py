"""RolloutDistance records what was written, whatever stands between it and the environment, or refuses."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, StickyAction, TimeLimit, TransformAction
from gymnasium.wrappers.vector import TransformAction as VectorTransformAction

from ntp_envs import (
    CallablePolicy,
    RolloutDistance,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    VectorRolloutDistance,
    collect,
    make_task,
)
from ntp_envs.observations import OBSERVATION_FORMS

MODES = list(AutoresetMode)
TASK = make_task("Contamination", horizon=4, eps=0.1, p=0.05, q=0.7, theta_min=0.05)


class Spy(gym.Wrapper):
    """Directly around the environment: the tokens it is given, an episode a list, after its prompt."""

    def __init__(self, env):
        super().__init__(env)
        self.episodes = []

    def reset(self, **arguments):
        observation, info = self.env.reset(**arguments)
        self.episodes.append([int(token) for token in self.env.unwrapped.prompt])
        return observation, info

    def step(self, action):
        self.episodes[-1].append(int(action))
        return self.env.step(action)

    def complete(self):
        length = self.env.unwrapped.task.prompt_length + self.env.unwrapped.task.horizon
        return [episode for episode in self.episodes if len(episode) == length]


class Slip(gym.Wrapper):
    """No ActionWrapper, but it writes something else all the same."""

    def step(self, action):
        return self.env.step(int(self.env.unwrapped.np_random.integers(2)))


class Twice(gym.Wrapper):
    """Two tokens an action."""

    def step(self, action):
        out = self.env.step(action)
        return out if out[2] or out[3] else self.env.step(1 - action)


class Restarting(gym.Wrapper):
    """Starts the next sequence in the same step."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, info = self.env.reset()
        return observation, reward, terminated, truncated, info


def flipped(env):
    return TransformAction(env, lambda action: 1 - action, env.action_space)


BETWEEN = {
    "nothing": lambda env: env,
    "sticky": lambda env: StickyAction(env, 0.5),
    "flipped": flipped,
    "sticky and flipped": lambda env: flipped(StickyAction(env, 0.5)),
    "slip": Slip,
    "twice": Twice,
    "restarting": Restarting,
    "sticky, restarting": lambda env: Restarting(StickyAction(env, 0.5)),
    "one-hot": lambda env: FlattenObservation(StickyAction(env, 0.5)),
    "limit past the end": lambda env: TimeLimit(flipped(env), 4),
    "other actions": lambda env: TransformAction(env, lambda action: int(action >= 3), spaces.Discrete(7)),
}


def recorded(wrapper):
    found = wrapper.demonstrations()
    return np.concatenate([found.prompts, found.tokens], axis=1).tolist()


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize("between", sorted(BETWEEN))
def test_single_environment(between, form):
    if between == "one-hot" and form == "one_hot":
        pytest.skip("it is one already")
    spy = Spy(TokenEnv(TASK, observation=form))
    env = RolloutDistance(BETWEEN[between](spy))
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(120):
        _, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        if (terminated or truncated) and "restarting" not in between:
            env.reset()
    assert recorded(env) == spy.complete() and len(spy.complete()) > 20
    assert env.rollouts.dropped == 0


def test_sequences_that_are_cut_short_are_dropped():
    spy = Spy(TokenEnv(TASK))
    env = RolloutDistance(Restarting(TimeLimit(StickyAction(spy, 0.5), 3)))
    env.reset(seed=0)
    for _ in range(30):
        env.step(0)
    assert env.rollouts.finished == 0 and env.rollouts.dropped == 10


def test_a_wrapper_that_plays_on_by_itself_is_refused():
    class Racing(gym.Wrapper):
        def step(self, action):
            for _ in range(4):
                out = self.env.step(action)
            for _ in range(3):
                self.env.reset()
            return out

    env = RolloutDistance(Racing(TokenEnv(TASK)))
    env.reset(seed=0)
    with pytest.raises(LookupError, match=r"reset more than once in a step. Put the wrapper that records below it"):
        env.step(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("between", ["nothing", "sticky", "sticky and flipped", "slip", "one-hot"])
def test_single_environments_in_a_batch(between, mode):
    spies = [Spy(TokenEnv(TASK)) for _ in range(3)]
    envs = VectorRolloutDistance(
        SyncVectorEnv([lambda spy=spy: BETWEEN[between](spy) for spy in spies], autoreset_mode=mode)
    )
    drive(envs, mode)
    written = sorted(line for spy in spies for line in spy.complete())
    assert sorted(recorded(envs)) == written and len(written) >= 15
    assert envs.rollouts.dropped == 0


def drive(envs, mode, steps=26):
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(steps):
        _, _, terminations, truncations, _ = envs.step(rng.integers(0, 2, envs.num_envs))
        over = np.asarray(terminations) | np.asarray(truncations)
        if mode is AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over})


@pytest.mark.parametrize("form", OBSERVATION_FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_the_native_batch_under_a_wrapper_that_changes_actions(mode, form):
    """Flipped actions write the complement of what the same actions write."""

    def run(around):
        envs = VectorRolloutDistance(around(TokenVectorEnv(3, TASK, autoreset_mode=mode, observation=form)))
        drive(envs, mode)
        found = envs.demonstrations()
        return found.prompts, found.tokens

    plain = run(lambda envs: envs)
    flip = run(lambda envs: VectorTransformAction(envs, lambda actions: 1 - actions))
    np.testing.assert_array_equal(plain[0], flip[0])
    np.testing.assert_array_equal(plain[1], 1 - flip[1])


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("form", ["dict", "one_hot"])
def test_environments_in_other_processes(mode, form):
    def make(kind):
        single = lambda: flipped(StickyAction(TokenEnv(TASK, observation=form), 0.3))  # noqa: E731
        envs = VectorRolloutDistance(kind([single] * 2, autoreset_mode=mode), expert=TASK)
        drive(envs, mode)
        envs.close()
        return recorded(envs)

    assert make(AsyncVectorEnv) == make(SyncVectorEnv)


def test_processes_that_do_not_show_what_was_written():
    envs = AsyncVectorEnv(
        [lambda: gym.wrappers.TransformObservation(TokenEnv(TASK), lambda o: o[:2], spaces.MultiDiscrete([3, 3]))] * 2
    )
    with pytest.raises(ValueError, match=r"do not show what was written. Keep one of the forms multi_discrete, dict"):
        VectorRolloutDistance(envs, expert=TASK)
    envs.close()


def test_the_distance_is_that_of_what_was_written():
    """Against enumeration: a fair coin that sticks to its last token with probability 1/2, and the expert."""
    stick, n = 0.5, 6000
    sequences = np.array(list(itertools.product([0, 1], repeat=TASK.horizon)))

    def sticky_law(prompts, tokens):  # repeated with probability 1/2, else a fair coin; the first is always a coin
        one = np.full(len(tokens), 0.5) if tokens.shape[1] == 0 else stick * tokens[:, -1] + (1 - stick) / 2
        return np.log(np.stack([1 - one, one], axis=1))

    written = np.ones(len(sequences)) / 2
    for before, after in itertools.pairwise(sequences.T):
        written *= stick * (before == after) + (1 - stick) / 2
    expert = np.stack([np.exp(TASK.expert.log_probs(np.full((16, 1), x), sequences).sum(axis=1)) for x in (0, 1)])
    prompt = TASK.prompt_law()[1]
    true = float(prompt @ (0.5 * np.abs(expert - written).sum(axis=1)))
    asked = float(prompt @ (0.5 * np.abs(expert - 1 / 16).sum(axis=1)))
    assert abs(true - asked) > 0.1  # the test can tell them apart

    policy = CallablePolicy(sticky_law, 2, horizon=4, prompt_length=1)
    singles = [lambda: StickyAction(TokenEnv(TASK, expert_info=False), stick)] * 20
    envs = VectorRolloutDistance(SyncVectorEnv(singles, autoreset_mode=AutoresetMode.SAME_STEP), policy=policy)
    rng = np.random.default_rng(3)
    envs.reset(seed=list(range(20)))
    for _ in range(n // 20 * TASK.horizon):
        envs.step(rng.integers(0, 2, 20))
    found = envs.demonstrations()
    codes = found.tokens @ (1 << np.arange(4)[::-1])
    np.testing.assert_allclose(np.bincount(codes, minlength=16) / n, written, atol=5 * np.sqrt(0.25 * 0.25 / n))
    for method in ("bridge", "one-sided"):
        curve = envs.curve("tv", method=method)
        assert curve.values[-1] == pytest.approx(true, abs=5 * max(curve.std_error[-1], 1e-3))
    assert envs.curve("tv", method="classifier").lower[-1] < true


# -- array converters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])  # it cannot convert final_obs
@pytest.mark.parametrize("kind", ["native", "sync", "foreign"])
def test_around_tensors(kind, mode):
    torch = pytest.importorskip("torch")
    pytest.importorskip("array_api_compat")
    from gymnasium.wrappers.vector import NumpyToTorch

    def make():
        if kind == "native":
            return TokenVectorEnv(3, TASK, autoreset_mode=mode, expert_info=True)
        single = (lambda: TokenEnv(TASK)) if kind == "sync" else Coins
        return SyncVectorEnv([single] * 3, autoreset_mode=mode)

    expert = collect(TASK, 20, np.random.default_rng(0)) if kind == "foreign" else None
    plain = VectorRolloutDistance(make(), expert=expert)
    tensors = VectorRolloutDistance(NumpyToTorch(make()), expert=expert, summary_every=8)
    rng = np.random.default_rng(0)
    plain.reset(seed=0)
    observations, _ = tensors.reset(seed=0)
    assert isinstance(observations, torch.Tensor)
    for _ in range(26):
        actions = rng.integers(0, 2, 3)
        _, _, over, _, _ = plain.step(actions)
        out = tensors.step(torch.as_tensor(actions))
        assert all(isinstance(part, torch.Tensor) for part in out[:4]) and out[2].tolist() == over.tolist()
        if mode is AutoresetMode.DISABLED and over.all():
            plain.reset()
            tensors.reset()
    assert recorded(plain) == recorded(tensors) and len(recorded(plain)) >= 12


def test_around_tensors_of_one_environment():
    torch = pytest.importorskip("torch")
    pytest.importorskip("array_api_compat")
    from gymnasium.wrappers import NumpyToTorch

    for base, expert in ((TokenEnv(TASK), None), (Coins(), collect(TASK, 20, np.random.default_rng(0)))):
        env = RolloutDistance(NumpyToTorch(base), expert=expert)
        env.reset(seed=0)
        for token in (0, 1, 1, 0):
            env.step(torch.tensor(token))
        assert env.demonstrations().tokens.tolist() == [[0, 1, 1, 0]]


# -- environments of others --------------------------------------------------------------------------------------------


class Coins(gym.Env):
    """Somebody else's: a prompt of one token, four actions, no state to read."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.MultiDiscrete([2, 5])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.first = 0, int(self.np_random.integers(2))
        return np.array([self.first, 0]), {}

    def step(self, action):
        self.count += 1
        return np.array([self.first, self.count]), 0.0, self.count == 4, False, {}


def test_where_it_cannot_be_known_it_is_refused():
    demos = collect(TASK, 20, np.random.default_rng(0))
    for kind in (lambda env: StickyAction(env, 0.5), flipped, lambda env: TimeLimit(flipped(env), 9)):
        with pytest.raises(ValueError, match=r"changes actions, and what is then written .* cannot be read. Put this"):
            RolloutDistance(kind(Coins()), expert=demos)
        with pytest.raises(ValueError, match="changes actions"):
            VectorRolloutDistance(SyncVectorEnv([lambda kind=kind: kind(Coins())]), expert=demos)
    with pytest.raises(ValueError, match="changes actions"):
        VectorRolloutDistance(VectorTransformAction(SyncVectorEnv([Coins]), lambda actions: 1 - actions), expert=demos)
    inside = RolloutDistance(Coins(), expert=demos)  # as the message says
    env = flipped(inside)
    env.reset(seed=0)
    for token in (0, 1, 1, 0):
        env.step(token)
    assert inside.demonstrations().tokens.tolist() == [[1, 0, 0, 1]]


def test_a_policy_may_be_watched_through_other_observations():
    """read_prompt is still asked where it is given."""
    env = RolloutDistance(TokenEnv(TASK), read_prompt=lambda observation: [1], policy=UniformPolicy(2))
    for _ in range(3):
        env.reset(seed=0)
        for token in (0, 1, 1, 0):
            env.step(token)
    assert recorded(env) == [[1, 0, 1, 1, 0]] * 3
