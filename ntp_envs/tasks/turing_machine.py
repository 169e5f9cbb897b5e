"""TuringMachine: the tape after every step of a machine, which a linear next-token predictor can write.

First tables of machines (how they are written, checked, and the ones that have names), then the weights of the linear
predictor, then the task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray, all_sequences
from ntp_envs.checks import check_flag, check_in, check_int, check_positive, check_real, did_you_mean
from ntp_envs.features import OffsetsOneHot, WindowOneHot
from ntp_envs.policy_classes import ARLinearClass, ARLinearPolicy
from ntp_envs.saved import Savable
from ntp_envs.tasks.base import FOLLOWS, TargetTask

Row = tuple[str, str, str, str, str]

#: names that a state without rows may have: the machine stops there
HALTING = ("H", "Z", "halt")
MOVES = {"L": -1, "N": 0, "R": 1}


@dataclass(frozen=True)
class TuringTable(Savable):
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


# Reading what a user writes.

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


# Machines with names.


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


# The linear predictor that runs a Turing machine: its weights, written down.


def step_weights(table: TuringTable) -> FloatArray:
    """``(A, 1 + 3 A)`` weights of a constant and of the left, the same and the right cell of the block before.

    In every triple of cells of a configuration (one head at most, ``|`` beyond the ends), and before ``|``, the right
    token scores at least .5 above every other; all but the bias are small integers. Derived here, after the statement
    of Malach (2023, arXiv:2309.06979) that linear predictors emulate Turing machines:

    * .5 on every symbol without a head; then, from the same cell,
    * a symbol a without a head: 2 on a, with and without every state;
    * a head whose move is to symbol b: 2 on b, with and without every state; if it stays, or has halted, 2 on
      b with the next state;
    * ``|``: 3 on ``|``, which wins whatever is beside it;
    * from the left cell, a head that moves right into state q': 1 on every symbol with q'; from the right cell, one
      that moves left, the same.

    >>> from ntp_envs.tasks.turing_machine import MACHINES
    >>> step_weights(MACHINES["busy_beaver_2"]).shape
    (9, 28)
    """
    place = len(table.states) + 1
    A = 1 + len(table.symbols) * place
    bias, left, same, right = np.zeros(A), np.zeros((A, A)), np.zeros((A, A)), np.zeros((A, A))
    plain = 1 + place * np.arange(len(table.symbols))
    bias[plain] = 0.5
    same[0, 0] = 3.0
    for a, here in enumerate(plain):
        same[here : here + place, here] = 2.0
        for q in range(len(table.states)):
            following, written, move = table.step[q, a]
            under = here + 1 + q
            if move == 0:
                same[plain[written] + 1 + following, under] = 2.0
            else:
                same[plain[written] : plain[written] + place, under] = 2.0
                (left if move > 0 else right)[plain + 1 + following, under] = 1.0
    return np.column_stack([bias, left, same, right])


def linear_emulator(task: TuringMachine, *, norm: float | None = None) -> ARLinearPolicy:
    """The member of ``task.policy_class`` whose greedy decoding is the machine, for every prompt and at any length.

    Decode it with `ntp_envs.GreedyPolicy`. Sampling errs with a probability that falls exponentially in the norm; the
    weights are `step_weights`, less their mean over the tokens, which a softmax does not see.

    Args:
        task: with ``cot=True``.
        norm: of theta, at most the class's radius, which is the default: the sharpest member in this direction.

    Raises:
        ValueError: ``cot=False``, or a norm above the radius.

    >>> from ntp_envs import GreedyPolicy
    >>> task = TuringMachine("increment", width=12)
    >>> prompts = task.sample_prompts(5, np.random.default_rng(0))
    >>> run = GreedyPolicy(linear_emulator(task)).sample(prompts, task.horizon, np.random.default_rng(0))
    >>> task.success(prompts, run).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if not task.cot or not isinstance(task.policy_class.features, OffsetsOneHot):
        raise ValueError("the emulator writes every configuration; take a task with cot=True.")
    radius = task.policy_class.radius
    wanted = radius if norm is None else check_real("norm", norm, minimum=0.0, maximum=radius)
    weights = step_weights(task.table)
    theta = (weights - weights.mean(axis=0)).ravel()
    return task.policy_class.policy(theta * (wanted / np.linalg.norm(theta)))


