"""The norm bound chosen by held-out chunk likelihood."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agents.splits import holdout_split
from ntp_envs import Demonstrations

__all__ = ["GRID", "choose_norm_bound", "held_out_score", "split"]

FloatArray = NDArray[np.float64]

#: norm bounds tried are the K-th powers of these, K the chunk length (the norm of a product is the product of norms)
GRID = (0.6, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
HELD_OUT = 0.25
#: improvements of the score below this, in nats a chunk, are not worth a larger ball
WORTH = 1e-6


def split(demonstrations: Demonstrations, rng: np.random.Generator) -> tuple[Demonstrations, Demonstrations] | None:
    """A random quarter of the sequences held out; ``None`` where there are fewer than 8 of positive weight."""
    if np.count_nonzero(demonstrations.normalised_weights()) < 8:
        return None
    return holdout_split(demonstrations, HELD_OUT, rng)


def held_out_score(law: FloatArray, weights: FloatArray, smoothing: float) -> float:
    """Mean log-probability of held-out chunks, after mixing the law with ``smoothing`` times the uniform one.

    Without smoothing one unseen string of probability 0 would decide alone.

    Args:
        law: ``(n, S)`` probabilities.
        weights: ``(n, S)`` held-out frequencies.
        smoothing: in [0, 1).
    """
    mixed = (1.0 - smoothing) * law + smoothing / law.shape[1]
    seen = weights > 0
    with np.errstate(divide="ignore"):
        return float((weights[seen] * np.log(mixed[seen])).sum())


def choose_norm_bound(score: Callable[[float], float], chunk: int) -> tuple[float, list[tuple[float, float]]]:
    """The bound of highest score on `GRID` (the smallest, where scores tie to 1e-6 nats), and all scores seen.

    The grid is climbed from below and left after two values in a row that are no better than the best.

    Args:
        score: held-out score at a bound.
        chunk: K.
    """
    tried: list[tuple[float, float]] = []
    best, top, stale = GRID[0] ** chunk, -np.inf, 0
    for base in GRID:
        value = score(base**chunk)
        tried.append((base**chunk, value))
        if value > top + WORTH:
            best, top, stale = base**chunk, value, 0
        else:
            stale += 1
            if stale == 2:
                break
    return best, tried
