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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from experiments.cells import Cell
from experiments.summary import Summary, SummaryRow, Table


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
