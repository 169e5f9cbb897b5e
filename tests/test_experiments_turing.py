"""The turing study: with the chain learners go beyond their data, at once they guess; and its cells by hand."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies import turing as sweep
from experiments.testing import check_study
from ntp_envs.tasks import linear_emulator

SMALL = toy.small_options("turing")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("turing"), SMALL)


@pytest.mark.slow
def test_with_the_chain_runs_are_exact_beyond_the_data_and_at_once_they_are_not(outcome):
    def exact(task, chain, length, learner, part=sweep.RUNS):
        return outcome.summary.value(sweep.EXACT, part=part, task=task, chain=chain, length=length, learner=learner)

    for learner in sweep.LEARNERS:
        assert (
            exact(sweep.BEAVER, sweep.CHAIN, 6, learner) >= 0.95
            and exact(sweep.BEAVER, sweep.DIRECT, 6, learner) <= 0.4
        )
        assert (
            exact(sweep.PARITY, sweep.CHAIN, 8, learner) >= 0.95
            and exact(sweep.PARITY, sweep.DIRECT, 2, learner) <= 0.9
        )
        assert (
            exact(sweep.INCREMENT, sweep.CHAIN, 8, learner) >= 0.9
            and exact(sweep.INCREMENT, sweep.DIRECT, 2, learner) >= 0.9
        )
        assert exact("ParityCoT", sweep.CHAIN, 4, learner, sweep.COUNT) >= 0.9
        assert exact("ParityCoT", sweep.DIRECT, 1, learner, sweep.COUNT) == 1.0
        assert exact("ParityCoT", sweep.DIRECT, 4, learner, sweep.COUNT) <= 0.75
        cells = [
            outcome.summary.value(sweep.CELLS, part=sweep.STEP, task=sweep.BEAVER, learner=learner, n=n)
            for n in SMALL.sizes
        ]
        assert 0.8 < cells[0] < cells[1] and cells[1] > 0.98


def test_hard_runs_take_all_their_steps():
    rng = np.random.default_rng(0)
    task = sweep.machine_task(sweep.BEAVER, 6, 8)
    runs = sweep.hard_runs(task, 50, rng)
    blocks = runs.tokens.reshape(50, 6, 9)
    assert (blocks[:, -1] != blocks[:, -2]).any(axis=1).all()  # a step that was not taken repeats the block
    assert sweep.running(task, runs.prompts).all()
    assert not sweep.running(task, task.encode(np.zeros((1, 8), int), np.array([-1]), np.array([0]))).any()
    assert sweep.exact_match(linear_emulator(task), runs, rng) == 1.0
    words = sweep.machine_task(sweep.INCREMENT, 3, 99)
    assert len(sweep.hard_runs(words, 5, rng)) == 5 and words.width == 5 and words.steps == 8


def test_lengths_are_bits_for_words_and_steps_for_the_beaver():
    assert sweep.machine_task(sweep.BEAVER, 6, 8).steps == 6 and sweep.machine_task(sweep.BEAVER, 6, 8).width == 8
    parity = sweep.machine_task(sweep.PARITY, 6, 8, chain=False)
    assert parity.width == 8 and parity.steps == 7 and not parity.cot
    rng = np.random.default_rng(0)
    records = sweep.chained(
        machine=sweep.PARITY, learner="perceptron", n=200, lengths=[3], width=8, test=5, replicate=0, rng=rng
    )
    assert [(r.labels["H"], r.labels["length"]) for r in records] == [(4 * 6, 3)]
