"""Documents, one a line: where they begin and end, what the expert knows of that, and how they are scored."""

import math
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest

from ntp_envs import (
    Demonstrations,
    NGramClass,
    NGramPolicy,
    TokenEnv,
    TokenVectorEnv,
    UniformPolicy,
    collect,
    distance,
    make_task,
)
from ntp_envs.policies import MixturePolicy
from ntp_envs.testing import check_task
from ntp_envs.text import EndedPolicy, UnknownTokensWarning

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
    with pytest.raises(ValueError, match="end=3"):
        EndedPolicy(UniformPolicy(3), end=3)


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


def test_it_is_a_task_like_others(names, rng):
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
    env, envs = TokenEnv(names), TokenVectorEnv(3, names)
    assert names.end < envs.single_action_space.n and env.reset(seed=0)[0].shape == (6,)
    assert isinstance(real, Demonstrations) and real.source["parameters"]["records"] == "lines"


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
    for bad in ([1, 3], [0, 3, 3], []):
        with pytest.raises(ValueError, match="starts"):
            NGramPolicy.fit_documents(rows.ravel(), bad, 3, 3)
