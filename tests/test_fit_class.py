"""Every kind of class and target: one-hot laws are tokens, no member is nearer, classes from elsewhere are fitted."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

import agents
from agents.fit_class import best_member, fit_class, fit_parametric, policy_parts
from agents.targets import Targets
from agents.testing import Problem, check_agent, default_problems
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    MarkovPolicy,
    NGramClass,
    ParametricClass,
    ProductClass,
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.arrays import written
from ntp_envs.checks import NotTractableError
from ntp_envs.features import FeatureMap, WindowOneHot
from ntp_envs.testing import check_policy_class

DIVERGENCES = ("forward", "reverse")


class Tempered(ParametricClass):
    """``pi_b(a | prefix)`` proportional to ``pi(a | prefix)^b``, b in an interval; gradients by differences."""

    def __init__(self, base, low, high):
        super().__init__(base.vocab_size, lower=[low], upper=[high])
        self.base = base

    def policy(self, beta):
        def law(prompts, tokens):
            return log_softmax(beta[0] * self.base.next_log_probs(prompts, tokens), axis=1)

        return CallablePolicy(law, self.vocab_size)


class Logits(ParametricClass):
    """All laws that see nothing, as A logits that sum to zero and are at most 3: its own set and gradient."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size, lower=np.full(vocab_size, -3.0), upper=np.full(vocab_size, 3.0))

    def policy(self, logits):
        law = log_softmax(logits)
        return CallablePolicy(lambda prompts, tokens: np.tile(law, (len(tokens), 1)), self.vocab_size)

    def project(self, logits):
        centred = logits - logits.mean()
        return centred * min(1.0, 3.0 / max(np.abs(centred).max(), 1e-300))

    def pull_back(self, logits, prompts, tokens, by_log_prob):
        slopes = by_log_prob.sum(axis=(0, 1))
        gradient = slopes - np.exp(log_softmax(logits)) * slopes.sum()
        return gradient - gradient.mean()


def as_soft(targets):
    """Hard targets as one-hot laws."""
    return Targets(targets.prompts, targets.tokens, targets.laws(), targets.per_token)


def members_of(rng):
    """One class of every registered kind."""
    finite = FiniteClass([MarkovPolicy(rng.dirichlet(np.ones(2), size=3), order=1) for _ in range(5)])
    yield from (problem.policy_class for problem in default_problems(agents.LogLossBC()))
    yield finite
    yield Tempered(MarkovPolicy(rng.dirichlet(np.ones(3), size=4), order=1), 0.2, 5.0)


def test_every_registered_class_is_among_them(rng):
    found = {kind for members in members_of(rng) for kind in type(members).__mro__}
    ours = {kind for kind in best_member.registry if kind.__module__.partition(".")[0] in ("ntp_envs", "agents")}
    assert ours and ours <= found


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(DIVERGENCES), lam=st.sampled_from([0.0, 0.2]))
@examples(15)
def test_one_hot_laws_are_the_tokens(seed, kind, lam):
    """Whether they are those of the prefixes or others, and weighted by sequence or by token."""
    rng = np.random.default_rng(seed)
    for members in members_of(rng):
        continuous = isinstance(members, ParametricClass)
        if kind == "reverse" and (lam or continuous):
            continue
        size, tol = members.vocab_size, 1e-10
        prompts, tokens = rng.integers(size, size=(12, 1)), rng.integers(size, size=(12, members.horizon or 4))
        tokens = np.where(written(prompts, tokens, members.end_token), tokens, members.end_token or 0)
        demos = Demonstrations(prompts, tokens, size, weights=rng.exponential(size=12) if seed % 2 else None)
        hard = Targets.of(demos)
        others = replace(hard, answers=rng.integers(size, size=tokens.shape), weights=rng.random(tokens.shape))
        for targets in (hard, others):
            if members.end_token is not None:  # what nobody wrote has no target
                targets = replace(targets, weights=targets.per_token * written(prompts, tokens, members.end_token))
            one, two = (
                fit_class(members, given, divergence=kind, smoothing=lam, tol=tol)
                for given in (targets, as_soft(targets))
            )
            laws = [np.exp(policy.forced_log_probs(prompts, tokens)) for policy, _ in (one, two)]
            atol = 1e-4 if continuous else 1e-12  # a loss to 1e-10 gives a law to its root
            np.testing.assert_allclose(*laws, atol=atol)
            assert one[1].objective == pytest.approx(two[1].objective, abs=1e-8 if continuous else 1e-12)
            found = policy_parts(one[0], targets.normalised(), kind, lam)  # token by token, hard
            told = policy_parts(one[0], as_soft(targets).normalised(), kind, lam)  # law by law, soft
            np.testing.assert_allclose(found, told, atol=1e-12)
            assert one[1].objective == (pytest.approx(found[1], abs=1e-9) if found[0] == 0 else np.inf)


