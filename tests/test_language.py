"""Language models of transformers as policies: every law is that of plain torch, whatever the cache and the batches."""
# ruff: noqa: E402

import itertools
from functools import cache

import numpy as np
import pytest
from distance_instances import PlainTask
from scipy.stats import binom, chisquare
from test_torch_state import STATES, snapshot

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from agents import Agent, FitReport
from agents.testing import Problem, check_policy
from ntp_envs import Demonstrations, FiniteClass, GreedyPolicy, MixturePolicy, Policy, distance, language
from ntp_envs.checked import checked_policy
from ntp_envs.distances import enumeration_distances
from ntp_envs.language import TransformersPolicy, load_model
from ntp_envs.text import EndedPolicy

A, H = 5, 5
TEXTS = np.array(list(itertools.product(range(A), repeat=H)))
PROMPTS = np.tile([[3, 1]], (len(TEXTS), 1))
BEGIN = 4
TASK = PlainTask(A, H, 2, tuple(np.eye(A * A)[3 * A + 1]))  # the prompt is (3, 1)
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def gpt2(seed=0, **options):
    """Places are learnt, and dropout is on in training."""
    config = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": A, **options}
    return randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)), seed)


def llama(seed=0, **options):
    """Places are turns."""
    config = transformers.LlamaConfig(max_position_embeddings=16, **{**SMALL, "vocab_size": A, **options})
    return randomised(transformers.LlamaForCausalLM(config), seed)


def mistral(seed=0):
    """It sees no more than the last three tokens, and neither does its cache."""
    config = transformers.MistralConfig(**SMALL, num_key_value_heads=1, vocab_size=A, sliding_window=3)
    return randomised(transformers.MistralForCausalLM(config), seed)


def randomised(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, 1.0 if weights.ndim == 1 else 0.0, 0.25, generator=generator)
    return model.eval()


MODELS = {"gpt2": gpt2, "llama": llama, "mistral": mistral}
made = cache(lambda name, seed=0: MODELS[name](seed))


@cache
def logits(name, seed=0):
    """``(5^5, 5, 5)`` of every text: one pass over whole sequences, without a cache."""
    ids = np.column_stack([np.full(len(TEXTS), BEGIN), PROMPTS, TEXTS])[:, :-1]
    with torch.no_grad():
        return made(name, seed)(torch.from_numpy(ids), use_cache=False).logits[:, -H:].double().numpy()


def by_hand(scores, temperature=1.0, top_k=A, top_p=1.0):
    """The law of one place, the most probable token first."""
    probs = np.exp(scores / temperature)
    order = np.argsort(-probs)[:top_k]
    share = probs[order] / probs[order].sum()
    order = order[: 1 + int((share.cumsum() < top_p - 1e-9).sum())]
    law = np.zeros(A)
    law[order] = probs[order] / probs[order].sum()
    return law


LAWS = {
    "plain": {},
    "cold": {"temperature": 0.7},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.8},
    "all three": {"temperature": 1.5, "top_k": 4, "top_p": 0.75},
}


def policy(name="gpt2", seed=0, **options):
    return TransformersPolicy(made(name, seed), **{"prompt_length": 2, "begin": BEGIN, "batch_size": 625, **options})


@cache
def enumerated(name, law, seed=0):
    """``(5^5, 5, 5)`` probabilities, and ``(5^5, 5)`` those of the tokens."""
    laws = np.array([[by_hand(place, **LAWS[law]) for place in text] for text in logits(name, seed)])
    return laws, np.take_along_axis(laws, TEXTS[:, :, None], axis=2)[:, :, 0]


