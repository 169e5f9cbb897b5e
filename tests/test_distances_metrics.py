"""Metrics of one's own and of the suite: a function of the log-ratio by every method; bounds on coverage."""

import dataclasses

import numpy as np
import pytest
from distance_instances import PlainTask, by_hand, random_pair
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.special import entr, expit

from ntp_envs import (
    BernoulliPolicy,
    NotTractableError,
    UniformPolicy,
    collect,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    distance,
    distance_curves,
    make_task,
)
from ntp_envs.distances import (
    DEFAULT_THRESHOLDS,
    METRICS,
    bridge_distances,
    enumeration_distances,
    metric_names,
    one_sided_distances,
    register_metric,
)
from ntp_envs.distances.metrics import CHI2, COVERAGE, HELLINGER2, KL, PROBES, TV, _checked, _known
from ntp_envs.wrappers import Rollouts

EXACT = ("automaton", "enumeration")
EVERY = (*EXACT, "monte carlo (bridge)", "monte carlo (one-sided)")


@pytest.fixture(autouse=True)
def registered():
    before = dict(_known)
    yield
    _known.clear()
    _known.update(before)


def jensen_shannon(ratio):
    return np.log(2) - entr(expit(ratio)) - entr(expit(-ratio))


def triangular(ratio):
    """``sum (P - Q)^2 / (P + Q)``, between chi-squared and squared Hellinger."""
    return 2.0 * np.tanh(0.5 * ratio) ** 2


def hockey_stick(ratio):
    """``sum max(P - 2 Q, 0)``: flat in the middle, and not symmetric."""
    return 2.0 * np.maximum(expit(ratio) - 2.0 * expit(-ratio), 0.0)


BY_HAND = {
    jensen_shannon: lambda p, q: 0.5 * (entr(0.5 * (p + q)) * 2 - entr(p) - entr(q)).sum(),
    triangular: lambda p, q: ((p - q) ** 2 / np.maximum(p + q, 1e-300)).sum(),
    hockey_stick: lambda p, q: np.maximum(p - 2 * q, 0.0).sum(),
}


