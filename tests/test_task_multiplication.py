"""Multiplication and ColumnAddition: the format read back by a parser of strings, explicit weights, what is linear."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import linprog
from scipy.sparse import csr_array

from agents import LogLossBC
from ntp_envs import GreedyPolicy, collect, make_task
from ntp_envs.policy_classes import PositionalLinearClass
from ntp_envs.tasks.multiplication import MARGINS, explicit_multiplier

QUICK = examples(60)


def multiplication(**parameters):
    return make_task("Multiplication", **parameters)


def text_of(task, first, second):
    """The whole of one demonstration as a string, prompt and answer."""
    prompt = task.prompts_of([first], [second])
    return task.decode(np.concatenate([prompt, task.targets(prompt)], axis=1)[0])


def token_count(text):
    """Tokens of a string: a digit, a symbol, a carry in brackets, or BOS each."""
    return len(re.findall(r"BOS|\[\d+\]|[0-9x+=()]", text))


def read_term(term):
    value = 1
    for factor in term.split(" x "):
        value *= int(factor)
    return value


def column_sums(terms):
    """``[carry]digit`` of a written addition, least significant column first, from strings of digits."""
    width, carry, out = max(len(term) for term in terms), 0, []
    for k in range(width):
        total = carry + sum(int(term[-1 - k]) for term in terms if k < len(term))
        carry = total // 10
        out.append((carry, total % 10))
    return out


pairs = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 10**n - 1), st.integers(0, 10**n - 1)))


@QUICK
@given(pair=pairs, cot=st.sampled_from(["source", "carry"]))
def test_every_part_of_the_text_is_the_same_product(pair, cot):
    n, first, second = pair
    text = text_of(multiplication(digits=n, cot=cot), first, second)
    header, factors, products, partials, result = text.removeprefix("BOS ").split(" = ")
    left, right = header.split(" x ")
    assert (len(left), len(right), int(left), int(right)) == (n, n, first, second)

    expansions = [inside.split(" + ") for inside in re.fullmatch(r"\((.*)\) x \((.*)\)", factors).groups()]
    for digits, terms in zip((left, right), expansions):
        assert terms == [f"{d} x {10 ** (n - 1 - place)}" for place, d in enumerate(digits)]
        assert sum(map(read_term, terms)) == int(digits)

    expected = [
        (a, b, 10 ** (2 * n - 2 - row - column)) for row, a in enumerate(left) for column, b in enumerate(right)
    ]
    assert products.split(" + ") == [f"{a} x {b} x {power}" for a, b, power in expected]
    terms = partials.split(" + ")
    assert [int(term) for term in terms] == [int(a) * int(b) * power for a, b, power in expected]
    assert [len(term) for term in terms] == [1 + len(str(power)) for _, _, power in expected]  # two digits, then zeros

    if cot == "source":
        assert result == str(first * second).zfill(2 * n)
    else:
        written = [(int(c), int(d)) for c, d in re.findall(r"\[(\d+)\](\d)", result)]
        assert "".join(str(d) for _, d in reversed(written)) == str(first * second).zfill(2 * n)
        width = 2 * n
        assert written == column_sums([term.zfill(width) for term in terms])
        assert max(c for c, _ in written) <= 2 * n - 2 and written[-1][0] == 0


@pytest.mark.parametrize(("digits", "length"), [(2, 77), (3, 166), (4, 307)])
def test_lengths_of_the_source(digits, length):
    task = multiplication(digits=digits)
    assert task.prompt_length + task.horizon == length
    assert token_count(text_of(task, 10**digits - 1, 7)) == length
    carried = multiplication(digits=digits, cot="carry")
    assert token_count(text_of(carried, 3, 10 ** (digits - 1))) == length + 2 * digits
    assert carried.vocab_size == 16 + 2 * digits - 1 and task.vocab_size == 16


def test_examples_in_full():
    assert text_of(multiplication(digits=2), 12, 34) == (
        "BOS 12 x 34 = (1 x 10 + 2 x 1) x (3 x 10 + 4 x 1) = "
        "1 x 3 x 100 + 1 x 4 x 10 + 2 x 3 x 10 + 2 x 4 x 1 = 0300 + 040 + 060 + 08 = 0408"
    )
    assert text_of(multiplication(digits=2, cot="carry"), 99, 99).endswith("= [0]1 [1]0 [1]8 [0]9")
    assert text_of(multiplication(digits=2, cot="none"), 99, 9) == "BOS 99 x 09 = 0891"
    assert text_of(multiplication(digits=1), 7, 8) == "BOS 7 x 8 = (7 x 1) x (8 x 1) = 7 x 8 x 1 = 56 = 56"


# -- the prompts -------------------------------------------------------------------------------------------------------


def test_the_prompt_law_lists_all_pairs():
    task = multiplication(digits=2)
    prompts, probabilities = task.prompt_law()
    assert len(prompts) == 10**4 and probabilities.sum() == pytest.approx(1)
    assert len({tuple(row) for row in prompts.tolist()}) == 10**4
    without = multiplication(digits=2, leading_zeros=False)
    prompts, _ = without.prompt_law()
    assert len(prompts) == 8100 and (prompts[:, [1, 4]] > 0).all()


@pytest.mark.parametrize("leading_zeros", [True, False])
def test_sampled_factors_are_uniform(leading_zeros):
    task = multiplication(digits=4, leading_zeros=leading_zeros)
    prompts = task.sample_prompts(20000, np.random.default_rng(0))
    digits = task.factors(prompts)
    np.testing.assert_array_equal(digits[:, 0, ::-1], prompts[:, 1:5])
    np.testing.assert_array_equal(digits[:, 1, ::-1], prompts[:, 6:10])
    first = np.bincount(digits[:, :, 3].ravel(), minlength=10) / 40000
    expected = np.full(10, 0.1) if leading_zeros else np.array([0.0] + [1 / 9] * 9)
    np.testing.assert_allclose(first, expected, atol=4 * np.sqrt(0.1 * 0.9 / 40000))


def test_population_is_the_complete_law_for_two_digits():
    task = multiplication(digits=2, cot="none")
    demos = task.population()
    assert demos.exactness.everything and len(demos) == 10**4
    value = demos.tokens @ 10 ** np.arange(3, -1, -1)
    assert value.mean() == pytest.approx(49.5**2)
    # a token that is no digit counts as zero
    odd = task.prompts_of([12], [34])
    odd[0, 1] = 15
    np.testing.assert_array_equal(task.targets(odd), task.targets(task.prompts_of([2], [34])))


# -- success and the verifier ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cot", ["source", "carry", "none"])
def test_success_looks_at_the_product_and_a_mistake_is_noticed_when_its_piece_is_complete(cot):
    task = multiplication(digits=2, cot=cot)
    demos = collect(task, 3, np.random.default_rng(2))
    assert task.success(demos.prompts, demos.tokens).all()
    where = [p - task.prompt_length for p in task.layout.product_digits()]
    ends = [end - task.prompt_length for end in task.layout.ends]
    assert ends == sorted(set(ends)) and ends[-1] == task.horizon
    for length in range(task.horizon + 1):
        assert task.verify(demos.prompts, demos.tokens[:, :length]).all()
    for position in range(task.horizon):
        wrong = demos.tokens.copy()
        wrong[1, position] = (wrong[1, position] + 1) % 10
        assert task.success(demos.prompts, wrong).tolist() == [1.0, 0.0 if position in where else 1.0, 1.0]
        end = min(e for e in ends if e > position)
        for length in (position + 1, end - 1, end, task.horizon):
            accepted = task.verify(demos.prompts, wrong[:, :length])
            assert accepted.tolist() == [True, length < end, True]


def test_pieces_are_the_terms():
    task = multiplication(digits=2)
    prompt = task.prompts_of([12], [34])
    answer = task.targets(prompt)[0]
    bounds = [0] + [end - task.prompt_length for end in task.layout.ends]
    pieces = [task.decode(answer[a:b]) for a, b in itertools.pairwise(bounds)]
    assert pieces == [
        *("(1 x 10 +", "2 x 1)", "x", "(3 x 10 +", "4 x 1)", "="),
        *("1 x 3 x 100 +", "1 x 4 x 10 +", "2 x 3 x 10 +", "2 x 4 x 1 ="),
        *("0300 +", "040 +", "060 +", "08 =", "0408"),
    ]


# -- without the chain -------------------------------------------------------------------------------------------------


def linearly_decodable(features, wanted):
    """Whether some linear scores of ten digits have their arg max, by a margin, at the wanted one: a linear program."""
    n, size = features.shape
    rows = np.zeros((n, 10, 10, size))  # (pair, other digit, digit, feature): the other's score minus the right one's
    for digit in range(10):
        rows[:, digit, digit] += features
    rows[np.arange(n), :, wanted] -= features[:, None]
    constraints = csr_array(rows[np.arange(10) != wanted[:, None]].reshape(-1, 10 * size))
    below = -np.ones(constraints.shape[0])
    found = linprog(np.zeros(10 * size), A_ub=constraints, b_ub=below, bounds=(None, None), method="highs")
    assert found.status in (0, 2)  # solved, or infeasible
    return found.status == 0


def test_no_linear_predictor_writes_the_product_without_the_chain():
    task = multiplication(digits=2, cot="none")
    prompts = task.sample_prompts(800, np.random.default_rng(0))
    features = np.column_stack([np.eye(task.vocab_size)[prompts].reshape(800, -1), np.ones(800)])
    assert not linearly_decodable(features, task.targets(prompts)[:, 0])
    assert linearly_decodable(features, prompts[:, 1])  # what a chain begins with: a digit of a factor


# -- the explicit weights ----------------------------------------------------------------------------------------------


MARGIN = 50.0
CHAINS = ["source", "carry"]


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
@pytest.mark.parametrize("digits", [1, 3, 4, 6])
def test_the_whole_chain_is_exact(digits, cot, rng):
    """Against the task's targets; the last digits of the whole chain also against Python's integers."""
    task = multiplication(digits=digits, cot=cot)
    first, second = some_pairs(digits, 60, rng)
    prompts = task.prompts_of(first, second)
    policy = explicit_multiplier(task)
    right = task.targets(prompts)
    np.testing.assert_array_equal(GreedyPolicy(policy).sample(prompts, task.horizon, rng), right)
    np.testing.assert_array_equal(policy.sample(prompts, task.horizon, rng), right)  # the margin leaves no chance
    if cot == "source":
        products = [int("".join(map(str, row[-2 * digits :]))) for row in right.tolist()]
        assert products == [a * b for a, b in zip(first.tolist(), second.tolist())]


@pytest.mark.parametrize("cot", CHAINS)
def test_all_pairs_of_two_digits(cot, rng):
    task = multiplication(digits=2, cot=cot)
    prompts, _ = task.prompt_law()
    written = GreedyPolicy(explicit_multiplier(task)).sample(prompts, task.horizon, rng)
    np.testing.assert_array_equal(written, task.targets(prompts))


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


def test_one_digit_times_another_is_linear_without_a_chain():
    """Tens and units of the product are the chain's own steps: all 100 products, greedy and with the margin."""
    task = make_task("Multiplication", digits=1, cot="none")
    one, two = np.divmod(np.arange(100), 10)
    prompts = task.prompts_of(one, two)
    policy = explicit_multiplier(task)
    assert task.success(prompts, GreedyPolicy(policy).sample(prompts, 2, np.random.default_rng(0))).all()
    assert (policy.log_probs(prompts, task.targets(prompts)) > -1e-19).all()
    assert [task.decode(row) for row in task.targets(prompts[[12, 99]])] == ["02", "81"]


