"""Sampled distances: unbiased, with intervals that cover at the stated rate."""

import tracemalloc

import numpy as np
import pytest
from distance_instances import PlainTask
from scipy.stats import binom, binomtest

from ntp_envs import (
    BernoulliPolicy,
    TableAutomaton,
    TabularPolicy,
    UniformPolicy,
    collect,
    make_task,
)
from ntp_envs.distances import (
    automaton_distances,
    enumeration_distances,
    monte_carlo_distances,
    normal_interval,
    one_sided_distances,
    score_interval,
)
from ntp_envs.distances import sampled as module
from ntp_envs.distances.metrics import HELLINGER2, KL, TV

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SEEDS = 200
SAMPLED = ("hellinger2", "tv", "kl", "coverage")


def theory_instance():
    """The check of the theory: contaminated documents against the mean flip rate, log-loss's choice."""
    task = make_task("Contamination", horizon=10, eps=0.02, p=0.005, q=0.6, theta_min=0.005)
    learnt = BernoulliPolicy((1 - task.eps) * task.p + task.eps * task.q, on="flips")
    return task.expert, learnt, task


def tabular_instance():
    rng = np.random.default_rng(3)
    p, q = (TabularPolicy.random(3, 4, rng, prompt_length=1) for _ in range(2))
    return p, q, PlainTask(3, 4, 1, (0.2, 0.3, 0.5))


def near_instance():
    return BernoulliPolicy(0.3), BernoulliPolicy(0.31), PlainTask(2, 12)


def excluded_instance():
    """q excludes what p does now and then, and the other way round."""
    p = TableAutomaton([[0.6, 0.38, 0.02], [1.0, 0.0, 0.0]], [[0, 0, 1], [1, 1, 1]])
    q = TableAutomaton([[0.6, 0.39, 0.01], [0.0, 1.0, 0.0]], [[0, 0, 1], [1, 1, 1]])
    return p, q, PlainTask(3, 6)


INSTANCES = {
    "theory": (theory_instance, 4000),
    "tabular": (tabular_instance, 400),
    "near": (near_instance, 1000),
    "excluded": (excluded_instance, 1000),
}


