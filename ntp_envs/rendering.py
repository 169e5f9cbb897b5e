"""Pictures of a token sequence against the expert's probabilities, so that the place where it diverges is seen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.tasks.base import Task

__all__ = ["RENDER_MODES", "frames"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Image = NDArray[np.uint8]

RENDER_MODES = ("ansi", "rgb_array")

WIDTH, HEIGHT = 640, 160  # pixels, whatever the horizon
TOKEN_ROWS = slice(8, 56)  # a strip of cells coloured by token
BAR_ROWS = slice(64, 152)  # under each token, the expert's probability of it
TOKENS_A_LINE = 16  # of text

WHITE, PAPER, INK = (255, 255, 255), (236, 236, 236), (40, 40, 40)
EXPECTED, SURPRISE = (0, 114, 178), (213, 94, 0)
PALETTE = [  # Okabe & Ito's, told apart by everybody; two colours for the two tokens of most tasks first
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (110, 110, 110),
]


def frames(task: Task, mode: str, prompts: IntArray, tokens: IntArray) -> list[Any]:
    """One frame a sequence.

    Args:
        task: gives vocabulary, horizon and expert.
        mode: ``"ansi"`` for a string, ``"rgb_array"`` for a ``(160, 640, 3)`` uint8 array.
        prompts: ``(B, P)`` tokens.
        tokens: ``(B, t)`` tokens, t <= H.
    """
    log_probs = task.expert.log_probs(prompts, tokens)  # (B, t)
    if mode == "rgb_array":
        return [_picture(task, *sequence) for sequence in zip(prompts, tokens, np.exp(log_probs))]
    following: list[FloatArray | None] = [None] * len(tokens)
    if tokens.shape[1] < task.horizon:
        following = list(np.exp(task.expert.next_log_probs(prompts, tokens)))
    return [_text(task, *sequence) for sequence in zip(prompts, tokens, log_probs, following)]


def _text(task: Task, prompt: IntArray, tokens: IntArray, log_probs: FloatArray, following: FloatArray | None) -> str:
    lines = [f"{task.name}: token {len(tokens)} of {task.horizon}, prompt {' '.join(map(str, prompt)) or '(none)'}"]
    for start in range(0, len(tokens), TOKENS_A_LINE):
        part = slice(start, start + TOKENS_A_LINE)
        lines.append("token " + "".join(f"{token:>7d}" for token in tokens[part]))
        lines.append("expert" + "".join(f"{prob:>7.2g}" for prob in np.exp(log_probs[part])))
    lines.append(f"log-probability under the expert: {log_probs.sum():.4g} nats")
    if following is not None:
        likely = np.argsort(-following.round(9), kind="stable")  # equal ones in order[:8]
        more = " ..." if len(following) > len(likely) else ""
        lines.append("next: " + ", ".join(f"{token} ({following[token]:.2g})" for token in likely) + more)
    return "\n".join(lines)


def _picture(task: Task, prompt: IntArray, tokens: IntArray, probs: FloatArray) -> Image:
    """Cells for prompt and tokens; below, blue up to the expert's probability of the token and vermilion above it."""
    image = np.full((HEIGHT, WIDTH, 3), WHITE, dtype=np.uint8)
    split, length = len(prompt), len(prompt) + task.horizon
    known = np.concatenate([prompt, tokens])
    surprise = np.zeros(length)  # which position a column shows, if it stands for several
    surprise[: len(known)] = 1.0
    surprise[split : len(known)] += 1.0 - probs
    shown = _shown(surprise, WIDTH)  # (WIDTH,) positions

    colours = np.full((length, 3), PAPER, dtype=np.uint8)
    colours[: len(known)] = _palette(task.vocab_size)[known]
    image[TOKEN_ROWS] = colours[shown]

    bars = np.zeros(length)
    bars[split : len(known)] = probs
    height = BAR_ROWS.stop - BAR_ROWS.start
    level = np.arange(height, 0, -1)[:, None]  # pixels above the foot of the bar
    written = (shown >= split) & (shown < len(known))
    body = np.where((level <= np.rint(bars[shown] * height))[:, :, None], EXPECTED, SURPRISE)
    image[BAR_ROWS] = np.where(written[None, :, None], body, PAPER)
    image[BAR_ROWS, shown < split] = WHITE

    if length * 4 <= WIDTH:  # room for gaps between the cells
        image[:, 1:][:, shown[1:] != shown[:-1]] = WHITE
    if split:
        image[:, np.searchsorted(shown, split) - 1] = INK  # where the prompt ends
    return image


def _shown(priority: FloatArray, width: int) -> IntArray:
    """For each of ``width`` columns, the position it shows: of those that fall in it, the one of highest priority."""
    length = len(priority)
    starts = np.arange(width + 1) * length // width
    if length <= width:
        return starts[:-1]
    return np.array([a + int(np.argmax(priority[a:b])) for a, b in pairwise(starts)])


def _palette(vocab_size: int) -> NDArray[np.uint8]:
    """``(A, 3)`` colours: the fixed ones, then hues a golden ratio apart."""
    extra = max(vocab_size - len(PALETTE), 0)
    hue = (np.arange(extra) * 0.6180339887) % 1.0
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1  # hue to red, green, blue
    vivid = (np.clip(wheel, 0, 1) * 170 + 50).astype(np.uint8)
    return np.concatenate([np.array(PALETTE, dtype=np.uint8), vivid])[:vocab_size]
