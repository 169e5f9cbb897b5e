"""Ways to write down a parity step by step: what each step says, and the linear rule that computes it.

Places are numbered as in a prefix of the chosen bits alone: 0..k-1 the k bits, k + j the token written at position j.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain as chained

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "ParityChain", "Rule", "chain_of"]

IntArray = NDArray[np.int64]
#: weights of products of signs (+1 for a one, -1 for a zero): the next token is a one where their sum is positive
Rule = dict[tuple[int, ...], float]

FORMATS = ("none", "prefix", "count", "andxor", "token", "xor_q")


class ParityChain(ABC):
    """A format for the parity of k bits.

    Attributes:
        length: T, tokens written.
        vocab_size: of the tokens, the bits of the prompt included.
        degree: least degree of products of signs in which every step is linear.
    """

    def __init__(self, k: int, length: int, *, vocab_size: int = 2, degree: int = 1) -> None:
        self.k, self.length, self.vocab_size, self.degree = k, length, vocab_size, degree

    @abstractmethod
    def write(self, bits: IntArray) -> IntArray:
        """``(B, T)`` tokens from ``(B, k)`` bits."""

    def rules(self) -> list[Rule]:
        """One rule a position (binary formats), each right with a margin of at least 1/2."""
        raise NotImplementedError

    def predictable(self, degree: int) -> list[bool]:
        """Which steps are functions of what is linear in products of up to ``degree`` signs; the others are fair."""
        return [True] * self.length


class Running(ParityChain):
    """Each token is the exclusive or of a group of places; `none`, `prefix` and `xor_q` differ in the groups."""

    def __init__(self, k: int, groups: list[tuple[int, ...]]) -> None:
        super().__init__(k, len(groups), degree=max(map(len, groups)))
        self.groups = groups

    def write(self, bits: IntArray) -> IntArray:
        line = bits
        for group in self.groups:
            line = np.column_stack([line, line[:, list(group)].sum(axis=1) % 2])
        return line[:, self.k :]

    def rules(self) -> list[Rule]:
        return [{tuple(sorted(group)): 0.5 if len(group) % 2 else -0.5} for group in self.groups]

    def predictable(self, degree: int) -> list[bool]:
        return [len(group) <= degree for group in self.groups]


def _running(k: int, fan_in: int) -> Running:
    """Groups of ``fan_in``: the first takes bits only, the others the last token and new bits."""
    groups: list[tuple[int, ...]] = [tuple(range(min(fan_in, k)))]
    for first in range(fan_in, k, fan_in - 1):
        groups.append((k + len(groups) - 1, *range(first, min(first + fan_in - 1, k))))
    return Running(k, groups)


def _threshold(constant: float, weights: dict[int, float]) -> Rule:
    """The rule of ``constant + sum weights * bit > 0`` in signs."""
    rule: Rule = {(place,): 0.5 * weight for place, weight in weights.items()}
    return {(): constant + sum(rule.values()), **rule}


class Count(ParityChain):
    """The number of ones in binary, most significant bit first: each bit is a threshold of what is left to count."""

    def __init__(self, k: int) -> None:
        super().__init__(k, k.bit_length())
        self.powers = [1 << i for i in reversed(range(self.length))]

    def write(self, bits: IntArray) -> IntArray:
        return bits.sum(axis=1)[:, None] // np.array(self.powers) % 2

    def rules(self) -> list[Rule]:
        ones = dict.fromkeys(range(self.k), 1.0)
        taken = [{self.k + j: -float(power) for j, power in enumerate(self.powers[:i])} for i in range(self.length)]
        return [_threshold(0.5 - power, {**ones, **less}) for power, less in zip(self.powers, taken)]


class AndXor(ParityChain):
    """For every further bit x: a = z and x, then z xor x, with z the parity so far; each a threshold."""

    def __init__(self, k: int) -> None:
        super().__init__(k, 2 * (k - 1))

    def write(self, bits: IntArray) -> IntArray:
        parity, columns = bits[:, 0], []
        for bit in bits[:, 1:].T:
            columns += [parity & bit, parity ^ bit]
            parity = parity ^ bit
        return np.column_stack(columns)

    def rules(self) -> list[Rule]:
        """a = 1[z + x > 1.5] and z' = 1[z + x - 2a > .5]."""
        parities = [0, *(self.k + 2 * j + 1 for j in range(self.k - 2))]
        steps = zip(parities, range(1, self.k), range(self.k, self.k + self.length, 2))
        both = [(_threshold(-1.5, {z: 1.0, x: 1.0}), _threshold(-0.5, {z: 1.0, x: 1.0, a: -2.0})) for z, x, a in steps]
        return list(chained.from_iterable(both))


class Token(ParityChain):
    """The number of ones as one token, then its parity."""

    def __init__(self, k: int) -> None:
        super().__init__(k, 2, vocab_size=k + 1)

    def write(self, bits: IntArray) -> IntArray:
        count = bits.sum(axis=1)
        return np.column_stack([count, count % 2])


def chain_of(cot: str, k: int, fan_in: int) -> ParityChain:
    """The chain of a format; ``fan_in`` matters to ``xor_q`` only."""
    if cot == "prefix":
        return Running(k, [(0,), *((k + j, j + 1) for j in range(k - 1))])
    if cot in ("none", "xor_q"):
        return _running(k, fan_in if cot == "xor_q" else max(k, 2))
    if cot == "token":
        return Token(k)
    return Count(k) if cot == "count" else AndXor(k)
