"""The coverage profile and its two bounds."""

import numpy as np
import pytest
from distance_instances import random_pair
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import coverage_bound_hellinger2, coverage_bound_kl, distance
from ntp_envs.distances import DEFAULT_THRESHOLDS, enumeration_distances

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
thresholds = st.one_of(st.sampled_from(DEFAULT_THRESHOLDS), st.floats(1.0001, 1e6))


@examples(200)
@given(
    st.builds(random_pair, st.integers(0, 10**6), zeros=st.booleans(), varying=st.booleans(), near=st.booleans()),
    thresholds,
)
def test_both_bounds_hold_at_every_prefix(instance, threshold):
    curves = enumeration_distances(*instance, thresholds=(threshold,))
    covered = curves["coverage"].values[:, 0]
    # ties are counted within 1e-9 of a threshold, so the bounds are those of a threshold that much lower
    lower = threshold * (1 - 1e-9)
    assert (covered <= coverage_bound_kl(curves["kl"].values, lower) + 1e-12).all()
    assert (covered <= coverage_bound_hellinger2(curves["hellinger2"].values, lower) + 1e-12).all()


@examples(200)
@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=6), st.integers(0, 10**6), thresholds)
def test_both_bounds_hold_for_any_two_laws(weights, seed, threshold):
    p = np.array(weights) / np.sum(weights)
    q = np.random.default_rng(seed).dirichlet(np.full(len(p), 0.3)) + 1e-300
    covered = p[p / q >= threshold].sum()
    kl, hellinger2 = np.sum(p * np.log(p / q) - p + q), np.sum((np.sqrt(p) - np.sqrt(q)) ** 2)
    assert covered <= coverage_bound_kl(kl, threshold) + 1e-9
    assert covered <= coverage_bound_hellinger2(hellinger2, threshold) + 1e-9


@pytest.mark.parametrize("threshold", [1.5, 4.0, 1e4])
def test_the_bounds_are_attained(threshold):
    """P on one atom where Q has 1/N of it, and equal elsewhere up to a vanishing share: both bounds become equal."""
    share = 1e-6
    p = np.array([share, 1 - share])
    q = np.array([share / threshold, 1 - share / threshold])
    kl = np.sum(p * np.log(p / q))
    hellinger2 = np.sum((np.sqrt(p) - np.sqrt(q)) ** 2)
    np.testing.assert_allclose(coverage_bound_kl(kl, threshold), share, rtol=1e-4)
    np.testing.assert_allclose(coverage_bound_hellinger2(hellinger2, threshold), share, rtol=1e-4)


def test_shapes_and_limits():
    values = np.array([[0.0, 0.1], [5.0, np.inf]])
    for bound in (coverage_bound_kl, coverage_bound_hellinger2):
        out = bound(values, 4.0)
        assert out.shape == values.shape and out[0, 0] == 0.0 and (out <= 1.0).all()
    assert coverage_bound_kl(1e-20, 1 + 1e-12) == 1.0  # no digits left in log N - 1 + 1/N


def test_a_ratio_equal_to_the_threshold_counts_whatever_the_method():
    from distance_instances import PlainTask

    from ntp_envs import BernoulliMixturePolicy, BernoulliPolicy

    p, q = BernoulliMixturePolicy([0.8], [1.0], horizon=3), BernoulliPolicy(0.2)  # ratios 4^(ones - zeros)
    task = PlainTask(2, 3)
    for method in ("automaton", "enumeration"):
        curve = distance(p, q, task, metric="coverage", method=method, thresholds=(4.0, 16.0, 64.0))
        np.testing.assert_allclose(
            curve.values, [[0.8, 0.0, 0.0], [0.64, 0.64, 0.0], [0.896, 0.512, 0.512]], atol=1e-14
        )
    sampled = distance(p, q, task, metric="coverage", method="monte carlo", thresholds=(4.0, 16.0, 64.0))
    assert (np.abs(sampled.values - curve.values) <= 4.5 * sampled.std_error + 1e-12).all()
