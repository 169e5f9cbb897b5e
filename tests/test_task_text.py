"""Text: the corpus as a task, its expert and its windows."""

import json
import math
import os
import pickle
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harbour import FILES, HARBOUR, SMALL, train_and_held_out

import ntp_envs.text.corpus as data_module
from ntp_envs import (
    NGramPolicy,
    NotTractableError,
    collect,
    distance,
)
from ntp_envs.tasks import Text
from ntp_envs.testing import check_task
from ntp_envs.text import split_words
from ntp_envs.text.corpus import least_length


@pytest.fixture(scope="module")
def harbour():
    return Text(**SMALL)


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["char", "byte", "word"])
@pytest.mark.parametrize("lower", [True, False])
def test_the_text_is_cut_in_two_and_numbered(tokens, lower):
    task = Text(**SMALL | {"tokens": tokens, "lower": lower, "held_out": 0.2})
    train, held_out = train_and_held_out(0.2, lower)
    assert task.decode(task.data.train.tokens) == train
    pieces = split_words if tokens == "word" else list
    symbols = set(pieces(train))
    assert task.vocab_size == len(symbols) + 1
    decoded = task.decode(task.data.held_out.tokens)
    assert decoded == "".join(piece if piece in symbols else "\ufffd" for piece in pieces(held_out))
    assert "\ufffd" in decoded and len(decoded) > 10
    assert task.data.held_out.lengths.sum() == len(held_out)
    assert task.decode(task.encode("The crates")) == ("the crates" if lower else "The crates")


def test_rare_characters_are_one_token():
    task = Text(**SMALL | {"max_vocab": 6})
    common = Counter(train_and_held_out()[0]).most_common(5)
    assert task.vocab_size == 6 and task.decode([5]) == "\ufffd"
    assert set(task.data.vocabulary.symbols) == {symbol for symbol, _ in common}
    assert task.encode("zzz").tolist() == [5, 5, 5]


def test_max_chars_reads_the_beginning():
    task = Text(**SMALL | {"max_chars": 500, "held_out": 0.5})
    assert task.decode(task.data.train.tokens) == Path(HARBOUR).read_text(encoding="utf-8")[:250].lower()
    assert len(task.data.held_out) == 250


def test_anything_can_be_read_as_bytes():
    path = FILES / "not_text.bin"
    task = Text(corpus=str(path), tokens="byte", lower=False, horizon=5, prompt_length=2, expert_order=2)
    data = path.read_bytes()
    whole = [*task.data.train.tokens, *task.data.held_out.tokens]
    assert bytes(task.data.vocabulary.symbols[t] for t in whole) == data
    with pytest.raises(ValueError, match=r"byte offset .*tokens='byte'"):
        Text(corpus=str(path))


# -- reading once ------------------------------------------------------------------------------------------------------


def test_a_second_task_reads_and_fits_nothing_again(harbour, monkeypatch):
    monkeypatch.setattr(data_module.Vocabulary, "build", lambda *a, **k: pytest.fail("made again"))
    again = Text(**SMALL | {"horizon": 9, "learner_order": 1})
    assert again.data is harbour.data
    assert again.expert.levels is harbour.expert.levels
    shorter = replace(again, prompt_length=2)
    assert (shorter.expert.prompt_length, harbour.expert.prompt_length) == (2, 4)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abab" * 100)
    old = Text(**SMALL | {"corpus": str(path)})
    assert old.decode(old.data.train.tokens[:4]) == "abab"
    pickled, copied, state = pickle.dumps(old), replace(old), path.stat()
    path.write_text("cdcd" * 100)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same name, size and date
    new = Text(**SMALL | {"corpus": str(path)})
    assert new != old and old == copied and new.parameters() == old.parameters() and len({old, copied, new}) == 2
    assert new.data.sha256 != old.data.sha256 and new.fingerprint() != old.fingerprint() == copied.fingerprint()
    with pytest.raises(ValueError, match="has changed since this task was saved"):
        _ = pickle.loads(pickled).data
    assert new.decode(new.data.train.tokens[:4]) == "cdcd"
    assert old.decode(old.sample_prompts(1, np.random.default_rng(0))[0])[0] in "ab"
    os.remove(path)
    with pytest.raises(FileNotFoundError):
        Text(**SMALL | {"corpus": str(path)})
    assert Text(**SMALL) != "text"
    assert old.expert.order == 3  # which the task can still fit


