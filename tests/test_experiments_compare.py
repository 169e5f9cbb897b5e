"""The compare study: specs, the same data for all, pairs, slopes, what does not apply, and what fails."""

import dataclasses
import math
import shlex

import experiments_toy as toy
import numpy as np
import pytest

from experiments.aggregate import MEANS, in_nats, tokens_until_half
from experiments.cli import parse_run
from experiments.measure import SECONDS, SLOPE_IN_H
from experiments.run import reproduce_command, run_study
from experiments.studies import compare as sweep
from experiments.studies import load_study, suite
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs import make_task

STUDY = load_study("compare")
CONTAMINATION = "Contamination(eps=0.05, p=0.01, q=0.9)"
SMALL = {"horizons": (4, 8), "n": 100, "seeds": 3, "tasks": (CONTAMINATION,)}


def compared(tmp_path, *, study=None, **changes):
    """Without the figure, which takes half of the time of such a run."""

    def analyse(options, summary):
        return dataclasses.replace(STUDY.analyse(options, summary), figures=[])

    undrawn = dataclasses.replace(STUDY, analyse=analyse)
    return run_study(study or undrawn, sweep.CompareOptions(**{**SMALL, **changes}), out=tmp_path / "run")


# -- options and command line ------------------------------------------------------------------------------------------


def test_however_it_is_written_it_is_the_same_run():
    words = ["--agents", "LogLossBC,ChunkedRhoBC( tau='psi',chunk=8 )", "RhoEstimatorBC,", "--tasks", "Tightrope"]
    options = parse_run(STUDY, words)[1]
    assert options.agents == ("LogLossBC", "ChunkedRhoBC(chunk=8, tau='psi')", "RhoEstimatorBC")
    assert sweep.CompareOptions(agents=options.agents, tasks=("Tightrope",)) == options
    assert options.agents == sweep.CompareOptions(agents=(",".join(options.agents[1:]),)).agents, "the baseline joins"
    command = reproduce_command(STUDY, options, quick=False, seed=0)
    assert parse_run(STUDY, shlex.split(command)[3:])[1] == options


# -- what is measured --------------------------------------------------------------------------------------------------


def test_all_agents_see_the_same_data_and_other_seeds_see_other_data():
    def seen(agent, replicate, seed):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(agent), replicate)))
        records = sweep.run(agent=agent, task=CONTAMINATION, horizon=8, n=50, replicate=replicate, rng=rng)
        return next(record.value for record in records if record.metric == "hellinger2")

    twin = "LogLossBC(tol=1e-07)"  # exact here whatever the tolerance: it tells the data apart and nothing else
    assert seen("LogLossBC", 0, 1) == seen(twin, 0, 1)
    assert len({seen("LogLossBC", replicate, seed) for replicate in range(3) for seed in range(3)}) > 6


def test_fits_draw_from_their_own_stream(tmp_path):
    agents = ("compare_agents:Random", "compare_agents:Random(seed_like=1)")
    summary = compared(tmp_path, agents=agents, horizons=(4,)).summary
    one, two = ([row.mean for row in summary.select("hellinger2", part=sweep.RUNS, learner=agent)] for agent in agents)
    assert len(set(one + two)) == 6


def test_means_pairs_and_slopes_are_those_of_the_runs(tmp_path):
    summary = check_study(STUDY, toy.small_options("compare"), out=tmp_path / "run").summary
    best = {
        H: make_task("Contamination", horizon=H, eps=0.05, p=0.01, q=0.9).best_in_class().hellinger2 for H in (4, 8)
    }

    def runs(agent, H, metric="hellinger2"):
        rows = summary.select(metric, part=sweep.RUNS, learner=agent, H=H)
        assert [row["seed"] for row in rows] == list(range(6))
        return np.array([row.mean for row in rows])

    for H in (4, 8):
        for agent in ("LogLossBC", "RhoEstimatorBC"):
            (mean,) = summary.select("hellinger2", part=MEANS, learner=agent, H=H)
            assert mean.mean == pytest.approx(runs(agent, H).mean()) and mean.lower < mean.mean < mean.upper
            assert mean.seeds == 6
            np.testing.assert_allclose(runs(agent, H, "C_apx"), runs(agent, H) / best[H])
            assert summary.value(sweep.QUERIES, part=MEANS, learner=agent, H=H) == 100 * H
        gaps = runs("RhoEstimatorBC", H) - runs("LogLossBC", H)
        (row,) = summary.select(sweep.minus("hellinger2", "LogLossBC"), H=H)
        assert row["learner"] == "RhoEstimatorBC" and row.mean == pytest.approx(gaps.mean())
        assert row.lower < row.mean < row.upper and row.seeds == 6
        normal = 2 * 1.96 * gaps.std() / math.sqrt(6)
        assert 0.6 * normal < row.upper - row.lower < 1.6 * normal, "of the differences, seed by seed"
        factor = summary.value(sweep.minus("C_apx", "LogLossBC"), H=H)
        assert factor == pytest.approx(gaps.mean() / best[H])
    for agent in ("LogLossBC", "RhoEstimatorBC"):
        means = [runs(agent, H, "C_apx").mean() for H in (4, 8)]
        (slope,) = summary.select(SLOPE_IN_H, part=MEANS, learner=agent)
        assert slope.mean == pytest.approx(math.log2(means[1] / means[0]), abs=1e-8)
        assert slope.lower < slope.mean < slope.upper and slope["H"] is None


