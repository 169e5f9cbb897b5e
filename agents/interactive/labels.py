"""Prefixes with the law that the next token should have there: what learners that ask an expert fit to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations
from ntp_envs._numerics import sample_categorical
from ntp_envs.deterministic import one_hot_log_probs

__all__ = ["Labels"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labels:
    """A weighted law of the next token at every prefix of n sequences.

    Demonstrations say which token came next; labels say with what probability each token should. They are what a
    log-loss needs to be exact in the expert's conditionals, and more than weighted demonstrations can say: the token
    that continues a prefix (``tokens[i, h]``, which only later prefixes see) need not be the one that is taught.

    Attributes:
        prompts: ``(n, P)`` int64.
        tokens: ``(n, H)`` int64; prefix h of sequence i is ``tokens[i, :h]``.
        log_laws: ``(n, H, A)`` float64 log-probabilities taught at each prefix, in nats.
        weights: ``(n, H)`` float64, >= 0; a prefix of weight 0 is not labelled.
    """

    prompts: IntArray
    tokens: IntArray
    log_laws: FloatArray
    weights: FloatArray

    @classmethod
    def from_demonstrations(cls, demonstrations: Demonstrations) -> Labels:
        """The demonstrated tokens, each with probability one; the weights of each layer sum to one."""
        tokens = demonstrations.tokens
        weights = np.repeat(demonstrations.normalised_weights()[:, None], tokens.shape[1], axis=1)
        return cls(demonstrations.prompts, tokens, one_hot_log_probs(tokens, demonstrations.vocab_size), weights)

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """All labels of several sets."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("prompts", "tokens", "log_laws", "weights")
            )
        )

    @property
    def vocab_size(self) -> int:
        """A."""
        return self.log_laws.shape[2]

    @property
    def layers(self) -> IntArray:
        """The positions h where some prefix is labelled."""
        return np.flatnonzero(self.weights.any(axis=0))

    @property
    def scale(self) -> float:
        """What the weights must be divided by for losses to be in nats a sequence: their mean total a layer."""
        return float(self.weights.sum()) / len(self.layers)

    def scaled(self, factor: float) -> Labels:
        """The same labels with all weights multiplied."""
        return replace(self, weights=factor * self.weights)

    def drawn(self, rng: np.random.Generator) -> Labels:
        """One token drawn from each law instead of the law: what an expert who only acts would show."""
        flat = sample_categorical(self.log_laws.reshape(-1, self.vocab_size), rng)
        return replace(self, log_laws=one_hot_log_probs(flat.reshape(self.weights.shape), self.vocab_size))
