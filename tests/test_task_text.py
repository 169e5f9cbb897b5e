"""Text: the corpus as a task, its expert, windows and measures; documents, one a line."""

import json
import math
import os
import pickle
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harbour import FILES, HARBOUR, SMALL, train_and_held_out

import ntp_envs.text.corpus as data_module
from agents import LogLossBC, NGramBC
from ntp_envs import (
    Demonstrations,
    MarkovClass,
    NGramClass,
    NGramPolicy,
    NotTractableError,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    collect,
    distance,
    ended_class,
    evaluate,
    make_task,
)
from ntp_envs.policies import MixturePolicy
from ntp_envs.tasks import Text
from ntp_envs.testing import check_task
from ntp_envs.text import BitsPerChar, EndedPolicy, UnknownTokensWarning, split_words
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


# -- bits a character --------------------------------------------------------------------------------------------------


def test_bits_are_those_of_reading_on(harbour):
    line = harbour.data.held_out.tokens
    total = -sum(harbour.expert.next_log_probs(line[None, :i], line[None, :0])[0, line[i]] for i in range(4, len(line)))
    for window in (None, 1, 7, 50, 10_000):
        score = harbour.bits_per_char(harbour.expert, window=window)
        assert score.value == pytest.approx(total / math.log(2) / (len(line) - 4), rel=1e-12)
        assert score.n_tokens == score.n_chars == len(line) - 4 and score.value == score.per_token == float(score)
    train = harbour.bits_per_char(harbour.expert, held_out=False)
    assert train.value < score.value and train.n_tokens == len(harbour.data.train) - 4
    assert score.perplexity == pytest.approx(2**score.value)
    assert score.interval[0] < score.value < score.interval[1]


def test_bits_of_known_policies(harbour):
    size = harbour.vocab_size
    uniform = harbour.bits_per_char(UniformPolicy(size))
    assert uniform.value == pytest.approx(math.log2(size)) and uniform.std_error == pytest.approx(0.0, abs=1e-12)
    short = UniformPolicy(size, horizon=5)
    assert harbour.bits_per_char(short).value == pytest.approx(uniform.value)
    sharp = LogLossBC().fit(harbour.windows(5, np.random.default_rng(0)), NGramClass(size, 4)).policy_
    score = harbour.bits_per_char(sharp)
    assert score.value == score.perplexity == math.inf and math.isnan(score.std_error)


def test_bits_a_character_of_words():
    task = Text(**SMALL | {"tokens": "word"})
    score = task.bits_per_char(UniformPolicy(task.vocab_size))
    train, held_out = train_and_held_out()
    words = split_words(held_out)[4:]
    assert score.per_token == pytest.approx(math.log2(task.vocab_size))
    assert score.value == pytest.approx(score.per_token * len(words) / len("".join(words)))
    assert score.unknown_share == pytest.approx(np.mean([w not in split_words(train) for w in words]))
    assert 0.1 < score.unknown_share < 0.9


def test_the_standard_error_covers(rng):
    """Tokens in runs of 20 alike, so that a naive error would be far too small."""
    hits = 0
    for _ in range(300):
        log_probs = -np.repeat(rng.exponential(size=320), 20)
        lengths = np.repeat(rng.integers(1, 4, size=320), 20)
        score = BitsPerChar.of(log_probs, lengths)
        hits += abs(score.value - 1 / (2 * math.log(2))) <= 1.96 * score.std_error
    assert 300 * 0.94 - 5 * math.sqrt(300 * 0.06) <= hits <= 300
    assert math.isnan(BitsPerChar.of(np.array([-1.0]), np.array([1])).std_error)
    exact = BitsPerChar.of(-math.log(2) * lengths, lengths)  # one bit a character, however long the tokens
    assert exact.value == pytest.approx(1.0) and exact.std_error == pytest.approx(0.0, abs=1e-12)


