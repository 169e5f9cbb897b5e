"""On-policy distillation, scheduled sampling and adversarial imitation against closed forms and plain minimisers."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, logit
from scipy.stats import binom

from agents import AdversarialImitation, ConvergenceWarning, LogLossBC, OnPolicyDistillation, ScheduledSampling
from agents.interactive import Discriminator, truth_probability
from ntp_envs import (
    BernoulliClass,
    Demonstrations,
    MarkovClass,
    MarkovPolicy,
    collect,
    make_task,
)

TASK = make_task("Contamination", horizon=8, eps=0.2, p=0.1, q=0.7, theta_min=0.01)


def posterior_flip(task, h):
    """``(h + 1,)`` the expert's probability of a flip after k = 0..h flips."""
    k = np.arange(h + 1)
    clean = (1 - task.eps) * task.p**k * (1 - task.p) ** (h - k)
    other = task.eps * task.q**k * (1 - task.q) ** (h - k)
    return (clean * task.p + other * task.q) / (clean + other)


def on_policy_mean(task, theta, function):
    """Mean over layers of E[function(expert's flip probability)], the number of flips being Bin(h, theta)."""
    laws = [binom.pmf(np.arange(h + 1), h, theta) @ function(posterior_flip(task, h)) for h in range(task.horizon)]
    return float(np.mean(laws))


# -- distillation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divergence", "reply"),
    [
        ("forward", lambda theta: on_policy_mean(TASK, theta, lambda flip: flip)),
        ("reverse", lambda theta: expit(on_policy_mean(TASK, theta, logit))),
    ],
)
def test_distillation_ends_at_the_fixed_point(divergence, reply):
    fixed = brentq(lambda theta: reply(theta) - theta, 0.01, 0.35, xtol=1e-14)
    agent = OnPolicyDistillation(TASK, divergence=divergence, rollouts="exact", rounds=500, settle=1e-12)
    theta = agent.fit(TASK.population(), TASK.policy_class).policy_.theta
    assert agent.fit_report_.converged and theta == pytest.approx(fixed, abs=1e-9)
    # and the fixed point is what it claims to be: the best theta at the prefixes of this theta
    prefixes = [(binom.pmf(np.arange(h + 1), h, theta), posterior_flip(TASK, h)) for h in range(TASK.horizon)]

    def loss(x):
        total = 0.0
        for masses, flip in prefixes:
            p, q = (flip, x) if divergence == "forward" else (x, flip)
            total += masses @ (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        return total

    best = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-10})
    assert theta == pytest.approx(best.x, abs=1e-6)
    assert agent.fit_report_.objective == pytest.approx(best.fun, abs=1e-9)


def test_the_two_divergences_and_log_loss_all_differ():
    def theta(**options):
        agent = OnPolicyDistillation(TASK, rollouts="exact", rounds=500, settle=1e-9, **options)
        return agent.fit(TASK.population(), TASK.policy_class).policy_.theta

    forward, reverse = theta(), theta(divergence="reverse")
    log_loss = LogLossBC().fit(TASK.population(), TASK.policy_class).policy_.theta
    assert reverse + 0.01 < forward < log_loss - 0.01  # reverse KL seeks the common mode


def test_off_policy_distillation_is_word_level_distillation():
    data = collect(TASK, 300, np.random.default_rng(0))
    agent = OnPolicyDistillation(TASK, on_policy=0.0, rounds=3).fit(data, TASK.policy_class)
    flips = np.diff(np.column_stack([data.prompts, data.tokens]), axis=1) != 0
    so_far = np.column_stack([np.zeros(300, int), np.cumsum(flips, axis=1)[:, :-1]])
    soft = [posterior_flip(TASK, h)[so_far[:, h]].mean() for h in range(TASK.horizon)]
    assert agent.policy_.theta == pytest.approx(np.mean(soft), abs=1e-12)
    assert agent.fit_report_.details["environment_steps"] == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_share_of_own_prefixes(share):
    data = collect(TASK, 300, np.random.default_rng(0))
    agent = OnPolicyDistillation(TASK, on_policy=share, rollouts="exact", rounds=300, settle=1e-12)
    off_policy = OnPolicyDistillation(TASK, on_policy=0.0, rounds=2).fit(data, TASK.policy_class).policy_.theta

    def reply(theta):
        return share * on_policy_mean(TASK, theta, lambda flip: flip) + (1 - share) * off_policy

    fixed = brentq(lambda theta: reply(theta) - theta, 0.01, 0.35, xtol=1e-14)
    assert agent.fit(data, TASK.policy_class).policy_.theta == pytest.approx(fixed, abs=1e-9)


