"""ColumnAddition: its answers, and that the carry token is what makes a column learnable for a linear predictor."""

import math

import numpy as np
import pytest

from agents import LogLossBC
from ntp_envs import GreedyPolicy, NotTractableError, collect, make_task


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
    with pytest.raises(NotTractableError):
        column(addends=4).prompt_law()


@pytest.mark.parametrize("addends", [2, 3])
def test_without_the_carry_the_best_linear_predictor_guesses(addends):
    """Population optimum: uniform over the ten digits, at log 10 nats (the ball keeps the carries from zero)."""
    task = column(addends=addends, carry=False)
    agent = LogLossBC(tol=1e-6).fit(task.population(), task.policy_class)
    prompts, _ = task.prompt_law()
    law = np.exp(agent.policy_.next_log_probs(prompts, np.empty((len(prompts), 0), int)))
    np.testing.assert_allclose(law[:, :10], 0.1, atol=1e-3)
    assert agent.fit_report_.converged and agent.fit_report_.objective == pytest.approx(math.log(10), abs=1e-5)


def test_with_the_carry_the_best_linear_predictor_is_right_on_every_column():
    task = column(addends=3, radius=1000.0)
    demos = task.population()
    agent = LogLossBC(tol=1e-3).fit(demos, task.policy_class)
    assert agent.fit_report_.converged
    assert (GreedyPolicy(agent.policy_).sample(demos.prompts, 2, np.random.default_rng(0)) == demos.tokens).all()


@pytest.mark.parametrize(("addends", "carry"), [(3, 0.995), (5, 0.98)])
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


@pytest.mark.parametrize(("addends", "share"), [(2, 0.750), (3, 0.664), (5, 0.553)])
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
