"""OffsetsOneHot against a direct reading of the tokens; windowed linear policies read no more than their window."""

import numpy as np
import pytest

from ntp_envs import ARLinearClass, ARLinearPolicy
from ntp_envs.features import OffsetsOneHot, WindowOneHot

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