INPUTS = ("blank", "random", "word")
MAX_LISTED = 1 << 12
MAX_STEPS = 10_000  # that a machine on the blank tape gets to halt, where ``steps`` is not given


@dataclass(frozen=True)
class TuringMachine(TargetTask):
    """Write down the configurations of a Turing machine, one block of S cells and ``|`` after every step.

    A cell is one token, its symbol together with the state of the machine if the head is there; the prompt is the
    first configuration and ``|``. With ``cot`` the answer is the ``steps`` configurations that follow, H = steps
    (S + 1); without it, it is the last of them alone, H = S + 1. A machine that has halted repeats its configuration.
    A head that moves over an end of the tape is lost, and the tape stays as it is from then on; on the blank tape,
    where this can be known beforehand, it is an error instead.

    What it shows: linear next-token predictors can emulate Turing machines if they write a chain of thought (Malach
    2023, arXiv:2309.06979). Each token of the chain is a function of three tokens of the block before, at the offsets
    -(S + 2), -(S + 1) and -S, and the class, linear in just these, decodes the whole run exactly
    (`ntp_envs.tasks.linear_emulator`; weights and token layout are derived here). The same weights serve every width
    and any number of steps. Without the chain the class sees all of the prompt and of the answer so far, which contains
    the class above (in a ball ``sqrt((S + 1) / 2)`` times as large, as more features share its norm); yet ``parity`` is
    beyond it, as is the busy beaver after a few steps. Not every answer is: ``increment`` flips the bits up to the
    first zero, a conjunction, and linear predictors learn that at once.

    The tokens are 0 for ``|`` and 1 + i (Q + 1) + q for symbol i, with q = 0 away from the head and q = 1 + state
    under it; A = 1 + symbols (Q + 1), Q states with the halting ones.

    Args:
        machine: a name (``"increment"``, ``"parity"``, ``"busy_beaver_2"`` to ``"busy_beaver_4"``), the text of a
            table as in the busy beaver literature (``"1RB1LB_1LA1RZ"``), or a table, see
            `ntp_envs.tasks.turing_machine.read_machine`; tables are stored as tuples of rows.
        width: S, cells of the tape, at least 2 (3 for words); by default 5, or as many as the run from the blank tape
            needs.
        steps: of the machine; ``None`` is 2 S - 2 (both ways over the tape), on the blank tape the time to halt.
        inputs: ``"word"``: a uniform word of S - 2 symbols between two blanks, the head on its first; ``"blank"``:
            the blank tape, the head in cell S // 2; ``"random"``: uniform symbols, cell of the head and state (halting
            ones too). ``None`` is words for ``increment`` and ``parity``, the blank tape for others. The words are
            over the machine's own alphabet, for a table all symbols but the blank.
        cot: write every configuration, or only the last.
        radius: of the ball of theta; at 1000 the emulator's loss is below 2e-8 nats a token for the named machines.

    Raises:
        ValueError: a table that is not one (`TuringTable`), a head that leaves the blank tape, a machine that does not
            halt on it in 10000 steps where ``steps`` is not given.

    >>> task = TuringMachine("busy_beaver_3", width=9)
    >>> task.steps_taken, task.horizon
    (14, 140)
    >>> print(task.decode(task.targets(task.sample_prompts(1, np.random.default_rng(0)))[0, -10:]))
    0 0 0 1 1 1 1@Z 1 1 |
    """

    machine: Any = "increment"
    width: int = FOLLOWS
    steps: int | None = None
    inputs: str | None = None
    cot: bool = True
    radius: float = 1000.0

    has_verifier = True

    def __post_init__(self) -> None:
        stored, table = read_machine(self.machine)
        object.__setattr__(self, "machine", stored)
        if self.inputs is not None:
            check_in("inputs", self.inputs, INPUTS)
        object.__setattr__(self, "_table", table)
        word = self.kind_of_input == "word"
        if word and not self.alphabet:
            raise ValueError("inputs='word' needs a symbol other than the blank; the machine has none.")
        if self.steps is not None:
            check_int("steps", self.steps, minimum=1, maximum=2**20)
        least = 3 if word else 2
        if self.kind_of_input == "blank":
            left, right, halts = table.excursion(MAX_STEPS if self.steps is None else self.steps)
            if halts is None and self.steps is None:
                raise ValueError(f"the machine does not halt on the blank tape in {MAX_STEPS} steps; give steps.")
            least = max(least, 2 * left, 2 * right + 1)
        self._follow(width=max(5, least))
        check_int("width", self.width, minimum=3 if word else 2, maximum=4096)
        if self.kind_of_input == "blank" and self.width < least:
            raise ValueError(
                f"the head leaves the tape of width={self.width} on its way from the blank tape; use width={least} or "
                "more, or fewer steps."
            )
        check_flag("cot", self.cot)
        check_positive("radius", self.radius, "leaves only the uniform policy")

    # -- the machine ---------------------------------------------------------------------------------------------------

    @property
    def table(self) -> TuringTable:
        """The machine's table."""
        return self._table  # type: ignore[attr-defined,no-any-return]

    @property
    def kind_of_input(self) -> str:
        """``inputs``, or what is meant by ``None``."""
        return self.inputs or ("word" if self.table.word else "blank")

    @property
    def alphabet(self) -> tuple[str, ...]:
        """Symbols of an input word."""
        return self.table.word or self.table.symbols[1:]

    @cached_property
    def steps_taken(self) -> int:
        """``steps``, or what is meant by ``None``."""
        if self.steps is not None:
            return self.steps
        if self.kind_of_input != "blank":
            return 2 * self.width - 2
        return max(self.table.excursion(MAX_STEPS)[2] or 1, 1)

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """A = 1 + symbols (Q + 1)."""
        return 1 + len(self.table.symbols) * (len(self.table.states) + 1)

    @property
    def prompt_length(self) -> int:  # type: ignore[override]
        """P = S + 1: the cells and ``|``."""
        return self.width + 1

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """H: set ``steps`` and ``width`` to change it."""
        return (self.steps_taken if self.cot else 1) * (self.width + 1)

    @cached_property
    def policy_class(self) -> ARLinearClass:
        """Linear in the tokens at three offsets; without the chain, in all tokens there are."""
        S = self.width
        seen = OffsetsOneHot(self.vocab_size, (-(S + 2), -(S + 1), -S)) if self.cot else None
        return ARLinearClass(seen or WindowOneHot(self.vocab_size, 2 * S + 1), self.radius)

    # -- prompts and answers -------------------------------------------------------------------------------------------

    def encode(self, cells: NDArray[np.integer], head: NDArray[np.integer], state: NDArray[np.integer]) -> IntArray:
        """``(B, S + 1)`` tokens of ``(B, S)`` symbols, ``(B,)`` heads (-1: none) and ``(B,)`` states, by index."""
        place = len(self.table.states) + 1
        tokens = np.zeros((len(cells), self.width + 1), dtype=np.int64)
        tokens[:, :-1] = 1 + np.asarray(cells) * place
        at = np.flatnonzero(np.asarray(head) >= 0)
        tokens[at, np.asarray(head)[at]] += 1 + np.asarray(state)[at]
        return tokens

    def configurations(self, blocks: NDArray[np.integer]) -> tuple[IntArray, IntArray, IntArray]:
        """What `encode` takes, from its ``(B, S + 1)`` tokens; the state where there is no head is 0.

        Every row is read as some configuration, so that the expert is defined for any prompt: of several heads the
        leftmost counts, ``|`` among the cells is a blank, and the last token is not read.
        """
        cells = np.maximum(np.asarray(blocks, dtype=np.int64)[:, :-1], 1)
        symbol, under = np.divmod(cells - 1, len(self.table.states) + 1)
        heads = under > 0
        first = heads.argmax(axis=1)
        head = np.where(heads.any(axis=1), first, -1)
        return symbol, head, np.maximum(under[np.arange(len(under)), first] - 1, 0)

    def _run(self, prompts: NDArray[np.integer], steps: int) -> tuple[IntArray, IntArray, IntArray]:
        return self.table.run(*self.configurations(prompts), steps)

    def targets(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` right answers to ``(B, S + 1)`` prompts, by running the machine on their `configurations`."""
        cells, head, state = self._run(prompts, self.steps_taken)
        first = 1 if self.cot else self.steps_taken
        kept = [array[:, first:].reshape(-1, *array.shape[2:]) for array in (cells, head, state)]
        return self.encode(*kept).reshape(len(cells), self.horizon)

    def _blank_prompt(self) -> IntArray:
        return self.encode(
            np.zeros((1, self.width), dtype=np.int64), np.array([self.width // 2]), np.zeros(1, dtype=int)
        )

    def _word_prompts(self, letters: IntArray) -> IntArray:
        """Prompts of ``(B, S - 2)`` positions in the alphabet."""
        cells = np.zeros((len(letters), self.width), dtype=np.int64)
        cells[:, 1:-1] = np.array([self.table.symbols.index(symbol) for symbol in self.alphabet])[letters]
        return self.encode(cells, np.ones(len(cells), dtype=np.int64), np.zeros(len(cells), dtype=np.int64))

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        """All prompts, equally likely. ``NotTractableError`` for more than 4096."""
        if self.kind_of_input == "blank":
            return self._blank_prompt(), np.ones(1)
        S, symbols, states = self.width, len(self.table.symbols), len(self.table.states)
        word = self.kind_of_input == "word"
        logs = (S - 2) * math.log(len(self.alphabet)) if word else S * math.log(symbols) + math.log(S * states)
        if logs > math.log(MAX_LISTED) + 1e-9:
            return super().prompt_law()
        if word:
            prompts = self._word_prompts(all_sequences(len(self.alphabet), S - 2))
        else:
            cells = all_sequences(symbols, S)
            tape, head, state = (axis.ravel() for axis in np.indices((len(cells), S, states)))
            prompts = self.encode(cells[tape], head, state)
        return prompts, np.full(len(prompts), 1.0 / len(prompts))

    def sample_prompts(self, n: int, rng: np.random.Generator) -> IntArray:
        if self.kind_of_input == "blank":
            return np.repeat(self._blank_prompt(), n, axis=0)
        if self.kind_of_input == "word":
            return self._word_prompts(rng.integers(len(self.alphabet), size=(n, self.width - 2)))
        cells = rng.integers(len(self.table.symbols), size=(n, self.width))
        return self.encode(cells, rng.integers(self.width, size=n), rng.integers(len(self.table.states), size=n))

    # -- checking and reading ------------------------------------------------------------------------------------------

    def verify(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether every token follows from the block before it by the machine's table.

        If all do, they are the target's, which is how it is computed. Without the chain there is no block before to
        compare with: ``|`` has to be at the end and only there, and the whole answer right.
        """
        tokens = np.asarray(tokens)
        length = tokens.shape[1]
        if self.cot or length == self.horizon:
            return np.asarray((tokens == self.targets(prompts)[:, :length]).all(axis=1))
        return np.asarray((tokens != 0).all(axis=1))

    def decode(self, tokens: NDArray[np.integer]) -> str:
        """Cells by their symbols, the one under the head as ``symbol@state``."""
        return " ".join(self._words[int(token)] for token in np.asarray(tokens))

    @cached_property
    def _words(self) -> list[str]:
        under = ["", *(f"@{state}" for state in self.table.states)]
        return ["|", *(symbol + state for symbol in self.table.symbols for state in under)]
