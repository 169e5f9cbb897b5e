"""RolloutDistance sees everything and changes nothing: recorded rollouts, curves, and what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset, FlattenObservation, RecordEpisodeStatistics, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

from ntp_envs import (
    BernoulliPolicy,
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

MODES = list(AutoresetMode)
FORMS = ["multi_discrete", "dict"]


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


@settings(deadline=None, derandomize=True, max_examples=25)
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
        return np.concatenate([part if row is None else part[row] for part in parts]).tolist()

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


def test_it_ranks_learners_as_the_exact_distance_does():
    finals = {}
    for theta in (0.12, 0.25, 0.5):
        learner = BernoulliPolicy(theta, on="flips")
        learner.prompt_length = 1
        envs = watched(learner, n=1500)
        finals[theta] = [envs.curve("tv", lengths=[6]).final, envs.curve(policy=learner).final]
    assert sorted(finals.values()) == list(finals.values())
    assert sorted(finals.values(), key=lambda pair: pair[1]) == list(finals.values())


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
        infos = []
        for _ in range(25):
            env.reset()
            for _ in range(6):
                info = env.step(0)[4]
            infos.append(info)
        assert [i for i, info in enumerate(infos) if "rollout_distance" in info] == [9, 19]
        summary = infos[19]["rollout_distance"]
        assert summary["lower"] <= summary["hellinger2"] <= summary["upper"] and summary["finished"] == 20
    envs = VectorRolloutDistance(TokenVectorEnv(6, task), summary_every=12)
    envs.reset(seed=0)
    reported = []
    for t in range(1, 29):
        infos = envs.step(np.zeros(6, dtype=int))[4]
        if "rollout_distance" in infos:
            reported.append(t)
            assert infos["_rollout_distance"].tolist() == [False] * 5 + [True]
            assert infos["rollout_distance"]["finished"][5] % 12 == 0
    assert reported == [13, 27]


def test_bad_arguments():
    task = task_of()
    env, envs = TokenEnv(task), TokenVectorEnv(2, task)
    with pytest.raises(TypeError, match="use VectorRolloutDistance"):
        RolloutDistance(envs)
    with pytest.raises(TypeError, match="use RolloutDistance"):
        VectorRolloutDistance(env)
    with pytest.raises(TypeError, match="expert must be a Task or Demonstrations, not str"):
        RolloutDistance(env, expert="Contamination")
    with pytest.raises(ValueError, match="the environment has 2 actions and the expert vocab_size=3"):
        RolloutDistance(env, expert=foreign_demonstrations())
    with pytest.raises(ValueError, match=r"action space is Box.*Discrete\(A\)"):
        RolloutDistance(gym.make("Pendulum-v1"), expert=task)
    with pytest.raises(ValueError, match="different tasks"):
        VectorRolloutDistance(SyncVectorEnv([lambda: TokenEnv(task), lambda: TokenEnv("Contamination", horizon=6)]))
    with pytest.raises(ValueError, match="window=0"):
        RolloutDistance(env, window=0)
    with pytest.raises(ValueError, match="summary_every=1 "):
        RolloutDistance(env, summary_every=1)
    with pytest.raises(ValueError, match="window, with summary_every,=5"):
        RolloutDistance(env, summary_every=8, window=5)
    with pytest.raises(ValueError, match="policy has vocab_size=3 and the task 2"):
        RolloutDistance(env, policy=UniformPolicy(3))
    with pytest.raises(ValueError, match="policy is defined for at most 3 tokens; the task's horizon is 6"):
        RolloutDistance(env, policy=UniformPolicy(2, horizon=3))
    with pytest.raises(ValueError, match="policy has prompt_length=4"):
        RolloutDistance(env, policy=UniformPolicy(2, prompt_length=4))
    with pytest.raises(TypeError, match=r"must be an ntp_envs.Policy, not function"):
        RolloutDistance(env, policy=lambda observation: 0)
    wrapped = RolloutDistance(env)
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
