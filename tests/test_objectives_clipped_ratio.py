"""Clipped likelihood ratios against enumeration, their limits in beta, and general minimisers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize

from agents import ClippedRatioBC, LogLossBC
from agents.objectives import ClippedRatioLoss
from agents.testing import Problem, check_agent, check_weights, default_problems
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    Exactness,
    FiniteClass,
    MarkovClass,
    NGramClass,
    ProductClass,
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.arrays import all_sequences
from ntp_envs.features import WindowOneHot


def population(expert, horizon):
    """The complete law of an expert without a prompt."""
    tokens = all_sequences(2, horizon)
    prompts = np.zeros((len(tokens), 0), int)
    log_probs = expert.log_probs(prompts, tokens)
    weights = np.exp(log_probs.sum(axis=1))
    return Demonstrations(
        prompts, tokens, 2, weights=weights, expert_log_probs=log_probs, exactness=Exactness(everything=True)
    )


def law(policy, tokens):
    """Probabilities of sequences, one factor after the other."""
    nothing = np.zeros((1, 0), int)
    return np.array(
        [
            np.prod(
                [
                    np.exp(policy.next_log_probs(nothing, np.array([a[:h]]).reshape(1, h))[0, a[h]])
                    for h in range(len(a))
                ]
            )
            for a in tokens.tolist()
        ]
    )


@given(seed=st.integers(0, 10**6))
@examples(25)
def test_at_beta_one_it_is_total_variation(seed):
    rng = np.random.default_rng(seed)
    expert, members = TabularPolicy.random(2, 3, rng), [TabularPolicy.random(2, 3, rng) for _ in range(4)]
    data = population(expert, 3)
    p = law(expert, data.tokens)
    tv = [0.5 * np.abs(p - law(member, data.tokens)).sum() for member in members]
    agent = ClippedRatioBC().fit(data, FiniteClass(members))
    assert agent.policy_ is members[int(np.argmin(tv))]
    assert agent.fit_report_.objective == pytest.approx(min(tv), abs=1e-12)


def test_token_by_token_it_is_total_variation_along_the_experts_prefixes(rng):
    expert, member = TabularPolicy.random(2, 4, rng), TabularPolicy.random(2, 4, rng)
    total = 0.0
    for h in range(4):
        for prefix in itertools.product(range(2), repeat=h):
            at = (np.zeros((1, 0), int), np.array([prefix], int).reshape(1, h))
            reached = law(expert, at[1])[0] if h else 1.0
            gap = np.exp(expert.next_log_probs(*at)) - np.exp(member.next_log_probs(*at))
            total += reached * 0.5 * np.abs(gap).sum()
    agent = ClippedRatioBC(chunk=1).fit(population(expert, 4), FiniteClass([member]))
    assert agent.fit_report_.objective == pytest.approx(total, abs=1e-12)


def test_chunks_of_two_are_the_total_variation_of_pairs(rng):
    expert, member = TabularPolicy.random(2, 4, rng), TabularPolicy.random(2, 4, rng)
    data = population(expert, 4)
    p, q = law(expert, data.tokens), law(member, data.tokens)
    heads = [(p.reshape(4, 4).sum(axis=1), q.reshape(4, 4).sum(axis=1))]
    total = 0.5 * np.abs(heads[0][0] - heads[0][1]).sum()
    for i in range(4):
        tails = [x.reshape(4, 4)[i] / x.reshape(4, 4)[i].sum() for x in (p, q)]
        total += heads[0][0][i] * 0.5 * np.abs(tails[0] - tails[1]).sum()
    agent = ClippedRatioBC(chunk=2).fit(data, FiniteClass([member]))
    assert agent.fit_report_.objective == pytest.approx(total, abs=1e-12)


def test_limits_in_beta(rng):
    expert, member = TabularPolicy.random(2, 3, rng), TabularPolicy.random(2, 3, rng)
    data = population(expert, 3)
    p, q = law(expert, data.tokens), law(member, data.tokens)

    def objective(beta):
        return ClippedRatioBC(beta).fit(data, FiniteClass([member])).fit_report_.objective

    assert objective(1e-7) / 1e-7 == pytest.approx(p @ np.maximum(np.log(p / q), 0.0), rel=1e-5)
    assert objective(1e5) == pytest.approx(p[q < p].sum(), abs=1e-9)
    values = [objective(beta) for beta in (0.1, 0.5, 1.0, 2.0, 8.0)]
    assert (np.diff(values) > 0).all() and values[-1] < 1.0


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_bernoulli_class_against_a_fine_grid(beta, rng):
    data = population(TabularPolicy.random(2, 5, rng), 5)
    agent = ClippedRatioBC(beta).fit(data, BernoulliClass(0.01))
    ones, p = data.tokens.sum(axis=1), np.exp(data.expert_log_probs.sum(axis=1))
    thetas = np.linspace(0.01, 0.99, 20_001)[:, None]
    values = (p * (1 - np.minimum(1, (thetas**ones * (1 - thetas) ** (5 - ones) / p) ** beta))).sum(axis=1)
    assert agent.fit_report_.objective <= values.min() + 1e-6
    assert agent.fit_report_.objective >= values.min() - 1e-4  # the grid's own error


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize(
    "members", [MarkovClass(2, 1), ARLinearClass(WindowOneHot(2, 1), 3.0)], ids=["Markov", "linear"]
)
def test_a_general_minimiser_finds_nothing_better_nearby(beta, members, rng):
    data = population(TabularPolicy.random(2, 4, rng), 4)
    agent = ClippedRatioBC(beta).fit(data, members)

    def objective(policy):
        ratios = policy.log_probs(data.prompts, data.tokens).sum(axis=1) - data.expert_log_probs.sum(axis=1)
        return data.weights @ (1 - np.minimum(1, np.exp(beta * ratios)))

    assert agent.fit_report_.objective == pytest.approx(objective(agent.policy_), abs=1e-12)
    assert agent.fit_report_.objective < objective(LogLossBC().fit(data, members).policy_)
    if isinstance(members, MarkovClass):
        log_probs = agent.policy_.emissions(0)
        start = log_probs[:, 1] - log_probs[:, 0]

        def at(x):
            return members.policy(np.column_stack([1 / (1 + np.exp(x)), 1 / (1 + np.exp(-x))]))
    else:
        start = agent.policy_.theta

        def at(x):
            return members.policy(x * min(1.0, members.radius / np.linalg.norm(x)))

    best = minimize(lambda x: objective(at(x)), start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert agent.fit_report_.objective <= best.fun + 2e-4


def test_product_class_is_solved_layer_by_layer(rng):
    layers = [[TabularPolicy.random(2, 3, rng) for _ in range(3)] for _ in range(3)]
    product, data = ProductClass(layers), population(TabularPolicy.random(2, 3, rng), 3)
    agent = ClippedRatioBC(chunk=1).fit(data, product)
    loss = ClippedRatioLoss(data, 1.0, 1)
    values = [
        data.normalised_weights() @ loss.losses(product.policy(o).log_probs(data.prompts, data.tokens)).sum(axis=1)
        for o in itertools.product(range(3), repeat=3)
    ]
    assert agent.fit_report_.objective == pytest.approx(min(values), abs=1e-12)


def test_it_is_not_amplified_by_contamination():
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    data = collect(task, 2000, np.random.default_rng(0), expert_log_probs=True)
    robust = ClippedRatioBC().fit(data, task.policy_class).policy_.theta
    flips = task.policy_class.events(data.prompts, data.tokens).sum(axis=1)
    clean = flips[flips < 32].mean() / 64  # the rate among documents of the first kind
    assert robust < 2 * max(clean, 1e-4)
    assert LogLossBC().fit(data, task.policy_class).policy_.theta > 20 * robust


@pytest.mark.parametrize("sharpness", [1.0, 64.0, np.inf])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_slopes_are_derivatives(sharpness, chunk, rng):
    data = population(TabularPolicy.random(2, 3, rng), 3)
    loss = ClippedRatioLoss(data, 1.7, chunk, sharpness)
    log_probs = TabularPolicy.random(2, 3, rng).log_probs(data.prompts, data.tokens)
    for h in range(3):
        step = np.zeros(3)
        step[h] = 1e-6
        rise = (loss.losses(log_probs + step).sum(axis=1) - loss.losses(log_probs - step).sum(axis=1)) / 2e-6
        assert loss.slopes(log_probs)[:, h] == pytest.approx(-rise, abs=1e-6)


@pytest.mark.filterwarnings("ignore:the loss still falls")
def test_it_keeps_the_contract(rng):
    agent = ClippedRatioBC(chunk=1)
    problems = []
    for problem in default_problems(agent):
        data = problem.demonstrations
        expert = TabularPolicy.random(data.vocab_size, data.horizon, rng, prompt_length=data.prompt_length)
        log_probs = expert.log_probs(data.prompts, data.tokens)
        problems.append(Problem(problem.name, problem.policy_class, replace(data, expert_log_probs=log_probs)))
    long = [problem for problem in problems if isinstance(problem.policy_class, (ARLinearClass, NGramClass))]
    short = [problem for problem in problems if problem not in long]
    assert (len(long), len(short)) == (3, 5)
    check_agent(agent, problems=short)
    # many iterations: quick fits for what does not need accuracy, accurate ones for weights against repetitions
    check_agent(ClippedRatioBC(chunk=1, tol=1e-5), problems=long, skip=("weights",))
    check_weights(agent, long[0], 1e-4)


# -- populations -------------------------------------------------------------------------------------------------------


def with_expert(task, chunk=None):
    demos = task.population(chunk=chunk)
    return replace(demos, expert_log_probs=task.expert.log_probs(demos.prompts, demos.tokens))


@pytest.mark.parametrize(
    ("name", "parameters", "chunks"),
    [
        ("Contamination", {"horizon": 6, "eps": 0.1, "p": 0.05, "q": 0.9}, [None, 6]),
        ("BernoulliMixture", {"horizon": 6, "weight": 0.5, "q": 0.9}, [None, 6]),
        ("Snowball", {"horizon": 5, "vocab_size": 3}, [None, 1, 2]),
        ("NoisyParity", {"bits": 2, "subset": (0, 1), "episodes": 6, "noise": 0.2}, [1, 3]),
    ],
)
def test_a_population_that_is_accepted_has_the_loss_of_the_law(name, parameters, chunks):
    """The reported objective is the mean over all sequences that the expert can write."""
    task = make_task(name, **parameters)
    everything = all_sequences(task.vocab_size, task.horizon)
    prompts, mass = task.prompt_law()
    if name == "Snowball":  # one prompt stands for all
        prompts, mass = task.population().prompts, np.ones(1)
    for chunk in chunks:
        demos = with_expert(task)
        assert len(demos) < len(everything)
        agent = ClippedRatioBC(chunk=chunk, tol=1e-7).fit(demos, task.policy_class)
        starts = np.arange(0, task.horizon, chunk or task.horizon)
        mean = 0.0
        for prompt, share in zip(prompts, mass):
            many = np.tile(prompt, (len(everything), 1))
            expert, own = (p.log_probs(many, everything) for p in (task.expert, agent.policy_))
            law = np.exp(expert.sum(axis=1))
            some = law > 0
            ratio = np.exp(np.add.reduceat(own[some] - expert[some], starts, axis=1))
            mean += share * law[some] @ np.maximum(0.0, 1.0 - ratio).sum(axis=1)
        assert agent.fit_report_.objective == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize(("beta", "chunk"), [(0.5, 1), (2.0, 2)])
def test_a_converged_fit_is_within_what_is_said_of_a_local_minimum(beta, chunk, rng):
    """In an autoregressive linear class: a general minimiser started from the answer gains at most about 1e-3."""
    task = make_task("ARLinear", horizon=6)
    demos = collect(task, 200, rng, expert_log_probs=True)
    members = task.policy_class
    agent = ClippedRatioBC(beta, chunk=chunk).fit(demos, members)
    loss = ClippedRatioLoss(demos, beta, chunk)

    def value(theta):
        theta = theta * min(1.0, members.radius / np.linalg.norm(theta))
        return loss.losses(members.policy(theta).log_probs(demos.prompts, demos.tokens)).sum(axis=1).mean()

    here = value(agent.policy_.theta)
    assert here == pytest.approx(agent.fit_report_.objective, abs=1e-12) and np.isnan(agent.fit_report_.gap)
    found = minimize(value, agent.policy_.theta, method="SLSQP")
    assert here - found.fun <= 2e-3
