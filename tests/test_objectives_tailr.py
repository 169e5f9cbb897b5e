"""TaiLr: its limits, its equivalence to smoothing, and its gradient as the paper states it."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from agents import LogLossBC, SmoothedLogLossBC, TaiLrBC
from agents.objectives import equivalent_smoothing
from agents.testing import check_agent, default_problems
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    ProductClass,
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.features import WindowOneHot

PROBLEMS = default_problems(TaiLrBC())


def token_probabilities(policy, data):
    """``(n, H)`` pi(a_h | prefix), from the conditionals."""
    out = np.empty(data.tokens.shape)
    for h in range(data.horizon):
        law = np.exp(policy.next_log_probs(data.prompts, data.tokens[:, :h]))
        out[:, h] = law[np.arange(len(data)), data.tokens[:, h]]
    return out


def tailr(probs, gamma):
    return (-np.log(gamma + (1 - gamma) * probs) / (1 - gamma)).sum(axis=1).mean()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_gamma_zero_is_maximum_likelihood(problem):
    one = TaiLrBC(0.0).fit(problem.demonstrations, problem.policy_class)
    two = LogLossBC().fit(problem.demonstrations, problem.policy_class)
    assert np.array_equal(*(token_probabilities(a.policy_, problem.demonstrations) for a in (one, two)))
    assert one.fit_report_.objective == pytest.approx(two.fit_report_.objective, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.01, 0.3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.filterwarnings("ignore:smoothed log-loss is not stationary")
def test_it_is_smoothed_log_loss(problem, gamma):
    data = problem.demonstrations
    agent = TaiLrBC(gamma).fit(data, problem.policy_class)
    smoothed = SmoothedLogLossBC(equivalent_smoothing(gamma, data.vocab_size)).fit(data, problem.policy_class)
    probs = [token_probabilities(a.policy_, data) for a in (agent, smoothed)]
    assert np.array_equal(*probs)
    assert agent.fit_report_.objective == pytest.approx(tailr(probs[0], gamma), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.5])
def test_all_members_of_a_finite_class(gamma, rng):
    members = [TabularPolicy.random(3, 4, rng) for _ in range(20)]
    prompts = np.zeros((30, 0), int)
    data = collect_from(TabularPolicy.random(3, 4, rng), prompts, rng)
    values = [tailr(token_probabilities(member, data), gamma) for member in members]
    agent = TaiLrBC(gamma).fit(data, FiniteClass(members))
    assert agent.policy_ is members[int(np.argmin(values))]
    assert agent.fit_report_.objective == pytest.approx(min(values))


def collect_from(expert, prompts, rng):

    return Demonstrations(prompts, expert.sample(prompts, expert.horizon, rng), vocab_size=expert.vocab_size)


def test_the_gradient_is_that_of_the_papers_weighted_log_loss():
    """With weights w = pi / (gamma + (1 - gamma) pi) held fixed, sum_h -w_h log pi has the same derivative."""
    task, gamma = make_task("Contamination", horizon=6, eps=0.3, p=0.1, q=0.8, theta_min=0.01), 0.2
    data = collect(task, 200, np.random.default_rng(0))
    agent = TaiLrBC(gamma).fit(data, task.policy_class)
    best = minimize_scalar(
        lambda t: tailr(token_probabilities(BernoulliPolicy(t, on="flips"), data), gamma),
        bounds=(0.01, 0.99),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert agent.policy_.theta == pytest.approx(best.x, abs=1e-6)
    theta, step = 0.4, 1e-6
    pi = token_probabilities(BernoulliPolicy(theta, on="flips"), data)
    fixed = pi / (gamma + (1 - gamma) * pi)

    def slope(function):
        high, low = (
            function(token_probabilities(BernoulliPolicy(t, on="flips"), data)) for t in (theta + step, theta - step)
        )
        return (high - low) / (2 * step)

    papers = slope(lambda probs: -(fixed * np.log(probs)).sum(axis=1).mean())
    assert slope(lambda probs: tailr(probs, gamma)) == pytest.approx(papers, rel=1e-6)


# -- gamma = 1: total variation to the one-hot law of each token -------------------------------------------------------


def missed(policy, data):
    return (1 - token_probabilities(policy, data)).sum(axis=1).mean()


def test_gamma_one_is_total_variation_to_the_demonstrated_token(rng):
    members = [TabularPolicy.random(3, 4, rng) for _ in range(20)]
    data = collect_from(TabularPolicy.random(3, 4, rng), np.zeros((30, 0), int), rng)
    values = []
    for member in members:
        total = 0.0
        for h in range(4):
            law = np.exp(member.next_log_probs(data.prompts, data.tokens[:, :h]))
            total += 0.5 * np.abs(law - np.eye(3)[data.tokens[:, h]]).sum(axis=1).mean()
        values.append(total)
    agent = TaiLrBC(1.0).fit(data, FiniteClass(members))
    assert agent.policy_ is members[int(np.argmin(values))]
    assert agent.fit_report_.objective == pytest.approx(min(values), abs=1e-12)

    product = ProductClass([members[:3]] * 4)
    every = [missed(product.policy(o), data) for o in itertools.product(range(3), repeat=4)]
    assert TaiLrBC(1.0).fit(data, product).fit_report_.objective == pytest.approx(min(every), abs=1e-12)


def test_gamma_one_takes_the_mode():
    task = make_task("Contamination", horizon=6, eps=0.3, p=0.1, q=0.8, theta_min=0.01)
    data = collect(task, 400, np.random.default_rng(0))
    flips = task.policy_class.events(data.prompts, data.tokens)
    assert TaiLrBC(1.0).fit(data, task.policy_class).policy_.theta == pytest.approx(0.01)  # flips are below a half
    agent = TaiLrBC(1.0).fit(data, MarkovClass(2, 1))
    assert agent.fit_report_.objective == pytest.approx(flips.sum(axis=1).mean(), abs=1e-4)  # always predicts "no flip"
    linear = TaiLrBC(1.0, tol=1e-6).fit(data, ARLinearClass(WindowOneHot(2, 1), radius=4.0))
    assert missed(linear.policy_, data) < missed(LogLossBC().fit(data, MarkovClass(2, 1)).policy_, data)


@pytest.mark.parametrize("gamma", [0.01, 1.0])
@pytest.mark.filterwarnings("ignore:smoothed log-loss is not stationary", "ignore:the loss still falls")
def test_it_keeps_the_contract(gamma):
    check_agent(TaiLrBC(gamma))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1 - 1e-9, 1 - 1e-14, 1 - 2**-53])
def test_the_objective_keeps_its_digits_up_to_gamma_one(gamma):
    """As gamma tends to 1 the objective tends to the expected number of tokens missed; nothing cancels on the way."""
    tokens = np.array([[0, 0, 0, 1]])
    demos = Demonstrations(np.zeros((1, 0), int), tokens, 2)
    agent = TaiLrBC(gamma).fit(demos, BernoulliClass(0.25))
    pi = np.where(tokens == 1, agent.policy_.theta, 1 - agent.policy_.theta)
    exact = [Fraction(float(p)) for p in pi.ravel()]
    share = 1 - Fraction(gamma)
    missed = [share * (1 - p) for p in exact]  # -log(1 - m) / share, summed by its series where m is small
    losses = [sum(m**k / k for k in range(1, 40)) if m < 0.1 else -math.log1p(-m) for m in missed]
    assert agent.fit_report_.objective == pytest.approx(float(sum(losses) / share), rel=1e-13)
