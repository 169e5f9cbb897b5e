"""`ntp_envs.evaluation` against enumeration, closed forms and Markov chains, and the coverage of its intervals."""

import importlib
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

import ntp_envs
from ntp_envs.evaluation import (
    BY_POSITION,
    TOTALS,
    Evaluation,
    SampleText,
    backtracking_search,
    backtracking_walk,
    best_of,
    evaluate,
)
from ntp_envs.tasks import CleverHansPolicy, PathStar, Task

module = importlib.import_module("ntp_envs.evaluation")  # the package gives the function that name


def rng(seed=0):
    return np.random.default_rng(seed)


def by_hand(policy, demos):
    """Forced and greedy accuracy, exact match and cross-entropy, one sequence and one token at a time."""
    n, horizon = demos.tokens.shape
    forced, greedy, nats = np.zeros((n, horizon)), np.zeros((n, horizon)), np.zeros((n, horizon))
    for i in range(n):
        prompt, target, own = demos.prompts[i : i + 1], demos.tokens[i], []
        for h in range(horizon):
            law = policy.next_log_probs(prompt, target[None, :h])[0]
            nats[i, h], forced[i, h] = -law[target[h]], law.argmax() == target[h]
            own.append(int(policy.next_log_probs(prompt, np.array([own], dtype=int).reshape(1, h))[0].argmax()))
            greedy[i, h] = own[-1] == target[h]
    return forced, greedy, nats


@examples(15)
@given(seed=st.integers(0, 2**16), vocab=st.integers(2, 3), horizon=st.integers(1, 4), prompt=st.integers(0, 1))
def test_every_measure_of_a_random_policy_is_what_counting_says(seed, vocab, horizon, prompt):
    draws = rng(seed)
    policy, expert = (ntp_envs.TabularPolicy.random(vocab, horizon, draws, prompt_length=prompt) for _ in range(2))
    prompts = draws.integers(vocab, size=(17, prompt))
    demos = ntp_envs.Demonstrations(
        prompts, expert.sample(prompts, horizon, draws), vocab_size=vocab, weights=draws.random(17) + 0.1
    )
    task = ntp_envs.make_task("BernoulliMixture", horizon=horizon)  # only its shapes and success are read
    for name, value in (("vocab_size", vocab), ("prompt_length", prompt), ("has_success", False)):
        object.__setattr__(task, name, value)
    found = evaluate(policy, task, demonstrations=demos, rng=draws)
    forced, greedy, nats = by_hand(policy, demos)
    weights = demos.normalised_weights()
    np.testing.assert_allclose(found.forced_accuracy, weights @ forced)
    np.testing.assert_allclose(found.greedy_accuracy, weights @ greedy)
    np.testing.assert_allclose(found.cross_entropy, weights @ nats)
    assert found.forced_exact == pytest.approx(weights @ forced.min(axis=1))
    assert found.greedy_exact == pytest.approx(found.forced_exact)
    assert found.sequence_probability == pytest.approx(weights @ np.exp(-nats.sum(axis=1)))
    assert found.perplexity == pytest.approx(math.exp((weights @ nats).mean()))
    assert (found.n, found.effective_n) == (17, pytest.approx(1 / (weights**2).sum()))


