"""The study snowball at tiny sizes: what it measures against closed forms, and what it says and draws."""

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies import snowball as sweep
from experiments.testing import check_study

pytestmark = pytest.mark.slow  # the run behind all of them is
SMALL = toy.small_options("snowball")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("snowball"), SMALL)


@pytest.fixture
def s(outcome):
    return outcome.summary


def inside(row, value, widths=2.0):
    """Whether a value is within so many half widths of a 95 % interval: about four standard errors at 2."""
    return abs(row.mean - value) <= widths * max(row.upper - row.mean, row.mean - row.lower)


@pytest.mark.parametrize("H", SMALL.horizons)
def test_the_verifier_repairs_slips_and_not_the_plan(s, H):
    for task, form in ((sweep.SNOW, 0.9**H), (sweep.PATH, 1 / 3)):
        assert s.value(sweep.EXACT, part=sweep.LENGTH, task=task, decoding=sweep.FORM, H=H) == pytest.approx(form)
        (free,) = s.select(sweep.EXACT, part=sweep.LENGTH, task=task, decoding=sweep.FREE, H=H)
        assert inside(free, form)
    (repaired,) = s.select(sweep.EXACT, part=sweep.LENGTH, task=sweep.SNOW, decoding=sweep.LOCAL, H=H)
    (price,) = s.select(sweep.TOKENS, part=sweep.LENGTH, task=sweep.SNOW, decoding=sweep.LOCAL, H=H)
    assert repaired.mean == 1.0 and repaired.lower > 0.98
    assert inside(price, 1 / 0.9)
    (unrepaired,) = s.select(sweep.EXACT, part=sweep.LENGTH, task=sweep.PATH, decoding=sweep.LOCAL, H=H)
    assert inside(unrepaired, 1 / 3)
    assert s.value(sweep.EXACT, part=sweep.LENGTH, task=sweep.PATH, decoding=sweep.DEPTH_FIRST, H=H) == 1.0


def test_cost_of_the_right_answer_is_its_closed_form(s):
    places = [(sweep.SNOW, {"H": H}, sweep.LOCAL) for H in SMALL.horizons] + [
        (sweep.PATH, {"degree": d}, sweep.DEPTH_FIRST) for d in (2, 4)
    ]
    for task, place, search in places:
        for decoding in (sweep.AGAIN, search):
            (row,) = s.select(sweep.TOKENS, part=sweep.COST, task=task, decoding=decoding, **place)
            form = s.value(sweep.TOKENS, part=sweep.COST, task=task, decoding=f"{decoding}, {sweep.FORM}", **place)
            assert inside(row, form), (task, place, decoding)


def test_censored_costs_are_left_out():
    shape = {"eps": 0.3, "vocab_size": 4, "degree": 2, "n": 50}
    records = sweep.costs(task=sweep.SNOW, H=20, **shape, samples=3, rng=np.random.default_rng(0))
    assert {record.labels["decoding"] for record in records if record.metric == sweep.TOKENS and record.lower} == {
        sweep.LOCAL
    }
    (share,) = (r for r in records if r.metric == sweep.EXACT and r.labels["decoding"] == sweep.AGAIN)
    assert share.value < 0.1 and share.upper > share.value


def test_whole_answers_again_follow_the_curve_of_their_exact_match_only(s):
    for task, p in ((sweep.SNOW, 0.9**12), (sweep.PATH, 1 / 3)):
        for row in s.select(sweep.EXACT, part=sweep.CURVE, task=task, decoding=sweep.AGAIN):
            form = s.value(sweep.EXACT, part=sweep.CURVE, task=task, decoding=sweep.FORM, budget=row["budget"])
            assert form == pytest.approx(1 - (1 - p) ** row["budget"])
            assert inside(row, form)
    local = s.series("budget", sweep.EXACT, part=sweep.CURVE, task=sweep.PATH, decoding=sweep.LOCAL)
    assert len(set(local.mean)) == 1  # more tokens, nothing more found
    assert s.value(sweep.EXACT, part=sweep.CURVE, task=sweep.SNOW, decoding=sweep.LOCAL, budget=2.0) > 0.99


def test_teacher_forcing_looks_fine_position_by_position(s):
    snow, path = (
        np.exp(-s.series("h", "cross_entropy", part=sweep.POSITIONS, task=task).mean)
        for task in (sweep.SNOW, sweep.PATH)
    )
    assert snow == pytest.approx(np.full(12, 0.9))
    assert path == pytest.approx(np.array([1.0, 1 / 3] + [1.0] * 10))
    free = s.select("sampled_accuracy", part=sweep.POSITIONS, task=sweep.PATH)
    assert all(inside(row, 1.0 if row["h"] == 1 else 1 / 3) for row in free)


def test_log_loss_learns_the_two_laws(s):
    for task, form in ((sweep.SNOW, 0.9**5), (sweep.PATH, 1 / 3)):
        assert s.value("sequence_probability", part=sweep.LEARNED, task=task) == pytest.approx(form, rel=1e-3)
    assert s.value("forced_token_accuracy", part=sweep.LEARNED, task=sweep.PATH) == pytest.approx(1 - 2 / 15, abs=0.02)


def test_gap_to_the_closed_form_is_of_the_order_of_the_noise(s):
    rows = s.select(sweep.GAP)
    assert {row["task"] for row in rows} == {sweep.SNOW, sweep.PATH}
    assert all(0 <= row.mean < 2 for row in rows)


def test_findings_hold_the_numbers_of_the_summary(outcome):
    text = " ".join(outcome.analysis.findings)
    assert "Answers of 12 tokens" in text and "0.282" in text  # 0.9^12
    assert "1/d = 0.333" in text and "mean over 12 positions" in text
