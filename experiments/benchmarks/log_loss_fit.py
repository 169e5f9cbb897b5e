"""Maximum likelihood of an autoregressive linear model, against scikit-learn's logistic regression (lbfgs).

Data are 10^4 sequences of 64 tokens (640 000 rows) from a member of the class; the features are the last
``width`` tokens, one-hot, and a constant.

* Ours is timed from the demonstrations to the certified optimum, features included: ``maximum_likelihood`` with a gap
  of 1e-8 nats a token.
* The peer is ``LogisticRegression(C=inf, solver="lbfgs")`` on the feature matrix, which is made before its time starts.
  Its tolerance is on the gradient, so it is lowered by tens until its loss is within 1e-8 nats a token of our certified
  optimum, and fits of the first tolerance that gets there count (of the last one, marked "gap not reached", if none
  does).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from agents.base import FitReport
from agents.linear_likelihood import maximum_likelihood
from experiments.benchmarks import Clock, Row, compare, main
from ntp_envs import ARLinearPolicy, Demonstrations
from ntp_envs.features import WindowOneHot

GAP = 1e-8  # nats a token
RADIUS = 20.0
WORKS = (  # name, vocabulary, width
    ("A=2, d=63, contexts mostly distinct", 2, 31),
    ("A=2, finite window of 7, contexts pooled", 2, 7),
    ("A=16, d=528, finite window of 2, contexts pooled", 16, 2),
    ("A=16, d=1040, window of 4", 16, 4),
)


def data(features: WindowOneHot, n: int, horizon: int, rng: np.random.Generator) -> Demonstrations:
    """Sequences from a member of norm 6 with random weights."""
    theta = rng.normal(size=features.dimension)
    prompts = rng.integers(0, features.vocab_size, (n, 1))
    policy = ARLinearPolicy(features, theta * (6.0 / np.linalg.norm(theta)))
    return Demonstrations(prompts, policy.sample(prompts, horizon, rng), vocab_size=features.vocab_size)


def against_lbfgs(
    work: str,
    ours: Callable[[], FitReport],
    fit: Callable[[float], Any],
    excess: Callable[[Any, FitReport], float],
    *,
    gap: float,
    tolerances: Sequence[float],
    repeats: int,
) -> list[Row]:
    """Compare with scikit-learn's lbfgs, stopped by the first tolerance that brings it near enough to our optimum.

    Args:
        work: what is done.
        ours: the fit with its report, of which the objective and the gap are read.
        fit: the peer's model at a tolerance.
        excess: of that model's loss over ours, in nats a token.
        gap: the excess that counts as the same optimum.
        tolerances: of the peer, from the loosest.
        repeats: how often both fit.
    """
    report, tolerance, reached = ours(), tolerances[-1], False
    for tolerance in tolerances:
        reached = excess(fit(tolerance), report) <= gap
        if reached:
            break

    def our_side(clock: Clock) -> FitReport:
        with clock():
            return ours()

    def their_side(clock: Clock) -> Any:
        with clock():
            return fit(tolerance)

    def agree(report: FitReport, model: Any) -> bool:
        found = excess(model, report)
        return found >= -gap and (found <= gap or not reached)

    peer = "scikit-learn lbfgs" + ("" if reached else " (gap not reached)")
    return compare(work, our_side, {peer: their_side}, agree=agree, repeats=repeats)


def lbfgs(tolerance: float, rows: Any, answers: Any, *, strength: float = np.inf, weights: Any = None) -> Any:
    """The fitted model of scikit-learn, which warns where it stops early."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, fit_intercept=False, solver="lbfgs", tol=tolerance, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows, answers, sample_weight=weights)


def fitted(work: str, vocab_size: int, width: int, *, quick: bool) -> list[Row]:
    """One work."""
    features = WindowOneHot(vocab_size, width)
    demos = data(features, 1000 if quick else 10_000, 64, np.random.default_rng(0))
    rows = features.path(demos.prompts, demos.tokens).reshape(-1, features.n_context)

    def excess(model: Any, report: FitReport) -> float:
        policy = ARLinearPolicy(features, model.coef_.ravel())
        loss = -float(policy.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean())
        return (loss - report.objective + report.gap) / demos.horizon

    return against_lbfgs(
        work,
        lambda: maximum_likelihood(WindowOneHot(vocab_size, width), RADIUS, demos, tol=GAP * demos.horizon)[1],
        lambda tolerance: lbfgs(tolerance, rows, demos.tokens.ravel()),
        excess,
        gap=GAP,
        tolerances=(1e-5, 1e-6, 1e-7, 1e-8),
        repeats=2 if quick else 3,
    )


def measure(quick: bool) -> Iterator[Row]:
    """Every work; ``quick`` has 1000 sequences instead of 10^4."""
    for work in WORKS:
        yield from fitted(*work, quick=quick)


if __name__ == "__main__":
    main("log_loss_fit")
