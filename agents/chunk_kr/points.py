"""Data points of ChunkKR: every data prefix with every continuation, equal prefixes pooled."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.features import PrefixReader, Tree, canonical_order, tree_keys
from ntp_envs import Demonstrations, NotTractableError
from ntp_envs._numerics import prefix_codes

__all__ = ["ChunkPoints", "chunk_groups", "collect_points"]

FloatArray = NDArray[np.float64]

#: floats of features held at once
BLOCK = 2**21


@dataclass
class ChunkPoints:
    """Pooled prefixes with the empirical law of the strings that follow them.

    Attributes:
        length: K, tokens a chunk.
        tree: K arrays ``(n, 2**t, d)`` of features, in the order of `canonical_order`.
        weights: ``(n, 2**K)`` empirical frequencies of (prefix, string), summing to one.
        rows: the number of each pooled prefix, by its features.
        raw: prefixes before pooling by features, summed over the chunk positions.
        positions: chunks a sequence.
    """

    length: int
    tree: Tree
    weights: FloatArray
    rows: dict[bytes, int] = field(repr=False)
    raw: int
    positions: int

    @property
    def n_prefixes(self) -> int:
        return len(self.weights)

    @property
    def n_points(self) -> int:
        return self.weights.size


def chunk_groups(demonstrations: Demonstrations, chunk: int) -> dict[int, list[slice]]:
    """Chunk positions by their length: K, and the remainder where K does not divide H."""
    groups: dict[int, list[slice]] = {}
    for where in demonstrations.chunks(chunk):
        groups.setdefault(where.stop - where.start, []).append(where)
    return groups


def collect_points(
    demonstrations: Demonstrations,
    reader: PrefixReader,
    positions: list[slice],
    *,
    max_points: int,
    exchangeable: bool = False,
) -> ChunkPoints:
    """Pool the chunks at these positions (all of one length).

    Args:
        demonstrations: the data; their weights are used.
        reader: of the class's features.
        positions: chunk positions, of equal length K.
        max_points: refuse more than this many pooled prefixes * 2**K.
        exchangeable: the demonstrations hold one representative a number of events (populations of the Bernoulli
            tasks): spread its weight evenly over the strings with as many, as the expert does.

    Raises:
        NotTractableError: too many points; the message has the numbers and the ways round.
        ValueError: features that are not finite or leave the unit ball.
    """
    length = positions[0].stop - positions[0].start
    size = 2**length
    if size > max_points:
        raise _too_many(length, 1, max_points)
    row_weights = demonstrations.normalised_weights() / len(positions)
    rows: dict[bytes, int] = {}
    trees: list[Tree] = []
    weights: list[FloatArray] = []
    raw = 0
    for where in positions:
        contexts, inverse = reader.distinct(demonstrations.prompts, demonstrations.tokens[:, : where.start])
        cells = inverse * size + prefix_codes(demonstrations.tokens[:, where], 2)
        table = np.bincount(cells, weights=row_weights, minlength=len(contexts[0]) * size).reshape(-1, size)
        used = np.flatnonzero(table.sum(axis=1) > 0)
        raw += len(used)
        step = max(1, BLOCK // (size * reader.features.dimension))
        for start in range(0, len(used), step):
            block = used[start : start + step]
            tree, order = canonical_order(reader.tree(tuple(part[block] for part in contexts), length))
            renamed = np.take_along_axis(table[block], order, axis=1)
            for i, key in enumerate(tree_keys(tree)):
                row = rows.setdefault(key, len(rows))
                if row < len(weights):
                    weights[row] += renamed[i]
                    continue
                if len(rows) * size > max_points:
                    raise _too_many(length, len(rows), max_points)
                trees.append([level[i] for level in tree])
                weights.append(renamed[i].copy())
    pooled = np.stack(weights)
    if exchangeable:
        pooled = _spread(pooled, length)
    tree = [np.stack([one[t] for one in trees]) for t in range(length)]
    return ChunkPoints(length, tree, pooled / pooled.sum(), rows, raw, len(positions))


def _spread(weights: FloatArray, length: int) -> FloatArray:
    """Weights averaged over strings with equally many ones; in canonical order a one is an event."""
    ones = np.array([s.bit_count() for s in range(2**length)])
    total = np.stack([np.bincount(ones, weights=row, minlength=length + 1) for row in weights])
    return total[:, ones] / np.array([math.comb(length, k) for k in ones], dtype=np.float64)


def _too_many(length: int, prefixes: int, max_points: int) -> NotTractableError:
    return NotTractableError(
        f"ChunkKR with chunk={length} needs at least {prefixes} prefixes * 2**{length} strings = "
        f"{prefixes * 2**length} points, above max_points={max_points} (a low-rank fit of 50000 points at rank 1024 "
        "takes about 2 GB). Use a shorter chunk, fewer demonstrations, features with a finite window (equal contexts "
        "are pooled), or raise max_points."
    )
