"""Where the batches come from: the demonstrations, or new ones from a task's expert at every step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations, Task

__all__ = ["Batch", "Batches", "OnlineBatches", "ReferencedBatches", "StoredBatches"]

#: prompts (B, P), tokens (B, H), weights (B,) that sum to one or None for equal ones, and what else an objective reads
Batch = tuple[Any, ...]


class Batches(ABC):
    """A source of batches that keeps nothing between them: all randomness is the generator's.

    Attributes:
        size: B, the sequences in a batch.
    """

    size: int

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Batch:
        """A new batch."""

    @abstractmethod
    def fingerprint(self) -> Any:
        """What tells this source from another, as JSON would hold it."""


class StoredBatches(Batches):
    """Batches of demonstrations, drawn with replacement in proportion to their weights.

    Equal demonstrations are pooled and those of weight zero left out, so that a demonstration of weight k is the same
    as k copies. Where what is left fits into one batch, every batch is all of it with its weights, and nothing is
    drawn: gradient descent on the exact loss.

    Args:
        demonstrations: samples, or a population.
        batch_size: B; ``None`` is all.

    >>> demos = Demonstrations(np.zeros((3, 0), int), np.array([[1], [0], [1]]), vocab_size=2)
    >>> StoredBatches(demos, None).draw(np.random.default_rng(0))[2].round(3).tolist()
    [0.333, 0.667]
    """

    def __init__(self, demonstrations: Demonstrations, batch_size: int | None) -> None:
        pooled = demonstrations.pooled()
        weights = pooled.normalised_weights()
        kept = weights > 0
        self.prompts, self.tokens, self.weights = pooled.prompts[kept], pooled.tokens[kept], weights[kept]
        self.whole = batch_size is None or batch_size >= len(self.weights)
        self.size = len(self.weights) if batch_size is None else min(batch_size, len(self.weights))
        self._cumulative = np.cumsum(self.weights)

    def draw(self, rng: np.random.Generator) -> Batch:
        if self.whole:
            return self.prompts, self.tokens, self.weights
        rows = self._rows(rng)
        return self.prompts[rows], self.tokens[rows], None

    def _rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.searchsorted(self._cumulative, rng.random(self.size) * self._cumulative[-1], side="right")

    def fingerprint(self) -> Any:
        digest = hashlib.sha256()
        for array in (self.prompts, self.tokens, self.weights):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return {"demonstrations": digest.hexdigest(), "size": self.size}


class ReferencedBatches(StoredBatches):
    """Stored demonstrations, each with numbers of its own that the objective compares with.

    Args:
        demonstrations: as `kept` leaves them, so that there is one row each.
        batch_size: B; ``None`` is all.
        reference: ``(n, ...)`` one row a demonstration; ``None`` where the objective needs none.
    """

    def __init__(
        self, demonstrations: Demonstrations, batch_size: int | None, reference: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(demonstrations, batch_size)
        if reference is not None and len(reference) != len(self.weights):
            raise ValueError(f"{len(reference)} rows of reference for {len(self.weights)} distinct demonstrations.")
        self.reference = reference

    @staticmethod
    def kept(demonstrations: Demonstrations) -> Demonstrations:
        """The distinct demonstrations of positive weight, in the order of the batches' rows."""
        pooled = demonstrations.pooled()
        return pooled.subset(pooled.normalised_weights() > 0)

    def draw(self, rng: np.random.Generator) -> Batch:
        if self.reference is None:
            return super().draw(rng)
        if self.whole:
            return self.prompts, self.tokens, self.weights, self.reference
        rows = self._rows(rng)
        return self.prompts[rows], self.tokens[rows], None, self.reference[rows]


class OnlineBatches(Batches):
    """New prompts and the expert's answers at every step: no sequence is seen twice, but by chance.

    Args:
        task: gives both.
        batch_size: B.
    """

    def __init__(self, task: Task, batch_size: int) -> None:
        self.task, self.size = task, batch_size

    def draw(self, rng: np.random.Generator) -> Batch:
        prompts = self.task.sample_prompts(self.size, rng)
        return prompts, self.task.expert.sample(prompts, self.task.horizon, rng), None

    def fingerprint(self) -> Any:
        return {"task": self.task.fingerprint(), "size": self.size}
