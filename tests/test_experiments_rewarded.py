"""The study rewarded follows its closed forms, and its filter keeps what is right."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies import rewarded as sweep
from experiments.testing import check_study
from ntp_envs.tasks import ParityMix

SMALL = toy.small_options("rewarded")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("rewarded"), SMALL)


@pytest.mark.slow
def test_the_mixture_follows_its_closed_forms(outcome):
    for p, greedy in ((0.2, 0.5), (0.5, 1.0)):
        slack = 4 * math.sqrt(0.25 / (SMALL.fresh * SMALL.seeds)) + 0.01
        for metric, expected in ((sweep.SAMPLED, (1 + p) / 2), (sweep.GREEDY, greedy), (sweep.LENGTH, 1 + 4 * p)):
            assert outcome.summary.value(sweep.CLOSED + metric, part=sweep.MIX, p=p) == pytest.approx(expected)
            found = outcome.summary.value(metric, part=sweep.MIX, p=p)
            assert found == pytest.approx(expected, abs=slack * (4 if metric == sweep.LENGTH else 1))


@pytest.mark.slow
def test_simulated_rounds_are_the_closed_form(outcome):
    share = 0.1
    for number in range(SMALL.rounds + 1):
        closed = outcome.summary.value(sweep.CLOSED + sweep.SHARE, part=sweep.ROUNDS, p=0.1, round=number)
        assert closed == pytest.approx(share)
        found = outcome.summary.value(sweep.SHARE, part=sweep.ROUNDS, p=0.1, round=number)
        assert found == pytest.approx(share, abs=4 * math.sqrt(0.25 / (SMALL.fresh * SMALL.seeds)) + 0.01)
        share = 2 * share / (1 + share)
    assert outcome.summary.value(sweep.PASSED, part=sweep.ROUNDS, p=0.1) == 3
    assert outcome.summary.value(sweep.CLOSED + sweep.PASSED, part=sweep.ROUNDS, p=0.1) == 3


def test_the_filter_keeps_what_is_right():
    task, rng = ParityMix(d=4, p=0.3), np.random.default_rng(0)
    kept = sweep.filtered(task, task.policy_class.policy(np.zeros(task.policy_class.features.dimension)), 3000, rng)
    assert 0 < len(kept) < 3000 and task.success(kept.prompts, kept.tokens).all()
    everything = sweep.filtered(task, task.expert, 500, rng)
    assert len(everything) == 500  # the expert is always right
