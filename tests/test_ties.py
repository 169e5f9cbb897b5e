"""No choice hangs on the last bits of a sum: not on the order of features or demonstrations, nor on who adds them up.

A processor takes sums in an order of its own. Here that order is changed by hand: columns of features and rows of data
are permuted, and equal things are computed in two ways.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

import agents
import ntp_envs
from ntp_envs.arrays import TIE, all_sequences, first_best
from ntp_envs.features import ContextFeatureMap, WindowOneHot


class Permuted(ContextFeatureMap):
    """The features of another map in another order."""

    def __init__(self, features, order):
        super().__init__(features.vocab_size, features.n_context)
        self.features, self.order = features, np.asarray(order)

    def context(self, prompts, tokens):
        return self.features.context(prompts, tokens)[:, self.order]


def permuted(theta, order, vocab_size):
    """Parameters that mean in `Permuted` what ``theta`` means."""
    blocks = theta.reshape(1 if vocab_size == 2 else vocab_size, -1)
    return blocks[:, order].ravel()


def drawn(rng, vocab_size, n=12, horizon=4):
    """Few demonstrations: most scores that a learner compares are equal."""
    tokens = rng.integers(vocab_size, size=(n, horizon))
    return ntp_envs.Demonstrations(rng.integers(vocab_size, size=(n, 1)), tokens, vocab_size=vocab_size)


# -- the rule ----------------------------------------------------------------------------------------------------------


@examples(50)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 6))
def test_the_first_of_the_largest_whatever_the_last_bits(seed, size):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, size=(4, size)).astype(float)
    values[rng.random(values.shape) < 0.2] = -np.inf
    exactly = np.array([row.index(max(row)) for row in values.tolist()])
    moved = values + rng.uniform(-0.4 * TIE, 0.4 * TIE, size=values.shape)
    np.testing.assert_array_equal(first_best(values), exactly)
    np.testing.assert_array_equal(first_best(moved), exactly)


# -- greedy decoding ---------------------------------------------------------------------------------------------------


@examples(30)
@given(seed=st.integers(0, 10**6), vocab_size=st.integers(2, 4))
def test_greedy_decoding_does_not_depend_on_the_order_of_the_features(seed, vocab_size):
    """Weights from a few multiples of .1, so that many tokens are equally probable but for rounding."""
    rng = np.random.default_rng(seed)
    features = WindowOneHot(vocab_size, 3)
    theta = rng.integers(-2, 3, size=features.dimension) * 0.1
    one = ntp_envs.ARLinearClass(features, 100.0).policy(theta)
    data = drawn(rng, vocab_size)
    written = ntp_envs.GreedyPolicy(one).sample(data.prompts, 6, rng)
    for _ in range(3):
        order = rng.permutation(features.n_context)
        other = ntp_envs.ARLinearClass(Permuted(features, order), 100.0).policy(permuted(theta, order, vocab_size))
        np.testing.assert_array_equal(ntp_envs.GreedyPolicy(other).sample(data.prompts, 6, rng), written)
        forced = [ntp_envs.GreedyPolicy(p).forced_log_probs(data.prompts, data.tokens) for p in (one, other)]
        np.testing.assert_array_equal(*forced)
        observations = np.concatenate([data.prompts, np.full((len(data), 4), vocab_size)], axis=1)
        actions = []
        for policy in (one, other):
            policy.prompt_length = 1
            actions.append(policy.predict(observations, deterministic=True)[0])
        np.testing.assert_array_equal(*actions)


def test_evaluation_and_search_take_the_smaller_of_two_equal_tokens():
    """A policy that puts about 1/2 on each of two labels, either ahead by the last bits."""
    task, rng = ntp_envs.make_task("PathStar", degree=2, length=3), np.random.default_rng(0)
    prompts = task.sample_prompts(20, rng)
    truth = task.targets(prompts)
    data = ntp_envs.Demonstrations(prompts, truth, vocab_size=task.vocab_size)
    searched = []
    for ahead in range(2):
        law = np.full(task.vocab_size, 1e-6)
        law[:2] = 0.5
        law[ahead] *= 1 + 4e-16
        policy = ntp_envs.MarkovPolicy(law[None] / law.sum(), order=0)
        found = ntp_envs.evaluate(policy, task, rng=rng, demonstrations=data)
        for accuracy in (found.forced_accuracy, found.greedy_accuracy):
            np.testing.assert_allclose(accuracy, (truth == 0).mean(axis=0))
        searched.append(ntp_envs.backtracking_search(policy, task, prompts, decoding="greedy", depth=None, rng=rng))
    np.testing.assert_array_equal(searched[0].tokens, searched[1].tokens)
    np.testing.assert_array_equal(searched[0].drawn, searched[1].drawn)


# -- the perceptron ----------------------------------------------------------------------------------------------------


@examples(12)
@given(seed=st.integers(0, 10**6), vocab_size=st.integers(2, 4))
@pytest.mark.filterwarnings("ignore::agents.base.ConvergenceWarning")
def test_the_perceptron_does_not_depend_on_the_order_of_features_or_demonstrations(seed, vocab_size):
    rng = np.random.default_rng(seed)
    features, data = WindowOneHot(vocab_size, 2), drawn(rng, vocab_size)
    agent = agents.PerceptronBC(max_epochs=20)

    def fitted(features, data):
        found = agent.clone().fit(data, ntp_envs.ARLinearClass(features, 20.0), rng=np.random.default_rng(1))
        details = found.fit_report_.details
        return found.policy_.theta, (details["updates"], details["mistakes"], found.fit_report_.converged)

    theta, counts = fitted(features, data)
    rows = rng.permutation(len(data))
    shuffled = ntp_envs.Demonstrations(data.prompts[rows], data.tokens[rows], vocab_size=vocab_size)
    again, same = fitted(features, shuffled)
    assert same == counts
    np.testing.assert_allclose(again, theta, atol=1e-9)
    identity, order = np.arange(features.n_context), rng.permutation(features.n_context)
    (one, first), (two, second) = fitted(Permuted(features, identity), data), fitted(Permuted(features, order), data)
    assert first == second
    np.testing.assert_allclose(two, permuted(one, order, vocab_size), atol=1e-9)


@examples(30)
@given(seed=st.integers(0, 10**6), vocab_size=st.integers(2, 4), width=st.integers(1, 3))
@pytest.mark.filterwarnings("ignore::agents.base.ConvergenceWarning")
def test_a_perceptron_that_says_so_is_right_on_every_token(seed, vocab_size, width):
    """The answer is a function of the context: an exact tie is a mistake, and is mended, however it is rounded."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(vocab_size, size=(vocab_size + 1) ** width)
    data = drawn(rng, vocab_size, horizon=3)
    tokens, lines = data.tokens.copy(), np.full((len(data), width), vocab_size)
    for h in range(3):
        lines = np.column_stack([lines, data.prompts if h == 0 else tokens[:, [h - 1]]])[:, -width:]
        tokens[:, h] = answers[lines @ (vocab_size + 1) ** np.arange(width)]
    data = ntp_envs.Demonstrations(data.prompts, tokens, vocab_size=vocab_size)
    agent = agents.PerceptronBC().fit(data, ntp_envs.ARLinearClass(WindowOneHot(vocab_size, width), 50.0))
    report = agent.fit_report_
    right = ntp_envs.GreedyPolicy(agent.policy_).log_probs(data.prompts, tokens) == 0
    law = agent.policy_.forced_log_probs(data.prompts, tokens)
    alone = (law >= np.take_along_axis(law, tokens[:, :, None], axis=2) - TIE).sum(axis=2) == 1
    missed = (~(right & alone)).sum(axis=1).mean()
    assert report.objective == pytest.approx(missed)
    assert report.converged == (missed == 0)


