"""The numbers of a study: intervals over replicates, slopes, paired differences, rows, series and tables."""

import itertools
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import stats

import experiments
from experiments.cells import Cell, CellResult, Record
from experiments.measure import SLOPE_IN_H
from experiments.studies.compare import CompareOptions, Runs, means_of
from experiments.summary import (
    Series,
    Summary,
    SummaryRow,
    Table,
    growth_factor,
    interval_words,
    loglog_slope,
    mean_interval,
    number,
    paired_difference,
    slope_interval,
    slope_rows,
    summarise,
    summary_lines,
    with_interval,
)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 19])
def test_few_replicates_have_the_interval_of_student(n):
    rng = np.random.default_rng(n)
    for confidence in (0.5, 0.95, 0.999):
        sample = rng.normal(size=n)
        mean, low, high = mean_interval(sample, rng, confidence=confidence)
        expected = stats.ttest_1samp(sample, 0.0).confidence_interval(confidence)
        assert (mean, low, high) == pytest.approx((sample.mean(), expected.low, expected.high))


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "n"), [("normal", 5), ("normal", 20), ("exponential", 20), ("exponential", 100)])
def test_intervals_of_replicates_cover_the_mean(draw, n):
    rng, repetitions = np.random.default_rng(1), 400
    truth = 1.0 if draw == "exponential" else 0.0
    covered = [
        low <= truth <= high
        for _ in range(repetitions)
        for _, low, high in [mean_interval(getattr(rng, draw)(size=n), rng, resamples=999)]
    ]
    assert stats.binom.ppf(1e-3, repetitions, 0.93) <= sum(covered) <= 0.985 * repetitions


@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 30))
@examples()
def test_equal_replicates_have_no_interval(value, n):
    mean, low, high = mean_interval([value] * n, np.random.default_rng(0))
    assert mean == value and np.isnan([low, high]).all()
    rounded = value * (1 + 1e-15 * np.arange(n))  # another processor's last bits
    assert np.isnan(mean_interval(rounded, np.random.default_rng(0))[1:]).all()
    assert with_interval(mean, low, high) == number(value, 3)


def test_replicates_that_have_no_mean():
    assert mean_interval([1.0, np.inf], np.random.default_rng(0)) == (np.inf,) * 3


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Record("m", 2.0, {"n": 10}), None),  # measured once
        (Record("m", 2.0, {"n": 10}, 2.0, 2.0), None),  # exact for one data set: nothing is known of the next
        (Record("m", 2.0, {"n": 10}, 1.5, 3.0), (1.5, 3.0)),
        (Record("m", 2.0, {"n": np.inf}, 2.0, 2.0), (2.0, 2.0)),  # exact, and there is one population
    ],
)
def test_the_interval_of_a_single_replicate(record, expected):
    cell = Cell("part", toy.noisy_square, {"replicate": 0})
    summary = summarise(toy.STUDY, [cell], {cell.key: CellResult(cell.key, (record,), None, 0.0)}, seed=0)
    (row,) = summary
    assert row.seeds == 1 and row.replicates == (2.0,)
    assert np.isnan([row.lower, row.upper]).all() if expected is None else (row.lower, row.upper) == expected
    assert row.top == (2.0 if expected is None else expected[1])
    header, (line,) = summary_lines(toy.STUDY, summary)
    assert line[header.index("seeds")] == 1
    assert (line[header.index("lower")] is None) == (expected is None), "an empty place in the file"
    assert "without an interval" in interval_words(1) and "5 data sets" in interval_words(5)


def test_the_interval_of_a_few_replicates_is_at_least_that_of_their_own_errors():
    """Two replicates that only scatter by their own errors: bootstrap alone would cover half of the time."""
    rng = np.random.default_rng(0)
    cells = [Cell("part", toy.noisy_square, {"replicate": replicate}) for replicate in range(2)]
    covered = alone = 0
    for _ in range(300):
        values = rng.normal(size=2)
        results = {
            cell.key: CellResult(cell.key, (Record("m", value, {}, value - 1.96, value + 1.96),), None, 0.0)
            for cell, value in zip(cells, values)
        }
        (row,) = summarise(toy.STUDY, cells, results, seed=0)
        assert row.mean == pytest.approx(values.mean())
        covered += row.lower <= 0.0 <= row.upper
        alone += min(values) <= 0.0 <= max(values)
    assert covered > 300 * 0.95 - 3 * np.sqrt(300 * 0.95 * 0.05)
    assert alone < 200


@given(slope=st.floats(-3, 3), scale=st.floats(0.1, 10), n=st.integers(2, 8))
@examples()
def test_slope_of_a_power_law(slope, scale, n):
    x = 2.0 ** np.arange(n)
    assert loglog_slope(x, scale * x**slope) == pytest.approx(slope, abs=1e-9)
    assert np.isnan(loglog_slope(x[:1], x[:1])) and np.isnan(loglog_slope([1, 2], [0.0, 1.0]))
    found = slope_interval(x, np.repeat(scale * x[:, None] ** slope, 5, axis=1))
    assert found[0] == pytest.approx(slope, abs=2e-9) and np.isnan(found[1:]).all(), "replicates that all agree"