def replicate(instance, n, estimator, thresholds):
    p, q, task = instance
    return [
        monte_carlo_distances(
            p, q, task, n=n, rng=np.random.default_rng([7, seed]), estimator=estimator, thresholds=thresholds
        )
        for seed in range(SEEDS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["bridge", "one-sided"])
@pytest.mark.parametrize("name", sorted(INSTANCES))
def test_intervals_cover_at_the_stated_rate(name, estimator):
    make, n = INSTANCES[name]
    instance, thresholds = make(), (1.5,)
    exact = enumeration_distances(*instance, thresholds=thresholds)
    runs = replicate(instance, n, estimator, thresholds)
    fewest = binom.ppf(1e-4, SEEDS, 0.95)  # 176 of 200
    total, checks = 0.0, 0
    for metric in SAMPLED:
        for h in {0, instance[2].horizon // 2, instance[2].horizon - 1}:
            value = exact[metric].values[h]
            if np.isinf(value) or (metric == "coverage" and value == 0):
                continue
            inside = sum(
                bool(np.all((run[metric].lower[h] <= value) & (value <= run[metric].upper[h]))) for run in runs
            )
            assert inside >= fewest, (metric, h)
            total, checks = total + inside, checks + 1
    assert checks >= 6
    assert total / checks < 0.985 * SEEDS  # nor are they too wide


@pytest.mark.slow
def test_relative_errors_of_bridge_and_one_sided():
    """D_H^2(10) = .052646; relative RMSE at n = 4000 of 6.8 % and 14.2 %."""
    instance = theory_instance()
    exact = automaton_distances(*instance)["hellinger2"].final
    assert round(exact, 6) == 0.052646
    for estimator, stated in (("bridge", 0.068), ("one-sided", 0.142)):
        values = np.array([run["hellinger2"].final for run in replicate(instance, 4000, estimator, (2.0,))])
        rmse = np.sqrt(np.mean((values - exact) ** 2)) / exact
        assert abs(rmse - stated) < 3 * stated / np.sqrt(2 * SEEDS)
        assert abs(values.mean() - exact) < 4 * rmse * exact / np.sqrt(SEEDS)


@pytest.mark.parametrize("estimator", ["bridge", "one-sided"])
@pytest.mark.parametrize("name", sorted(INSTANCES))
def test_unbiased_with_honest_standard_errors(name, estimator):
    """Without absolute continuity too: 2 - 2 E_P sqrt(Q / P) needs no Q << P."""
    make, n = INSTANCES[name]
    instance = make()
    exact = enumeration_distances(*instance, thresholds=(1.5,))
    curves = monte_carlo_distances(
        *instance, n=50 * n, rng=np.random.default_rng(11), estimator=estimator, thresholds=(1.5,)
    )
    for metric, curve in curves.items():
        value = exact[metric].values
        finite = np.isfinite(value)
        gap = np.abs(curve.values[finite] - value[finite])
        assert (gap <= 4.5 * curve.std_error[finite] + 1e-12).all(), metric
        assert np.isposinf(curve.values[~finite]).all()
        assert (curve.lower <= curve.values).all() and (curve.values <= curve.upper).all()
        assert curve.n == 50 * n and curve.method == f"monte carlo ({estimator})"


def test_variance_bound_of_the_bridge():
    """n Var <= 2 D - D^2 for the squared distance D, even with disjoint supports."""
    for make, n in INSTANCES.values():
        instance = make()
        d = enumeration_distances(*instance)["hellinger2"].values
        curve = monte_carlo_distances(*instance, n=20 * n, rng=np.random.default_rng(5))["hellinger2"]
        assert (20 * n * curve.std_error**2 <= 1.05 * (2 * d - d * d) + 1e-12).all()
    never, always = (TableAutomaton([row], [[0, 0]]) for row in ([1.0, 0.0], [0.0, 1.0]))
    apart = monte_carlo_distances(never, always, PlainTask(2, 3), n=100, rng=np.random.default_rng(0))
    assert apart["hellinger2"].values.tolist() == [2.0] * 3
    assert apart["tv"].values.tolist() == [1.0] * 3
    assert (apart["hellinger2"].lower < 2.0).all() and (apart["hellinger2"].upper == 2.0).all()
    assert np.isposinf(apart["kl"].lower).all() and np.isposinf(apart["kl"].upper).all()
    assert apart["coverage"].values.tolist() == [[1.0] * 6] * 3


def test_equal_laws():
    p, _, task = near_instance()
    curves = monte_carlo_distances(p, p, task, n=1000, rng=np.random.default_rng(0))
    for curve in curves.values():
        assert (curve.values == 0).all() and (curve.lower == 0).all()
        assert ((curve.upper > 0) & (curve.upper < 0.01)).all()


def test_functions_of_extreme_log_ratios():
    ratio = np.array([-np.inf, -800.0, -1e-9, 0.0, 1e-9, 800.0, np.inf])
    np.testing.assert_allclose(HELLINGER2.of_ratio(ratio), [2, 2, 2.5e-19, 0, 2.5e-19, 2, 2], rtol=1e-12)
    np.testing.assert_allclose(TV.of_ratio(ratio), [1, 1, 5e-10, 0, 5e-10, 1, 1], rtol=1e-12)
    np.testing.assert_allclose(KL.of_ratio(ratio), [2, 2, 0, 0, 0, 1598, np.inf], rtol=1e-12, atol=1e-17)
    moderate = np.linspace(-5, 5, 101)
    p = 2 / (1 + np.exp(-moderate))  # P / M
    q = 2 / (1 + np.exp(moderate))  # Q / M
    np.testing.assert_allclose(HELLINGER2.of_ratio(moderate), (np.sqrt(p) - np.sqrt(q)) ** 2, atol=1e-14)
    np.testing.assert_allclose(TV.of_ratio(moderate), np.abs(p - q) / 2, atol=1e-14)
    np.testing.assert_allclose(KL.of_ratio(moderate), p * moderate - p + q, atol=1e-14)


def test_running_log_ratios_after_an_exclusion():
    inf, nan = np.inf, np.nan
    log_p = np.array([[-1.0, -1.0, -1.0], [-1.0, -inf, nan], [-1.0, -2.0, -1.0]])
    log_q = np.array([[-2.0, -inf, nan], [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    expected = [[1.0, inf, inf], [0.0, -inf, -inf], [0.0, -1.0, -1.0]]
    assert module.running_log_ratio(log_p, log_q).tolist() == expected
    with pytest.raises(ValueError, match="NaN"):
        module.running_log_ratio(np.array([[-1.0, nan, -inf]]), np.array([[-1.0, -1.0, -1.0]]))


def test_same_seed_same_bytes_and_block_independent_moments(monkeypatch):
    p, q, task = theory_instance()
    runs = [monte_carlo_distances(p, q, task, n=500, rng=np.random.default_rng(1)) for _ in range(2)]
    for metric in SAMPLED:
        assert runs[0][metric].values.tobytes() == runs[1][metric].values.tobytes()
    demos = collect(task, 997, np.random.default_rng(2), expert_log_probs=True)
    whole = one_sided_distances(demos, q)
    monkeypatch.setattr(module, "BLOCK_TOKENS", 70)  # 7 sequences at a time, and a rest
    for metric, curve in one_sided_distances(demos, q).items():
        np.testing.assert_allclose(curve.values, whole[metric].values, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(curve.std_error, whole[metric].std_error, rtol=1e-9, atol=1e-15)


def peak_memory(p, q, task, n):
    """Bytes that an estimate takes at most."""
    tracemalloc.start()
    monte_carlo_distances(p, q, task, n=n, rng=np.random.default_rng(0), metrics=["tv"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_a_large_vocabulary_stays_in_memory():
    """The laws after 2000 prefixes, 8192 tokens each, would be several arrays of 131 MB."""
    assert peak_memory(UniformPolicy(8192), UniformPolicy(8192), PlainTask(8192, 2), 4000) < 130e6


def test_one_sided_from_demonstrations():
    p, q, task = theory_instance()
    demos = collect(task, 20_000, np.random.default_rng(4), expert_log_probs=True)
    exact = automaton_distances(p, q, task)
    stored, computed = one_sided_distances(demos, q), one_sided_distances(demos, q, p=p)
    for metric in SAMPLED:
        np.testing.assert_allclose(stored[metric].values, computed[metric].values, rtol=1e-12)
        gap = np.abs(stored[metric].values - exact[metric].values)
        assert (gap <= 4.5 * stored[metric].std_error + 1e-12).all()


@pytest.mark.slow
def test_large_n_stays_in_memory():
    """10^5 sequences of 256 tokens would be several arrays of 200 MB; the blocks keep it to tens."""
    peak = peak_memory(BernoulliPolicy(0.01), BernoulliPolicy(0.011), PlainTask(2, 256), 20_000)
    assert peak < 60e6  # one array of (20000, 256) float64 takes 41 MB; several would be needed


def test_wilson_is_the_bernoulli_case():
    """... with Clopper and Pearson's one-sided tail where it is the longer one: at a few events or failures."""
    n = 57
    for confidence in (0.95, 0.5, 0.999):
        for k in (0, 1, 3, 20, 30, 56, 57):
            x = k / n
            wilson = binomtest(k, n).proportion_ci(confidence, method="wilson")
            at_least, at_most = (
                binomtest(k, n, alternative=side).proportion_ci(confidence, method="exact")
                for side in ("greater", "less")
            )
            expected = np.array([min(wilson.low, at_least.low), max(wilson.high, at_most.high)])
            if k == 0 or k == n:  # no spread at all: what is unseen decides
                expected = np.array([wilson.low, wilson.high])
            for bound in (1.0, 2.0):
                found = score_interval(
                    bound * x, bound * np.sqrt(x * (1 - x) / n), n, bound=bound, confidence=confidence
                )
                np.testing.assert_allclose(found, bound * expected, atol=1e-9)


def test_score_interval_tends_to_the_normal_one():
    mean, std_error = np.array([0.3, 0.7]), np.array([1e-5, 2e-5])
    for bound in (1.0, 2.0, np.inf):
        np.testing.assert_allclose(
            score_interval(mean, std_error, 10**9, bound=bound), normal_interval(mean, std_error), atol=1e-8
        )
    lower, upper = score_interval([0.0, np.inf], [0.0, 0.0], 100, bound=np.inf)
    assert lower.tolist() == [0.0, np.inf] and upper[1] == np.inf and 0.07 < upper[0] < 0.08
