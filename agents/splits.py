"""Splitting demonstrations into parts to learn from and parts to judge by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations
from ntp_envs._validation import check_generator, check_int, check_probability

__all__ = ["holdout_split", "shuffled_folds"]

IntArray = NDArray[np.int64]


def shuffled_folds(
    demonstrations: Demonstrations, folds: int, rng: np.random.Generator
) -> list[tuple[Demonstrations, Demonstrations]]:
    """Pairs ``(rest, fold)``: every demonstration is in one fold, the sizes of the folds differ by at most one.

    Demonstrations keep their weights; those of weight zero are left out. Within a part they keep their order.

    Args:
        demonstrations: samples. An exact population cannot be split: its parts are no samples of anything.
        folds: at least 2 and at most the number of demonstrations of positive weight.
        rng: one permutation is drawn from it.

    Raises:
        TypeError, ValueError: ``folds`` or ``rng`` that do not fit, or a population.

    >>> demos = Demonstrations(np.zeros((5, 0), int), np.arange(5)[:, None], vocab_size=5)
    >>> [len(fold) for _, fold in shuffled_folds(demos, 2, np.random.default_rng(0))]
    [3, 2]
    """
    order = _shuffled(demonstrations, rng)
    folds = check_int("folds", folds, minimum=2)
    if folds > len(order):
        raise ValueError(
            f"folds={folds} is more than the {len(order)} demonstration(s) of positive weight; use folds in "
            f"[2, {len(order)}] or more demonstrations."
            if len(order) > 1
            else f"folds={folds} need at least {folds} demonstrations of positive weight, and there is 1; collect more."
        )
    parts = np.array_split(order, folds)
    return [_split(demonstrations, order, part) for part in parts]


def holdout_split(
    demonstrations: Demonstrations, fraction: float, rng: np.random.Generator
) -> tuple[Demonstrations, Demonstrations]:
    """``(rest, held out)``: a random ``fraction`` of the demonstrations, rounded, is held out.

    Weights are treated as in `shuffled_folds`.

    Raises:
        TypeError, ValueError: as `shuffled_folds`; ``fraction`` outside (0, 1) or so that one part would be empty.

    >>> demos = Demonstrations(np.zeros((5, 0), int), np.arange(5)[:, None], vocab_size=5)
    >>> [len(part) for part in holdout_split(demos, 0.2, np.random.default_rng(0))]
    [4, 1]
    """
    order = _shuffled(demonstrations, rng)
    size = round(check_probability("holdout", fraction) * len(order))
    if not 0 < size < len(order):
        raise ValueError(
            f"holdout={fraction} of {len(order)} demonstration(s) of positive weight leaves one part empty; use more "
            "demonstrations or a fraction nearer to 1/2."
        )
    return _split(demonstrations, order, order[:size])


def _shuffled(demonstrations: Demonstrations, rng: np.random.Generator) -> IntArray:
    check_generator(rng)
    if demonstrations.exactness is not None:
        raise ValueError(
            f"an exact population cannot be split ({demonstrations.exactness.describe()}); use samples (collect)."
        )
    return rng.permutation(np.flatnonzero(demonstrations.normalised_weights() > 0))


def _split(demonstrations: Demonstrations, rows: IntArray, held_out: IntArray) -> tuple[Demonstrations, Demonstrations]:
    rest = np.setdiff1d(rows, held_out)  # sorted, as is the part held out: sums do not depend on the shuffle
    return demonstrations.subset(rest), demonstrations.subset(np.sort(held_out))
