"""The Policy contract: what the base class derives agrees with the law itself, for every general policy."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import (
    ARLinearClass,
    BernoulliMixturePolicy,
    BernoulliPolicy,
    CallablePolicy,
    DecodedPolicy,
    GreedyPolicy,
    MarkovPolicy,
    MixturePolicy,
    NGramPolicy,
    ProductClass,
    RestartedPolicy,
    TableAutomaton,
    TabularPolicy,
    TargetPolicy,
    UniformPolicy,
)
from ntp_envs.arrays import prefix_codes, sample_categorical, squared_sqrt_gap
from ntp_envs.features import WindowOneHot
from ntp_envs.policy_classes import ErrorSetClass, PositionalLinearClass, ProductPolicy
from ntp_envs.tasks import CopyPolicy
from ntp_envs.text import EndedPolicy

H = 4
SETTINGS = examples(25)


def fair(prompts, tokens):
    return np.full((len(tokens), 2), np.log(0.5))


def doubled(prompts):
    return np.column_stack([prompts, prompts])


def positional(vocab_size, prompt_length, rng):
    shapes = [(prompt_length + h, vocab_size, vocab_size) for h in range(H)]
    members = PositionalLinearClass(vocab_size, prompt_length, H)
    return members.policy([(rng.normal(size=shape), rng.normal(size=vocab_size)) for shape in shapes])


def build(name, rng):
    """One policy of each kind: vocabulary, prompt length, policy; of no name, all of them."""
    chain = rng.dirichlet(np.ones(2), size=9)
    automaton = TableAutomaton(
        rng.dirichlet(np.ones(3), size=(H, 5)),
        rng.integers(5, size=(H, 5, 3)),
        rng.integers(5, size=9),
        prompt_length=2,
    )
    cases = {
        "uniform": (3, 1, UniformPolicy(3)),
        "tabular": (3, 1, TabularPolicy.random(3, H, rng, prompt_length=1)),
        "callable": (2, 0, CallablePolicy(fair, 2)),
        "automaton": (3, 2, automaton),
        "bernoulli": (2, 0, BernoulliPolicy(0.3)),
        "flips": (2, 1, BernoulliPolicy(0.3, on="flips")),
        "bernoulli mixture": (2, 0, BernoulliMixturePolicy([0.1, 0.8], [0.4, 0.6], horizon=H)),
        "flip mixture": (2, 1, BernoulliMixturePolicy([0.0, 0.8, 1.0], [0.4, 0.5, 0.1], horizon=H, on="flips")),
        "markov": (2, 3, MarkovPolicy(chain, order=2)),
        "mixture": (2, 1, MixturePolicy([BernoulliPolicy(0.1), BernoulliPolicy(1.0, on="flips")], [0.5, 0.5])),
        "restarted": (2, 1, RestartedPolicy(BernoulliMixturePolicy([0.1, 0.8], [0.4, 0.6], horizon=H, on="flips"), 3)),
        "product": (
            2,
            1,
            ProductClass([[BernoulliPolicy(0.1 * h), UniformPolicy(2)] for h in range(H)]).policy([0, 1, 0, 0]),
        ),
        "greedy": (3, 1, GreedyPolicy(TabularPolicy.random(3, H, rng, prompt_length=1))),
        "target": (3, 2, TargetPolicy(doubled, 3, horizon=H, prompt_length=2)),
        "copier": (2, 4, CopyPolicy(2, 4, 0.2)),
        "sure copier": (2, 4, CopyPolicy(2, 4, 0.0)),
        "n-gram": (3, 1, NGramPolicy.fit_text(rng.choice(3, size=80, p=[0.6, 0.3, 0.1]), 3, order=4)),
        "positional": (3, 2, positional(3, 2, rng)),
        "positional, no prompt": (3, 0, positional(3, 0, rng)),
        "error sets": (2, 2, ErrorSetClass([[0, 3], [1], [2, 0], [3]], prompt_length=2).policy([1, 0, 0, 0])),
        "window": (3, 1, ARLinearClass(WindowOneHot(3, 2), 9.0).policy(0.9 * rng.normal(size=(21)))),
        "ended": (3, 1, EndedPolicy(UniformPolicy(3), end=2)),
        "decoded": (3, 1, DecodedPolicy(TabularPolicy.random(3, H, rng, prompt_length=1), temperature=0.7, top_p=0.8)),
    }
    return cases if name is None else cases[name]


NAMES = sorted(build(None, np.random.default_rng(0)))


@pytest.fixture(params=NAMES)
def case(request, rng):
    return build(request.param, rng)


def everything(vocab, prompt_length):
    """All prompts x all sequences of H tokens."""
    rows = np.array(list(itertools.product(range(vocab), repeat=prompt_length + H)))
    return rows[:, :prompt_length], rows[:, prompt_length:]


def test_log_probs_are_the_next_token_laws_and_sum_to_one(case):
    vocab, length, policy = case
    prompts, tokens = everything(vocab, length)
    out = policy.log_probs(prompts, tokens)
    assert out.shape == tokens.shape and out.dtype == np.float64
    total = np.exp(out.sum(axis=1)).reshape(vocab**length, -1).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    np.testing.assert_array_equal(policy.log_probs(prompts.astype(np.uint8), tokens.astype(np.int8)), out)
    back = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(back.log_probs(prompts, tokens), out)
    forced = policy.forced_log_probs(prompts, tokens)
    for h in range(H):
        step = policy.next_log_probs(prompts, tokens[:, :h])
        assert step.shape == (len(tokens), vocab)
        np.testing.assert_allclose(forced[:, h], step, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(np.exp(step).sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(out[:, h], step[np.arange(len(tokens)), tokens[:, h]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["log_probs", "forced_log_probs", "next_log_probs", "each_forced_law"])
@pytest.mark.parametrize("past_the_end", [False, True], ids=["minus one", "A"])
def test_what_is_no_token_is_refused_and_not_read_as_another(case, method, past_the_end):
    """-1, which padding often is, would be the last token, or the last line of a table."""
    vocab, length, policy = case

    def ask(prompts, tokens):
        return list(getattr(policy, method)(prompts, tokens))

    right, fine, wrong = np.zeros((3, length), int), np.zeros((3, H - 1), int), np.zeros((3, H - 1), int)
    wrong[1, 2] = vocab if past_the_end else -1
    with pytest.raises(ValueError, match=rf"tokens\[1, 2\]={wrong[1, 2]} is outside the vocabulary \[0, {vocab - 1}\]"):
        ask(right, wrong)
    with pytest.raises(ValueError, match="3 prompts for 2 token sequences"):
        ask(right, fine[:2])
    with pytest.raises(ValueError, match=r"tokens has shape \(3,\)"):
        ask(right, fine[0])
    if length:
        with pytest.raises(ValueError, match=r"prompts\[2, 0\]=.* is outside the vocabulary"):
            ask(right - (np.arange(3) == 2)[:, None], fine)
    if policy.whole_prompts:
        with pytest.raises(ValueError, match=rf"prompts has shape \(3, {length + 1}\); {length} columns are needed"):
            ask(np.zeros((3, length + 1), int), fine)


@pytest.mark.parametrize(
    "around",
    [lambda p: ProductPolicy([p] * H), lambda p: EndedPolicy(p, 1), lambda p: MixturePolicy([p, p], [0.5, 0.5])],
)
def test_a_policy_of_policies_refuses_the_prompts_that_they_refuse(around, rng):
    inner, wrong = TabularPolicy.random(2, H, rng, prompt_length=2), np.zeros((3, 3), int)
    policy = around(inner)
    for ask in (policy.next_log_probs, policy.log_probs):
        with pytest.raises(ValueError, match=r"prompts has shape \(3, 3\); 2 columns are needed"):
            ask(wrong, np.zeros((3, 1), int))
    with pytest.raises(ValueError, match=r"prompts has shape \(3, 3\); 2 columns are needed"):
        policy.sample(wrong, H, rng)


def test_prompts_that_are_none_are_refused_before_anything_is_drawn(case, rng):
    vocab, length, policy = case
    if not length:
        pytest.skip("it has no prompts")
    wrong = np.zeros((3, length), int)
    for wrong[2, 0] in (-1, vocab):
        for ask in (policy.cursor, lambda prompts: policy.sample(prompts, H, rng)):
            with pytest.raises(ValueError, match=rf"prompts\[2, 0\]={wrong[2, 0]} is outside the vocabulary"):
                ask(wrong)


def test_a_law_that_a_subclass_writes_is_the_one_that_is_read():
    """Loops ask without looking at tokens, but not the base's law."""

    class Ones(UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            return np.log(np.tile([0.25, 0.75], (len(tokens), 1)))

    prompts, tokens = np.zeros((2, 0), int), np.ones((2, 3), int)
    np.testing.assert_allclose(np.exp(Ones(2).log_probs(prompts, tokens)), 0.75)
    layered = ProductClass([[Ones(2)]] * 3).policy([0, 0, 0])
    np.testing.assert_allclose(np.exp(layered.log_probs(prompts, tokens)), 0.75)


def test_samples_follow_the_law_and_the_seed(case):
    vocab, length, policy = case
    n = 4000
    prompts = np.zeros((n, length), dtype=np.int64)
    tokens, again = (policy.sample(prompts, H, np.random.default_rng(20250218)) for _ in range(2))
    np.testing.assert_array_equal(tokens, again)
    assert tokens.shape == (n, H) and tokens.dtype == np.int64
    all_prompts, all_tokens = everything(vocab, length)
    law = np.exp(policy.log_probs(all_prompts, all_tokens).sum(axis=1))[: vocab**H]
    seen = np.bincount(prefix_codes(tokens, vocab), minlength=vocab**H)
    assert seen[law == 0].sum() == 0
    spread = np.sqrt(n * law * (1 - law))
    assert (np.abs(seen - n * law) <= 5 * spread + 1e-9).all()


def test_branching_a_cursor_equals_reading_from_the_start(case, rng):
    vocab, length, policy = case
    prompts = rng.integers(vocab, size=(5, length))
    reader, rows = policy.cursor(prompts), np.arange(5)
    tokens = np.empty((5, 0), dtype=np.int64)
    for _ in range(H - 1):
        pick, column = rng.integers(len(rows), size=6), rng.integers(vocab, size=6)
        reader, rows = reader.branch(pick, column), rows[pick]
        tokens = np.column_stack([tokens[pick], column])
        np.testing.assert_allclose(
            reader.log_probs(), policy.next_log_probs(prompts[rows], tokens), rtol=1e-12, atol=1e-12
        )
    assert reader.step == H - 1


def test_predict_reads_observations_of_any_length(case, rng):
    vocab, length, policy = case
    policy.prompt_length = length
    prompts, tokens = np.zeros((3, length), dtype=np.int64), policy.sample(np.zeros((3, length), int), H, rng)
    observation = np.column_stack([prompts, tokens]).astype(np.uint8)
    observation[0, length + 1 :] = vocab
    observation[1, length + 3 :] = vocab
    actions, state = policy.predict(observation, deterministic=True)
    assert state is None and actions.shape == (3,)
    assert actions[0] == policy.next_log_probs(prompts[:1], tokens[:1, :1]).argmax()
    assert actions[1] == policy.next_log_probs(prompts[1:2], tokens[1:2, :3]).argmax()
    assert actions[2] == 0
    single, _ = policy.predict({"prompt": prompts[0], "tokens": observation[0, length:]}, deterministic=True)
    assert np.ndim(single) == 0 and single == actions[0]


@given(st.integers(0, 2**32 - 1))
@SETTINGS
def test_a_mixture_is_the_average_of_whole_sequence_laws(seed):
    rng = np.random.default_rng(seed)
    parts, weights = [TabularPolicy.random(2, H, rng) for _ in range(3)], rng.dirichlet(np.ones(3))
    prompts, tokens = everything(2, 0)
    law = sum(w * np.exp(part.log_probs(prompts, tokens).sum(axis=1)) for w, part in zip(weights, parts, strict=True))
    mixed = np.exp(MixturePolicy(parts, weights).log_probs(prompts, tokens).sum(axis=1))
    np.testing.assert_allclose(mixed, law, rtol=1e-10)


@given(st.integers(0, 2**32 - 1))
@SETTINGS
def test_bernoulli_mixture_automaton_is_the_mixture(seed):
    rng = np.random.default_rng(seed)
    thetas, weights, on = rng.random(3), rng.dirichlet(np.ones(3)), ["tokens", "flips"][seed % 2]
    automaton = BernoulliMixturePolicy(thetas, weights, horizon=H, on=on)
    general = MixturePolicy([BernoulliPolicy(theta, on=on) for theta in thetas], weights)
    prompts, tokens = everything(2, 1)
    np.testing.assert_allclose(automaton.log_probs(prompts, tokens), general.log_probs(prompts, tokens), atol=1e-11)


def test_restarting_makes_chunks_independent_and_right():
    expert = BernoulliMixturePolicy([0.1, 0.8], [0.4, 0.6], horizon=H, on="flips")
    prompts, tokens = everything(2, 1)
    out = RestartedPolicy(expert, 2).log_probs(prompts, tokens)
    np.testing.assert_allclose(out[:, :2], expert.log_probs(prompts, tokens)[:, :2])
    np.testing.assert_allclose(out[:, 2:], expert.log_probs(tokens[:, 1:2], tokens[:, 2:]))


def test_impossible_tokens_are_never_drawn(rng):
    log_probs = np.tile([-np.inf, np.log(0.5), -np.inf, np.log(0.5), -np.inf], (20_000, 1))
    assert set(np.unique(sample_categorical(log_probs, rng))) == {1, 3}


def test_small_squared_gaps_keep_their_digits():
    log_p = np.array([-1.0, -np.inf, 0.0])
    log_q = np.array([-1.0 - 1e-9, -np.inf, -np.inf])
    np.testing.assert_allclose(squared_sqrt_gap(log_p, log_q), [np.exp(-1) * 2.5e-19, 0.0, 1.0], rtol=1e-6)


# -- decoding, greedy decoding, and one right answer -------------------------------------------------------------------


@examples()
@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 6),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 6),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_decoding_is_what_decoders_do(seed, size, temperature, top_k, top_p):
    """Sorted, cut and divided by hand, the most probable token first."""
    law = np.random.default_rng(seed).dirichlet(np.ones(size))
    hot = law ** (1 / temperature) / (law ** (1 / temperature)).sum()
    order = np.argsort(-hot)[:top_k]
    share = hot[order] / hot[order].sum()
    kept = order[: 1 + int((share.cumsum() < (top_p or 1.0) - 1e-9).sum())]
    wanted = np.zeros(size)
    wanted[kept] = hot[kept] / hot[kept].sum()
    policy = CallablePolicy(lambda prompts, tokens: np.log(np.tile(law, (len(tokens), 1))), size)
    decoded = DecodedPolicy(policy, temperature=temperature, top_k=top_k and min(top_k, size), top_p=top_p)
    np.testing.assert_allclose(np.exp(decoded.forced_log_probs(np.zeros((2, 0), int), [[0], [0]]))[1, 0], wanted)


