"""`experiments.testing.check_study`: what it says of a toy study, and that every registered study is checked with it.

Studies are checked where the numbers of their small run are tested, so that the run is made once.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest

import experiments.studies
from experiments.cells import Record
from experiments.charts import new_figure
from experiments.studies import STUDIES, load_study, study_names
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Summary, Table
from experiments.testing import check_study

QUICK = toy.ToyOptions.quick()


@dataclass(frozen=True)
class Bounded(Options):
    largest: int = option(8)
    sizes: tuple[int, ...] = option((2, 4), least=2, most="largest", power_of_two=True)
    one: int = option(2, one_of="sizes")
    share: float = option(0.5, above=0.0, below=1.0)
    mood: str = option("calm", choices=("calm", "wild"))
    moods: tuple[str, ...] = option((), choices=("calm", "wild"), empty=True)
    name: str = ""


class Lax(Bounded):
    def __post_init__(self):
        """Refuses nothing."""


@dataclass(frozen=True)
class Bare(Options):
    seeds: int = 3


def test_a_study_that_keeps_the_contract_passes_and_its_run_is_given_back(tmp_path):
    outcome = check_study(toy.STUDY, QUICK, out=tmp_path / "run")
    assert outcome.reused == 3 and outcome.summary.value("square", K=2) == pytest.approx(4, abs=0.5)
    assert (tmp_path / "run" / "squares.png").exists()
    log = tmp_path / "log"
    check_study(toy.LONG, toy.LongOptions())
    check_study(toy.STUDY, dataclasses.replace(QUICK, log=str(log)))
    assert len(log.read_text().splitlines()) == 6 + 1, "one cell of the part is run again"


def test_bounds_of_options_are_tried():
    cells = lambda options: toy.cells(QUICK)  # noqa: E731
    study = Study("bounded", "?", Bounded, cells, lambda options, summary: Analysis())
    check_study(study, Bounded())
    with pytest.raises(AssertionError, match="Lax takes largest='no number', which its option excludes"):
        check_study(study, Lax())
    with pytest.raises(AssertionError, match=r"seeds is a number: make it an experiments\.study\.option"):
        check_study(study, Bare())


CALLS = []


def counting(*, size, replicate, mood, log, rng):
    CALLS.append(1)
    return [Record("calls", len(CALLS), {"K": size})]


def globally(*, size, replicate, mood, log, rng):
    return [Record("draw", np.random.random(), {"K": size})]  # noqa: NPY002


def with_function(function):
    def cells(options):
        return [dataclasses.replace(cell, function=function) for cell in toy.cells(options)]

    return dataclasses.replace(toy.STUDY, cells=cells, analyse=lambda options, summary: Analysis())


def unready(options, summary):
    return Analysis(tables=[Table("first", ["a"], [[summary[0].mean]])])


def rigid(options, summary):
    from matplotlib.figure import Figure

    return Analysis(figures=[FigureSpec("rigid", "?", "?", lambda: Figure(figsize=(6, 4)))])


@pytest.mark.parametrize(
    ("study", "mood", "words"),
    [
        pytest.param(
            with_function(counting), "calm", "had other records when it was run a second time", marks=pytest.mark.slow
        ),
        (with_function(lambda **_: []), "calm", "(pickle|local)"),
        (toy.STUDY, "failing", "ArithmeticError"),
        (toy.STUDY, "inkless", "no ink"),
        (dataclasses.replace(toy.STUDY, analyse=unready), "calm", "does not analyse an empty summary"),
        (dataclasses.replace(toy.STUDY, analyse=rigid), "calm", "the figure rigid does not follow --slides"),
    ],
)
def test_a_study_that_breaks_it_is_told_how(study, mood, words):
    with pytest.raises(Exception, match=words):
        check_study(study, dataclasses.replace(QUICK, mood=mood))


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "compare"])  # which lists the runs that failed
def test_an_empty_summary_has_no_findings(name, monkeypatch):
    monkeypatch.setattr("experiments.measure.without_torch", lambda: None)  # nothing is trained here
    study = load_study(name)
    options = study.default_options(quick=True)
    if hasattr(options, "neural"):  # that networks are left out would be a finding
        options = dataclasses.replace(options, neural="yes")
    found = study.analyse(options, Summary([]))
    assert list(found.findings) == []


def told(words):
    """A toy study that tells of the square of 2, and where none of it is measured uses these words."""

    def analyse(options, summary):
        two = summary.value("square", K=2)
        sentence = f"the square of 2 is {two:.2f}" if len(summary.select(K=2)) else words(summary)
        return Analysis(findings=[sentence] if len(summary) else [])

    return dataclasses.replace(toy.STUDY, analyse=analyse)


def test_what_was_not_measured_is_said_in_words():
    check_study(told(lambda summary: f"the square of 2 is {summary.value('square', K=2):.2f}"), QUICK)
    check_study(told(lambda summary: f"the square of 2 is {summary.shown('square', K=2)}, and so on"), QUICK)
    for words, message in (
        (lambda summary: f"the square of 2 is {float('nan'):.2f}", "where .*'size': 2.* failed, says: .* is nan"),
        (lambda summary: f"the square of 2 is {''}, and so on", r"leaves a gap: the square of 2 is , and"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_study(told(words), QUICK)


def test_titles_of_figures_are_read_where_cells_fail():
    def analyse(options, summary):
        gap = 4.0 - summary.value("square", K=2)
        draw = lambda: new_figure(f"off by {gap:.2f}", "", "")[0]  # noqa: E731
        return Analysis(figures=[FigureSpec("off", "?", "?", draw)])

    with pytest.raises(AssertionError, match="where nothing was measured, says: off by nan"):
        check_study(dataclasses.replace(toy.STUDY, analyse=analyse), QUICK)


def test_a_cell_that_draws_from_the_global_generator_is_found():
    state = np.random.get_state()  # noqa: NPY002
    with pytest.raises(AssertionError, match="a global generator"):
        check_study(with_function(globally), QUICK)
    np.random.set_state(state)  # noqa: NPY002


def test_a_study_is_a_file_of_that_name():
    folder = Path(experiments.studies.__file__).parent
    assert set(STUDIES) == {path.stem for path in folder.glob("[!_]*.py")} and set(STUDIES) <= set(study_names())
    assert [load_study(name).name for name in STUDIES] == list(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_every_registered_study_is_checked_with_its_small_run(name):
    source = (Path(__file__).parent / f"test_experiments_{name}.py").read_text()
    assert re.search(r"check_study\(", source), f"the small run of {name} is to be made by check_study"
