"""The Study contract: an experiment is a sweep and its analysis, in one place.

A study is options (a dataclass), a list of independent cells made from them, and an analysis that turns the summary
of all cells into tables and figures. The rest - workers, the results file, resuming, seeds, `summary.csv`, the report,
the command line - is shared and knows nothing of any particular study.

A new study is a file in ``experiments/studies/`` that makes a `Study` value named ``STUDY``:

    @dataclass(frozen=True)
    class Sizes(Options):
        horizons: tuple[int, ...] = option((16, 64, 256), quick=(16, 64))
        "Horizons H."

    def measure(*, H: int, rng: np.random.Generator) -> list[Record]:  # pure, at module level
        return [Record("C_apx", 1.0, {"learner": "log-loss", "H": H})]

    STUDY = Study(
        name="mine",
        question="What does it answer, in one line?",
        options=Sizes,
        cells=lambda options: [Cell("population", measure, {"H": H}) for H in options.horizons],
        analyse=analysis(tables=tables, figures=figures, findings=findings),  # functions of options and summary
    )
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.cells import Cell
from experiments.summary import Summary, SummaryRow, Table
from ntp_envs.checks import check_in, check_int, check_real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: cells that one run may have: each is a line in a file, and all their keys are in memory
MOST_CELLS = 100_000
#: whole number that an option may be: no sequence is longer, and no set of them as large is held
LARGEST = 1 << 24

# -- options -----------------------------------------------------------------------------------------------------------


def option(
    default: Any,
    *,
    quick: Any = None,
    least: float | None = None,
    most: float | str | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] = (),
    power_of_two: bool = False,
    one_of: str = "",
    empty: bool = False,
) -> Any:
    """A field of a study's `Options`: its default, its value in the quick form, and what it may be.

    A tuple holds distinct values, and what is asked is asked of each. Whole numbers are 1 or more unless ``least`` says
    otherwise, and at most 2**24 unless ``most`` does.

    Args:
        default: of the full study; its type is the option's.
        quick: of the quick form; the default if not given.
        least, most, above, below: bounds; the last two are not reached. ``most`` may name the option that is the bound.
        choices: all that it may be.
        power_of_two: only 1, 2, 4, ...
        one_of: the name of an option that lists all that it may be.
        empty: a tuple may hold nothing; where that is the default and there are no ``choices``, it holds text.
    """
    bounds = {"least": least, "most": most, "above": above, "below": below}
    rules = {"choices": choices, "power_of_two": power_of_two, "one_of": one_of, "empty": empty}
    return dataclasses.field(default=default, metadata={"quick": quick, **bounds, **rules})


class Options:
    """Base of the options of a study, mostly sizes of its sweep; the defaults are the full study.

    The quick form and the checks follow from the fields, see `option`.

    What concerns several options at once is said in `check`.

    >>> @dataclass(frozen=True)
    ... class Sizes(Options):
    ...     horizons: tuple[int, ...] = option((16, 64), quick=(16,), power_of_two=True)
    >>> Sizes.quick()
    Sizes(horizons=(16,))
    >>> Sizes(horizons=(16, 48))
    Traceback (most recent call last):
    ValueError: horizons=48 must be a power of two.
    """

    @classmethod
    def quick(cls) -> Any:
        """The small form, about a minute on two cores."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return cls(**{f.name: f.metadata["quick"] for f in fields if f.metadata.get("quick") is not None})

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if f.metadata:
                object.__setattr__(self, f.name, _checked(self, f))
        self.check()

    def given(self, *names: str) -> dict[str, Any]:
        """These options by name, as parameters of a cell."""
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Raise ``ValueError`` where options do not fit together; each is within its own bounds already."""


def _checked(options: Any, f: dataclasses.Field[Any]) -> Any:
    """The value of an option in Python's own numbers, or an error that says what it may be."""
    value, rule = getattr(options, f.name), f.metadata
    if not isinstance(f.default, tuple):
        return _checked_one(options, f.name, value, f.default, rule)
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{f.name}={value!r} must be a tuple.")
    if (not value and not rule["empty"]) or len(set(value)) < len(value):
        least = "" if rule["empty"] else ", at least one"
        raise ValueError(f"{f.name}={tuple(value)} must hold distinct values{least}.")
    kind = (f.default or rule["choices"] or ("",))[0]
    return tuple(_checked_one(options, f.name, one, kind, rule) for one in value)


