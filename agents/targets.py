"""What the next token should be at every prefix: a token (hard targets) or a law (soft targets), with a weight.

Demonstrations say which token came next; an expert that can be asked says with what probability each token should.
Both are `Targets`, and `agents.fit_class` fits every policy class to both: maximum likelihood is the case of hard
targets. The token that continues a prefix (``tokens[i, h]``, which only later prefixes see) need not be the one that
is taught. Hard targets stay tokens, and what is summed over them counts: they are never written out as laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, sample_categorical
from ntp_envs.demonstrations import Demonstrations, TokenRows, kept, row_blocks, with_wide_tokens
from ntp_envs.policies import Policy, one_hot_log_probs


@with_wide_tokens("prompts", "tokens", "answers")
@dataclass(frozen=True, eq=False)
class Targets(TokenRows):
    """A weighted next token, or law of it, at every prefix of n sequences.

    Tokens are kept as the demonstrations keep them: those of many are widened at every reading, and `blocks` goes
    through them a few sequences at a time.

    Attributes:
        prompts: ``(n, P)`` int64.
        tokens: ``(n, H)`` int64; prefix h of sequence i is ``tokens[i, :h]``.
        log_laws: ``(n, H, A)`` float64 log-probabilities taught at each prefix, in nats; ``None`` for hard targets.
        weights: ``(n, H)`` float64, >= 0; a prefix of weight 0 has no target. Or ``(n, 1)``, those of whole sequences,
            which sum to one.
        answers: ``(n, H)`` int64 tokens taught; ``None`` for soft targets.
        vocab_size: A.

    >>> targets = Targets.of(Demonstrations(np.zeros((2, 0), int), np.array([[0, 1], [1, 1]]), vocab_size=2))
    >>> targets.counts(np.zeros((2, 2), int), 1).tolist()  # a sequence has 1/2 zeros and 3/2 ones
    [[0.5, 1.5]]
    """

    prompts: IntArray
    tokens: IntArray
    log_laws: FloatArray | None
    weights: FloatArray
    answers: IntArray | None = None
    vocab_size: int = 0

    def __post_init__(self) -> None:
        if self.log_laws is not None:
            object.__setattr__(self, "vocab_size", self.log_laws.shape[2])

    @classmethod
    def of(cls, given: Demonstrations | Targets, weights: ArrayLike | None = None) -> Targets:
        """Hard targets: the tokens of demonstrations, with their own weights or these, normalised. Targets stay so."""
        if isinstance(given, Targets):
            return given
        law = given.normalised_weights() if weights is None else _checked_weights(weights, len(given))
        prompts, tokens = kept(given, "prompts"), kept(given, "tokens")
        return cls(prompts, tokens, None, law[:, None], tokens, given.vocab_size)

    @classmethod
    def join(cls, parts: Sequence[Targets]) -> Targets:
        """All targets of several sets; soft if one of them is."""
        tokens, weights = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "per_token"))
        prompts = np.concatenate([part.prompts for part in parts])
        if any(part.log_laws is not None for part in parts):
            return cls(prompts, tokens, np.concatenate([part.laws() for part in parts]), weights)
        demonstrated = all(part.demonstrated for part in parts)
        answers = tokens if demonstrated else np.concatenate([part.hard for part in parts])
        return cls(prompts, tokens, None, weights, answers, parts[0].vocab_size)

    def blocks(self) -> Iterator[Targets]:
        """The targets of a few sequences at a time, whose tokens are int64 arrays."""
        for rows in row_blocks(*self.shape):
            part = self.rows(rows)
            prompts, tokens = part.block(slice(None))
            answers = tokens if part.demonstrated else part.answers
            yield replace(part, prompts=prompts, tokens=tokens, answers=answers)

    # -- weights -------------------------------------------------------------------------------------------------------

    @property
    def of_sequences(self) -> bool:
        """Whether the weights are those of whole sequences."""
        return self.weights.shape[1] < self.shape[1]

    @property
    def per_token(self) -> FloatArray:
        """``(n, H)`` weights; not to be written to."""
        return np.broadcast_to(self.weights, self.shape)

    @property
    def layers(self) -> IntArray:
        """The positions h where some prefix has a target."""
        return np.flatnonzero(self.per_token.any(axis=0))

    @property
    def scale(self) -> float:
        """What the weights must be divided by for losses to be in nats a sequence: their mean total a layer."""
        if self.of_sequences:
            return 1.0
        return float(self.weights.sum()) / len(self.layers)

    def scaled(self, factor: float) -> Targets:
        """The same targets with all weights multiplied; from then on they are weights of tokens."""
        return replace(self, weights=factor * self.per_token)

    def normalised(self) -> Targets:
        """The same targets with a `scale` of one."""
        if self.of_sequences:
            return self
        if not self.weights.max(initial=0.0) > 0.0:
            raise ValueError("all weights are zero; there is nothing to fit to.")
        up = np.ldexp(self.weights, max(-int(np.frexp(self.weights.max())[1]), 0))  # exact; sums may underflow
        weights = up / (float(up.sum()) / len(self.layers))
        return replace(self, weights=np.maximum(weights, np.where(up > 0, np.finfo(float).smallest_subnormal, 0.0)))

    def total(self, values: FloatArray) -> FloatArray:
        """Weighted sums of ``(..., n, H)`` values over all prefixes, in layers first."""
        if self.of_sequences:
            return (self.weights[:, 0] @ values).sum(axis=-1)
        return (self.weights * values).sum(axis=(-2, -1))

    # -- what is taught ------------------------------------------------------------------------------------------------

    @property
    def hard(self) -> IntArray:
        """``answers`` of targets that are hard."""
        answers = self.answers
        assert answers is not None
        return answers

    @property
    def soft(self) -> FloatArray:
        """``log_laws`` of targets that are soft."""
        assert self.log_laws is not None
        return self.log_laws

    def laws(self) -> FloatArray:
        """``(n, H, A)`` log-laws, those of hard targets written out."""
        return one_hot_log_probs(self.hard, self.vocab_size) if self.log_laws is None else self.log_laws

    def masses(self) -> FloatArray:
        """``(n H, A)`` what each prefix adds to counts."""
        if self.log_laws is not None:
            return (self.weights[:, :, None] * np.exp(self.soft)).reshape(-1, self.vocab_size)
        out = np.zeros((self.shape[0] * self.shape[1], self.vocab_size))
        out[np.arange(len(out)), self.hard.ravel()] = self.per_token.ravel()
        return out

    def drawn(self, rng: np.random.Generator) -> Targets:
        """Hard targets, one token drawn from each law: what an expert who only acts would show."""
        flat = sample_categorical(self.soft.reshape(-1, self.vocab_size), rng)
        return replace(self, log_laws=None, answers=flat.reshape(self.tokens.shape), vocab_size=self.vocab_size)

    @property
    def demonstrated(self) -> bool:
        """Whether what is taught is what comes next in the prefixes: the same array, as it is kept."""
        return vars(self)["answers"] is vars(self)["tokens"]

    def rows(self, rows: slice | NDArray[np.generic]) -> Targets:
        """The targets of some sequences."""
        tokens, answers = kept(self, "tokens")[rows], None if self.demonstrated else self.answers
        return replace(
            self,
            prompts=kept(self, "prompts")[rows],
            tokens=tokens,
            log_laws=None if self.log_laws is None else self.log_laws[rows],
            weights=self.weights[rows],
            answers=tokens if self.demonstrated else None if answers is None else answers[rows],
        )

    def met(self) -> Targets:
        """Without the sequences that have no weight at all."""
        used = self.weights.any(axis=1)
        return self if used.all() else self.rows(np.flatnonzero(used))

    def pooled(self) -> Targets:
        """Of demonstrated sequences the distinct ones, weighted by their copies; other targets as they are."""
        if not self.demonstrated or self.weights.shape[1] > 1:
            return self
        pairs = np.concatenate([kept(self, "prompts"), kept(self, "tokens")], axis=1)
        _, first, copies = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        even = self.weights.min() == self.weights.max()
        weights = np.bincount(np.ravel(copies), None if even else self.weights[:, 0], len(first)).astype(np.float64)
        tokens = kept(self, "tokens")[first]
        return replace(
            self,
            prompts=kept(self, "prompts")[first],
            tokens=tokens,
            answers=tokens,
            weights=(weights / weights.sum())[:, None],
        )

    # -- sums over the prefixes that a class cannot tell apart ---------------------------------------------------------

    def counts(self, contexts: IntArray | Contexts, n_contexts: int, *, answers: Contexts | None = None) -> FloatArray:
        """``(n_contexts, A)`` weight of each next token after the prefixes in each ``(n, H)`` context.

        Args:
            contexts: numbers in [0, n_contexts), or the function that gives those of a few sequences.
            n_contexts: how many there are.
            answers: of a few sequences with hard targets, what to count instead of theirs.
        """
        if self.log_laws is not None:
            contexts = contexts(self) if callable(contexts) else contexts
            return pooled_sums(contexts, self.weights[:, :, None] * np.exp(self.soft), n_contexts)
        if not self.weights.size:
            return np.zeros((n_contexts, self.vocab_size))
        even = self.weights.min() == self.weights.max()  # then whole numbers: no rounding, whatever the order
        found: Any = 0
        for part in self.blocks() if callable(contexts) else (self,):
            at = contexts(part) if callable(contexts) else contexts
            cells = (at * self.vocab_size + (part.hard if answers is None else answers(part))).ravel()
            found += np.bincount(cells, None if even else part.per_token.ravel(), n_contexts * self.vocab_size)
        counts = np.multiply(found, self.weights.flat[0] if even else 1.0, dtype=np.float64)
        return counts.reshape(n_contexts, self.vocab_size)

    def totals(self, contexts: IntArray, n_contexts: int) -> FloatArray:
        """``(n_contexts,)`` weight of the prefixes in each context."""
        return np.bincount(contexts.ravel(), self.per_token.ravel(), minlength=n_contexts).astype(np.float64)

    def log_law_sums(self, contexts: IntArray, n_contexts: int) -> FloatArray:
        """``(2, n_contexts, A)``: the weight of prefixes that exclude a token, and the sum of the other log-laws."""
        if self.log_laws is None:
            counts = self.counts(contexts, n_contexts)  # all other tokens are excluded, and log 1 = 0
            excluded = np.maximum(counts.sum(axis=1, keepdims=True) - counts, 0.0)
            return np.stack([excluded, np.zeros_like(counts)])
        weights, excluded = self.weights[:, :, None], np.isneginf(self.soft)
        return np.stack(
            [
                pooled_sums(contexts, weights * excluded, n_contexts),
                pooled_sums(contexts, weights * np.where(excluded, 0.0, self.soft), n_contexts),
            ]
        )

    def answer_log_probs(self, policy: Policy) -> FloatArray:
        """``(n, H)`` a policy's log-probabilities of the tokens taught by hard targets."""
        if self.demonstrated:
            return policy.log_probs(self.prompts, self.tokens)
        out, reader, layers = np.zeros(self.tokens.shape), policy.cursor(self.prompts), self.layers
        rows = np.arange(len(out))
        for h in range(layers[-1] + 1):
            out[:, h] = reader.log_probs()[rows, self.hard[:, h]]
            if h < layers[-1]:
                reader = reader.advance(self.tokens[:, h])
        return out


#: ``(n, H)`` whole numbers, one a prefix
Contexts = Callable[[Targets], IntArray]


def pooled_sums(contexts: IntArray, values: FloatArray, n_contexts: int) -> FloatArray:
    """``(n_contexts, A)`` sums of ``(n, H, A)`` values over prefixes with the same ``(n, H)`` context."""
    flat = contexts.ravel()
    columns = [np.bincount(flat, weights=column, minlength=n_contexts) for column in values.reshape(flat.size, -1).T]
    return np.stack(columns, axis=1)


def _checked_weights(weights: ArrayLike, n: int) -> FloatArray:
    law = np.asarray(weights, dtype=np.float64)
    if law.shape != (n,):
        raise ValueError(f"weights has shape {law.shape}; ({n},) is needed, one a sequence.")
    if not np.isfinite(law).all() or (law < 0).any() or law.sum() <= 0:
        raise ValueError("weights must be finite, non-negative and not all zero.")
    return law / law.sum()
