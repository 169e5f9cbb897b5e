"""The units in which a sequence-level learner looks at demonstrations: chunks given their prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations

__all__ = ["Unit", "distinct_units"]


@dataclass(frozen=True, eq=False)
class Unit:
    """One chunk position, with the distinct (prefix, chunk) pairs that the demonstrations show there.

    Attributes:
        positions: the tokens of the chunk.
        rows: ``(u,)`` a demonstration for each distinct pair.
        weights: ``(u,)`` their total weights, all positive.
    """

    positions: slice
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]


def distinct_units(demonstrations: Demonstrations, chunk: int) -> Iterator[Unit]:
    """The chunks of ``chunk`` tokens in order; the last is shorter where ``chunk`` does not divide H.

    Equal (prompt, prefix, chunk) are pooled; the weights at each position sum to one.
    """
    weights = demonstrations.normalised_weights()
    used = np.flatnonzero(weights > 0)
    weights, tokens = weights[used], demonstrations.tokens[used]
    _, group = np.unique(demonstrations.prompts[used], axis=0, return_inverse=True)
    for positions in demonstrations.chunks(chunk):
        pairs = np.column_stack([group.ravel(), tokens[:, positions]])
        _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        yield Unit(positions, used[first], np.bincount(group.ravel(), weights=weights).astype(np.float64))
