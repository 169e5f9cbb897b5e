"""Projection onto policy classes in both divergences, against losses written out in loops and general minimisers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize, minimize_scalar

from agents import LogLossBC
from agents.fit_class import fit_class
from agents.targets import Targets
from agents.testing import default_problems
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    FiniteClass,
    MarkovClass,
    NGramClass,
    ProductClass,
    TabularPolicy,
)
from ntp_envs.features import FeatureMap, WindowOneHot

DIVERGENCES = ("forward", "reverse")


def random_labels(rng, vocab_size=2, prompt_length=1, n=7, horizon=3):
    laws = rng.dirichlet(np.ones(vocab_size), size=(n, horizon))
    weights = rng.random((n, horizon)) * (rng.random((n, horizon)) < 0.8)
    weights[0] = 1.0
    prompts = rng.integers(vocab_size, size=(n, prompt_length))
    return Targets(prompts, rng.integers(vocab_size, size=(n, horizon)), np.log(laws), weights)


def divergence_of(policy, labels, kind):
    """Nats a sequence, prefix by prefix and token by token, in plain Python."""
    total = 0.0
    for i, h in itertools.product(*map(range, labels.weights.shape)):
        ours = np.exp(policy.next_log_probs(labels.prompts[i : i + 1], labels.tokens[i : i + 1, :h])[0])
        theirs = np.exp(labels.log_laws[i, h])
        first, second = (theirs, ours) if kind == "forward" else (ours, theirs)
        total += labels.weights[i, h] * sum(p * math.log(p / q) for p, q in zip(first, second) if p > 0)
    return total / (labels.weights.sum() / labels.weights.shape[1])


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("on", ["tokens", "flips"])
@pytest.mark.parametrize("bounds", [(0.01, 0.99), (0.6, 0.7)])
def test_bernoulli_against_a_scalar_minimiser(kind, on, bounds, rng):
    labels, members = random_labels(rng), BernoulliClass(*bounds, on=on)
    policy, report = fit_class(members, labels, divergence=kind)
    best = minimize_scalar(
        lambda theta: divergence_of(members.policy(theta), labels, kind), bounds=bounds, method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert report.objective == pytest.approx(best.fun, abs=1e-6) and report.objective <= best.fun + 1e-12
    assert policy.theta == pytest.approx(best.x, abs=1e-4)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_markov_against_a_general_minimiser(kind, rng):
    labels, members = random_labels(rng, vocab_size=3, n=12), MarkovClass(3, order=1)

    def policy_at(x):
        logits = np.append(x.reshape(4, 2), np.zeros((4, 1)), axis=1)
        return members.policy(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    best = minimize(lambda x: divergence_of(policy_at(x), labels, kind), np.zeros(8), method="BFGS", tol=1e-8)
    _, report = fit_class(members, labels, divergence=kind)
    assert report.objective == pytest.approx(best.fun, abs=1e-7)


class Last(FeatureMap):
    """The last token and the position: features that no automaton tabulates."""

    def __init__(self):
        super().__init__(2, 2)

    def joint(self, prompts, tokens):
        last = np.concatenate([prompts, tokens], axis=1)[:, -1]
        u = np.column_stack([last - 0.5, np.full(len(last), tokens.shape[1] / 8)])
        return np.stack([-0.5 * u, 0.5 * u], axis=1)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("features", [WindowOneHot(2, 2), WindowOneHot(3, 1), Last()], ids=["A=2", "A=3", "path"])
@pytest.mark.parametrize("radius", [0.3, 8.0])
def test_autoregressive_linear_against_slsqp(kind, features, radius, rng):
    labels, members = random_labels(rng, vocab_size=features.vocab_size), ARLinearClass(features, radius)
    _, report = fit_class(members, labels, divergence=kind, tol=1e-9)
    everywhere = ARLinearClass(features, 1e6)  # the minimiser may look outside the ball, and only ends inside
    best = minimize(
        lambda x: divergence_of(everywhere.policy(x), labels, kind),
        np.full(features.dimension, 0.01),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: radius**2 - x @ x},
        options={"ftol": 1e-12},
    )
    assert report.objective == pytest.approx(best.fun, abs=1e-6)
    assert report.converged


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_finite_and_product_classes_against_all_members(kind, rng):
    labels = random_labels(rng)
    members = [TabularPolicy.random(2, 3, rng, prompt_length=1) for _ in range(6)]
    policy, report = fit_class(FiniteClass(members), labels, divergence=kind)
    values = [divergence_of(member, labels, kind) for member in members]
    assert policy is members[int(np.argmin(values))] and report.objective == pytest.approx(min(values), abs=1e-12)

    product = ProductClass([members[:3], members[2:4], members[3:]])
    policy, report = fit_class(product, labels, divergence=kind)
    every = [product.policy(options) for options in itertools.product(range(3), range(2), range(3))]
    assert report.objective == pytest.approx(min(divergence_of(member, labels, kind) for member in every), abs=1e-12)
    assert divergence_of(policy, labels, kind) == pytest.approx(report.objective, abs=1e-12)


def test_demonstrated_tokens_as_labels_are_maximum_likelihood():
    for problem in default_problems(LogLossBC()):
        one, report = fit_class(problem.policy_class, problem.demonstrations)
        labels = Targets.of(problem.demonstrations)
        two, soft = fit_class(problem.policy_class, labels)
        laws = [np.exp(policy.forced_log_probs(labels.prompts, labels.tokens)) for policy in (one, two)]
        assert np.allclose(*laws, atol=1e-4), problem.name
        assert soft.objective == pytest.approx(report.objective, abs=1e-7), problem.name


def test_members_that_exclude_what_the_labels_want_are_last_and_least_exclusion_comes_first():
    laws = np.log(np.full((1, 1, 2), 0.5))
    labels = Targets(np.zeros((1, 0), int), np.zeros((1, 1), int), laws, np.ones((1, 1)))
    members = FiniteClass([BernoulliPolicy(0.0), BernoulliPolicy(1e-6)])
    policy, report = fit_class(members, labels)
    assert policy is members.policies[1] and np.isfinite(report.objective)
    with np.errstate(divide="ignore"):
        sure = Targets(labels.prompts, labels.tokens, np.log([[[0.0, 1.0]]]), labels.weights)
    policy, report = fit_class(FiniteClass([BernoulliPolicy(0.5), BernoulliPolicy(0.7)]), sure, divergence="reverse")
    assert policy.theta == 0.7 and report.objective == np.inf
    assert report.details["excluded_mass"] == pytest.approx(0.3)
    assert fit_class(BernoulliClass(0.1), sure, divergence="reverse")[0].theta == 0.9
    assert fit_class(MarkovClass(2, 0), sure, divergence="reverse")[0].emissions(0)[0, 1] == 0.0


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(DIVERGENCES))
@examples(40)
def test_no_member_is_nearer(seed, kind):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, n=4)
    theta = rng.uniform(0.05, 0.95)
    assert fit_class(BernoulliClass(0.05), labels, divergence=kind)[1].objective <= 1e-12 + divergence_of(
        BernoulliPolicy(theta), labels, kind
    )
    chain = MarkovClass(2, 1).policy(rng.dirichlet(np.ones(2), size=3))
    assert fit_class(MarkovClass(2, 1), labels, divergence=kind)[1].objective <= 1e-12 + divergence_of(
        chain, labels, kind
    )


def test_drawn_labels_follow_the_laws(rng):
    laws = np.tile(np.log([[[0.2, 0.3, 0.5]]]), (20_000, 1, 1))
    labels = Targets(np.zeros((20_000, 0), int), np.zeros((20_000, 1), int), laws, np.ones((20_000, 1)))
    shares = np.exp(labels.drawn(rng).laws()).mean(axis=(0, 1))
    assert np.abs(shares - [0.2, 0.3, 0.5]).max() < 4 * np.sqrt(0.25 / 20_000)


def parts_of(law, laws, weights):
    """The mass of a law that some labels exclude, and its reverse divergence elsewhere, in plain Python."""
    excluded = rest = 0.0
    for label, weight in zip(laws, weights):
        for p, q in zip(law, label):
            if p > 0 and q == 0:
                excluded += weight * p
            elif p > 0:
                rest += weight * p * math.log(p / q)
    return excluded, rest


@given(seed=st.integers(0, 10**6), size=st.sampled_from([2, 3]))
@examples(40)
def test_reverse_where_every_token_is_excluded_by_some_label(seed, size):
    """Of the laws with the least excluded mass the one with the least divergence elsewhere: against a grid of laws."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2.0)
    sure = np.eye(size) if rng.random() < 0.5 else 1 - np.eye(size)  # each token excluded by as much
    laws = np.concatenate([sure / sure.sum(axis=1, keepdims=True), rng.dirichlet(np.ones(size), size=2)])
    weights = np.concatenate([np.full(size, weight), rng.uniform(0.1, 2.0, 2)])
    with np.errstate(divide="ignore"):
        labels = Targets(
            np.zeros((len(laws), 0), int), np.zeros((len(laws), 1), int), np.log(laws)[:, None], weights[:, None]
        )
    steps = np.array([p for p in itertools.product(range(61), repeat=size) if sum(p) == 60]) / 60
    classes = [MarkovClass(size, 0), NGramClass(size, 1)] + [BernoulliClass(), BernoulliClass(0.3)] * (size == 2)
    for members in classes:
        policy, report = fit_class(members, labels, divergence="reverse")
        found = np.exp(policy.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int))[0])
        excluded, rest = parts_of(found, laws, weights)
        total = weights.sum()
        assert report.details["excluded_mass"] == pytest.approx(excluded / total)
        assert report.details["divergence_elsewhere"] == pytest.approx(rest / total)
        inside = [
            p
            for p in steps
            if not isinstance(members, BernoulliClass) or 0.0 <= p[1] - members.theta_min <= 1 - 2 * members.theta_min
        ]
        for law in inside:
            other = parts_of(law, laws, weights)
            assert other[0] > excluded + 1e-9 or (other[0] > excluded - 1e-9 and other[1] >= rest - 1e-9)


def test_reverse_with_tied_exclusions_by_hand():
    """2 sum pi log pi - pi_0 log .9 - pi_1 log .1 is least at the law proportional to the roots of .9 and .1."""
    with np.errstate(divide="ignore"):
        laws = np.log(np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.9, 0.1]]]))
    labels = Targets(np.zeros((3, 0), int), np.zeros((3, 1), int), laws, np.ones((3, 1)))
    assert fit_class(BernoulliClass(), labels, divergence="reverse")[0].theta == pytest.approx(0.25)
