"""Log-loss smoothed and layer by layer: what it mends and what it does not, and games that it cannot win."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LayerwiseBC, LogLossBC, SmoothedLogLossBC
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    ProductClass,
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.tasks.bernoulli import count_distance


def demos(n=5, horizon=8, weights=None):
    return Demonstrations(np.zeros((n, 0), int), np.zeros((n, horizon), int), vocab_size=2, weights=weights)


@pytest.mark.parametrize(
    ("lam", "weights", "expected"),
    [
        ("1/H", None, 1 / 8),
        ("1/(nH)", None, 1 / 40),
        ("1/(nH)", [1, 2, 3, 0, 4], 1 / 80),
        (0, None, 0.0),
        (0.25, None, 0.25),
    ],
)
def test_rules_for_lambda(lam, weights, expected):
    agent = SmoothedLogLossBC(lam).fit(demos(weights=weights), BernoulliClass())
    assert agent.fit_report_.details["lam"] == pytest.approx(expected, rel=1e-15)


def test_a_number_of_zero_is_log_loss():
    rng = np.random.default_rng(0)
    data = Demonstrations(rng.integers(2, size=(9, 1)), rng.integers(2, size=(9, 4)), vocab_size=2)
    members = [TabularPolicy.random(2, 4, rng, prompt_length=1) for _ in range(5)]
    for policy_class in (FiniteClass(members), ProductClass([members] * 4), BernoulliClass(0.1)):
        laws = [a.fit(data, policy_class).policy_.log_probs(data.prompts, data.tokens) for a in
                (LogLossBC(), SmoothedLogLossBC(0.0))]  # fmt: skip
        assert np.array_equal(*laws)


@pytest.mark.parametrize("lam", [0.01, 0.3, 0.9])
def test_finite_and_product_classes_by_definition(lam):
    rng = np.random.default_rng(int(100 * lam))
    data = Demonstrations(
        rng.integers(3, size=(9, 1)), rng.integers(3, size=(9, 4)), vocab_size=3, weights=rng.random(9)
    )
    members = [TabularPolicy.random(3, 4, rng, prompt_length=1, concentration=0.2) for _ in range(8)]

    def losses(policy):
        """``(H,)`` from the next-token laws, one prefix at a time."""
        out = []
        for h in range(4):
            p = np.exp(policy.next_log_probs(data.prompts, data.tokens[:, :h]))
            smoothed = (1 - lam) * p + lam / 3
            out.append(-data.normalised_weights() @ np.log(smoothed[np.arange(9), data.tokens[:, h]]))
        return np.array(out)

    table = np.stack([losses(policy) for policy in members])  # (M, H)
    finite = SmoothedLogLossBC(lam).fit(data, FiniteClass(members))
    product = SmoothedLogLossBC(lam).fit(data, ProductClass([members] * 4))
    assert finite.policy_ is members[table.sum(axis=1).argmin()]
    assert finite.fit_report_.objective == pytest.approx(table.sum(axis=1).min())
    assert [members.index(layer) for layer in product.policy_.layers] == table.argmin(axis=0).tolist()
    assert product.fit_report_.objective == pytest.approx(table.min(axis=0).sum())


def test_one_over_h_solves_contamination_at_population_level_and_one_over_nh_does_not():
    """lam/2 = 1/(2H) > eps: the class's smallest theta explains the contaminated tokens once smoothed."""
    for horizon in (16, 64, 256):
        task = make_task("Contamination", horizon=horizon)
        population, best = task.population(), task.best_in_class()
        learned = SmoothedLogLossBC("1/H").fit(population, task.policy_class).policy_
        distance = count_distance(task.expert, learned.theta, horizon)
        assert distance / best.hellinger2 == pytest.approx(1.0, abs=1e-9)
        limit = SmoothedLogLossBC("1/(nH)").fit(population, task.policy_class).policy_
        assert limit.theta == LogLossBC().fit(population, task.policy_class).policy_.theta