@given(seed=st.integers(0, 10**6))
@examples(10)
def test_counts_are_sums_over_single_tokens(seed):
    rng = np.random.default_rng(seed)
    tokens, contexts = rng.integers(3, size=(5, 4)), rng.integers(2, size=(5, 4))
    demos = Demonstrations(np.zeros((5, 0), int), tokens, 3, weights=rng.exponential(size=5) if seed % 2 else None)
    hard = Targets.of(demos)
    wanted = np.zeros((2, 3))
    for i in range(5):
        for h in range(4):
            wanted[contexts[i, h], tokens[i, h]] += demos.normalised_weights()[i]
    np.testing.assert_allclose(hard.counts(contexts, 2), wanted, atol=1e-15)
    for given_ in (hard, as_soft(hard)):
        np.testing.assert_allclose(
            given_.log_law_sums(contexts, 2)[0], wanted.sum(axis=1)[:, None] - wanted, atol=1e-15
        )
        np.testing.assert_allclose(given_.totals(contexts, 2), wanted.sum(axis=1), atol=1e-15)


def test_joined_targets_are_hard_where_all_are_and_pool_the_same(rng):
    demos = Demonstrations(np.zeros((6, 0), int), rng.integers(2, size=(6, 3)), 2)
    hard = Targets.of(demos)
    both = Targets.join([hard, hard])
    assert both.demonstrated and both.log_laws is None
    mixed = Targets.join([hard, as_soft(hard)])
    assert mixed.answers is None
    thetas = [fit_class(BernoulliClass(), given)[0].theta for given in (hard, both, mixed, hard.pooled())]
    np.testing.assert_allclose(thetas, thetas[0], rtol=1e-14)
    with pytest.raises(ValueError, match="all weights are zero"):
        fit_class(BernoulliClass(), both.scaled(0.0))
    with pytest.raises(ValueError, match="smoothing is for the forward divergence"):
        fit_class(BernoulliClass(), hard, divergence="reverse", smoothing=0.1)


# -- the nearest member, in both divergences, against losses written out in loops and general minimisers ---------------


def random_targets(rng, vocab_size=2, prompt_length=1, n=7, horizon=3):
    laws = rng.dirichlet(np.ones(vocab_size), size=(n, horizon))
    weights = rng.random((n, horizon)) * (rng.random((n, horizon)) < 0.8)
    weights[0] = 1.0
    prompts = rng.integers(vocab_size, size=(n, prompt_length))
    return Targets(prompts, rng.integers(vocab_size, size=(n, horizon)), np.log(laws), weights)


