"""Multiplication: long multiplication written out, so that every step is within reach of a linear predictor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_in, check_int, check_tokens
from ntp_envs.policy_classes import PositionalLinearClass
from ntp_envs.tasks.base import FloatArray, IntArray
from ntp_envs.tasks.multiplication_format import (
    BOS,
    COTS,
    EQUALS,
    FIRST_CARRY,
    MAX_DIGITS,
    SYMBOLS,
    TIMES,
    Layout,
    layout,
    written,
)
from ntp_envs.tasks.target import TargetTask

__all__ = ["Multiplication"]

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
        if not isinstance(self.leading_zeros, bool):
            raise TypeError(f"leading_zeros={self.leading_zeros!r} must be True or False.")

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