def test_sampled_measures_tend_to_their_probabilities():
    """By enumeration of both laws: a draw agrees with a demonstration with probability sum_a P(a) Q(a)."""
    task = ntp_envs.make_task("NoisyParity", bits=2, subset=(0, 1), noise=0.2)
    policy = ntp_envs.TabularPolicy.random(2, task.horizon, rng(3))
    sequences = np.array(list(itertools.product(range(2), repeat=task.horizon)))
    nothing = np.empty((len(sequences), 0), dtype=int)
    laws = [np.exp(pi.log_probs(nothing, sequences).sum(axis=1)) for pi in (task.expert, policy)]
    found = evaluate(policy, task, n=20_000, rng=rng(4))
    ones = [law @ sequences for law in laws]
    wanted = ones[0] * ones[1] + (1 - ones[0]) * (1 - ones[1])
    assert np.abs(found.sampled_accuracy - wanted).max() < 4 * 0.5 / math.sqrt(20_000)
    assert found.sampled_exact == pytest.approx(laws[0] @ laws[1], abs=4 * 0.5 / math.sqrt(20_000))
    assert found.sequence_probability == pytest.approx(laws[0] @ laws[1], abs=0.01)
    success = laws[1] @ task.success(nothing, sequences)
    assert found.sampled_success == pytest.approx(success, abs=4 * 0.5 / math.sqrt(20_000))


def test_the_uniform_policy_is_at_one_over_a_and_log_a():
    task = ntp_envs.make_task("ARLinear", horizon=6)
    found = evaluate(ntp_envs.UniformPolicy(task.vocab_size), task, n=4000, rng=rng())
    size = task.vocab_size
    np.testing.assert_allclose(found.cross_entropy, math.log(size))
    assert found.interval("mean_cross_entropy") == pytest.approx((math.log(size), math.log(size)))
    assert found.perplexity == pytest.approx(size)
    assert found.bits_per_token == pytest.approx(math.log2(size))
    assert np.abs(found.sampled_accuracy - 1 / size).max() < 4.5 * math.sqrt(1 / size * (1 - 1 / size) / 4000)
    assert found.sequence_probability == pytest.approx(size**-6.0)


def test_the_expert_of_a_deterministic_task_gets_everything_right():
    task = ntp_envs.make_task("Tightrope", horizon=9, eps=0.2)
    found = evaluate(task.expert, task, n=30, rng=rng())
    for name in ("forced_accuracy", "greedy_accuracy", "sampled_accuracy"):
        assert (getattr(found, name) == 1.0).all()
        lower, upper = found.interval(name)
        assert (upper == 1.0).all() and lower == pytest.approx(30 / (30 + 1.96**2), abs=1e-3)
    assert (found.greedy_exact, found.sampled_exact, found.sampled_success) == (1.0, 1.0, 1.0)
    assert found.mean_cross_entropy == 0.0
    assert found.interval("perplexity")[0] == 1.0


def test_a_demonstrated_token_of_probability_zero_is_counted_and_makes_the_cross_entropy_infinite():
    task = ntp_envs.make_task("Contamination", horizon=5)
    demos = ntp_envs.collect(task, 200, rng())
    found = evaluate(ntp_envs.BernoulliPolicy(0.0), task, demonstrations=demos, rng=rng())
    np.testing.assert_allclose(found.impossible, demos.tokens.mean(axis=0))
    assert np.isinf(found.cross_entropy).all() and math.isinf(found.perplexity) and math.isinf(found.bits_per_token)
    assert found.interval("mean_cross_entropy") == (math.inf, math.inf)
    lower, upper = found.interval("impossible")
    assert ((lower < found.impossible) & (found.impossible < upper)).all()


def test_a_row_of_weight_zero_does_not_count():
    task = ntp_envs.make_task("Contamination", horizon=2)
    demos = ntp_envs.Demonstrations(np.zeros((2, 1), int), [[0, 0], [1, 1]], vocab_size=2, weights=np.array([3.0, 0.0]))
    found = evaluate(ntp_envs.BernoulliPolicy(0.0), task, demonstrations=demos, rng=rng())
    assert found.mean_cross_entropy == 0.0
    assert found.forced_exact == 1.0


def test_a_population_gives_the_exact_forced_measures():
    task = ntp_envs.make_task("RareMode", horizon=6, eps=0.2)
    found = evaluate(task.policy_class.policy(0), task, demonstrations=task.population(), rng=rng())
    wanted = task.member_kl()[0] - (0.2 * math.log(0.2) + 0.8 * math.log(0.8))  # cross-entropy = KL + entropy
    assert found.cross_entropy.sum() == pytest.approx(wanted)