# -- finite classes ----------------------------------------------------------------------------------------------------


def members_and_mirror_images(rng, A=2, horizon=3):
    """Pairs of laws that exchanging the tokens maps to one another, and data that it leaves as they are.

    Members 2j and 2j + 1 are equally good in every sense that does not name the tokens.
    """
    tokens = all_sequences(A, horizon)
    weights = rng.integers(0, 5, size=len(tokens)).astype(float) + rng.random(len(tokens))
    weights = weights + weights[::-1]  # the last sequence is the first with the tokens exchanged
    expert = np.broadcast_to(np.log(weights / weights.sum())[:, None] / horizon, tokens.shape)
    data = ntp_envs.Demonstrations(
        np.zeros((len(tokens), 0), int), tokens, A, weights=weights, expert_log_probs=np.ascontiguousarray(expert)
    )
    members = []
    for _ in range(3):
        p, q = rng.uniform(0.1, 0.9, size=2)
        members += [
            ntp_envs.MarkovPolicy([[p, 1 - p], [q, 1 - q], [p, 1 - p]], order=1),
            ntp_envs.MarkovPolicy([[1 - q, q], [1 - p, p], [1 - p, p]], order=1),
        ]
    return members, data


@examples(10)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize(
    "agent",
    [
        agents.LogLossBC(),
        agents.SmoothedLogLossBC(),
        agents.RhoEstimatorBC(),
        agents.RhoEstimatorBC("psi"),
        agents.ClippedRatioBC(),
        agents.TotalVariationBC(),
        agents.TotalVariationBC("tournament"),
    ],
    ids=repr,
)
def test_of_members_that_are_mirror_images_the_first_is_chosen(agent, seed):
    rng = np.random.default_rng(seed)
    members, data = members_and_mirror_images(rng)
    rows = rng.permutation(len(data))
    for some in (data, data.subset(rows)):
        for number in range(len(members) // 2):
            pair = members[2 * number : 2 * number + 2]
            for policies in (pair, pair[::-1]):
                found = agent.clone().fit(some, ntp_envs.FiniteClass(policies), rng=np.random.default_rng(0))
                np.testing.assert_array_equal(found.policy_.emissions(0), policies[0].emissions(0))


@examples(30)
@given(seed=st.integers(0, 10**6))
def test_a_tournament_of_mirror_images_is_won_by_the_first(seed):
    rng = np.random.default_rng(seed)
    members, data = members_and_mirror_images(rng)
    winner = agents.tournament(members, data).index
    assert winner % 2 == 0
    assert agents.tournament(members, data.subset(rng.permutation(len(data)))).index == winner
