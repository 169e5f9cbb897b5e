"""The length study says what is known: guesses stay guesses, linear chains are learned, shorter ones cost samples."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import length as sweep
from experiments.studies import load_study
from experiments.testing import check_study
from ntp_envs.tasks import ParityMix

SMALL = toy.small_options("length")
LINEAR = ("count", "andxor", "token")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("length"), SMALL)


@pytest.mark.slow
def test_steps_that_are_not_linear_stay_a_guess(outcome):
    slack = 4 * math.sqrt(0.25 / (SMALL.fresh * SMALL.seeds))
    for name in sweep.parity_formats():
        place = {"part": sweep.FORMATS, "format": name, "n": 800}
        answer, forced = (outcome.summary.value(metric, **place) for metric in (sweep.ANSWER, sweep.FORCED))
        if name in LINEAR:
            assert answer > (0.93 if name == "token" else 0.999)
            assert outcome.summary.value(sweep.CHAIN, **place) <= answer
            early = outcome.summary.value(sweep.ANSWER, part=sweep.FORMATS, format=name, n=20)
            assert early < answer
        else:
            expected = {"none": 0.5, "prefix": (1 + 4 / 2) / 5, "xor_3": 0.5}[name]
            assert answer == pytest.approx(0.5, abs=slack) and forced == pytest.approx(expected, abs=slack)
            assert outcome.summary.value(sweep.SAMPLED, **place) == pytest.approx(0.5, abs=slack)
            assert outcome.summary.value(sweep.CLOSED + sweep.FORCED, part=sweep.FORMATS, format=name) == expected
    best = outcome.summary.value(sweep.CLOSED + sweep.THRESHOLD, part=sweep.FORMATS, format="none")
    assert best == 0.5 + math.comb(4, 2) / 2**5


@pytest.mark.slow
def test_shorter_chains_of_richer_steps_take_more_samples(outcome):
    needed = {
        name: outcome.summary.value(sweep.NEEDED, part=sweep.TRADE, format=name) for name in sweep.trade_formats(3)
    }
    assert needed["none"] > 1.5 * needed["xor_2"]
    assert max(needed[name] for name in ("count", "andxor")) < needed["none"]
    weights = {name: outcome.summary.value(sweep.FEATURES, part=sweep.TRADE, format=name) for name in needed}
    assert weights["none"] == sum(math.comb(8, order) for order in range(4))
    assert weights["count"] == 2 * (1 + 8 + 1)  # two positions, one token before the second


@pytest.mark.slow
def test_the_mixture_follows_its_closed_forms(outcome):
    for p, greedy in ((0.2, 0.5), (0.5, 1.0)):
        slack = 4 * math.sqrt(0.25 / (SMALL.fresh * SMALL.mix_seeds)) + 0.01
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
        assert found == pytest.approx(share, abs=4 * math.sqrt(0.25 / (SMALL.fresh * SMALL.mix_seeds)) + 0.01)
        share = 2 * share / (1 + share)
    assert outcome.summary.value(sweep.PASSED, part=sweep.ROUNDS, p=0.1) == 3
    assert outcome.summary.value(sweep.CLOSED + sweep.PASSED, part=sweep.ROUNDS, p=0.1) == 3


def test_the_filter_keeps_what_is_right():
    task = ParityMix(d=4, p=0.3)
    kept = sweep.filtered(task, task.policy_class.policy(np.zeros(task.policy_class.features.dimension)), 3000, rng())
    assert 0 < len(kept) < 3000 and task.success(kept.prompts, kept.tokens).all()
    everything = sweep.filtered(task, task.expert, 500, rng())
    assert len(everything) == 500  # the expert is always right


def rng():
    return np.random.default_rng(0)


def test_samples_needed_says_when_there_are_not_enough():
    sizes = {"bits": 8, "subset_size": 3, "target": 0.95, "replicate": 1, "rng": rng()}
    (record,) = sweep.samples_needed(name="none", parameters={"cot": "none"}, most=64, **sizes)
    assert record.value == math.inf
    found = sweep.samples_needed(name="count", parameters={"cot": "count"}, most=256, **{**sizes, "rng": rng()})[0]
    assert 8 < found.value < 256
