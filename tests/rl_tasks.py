"""A task on which an entropy bonus and a maximum-entropy reward differ."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs import BernoulliClass, TableAutomaton, Task


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
