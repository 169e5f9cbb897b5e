"""Prefixes as ChunkKR sees them: features along every continuation of K binary tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs import BernoulliClass, PolicyClass
from ntp_envs._numerics import all_sequences
from ntp_envs.features import ContextFeatureMap, FeatureMap, FlipSign, WindowOneHot

__all__ = ["Contexts", "PrefixReader", "Tree", "binary_features", "canonical_order", "tree_keys"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Tree = list[FloatArray]  # entry t: (B, 2**t, d), the features after each string of t tokens
Contexts = tuple[IntArray, ...]  # (states,) where the features have finite memory, else (prompts, tokens)

#: slack on ||u|| <= 1 for rounding
NORM_SLACK = 1e-9


def binary_features(policy_class: PolicyClass) -> FeatureMap:
    """The feature map of an autoregressive linear class over two tokens (the Bernoulli classes have d = 1).

    Raises:
        ValueError: a vocabulary of another size.
        TypeError: a class that has no feature map.
    """
    if policy_class.vocab_size != 2:
        raise ValueError(
            f"ChunkKR is defined for binary tokens, and the policy class has vocab_size={policy_class.vocab_size}; "
            "write each token as log2(A) bits, or use a learner for general A (LogLossBC, RhoEstimatorBC)."
        )
    if isinstance(policy_class, BernoulliClass):
        return FlipSign() if policy_class.on == "flips" else WindowOneHot(2, 0)
    features = getattr(policy_class, "features", None)
    if not isinstance(features, FeatureMap):
        raise TypeError(
            f"ChunkKR needs an autoregressive linear class with a FeatureMap in .features, or a BernoulliClass; "
            f"{type(policy_class).__name__} has none."
        )
    return features


class PrefixReader:
    """Tells prefixes apart as a feature map does, and gives their features along every continuation.

    Where the features have finite memory (`ntp_envs.features.FeatureMap.states`) a prefix is a state of their
    automaton; otherwise it is kept whole.
    """

    def __init__(self, features: FeatureMap) -> None:
        self.features = features
        self.states = features.states()
        if self.states is not None:
            table = self.states.features
            self._signed = table if isinstance(features, ContextFeatureMap) else table[:, 1] - table[:, 0]

    def distinct(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> tuple[Contexts, IntArray]:
        """Distinct prefixes, and which of them each of the B rows ``(B, P)``, ``(B, t)`` is: ``(B,)``."""
        width = np.shape(prompts)[1]
        if self.states is None:
            line: IntArray = np.concatenate([prompts, tokens], axis=1).astype(np.int64)
            rows, inverse = line[:1], np.zeros(len(line), dtype=np.int64)
            if line.shape[1]:
                rows, inverse = np.unique(line, axis=0, return_inverse=True)
            return (rows[:, :width], rows[:, width:]), inverse.reshape(-1)
        window = self.features.window
        if window is not None and tokens.shape[1] > window:
            tokens = tokens[:, tokens.shape[1] - window :]
        beyond = np.zeros((len(tokens), 1), dtype=np.int64)
        state = self.states.path(prompts, np.concatenate([tokens, beyond], axis=1))[:, -1]
        distinct, inverse = np.unique(state, return_inverse=True)
        return (distinct,), inverse.reshape(-1)

    def tree(self, contexts: Contexts, length: int) -> Tree:
        """u(prefix + string) for every string of fewer than ``length`` tokens: entry t has shape ``(B, 2**t, d)``.

        Raises:
            ValueError: a feature that is not finite, or a row with norm above 1 (they are not rescaled silently: the
                kernel is only defined on the unit ball, and rescaling changes what the class's radius means).
        """
        tree: Tree = []
        n = len(contexts[0])
        state = contexts[0][:, None]
        for t in range(length):
            if self.states is None:
                strings = np.tile(all_sequences(2, t), (n, 1))
                before = np.repeat(contexts[1], 2**t, axis=0)
                u = self.features.signed(
                    np.repeat(contexts[0], 2**t, axis=0), np.concatenate([before, strings], axis=1)
                )
                level = np.asarray(u, dtype=np.float64).reshape(n, 2**t, -1)
            else:
                level = self._signed[state]
                state = self.states.transitions[state].reshape(n, -1)
            _check_unit_ball(level)
            tree.append(level + 0.0)  # + 0.0: no negative zeros
        return tree


def _check_unit_ball(level: FloatArray) -> None:
    if not np.isfinite(level).all():
        bad = level[~np.isfinite(level).all(axis=2)][0]
        raise ValueError(f"the features of a prefix are {bad.tolist()}; they must be finite numbers.")
    norm = float(np.sqrt(np.square(level).sum(axis=2).max(initial=0.0)))
    if norm > 1.0 + NORM_SLACK:
        raise ValueError(
            f"a feature vector has norm {norm:.6g}; ChunkKR's kernel is defined for norms <= 1. Divide the features "
            f"by {norm:.6g} (and multiply the class's radius by it)."
        )


def canonical_order(tree: Tree) -> tuple[Tree, IntArray]:
    """The same trees with strings renamed so that every feature vector's first non-zero entry is positive.

    The kernel sees tokens only through v = (2a - 1) u, so a prefix where u changes sign is the same prefix with the
    two tokens exchanged. Renaming pools such prefixes: all of them, in a class of flips.

    Returns:
        The renamed tree, and ``(B, 2**K)`` integers: the true string behind each renamed one.
    """
    batch = np.arange(len(tree[0]))[:, None]
    order = np.zeros((len(tree[0]), 1), dtype=np.int64)
    renamed: Tree = []
    for level in tree:
        u = level[batch, order]  # (B, 2**t, d)
        lead = np.take_along_axis(u, (u != 0).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
        swap = lead < 0
        renamed.append(np.where(swap[:, :, None], -u, u) + 0.0)
        children = 2 * order[:, :, None] + (np.arange(2) ^ swap[:, :, None])  # (B, 2**t, 2)
        order = children.reshape(len(order), -1)
    return renamed, order


def tree_keys(tree: Tree) -> list[bytes]:
    """One key a prefix: equal features along every continuation give equal keys."""
    flat = np.concatenate([level.reshape(len(level), -1) for level in tree], axis=1)
    return [row.tobytes() for row in np.ascontiguousarray(flat)]
