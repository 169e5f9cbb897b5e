"""The explicit weights: exact products, margins far above rounding, and that the predictor is linear."""

import itertools

import numpy as np
import pytest

from ntp_envs import GreedyPolicy, make_task
from ntp_envs.policy_classes import PositionalLinearClass
from ntp_envs.tasks.multiplication import MARGINS, explicit_multiplier

MARGIN = 50.0
CHAINS = ["source", "carry"]


def multiplication(**parameters):
    return make_task("Multiplication", **parameters)


def some_pairs(digits, n, rng):
    """Random pairs, and those with the largest, smallest and most repetitive digits."""
    top = 10**digits - 1
    edges = [0, 1, top, top // 9, 5 * (top // 9), 7 * (top // 9), 10 ** (digits - 1)]
    left, right = np.meshgrid(edges, edges)
    return (
        np.concatenate([left.ravel(), rng.integers(0, top + 1, n)]),
        np.concatenate([right.ravel(), rng.integers(0, top + 1, n)]),
    )


@pytest.mark.parametrize("cot", CHAINS)
@pytest.mark.parametrize("digits", [1, 2, 3, 4, 6])
def test_the_whole_chain_is_exact(digits, cot, rng):
    task = multiplication(digits=digits, cot=cot)
    prompts = task.prompts_of(*some_pairs(digits, 300, rng))
    policy = explicit_multiplier(task)
    right = task.targets(prompts)
    np.testing.assert_array_equal(GreedyPolicy(policy).sample(prompts, task.horizon, rng), right)
    np.testing.assert_array_equal(policy.sample(prompts, task.horizon, rng), right)  # the margin leaves no chance


@pytest.mark.parametrize("cot", CHAINS)
def test_all_pairs_of_two_digits(cot, rng):
    task = multiplication(digits=2, cot=cot)
    prompts, _ = task.prompt_law()
    written = GreedyPolicy(explicit_multiplier(task)).sample(prompts, task.horizon, rng)
    np.testing.assert_array_equal(written, task.targets(prompts))


def test_the_product_of_python_integers(rng):
    """Without the task's own arithmetic."""
    task = multiplication(digits=4)
    first, second = rng.integers(0, 10**4, (2, 100))
    written = explicit_multiplier(task).sample(task.prompts_of(first, second), task.horizon, rng)
    products = [int("".join(map(str, row[-8:]))) for row in written.tolist()]
    assert products == [a * b for a, b in zip(first.tolist(), second.tolist())]


# -- margins -----------------------------------------------------------------------------------------------------------


def gaps(policy, prompts, right):
    """``(B, H)`` logit of the right token less the largest other."""
    logits = policy.forced_logits(prompts, right)
    best = np.take_along_axis(logits, right[:, :, None], axis=2)[:, :, 0].copy()
    np.put_along_axis(logits, right[:, :, None], -np.inf, axis=2)
    return best - logits.max(axis=2)


@pytest.mark.parametrize("cot", CHAINS)
def test_the_right_token_leads_by_the_margin(cot, rng):
    task = multiplication(digits=4, cot=cot)
    prompts = task.prompts_of(*some_pairs(4, 200, rng))
    right = task.targets(prompts)
    gap = gaps(explicit_multiplier(task, margin=MARGIN), prompts, right)
    assert gap.min() == pytest.approx(MARGIN, rel=1e-9)
    kinds = np.array([slot.kind for slot in task.layout.slots[task.prompt_length :]])
    for kind in np.unique(kinds):
        assert gap[:, kinds == kind].min() >= MARGIN * (1 - 1e-9), kind


def test_margins_are_those_of_all_one_digit_products():
    """Written out from the definitions: half of the closest pair of logarithms on two sides of a breakpoint."""
    products = sorted({a * b for a in range(1, 10) for b in range(1, 10)})
    tens = [(x, y) for x, y in itertools.pairwise(products) if x // 10 < y // 10]
    units = [(x, y) for x, y in itertools.pairwise(products) if x // 10 == y // 10]
    assert MARGINS["tens"] == pytest.approx(min(np.log(y / x) for x, y in tens) / 2)
    assert MARGINS["units"] == pytest.approx(min(np.log(y / x) for x, y in units) / 2)
    assert min(MARGINS.values()) == MARGINS["units"] == pytest.approx(np.log(64 / 63) / 2)


@pytest.mark.parametrize("cot", CHAINS)
def test_margins_are_far_above_rounding(cot, rng):
    """The same linear functions in extended precision differ by less than a millionth of the margin."""
    task = multiplication(digits=4, cot=cot)
    prompts = task.prompts_of(*some_pairs(4, 20, rng))
    right = task.targets(prompts)
    policy = explicit_multiplier(task, margin=MARGIN)
    line = np.concatenate([prompts, right], axis=1)
    doubles = policy.forced_logits(prompts, right)
    for h, step in enumerate(policy.steps):
        exact = np.tile(step.bias.astype(np.longdouble), (len(line), 1))
        for source, table in zip(step.sources, step.weights.astype(np.longdouble)):
            exact += table[line[:, source]]
        assert np.abs(exact - doubles[:, h]).max() < 1e-6 * MARGIN


def test_sums_are_exact_in_floating_point(rng):
    """Weights and biases of the digits of the product are whole numbers below 2**53 at six digits."""
    task = multiplication(digits=6)
    policy = explicit_multiplier(task, margin=MARGIN)
    for step in policy.steps[-12:]:
        assert (step.weights == np.round(step.weights)).all() and (step.bias == np.round(step.bias)).all()
        assert np.abs(step.weights).max(axis=(1, 2)).sum() + np.abs(step.bias).max() < 2**53


# -- linearity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cot", CHAINS)
def test_logits_are_a_matrix_times_the_one_hot_prefix(cot, rng):
    task = multiplication(digits=2, cot=cot)
    policy = explicit_multiplier(task, margin=1.0)
    size, length = task.vocab_size, task.prompt_length
    prompts = task.sample_prompts(4, rng)
    tokens = task.targets(prompts)
    tokens[2:] = rng.integers(size, size=tokens[2:].shape)  # nonsense too: it is the same function everywhere
    line = np.concatenate([prompts, tokens], axis=1)
    for h, step in enumerate(policy.steps):
        matrix = step.dense(length + h).reshape((length + h) * size, size)
        one_hot = np.zeros((4, length + h, size))
        for row in range(4):
            for position in range(length + h):
                one_hot[row, position, line[row, position]] = 1.0
        logits = one_hot.reshape(4, -1) @ matrix + step.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        law = np.exp(policy.next_log_probs(prompts, tokens[:, :h]))
        np.testing.assert_allclose(law, shifted / shifted.sum(axis=1, keepdims=True), rtol=1e-9, atol=1e-300)


def test_it_is_a_member_of_the_class(rng):
    task = multiplication(digits=2)
    members = task.policy_class
    assert isinstance(members, PositionalLinearClass)
    policy = explicit_multiplier(task)
    dense = [(step.dense(task.prompt_length + h), step.bias) for h, step in enumerate(policy.steps)]
    assert sum(weights.size + bias.size for weights, bias in dense) == members.dimension
    again = members.policy(dense)
    prompts = task.sample_prompts(3, rng)
    right = task.targets(prompts)
    np.testing.assert_allclose(again.log_probs(prompts, right), policy.log_probs(prompts, right), atol=1e-9)


# -- the policy --------------------------------------------------------------------------------------------------------


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_one_digit_times_another_is_linear_without_a_chain():
    """Tens and units of the product are the chain's own steps: all 100 products, greedy and with the margin."""
    task = make_task("Multiplication", digits=1, cot="none")
    one, two = np.divmod(np.arange(100), 10)
    prompts = task.prompts_of(one, two)
    policy = explicit_multiplier(task)
    assert task.success(prompts, GreedyPolicy(policy).sample(prompts, 2, np.random.default_rng(0))).all()
    assert (policy.log_probs(prompts, task.targets(prompts)) > -1e-19).all()
    assert [task.decode(row) for row in task.targets(prompts[[12, 99]])] == ["02", "81"]
