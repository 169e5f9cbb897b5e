"""The study text at tiny sizes: what it measures, what it refuses, and that a changed file is another experiment."""

import dataclasses
import gzip
import hashlib
import json
import math
import os
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest

from experiments.cli import main
from experiments.measure import shown_lengths
from experiments.studies import load_study
from experiments.studies import text as sweep
from experiments.summary import Series, Summary
from experiments.testing import check_study
from experiments.texts import one_line
from ntp_envs import distance
from ntp_envs.tasks import Text
from ntp_envs.text import UnknownTokensWarning

FILES = Path(__file__).parent / "data"
HARBOUR = str(FILES / "harbour.txt")
SMALL = dataclasses.replace(toy.small_options("text"), neural="no")


@pytest.fixture(scope="module")
def outcome():
    return check_study(load_study("text"), SMALL)


# -- what is measured --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_distance_grows_and_faster_for_the_more_restricted(outcome):
    for learner in ("1-gram", "2-gram", "3-gram", "linear, 1 token", "linear, 2 tokens"):
        rows = {h: toy.one(outcome, sweep.DISTANCE2, learner=learner, h=h) for h in (1, 4, 16)}
        assert rows[1].upper < rows[4].lower and rows[4].mean < rows[16].mean <= 2.0
        assert all(row.lower <= row.mean <= row.upper and row.seeds == 1 for row in rows.values())
    for less, more in (("1-gram", "2-gram"), ("2-gram", "3-gram")):
        for h in (1, 2, 4):
            near, far = (toy.one(outcome, sweep.DISTANCE2, learner=name, h=h) for name in (more, less))
            assert near.upper < far.lower, (less, more, h)
        halves = [toy.one(outcome, sweep.HALF, learner=name) for name in (less, more)]
        assert halves[0].upper < halves[1].lower


@pytest.mark.slow
def test_a_linear_window_of_one_token_is_a_bigram(outcome):
    """Any table of the last token is linear in its indicator; they differ by Witten and Bell's smoothing only."""
    for h in (1, 4):
        rows = [toy.one(outcome, sweep.DISTANCE2, learner=name, h=h).mean for name in ("2-gram", "linear, 1 token")]
        assert rows[0] == pytest.approx(rows[1], rel=0.25)


@pytest.mark.slow
def test_bits_are_those_of_the_task(outcome):
    task = Text(corpus=HARBOUR, expert_order=4, horizon=16, prompt_length=4)
    expert = toy.one(outcome, sweep.BITS, learner=sweep.EXPERT)
    bits = task.bits_per_char(task.expert)
    assert (expert.mean, expert.lower, expert.upper) == pytest.approx((bits.value, *bits.interval))
    assert expert["sha256"] == task.data.sha256[:16]
    assert toy.one(outcome, sweep.UNKNOWN, learner=sweep.EXPERT).mean == bits.unknown_share
    others = [toy.one(outcome, sweep.BITS, learner=sweep.name_of("n-gram", order)).mean for order in (1, 2, 3)]
    assert others[0] > others[1] > expert.mean


@pytest.mark.slow
def test_teacher_forcing_is_measured_by_position_on_held_out_text(outcome):
    for learner in ("3-gram", sweep.EXPERT):
        for metric in (sweep.ACCURACY, sweep.NATS):
            assert [row["h"] for row in outcome.summary.select(metric, learner=learner)] == shown_lengths(16)
    mean = toy.one(outcome, "mean_cross_entropy", learner="3-gram").mean
    assert toy.one(outcome, "perplexity", learner="3-gram").mean == pytest.approx(math.exp(mean))


@pytest.mark.slow
def test_samples_go_on_from_the_same_words(outcome):
    rows = outcome.summary.select(sweep.SAMPLE)
    learners = [sweep.EXPERT, sweep.REAL, "linear, 1 token", "linear, 2 tokens"]
    assert {row["learner"] for row in rows} == {*learners, *(sweep.name_of("n-gram", k) for k in (1, 2, 3))}
    prompts = {row.mean: set() for row in rows}
    for row in rows:
        prompts[row.mean].add(row["prompt"])
        assert len(row["prompt"]) == 4 and len(row["text"]) == 16
    assert all(len(starts) == 1 for starts in prompts.values()) and len(prompts) == 2
    whole = one_line(Path(HARBOUR).read_text(encoding="utf-8").lower())
    for row in outcome.summary.select(sweep.SAMPLE, learner=sweep.REAL):
        assert row["prompt"] + row["text"] in whole
    assert one_line("a\nb\tc\0") == "a\u21b5b\u2192c\ufffd"


