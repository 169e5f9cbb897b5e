"""Features of chains of thought: sequences against prefix by prefix, norms, products, codes, blocks by position."""

import math
import pickle
from itertools import combinations

import numpy as np
import pytest

from ntp_envs import ARLinearClass
from ntp_envs.features import ByPosition, ChainProducts, FlipSign, PrefixSigns, WindowOneHot

P, H = 3, 4
MAPS = [
    PrefixSigns(2, P, H),
    PrefixSigns(2, P, H, degree=3),
    PrefixSigns(5, P, H),
    PrefixSigns(2, P, 4, degree=6),
    ChainProducts(P),
    ByPosition(PrefixSigns(2, P, H, degree=2), H),
    ByPosition(PrefixSigns(4, P, H), H),
    ByPosition(ChainProducts(P), H),
    ByPosition(WindowOneHot(3, 2), H),
]
each_map = pytest.mark.parametrize("features", MAPS, ids=repr)


def draw(features, n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (n, P)), rng.integers(0, features.vocab_size, (n, H))


@each_map
def test_path_is_prefix_by_prefix(features):
    prompts, tokens = draw(features)
    steps = [features.context(prompts, tokens[:, :h]) for h in range(H)]
    np.testing.assert_allclose(features.path(prompts, tokens), np.stack(steps, axis=1), atol=1e-15)
    np.testing.assert_allclose(features.path(prompts, tokens[:, :1])[:, 0], steps[0], atol=1e-15)


@each_map
def test_norms_are_at_most_one(features):
    norms = np.linalg.norm(features.path(*draw(features, n=300)), axis=2)
    assert norms.max() <= 1 + 1e-12 and norms.max() > 0.9


@each_map
def test_equal_codes_mean_equal_features(features):
    prompts, tokens = draw(features, n=200)
    codes, path = features.codes(prompts, tokens), features.path(prompts, tokens)
    if codes is None:
        assert "PrefixSigns" in repr(features)
        return
    assert codes.shape == tokens.shape
    rows = np.concatenate([codes[:, :, None], path], axis=2).reshape(codes.size, -1)
    assert len(np.unique(rows, axis=0)) == len(np.unique(codes))


@each_map
def test_pickle_equality_and_a_linear_policy(features):
    again = pickle.loads(pickle.dumps(features))
    assert again == features and hash(again) == hash(features)
    assert sum(features == other for other in MAPS) == 1
    theta = np.random.default_rng(1).normal(size=features.dimension)
    prompts, tokens = draw(features)
    policy = ARLinearClass(features, 100.0).policy(theta)
    logits = features.joint(prompts, tokens[:, :2]) @ theta
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    np.testing.assert_allclose(policy.next_log_probs(prompts, tokens[:, :2]), expected, atol=1e-12)


def test_every_product_of_signs_is_there_once():
    features = PrefixSigns(2, P, 3, degree=3)
    prompts, tokens = draw(features)
    signs = 2 * np.column_stack([prompts, tokens[:, :2]]) - 1
    found = features.context(prompts, tokens[:, :2]) / features.scale
    places = [c for order in range(4) for c in combinations(range(5), order)]
    assert features.n_context == len(places) == sum(math.comb(5, order) for order in range(4))
    for product in places:
        np.testing.assert_allclose(found[:, features.index(*product)], signs[:, list(product)].prod(axis=1), atol=1e-12)
    assert len({features.index(*product) for product in places}) == len(places)
    with pytest.raises(ValueError, match="4 signs"):
        features.index(0, 1, 2, 3)
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
