"""The curves of RolloutDistance: with a policy, from samples, against strangers; and what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from rollouts import play, play_batch, task_of

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


# -- environments of others --------------------------------------------------------------------------------------------


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
