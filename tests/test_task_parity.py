"""NoisyParity, ParityCoT and ParityMix: their laws by definition, explicit weights, what a linear learner reaches."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LogLossBC
from agents.linear_likelihood import maximum_likelihood
from ntp_envs import ARLinearPolicy, Demonstrations, GreedyPolicy, NotTractableError, UniformPolicy, collect, make_task
from ntp_envs.arrays import all_sequences
from ntp_envs.distances import distance
from ntp_envs.tasks import ParityCoT, ParityMix
from ntp_envs.tasks.parity import filtered_share, rounds_to_pass

QUICK = examples(40)


def parity(**parameters):
    return make_task("NoisyParity", **parameters)


def brute_force_law(task):
    """Probability of every sequence, written out from the definition."""
    law = {}
    for tokens in itertools.product((0, 1), repeat=task.horizon):
        probability = 1.0
        for r in range(task.episodes):
            *bits, answer = tokens[r * (task.bits + 1) : (r + 1) * (task.bits + 1)]
            right = sum(bits[s] for s in task.subset) % 2 == answer
            probability *= 0.5**task.bits * (1 - task.noise if right else task.noise)
        law[tokens] = probability
    return law


@pytest.mark.parametrize("parameters", [{"bits": 2, "subset": (0, 1), "episodes": 2}, {"bits": 3, "subset": (1,)}, {}])
def test_expert_law_is_the_definition(parameters):
    task = parity(**parameters)
    law = brute_force_law(task)
    tokens = np.array(list(law))
    log_probs = task.expert.log_probs(np.empty((len(tokens), 0), int), tokens).sum(axis=1)
    np.testing.assert_allclose(np.exp(log_probs), list(law.values()), rtol=1e-12)


def test_the_value_of_theory():
    task = parity(bits=4, subset=(0, 1, 2), noise=0.1, episodes=1)
    best = task.best_in_class()
    assert task.uniform_hellinger2() == pytest.approx(0.211146, abs=5e-7)
    assert best.hellinger2 == task.uniform_hellinger2() and best.method == "closed form" and best.tolerance == 0
    np.testing.assert_array_equal(best.policy.theta, np.zeros(5))


@pytest.mark.parametrize("episodes", [1, 3, 60])
def test_uniform_distance_is_exact_at_any_number_of_episodes(episodes):
    task = parity(episodes=episodes)
    assert task.horizon == 5 * episodes
    exact = distance(task.expert, UniformPolicy(2), task).final if episodes < 4 else None
    automaton = distance(task.expert, task.policy_class.policy(np.zeros(5)), task)
    assert automaton.method == "automaton"
    assert automaton.final == pytest.approx(task.uniform_hellinger2(), rel=1e-10)
    if exact is not None:
        assert exact == pytest.approx(task.uniform_hellinger2(), rel=1e-10)


@QUICK
@given(seed=st.integers(0, 10**6), episodes=st.integers(1, 4))
def test_member_distance_is_the_automaton_distance(seed, episodes):
    rng = np.random.default_rng(seed)
    task = parity(bits=3, subset=tuple(rng.choice(3, size=rng.integers(1, 4), replace=False)), episodes=episodes)
    theta = rng.normal(size=4)
    exact = distance(task.expert, ARLinearPolicy(task.policy_class.features, theta), task, method="enumeration")
    assert task.member_hellinger2(theta) == pytest.approx(exact.final, rel=1e-9)


@QUICK
@given(seed=st.integers(0, 10**6), noise=st.floats(0.05, 0.45), size=st.integers(2, 4), radius=st.floats(0.1, 4.0))
def test_no_member_beats_a_closed_form(seed, noise, size, radius):
    rng = np.random.default_rng(seed)
    task = parity(subset=tuple(range(size)), noise=noise, radius=radius)
    best = task.best_in_class()
    theta = rng.normal(size=(200, 5))
    theta *= radius * rng.random((200, 1)) / np.linalg.norm(theta, axis=1, keepdims=True)
    assert best.hellinger2 <= min(task.member_hellinger2(t) for t in theta) + 1e-12
    if best.method == "closed form":
        assert best.hellinger2 == pytest.approx(task.uniform_hellinger2(), rel=1e-12)


def test_the_uniform_guess_is_best_at_noise_a_tenth_in_a_far_larger_ball():
    task = parity(radius=60.0)
    assert task.best_in_class().hellinger2 == pytest.approx(task.uniform_hellinger2(), rel=1e-12)
    assert math.isnan(task.best_in_class().tolerance)


def test_the_uniform_guess_is_not_best_without_noise_in_a_large_ball():
    """Majority agrees with a parity of three on 3/4 of the strings: worth betting on if errors cost little."""
    task = parity(noise=0.0, radius=20.0)
    against_majority = np.array([0.0, -1.0, -1.0, -1.0, 0.0]) * 11
    assert task.member_hellinger2(against_majority) < task.uniform_hellinger2() - 0.05
    assert task.best_in_class().hellinger2 <= task.member_hellinger2(against_majority)
    exact = distance(task.expert, task.best_in_class().policy, task, method="enumeration").final
    assert task.best_in_class().hellinger2 == pytest.approx(exact, rel=1e-9)


def test_a_single_bit_is_linear():
    inside = parity(subset=(2,), radius=6.0).best_in_class()
    assert inside.hellinger2 == 0.0
    theta = math.sqrt(5) * math.log(9)
    np.testing.assert_allclose(inside.policy.theta, [0, 0, 0, theta, 0])
    short = parity(subset=(2,), radius=2.0)
    assert short.best_in_class().method == "closed form" and short.best_in_class().hellinger2 > 0
    np.testing.assert_allclose(short.best_in_class().policy.theta, [0, 0, 0, 2.0, 0])
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(500, 5))
    theta *= 2.0 / np.linalg.norm(theta, axis=1, keepdims=True)
    assert short.best_in_class().hellinger2 <= min(short.member_hellinger2(t) for t in theta)


@pytest.mark.parametrize("episodes", [1, 2, 40])
def test_population_log_loss_is_uniform(episodes):
    task = parity(episodes=episodes)
    demos = task.population()
    assert demos.exactness.everything == (episodes <= 2)
    assert demos.exactness.covers(1, task.policy_class) and demos.exactness.covers(5, task.policy_class)
    assert demos.exactness.covers(2, task.policy_class) == (episodes <= 2)
    theta, report = maximum_likelihood(task.policy_class.features, task.radius, demos)
    np.testing.assert_allclose(theta, 0, atol=1e-9)
    assert report.converged and report.objective == pytest.approx(task.horizon * math.log(2))


def test_representatives_have_the_same_chunk_law_as_the_complete_population():
    """Weighted counts of whole episodes agree between the two populations, episode by episode."""
    complete = parity(bits=2, subset=(0, 1), episodes=2).population()
    representatives = parity(bits=2, subset=(0, 1), episodes=6).population()
    assert complete.exactness.everything and not representatives.exactness.everything
    for demos in (complete, representatives):
        weights = demos.normalised_weights()
        codes = demos.tokens.reshape(len(demos), -1, 3) @ np.array([4, 2, 1])
        expected = [0.25 * p for p in (0.9, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1)]
        for episode in codes.T:
            np.testing.assert_allclose(np.bincount(episode, weights=weights, minlength=8), expected, rtol=1e-12)


def test_success_means_every_answer_is_the_true_parity():
    task = parity(bits=2, subset=(0, 1), episodes=2)
    tokens = np.array([[0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0]])
    assert task.success(np.empty((3, 0), int), tokens).tolist() == [1.0, 0.0, 0.0]
    assert task.true_parities(tokens).tolist() == [[1, 0]] * 3
    demos = collect(task, 4000, np.random.default_rng(0))
    assert task.success(demos.prompts, demos.tokens).mean() == pytest.approx(0.81, abs=0.03)


# -- ParityCoT ---------------------------------------------------------------------------------------------------------


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


def test_the_numbers_at_twenty_bits():
    seed = 0
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


# -- ParityMix ---------------------------------------------------------------------------------------------------------


MIX_QUICK = examples(60)


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


@MIX_QUICK
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
@pytest.mark.slow
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