def conditional_entropy(text, order):
    """Bits a character that no model of this order can do without on the text itself."""
    pairs = Counter(text[i : i + order] for i in range(len(text) - order + 1))
    contexts = Counter(text[i : i + order - 1] for i in range(len(text) - order + 1))
    return sum(-c * math.log2(c / contexts[gram[:-1]]) for gram, c in pairs.items()) / sum(pairs.values())


@pytest.mark.slow
def test_orders_on_the_default_corpus():
    """Contents differ between versions of Python, so the bounds come from the text itself."""
    task = Text()
    train = task.decode(task.data.train.tokens)
    assert 40 <= task.vocab_size <= 96
    held_out, fitted = [], []
    for order in (1, 3, 5):
        model = Text(expert_order=order).expert
        held_out.append(task.bits_per_char(model).value)
        fitted.append(task.bits_per_char(model, held_out=False).value)
        floor = conditional_entropy(train, order)
        assert floor - 0.01 <= fitted[-1] <= floor + 0.1 * order, order
    assert held_out[1] < held_out[0] and fitted == sorted(fitted, reverse=True)
    assert 3.5 < held_out[0] < math.log2(task.vocab_size) and 1.0 < held_out[2] < 3.0


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_law_of_a_restricted_learner_drifts_faster(rng):
    task = Text(**SMALL | {"horizon": 24, "expert_order": 4})
    demos = collect(task, 3000, rng)
    curves = {}
    for order in (1, 3):
        learner = NGramBC().fit(demos, NGramClass(task.vocab_size, order)).policy_
        curves[order] = distance(task.expert, learner, task, n=4000, rng=rng)
        assert curves[order].method == "monte carlo (bridge)"
    poor, good = curves[1], curves[3]
    for h in (1, 4, 8):
        assert poor.lower[h - 1] > good.upper[h - 1]
    for h, later in ((1, 4), (4, 12), (12, 24)):
        assert good.upper[h - 1] < good.lower[later - 1]
    # both start below 2; the poor one is within a tenth of it before the good one is half way
    half = int(np.argmax(good.upper > 1.0))
    assert poor.lower[half] > 1.9


def test_the_expert_is_found_again_from_enough_of_its_own_text(rng):
    task = Text(**SMALL | {"expert_order": 2, "horizon": 6})
    gaps = []
    for n in (100, 10_000):
        learner = NGramBC().fit(collect(task, n, rng), task.policy_class).policy_
        gaps.append(distance(task.expert, learner, task, n=4000, rng=rng))
    assert gaps[1].upper[-1] < 0.1 < 0.3 < gaps[0].lower[-1]


def test_prompts_of_the_default_are_sampled_not_listed():
    task = Text()
    with pytest.raises(NotTractableError):
        task.prompt_law()
    learner = NGramBC().fit(task.windows(200, np.random.default_rng(0)), task.policy_class).policy_
    assert learner.order == 2
    curve = distance(task.expert, learner, task, n=200)
    assert curve.horizon == 64 and curve.values[0] < curve.values[-1]


# -- scripts of many characters ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """110 000 characters of the CJK block: frequencies by a law of Zipf, and half of the successors are usual ones."""
    rng = np.random.default_rng(0)
    frequencies = np.cumsum(1 / (np.arange(3500) + 20) ** 1.1)
    usual = np.searchsorted(frequencies, frequencies[-1] * rng.random((3500, 8)))
    free = np.searchsorted(frequencies, frequencies[-1] * rng.random(110_000))
    bound, which = rng.random(110_000) < 0.5, rng.integers(8, size=110_000)
    text = [0]
    for i in range(1, 110_000):
        text.append(usual[text[-1], which[i]] if bound[i] else free[i])
    path = tmp_path_factory.mktemp("zh") / "text.txt"
    path.write_text("".join(chr(0x4E00 + c) for c in text), encoding="utf-8")
    return str(path)


def unknown_by_hand(task):
    text = Path(task.corpus).read_text(encoding="utf-8")
    found = sorted(Counter(text[: len(task.data.train)]).items(), key=lambda item: (-item[1], item[0]))
    common = {symbol for symbol, _ in found[: task.vocab_size - 1]}
    return sum(symbol not in common for symbol in text) / len(text)


