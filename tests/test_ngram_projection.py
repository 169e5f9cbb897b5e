"""Learners from labels in n-gram classes: against Markov classes, dictionaries of contexts, and on real text."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

import agents.interactive
from agents import (
    AdversarialImitation,
    ChunkKR,
    ClippedRatioBC,
    DAgger,
    ForwardTraining,
    LayerwiseBC,
    LogLossBC,
    OnPolicyDistillation,
    PerceptronBC,
    RhoEstimatorBC,
    ScheduledSampling,
    TaiLrBC,
    TotalVariationBC,
)
from agents.fit_class import fit_class
from agents.targets import Targets
from agents.testing import CHECKS, Problem, check_agent
from ntp_envs import Demonstrations, MarkovClass, NGramClass, NGramPolicy, TabularPolicy, collect
from ntp_envs.checks import NotTractableError
from ntp_envs.tasks import Text

DIVERGENCES = ("forward", "reverse")
HARBOUR = str(Path(__file__).parent / "data" / "harbour.txt")


@st.composite
def labelled(draw):
    """Labels of a small vocabulary, some prefixes of weight zero, some tokens excluded; and a context length."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    size, horizon, n = draw(st.integers(2, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    laws = rng.dirichlet(np.ones(size), size=(n, horizon))
    if draw(st.booleans()):
        laws *= rng.random(laws.shape) < 0.7
        laws[..., 0] += laws.sum(axis=2) == 0
        laws /= laws.sum(axis=2, keepdims=True)
    weights = rng.random((n, horizon)) * (rng.random((n, horizon)) < 0.8)
    weights[0, draw(st.integers(0, horizon - 1))] = 1.0
    prompts = rng.integers(size, size=(n, draw(st.integers(0, 4))))
    with np.errstate(divide="ignore"):
        return Targets(prompts, rng.integers(size, size=(n, horizon)), np.log(laws), weights), draw(st.integers(0, 3))


def context(line, k):
    """The last k of a line, ``None`` before its beginning."""
    return tuple(([None] * k + list(line))[len(line) :]) if k else ()


class Dictionaries:
    """The nearest law after each context of at most ``longest`` tokens, in plain Python."""

    def __init__(self, labels, longest, kind):
        self.size, self.longest = labels.vocab_size, longest
        seen = defaultdict(list)
        for i, h in zip(*np.nonzero(labels.weights)):
            line = [*labels.prompts[i], *labels.tokens[i, :h]]
            for k in range(longest + 1):
                seen[context(line, k)].append((labels.weights[i, h], labels.log_laws[i, h]))
        self.laws = {where: (self.mean if kind == "forward" else self.geometric)(told) for where, told in seen.items()}

    def mean(self, told):
        total = sum(weight for weight, _ in told)
        return [math.fsum(weight * math.exp(law[a]) for weight, law in told) / total for a in range(self.size)]

    def geometric(self, told):
        """Of the tokens excluded least, the geometric mean over the laws that allow each."""
        excluded = [math.fsum(weight for weight, law in told if law[a] == -math.inf) for a in range(self.size)]
        others = math.fsum(weight for weight, _ in told) - min(excluded)
        logs = [math.fsum(w * law[a] for w, law in told if law[a] > -math.inf) / others for a in range(self.size)]
        least = [value <= min(excluded) + 1e-12 for value in excluded]
        mass = [math.exp(log) if stays else 0.0 for log, stays in zip(logs, least)]
        return [value / sum(mass) for value in mass]

    def law(self, line):
        for k in range(self.longest, -1, -1):
            if context(line, k) in self.laws:
                return self.laws[context(line, k)]
        raise AssertionError("the empty context is always there")


@given(case=labelled(), kind=st.sampled_from(DIVERGENCES))
@examples(80)
def test_it_is_the_markov_class(case, kind):
    labels, longest = case
    one, report = fit_class(NGramClass(labels.vocab_size, longest + 1), labels, divergence=kind)
    two, other = fit_class(MarkovClass(labels.vocab_size, longest), labels, divergence=kind)
    laws = [np.exp(p.forced_log_probs(labels.prompts, labels.tokens))[labels.weights > 0] for p in (one, two)]
    assert isinstance(one, NGramPolicy) and np.allclose(*laws, rtol=0, atol=1e-12)
    assert report.objective == pytest.approx(other.objective, abs=1e-12)
    assert report.details == pytest.approx(other.details, abs=1e-12)


