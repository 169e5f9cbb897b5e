"""The Study contract: an experiment is a sweep and its analysis, in one place.

A study is options (a dataclass), a list of independent cells made from them, and an analysis that turns the summary
of all cells into tables and figures. The rest - workers, the results file, resuming, seeds, `summary.csv`, the report,
the command line - is shared and knows nothing of any particular study.

A new study is a `Study` value named in `experiments.studies.STUDIES`:

    @dataclass(frozen=True)
    class Options:
        horizons: tuple[int, ...] = (16, 64, 256)

        @classmethod
        def quick(cls) -> Options:
            return cls(horizons=(16, 64))

    def measure(*, H: int, rng: np.random.Generator) -> list[Record]:  # pure, at module level
        return [Record("C_apx", 1.0, {"learner": "log-loss", "H": H})]

    STUDY = Study(
        name="mine",
        question="What does it answer, in one line?",
        options=Options,
        cells=lambda options: [Cell("population", measure, {"H": H}) for H in options.horizons],
        analyse=lambda options, summary: Analysis(),
    )
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.summary import Summary, SummaryRow
    from experiments.tables import Table

__all__ = ["LABELS", "Analysis", "Cell", "FigureSpec", "Record", "Study", "cell_rng", "keyed_rng"]

#: label columns every study has; `Study.labels` may add to them. ``n`` is ``inf`` for a population fit.
LABELS = ("task", "learner", "H", "h", "K", "n")

Label = str | int | float


@dataclass(frozen=True)
class Record:
    """One measured number.

    Records of different cells with equal part, labels and metric are replicates: the summary gives their mean and a
    95 % interval (Student's t), at least as wide as their own intervals make that of a mean.

    Attributes:
        metric: what was measured (``"C_apx"``, ``"hellinger2"``, ``"seconds"``).
        value: the number.
        labels: its place in the sweep; keys among `LABELS` and the study's own.
        lower, upper: a 95 % interval of this one number, where it was estimated; the value itself where exact.
        method: how it was obtained (``"automaton"``, ``"monte carlo (bridge), n=1000"``).
        machine: depends on the machine (seconds, megabytes): goes to ``timings.csv``, never to ``summary.csv``; an
            analysis finds it in `Summary.timings`.
    """

    metric: str
    value: float
    labels: Mapping[str, Label] = field(default_factory=dict)
    lower: float | None = None
    upper: float | None = None
    method: str = ""
    machine: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, floats exact."""
        plain = dataclasses.asdict(self)
        for name in ("value", "lower", "upper"):
            plain[name] = None if plain[name] is None else float(plain[name])
        plain["labels"] = {key: _plain(value) for key, value in self.labels.items()}
        return plain


def _plain(value: Any) -> Label:
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Cell:
    """One independent piece of a study: a pure function of its parameters and its own generator.

    Attributes:
        part: which part of the study it belongs to.
        function: ``function(**parameters, rng=generator) -> list[Record]``; defined at module level, so that it can
            be sent to another process.
        parameters: JSON-like; with the part they are the cell's identity, from which its seed is derived.
        scratch: the function also takes ``scratch``, a `pathlib.Path` of a folder of its own. What it leaves there is
            still there if the run is stopped and started again (checkpoints of a training), and is removed when the
            cell succeeds. The records must not depend on it.
    """

    part: str
    function: Callable[..., Sequence[Record]]
    parameters: Mapping[str, Any]
    scratch: bool = False

    @property
    def key(self) -> str:
        """The identity of the cell as text: equal for equal part and parameters, whatever their order."""
        return f"{self.part} {json.dumps(dict(self.parameters), sort_keys=True)}"


def keyed_rng(seed: int, key: str) -> np.random.Generator:
    """A generator that depends on ``seed`` and on ``key`` only; different keys give independent streams."""
    digest = hashlib.sha256(key.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(words)))


def cell_rng(seed: int, study: str, cell: Cell) -> np.random.Generator:
    """The generator of a cell: it does not depend on the other cells, their order, or the number of workers."""
    return keyed_rng(seed, f"{study} {cell.key}")


@dataclass(frozen=True)
class FigureSpec:
    """A figure that answers one question.

    Attributes:
        name: file name without ending; ``"headline"`` is the study's picture for a README.
        title: the question or the answer, in a few words.
        caption: what it shows, in one sentence.
        draw: makes the `matplotlib.figure.Figure`; called under the shared style.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Analysis:
    """What a study makes of its summary.

    Attributes:
        rows: derived numbers (fitted slopes, say) that join ``summary.csv``.
        tables: printed by the command line, the first at once, and all in the report.
        figures: in the order of the report.
        findings: sentences with numbers in them, at the top of the report.
    """

    rows: Sequence[SummaryRow] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[FigureSpec] = ()
    findings: Sequence[str] = ()


@dataclass(frozen=True)
class Study:
    """A sweep and its analysis.

    Attributes:
        name: on the command line and in the default output folder.
        question: one line.
        options: a dataclass with a default for every field (the full study) and a ``quick()`` classmethod (about a
            minute on two cores).
        cells: the cells for given options, in the order of the summary; keys are distinct.
        analyse: tables and figures from the summary of the cells that succeeded.
        labels: label columns beside `LABELS`.
        reads: options that may name a file which the cells read; what is in it belongs to the settings of a run. (So
            do files that an option ``tasks`` names in quotes.)
    """

    name: str
    question: str
    options: type[Any]
    cells: Callable[[Any], Iterable[Cell]]
    analyse: Callable[[Any, Summary], Analysis]
    labels: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.options) or not callable(getattr(self.options, "quick", None)):
            raise TypeError(f"the options of study {self.name!r} must be a dataclass with a quick() classmethod.")
        try:
            self.options()
        except TypeError as error:
            raise TypeError(f"every option of study {self.name!r} needs a default: {error}.") from error

    def default_options(self, *, quick: bool) -> Any:
        """The full options, or the quick ones."""
        return self.options.quick() if quick else self.options()

    def checked_cells(self, options: Any) -> list[Cell]:
        """The cells; ``ValueError`` if there are none or two have the same key."""
        cells = list(self.cells(options))
        if not cells:
            raise ValueError(f"study {self.name!r} has no cells with these options.")
        keys = [cell.key for cell in cells]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"study {self.name!r} has two cells with the same key: {twice}")
        return cells
