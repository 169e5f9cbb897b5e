"""Witten-Bell n-gram models, against dictionaries, hand computation and Markov chains."""

import copy
import pickle
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.stats import chi2

import ntp_envs.ngram as ngram
from agents import LayerwiseBC, LogLossBC, NGramBC, NGramDialBC, RhoEstimatorBC, SmoothedLogLossBC
from agents.selection import holdout_split
from agents.testing import check_agent, default_problems
from ntp_envs import (
    Demonstrations,
    EndedPolicy,
    Exactness,
    MarkovClass,
    MarkovPolicy,
    MixturePolicy,
    NGramClass,
    NGramPolicy,
    TabularPolicy,
)
from ntp_envs.arrays import all_sequences

NONE = np.empty((1, 0), dtype=np.int64)


class Dictionaries:
    """The same model in plain Python: counts by context tuple, ``None`` before the beginning."""

    def __init__(self, prompts, tokens, vocab_size, order, weights=None, escape=1.0):
        self.vocab_size, self.order, self.escape = vocab_size, order, escape
        self.counts = defaultdict(lambda: defaultdict(float))
        for row, (prompt, written) in enumerate(zip(prompts, tokens)):
            line = [*prompt, *written]
            for place in range(len(prompt), len(line)):
                for k in range(order):
                    self.counts[self.context(line[:place], k)][line[place]] += 1.0 if weights is None else weights[row]

    @staticmethod
    def context(line, k):
        return tuple(([None] * k + list(line))[len(line) :]) if k else ()

    def prob(self, token, line, k=None):
        k = self.order - 1 if k is None else k
        shorter = 1.0 / self.vocab_size if k == 0 else self.prob(token, line, k - 1)
        counts = {a: c for a, c in self.counts.get(self.context(line, k), {}).items() if c > 0}
        if not counts:
            return shorter
        left = self.escape * len(counts)
        return (counts.get(token, 0.0) + left * shorter) / (sum(counts.values()) + left)

    def laws(self, prompt, written):
        """``(H, A)`` probabilities before each token of one sequence."""
        line = [*prompt, *written]
        return np.array(
            [[self.prob(a, line[:place]) for a in range(self.vocab_size)] for place in range(len(prompt), len(line))]
        )


@st.composite
def sequences(draw):
    """Vocabulary, order, seed, sizes and kind of weights of a small problem."""
    return (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 6)),
        draw(st.integers(1, 7)),
        draw(st.sampled_from(["none", "whole", "fractional", "some zero"])),
        draw(st.sampled_from([1.0, 1.0, 0.0, 0.4])),
    )


def some_weights(kind, count, rng):
    if kind == "none":
        return None
    weights = rng.integers(1, 4, count).astype(float) if kind == "whole" else rng.random(count) + 0.01
    if kind == "some zero":
        weights[1::2] = 0.0
    return weights


