"""`distance` picks the best method, says which, and `approximation_factor` divides by the best in class."""

import numpy as np
import pytest
from distance_instances import PlainTask, random_automaton

from ntp_envs import (
    BernoulliPolicy,
    CallablePolicy,
    NotTractableError,
    TableAutomaton,
    UniformPolicy,
    WellSpecifiedError,
    approximation_factor,
    distance,
    distance_curves,
    make_task,
)
from ntp_envs.distances import METHODS, automaton_distances
from ntp_envs.distances import front as dispatch
from ntp_envs.tasks.registry import BUILT_IN

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def table(length):
    """A policy without states of its own: the base class reads every prefix anew."""
    return CallablePolicy(lambda prompts, tokens: np.tile(np.log([0.7, 0.3]), (len(tokens), 1)), 2, horizon=length)


def methods(p, q, task, **options):
    return {name: curve.method for name, curve in distance_curves(p, q, task, n=100, **options).items()}


def test_automata_come_first():
    task = make_task("Contamination", horizon=64)
    found = methods(task.expert, BernoulliPolicy(0.01, on="flips"), task)
    assert found == dict.fromkeys(("hellinger2", "tv", "kl", "coverage"), "automaton")


def test_what_an_automaton_cannot_decide_is_enumerated_or_sampled():
    p, q = BernoulliPolicy(0.3), BernoulliPolicy(0.6)
    short = methods(p, q, PlainTask(2, 8), metrics=["tv", "kl"])
    assert short == {"tv": "enumeration", "kl": "automaton"}
    long = methods(p, q, PlainTask(2, 64), metrics=["tv", "chi2", "coverage"])
    assert long == {"tv": "monte carlo (bridge)", "chi2": "automaton", "coverage": "monte carlo (bridge)"}


def test_other_policies_are_enumerated_while_that_is_quick():
    coin = BernoulliPolicy(0.5)
    assert set(methods(table(10), coin, PlainTask(2, 10)).values()) == {"enumeration"}
    # 2^21 prefixes: quick for a cursor, not for a policy that reads each prefix from its beginning
    assert dispatch.tree_size(PlainTask(2, 20), 1) == 2**21 - 2
    assert set(methods(table(20), coin, PlainTask(2, 20)).values()) == {"monte carlo (bridge)"}
    assert dispatch.AUTO_PREFIXES >= 2**22 >= dispatch.tree_size(PlainTask(2, 20, 1), 2)


def test_few_possible_prefixes_are_enumerated_at_any_horizon():
    certain = CallablePolicy(lambda prompts, tokens: np.tile([0.0, -np.inf], (len(tokens), 1)), 2)
    rarely = TableAutomaton([[0.99, 0.01], [0.0, 1.0]], [[0, 1], [1, 1]])
    curve = distance(certain, rarely, PlainTask(2, 100), metric="tv")
    assert curve.method == "enumeration"
    np.testing.assert_allclose(curve.values, -np.expm1(np.arange(1, 101) * np.log(0.99)), rtol=1e-12)


def test_prompts_that_cannot_be_listed_are_sampled():
    task = PlainTask(2, 4, 2, probabilities=None)
    assert set(methods(BernoulliPolicy(0.5), BernoulliPolicy(0.4), task).values()) == {"monte carlo (bridge)"}


def test_too_many_pairs_go_on_to_the_next_method(monkeypatch):
    from ntp_envs.distances import exact as automaton

    monkeypatch.setattr(automaton, "MAX_PAIRS", 3)
    task = make_task("Contamination", horizon=8)
    assert set(methods(task.expert, BernoulliPolicy(0.1, on="flips"), task).values()) == {"enumeration"}


def test_the_method_asked_for_is_used():
    task = make_task("Contamination", horizon=6, eps=0.1, p=0.1, q=0.6, theta_min=0.01)
    p, q = task.expert, BernoulliPolicy(0.2, on="flips")
    exact = distance(p, q, task, method="automaton")
    curves = {method: distance(p, q, task, method=method) for method in METHODS}
    assert {m: c.method for m, c in curves.items()} == {
        "auto": "automaton",
        "automaton": "automaton",
        "enumeration": "enumeration",
        "monte carlo": "monte carlo (bridge)",
        "monte carlo (bridge)": "monte carlo (bridge)",
        "monte carlo (one-sided)": "monte carlo (one-sided)",
    }
    for curve in curves.values():
        assert curve.horizon == 6 and curve.metric == "hellinger2"
        assert (np.abs(curve.values - exact.values) <= 4.5 * curve.std_error + 1e-12).all()
        assert curve.is_exact == (curve.n == 0) == (curve.method in ("automaton", "enumeration"))


