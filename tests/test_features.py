"""Feature maps: whole sequences against prefix by prefix, norms, states and codes."""

import math
import pickle
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import ARLinearClass, ARLinearPolicy, BernoulliPolicy
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.features import (
    ByPosition,
    CallableFeatures,
    ChainProducts,
    Concatenated,
    EpisodeBits,
    FeatureMap,
    FlipSign,
    OffsetsOneHot,
    PairwiseProducts,
    Position,
    PrefixSigns,
    PromptFeatures,
    WindowOneHot,
)
from ntp_envs.policies import Policy

PROMPT_LENGTH = 2
QUICK = examples(30)


def mean_token(prompts, tokens):
    whole = np.concatenate([prompts, tokens], axis=1)
    return np.column_stack([whole.mean(axis=1), np.full(len(whole), 0.1)]) / 3


class JointMatches(FeatureMap):
    """A map that is not a context map: does the next token equal the last one, and the one before it?"""

    window = 2

    def __init__(self):
        super().__init__(3, 2)

    def joint(self, prompts, tokens):
        whole = np.concatenate([np.full((len(tokens), 2), 3), prompts, tokens], axis=1)[:, -2:]
        return (np.arange(3)[None, :, None] == whole[:, None, ::-1]) / math.sqrt(2)


MAPS = [
    WindowOneHot(2, 3),
    WindowOneHot(3, 2, bias=False),
    WindowOneHot(2, 0),
    FlipSign(),
    EpisodeBits(2),
    Position(3, 7),
    Position(2, 4, wrap=True),
    PromptFeatures(2, PROMPT_LENGTH),
    PairwiseProducts(WindowOneHot(2, 2)),
    PairwiseProducts(EpisodeBits(2)),
    Concatenated([WindowOneHot(2, 2), FlipSign()]),
    Concatenated([WindowOneHot(2, 1), PromptFeatures(2, PROMPT_LENGTH, bias=False)]),
    CallableFeatures(mean_token, 3, 2),
    JointMatches(),
]
CHAINS = [  # after three bits, four tokens
    PrefixSigns(2, 3, 4),
    PrefixSigns(2, 3, 4, degree=3),
    PrefixSigns(5, 3, 4),
    PrefixSigns(2, 3, 4, degree=6),
    ChainProducts(3),
    ByPosition(PrefixSigns(2, 3, 4, degree=2), 4),
    ByPosition(PrefixSigns(4, 3, 4), 4),
    ByPosition(ChainProducts(3), 4),
    ByPosition(WindowOneHot(3, 2), 4),
]


MAPS += CHAINS


each_map = pytest.mark.parametrize("features", MAPS, ids=repr)


def draw(features, n=9, horizon=7, seed=0):
    rng, chain = np.random.default_rng(seed), features in CHAINS
    return (
        rng.integers(0, 2 if chain else features.vocab_size, (n, 3 if chain else PROMPT_LENGTH)),
        rng.integers(0, features.vocab_size, (n, 4 if chain else horizon)),
    )


def by_prefix(features, prompts, tokens):
    return np.stack([features.prefix_features(prompts, tokens[:, :h]) for h in range(tokens.shape[1])], axis=1)


@each_map
def test_path_is_prefix_by_prefix(features):
    prompts, tokens = draw(features, n=60)
    expected = by_prefix(features, prompts, tokens)
    np.testing.assert_allclose(features.path(prompts, tokens), expected, atol=1e-15)
    np.testing.assert_allclose(features.path(prompts, tokens[:, :1]), expected[:, :1], atol=1e-15)


@each_map
def test_blocks_tile_the_path_within_the_memory_asked_for(features):
    prompts, tokens = draw(features)
    whole = features.path(prompts, tokens)
    for max_bytes in (1, 2 * whole[0].nbytes, 1 << 30):
        parts = list(features.blocks(prompts, tokens, max_bytes=max_bytes))
        assert all(part.nbytes <= max(max_bytes, whole[0].nbytes) for _, part in parts)
        assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(range(len(tokens)))
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), whole)


