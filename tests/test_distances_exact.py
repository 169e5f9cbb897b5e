"""Exact distances: automata, prefix trees, closed forms and a brute-force oracle agree."""

import mpmath
import numpy as np
import pytest
from distance_instances import THRESHOLDS, PlainTask, brute_force, random_pair
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import (
    BernoulliMixturePolicy,
    BernoulliPolicy,
    CallablePolicy,
    MixturePolicy,
    NotTractableError,
    RestartedPolicy,
    TableAutomaton,
    TabularPolicy,
    UniformPolicy,
    distance,
    make_task,
)
from ntp_envs.arrays import binomial_log_coefficients
from ntp_envs.distances import automaton_distances, enumeration_distances
from ntp_envs.distances import exact as automaton_module
from ntp_envs.distances import exact as enumeration
from ntp_envs.tasks.bernoulli import count_distance

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

ADDITIVE = ("hellinger2", "kl", "chi2")
instances = st.builds(
    random_pair, st.integers(0, 10**6), zeros=st.booleans(), varying=st.booleans(), near=st.booleans()
)
quick = examples(150)


def same(left, right, *, rtol=1e-12, atol=1e-12):
    np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)


@quick
@given(instances)
def test_automaton_equals_enumeration(instance):
    recursion = automaton_distances(*instance, thresholds=THRESHOLDS)
    tree = enumeration_distances(*instance, thresholds=THRESHOLDS)
    assert set(recursion) >= set(ADDITIVE)
    for metric, curve in recursion.items():  # TV and coverage wherever the recursion vouches for them
        same(curve.values, tree[metric].values)
        assert curve.is_exact and curve.method == "automaton"


@examples(60)
@given(instances)
def test_enumeration_equals_brute_force(instance):
    tree = enumeration_distances(*instance, thresholds=THRESHOLDS)
    oracle = brute_force(*instance)
    assert set(tree) == set(oracle)
    for metric, curve in tree.items():
        same(curve.values, oracle[metric])


@quick
@given(instances)
def test_distances_obey_the_textbook(instance):
    curves = {name: curve.values for name, curve in enumeration_distances(*instance).items()}
    d2, tv, kl, chi2 = (curves[name] for name in ("hellinger2", "tv", "kl", "chi2"))
    slack = 1e-13
    assert (d2 / 2 <= tv + slack).all()
    assert (tv <= np.sqrt(d2 * (1 - d2 / 4)) + slack).all()
    assert (tv <= np.sqrt(kl / 2) + slack).all()
    assert (d2 <= kl + slack).all()
    assert (kl <= np.log1p(chi2) + slack).all()
    for values in (d2, tv, kl, chi2):
        finite = np.where(np.isinf(values), np.finfo(float).max, values)
        assert (np.diff(finite) >= -slack).all()  # reading more tokens can only tell the laws further apart