# -- ColumnAddition ----------------------------------------------------------------------------------------------------


def column(**parameters):
    return make_task("ColumnAddition", **parameters)


@pytest.mark.parametrize("addends", [2, 3, 7])
def test_answers_are_carry_and_digit(addends, rng):
    task, alone = column(addends=addends), column(addends=addends, carry=False)
    prompts = task.sample_prompts(500, rng)
    for row, answer, digit in zip(prompts.tolist(), task.targets(prompts).tolist(), alone.targets(prompts).tolist()):
        total = sum(row[:-1]) + row[-1] - 10
        assert (answer[0] - 10, answer[1]) == divmod(total, 10) and digit == [total % 10]
        assert max(row[-1], answer[0]) < task.vocab_size and row[-1] >= 10
    assert (task.horizon, alone.horizon) == (2, 1)


def test_the_prompt_law():
    prompts, probabilities = column().prompt_law()
    assert len({tuple(row) for row in prompts.tolist()}) == len(probabilities) == 3000


def test_without_the_carry_the_best_linear_predictor_guesses():
    """Population optimum: uniform over the ten digits, at log 10 nats (the ball keeps the carries from zero)."""
    task = column(addends=2, carry=False)
    agent = LogLossBC(tol=1e-6).fit(task.population(), task.policy_class)
    prompts, _ = task.prompt_law()
    law = np.exp(agent.policy_.next_log_probs(prompts, np.empty((len(prompts), 0), int)))
    np.testing.assert_allclose(law[:, :10], 0.1, atol=1e-3)
    assert agent.fit_report_.converged and agent.fit_report_.objective == pytest.approx(math.log(10), abs=1e-5)