@examples(150)
@given(sequences())
def test_every_order_agrees_with_dictionaries(problem):
    size, order, seed, rows, before, horizon, kind, escape = problem
    rng = np.random.default_rng(seed)
    prompts, tokens = rng.integers(size, size=(rows, before)), rng.integers(size, size=(rows, horizon))
    weights = some_weights(kind, rows, rng)
    policy = NGramPolicy.fit(prompts, tokens, size, order, weights=weights, escape=escape)
    oracle = Dictionaries(prompts.tolist(), tokens.tolist(), size, order, weights, escape)
    # what it has seen, and prompts of another length with tokens it has not
    other = rng.integers(size, size=(6, int(rng.integers(0, 7)))), rng.integers(size, size=(6, 8))
    for some_prompts, some_tokens in ((prompts, tokens), other):
        laws = np.exp(policy.forced_log_probs(some_prompts, some_tokens))
        wanted = [oracle.laws(*pair) for pair in zip(some_prompts.tolist(), some_tokens.tolist())]
        np.testing.assert_allclose(laws, wanted, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(laws.sum(axis=2), 1.0, rtol=1e-12)
        scored = np.exp(policy.log_probs(some_prompts, some_tokens))
        np.testing.assert_allclose(
            scored, np.take_along_axis(np.array(wanted), some_tokens[:, :, None], 2)[:, :, 0], rtol=1e-12, atol=1e-15
        )


def test_by_hand():
    # order 3 of "0 1 | 0 1 2 0 1 0": the two tokens before the bar are context only
    policy = NGramPolicy.fit_text([0, 1, 0, 1, 2, 0, 1, 0], vocab_size=3, order=3)
    one = [(3 + 3 / 3) / 9, (2 + 3 / 3) / 9, (1 + 3 / 3) / 9]  # counts 3, 2, 1 of 6; T = 3
    after_1 = [(2 + 2 * one[0]) / 5, 2 * one[1] / 5, (1 + 2 * one[2]) / 5]  # 0 twice, 2 once; T = 2
    after_01 = [(2 + 2 * after_1[0]) / 5, 2 * after_1[1] / 5, (1 + 2 * after_1[2]) / 5]  # the same places
    after_20 = [one[0] / 3, (2 + one[1]) / 3, one[2] / 3]  # "2 0" is followed by 1; "0" by 1, twice
    after_20 = [after_20[0] / 2, (1 + after_20[1]) / 2, after_20[2] / 2]
    law = lambda *line: np.exp(policy.next_log_probs(np.array([line], dtype=int).reshape(1, -1), NONE))[0]  # noqa: E731
    np.testing.assert_allclose(law(0, 1), after_01, rtol=1e-14)
    np.testing.assert_allclose(law(1, 1), after_1, rtol=1e-14)  # "1 1" never occurs
    np.testing.assert_allclose(law(2, 0), after_20, rtol=1e-14)
    np.testing.assert_allclose(law(), one, rtol=1e-14)  # nothing was counted at the beginning of a text
    assert policy.order == 3 and repr(policy) == "NGramPolicy(order=3, vocab_size=3)"


def test_an_unseen_context_leaves_it_to_the_longest_seen_part(rng):
    text = rng.integers(5, size=60)
    policy = NGramPolicy.fit_text(text, 5, order=4)
    seen = {tuple(text[i : i + 3]) for i in range(len(text) - 3)}
    pairs = {tuple(text[i : i + 2]) for i in range(len(text) - 2)}
    shorter = NGramPolicy(policy.levels[:3], 5)
    checked = 0
    for context in all_sequences(5, 3):
        if tuple(context) not in seen and tuple(context[1:]) in pairs:
            np.testing.assert_array_equal(
                policy.next_log_probs(context[None], NONE), shorter.next_log_probs(context[None], NONE)
            )
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(("size", "order"), [(1000, 8), (257, 9)])
def test_large_vocabularies_and_orders_do_not_overflow(size, order, rng):
    text = rng.integers(size, size=400)
    text[200:300] = text[50:150]
    policy = NGramPolicy.fit_text(text, size, order)
    oracle = Dictionaries([text[: order - 1].tolist()], [text[order - 1 :].tolist()], size, order)
    lines = np.stack([text[i : i + 40] for i in (0, 55, 210, 280)])
    wanted = [[oracle.prob(int(line[place]), line[:place].tolist()) for place in range(order, 40)] for line in lines]
    np.testing.assert_allclose(np.exp(policy.log_probs(lines[:, :order], lines[:, order:])), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", ["TABLE_CELLS", "DENSE_CELLS"])
def test_tables_and_searches_give_the_same(name, monkeypatch, rng):
    prompts, tokens = rng.integers(4, size=(30, 2)), rng.integers(4, size=(30, 20))
    other = rng.integers(4, size=(30, 1)), rng.integers(4, size=(30, 20))
    policy = NGramPolicy.fit(prompts, tokens, 4, 5)
    usual = policy.log_probs(*other), policy.forced_log_probs(*other)
    monkeypatch.setattr(ngram, name, 0)
    policy = NGramPolicy.fit(prompts, tokens, 4, 5)
    np.testing.assert_array_equal(policy.log_probs(*other), usual[0])
    np.testing.assert_allclose(policy.forced_log_probs(*other), usual[1], rtol=1e-13)


def test_weights_are_numbers_of_copies(rng):
    prompts, tokens = rng.integers(3, size=(6, 2)), rng.integers(3, size=(6, 9))
    copies = np.array([0, 1, 3, 0, 2, 1])
    weighted = NGramPolicy.fit(prompts, tokens, 3, 4, weights=copies)
    repeated = NGramPolicy.fit(np.repeat(prompts, copies, axis=0), np.repeat(tokens, copies, axis=0), 3, 4)
    other = rng.integers(3, size=(20, 1)), rng.integers(3, size=(20, 10))
    np.testing.assert_allclose(weighted.log_probs(*other), repeated.log_probs(*other), rtol=1e-12)
    # tokens that only sequences of weight zero have are not among the T different ones
    alone = NGramPolicy.fit([[0]], [[0, 0]], 2, 1, weights=[0.5])
    with_ghost = NGramPolicy.fit([[0], [0]], [[0, 0], [1, 1]], 2, 1, weights=[0.5, 0.0])
    assert (
        alone.log_probs([[0]], [[1]])[0, 0]
        == with_ghost.log_probs([[0]], [[1]])[0, 0]
        == pytest.approx(np.log(0.5 / 2.0))
    )


def test_copies_share_their_tables_and_files_keep_the_law(rng):
    policy = NGramPolicy.fit_text(rng.integers(5, size=300), 5, order=4)
    other = rng.integers(5, size=(3, 2)), rng.integers(5, size=(3, 10))
    copied = copy.copy(policy)
    copied.prompt_length = 7
    assert copied._tables is policy._tables and policy.prompt_length is None
    back = pickle.loads(pickle.dumps(copied))
    assert back.prompt_length == 7
    np.testing.assert_array_equal(back.forced_log_probs(*other), policy.forced_log_probs(*other))
    assert len(pickle.dumps(policy)) < 3 * sum(level.keys.nbytes + level.own.nbytes for level in policy.levels)


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["witten-bell", "frequencies", "ended", "mixture"])
def test_what_is_drawn_has_the_law(kind, rng):
    text = rng.choice(6, size=80, p=[0.4, 0.25, 0.2, 0.1, 0.05, 0.0])  # the last token is only smoothed in
    policy = NGramPolicy.fit_text(text, 6, order=3, escape=0.0 if kind == "frequencies" else 1.0)
    if kind == "ended":
        policy = EndedPolicy(policy, 4)
    if kind == "mixture":
        policy = MixturePolicy([policy, NGramPolicy.fit_text(text[::-1], 6, order=2)], [0.3, 0.7])
    n, prompts = 20_000, np.array([[0, 0], [5, 1], [3, 4]])  # one of a token that was never seen, one that has ended
    for prompt in prompts:
        drawn = policy.sample(np.tile(prompt, (n, 1)), 2, rng)
        seen = np.bincount(drawn @ [6, 1], minlength=36)
        wanted = np.exp(policy.log_probs(np.tile(prompt, (36, 1)), all_sequences(6, 2)).sum(axis=1))
        assert not seen[wanted == 0].any()
        often = wanted * n >= 5
        counts, means = (np.append(x[often], x[~often].sum()) for x in (seen, wanted * n))
        assert ((counts - means) ** 2)[means > 0] @ (1 / means[means > 0]) < chi2.isf(1e-5, max(often.sum(), 1))


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def demos(rng):
    chain = MarkovPolicy(rng.dirichlet(np.full(4, 0.4), size=25), order=2)
    prompts = rng.integers(4, size=(40, 1))
    return Demonstrations(prompts, chain.sample(prompts, 12, rng), vocab_size=4, weights=rng.random(40))


def test_the_class_builds_its_members(demos):
    policy = NGramBC().fit(demos, NGramClass(4, 3)).policy_
    again = NGramClass(4, 3).policy(policy.levels)
    np.testing.assert_array_equal(
        again.log_probs(demos.prompts, demos.tokens), policy.log_probs(demos.prompts, demos.tokens)
    )


@pytest.mark.parametrize("agent", [LogLossBC(), SmoothedLogLossBC(0.02), SmoothedLogLossBC(0.3)], ids=repr)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_maximum_likelihood_is_that_of_the_markov_chain(agent, order, demos):
    chain = agent.clone().fit(demos, MarkovClass(4, order - 1))
    model = agent.clone().fit(demos, NGramClass(4, order))
    np.testing.assert_allclose(
        np.exp(model.policy_.log_probs(demos.prompts, demos.tokens)),
        np.exp(chain.policy_.log_probs(demos.prompts, demos.tokens)),
        rtol=1e-9,
        atol=1e-12,
    )
    assert model.fit_report_.objective == pytest.approx(chain.fit_report_.objective, rel=1e-12)
    assert model.fit_report_.gap == 0.0


def test_the_floor_is_taken_in_blocks(demos, monkeypatch):
    import agents.fit_class as likelihood

    fits = []
    for cells in (likelihood.BLOCK_CELLS, 9):
        monkeypatch.setattr(likelihood, "BLOCK_CELLS", cells)
        fits.append(SmoothedLogLossBC(0.2).fit(demos, NGramClass(4, 4)).policy_)
    for one, two in zip(fits[0].levels, fits[1].levels):
        np.testing.assert_array_equal(one.own, two.own)


def test_witten_bell_is_reported_as_no_maximum(demos):
    smoothed, sharp = (agent.fit(demos, NGramClass(4, 3)) for agent in (NGramBC(), LogLossBC()))
    assert np.isnan(smoothed.fit_report_.gap) and smoothed.fit_report_.details["order"] == 3
    assert smoothed.fit_report_.objective > sharp.fit_report_.objective
    direct = NGramPolicy.fit(demos.prompts, demos.tokens, 4, 3, weights=demos.weights)
    np.testing.assert_array_equal(
        smoothed.policy_.log_probs(demos.prompts, demos.tokens), direct.log_probs(demos.prompts, demos.tokens)
    )
    assert NGramBC(order=2).fit(demos, NGramClass(4, 3)).policy_.order == 2


def test_of_an_exact_population_nothing_is_smoothed(rng):
    expert = TabularPolicy.random(2, 5, rng)
    tokens = all_sequences(2, 5)
    prompts = np.empty((32, 0), dtype=np.int64)
    weights = np.exp(expert.log_probs(prompts, tokens).sum(axis=1))
    population = Demonstrations(prompts, tokens, vocab_size=2, weights=weights, exactness=Exactness(everything=True))
    policy = NGramBC().fit(population, NGramClass(2, 3)).policy_
    chain = LogLossBC().fit(population, MarkovClass(2, 2)).policy_
    np.testing.assert_allclose(policy.log_probs(prompts, tokens), chain.log_probs(prompts, tokens), rtol=1e-10)
    many = Demonstrations(prompts, tokens, vocab_size=2, weights=1e9 * weights)  # and so it is in the limit
    close = NGramBC().fit(many, NGramClass(2, 3)).policy_
    np.testing.assert_allclose(close.log_probs(prompts, tokens), chain.log_probs(prompts, tokens), atol=1e-6)


@pytest.mark.parametrize("agent", [NGramBC(), NGramBC(order=2)], ids=repr)
def test_the_agent_conforms(agent):
    check_agent(agent)


def test_log_loss_conforms_on_the_class():
    for agent in (LogLossBC(), SmoothedLogLossBC(0.1)):
        problems = [problem for problem in default_problems(agent) if isinstance(problem.policy_class, NGramClass)]
        assert len(problems) == 1
        check_agent(agent, problems=problems)


# -- models on a dial --------------------------------------------------------------------------------------------------


def members_by_hand(agent, demos, policy_class, rng):
    rest, held_out = holdout_split(demos, 0.5, rng)
    models = [
        NGramPolicy.fit(rest.prompts, rest.tokens, demos.vocab_size, order, escape=escape)
        for order in range(1, policy_class.order + 1)
        for escape in agent.escapes
    ]
    return [model.log_probs(held_out.prompts, held_out.tokens) for model in models]


def by_log_loss(log_probs, tau):
    return np.argmax([table.sum() for table in log_probs])


def by_rho(log_probs, tau):
    """The least worst loss over all replies, one by one."""
    sums = [table.sum(axis=1) for table in log_probs]
    worst = [max(np.mean(np.tanh((b - a) / (2 if tau == "ratio" else 4))) for b in sums) for a in sums]
    return np.argmin(worst)


@pytest.mark.parametrize(
    ("chooser", "by_hand"),
    [(LogLossBC(), by_log_loss), (RhoEstimatorBC(), by_rho), (RhoEstimatorBC("psi"), by_rho)],
    ids=("log-loss", "rho", "psi"),
)
def test_the_dial_is_set_as_by_brute_force(chooser, by_hand, rng):
    chain = TabularPolicy.random(3, 4, rng)
    prompts = np.empty((60, 0), dtype=np.int64)
    demos = Demonstrations(prompts, chain.sample(prompts, 4, rng), vocab_size=3)
    agent = NGramDialBC(chooser, escapes=(0.1, 1.0, 5.0)).fit(demos, NGramClass(3, 3), rng=np.random.default_rng(5))
    chosen = by_hand(
        members_by_hand(agent, demos, NGramClass(3, 3), np.random.default_rng(5)), getattr(chooser, "tau", "")
    )
    details = agent.fit_report_.details
    assert (details["order"], details["escape"]) == agent.members_[chosen] and len(agent.members_) == 9
    assert agent.policy_.order == details["order"] and details["learned_from"] == details["held_out"] == 30


def test_of_a_population_the_dial_has_orders_only(rng):
    expert = TabularPolicy.random(2, 4, rng)
    tokens, prompts = all_sequences(2, 4), np.empty((16, 0), dtype=np.int64)
    weights = np.exp(expert.log_probs(prompts, tokens).sum(axis=1))
    population = Demonstrations(prompts, tokens, vocab_size=2, weights=weights, exactness=Exactness(everything=True))
    agent = NGramDialBC(LogLossBC()).fit(population, NGramClass(2, 3))
    assert agent.members_ == [(1, 0.0), (2, 0.0), (3, 0.0)] and agent.policy_.order == 3


def test_the_dial_conforms_and_refuses_learners_of_other_classes(demos):
    check_agent(NGramDialBC(RhoEstimatorBC()), skip={"weights", "small data"})
    with pytest.raises(TypeError, match="LayerwiseBC cannot fit FiniteClass"):
        NGramDialBC(LayerwiseBC()).fit(demos, NGramClass(4, 3))
    with pytest.raises(ValueError, match="order"):
        NGramDialBC(LogLossBC(), orders=(4,)).fit(demos, NGramClass(4, 3))
    with pytest.raises(ValueError, match="escape"):
        NGramDialBC(LogLossBC(), escapes=(-1.0,)).fit(demos, NGramClass(4, 3))
