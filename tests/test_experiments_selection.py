"""The study of checkpoints: the path of the table, its distances, and that the verdict is that of its numbers."""

from dataclasses import replace

import experiments_toy as toy
import numpy as np
import pytest
from small_studies import HARBOUR, ROOT

from experiments.studies import load_study, selection
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs import Demonstrations, collect, distance_curves
from ntp_envs.tasks import Text


def frequencies(demos):
    """``(A, A)`` how often each token follows each other one."""
    found = np.zeros((demos.vocab_size, demos.vocab_size))
    for prompt, tokens in zip(demos.prompts.tolist(), demos.tokens.tolist()):
        for one, other in zip([prompt[-1], *tokens], tokens):
            found[one, other] += 1
    return found


def rows_of(policy, size):
    return np.exp(policy.next_log_probs(np.arange(size)[:, None], np.empty((size, 0), dtype=int)))


def test_the_path_begins_with_a_signed_step_and_ends_at_the_frequencies(rng):
    demos = Demonstrations(rng.integers(3, size=(40, 1)), rng.integers(3, size=(40, 6)), vocab_size=3)
    counts = frequencies(demos)
    path = selection.table_path(demos, [1, 600])
    up = np.exp(selection.RATE * np.sign(counts - counts.mean(axis=1, keepdims=True)))
    np.testing.assert_allclose(rows_of(path[1], 3), up / up.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(rows_of(path[600], 3), counts / counts.sum(axis=1, keepdims=True), atol=1e-3)


def test_distance_and_coverage_are_those_of_whole_documents(rng):
    task = Text(corpus=str(ROOT / HARBOUR), max_vocab=6, expert_order=2, horizon=3, prompt_length=1, contamination=0.2)
    path = selection.table_path(collect(task, 50, rng), [30])
    distances, uncovered = selection.measured(task, [path[30]], 4000, 2.0, rng)
    exact = distance_curves(
        task.expert, path[30], task, metrics=("hellinger2", "coverage"), thresholds=2.0, method="enumeration"
    )
    assert distances[0] == pytest.approx(exact["hellinger2"].final, abs=4.5 * np.sqrt(2 * distances[0] / 4000))
    assert uncovered[0] == pytest.approx(
        float(np.ravel(exact["coverage"].values[-1])[0]), abs=4.5 * 0.5 / np.sqrt(2000)
    )


@pytest.mark.slow
def test_the_small_study_chooses_among_its_checkpoints():
    options = replace(toy.small_options("selection"), neural="no")
    outcome = check_study(load_study("selection"), options)
    for rule in selection.RULES:
        for H in options.horizons:
            (row,) = outcome.summary.select(selection.STEP, part=selection.TABLE, learner=rule, H=H)
            assert {*row.replicates} <= {*selection.marks(options.steps, options.checkpoints)[1]} and row.seeds == 3


def test_a_network_is_judged_along_its_training():
    pytest.importorskip("torch")
    options = replace(toy.small_options("selection"), neural="yes")
    cell = next(selection.cells(options))
    assert cell.part == selection.NETWORK
    records = cell.function(**cell.parameters, rng=np.random.default_rng(0))
    along = [r.value for r in records if r.metric == selection.NATS]
    assert len(along) == len(selection.marks(options.network_steps, options.checkpoints)[1]) and along[-1] < along[0]


def rows(log_loss, rho):
    numbers = {selection.LOG_LOSS: log_loss, selection.RHO: rho, selection.COVERAGE: log_loss, selection.NEAREST: 0.5}
    for rule, mean in numbers.items():
        values = tuple(mean * (1 + 0.001 * k) for k in range(3))
        for metric in (selection.DISTANCE2, selection.UNCOVERED, selection.STEP):
            yield SummaryRow("table", {"learner": rule, "H": 8}, metric, mean, mean, mean, 3, "", values)


def test_the_verdict_is_that_of_the_numbers():
    options = selection.SelectionOptions(horizons=(8,), seeds=3, neural="no")
    apart, equal = Summary(rows(0.8, 0.6)), Summary(rows(0.7, 0.7))
    assert selection.verdict(options, apart, "table") == (
        "H=8: log-loss stops 0.3 too far from the expert, the rho tournament 0.1"
    )
    assert selection.verdict(options, equal, "table").endswith("?")
    assert "beyond chance" in list(selection.findings(options, apart))[1]
