"""Every interval: its level is an argument, it is never narrower than the draws can show, and it holds."""

import itertools
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from distance_instances import PlainTask
from hypothesis import example, given
from hypothesis import strategies as st
from laws import examples
from scipy import optimize, stats

from experiments import calibration
from experiments.charts import new_figure, plot_series
from experiments.summary import Series, mean_interval, paired_difference, slope_interval
from ntp_envs import (
    BernoulliPolicy,
    Demonstrations,
    GreedyPolicy,
    TableAutomaton,
    UniformPolicy,
    approximation_factor,
    collect,
    distance,
    distance_curves,
    make_task,
)
from ntp_envs.distances import (
    TWO_SAMPLE_METHODS,
    bridge_distances,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    enumeration_distances,
    monte_carlo_distances,
    one_sided_distances,
    score_interval,
    two_sample_test,
)
from ntp_envs.evaluation import backtracking_search, evaluate
from ntp_envs.intervals import one_sided_hellinger2_interval
from ntp_envs.text.score import BitsPerChar
from ntp_envs.wrappers import RolloutDistance

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Z2 = stats.norm.ppf(0.975) ** 2
NOMINAL = 0.93  # what an interval of 95 % must cover in every case it is documented for


def enough(covered, repetitions):
    """Whether so many of the repetitions agree with a coverage of 93 % (error 1e-3)."""
    return covered >= stats.binom.ppf(1e-3, repetitions, NOMINAL)


# -- the level is an argument ------------------------------------------------------------------------------------------


def rollout_curve(metric, method, **options):
    env = RolloutDistance(gym.make("ntp/Contamination-v0", horizon=4), window=60, policy=UniformPolicy(2))
    rng = np.random.default_rng(0)
    for episode in range(60):
        env.reset(seed=episode)
        for _ in range(4):
            env.step(int(rng.integers(2)))
    return env.curve(metric, method=method, **options)


def measures():
    """``f(confidence=...)`` to the lower and upper ends of each of the suite's intervals, by name."""
    task, rng = make_task("Contamination", horizon=4, eps=0.1, p=0.05, q=0.7, theta_min=0.05), np.random.default_rng(5)
    coin, fair = BernoulliPolicy(0.3, on="flips"), UniformPolicy(2)
    p, q = collect(task, 60, rng, expert_log_probs=True), collect(task, 50, rng, policy=fair)
    gammas = rng.gamma(3.0, size=(3, 6))

    def ends(curve):
        return curve.lower, curve.upper

    def sampled(**options):
        return distance(task.expert, coin, task, method="monte carlo", n=60, **options)

    return {
        "distance": lambda **o: ends(sampled(**o)),
        "distance, one-sided": lambda **o: ends(
            distance(task.expert, coin, task, method="monte carlo (one-sided)", **o)
        ),
        "distance, kl": lambda **o: ends(sampled(metric="kl", **o)),
        "distance, coverage": lambda **o: ends(sampled(metric="coverage", **o)),
        "distance_curves": lambda **o: ends(
            distance_curves(task.expert, coin, task, method="monte carlo", n=60, metrics=["tv"], **o)["tv"]
        ),
        "one_sided_distances": lambda **o: ends(one_sided_distances(p, fair, metrics=["kl"], **o)["kl"]),
        "bridge_distances": lambda **o: ends(
            bridge_distances(p, q, p=task.expert, q=fair, metrics=["hellinger2"], **o)["hellinger2"]
        ),
        "approximation_factor": lambda **o: approximation_factor(
            task, coin, method="monte carlo", n=60, with_interval=True, **o
        )[1:],
        **{
            f"two_sample_test, {method}": lambda method=method, **o: ends(
                two_sample_test(p, q, rng=np.random.default_rng(0), method=method, **o).curve
            )
            for method in TWO_SAMPLE_METHODS
        },
        **{
            f"curve of a wrapper, {method}": lambda metric=metric, method=method, **o: ends(
                rollout_curve(metric, method, **o)
            )
            for metric, method in (("hellinger2", "bridge"), ("hellinger2", "one-sided"), ("ngram_tv", "n-gram"))
        },
        **{
            f"evaluate, {measure}": lambda measure=measure, **o: evaluate(
                coin, task, demonstrations=p, rng=np.random.default_rng(0)
            ).interval(measure, **o)
            for measure in ("forced_accuracy", "sampled_exact", "cross_entropy", "perplexity", "bits_per_token")
        },
        "a search": lambda **o: backtracking_search(
            make_task("Snowball", horizon=5).sloppy_copier(),
            make_task("Snowball", horizon=5),
            np.zeros((30, make_task("Snowball", horizon=5).prompt_length), np.int64),
            rng=np.random.default_rng(0),
        ).interval(**o),
        "bits a character": lambda confidence=0.95: BitsPerChar.of(
            np.log(np.random.default_rng(0).random(500)), np.ones(500, np.int64)
        ).interval_at(confidence),
        "replicates": lambda **o: mean_interval(gammas[0], np.random.default_rng(0), **o)[1:],
        "many replicates": lambda **o: mean_interval(np.tile(gammas, 2), np.random.default_rng(0), **o)[1:],
        "a paired difference": lambda **o: paired_difference(*gammas[:2], np.random.default_rng(0), **o)[1:],
        "a slope": lambda **o: slope_interval([1, 2, 4], gammas, **o)[1:],
    }


