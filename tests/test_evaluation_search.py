"""Backtracking and best-of-k against the laws and costs that a Markov chain, a recursion and closed forms give."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs import FiniteClass, NotTractableError, TabularPolicy, UniformPolicy, make_task
from ntp_envs.evaluation import backtracking_search, best_of
from ntp_envs.tasks import CleverHansPolicy, PathStar, Task


def rng(seed=0):
    return np.random.default_rng(seed)


@dataclass(frozen=True)
class Rule(Task):
    """No two ones in a row; and, with a ``secret``, a complete answer must be it."""

    horizon: int = 4
    secret: tuple[int, ...] = ()

    vocab_size = 2
    prompt_length = 0
    has_verifier = True

    @cached_property
    def expert(self):
        return UniformPolicy(2)

    @cached_property
    def policy_class(self):
        return FiniteClass([UniformPolicy(2)])

    def prompt_law(self):
        return np.empty((1, 0), dtype=int), np.ones(1)

    def best_in_class(self):
        raise NotTractableError("not needed")

    def verify(self, prompts, tokens):
        if self.secret:
            return (
                (tokens == self.secret).all(axis=1) if tokens.shape[1] == self.horizon else np.ones(len(tokens), bool)
            )
        return ~((tokens[:, 1:] == 1) & (tokens[:, :-1] == 1)).any(axis=1)


def nothing(n):
    return np.empty((n, 0), dtype=np.int64)


def frequencies(tokens):
    codes = tokens @ (1 << np.arange(tokens.shape[1])[::-1])
    return np.bincount(codes, minlength=1 << tokens.shape[1]) / len(tokens)


def test_depth_one_draws_from_the_policy_conditioned_one_token_at_a_time():
    task, policy, n = Rule(), TabularPolicy.random(2, 4, rng(1)), 20_000
    wanted = np.zeros(16)
    for code, row in enumerate(itertools.product(range(2), repeat=4)):
        mass = 1.0
        for h in range(4 if task.verify(None, np.array([row]))[0] else 0):
            law = np.exp(policy.next_log_probs(nothing(1), np.array([row[:h]], dtype=int).reshape(1, h))[0])
            allowed = [bool(task.verify(None, np.array([[*row[:h], a]]))[0]) for a in range(2)]
            mass *= law[row[h]] * allowed[row[h]] / (law @ allowed)
            wanted[code] = mass
    found = backtracking_search(policy, task, nothing(n), rng=rng(2), budget=1000)
    assert found.accepted.all() and wanted.sum() == pytest.approx(1.0)
    assert np.abs(frequencies(found.tokens) - wanted).max() < 4.5 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_cost_of_a_search_of_any_depth_solves_its_markov_chain(depth):
    """From t tokens on with probability 1 - eps, back to max(t - depth + 1, 0) with probability eps, one token each."""
    horizon, eps, n = 6, 0.2, 4000
    task = make_task("Snowball", horizon=horizon, eps=eps, vocab_size=3)
    found = backtracking_search(
        task.sloppy_copier(), task, task.sample_prompts(n, rng()), rng=rng(1), depth=depth, budget=10_000
    )
    step = np.zeros((horizon, horizon))
    for t in range(horizon):
        step[t, max(t - depth + 1, 0)] += eps
        if t + 1 < horizon:
            step[t, t + 1] += 1 - eps
    expected = np.linalg.solve(np.eye(horizon) - step, np.ones(horizon))[0]
    assert found.accepted.all()
    assert found.drawn.mean() == pytest.approx(expected, abs=4 * found.drawn.std() / np.sqrt(n))
    assert (found.drawn >= horizon + found.rejected).all()
    assert np.array_equal(found.tokens, task.targets(found.tokens))
    if depth == 1:
        assert expected == pytest.approx(task.backtracking_cost())
        assert np.array_equal(found.drawn, horizon + found.rejected)
        assert not found.restarts.any()
    if depth == horizon:
        assert expected == pytest.approx((0.8**-6 - 1) / 0.2)  # waiting time for a run of six
        assert found.restarts.sum() > 0


def depth_first(policy, task, prefix):
    """The first accepted sequence in greedy order, with tokens drawn and rejections: an independent recursion."""
    drawn = rejected = 0
    law = policy.next_log_probs(nothing(1), np.array([prefix], dtype=int).reshape(1, -1))[0]
    for token in np.argsort(-law, kind="stable"):
        if np.isneginf(law[token]):
            continue
        drawn += 1
        grown = [*prefix, int(token)]
        if not task.verify(None, np.array([grown]))[0]:
            rejected += 1
            continue
        if len(grown) == task.horizon:
            return grown, drawn, rejected
        answer, more, refused = depth_first(policy, task, grown)
        drawn, rejected = drawn + more, rejected + refused
        if answer is not None:
            return answer, drawn, rejected
    return None, drawn, rejected


@examples(40)
@given(seed=st.integers(0, 2**16), zeros=st.booleans())
def test_greedy_depth_first_search_is_the_recursion(seed, zeros):
    draws = rng(seed)
    tables = [draws.dirichlet([1.0, 1.0], size=2**h) for h in range(4)]
    if zeros:  # some tokens impossible: dead ends, and secrets that nothing reaches
        for table in tables:
            table[draws.random(len(table)) < 0.3] = [1.0, 0.0]
    policy, task = TabularPolicy(tables), Rule(secret=tuple(draws.integers(2, size=4).tolist()))
    found = backtracking_search(policy, task, nothing(3), rng=draws, depth=None, budget=1000, decoding="greedy")
    answer, drawn, rejected = depth_first(policy, task, [])
    assert found.accepted.tolist() == [answer is not None] * 3
    assert found.drawn.tolist() == [drawn] * 3
    assert found.rejected.tolist() == [rejected] * 3
    assert found.tokens.tolist() == [answer or [-1] * 4] * 3


def test_sampled_depth_first_search_reaches_everything_and_tries_nothing_twice():
    task, policy = Rule(secret=(1, 0, 1, 1)), TabularPolicy.random(2, 4, rng(3), concentration=0.3)
    found = backtracking_search(policy, task, nothing(200), rng=rng(4), depth=None, budget=31)
    assert found.accepted.all()
    assert found.drawn.max() <= 2 + 4 + 8 + 16  # every token of the tree once
    assert len(np.unique(found.drawn)) > 3
    assert (found.tokens == task.secret).all()


def test_probabilities_that_underflow_can_still_be_drawn_when_nothing_else_is_left():
    class Sure(UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            return np.tile([0.0, -1000.0], (len(tokens), 1))

    found = backtracking_search(Sure(2), Rule(horizon=2, secret=(1, 1)), nothing(5), rng=rng(), depth=None, budget=50)
    assert found.accepted.all() and (found.drawn == 6).all()


def test_out_of_budget_keeps_the_prefix_that_passed():
    task = make_task("Snowball", horizon=20, eps=0.5, vocab_size=4)
    prompts = task.sample_prompts(300, rng())
    found = backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(1), budget=36)
    assert 0 < found.share_within() < 1
    assert found.drawn.max() == 36 and (found.drawn[~found.accepted] == 36).all()
    written = np.arange(20) < found.length[:, None]
    assert np.array_equal(found.tokens, np.where(written, prompts, -1))
    assert np.array_equal(found.accepted, found.length == 20)
    assert np.array_equal(task.success(prompts, found.tokens), found.accepted)


def test_share_within_is_the_curve_of_the_budget():
    task = make_task("Snowball", horizon=8, eps=0.3)
    prompts = task.sample_prompts(3000, rng())
    long = backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(1), budget=200)
    shares = [long.share_within(b) for b in (7, 8, 10, 14, 200)]
    assert shares[0] == 0.0 and shares == sorted(shares)
    short = backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(2), budget=10)
    assert short.share_within() == pytest.approx(shares[2], abs=4 * np.sqrt(0.5 / 3000))
    lower, upper = long.interval(10)
    assert lower < shares[2] < upper < lower + 0.05
    assert "3000 prompts" in repr(long)


def test_the_law_is_asked_for_once_a_prefix():
    asked = []

    class Watched(UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            asked.append(len(tokens))
            return super().next_log_probs(prompts, tokens)

    task = make_task("Snowball", horizon=12, eps=0.3)
    backtracking_search(Watched(10), task, task.sample_prompts(50, rng()), rng=rng(1), budget=3000)
    assert asked == [50] * 12  # and all rows at once, laggards waited for


@pytest.mark.parametrize("degree", [2, 4])
def test_path_star_backtracking_repairs_nothing_unless_it_is_exhaustive(degree):
    task = PathStar(degree=degree, length=4, nodes=20)
    hans, n = CleverHansPolicy(task), 1500
    prompts = task.sample_prompts(n, rng())
    for depth in (1, 2):
        local = backtracking_search(hans, task, prompts, rng=rng(1), depth=depth)
        assert local.share_within() == pytest.approx(1 / degree, abs=4.5 * np.sqrt(0.25 / n))
        assert (local.drawn[local.accepted] == 4).all()
    everything = backtracking_search(hans, task, prompts, rng=rng(1), depth=None)
    assert everything.accepted.all()
    arms = (everything.drawn - 1) / 3  # the start once, then three tokens an arm, arms in a random order
    assert set(arms) == set(range(1, degree + 1))
    assert arms.mean() == pytest.approx((degree + 1) / 2, abs=4.5 * arms.std() / np.sqrt(n))


def test_best_of_k_finds_an_answer_with_the_probability_of_k_draws():
    task = make_task("Snowball", horizon=10, eps=0.15)
    p, n, k = task.exact_match(), 4000, 6
    prompts = task.sample_prompts(n, rng())
    found = best_of(task.sloppy_copier(), task, prompts, k, rng=rng(1))
    for j in range(1, k + 1):
        wanted = 1 - (1 - p) ** j
        assert found.share_within(10 * j) == pytest.approx(wanted, abs=4 * np.sqrt(0.25 / n))
    assert found.drawn.mean() == pytest.approx(10 * (1 - (1 - p) ** k) / p, abs=4 * found.drawn.std() / np.sqrt(n))
    assert np.array_equal(task.verify(prompts, found.tokens), found.accepted)
    assert np.array_equal(found.drawn, 10 * (found.restarts + 1))
    assert np.array_equal(found.rejected, found.restarts + ~found.accepted)


def test_best_of_takes_success_where_there_is_no_verifier():
    task = make_task("RareMode", horizon=4)
    found = best_of(UniformPolicy(2), task, nothing(400), 3, rng=rng())
    assert np.array_equal(found.accepted, task.success(nothing(400), found.tokens) == 1.0)
    assert 0.2 < found.share_within() < 0.5


def test_the_same_seed_searches_the_same_way():
    task = make_task("Snowball", horizon=10, eps=0.3)
    prompts = task.sample_prompts(40, rng())
    first, again = (backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(5), depth=3) for _ in range(2))
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.drawn, again.drawn)