@pytest.mark.parametrize("horizon", [16, 64, 256])
@pytest.mark.parametrize("theta", [1e-5, 1e-3, 0.3])
def test_contamination_equals_its_closed_form(horizon, theta):
    task = make_task("Contamination", horizon=horizon)
    curves = automaton_distances(task.expert, BernoulliPolicy(theta, on="flips"), task, thresholds=THRESHOLDS)
    for metric in ("hellinger2", "tv", "kl"):
        for length in {1, horizon // 2, horizon}:
            closed = count_distance(task.expert, theta, length, metric)
            same(curves[metric].values[length - 1], closed, atol=1e-15)
    k = np.arange(horizon + 1)
    log_path = task.expert.log_path_probs(k, horizon)
    mass = np.exp(binomial_log_coefficients(horizon) + log_path)
    ratio = log_path - k * np.log(theta) - (horizon - k) * np.log1p(-theta)
    expected = [mass[ratio >= np.log(t)].sum() for t in THRESHOLDS]
    same(curves["coverage"].values[-1], expected)


def test_total_variation_of_a_mixture_at_a_long_horizon():
    expert = BernoulliMixturePolicy([0.5, 0.7], [0.99, 0.01], horizon=1000)
    curves = automaton_distances(expert, BernoulliPolicy(0.502), PlainTask(2, 1000), metrics=["tv", "hellinger2"])
    for metric, curve in curves.items():
        same(curve.final, count_distance(expert, 0.502, 1000, metric), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("horizon", "log_loss", "improper"),
    [
        (16, "14.058", {4: "4.995", 16: "0.000"}),
        (64, "52.721", {4: "16.932", 16: "4.995", 64: "0.000"}),
        pytest.param(256, "199.992", {4: "63.971", 16: "16.932", 64: "4.995"}, marks=pytest.mark.slow),
    ],
)
def test_contamination_table(horizon, log_loss, improper):
    """C_apx of log-loss and of independent chunks, population, to all digits of the published table."""
    task = make_task("Contamination", horizon=horizon)
    best = task.best_in_class().hellinger2

    def factor(policy):
        return (
            f"{automaton_distances(task.expert, policy, task, metrics=['hellinger2'])['hellinger2'].final / best:.3f}"
        )

    flip_rate = (1 - task.eps) * task.p + task.eps * task.q
    assert factor(BernoulliPolicy(flip_rate, on="flips")) == log_loss
    assert {chunk: factor(RestartedPolicy(task.expert, chunk)) for chunk in improper} == improper


@pytest.mark.parametrize("change", [1e-2, 1e-5, 1e-7, 1e-9])
def test_tiny_distances_keep_their_digits(change):
    """Down to 1e-18: against 50 digits, computed from the very log-probabilities that the policies hold."""
    horizon, p, q = 256, BernoulliPolicy(0.3), BernoulliPolicy(0.3 * (1 + change))
    curves = automaton_distances(p, q, PlainTask(2, horizon))
    with mpmath.workdps(50):
        log_p, log_q = ([mpmath.mpf(float(x)) for x in policy.emissions(0)[0]] for policy in (p, q))
        a, b = ([mpmath.exp(x) for x in logs] for logs in (log_p, log_q))
        cross = sum(mpmath.exp((x + y) / 2) for x, y in zip(log_p, log_q))
        local = sum(u * (x - y) - u + v for u, v, x, y in zip(a, b, log_p, log_q))
        squares = sum(u * u / v for u, v in zip(a, b))
        for length in (1, 10, horizon):
            hellinger2 = sum(a) ** length + sum(b) ** length - 2 * cross**length
            kl = local * sum(sum(a) ** t for t in range(length))
            chi2 = squares**length - 2 * sum(a) ** length + sum(b) ** length
            for metric, value in (("hellinger2", hellinger2), ("kl", kl), ("chi2", chi2)):
                same(curves[metric].values[length - 1], float(value), rtol=1e-11, atol=0)
    assert curves["hellinger2"].values[0] < change**2
    tree = enumeration_distances(p, q, PlainTask(2, 10))
    for metric in ADDITIVE:  # a prefix's own log-ratio is a difference of sums of order 10, so fewer digits are left
        same(tree[metric].values, curves[metric].values[:10], rtol=max(1e-12, 1e-14 / change), atol=0)


def test_impossible_tokens():
    task = PlainTask(2, 4)
    fair = TableAutomaton([[0.5, 0.5]], [[0, 0]])
    never = TableAutomaton([[1.0, 0.0]], [[0, 0]])
    for distances in (automaton_distances, enumeration_distances):
        out = distances(fair, never, task)
        assert np.isposinf(out["kl"].values).all() and np.isposinf(out["chi2"].values).all()
        same(out["tv"].values, 1 - 0.5 ** np.arange(1, 5))
        same(out["coverage"].values, np.repeat(out["tv"].values[:, None], 6, axis=1))
        back = distances(never, fair, task)
        same(back["kl"].values, np.arange(1, 5) * np.log(2))
        same(back["chi2"].values, 2.0 ** np.arange(1, 5) - 1)
        apart = distances(never, TableAutomaton([[0.0, 1.0]], [[0, 0]]), task)
        same(apart["hellinger2"].values, 2.0)
        same(apart["tv"].values, 1.0)


def test_flips_are_followed_as_tokens_with_half_the_pairs(monkeypatch):
    horizon, thetas, weights = 20, [0.0, 0.3, 1.0], [0.2, 0.5, 0.3]
    monkeypatch.setattr(automaton_module, "MAX_PAIRS", horizon + 1)
    found = []
    for on in ("tokens", "flips"):
        expert = BernoulliMixturePolicy(thetas, weights, horizon=horizon, on=on)
        task = PlainTask(2, horizon, 1, (0.3, 0.7)) if on == "flips" else PlainTask(2, horizon)
        found.append(automaton_distances(expert, BernoulliPolicy(0.4, on=on), task, thresholds=THRESHOLDS))
        assert expert.on == on
        if on == "flips":  # and what counts flips is not taken for what counts tokens
            other = automaton_distances(
                expert, RestartedPolicy(BernoulliPolicy(0.4), 7), PlainTask(2, 4, 1, (0.3, 0.7))
            )
            same(
                other["hellinger2"].values,
                enumeration_distances(expert, BernoulliPolicy(0.4), PlainTask(2, 4, 1, (0.3, 0.7)))[
                    "hellinger2"
                ].values,
            )
    for metric, curve in found[0].items():
        same(curve.values, found[1][metric].values)


def test_infinite_kl_is_seen_behind_an_underflow():
    """The only prefix that q excludes has probability 1e-400 under p: zero in floating point, but KL is infinite."""
    rare = np.array([[[1 - 1e-200, 1e-200]]] * 2)
    last = [[[0.5, 0.5], [0.5, 0.5]]]
    moves = [[[0, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]]  # state 1 remembers 1, then 1 1
    steps = [np.repeat(rare[0], 2, axis=0), np.repeat(rare[1], 2, axis=0)]
    p = TableAutomaton(np.stack([*steps, last[0]]), moves)
    q = TableAutomaton(np.stack([*steps, [[0.5, 0.5], [1.0, 0.0]]]), moves)
    kl = automaton_distances(p, q, PlainTask(2, 3))["kl"].values
    assert kl[:2].tolist() == [0.0, 0.0] and np.isposinf(kl[2])


def test_chi2_beyond_the_largest_float_is_infinite():
    task = make_task("Contamination", horizon=256)
    chi2 = automaton_distances(task.expert, BernoulliPolicy(1e-5, on="flips"), task, metrics=["chi2"])["chi2"].values
    assert np.isfinite(chi2[:50]).all() and np.isposinf(chi2[-1])
    assert not np.isnan(chi2).any()


def test_one_pair_with_two_log_ratios_decides_no_total_variation():
    """Two coins: one pair of states, but every count of heads has its own ratio."""
    curves = automaton_distances(BernoulliPolicy(0.3), BernoulliPolicy(0.6), PlainTask(2, 5))
    assert set(curves) == set(ADDITIVE)
    # with counts in the states the same law is decided
    counted = BernoulliMixturePolicy([0.3], [1.0], horizon=5)
    tree = enumeration_distances(BernoulliPolicy(0.3), BernoulliPolicy(0.6), PlainTask(2, 5))
    for metric, curve in automaton_distances(counted, BernoulliPolicy(0.6), PlainTask(2, 5)).items():
        same(curve.values, tree[metric].values)


def test_one_sign_suffices_for_total_variation():
    """Pairs that join different log-ratios of one sign still give TV, though not every level of coverage."""
    p = TableAutomaton([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], [[0, 1, 1], [0, 1, 1]])
    q = TableAutomaton([[0.8, 0.15, 0.05], [1.0, 0.0, 0.0]], [[0, 1, 1], [0, 1, 1]])
    task = PlainTask(3, 1)
    curves = automaton_distances(p, q, task, thresholds=(2.0,))
    assert "tv" in curves and "coverage" not in curves
    same(curves["tv"].values, enumeration_distances(p, q, task)["tv"].values)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_blocks_do_not_matter(monkeypatch, block):
    rng = np.random.default_rng(1)
    p, q = (TabularPolicy.random(3, 4, rng, prompt_length=1) for _ in range(2))
    task = PlainTask(3, 4, 1, (0.2, 0.3, 0.5))
    whole = enumeration_distances(p, q, task)
    monkeypatch.setattr(enumeration, "BLOCK", block)
    for metric, curve in enumeration_distances(p, q, task).items():
        same(curve.values, whole[metric].values, rtol=1e-13)


def test_code_tables_and_sorting_agree(monkeypatch):
    """Many states and few reachable pairs: the layer is grouped by sorting instead of by a table."""
    rng = np.random.default_rng(2)
    p, q = (
        TableAutomaton(rng.dirichlet(np.ones(2), size=400), rng.integers(400, size=(400, 2)), int(rng.integers(400)))
        for _ in range(2)
    )
    task = PlainTask(2, 8)
    tree = enumeration_distances(p, q, task)
    for metric, curve in automaton_distances(p, q, task).items():
        same(curve.values, tree[metric].values)


def test_few_possible_prefixes_are_enumerated_at_any_horizon():
    never, rarely = TableAutomaton([[1.0, 0.0]], [[0, 0]]), TableAutomaton([[0.99, 0.01], [0.0, 1.0]], [[0, 1], [1, 1]])
    task = PlainTask(2, 256)
    out = enumeration_distances(never, rarely, task)
    same(out["hellinger2"].values, -2 * np.expm1(np.arange(1, 257) / 2 * np.log(0.99)))
    same(out["tv"].values, -np.expm1(np.arange(1, 257) * np.log(0.99)))


def test_what_a_policy_says_after_an_impossible_prefix_is_ignored():
    def law(prompts, tokens):
        out = np.tile(np.log([0.5, 0.5]), (len(tokens), 1))
        if tokens.shape[1] == 0:
            out[:] = 0.0, -np.inf
        else:
            out[tokens[:, 0] == 1] = np.nan
        return out

    task = PlainTask(2, 3)
    out = enumeration_distances(CallablePolicy(law, 2), BernoulliPolicy(0.5), task)
    same(out["tv"].values, 0.5)
    broken = CallablePolicy(
        lambda prompts, tokens: np.full((len(tokens), 2), np.nan if tokens.shape[1] else np.log(0.5)), 2
    )
    with pytest.raises(ValueError, match="NaN"):
        enumeration_distances(broken, BernoulliPolicy(0.5), task)


def test_refusals(monkeypatch):
    task = make_task("Contamination", horizon=30)
    p, q = task.expert, BernoulliPolicy(0.1, on="flips")
    with pytest.raises(
        NotTractableError, match=r"max_prefixes=1000 .*4294967292 for A=2, H=30, 2 prompts.*monte carlo"
    ):
        enumeration_distances(p, q, task, max_prefixes=1000)
    monkeypatch.setattr(automaton_module, "MAX_PAIRS", 10)
    with pytest.raises(NotTractableError, match=r"pairs of states .* limit is 10.*monte carlo"):
        automaton_distances(p, q, task)
    for distances in (automaton_distances, enumeration_distances):
        with pytest.raises(NotTractableError, match="too many prompts"):
            distances(BernoulliPolicy(0.5), BernoulliPolicy(0.5), PlainTask(2, 3, probabilities=None))


def test_trees_beyond_the_range_of_floats_are_refused_or_sampled_too():
    task = make_task("Contamination", horizon=1100)
    mixed = MixturePolicy([UniformPolicy(2), BernoulliPolicy(0.4)], [0.5, 0.5])
    with pytest.raises(NotTractableError, match="about 1e331"):
        enumeration_distances(task.expert, mixed, task, max_prefixes=100)
    assert distance(task.expert, mixed, task, metric="tv", n=4).n == 4


# -- long horizons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metrics", [("hellinger2",), ("tv", "coverage", "kl", "hellinger2")])
def test_pairs_of_negligible_mass_are_dropped_and_bounded(metrics, monkeypatch):
    task = make_task("Contamination", horizon=40, eps=0.1, p=0.1, q=0.7)
    asked = (task.expert, BernoulliPolicy(0.2, on="flips"), task)
    whole = automaton_distances(*asked, metrics=metrics)
    monkeypatch.setattr(automaton_module, "EXACT_HORIZON", 10)
    monkeypatch.setattr(automaton_module, "EXACT_PAIRS", 10)
    monkeypatch.setattr(automaton_module, "DROPPED", 1e-3)
    found = automaton_distances(*asked, metrics=metrics)
    assert list(found) == list(metrics)
    for name, curve in found.items():
        truth, room = whole[name].values, 1e-12
        assert (curve.values <= truth + room).all() and (truth <= curve.upper + room).all()
        if name == "kl":  # of which no bound is known
            np.testing.assert_allclose(curve.values, truth, rtol=1e-12)
            assert curve.method == "automaton"
        else:
            assert curve.method.startswith("automaton (to ") and (curve.values[-1] < truth[-1]).any()
            assert 0 < (curve.upper - curve.values).max() <= 1e-3
