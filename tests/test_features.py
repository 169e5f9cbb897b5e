"""Feature maps: whole sequences against prefix by prefix, norms, states and codes."""

import math
import pickle

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
