"""Scores over tasks: against other computations of the same, and how often the intervals cover."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, t, trim_mean

from experiments.aggregate import improvement, pooled_score, profile, run_score
from experiments.cells import keyed_rng
from experiments.charts import styled
from experiments.run import run_study
from experiments.studies import compare, load_study


def drawn(tasks=4, runs=6, seed=0):
    return np.random.default_rng(seed).beta(2, 2, size=(tasks, runs))


def test_the_interquartile_mean_is_that_of_the_middle_half():
    scores = drawn(3, 8)
    middle = np.sort(scores, axis=None)[6:18]
    for trim, expected in ((0.25, middle.mean()), (0.0, scores.mean())):
        found = pooled_score(scores, np.random.default_rng(0), trim=trim)
        assert found[0] == pytest.approx(expected) and 0 <= found[1] < found[0] < found[2] <= 1


def test_one_task_has_the_interval_of_the_bootstrap_times_student():
    scores = drawn(1, 30)
    other = bootstrap((scores[0],), lambda x, axis: trim_mean(x, 0.25, axis=axis), method="percentile",
                      n_resamples=60_000, rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    estimate, lower, upper = pooled_score(scores, np.random.default_rng(0), resamples=60_000)
    reach = max(estimate - other.low, other.high - estimate) * np.sqrt(30 / 29) * 2.045 / 1.96
    assert (lower, upper) == pytest.approx((estimate - reach, estimate + reach), abs=2e-3)


def test_runs_are_resampled_within_their_tasks():
    """All that differs is between tasks: no spread, however far these are apart. And every resample of a tiny case."""
    assert np.isnan(pooled_score([[0.1] * 5, [0.9] * 5], np.random.default_rng(0))[1:]).all()
    assert np.isnan(pooled_score([[0.1], [0.9]], np.random.default_rng(0))[1:]).all()
    scores = np.array([[0.1, 0.3], [0.5, 0.9]])
    every = [np.mean(a + b) for a in itertools.product(*[scores[0]] * 2) for b in itertools.product(*[scores[1]] * 2)]
    low, high = np.quantile(every * 1000, [0.025, 0.975])
    estimate, lower, upper = pooled_score(scores, np.random.default_rng(0), trim=0.0)
    freedom = (0.02 + 0.08) ** 2 / (0.02**2 + 0.08**2)
    reach = (high - estimate) * np.sqrt(2) * t.ppf(0.975, freedom) / 1.959964
    assert (lower, upper) == pytest.approx((max(estimate - reach, 0), min(estimate + reach, 1)))
    assert high - estimate == pytest.approx(estimate - low)


@pytest.mark.parametrize("trim", [0.0, 0.25])
@pytest.mark.slow
def test_the_interval_covers(trim):
    rng = keyed_rng(0, f"coverage {trim}")
    middle = np.array([0.2, 0.4, 0.6, 0.8])[:, None]
    found = [pooled_score(middle + 0.05 * rng.normal(size=(4, 4)), rng, trim=trim, resamples=300) for _ in range(400)]
    assert np.mean([lower <= 0.5 <= upper for _, lower, upper in found]) > 0.92


def test_improvement_counts_the_data_sets():
    ours, theirs = drawn(seed=1), drawn(seed=2)
    found = improvement(ours, theirs)
    assert found[0] == np.mean([a > b for a, b in zip(ours.ravel(), theirs.ravel())])
    assert [1 - end for end in improvement(theirs, ours)] == pytest.approx([found[0], found[2], found[1]])
    same = improvement(ours, ours + 1e-7)
    assert same[0] == 0.5 and same[1] < 0.5 < same[2]
    always = improvement(theirs + 1, theirs)
    assert always[0] == always[2] == 1.0 and always[1] > 0.8, "24 of 24 is not certainty"
    apart = drawn(2, 5)  # where runs do not overlap, Agarwal's is the same number
    others = np.stack([apart[0] + 5, apart[1] - 5])
    each = [mannwhitneyu(a, b).statistic / 25 for a, b in zip(others, apart)]
    assert improvement(others, apart)[0] == np.mean(each) == 0.5


def test_scores_and_profiles_are_between_none_and_all():
    assert run_score(0.5, 0.9) == 1.0 and run_score(0.5, 2.0) == 0.5 and run_score(0.0, 0.0) == 1.0
    distances = [0.0, 0.1, 1.0, 1.9, 2 - 1e-12, 2.0]
    scores = [run_score(d) for d in distances]
    assert scores[0] == 1.0 and scores[-1] == 0.0 and sorted(scores, reverse=True) == scores
    shares = profile(drawn(), np.linspace(0, 1, 9))
    assert shares[0] == 1.0 and shares[-1] == 0.0 and (np.diff(shares) <= 0).all()


@pytest.mark.slow
def test_compare_has_a_row_for_each_task_and_one_over_all(tmp_path):
    tasks = ("Contamination(eps=0.05, p=0.01, q=0.9)", "NoisyParity", "Documents")
    agents = ("LogLossBC", "RhoEstimatorBC", "compare_agents:Broken", "LayerwiseBC")
    options = compare.CompareOptions(agents=agents, tasks=tasks, horizons=(4,), n=60, seeds=2)
    outcome = run_study(load_study("compare"), options, out=tmp_path)
    summary, table = outcome.summary, outcome.analysis.tables[1]
    for task in tasks:
        rows = summary.select("hellinger2", part="runs", learner="RhoEstimatorBC", task=task)
        factors = summary.select("C_apx", part="runs", learner="RhoEstimatorBC", task=task)
        by_hand = [min(1.0, 1.0 / row.mean) for row in factors] or [run_score(row.mean) for row in rows]
        assert summary.value(compare.SCORE, learner="RhoEstimatorBC", task=task) == pytest.approx(np.mean(by_hand))
    each = [row.mean for row in summary.select(compare.SCORE, learner="RhoEstimatorBC")]
    (total,) = summary.select(compare.IQM, learner="RhoEstimatorBC")
    assert min(each) < total.mean <= max(each) and total.method == "3 of 3 tasks" and total["task"] is None
    assert summary.value(compare.IQM, learner="compare_agents:Broken") == 0.0, "what fails scores nothing"
    assert not summary.select(compare.IQM, learner="LayerwiseBC")
    assert [line[0] for line in table.rows] == list(agents) and set(table.rows[3][3:]) == {"not applicable"}
    assert any("interquartile" in finding for finding in outcome.analysis.findings)
    with styled(laid_out=False):
        labels = outcome.analysis.figures[1].draw().axes[0].get_legend_handles_labels()[1]
    assert labels == list(agents[:3])