@each_map
def test_norms_are_at_most_one_and_spread_bounds_differences(features):
    prompts, tokens = draw(features, n=200)
    for h in range(tokens.shape[1]):
        phi = features.joint(prompts, tokens[:, :h])
        assert phi.shape == (200, features.vocab_size, features.dimension)
        assert np.linalg.norm(phi, axis=2).max() <= 1 + 1e-12
        differences = phi[:, :, None] - phi[:, None, :]
        assert np.linalg.norm(differences, axis=3).max() <= features.spread + 1e-12
    assert features not in CHAINS or np.linalg.norm(features.path(prompts, tokens), axis=2).max() > 0.9


def test_norm_is_exactly_one_where_promised():
    rng = np.random.default_rng(1)
    nothing = np.empty((50, 0), int)
    bits = rng.integers(0, 2, (50, 4))
    np.testing.assert_allclose(np.linalg.norm(EpisodeBits(4).context(nothing, bits), axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(WindowOneHot(2, 4).context(nothing, bits), axis=1), 1)
    assert not EpisodeBits(4).path(nothing, bits).any()  # before a free bit


@each_map
def test_states_and_codes_number_the_features(features):
    prompts, tokens = draw(features, n=100)
    path, states = features.path(prompts, tokens), features.states()
    if states is not None:
        np.testing.assert_allclose(states.features[states.path(prompts, tokens)], path, atol=1e-15)
        state = states.initial_states(prompts)
        for h in range(tokens.shape[1]):
            np.testing.assert_array_equal(state, states.path(prompts, tokens)[:, h])
            state = states.transitions[state, tokens[:, h]]
    codes = features.codes(prompts, tokens)
    if codes is not None:
        for code in np.unique(codes):
            rows = path[codes == code]
            np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), atol=1e-15)
    assert codes is not None or features not in CHAINS or "PrefixSigns" in repr(features)


def test_a_window_too_wide_for_a_table_still_numbers_its_contexts():
    features = WindowOneHot(2, 30)
    prompts, tokens = draw(features, n=40, horizon=35)
    assert features.states() is None
    codes, path = features.codes(prompts, tokens), features.path(prompts, tokens)
    assert len(np.unique(codes)) == len(np.unique(path.reshape(-1, features.n_context), axis=0))
    assert WindowOneHot(2, 60).codes(prompts, tokens) is None
    assert CallableFeatures(mean_token, 2, 2).codes(prompts, tokens) is None


@each_map
def test_pickle_equality_repr(features):
    again = pickle.loads(pickle.dumps(features))
    prompts, tokens = draw(features)
    np.testing.assert_array_equal(again.path(prompts, tokens), features.path(prompts, tokens))
    assert again == features and hash(again) == hash(features)
    assert repr(features).startswith(type(features).__name__ + "(")
    assert sum(features == other for other in MAPS) == 1


@QUICK
@given(seed=st.integers(0, 10**6), width=st.integers(1, 3))
def test_products_square_the_inner_product(seed, width):
    inner = WindowOneHot(2, width)
    prompts, tokens = draw(inner, seed=seed, horizon=4)
    u, v = inner.context(prompts, tokens), PairwiseProducts(inner).context(prompts, tokens)
    np.testing.assert_allclose(v @ v.T, (u @ u.T) ** 2, atol=1e-14)


@QUICK
@given(seed=st.integers(0, 10**6), index=st.integers(0, len(MAPS) - 1))
def test_policies_are_the_softmax_of_the_joint_features(seed, index):
    features = MAPS[index]
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=features.dimension)
    policy = ARLinearClass(features, 100.0).policy(theta)
    prompts, tokens = draw(features, seed=seed)
    logits = features.joint(prompts, tokens[:, :3]) @ theta
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(policy.next_log_probs(prompts, tokens[:, :3]), expected, atol=1e-12)
    slow = Policy.log_probs(ARLinearPolicy(features, theta), prompts, tokens)
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), slow, atol=1e-12)
    np.testing.assert_allclose(ARLinearPolicy(features, theta).log_probs(prompts, tokens), slow, atol=1e-12)
    assert isinstance(policy, AutomatonPolicy) == (features.states() is not None)
    if features.vocab_size == 2:
        log_odds = features.signed(prompts, tokens[:, :3]) @ theta
        np.testing.assert_allclose(expected[:, 1] - expected[:, 0], log_odds, atol=1e-12)