def test_of_tokens_that_tie_the_smaller_are_kept_and_what_is_impossible_stays_so():
    law = np.array([[*np.log([0.1, 0.2 + 1e-14, 0.2, 0.2 - 1e-14, 0.3]), -np.inf]])
    policy = CallablePolicy(lambda prompts, tokens: law.repeat(len(tokens), axis=0), 6)
    empty = np.zeros((1, 0), int)
    for cut in ({"top_k": 3}, {"top_p": 0.7}, {"top_p": 0.65}):
        found = DecodedPolicy(policy, **cut).next_log_probs(empty, empty)
        np.testing.assert_allclose(np.exp(found), np.array([[0, 2, 2, 0, 3, 0]]) / 7, atol=1e-12)
    hot = np.exp(DecodedPolicy(policy, temperature=50.0, top_k=6).next_log_probs(empty, empty))
    assert hot[0, 5] == 0 and (hot[0, :5] > 0.19).all()
    assert repr(DecodedPolicy(policy, top_k=3)).endswith(", top_k=3)")


def reversed_prompt(prompts):
    return prompts[:, ::-1]


@examples()
@given(seed=st.integers(0, 1000), vocab_size=st.integers(2, 4), horizon=st.integers(1, 4))
def test_greedy_follows_the_argmax_of_each_conditional(seed, vocab_size, horizon):
    rng = np.random.default_rng(seed)
    policy = TabularPolicy.random(vocab_size, horizon, rng, prompt_length=1)
    prompts = rng.integers(vocab_size, size=(6, 1))
    written = GreedyPolicy(policy).sample(prompts, horizon, rng)
    for h in range(horizon):
        best = policy.next_log_probs(prompts, written[:, :h]).argmax(axis=1)
        np.testing.assert_array_equal(written[:, h], best)
    assert (GreedyPolicy(policy).log_probs(prompts, written) == 0).all()


def test_target_policy_writes_the_answer_whatever_came_before():
    policy = TargetPolicy(reversed_prompt, 3, horizon=3, prompt_length=3)
    prompts = np.array([[0, 1, 2], [2, 2, 1]])
    np.testing.assert_array_equal(policy.sample(prompts, 3, np.random.default_rng(0)), prompts[:, ::-1])
    np.testing.assert_array_equal(policy.sample(prompts, 2, np.random.default_rng(0)), prompts[:, :0:-1])
    wrong = np.zeros((2, 1), dtype=int)
    np.testing.assert_array_equal(np.exp(policy.next_log_probs(prompts, wrong)), np.eye(3)[prompts[:, 1]])
    np.testing.assert_array_equal(policy.log_probs(prompts, prompts[:, ::-1]), np.zeros((2, 3)))
    np.testing.assert_array_equal(np.exp(policy.forced_log_probs(prompts, prompts)), np.eye(3)[prompts[:, ::-1]])
    back = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(back.log_probs(prompts, prompts), policy.log_probs(prompts, prompts))
