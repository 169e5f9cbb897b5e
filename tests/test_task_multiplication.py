"""Multiplication: the format read back by a parser of strings, the prompt law, success, the verifier."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import linprog
from scipy.sparse import csr_array

from ntp_envs import NotTractableError, collect, make_task

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
    with pytest.raises(NotTractableError, match="too many"):
        multiplication(digits=3).prompt_law()


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
    demos = multiplication(digits=2, cot="none").population()
    assert demos.exactness.everything and len(demos) == 10**4
    value = demos.tokens @ 10 ** np.arange(3, -1, -1)
    assert value.mean() == pytest.approx(49.5**2)
    with pytest.raises(NotTractableError):
        multiplication(digits=3).population()
    with pytest.raises(NotTractableError, match="best in class"):
        multiplication().best_in_class()


def test_a_token_that_is_no_digit_counts_as_zero():
    task = multiplication(digits=2)
    odd = task.prompts_of([12], [34])
    odd[0, 1] = 15
    np.testing.assert_array_equal(task.targets(odd), task.targets(task.prompts_of([2], [34])))


# -- success and the verifier ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cot", ["source", "carry", "none"])
def test_success_looks_at_the_product_only(cot):
    task = multiplication(digits=2, cot=cot)
    demos = collect(task, 50, np.random.default_rng(1))
    assert task.success(demos.prompts, demos.tokens).all()
    where = [p - task.prompt_length for p in task.layout.product_digits()]
    for position in range(task.horizon):
        wrong = demos.tokens.copy()
        wrong[:, position] = (wrong[:, position] + 1) % 10
        assert (task.success(demos.prompts, wrong) == (0.0 if position in where else 1.0)).all()


@pytest.mark.parametrize("cot", ["source", "carry", "none"])
def test_a_mistake_is_noticed_when_its_piece_is_complete(cot):
    task = multiplication(digits=2, cot=cot)
    demos = collect(task, 3, np.random.default_rng(2))
    ends = [end - task.prompt_length for end in task.layout.ends]
    assert ends == sorted(set(ends)) and ends[-1] == task.horizon
    for length in range(task.horizon + 1):
        assert task.verify(demos.prompts, demos.tokens[:, :length]).all()
    for position in range(0, task.horizon, 3):
        wrong = demos.tokens.copy()
        wrong[1, position] = (wrong[1, position] + 1) % 10
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


# -- refusals ----------------------------------------------------------------------------------------------------------


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
