"""TuringMachine: the tape after every step of a machine, which a linear next-token predictor can write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_in, check_int, check_real
from ntp_envs.features import OffsetsOneHot, WindowOneHot
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.tasks.base import FOLLOWS, FloatArray, IntArray
from ntp_envs.tasks.target import TargetTask
from ntp_envs.tasks.turing_tables import TuringTable, read_machine

__all__ = ["TuringMachine"]

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
            `ntp_envs.tasks.turing_tables.read_machine`; tables are stored as tuples of rows.
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
            check_int("steps", self.steps, minimum=1)
        least = 3 if word else 2
        if self.kind_of_input == "blank":
            left, right, halts = table.excursion(MAX_STEPS if self.steps is None else self.steps)
            if halts is None and self.steps is None:
                raise ValueError(f"the machine does not halt on the blank tape in {MAX_STEPS} steps; give steps.")
            least = max(least, 2 * left, 2 * right + 1)
        self._follow(width=max(5, least))
        check_int("width", self.width, minimum=3 if word else 2)
        if self.kind_of_input == "blank" and self.width < least:
            raise ValueError(
                f"the head leaves the tape of width={self.width} on its way from the blank tape; use width={least} or "
                "more, or fewer steps."
            )
        if not isinstance(self.cot, bool):
            raise TypeError(f"cot={self.cot!r} must be True (the chain) or False (the last configuration alone).")
        if check_real("radius", self.radius, minimum=0.0) == 0.0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")

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