def test_distillation_says_when_it_has_not_settled():
    agent = OnPolicyDistillation(TASK, rollouts="exact", rounds=1, settle=1e-9)
    with pytest.warns(ConvergenceWarning, match="has not settled after 1 rounds.*Raise rounds"):
        agent.fit(TASK.population(), TASK.policy_class)
    assert not agent.fit_report_.converged and agent.fit_report_.details["change"] > 1e-9


def test_a_floor_mixes_the_uniform_law_into_the_expert():
    task, floor = make_task("Tightrope", horizon=3, eps=0.01), 0.1
    agent = OnPolicyDistillation(task, floor=floor, rollouts="exact", rounds=5)
    assert agent.fit(task.population(), task.policy_class).policy_.theta == pytest.approx(floor / 2, abs=1e-12)


# -- scheduled sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse sigmoid"])
def test_schedules_fall_from_one_to_their_end(schedule):
    values = [truth_probability(schedule, s, 0.2) for s in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(1.0) and values[-1] == pytest.approx(0.2) and (np.diff(values) < 0).all()


def test_with_demonstrated_prefixes_alone_it_is_log_loss():
    data = collect(TASK, 100, np.random.default_rng(0))
    one = ScheduledSampling(final=1.0, rounds=2).fit(data, MarkovClass(2, 1)).policy_.emissions(0)
    assert np.allclose(np.exp(one), np.exp(LogLossBC().fit(data, MarkovClass(2, 1)).policy_.emissions(0)), atol=1e-12)


def test_with_prefixes_of_its_own_alone_it_forgets_what_prefixes_say():
    """Huszar 2015: the labels no longer depend on the prefix, so each layer is fitted to the marginal law."""
    expert = MarkovPolicy([[0.95, 0.05], [0.05, 0.95], [0.5, 0.5]], order=1)  # copies its last token
    prompts = np.empty((4000, 0), int)
    data = Demonstrations(prompts, expert.sample(prompts, 6, np.random.default_rng(0)), vocab_size=2)
    agent = ScheduledSampling(rounds=3, final=0.0).fit(data, MarkovClass(2, 1))
    copied = np.exp(agent.policy_.emissions(0))[[0, 1], [0, 1]]
    assert np.abs(copied - 0.5).max() < 0.03
    assert np.exp(LogLossBC().fit(data, MarkovClass(2, 1)).policy_.emissions(0))[0, 0] > 0.93


# -- adversarial imitation ---------------------------------------------------------------------------------------------


def test_the_discriminator_is_the_logistic_optimum(rng):
    expert, learner = (rng.dirichlet(np.ones(6)).reshape(1, 3, 2) for _ in range(2))
    judge = Discriminator(expert, learner, 1e-3)
    e, q = (array.ravel() + 1e-3 for array in (expert, learner))
    best = minimize(lambda x: e @ np.log1p(np.exp(-x)) + q @ np.log1p(np.exp(x)), np.zeros(6), tol=1e-12)
    assert judge.logits.ravel() == pytest.approx(best.x, abs=1e-4)
    assert judge.rewards("js").ravel() == pytest.approx(-np.log1p(-expit(judge.logits)).ravel())  # -log(1 - D)


def test_the_divergence_is_the_discriminators_advantage(rng):
    expert, learner = (rng.dirichlet(np.ones(6), size=2).reshape(2, 3, 2) for _ in range(2))
    expert[0, 0, 0], learner[1, 2, 1] = 0.0, 0.0
    expert, learner = (array / array.sum(axis=(1, 2), keepdims=True) for array in (expert, learner))
    per_layer = [jensenshannon(expert[h].ravel(), learner[h].ravel()) ** 2 for h in range(2)]
    assert Discriminator(expert, learner, 1.0).divergence() == pytest.approx(np.mean(per_layer))


def test_action_values_are_expected_sums_of_rewards(rng):
    policy = MarkovPolicy(rng.dirichlet(np.ones(2), size=3), order=1)
    law, horizon = np.exp(policy.emissions(0)), 4
    occupancy = np.zeros((horizon, 3, 2))
    for tokens in itertools.product(range(2), repeat=horizon):
        mass = np.exp(policy.log_probs(np.empty((1, 0), int), np.array([tokens]))).prod()
        for h, a in enumerate(tokens):
            occupancy[h, 2 if h == 0 else tokens[h - 1], a] += mass
    judge = Discriminator(rng.dirichlet(np.ones(6), size=horizon).reshape(horizon, 3, 2), occupancy, 0.01)
    rewards, values = judge.rewards("log ratio"), judge.action_values("log ratio")
    for h, context, action in [(3, 0, 1), (2, 1, 0), (1, 0, 0), (0, 2, 1)]:
        expected = 0.0
        for rest in itertools.product(range(2), repeat=horizon - h - 1):
            mass, gained, before = 1.0, rewards[h, context, action], action
            for t, a in enumerate(rest, start=h + 1):
                mass *= law[before, a]
                gained += rewards[t, before, a]
                before = a
            expected += mass * gained
        assert values[h, context, action] == pytest.approx(expected, abs=1e-12)


def pair_laws(chain, horizon):
    """Laws of (last token, token) at each position of a chain; its third row is the law of the first token."""
    laws, now = [chain[2]], chain[2]
    for _ in range(1, horizon):
        laws.append((now[:, None] * chain[:2]).ravel())
        now = now @ chain[:2]
    return laws


@pytest.mark.parametrize("reward", ["js", "log ratio"])
def test_adversarial_imitation_minimises_the_divergence_of_occupancies(reward):
    chain, prompts = np.array([[0.97, 0.03], [0.3, 0.7], [0.9, 0.1]]), np.empty((20_000, 0), int)
    expert = pair_laws(chain, 8)

    def divergence(theta):
        total = 0.0
        for e, q in zip(expert, pair_laws(np.tile([1 - theta, theta], (3, 1)), 8)):
            m = 0.5 * (e + q)
            js = 0.5 * (e @ np.log(e / m) + q @ np.log(q / m))
            total += js if reward == "js" else q @ np.log(q / e)
        return total

    best = minimize_scalar(divergence, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-9}).x
    tokens = MarkovPolicy(chain, order=1).sample(prompts, 8, np.random.default_rng(0))
    assert tokens.mean() - best > 0.04  # log-loss matches the mean, which is far from it
    agent = AdversarialImitation(rounds=60, rollouts=2000, step=4.0, reward=reward)
    theta = agent.fit(Demonstrations(prompts, tokens, vocab_size=2), BernoulliClass(0.001)).policy_.theta
    assert agent.fit_report_.converged
    assert theta == pytest.approx(best, abs=0.004)


