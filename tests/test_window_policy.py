"""Policies over token windows: gathered rows of weights against features written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import ARLinearClass, ARLinearPolicy
from ntp_envs.features import IndicatorFeatureMap, WindowOneHot
from ntp_envs.policies import Policy
from ntp_envs.policy_classes import ARLinearAutomaton, linear_log_probs

QUICK = examples(40)


class LastWas(IndicatorFeatureMap):
    """Indicators with no more than `active`: the last token, and whether the sequence has even length."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size, vocab_size + 1, 2)

    def active(self, prompts, tokens):
        line = np.concatenate([prompts, tokens], axis=1)
        last = line[:, -1] if line.shape[1] else np.full(len(line), self.n_context)
        even = self.vocab_size if line.shape[1] % 2 == 0 else self.n_context
        return np.column_stack([last, np.full(len(line), even)]).astype(np.int32)


@st.composite
def cases(draw):
    vocab_size = draw(st.integers(2, 12))
    width, bias = draw(st.integers(0, 6)), draw(st.booleans())
    features = WindowOneHot(vocab_size, width or 1 - bias, bias)
    prompt_length, horizon, batch = draw(st.integers(0, 8)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    dtype = draw(st.sampled_from([np.int64, np.uint8, np.int32]))
    prompts = rng.integers(0, vocab_size, (batch, prompt_length)).astype(dtype)
    tokens = rng.integers(0, vocab_size, (batch, horizon)).astype(dtype)
    return features, 4 * rng.normal(size=features.dimension), prompts, tokens


@QUICK
@given(cases())
def test_gathered_laws_are_those_of_the_features_written_out(case):
    features, theta, prompts, tokens = case
    policy = ARLinearPolicy(features, theta)
    dense = linear_log_probs(features, theta, features.path(prompts, tokens))  # (B, H, A)
    np.testing.assert_allclose(policy.forced_log_probs(prompts, tokens), dense, atol=1e-11)
    picked = np.take_along_axis(dense, tokens[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), picked, atol=1e-11)
    np.testing.assert_allclose(policy.next_log_probs(prompts, tokens[:, :-1]), dense[:, -1], atol=1e-11)
    np.testing.assert_allclose(Policy.forced_log_probs(policy, prompts, tokens), dense, atol=1e-11)  # by the cursor
    best = policy.cursor(prompts).branch(np.array([0, 0]), tokens[[0, 0], 0]).log_probs()
    np.testing.assert_allclose(best, policy.next_log_probs(prompts[[0, 0]], tokens[[0, 0], :1]), atol=1e-11)
    own = ARLinearClass(features, float(np.linalg.norm(theta)) + 1).policy(theta)
    np.testing.assert_allclose(own.forced_log_probs(prompts, tokens), dense, atol=1e-11)


@QUICK
@given(cases())
def test_places_are_those_of_the_entries(case):
    features, _, prompts, tokens = case
    active, values = features.active_path(prompts, tokens), features.path(prompts, tokens)
    assert active.dtype == np.int32 and active.shape == (*tokens.shape, features.n_active)
    for places, value in zip(active.reshape(-1, features.n_active), values.reshape(-1, features.n_context)):
        assert sorted(places[places < features.n_context]) == np.flatnonzero(value).tolist()
        np.testing.assert_allclose(value[value != 0], features.scale)
    np.testing.assert_array_equal(IndicatorFeatureMap.active_path(features, prompts, tokens), active)
    np.testing.assert_allclose(IndicatorFeatureMap.path(features, prompts, tokens), values, atol=1e-15)
    nothing = tokens[:, :0]
    np.testing.assert_allclose(
        IndicatorFeatureMap.context(features, prompts, nothing), features.context(prompts, nothing), atol=1e-15
    )


def test_samples_are_those_of_the_generic_path():
    features = WindowOneHot(9, 6)
    policy = ARLinearPolicy(features, 6 * np.random.default_rng(0).normal(size=features.dimension))
    prompts = np.random.default_rng(1).integers(0, 9, (50, 3))
    ours = policy.sample(prompts, 20, np.random.default_rng(2))
    rng, tokens = np.random.default_rng(2), np.empty((50, 0), dtype=np.int64)
    for _ in range(20):  # inversion, one uniform variate a token
        law = np.exp(linear_log_probs(features, policy.theta, features.context(prompts, tokens)))
        total = law.cumsum(axis=1)
        drawn = (total <= rng.random((50, 1)) * total[:, -1:]).sum(axis=1)
        tokens = np.column_stack([tokens, drawn])
    np.testing.assert_array_equal(ours, tokens)


def test_an_indicator_map_needs_no_more_than_its_places():
    features = LastWas(4)
    theta = np.random.default_rng(0).normal(size=features.dimension)
    prompts, tokens = np.array([[1], [3]]), np.array([[0, 2, 2], [1, 1, 0]])
    expected = linear_log_probs(features, theta, features.path(prompts, tokens))
    np.testing.assert_allclose(ARLinearPolicy(features, theta).forced_log_probs(prompts, tokens), expected)
    assert features.path(prompts, tokens)[0].round(3).tolist() == [
        [0.0, 0.707, 0.0, 0.0, 0.0],
        [0.707, 0.0, 0.0, 0.0, 0.707],
        [0.0, 0.0, 0.707, 0.0, 0.0],
    ]


def test_blocks_of_few_sequences_change_nothing(monkeypatch):
    features = WindowOneHot(9, 6)
    policy = ARLinearPolicy(features, np.random.default_rng(0).normal(size=features.dimension))
    rng = np.random.default_rng(1)
    prompts, tokens = rng.integers(0, 9, (40, 2)), rng.integers(0, 9, (40, 30))
    whole = policy.log_probs(prompts, tokens)
    monkeypatch.setattr("ntp_envs.policy_classes.BLOCK_BYTES", 1)
    monkeypatch.setattr("ntp_envs.features.BLOCK_ENTRIES", 1)
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), whole, atol=1e-13)


@pytest.mark.parametrize(
    ("vocab_size", "width", "automaton"), [(60, 1, True), (60, 2, True), (60, 3, False), (60, 16, False)]
)
def test_automata_only_where_states_are_few(vocab_size, width, automaton):
    features = WindowOneHot(vocab_size, width)
    policy = ARLinearClass(features, 1.0).policy(np.zeros(features.dimension))
    assert isinstance(policy, ARLinearAutomaton) == automaton
    assert not automaton or policy.n_states == (vocab_size + 1) ** width