def test_the_default_vocabulary_fits_the_script(chinese, recwarn):
    task = Text(chinese)
    assert not recwarn.list
    assert 2500 < task.vocab_size <= 3501
    train = Path(chinese).read_text(encoding="utf-8")[: len(task.data.train)]
    counts = sorted(Counter(train).values())
    left = sum(counts[: len(counts) - task.vocab_size + 1])
    assert left <= 0.01 * len(train) < left + counts[len(counts) - task.vocab_size + 1]  # one less would be too few
    score = task.bits_per_char(task.expert)
    assert score.value > 7 and 0 < score.unknown_share < 0.05
    assert f"{100 * score.unknown_share:.2g} % unknown tokens" in str(score)


@pytest.mark.parametrize("max_vocab", [96, 1000])
def test_many_unknown_tokens_are_warned_of_with_the_share_and_the_knob(chinese, max_vocab):
    with pytest.warns(UnknownTokensWarning) as caught:
        task = Text(chinese, max_vocab=max_vocab)
    share = unknown_by_hand(task)
    assert task.data.unknown_share == pytest.approx(share) and share > 0.05
    message = str(caught[0].message)
    assert message.startswith(f"{100 * share:.1f} % of the tokens")
    roomy = int(re.search(r"Raise max_vocab: (\d+) leaves at most 1 %", message)[1])
    assert roomy == Text(chinese).vocab_size
    assert "% unknown tokens" in str(task.bits_per_char(task.expert))


def test_texts_in_few_characters_keep_96(recwarn):
    task = Text()
    assert task.vocab_size < 96 and not recwarn.list
    assert task.data.unknown_share < 1e-4


def test_an_evaluation_shows_the_share(chinese):
    with pytest.warns(UnknownTokensWarning):
        task = Text(chinese, max_vocab=96, horizon=8)
    demos = task.windows(200, np.random.default_rng(0), held_out=True)
    found = evaluate(task.expert, task, demonstrations=demos, rng=np.random.default_rng(0), samples=0)
    assert found.unknown_share == pytest.approx((demos.tokens == 95).mean())
    assert f"unknown tokens{found.unknown_share:>19.4g}" in found.table()
    plain = evaluate(UniformPolicy(2), make_task("Contamination", horizon=2), n=9, rng=np.random.default_rng(0))
    assert plain.unknown_share == 0 and "unknown" not in plain.table()


# -- documents, one a line ---------------------------------------------------------------------------------------------


NAMES = ["ada", "bob", "anna", "ed", "abba", "deb", "otto", "dan", "a", "nan", "bea", "tod", "noa", "ann", "ben", "dot"]
SIZES = {"horizon": 5, "prompt_length": 1, "expert_order": 3, "held_out": 0.25}


@pytest.fixture
def written(tmp_path):
    def write(lines, ending="\n"):
        path = tmp_path / "names.txt"
        path.write_text(ending.join(lines) + ending, encoding="utf-8", newline="")
        return str(path)

    return write


@pytest.fixture
def names(written):
    return make_task("Text", corpus=written(NAMES), records="lines", **SIZES)


def text_of(task, part):
    return [task.decode(part.tokens[a:]) for a in part.starts]


def model(documents, order, alphabet):
    """Witten and Bell's interpolated model by counting, with a symbol of its own before each document."""
    counts = defaultdict(Counter)
    for document in documents:
        line = "^" * (order - 1) + document
        for i in range(order - 1, len(line)):
            for k in range(order):
                counts[line[i - k : i]][line[i]] += 1

    def probability(context, symbol):
        if context is None:
            return 1 / alphabet
        shorter = probability(context[1:] if context else None, symbol)
        seen = counts[context]
        total, kinds = sum(seen.values()), len(seen)
        return (seen[symbol] + kinds * shorter) / (total + kinds) if total else shorter

    return lambda before, symbol: probability(("^" * (order - 1) + before)[len(before) :], symbol)


