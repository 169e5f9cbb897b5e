"""The chunk kernel: a product over tokens of 1 / (1 - <v, v'> / 2), accumulated in log space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.features import Tree

__all__ = ["KernelRange", "log_chunk_kernel", "sequence_features"]

FloatArray = NDArray[np.float64]


@dataclass
class KernelRange:
    """The smallest and largest log-products seen, to tell how far the kernel is from overflow (|log| near 700)."""

    low: float = math.inf
    high: float = -math.inf

    def see(self, log_products: FloatArray) -> None:
        """Widen the range to these values."""
        if log_products.size:
            self.low = min(self.low, float(log_products.min()))
            self.high = max(self.high, float(log_products.max()))


def sequence_features(tree: Tree, points: NDArray[np.integer]) -> FloatArray:
    """``(m, K, d)`` rows v_t = (2 a_t - 1) u_t of single points, numbered prefix * 2**K + string."""
    length = len(tree)
    prefix, string = points >> length, points & (2**length - 1)
    rows = []
    for t, level in enumerate(tree):
        sign = 2.0 * ((string >> (length - 1 - t)) & 1) - 1.0
        rows.append(sign[:, None] * level[prefix, string >> (length - t)])
    return np.stack(rows, axis=1)


def log_chunk_kernel(tree: Tree, sequences: FloatArray, seen: KernelRange | None = None) -> FloatArray:
    """Log-kernel between every (prefix, string) of a tree and single points.

    kappa(t) = 1 / (1 - t / 2) on t = <v, v'> in [-1, 1] is the kernel of Shalev-Shwartz, Shamir and Sridharan (2011);
    its product over the K tokens of a chunk is our reading of the kernel of ChunkKR. Every factor lies in [2/3, 2],
    so the log-product lies in [K log(2/3), K log 2].

    Args:
        tree: K arrays ``(B, 2**t, d)``.
        sequences: ``(m, K, d)`` rows of `sequence_features`.
        seen: widened to the values met.

    Returns:
        ``(B * 2**K, m)`` log-kernel.
    """
    log_kernel = np.zeros((len(tree[0]), sequences.shape[0]))
    for t, level in enumerate(tree):
        half = 0.5 * (level.reshape(-1, level.shape[2]) @ sequences[:, t].T)  # (B 2**t, m)
        grown = np.empty((len(half), 2, half.shape[1]))
        np.subtract(log_kernel, np.log1p(half), out=grown[:, 0])  # token 0: v = -u
        np.subtract(log_kernel, np.log1p(-half), out=grown[:, 1])
        log_kernel = grown.reshape(2 * len(half), half.shape[1])
    if seen is not None:
        seen.see(log_kernel)
    return log_kernel
