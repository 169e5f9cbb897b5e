"""`project` for n-gram classes: a law for every context that the labels have, and for the parts of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import FitReport
from agents.interactive.labels import Labels
from agents.interactive.projection import _nearest, _parts_along, _pooled, _report, project
from ntp_envs import NGramClass, Policy
from ntp_envs.ngram import NGramLevel

__all__: list[str] = []

IntArray = NDArray[np.int64]


@project.register
def _ngram(
    policy_class: NGramClass, labels: Labels, *, divergence: str = "forward", tol: float = 0.0
) -> tuple[Policy, FitReport]:
    """As for Markov classes, context by context, and the same for the shorter contexts that unseen ones back off to."""
    size, longest = policy_class.vocab_size, policy_class.order - 1
    line = np.concatenate([labels.prompts[:, max(labels.prompts.shape[1] - longest, 0) :], labels.tokens], axis=1)
    levels, nodes, n_contexts = [], np.zeros(line.shape, dtype=np.int64), 1
    for _ in range(policy_class.order):
        level = _level(labels, nodes, line, n_contexts, divergence)
        levels.append(level)
        n_contexts = len(level.keys) + 1
        edges = np.searchsorted(level.keys, nodes * size + line)
        nodes = np.column_stack([np.full(len(line), len(level.keys)), edges[:, :-1]])  # the last: before the beginning
    policy = policy_class.policy(levels)
    return policy, _report(_parts_along(policy, labels, divergence))


def _level(labels: Labels, nodes: IntArray, line: IntArray, n_contexts: int, divergence: str) -> NGramLevel:
    """What to know of contexts of one length, given the number of that context before each token of the line.

    The keys are the tokens taught and those read, in each context: a longer context then has its parts in the tables.
    """
    size = labels.vocab_size
    contexts, at = np.unique(nodes[:, line.shape[1] - labels.tokens.shape[1] :], return_inverse=True)
    at = at.reshape(labels.tokens.shape)
    teaches = (labels.weights > 0)[:, :, None] & ~np.isneginf(labels.log_laws)
    taught = _pooled(at, teaches.astype(np.float64), len(contexts)) > 0
    laws = np.where(taught, _nearest(labels, at, labels.log_laws, len(contexts), divergence), 0.0)
    labelled = taught.any(axis=1)
    laws[labelled] /= laws[labelled].sum(axis=1, keepdims=True)  # what weighs next to nothing may underflow
    cells = contexts[:, None] * size + np.arange(size)
    keys = np.union1d(cells[taught], nodes * size + line)
    own, keep = np.zeros(len(keys)), np.ones(n_contexts)
    own[np.searchsorted(keys, cells[taught])] = laws[taught]
    keep[contexts[labelled]] = 0.0
    return NGramLevel(keys, own, keep)