def test_every_line_that_is_not_blank_is_a_document(written):
    lines = ["  ada ", "", "BOB", "   ", "an na\t", "ed", "x y", "z"]
    for ending in ("\n", "\r\n", "\r"):
        path = written(lines, ending)
        task = make_task("Text", corpus=path, records="lines", horizon=4, prompt_length=1, held_out=0.34)
        assert text_of(task, task.data.train) == ["ada\n", "bob\n", "an na\n", "ed\n"]
        assert text_of(task, task.data.held_out) == [task.decode(task.encode("x y\n")), task.decode(task.encode("z\n"))]
        assert task.data.vocabulary.symbols[task.end] == "\n"
        assert task.data.train.document_lengths.tolist() == [3, 3, 5, 2]
    words = make_task("Text", corpus=path, records="lines", tokens="word", horizon=4, prompt_length=1, held_out=0.34)
    assert words.data.train.document_lengths.tolist() == [1, 1, 2, 1] and words.decode([words.end]) == "\n"
    data = make_task("Text", **words.parameters() | {"corpus": written(lines), "tokens": "byte"})
    assert data.data.vocabulary.symbols[data.end] == 10 and data.data.train.document_lengths.tolist() == [3, 3, 5, 2]


def test_the_end_has_a_token_however_small_the_vocabulary(written):
    with pytest.warns(UnknownTokensWarning, match="unknown"):
        task = make_task("Text", corpus=written(["aaaaabbbbb" * 9] * 9), records="lines", max_vocab=2, held_out=0.2)
    assert task.data.vocabulary.symbols == ("\n",) and task.end == 0 and task.vocab_size == 2


def test_only_whole_documents_are_read(written):
    options = {"records": "lines", "horizon": 4, "prompt_length": 1, "held_out": 0.5}
    path = written(["abcd", "efgh", "ijkl", "mnop"])
    for count, found in ((13, 2), (14, 3), (18, 3), (19, 4), (100, 4)):
        task = make_task("Text", corpus=path, max_chars=count, **options)
        assert len(task.data.train.starts) + len(task.data.held_out.starts) == found


def test_the_expert_is_the_model_of_whole_documents(names):
    train = text_of(names, names.data.train)
    alphabet, order = names.vocab_size, 3
    probability = model(train, order, alphabet)
    symbols = names.data.vocabulary.symbols
    for before in ("a", "an", "an", "zz", "do", "b"):
        law = np.exp(names.expert.next_log_probs(names.encode(before[:1])[None], names.encode(before[1:])[None]))[0]
        assert law[: len(symbols)] == pytest.approx([probability(before, symbol) for symbol in symbols], rel=1e-12)
    free = make_task("Text", **names.parameters() | {"prompt_length": 0})
    law = np.exp(free.expert.next_log_probs(np.empty((1, 0), int), np.empty((1, 0), int)))[0]
    assert law[: len(symbols)] == pytest.approx([probability("", symbol) for symbol in symbols], rel=1e-12)
    assert law.sum() == pytest.approx(1)