def test_adversarial_imitation_recovers_a_chain():
    chain = MarkovPolicy([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], order=1)
    prompts = np.empty((2000, 0), int)
    data = Demonstrations(prompts, chain.sample(prompts, 10, np.random.default_rng(1)), vocab_size=2)
    agent = AdversarialImitation(rounds=30, rollouts=1000).fit(data, MarkovClass(2, 1))
    assert np.exp(agent.policy_.emissions(0)) == pytest.approx(np.exp(chain.emissions(0)), abs=0.05)


def test_adversarial_imitation_warns_when_it_still_moves():
    chain = MarkovPolicy([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], order=1)
    prompts = np.empty((100, 0), int)
    data = Demonstrations(prompts, chain.sample(prompts, 10, np.random.default_rng(1)), vocab_size=2)
    agent = AdversarialImitation(rounds=5, rollouts=100, step=10.0, settle=1e-6)
    with pytest.warns(ConvergenceWarning, match="still moves.*lower step=10"):
        agent.fit(data, MarkovClass(2, 1))
    assert not agent.fit_report_.converged and np.isnan(agent.fit_report_.gap)


@pytest.mark.parametrize("order", [0, 1])
def test_the_bias_of_the_reported_divergence_does_not_grow_with_the_horizon(order):
    """Learner and expert alike: what is reported is sampling noise, within the bound of the docstring."""
    means = {}
    for horizon in (4, 32):
        found = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            tokens = (rng.random((400, horizon)) < 0.4).astype(int)
            data = Demonstrations(np.zeros((400, 0), int), tokens, 2)
            agent = AdversarialImitation(order=order, rounds=1, rollouts=400, settle=1e6)
            found.append(agent.fit(data, BernoulliClass(0.4, 0.4 + 1e-9), rng=rng).fit_report_.objective)
        means[horizon] = np.mean(found)
        bound = (2 ** (order + 1) - 1) / 8 * (1 / 400 + 1 / 400)
        assert 0.2 * bound < means[horizon] < 1.2 * bound
    assert means[32] < 1.5 * means[4]


@pytest.mark.parametrize("rollouts", [50, 800])
def test_the_noise_floor_of_distillation(rollouts):
    task = make_task("Contamination", horizon=16)
    agent = OnPolicyDistillation(task, rounds=4, rollouts=rollouts, settle=1e6)
    change = agent.fit(task.population(), task.policy_class, rng=np.random.default_rng(0)).fit_report_.details["change"]
    assert change <= 1 / np.sqrt(rollouts * 16)
