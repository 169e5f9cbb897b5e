"""SB3Agent keeps the contract of agents, learns what its reward asks for, and counts what it used."""
# ruff: noqa: E402

import random

import numpy as np
import pytest
from scipy.stats import t as student

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from rl_tasks import Fork
from stable_baselines3 import PPO

from agents import Agent, make_agent
from agents.rl import ALGORITHMS, SB3Agent, SB3Policy
from agents.testing import Problem, check_agent
from ntp_envs import collect, distance, make_task

torch.set_num_threads(1)
TIGHTROPE = make_task("Tightrope", horizon=16)
PARITY = make_task("NoisyParity", bits=3, subset=(0, 1))
QUICK = {"learning_rate": 3e-3, "n_epochs": 4}


def fit(agent, seed=0, task=None):
    task = agent.task if task is None else task
    demos = collect(task, 4, np.random.default_rng(0))
    return agent.fit(demos, task.policy_class, rng=np.random.default_rng(seed))


def success(agent, n=1000):
    task, rng = agent.task, np.random.default_rng(99)
    prompts = task.sample_prompts(n, rng)
    return task.success(prompts, agent.policy_.sample(prompts, task.horizon, rng)).mean()


def lower_end(values):
    """Of the 99 % confidence interval of the mean over seeds (Student)."""
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - student.ppf(0.995, len(values) - 1) * error


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "reward", "own"),
    [
        ("PPO", "max_ent", {"n_epochs": 1}),
        ("A2C", "success", None),
        ("DQN", "expert_log_prob", {"learning_starts": 8}),
    ],
)
def test_the_conformance_suite(algorithm, reward, own, monkeypatch):
    monkeypatch.delattr(Agent, "_pickled")  # weights are kept as arrays
    task = make_task("Tightrope", horizon=3) if reward == "success" else make_task("Contamination", horizon=3)
    demos = collect(task, 20, np.random.default_rng(0))
    options = {"task": task, "reward": reward, "total_timesteps": 24, "n_envs": 4, "model_kwargs": own}
    agent = make_agent("agents.rl:SB3Agent", algorithm=algorithm, **options)
    check_agent(agent, problems=[Problem(task.name, task.policy_class, demos)])


def test_the_seed_decides_and_the_global_generators_do_not():
    agent = SB3Agent("PPO", PARITY, total_timesteps=64, n_envs=8)
    prompts, tokens = np.empty((8, 0), int), np.random.default_rng(0).integers(2, size=(8, 4))

    def law(seed):
        return fit(agent, seed).policy_.log_probs(prompts, tokens)

    torch.manual_seed(1)
    first = law(0)
    before = torch.random.get_rng_state()
    random.seed(7)
    state = random.getstate()
    np.testing.assert_array_equal(first, law(0))
    assert torch.equal(before, torch.random.get_rng_state())
    assert state == random.getstate()
    assert not np.array_equal(first, law(1))


def test_the_number_of_threads_does_not_matter():
    agent = SB3Agent("PPO", TIGHTROPE, total_timesteps=1, n_envs=256, model_kwargs={"n_epochs": 2})
    prompts, tokens = np.empty((64, 0), int), np.random.default_rng(0).integers(2, size=(64, 16))
    try:
        laws = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            policy = fit(agent).policy_
            assert torch.get_num_threads() == threads
            torch.set_num_threads(1)
            laws.append(policy.log_probs(prompts, tokens))
        np.testing.assert_array_equal(*laws)
    finally:
        torch.set_num_threads(1)


def test_counts_and_report():
    agent = fit(SB3Agent("A2C", TIGHTROPE, reward="expert_log_prob", total_timesteps=1000, n_envs=8, measure_every=300))
    details = agent.fit_report_.details
    assert details["environment_steps"] == 1024  # whole rollouts of 8 times 16
    assert details["expert_queries"] == 1024
    assert details["reward"] == "expert_log_prob"
    assert "last 64 training episodes" in details["objective"]
    assert np.isnan(agent.fit_report_.gap)
    assert not agent.fit_report_.converged
    assert [steps for steps, _ in agent.history_] == [0, 384, 768, 1024]
    assert agent.history_[-1][1].final == pytest.approx(
        distance(TIGHTROPE.expert, agent.policy_, TIGHTROPE).final, rel=0.2
    )
    assert isinstance(agent.policy_, SB3Policy)
    agent.set_params(reward=None, measure_every=None)
    assert fit(agent).fit_report_.details["expert_queries"] == 0
    assert agent.fit_report_.details["reward"] == "success"
    assert agent.history_ == []


