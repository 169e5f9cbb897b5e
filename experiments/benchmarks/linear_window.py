"""Maximum likelihood of a large linear token window on English text, against scikit-learn's logistic regression.

Run ``python -m experiments.benchmarks.linear_window``; it prints seconds of processor time of ours, of the peer (each
on one core), and their ratio in the same run. The text is what every CPython ships for its own help
(``pydoc_data.topics``), as sequences of 128 characters of 60 kinds after 16 more; the features are the last ``width``
characters, one-hot, and a constant.

* Ours is timed from the demonstrations to the certified optimum: ``maximum_likelihood`` in a ball of radius 200, with a
  gap of 1e-4 nats a token.
* The peer is ``LogisticRegression(solver="lbfgs")`` on the sparse matrix of the same features, distinct pairs of
  context and next token with their counts as sample weights, made before its time starts. Its penalty is the multiplier
  of the ball at our optimum, so that both have the same minimiser (ours had to find it). Its tolerance is on the
  gradient: it is lowered by tens until its penalised loss is within 1e-4 nats a token of ours, and the time of the
  first run that gets there counts (of the last one, marked "gap not reached", if none does).

Use one BLAS thread (``OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1``) for figures that can be compared.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents.base import FitReport
from agents.linear_likelihood import maximum_likelihood
from agents.linear_rows import distinct_rows
from ntp_envs import ARLinearPolicy, Demonstrations
from ntp_envs.features import WindowOneHot

GAP = 1e-4  # nats a token
RADIUS = 200.0
VOCABULARY = 60
HORIZON, PROMPT = 128, 16
WIDTHS = (2, 4, 16)


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


def peer_seconds(features: WindowOneHot, demos: Demonstrations, report: FitReport) -> tuple[float, float]:
    """Seconds of scikit-learn's fit, and the excess of its penalised loss over ours, in nats a token."""
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    places = features.active_path(demos.prompts, demos.tokens).reshape(-1, features.n_active)
    first, which = distinct_rows(np.column_stack([places, demos.tokens.ravel()]), features.n_context + 1)
    counts = np.bincount(which).astype(np.float64)
    rows = vstack([matrix for _, matrix in features.matrices(places[first])]).tocsr()[:, :-1]
    penalty, norm = report.details["multiplier"], report.details["norm"]
    ours = report.objective + penalty * norm**2 / 2
    seconds, excess = np.inf, np.inf
    for tol in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        model = LogisticRegression(
            C=1 / (penalty * len(demos)), fit_intercept=False, solver="lbfgs", tol=tol, max_iter=10_000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.process_time()
            model.fit(rows, demos.tokens.ravel()[first], sample_weight=counts)
            seconds = time.process_time() - start
        weights = np.zeros((features.vocab_size, features.n_context))
        weights[model.classes_] = model.coef_
        loss = -float(ARLinearPolicy(features, weights.ravel()).log_probs(demos.prompts, demos.tokens).sum(1).mean())
        excess = (loss + penalty * float(np.vdot(weights, weights)) / 2 - ours) / demos.horizon
        if excess <= GAP:
            break
    return seconds, excess


def measure(quick: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of `run`, each as soon as it is measured."""
    demos = text(20_000 if quick else 300_000)
    for width in WIDTHS[:2] if quick else WIDTHS:
        features = WindowOneHot(VOCABULARY, width)
        ours = np.inf
        for _ in range(3 if width < 16 else 1):
            start = time.process_time()
            _, report = maximum_likelihood(features, RADIUS, demos, tol=GAP * HORIZON)
            ours = min(ours, time.process_time() - start)
        peer_s, excess = peer_seconds(features, demos, report)
        yield {
            "work": f"A={VOCABULARY}, window of {width}, d={features.dimension}, {demos.tokens.size} tokens",
            "ours_s": ours,
            "peer": "scikit-learn lbfgs" + ("" if excess <= GAP else " (gap not reached)"),
            "peer_s": peer_s,
            "ratio": peer_s / ours,
            "gap": report.gap / demos.horizon,
            "peer_excess": excess,
            "bits_a_character": report.objective / demos.horizon / np.log(2),
        }


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Measure, and return rows with keys work, ours_s, peer, peer_s, ratio, gap, peer_excess (nats a token),
    bits_a_character.

    Args:
        quick: 20 000 tokens instead of 300 000, and windows of 2 and 4 only.
    """
    return list(measure(quick))


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 000 tokens instead of 300 000, windows of 2 and 4")
    options = parser.parse_args()
    for row in measure(options.quick):
        print(
            f"{row['work']}: ours {row['ours_s']:.4g} s (gap {row['gap']:.1e}), {row['peer']} {row['peer_s']:.4g} s "
            f"(excess {row['peer_excess']:.1e}), ratio {row['ratio']:.3g}; {row['bits_a_character']:.3f} bits a "
            "character",
            flush=True,
        )


if __name__ == "__main__":
    main()