def assert_same(log_probs, probs):
    """Within 1e-5 a token, and the impossible is impossible."""
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_probs, np.log(probs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", MODELS)
def test_every_text_has_the_probability_that_plain_torch_gives_it(name, law):
    laws, probs = enumerated(name, law)
    found = policy(name, **LAWS[law])
    log_probs = found.log_probs(PROMPTS, TEXTS)
    assert_same(log_probs, probs)
    assert np.exp(log_probs.sum(axis=1)).sum() == pytest.approx(1, abs=1e-12)  # whatever the model rounds
    assert_same(found.forced_log_probs(PROMPTS[:625], TEXTS[:625]), laws[:625])
    for h in (0, 3):
        assert_same(found.next_log_probs(PROMPTS[::7], TEXTS[::7, :h]), laws[::7, h])


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("held", [1, 2 * 32 * A, 2**23])
def test_batches_and_blocks_of_places_make_no_difference(batch_size, held, monkeypatch):
    monkeypatch.setattr(language, "LOGITS", held)
    rows = np.arange(0, len(TEXTS), 50)
    found = policy("llama", top_k=3, batch_size=batch_size)
    laws, probs = enumerated("llama", "top-k")
    assert_same(found.log_probs(PROMPTS[rows], TEXTS[rows]), probs[rows])
    assert_same(found.forced_log_probs(PROMPTS[rows], TEXTS[rows]), laws[rows])


def test_places_are_scored_a_few_at_a_time(monkeypatch):
    """Of 63 rows, 5 places and 5 tokens no more than asked for are logits at once, and each place is read once."""
    found, seen = policy(batch_size=32), []
    monkeypatch.setattr(language, "LOGITS", 2 * 32 * A)
    hook = found.model.register_forward_hook(lambda module, inputs, found: seen.append(tuple(found.logits.shape)))
    try:
        found.log_probs(PROMPTS[::50], TEXTS[::50])
    finally:
        hook.remove()
    assert seen == [(32, 2, A), (32, 2, A), (32, 1, A), (31, 2, A), (31, 2, A), (31, 1, A)]


@pytest.mark.parametrize("law", LAWS)
def test_samples_have_the_law(law, rng):
    found, n = policy(**LAWS[law]), 20_000
    tokens, log_probs = found.sample_with_log_probs(np.tile([[3, 1]], (n, 1)), 3, rng)
    assert_same(log_probs, np.exp(found.log_probs(np.tile([[3, 1]], (n, 1)), tokens)))
    probs = enumerated("gpt2", law)[1][:: A * A, :3].prod(axis=1)  # of the 125 beginnings
    counts = np.bincount(tokens @ [A * A, A, 1], minlength=A**3)
    assert counts[probs == 0].sum() == 0
    many = probs * n >= 5
    assert many.sum() >= 8 and probs[~many].sum() < 0.01
    assert chisquare(counts[many], probs[many] * counts[many].sum() / probs[many].sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_those_of_the_contract_whatever_the_batches(name):
    prompts = PROMPTS[:70]
    drawn = [policy(name, batch_size=size).sample(prompts, H, np.random.default_rng(0)) for size in (1, 32)]
    usual = Policy.sample(policy(name), prompts, H, np.random.default_rng(0))  # in numpy, by the cursor
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], usual)


@pytest.mark.parametrize("name", MODELS)
def test_a_cursor_branches_without_forgetting(name):
    found, laws = policy(name), enumerated(name, "plain")[0]
    root = found.cursor(PROMPTS[:1])
    first = root.branch(np.zeros(A, dtype=int), np.arange(A))
    for _ in range(2):  # branches do not change what they leave
        second = first.branch(np.repeat(np.arange(A), A), np.tile(np.arange(A), A))
        assert_same(second.log_probs(), laws[:: A**3, 2])
        assert_same(first.log_probs(), laws[:: A**4, 1])
    assert second.step == 2
    third = second.advance(np.arange(A * A) % A).advance(np.zeros(A * A, dtype=int))
    assert third.step == 4
    assert_same(third.log_probs(), laws[np.arange(A * A) * A**3 + (np.arange(A * A) % A) * A * A, 4])
    np.testing.assert_array_equal(root.log_probs(), root.log_probs())


@pytest.mark.parametrize("law", ["plain", "all three"])
@pytest.mark.parametrize("name", MODELS)
def test_no_sequences_are_no_trouble(name, law):
    found = policy(name, **LAWS[law])
    reader = found.cursor(PROMPTS[:0])
    assert reader.log_probs().shape == (0, A)
    none = np.empty(0, dtype=int)
    readers = [reader, reader.branch(none, none), found.cursor(PROMPTS[:2]).branch(none, none)]
    for each in (*readers, readers[1].branch(none, none), readers[2].branch(none, none)):
        assert each.advance(none).log_probs().shape == (0, A)
    assert found.log_probs(PROMPTS[:0], TEXTS[:0]).shape == found.sample(PROMPTS[:0], H, rng_of(0)).shape == (0, H)
    assert found.forced_log_probs(PROMPTS[:0], TEXTS[:0]).shape == (0, H, A)
    assert found.next_log_probs(PROMPTS[:0], TEXTS[:0, :2]).shape == (0, A)


def rng_of(seed):
    return np.random.default_rng(seed)