NAMES = list(measures())


@pytest.mark.parametrize("name", NAMES)
def test_the_level_is_an_argument_of_every_interval(name):
    measure = measures()[name]
    half, default, usual, nearly = (
        np.array(measure(**({} if level is None else {"confidence": level}))) for level in (0.5, None, 0.95, 0.999)
    )
    np.testing.assert_array_equal(default, usual)
    slack = 1e-12
    assert (nearly[0] <= usual[0] + slack).all() and (usual[0] <= half[0] + slack).all(), "intervals are nested"
    assert (nearly[1] >= usual[1] - slack).all() and (usual[1] >= half[1] - slack).all()
    assert (nearly[1] - nearly[0] > half[1] - half[0]).any()
    for bad in (0.0, 1.0, 95, -0.1):
        with pytest.raises(ValueError, match=rf"confidence={bad} must lie in \(0, 1\)"):
            measure(confidence=bad)
    with pytest.raises(TypeError, match="confidence='95 %'"):
        measure(confidence="95 %")


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("dist", "one_", "bridge", "two", "curve"))]
)
def test_all_lengths_together_is_bonferroni(name):
    measure = measures()[name]
    count = np.size(measure()[0])
    together, each = measure(confidence=0.9, simultaneous=True), measure(confidence=1 - 0.1 / count)
    np.testing.assert_allclose(together, each, rtol=1e-9)
    with pytest.raises(TypeError, match="simultaneous='yes' must be True or False"):
        measure(simultaneous="yes")


def test_a_curve_says_what_its_band_is():
    task = make_task("Contamination", horizon=4)
    sampled = {"metric": "tv", "method": "monte carlo", "n": 100}
    policy = UniformPolicy(2)
    assert distance(task.expert, policy, task, **sampled).band == "95 % at each h"
    together = distance(task.expert, policy, task, **sampled, confidence=0.9, simultaneous=True)
    assert together.band == "90 % for all 4 values together (Bonferroni)"
    assert distance(task.expert, policy, task).band == "" and not distance(task.expert, policy, task).unseen
    figure, axes = new_figure("title", "horizon H", "y")
    line = np.arange(3.0)
    plot_series(axes, Series(line, line, line - 1.0, line + 1.0), "log-loss")
    plot_series(axes, Series(line, line, line - 1.0, line + 1.0), "rho")
    assert [text.get_text() for text in figure.texts[1:]] == ["bands: 95 % at each point"]
    figure, axes = new_figure("title", "horizon H", "y")
    plot_series(axes, Series(line, line, line, line), "log-loss")
    assert len(figure.texts) == 1  # the title


