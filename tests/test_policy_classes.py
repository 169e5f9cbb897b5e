"""Policy classes: members, sufficient statistics, gathered rows of weights against features written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

import ntp_envs
from ntp_envs.features import IndicatorFeatureMap, WindowOneHot
from ntp_envs.policies import Policy
from ntp_envs.policy_classes import ARLinearAutomaton, linear_log_probs


def test_finite_class_evaluates_every_member(rng):
    members = [ntp_envs.TabularPolicy.random(3, 4, rng) for _ in range(5)]
    family = ntp_envs.FiniteClass(members)
    prompts, tokens = np.zeros((6, 0), int), rng.integers(3, size=(6, 4))
    assert len(family) == 5 and family.horizon == 4 and list(family) == members
    np.testing.assert_array_equal(family.log_probs(prompts, tokens)[2], members[2].log_probs(prompts, tokens))


def test_bernoulli_events_count_flips_from_the_prompt():
    prompts, tokens = np.array([[0, 1]]), np.array([[1, 0, 0]], dtype=np.uint8)
    assert ntp_envs.BernoulliClass(0.1, on="flips").events(prompts, tokens).tolist() == [[False, True, False]]
    assert ntp_envs.BernoulliClass(0.1).events(prompts, tokens).tolist() == [[True, False, False]]


def test_bernoulli_grid_is_even_in_log_odds():
    thetas = np.array([member.theta for member in ntp_envs.BernoulliClass(0.01).grid(7)])
    steps = np.diff(np.log(thetas / (1 - thetas)))
    np.testing.assert_allclose(steps, steps[0])
    assert thetas[0] == pytest.approx(0.01) and thetas[-1] == pytest.approx(0.99)


def test_markov_counts_give_the_likelihood(rng):
    family = ntp_envs.MarkovClass(3, order=2)
    prompts, tokens, weights = rng.integers(3, size=(8, 1)), rng.integers(3, size=(8, 5)), rng.random(8)
    probs = rng.dirichlet(np.ones(3), size=family.n_contexts)
    by_counts = (family.counts(prompts, tokens, weights) * np.log(probs)).sum()
    direct = (weights * family.policy(probs).log_probs(prompts, tokens).sum(axis=1)).sum()
    assert by_counts == pytest.approx(direct, rel=1e-12)


def test_product_options_are_the_options_of_the_layer(rng):
    layers = [[ntp_envs.TabularPolicy.random(2, 3, rng) for _ in range(h + 1)] for h in range(3)]
    family = ntp_envs.ProductClass(layers)
    prompts, tokens = np.zeros((5, 0), int), rng.integers(2, size=(5, 3))
    assert family.n_options == (1, 2, 3) and family.horizon == 3
    for h in range(3):
        wanted = np.stack([option.log_probs(prompts, tokens)[:, h] for option in layers[h]], axis=1)
        np.testing.assert_allclose(family.option_log_probs(h, prompts, tokens), wanted)
    chosen = family.policy([0, 1, 2]).log_probs(prompts, tokens)
    np.testing.assert_allclose(chosen[:, 2], layers[2][2].log_probs(prompts, tokens)[:, 2])


# -- policies over token windows ---------------------------------------------------------------------------------------


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
    policy = ntp_envs.ARLinearPolicy(features, theta)
    dense = linear_log_probs(features, theta, features.path(prompts, tokens))  # (B, H, A)
    np.testing.assert_allclose(policy.forced_log_probs(prompts, tokens), dense, atol=1e-11)
    picked = np.take_along_axis(dense, tokens[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), picked, atol=1e-11)
    np.testing.assert_allclose(policy.next_log_probs(prompts, tokens[:, :-1]), dense[:, -1], atol=1e-11)
    np.testing.assert_allclose(Policy.forced_log_probs(policy, prompts, tokens), dense, atol=1e-11)  # by the cursor
    best = policy.cursor(prompts).branch(np.array([0, 0]), tokens[[0, 0], 0]).log_probs()
    np.testing.assert_allclose(best, policy.next_log_probs(prompts[[0, 0]], tokens[[0, 0], :1]), atol=1e-11)
    own = ntp_envs.ARLinearClass(features, float(np.linalg.norm(theta)) + 1).policy(theta)
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
    policy = ntp_envs.ARLinearPolicy(features, 6 * np.random.default_rng(0).normal(size=features.dimension))
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
    np.testing.assert_allclose(ntp_envs.ARLinearPolicy(features, theta).forced_log_probs(prompts, tokens), expected)
    assert features.path(prompts, tokens)[0].round(3).tolist() == [
        [0.0, 0.707, 0.0, 0.0, 0.0],
        [0.707, 0.0, 0.0, 0.0, 0.707],
        [0.0, 0.0, 0.707, 0.0, 0.0],
    ]


def test_blocks_of_few_sequences_change_nothing(monkeypatch):
    features = WindowOneHot(9, 6)
    policy = ntp_envs.ARLinearPolicy(features, np.random.default_rng(0).normal(size=features.dimension))
    rng = np.random.default_rng(1)
    prompts, tokens = rng.integers(0, 9, (40, 2)), rng.integers(0, 9, (40, 30))
    whole = policy.log_probs(prompts, tokens)
    monkeypatch.setattr("ntp_envs.features.LAWS_BYTES", 1)
    monkeypatch.setattr("ntp_envs.features.BLOCK_ENTRIES", 1)
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), whole, atol=1e-13)


@pytest.mark.parametrize(
    ("vocab_size", "width", "automaton"), [(60, 1, True), (60, 2, True), (60, 3, False), (60, 16, False)]
)
def test_automata_only_where_states_are_few(vocab_size, width, automaton):
    features = WindowOneHot(vocab_size, width)
    policy = ntp_envs.ARLinearClass(features, 1.0).policy(np.zeros(features.dimension))
    assert isinstance(policy, ARLinearAutomaton) == automaton
    assert not automaton or policy.n_states == (vocab_size + 1) ** width


def test_texts_that_do_not_end_are_those_of_the_class_itself():
    members = ntp_envs.BernoulliClass()
    assert ntp_envs.ended_class(members, None) is members
    assert ntp_envs.ended_class(members, 1).end_token == 1