@pytest.mark.slow
def test_with_the_carry_the_best_linear_predictor_is_right_on_every_column():
    task = column(addends=2, radius=1000.0)
    demos = task.population()
    agent = LogLossBC(tol=1e-3).fit(demos, task.policy_class)
    assert agent.fit_report_.converged
    assert (GreedyPolicy(agent.policy_).sample(demos.prompts, 2, np.random.default_rng(0)) == demos.tokens).all()


@pytest.mark.parametrize(("addends", "carry"), [(3, 0.995), (5, 0.98)])
@pytest.mark.slow
def test_a_logistic_regression_learns_a_column_from_samples(addends, carry):
    """Another library, without a norm bound: the carry, the digit after the carry, the digit without it."""
    regression = pytest.importorskip("sklearn.linear_model").LogisticRegression
    task, rng, n = column(addends=addends), np.random.default_rng(0), 4000
    train, test = collect(task, 5000, rng), collect(task, n, rng)

    def accuracy(columns, target):
        def one_hot(demos):
            seen = np.concatenate([demos.prompts, demos.tokens], axis=1)[:, :columns]
            return np.eye(task.vocab_size)[seen].reshape(len(seen), -1)

        fitted = regression(C=1e4, max_iter=300).fit(one_hot(train), train.tokens[:, target])
        return fitted.score(one_hot(test), test.tokens[:, target])

    assert accuracy(addends + 1, 0) > carry
    assert accuracy(addends + 2, 1) > 0.99
    assert accuracy(addends + 1, 1) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / n))


