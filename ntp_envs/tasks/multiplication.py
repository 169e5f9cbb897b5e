"""Multiplication with the work shown, and ColumnAddition: what the carry that is written down is worth.

First how long multiplication is written (vocabulary, layout, the right tokens by integer arithmetic), then the weights
of a linear predictor that does it, then the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, all_sequences
from ntp_envs.checks import check_flag, check_in, check_int, check_positive, check_tokens
from ntp_envs.features import ByPosition, WindowOneHot
from ntp_envs.policy_classes import ARLinearClass, LinearStep, PositionalLinearClass, PositionalLinearPolicy
from ntp_envs.tasks.base import TargetTask

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


# A linear predictor that multiplies: the weights of a member of `Multiplication`'s policy class, written down.
#
# Every step is one of four linear decisions on one-hot positions (derived here). The last three decode a linear
# statistic u of the prefix into ordered classes: class c has the logit ``c u - (beta_1 + ... + beta_c)``. If the
# breakpoints beta do not fall, the largest logit is that of the class whose interval (beta_c, beta_{c+1}) holds u.
#
# 1. A symbol is a bias; a digit that appeared before is copied by an identity matrix.
# 2. The tens digit of a b: u = log a + log b, with log 0 replaced by a negative number large enough for zero to stay
#    below 1 x 1. The breakpoint for c lies between the products below 10 c and the others.
# 3. The units digit, given the tens digit t that was just written: the same u and slopes, breakpoints near
#    log(10 t + c - 1/2). They depend on t alone, that is on a one-hot position: the intercepts are linear in it.
# 4. Digits of a sum: u is a sum of digits times powers of ten, an integer. For the digit of 10^k, most significant
#    first, u = sum of the partial products - digits already written, breakpoints c 10^k - 1/2. For a carry u is the
#    sum of the column and the carry before it, breakpoints 10 c - 1/2; for the digit after it u is that less 10 times
#    the carry, breakpoints c - 1/2. Weights and breakpoints are integers and halves: exact in floating point.
#
# `MARGINS` holds the smallest distances of u to a breakpoint. Logits of a step are scaled so that the right token is at
# least ``margin`` above every other, whatever the digits.


DIGITS = np.arange(10)
LOG = np.concatenate([[-2.0 * np.log(10.0)], np.log(np.arange(1.0, 10.0))])  # u of 0 x 9 is log .09, of 1 x 1 log 1
_U = (LOG[:, None] + LOG[None, :]).ravel()  # u of all 100 pairs, and their products
_PRODUCT = np.outer(DIGITS, DIGITS).ravel()
_BY_TENS = [tens == _PRODUCT // 10 for tens in range(9)]


def _between(classes: NDArray[np.int64], u: FloatArray, n: int) -> FloatArray:
    """``(n - 1,)`` breakpoints that do not fall, halfway between the u of neighbours; no room for empty classes."""
    lowest = np.array([u[classes >= c].min(initial=np.inf) for c in range(1, n)])
    highest = np.array([u[classes < c].max(initial=-np.inf) for c in range(1, n)])
    with np.errstate(invalid="ignore"):
        middle = (lowest + highest) / 2
    outside = np.where(np.isinf(lowest), highest + 1.0, lowest - 1.0)
    return np.where(np.isfinite(middle), middle, outside)  # outside: all u are on one side


def _distance(u: ArrayLike, breakpoints: ArrayLike) -> float:
    return float(np.abs(np.subtract.outer(np.asarray(u), np.asarray(breakpoints))).min())


_TENS = _between(_PRODUCT // 10, _U, 9)  # (8,) breakpoints between tens digits 0..8
_UNITS = np.stack([_between(_PRODUCT[rows] % 10, _U[rows], 10) for rows in _BY_TENS])  # (9, 9), by tens digit

#: smallest distance of u to a breakpoint, by kind of decision; for symbols and copies the gap of the logits
MARGINS = {
    "symbol": 1.0,
    "digit": 1.0,
    "tens": _distance(_U, _TENS),
    "units": min(_distance(_U[rows], breakpoints) for rows, breakpoints in zip(_BY_TENS, _UNITS)),
    "product": 0.5,
    "carry": 0.5,
}


def explicit_multiplier(task: Multiplication, *, margin: float = 50.0) -> PositionalLinearPolicy:
    """The member of ``task.policy_class`` that writes the right chain for every pair of factors.

    Each output position is linear in the one-hot encoding of the positions before it (arXiv:2309.06979, section 2, the
    weights derived here: see this module). At the default margin a draw from the policy is right as well as its
    greedy decoding: another token has probability below 1e-19.

    Args:
        task: with ``cot="source"`` or ``cot="carry"``, or with one digit.
        margin: by how many nats the logit of the right token exceeds all others on a right prefix; positive.

    Raises:
        ValueError: ``cot="none"`` with factors of two or more digits (the first digit of their product is not linear
            in theirs, as a linear program shows; with one digit steps 2 and 3 write the product), or a margin that is
            not positive.

    >>> task = Multiplication(digits=2)
    >>> policy, prompts = explicit_multiplier(task), task.prompts_of([12, 99], [34, 99])
    >>> written = policy.sample(prompts, task.horizon, np.random.default_rng(0))
    >>> [task.decode(row[-4:]) for row in written]
    ['0408', '9801']
    """
    if not isinstance(task, Multiplication):
        raise TypeError(f"task must be a Multiplication, not {type(task).__name__}.")
    if task.cot == "none" and task.digits > 1:
        raise ValueError(
            f"cot='none' has no exact linear predictor of a product of factors of digits={task.digits}; use "
            "cot='source' or cot='carry', or digits=1."
        )
    check_positive("margin", margin, "leaves the choice open")
    steps = []
    for position in range(task.prompt_length, task.prompt_length + task.horizon):
        slot = task.layout.slots[position]
        if task.cot == "none":  # one digit times another
            slot = Slot(("units", "tens")[slot.place[0]], (0, 0))
        step = _step(task, position, slot)
        scale = margin / MARGINS[slot.kind]
        steps.append(LinearStep(step.sources, scale * step.weights, scale * step.bias))
    return task.policy_class.policy(steps)


def _step(task: Multiplication, position: int, slot: Slot) -> LinearStep:
    size, shape = task.vocab_size, task.layout
    if slot.kind == "symbol":
        return LinearStep(np.empty(0, dtype=np.int64), np.empty((0, size, size)), np.eye(size)[slot.place[0]])
    if slot.kind == "digit":
        copy = np.zeros((1, size, size))
        copy[0, DIGITS, DIGITS] = 1.0
        factor, i = slot.place
        return LinearStep(np.array([shape.factors[factor, i]]), copy, np.zeros(size))
    if slot.kind in ("tens", "units"):
        i, j = slot.place
        logs = dict.fromkeys(shape.multiplied.get((i, j), (shape.factors[0, i], shape.factors[1, j])), LOG)
        if slot.kind == "tens":
            return _ordered(size, DIGITS[:9], logs, _TENS)
        step = _ordered(size, DIGITS, logs, np.zeros(9))
        given = np.zeros((1, size, size))
        given[0, :9, 1:10] = -np.cumsum(_UNITS, axis=1)  # the intercepts, by the tens digit just written
        return LinearStep(np.append(step.sources, position - 1), np.concatenate([step.weights, given]), step.bias)
    (k,) = slot.place
    if task.cot == "source":
        first = {shape.result + 2 * task.digits - 1 - above: -(10.0**above) for above in range(k + 1, 2 * task.digits)}
        values = {p: value * DIGITS for p, value in {**_places(task), **first}.items()}
        return _ordered(size, DIGITS, values, DIGITS[1:] * 10.0**k - 0.5)
    carries = FIRST_CARRY + np.arange(2 * task.digits - 1)
    column = {p: 1.0 * DIGITS for p, value in _places(task).items() if value == 10.0**k}
    if k > 0:
        column[shape.carry(k - 1)] = np.append(np.zeros(FIRST_CARRY), np.arange(len(carries)))
    if slot.kind == "carry":
        return _ordered(size, carries, column, 10.0 * np.arange(1, len(carries)) - 0.5)
    column[shape.carry(k)] = np.append(np.zeros(FIRST_CARRY), -10.0 * np.arange(len(carries)))
    return _ordered(size, DIGITS, column, DIGITS[1:] - 0.5)


def _places(task: Multiplication) -> dict[int, float]:
    """Position -> place value of every digit of the padded partial products."""
    return {
        start + offset: 10.0 ** (1 + i + j - offset)
        for (i, j), start in task.layout.partials.items()
        for offset in range(2 + i + j)
    }


def _ordered(
    size: int, classes: NDArray[np.int64], values: Mapping[int, NDArray[Any]], breakpoints: NDArray[Any]
) -> LinearStep:
    """Token ``classes[c]`` where u lies between breakpoints c and c + 1; u is a sum over positions of values by token.

    Other tokens have the logit -1; the largest is never negative, because that of class 0 is 0.
    """
    weights = np.zeros((len(values), size, size))
    for table, value in zip(weights, values.values()):
        table[: len(value), classes] = np.outer(value, np.arange(len(classes)))
    bias = np.full(size, -1.0)
    bias[classes] = np.concatenate([[0.0], -np.cumsum(breakpoints)])
    return LinearStep(np.array(list(values), dtype=np.int64), weights, bias)


LISTED_DIGITS = 2  # 10^4 prompts; beyond, prompt_law is refused


@dataclass(frozen=True)
class Multiplication(TargetTask):
    """The product of two numbers of n digits, with all the work shown: ``BOS n1 x n2 = ... = product``.

    After the prompt ``BOS n1 x n2 =`` come both factors by place, ``(1 x 10 + 2 x 1) x (3 x 10 + 4 x 1) =``, the sum
    of one-digit products ``1 x 3 x 100 + ... =``, their values as zero-padded partial products ``0300 + ... =``, and
    the product with 2n digits: 77, 166 and 307 tokens in all for n = 2, 3, 4. The chain of thought is that of Malach
    (2023, arXiv:2309.06979, section 4.2) in our own writing of it. ``cot`` chooses what is written:

    * ``"source"``: as above, the product most significant digit first.
    * ``"carry"``: the product is written least significant digit first, each digit after a token for the carry that
      its column hands on. Both are then ordered decisions on a column of at most 2n - 1 digits and a carry.
    * ``"none"``: the product at once.

    What it shows: a chain of linear predictors computes what one of them, from two digits on, cannot.
    `explicit_multiplier` writes down a member of ``policy_class`` (one linear predictor over one-hot positions an
    output position) that is right for all pairs at ``"source"`` and ``"carry"`` [derived here]. Learning it is another
    matter: by gradient descent the chain is quickly learned and the final sum is not, because its digits depend on all
    partial products at once; an adder with carries (`ColumnAddition`) is learnable column by column.

    The digits of the factors are uniform. Success is a right product, whatever was written before it; `verify` also
    asks for the chain.

    Args:
        digits: n, 1 to 6.
        cot: ``"source"``, ``"carry"`` or ``"none"``.
        leading_zeros: factors are uniform on 0..10^n - 1; without them on 10^(n-1)..10^n - 1. The prompt always has n
            digits a factor.

    >>> task = Multiplication(digits=2)
    >>> prompt = task.prompts_of([12], [34])
    >>> task.decode(prompt[0]), task.prompt_length + task.horizon
    ('BOS 12 x 34 =', 77)
    >>> task.decode(task.targets(prompt)[0][:22])
    '(1 x 10 + 2 x 1) x (3 x 10 + 4 x 1) ='
    """

    digits: int = 2
    cot: str = "source"
    leading_zeros: bool = True

    def __post_init__(self) -> None:
        check_int("digits", self.digits, minimum=1, maximum=MAX_DIGITS)
        check_in("cot", self.cot, COTS)
        check_flag("leading_zeros", self.leading_zeros)

    @property
    def layout(self) -> Layout:
        """What stands where."""
        return layout(self.digits, self.cot)

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Ten digits, six symbols, and for ``cot="carry"`` the carries 0..2n - 2."""
        return FIRST_CARRY + (2 * self.digits - 1 if self.cot == "carry" else 0)

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """2n + 3."""
        return self.layout.prompt_length

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """70, 157 and 296 for n = 2, 3, 4 at ``cot="source"``: set ``digits`` and ``cot`` to change it."""
        return len(self.layout.slots) - self.layout.prompt_length

    @cached_property
    def policy_class(self) -> PositionalLinearClass:
        return PositionalLinearClass(self.vocab_size, self.prompt_length, self.horizon)

    # -- prompts and answers -------------------------------------------------------------------------------------------

    @property
    def _smallest(self) -> int:
        return 0 if self.leading_zeros else 10 ** (self.digits - 1)

    def prompts_of(self, first: NDArray[np.integer] | list[int], second: NDArray[np.integer] | list[int]) -> IntArray:
        """``(B, P)`` prompts that ask for ``first[b] * second[b]``; numbers of at most ``digits`` digits.

        Raises:
            ValueError: two lengths, or a number outside [0, 10^digits - 1].
        """
        numbers = [np.asarray(factor) for factor in (first, second)]
        if numbers[0].ndim != 1 or numbers[0].shape != numbers[1].shape:
            raise ValueError(
                f"the factors have shapes {numbers[0].shape} and {numbers[1].shape}; two equal (B,) needed."
            )
        for number in numbers:
            if number.size and not np.issubdtype(number.dtype, np.integer):
                raise TypeError(f"the factors must be integers, not {number.dtype}.")
            if number.size and (number.min() < 0 or number.max() >= 10**self.digits):
                raise ValueError(f"a factor lies outside [0, {10**self.digits - 1}]; raise digits={self.digits}.")
        power = 10 ** np.arange(self.digits - 1, -1, -1, dtype=np.int64)
        left, right = (number.astype(np.int64)[:, None] // power % 10 for number in numbers)
        column = np.full((len(left), 1), BOS)
        return np.concatenate([column, left, column * 0 + TIMES, right, column * 0 + EQUALS], axis=1)

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        """Pair by pair, so that n prompts at once are those of n single draws."""
        pairs = rng.integers(self._smallest, 10**self.digits, size=(n, 2))
        return self.prompts_of(pairs[:, 0], pairs[:, 1])

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All pairs, for at most two digits.

        Raises:
            NotTractableError: more digits.
        """
        if self.digits > LISTED_DIGITS:
            return super().prompt_law()
        pairs = self._smallest + all_sequences(10**self.digits - self._smallest, 2)
        return self.prompts_of(pairs[:, 0], pairs[:, 1]), np.full(len(pairs), 1.0 / len(pairs))

    def factors(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, 2, n)`` digits of the factors in ``(B, P)`` prompts, the digit of 10^i at index i.

        Defined for every prompt: a token that is no digit counts as 0 where a digit belongs, and is not looked at
        elsewhere.
        """
        tokens = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        where = [[self.layout.factors[factor, i] for i in range(self.digits)] for factor in (0, 1)]
        digits = tokens[:, where]  # (B, 2, n)
        return np.where(digits < 10, digits, 0)

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        return written(self.layout, self.digits, self.factors(prompts))[:, self.prompt_length :]

    # -- reward and reading --------------------------------------------------------------------------------------------

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where all 2n digits of the product are right, 0 otherwise. Shape ``(B,)``."""
        where = np.array(self.layout.product_digits()) - self.prompt_length
        right = np.asarray(tokens)[:, where] == self.targets(prompts)[:, where]
        return right.all(axis=1).astype(np.float64)

    has_verifier = True

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B,)`` whether every complete piece of the ``(B, t)`` tokens follows from what stands before it.

        A piece is a term with the symbol behind it, a column with its carry, or the product: a mistake within one is
        noticed at its end. Where all pieces so far are right in this sense they are those of the expert.
        """
        tokens = np.asarray(tokens)
        complete = [end - self.prompt_length for end in self.layout.ends if end <= self.prompt_length + tokens.shape[1]]
        checked = max(complete, default=0)
        return (tokens[:, :checked] == self.targets(prompts)[:, :checked]).all(axis=1)

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """As one would write it: digits run together, ``x``, ``+`` and ``=`` between spaces, ``[c]`` for a carry."""
        words = [self._word(int(token)) for token in np.asarray(tokens).ravel()]
        return " ".join("".join(words).split())

    def _word(self, token: int) -> str:
        if token < 10:
            return str(token)
        if token >= FIRST_CARRY:
            return f" [{token - FIRST_CARRY}]"
        symbol = SYMBOLS[token - 10]
        return symbol if symbol in "()" else f" {symbol} "


MAX_LISTED = 1 << 14


@dataclass(frozen=True)
class ColumnAddition(TargetTask):
    """The digits of one column and the carry before it; the answer is the carry handed on, then the digit written.

    This is the step that ``Multiplication(cot="carry")`` repeats: its columns have at most 3, 5 and 7 digits for
    factors of 2, 3 and 4 digits. The class is autoregressive linear over the one-hot prefix, with weights of its own
    for each of the two answers.

    What it shows [derived here]: with ``carry=True`` both answers are ordered decisions on a linear statistic, carry =
    floor(s / 10) and digit = s - 10 carry, s the sum of the column. Without the carry token the digit is s mod 10:
    given all but one of the summands it is uniform, so every one-hot feature alone is independent of it, and the
    population optimum of log-loss is uniform over the digits and right one time in ten (at the radius, as it excludes
    the carry tokens). Linear predictors that log-loss does not find do better: ordered decisions on s with a window of
    ten sums are right on .75, .66 and .55 of the columns of 2, 3 and 5 digits, but none on all. One more token is what
    makes the step linear, as in Malach (2023, arXiv:2309.06979, section 3, on parities). Logistic regression on 5000
    columns of 3, 5 and 7 digits gets the carry of a fresh one right with frequency 1.000, .989 and .979, the digit
    after it with 1.000, 1.000 and .999, and the digit alone with .10.

    Tokens 0..9 are digits, 10, 11, ... the carries 0..addends - 1. Digits and the carry of the prompt are uniform.

    Args:
        addends: k, digits in the column, at least 2.
        carry: write the carry first (H = 2); else the digit alone (H = 1).
        radius: of the ball of theta. Ordered decisions between ten digits need a large one: at 3 digits the best theta
            for the whole law is right everywhere at 1000, and from samples 3000 is better.

    >>> task = ColumnAddition(addends=3)
    >>> task.decode(np.array([7, 8, 9, 11])), task.decode(task.targets(np.array([[7, 8, 9, 11]]))[0])
    ('7 8 9 [1]', '[2] 5')
    """

    addends: int = 3
    carry: bool = True
    radius: float = 3000.0

    has_success = True

    def __post_init__(self) -> None:
        check_int("addends", self.addends, minimum=2, maximum=1000)
        check_flag("carry", self.carry)
        check_positive("radius", self.radius, "leaves only the uniform policy")

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Ten digits and k carries."""
        return 10 + self.addends

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """k + 1."""
        return self.addends + 1

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """2 with the carry token, 1 without: set ``carry``."""
        return 1 + self.carry

    @cached_property
    def policy_class(self) -> ARLinearClass:
        width = self.prompt_length + self.horizon - 1
        return ARLinearClass(ByPosition(WindowOneHot(self.vocab_size, width), self.horizon), self.radius)

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        """Column by column, so that n prompts at once are those of n single draws."""
        lowest = np.array([0] * self.addends + [10])
        return rng.integers(
            lowest, lowest + np.array([10] * self.addends + [self.addends]), size=(n, self.prompt_length)
        )

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All columns, for at most three digits.

        Raises:
            NotTractableError: more digits.
        """
        if 10**self.addends * self.addends > MAX_LISTED:
            return super().prompt_law()
        columns = all_sequences(10, self.addends)
        carries = np.repeat(10 + np.arange(self.addends), len(columns))
        prompts = np.column_stack([np.tile(columns, (self.addends, 1)), carries])
        return prompts, np.full(len(prompts), 1.0 / len(prompts))

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` answers to ``(B, k + 1)`` prompts; a token of the wrong kind counts as 0."""
        tokens = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        digits, carry = np.where(tokens[:, :-1] < 10, tokens[:, :-1], 0), np.maximum(tokens[:, -1] - 10, 0)
        total = digits.sum(axis=1) + carry
        answers = np.column_stack([10 + total // 10, total % 10])
        return answers[:, 2 - self.horizon :]

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Digits, and ``[c]`` for a carry."""
        return " ".join(
            str(token) if token < 10 else f"[{token - 10}]" for token in np.asarray(tokens).ravel().tolist()
        )
