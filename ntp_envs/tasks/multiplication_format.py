"""How long multiplication is written: vocabulary, layout of the tokens, and the right tokens by integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOS", "COTS", "EQUALS", "FIRST_CARRY", "MAX_DIGITS", "SYMBOLS", "Layout", "Slot", "layout", "written"]

IntArray = NDArray[np.int64]

COTS = ("source", "carry", "none")
MAX_DIGITS = 6  # exact in float64 for the explicit weights, with room to spare
SYMBOLS = ("BOS", "x", "+", "=", "(", ")")  # tokens 10, 11, ...; tokens 0..9 are the digits
BOS, TIMES, PLUS, EQUALS, OPEN, CLOSE = range(10, 16)
FIRST_CARRY = 10 + len(SYMBOLS)


class Slot(NamedTuple):
    """What one position holds.

    ``kind`` and its ``place``:

    * ``"symbol"``, (token,): always this token.
    * ``"digit"``, (factor, i): the digit of 10^i of factor 0 or 1.
    * ``"tens"`` and ``"units"``, (i, j): of the product of digit i of the first and digit j of the second factor.
    * ``"product"``, (k,): the digit of 10^k of the product.
    * ``"carry"``, (k,): what column k hands on to column k + 1.
    """

    kind: str
    place: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where everything stands, positions counted from the BOS.

    Attributes:
        slots: one a position, prompt first.
        prompt_length: how many of them are the prompt.
        ends: lengths of prefixes after which a piece (a term, a symbol between terms) is complete, rising.
        factors: ``(factor, i) -> position`` of the digit in the prompt.
        multiplied: ``(i, j) -> positions`` of the two digits in ``d x d x 10^(i+j)``.
        partials: ``(i, j) -> position`` of the first of the 2 + i + j digits of the padded partial product.
        result: position of the first token of the product's digits (of the first carry, where there are carries).
    """

    slots: tuple[Slot, ...]
    prompt_length: int
    ends: tuple[int, ...]
    factors: dict[tuple[int, int], int]
    multiplied: dict[tuple[int, int], tuple[int, int]]
    partials: dict[tuple[int, int], int]
    result: int

    def carry(self, k: int) -> int:
        """The position of the carry of column k (``cot="carry"``)."""
        return self.result + 2 * k

    def product_digits(self) -> list[int]:
        """Positions of the product's digits, as they are written."""
        return [p for p, slot in enumerate(self.slots) if slot.kind == "product"]


class _Writer:
    """Collects slots; remembers where each piece ends."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.ends: list[int] = []

    def symbols(self, *tokens: int) -> None:
        self.slots += [Slot("symbol", (token,)) for token in tokens]

    def power(self, exponent: int) -> None:
        self.symbols(1, *[0] * exponent)

    def write(self, kind: str, *place: int) -> int:
        self.slots.append(Slot(kind, place))
        return len(self.slots) - 1

    def close(self) -> None:
        self.ends.append(len(self.slots))

    def terms(self, items: Iterable[tuple[int, ...]], write: Callable[..., None], *, after: int) -> None:
        """Pieces joined by ``+``, then the symbol ``after``; a piece ends with the symbol behind it."""
        listed = list(items)
        for number, item in enumerate(listed, start=1):
            write(*item)
            self.symbols(PLUS if number < len(listed) else after)
            self.close()


@lru_cache(maxsize=64)
def layout(digits: int, cot: str) -> Layout:
    """The layout for factors of ``digits`` digits and a chain of thought of `COTS`."""
    writer = _Writer()
    falling = range(digits - 1, -1, -1)
    factors: dict[tuple[int, int], int] = {}
    multiplied: dict[tuple[int, int], tuple[int, int]] = {}
    partials: dict[tuple[int, int], int] = {}

    writer.symbols(BOS)
    for factor, after in ((0, TIMES), (1, EQUALS)):
        for i in falling:
            factors[factor, i] = writer.write("digit", factor, i)
        writer.symbols(after)
    prompt_length = len(writer.slots)

    def expanded(factor: int, i: int) -> None:
        writer.write("digit", factor, i)
        writer.symbols(TIMES)
        writer.power(i)

    def one_digit_product(i: int, j: int) -> None:
        first = writer.write("digit", 0, i)
        writer.symbols(TIMES)
        multiplied[i, j] = first, writer.write("digit", 1, j)
        writer.symbols(TIMES)
        writer.power(i + j)

    def partial_product(i: int, j: int) -> None:
        partials[i, j] = writer.write("tens", i, j)
        writer.write("units", i, j)
        writer.symbols(*[0] * (i + j))

    if cot != "none":
        pairs = [(i, j) for i in falling for j in falling]
        for factor, after in ((0, TIMES), (1, EQUALS)):
            writer.symbols(OPEN)
            writer.terms([(factor, i) for i in falling], expanded, after=CLOSE)
            writer.symbols(after)
            writer.close()
        writer.terms(pairs, one_digit_product, after=EQUALS)
        writer.terms(pairs, partial_product, after=EQUALS)
    result = len(writer.slots)
    if cot == "carry":
        for k in range(2 * digits):
            writer.write("carry", k)
            writer.write("product", k)
            writer.close()
    else:
        for k in range(2 * digits - 1, -1, -1):
            writer.write("product", k)
        writer.close()
    return Layout(tuple(writer.slots), prompt_length, tuple(writer.ends), factors, multiplied, partials, result)


def written(shape: Layout, digits: int, factors: IntArray) -> IntArray:
    """``(B, P + H)`` right tokens for ``(B, 2, digits)`` digits of the factors, the digit of 10^i at index i."""
    power = 10 ** np.arange(2 * digits, dtype=np.int64)
    numbers = factors @ power[:digits]  # (B, 2)
    product = numbers[:, 0] * numbers[:, 1]
    small = factors[:, 0, :, None] * factors[:, 1, None, :]  # (B, i, j)
    carries = _carries(small)
    out = np.empty((len(factors), len(shape.slots)), dtype=np.int64)
    for position, (kind, place) in enumerate(shape.slots):
        if kind == "symbol":
            out[:, position] = place[0]
        elif kind == "digit":
            out[:, position] = factors[:, place[0], place[1]]
        elif kind == "tens":
            out[:, position] = small[:, place[0], place[1]] // 10
        elif kind == "units":
            out[:, position] = small[:, place[0], place[1]] % 10
        elif kind == "product":
            out[:, position] = product // power[place[0]] % 10
        else:
            out[:, position] = FIRST_CARRY + carries[:, place[0]]
    return out


def _carries(small: IntArray) -> IntArray:
    """``(B, 2n)`` carries of the columns of the padded partial products, from ``(B, n, n)`` one-digit products."""
    n = small.shape[1]
    columns = np.zeros((len(small), 2 * n), dtype=np.int64)
    for i in range(n):
        for j in range(n):
            columns[:, i + j] += small[:, i, j] % 10
            columns[:, i + j + 1] += small[:, i, j] // 10
    for k in range(1, 2 * n):
        columns[:, k] += columns[:, k - 1] // 10
    return columns // 10
