"""Figures that can be read from the last row: what `experiments.testing.figure_faults` finds, and what `charts` mends.

Every figure of every study is read in this way where the study's small run is made: `check_study` does it.
"""

import numpy as np
import pytest

from experiments import charts
from experiments.panels import Curve, Guide, Panel, chart
from experiments.summary import Summary, SummaryRow
from experiments.testing import figure_faults


def faults(spoil, *, setting="Snowball; n = 100"):
    """Of a figure with two lines that is spoilt after it has been settled."""
    with charts.styled():
        figure, axes = charts.new_figure("Which line is steeper?", "x", "y")
        axes.plot([1, 2, 3], [1, 2, 3], color=charts.COLOURS["blue"])
        axes.plot([1, 2, 3], [3, 3.2, 3], color=charts.COLOURS["vermilion"])
        charts.settle(figure, setting)
        spoil(axes)
        return figure_faults(figure)


SPOILT = {
    "a contrast of": lambda axes: axes.set_xlabel("x", color=charts.COLOURS["yellow"]),
    "a contrast of 1": lambda axes: (axes.axvspan(1.4, 1.6, color="black"), axes.text(1.5, 1.5, "x", ha="center")),
    "overlaps": lambda axes: [axes.text(1.2, 1.75, words, backgroundcolor="white") for words in ("one", "two")],
    "struck through by a line of the grid": lambda axes: axes.text(1.9, 1.5, "a few words", va="center"),
    "struck through by a line of colour": lambda axes: axes.text(
        1.1, 3.03, "blue", color=charts.COLOURS["blue"], va="center"
    ),
    "leaves the canvas": lambda axes: axes.annotate("words without end", (3.1, 2.2), annotation_clip=False),
    "has one tick": lambda axes: axes.set_xticks([2]),
    "names C_apx": lambda axes: axes.set_ylabel("C_apx"),
    "names eta": lambda axes: axes.set_ylabel("share eta"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_fault_is_told(fault):
    assert any(fault in told for told in faults(SPOILT[fault]))


def test_a_figure_without_faults_has_none_and_one_that_does_not_say_what_it_shows_has_one():
    assert faults(lambda axes: None) == []
    (told,) = faults(lambda axes: None, setting="")
    assert "no line below the title" in told


def test_words_are_darkened_spelt_out_and_set_apart_from_lines_when_a_figure_is_settled():
    rows = [
        SummaryRow("a", {"task": "Task(eps=0.1)", "learner": learner, "K": K, "H": H, "n": 100.0}, "C_apx", *three, 5)
        for learner, K in (("log-loss", None), ("smoothed 1/H", None), ("chunked rho", 16), ("chunked rho", 256))
        for H in (4, 16, 64)
        for three in [(H**0.5, 0.8 * H**0.5, 1.3 * H**0.5)]
    ]  # four lines in one place
    places = dict.fromkeys((row["learner"], row["K"]) for row in rows)
    curves = [Curve({"learner": name, "K": K}, f"{name} with a long name, lam={K}") for name, K in places]
    guides = [Guide(level=3.0, note="a level, eta = .1"), Guide(place=20.0, note="a place")]
    panels = [Panel("H", "horizon H", "C_apx", curves, guides, yscale=kind) for kind in ("factor", "log")]
    title = "C_apx of four learners that are the same, in a title that is much too long to be put in one line of words"
    with charts.styled():
        figure = chart(Summary(rows), title, "C_apx", *panels)
        charts.render(figure, setting="eps = .1", otherwise="never said")
    assert figure_faults(figure) == []
    (said,) = (text.get_text() for text in figure.texts if text.get_label() == charts.SUBTITLE)
    assert said == r"Task(eps=0.1); H = 4–64; n = 100; 5 data sets; $\varepsilon$ = .1; bands: 95 % at each point"
    assert figure.get_suptitle().startswith("Approximation factor of four learners") and "\n" in figure.get_suptitle()
    for axes in figure.axes:  # the grid ends where the data end
        low, high = axes.get_xlim()
        assert 3.6 < low < 4 and 64 < high < 70


def test_what_is_asked_of_a_title_is_not_asked_of_a_call():
    assert charts.spelt("C_apx is 2. C_apx at eta=.1, theta_min") == (
        r"Approximation factor is 2. Approximation factor at $\eta$=.1, theta_min"
    )
    assert charts.spelt("the beta of lambda", page=True) == "the beta of λ"
    assert charts.spelt("ConsistencyGame(eta=0.1)") == "ConsistencyGame(eta=0.1)"


def test_a_learner_and_a_chunk_length_have_one_colour_in_all_studies():
    assert charts.learner_style("rho").colour == charts.COLOURS["blue"]
    assert charts.learner_style("log-loss").colour == charts.COLOURS["vermilion"]
    assert charts.learner_style("mypackage:Mine").colour == charts.COLOURS["grey"]
    assert charts.learner_style("chunked rho") == charts.learner_style("chunked rho, K=4")
    lengths = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    colours = [charts.learner_style("chunked rho", K).colour for K in lengths]
    colours += [charts.learner_style("ChunkKR", K).colour for K in (1, 2, 4, 5, 8, 16)]
    assert len(set(colours)) == len(colours), "each has its own"


@pytest.mark.parametrize("colour", [*charts.COLOURS.values(), "#00FF00", "white"])
def test_ink_is_legible_on_white(colour):
    assert charts.contrast(charts.ink(colour), "white") >= 4.5
    assert charts.ink("#123456") == "#123456", "what is legible stays as it is"


@pytest.mark.parametrize(("low", "high"), [(0.8, 1.6), (0.99, 1.01), (1, 9), (1, 300), (3e-8, 2e5), (1e-30, 1e30)])
def test_a_logarithmic_axis_has_a_few_ticks(low, high):
    ticks = charts.log_ticks(low, high)
    assert 2 <= len(ticks) <= 12 and ticks == sorted(set(ticks))
    assert all(low <= tick <= high for tick in ticks)


def test_labels_at_the_ends_are_led_to_their_lines_where_they_had_to_move():
    with charts.styled():
        figure, axes = charts.new_figure("Two?", "x", "y")
        for last in (1.0, 1.001, 0.5):
            axes.plot([0, 1], [0, last])
        charts.end_labels(axes, [(1, y, f"ends at {y}", "black") for y in (1.0, 1.001, 0.5)])
        charts.settle(figure)
    assert [text.arrow_patch.get_visible() for text in axes.texts] == [True, True, False]
    assert np.diff([text.get_position()[1] for text in axes.texts[:2]]) > 10, "points apart"