def test_blocks_do_not_change_anything(monkeypatch):
    task = ntp_envs.make_task("ARLinear", horizon=6)
    policy = ntp_envs.TabularPolicy.random(task.vocab_size, 6, rng(1), prompt_length=task.prompt_length)
    whole = evaluate(policy, task, n=101, rng=rng(2))
    monkeypatch.setattr(ntp_envs.policies, "LAW_CELLS", 3 * task.vocab_size)
    blocks = evaluate(policy, task, n=101, rng=rng(2))
    for name in BY_POSITION:
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
    assert whole.samples == blocks.samples


def test_the_forced_law_is_asked_for_in_blocks(monkeypatch):
    sizes = []

    class Watched(ntp_envs.UniformPolicy):
        def forced_log_probs(self, prompts, tokens):
            sizes.append(len(tokens) * tokens.shape[1] * self.vocab_size)
            return super().forced_log_probs(prompts, tokens)

    monkeypatch.setattr(ntp_envs.policies, "LAW_CELLS", 100)
    evaluate(Watched(2), ntp_envs.make_task("Contamination", horizon=8), n=50, rng=rng())
    assert max(sizes) <= 100 and sum(sizes) == 50 * 8 * 2
    sizes.clear()
    evaluate(Watched(2), ntp_envs.make_task("Contamination", horizon=64), n=3, rng=rng())
    assert sizes == [128] * 3  # one sequence at a time where even that is more than a block


@pytest.mark.slow
def test_intervals_cover_the_truth_about_19_times_in_20():
    task = ntp_envs.make_task("Contamination", horizon=3, eps=0.3, p=0.2, q=0.8)
    policy = ntp_envs.BernoulliPolicy(0.3)
    prompts, masses = task.prompt_law()
    tokens = np.tile(list(itertools.product(range(2), repeat=3)), (len(prompts), 1))
    prompts, masses = np.repeat(prompts, 8, axis=0), np.repeat(masses, 8)
    law = masses * np.exp(task.expert.log_probs(prompts, tokens).sum(axis=1))
    complete = ntp_envs.Demonstrations(prompts, tokens, vocab_size=2, weights=law)
    truth = evaluate(policy, task, demonstrations=complete, rng=rng())
    agree = complete.normalised_weights() @ (complete.tokens * 0.3 + (1 - complete.tokens) * 0.7)
    wanted = {
        "forced_accuracy": truth.forced_accuracy,
        "cross_entropy": truth.cross_entropy,
        "mean_cross_entropy": truth.mean_cross_entropy,
        "perplexity": truth.perplexity,
        "forced_token_accuracy": truth.forced_token_accuracy,
        "sequence_probability": truth.sequence_probability,
        "sampled_accuracy": agree,
        "sampled_exact": truth.sequence_probability,
    }
    draws, runs = rng(5), 200
    covered = {name: [] for name in wanted}
    for _ in range(runs):
        found = evaluate(policy, task, n=150, rng=draws, samples=0)
        for name, value in wanted.items():
            lower, upper = found.interval(name)
            covered[name].append(np.mean((lower <= value) & (value <= upper)))
    for name, hits in covered.items():
        assert 0.91 <= np.mean(hits) <= 0.985, name