def test_a_baseline_of_your_own(tmp_path):
    summary = compared(tmp_path, agents=("LogLossBC",), baseline="BestInClass", horizons=(4,)).summary
    (row,) = summary.select(sweep.minus("C_apx", "BestInClass"))
    assert row["learner"] == "LogLossBC" and row.mean > 0
    assert summary.value("C_apx", part=MEANS, learner="BestInClass") == pytest.approx(1.0)


def test_a_well_specified_task_has_a_distance_and_no_factor(tmp_path):
    outcome = compared(tmp_path, tasks=("ARLinear(misspecification=0.0)",), agents=("LogLossBC",))
    assert not outcome.failures and not outcome.summary.select("C_apx")
    assert outcome.summary.value("hellinger2", part=MEANS, learner="LogLossBC", H=8) > 0
    (slope,) = outcome.summary.select(sweep.DISTANCE_SLOPE, learner="LogLossBC")
    assert slope.lower <= slope.mean <= slope.upper
    (line,) = [row for row in outcome.analysis.tables[0].text_rows() if "LogLossBC" in row[0]]
    assert line[1] == "expert in class" and line[2] != ""


def test_a_task_that_does_not_know_its_best_in_class_has_a_distance(tmp_path):
    outcome = compared(tmp_path, tasks=("compare_agents:Unknown",), agents=("RhoEstimatorBC",), seeds=2)
    assert not outcome.failures and not outcome.summary.select("C_apx")
    assert outcome.summary.value("hellinger2", part=MEANS, learner="LogLossBC", H=8) > 0.1


def test_why_there_is_no_factor_is_said(tmp_path):
    tasks = (CONTAMINATION, "ParityCoT(bits=4)", "ARLinear(misspecification=0.0)")
    outcome = compared(tmp_path, tasks=tasks, agents=("LogLossBC",), horizons=(4,), seeds=2, n=20)
    said = {line[0]: line[1] for line in outcome.analysis.tables[0].text_rows()}
    assert list(said) == ["Contamination, H=4", "\u00a0\u00a0LogLossBC", "ParityCoT, H=3", "ARLinear, H=4"]
    reasons = [line[1] for line in outcome.analysis.tables[0].text_rows()[1::2]]
    assert reasons[1:] == ["best in class not known", "expert in class"] and "." in reasons[0]


def test_far_distances_are_told_apart_on_the_additive_scale():
    rows = [SummaryRow("runs", {}, "hellinger2", d, d, d, 1) for d in (0.0, 1.0, 2 - 1e-9, 2.0)]
    found = [in_nats(row).mean for row in rows]
    assert found[:3] == pytest.approx([0.0, math.log(2), math.log(2e9)]) and found[3] == math.inf


def test_the_tokens_until_half_of_the_largest_distance_follow_from_a_constant_drift():
    def rows(drift):
        for H, seed in ((2, 0), (8, 0), (2, 1), (8, 1)):
            labels = {"task": "t", "learner": "l", "H": H, sweep.SEED: seed}
            yield SummaryRow(sweep.RUNS, labels, sweep.DISTANCE, *[2 - 2 * math.exp(-drift * (1 + seed) * H)] * 3, 1)

    def found(drift):
        runs = sweep.Runs(suite.Asked(("t",), 2), Summary(list(rows(drift))))
        return [row.mean for row in tokens_until_half(runs, {"task": "t", "learner": "l"})]

    assert found(0.1) == pytest.approx([(math.log(2) / 0.1 + math.log(2) / 0.2) / 2])
    assert found(0.05) == [], "the first data set stays below"