def test_the_scale_of_the_headline_adds_up():
    """Independent errors: the affinity of h tokens is the h-th power of that of one."""
    one_token = 0.1
    h = np.arange(1, 6)
    together = 2.0 * (1.0 - (1.0 - one_token / 2.0) ** h)
    np.testing.assert_allclose(sweep.additive(together), h * sweep.additive(np.array(one_token)), rtol=1e-12)
    np.testing.assert_allclose(sweep.additive_inverse(sweep.additive(together)), together, rtol=1e-12)
    rate = sweep.additive(np.array(1.9)) / 4.0
    curve = sweep.additive_inverse(rate * np.arange(1.0, 7.0))
    assert sweep.exit_of(Series(np.arange(1.0, 7.0), curve, curve, curve)) == pytest.approx(4.0)
    low = np.full(3, 0.5)
    assert sweep.exit_of(Series(np.arange(1.0, 4.0), low, low, low)) == np.inf


# -- networks ----------------------------------------------------------------------------------------------------------


def test_the_mlp_is_trained_and_resumes(tmp_path):
    pytest.importorskip("torch")
    options = dataclasses.replace(SMALL, neural="yes")
    (cell,) = [cell for cell in sweep.cells(options) if cell.parameters.get("kind") == sweep.MLP]
    records = toy.resumed(cell, tmp_path)
    (final,) = [r for r in records if r.metric == sweep.DISTANCE2 and r.labels["h"] == 16]
    assert 0.0 < final.value < 2.0


@pytest.mark.slow
def test_without_torch_the_rest_runs_and_the_findings_say_how_to_get_it(outcome, monkeypatch):
    toy.check_without_torch(monkeypatch, sweep.STUDY, SMALL, outcome, "The MLP was left out")


def test_nothing_is_said_of_cells_that_failed():
    empty = sweep.STUDY.analyse(SMALL, Summary([]))
    assert not empty.findings
    assert [spec.name for spec in empty.figures] == ["headline", "distance", "bits"]


# -- the text that is given --------------------------------------------------------------------------------------------

TINY = "--neural no --seeds 1 --horizon 8 --prompt-length 3 --expert-order 3 --orders 1 2 --windows 1 --n 60 --draws 40"
TINY += " --mlp-window 2 --workers 1"
VERSE = Path(HARBOUR).read_text(encoding="utf-8")


@pytest.fixture
def headline_only(monkeypatch):
    """One figure of three, as they take nine tenths of a run of this size; `outcome` has them all."""

    def analyse_less(*arguments):
        analysis = sweep.STUDY.analyse(*arguments)
        return dataclasses.replace(analysis, figures=analysis.figures[:1])

    study = dataclasses.replace(load_study("text"), analyse=analyse_less)
    monkeypatch.setattr("experiments.studies.load_study", lambda name: study if name == "text" else load_study(name))