def test_the_same_seed_gives_the_same_evaluation():
    task = ntp_envs.make_task("Contamination", horizon=6)
    first, again = (evaluate(ntp_envs.BernoulliPolicy(0.4), task, n=40, rng=rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.sampled_accuracy, again.sampled_accuracy)
    assert first.samples == again.samples


def test_samples_are_decoded_prompts_targets_and_answers():
    task = ntp_envs.make_task("Tightrope", horizon=4)
    found = evaluate(task.expert, task, n=5, rng=rng(), samples=2)
    text = task.decode(ntp_envs.collect(task, 1, rng()).tokens[0])
    assert len(found.samples) == 2 and isinstance(found.samples[0], SampleText)
    assert found.samples[0].target == found.samples[0].greedy == found.samples[0].sampled == text
    assert evaluate(task.expert, task, n=1, rng=rng(), samples=9).samples[1:] == ()


def test_rows_totals_and_table_say_what_the_fields_say():
    task = ntp_envs.make_task("NoisyParity")
    found = evaluate(ntp_envs.GreedyPolicy(ntp_envs.UniformPolicy(2)), task, n=40, rng=rng())
    rows = found.rows()
    assert [row["h"] for row in rows] == list(range(1, task.horizon + 1))
    assert [row["greedy_accuracy"] for row in rows] == found.greedy_accuracy.tolist()
    totals = {row["measure"]: row for row in found.totals()}
    assert set(totals) == {name for name in TOTALS if not name.startswith("backtracking")}
    assert totals["sampled_exact"]["value"] == found.sampled_exact
    for row in totals.values():
        assert row["lower"] <= row["value"] <= row["upper"]
    table = found.table(positions=3)
    assert f"{found.forced_token_accuracy:.4g}" in table and "sampled " in table
    assert sum(line.split()[:1] in (["1"], ["3"], ["5"]) for line in table.splitlines()) >= 3
    assert "NoisyParity" in repr(found) and "inf nats" in repr(found)
    assert len(repr(found)) < 200


def test_without_success_there_is_none():
    found = evaluate(ntp_envs.BernoulliPolicy(0.5), ntp_envs.make_task("Contamination", horizon=4), n=5, rng=rng())
    assert found.greedy_success is None and found.sampled_success is None
    assert "greedy_success" not in {row["measure"] for row in found.totals()}


def test_a_policy_whose_prompt_it_reads_is_evaluated_after_the_right_prompt():
    """A copier that needs its prompt: right where prompts are, wrong after shuffled ones."""
    task = ntp_envs.make_task("ARLinear", horizon=2)
    size, length = task.vocab_size, task.prompt_length
    assert length >= 1

    def copy(prompts, tokens):
        return np.where(np.arange(size) == prompts[:, :1], math.log(0.9), math.log(0.1 / (size - 1)))

    prompts = rng().integers(size, size=(50, length))
    demos = ntp_envs.Demonstrations(prompts, np.repeat(prompts[:, :1], 2, axis=1), vocab_size=size)
    found = evaluate(ntp_envs.CallablePolicy(copy, size), task, demonstrations=demos, rng=rng())
    assert isinstance(found, Evaluation)
    assert found.forced_exact == found.greedy_exact == 1.0
    assert found.sequence_probability == pytest.approx(0.81)


# -- with a verifier at hand -------------------------------------------------------------------------------------------


def test_backtracking_is_part_of_the_result_where_it_is_asked_for():
    task = ntp_envs.make_task("Snowball", horizon=20, eps=0.1)
    copier = task.sloppy_copier()
    plain = evaluate(copier, task, n=400, rng=np.random.default_rng(0))
    assert plain.backtracking_accepted is None and "backtracking" not in plain.table()
    helped = evaluate(copier, task, n=400, rng=np.random.default_rng(0), backtrack=1)
    assert helped.backtracking_accepted == 1.0 and helped.sampled_exact < 0.3
    lower, upper = helped.interval("backtracking_cost")
    assert lower < 1 / 0.9 < upper < 1.2
    assert {row["measure"] for row in helped.totals()} >= {"backtracking_accepted", "backtracking_cost"}


# -- backtracking and best of k ----------------------------------------------------------------------------------------


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
        return ntp_envs.UniformPolicy(2)

    @cached_property
    def policy_class(self):
        return ntp_envs.FiniteClass([ntp_envs.UniformPolicy(2)])

    def prompt_law(self):
        return np.empty((1, 0), dtype=int), np.ones(1)

    def best_in_class(self):
        raise ntp_envs.NotTractableError("not needed")

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
    task, policy, n = Rule(), ntp_envs.TabularPolicy.random(2, 4, rng(1)), 20_000
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
    task = ntp_envs.make_task("Snowball", horizon=horizon, eps=eps, vocab_size=3)
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
    policy, task = ntp_envs.TabularPolicy(tables), Rule(secret=tuple(draws.integers(2, size=4).tolist()))
    found = backtracking_search(policy, task, nothing(3), rng=draws, depth=None, budget=1000, decoding="greedy")
    answer, drawn, rejected = depth_first(policy, task, [])
    assert found.accepted.tolist() == [answer is not None] * 3
    assert found.drawn.tolist() == [drawn] * 3
    assert found.rejected.tolist() == [rejected] * 3
    assert found.tokens.tolist() == [answer or [-1] * 4] * 3


def test_sampled_depth_first_search_reaches_everything_and_tries_nothing_twice():
    task, policy = Rule(secret=(1, 0, 1, 1)), ntp_envs.TabularPolicy.random(2, 4, rng(3), concentration=0.3)
    found = backtracking_search(policy, task, nothing(200), rng=rng(4), depth=None, budget=31)
    assert found.accepted.all()
    assert found.drawn.max() <= 2 + 4 + 8 + 16  # every token of the tree once
    assert len(np.unique(found.drawn)) > 3
    assert (found.tokens == task.secret).all()


def test_probabilities_that_underflow_can_still_be_drawn_when_nothing_else_is_left():
    class Sure(ntp_envs.UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            return np.tile([0.0, -1000.0], (len(tokens), 1))

    found = backtracking_search(Sure(2), Rule(horizon=2, secret=(1, 1)), nothing(5), rng=rng(), depth=None, budget=50)
    assert found.accepted.all() and (found.drawn == 6).all()


def test_out_of_budget_keeps_the_prefix_that_passed():
    task = ntp_envs.make_task("Snowball", horizon=20, eps=0.5, vocab_size=4)
    prompts = task.sample_prompts(300, rng())
    found = backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(1), budget=36)
    assert 0 < found.share_within() < 1
    assert found.drawn.max() == 36 and (found.drawn[~found.accepted] == 36).all()
    written = np.arange(20) < found.length[:, None]
    assert np.array_equal(found.tokens, np.where(written, prompts, -1))
    assert np.array_equal(found.accepted, found.length == 20)
    assert np.array_equal(task.success(prompts, found.tokens), found.accepted)


def test_share_within_is_the_curve_of_the_budget():
    task = ntp_envs.make_task("Snowball", horizon=8, eps=0.3)
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

    class Watched(ntp_envs.UniformPolicy):
        def next_log_probs(self, prompts, tokens):
            asked.append(len(tokens))
            return super().next_log_probs(prompts, tokens)

    task = ntp_envs.make_task("Snowball", horizon=12, eps=0.3)
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
    task = ntp_envs.make_task("Snowball", horizon=10, eps=0.15)
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
    task = ntp_envs.make_task("RareMode", horizon=4)
    found = best_of(ntp_envs.UniformPolicy(2), task, nothing(400), 3, rng=rng())
    assert np.array_equal(found.accepted, task.success(nothing(400), found.tokens) == 1.0)
    assert 0.2 < found.share_within() < 0.5


def test_the_same_seed_searches_the_same_way():
    task = ntp_envs.make_task("Snowball", horizon=10, eps=0.3)
    prompts = task.sample_prompts(40, rng())
    first, again = (backtracking_search(task.sloppy_copier(), task, prompts, rng=rng(5), depth=3) for _ in range(2))
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.drawn, again.drawn)


