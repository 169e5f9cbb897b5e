"""What every policy class says of itself. How to *learn* in a class is the learners' business (package ``agents``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ntp_envs._validation import check_int
from ntp_envs.policies import Policy

__all__ = ["PolicyClass"]


class PolicyClass(ABC):
    """A set of policies over one vocabulary, with a parametrisation.

    Each class has a ``policy(parameters)`` method that builds a member; learners dispatch on the type of the class.

    Attributes:
        vocab_size: A.
        horizon: the longest sequence its members are defined for, or ``None``.
        statistic: what of the data the likelihoods depend on, where it is less than the whole sequence. A population
            made of representatives is exact only for classes with its own statistic.
    """

    statistic: str = "whole sequences"

    def __init__(self, vocab_size: int, *, horizon: int | None = None) -> None:
        self.vocab_size = check_int("vocab_size", vocab_size, minimum=1)
        self.horizon = None if horizon is None else check_int("horizon", horizon, minimum=1)

    @abstractmethod
    def policy(self, parameters: Any, /) -> Policy:
        """The member with these parameters; ``ValueError`` if they are outside the class."""
