"""The study multiplication at tiny sizes: weights against arithmetic, and trainings that are resumed."""

import dataclasses
import sys

import experiments_toy as toy
import numpy as np
import pytest

from experiments.run import run_study
from experiments.studies import load_study
from experiments.studies import multiplication as sweep
from experiments.study import Analysis
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs import collect
from ntp_envs.policy_classes import LinearStep, PositionalLinearPolicy
from ntp_envs.tasks import Multiplication, explicit_multiplier

STUDY = load_study("multiplication")
PLAIN = dataclasses.replace(STUDY, analyse=lambda options, summary: Analysis())
SMALL = toy.small_options("multiplication")
WITHOUT = dataclasses.replace(SMALL, neural="no")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The parts that need no torch."""
    return check_study(STUDY, WITHOUT, out=tmp_path_factory.mktemp("multiplication") / "run")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    pytest.importorskip("torch")
    return check_study(STUDY, SMALL, out=tmp_path_factory.mktemp("multiplication") / "run")


# -- weights that are written down -------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", SMALL.explicit_digits)
@pytest.mark.parametrize("cot", ["source", "carry"])
@pytest.mark.slow
def test_weights_written_down_are_exact(written, digits, cot):
    n, z = SMALL.pairs, 1.959963984540054
    for metric in (sweep.EXACT, sweep.SUCCESS, "sampled_exact"):
        (row,) = written.summary.select(metric, part=sweep.EXPLICIT, digits=digits, format=cot)
        assert row.mean == row.upper == 1.0 and row.lower == pytest.approx(n / (n + z**2))  # Wilson
    forced = written.summary.series("h", sweep.FORCED, part=sweep.EXPLICIT, digits=digits, format=cot)
    assert len(forced.x) == Multiplication(digits, cot).horizon and (forced.mean == 1.0).all()


# -- measures of a chain -----------------------------------------------------------------------------------------------


def constant(policy, place, token):
    """The policy that writes one token whatever comes, at one place after the prompt."""
    steps = list(policy.steps)
    size = policy.vocab_size
    steps[place] = LinearStep(np.empty(0, dtype=np.int64), np.empty((0, size, size)), 50.0 * np.eye(size)[token])
    return PositionalLinearPolicy(size, steps, prompt_length=policy.prompt_length)


def measured(policy, task, demonstrations):
    records = sweep.chain_records(policy, task, demonstrations, {"H": task.horizon})
    assert all(record.lower <= record.value <= record.upper for record in records)
    return {(record.metric, record.labels.get("kind")): record.value for record in records}


def test_measures_tell_a_wrong_chain_from_a_wrong_product():
    task = Multiplication(2)
    exact, demonstrations = explicit_multiplier(task), collect(task, 200, np.random.default_rng(0))
    digits = task.factors(demonstrations.prompts)
    assert set(measured(exact, task, demonstrations).values()) == {1.0}

    last = (digits[:, 0, 0] * digits[:, 1, 0] % 10 == 7).mean()
    found = measured(constant(exact, task.horizon - 1, 7), task, demonstrations)
    assert found[sweep.CHAIN, None] == 1.0 and found[sweep.PRODUCT, None] == pytest.approx(last)
    assert found[sweep.KIND, "product"] == pytest.approx((3 + last) / 4) and found[sweep.KIND, "units"] == 1.0

    place = task.layout.partials[0, 1] - task.prompt_length + 1  # units of the first's units times the second's tens
    right = (digits[:, 0, 0] * digits[:, 1, 1] % 10 == 4).mean()
    found = measured(constant(exact, place, 4), task, demonstrations)
    assert found[sweep.CHAIN, None] == pytest.approx(right) and found[sweep.PRODUCT, None] == 1.0
    assert found[sweep.KIND, "units"] == pytest.approx((3 + right) / 4) and found[sweep.KIND, "symbol"] == 1.0


def test_without_a_chain_there_is_no_measure_of_it():
    task = Multiplication(1, "none")
    policy = PositionalLinearPolicy(
        task.vocab_size,
        [LinearStep(np.empty(0, dtype=np.int64), np.empty((0, 16, 16)), np.eye(16)[0])] * 2,
        prompt_length=task.prompt_length,
    )
    found = measured(policy, task, task.population())
    assert found[sweep.PRODUCT, None] == 0.19 and (sweep.CHAIN, None) not in found  # 0 x b and a x 0


@pytest.mark.parametrize(("cot", "sizes"), [("source", [4, 8, 8, 4]), ("carry", [4, 8, 8, 8]), ("none", [0, 0, 0, 4])])
def test_segments_of_the_chain(cot, sizes):
    task = Multiplication(2, cot)
    of = [sweep.segment_of(task, position) for position in sweep.decided(task)]
    assert np.bincount(of, minlength=len(sweep.SEGMENTS)).tolist() == sizes and of == sorted(of)


# -- the whole study ---------------------------------------------------------------------------------------------------


def test_findings_say_what_was_run_and_what_was_published(outcome):
    assert "every random pair right at 1, 2 digits" in outcome.analysis.findings[0]
    assert "1 digits, 9 updates" in outcome.analysis.findings[1]
    assert "Published, not ours" in outcome.analysis.findings[-1]
    assert outcome.summary.value(sweep.EXACT, part=sweep.PUBLISHED_ROW) == 0.969
    assert f"{sweep.PUBLISHED_ROW},Multiplication" in outcome.folder.summary.read_text()


def test_trainings_are_evaluated_between_checkpoints_and_at_the_end(outcome):
    for learner in (sweep.LINEAR, sweep.MLP):
        for cot in ("none", "source", "carry"):
            place = {"part": sweep.TRAINED, "learner": learner, "format": cot}
            assert list(outcome.summary.series("step", sweep.EXACT, **place).x) == [2, 6, 9]
            horizon = Multiplication(1, cot).horizon
            for metric in (sweep.FORCED, sweep.FREE):
                assert list(outcome.summary.series("h", metric, **place, step=9).x) == list(range(1, horizon + 1))
                assert not len(outcome.summary.select(metric, **place, step=6))
            (row,) = sweep.ended(outcome.summary).select(sweep.EXACT, **place)
            assert row["step"] == 9


TRAININGS = dataclasses.replace(SMALL, explicit_digits=(1,), seeds=1)


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory):
    pytest.importorskip("torch")
    return run_study(PLAIN, TRAININGS, out=tmp_path_factory.mktemp("multiplication") / "run")


#: the draw or the evaluation at which it is stopped, and the updates since the last checkpoint, which are repeated
STOPS = {"training": (9 + 8, None, 4), "evaluating": (None, 3 + 2, 2), "evaluating the last": (None, 3 + 3, 0)}


@pytest.mark.parametrize(("draw", "evaluation", "repeated"), STOPS.values(), ids=STOPS)
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_bytes(
    draw, evaluation, repeated, unstopped, tmp_path, monkeypatch
):
    folder = tmp_path / "stopped"
    again, draws = toy.stopped_and_resumed(monkeypatch, PLAIN, TRAININGS, folder, draw, evaluation)
    assert again.reused == 1 and not again.failures
    assert again.folder.summary.read_bytes() == unstopped.folder.summary.read_bytes()
    assert len(draws) == 6 * TRAININGS.steps + repeated


def test_a_lost_evaluation_is_not_made_up(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (cell,) = [c for c in sweep.cells(SMALL) if c.part == sweep.TRAINED and c.parameters["replicate"] == 0][-1:]
    monkeypatch.setattr(sweep, "cached_records", lambda path, make: list(make()))  # keeps nothing
    with pytest.raises(ValueError, match="an evaluation is missing"):
        cell.function(**cell.parameters, rng=np.random.default_rng(0), scratch=tmp_path)


@pytest.mark.slow
def test_without_torch_the_rest_runs_and_the_findings_say_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("agents.neural")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    tiny = dataclasses.replace(SMALL, explicit_digits=(1,))
    found = run_study(STUDY, tiny, out=tmp_path / "auto")
    assert not found.failures and not len(found.summary.select(part=sweep.TRAINED))
    assert {path.stem for path in found.folder.path.glob("*.png")} == {"headline", "training"}
    assert any('pip install "ntp-envs[neural]"' in said for said in found.analysis.findings)
    with pytest.raises(ValueError, match=r"extra 'neural' .* --neural no"):
        list(sweep.cells(dataclasses.replace(tiny, neural="yes")))


@pytest.mark.slow
def test_networks_can_be_left_out(written):
    assert not len(written.summary.select(part=sweep.TRAINED))
    assert any("left out with --neural no" in said for said in written.analysis.findings)


def test_the_title_says_what_the_numbers_say():
    def title(**shares):
        rows = []
        for cot, share in shares.items():
            part, learner, cot = (
                (sweep.EXPLICIT, sweep.EXPLICIT, "source")
                if cot == sweep.EXPLICIT
                else (sweep.TRAINED, sweep.LINEAR, cot)
            )
            labels = {"learner": learner, "digits": 2, "format": cot}
            rows.append(SummaryRow(part, labels, sweep.EXACT, share, share, share, 1))
        return sweep.chain_title(Summary(rows), 2)

    three = title(explicit=1.0, source=0.1, carry=0.8)
    assert "100% of answers right with weights written down, 10% learned by SGD" in three and "80% where" in three
    assert title(explicit=1.0) == "A linear predictor with weights written down: 100% of answers right"