def test_sampling_is_reproducible_with_and_without_a_generator():
    p, q, task = table(64), BernoulliPolicy(0.31), PlainTask(2, 64)
    default = distance(p, q, task, n=200)
    assert default.values.tobytes() == distance(p, q, task, n=200, rng=np.random.default_rng(0)).values.tobytes()
    assert default.values.tobytes() != distance(p, q, task, n=200, rng=np.random.default_rng(1)).values.tobytes()


def test_metrics_keep_their_order_and_thresholds_their_columns():
    task = make_task("Contamination", horizon=5)
    curves = distance_curves(
        task.expert, UniformPolicy(2), task, metrics=["coverage", "chi2", "tv", "tv"], thresholds=[3, 5]
    )
    assert list(curves) == ["coverage", "chi2", "tv"]
    assert curves["coverage"].values.shape == (5, 2)
    assert curves["coverage"].thresholds.tolist() == [3.0, 5.0]
    assert curves["tv"].thresholds is None


COINS = BernoulliPolicy(0.3), BernoulliPolicy(0.6), PlainTask(2, 3)


def test_each_policy_is_checked_once(monkeypatch):
    from ntp_envs.distances import curve

    seen = []
    monkeypatch.setattr(curve, "check_policy", lambda name, policy, task: seen.append(name) or policy)
    distance_curves(table(64), COINS[0], PlainTask(2, 64), n=4)  # too long to enumerate, so it goes on to sample
    assert seen == ["p", "q"]


# -- the approximation factor ------------------------------------------------------------------------------------------


def test_approximation_factor_with_its_interval():
    task = make_task("Contamination", horizon=16)
    policy = task.policy_class.policy(1e-3)
    value, lower, upper = approximation_factor(task, policy, with_interval=True)
    assert value == lower == upper == approximation_factor(task, policy)
    assert value == pytest.approx(distance(task.expert, policy, task).final / task.best_in_class().hellinger2)
    sampled, lower, upper = approximation_factor(
        task, policy, method="monte carlo", n=50_000, rng=np.random.default_rng(0), with_interval=True
    )
    assert lower < value < upper and lower < sampled < upper


def test_no_factor_where_the_class_contains_the_expert():
    class WellSpecified(type(make_task("Contamination"))):
        def best_in_class(self):
            from ntp_envs import BestInClass

            return BestInClass(self.policy_class.policy(self.p), 0.0, "closed form")

    task = WellSpecified(horizon=4)
    with pytest.raises(WellSpecifiedError, match="contains the expert"):
        approximation_factor(task, BernoulliPolicy(0.1, on="flips"))


def test_a_large_vocabulary_is_sampled_at_once():
    asked = []

    def law(prompts, tokens):
        asked.append(len(tokens))
        return np.full((len(tokens), 8192), -np.log(8192))

    curve = distance(UniformPolicy(8192), CallablePolicy(law, 8192), PlainTask(8192, 3), n=96)
    assert curve.method == "monte carlo (bridge)"
    assert set(asked) <= {48, 16} and sum(asked) <= 2 * 3 * 96  # sampled, scored and compared; none enumerated


def test_a_random_automaton_pair_through_every_exact_door():
    rng = np.random.default_rng(5)
    p, q = (random_automaton(rng, 3, 4, 1, zeros=True, varying=True) for _ in range(2))
    task = PlainTask(3, 4, 1, (0.5, 0.25, 0.25))
    direct = automaton_distances(p, q, task)
    for name, curve in distance_curves(p, q, task).items():
        assert curve.is_exact
        if name in direct:
            assert curve.values.tobytes() == direct[name].values.tobytes()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_family_s_best_in_class_is_at_the_distance_it_states(name):
    task = make_task(name)
    try:
        best = task.best_in_class()
    except NotTractableError:
        pytest.skip("its best in class is not known")
    curve = distance(task.expert, best.policy, task)
    if not curve.is_exact:  # more prompts and sequences than can be listed
        assert abs(curve.final - best.hellinger2) < 4 * curve.std_error[-1] + best.tolerance
        return
    assert curve.final == pytest.approx(best.hellinger2, rel=1e-9)
    assert approximation_factor(task, best.policy) == pytest.approx(1.0, rel=1e-9)