def divergence_of(policy, targets, kind):
    """Nats a sequence, prefix by prefix and token by token, in plain Python."""
    total = 0.0
    for i, h in itertools.product(*map(range, targets.weights.shape)):
        ours = np.exp(policy.next_log_probs(targets.prompts[i : i + 1], targets.tokens[i : i + 1, :h])[0])
        theirs = np.exp(targets.log_laws[i, h])
        first, second = (theirs, ours) if kind == "forward" else (ours, theirs)
        total += targets.weights[i, h] * sum(p * math.log(p / q) for p, q in zip(first, second) if p > 0)
    return total / (targets.weights.sum() / targets.weights.shape[1])


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("on", ["tokens", "flips"])
@pytest.mark.parametrize("bounds", [(0.01, 0.99), (0.6, 0.7)])
def test_bernoulli_against_a_scalar_minimiser(kind, on, bounds, rng):
    targets, members = random_targets(rng), BernoulliClass(*bounds, on=on)
    policy, report = fit_class(members, targets, divergence=kind)
    best = minimize_scalar(
        lambda theta: divergence_of(members.policy(theta), targets, kind), bounds=bounds, method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert report.objective == pytest.approx(best.fun, abs=1e-6) and report.objective <= best.fun + 1e-12
    assert policy.theta == pytest.approx(best.x, abs=1e-4)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.slow
def test_markov_against_a_general_minimiser(kind, rng):
    targets, members = random_targets(rng, vocab_size=3, n=12), MarkovClass(3, order=1)

    def policy_at(x):
        logits = np.append(x.reshape(4, 2), np.zeros((4, 1)), axis=1)
        return members.policy(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    best = minimize(lambda x: divergence_of(policy_at(x), targets, kind), np.zeros(8), method="BFGS", tol=1e-8)
    _, report = fit_class(members, targets, divergence=kind)
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
@pytest.mark.parametrize("radius", [0.3, pytest.param(8.0, marks=pytest.mark.slow)])
def test_autoregressive_linear_against_slsqp(kind, features, radius, rng):
    targets, members = random_targets(rng, vocab_size=features.vocab_size), ARLinearClass(features, radius)
    _, report = fit_class(members, targets, divergence=kind, tol=1e-9)
    everywhere = ARLinearClass(features, 1e6)  # the minimiser may look outside the ball, and only ends inside
    best = minimize(
        lambda x: divergence_of(everywhere.policy(x), targets, kind),
        np.full(features.dimension, 0.01),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: radius**2 - x @ x},
        options={"ftol": 1e-12},
    )
    assert report.objective == pytest.approx(best.fun, abs=1e-6)
    assert report.converged


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_finite_and_product_classes_against_all_members(kind, rng):
    targets = random_targets(rng)
    members = [TabularPolicy.random(2, 3, rng, prompt_length=1) for _ in range(6)]
    policy, report = fit_class(FiniteClass(members), targets, divergence=kind)
    values = [divergence_of(member, targets, kind) for member in members]
    assert policy is members[int(np.argmin(values))] and report.objective == pytest.approx(min(values), abs=1e-12)

    product = ProductClass([members[:3], members[2:4], members[3:]])
    policy, report = fit_class(product, targets, divergence=kind)
    every = [product.policy(options) for options in itertools.product(range(3), range(2), range(3))]
    assert report.objective == pytest.approx(min(divergence_of(member, targets, kind) for member in every), abs=1e-12)
    assert divergence_of(policy, targets, kind) == pytest.approx(report.objective, abs=1e-12)


def test_members_that_exclude_what_the_targets_want_are_last_and_least_exclusion_comes_first():
    laws = np.log(np.full((1, 1, 2), 0.5))
    targets = Targets(np.zeros((1, 0), int), np.zeros((1, 1), int), laws, np.ones((1, 1)))
    members = FiniteClass([BernoulliPolicy(0.0), BernoulliPolicy(1e-6)])
    policy, report = fit_class(members, targets)
    assert policy is members.policies[1] and np.isfinite(report.objective)
    with np.errstate(divide="ignore"):
        sure = Targets(targets.prompts, targets.tokens, np.log([[[0.0, 1.0]]]), targets.weights)
    policy, report = fit_class(FiniteClass([BernoulliPolicy(0.5), BernoulliPolicy(0.7)]), sure, divergence="reverse")
    assert policy.theta == 0.7 and report.objective == np.inf
    assert report.details["excluded_mass"] == pytest.approx(0.3)
    assert fit_class(BernoulliClass(0.1), sure, divergence="reverse")[0].theta == 0.9
    assert fit_class(MarkovClass(2, 0), sure, divergence="reverse")[0].emissions(0)[0, 1] == 0.0


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(DIVERGENCES))
@examples(40)
def test_no_member_is_nearer(seed, kind):
    rng = np.random.default_rng(seed)
    targets = random_targets(rng, n=4)
    theta = rng.uniform(0.05, 0.95)
    assert fit_class(BernoulliClass(0.05), targets, divergence=kind)[1].objective <= 1e-12 + divergence_of(
        BernoulliPolicy(theta), targets, kind
    )
    chain = MarkovClass(2, 1).policy(rng.dirichlet(np.ones(2), size=3))
    assert fit_class(MarkovClass(2, 1), targets, divergence=kind)[1].objective <= 1e-12 + divergence_of(
        chain, targets, kind
    )