# -- no interval is narrower than what the draws can show --------------------------------------------------------------


@examples(100)
@given(
    share=st.floats(0, 1),
    spread=st.floats(0, 1),
    n=st.integers(1, 10**6),
    bound=st.sampled_from([1.0, 2.0, 7.5]),
)
@example(share=1.024e-7, spread=0.0, n=2000, bound=2.0)
@example(share=1.0, spread=0.0, n=1, bound=1.0)
def test_a_score_interval_has_room_for_an_event_that_n_draws_miss(share, spread, n, bound):
    error = bound * spread * np.sqrt(share * (1 - share) / n)
    lower, upper = score_interval(bound * share, error, n, bound=bound)
    missed = Z2 / (n + Z2)
    slack = 1e-12 * bound
    assert 0.0 <= lower <= (1 - missed) * bound * share + slack
    assert bound + slack >= upper >= (1 - missed) * bound * share + missed * bound - slack
    wilson = stats.binomtest(0, n).proportion_ci(method="wilson").high
    assert missed == pytest.approx(wilson)


@pytest.mark.parametrize("n", [500, 2000])
def test_draws_that_are_all_alike_leave_room_for_a_slip(n):
    """The expert writes one sequence, the policy slips now and then: most samples show two constants."""
    task = make_task("Tightrope", horizon=64, eps=1e-5)
    policy = task.policy_class.policy(1e-5)
    exact = {metric: distance(task.expert, policy, task, metric=metric).final for metric in ("hellinger2", "tv", "kl")}
    alike = 0
    for seed in range(8):
        curves = monte_carlo_distances(task.expert, policy, task, n=n, rng=np.random.default_rng(seed), metrics=exact)
        for metric, curve in curves.items():
            assert curve.lower[-1] <= exact[metric] <= curve.upper[-1], (metric, seed)
            alike += curve.std_error[-1] < 1e-12
            assert curve.unseen == pytest.approx(Z2 / (n / 2 + Z2))
    assert alike, "or nothing has been tried"


def test_draws_that_are_nearly_alike_are_no_better():
    """A policy that is the expert's but for slips: the log-ratios differ by 1e-9 and tell nothing of a slip."""
    p = TableAutomaton([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], [[0, 0, 1], [1, 1, 1]])
    slip = 4e-3
    q = TableAutomaton(
        [[0.5 * (1 - slip), 0.5 * (1 - slip) - 1e-9, slip + 1e-9], [0.5, 0.5, 0.0]], [[0, 0, 1], [1, 1, 1]]
    )
    task = PlainTask(3, 2)
    truth = enumeration_distances(p, q, task, metrics=["hellinger2", "tv"])
    inside = dict.fromkeys(truth, 0)
    for seed in range(150):
        found = monte_carlo_distances(p, q, task, n=200, rng=np.random.default_rng(seed), metrics=list(truth))
        for metric, curve in found.items():
            inside[metric] += curve.lower[-1] <= truth[metric].final <= curve.upper[-1]
    assert all(enough(count, 150) for count in inside.values()), inside


@pytest.mark.parametrize(
    ("n_p", "n_q", "slip"),
    [
        (1000, 4, 0.2),
        (1000, 10, 0.2),
        (1000, 20, 0.1),
        (5000, 50, 0.02),
        (200, 200, 0.05),
        (4, 1000, 0.2),
        (500, 7, 0.4),
    ],
)
def test_the_smaller_of_two_samples_decides(n_p, n_q, slip):
    """P is one sequence, Q slips; the number of slips decides everything, so coverage is a sum over it."""
    p, q = BernoulliPolicy(0.0), BernoulliPolicy(slip)
    truth = {"hellinger2": 2.0 - 2.0 * np.sqrt(1.0 - slip), "tv": slip}
    covered = dict.fromkeys(truth, 0.0)
    slips = np.arange(n_q + 1)
    for k, mass in zip(slips, stats.binom.pmf(slips, n_q, slip)):
        if mass < 1e-6:
            continue
        tokens = (np.arange(n_q) < k).astype(np.int64)[:, None]
        samples = (
            Demonstrations(np.zeros((len(t), 0), int), t, vocab_size=2) for t in (np.zeros((n_p, 1), int), tokens)
        )
        for metric, curve in bridge_distances(*samples, p=p, q=q, metrics=list(truth)).items():
            covered[metric] += mass * bool(curve.lower[0] <= truth[metric] <= curve.upper[0])
            assert curve.unseen == pytest.approx(Z2 / (min(n_p, n_q) + Z2))
    assert min(covered.values()) >= NOMINAL, covered