@pytest.mark.parametrize("s", [3, 5, 20])
@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_of_a_slope_covers_the_truth(s, shared):
    rng, x, inside = np.random.default_rng(0), np.array([8.0, 16.0, 32.0]), 0
    for _ in range(400):
        noise = rng.gamma(20.0, 0.05, size=(3, s))
        if shared:  # a data set that is hard at one horizon is hard at all
            noise = noise * rng.gamma(20.0, 0.05, size=s)
        _, lower, upper = slope_interval(x, x[:, None] ** 0.7 * noise)
        inside += lower <= 0.7 <= upper
    assert stats.binom.ppf(1e-3, 400, 0.94) <= inside <= 395


def test_slopes_that_are_not_defined():
    assert np.isnan(slope_interval([1, 2], [[0, 0], [1, 1]])).all()
    assert np.isnan(slope_interval([1], [[1, 2]])).all()
    slope, lower, upper = slope_interval([1, 2], [[0, 0, 1], [2, 2, 2]])
    assert slope == pytest.approx(np.log2(6)) and lower < slope < upper, "only the means must be positive"
    assert slope_interval([1, 2], [[1], [2]])[0] == 1.0 and np.isnan(slope_interval([1, 2], [[1], [2]])[1])


def test_every_study_computes_a_slope_in_one_way():
    """The same rows, jumps and all, give the same slope and interval to whoever asks."""
    rng = np.random.default_rng(3)
    options = CompareOptions(tasks=("Contamination",), agents=("LogLossBC",), horizons=(4, 8, 16))
    labels = {"task": options.tasks[0], "learner": options.baseline}
    values = {H: tuple(float(v) for v in H * rng.choice([0.2, 5.0], size=6)) for H in (4, 8, 16)}
    rows = [
        SummaryRow("runs", {**labels, "H": H, "seed": seed}, "C_apx", v, v, v, 1, "", (v,))
        for H, replicates in values.items()
        for seed, v in enumerate(replicates)
    ]
    of_means = [
        SummaryRow("means", {**labels, "H": H}, "C_apx", float(np.mean(v)), 0.0, 0.0, 6, "", v)
        for H, v in values.items()
    ]
    (pooled,) = slope_rows(of_means, "H", SLOPE_IN_H)
    (compared,) = means_of(Runs(options, Summary(rows))).select(SLOPE_IN_H, **labels)
    intervals = {(row.mean, row.lower, row.upper) for row in (pooled, compared)}
    assert len(intervals) == 1 and pooled.seeds == compared.seeds == 6
    assert pooled.mean == pytest.approx(loglog_slope([4, 8, 16], [np.mean(v) for v in values.values()]))
    sources = {path: path.read_text() for path in Path(experiments.__file__).parent.rglob("*.py")}
    names = [path.name for path, text in sources.items() if '"slope of log C_apx in log' in text]
    assert names == ["measure.py"], "one name, in one place"


def test_a_difference_is_taken_pair_by_pair():
    rng = np.random.default_rng(0)
    common = 10.0 * rng.normal(size=8)  # what data sets differ by, and both share
    ours, theirs = common + 1.0 + 0.1 * rng.normal(size=8), common
    found = paired_difference(ours, theirs, rng)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found == pytest.approx(((ours - theirs).mean(), expected.low, expected.high))
    mean, low, high = paired_difference(theirs + 1e-12, theirs, rng, rounding=1e-9)
    assert mean == 0.0 and np.isnan([low, high]).all()


def test_series_are_sorted_and_selected_by_label():
    rows = [SummaryRow("p", {"H": h, "learner": who}, "C", h * 1.0, h, h, 1) for h in (4, 1, 2) for who in "ab"]
    series = Summary(rows).series("H", "C", learner="a")
    assert series.x.tolist() == series.mean.tolist() == [1, 2, 4] and not series.sampled
    assert Series(*([np.array([1.0])] * 3), np.array([2.0])).sampled
    assert np.isnan(Summary(rows).value("C", H=9))


def test_tables_escape_markup_and_shorten_numbers():
    table = Table("a < b", ["x"], [[0.123456], [float("nan")], ["<script>"]], note="c & d")
    assert "<script>" not in table.to_html() and "0.1235" in table.to_html()
    assert number(199.99234, 6) == "199.992"
    assert with_interval(2.0, 1.0, 3.0) == "2 [1, 3]" and with_interval(2.0, 2.0, 2.0) == "2"


def test_slopes_leave_out_the_horizons_up_to_the_chunk():
    rows = [
        SummaryRow("part", {"learner": "a", "H": H, "K": K}, "C_apx", float(H), H, H, 1, "", (float(H),))
        for H, K in itertools.product((2, 4, 8), (1, 4))
    ]
    (slope,) = slope_rows(rows, "H", SLOPE_IN_H, above="K")  # K = 4 has one horizon left
    assert slope.mean == pytest.approx(1.0) and slope.labels == {"learner": "a", "K": 1}
    assert slope.seeds == 1 and np.isnan([slope.lower, slope.upper]).all()
    assert slope.method == "least squares, H=2..8"


def test_growth_is_the_factor_of_one_step():
    assert growth_factor([3, 5, 6], 7 * 2.5 ** np.array([3, 5, 6])) == pytest.approx(2.5)
    assert np.isnan(growth_factor([3], [1.0]))