def test_one_over_nh_does_not_mend_samples_either():
    task = make_task("Contamination", horizon=64, eps=1e-2, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    samples = collect(task, 2000, np.random.default_rng(0))
    theta = {lam: SmoothedLogLossBC(lam).fit(samples, task.policy_class).policy_.theta for lam in ("1/(nH)", 0.0)}
    factors = {lam: count_distance(task.expert, t, 64) / task.best_in_class().hellinger2 for lam, t in theta.items()}
    assert factors["1/(nH)"] > 0.95 * factors[0.0] > 20


@pytest.mark.parametrize("size", [2, 8, 64])
def test_returning_the_smoothed_policy_would_cost_up_to_h_lam(size):
    """Why pi itself is returned: a deterministic pi writes one sequence, a uniform one is not changed by smoothing."""
    horizon, lam = 10, 1e-3
    for first, cost in ((0, horizon * lam * (1 - 1 / size)), (np.arange(size)[:, None], 0.0)):
        tokens = np.broadcast_to(first, (size, horizon))
        data = Demonstrations(np.zeros((size, 0), int), tokens, vocab_size=size)
        pi = SmoothedLogLossBC(lam).fit(data, MarkovClass(size, 0)).policy_.log_probs(data.prompts, tokens)
        affinity = np.exp(0.5 * (pi + np.log((1 - lam) * np.exp(pi) + lam / size)).sum(axis=1))  # of each sequence
        if cost:
            assert 2 * (1 - affinity[0]) == pytest.approx(cost, rel=0.01)
        else:
            np.testing.assert_allclose(affinity, np.exp(pi.sum(axis=1)), rtol=1e-9)


# == layer by layer ====================================================================================================


@examples(40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_in_a_product_class_it_is_log_loss(seed, holes):
    rng = np.random.default_rng(seed)
    demos = Demonstrations(rng.integers(2, size=(6, 1)), rng.integers(2, size=(6, 3)), vocab_size=2)

    def option():
        policy = TabularPolicy.random(2, 3, rng, prompt_length=1)
        if holes:
            policy = TabularPolicy([np.eye(2)[np.exp(t).argmax(axis=1)] for t in policy.tables], prompt_length=1)
        return policy

    policy_class = ProductClass([[option() for _ in range(4)] for _ in range(3)])
    one, two = (agent.fit(demos, policy_class) for agent in (LayerwiseBC(), LogLossBC()))
    assert [a is b for a, b in zip(one.policy_.layers, two.policy_.layers)] == [True] * 3
    assert one.fit_report_ == two.fit_report_


def test_each_layer_is_learned_from_its_own_tokens_only():
    options = [BernoulliPolicy(t) for t in (0.2, 0.5, 0.8)]
    policy_class = ProductClass([options] * 4)
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, size=(30, 4))
    changed = tokens.copy()
    changed[:, 2] = 1
    learned = [
        LayerwiseBC().fit(Demonstrations(np.zeros((30, 0), int), data, vocab_size=2), policy_class).policy_.layers
        for data in (tokens, changed)
    ]
    assert all(learned[0][h] is learned[1][h] for h in (0, 1, 3))
    assert learned[1][2] is options[2]


@pytest.mark.slow
def test_random_ties_are_uniform_and_come_from_the_generator():
    options = [BernoulliPolicy(t) for t in (0.5, 0.5, 0.9)]
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0] * 200, [1] * 200]), vocab_size=2)
    policy_class = ProductClass([options] * 200)
    agent = LayerwiseBC(tie_break="random")
    picks = [agent.fit(demos, policy_class, rng=np.random.default_rng(s)).policy_.layers for s in (0, 0, 1)]
    first = [sum(layer is options[0] for layer in layers) for layers in picks]
    assert all(layer is not options[2] for layers in picks for layer in layers)
    assert abs(first[0] - 100) < 4 * 7.1  # four standard deviations of Binomial(200, 1/2)
    assert [a is b for a, b in zip(*picks[:2])] == [True] * 200
    assert not all(a is b for a, b in zip(picks[0], picks[2]))
    assert all(layer is options[0] for layer in LayerwiseBC().fit(demos, policy_class).policy_.layers)


# -- games -------------------------------------------------------------------------------------------------------------

NEXT_TOKEN = [
    LogLossBC(),
    SmoothedLogLossBC("1/H"),
    SmoothedLogLossBC("1/(nH)"),
    SmoothedLogLossBC(0.5),
    LayerwiseBC(),
    LayerwiseBC(tie_break="random"),
]


@pytest.mark.parametrize("agent", NEXT_TOKEN, ids=repr)
def test_every_next_token_learner_loses_the_consistency_game(agent):
    task = make_task("ConsistencyGame", horizon=256, eps=1e-3, eta=0.1)
    learned = agent.clone().fit(task.population(), task.policy_class, rng=np.random.default_rng(0)).policy_
    prompts, masses = task.prompt_law()
    errs = np.isneginf(learned.log_probs(prompts, np.zeros((len(prompts), 256), int)))  # (contexts, H)
    for scale_zero_set, layer in enumerate(errs.T):
        assert np.flatnonzero(layer).tolist() == [scale_zero_set]
    factor = 2 * masses[errs.any(axis=1)].sum() / task.best_in_class().hellinger2
    assert factor == pytest.approx(230.4, rel=1e-9)


def test_more_data_does_not_help_in_the_consistency_game():
    task = make_task("ConsistencyGame", horizon=16, eps=0.05, eta=0.5)
    factors = []
    for n in (200, 50_000):
        demos = collect(task, n, np.random.default_rng(0))
        learned = LogLossBC().fit(demos, task.policy_class).policy_
        used = np.unique(learned.error_contexts)
        factors.append(2 * task.set_masses[used].sum() / task.best_in_class().hellinger2)
    assert factors[1] == pytest.approx(16 * (1 - 0.5), rel=1e-9) and factors[0] > 2


@pytest.mark.parametrize("horizon", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_halving_bound(horizon):
    """At least 1 + (H - 1)/2 sets on average, attained by always taking the first; the best in class uses one."""
    used = {"first": [], "random": []}
    for seed in range(200):
        task = make_task("HalvingGame", horizon=horizon, seed=seed)
        population = task.population()
        for tie_break, counts in used.items():
            agent = LayerwiseBC(tie_break=tie_break)
            agent.fit(population, task.policy_class, rng=np.random.default_rng(seed))
            errs = np.isneginf(agent.policy_.log_probs(population.prompts, population.tokens))
            counts.append(errs.any(axis=1).sum())
            assert agent.fit_report_.details["ties"] == horizon - 1  # equal masses are seen to be equal
        assert task.best_in_class().hellinger2 == pytest.approx(2 * task.eps)
    bound = 1 + (horizon - 1) / 2
    error = {key: np.std(counts) / np.sqrt(200) for key, counts in used.items()}
    assert np.mean(used["first"]) == pytest.approx(bound, abs=4 * error["first"])
    assert np.mean(used["random"]) > bound - 4 * error["random"]
