"""The study shuffled at tiny sizes: what documents of shuffled text cost each learner, on the dial and as networks."""

import dataclasses
import math

import experiments_toy as toy
import numpy as np
import pytest

from experiments.studies import load_study
from experiments.studies import shuffled as sweep
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study

SMALL = dataclasses.replace(toy.small_options("shuffled"), neural="no")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("shuffled"), SMALL)


# -- the dial, and exact log-loss --------------------------------------------------------------------------------------


def test_the_dial_runs_from_the_clean_model_to_shuffled_text(rng):
    task = sweep.read(sweep.text_of(SMALL, 8, "dial_horizons"), horizon=6)
    members, shares = sweep.dial_class(task)
    assert shares[0] == 0.0 and shares == sorted(shares) and any(s == pytest.approx(0.1) for s in shares)
    prompts = task.sample_prompts(40, rng)
    tokens = task.expert.sample(prompts, 6, rng)
    np.testing.assert_allclose(members.policies[0].log_probs(prompts, tokens), task.clean.log_probs(prompts, tokens))
    wanted = np.logaddexp(
        np.log1p(-shares[-1]) + task.clean.log_probs(prompts, tokens),
        np.log(shares[-1]) + task.shuffled.log_probs(prompts, tokens),
    )
    np.testing.assert_allclose(members.policies[-1].log_probs(prompts, tokens), wanted)


def test_log_loss_turns_the_dial_to_the_contamination(outcome):
    """Its optimum is the share of contaminated tokens; rho on whole documents stays nearer to the clean model."""
    for H in (4, 32):
        got = toy.one(outcome, sweep.SHARE, part=sweep.DIAL, learner="log-loss", H=H).mean
        assert 0.04 < got < 0.2
    rho, loss = (
        toy.one(outcome, sweep.SHARE, part=sweep.DIAL, learner=name, H=32).mean for name in ("rho", "log-loss")
    )
    assert rho <= loss
    assert not len(outcome.summary.select(part=sweep.DIAL, H=4, K=16))  # no chunk is longer than the document
    for H in (4, 32):
        clean = toy.one(outcome, sweep.DISTANCE2, part=sweep.DIAL, learner=sweep.CLEAN, H=H)
        assert clean.lower <= 2 * (1 - math.sqrt(0.9))


@pytest.mark.slow
def test_on_the_default_text_rho_forgives_what_log_loss_does_not():
    """Contents differ between versions of Python; the bound on the clean model and the order do not."""
    options = dataclasses.replace(sweep.ShuffledOptions.quick(), dial_horizons=(256,), neural="no", seeds=1)
    (cell,) = (cell for cell in sweep.cells(options) if cell.part == sweep.DIAL)
    records = cell.function(**cell.parameters, rng=np.random.default_rng(0))
    found = {(r.labels["learner"], r.labels.get("K")): r for r in records if r.metric == sweep.DISTANCE2}
    assert found[sweep.CLEAN, None].lower <= 2 * (1 - math.sqrt(0.97))
    assert found["rho", None].upper < 0.5 * found["log-loss", None].lower
    assert found["rho", None].upper < found["chunked rho", 32].lower


def test_exact_log_loss_is_that_of_the_class(outcome):
    """The clean bigram model is at most ``2 (1 - sqrt(1 - eps))`` away, log-loss is not."""
    clean, found = (
        toy.one(outcome, sweep.DISTANCE2, part=sweep.NETWORKS, learner=name, h=16)
        for name in (sweep.CLEAN, sweep.EXACT)
    )
    assert clean.lower <= 2 * (1 - math.sqrt(0.9)) and found.mean > 0
    assert not len(outcome.summary.select(part=sweep.NETWORKS, learner=sweep.NETWORK))


# -- networks, and texts that will not do ------------------------------------------------------------------------------


def test_networks_are_trained_and_resume(tmp_path):
    pytest.importorskip("torch")
    options = dataclasses.replace(SMALL, neural="yes")
    made = {
        cell.parameters["learner"]: cell for cell in sweep.cells(options) if cell.part == sweep.NETWORKS if cell.scratch
    }
    assert set(made) == {sweep.RHO, sweep.CLIPPED, sweep.NETWORK}
    for number, cell in enumerate(made.values()):
        records = toy.resumed(cell, tmp_path / str(number))
        (final,) = [r for r in records if r.labels["h"] == 16]
        assert 0.0 < final.value < 2.0


def test_documents_of_another_corpus_are_resumed_and_the_model_of_the_text_is_near(tmp_path):
    """The mixture is at most ``2 (1 - sqrt(1 - share))`` from the model of the text, at any length."""
    pytest.importorskip("torch")
    options = dataclasses.replace(SMALL, neural="yes")
    (cell,) = (cell for cell in sweep.cells(options) if cell.part == sweep.FOREIGN)
    found = {record.labels["learner"]: record for record in toy.resumed(cell, tmp_path)}
    assert set(found) == {sweep.NETWORK, sweep.RHO, sweep.CLEAN}
    assert found[sweep.CLEAN].lower <= 2 * (1 - math.sqrt(0.9))
    assert 0.0 < found[sweep.NETWORK].value < 2.0


def test_the_figure_of_another_corpus_does_not_speak_of_shuffled_documents():
    row = SummaryRow(sweep.FOREIGN, {"learner": sweep.CLEAN, "H": 6, "n": 9}, sweep.DISTANCE2, 0.1, 0.0, 0.2, 2)
    specs = sweep.STUDY.analyse(SMALL, Summary([row])).figures
    assert {spec.name: spec.setting for spec in specs} == {
        "headline": "10% of the documents shuffled",
        "foreign": "10% of the documents of another corpus",
    }


def test_another_corpus_is_read_in_the_vocabulary_of_the_text(tmp_path):
    task = sweep.read(sweep.text_of(SMALL, 8, "dial_horizons"), horizon=6)
    letter = task.data.vocabulary.decode([1])
    (tmp_path / "other.txt").write_text(letter * 5000, encoding="utf-8")
    other = sweep.other_text(task, str(tmp_path / "other.txt"))
    assert np.exp(other.log_probs(np.array([[1]]), np.array([[1, 1, 1]]))).min() > 0.99
    with pytest.raises(ValueError, match="foreign="):
        sweep.foreign_text(dataclasses.replace(SMALL, foreign=str(tmp_path / "none.txt")))


def test_without_torch_the_rest_runs_and_the_findings_say_how_to_get_it(outcome, monkeypatch):
    toy.check_without_torch(monkeypatch, sweep.STUDY, SMALL, outcome, "Networks were left out")


def test_nothing_is_said_of_cells_that_failed():
    empty = sweep.STUDY.analyse(SMALL, Summary([]))
    assert not empty.findings
    assert [spec.name for spec in empty.figures] == ["headline"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_horizon": 20_000}, "That is network_horizon=20000"),
        ({"dial_horizons": (8, 20_000)}, "That is dial_horizons=20000"),
        ({"corpus": "no/such/file"}, "there is no such file"),
    ],
)
def test_texts_that_will_not_do_are_refused_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        list(sweep.cells(dataclasses.replace(SMALL, **change)))


def test_small_vocabularies_on_purpose_are_not_warned_of(recwarn):
    assert list(sweep.cells(SMALL)) and not recwarn.list


def test_cells_of_documents_a_line_say_so():
    texts = [cell.parameters["text"] for cell in sweep.cells(dataclasses.replace(SMALL, records="lines"))]
    assert all(text["records"] == "lines" for text in texts)