def test_flip_sign_is_the_bernoulli_class_on_flips():
    theta = 0.03
    policy = ARLinearClass(FlipSign(), 5.0).policy([math.log(theta / (1 - theta))])
    rng = np.random.default_rng(0)
    prompts, tokens = rng.integers(0, 2, (20, 1)), rng.integers(0, 2, (20, 9))
    expected = BernoulliPolicy(theta, on="flips").log_probs(prompts, tokens)
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), expected, atol=1e-12)


def test_the_automaton_samples_what_the_plain_policy_samples():
    features = WindowOneHot(3, 2)
    theta = np.random.default_rng(3).normal(size=features.dimension)
    prompts = np.zeros((50, 1), int)
    draws = [
        kind(theta).sample(prompts, 20, np.random.default_rng(5))
        for kind in (ARLinearClass(features, 100.0).policy, lambda t: ARLinearPolicy(features, t))
    ]
    np.testing.assert_array_equal(*draws)


def test_extreme_log_odds_stay_finite():
    policy = ARLinearClass(FlipSign(), 1e4).policy([1e3])
    assert policy.log_probs(np.array([[0]]), np.array([[0, 0]])).tolist() == [[-1000.0, -1000.0]]


def test_callable_features_are_checked():
    nothing, tokens = np.empty((2, 0), int), np.ones((2, 3), int)
    long = CallableFeatures(lambda x, a: np.array([[3.0, 4.0], [0.3, 0.4]]), 2, 2)
    with pytest.raises(ValueError, match=r"row 0 have norm 5.*rescale=True"):
        long.context(nothing, tokens)
    rescaled = CallableFeatures(long.function, 2, 2, rescale=True).context(nothing, tokens)
    np.testing.assert_allclose(rescaled, [[0.6, 0.8], [0.3, 0.4]])
    with pytest.raises(ValueError, match=r"shape \(2, 1\); \(2, 2\)"):
        CallableFeatures(lambda x, a: np.zeros((2, 1)), 2, 2).context(nothing, tokens)
    with pytest.raises(ValueError, match="row 1 after 3 tokens are not finite"):
        CallableFeatures(lambda x, a: np.array([[0.0], [np.nan]]), 2, 1).context(nothing, tokens)
    with pytest.raises(TypeError, match="must be callable"):
        CallableFeatures(3, 2, 1)


# -- chains of thought -------------------------------------------------------------------------------------------------


P = 3


def chain_draw(features, n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (n, P)), rng.integers(0, features.vocab_size, (n, 4))


def test_every_product_of_signs_is_there_once():
    features = PrefixSigns(2, P, 3, degree=3)
    prompts, tokens = chain_draw(features)
    signs = 2 * np.column_stack([prompts, tokens[:, :2]]) - 1
    found = features.context(prompts, tokens[:, :2]) / features.scale
    places = [c for order in range(4) for c in combinations(range(5), order)]
    assert features.n_context == len(places) == sum(math.comb(5, order) for order in range(4))
    for product in places:
        np.testing.assert_allclose(found[:, features.index(*product)], signs[:, list(product)].prod(axis=1), atol=1e-12)
    assert len({features.index(*product) for product in places}) == len(places)
    early = features.context(prompts, tokens[:, :1])
    assert not early[:, features.index(4)].any() and not early[:, features.index(0, 4)].any()


def test_chain_products_say_what_they_are():
    prompts = np.array([[0, 1, 1]])  # signs +, -, -
    features = ChainProducts(3)
    root = math.sqrt(7)
    for tokens, products, ended in (([], [0, 0, 0], 0), ([0, 1], [-1, 1, 1], 0), ([1, 2], [0, 0, 0], 1)):
        found = features.context(prompts, np.array([tokens], dtype=np.int64).reshape(1, -1)) * root
        np.testing.assert_allclose(found, [[1, 1, -1, -1, *products, ended]], atol=1e-12)