def _checked_one(options: Any, name: str, value: Any, kind: Any, rule: Any) -> Any:
    if rule["choices"]:
        return check_in(name, value, rule["choices"])
    if isinstance(kind, bool) or not isinstance(kind, (int, float)):
        return value
    most = getattr(options, rule["most"]) if isinstance(rule["most"], str) else rule["most"]
    if isinstance(kind, int):
        least = 1 if rule["least"] is None else int(rule["least"])
        value = check_int(name, value, minimum=least, maximum=LARGEST if most is None else int(most))
    else:
        ends = {"minimum": rule["least"], "maximum": most}
        value = check_real(name, value, **{end: bound for end, bound in ends.items() if bound is not None})
    if (rule["above"] is not None and value <= rule["above"]) or (rule["below"] is not None and value >= rule["below"]):
        words = [f"{word} {rule[word]:g}" for word in ("above", "below") if rule[word] is not None]
        raise ValueError(f"{name}={value} must be {' and '.join(words)}.")
    if rule["power_of_two"] and value & (value - 1):
        raise ValueError(f"{name}={value} must be a power of two.")
    if rule["one_of"] and value not in getattr(options, rule["one_of"]):
        raise ValueError(f"{name}={value} must be one of {rule['one_of']}={getattr(options, rule['one_of'])}.")
    return value


# -- the study ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FigureSpec:
    """A figure that answers one question.

    Attributes:
        name: file name without ending; ``"headline"`` is the study's picture for a README.
        title: the question or the answer, in a few words.
        caption: what it shows, in one sentence.
        draw: makes the `matplotlib.figure.Figure`; called under the shared style.
        setting: parameters, for the line below the figure's title, which has task, n and seeds from `chart`, or else
            from `experiments.charts.about`; where neither says anything it has the numbers among the options.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    setting: str = ""


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


def analysis(**parts: Callable[..., Any]) -> Callable[[Any, Summary], Analysis]:
    """`Study.analyse` from functions of the options and the summary, one for each part of an `Analysis`.

    The ``rows`` come first, and the others find them in the summary. Of an empty summary there are no rows and no
    findings. A part ``setting``, of the options alone, is that of figures that have none (`FigureSpec.setting`).
    """
    setting = parts.pop("setting", lambda options: "")

    def analyse(options: Any, summary: Summary) -> Analysis:
        rows = list(parts["rows"](options, summary)) if "rows" in parts and len(summary) else []
        everything = Summary([*summary, *rows], summary.timings)
        known = {name: part for name, part in parts.items() if name != "rows" and (len(summary) or name != "findings")}
        found = {name: list(part(options, everything)) for name, part in known.items()}
        for i, spec in enumerate(found.get("figures", ())):
            found["figures"][i] = dataclasses.replace(spec, setting=spec.setting or setting(options))
        return Analysis(rows, **found)

    return analyse


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
        seeds_of: the name that enters the seeds of the cells, by default its own; a study that was part of another one
            keeps its numbers with the name of that one.
        exports: files to leave in the folder beside the others, text by name, from the options, the cells, their
            results and code by key, and the settings of the run.
        check_machine: called with the options and the number of processes before any are started on this machine;
            ``ValueError`` where they will not do, with the way round.
        seconds: about how long a cell takes here, where no run has told yet.
    """

    name: str
    question: str
    options: type[Any]
    cells: Callable[[Any], Iterable[Cell]]
    analyse: Callable[[Any, Summary], Analysis]
    labels: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    seeds_of: str = ""
    exports: Callable[..., Mapping[str, str]] | None = None
    check_machine: Callable[[Any, int], None] | None = None
    seconds: Callable[[Any, Cell], float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds_of", self.seeds_of or self.name)
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
        """The cells; ``ValueError`` if there are none or too many, or two have the same key."""
        cells = list(itertools.islice(self.cells(options), MOST_CELLS + 1))
        if len(cells) > MOST_CELLS:
            given = ", ".join(
                f"{name}={value}" if isinstance(value, int) else f"{len(value)} {name}"
                for name, value in vars(options).items()
                if isinstance(value, int | tuple) and not isinstance(value, bool)
            )
            raise ValueError(
                f"study {self.name!r} has more than {MOST_CELLS} cells with these options ({given}); lower one of them."
            )
        if not cells:
            raise ValueError(f"study {self.name!r} has no cells with these options.")
        keys = [cell.key for cell in cells]
        if len(set(keys)) < len(keys):
            twice, _ = Counter(keys).most_common(1)[0]
            raise ValueError(f"study {self.name!r} has two cells with the same key: {twice}")
        return cells