def test_arguments_of_the_model(monkeypatch):
    """Returns as they are reported: undiscounted, not normalised, whole sequences; and what is given goes first."""
    made = []

    class Recorded(PPO):
        def _setup_model(self):
            super()._setup_model()
            made.append(self)

    monkeypatch.setitem(ALGORITHMS, "PPO", Recorded)
    agent = SB3Agent("PPO", TIGHTROPE, total_timesteps=1, n_envs=6)
    fit(agent)
    fit(agent.set_params(model_kwargs={"gamma": 0.9, "n_steps": 4, "normalize_advantage": True, "ent_coef": 0.1}))
    ours, given = made
    assert (ours.gamma, ours.n_steps, ours.batch_size, ours.normalize_advantage) == (1.0, 16, 24, False)
    assert (given.gamma, given.n_steps, given.batch_size, given.normalize_advantage) == (0.9, 4, 6, True)
    assert (ours.ent_coef, given.ent_coef) == (0.0, 0.1)
    assert ours.rollout_buffer.gamma == 1.0


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("by_name", [True, False])
def test_a_policy_of_two_parts(algorithm, by_name):
    task = make_task("Contamination", horizon=3)
    policy = "MultiInputPolicy" if by_name else ALGORITHMS[algorithm].policy_aliases["MultiInputPolicy"]
    agent = SB3Agent(algorithm, task, total_timesteps=24, n_envs=4, model_kwargs={"policy": policy})
    assert fit(agent).policy_.form == "dict"
    assert np.isfinite(distance(task.expert, agent.policy_, task).final)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "steps", "chance", "threshold"),
    [
        (TIGHTROPE, 20_000, (1 - 0.5**16) / 16, 0.8),
        (make_task("Tightrope", horizon=16, recoverable=True), 12_000, 0.5, 0.8),
        (PARITY, 12_000, 0.5, 0.8),
    ],
    ids=["Tightrope", "Tightrope, recoverable", "NoisyParity"],
)
def test_ppo_learns_to_succeed(task, steps, chance, threshold):
    """Well above chance, which is what an untrained policy has: the whole interval over seeds."""
    agent = SB3Agent("PPO", task, reward="success", total_timesteps=steps, model_kwargs=QUICK)
    reached = [success(fit(agent, seed)) for seed in range(4)]
    assert lower_end(reached) > threshold
    untrained = SB3Agent("PPO", task, reward="none", total_timesteps=1, model_kwargs={"learning_rate": 0.0})
    assert success(fit(untrained)) == pytest.approx(chance, abs=0.06)


@pytest.mark.slow
def test_dqn_learns_to_succeed():
    own = {"learning_rate": 1e-3, "train_freq": 1, "target_update_interval": 500, "exploration_fraction": 0.3}
    agent = SB3Agent("DQN", PARITY, reward="success", total_timesteps=8_000, n_envs=16, model_kwargs=own)
    assert min(success(fit(agent, seed)) for seed in range(3)) == 1.0


@pytest.mark.slow
def test_which_rewards_recover_the_distribution():
    """Expert log-probability ends at the expert's mode, maximum entropy at the expert itself.

    The mode of NoisyParity is any string of bits with the true answer, of mass q = (1 - noise) / 2^n, so a policy that
    always writes one of them is at squared Hellinger distance 2 (1 - sqrt q) = 1.329.
    """
    mode = 2 * (1 - np.sqrt((1 - PARITY.noise) / 2**PARITY.bits))

    def final(reward, seed):
        agent = SB3Agent("A2C", PARITY, reward=reward, total_timesteps=100_000, n_envs=256)
        agent.set_params(model_kwargs={"learning_rate": 3e-3})
        return distance(PARITY.expert, fit(agent, seed).policy_, PARITY).final

    for seed in range(2):
        assert final("expert_log_prob", seed) == pytest.approx(mode, abs=0.25)
        assert final("max_ent", seed) < 0.03


@pytest.mark.slow
def test_an_entropy_bonus_is_not_the_maximum_entropy_reward():
    """On a fork between a certain and an uncertain continuation of m fair coins, the expert opens with probability 1/2.

    Log expert with ``ent_coef=1`` is stationary where pi(1) / pi(0) = exp(-m log 2): the bonus of later states does not
    reach the first token, their loss of log-probability does. With the bonus in the reward the ratio is the expert's.
    """
    task = Fork(horizon=4)
    first = np.empty((1, 0), int)
    common = {"learning_rate": 1e-3, "max_grad_norm": 5.0}

    def opens(reward, **own):
        agent = SB3Agent("A2C", task, reward=reward, total_timesteps=400_000, n_envs=256, model_kwargs=common | own)
        return np.exp(fit(agent).policy_.next_log_probs(first, first))[0, 1]

    assert opens("max_ent") == pytest.approx(1 / 2, abs=0.08)
    assert opens("expert_log_prob", ent_coef=1.0) == pytest.approx(1 / (1 + 2**3), abs=0.06)
