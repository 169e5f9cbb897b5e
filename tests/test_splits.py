"""Splits of demonstrations: partitions, shuffled, reproducible, and refused where they would mean nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents.selection import holdout_split, shuffled_folds
from ntp_envs import Demonstrations, make_task


def random_demos(rng, n, weights=None):
    return Demonstrations(np.zeros((n, 0), int), rng.integers(2, size=(n, 4)), vocab_size=2, weights=weights)


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 30), data=st.data())
def test_folds_are_a_partition(seed, n, data):
    folds = data.draw(st.integers(2, n))
    weights = np.concatenate([np.arange(1, n + 1), np.zeros(3)])  # each demonstration known by its weight
    demos = random_demos(np.random.default_rng(seed), n + 3, weights)
    splits = shuffled_folds(demos, folds, np.random.default_rng(seed))
    sizes = [len(fold) for _, fold in splits]
    assert len(splits) == folds and max(sizes) - min(sizes) <= 1
    assert sorted(w for _, fold in splits for w in fold.weights) == list(range(1, n + 1))
    for rest, fold in splits:
        assert sorted([*rest.weights, *fold.weights]) == list(range(1, n + 1))
        assert (np.diff(rest.weights) > 0).all() and (np.diff(fold.weights) > 0).all()
        np.testing.assert_array_equal(fold.tokens, demos.tokens[fold.weights.astype(int) - 1])
    again = shuffled_folds(demos, folds, np.random.default_rng(seed))
    assert all(np.array_equal(a.weights, b.weights) for (_, a), (_, b) in zip(splits, again))


def test_folds_are_shuffled():
    demos = random_demos(np.random.default_rng(0), 100, np.arange(1.0, 101))
    means = [fold.weights.mean() for _, fold in shuffled_folds(demos, 2, np.random.default_rng(0))]
    assert abs(means[0] - means[1]) < 20  # in order it would be 50


def test_what_cannot_be_split():
    rng = np.random.default_rng(0)
    demos = random_demos(rng, 3, [1, 1, 0])
    with pytest.raises(ValueError, match=r"folds=3 is more than the 2 demonstration\(s\) .* folds in \[2, 2\]"):
        shuffled_folds(demos, 3, rng)
    with pytest.raises(ValueError, match="and there is 1; collect more"):
        shuffled_folds(demos.subset(np.array([0])), 2, rng)
    with pytest.raises(ValueError, match="folds=1 must be an integer >= 2"):
        shuffled_folds(demos, 1, rng)
    with pytest.raises(TypeError, match=r"folds=2.0"):
        shuffled_folds(demos, 2.0, rng)
    with pytest.raises(TypeError, match=r"rng=0 must be a numpy.random.Generator"):
        holdout_split(demos, 0.5, 0)
    with pytest.raises(ValueError, match="an exact population cannot be split"):
        holdout_split(make_task("RareMode", horizon=4).population(), 0.5, rng)
