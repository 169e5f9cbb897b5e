"""Selection by Scheffe sets: its guarantee on random classes, its pieces against brute force."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.stats import binom

from agents import TotalVariationBC
from agents.testing import check_agent
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    FiniteClass,
    TabularPolicy,
    collect,
    make_task,
)
from ntp_envs.arrays import all_sequences


def laws(policies, horizon):
    """``(M, 2^H)`` probabilities of all sequences."""
    tokens = all_sequences(2, horizon)
    prompts = np.zeros((len(tokens), 0), int)
    return np.array([np.exp(policy.log_probs(prompts, tokens).sum(axis=1)) for policy in policies])


def drawn(law, n, horizon, rng):
    tokens = all_sequences(2, horizon)[rng.choice(len(law), size=n, p=law / law.sum())]
    return Demonstrations(np.zeros((n, 0), int), tokens, 2)


def complete(law, horizon):
    tokens = all_sequences(2, horizon)
    return Demonstrations(np.zeros((len(tokens), 0), int), tokens, 2, weights=law)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 6), spread=st.sampled_from([0.2, 1.0, 5.0]))
@examples(60)
def test_minimum_distance_is_within_three_times_the_best(seed, size, spread):
    rng = np.random.default_rng(seed)
    members = [TabularPolicy.random(2, 3, rng, concentration=spread) for _ in range(size)]
    expert = laws([TabularPolicy.random(2, 3, rng, concentration=spread)], 3)[0]
    f = laws(members, 3)
    tv = 0.5 * np.abs(f - expert).sum(axis=1)
    chosen = TotalVariationBC().fit(complete(expert, 3), FiniteClass(members)).policy_
    assert tv[members.index(chosen)] <= 3 * tv.min() + 1e-9
    data = drawn(expert, 40, 3, rng)  # and with samples: up to twice the largest error on the sets
    mu = np.bincount(data.tokens @ [4, 2, 1], minlength=8) / 40
    delta = max([abs((mu - expert)[f[j] > f[k]].sum()) for j in range(size) for k in range(size)])
    chosen = TotalVariationBC().fit(data, FiniteClass(members)).policy_
    assert tv[members.index(chosen)] <= 3 * tv.min() + 2 * delta + 1e-9


@given(seed=st.integers(0, 10**6))
@examples(40)
def test_between_two_the_tournament_has_the_same_guarantee(seed):
    rng = np.random.default_rng(seed)
    members = [TabularPolicy.random(2, 3, rng) for _ in range(2)]
    expert = laws([TabularPolicy.random(2, 3, rng)], 3)[0]
    tv = 0.5 * np.abs(laws(members, 3) - expert).sum(axis=1)
    chosen = TotalVariationBC("tournament").fit(complete(expert, 3), FiniteClass(members)).policy_
    assert tv[members.index(chosen)] <= 3 * tv.min() + 1e-9


@pytest.mark.parametrize("method", ["minimum distance", "tournament"])
def test_against_a_direct_transcription(method, rng):
    for _ in range(10):
        members = [TabularPolicy.random(2, 3, rng) for _ in range(5)]
        f, expert = laws(members, 3), laws([TabularPolicy.random(2, 3, rng)], 3)[0]
        data = drawn(expert, 30, 3, rng)
        mu = np.bincount(data.tokens @ [4, 2, 1], minlength=8) / 30
        off = {
            (i, j, k): abs(f[i][f[j] > f[k]].sum() - mu[f[j] > f[k]].sum())
            for i, j, k in itertools.product(range(5), repeat=3)
        }
        if method == "minimum distance":
            scores = [max(off[i, j, k] for j in range(5) for k in range(5)) for i in range(5)]
            expected = int(np.argmin(scores))
        else:
            wins = [sum(off[j, j, k] < off[k, j, k] for k in range(5) if k != j) for j in range(5)]
            expected = int(np.argmax(wins))
        agent = TotalVariationBC(method).fit(data, FiniteClass(members))
        assert agent.policy_ is members[expected] and agent.fit_report_.gap == 0.0
        if method == "minimum distance":
            assert agent.fit_report_.objective == pytest.approx(min(scores), abs=1e-12)
        else:
            assert agent.fit_report_.details["wins"] == wins


def test_sampled_probabilities_tend_to_the_enumerated_ones(rng):
    members = BernoulliClass(0.05).grid(6)
    data = Demonstrations(np.zeros((200, 0), int), (rng.random((200, 10)) < 0.3).astype(int), 2)
    exact = TotalVariationBC().fit(data, members)
    tripled = Demonstrations(np.zeros((200, 0), int), np.tile(data.tokens, (1, 2)), 2)  # 2^20 sequences: drawn
    sampled = TotalVariationBC(samples=20_000).fit(tripled, members)
    assert exact.fit_report_.details["probabilities"] == "enumeration" and exact.fit_report_.gap == 0.0
    assert "Monte Carlo" in sampled.fit_report_.details["probabilities"]
    # the number of ones is sufficient: probabilities of the sets in closed form
    ones, thetas = np.arange(21), [member.theta for member in members]
    f = np.array([binom.pmf(ones, 20, theta) for theta in thetas])
    mu = np.bincount(tripled.tokens.sum(axis=1), minlength=21) / 200
    scores = [max(abs((f[i] - mu)[f[j] > f[k]].sum()) for j in range(6) for k in range(6) if j != k) for i in range(6)]
    assert sampled.policy_.theta == thetas[int(np.argmin(scores))]
    assert sampled.fit_report_.objective == pytest.approx(min(scores), abs=sampled.fit_report_.gap / 2)


def test_prompts_are_weighed_as_in_the_data(rng):
    members = [TabularPolicy.random(2, 3, rng, prompt_length=1) for _ in range(3)]
    prompts = np.array([[0]] * 30 + [[1]] * 10)
    data = Demonstrations(prompts, members[1].sample(prompts, 3, rng), 2)
    tokens, f = all_sequences(2, 3), []
    for member in members:
        parts = [np.exp(member.log_probs(np.full((8, 1), x), tokens).sum(axis=1)) for x in (0, 1)]
        f.append(np.concatenate([0.75 * parts[0], 0.25 * parts[1]]))
    f = np.array(f)
    mu = np.bincount(prompts[:, 0] * 8 + data.tokens @ [4, 2, 1], minlength=16) / 40
    scores = [max(abs((f[i] - mu)[f[j] > f[k]].sum()) for j in range(3) for k in range(3) if j != k) for i in range(3)]
    agent = TotalVariationBC().fit(data, FiniteClass(members))
    assert agent.fit_report_.objective == pytest.approx(min(scores), abs=1e-12)


def test_a_tournament_takes_a_sample_of_each_member_and_memory_of_one(rng):
    """Evaluations are M^2 samples, comparisons 2 M^2, and no array holds M^2 samples."""
    task = make_task("Contamination", horizon=32, eps=0.05)
    data, members = collect(task, 50, rng), FiniteClass(BernoulliClass(0.01, on="flips").grid(20).policies)
    tracemalloc.start()
    agent = TotalVariationBC("tournament", samples=1000).fit(data, members)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.4e6 < 8 * 20 * 20 * 1000
    ones, flips = np.arange(33), task.policy_class.events(data.prompts, data.tokens).sum(axis=1)
    thetas = np.array([member.theta for member in members])
    f, mu = np.array([binom.pmf(ones, 32, theta) for theta in thetas]), np.bincount(flips, minlength=33) / 50
    off = np.array([[[abs((f[i] - mu)[f[j] > f[k]].sum()) for k in range(20)] for j in range(20)] for i in range(20)])
    wins = [sum(off[j, j, k] < off[k, j, k] for k in range(20)) for j in range(20)]
    chosen = agent.fit_report_.details["index"]
    assert wins[chosen] >= max(wins) - 4  # 1000 samples
    assert agent.fit_report_.objective == pytest.approx(off[chosen][[chosen], :].max(), abs=agent.fit_report_.gap)


@pytest.mark.parametrize("method", ["minimum distance", "tournament"])
def test_ties_go_to_the_smallest_index(method):
    """Data and members that a swap of the two tokens maps to one another: whatever the rounding."""
    for one, two in ((0.1, 0.3), (0.2, 0.7), (0.45, 0.9), (1 / 3, 0.8)):
        swapped = [BernoulliPolicy(theta) for theta in (one, 1 - one, two, 1 - two)]
        tokens = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]])
        data = Demonstrations(np.zeros((4, 0), int), tokens, 2)
        agent = TotalVariationBC(method).fit(data, FiniteClass(swapped))
        assert agent.fit_report_.details["index"] % 2 == 0


def test_contamination_is_given_up_on():
    task = make_task("Contamination", horizon=256)
    grid = task.policy_class.grid(9)
    agent = TotalVariationBC(samples=500).fit(task.population(), grid)
    assert agent.policy_.theta == pytest.approx(1e-5)


@pytest.mark.parametrize("method", ["minimum distance", "tournament"])
def test_it_keeps_the_contract(method):
    check_agent(TotalVariationBC(method, samples=50))
