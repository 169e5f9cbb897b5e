"""Markov chains of a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import check_int
from ntp_envs.automata import MarkovPolicy, markov_contexts
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["MarkovClass"]


class MarkovClass(PolicyClass):
    """All time-homogeneous Markov chains of order m; a convex class of conditionals.

    Contexts are the last m tokens, the prompt's tail included; see `MarkovPolicy` for their numbering.

    Args:
        vocab_size: A.
        order: m >= 0.

    >>> MarkovClass(2, order=2).n_contexts
    9
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        super().__init__(vocab_size)
        self.order = check_int("order", order, minimum=0)
        self.n_contexts = (self.vocab_size + 1) ** self.order

    def policy(self, probs: ArrayLike) -> MarkovPolicy:
        """The member with these ``((A + 1)**m, A)`` next-token probabilities."""
        return MarkovPolicy(probs, self.order)

    def counts(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Weighted counts of (context, token), ``((A + 1)**m, A)``: the sufficient statistic."""
        contexts = markov_contexts(prompts, tokens, self.vocab_size, self.order)[:, :-1]
        cells = (contexts * self.vocab_size + tokens).ravel()
        per_token = np.repeat(weights, tokens.shape[1])
        counts = np.bincount(cells, weights=per_token, minlength=self.n_contexts * self.vocab_size)
        return counts.astype(np.float64).reshape(self.n_contexts, self.vocab_size)
