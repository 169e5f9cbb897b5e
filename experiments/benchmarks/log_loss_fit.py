"""Maximum likelihood of an autoregressive linear model, against scikit-learn's logistic regression (lbfgs).

Run ``python -m experiments.benchmarks.log_loss_fit``; it prints seconds of ours, of the peer, and their ratio in the
same run. Data are 10^4 sequences of 64 tokens (640 000 rows) from a member of the class; the features are the last
``width`` tokens, one-hot, and a constant.

* Ours is timed from the demonstrations to the certified optimum, features included: ``maximum_likelihood`` with a gap
  of 1e-8 nats a token.
* The peer is ``LogisticRegression(C=inf, solver="lbfgs")`` on the feature matrix, which is made before its time starts.
  Its tolerance is on the gradient, so it is lowered by tens until its loss is within 1e-8 nats a token of our certified
  optimum, and the time of the first run that gets there counts (of the last one, marked "not reached", if none does).

Use one BLAS thread (``OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1``) for figures that can be compared.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents.linear_likelihood import maximum_likelihood
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


def peer_seconds(features: WindowOneHot, demos: Demonstrations, optimum: float) -> tuple[float, float]:
    """Seconds of scikit-learn's fit, and its excess loss in nats a token over ``optimum`` (nats a sequence)."""
    from sklearn.linear_model import LogisticRegression

    rows = features.path(demos.prompts, demos.tokens).reshape(-1, features.n_context)
    answers = demos.tokens.ravel()
    seconds, excess = np.inf, np.inf
    for tol in (1e-5, 1e-6, 1e-7, 1e-8):
        model = LogisticRegression(C=np.inf, fit_intercept=False, solver="lbfgs", tol=tol, max_iter=10_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model.fit(rows, answers)
            seconds = time.perf_counter() - start
        policy = ARLinearPolicy(features, model.coef_.ravel())
        loss = -float(policy.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean())
        excess = (loss - optimum) / demos.horizon
        if excess <= GAP:
            break
    return seconds, excess


def measure(quick: bool = False, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of `run`, each as soon as it is measured."""
    for work, vocab_size, width in WORKS:
        features = WindowOneHot(vocab_size, width)
        demos = data(features, 1000 if quick else 10_000, 64, np.random.default_rng(seed))
        tol = GAP * demos.horizon
        ours = np.inf
        for _ in range(4):
            start = time.perf_counter()
            _, report = maximum_likelihood(WindowOneHot(vocab_size, width), RADIUS, demos, tol=tol)
            ours = min(ours, time.perf_counter() - start)
        peer_s, excess = peer_seconds(features, demos, report.objective - report.gap)
        yield {
            "work": work,
            "ours_s": ours,
            "peer": "scikit-learn lbfgs" + ("" if excess <= GAP else " (gap not reached)"),
            "peer_s": peer_s,
            "ratio": peer_s / ours,
            "gap": report.gap / demos.horizon,
            "peer_excess": excess,
        }


def run(quick: bool = False, *, seed: int = 0) -> list[dict[str, Any]]:
    """Measure, and return rows with keys work, ours_s, peer, peer_s, ratio, gap, peer_excess (nats a token).

    Args:
        quick: 1000 sequences instead of 10^4.
        seed: of the data.
    """
    return list(measure(quick, seed=seed))


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1000 sequences instead of 10000")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for row in measure(options.quick, seed=options.seed):
        print(
            f"{row['work']}: ours {row['ours_s']:.4g} s (gap {row['gap']:.1e}), {row['peer']} {row['peer_s']:.4g} s "
            f"(excess {row['peer_excess']:.1e}), ratio {row['ratio']:.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
