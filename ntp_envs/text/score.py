"""How well a policy predicts a text: bits a character and a token, and perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntp_envs.intervals import CONFIDENCE, student_margin
from ntp_envs.policies import Policy
from ntp_envs.text.corpus import TextPart

#: contiguous blocks of a text whose scatter gives the standard error, and the tokens that each has at least
BLOCKS, SHORTEST = 32, 16
#: tokens scored together: bounds the memory
BATCH_TOKENS = 1 << 15


def _blocks(n_tokens: int) -> int:
    return min(BLOCKS, n_tokens // SHORTEST)


@dataclass(frozen=True)
class BitsPerChar:
    """Cross-entropy of a policy on a text, teacher-forced.

    ``float()`` of it is ``value``. What the unknown token stands for is not spelled out, so the bits are too few by
    what it hides: compare values only where ``unknown_share``, which ``str()`` shows, is small or the same.

    Attributes:
        value: bits a character (a byte, where tokens are bytes); ``inf`` if some token has probability zero.
        std_error: of ``value``, from the scatter of 32 contiguous blocks of the text (fewer where they had less than 16
            tokens) taken as independent; ``nan`` where there are fewer than two, or ``value`` is infinite. Text comes
            in stretches of its own kind: of a few thousand letters it is too small (``docs/calibration.md``).
        per_token: bits a token.
        n_tokens, n_chars: how much was scored.
        unknown_share: share of the scored tokens that are the unknown token.
    """

    value: float
    std_error: float
    per_token: float
    n_tokens: int
    n_chars: int
    unknown_share: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        unknown = f", {100 * self.unknown_share:.2g} % unknown tokens" if self.unknown_share > 0 else ""
        return f"{self.value:.3f} bits a character (+- {self.std_error:.3f}{unknown})"

    @property
    def perplexity(self) -> float:
        """``2 ** per_token``: of how many equally likely tokens the policy is as unsure."""
        return 2.0**self.per_token

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``value``."""
        return self.interval_at(CONFIDENCE)

    def interval_at(self, confidence: float) -> tuple[float, float]:
        """The interval of ``value`` at a level of confidence: Student's t over the blocks."""
        margin = student_margin(self.std_error, _blocks(self.n_tokens), confidence=confidence)
        return self.value - margin, self.value + margin

    @classmethod
    def of(
        cls, log_probs: NDArray[np.float64], lengths: NDArray[np.integer], *, unknown_share: float = 0.0
    ) -> BitsPerChar:
        """From the ``(n,)`` log-probabilities (nats) of the tokens of a text in order, and the characters of each.

        >>> BitsPerChar.of(np.log(np.full(64, 0.25)), np.full(64, 2)).value
        1.0
        """
        bits = -np.asarray(log_probs) / math.log(2.0)
        n_tokens, n_chars = len(bits), int(np.sum(lengths))
        total = float(bits.sum())
        blocks = _blocks(n_tokens)
        error = math.nan
        if blocks >= 2 and math.isfinite(total):
            off = [part.sum() for part in np.array_split(bits - total / n_chars * lengths, blocks)]
            error = math.sqrt(blocks / (blocks - 1) * float(np.sum(np.square(off)))) / n_chars
        return cls(total / n_chars, error, total / n_tokens, n_tokens, n_chars, unknown_share)


def text_log_probs(
    policy: Policy, text: NDArray[np.integer], *, prompt_length: int, window: int
) -> NDArray[np.float64]:
    """``(L - P,)`` log-probabilities of the tokens of a text after the first P, in nats.

    The text is cut into windows of ``window`` tokens; each is read after the P tokens before it.

    >>> from ntp_envs import UniformPolicy
    >>> text_log_probs(UniformPolicy(2), np.array([0, 1, 1, 0]), prompt_length=1, window=2).round(3).tolist()
    [-0.693, -0.693, -0.693]
    """
    count = len(text) - prompt_length
    full = count // window
    out = np.empty(count)
    rows = max(1, BATCH_TOKENS // (window + prompt_length))
    for first in range(0, full, rows):
        starts = window * np.arange(first, min(first + rows, full))
        lines = text[starts[:, None] + np.arange(prompt_length + window)]
        scored = policy.log_probs(lines[:, :prompt_length], lines[:, prompt_length:])
        out[starts[0] : starts[-1] + window] = scored.ravel()
    if count > full * window:
        line = text[None, full * window :]
        out[full * window :] = policy.log_probs(line[:, :prompt_length], line[:, prompt_length:])[0]
    return out


def document_log_probs(
    policy: Policy, part: TextPart, *, end: int, prompt_length: int, window: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``(n,)`` log-probabilities (nats) of the tokens of documents after the first P of each, and where they are.

    Documents are read from their beginnings, longer ones in windows as in `text_log_probs`. Those of fewer than P
    tokens are left out.
    """
    assert part.starts is not None
    stops = np.append(part.starts[1:], len(part))
    scored = np.maximum(stops - part.starts - prompt_length, 0)  # the end token of each included
    pieces = -(-scored // window)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = np.repeat(part.starts, pieces) + window * (np.arange(pieces.sum()) - first)
    counts = np.minimum(np.repeat(stops, pieces) - begins - prompt_length, window)
    out = np.empty(counts.sum())
    into = np.cumsum(counts) - counts
    order, done = np.argsort(counts, kind="stable"), 0  # those of like lengths together: little is filled up
    while done < len(order):
        longest = counts[order[done : done + max(1, BATCH_TOKENS // (prompt_length + 1))]].max()
        rows = order[done : done + max(1, BATCH_TOKENS // (prompt_length + longest))]
        longest = counts[rows].max()
        lines = part.lines(begins[rows], prompt_length + longest, end)
        found = policy.log_probs(lines[:, :prompt_length], lines[:, prompt_length:])
        for row, log_probs in zip(rows, found):
            out[into[row] : into[row] + counts[row]] = log_probs[: counts[row]]
        done += len(rows)
    places = np.repeat(begins + prompt_length - into, counts) + np.arange(len(out))
    return out, places
