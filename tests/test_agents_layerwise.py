"""Learning layer by layer, and the games that no learner of this kind can win."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LayerwiseBC, LogLossBC, SmoothedLogLossBC
from ntp_envs import BernoulliPolicy, Demonstrations, ProductClass, TabularPolicy, collect, make_task


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


@pytest.mark.parametrize("horizon", [3, 7])
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