def test_a_document_that_has_ended_stays_ended(names):
    end = names.end
    prompts, tokens = names.encode("a")[None], np.array([[*names.encode("n"), end, end, end, end]])
    np.testing.assert_array_equal(names.expert.log_probs(prompts, tokens)[0, 2:], 0.0)
    went_on = tokens.copy()
    went_on[0, 3] = 1 - end if end < 2 else 0
    assert names.expert.log_probs(prompts, went_on)[0, 3] == -np.inf
    demos = collect(names, 2000, np.random.default_rng(0), expert_log_probs=True)
    ended = np.cumsum(demos.tokens == end, axis=1) > 0
    assert (demos.tokens[ended] == end).all() and 0.2 < ended[:, -1].mean() < 1
    forced = names.expert.forced_log_probs(demos.prompts, demos.tokens)
    taken = np.take_along_axis(forced, demos.tokens[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(taken, names.expert.log_probs(demos.prompts, demos.tokens), atol=1e-12)
    np.testing.assert_allclose(demos.expert_log_probs, taken, atol=1e-12)
    np.testing.assert_allclose(np.exp(forced).sum(axis=2), 1.0)


def test_the_law_of_sequences_sums_to_one():
    ended = EndedPolicy(UniformPolicy(3), end=2)
    rows = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
    total = np.exp(ended.log_probs(np.empty((81, 0), int), rows).sum(axis=1))
    assert total.sum() == pytest.approx(1)
    assert total[(rows == 2).all(axis=1)] == pytest.approx(1 / 3)
    np.testing.assert_array_equal(ended.log_probs(np.array([[2]]), np.array([[2, 2]])), 0.0)  # ended by the prompt


def test_prompts_and_windows_are_beginnings_of_documents(written):
    task = make_task("Text", corpus=written(NAMES), records="lines", **SIZES | {"prompt_length": 2})
    train = [name for name in NAMES[:12] if len(name) >= 2]
    prompts, probabilities = task.prompt_law()
    counts = Counter(name[:2] for name in train)
    assert {task.decode(p): q for p, q in zip(prompts, probabilities)} == {
        prompt: pytest.approx(count / len(train)) for prompt, count in counts.items()
    }
    assert {task.decode(p) for p in task.sample_prompts(500, np.random.default_rng(0))} == set(counts)
    demos = task.windows(500, np.random.default_rng(0))
    lines = {"".join(map(task.decode, pair)) for pair in zip(demos.prompts, demos.tokens)}
    assert lines == {f"{name}\n" for name in train}
    assert ((demos.tokens == task.end).sum(axis=1) >= 5 - 3 + 0).all()  # filled up
    held = task.windows(500, np.random.default_rng(0), held_out=True)
    assert {task.decode(p) for p in held.prompts} == {name[:2] for name in NAMES[12:]}
    cut = make_task("Text", **task.parameters() | {"horizon": 1})
    assert cut.windows(99, np.random.default_rng(0)).tokens.shape == (99, 1)


@pytest.mark.parametrize("window", [1, 2, 1000])
@pytest.mark.parametrize("prompt_length", [0, 1, 2])
def test_bits_count_every_token_of_a_document_once_its_end_included(written, prompt_length, window):
    sizes = SIZES | {"prompt_length": prompt_length, "expert_order": 2}
    task = make_task("Text", corpus=written(NAMES * 3), records="lines", **sizes)
    probability = model([f"{name}\n" for name in (NAMES * 3)[:36]], 2, task.vocab_size)
    total = count = 0
    for name in (NAMES * 3)[36:]:
        line = f"{name}\n"
        for i in range(prompt_length, len(line)):
            begun = max((i - prompt_length) // window * window, 0)  # a window sees P tokens before its first
            seen = line[begun:i]
            total -= math.log2(probability(seen, line[i]) if begun == 0 or seen else 1.0)
            count += 1
    found = task.bits_per_char(task.expert, window=window)
    assert found.n_chars == found.n_tokens == count
    if window == 1000 or prompt_length > 0:  # otherwise a window that begins inside a document looks like its beginning
        assert found.value == pytest.approx(total / count, rel=1e-12)


def test_what_is_filled_up_is_not_scored(names):
    class Forgetful(UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            law = np.log(np.full((len(tokens), self.vocab_size), 1 / (self.vocab_size - 1)))
            if tokens.shape[1] and (tokens == names.end).any():
                law[(tokens == names.end).any(axis=1)] = -np.inf  # nothing may follow an end
            return law

    found = names.bits_per_char(Forgetful(names.vocab_size))
    assert found.value == pytest.approx(math.log2(names.vocab_size - 1))


def test_it_is_a_task_like_others(names, rng, tmp_path):
    check_task(names)
    assert pickle.loads(pickle.dumps(names)) == names != make_task("Text", **names.parameters() | {"horizon": 4})
    real = names.windows(400, rng)
    learner = NGramPolicy.fit(real.prompts, real.tokens, names.vocab_size, 2)
    assert NGramClass(names.vocab_size, 2).vocab_size == names.vocab_size
    curve = distance(names.expert, learner, names, n=500, rng=rng)
    assert 0 < curve.final < 2
    assert distance(names.expert, names.expert, names, n=50, rng=rng).final == pytest.approx(0, abs=1e-12)
    shuffled = make_task("Text", **names.parameters() | {"contamination": 0.3})
    assert isinstance(shuffled.expert, MixturePolicy)
    demos = collect(shuffled, 300, rng)
    ended = np.cumsum(demos.tokens == names.end, axis=1) > 0
    assert (demos.tokens[ended] == names.end).all()
    assert demos.end_token == real.end_token == names.end_token == names.end and (demos.lengths < 5).any()
    env, envs = TokenEnv(names), TokenVectorEnv(3, names)
    assert names.end < envs.single_action_space.n and env.reset(seed=0)[0].shape == (6,)
    assert env.step(names.end)[2:4] == (True, False)  # terminated
    assert isinstance(real, Demonstrations) and real.source["parameters"]["records"] == "lines"
    again = Demonstrations.load(replace(real, end_token=None).save(tmp_path / "before"))  # as it was written once
    with pytest.raises(ValueError, match=r"end_token=None, the policy class.*say so by end_token="):
        NGramBC().fit(again, names.policy_class)
    for agent in (NGramBC(), LogLossBC()):
        one, two = (agent.fit(d, names.policy_class).policy_ for d in (real, replace(again, end_token=names.end)))
        np.testing.assert_array_equal(
            one.log_probs(real.prompts, real.tokens), two.log_probs(real.prompts, real.tokens)
        )


@pytest.mark.parametrize("order", [1, 3])
def test_an_n_gram_learner_counts_what_was_written(names, order):
    """Texts that fit into the horizon give the model of documents, whatever they are filled up with."""
    part, size = names.data.train, names.vocab_size
    tokens = part.lines(part.starts, 7, names.end)
    demos = Demonstrations(tokens[:, :0], tokens, size, end_token=names.end)
    learner = NGramBC().fit(demos, ended_class(NGramClass(size, order), names.end)).policy_
    law = NGramPolicy.fit_documents(part.tokens, part.starts, size, order)
    prefixes = np.random.default_rng(0).integers(1, size, size=(50, 3))
    assert names.end == 0
    np.testing.assert_allclose(
        learner.next_log_probs(prefixes[:, :0], prefixes), law.next_log_probs(prefixes[:, :0], prefixes), atol=1e-12
    )
    with pytest.raises(TypeError, match="NGramBC cannot fit EndedClass of MarkovClass; it takes NGramClass"):
        NGramBC().fit(demos, ended_class(MarkovClass(size, 1), names.end))


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (NAMES, {"records": "line"}, "Did you mean 'lines'"),
        (NAMES, {"prompt_length": 5}, "no document to fit to of at least prompt_length=5 .*longest of 12 has 4"),
        ([*NAMES, "x"], {"prompt_length": 2, "held_out": 0.06}, "no document held out of at least prompt_length=2"),
        (["one"], {}, "of its 1 documents"),
        (["", " "], {}, "of its 0 documents"),
    ],
)
def test_what_will_not_do_is_said(written, lines, options, message):
    with pytest.raises(ValueError, match=message):
        make_task("Text", corpus=written(lines), **{"records": "lines", **SIZES, **options})


def test_documents_of_one_length_are_the_sequences_of_fit(rng):
    rows = rng.integers(3, size=(20, 6))
    ours = NGramPolicy.fit_documents(rows.ravel(), np.arange(20) * 6, 3, 3)
    theirs = NGramPolicy.fit(rows[:, :0], rows, 3, 3)
    for a, b in zip(ours.levels, theirs.levels):
        np.testing.assert_array_equal(a.keys, b.keys)
        np.testing.assert_array_equal(a.own, b.own)
        np.testing.assert_array_equal(a.keep, b.keep)