def test_a_pickled_task_is_its_parameters(harbour):
    assert harbour.expert.order == 3
    pickled = pickle.dumps(harbour)
    back = pickle.loads(pickled)
    assert len(pickled) < 1000 and back == harbour and hash(back) == hash(harbour)
    assert back.vocab_size == harbour.vocab_size
    prompts = harbour.sample_prompts(3, np.random.default_rng(0))
    np.testing.assert_array_equal(back.sample_prompts(3, np.random.default_rng(0)), prompts)


def test_the_shared_text_cannot_be_written_to(harbour):
    with pytest.raises(ValueError, match="read-only"):
        harbour.data.train.tokens[0] = 1


# -- prompts, windows and the expert -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_length", [0, 1, 2, 5])
def test_prompts_are_places_of_the_text(prompt_length):
    task = Text(**SMALL | {"prompt_length": prompt_length})
    train = train_and_held_out()[0]
    places = len(train) - prompt_length - task.horizon + 1
    wanted = Counter(train[i : i + prompt_length] for i in range(places))
    prompts, probabilities = task.prompt_law()
    assert {task.decode(p): pytest.approx(m) for p, m in zip(prompts, probabilities)} == {
        prompt: count / places for prompt, count in wanted.items()
    }


def test_too_many_prompts_are_not_listed(monkeypatch, harbour):
    import ntp_envs.tasks.text as module

    monkeypatch.setattr(module, "MAX_PROMPTS", 200)
    task = Text(**SMALL)
    with pytest.raises(NotTractableError, match="more than 200 different prompts of 4 tokens; use sample_prompts"):
        task.prompt_law()
    assert len(Text(**SMALL | {"prompt_length": 1}).prompt_law()[0]) < 60


def test_windows_are_the_text(harbour, rng):
    for held_out, text in zip((False, True), train_and_held_out()):
        demos = harbour.windows(400, rng, held_out=held_out)
        assert demos.prompts.shape == (400, 4) and demos.tokens.shape == (400, 12)
        lines = [harbour.decode(line) for line in np.column_stack([demos.prompts, demos.tokens])]
        assert all(line in text for line in lines)
        assert demos.source["by"] == ("held-out text" if held_out else "text")
        assert demos.source["sha256"] == harbour.data.sha256
        json.dumps(demos.source)
    edge = {text[: 4 + 12], text[-4 - 12 :]}  # the first and the last window are drawn too
    many = harbour.windows(20_000, rng, held_out=True)
    assert edge <= {harbour.decode(line) for line in np.column_stack([many.prompts, many.tokens])}
    with pytest.raises(TypeError, match="rng=3"):
        harbour.windows(2, 3)
    with pytest.raises(ValueError, match="n=0"):
        harbour.windows(0, rng)


def test_the_expert_is_the_model_of_the_training_text(harbour):
    train = train_and_held_out()[0]
    letters = sorted(set(train))
    model = NGramPolicy.fit_text([letters.index(c) for c in train], len(letters) + 1, 3)
    tokens = harbour.encode("once for himself. ")[None]
    np.testing.assert_array_equal(
        harbour.expert.log_probs(tokens[:, :4], tokens[:, 4:]), model.log_probs(tokens[:, :4], tokens[:, 4:])
    )
    # P(e | th) by counting
    count = {c: len(re.findall(f"(?=th{re.escape(c)})", train[: len(train)])) for c in letters}
    seen = sum(c > 0 for c in count.values())
    after_h = np.exp(
        NGramPolicy(model.levels[:2], model.vocab_size).next_log_probs(harbour.encode("h")[None], tokens[:, :0])
    )
    wanted = (count["e"] + seen * after_h[0, letters.index("e")]) / (sum(count.values()) + seen)
    law = np.exp(harbour.expert.next_log_probs(harbour.encode("ofth")[None], tokens[:, :0]))[0]
    assert law[letters.index("e")] == pytest.approx(wanted, rel=1e-12)


def test_what_is_not_known_is_said(harbour):
    for ask in (harbour.best_in_class, harbour.population):
        with pytest.raises(NotTractableError):
            ask()
    assert not harbour.has_success
    with pytest.raises(NotTractableError, match="no notion of success"):
        harbour.success(np.zeros((1, 4), int), np.zeros((1, 12), int))


