"""ParityMix: its law by enumeration, the log-loss optimum against the closed forms, filtered rounds."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LogLossBC
from ntp_envs import Demonstrations, GreedyPolicy, collect
from ntp_envs.arrays import all_sequences
from ntp_envs.tasks import ParityMix
from ntp_envs.tasks.parity import filtered_share, rounds_to_pass

QUICK = examples(60)


def test_the_law_is_the_definition():
    """Every sequence of every prompt, with products of signs instead of sums of bits."""
    task = ParityMix(d=4, p=0.3)
    sequences = np.array(list(itertools.product(range(3), repeat=5)))
    for bits in itertools.product((0, 1), repeat=4):
        signs = [1 - 2 * bit for bit in bits]
        code = {1: 0, -1: 1}
        chain = [code[math.prod(signs[: i + 1])] for i in range(4)] + [2]
        answer = [code[math.prod(signs)], 2, 2, 2, 2]
        law = task.expert.log_probs(np.tile(bits, (len(sequences), 1)), sequences).sum(axis=1)
        expected = {tuple(chain): 0.3, tuple(answer): 0.7}
        for sequence, log_prob in zip(sequences.tolist(), law):
            assert math.exp(log_prob) == pytest.approx(expected.get(tuple(sequence), 0.0), abs=1e-12)


def test_the_expert_goes_on_with_the_posterior_and_has_a_law_everywhere():
    task = ParityMix(d=4, p=0.2)
    agree, differ = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 0, 0]])  # the product is x_1, or is not
    step = lambda prompts, tokens: np.exp(task.expert.next_log_probs(prompts, np.array([tokens])))[0]  # noqa: E731
    np.testing.assert_allclose(step(agree, [1]), [0.2, 0, 0.8], atol=1e-12)
    np.testing.assert_allclose(step(differ, [0]), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(step(differ, [1]), [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(step(agree, [0]), [0.2, 0, 0.8], atol=1e-12)  # neither writes this: shares anew
    np.testing.assert_allclose(step(agree, [1, 0, 1, 1]), [0, 0, 1], atol=1e-12)


def test_success_reads_the_token_before_the_first_end():
    task = ParityMix(d=4)
    prompts = np.array([[1, 1, 1, 0]] * 6)  # product -1, token 1
    tokens = np.array([[1, 2, 2, 2, 2], [1, 0, 1, 1, 2], [0, 2, 1, 2, 2], [0, 1, 2, 0, 0], [2, 1, 2, 2, 2], [1] * 5])
    assert task.success(prompts, tokens).tolist() == [1, 1, 0, 1, 0, 0]
    assert task.lengths(tokens).tolist() == [1, 4, 1, 2, 0, 5]
    assert task.decode(tokens[1]) == "-+--."
    demos = collect(task, 500, np.random.default_rng(0))
    assert task.success(demos.prompts, demos.tokens).all()


def test_a_population_is_the_complete_law():
    task = ParityMix(d=4, p=0.1)
    demos = task.population()
    mass = task.expert.log_probs(demos.prompts, demos.tokens).sum(axis=1) + math.log(1 / 16)
    np.testing.assert_allclose(demos.normalised_weights(), np.exp(mass), rtol=1e-9)
    assert demos.exactness.everything
    assert demos.weights @ task.lengths(demos.tokens) == pytest.approx(task.mean_length()) == 1 + 0.1 * 3


# -- the log-loss optimum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "p"), [(4, 0.1), (4, 0.2), (5, 0.32), (6, 0.35)])
def test_the_optimum_cannot_tell_the_answer_from_a_coin(d, p):
    task = ParityMix(d=d, p=p)
    fit = LogLossBC(tol=1e-6).fit(task.population(), task.policy_class, rng=np.random.default_rng(0))
    prompts, masses = task.prompt_law()
    law = lambda tokens: np.exp(fit.policy_.next_log_probs(prompts, tokens))  # noqa: E731
    rows = np.arange(len(prompts))
    first = law(np.empty((len(prompts), 0), dtype=np.int64))
    np.testing.assert_allclose(first[rows, prompts[:, 0]], (1 + p) / 2, atol=2e-4)
    np.testing.assert_allclose(law(prompts[:, :1])[:, 2], 1 - 2 * p / (1 + p), atol=2e-4)
    np.testing.assert_allclose(law(1 - prompts[:, :1])[:, 2], 1, atol=2e-3)
    chains = task.chains(prompts)
    forced = np.exp(fit.policy_.log_probs(prompts, chains))
    np.testing.assert_allclose(forced[:, 2:], 1, atol=5e-3)  # once begun the chain is written to its end

    greedy = GreedyPolicy(fit.policy_).sample(prompts, task.horizon, np.random.default_rng(0))
    if p > 1 / 3:
        np.testing.assert_array_equal(greedy, chains)
    else:
        assert (task.lengths(greedy) == 1).all()
    assert masses @ task.success(prompts, greedy) == task.greedy_accuracy()

    rng = np.random.default_rng(1)
    drawn = task.sample_prompts(20_000, rng)
    tokens = fit.policy_.sample(drawn, task.horizon, rng)
    accuracy, length = task.success(drawn, tokens), task.lengths(tokens)
    slack = 4 * math.sqrt(0.25 / 20_000) + 2e-3
    assert (
        accuracy.mean() == pytest.approx(task.sampled_accuracy(), abs=slack) and task.sampled_accuracy() == (1 + p) / 2
    )
    assert length.mean() == pytest.approx(task.mean_length(), abs=4 * length.std() / math.sqrt(20_000) + 5e-3)
    kept = length[accuracy == 1] == d
    assert kept.mean() == pytest.approx(filtered_share(p), abs=4 * math.sqrt(0.25 / 10_000) + 2e-3)


# -- filtered rounds ---------------------------------------------------------------------------------------------------


@QUICK
@given(p=st.floats(0.001, 0.9), rounds=st.integers(0, 8))
def test_a_round_keeps_half_of_the_direct_answers(p, rounds):
    share = p
    for _ in range(rounds):
        share = share / (share + (1 - share) / 2)
    assert filtered_share(p, rounds) == pytest.approx(share, rel=1e-9)
    passed = rounds_to_pass(p)
    assert filtered_share(p, passed) > 1 / 3 - 1e-9
    assert passed == 0 or filtered_share(p, passed - 1) <= 1 / 3 + 1e-9


@pytest.mark.parametrize("d", [4, 5])
def test_filtered_rounds_of_the_population_double_the_odds(d):
    """Each round exactly: the law that the fit writes, over all prompts and sequences, restricted to what is right."""
    task = ParityMix(d=d, p=0.1)
    sequences, prompts = all_sequences(3, d + 1), all_sequences(2, d)
    x, tokens = np.repeat(prompts, len(sequences), axis=0), np.tile(sequences, (len(prompts), 1))
    right, lengths, demos = task.success(x, tokens), task.lengths(tokens), task.population()
    for number in range(4):
        fit = LogLossBC(tol=1e-7).fit(demos, task.policy_class, rng=np.random.default_rng(0))
        law = np.exp(fit.policy_.log_probs(x, tokens).sum(axis=1)) / len(prompts)
        assert law @ (lengths == d) == pytest.approx(filtered_share(0.1, number), abs=1e-3)
        assert law @ right == pytest.approx((1 + filtered_share(0.1, number)) / 2, abs=1e-3)
        kept = law * right > 1e-12
        demos = Demonstrations(x[kept], tokens[kept], vocab_size=3, weights=(law * right)[kept])


def test_the_numbers_of_rounds():
    assert [rounds_to_pass(p) for p in (0.01, 0.05, 0.1, 0.34)] == [6, 4, 3, 0]
    assert rounds_to_pass(0.2) == 2  # one round ends at 1/3 exactly, which is not above it
    assert rounds_to_pass(0.01, threshold=0.5) == 7


@pytest.mark.parametrize("rounds", [0, 1, 52, 1024, 10_000])
def test_filtered_shares_after_any_number_of_rounds(rounds):
    exact = Fraction(1, 5) / (Fraction(1, 5) + Fraction(4, 5) / 2**rounds)
    assert filtered_share(0.2, rounds) == pytest.approx(float(exact), rel=1e-15)
