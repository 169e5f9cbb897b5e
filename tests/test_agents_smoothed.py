"""Smoothing: its rules for lambda, and what it mends and what it does not."""

import numpy as np
import pytest

from agents import LogLossBC, SmoothedLogLossBC
from ntp_envs import (
    BernoulliClass,
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