def test_kl_says_what_it_cannot_show():
    task = make_task("Contamination", horizon=8)
    policy = BernoulliPolicy(task.p, on="flips")
    curves = monte_carlo_distances(task.expert, policy, task, n=200, rng=np.random.default_rng(0))
    assert curves["kl"].values[-1] < 1e-6 < 1e-3 < distance(task.expert, policy, task, metric="kl").final
    assert "probability below 0.037 under one law" in curves["kl"].caveat and "no bound" in curves["kl"].caveat
    assert curves["hellinger2"].caveat == "" and distance(task.expert, policy, task, metric="kl").caveat == ""


# -- one-sided squared Hellinger ---------------------------------------------------------------------------------------


@examples(100)
@given(mean=st.floats(-3, 2), n=st.integers(2, 10**5), confidence=st.sampled_from([0.5, 0.95, 0.999]))
@example(mean=0.0, n=100, confidence=0.95)
@example(mean=2.0, n=100, confidence=0.95)
@example(mean=2.0**-22, n=2, confidence=0.95)
def test_the_one_sided_interval_solves_its_inequality(mean, n, confidence):
    z = stats.norm.ppf(0.5 + confidence / 2)

    def standardised(d):
        return abs(mean - d) - z * np.sqrt(4 * d * (1 - d / 4) / n)

    lower, upper = one_sided_hellinger2_interval(mean, n, confidence=confidence)
    assert 0.0 <= lower <= max(mean, 0.0) + 1e-12 and max(mean, 0.0) - 1e-12 <= upper <= 2.0
    grid = np.linspace(0.0, 2.0, 20_001)[1:]
    agree = grid[standardised(grid) <= 0.0]
    assert ((lower - 1e-9 <= agree) & (agree <= upper + 1e-9)).all()
    if len(agree) and mean >= 0.0:
        for end in (lower, upper):
            assert end in (0.0, 2.0) or abs(standardised(end)) < 1e-9
    if not len(agree) and 0.0 < upper < 2.0 and mean < -1e-3:  # the D that agrees best, in standard errors
        best = optimize.minimize_scalar(
            lambda d: (mean - d) ** 2 / (d * (1 - d / 4)),
            bounds=(1e-12, 2.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert upper == pytest.approx(best.x, abs=1e-4) or standardised(upper) <= 1e-6


def flip_laws(task, theta):
    """``(S,)`` probabilities of all sequences after one prompt, under the expert and under the coin theta."""
    tokens = np.array(list(itertools.product((0, 1), repeat=task.horizon)))
    prompts = np.zeros((len(tokens), task.prompt_length), np.int64)
    return (
        np.exp(policy.log_probs(prompts, tokens).sum(axis=1))
        for policy in (task.expert, BernoulliPolicy(theta, on="flips"))
    )


@pytest.mark.parametrize("n", [500, 4000, 20_000])
@pytest.mark.parametrize("parameters", [{}, {"eps": 0.02, "p": 0.005, "q": 0.6}, {"eps": 0.2, "p": 0.01, "q": 0.3}])
def test_the_one_sided_interval_covers(n, parameters):
    """Sequences drawn by their numbers, from the enumerated law."""
    task = make_task("Contamination", horizon=8, **parameters)
    rng, repetitions = np.random.default_rng(n), 1000
    for theta in (task.p, (1 - task.eps) * task.p + task.eps * task.q, 0.3):
        p, q = flip_laws(task, theta)
        truth = float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum())
        means = rng.multinomial(n, p / p.sum(), size=repetitions) @ (2.0 - 2.0 * np.sqrt(q / p)) / n
        lower, upper = one_sided_hellinger2_interval(means, n)
        assert enough(((lower <= truth) & (truth <= upper)).sum(), repetitions), theta


def test_the_one_sided_curve_has_that_interval():
    task = make_task("Contamination", horizon=8)
    demos = collect(task, 300, np.random.default_rng(0), expert_log_probs=True)
    policy = BernoulliPolicy(0.01, on="flips")
    curve = one_sided_distances(demos, policy, metrics=["hellinger2"])["hellinger2"]
    gaps = np.cumsum(policy.log_probs(demos.prompts, demos.tokens) - demos.expert_log_probs, axis=1)
    expected = one_sided_hellinger2_interval((2.0 - 2.0 * np.exp(0.5 * gaps)).mean(axis=0), 300)
    np.testing.assert_allclose([curve.lower, curve.upper], expected, atol=1e-12)


# -- two samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, 2, 10])
@pytest.mark.parametrize("order", [1, 2])
def test_samples_that_agree_do_not_depend_on_rounding(ratio, order):
    for n in (*range(28, 40), 97):
        p, q = (Demonstrations(np.zeros((k, 0), int), np.zeros((k, 3), int), vocab_size=2) for k in (n, ratio * n))
        for samples in ((p, q), (q, p)):
            found = two_sample_test(
                *samples, rng=np.random.default_rng(0), method="n-gram", order=order, permutations=3
            )
            missed = Z2 / (n + Z2)  # Wilson's interval of the smaller sample
            assert (found.curve.values == 0.0).all() and (found.p_values == 1.0).all()
            np.testing.assert_allclose([found.curve.lower, found.curve.upper], [[0.0] * 3, [missed] * 3], atol=1e-12)


@pytest.mark.parametrize("method", ["n-gram", "mmd"])
@pytest.mark.parametrize(("n_p", "n_q"), [(300, 30), (30, 300), (100, 100), (1000, 20)])
def test_rare_events_are_covered(method, n_p, n_q):
    """P never writes a 1, Q rarely; the number of ones decides everything, so coverage is a sum over it."""
    options = {"n-gram": {"order": 1, "permutations": 1}, "mmd": {"permutations": 19}}[method]
    counts = np.arange(min(n_q, 40) + 1)
    ends = []
    for k in counts:
        p, q = np.zeros((n_p, 1), int), (np.arange(n_q) < k).astype(np.int64)[:, None]
        samples = (Demonstrations(np.zeros((len(t), 0), int), t, vocab_size=2) for t in (p, q))
        curve = two_sample_test(*samples, rng=np.random.default_rng(int(k)), method=method, **options).curve
        ends.append((curve.lower[0], curve.upper[0]))
    lower, upper = np.array(ends).T
    for events in (0.1, 0.17, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0):
        rate = events / n_q
        truth = rate if method == "n-gram" else 2.0 * rate**2
        law = stats.binom.pmf(counts, n_q, rate)
        inside = (lower <= truth) & (truth <= upper)
        assert law[inside].sum() >= NOMINAL, (events, law[inside].sum())


def test_mmd_of_samples_that_agree_has_room_for_what_neither_shows():
    p, q = (Demonstrations(np.zeros((n, 0), int), np.zeros((n, 2), int), vocab_size=2) for n in (40, 400))
    curve = two_sample_test(p, q, rng=np.random.default_rng(0), method="mmd").curve
    for h, upper in enumerate(curve.upper, 1):
        event = Z2 / (40 + Z2)  # of the smaller sample's law, at the first token
        assert curve.lower[h - 1] <= 0.0 and upper >= h * 2.0 * event**2


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_cross_entropy_that_rests_on_rare_documents_is_in_its_interval(n):
    task = make_task("Contamination", horizon=8)
    policy = BernoulliPolicy(task.p, on="flips")
    p, q = flip_laws(task, task.p)
    truth = float(-p @ np.log(q)) / 8
    rows = np.arange(60)
    found = [evaluate(policy, task, n=n, rng=np.random.default_rng(seed), samples=0) for seed in rows]
    ends = np.array([each.interval("mean_cross_entropy") for each in found])
    assert np.mean([each.mean_cross_entropy < 0.1 * truth for each in found]) > 0.2, "or there is nothing to show"
    assert enough(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).sum(), len(rows))
    for each, (lower, upper) in zip(found, ends):
        assert each.interval("perplexity") == pytest.approx((np.exp(lower), np.exp(upper)))
        assert each.interval("bits_per_token") == pytest.approx((lower / np.log(2), upper / np.log(2)))
    assert f"probability below {Z2 / (n + Z2):.2g} may not be among these {n}" in found[0].caveat
    assert f"{-np.log(task.p):.3g} nats a token" in found[0].caveat and found[0].caveat in found[0].table()