@pytest.mark.parametrize("function", BY_HAND, ids=lambda function: function.__name__)
@pytest.mark.parametrize("zeros", [False, True])
def test_enumeration_is_the_sum_by_hand(function, zeros):
    for seed in range(4):
        p, q, task = random_pair(seed, zeros=zeros, varying=True)
        curve = distance(p, q, task, metric=function, method="enumeration")
        assert curve.metric == function.__name__ and curve.is_exact
        np.testing.assert_allclose(curve.values, by_hand(p, q, task, BY_HAND[function]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("function", BY_HAND, ids=lambda function: function.__name__)
def test_every_method_agrees_where_pairs_of_states_decide(function):
    task = make_task("Contamination", horizon=6, eps=0.1, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.2, on="flips")
    exact = distance(p, q, task, metric=function, method="enumeration")
    for method in EVERY:
        curve = distance(p, q, task, metric=function, method=method)
        assert curve.method == method and curve.horizon == 6
        assert (np.abs(curve.values - exact.values) <= 4.5 * curve.std_error + 1e-14).all()
        assert (curve.lower <= exact.values + 1e-14).all() and (exact.values <= curve.upper + 1e-14).all()
        assert curve.caveat == ""


def test_where_pairs_do_not_decide_another_method_does():
    p, q, task = BernoulliPolicy(0.3), BernoulliPolicy(0.6), PlainTask(2, 5)
    with pytest.raises(NotTractableError, match=r"triangular cannot be had from pairs .*enumeration.*monte carlo"):
        distance(p, q, task, metric=triangular, method="automaton")
    assert distance(p, q, task, metric=triangular).method == "enumeration"
    assert distance(p, q, PlainTask(2, 64), metric=triangular).method == "monte carlo (bridge)"
    certain, rare = BernoulliPolicy(0.5), BernoulliPolicy(0.5)
    assert distance(certain, rare, PlainTask(2, 64), metric=triangular, method="automaton").final == 0.0


@pytest.mark.parametrize("metric", [HELLINGER2, TV, KL, CHI2], ids=lambda metric: metric.name)
def test_a_metric_of_the_suite_under_another_name_gives_the_same_numbers(metric):
    again = register_metric(
        "again", metric.of_ratio, one_sided=metric.one_sided, one_sided_interval=metric.one_sided_interval
    )
    assert metric_names() == (*METRICS, "again") and again.symmetric == (metric in (HELLINGER2, TV))
    flips = make_task("Contamination", horizon=8, eps=0.1, p=0.1, q=0.6, theta_min=0.01)
    pairs = [random_pair(seed, zeros=seed < 2, varying=True) for seed in range(4)]
    pairs.append((flips.expert, BernoulliPolicy(0.2, on="flips"), flips))
    for p, q, task in pairs:
        for method in EVERY if metric.is_sampled else EXACT:
            if method == "automaton" and task is not flips:
                continue
            one, two = (distance(p, q, task, metric=name, method=method, n=400) for name in (metric.name, "again"))
            for key in ("values", "lower", "upper", "std_error", "unseen", "unbounded", "method", "n", "caveat"):
                first, second = getattr(one, key), getattr(two, key)
                if isinstance(first, np.ndarray):
                    np.testing.assert_allclose(first, second, rtol=1e-11, atol=3e-14)
                else:
                    assert first == (second.replace("again", "KL") if key == "caveat" else second)
            assert two.metric == "again"


@pytest.mark.parametrize("metric", [HELLINGER2, TV, KL], ids=lambda metric: metric.name)
def test_what_is_derived_for_draws_of_p_is_what_is_written_down(metric):
    ratio = np.array([-25.0, -3.0, -0.1, 0.0, 1e-6, 0.2, 4.0, 50.0, np.inf])
    derived = dataclasses.replace(metric, one_sided=None)
    np.testing.assert_allclose(derived.under_p(ratio), metric.under_p(ratio), rtol=1e-5, atol=1e-15)


def test_draws_that_exist_and_wrappers_take_them(rng):
    register_metric("triangular", triangular)
    task, learnt = make_task("Contamination", horizon=8), UniformPolicy(2)
    samples = collect(task, 300, rng), collect(task, 200, rng, policy=learnt)
    curves = [
        bridge_distances(*samples, p=task.expert, q=learnt, metrics=["triangular", "tv"])["triangular"],
        one_sided_distances(samples[0], learnt, p=task.expert, metrics="triangular")["triangular"],
    ]
    rollouts = Rollouts(task, window=300, policy=learnt)
    rollouts.add(samples[1].prompts, samples[1].tokens)
    curves += [rollouts.curve("triangular"), rollouts.curve(triangular_too := lambda ratio: triangular(ratio))]
    curves += [rollouts.curve("triangular", method="one-sided")]
    exact = distance(task.expert, learnt, task, metric="triangular", method="enumeration").values
    for curve in curves:
        assert ((curve.lower <= exact) & (exact <= curve.upper)).mean() > 0.8
    assert curves[3].metric == triangular_too.__name__ == "<lambda>"
    assert list(distance_curves(task.expert, learnt, task, metrics=["tv", jensen_shannon])) == ["tv", "jensen_shannon"]


@pytest.mark.parametrize("estimator", ["monte carlo (bridge)", "monte carlo (one-sided)"])
@pytest.mark.parametrize(
    ("a", "b"),
    [(0.3, 0.4), (0.02, 0.05), (0.01, 0.5), (0.5, 0.01)],
)
@pytest.mark.slow
def test_intervals_cover(estimator, a, b):
    laws, metrics = (BernoulliPolicy(a), BernoulliPolicy(b), PlainTask(2, 8)), list(BY_HAND)
    exact = [curve.values for curve in distance_curves(*laws, metrics=metrics, method="enumeration").values()]
    held = np.zeros((3, 8))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        curves = distance_curves(*laws, metrics=metrics, method=estimator, n=120, rng=rng).values()
        held += [(curve.lower <= true) & (true <= curve.upper) for curve, true in zip(curves, exact)]
    assert (held >= 0.91 * 300).all(), held / 300  # of 95 %, in 300 repetitions; 0.93 and more in 1500


def test_what_can_be_infinite_says_so():
    reverse_kl = register_metric("reverse_kl", lambda ratio: KL.of_ratio(-ratio))
    p, q, task = BernoulliPolicy(0.3), BernoulliPolicy(0.0), PlainTask(2, 4)
    assert np.isinf(distance(q, p, task, metric=reverse_kl).values).all()
    np.testing.assert_allclose(
        distance(p, q, task, metric=reverse_kl).values, distance(q, p, task, metric="kl").values, rtol=1e-12
    )
    sampled = distance(p, BernoulliPolicy(0.2), task, metric="reverse_kl", method="monte carlo")
    assert sampled.unbounded and "what they add to reverse_kl has no bound" in sampled.caveat
    with pytest.raises(NotTractableError, match=r"reverse_kl is infinite where only q .*bridge"):
        distance(p, q, task, metric="reverse_kl", method="monte carlo (one-sided)")
    with pytest.raises(NotTractableError, match="square has no Monte Carlo estimate"):
        distance(p, q, task, metric=register_metric("square", CHI2.of_ratio), method="monte carlo")


def test_names_and_the_contract_of_the_suite_s_own():
    for metric in (HELLINGER2, TV, KL, CHI2):
        assert _checked(metric) is metric and (metric.of_ratio(PROBES) >= 0.0).all()
    assert [m.most for m in (HELLINGER2, TV)] == [2.0, 1.0] and not CHI2.is_sampled and COVERAGE.is_sampled
    first, second = register_metric("mine", triangular), register_metric("mine", jensen_shannon)
    assert first is not second and _known["mine"] is second and repr(second) == "Metric('mine')"


# -- the coverage profile and its two bounds ---------------------------------------------------------------------------


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