def test_a_token_of_the_wrong_kind_counts_as_zero():
    task = column(addends=2)
    np.testing.assert_array_equal(task.targets(np.array([[11, 7, 3]])), task.targets(np.array([[0, 7, 10]])))


@pytest.mark.parametrize(("addends", "share"), [(2, 0.750), (3, 0.664)])
def test_without_the_carry_ten_sums_in_a_row_can_be_ordered(addends, share):
    """Linear scores ``c s - breakpoints`` of the digits in the order of a window of ten sums, greedily decoded: no
    logistic regression finds them, and none is right everywhere."""
    task = make_task("ColumnAddition", addends=addends, carry=False)
    prompts = np.stack([axis.ravel() for axis in np.indices((*[10] * addends, addends))], axis=1)  # all alike
    prompts[:, -1] += 10
    targets = task.targets(prompts)[:, 0]
    sums = np.where(prompts >= 10, prompts - 10, prompts).sum(axis=1)  # tokens from 10 on are carries
    np.testing.assert_array_equal(sums % 10, targets)
    place, right = np.arange(10), []
    for first in range(sums.max() - 8):
        scores = place * sums[:, None] - np.cumsum([0, *(first + place[1:] - 0.5)])
        right.append(((first + scores.argmax(axis=1)) % 10 == targets).mean())
    assert max(right) == pytest.approx(share, abs=1e-3) and max(right) < 1