def run(tmp_path, corpus, *more):
    return main(["run", "text", "--quick", "--corpus", str(corpus), *TINY.split(), "--out", str(tmp_path / "o"), *more])


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ((VERSE + "\u00e9\u4e16\U0001f600 na\u00efve\n" * 9).encode(), ()),
        pytest.param(gzip.compress(VERSE.encode()), (), marks=pytest.mark.slow),
        pytest.param(
            VERSE.replace(" ", "\n").encode(), ("--records", "lines", "--prompt-length", "1"), marks=pytest.mark.slow
        ),
        pytest.param(VERSE.replace("\n", " ").encode() * 100, (), marks=pytest.mark.slow),
        pytest.param(VERSE.encode(), ("--tokens", "word", "--max-vocab", "20"), marks=pytest.mark.slow),
        (bytes(range(256)) * 5, ("--tokens", "byte", "--no-lower")),
    ],
    ids=["utf-8", "gz", "records", "long line", "words", "bytes"],
)
def test_other_texts_work(tmp_path, capsys, headline_only, content, more):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert run(tmp_path, path, *more) == 0
    shown = capsys.readouterr().out
    assert "Distance over the horizon" in shown
    if "word" in more:
        assert "% are unknown ones" in shown
    assert (tmp_path / "o" / "headline.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "o" / "config.json").read_text())["options"]["corpus"] == str(path)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (b"", (), "is an empty file"),
        (b"\xef\xbb\xbf", (), "nothing but a byte order mark"),
        (b"PK\x03\x04\x00\x00" * 99, (), "tokens='byte'"),
        (VERSE.encode("utf-16") + b"\0", (), "UTF-16"),
        (b"\xff\xfe\xfd" * 99, (), "UTF-"),
        (b"too short", (), "is too short"),
        (VERSE.encode(), ("--horizon", "200"), "is too short"),
    ],
)
def test_texts_that_will_not_do_are_refused_before_any_work(tmp_path, capsys, content, more, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert run(tmp_path, path, *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_files_that_cannot_be_read_are_refused(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "missing.txt") == 2
    assert "there is no such file" in capsys.readouterr().err
    assert run(tmp_path, tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err
    secret = tmp_path / "secret.txt"
    secret.write_text(VERSE)
    secret.chmod(0)
    if not os.access(secret, os.R_OK):  # the super-user reads everything
        assert run(tmp_path, secret) == 2
        assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def text_of(options):
    """What the cells are given of the text."""
    return next(iter(sweep.cells(options))).parameters["text"]


def test_the_names_of_cells_do_not_speak_of_records_unless_there_are_some():
    """Seeds are made from them: the numbers of a text as one stretch are those of before there were records."""
    plain, records = (text_of(dataclasses.replace(SMALL, records=how)) for how in (None, "lines"))
    assert list(plain) == [
        *("corpus", "tokens", "lower", "expert_order", "horizon", "prompt_length", "learner_order"),
        *("max_vocab", "max_chars", "held_out", "contamination", "sha256"),
    ]
    assert records["records"] == "lines"


def test_a_small_vocabulary_is_warned_of_once(recwarn):
    text_of(SMALL)
    assert not recwarn.list
    text = text_of(dataclasses.replace(SMALL, max_vocab=5))
    assert [warning.category for warning in recwarn.list] == [UnknownTokensWarning]
    sweep.read(text)
    assert len(recwarn.list) == 1


@pytest.mark.parametrize("study", ["text", "compare"])
@pytest.mark.slow
def test_a_changed_file_is_another_run_of_any_study(tmp_path, capsys, headline_only, study):
    path, out = tmp_path / "text.txt", tmp_path / "o"
    path.write_text(VERSE)
    task = f"Text(corpus={str(path)!r}, prompt_length=2, expert_order=2)"
    sizes = {"text": f"--quick {TINY}", "compare": "--agents NGramBC,LogLossBC --horizons 4 --n 50 --seeds 1"}
    more = {"text": ["--corpus", str(path)], "compare": ["--tasks", task, "--workers", "1"]}
    words = ["run", study, *sizes[study].split(), *more[study], "--out", str(out)]
    assert main(words) == 0
    files = json.loads((out / "config.json").read_text())["files"]
    assert files == {str(path): hashlib.sha256(VERSE.encode()).hexdigest()}
    before, state = (out / "summary.csv").read_text(), path.stat()
    path.write_text(VERSE.replace("e", "o"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert main(words) == 2
    assert f"files.{path}: " in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "were taken" not in capsys.readouterr().err and (out / "summary.csv").read_text() != before


def test_a_file_that_changes_during_a_run_stops_its_cells(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(VERSE)
    text = text_of(dataclasses.replace(SMALL, corpus=str(path)))
    assert distance((task := sweep.read(text)).expert, task.expert, task, n=4).final == 0.0
    path.write_text(VERSE + "more")
    with pytest.raises(ValueError, match="has changed since this run began"):
        sweep.read(text)
