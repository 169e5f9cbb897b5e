"""Maximum likelihood of a large linear token window on English text, against scikit-learn's logistic regression.

The text is what every CPython ships for its own help
(``pydoc_data.topics``), as sequences of 128 characters of 60 kinds after 16 more; the features are the last ``width``
characters, one-hot, and a constant.

* Ours is timed from the demonstrations to the certified optimum: ``maximum_likelihood`` in a ball of radius 200, with a
  gap of 1e-4 nats a token.
* The peer is ``LogisticRegression(solver="lbfgs")`` on the sparse matrix of the same features, distinct pairs of
  context and next token with their counts as sample weights, made before its time starts. Its penalty is the multiplier
  of the ball at our optimum, so that both have the same minimiser (ours had to find it). Its tolerance is on the
  gradient: it is lowered by tens until its penalised loss is within 1e-4 nats a token of ours, as in
  `experiments.benchmarks.log_loss_fit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents.base import FitReport
from agents.linear_likelihood import maximum_likelihood
from agents.linear_rows import distinct_rows
from experiments.benchmarks import Row
from experiments.benchmarks.log_loss_fit import against_lbfgs, lbfgs
from ntp_envs import ARLinearPolicy, Demonstrations
from ntp_envs.features import WindowOneHot

GAP = 1e-4  # nats a token
VOCABULARY = 60
HORIZON, PROMPT = 128, 16


def text(tokens: int) -> Demonstrations:
    """The first ``tokens`` characters of the text, the 59 most frequent kinds and one for the others."""
    from pydoc_data.topics import topics

    characters = "\n".join(topics.values())[: tokens + PROMPT]
    frequent = [kind for kind, _ in Counter(characters).most_common(VOCABULARY - 1)]
    number = {kind: i for i, kind in enumerate(frequent)}
    line = np.array([number.get(character, VOCABULARY - 1) for character in characters])
    starts = np.arange(0, len(line) - PROMPT - HORIZON + 1, HORIZON)
    rows = line[starts[:, None] + np.arange(PROMPT + HORIZON)]
    return Demonstrations(rows[:, :PROMPT], rows[:, PROMPT:], vocab_size=VOCABULARY)


def window(demos: Demonstrations, width: int, radius: float, goal: str) -> Row:
    """One window."""
    from scipy.sparse import vstack

    features = WindowOneHot(VOCABULARY, width)
    places = features.active_path(demos.prompts, demos.tokens).reshape(-1, features.n_active)
    first, which = distinct_rows(np.column_stack([places, demos.tokens.ravel()]), features.n_context + 1)
    counts = np.bincount(which).astype(np.float64)
    rows = vstack([part for _, part in features.matrices(places[first])]).tocsr()
    penalty = 0.0  # of the last fit of ours

    def ours() -> FitReport:
        nonlocal penalty
        report = maximum_likelihood(features, radius, demos, tol=GAP * HORIZON)[1]
        penalty = report.details["multiplier"]
        return report

    def fit(tolerance: float) -> Any:
        strength = 1 / (penalty * len(demos))
        return lbfgs(tolerance, rows, demos.tokens.ravel()[first], strength=strength, weights=counts)

    def excess(model: Any, report: FitReport) -> float:
        weights = np.zeros((features.vocab_size, features.n_context))
        weights[model.classes_] = model.coef_
        log_probs = ARLinearPolicy(features, weights.ravel()).log_probs(demos.prompts, demos.tokens)
        loss = -float(log_probs.sum(1).mean()) + penalty * float(np.vdot(weights, weights)) / 2
        return (loss - report.objective - penalty * report.details["norm"] ** 2 / 2) / demos.horizon

    return against_lbfgs(
        f"maximum likelihood, window of {width} characters",
        f"A={VOCABULARY}, d={features.dimension}, {demos.tokens.size} tokens of English",
        ours,
        fit,
        excess,
        gap=GAP,
        goal=goal,
    )


def rows(quick: bool) -> Iterator[Row]:
    """Every window; ``quick`` has 2000 tokens instead of 300,000, and a ball of radius 2."""
    demos, radius = (text(2000), 2.0) if quick else (text(300_000), 200.0)
    for width, goal in ((2, "7x"), (4, "3x"), (16, "3x")):
        yield window(demos, width, radius, goal)