# == the walk that goes back by chance =================================================================================


def tree(policy, prompt, horizon):
    """All prefixes by name, and pi(y) of each."""
    mass = {(): 1.0}
    for h in range(horizon):
        for y in [y for y in mass if len(y) == h]:
            law = np.exp(policy.next_log_probs(prompt, np.array([y], dtype=int).reshape(1, h))[0])
            mass |= {(*y, a): mass[y] * p for a, p in enumerate(law) if p > 0}
    return mass


def walked(mass, value, horizon):
    """Law of the first whole answer, matrix from one whole answer to the next, and mean steps to the first."""
    edge = {y: mass[y] * value[y] for y in mass if y}
    nodes = [(), *(y for y in edge if edge[y] > 0)]
    inner, ends = [y for y in nodes if len(y) < horizon], [y for y in nodes if len(y) == horizon]
    move = np.zeros((len(nodes), len(nodes)))
    for y, weight in edge.items():
        if weight > 0:
            one, other = nodes.index(y[:-1]), nodes.index(y)
            move[one, other] = move[other, one] = weight
    move /= move.sum(axis=1, keepdims=True)
    i, e = ([nodes.index(y) for y in some] for some in (inner, ends))
    fundamental = np.linalg.inv(np.eye(len(i)) - move[np.ix_(i, i)])
    hit = fundamental @ move[np.ix_(i, e)]
    return ends, hit[0], move[np.ix_(e, i)] @ hit, fundamental[0].sum()