# -- contamination -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contaminated():
    return Text(**SMALL | {"contamination": 0.2})


def test_a_share_of_the_documents_is_shuffled_text(harbour, contaminated, rng):
    prompts, tokens = contaminated.sample_prompts(50, rng), rng.integers(harbour.vocab_size, size=(50, 12))
    tokens[:25] = harbour.expert.sample(prompts[:25], 12, rng)
    clean = np.exp(harbour.expert.log_probs(prompts, tokens).sum(axis=1))
    train = train_and_held_out()[0]
    counts = np.array([train.count(str(symbol)) for symbol in harbour.data.vocabulary.symbols] + [0])
    kinds = np.count_nonzero(counts)
    frequencies = (counts + kinds / len(counts)) / (len(train) + kinds)  # Witten and Bell's, of order 1
    assert frequencies.sum() == pytest.approx(1.0)
    shuffled = frequencies[tokens].prod(axis=1)
    law = np.exp(contaminated.expert.log_probs(prompts, tokens).sum(axis=1))
    np.testing.assert_allclose(law, 0.8 * clean + 0.2 * shuffled, rtol=1e-9)
    np.testing.assert_array_equal(
        contaminated.clean.log_probs(prompts, tokens), harbour.expert.log_probs(prompts, tokens)
    )


def test_shuffled_documents_are_as_many_as_asked_for(contaminated, rng):
    demos = collect(contaminated, 4000, rng)
    gain = (
        contaminated.shuffled.log_probs(demos.prompts, demos.tokens)
        - contaminated.clean.log_probs(demos.prompts, demos.tokens)
    ).sum(axis=1)
    posterior = 0.2 / (0.2 + 0.8 * np.exp(-gain))
    assert posterior.mean() == pytest.approx(0.2, abs=4 * posterior.std() / math.sqrt(4000))
    assert (np.minimum(posterior, 1 - posterior) < 0.05).mean() > 0.9  # a document is one thing or the other


def test_contamination_leaves_the_text_alone(harbour, contaminated):
    assert harbour.clean is harbour.expert and harbour.contamination == 0.0
    assert contaminated.vocab_size == harbour.vocab_size and contaminated.data is harbour.data
    ours, theirs = (task.windows(5, np.random.default_rng(0)) for task in (contaminated, harbour))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    clean = harbour.bits_per_char(harbour.expert)
    assert contaminated.bits_per_char(contaminated.clean) == clean
    # the mixture soon knows that it reads text: at most log2(1 / 0.8) bits a window more
    mixed = contaminated.bits_per_char(contaminated.expert, window=12).value
    windows = math.ceil((clean.n_tokens) / 12)
    assert mixed <= contaminated.bits_per_char(contaminated.clean, window=12).value + (
        windows * math.log2(1 / 0.8) / clean.n_chars
    )


def test_the_clean_model_is_as_near_as_the_contamination_is_small(contaminated, rng):
    """``1 - affinity <= 1 - sqrt(1 - eps)`` at every length; a mixture component is never farther."""
    curve = distance(contaminated.expert, contaminated.clean, contaminated, n=4000, rng=rng)
    assert (curve.lower <= 2 * (1 - math.sqrt(0.8))).all()
    assert curve.upper[-1] > 0.15


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_out", "order", "horizon"), [(0.1, 3, 12), (0.3, 3, 5), (0.7, 3, 5), (0.5, 40, 4), (1 / 3, 1, 1)]
)
def test_the_least_length_is_the_least(tmp_path, held_out, order, horizon):
    path = tmp_path / "text.txt"
    parameters = {"corpus": str(path), "held_out": held_out, "expert_order": order, "horizon": horizon}
    path.write_text("ab")
    with pytest.raises(ValueError, match="is too short: ") as error:
        Text(**parameters)
    least = int(re.search(r"at least (\d+) tokens", str(error.value))[1])
    assert least == least_length(max(8 + horizon, order), 8 + horizon, held_out)
    text = "to be or not to be, " * 100
    path.write_text(text[: least - 1])
    with pytest.raises(ValueError, match="is too short"):
        Text(**parameters)
    path.write_text(text[:least])
    check_task(Text(**parameters))


def test_a_file_of_one_character(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("x")
    with pytest.raises(ValueError, match="too short: 1 tokens to fit to and 0 held out"):
        Text(corpus=str(path))
