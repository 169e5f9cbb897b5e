"""Maximum likelihood of an autoregressive linear model, against scikit-learn's logistic regression (lbfgs).

Data are sequences of 64 tokens from a member of the class; the features are the last ``width`` tokens, one-hot, and a
constant.

* Ours is timed from the demonstrations to the certified optimum, features included: ``maximum_likelihood`` with a gap
  of 1e-8 nats a token.
* The peer is ``LogisticRegression(C=inf, solver="lbfgs")`` on the feature matrix, which is made before its time starts.
  Its tolerance is on the gradient, so it is lowered by tens until its loss is within 1e-8 nats a token of our certified
  optimum, and fits of the first tolerance that gets there count (of the last one, marked "gap not reached", if none
  does).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from agents.base import FitReport
from agents.linear_likelihood import maximum_likelihood
from experiments.benchmarks import Row, Side, optional, timed
from ntp_envs import ARLinearPolicy, Demonstrations
from ntp_envs.features import WindowOneHot

GAP = 1e-8  # nats a token
RADIUS = 20.0
WORKS = (  # name, vocabulary, width, sequences, goal
    ("contexts mostly distinct", 2, 31, 10_000, "25x"),
    ("window of 7 bits", 2, 7, 10_000, "100x"),
    ("window of 2 of 16 tokens", 16, 2, 2000, "100x"),
    ("window of 4 of 16 tokens", 16, 4, 2000, "25x"),
)


def data(features: WindowOneHot, n: int, horizon: int, rng: np.random.Generator) -> Demonstrations:
    """Sequences from a member of norm 6 with random weights."""
    theta = rng.normal(size=features.dimension)
    prompts = rng.integers(0, features.vocab_size, (n, 1))
    policy = ARLinearPolicy(features, theta * (6.0 / np.linalg.norm(theta)))
    return Demonstrations(prompts, policy.sample(prompts, horizon, rng), vocab_size=features.vocab_size)


def against_lbfgs(
    work: str,
    size: str,
    ours: Callable[[], FitReport],
    fit: Callable[[float], Any],
    excess: Callable[[Any, FitReport], float],
    *,
    gap: float,
    goal: str,
) -> Row:
    """Against scikit-learn's lbfgs, stopped by the first tolerance that brings it near enough to our optimum.

    Args:
        work, size, goal: see `Row`.
        ours: the fit with its report, of which the objective and the gap are read.
        fit: the peer's model at a tolerance.
        excess: of that model's loss over ours, in nats a token.
        gap: the excess that counts as the same optimum.
    """
    reached = True

    def peer() -> Side:
        nonlocal reached
        report = ours()
        for tolerance in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
            reached = excess(fit(tolerance), report) <= gap
            if reached:
                break
        return timed(lambda: fit(tolerance))

    def agree(report: FitReport, model: Any) -> bool:
        found = excess(model, report)
        return found >= -gap and (found <= gap or not reached)

    peers = {"scikit-learn lbfgs": optional(peer)}
    return Row(work, size, timed(ours), peers, agree, goal, lambda _: "" if reached else "the peer's gap not reached")


def lbfgs(tolerance: float, rows: Any, answers: Any, *, strength: float = np.inf, weights: Any = None) -> Any:
    """The fitted model of scikit-learn, which warns where it stops early."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, fit_intercept=False, solver="lbfgs", tol=tolerance, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows, answers, sample_weight=weights)


def fitted(work: str, vocab_size: int, width: int, n: int, goal: str, *, quick: bool) -> Row:
    """One work."""
    vocab_size = min(vocab_size, 4) if quick else vocab_size
    features = WindowOneHot(vocab_size, width)
    demos = data(features, 50 if quick else n, 64, np.random.default_rng(0))
    contexts = features.path(demos.prompts, demos.tokens).reshape(-1, features.n_context)

    def excess(model: Any, report: FitReport) -> float:
        policy = ARLinearPolicy(features, model.coef_.ravel())
        loss = -float(policy.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean())
        return (loss - report.objective + report.gap) / demos.horizon

    return against_lbfgs(
        f"maximum likelihood, {work}",
        f"A={vocab_size}, d={features.dimension}, {demos.tokens.size} contexts",
        lambda: maximum_likelihood(WindowOneHot(vocab_size, width), RADIUS, demos, tol=GAP * demos.horizon)[1],
        lambda tolerance: lbfgs(tolerance, contexts, demos.tokens.ravel()),
        excess,
        gap=GAP,
        goal=goal,
    )


def rows(quick: bool) -> Iterator[Row]:
    """Every work; ``quick`` has 50 sequences, and 4 tokens instead of 16."""
    for work in WORKS:
        yield fitted(*work, quick=quick)
