"""Policy classes: members, sufficient statistics, refusals."""

import numpy as np
import pytest

from ntp_envs import (
    BernoulliClass,
    FiniteClass,
    MarkovClass,
    ProductClass,
    TabularPolicy,
)


def test_finite_class_evaluates_every_member(rng):
    members = [TabularPolicy.random(3, 4, rng) for _ in range(5)]
    family = FiniteClass(members)
    prompts, tokens = np.zeros((6, 0), int), rng.integers(3, size=(6, 4))
    assert len(family) == 5 and family.horizon == 4 and list(family) == members
    np.testing.assert_array_equal(family.log_probs(prompts, tokens)[2], members[2].log_probs(prompts, tokens))


def test_bernoulli_events_count_flips_from_the_prompt():
    prompts, tokens = np.array([[0, 1]]), np.array([[1, 0, 0]], dtype=np.uint8)
    assert BernoulliClass(0.1, on="flips").events(prompts, tokens).tolist() == [[False, True, False]]
    assert BernoulliClass(0.1).events(prompts, tokens).tolist() == [[True, False, False]]
    with pytest.raises(ValueError, match="at least one token"):
        BernoulliClass(0.1, on="flips").events(np.zeros((1, 0), int), tokens)


def test_bernoulli_grid_is_even_in_log_odds():
    thetas = np.array([member.theta for member in BernoulliClass(0.01).grid(7)])
    steps = np.diff(np.log(thetas / (1 - thetas)))
    np.testing.assert_allclose(steps, steps[0])
    assert thetas[0] == pytest.approx(0.01) and thetas[-1] == pytest.approx(0.99)


def test_markov_counts_give_the_likelihood(rng):
    family = MarkovClass(3, order=2)
    prompts, tokens, weights = rng.integers(3, size=(8, 1)), rng.integers(3, size=(8, 5)), rng.random(8)
    probs = rng.dirichlet(np.ones(3), size=family.n_contexts)
    by_counts = (family.counts(prompts, tokens, weights) * np.log(probs)).sum()
    direct = (weights * family.policy(probs).log_probs(prompts, tokens).sum(axis=1)).sum()
    assert by_counts == pytest.approx(direct, rel=1e-12)


def test_product_options_are_the_options_of_the_layer(rng):
    layers = [[TabularPolicy.random(2, 3, rng) for _ in range(h + 1)] for h in range(3)]
    family = ProductClass(layers)
    prompts, tokens = np.zeros((5, 0), int), rng.integers(2, size=(5, 3))
    assert family.n_options == (1, 2, 3) and family.horizon == 3
    for h in range(3):
        wanted = np.stack([option.log_probs(prompts, tokens)[:, h] for option in layers[h]], axis=1)
        np.testing.assert_allclose(family.option_log_probs(h, prompts, tokens), wanted)
    chosen = family.policy([0, 1, 2]).log_probs(prompts, tokens)
    np.testing.assert_allclose(chosen[:, 2], layers[2][2].log_probs(prompts, tokens)[:, 2])