def test_drawn_targets_follow_the_laws(rng):
    laws = np.tile(np.log([[[0.2, 0.3, 0.5]]]), (20_000, 1, 1))
    targets = Targets(np.zeros((20_000, 0), int), np.zeros((20_000, 1), int), laws, np.ones((20_000, 1)))
    shares = np.exp(targets.drawn(rng).laws()).mean(axis=(0, 1))
    assert np.abs(shares - [0.2, 0.3, 0.5]).max() < 4 * np.sqrt(0.25 / 20_000)


def parts_of(law, laws, weights):
    """The mass of a law that some targets exclude, and its reverse divergence elsewhere, in plain Python."""
    excluded = rest = 0.0
    for target, weight in zip(laws, weights):
        for p, q in zip(law, target):
            if p > 0 and q == 0:
                excluded += weight * p
            elif p > 0:
                rest += weight * p * math.log(p / q)
    return excluded, rest


@given(seed=st.integers(0, 10**6), size=st.sampled_from([2, 3]))
@examples(15)
def test_reverse_where_every_token_is_excluded_by_some_target(seed, size):
    """Of the laws with the least excluded mass the one with the least divergence elsewhere: against a grid of laws."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2.0)
    sure = np.eye(size) if rng.random() < 0.5 else 1 - np.eye(size)  # each token excluded by as much
    laws = np.concatenate([sure / sure.sum(axis=1, keepdims=True), rng.dirichlet(np.ones(size), size=2)])
    weights = np.concatenate([np.full(size, weight), rng.uniform(0.1, 2.0, 2)])
    with np.errstate(divide="ignore"):
        targets = Targets(
            np.zeros((len(laws), 0), int), np.zeros((len(laws), 1), int), np.log(laws)[:, None], weights[:, None]
        )
    steps = np.array([(*p, 60 - sum(p)) for p in itertools.product(range(61), repeat=size - 1) if sum(p) <= 60]) / 60
    classes = [MarkovClass(size, 0), NGramClass(size, 1)] + [BernoulliClass(), BernoulliClass(0.3)] * (size == 2)
    for members in classes:
        policy, report = fit_class(members, targets, divergence="reverse")
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
    targets = Targets(np.zeros((3, 0), int), np.zeros((3, 1), int), laws, np.ones((3, 1)))
    assert fit_class(BernoulliClass(), targets, divergence="reverse")[0].theta == pytest.approx(0.25)


# -- smoothing of soft targets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.05, 0.5])
def test_smoothed_soft_targets_against_a_scalar_minimiser(lam, rng):
    laws = rng.dirichlet(np.ones(2), size=(7, 3))
    targets = Targets(
        np.zeros((7, 0), int), rng.integers(2, size=(7, 3)), np.log(laws), rng.random((7, 3))
    ).normalised()
    members = BernoulliClass(0.01)
    policy, report = fit_class(members, targets, smoothing=lam)
    loss = lambda theta: policy_parts(members.policy(theta), targets, "forward", lam)[1]  # noqa: E731
    best = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-11})
    assert policy.theta == pytest.approx(best.x, abs=1e-5) and report.objective <= best.fun + 1e-12
    _, other = fit_class(MarkovClass(2, 0), targets, smoothing=lam)
    assert other.objective <= report.objective + 1e-12
    _, third = fit_class(ARLinearClass(WindowOneHot(2, 1), 6.0), targets, smoothing=lam)
    assert third.objective <= other.objective + 1e-8 and np.isnan(third.gap)


# -- classes from elsewhere --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_general_solver_is_newtons_method_where_both_can(kind, rng):
    members = ARLinearClass(WindowOneHot(3, 1), 3.0)
    laws = rng.dirichlet(np.ones(3), size=(20, 5))
    targets = Targets(rng.integers(3, size=(20, 1)), rng.integers(3, size=(20, 5)), np.log(laws), rng.random((20, 5)))
    _, newton = fit_class(members, targets, divergence=kind, tol=1e-10)
    _, general = fit_parametric(members, targets.normalised(), divergence=kind, tol=1e-7)
    assert general.objective == pytest.approx(newton.objective, abs=1e-8)
    assert general.details["projected_gradient"] <= 1e-7 and general.converged and np.isnan(general.gap)
    smoothed, other = (
        fit_class(members, targets, smoothing=0.1, tol=1e-8)[1],
        fit_parametric(members, targets.normalised(), smoothing=0.1, tol=1e-7)[1],
    )
    assert other.objective == pytest.approx(smoothed.objective, abs=1e-6)


@pytest.mark.filterwarnings("ignore:the loss ended after")  # almost kinks
@pytest.mark.parametrize(
    "members", [Tempered(MarkovPolicy([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]], 1), 0.2, 5.0), Logits(2)]
)
def test_a_class_of_ones_own_is_fitted_by_every_learner(members):
    task = make_task("Contamination", horizon=4, eps=0.2, p=0.1, q=0.8, theta_min=0.01)
    data = collect(task, 40, np.random.default_rng(0), expert_log_probs=True)
    check_policy_class(members, prompt_length=1)
    for agent in (agents.LogLossBC(tol=1e-6), agents.SmoothedLogLossBC(0.1, tol=1e-6), agents.TaiLrBC(0.1, tol=1e-6)):
        check_agent(agent, problems=[Problem("own", members, data)], atol=1e-3, skip="files")  # local functions
    for agent in (
        agents.DAgger(task, rounds=2, rollouts=20, tol=1e-6),
        agents.ForwardTraining(task, rollouts=20, tol=1e-5),
        agents.OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, tol=1e-6),
        agents.OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, divergence="reverse", tol=1e-6),
        agents.ScheduledSampling(rounds=2, tol=1e-6),
        agents.AdversarialImitation(rounds=2, rollouts=20, settle=10.0, tol=1e-6),
        agents.TaiLrBC(1.0, tol=1e-5),
        agents.ClippedRatioBC(chunk=1, tol=1e-4),
    ):
        agent.fit(data, members)
        assert np.isfinite(agent.policy_.log_probs(data.prompts, data.tokens)).all(), agent


def test_the_tempered_maximum_likelihood_against_a_scalar_minimiser(rng):
    base = TabularPolicy.random(3, 4, rng, prompt_length=1)
    prompts = rng.integers(3, size=(200, 1))
    data = Demonstrations(prompts, base.sample(prompts, 4, rng), 3)
    for low, high in ((0.2, 5.0), (0.2, 0.5), (2.0, 9.0)):  # inside, and at either end
        members = Tempered(base, low, high)
        agent = agents.LogLossBC(tol=1e-6).fit(data, members)
        loss = lambda b, m=members: -m.policy([b]).log_probs(data.prompts, data.tokens).sum(axis=1).mean()  # noqa: E731
        best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
        assert agent.fit_report_.objective == pytest.approx(best.fun, abs=1e-6)
        assert agent.fit_report_.details["certificate"] == "projected gradient"


def test_excluded_tokens_come_first_in_a_class_of_ones_own():
    base = MarkovPolicy([[0.5, 0.5, 0.0]] * 4, order=1)
    data = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0, 1], [0, 2, 1]]), 3)
    report = agents.LogLossBC().fit(data, Tempered(base, 0.5, 2.0)).fit_report_
    assert report.objective == np.inf and report.details["zero_density_tokens"] == pytest.approx(0.5)
    assert report.details["log_loss_elsewhere"] == pytest.approx(2.5 * np.log(2))
    with pytest.raises(ValueError, match=r"reverse KL is infinite: .* members of Tempered do not"):
        fit_class(Tempered(MarkovPolicy([[0.5, 0.5, 0.0]] * 4, order=1), 0.5, 2.0), data, divergence="reverse")


def test_finite_members_from_elsewhere_go_everywhere(rng):
    class Few(FiniteClass):
        def __init__(self):
            super().__init__([Tempered(MarkovPolicy([[0.2, 0.8]] * 3, 1), 0.1, 9.0).policy([b]) for b in (0.5, 1, 2)])

    data = Demonstrations(np.zeros((9, 0), int), rng.integers(2, size=(9, 4)), 2)
    for agent in (agents.LogLossBC(), agents.SmoothedLogLossBC(), agents.RhoEstimatorBC()):
        assert agent.fit(data, Few()).fit_report_.details["index"] == 0
    check_policy_class(Few())


@pytest.mark.slow
def test_the_rho_game_of_one_parameter_is_that_of_the_bernoulli_class():
    """Tempered coins are coins: the grid's winner is worth what branch and bound proves."""
    task = make_task("Contamination", horizon=8, eps=0.1, p=0.05, q=0.9, theta_min=0.02)
    data = collect(task, 200, np.random.default_rng(0))
    members = Tempered(BernoulliPolicy(0.1, on="flips"), 0.0, np.log(49) / np.log(9))
    exact = agents.RhoEstimatorBC().fit(data, BernoulliClass(0.02, 0.5, on="flips"))
    found = agents.RhoEstimatorBC().fit(data, members)
    assert found.fit_report_.objective == pytest.approx(exact.fit_report_.objective, rel=1e-3)
    assert np.isnan(found.fit_report_.gap) and found.fit_report_.details["certificate"] == "exact over a grid"
    with pytest.raises(NotTractableError, match=r"a class of one parameter .* Logits has 2 in"):
        agents.RhoEstimatorBC().fit(data, Logits(2))