def valued(policy, prompt, horizon, reward, wrong):
    """pi(y), and the exact values of all prefixes; at proper ones each times a factor of up to ``wrong``."""
    mass = tree(policy, prompt, horizon)
    value = {y: reward[y] for y in mass if len(y) == horizon}
    for h in reversed(range(horizon)):
        for y in [y for y in mass if len(y) == h]:
            value[y] = sum(mass[z] / mass[y] * value[z] for z in mass if z[:-1] == y and len(z) == h + 1)
    draws = rng(7)
    return mass, {y: v * wrong ** draws.uniform(-1, 1) if len(y) < horizon else v for y, v in value.items()}


@pytest.fixture(scope="module")
def grove():
    """A policy, a prompt, and a reward of whole answers of which some are worth nothing."""
    draws = rng(11)
    policy = ntp_envs.TabularPolicy.random(3, 3, draws)
    reward = {y: float(draws.choice([0.0, 0.2, 1.0, 3.0])) for y in itertools.product(range(3), repeat=3)}
    return policy, np.zeros((1, 0), dtype=int), reward


def wanted_law(mass, value, ends):
    law = np.array([mass[y] * value[y] for y in ends])
    return law / law.sum()


def test_with_the_exact_value_the_first_answer_has_the_law_and_takes_h_squared_steps(grove):
    mass, value = valued(*grove[:2], 3, grove[2], 1.0)
    ends, first, again, steps = walked(mass, value, 3)
    law = wanted_law(mass, value, ends)
    np.testing.assert_allclose(first, law, atol=1e-12)
    np.testing.assert_allclose(law @ again, law, atol=1e-12)
    assert steps == pytest.approx(9.0)


def test_with_wrong_values_later_answers_tend_to_the_same_law(grove):
    mass, value = valued(*grove[:2], 3, grove[2], 8.0)
    ends, first, again, _ = walked(mass, value, 3)
    law = wanted_law(mass, value, ends)
    np.testing.assert_allclose(law @ again, law, atol=1e-12)
    far = [0.5 * np.abs(first @ np.linalg.matrix_power(again, k) - law).sum() for k in (0, 1, 4, 64)]
    assert far[0] > 0.1 and far == sorted(far, reverse=True) and far[-1] < 0.01


