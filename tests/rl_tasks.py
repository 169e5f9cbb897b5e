"""Small tasks: one on which an entropy bonus and a maximum-entropy reward differ, one of any size."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs import BernoulliClass, BestInClass, FiniteClass, TableAutomaton, Task, UniformPolicy


@dataclass(frozen=True)
class Fork(Task):
    """The first token is 1 with probability ``open``; after a 0 only zeros follow, after a 1 fair coins."""

    horizon: int = 4
    open: float = 0.5

    vocab_size = 2
    prompt_length = 0

    @cached_property
    def expert(self):
        return TableAutomaton([[1 - self.open, self.open], [1.0, 0.0], [0.5, 0.5]], [[1, 2], [1, 1], [2, 2]])

    @cached_property
    def policy_class(self):
        return BernoulliClass()

    def prompt_law(self):
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    def best_in_class(self):
        raise NotImplementedError("no test asks for it")


@dataclass(frozen=True)
class Dice(Task):
    """Tokens of any number and length that are all alike, after one of the vocabulary as the prompt."""

    vocab_size: int = 2
    horizon: int = 1

    prompt_length = 1

    @cached_property
    def expert(self):
        return UniformPolicy(self.vocab_size)

    @cached_property
    def policy_class(self):
        return FiniteClass([self.expert])

    def prompt_law(self):
        return np.arange(self.vocab_size)[:, None], np.full(self.vocab_size, 1 / self.vocab_size)

    def best_in_class(self):
        return BestInClass(self.expert, 0.0, "the expert is in the class")
