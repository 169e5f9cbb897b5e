"""ColumnAddition: one column of written addition, with and without a token for the carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_int, check_real, check_tokens
from ntp_envs.features import ByPosition, WindowOneHot
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.tasks.base import FloatArray, IntArray
from ntp_envs.tasks.target import TargetTask

__all__ = ["ColumnAddition"]

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
        check_int("addends", self.addends, minimum=2)
        if not isinstance(self.carry, bool):
            raise TypeError(f"carry={self.carry!r} must be True or False.")
        if check_real("radius", self.radius, minimum=0.0) == 0.0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")

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
