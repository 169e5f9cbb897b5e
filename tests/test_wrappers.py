"""RolloutDistance sees everything and changes nothing, records what was written or refuses, and its curves."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import (
    Autoreset,
    FlattenObservation,
    RecordEpisodeStatistics,
    StickyAction,
    TimeLimit,
    TransformAction,
)
from gymnasium.wrappers.vector import TransformAction as VectorTransformAction
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import (
    BernoulliPolicy,
    CallablePolicy,
    NotTractableError,
    RolloutDistance,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    VectorRolloutDistance,
    collect,
    distance,
    make_task,
)
from ntp_envs.observations import OBSERVATION_FORMS


def task_of(horizon=6):
    return make_task("Contamination", horizon=horizon, eps=0.1, p=0.05, q=0.7, theta_min=0.05)


def play(env, policy, episodes, *, seed=0):
    """One episode after another, actions from a policy; returns the sequences as the loop knows them."""
    rng, base = np.random.default_rng([seed, 1]), env.unwrapped  # not the stream of the prompts
    written = []
    for episode in range(episodes):
        env.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            law = np.exp(policy.next_log_probs(base.prompt[None], base.tokens[None])[0])
            _, _, terminated, truncated, _ = env.step(int(rng.choice(len(law), p=law)))
            over = terminated or truncated
        written.append([*base.prompt.tolist(), *base.tokens.tolist()])
    return written


def play_batch(envs, policy, steps, *, seed=0):
    """A vector loop in lock-step, autoreset NEXT_STEP or SAME_STEP."""
    rng = np.random.default_rng([seed, 1])  # not the stream of the prompts
    observations, _ = envs.reset(seed=seed)
    for _ in range(steps):
        actions, _ = policy.predict(observations, rng=rng)
        observations, *_ = envs.step(actions)


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


@examples(12)
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


# -- what was written, whatever stands between -------------------------------------------------------------------------


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
    "restarting, a step later": lambda env: Autoreset(StickyAction(env, 0.5)),
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
    env = RecordEpisodeStatistics(RolloutDistance(BETWEEN[between](spy)))
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(120):
        _, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        if (terminated or truncated) and "restarting" not in between:
            env.reset()
    assert recorded(env.env) == spy.complete() and len(spy.complete()) > 20
    assert env.env.rollouts.dropped == 0


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
    stick, n = 0.5, 2400
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


# -- the curves --------------------------------------------------------------------------------------------------------


def watched(policy, *, n=600, steps=6, **arguments):
    envs = VectorRolloutDistance(
        gym.make_vec("ntp/Contamination-v0", num_envs=n, **task_of().parameters()), **arguments
    )
    play_batch(envs, policy, steps)
    return envs


@pytest.mark.parametrize("method", ["bridge", "one-sided"])
def test_curve_with_a_policy_covers_the_exact_distance(method):
    task = task_of()
    inside = []
    for seed in range(20):
        learner = BernoulliPolicy(0.2, on="flips")
        learner.prompt_length = 1
        envs = VectorRolloutDistance(TokenVectorEnv(300, task), policy=learner)
        play_batch(envs, learner, 6, seed=seed)
        for metric in ("hellinger2", "tv") + (("kl",) if method == "bridge" else ()):
            curve = envs.curve(metric, method=method, rng=np.random.default_rng([seed, 2]))
            exact = distance(task.expert, learner, task, metric=metric)
            inside.append((curve.lower <= exact.values) & (exact.values <= curve.upper))
            assert curve.method == f"monte carlo ({method})" and curve.metric == metric
    assert np.mean(inside) > 0.88  # 20 seeds, 6 lengths that depend on each other


def test_curve_from_samples_only():
    learner = BernoulliPolicy(0.4, on="flips")
    learner.prompt_length = 1
    envs = watched(learner)
    task = task_of()
    exact = {name: distance(task.expert, learner, task, metric=name).final for name in ("tv", "hellinger2")}
    tv, hellinger2 = envs.curve("tv"), envs.curve()
    assert tv.metric == "tv" and tv.method == "samples only (classifier, lower bound)"
    assert 0.5 * exact["tv"] < tv.lower[-1] < exact["tv"]
    assert hellinger2.metric == "hellinger2" and 0 < hellinger2.lower[-1] < exact["hellinger2"]
    np.testing.assert_allclose(hellinger2.lower, 2 - 2 * np.sqrt(1 - tv.lower**2), atol=1e-12)
    assert (hellinger2.upper == 2.0).all()
    assert envs.curve("ngram_tv", order=3).method == "samples only (3-grams)"
    assert envs.curve("mmd2", n=2000).n == 2600
    assert envs.test("mmd", permutations=99).p_value == 0.01
    assert watched(task.expert).test("mmd").p_value > 0.01
    with pytest.raises(NotTractableError, match=r"kl cannot be had from samples only.*pass policy="):
        envs.curve("kl")
    with pytest.raises(NotTractableError, match=r"tv cannot be had .* by method='mmd'.*tv \(classifier\)"):
        envs.curve("tv", method="mmd")
    with pytest.raises(NotTractableError, match="no policy: pass policy="):
        envs.curve(method="bridge")
    assert envs.curve("kl", policy=learner).method == "monte carlo (bridge)"
    assert envs.curve("coverage", policy=learner, thresholds=(2.0,)).values.shape == (6, 1)


# -- the curves of environments of others ------------------------------------------------------------------------------


class Typewriter(gym.Env):
    """Four letters of three, unknown to this library; observations are floats, or begin with one prompt token."""

    action_space = spaces.Discrete(3)
    observation_space = spaces.Box(0.0, 4.0, (2,))

    def __init__(self, *, prompted=False, length=4):
        self.prompted, self.length, self.step_count = prompted, length, 0

    def _observe(self):
        if self.prompted:
            return np.array([self.prompt, self.step_count])
        return np.array([self.prompt, self.step_count], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count, self.prompt = 0, int(self.np_random.integers(3))
        return self._observe(), {}

    def step(self, action):
        self.step_count += 1
        return self._observe(), 0.0, self.step_count == self.length, False, {}


def foreign_demonstrations(prompt_length=0):
    from ntp_envs import Demonstrations

    rng = np.random.default_rng(9)
    return Demonstrations(
        rng.integers(0, 3, (80, prompt_length)), rng.choice(3, (80, 4), p=[0.6, 0.2, 0.2]), vocab_size=3
    )


def type_on(env, episodes, tokens=(0, 1, 2)):
    rng, starts = np.random.default_rng(0), []
    for _ in range(episodes):
        starts.append(env.reset(seed=int(rng.integers(99)))[0])
        over = False
        while not over:
            _, _, over, _, _ = env.step(rng.choice(tokens))
    return starts


def test_environment_without_a_known_expert():
    with pytest.raises(ValueError, match=r"no known expert.*expert=Demonstrations"):
        RolloutDistance(Typewriter())
    with pytest.raises(ValueError, match="no known expert"):
        VectorRolloutDistance(SyncVectorEnv([Typewriter] * 2))
    demos = foreign_demonstrations()
    env = RolloutDistance(Typewriter(), expert=demos, policy=UniformPolicy(3))
    type_on(env, 60)
    curve = env.curve("tv")
    assert curve.method == "samples only (classifier, lower bound), no known expert: against 80 demonstrations"
    assert env.test("n-gram", order=1).p_value <= 0.05
    with pytest.raises(NotTractableError, match="there is no known expert here"):
        env.curve("kl")
    with pytest.raises(NotTractableError, match="no known expert: only demonstrations"):
        env.curve(method="bridge")
    with pytest.raises(ValueError, match="n=50 sequences cannot be drawn from given demonstrations"):
        env.curve("tv", n=50)
    assert "task" not in env.demonstrations().source
    longer = RolloutDistance(Typewriter(length=6), expert=demos)  # past the demonstrations' horizon: not comparable
    type_on(longer, 3)
    assert longer.rollouts.dropped == 3 and longer.rollouts.finished == 0
    envs = VectorRolloutDistance(SyncVectorEnv([lambda: Typewriter(length=6)] * 2), expert=demos)
    envs.reset(seed=0)
    for _ in range(14):
        envs.step(np.array([1, 2]))
    assert envs.rollouts.dropped == 4 and envs.rollouts.finished == 0


def test_prompts_of_a_foreign_environment():
    demos = foreign_demonstrations(prompt_length=1)
    env = RolloutDistance(Typewriter(prompted=True), expert=demos)
    starts = type_on(env, 5)
    assert env.demonstrations().prompts[:, 0].tolist() == [int(start[0]) for start in starts]
    with pytest.raises(TypeError, match=r"does not begin with 1 prompt tokens \(its dtype is float32\).*read_prompt="):
        RolloutDistance(Typewriter(), expert=demos).reset(seed=0)
    env = RolloutDistance(Typewriter(), expert=demos, read_prompt=lambda observation: observation[:1].astype(int))
    starts = type_on(env, 5)
    assert env.demonstrations().prompts[:, 0].tolist() == [int(start[0]) for start in starts]
    env = RolloutDistance(Typewriter(), expert=demos, read_prompt=lambda observation: [7])
    with pytest.raises(ValueError, match=r"not a rollout of the expert's shape: prompts\[0, 0\]=7 .*read_prompt="):
        type_on(env, 1)
    envs = VectorRolloutDistance(
        SyncVectorEnv([Typewriter] * 3), expert=demos, read_prompt=lambda batch: batch[:, :1].astype(int)
    )
    first, _ = envs.reset(seed=3)
    for _ in range(4):
        envs.step(np.array([1, 2, 0]))
    assert envs.demonstrations().prompts[:, 0].tolist() == first[:, 0].astype(int).tolist()


def test_given_demonstrations_or_task_of_a_known_environment():
    task = task_of()
    demos = collect(task, 50, np.random.default_rng(0))
    env = RolloutDistance(TokenEnv(task), expert=demos)
    play(env, task.expert, 20)
    assert "against 50 demonstrations" in env.curve("tv").method
    other = make_task("Contamination", horizon=6, eps=0.3, p=0.05, q=0.7, theta_min=0.05)
    assert RolloutDistance(TokenEnv(task), expert=other).rollouts.expert is other


def test_summaries_only_if_asked():
    task = task_of()
    for policy in (None, task.expert):
        env = RolloutDistance(TokenEnv(task), summary_every=10, policy=policy)
        infos = [info for _ in range(25) for info in (env.reset()[1], *(env.step(0)[4] for _ in range(6)))]
        told = [info["rollout_distance"] for info in infos]
        assert [summary["finished"] for summary in told] == [0] * 69 + [10] * 70 + [20] * 36
        assert {tuple((name, type(value)) for name, value in summary.items()) for summary in told} == {
            tuple((name, float) for name in ("hellinger2", "lower", "upper", "finished", "dropped"))
        }, "one structure through every episode"
        assert np.isnan(told[68]["hellinger2"])
        assert told[-1]["lower"] <= told[-1]["hellinger2"] <= told[-1]["upper"]
        env.clear()
        assert np.isnan(env.reset()[1]["rollout_distance"]["upper"])
        assert "rollout_distance" not in RolloutDistance(TokenEnv(task)).reset()[1]
    envs = VectorRolloutDistance(TokenVectorEnv(6, task), summary_every=12)
    many = [envs.reset(seed=0)[1], *(envs.step(np.zeros(6, dtype=int))[4] for _ in range(28))]
    assert all(infos["_rollout_distance"].tolist() == [True] * 6 for infos in many)
    finished = np.array([infos["rollout_distance"]["finished"] for infos in many])
    np.testing.assert_array_equal(finished, np.repeat([0, 12, 24], [13, 14, 2])[:, None] * np.ones(6))


def test_curves_that_cannot_be_had():
    task = task_of()
    wrapped = RolloutDistance(TokenEnv(task))
    with pytest.raises(ValueError, match="no rollout of 6 tokens has finished yet"):
        wrapped.curve("tv")
    play(wrapped, task.expert, 3)
    with pytest.raises(ValueError, match="number of sequences in q=3 must be an integer >= 8"):
        wrapped.curve("tv")
    with pytest.raises(ValueError, match=r"metric='hellinger' is not an option. Did you mean 'hellinger2'"):
        wrapped.curve("hellinger")
    with pytest.raises(ValueError, match="method='brige'"):
        wrapped.curve(method="brige")
    with pytest.raises(TypeError, match="rng=0 must be"):
        wrapped.curve("mmd2", rng=0)
    play(wrapped, UniformPolicy(2), 30)
    always = BernoulliPolicy(1.0, on="flips")
    for method in ("bridge", "one-sided"):
        with pytest.raises(ValueError, match="gives probability 0 to"):
            wrapped.curve(policy=always, method=method)
    with pytest.raises(NotTractableError, match="use method='bridge'"):
        wrapped.curve("kl", policy=task.expert, method="one-sided")
    with pytest.raises(NotTractableError, match="mmd2 is estimated by method='mmd', not 'bridge'"):
        wrapped.curve("mmd2", policy=task.expert, method="bridge")
