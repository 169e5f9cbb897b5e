"""Two-sample tests: statistics against brute force; size, coverage and power over 200 repetitions; learners ranked."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import stats

from agents import LogLossBC, RhoEstimatorBC
from ntp_envs import BernoulliPolicy, Demonstrations, TabularPolicy, collect, distance, make_task
from ntp_envs.distances import (
    TWO_SAMPLE_METHODS,
    bridge_distances,
    classifier_test,
    enumeration_distances,
    mmd_test,
    monte_carlo_distances,
    ngram_test,
    two_sample_test,
)
from ntp_envs.distances import two_sample as two_sample_classifier
from ntp_envs.distances import two_sample as two_sample_mmd
from ntp_envs.distances import two_sample as two_sample_ngram
from ntp_envs.distances.two_sample import permutation_p_values, permuted_labels, pooled_lines
from ntp_envs.intervals import least_share

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SEEDS = 200
H = 5
LENGTHS = [2, 5]


def small_task():
    return make_task("Contamination", horizon=H, eps=0.1, p=0.05, q=0.7, theta_min=0.05)


LEARNERS = {  # flip probability of the learner; None for the expert itself
    "same": None,
    "best in class": 0.05,
    "near": 0.12,
    "far": 0.3,
}


def learner(name):
    theta = LEARNERS[name]
    return small_task().expert if theta is None else BernoulliPolicy(theta, on="flips")


def random_samples(seed, *, n=None):
    rng = np.random.default_rng(seed)
    vocab_size, prompt_length, horizon = int(rng.integers(1, 4)), int(rng.integers(0, 3)), int(rng.integers(1, 6))

    def sample():
        count = int(rng.integers(8, 20)) if n is None else n
        tokens = [rng.integers(0, vocab_size, (count, length)) for length in (prompt_length, horizon)]
        return Demonstrations(*tokens, vocab_size=vocab_size)

    return sample(), sample(), rng


def lines(sample):
    return [tuple(row) for row in np.concatenate([sample.prompts, sample.tokens], axis=1).tolist()]


def all_prefixes(task, policies, length):
    """Every prompt and prefix, as one tuple, with its probability under each policy."""
    tokens = np.array(list(itertools.product(range(task.vocab_size), repeat=length)))
    for prompt, mass in zip(*task.prompt_law()):
        prompts = np.tile(prompt, (len(tokens), 1))
        laws = [mass * np.exp(policy.log_probs(prompts, tokens).sum(axis=1)) for policy in policies]
        for i, row in enumerate(tokens.tolist()):
            yield (*prompt.tolist(), *row), [law[i] for law in laws]


def gram_at(line, end, order):
    """The n-gram that ends before place ``end``, "<" standing for what is before the start."""
    return ("<",) * max(0, order - end) + line[max(0, end - order) : end]


def exact_ngram_tv(task, p, q, order):
    out = []
    for length in range(1, task.horizon + 1):
        gaps = Counter()
        for line, (a, b) in all_prefixes(task, (p, q), length):
            for t in range(1, length + 1):
                gaps[gram_at(line, task.prompt_length + t, order)] += (a - b) / length
        out.append(0.5 * sum(map(abs, gaps.values())))
    return np.array(out)


def exact_mmd2(task, p, q, discount):
    terms = [
        discount**t * sum((a - b) ** 2 for _, (a, b) in all_prefixes(task, (p, q), t))
        for t in range(1, task.horizon + 1)
    ]
    return np.cumsum(terms)


# -- statistics against brute force ------------------------------------------------------------------------------------


def kernel_matrix(p, q, length, discount):
    everything = [line[: p.prompt_length + length] for line in lines(p) + lines(q)]

    def kernel(x, y):
        start = p.prompt_length
        return sum(discount**t for t in range(1, length + 1) if x[: start + t] == y[: start + t])

    return np.array([[kernel(x, y) for y in everything] for x in everything])


def u_statistic(k, label):
    xx, yy, xy = k[np.ix_(label, label)], k[np.ix_(~label, ~label)], k[np.ix_(label, ~label)]
    n, m = len(xx), len(yy)
    return (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()


@examples(30)
@given(seed=st.integers(0, 2**32 - 1), discount=st.sampled_from([1.0, 0.5]))
def test_mmd_is_the_u_statistic_of_the_prefix_kernel(seed, discount):
    p, q, _ = random_samples(seed)
    result = mmd_test(p, q, rng=np.random.default_rng(seed), discount=discount, permutations=9)
    labels = permuted_labels(len(p), len(q), 9, np.random.default_rng(seed))
    assert (labels.sum(axis=1) == len(p)).all() and labels[0, : len(p)].all()
    for length in range(1, p.horizon + 1):
        k = kernel_matrix(p, q, length, discount)
        statistics = np.array([u_statistic(k, label) for label in labels])
        np.testing.assert_allclose(result.curve.values[length - 1], statistics[0], atol=1e-12)
        assert result.p_values[length - 1] == np.mean(statistics >= statistics[0] - 1e-10)
        n, m = len(p), len(q)
        within_p, within_q, across = k[:n, :n], k[n:, n:], k[:n, n:]
        of_p = (within_p.sum(axis=1) - np.diag(within_p)) / (n - 1) - across.mean(axis=1)
        of_q = across.mean(axis=0) - (within_q.sum(axis=1) - np.diag(within_q)) / (m - 1)
        variance = 4 * of_p.var() / n + 4 * of_q.var() / m + statistics[1:].var()
        np.testing.assert_allclose(result.curve.std_error[length - 1] ** 2, variance, atol=1e-12)


@examples(30)
@given(seed=st.integers(0, 2**32 - 1), order=st.integers(1, 9))
def test_ngram_plug_in_counts_ngrams(seed, order):
    p, q, _ = random_samples(seed)
    codes, size = two_sample_ngram.ngram_codes(pooled_lines(p, q), order, p.prompt_length)
    assert sorted(set(codes.ravel().tolist())) == list(range(size))
    labels = permuted_labels(len(p), len(q), 3, np.random.default_rng(seed))
    ours = two_sample_ngram._plug_in(codes, labels, size, np.arange(1, p.horizon + 1))
    for row, label in enumerate(labels):
        for length in range(1, p.horizon + 1):
            gaps = Counter()
            for line, is_p in zip(lines(p) + lines(q), label):
                share = 1 / len(p) if is_p else -1 / len(q)
                for t in range(1, length + 1):
                    gaps[gram_at(line, p.prompt_length + t, order)] += share / length
            np.testing.assert_allclose(ours[row, length - 1], 0.5 * sum(map(abs, gaps.values())), atol=1e-12)


def test_population_inequalities():
    """n-gram TV and the MMD bound TV from below, at every length."""
    rng = np.random.default_rng(0)
    task = make_task("ARLinear", horizon=4)
    for _ in range(5):
        p, q = (TabularPolicy.random(task.vocab_size, 4, rng, prompt_length=task.prompt_length) for _ in range(2))
        tv = enumeration_distances(p, q, task, metrics=["tv"])["tv"].values
        for order in (1, 2, 4):
            assert (exact_ngram_tv(task, p, q, order) <= tv + 1e-12).all()
        for discount in (1.0, 0.6):
            scale = 2 * np.cumsum(discount ** np.arange(1, 5))
            assert (np.sqrt(exact_mmd2(task, p, q, discount) / scale) <= tv + 1e-12).all()


# -- the classifier's bound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [4, 13, 30])
def test_tv_lower_bound_holds_whatever_the_rates(held_out):
    """Its coverage, computed exactly, at every pair of rates on a grid."""
    k = np.arange(held_out + 1)
    bound = two_sample_classifier.tv_lower_bound(*np.broadcast_arrays(k[:, None], k[None, :]), held_out)
    grid = np.concatenate([[0.0, 1e-3, 0.01, 0.03], np.linspace(0.05, 0.95, 19), [0.97, 0.99, 0.999, 1.0]])
    laws = stats.binom.pmf(k, held_out, grid[:, None])
    for (x, law_x), (y, law_y) in itertools.product(zip(grid, laws), repeat=2):
        wrong = (law_x[:, None] * law_y[None, :])[bound > abs(x - y) + 1e-12].sum()
        assert wrong <= 0.05


def test_one_sided_bounds_and_fisher_against_scipy():
    for n, k in ((10, 0), (10, 3), (10, 10), (57, 41)):
        ours = least_share(np.array([k]), n, 0.025)[0]
        theirs = stats.binomtest(k, n, alternative="greater").proportion_ci(0.975, method="exact").low
        assert ours == pytest.approx(theirs, abs=1e-12)
    for hits, alarms in itertools.product((0, 1, 7, 20), repeat=2):
        table = [[hits, alarms], [20 - hits, 20 - alarms]]
        ours = two_sample_classifier._fisher(np.array([hits]), np.array([alarms]), 20)[0]
        assert ours == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, rel=1e-9)


def test_rare_differences_are_seen_through_the_rates():
    """2 % of one law, never in the other: the accuracy of 51 % alone would prove nothing."""
    hits, alarms = np.array([20]), np.array([0])
    assert two_sample_classifier.tv_lower_bound(hits, alarms, 1000)[0] > 0.005
    assert 2 * stats.binomtest(1020, 2000, alternative="greater").proportion_ci(0.95, method="exact").low - 1 < 0


def test_logistic_regression_against_its_optimality_condition():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((300, 4)), np.ones((300, 1))], axis=1)
    is_p = x @ [1.0, -2.0, 0.0, 0.5, 0.3] + rng.logistic(size=300) > 0.8
    w = two_sample_classifier._fit_logistic(x, is_p)
    share = np.where(is_p, 0.5 / is_p.sum(), 0.5 / (~is_p).sum())
    residual = share * (is_p - 1 / (1 + np.exp(-x @ w)))
    np.testing.assert_allclose(residual @ x, np.append(w[:-1], 0) / 300, atol=1e-4)


# -- size, coverage, power ---------------------------------------------------------------------------------------------

OPTIONS = {"classifier": {}, "n-gram": {"permutations": 99}, "mmd": {"permutations": 99}}


def replicate(name, method, n):
    task = small_task()
    runs = []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, n])
        samples = collect(task, n, rng), collect(task, n + 10, rng, policy=learner(name))
        runs.append(two_sample_test(*samples, rng=rng, method=method, lengths=LENGTHS, **OPTIONS[method]))
    return runs


def exact_curve(name, method):
    task, q = small_task(), learner(name)
    if method == "classifier":
        return enumeration_distances(task.expert, q, task, metrics=["tv"])["tv"].values
    return exact_ngram_tv(task, task.expert, q, 2) if method == "n-gram" else exact_mmd2(task, task.expert, q, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", TWO_SAMPLE_METHODS)
@pytest.mark.parametrize("name", LEARNERS)
def test_coverage_size_and_power_over_200_repetitions(name, method):
    exact = exact_curve(name, method)
    runs = replicate(name, method, n=150)
    fewest = stats.binom.ppf(1e-4, SEEDS, 0.95)  # 176 of 200
    for h in LENGTHS:
        inside = sum(run.curve.lower[h - 1] <= exact[h - 1] <= run.curve.upper[h - 1] for run in runs)
        assert inside >= fewest, h
        rejected = sum(run.p_values[h - 1] <= 0.05 for run in runs)
        if name == "same":
            assert rejected <= stats.binom.ppf(1 - 1e-4, SEEDS, 0.05), h  # 23 of 200
    if name == "same" and method != "classifier":  # exact tests: not far below their level either
        rejected = np.mean([run.p_values[H - 1] <= 0.2 for run in runs])
        assert 0.1 <= rejected <= 0.31
    if name == "far" and method == "mmd":  # an honest error estimate: neither too narrow nor too wide
        values = np.array([run.curve.final for run in runs])
        errors = np.mean([run.curve.std_error[-1] for run in runs])
        assert 0.8 < errors / values.std() < 1.3
        assert abs(values.mean() - exact[-1]) < 4 * values.std() / np.sqrt(SEEDS)
    if name == "far":
        power = np.mean([run.p_value <= 0.05 for run in runs])
        assert power > 0.9
        assert np.mean([run.curve.lower[-1] > 0 for run in runs]) > 0.9


@pytest.mark.slow
def test_power_on_contamination():
    """5 % of other documents, against a learner that has given up on them; the n-gram law sees them too."""
    task = make_task("Contamination", horizon=16, eps=0.05, p=0.005, q=0.9, theta_min=0.005)
    q = task.best_in_class().policy
    exact = distance(task.expert, q, task, metric="tv").final
    bounds, p_values, ngrams = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        samples = collect(task, 1500, rng), collect(task, 1500, rng, policy=q)
        result = classifier_test(*samples, rng=rng, lengths=[16])
        bounds.append(result.curve.lower[-1])
        p_values.append(result.p_value)
        ngrams.append(ngram_test(*samples, rng=rng, lengths=[16], permutations=9).curve.lower[-1])
    assert round(exact, 3) == 0.05
    assert np.mean(np.array(bounds) > 0) >= 0.9 and np.mean(np.array(bounds) > exact) <= 0.1
    assert np.mean(np.array(p_values) < 1e-3) >= 0.9
    assert np.mean(np.array(ngrams) > 0.01) >= 0.9


@pytest.mark.slow
def test_they_rank_learners_as_the_exact_distance_does():
    """Log-loss, rho and best in class on Contamination; exact TV .66, .11 and .05."""
    task = make_task("Contamination", horizon=32, eps=0.05, p=0.005, q=0.9, theta_min=0.005)
    data = task.population()
    policies = [
        agent.fit(data, task.policy_class, rng=np.random.default_rng(0)).policy_
        for agent in (LogLossBC(), RhoEstimatorBC())
    ] + [task.best_in_class().policy]
    for metric in ("tv", "hellinger2"):
        exact = [
            distance(task.expert, policy, task, metric=metric, rng=np.random.default_rng(1)).final
            for policy in policies
        ]
        assert sorted(exact, reverse=True) == exact, metric
    for seed in range(3):
        rng = np.random.default_rng(seed)
        expert = collect(task, 3000, rng)
        samples = [collect(task, 3000, rng, policy=policy) for policy in policies]
        for method in ("classifier", "mmd"):
            found = [two_sample_test(expert, q, rng=rng, method=method, lengths=[32]).curve.final for q in samples]
            assert sorted(found, reverse=True) == found, (seed, method)


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TWO_SAMPLE_METHODS)
def test_identical_and_disjoint_samples(method):
    rng = np.random.default_rng(0)
    same = collect(small_task(), 60, rng)
    assert two_sample_test(same, same, rng=rng, method=method).p_value > 0.3
    zeros, ones = (Demonstrations(np.zeros((60, 0), int), np.full((60, 4), token), vocab_size=2) for token in (0, 1))
    result = two_sample_test(zeros, ones, rng=rng, method=method)
    np.testing.assert_allclose(result.curve.values, [2, 4, 6, 8] if method == "mmd" else 1.0)
    assert result.p_value <= 0.005 and result.n_p == result.n_q == 60
    assert (result.curve.lower > 0.5).all()
    nothing = Demonstrations(np.zeros((8, 0), int), np.zeros((8, 3), int), vocab_size=1)
    assert (two_sample_test(nothing, nothing, rng=rng, method=method).p_values == 1.0).all()


@pytest.mark.parametrize("method", TWO_SAMPLE_METHODS)
def test_lengths_seeds_and_blocks(method, monkeypatch):
    task, q = small_task(), learner("near")
    p, q = collect(task, 80, np.random.default_rng(0)), collect(task, 90, np.random.default_rng(1), policy=q)
    run = lambda **options: two_sample_test(p, q, rng=np.random.default_rng(2), method=method, **options)  # noqa: E731
    whole, again, some = run(), run(), run(lengths=[5, 2, 5])
    assert whole.curve.values.tobytes() == again.curve.values.tobytes()
    assert whole.p_values.tobytes() == again.p_values.tobytes()
    assert some.lengths.tolist() == [2, 5]
    for array, full in ((some.curve.values, whole.curve.values), (some.p_values, whole.p_values)):
        assert np.isnan(array[[0, 2, 3]]).all()
        np.testing.assert_allclose(array[[1, 4]], full[[1, 4]], atol=1e-9)
    for module in (two_sample_mmd, two_sample_ngram):
        monkeypatch.setattr(module, "BLOCK", 700)  # a few permutations at a time
    blocks = run()
    np.testing.assert_allclose(blocks.p_values, whole.p_values)
    np.testing.assert_allclose([blocks.curve.lower, blocks.curve.upper], [whole.curve.lower, whole.curve.upper])
    assert "samples only" in whole.curve.method and repr(whole).startswith("TwoSampleResult(DistanceCurve(")


def test_ties_count_as_large():
    assert permutation_p_values(np.array([[0.3], [0.3 - 1e-16], [0.1], [0.5]]))[0] == 0.75


def test_many_tokens_and_long_sequences():
    rng = np.random.default_rng(0)
    samples = [
        Demonstrations(np.zeros((150, 0), int), rng.integers(0, 300, (150, 64)), vocab_size=300) for _ in range(2)
    ]
    for method in TWO_SAMPLE_METHODS:
        assert two_sample_test(*samples, rng=rng, method=method, lengths=[1, 64]).p_value > 0.001


def test_bridge_on_given_sequences():
    """Unequal samples; the same estimator as the one that draws for itself."""
    task, q = small_task(), learner("far")
    exact = enumeration_distances(task.expert, q, task, thresholds=(1.5,))
    rng = np.random.default_rng(0)
    of_p, of_q = collect(task, 20_000, rng), collect(task, 5_000, rng, policy=q)
    curves = bridge_distances(of_p, of_q, p=task.expert, q=q, thresholds=(1.5,))
    for metric, curve in curves.items():
        assert (np.abs(curve.values - exact[metric].values) <= 4.5 * curve.std_error + 1e-12).all(), metric
        assert curve.n == 25_000 and curve.method == "monte carlo (bridge)"
    drawn = monte_carlo_distances(task.expert, q, task, n=10_000, rng=np.random.default_rng(1))
    same = bridge_distances(of_p.subset(np.arange(5000)), of_q, p=task.expert, q=q, metrics=["hellinger2", "tv"])
    for metric, curve in same.items():
        np.testing.assert_allclose(curve.std_error, drawn[metric].std_error, rtol=0.1)
