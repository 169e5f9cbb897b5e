"""A linear predictor that multiplies: the weights of a member of `Multiplication`'s policy class, written down.

Every step is one of four linear decisions on one-hot positions (derived here). The last three decode a linear
statistic u of the prefix into ordered classes: class c has the logit ``c u - (beta_1 + ... + beta_c)``. If the
breakpoints beta do not fall, the largest logit is that of the class whose interval (beta_c, beta_{c+1}) holds u.

1. A symbol is a bias; a digit that appeared before is copied by an identity matrix.
2. The tens digit of a b: u = log a + log b, with log 0 replaced by a negative number large enough for zero to stay
   below 1 x 1. The breakpoint for c lies between the products below 10 c and the others.
3. The units digit, given the tens digit t that was just written: the same u and slopes, breakpoints near
   log(10 t + c - 1/2). They depend on t alone, that is on a one-hot position: the intercepts are linear in it.
4. Digits of a sum: u is a sum of digits times powers of ten, an integer. For the digit of 10^k, most significant
   first, u = sum of the partial products - digits already written, breakpoints c 10^k - 1/2. For a carry u is the sum
   of the column and the carry before it, breakpoints 10 c - 1/2; for the digit after it u is that less 10 times the
   carry, breakpoints c - 1/2. Weights and breakpoints are integers and halves: exact in floating point.

`MARGINS` holds the smallest distances of u to a breakpoint. Logits of a step are scaled so that the right token is at
least ``margin`` above every other, whatever the digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import check_real
from ntp_envs.policy_classes import LinearStep, PositionalLinearPolicy
from ntp_envs.tasks.multiplication import Multiplication
from ntp_envs.tasks.multiplication_format import FIRST_CARRY, Slot

__all__ = ["MARGINS", "explicit_multiplier"]

FloatArray = NDArray[np.float64]

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
    if check_real("margin", margin, minimum=0.0) == 0.0:
        raise ValueError("margin=0 leaves the choice open; it must be positive.")
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