def test_blocks_are_separate():
    features = ByPosition(FlipSign(), 3)
    path = features.path(np.array([[1]]), np.array([[0, 1, 1]]))
    np.testing.assert_array_equal(path[0], np.diag([-1.0, 1.0, -1.0]))
    assert features.horizon == 3 and ByPosition(ChainProducts(4), 2).prompt_length == 4


# -- offsets -----------------------------------------------------------------------------------------------------------


RNG = np.random.default_rng(0)


def direct(features, line):
    """Features of the token after ``line``, by hand."""
    blocks = [np.ones(1)] if features.bias else []
    for offset in features.offsets:
        block = np.zeros(features.vocab_size)
        if len(line) + offset >= 0:
            block[line[len(line) + offset]] = 1.0
        blocks.append(block)
    return np.concatenate(blocks) / np.sqrt(len(blocks))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offsets", [(-5, -1, -3), (-2,), (-7, -6)])
def test_features_are_the_tokens_at_the_offsets(offsets, bias):
    features = OffsetsOneHot(3, offsets, bias=bias)
    prompts, tokens = RNG.integers(3, size=(4, 2)), RNG.integers(3, size=(4, 9))
    path, codes = features.path(prompts, tokens), features.codes(prompts, tokens)
    assert path.shape == (4, 9, features.n_context) and np.linalg.norm(path, axis=2).max() <= 1 + 1e-12
    by_code = {}
    for i in range(4):
        for h in range(9):
            expected = direct(features, [*prompts[i], *tokens[i, :h]])
            np.testing.assert_allclose(path[i, h], expected)
            np.testing.assert_allclose(features.context(prompts[i : i + 1], tokens[i : i + 1, :h])[0], expected)
            by_code.setdefault(int(codes[i, h]), []).append(expected)
    assert all((np.array(same) == same[0]).all() for same in by_code.values())
    assert len(by_code) == len({tuple(same[0]) for same in by_code.values()})


def test_all_offsets_are_the_window():
    window, offsets = WindowOneHot(3, 4), OffsetsOneHot(3, (-1, -2, -3, -4))
    prompts, tokens = RNG.integers(3, size=(4, 2)), RNG.integers(3, size=(4, 9))
    np.testing.assert_allclose(offsets.path(prompts, tokens), window.path(prompts, tokens))
    assert offsets.window == 4 and offsets == OffsetsOneHot(3, [-1, -2, -3, -4]) != OffsetsOneHot(3, (-1,))


def test_a_constant_alone_and_offsets_too_many_to_number():
    nothing = np.zeros((2, 0), int)
    constant = OffsetsOneHot(3, ())
    np.testing.assert_array_equal(constant.path(nothing, np.zeros((2, 3), int)), np.ones((2, 3, 1)))
    assert OffsetsOneHot(9, tuple(range(-30, 0))).codes(nothing, np.zeros((2, 3), int)) is None


@pytest.mark.parametrize("features", [OffsetsOneHot(3, (-25, -2)), WindowOneHot(3, 12), WindowOneHot(3, 1)])
def test_reading_within_the_window_is_reading_the_whole_prefix(features):
    policy = ARLinearClass(features, 99.0).policy(RNG.normal(size=features.dimension))
    prompts, tokens = RNG.integers(3, size=(3, 5)), RNG.integers(3, size=(3, 30))
    whole = np.stack([ARLinearPolicy.next_log_probs(policy, prompts, tokens[:, :h]) for h in range(30)], axis=1)
    np.testing.assert_allclose(policy.forced_log_probs(prompts, tokens), whole, atol=1e-12)
    reader = policy.cursor(prompts)
    for h in range(29):
        assert reader.step == h
        np.testing.assert_allclose(reader.log_probs(), whole[:, h], atol=1e-12)
        reader = reader.advance(tokens[:, h])
    np.testing.assert_allclose(reader.branch(np.array([2, 0]), tokens[[2, 0], 29]).log_probs().shape, (2, 3))
