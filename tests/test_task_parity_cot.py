"""ParityCoT: the formats by their definitions, explicit weights on every input, and what a linear learner reaches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LogLossBC
from ntp_envs import GreedyPolicy, NotTractableError, collect
from ntp_envs.arrays import all_sequences
from ntp_envs.tasks import ParityCoT

QUICK = examples(40)
LINEAR = ("count", "andxor", "token")


def written(cot, bits, q=2):
    """The chain of one list of bits, by the definition of its format."""
    k, z = len(bits), list(itertools.accumulate(bits, lambda a, b: a ^ b))
    if cot == "none":
        return [z[-1]]
    if cot == "prefix":
        return z
    if cot == "count":
        return [int(digit) for digit in format(sum(bits), f"0{math.ceil(math.log2(k + 1))}b")]
    if cot == "token":
        return [sum(bits), z[-1]]
    if cot == "andxor":
        return [token for j in range(1, k) for token in (z[j - 1] & bits[j], z[j])]
    return [z[min(q - 1 + i * (q - 1), k - 1)] for i in range(math.ceil((k - 1) / (q - 1)))]


def lengths(cot, k, q):
    """T as the table of formats gives it."""
    return {
        "none": 1,
        "prefix": k,
        "andxor": 2 * (k - 1),
        "count": math.ceil(math.log2(k + 1)),
        "token": 2,
        "xor_q": math.ceil((k - 1) / (q - 1)),
    }[cot]


@QUICK
@given(
    cot=st.sampled_from(["none", "prefix", "count", "andxor", "token", "xor_q"]),
    n=st.integers(2, 12),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_chains_are_their_definition(cot, n, seed, data):
    k = data.draw(st.integers(2, n))
    q = data.draw(st.integers(2, k))
    task = ParityCoT(bits=n, subset_size=k, cot=cot, fan_in=q, seed=seed)
    prompts = task.sample_prompts(20, np.random.default_rng(seed))
    expected = [written(cot, [int(row[s]) for s in task.chosen], q) for row in prompts]
    np.testing.assert_array_equal(task.targets(prompts), expected)
    assert task.horizon == lengths(cot, k, q)
    assert task.vocab_size == (k + 1 if cot == "token" else 2)
    assert task.success(prompts, task.targets(prompts)).all()
    assert sorted(set(task.chosen)) == list(task.chosen) and len(task.chosen) == k and max(task.chosen) < n


def test_success_is_the_answer_and_not_the_chain():
    task = ParityCoT(bits=4, subset=(0, 1, 2), cot="prefix")
    prompts = np.array([[1, 1, 0, 1]] * 3)
    tokens = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]])
    assert task.success(prompts, tokens).tolist() == [1.0, 1.0, 0.0]
    assert (tokens == task.targets(prompts)).all(axis=1).tolist() == [True, False, False]
    assert task.decode(tokens[0]) == "100" and ParityCoT(subset_size=12, cot="token").decode([12, 0]) == "12 0"


# -- explicit weights --------------------------------------------------------------------------------------------------


def least_log_odds(policy, prompts, targets):
    """Of the right token over the best other one, along the right chain."""
    law = policy.forced_log_probs(prompts, targets)
    right = np.take_along_axis(law, targets[:, :, None], axis=2)[:, :, 0]
    np.put_along_axis(law, targets[:, :, None], -np.inf, axis=2)
    return float((right - law.max(axis=2)).min())


def check_solution(task, prompts):
    policy, margin = task.linear_solution()
    targets = task.targets(prompts)
    greedy = GreedyPolicy(policy).sample(prompts, task.horizon, np.random.default_rng(0))
    np.testing.assert_array_equal(greedy, targets)
    assert np.linalg.norm(policy.theta) == pytest.approx(task.radius)
    assert policy.features == task.policy_class.features
    assert least_log_odds(policy, prompts, targets) >= margin * (1 - 1e-9) > 0


@pytest.mark.parametrize("cot", LINEAR)
@pytest.mark.parametrize(("n", "k"), [(2, 2), (5, 3), (7, 4), (8, 7), (9, 9)])
def test_explicit_weights_write_every_chain(cot, n, k):
    check_solution(ParityCoT(bits=n, subset_size=k, cot=cot, seed=n), all_sequences(2, n))


@pytest.mark.parametrize("cot", LINEAR)
def test_explicit_weights_at_twenty_bits(cot):
    task = ParityCoT(bits=20, subset_size=11, cot=cot)
    check_solution(task, task.sample_prompts(2000, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("cot", "q", "degree"), [("xor_q", 2, 2), ("xor_q", 3, 3), ("xor_q", 4, 4), ("prefix", 2, 2), ("none", 2, 5)]
)
def test_an_exclusive_or_needs_products_of_its_fan_in(cot, q, degree):
    sizes = {"bits": 7, "subset_size": 5, "cot": cot, "fan_in": q}
    check_solution(ParityCoT(**sizes, degree=degree), all_sequences(2, 7))
    lower = ParityCoT(**sizes, degree=degree - 1)
    assert not lower.is_linear
    with pytest.raises(NotTractableError, match=f"use degree={degree}"):
        lower.linear_solution()
    assert lower.population_accuracy()[1] == 0.5


def test_a_single_bit_is_linear_without_a_chain():
    for cot in ("none", "prefix", "count"):
        task = ParityCoT(bits=4, subset=(2,), cot=cot)
        assert task.horizon == 1 and task.population_accuracy() == (1.0, 1.0) and task.threshold_accuracy() == 1.0
        check_solution(task, all_sequences(2, 4))


# -- what the linear class cannot --------------------------------------------------------------------------------------


def best_threshold(k):
    """Over all threshold functions of k <= 5 bits: integer weights up to 5 realise every one (Muroga 1971).

    Flipping an input or the output maps parity to parity or its complement, so sorted weights >= 0 are enough.
    """
    bits = all_sequences(2, k)
    parity = bits.sum(axis=1) % 2
    best = 0.0
    for weights in itertools.combinations_with_replacement(range(6), k):
        scores = bits @ np.array(weights)
        for level in range(-1, scores.max() + 1):
            right = ((scores > level) == parity).mean()
            best = max(best, right, 1 - right)
    return best


@pytest.mark.parametrize(("k", "accuracy"), [(1, 1.0), (2, 0.75), (3, 0.75), (4, 0.6875), (5, 0.6875)])
def test_the_best_threshold_function_of_a_parity(k, accuracy):
    task = ParityCoT(bits=9, subset_size=k, cot="none")
    assert task.threshold_accuracy() == accuracy == best_threshold(k)


def right_token_probability(task, policy, weights, prompts):
    """``(H,)`` mean probability of the right token after the right prefix."""
    return weights @ np.exp(policy.log_probs(prompts, task.targets(prompts)))


@pytest.mark.parametrize("cot", ["none", "prefix", "xor_q", "count", "andxor", "token"])
def test_the_population_optimum_guesses_what_is_not_linear(cot):
    task = ParityCoT(bits=6, subset_size=4, cot=cot, fan_in=3, radius=1000.0)
    fit = LogLossBC().fit(task.population(), task.policy_class, rng=np.random.default_rng(0))
    prompts, masses = task.prompt_law()
    by_position = right_token_probability(task, fit.policy_, masses, prompts)
    forced, answer = task.population_accuracy()
    assert by_position.mean() == pytest.approx(forced, abs=1e-3)
    assert by_position[-1] == pytest.approx(answer, abs=1e-3)
    if cot == "none":
        np.testing.assert_allclose(fit.policy_.theta, 0, atol=1e-4)
    if cot == "prefix":
        assert forced == (1 + 3 / 2) / 4
        np.testing.assert_allclose(by_position, [1, 0.5, 0.5, 0.5], atol=1e-3)
    if cot in LINEAR:
        assert (forced, answer) == (1.0, 1.0)


def accuracies(task, m, seed):
    """Greedy: forced share of right tokens, free share of right answers, on 4000 fresh prompts."""
    rng = np.random.default_rng(seed)
    fit = LogLossBC(tol=1e-3).fit(collect(task, m, rng), task.policy_class, rng=rng)
    prompts = task.sample_prompts(4000, rng)
    targets = task.targets(prompts)
    forced = fit.policy_.forced_log_probs(prompts, targets).argmax(axis=2) == targets
    return forced.mean(), task.success(prompts, GreedyPolicy(fit.policy_).sample(prompts, task.horizon, rng)).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_numbers_at_twenty_bits(seed):
    slack = 4 * math.sqrt(0.25 / 4000)
    for cot, m in (("none", 4000), ("prefix", 1000), ("xor_q", 1000)):
        task = ParityCoT(bits=20, subset_size=6, cot=cot, fan_in=3, seed=seed)
        forced, free = accuracies(task, m, seed)
        assert free == pytest.approx(0.5, abs=slack)
        assert forced == pytest.approx(task.population_accuracy()[0], abs=slack)
    for cot in ("count", "andxor"):
        assert accuracies(ParityCoT(bits=20, subset_size=6, cot=cot, seed=seed), 250, seed) == (1.0, 1.0)
    assert accuracies(ParityCoT(bits=20, subset_size=6, cot="token", seed=seed), 1000, seed)[1] > 0.95


def test_products_make_a_short_chain_learnable_from_more_samples():
    sizes = {"bits": 8, "subset_size": 5, "cot": "xor_q", "fan_in": 3}
    assert accuracies(ParityCoT(**sizes, degree=3), 1500, 0) == (1.0, 1.0)
    assert accuracies(ParityCoT(**sizes, degree=2), 1500, 0)[1] < 0.6


# -- parameters --------------------------------------------------------------------------------------------------------


def test_the_subset_is_given_or_drawn_by_the_seed():
    task = ParityCoT(bits=7, subset=[5, 1], cot="andxor")
    assert task.subset == (1, 5) and task.subset_size == 2 and task.chosen == (1, 5)
    assert ParityCoT(seed=1).chosen != ParityCoT(seed=2).chosen and ParityCoT(seed=1).chosen == ParityCoT(seed=1).chosen


def test_prompts_are_listed_up_to_twelve_bits():
    prompts, masses = ParityCoT(bits=12, subset_size=2).prompt_law()
    assert len(prompts) == 4096 and masses.sum() == pytest.approx(1.0)
    for method in ("prompt_law", "population"):
        with pytest.raises(NotTractableError, match="sample_prompts"):
            getattr(ParityCoT(bits=13), method)()
