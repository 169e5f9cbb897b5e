"""Text: bits a character, and distances to its expert."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from harbour import SMALL, train_and_held_out

from agents import LogLossBC, NGramBC
from ntp_envs import (
    BernoulliPolicy,
    NGramClass,
    NotTractableError,
    UniformPolicy,
    collect,
    distance,
    evaluate,
    make_task,
)
from ntp_envs.tasks import Text
from ntp_envs.text import BitsPerChar, UnknownTokensWarning, split_words


@pytest.fixture(scope="module")
def harbour():
    return Text(**SMALL)


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
    for bad, error, message in (
        ("expert", TypeError, "must be an ntp_envs.Policy"),
        (BernoulliPolicy(0.5), ValueError, "vocab_size=2 and the task"),
    ):
        with pytest.raises(error, match=message):
            harbour.bits_per_char(bad)
    with pytest.raises(ValueError, match="window=6"):
        harbour.bits_per_char(short, window=6)
    with pytest.raises(ValueError, match="window=0"):
        harbour.bits_per_char(short, window=0)
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


def test_orders_on_the_default_corpus():
    """Contents differ between versions of Python, so the bounds come from the text itself."""
    task = Text()
    train = task.decode(task.data.train.tokens)
    assert 40 <= task.vocab_size <= 96
    held_out, fitted = [], []
    for order in range(1, 6):
        model = Text(expert_order=order).expert
        held_out.append(task.bits_per_char(model).value)
        fitted.append(task.bits_per_char(model, held_out=False).value)
        floor = conditional_entropy(train, order)
        assert floor - 0.01 <= fitted[-1] <= floor + 0.1 * order, order
    assert held_out[:4] == sorted(held_out[:4], reverse=True) and fitted == sorted(fitted, reverse=True)
    assert 3.5 < held_out[0] < math.log2(task.vocab_size) and 1.0 < held_out[4] < 3.0


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
