"""Smoothing in the autoregressive linear class: derivatives, certificates, and the one case with a closed form."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.special import logit

from agents import ConvergenceWarning, SmoothedLogLossBC, ball
from agents.linear_likelihood import SmoothedLoss, minimise_smoothed
from ntp_envs import ARLinearClass, BernoulliClass, Demonstrations, collect, make_task
from ntp_envs.features import ContextFeatureMap, FeatureMap, FlipSign, WindowOneHot

rng = np.random.default_rng(0)


class NoTable(ContextFeatureMap):
    """The features of another map, without its table of states."""

    def __init__(self, features):
        super().__init__(features.vocab_size, features.n_context)
        self.features = features

    def context(self, prompts, tokens):
        return self.features.context(prompts, tokens)


class Joint(FeatureMap):
    """The features of another map, as joint ones."""

    def __init__(self, features):
        super().__init__(features.vocab_size, features.dimension)
        self.features = features

    def joint(self, prompts, tokens):
        return self.features.joint(prompts, tokens)


CASES = [
    (WindowOneHot(2, 3), 1),
    (WindowOneHot(3, 2), 0),
    (FlipSign(), 1),
    (NoTable(WindowOneHot(3, 2)), 1),
    (Joint(WindowOneHot(2, 2)), 0),
    (Joint(WindowOneHot(3, 1)), 2),
]


def draw(features, prompt_length, n=60, horizon=6):
    size = features.vocab_size
    tokens = rng.integers(size, size=(n, horizon)) * (rng.random((n, 1)) < 0.5)
    prompts = rng.integers(size, size=(n, prompt_length))
    return Demonstrations(prompts, tokens, vocab_size=size, weights=rng.random(n))


@pytest.mark.parametrize(("features", "prompt_length"), CASES, ids=repr)
@pytest.mark.parametrize("lam", [1e-3, 0.3])
def test_the_loss_is_its_definition_and_the_gradient_its_derivative(features, prompt_length, lam):
    demos = draw(features, prompt_length)
    loss, theta = SmoothedLoss(features, demos, lam), rng.normal(size=features.dimension)
    policy = ARLinearClass(features, 100.0).policy(theta)
    log_probs = policy.log_probs(demos.prompts, demos.tokens)
    expected = -demos.normalised_weights() @ np.log((1 - lam) * np.exp(log_probs) + lam / demos.vocab_size).sum(axis=1)
    assert loss(theta)[0] == pytest.approx(expected, rel=1e-12)
    assert check_grad(lambda t: loss(t)[0], lambda t: loss(t)[1], theta) < 2e-6


@pytest.mark.parametrize(("features", "prompt_length"), CASES, ids=repr)
@pytest.mark.parametrize("radius", [1.0, 5.0])
def test_as_good_as_a_constrained_optimiser(features, prompt_length, radius):
    demos, lam = draw(features, prompt_length), 0.1
    loss, start = SmoothedLoss(features, demos, lam), np.zeros(features.dimension)
    theta, report = minimise_smoothed(ARLinearClass(features, radius), demos, lam, start=start, tol=1e-7)
    ball = {"type": "ineq", "fun": lambda t: radius**2 - t @ t, "jac": lambda t: -2 * t}
    found = minimize(loss, start, jac=True, method="SLSQP", constraints=[ball], options={"ftol": 1e-14, "maxiter": 500})
    assert np.linalg.norm(theta) <= radius * (1 + 1e-12)
    assert report.converged and report.details["stationarity"] <= 1e-7 and np.isnan(report.gap)
    assert report.objective == pytest.approx(found.fun, abs=1e-6)
    assert report.objective == pytest.approx(loss(theta)[0], rel=1e-12)
    gradient = loss(theta)[1]
    steepest = -radius * gradient / max(np.linalg.norm(gradient), 1e-300)
    assert gradient @ (theta - steepest) <= 1e-7


def test_what_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(ball, "MAX_ITERATIONS", 1)
    features = WindowOneHot(2, 2)
    demos, start = draw(features, 1), np.zeros(5)
    with pytest.warns(ConvergenceWarning, match=r"after 1 iterations: .* above tol=1e-08. Raise tol"):
        theta, report = minimise_smoothed(ARLinearClass(features, 2.0), demos, 0.1, start=start, tol=1e-8)
    loss = SmoothedLoss(features, demos, 0.1)
    assert not report.converged and report.details["stationarity"] > 1e-8
    assert loss(theta)[0] <= loss(start)[0]


def test_one_dimension_agrees_with_the_closed_form_of_the_bernoulli_class():
    """Flips of probability theta are the class of dimension one with log-odds +-logit(theta)."""
    task = make_task("Contamination", horizon=32, eps=0.05, p=0.02, q=0.9, theta_min=0.01)
    demos = collect(task, 300, np.random.default_rng(1))
    linear = ARLinearClass(FlipSign(), radius=float(logit(1 - 0.01)))
    for lam in ("1/(nH)", "1/H", 0.2):
        closed = SmoothedLogLossBC(lam).fit(demos, BernoulliClass(0.01, on="flips"))
        fitted = SmoothedLogLossBC(lam).fit(demos, linear)
        assert fitted.fit_report_.objective == pytest.approx(closed.fit_report_.objective, abs=1e-7)
        log_probs = [a.policy_.log_probs(demos.prompts, demos.tokens) for a in (closed, fitted)]
        np.testing.assert_allclose(*log_probs, atol=1e-3)
