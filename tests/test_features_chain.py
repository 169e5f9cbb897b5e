"""Features of chains of thought: sequences against prefix by prefix, norms, products, codes, blocks by position."""

import math
from itertools import combinations

import numpy as np
import pytest

from ntp_envs.features import ByPosition, ChainProducts, FlipSign, PrefixSigns

P = 3


def draw(features, n=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (n, P)), rng.integers(0, features.vocab_size, (n, 4))


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