def test_what_is_made_of_it_reads_as_few_sequences_together(monkeypatch):
    """Greedy decoding, texts that end, mixtures: by cursors of a batch, with the results of one of everything."""
    inside, other = policy(batch_size=4), policy(seed=1, batch_size=3)
    foreign = Foreign(inside.model, prompt_length=2, begin=BEGIN, batch_size=4)
    made_of = [
        (GreedyPolicy(inside), GreedyPolicy(policy()), 4),
        (EndedPolicy(inside, 0), EndedPolicy(policy(), 0), 4),
        (MixturePolicy([inside, other], [0.3, 0.7]), MixturePolicy([policy(), policy(seed=1)], [0.3, 0.7]), 3),
        (EndedPolicy(foreign, 0), EndedPolicy(policy(), 0), 4),
    ]
    prompts, texts, seen = PROMPTS[:10], TEXTS[::300][:10], []
    cursor = TransformersPolicy.cursor
    monkeypatch.setattr(TransformersPolicy, "cursor", lambda self, rows: seen.append(len(rows)) or cursor(self, rows))
    for few, whole, most in made_of:
        asked = [checked_policy("it", few), whole]
        drawn = [each.sample(prompts, H, rng_of(0)) for each in asked]
        np.testing.assert_array_equal(*drawn)
        for method in ("log_probs", "forced_log_probs", "next_log_probs"):
            seen.clear()
            one = getattr(asked[0], method)(prompts, texts)
            assert max(seen) <= most, method
            assert_same(one, np.exp(getattr(asked[1], method)(prompts, texts)))


# -- ties --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "kept"), [({"top_k": 2}, 2), ({"top_p": 0.4}, 2), ({"top_p": 0.41}, 3), ({"top_k": 4, "top_p": 0.5}, 2)]
)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_of_equal_tokens_the_lower_ids_are_kept(law, kept, batch_size):
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    found = TransformersPolicy(model, prompt_length=2, batch_size=batch_size, **law)
    expected = np.where(np.arange(A) < kept, 1 / kept, 0)
    assert_same(found.forced_log_probs(PROMPTS[:40], TEXTS[:40]), np.tile(expected, (40, H, 1)))


@pytest.mark.parametrize("cut", [{"count": 3}, {"mass": 0.7}])
def test_rounding_decides_no_tie(cut, rng):
    """Three tokens tie at the edge, up to what float32 rounds; two are sure, and one of the three has place."""
    probs = np.array([0.14, 0.3, 0.14, 0.28, 0.14])
    law = torch.from_numpy(np.log(probs) + 3e-6 * rng.uniform(-1, 1, (500, 5)))
    kept = language._cut(law, **cut).isfinite().numpy()
    assert (kept == [True, True, False, True, False]).all()


# -- prompts of different lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [None, BEGIN, [2, BEGIN]])
@pytest.mark.parametrize("name", MODELS)
def test_filled_up_prompts_have_the_law_of_the_short_ones(name, begin, rng):
    lengths = np.arange(40) % 3 + 1
    prompts, tokens = rng.integers(1, A, size=(40, 4)), rng.integers(A, size=(40, H))
    for row, length in enumerate(lengths):
        prompts[row, : 4 - length] = 0
    prompts[30:, 3] = 0  # after another token the same id is a token
    prompts[30:, 2] = 1
    lengths[30:] = np.maximum(lengths[30:], 2)
    filled = policy(name, prompt_length=4, pad=0, begin=begin, batch_size=7)
    drawn = filled.sample(prompts, H, np.random.default_rng(3))
    levels = np.random.default_rng(3).random((H, 40))
    for length in (1, 2, 3):
        rows = np.flatnonzero(lengths == length)
        short = policy(name, prompt_length=length, begin=begin)
        own = prompts[rows, 4 - length :]
        assert_same(filled.log_probs(prompts, tokens)[rows], np.exp(short.log_probs(own, tokens[rows])))
        assert_same(filled.next_log_probs(prompts, tokens)[rows], np.exp(short.next_log_probs(own, tokens[rows])))
        laws = np.exp(short.forced_log_probs(own, drawn[rows])).cumsum(axis=2)
        np.testing.assert_array_equal(drawn[rows], (laws <= levels.T[rows][:, :, None]).sum(axis=2))


def test_a_prompt_may_be_empty_where_there_is_a_beginning():
    filled, without = policy(pad=0), policy(prompt_length=0)
    np.testing.assert_allclose(
        filled.log_probs(np.zeros_like(PROMPTS[:9]), TEXTS[:9]),
        without.log_probs(PROMPTS[:9, :0], TEXTS[:9]),
        atol=1e-5,
    )