def test_what_an_agent_asks_for_is_counted_and_fits_that_stopped_are_named(tmp_path):
    outcome = compared(tmp_path, agents=("LogLossBC", "compare_agents:Curious"), horizons=(4,))
    summary = outcome.summary
    assert summary.value(sweep.QUERIES, part=MEANS, learner="LogLossBC") == 400
    assert summary.value(sweep.QUERIES, part=MEANS, learner="compare_agents:Curious") == 407
    assert summary.value(sweep.STEPS, part=MEANS, learner="compare_agents:Curious") == 11
    assert {row.mean for row in summary.select(sweep.CONVERGED, learner="compare_agents:Curious")} == {0.0}
    assert sweep.STEPS in outcome.analysis.tables[0].columns
    assert any("3 fits stopped" in finding for finding in outcome.analysis.findings)
    assert not summary.select(SECONDS) and len(summary.timings.select(SECONDS)) == 6
    assert "seconds" not in (tmp_path / "run" / "summary.csv").read_text()


@pytest.mark.slow
def test_what_does_not_apply_is_said_and_is_no_error(tmp_path):
    agents = ("LogLossBC", "LayerwiseBC", "ChunkedRhoBC(chunk=6)", "ChunkKR(chunk=6)", "compare_agents:Declines")
    outcome = compared(tmp_path, agents=agents, tasks=(CONTAMINATION, "NoisyParity"), seeds=2)
    assert not outcome.failures
    lines = {(i, row[0].strip()): row for i, row in enumerate(outcome.analysis.tables[0].text_rows())}
    refused = {(i > 5, name) for (i, name), row in lines.items() if "not applicable" in row}
    assert refused == {
        *((task, name) for task in (False, True) for name in ("LayerwiseBC", "compare_agents:Declines")),
        *((True, name) for name in ("ChunkedRhoBC(chunk=6)", "ChunkKR(chunk=6)")),
    }
    assert {row["H"] for row in outcome.summary.select(sweep.NOT_APPLICABLE, learner="ChunkKR(chunk=6)")} == {4, 5}
    findings = "\n".join(outcome.analysis.findings)
    assert f"LayerwiseBC is not for {CONTAMINATION}; NoisyParity: it takes only ProductClass." in findings
    assert f"ChunkKR(chunk=6) is not for {CONTAMINATION} at H=4: chunks of 6 tokens are longer" in findings
    assert "too large for me." in findings and "without a slope: NoisyParity at H=5" in findings
    assert not outcome.summary.select(SLOPE_IN_H, learner="ChunkedRhoBC(chunk=6)"), "one horizon has no slope"


@pytest.mark.slow
def test_a_broken_agent_takes_down_its_own_cells_only(tmp_path):
    outcome = compared(tmp_path, study=STUDY, agents=("compare_agents:Broken", "RhoEstimatorBC"))
    alone = run_study(STUDY, sweep.CompareOptions(**SMALL, agents=("RhoEstimatorBC",)), out=tmp_path / "alone")
    assert len(outcome.failures) == 6
    assert all("Broken" in failure.where and "seven" in failure.last_line for failure in outcome.failures)
    assert outcome.summary.select(part=sweep.RUNS).rows == alone.summary.select(part=sweep.RUNS).rows, (
        "others are untouched"
    )
    (line,) = [row for row in outcome.analysis.tables[0].text_rows() if "Broken" in row[0]]
    assert "failed" in line
    assert any("6 of 6 runs failed" in finding for finding in outcome.analysis.findings)
    assert (tmp_path / "run" / "compare.png").stat().st_size > 10_000


def test_verdicts_need_an_interval_off_zero_and_a_difference_that_matters():
    assert sweep.verdict((-0.1, -0.2, -0.05), 0.5) == "closer" and sweep.verdict((0.1, 0.05, 0.2), 0.5) == "farther"
    assert sweep.verdict((-0.1, -0.2, 0.01), 0.5) == sweep.verdict((-1e-6, -2e-6, -1e-7), 0.5) == "no clear difference"
    assert sweep.verdict((-1e-6, -2e-6, -1e-7), 1e-5) == "closer"


def test_one_data_set_gives_numbers_without_a_verdict(tmp_path):
    outcome = compared(tmp_path, agents=("RhoEstimatorBC",), seeds=1)
    assert outcome.summary.select(sweep.minus("hellinger2", "LogLossBC"), H=4)[0].seeds == 1
    assert not any("closer" in finding for finding in outcome.analysis.findings)


def test_only_a_broken_baseline_leaves_an_empty_figure_and_a_report(tmp_path):
    options = sweep.CompareOptions(**SMALL, agents=("compare_agents:Broken",), baseline="compare_agents:Broken")
    outcome = run_study(STUDY, options, out=tmp_path / "run")
    assert len(outcome.failures) == 6 and outcome.folder.report.exists()
