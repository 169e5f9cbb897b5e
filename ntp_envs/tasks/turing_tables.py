"""Tables of Turing machines: how they are written, checked, and the ones that have names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import did_you_mean

__all__ = ["HALTING", "MACHINES", "MOVES", "Row", "TuringTable", "read_machine"]

IntArray = NDArray[np.int64]
Row = tuple[str, str, str, str, str]

#: names that a state without rows may have: the machine stops there
HALTING = ("H", "Z", "halt")
MOVES = {"L": -1, "N": 0, "R": 1}


@dataclass(frozen=True)
class TuringTable:
    """A deterministic Turing machine on one tape.

    Args:
        rows: ``(state, symbol, next state, symbol written, move)``, one for every working state and symbol; moves are
            ``"L"``, ``"R"`` and ``"N"`` (stay). The first row's state is the start, its symbol the blank.
        word: symbols that an input may consist of; empty for machines that start on the blank tape.

    Raises:
        ValueError: a row given twice or missing, a next state that has no rows and is not in `HALTING`, no next state
            in `HALTING`, a symbol written that no row reads, an unknown move.

    >>> TuringTable((("A", "0", "H", "1", "R"), ("A", "1", "A", "0", "L"))).states
    ('A', 'H')
    """

    rows: tuple[Row, ...]
    word: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("the machine has no rows; (state, symbol, next state, symbol written, move) are needed.")
        working, symbols = self._distinct(0), self.symbols
        seen: set[tuple[str, str]] = set()
        for state, symbol, following, written, move in self.rows:
            where = f"the row of state {state!r} reading {symbol!r}"
            if (state, symbol) in seen:
                raise ValueError(f"{where} is given twice.")
            seen.add((state, symbol))
            if move not in MOVES:
                raise ValueError(f"{where} has the move {move!r}; moves are {', '.join(MOVES)}.")
            if written not in symbols:
                raise ValueError(
                    f"{where} writes {written!r}, a symbol that no row reads.{did_you_mean(written, symbols)}"
                )
            if following not in (*working, *HALTING):
                raise ValueError(
                    f"{where} goes to the unknown state {following!r}; give its rows, or halt in one of "
                    f"{', '.join(HALTING)}.{did_you_mean(following, working)}"
                )
            if state in HALTING:
                raise ValueError(f"{where} is a row of a halting state; {', '.join(HALTING)} have none.")
        for state in working:
            for symbol in symbols:
                if (state, symbol) not in seen:
                    raise ValueError(f"there is no row of state {state!r} reading {symbol!r}.")
        if not any(row[2] in HALTING for row in self.rows):
            raise ValueError(f"the machine has no halting state; some row must go to one of {', '.join(HALTING)}.")
        if unknown := set(self.word) - set(symbols):
            raise ValueError(f"word={self.word} has symbols {sorted(unknown)} that no row reads.")

    def _distinct(self, column: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row[column] for row in self.rows))

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Working states in order of appearance, the start first; then the halting ones."""
        return tuple(dict.fromkeys((*self._distinct(0), *(row[2] for row in self.rows if row[2] in HALTING))))

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Symbols in order of appearance, the blank first."""
        return self._distinct(1)

    @cached_property
    def n_working(self) -> int:
        """Number of states that do not halt."""
        return len(self._distinct(0))

    @cached_property
    def step(self) -> IntArray:
        """``(states, symbols, 3)``: next state, symbol written, move. Halting states keep all as it is."""
        out = np.zeros((len(self.states), len(self.symbols), 3), dtype=np.int64)
        out[:, :, 0] = np.arange(len(self.states))[:, None]
        out[:, :, 1] = np.arange(len(self.symbols))
        for state, symbol, following, written, move in self.rows:
            place = self.states.index(state), self.symbols.index(symbol)
            out[place] = self.states.index(following), self.symbols.index(written), MOVES[move]
        return out

    def run(self, cells: IntArray, head: IntArray, state: IntArray, steps: int) -> tuple[IntArray, IntArray, IntArray]:
        """Configurations before each of ``steps`` steps and after the last.

        Args:
            cells: ``(B, S)`` symbols.
            head: ``(B,)`` cells of the heads, -1 where there is none.
            state: ``(B,)`` states.
            steps: how many.

        Returns:
            ``(B, steps + 1, S)`` cells, ``(B, steps + 1)`` heads and states. A head that moves over an end of the
            tape is gone (-1), and nothing moves any more.
        """
        rows = np.arange(len(cells))
        tapes = np.empty((len(cells), steps + 1, cells.shape[1]), dtype=np.int64)
        heads, states = (np.empty((len(cells), steps + 1), dtype=np.int64) for _ in range(2))
        cells, head, state = cells.copy(), head.copy(), state.copy()
        for t in range(steps + 1):
            tapes[:, t], heads[:, t], states[:, t] = cells, head, state
            at = rows[head >= 0]
            following, written, move = self.step[state[at], cells[at, head[at]]].T
            cells[at, head[at]] = written
            state[at] = following
            head[at] += move
            head[head >= cells.shape[1]] = -1  # -1 is where the other end is left to
        return tapes, heads, states

    def excursion(self, steps: int) -> tuple[int, int, int | None]:
        """On the blank tape: cells visited to the left and right of the first, and the step at which it halts.

        At most ``steps`` steps; the time is ``None`` where the machine has not halted by then.
        """
        tape: dict[int, int] = {}
        head, state, left, right = 0, 0, 0, 0
        for time in range(steps + 1):
            left, right = max(left, -head), max(right, head)
            if state >= self.n_working:
                return left, right, time
            if time < steps:
                state, tape[head], move = (int(part) for part in self.step[state, tape.get(head, 0)])
                head += move
        return left, right, None


# -- reading ----------------------------------------------------------------------------------------------------------

_ACTION = re.compile(r"([0-9])([LR])([A-Z])|---")


def read_machine(machine: Any) -> tuple[str | tuple[Row, ...], TuringTable]:
    """A machine as a user writes it: what to store (plain data, hashable), and its table.

    Args:
        machine: a name in `MACHINES`; the compact text of the busy beaver literature, states A, B, ... separated by
            ``_``, each with what it writes, moves and goes to on 0, 1, ... (``"1RB1LB_1LA1RZ"``; ``---`` halts); rows
            as `TuringTable` has them; or a mapping ``{(state, symbol): (next state, symbol written, move)}``, also
            nested, ``{state: {symbol: (next state, symbol written, move)}}``.

    Raises:
        TypeError: something else.
        ValueError: an unknown name, text that cannot be read, rows that `TuringTable` refuses.
    """
    if isinstance(machine, str):
        if machine in MACHINES:
            return machine, MACHINES[machine]
        if re.fullmatch(r"[0-9A-Z_-]{3,}", machine):
            return machine, TuringTable(tuple(_read_text(machine)))
        raise ValueError(
            f"machine={machine!r} is neither a name nor text such as '1RB1LB_1LA1RZ'.{did_you_mean(machine, MACHINES)}"
        )
    if isinstance(machine, Mapping):
        rows = tuple(_read_mapping(machine))
    elif isinstance(machine, Iterable):
        rows = tuple(_read_row(row) for row in machine)
    else:
        raise TypeError(f"machine={machine!r} must be a name, a table or its text, not {type(machine).__name__}.")
    return rows, TuringTable(rows)


def _read_text(text: str) -> Iterable[Row]:
    groups = text.split("_")
    for letter, group in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", groups, strict=False):
        actions = [group[i : i + 3] for i in range(0, len(group), 3)]
        for symbol, action in enumerate(actions):
            found = _ACTION.fullmatch(action)
            if found is None:
                raise ValueError(
                    f"machine={text!r}: {action!r}, state {letter} reading {symbol}, is not a digit, L or R, and a "
                    "state's letter, nor '---'."
                )
            if action == "---":
                yield letter, str(symbol), "Z", str(symbol), "N"
            else:
                written, move, following = found.groups()
                yield letter, str(symbol), following, written, move


def _read_mapping(machine: Mapping[Any, Any]) -> Iterable[Row]:
    for key, value in machine.items():
        if isinstance(value, Mapping):
            for symbol, action in value.items():
                yield _read_row((key, symbol, *_parts(action)))
        else:
            yield _read_row((*_parts(key), *_parts(value)))


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ValueError(
            f"{value!r} in the machine is not a tuple; a key is (state, symbol), a value (next, write, move)."
        )
    return tuple(value)


def _read_row(row: Any) -> Row:
    parts = tuple(str(part) for part in _parts(row))
    if len(parts) != 5 or not all(parts):
        raise ValueError(f"the row {row!r} must be (state, symbol, next state, symbol written, move).")
    return parts  # type: ignore[return-value]


# -- machines with names ----------------------------------------------------------------------------------------------


def _increment() -> Iterable[Row]:
    """To the right end of the number, then back while there is a carry."""
    blank, zero, one = "_", "0", "1"
    yield "right", blank, "carry", blank, "L"
    yield "right", zero, "right", zero, "R"
    yield "right", one, "right", one, "R"
    yield "carry", blank, "halt", one, "N"
    yield "carry", zero, "halt", one, "N"
    yield "carry", one, "carry", zero, "L"


def _parity() -> Iterable[Row]:
    """To the right end of the word, the parity of the ones so far in the state; written on the first blank."""
    for state, other, answer in (("even", "odd", "0"), ("odd", "even", "1")):
        yield state, "_", "halt", answer, "N"
        yield state, "0", state, "0", "R"
        yield state, "1", other, "1", "R"


#: ``increment`` adds one to a binary number, ``parity`` writes the parity of a word after it; the others are the
#: machines with 2, 3 and 4 states that leave most ones on the blank tape: 4, 6 and 13 (Rado 1962; Lin and Rado 1965;
#: Brady 1983), after 6, 14 and 107 steps.
MACHINES = {
    "increment": TuringTable(tuple(_increment()), word=("0", "1")),
    "parity": TuringTable(tuple(_parity()), word=("0", "1")),
    "busy_beaver_2": TuringTable(tuple(_read_text("1RB1LB_1LA1RZ"))),
    "busy_beaver_3": TuringTable(tuple(_read_text("1RB1RZ_0RC1RB_1LC1LA"))),
    "busy_beaver_4": TuringTable(tuple(_read_text("1RB1LB_1LA0LC_1RZ1LD_1RD0RA"))),
}
