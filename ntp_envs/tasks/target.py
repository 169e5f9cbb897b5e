"""Tasks with one right answer a prompt: the expert writes it, success is to write it too."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.deterministic import TargetPolicy
from ntp_envs.errors import NotTractableError
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task, check_population_size, source_of

__all__ = ["TargetTask"]


class TargetTask(Task):
    """A `Task` whose answer is a function of the prompt. Subclasses are frozen dataclasses like any other family.

    A subclass writes `targets`, `sample_prompts` and ``policy_class``. The expert is a `ntp_envs.deterministic`
    ``TargetPolicy``: it knows the answer, and writes token h of it at step h whatever was written before, so that its
    law is defined at every state. Success is exact match.
    """

    has_success = True

    @abstractmethod
    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` right answers to ``(B, P)`` prompts."""

    @abstractmethod
    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray: ...

    @cached_property
    def expert(self) -> TargetPolicy:
        return TargetPolicy(self.targets, self.vocab_size, horizon=self.horizon, prompt_length=self.prompt_length)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        raise NotTractableError(f"the prompts of {self.name} are too many to list; use sample_prompts(n, rng).")

    def best_in_class(self) -> BestInClass:
        raise NotTractableError(f"the best in class of {self.name} is not known at these parameters.")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The complete law where the prompts can be listed: every prompt with its answer, exact for every learner."""
        prompts, probabilities = self.prompt_law()
        check_population_size(self, len(prompts))
        return Demonstrations(
            prompts,
            self.targets(prompts),
            vocab_size=self.vocab_size,
            weights=probabilities,
            source=source_of(self, by="population"),
            exactness=Exactness(everything=True),
        )

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the whole answer is right, 0 otherwise. Shape ``(B,)``."""
        return (np.asarray(tokens) == self.targets(prompts)).all(axis=1).astype(np.float64)