def test_what_a_token_may_cost_is_known_or_said_not_to_be():
    task = make_task("Contamination", horizon=8)
    fair = evaluate(UniformPolicy(2), task, n=50, rng=np.random.default_rng(0))
    np.testing.assert_allclose(fair.interval("mean_cross_entropy"), np.log(2), rtol=1e-12)
    sure = evaluate(GreedyPolicy(task.expert), task, n=50, rng=np.random.default_rng(0))
    assert np.isinf(sure.cross_entropy_range[1]).all() and "no bound" in sure.caveat
    lower, upper = sure.interval("mean_cross_entropy")
    assert lower == 0.0 < upper < np.inf


@examples(30)
@given(seed=st.integers(0, 2**32 - 1), sigma=st.floats(0.1, 2.0))
def test_weights_never_make_an_interval_shorter_than_wilson_for_what_they_are_worth(seed, sigma):
    rng = np.random.default_rng(seed)
    task = make_task("Contamination", horizon=3, eps=0.3, p=0.1, q=0.6, theta_min=0.1)
    drawn = collect(task, 40, rng)
    demos = Demonstrations(drawn.prompts, drawn.tokens, vocab_size=2, weights=rng.lognormal(sigma=sigma, size=40))
    found = evaluate(UniformPolicy(2), task, demonstrations=demos, rng=rng, samples=0)
    worth = demos.weights.sum() ** 2 / (demos.weights**2).sum()
    for measure in ("forced_exact", "sampled_exact", "sampled_token_accuracy"):
        x = getattr(found, measure)
        centre, half = (x + Z2 / (2 * worth)), np.sqrt(Z2 * (x * (1 - x) / worth + Z2 / (4 * worth**2)))
        lower, upper = found.interval(measure)
        assert lower <= (centre - half) / (1 + Z2 / worth) + 1e-9
        assert upper >= (centre + half) / (1 + Z2 / worth) - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 300])
