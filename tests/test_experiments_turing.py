"""The turing study: with the chain learners go beyond their data, at once they guess; and its cells by hand."""

import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies.turing import (
    BEAVER,
    CELLS,
    CHAIN,
    COUNT,
    DIRECT,
    EXACT,
    INCREMENT,
    LEARNERS,
    PARITY,
    RUNS,
    STEP,
    TuringOptions,
    chained,
    exact_match,
    hard_runs,
    machine_task,
    running,
)
from experiments.testing import check_study
from ntp_envs.tasks import linear_emulator

SMALL = TuringOptions(
    n=300,
    n_direct=100,
    steps=(1, 6),
    width=8,
    bits=(2, 8),
    direct_bits=4,
    prompt_bits=8,
    subset_sizes=(1, 4),
    sizes=(10, 100),
    test=40,
    seeds=2,
)


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("turing"), SMALL)


@pytest.mark.slow
def test_with_the_chain_runs_are_exact_beyond_the_data_and_at_once_they_are_not(outcome):
    def exact(task, chain, length, learner, part=RUNS):
        return outcome.summary.value(EXACT, part=part, task=task, chain=chain, length=length, learner=learner)

    for learner in LEARNERS:
        assert exact(BEAVER, CHAIN, 6, learner) >= 0.95 and exact(BEAVER, DIRECT, 6, learner) <= 0.4
        assert exact(PARITY, CHAIN, 8, learner) >= 0.95 and exact(PARITY, DIRECT, 2, learner) <= 0.9
        assert exact(INCREMENT, CHAIN, 8, learner) >= 0.9 and exact(INCREMENT, DIRECT, 2, learner) >= 0.9
        assert exact("ParityCoT", CHAIN, 4, learner, COUNT) >= 0.9
        assert exact("ParityCoT", DIRECT, 1, learner, COUNT) == 1.0
        assert exact("ParityCoT", DIRECT, 4, learner, COUNT) <= 0.75
        cells = [outcome.summary.value(CELLS, part=STEP, task=BEAVER, learner=learner, n=n) for n in SMALL.sizes]
        assert 0.8 < cells[0] < cells[1] and cells[1] > 0.98


def test_hard_runs_take_all_their_steps():
    rng = np.random.default_rng(0)
    task = machine_task(BEAVER, 6, 8)
    runs = hard_runs(task, 50, rng)
    blocks = runs.tokens.reshape(50, 6, 9)
    assert (blocks[:, -1] != blocks[:, -2]).any(axis=1).all()  # a step that was not taken repeats the block
    assert running(task, runs.prompts).all()
    assert not running(task, task.encode(np.zeros((1, 8), int), np.array([-1]), np.array([0]))).any()
    assert exact_match(linear_emulator(task), runs, rng) == 1.0
    words = machine_task(INCREMENT, 3, 99)
    assert len(hard_runs(words, 5, rng)) == 5 and words.width == 5 and words.steps == 8


def test_lengths_are_bits_for_words_and_steps_for_the_beaver():
    assert machine_task(BEAVER, 6, 8).steps == 6 and machine_task(BEAVER, 6, 8).width == 8
    parity = machine_task(PARITY, 6, 8, chain=False)
    assert parity.width == 8 and parity.steps == 7 and not parity.cot
    rng = np.random.default_rng(0)
    records = chained(machine=PARITY, learner="perceptron", n=200, lengths=[3], width=8, test=5, replicate=0, rng=rng)
    assert [(r.labels["H"], r.labels["length"]) for r in records] == [(4 * 6, 3)]
