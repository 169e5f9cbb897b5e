"""Policies that see the last n - 1 tokens, sparsely tabulated."""

from __future__ import annotations

from collections.abc import Sequence

from ntp_envs._validation import check_int
from ntp_envs.ngram import NGramLevel, NGramPolicy
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["NGramClass"]


class NGramClass(PolicyClass):
    """All laws in which the next token depends on the last n - 1, places before the beginning included.

    The same set as `MarkovClass` of order n - 1, for vocabularies and orders where a table of all contexts would be
    too large: members keep the contexts that were seen and back off to shorter ones elsewhere (`NGramPolicy`).
    ``LogLossBC`` finds its maximum likelihood, ``NGramBC`` the smoothed Witten-Bell estimate.

    Args:
        vocab_size: A.
        order: n >= 1.

    >>> NGramClass(60, order=3)
    NGramClass(vocab_size=60, order=3)
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        super().__init__(vocab_size)
        self.order = check_int("order", order, minimum=1)

    def __repr__(self) -> str:
        return f"NGramClass(vocab_size={self.vocab_size}, order={self.order})"

    def policy(self, levels: Sequence[NGramLevel]) -> NGramPolicy:
        """The member with these tables, those of `NGramPolicy`; at most ``order`` of them."""
        if len(levels) > self.order:
            raise ValueError(f"levels has {len(levels)} tables; the order of the class is {self.order}.")
        return NGramPolicy(levels, self.vocab_size)