# -- the model of the reader's -----------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was():
    model = gpt2(attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).train()
    model.transformer.h[0].eval()  # a part that is frozen
    model.transformer.wte.weight.requires_grad_(False)

    def seen():
        weights = [
            (name, w.dtype, w.requires_grad, w.numpy(force=True).tobytes()) for name, w in model.named_parameters()
        ]
        return weights, [module.training for module in model.modules()], str(model.config)

    before, found = seen(), TransformersPolicy(model, prompt_length=2, begin=BEGIN)
    assert_same(found.log_probs(PROMPTS[:50], TEXTS[:50]), enumerated("gpt2", "plain")[1][:50])  # dropout is off
    found.sample(PROMPTS[:4], H, np.random.default_rng(0))
    with pytest.raises(ValueError, match="not a number"):
        refuse_nan(found)
    assert seen() == before


def refuse_nan(found):
    hook = found.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits * float("nan"))
    try:
        found.log_probs(PROMPTS[:4], TEXTS[:4])
    finally:
        hook.remove()


def evaluated(found):
    prompts, texts = PROMPTS[:20], TEXTS[:20]
    tokens, log_probs = found.sample_with_log_probs(prompts, H, np.random.default_rng(0))
    step = found.cursor(prompts[:2]).branch(np.array([1, 0]), np.array([2, 3])).log_probs()
    return tokens, found.log_probs(prompts, texts), found.next_log_probs(prompts, texts[:, :2]), log_probs, step


@pytest.mark.parametrize("state", STATES)
def test_the_callers_settings_are_neither_read_nor_changed(state):
    found = policy("llama", top_k=3, top_p=0.9, batch_size=8)
    usual = evaluated(found)
    with STATES[state]():
        before = snapshot()
        for one, other in zip(evaluated(found), usual, strict=True):  # another number of threads divides sums otherwise
            np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-5 if state == "threads" else 0.0)
        assert snapshot() == before


def test_it_computes_in_the_precision_of_the_model():
    half, full = llama().to(torch.bfloat16), llama().double()
    one, two = (TransformersPolicy(model, prompt_length=2, begin=BEGIN) for model in (half, full))
    log_probs = one.log_probs(PROMPTS[:50], TEXTS[:50])
    assert log_probs.dtype == np.float64 and half.dtype == torch.bfloat16 and full.dtype == torch.float64
    error = np.abs(log_probs - two.log_probs(PROMPTS[:50], TEXTS[:50])).max()
    assert 1e-4 < error < 0.2
    np.testing.assert_allclose(np.exp(one.next_log_probs(PROMPTS[:9], TEXTS[:9])).sum(axis=1), 1, rtol=1e-12)
    tokens, own = one.sample_with_log_probs(PROMPTS[:50], H, np.random.default_rng(0))
    np.testing.assert_array_equal(own, one.log_probs(PROMPTS[:50], tokens))  # scored as another policy scores


def test_a_smaller_vocabulary():
    found, scores = policy(vocab_size=3), logits("gpt2")[:, :, :3]
    inside = (TEXTS < 3).all(axis=1)
    probs = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    assert found.sample(np.ones((200, 2), int), 3, np.random.default_rng(0)).max() == 2
    # the prompt holds an id that is no token here, so it is put into ``begin``
    found = policy(vocab_size=3, begin=[BEGIN, 3, 1], prompt_length=0)
    assert_same(found.forced_log_probs(PROMPTS[inside, :0], TEXTS[inside]), probs[inside])


def test_what_decodes_is_shown():
    assert repr(policy()) == "TransformersPolicy(GPT2LMHeadModel, vocab_size=5, begin=[4])"
    shown = repr(policy("llama", begin=None, temperature=0.9, top_k=3, top_p=0.5, pad=0))
    assert shown == "TransformersPolicy(LlamaForCausalLM, vocab_size=5, temperature=0.9, top_k=3, top_p=0.5, pad=0)"


# -- wherever a policy stands ------------------------------------------------------------------------------------------


class Given(Agent):
    """Whatever the data, a policy."""

    supports = (object,)

    def __init__(self, policy):
        self.policy = policy

    def _fit(self, demonstrations, policy_class, rng):
        return self.policy, FitReport(0.0, 0.0)


class Foreign(TransformersPolicy):
    """Of another package, so that everything it says is checked."""


