"""The study scaling at tiny sizes: its count of operations against torch's, equal budgets, resumption, what it says."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments.measure import TrainingClock  # noqa: E402
from experiments.run import run_study  # noqa: E402
from experiments.studies import load_study  # noqa: E402
from experiments.studies import scaling as sweep  # noqa: E402
from experiments.summary import Summary, SummaryRow, rank_correlation  # noqa: E402
from experiments.testing import check_study  # noqa: E402
from ntp_envs import NGramClass, distance  # noqa: E402

HARBOUR = str(Path(__file__).parent / "data" / "harbour.txt")
SMALL = toy.small_options("scaling")
TINY = replace(
    SMALL, budgets=(1,), widths=(128,), window_width=128, transformer_widths=(32,), windows=(3,), orders=(2,)
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return check_study(load_study("scaling"), SMALL, out=tmp_path_factory.mktemp("scaling") / "run")


# -- operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("linear", {"window": 3}),
        ("linear", {"window": 2, "positional": True}),
        ("mlp", {"window": 5}),
        ("mlp", {"window": 4, "layers": 3}),
        ("transformer", {}),
        ("transformer", {"layers": 1}),
        ("transformer", {"layers": 3, "width": 24}),
        ("transformer", {"prompt_length": 0}),
        ("transformer", {"prompt_length": 6, "prompt_group": 3}),
    ],
)
def test_operations_are_those_that_torch_counts(architecture, changes):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from agents.neural import NetworkClass
    from agents.neural.training import Mode, Objective

    spec = NetworkClass(architecture, 11, **{"prompt_length": 4, "horizon": 7, "width": 16, **changes})
    objective = Objective(spec.initialised(torch.Generator().manual_seed(0)), Mode("tf", horizon=7))
    prompts = torch.zeros(5, spec.prompt_length, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # torch counts nothing in the fused attention of the CPU
        objective(prompts, torch.zeros(5, 7, dtype=torch.int64), None)[0].backward()
    assert spec.training_flops(5) == counter.get_total_flops()


def test_steps_within_a_budget_are_the_nearest_number():
    spec = sweep.network_for("mlp", sweep.text_task(HARBOUR, 10_000, 6), 8, 3)
    cost = spec.training_flops(4)
    assert [sweep.steps_within(x * cost / 1e9, spec, 4) for x in (0.4, 1.0, 7.4, 7.6)] == [0, 1, 7, 8]


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_budgets_are_equal_to_half_a_step_and_the_rest_is_counted(outcome):
    task = sweep.text_task(SMALL.corpus, SMALL.max_chars, SMALL.horizon)
    rows = outcome.summary.select(sweep.FLOPS, part=sweep.TRAINING)
    assert {(row["learner"], row["budget"]) for row in rows} == {
        (a, b) for a in sweep.ARCHITECTURES for b in SMALL.budgets
    }
    for row in rows:
        window = None if row["learner"] == "transformer" else row["window"]
        step = sweep.network_for(row["learner"], task, row["width"], window).training_flops(SMALL.batch_size)
        assert abs(row.mean - row["budget"] * 1e9) <= step / 2
        steps, read, passes = (
            sweep.of(outcome.summary, row, metric).mean for metric in (sweep.STEPS, sweep.TOKENS, sweep.EPOCHS)
        )
        assert steps >= sweep.LEAST_STEPS and row.mean == steps * step
        assert read == steps * SMALL.batch_size * SMALL.horizon
        assert passes * SMALL.n == steps * SMALL.batch_size
        seconds = outcome.summary.timings.value(sweep.SECONDS, part=sweep.TRAINING, **row.labels)
        assert 0 < seconds < 60


def test_all_learn_from_the_same_windows(outcome):
    task = sweep.text_task(SMALL.corpus, SMALL.max_chars, SMALL.horizon)
    first, second = (sweep.shared_windows(task, SMALL.n, replicate) for replicate in (0, 1))
    assert np.array_equal(first.tokens, sweep.shared_windows(task, SMALL.n, 0).tokens)
    assert not np.array_equal(first.tokens, second.tokens)
    from agents import make_agent

    own = make_agent("NGramBC").fit(first, NGramClass(task.vocab_size, 2), rng=np.random.default_rng(0)).policy_
    scored = task.bits_per_char(own)
    (row,) = outcome.summary.select(sweep.BITS, part=sweep.REFERENCE, learner=sweep.NGRAM, window=1)
    assert (row.mean, row.lower, row.upper) == pytest.approx((scored.value, *scored.interval))
    nats = -own.log_probs(first.prompts, first.tokens).mean()
    assert sweep.of(outcome.summary, row, sweep.TRAIN_BITS).mean == pytest.approx(nats / np.log(2))


def test_distances_are_those_to_the_expert(outcome):
    task = sweep.text_task(SMALL.corpus, SMALL.max_chars, SMALL.horizon)
    from agents import make_agent

    windows = sweep.shared_windows(task, SMALL.n, 0)
    own = make_agent("NGramBC").fit(windows, NGramClass(task.vocab_size, 1), rng=np.random.default_rng(0)).policy_
    for metric, name in (("hellinger2", "hellinger2"), ("kl", sweep.KL)):
        curve = distance(
            task.expert, own, task, metric=metric, method="monte carlo", n=4000, rng=np.random.default_rng(1)
        )
        scale = task.horizon if metric == "kl" else 1
        place = {"h": task.horizon} if metric == "hellinger2" else {}
        (row,) = outcome.summary.select(name, part=sweep.REFERENCE, learner=sweep.NGRAM, window=0, **place)
        spread = np.hypot((row.upper - row.lower) / 2, (curve.upper[-1] - curve.lower[-1]) / 2 / scale)
        assert abs(row.mean - curve.final / scale) < 2 * spread
    assert not len(outcome.summary.select(sweep.PASSING, learner=sweep.EXPERT))  # nothing to drift from


def test_the_interval_of_the_difference_to_itself_is_empty(outcome):
    changed = replace(SMALL, orders=(3,))
    cell = next(c for c in load_study("scaling").checked_cells(changed) if c.parameters.get("order") == 3)
    records = {r.metric: r for r in cell.function(**cell.parameters, rng=np.random.default_rng(0))}
    above = records[sweep.ABOVE]
    assert (above.value, above.lower, above.upper) == (0.0, 0.0, 0.0)
    assert records[sweep.BITS].upper > records[sweep.BITS].lower
    for row in sweep.trainings(sweep.paired(outcome.summary), SMALL, "mlp"):
        assert row.lower < row.mean < row.upper


def test_interrupted_trainings_go_on_with_the_same_result(tmp_path, monkeypatch):
    from agents.neural.training import Run

    study = load_study("scaling")
    whole = run_study(study, TINY, out=tmp_path / "whole")
    update, left = Run.update, {"steps": 0}

    def interrupted(run, *arguments):
        left["steps"] -= 1
        if left["steps"] < 0:
            raise KeyboardInterrupt
        return update(run, *arguments)

    monkeypatch.setattr(Run, "update", interrupted)
    stops = 0
    while True:
        left["steps"] = 50
        try:
            resumed = run_study(study, TINY, out=tmp_path / "resumed")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    files = [outcome.folder.summary.read_bytes() for outcome in (whole, resumed)]
    assert files[0] == files[1] and not resumed.failures


def test_the_clock_goes_on_where_it_was_stopped(tmp_path):
    first = TrainingClock(tmp_path / "seconds", every=2)
    first(1, 0.0, 0.0)
    assert not first.path.exists()
    first.before = 100.0
    first(2, 0.0, 0.0)
    assert TrainingClock(tmp_path / "seconds", every=2).seconds >= 100.0


# -- what is made of it ------------------------------------------------------------------------------------------------


def row(learner, budget, width, bits, window=3):
    labels = {"learner": learner, "budget": budget, "width": width, "window": window}
    return [
        SummaryRow(sweep.TRAINING, labels, sweep.BITS, bits, bits - 0.3, bits + 0.3, 1),
        SummaryRow(sweep.TRAINING, labels, sweep.ABOVE, bits - 2.5, bits - 2.51, bits - 2.48, 1),
    ]


def test_the_frontier_is_the_best_width_at_the_window_of_the_study():
    rows = [*row("mlp", 1, 16, 3.0), *row("mlp", 1, 128, 3.5), *row("mlp", 2, 16, 2.9), *row("mlp", 2, 128, 2.5)]
    rows += row("mlp", 1, 128, 1.0, window=1)
    summary = sweep.paired(Summary(rows))
    best = sweep.frontier(summary, SMALL, "mlp")
    assert [(r["budget"], r["width"], r.mean) for r in best] == [(1, 16, 3.0), (2, 128, 2.5)]
    assert (best[0].lower, best[0].upper) == pytest.approx((2.99, 3.02))  # of the difference, not of the text
    assert sweep.gain(best) == pytest.approx(0.5)
    assert [r["window"] for r in sweep.by_window(summary, "mlp", width=128, budget=1)] == [1, 3]


def test_slope_of_a_line_is_exact_and_needs_four_budgets():
    rows = [r for k in range(4) for r in row("mlp", 10**k, 16, 3.0 - 0.25 * k)]
    rows += [replace(r, metric=sweep.PASSING) for r in rows if r.metric == sweep.BITS]

    def slopes(some):
        return [r for r in sweep.derived_rows(SMALL, Summary(some)) if r.metric == sweep.SLOPE]

    (line,) = slopes(rows)
    assert (line.mean, line.lower, line.upper) == pytest.approx((0.25, 0.25, 0.25))
    assert not slopes([r for r in rows if r["budget"] < 1000])
    more = row("mlp", 10**4, 16, 2.25)
    (bent,) = slopes([*rows, *more, replace(more[0], metric=sweep.PASSING)])
    assert bent.lower < bent.mean < 0.25 < bent.upper


def test_rank_correlation_sees_order_only():
    assert rank_correlation([1, 2, 3, 40], [1, 4, 9, 10]) == 1.0
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3])) and np.isnan(rank_correlation([1, 2], [1, 2]))


def test_findings_hold_the_numbers_of_the_summary(outcome):
    text = " ".join(outcome.analysis.findings)
    for architecture in sweep.ARCHITECTURES:
        assert f"{sweep.frontier(outcome.summary, SMALL, architecture)[-1].mean:.3g}" in text
    (correlation,) = outcome.summary.select(sweep.CORRELATION)
    assert -1 <= correlation.mean <= 1 and f"{correlation.mean:.2f} over all" in text
    assert not len(outcome.summary.select(sweep.SLOPE))  # two budgets are too few
    assert [r["window"] for r in sweep.by_window(outcome.summary, sweep.NGRAM)] == [0, 1]


def test_more_compute_learns_more_of_so_little_text(outcome):
    for architecture in sweep.ARCHITECTURES:
        first, last = sweep.frontier(outcome.summary, SMALL, architecture)
        best = [
            min(r.mean for r in outcome.summary.select(sweep.TRAIN_BITS, learner=architecture, budget=end["budget"]))
            for end in (first, last)
        ]
        assert best[1] < best[0] < np.log2(30)


def test_budgets_in_words():
    assert [sweep.flops(budget) for budget in (1, 16, 128, 4096)] == ["1e9", "1.6e10", "1.28e11", "4.1e12"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_cells_are_distinct_and_windows_are_compared_once():
    study = load_study("scaling")
    made = study.checked_cells(SMALL)
    places = [tuple(c.parameters[k] for k in ("architecture", "width", "window", "budget"))
              for c in made if c.part == sweep.TRAINING]  # fmt: skip
    assert len(set(places)) == len(places)
    assert ("linear", 128, 1, 1) in places and ("linear", 128, 1, 2) not in places
    assert all(cell.scratch == (cell.part == sweep.TRAINING) for cell in made)
    assert study.checked_cells(sweep.ScalingOptions.quick())


def test_without_torch_the_extra_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"ntp-envs\[neural\]"):
        run_study(load_study("scaling"), SMALL, out=tmp_path / "run")
    monkeypatch.undo()
    assert importlib.import_module("agents.neural")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer_widths": (2048,)}, "budgets=2 .* gives no transformer as many as 10 steps"),
        ({"device": "abacus"}, "device='abacus'"),
        ({"horizon": 200}, "too short"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        load_study("scaling").checked_cells(replace(SMALL, **change))