def test_weighted_shares_are_covered(n):
    task = make_task("Contamination", horizon=3, eps=0.3, p=0.1, q=0.6, theta_min=0.1)
    rng, inside, repetitions = np.random.default_rng(0), np.zeros(2), 300
    for _ in range(repetitions):
        drawn = collect(task, n, rng)
        demos = Demonstrations(drawn.prompts, drawn.tokens, vocab_size=2, weights=rng.lognormal(size=n))
        found = evaluate(UniformPolicy(2), task, demonstrations=demos, rng=rng, samples=0)
        for i, (measure, truth) in enumerate((("sampled_exact", 0.125), ("sampled_token_accuracy", 0.5))):
            lower, upper = found.interval(measure)
            inside[i] += lower <= truth <= upper
    assert all(enough(count, repetitions) for count in inside), inside


# -- bounds on coverage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [2.3e-16, 1e-12, 1e-10, 1e-9, 1.2e-7, 1e-5, 1e-3, 1.0])
def test_bounds_on_the_coverage_profile_hold_near_one(excess):
    """Against the package's own profile, ties included, of equal laws and of laws a hair apart."""
    threshold, task = 1.0 + excess, PlainTask(2, 1)
    for shift in (0.0, 1e-7, 1e-4):
        p, q = BernoulliPolicy(0.3 + shift), BernoulliPolicy(0.3)
        exact = enumeration_distances(p, q, task, thresholds=[threshold])
        (share,) = exact["coverage"].values[-1]
        bounds = (
            coverage_bound_kl(exact["kl"].final, threshold),
            coverage_bound_hellinger2(exact["hellinger2"].final, threshold),
        )
        assert all(share <= bound <= 1.0 for bound in bounds), (shift, bounds)


