"""The length study says what is known: guesses stay guesses, linear chains are learned, shorter ones cost samples."""

import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import length as sweep
from experiments.studies import load_study
from experiments.testing import check_study

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


def rng():
    return np.random.default_rng(0)


def test_samples_needed_says_when_there_are_not_enough():
    sizes = {"bits": 8, "subset_size": 3, "target": 0.95, "replicate": 1, "rng": rng()}
    (record,) = sweep.samples_needed(name="none", parameters={"cot": "none"}, most=64, **sizes)
    assert record.value == math.inf
    found = sweep.samples_needed(name="count", parameters={"cot": "count"}, most=256, **{**sizes, "rng": rng()})[0]
    assert 8 < found.value < 256