@pytest.mark.parametrize("kind", [TransformersPolicy, Foreign])
def test_it_keeps_the_contract(kind, rng):
    found = kind(policy().model, prompt_length=2, begin=BEGIN, top_k=4)
    demos = Demonstrations(PROMPTS[:30], found.sample(PROMPTS[:30], H, rng), A)
    check_policy(Given(found), Problem("texts", FiniteClass([found]), demos), 1e-4)
    curve = distance(found, policy(), TASK, n=200, method="monte carlo", rng=rng)
    exactly = distance(found, policy(), TASK, method="enumeration").final
    assert exactly > 0.01 and curve.lower[-1] < exactly < curve.upper[-1]


def exact():
    """D_H^2 at every length between a model and another, by all texts."""
    one, two = (enumerated("gpt2", "plain", seed)[1].cumprod(axis=1) for seed in (0, 1))
    gaps = (np.sqrt(one) - np.sqrt(two)) ** 2
    return [gaps[:: A ** (H - h - 1), h].sum() for h in range(H)]


def test_distances_by_the_tree_of_prefixes():
    curve = enumeration_distances(policy(), policy(seed=1), TASK)["hellinger2"]
    np.testing.assert_allclose(curve.values, exact(), atol=1e-6)
    assert curve.final > 0.5


def covered(seeds, n=100):
    """How often the interval of each length holds the distance."""
    pair, truth = (policy(), policy(seed=1)), exact()
    curves = [distance(*pair, TASK, n=n, method="monte carlo", rng=np.random.default_rng([5, s])) for s in range(seeds)]
    return np.sum([(curve.lower <= truth) & (truth <= curve.upper) for curve in curves], axis=0)


def test_intervals_of_the_bridge_hold_the_distance():
    assert (covered(12) >= binom.ppf(1e-4, 12, 0.95)).all()


@pytest.mark.slow
def test_intervals_of_the_bridge_cover_at_the_stated_rate():
    assert (covered(200, n=400) >= binom.ppf(1e-4, 200, 0.95)).all()


def test_what_is_known_from_sampling_is_not_scored_again(monkeypatch, rng):
    counts = {}
    score = TransformersPolicy.log_probs

    def counted(self, prompts, tokens):
        counts[self] = counts.get(self, 0) + len(tokens)
        return score(self, prompts, tokens)

    monkeypatch.setattr(TransformersPolicy, "log_probs", counted)
    one, two = policy(), policy(temperature=0.9)
    distance(one, two, TASK, n=100, method="monte carlo", rng=rng)
    assert counts == {one: 50, two: 50}
    assert distance(one, one, TASK, n=100, method="monte carlo", rng=rng).values.tolist() == [0.0] * H


def test_a_large_vocabulary_is_not_enumerated():
    """By default as well: no pass reads more than a batch."""
    model, rows = gpt2(vocab_size=40_000, n_embd=4), []
    model.register_forward_hook(lambda module, inputs, found: rows.append(found.logits.shape[0]))
    one, two = (TransformersPolicy(model, prompt_length=0, begin=0, temperature=t) for t in (1.0, 0.5))
    assert distance(one, two, PlainTask(40_000, 3), n=80).method == "monte carlo (bridge)"
    assert max(rows) == 32


def test_greedy_and_ended():
    scores = logits("gpt2")
    greedy = GreedyPolicy(policy()).sample(PROMPTS[:3], H, np.random.default_rng(0))
    code = int(greedy[0] @ A ** np.arange(H - 1, -1, -1))
    assert (greedy == scores[code].argmax(axis=1)).all()
    ended = EndedPolicy(policy(), end=0)
    stopped = np.logical_or.accumulate(TEXTS == 0, axis=1)
    before = np.column_stack([np.zeros(len(TEXTS), bool), stopped[:, :-1]])
    probs = np.where(before, TEXTS == 0, enumerated("gpt2", "plain")[1])
    assert_same(ended.log_probs(PROMPTS, TEXTS), probs)


# -- models from files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with a model and a tokenizer of five words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate("abcd")} | {"<s>": 4}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(folder)
    made("llama").to(torch.bfloat16).save_pretrained(folder)
    made("llama").float()
    return folder


def test_a_directory_is_read(saved):
    model, tokenizer = load_model(saved)
    assert model.dtype == torch.float32 and not model.training
    assert load_model(str(saved), dtype="auto")[0].dtype == torch.bfloat16
    moved = load_model(saved.parent, subfolder=saved.name)[1]  # the tokenizer is sought there too
    assert moved.get_vocab() == tokenizer.get_vocab()
    prompts = np.array([tokenizer("d b").input_ids])
    found = TransformersPolicy(model, prompt_length=2, begin=tokenizer.bos_token_id)
    assert tokenizer.decode(found.sample(prompts, 3, np.random.default_rng(0))[0])
