"""Finite policy classes: a list of policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ntp_envs.checked import checked_policy
from ntp_envs.policies import Policy
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["FiniteClass"]


class FiniteClass(PolicyClass):
    """M policies, any of them.

    Args:
        policies: members, over one vocabulary; the parameter of a member is its index.

    Raises:
        ValueError: no policies, or different vocabularies.

    >>> from ntp_envs import BernoulliPolicy
    >>> len(FiniteClass([BernoulliPolicy(0.1), BernoulliPolicy(0.2)]))
    2
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = list(policies)
        if not self.policies:
            raise ValueError("policies is empty; a finite class needs at least one policy.")
        sizes = {policy.vocab_size for policy in self.policies}
        if len(sizes) > 1:
            raise ValueError(f"the policies have different vocabulary sizes {sorted(sizes)}; one is needed.")
        horizons = [policy.horizon for policy in self.policies if policy.horizon is not None]
        super().__init__(sizes.pop(), horizon=min(horizons, default=None))

    def __len__(self) -> int:
        return len(self.policies)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def policy(self, index: int) -> Policy:
        return self.policies[index]

    def readers(self) -> list[Policy]:
        """The members as a learner reads them: those of others are checked at every step (`checked_policy`)."""
        return [checked_policy(f"member {index}", policy) for index, policy in enumerate(self.policies)]

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """``(M, B, H)`` teacher-forced log-probabilities of every member."""
        return np.stack([policy.log_probs(prompts, tokens) for policy in self.readers()])