@pytest.mark.parametrize("threshold", [1.0 + 1e-7, 1.0 + 1e-6, 1.0 + 1e-5])
def test_the_bracket_of_the_kl_bound_keeps_its_accuracy(threshold):
    from fractions import Fraction

    x = threshold - 1.0  # log N - 1 + 1/N = x^2/2 - 2 x^3/3 + 3 x^4/4 ...; a tie of 1e-9 is counted
    log_n = Fraction(x) - Fraction(x) ** 2 / 2 + Fraction(x) ** 3 / 3 - Fraction(1, 10**9)
    bracket = sum((-1) ** k * log_n**k / Fraction(int(np.prod(range(1, k + 1)))) for k in range(2, 8))
    assert float(coverage_bound_kl(1e-3 * float(bracket), threshold)) == pytest.approx(1e-3, rel=1e-7)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_calibration_runs_in_a_small_form(tmp_path):
    page = tmp_path / "calibration.md"
    calibration.main(["--repetitions", "2", "--only", "share", "--out", str(page)])
    assert calibration.COMMAND in page.read_text()
    cells = calibration.calibration_cells()
    assert len({(cell.interval, cell.case) for cell in cells}) == len(cells)
    for name, every in itertools.groupby(cells, key=lambda cell: cell.interval):
        (cell, *_) = every
        result = calibration.run_cell(cell, 2)
        assert result.repetitions == 2 and np.isfinite(result.width) and 0.0 <= result.coverage <= 1.0, name


def test_the_table_in_the_documentation_is_that_of_the_script():
    """Every cell of today, no other, made by the command that it names, and none of the documented ones short."""
    text = (Path(calibration.__file__).parents[1] / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert f"`{calibration.COMMAND}`" in text and calibration.__doc__.splitlines()[2].strip() == calibration.COMMAND
    documented, beyond = text.split("## Beyond what the draws can show")
    for part, is_documented in ((documented, True), (beyond, False)):
        rows = [[field.strip() for field in line.strip("|").split("|")] for line in part.splitlines() if "%" in line]
        rows = [row for row in rows if len(row) == 7]
        cells = [cell for cell in calibration.calibration_cells() if cell.documented is is_documented]
        assert [(row[0], row[1], int(row[2])) for row in rows] == [
            (cell.interval, cell.case, cell.repetitions) for cell in cells
        ]
        for row in rows if is_documented else ():
            share, repetitions = float(row[3].split()[0]) / 100, int(row[2])
            assert enough(round(share * repetitions), repetitions), row


def test_what_an_interval_is_stands_in_one_file():
    """Quantiles are taken, and the kind of an interval is named to a reader, by `ntp_envs.intervals` only."""
    root = Path(__file__).parent.parent
    files = [path for package in ("ntp_envs", "agents", "experiments") for path in (root / package).rglob("*.py")]
    kinds = re.compile(r"\b(betaincinv|gammaincinv|stdtrit|ndtri|NormalDist|proportion_ci|ppf)\b|Wilson")
    assert {path.relative_to(root).as_posix() for path in files if kinds.search(path.read_text())} == {
        "ntp_envs/intervals.py"
    }