class WrongSlope(Tempered):
    def pull_back(self, beta, prompts, tokens, by_log_prob):
        return 1.1 * super().pull_back(beta, prompts, tokens, by_log_prob)


class WrongLaws(Tempered):
    def laws(self, beta, prompts, tokens):
        return self.base.forced_log_probs(prompts, tokens)


class NotOnto(Logits):
    def project(self, logits):
        return 0.5 * super().project(logits)


class NotNearest(Logits):
    def project(self, logits):
        bounded = np.clip(logits, -3.0, 3.0)
        return bounded if np.array_equal(bounded, logits) else np.zeros_like(logits)


class FarStart(Tempered):
    def starts(self):
        return np.array([[-1.0]])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (WrongSlope(BernoulliPolicy(0.2), 0.5, 2.0), r"WrongSlope.pull_back at .* must be the gradient"),
        (WrongLaws(BernoulliPolicy(0.2), 0.5, 2.0), r"WrongLaws.laws at .* are not the forced_log_probs"),
        (NotOnto(2), r"NotOnto.project moves .* must stay"),
        (NotNearest(2), r"NotNearest.project maps .* not the nearest point"),
        (FarStart(BernoulliPolicy(0.2), 0.5, 2.0), r"FarStart.project moves .* start"),
        ("members", "str must subclass"),
    ],
    ids=lambda value: value.partition(".")[0] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_wrong_with_a_class_is_named(members, message):
    with pytest.raises(AssertionError, match=message):
        check_policy_class(members)


@pytest.mark.parametrize(
    "members", [p.policy_class for p in default_problems(agents.LogLossBC())], ids=lambda m: type(m).__name__
)
def test_our_classes_keep_the_contract(members):
    check_policy_class(members, prompt_length=1)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [(([0.0], [[1.0]]), r"both must be \(D,\)"), (([], []), r"both must be"), (([2.0], [1.0]), "the class is empty")],
)
def test_bounds_that_make_no_class(bounds, message):
    class Bounded(ParametricClass):
        def policy(self, parameters):
            return BernoulliPolicy(0.5)

    with pytest.raises(ValueError, match=message):
        Bounded(2, lower=bounds[0], upper=bounds[1])