@given(case=labelled(), kind=st.sampled_from(DIVERGENCES), seed=st.integers(0, 10**6))
@examples(60)
def test_any_context_has_the_nearest_law_of_its_longest_part_with_labels(case, kind, seed):
    labels, longest = case
    rng, size = np.random.default_rng(seed), labels.vocab_size
    policy, _ = fit_class(NGramClass(size, longest + 1), labels, divergence=kind)
    wanted = Dictionaries(labels, longest, kind)
    prompts, tokens = rng.integers(size, size=(5, labels.prompts.shape[1])), rng.integers(size, size=(5, 6))
    for h in range(7):
        ours = np.exp(policy.next_log_probs(prompts, tokens[:, :h]))
        for law, x, a in zip(ours, prompts, tokens):
            assert np.allclose(law, wanted.law([*x, *a[:h]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_contexts_that_64_bits_cannot_number(kind, rng):
    size, order = 90, 12  # 91**11 is 3e21
    laws = rng.dirichlet(np.ones(size), size=(6, 15))
    tokens = rng.integers(2, size=(6, 15))
    labels = Targets(rng.integers(2, size=(6, 4)), tokens, np.log(laws), rng.random((6, 15)))
    policy, report = fit_class(NGramClass(size, order), labels, divergence=kind)
    wanted, ours = Dictionaries(labels, order - 1, kind), np.exp(policy.forced_log_probs(labels.prompts, tokens))
    for i in range(6):
        for h in range(15):
            assert np.allclose(ours[i, h], wanted.law([*labels.prompts[i], *tokens[i, :h]]), rtol=0, atol=1e-12)
    assert report.objective == pytest.approx(divergence_of(wanted, labels, kind), abs=1e-12)


def test_the_mass_of_a_weight_next_to_nothing_may_be_zero():
    with np.errstate(divide="ignore"):
        laws = np.log([[[0.2, 0.4, 0.4], [0.5, 0.0, 0.5]], [[0.3, 0.3, 0.4], [0.4, 0.4, 0.2]]])
    tiny = 5e-324  # a half of it is zero
    labels = Targets(np.zeros((2, 0), int), np.array([[0, 1], [1, 1]]), laws, np.array([[1.0, tiny], [0.5, 1.0]]))
    policy, report = fit_class(NGramClass(3, 2), labels)
    assert report.details["excluded_mass"] == 0.0 and np.isfinite(report.objective)
    assert np.exp(policy.forced_log_probs(labels.prompts, labels.tokens)[0, 1]).tolist() == [0.5, 0.0, 0.5]


def divergence_of(laws, labels, kind):
    """Nats a sequence, prefix by prefix and token by token."""
    total = 0.0
    for i, h in zip(*np.nonzero(labels.weights)):
        ours, theirs = laws.law([*labels.prompts[i], *labels.tokens[i, :h]]), np.exp(labels.log_laws[i, h])
        first, second = (theirs, ours) if kind == "forward" else (ours, theirs)
        total += labels.weights[i, h] * math.fsum(p * math.log(p / q) for p, q in zip(first, second) if p > 0)
    return total / (labels.weights.sum() / np.count_nonzero(labels.weights.any(axis=0)))


# -- learners on text --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harbour():
    return Text(corpus=HARBOUR, expert_order=3, learner_order=2, horizon=16, prompt_length=4, held_out=0.2)


@pytest.fixture(scope="module")
def written(harbour):
    return collect(harbour, 60, np.random.default_rng(0), expert_log_probs=True)


def recorded(monkeypatch, module):
    """The labels that the learner of a module fits to, as it does."""
    fitted = []

    def spy(policy_class, labels, **options):
        fitted.append(labels)
        return fit_class(policy_class, labels, **options)

    monkeypatch.setattr(module, "fit_class", spy)
    return fitted


def test_dagger_on_text(harbour, written, monkeypatch):
    fitted = recorded(monkeypatch, agents.interactive)
    agent = DAgger(harbour, rounds=2, rollouts=30).fit(written, harbour.policy_class)
    assert agent.fit_report_.details["expert_queries"] == 2 * 30 * 16 and len(fitted[-1].tokens) == 60 + 2 * 30
    best = Dictionaries(fitted[-1], 1, "forward")
    assert agent.fit_report_.objective == pytest.approx(divergence_of(best, fitted[-1], "forward"), abs=1e-9)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_distillation_on_text(kind, harbour, written, monkeypatch):
    fitted = recorded(monkeypatch, agents.interactive)
    agent = OnPolicyDistillation(harbour, divergence=kind, rounds=3, rollouts=50, settle=1.0)
    report = agent.fit(written, harbour.policy_class).fit_report_
    best = Dictionaries(fitted[-1], 1, kind)
    assert report.objective == pytest.approx(divergence_of(best, fitted[-1], kind), abs=1e-9)
    laws = np.exp(agent.policy_.forced_log_probs(written.prompts, written.tokens))
    for i in range(5):
        for h in range(16):
            line = [*written.prompts[i], *written.tokens[i, :h]]
            assert np.allclose(laws[i, h], best.law(line), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda task: DAgger(task, rounds=2, rollouts=20, beta=0.5, targets="sampled"),
        lambda task: OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, on_policy=0.5),
        lambda task: ForwardTraining(task, rollouts=20),
        lambda task: ScheduledSampling(rounds=2),
        lambda task: AdversarialImitation(rounds=2, rollouts=20, settle=10.0),
        lambda task: TaiLrBC(0.01),
        lambda task: TaiLrBC(1.0),
        lambda task: ClippedRatioBC(chunk=4, tol=1e-3),
    ],
    ids=["DAgger", "distillation", "forward", "scheduled", "adversarial", "TaiLr", "TaiLr at 1", "clipped"],
)
def test_learners_give_valid_policies_on_text(make, harbour, written):
    check_agent(
        make(harbour),
        problems=[Problem("harbour", harbour.policy_class, written)],
        skip=set(CHECKS) - {"fit", "policy"},
    )


# -- bounded losses and adversaries ------------------------------------------------------------------------------------


def drawn(rng, n=60):
    expert, prompts = TabularPolicy.random(3, 6, rng, prompt_length=1), rng.integers(3, size=(n, 1))
    tokens = expert.sample(prompts, 6, rng)
    return Demonstrations(prompts, tokens, 3, expert_log_probs=expert.log_probs(prompts, tokens))


def test_the_expected_number_of_tokens_missed_is_that_of_the_commonest_ones(rng):
    data = drawn(rng)
    report = TaiLrBC(1.0).fit(data, NGramClass(3, 2)).fit_report_
    counts = defaultdict(lambda: np.zeros(3))
    for x, a in zip(data.prompts, data.tokens):
        for h in range(6):
            counts[context([*x, *a[:h]], 1)][a[h]] += 1
    assert report.objective == pytest.approx(6 - sum(rows.max() for rows in counts.values()) / len(data), abs=1e-6)


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(ClippedRatioBC(0.5), marks=pytest.mark.slow),
        ClippedRatioBC(chunk=1),
        pytest.param(ClippedRatioBC(chunk=2), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_clipped_ratios_do_as_in_the_markov_class(agent, rng):
    data = drawn(rng)
    one, two = (agent.clone().fit(data, members).fit_report_ for members in (NGramClass(3, 2), MarkovClass(3, 1)))
    assert one.objective == pytest.approx(two.objective, abs=1e-6)
    assert one.objective < agent.clone().fit(data, NGramClass(3, 1)).fit_report_.objective
    start = LogLossBC().fit(data, NGramClass(3, 2)).policy_.log_probs(data.prompts, data.tokens) - data.expert_log_probs
    parts = start.reshape(len(data), -1, agent.chunk or 6).sum(axis=2)
    assert one.objective < (1 - np.minimum(1, np.exp(agent.beta * parts))).sum(axis=1).mean()


def test_adversarial_imitation_does_as_in_the_markov_class(rng):
    data = drawn(rng, n=200)
    agents = [
        AdversarialImitation(order=1, rounds=3, rollouts=100, settle=10.0).fit(
            data, members, rng=np.random.default_rng(5)
        )
        for members in (NGramClass(3, 2), MarkovClass(3, 1))
    ]
    laws = [np.exp(agent.policy_.forced_log_probs(data.prompts, data.tokens)) for agent in agents]
    assert np.allclose(*laws, rtol=0, atol=1e-9)


def test_a_discriminator_too_large_to_tabulate(harbour, written):
    with pytest.raises(NotTractableError, match=r"16 x \d+\^9 x \d+ entries, more than 33554432; lower order=9"):
        AdversarialImitation(order=9).fit(written, harbour.policy_class)


@pytest.mark.parametrize("agent", [LayerwiseBC(), TotalVariationBC(), ChunkKR(), RhoEstimatorBC(), PerceptronBC()])
def test_learners_that_cannot_say_what_they_can(agent, rng):
    with pytest.raises(TypeError, match=r"cannot fit NGramClass.* [A-Z]\w+Class"):
        agent.fit(drawn(rng), NGramClass(3, 2))
