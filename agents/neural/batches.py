"""Where the batches come from: the demonstrations, or new ones from a task's expert at every step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations, Task

__all__ = ["Batch", "Batches", "OnlineBatches", "StoredBatches"]

#: prompts (B, P), tokens (B, H), weights (B,) that sum to one or None for equal ones
Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]


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
        rows = np.searchsorted(self._cumulative, rng.random(self.size) * self._cumulative[-1], side="right")
        return self.prompts[rows], self.tokens[rows], None

    def fingerprint(self) -> Any:
        digest = hashlib.sha256()
        for array in (self.prompts, self.tokens, self.weights):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return {"demonstrations": digest.hexdigest(), "size": self.size}


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
        return {"task": self.task.name, "parameters": repr(self.task.parameters()), "size": self.size}
