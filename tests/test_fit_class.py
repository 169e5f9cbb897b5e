"""Every kind of class, to hard and soft targets: one-hot laws are tokens, and a class from elsewhere is fitted too."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from agents import (
    AdversarialImitation,
    ClippedRatioBC,
    DAgger,
    ForwardTraining,
    LogLossBC,
    OnPolicyDistillation,
    RhoEstimatorBC,
    ScheduledSampling,
    SmoothedLogLossBC,
    TaiLrBC,
)
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
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.checks import NotTractableError
from ntp_envs.features import WindowOneHot
from ntp_envs.policy_classes import ParametricClass
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
    yield from (problem.policy_class for problem in default_problems(LogLossBC()))
    yield finite
    yield Tempered(MarkovPolicy(rng.dirichlet(np.ones(3), size=4), order=1), 0.2, 5.0)


def test_every_registered_class_is_among_them(rng):
    found = {kind for members in members_of(rng) for kind in type(members).__mro__}
    assert {kind for kind in best_member.registry if kind is not object} <= found


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
        demos = Demonstrations(prompts, tokens, size, weights=rng.exponential(size=12) if seed % 2 else None)
        hard = Targets.of(demos)
        others = replace(hard, answers=rng.integers(size, size=tokens.shape), weights=rng.random(tokens.shape))
        for targets in (hard, others):
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
    for agent in (LogLossBC(tol=1e-6), SmoothedLogLossBC(0.1, tol=1e-6), TaiLrBC(0.1, tol=1e-6)):
        check_agent(agent, problems=[Problem("own", members, data)], atol=1e-3, skip="files")  # local functions
    for agent in (
        DAgger(task, rounds=2, rollouts=20, tol=1e-6),
        ForwardTraining(task, rollouts=20, tol=1e-5),
        OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, tol=1e-6),
        OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, divergence="reverse", tol=1e-6),
        ScheduledSampling(rounds=2, tol=1e-6),
        AdversarialImitation(rounds=2, rollouts=20, settle=10.0, tol=1e-6),
        TaiLrBC(1.0, tol=1e-5),
        ClippedRatioBC(chunk=1, tol=1e-4),
    ):
        agent.fit(data, members)
        assert np.isfinite(agent.policy_.log_probs(data.prompts, data.tokens)).all(), agent


def test_the_tempered_maximum_likelihood_against_a_scalar_minimiser(rng):
    base = TabularPolicy.random(3, 4, rng, prompt_length=1)
    prompts = rng.integers(3, size=(200, 1))
    data = Demonstrations(prompts, base.sample(prompts, 4, rng), 3)
    for low, high in ((0.2, 5.0), (0.2, 0.5), (2.0, 9.0)):  # inside, and at either end
        members = Tempered(base, low, high)
        agent = LogLossBC(tol=1e-6).fit(data, members)
        loss = lambda b, m=members: -m.policy([b]).log_probs(data.prompts, data.tokens).sum(axis=1).mean()  # noqa: E731
        best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
        assert agent.fit_report_.objective == pytest.approx(best.fun, abs=1e-6)
        assert agent.fit_report_.details["certificate"] == "projected gradient"


def test_excluded_tokens_come_first_in_a_class_of_ones_own():
    base = MarkovPolicy([[0.5, 0.5, 0.0]] * 4, order=1)
    data = Demonstrations(np.zeros((2, 0), int), np.array([[0, 0, 1], [0, 2, 1]]), 3)
    report = LogLossBC().fit(data, Tempered(base, 0.5, 2.0)).fit_report_
    assert report.objective == np.inf and report.details["zero_density_tokens"] == pytest.approx(0.5)
    assert report.details["log_loss_elsewhere"] == pytest.approx(2.5 * np.log(2))
    with pytest.raises(ValueError, match=r"reverse KL is infinite: .* members of Tempered do not"):
        fit_class(Tempered(MarkovPolicy([[0.5, 0.5, 0.0]] * 4, order=1), 0.5, 2.0), data, divergence="reverse")


def test_finite_members_from_elsewhere_go_everywhere(rng):
    class Few(FiniteClass):
        def __init__(self):
            super().__init__([Tempered(MarkovPolicy([[0.2, 0.8]] * 3, 1), 0.1, 9.0).policy([b]) for b in (0.5, 1, 2)])

    data = Demonstrations(np.zeros((9, 0), int), rng.integers(2, size=(9, 4)), 2)
    for agent in (LogLossBC(), SmoothedLogLossBC(), RhoEstimatorBC()):
        assert agent.fit(data, Few()).fit_report_.details["index"] == 0
    check_policy_class(Few())


def test_the_rho_game_of_one_parameter_is_that_of_the_bernoulli_class():
    """Tempered coins are coins: the grid's winner is worth what branch and bound proves."""
    task = make_task("Contamination", horizon=8, eps=0.1, p=0.05, q=0.9, theta_min=0.02)
    data = collect(task, 200, np.random.default_rng(0))
    members = Tempered(BernoulliPolicy(0.1, on="flips"), 0.0, np.log(49) / np.log(9))
    exact = RhoEstimatorBC().fit(data, BernoulliClass(0.02, 0.5, on="flips"))
    found = RhoEstimatorBC().fit(data, members)
    assert found.fit_report_.objective == pytest.approx(exact.fit_report_.objective, rel=1e-3)
    assert np.isnan(found.fit_report_.gap) and found.fit_report_.details["certificate"] == "exact over a grid"
    with pytest.raises(NotTractableError, match=r"a class of one parameter .* Logits has 2 in"):
        RhoEstimatorBC().fit(data, Logits(2))


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
    "members", [p.policy_class for p in default_problems(LogLossBC())], ids=lambda m: type(m).__name__
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