@dataclass(frozen=True)
class Bare(Task):
    """Three tokens, three times, without a prompt."""

    horizon: int = 3
    vocab_size = 3
    prompt_length = 0
    expert = ntp_envs.TabularPolicy.random(3, 3, np.random.default_rng(11))
    policy_class = ntp_envs.FiniteClass([expert])

    def sample_prompts(self, n, rng):
        return np.zeros((n, 0), dtype=int)

    def prompt_law(self):
        return np.zeros((1, 0), dtype=int), np.ones(1)

    def best_in_class(self):
        raise ntp_envs.NotTractableError("nobody asks")


@pytest.mark.parametrize(("wrong", "visits"), [(1.0, 1), (8.0, 1), (8.0, 3)])
def test_the_walk_draws_from_the_law_of_its_chain(grove, wrong, visits):
    policy, _, reward = grove
    mass, value = valued(policy, grove[1], 3, reward, wrong)
    ends, first, again, _ = walked(mass, value, 3)
    law, n = first @ np.linalg.matrix_power(again, visits - 1), 4000

    def looked_up(prompts, tokens):
        return np.array([value[tuple(y)] for y in tokens.tolist()])

    task, draws = Bare(), rng(wrong > 1)
    found = backtracking_walk(policy, task, task.sample_prompts(n, draws), rng=draws, value=looked_up, visits=visits)
    assert found.accepted.all()
    counts = np.array([(found.tokens == y).all(axis=1).sum() for y in ends])
    assert counts.sum() == n
    assert (np.abs(counts - n * law) <= 4.5 * np.sqrt(n * law * (1 - law)) + 1).all()
    assert (found.drawn - found.rejected == 3).all()
    if wrong == visits == 1:
        assert found.drawn.mean() == pytest.approx(6.0, abs=4.5 * found.drawn.std() / math.sqrt(n))


def test_with_a_verifier_it_tends_to_the_policys_law_given_that_the_answer_passes():
    """Token by token another law comes out: an early token is taken however little passes after it."""

    class Picky(Bare):
        has_verifier = True

        def verify(self, prompts, tokens):  # after a 0 the rest must be 0 as well
            return (tokens[:, 0] != 0) | (tokens[:, 1:] == 0).all(axis=1)

    task, n = Picky(), 1500
    mass = tree(task.expert, np.zeros((1, 0), dtype=int), 3)
    passing = {y: p for y, p in mass.items() if len(y) == 3 and (y[0] != 0 or y == (0, 0, 0))}
    share, local = (mass[0, 0, 0] / sum(passing.values()), mass[0,])
    assert local > 2 * share
    draws = rng(4)
    nothing = task.sample_prompts(n, draws)
    for found, law in (
        (backtracking_search(task.expert, task, nothing, rng=draws, budget=2000), local),
        (backtracking_walk(task.expert, task, nothing, rng=draws, visits=10), share),
    ):
        assert found.accepted.all()
        assert (found.tokens[:, 0] == 0).mean() == pytest.approx(law, abs=4.5 * math.sqrt(law * (1 - law) / n))


def test_a_walk_that_cannot_end_stops_and_bad_values_are_refused():
    task, draws = Bare(), rng()
    nothing = task.sample_prompts(5, draws)
    none = backtracking_walk(task.expert, task, nothing, rng=draws, value=lambda x, y: np.zeros(len(y)))
    assert not none.accepted.any() and (none.length == 0).all() and (none.drawn == 0).all()
    short = backtracking_walk(
        task.expert, task, nothing, rng=draws, value=lambda x, y: np.ones(len(y)), visits=9, budget=3
    )
    assert not short.accepted.any() and (short.drawn == 3).all() and (short.tokens[:, 0] >= -1).all()
    for bad in (lambda x, y: -np.ones(len(y)), lambda x, y: np.ones(1), lambda x, y: np.full(len(y), np.nan)):
        with pytest.raises(ValueError, match="one finite number of at least 0"):
            backtracking_walk(task.expert, task, nothing, rng=draws, value=bad)
    with pytest.raises(ntp_envs.NotTractableError, match="no verifier"):
        backtracking_walk(task.expert, task, nothing, rng=draws)
