"""Policies of others wherever policies are read: what is not a law of the next token is refused by name, at once."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax

import agents
from ntp_envs import (
    BernoulliPolicy,
    CallablePolicy,
    DecodedPolicy,
    FiniteClass,
    GreedyPolicy,
    MixturePolicy,
    Policy,
    ProductClass,
    RestartedPolicy,
    TabularPolicy,
    UniformPolicy,
    approximation_factor,
    collect,
    distance,
    evaluate,
    make_task,
)
from ntp_envs.automata import AutomatonPolicy, TableAutomaton
from ntp_envs.checked import checked_policy
from ntp_envs.distances.sampled import bridge_distances, one_sided_distances
from ntp_envs.evaluation import backtracking_search, best_of
from ntp_envs.policies import Cursor, SequentialPolicy

TASK = make_task("Contamination", horizon=6, eps=0.2, p=0.1, q=0.9, theta_min=0.01)
SPOILT = {
    "logits": (lambda law: law + 0.7, "sum to 2.01375, not 1.*apply log_softmax"),
    "too little": (lambda law: law - 1e-5, "sum to 0.99999, not 1"),
    "NaN": (lambda law: law * np.nan, "returned NaN"),
    "infinite": (lambda law: law + np.inf, "sum to (inf|nan)|NaN"),
    "a column more": (lambda law: np.column_stack([law, law[:, :1]]), r"returned shape \(.*, 3\).*, 2\) is needed"),
    "a column less": (lambda law: law[:, :1], r"returned shape \(.*, 1\)"),
    "one row": (lambda law: law[0], r"returned shape \(2,\)"),
}


class Spoilt(Policy):
    """The expert's law, spoilt from the third token on: the first answers are right."""

    def __init__(self, spoil, of=TASK.expert, start=2):
        super().__init__(of.vocab_size)
        self.spoil, self.right, self.start = spoil, of, start

    def next_log_probs(self, prompts, tokens):
        law = self.right.next_log_probs(prompts, tokens)
        return self.spoil(law) if tokens.shape[1] >= self.start else law


class SpoiltReader(SequentialPolicy):
    """The same by a cursor of its own."""

    def __init__(self, spoil):
        super().__init__(2)
        self.spoil = spoil

    def cursor(self, prompts):
        return _Reader(self.spoil, TASK.expert.cursor(prompts))


class _Reader(Cursor):
    def __init__(self, spoil, inner):
        self.spoil, self.inner, self.step = spoil, inner, inner.step

    def log_probs(self):
        return self.spoil(self.inner.log_probs()) if self.step >= 2 else self.inner.log_probs()

    def branch(self, rows, tokens):
        return _Reader(self.spoil, self.inner.branch(rows, tokens))


class SpoiltTables(AutomatonPolicy):
    """The same by tables."""

    def __init__(self, spoil):
        super().__init__(2)
        self.spoil, self.n_states = spoil, 2

    def initial_states(self, prompts):
        return np.zeros(len(prompts), int)

    def emissions(self, step):
        law = np.log(np.full((2, 2), 0.5))
        return self.spoil(law) if step >= 2 else law

    def transitions(self, step):
        return np.zeros((2, 2), int)


def _inside(kind):
    return lambda spoil: MixturePolicy([UniformPolicy(2), kind(spoil)], [0.5, 0.5])


KINDS = {
    "a policy": Spoilt,
    "a function": lambda spoil: CallablePolicy(Spoilt(spoil).next_log_probs, 2),
    "a cursor": SpoiltReader,
    "tables": SpoiltTables,
    "a mixture": _inside(Spoilt),
    "a mixture of mixtures": lambda spoil: MixturePolicy([_inside(SpoiltReader)(spoil)], [1.0]),
    "greedy": lambda spoil: GreedyPolicy(Spoilt(spoil)),
    "decoded": lambda spoil: DecodedPolicy(Spoilt(spoil), temperature=0.9),
    "restarted": lambda spoil: RestartedPolicy(SpoiltTables(spoil), 4),
}
RNG = np.random.default_rng
READ = {
    "distance, from": lambda bad: distance(bad, TASK.expert, TASK),
    "distance, to": lambda bad: distance(TASK.expert, bad, TASK),
    "enumeration": lambda bad: distance(TASK.expert, bad, TASK, method="enumeration"),
    "bridge": lambda bad: distance(TASK.expert, bad, TASK, method="monte carlo", n=50),
    "one-sided": lambda bad: distance(TASK.expert, bad, TASK, method="monte carlo (one-sided)", n=50),
    "one-sided, drawn": lambda bad: one_sided_distances(collect(TASK, 30, RNG(0)), bad, p=TASK.expert),
    "bridge, drawn": lambda bad: bridge_distances(
        collect(TASK, 30, RNG(0)), collect(TASK, 30, RNG(1)), p=TASK.expert, q=bad
    ),
    "approximation factor": lambda bad: approximation_factor(TASK, bad),
    "evaluate": lambda bad: evaluate(bad, TASK, n=30, rng=RNG(0)),
    "collect": lambda bad: collect(TASK, 30, RNG(0), policy=bad),
    "tournament": lambda bad: agents.tournament([UniformPolicy(2), bad], collect(TASK, 30, RNG(0))),
    "log-loss": lambda bad: agents.LogLossBC().fit(collect(TASK, 30, RNG(0)), FiniteClass([UniformPolicy(2), bad])),
    "rho": lambda bad: agents.RhoEstimatorBC().fit(collect(TASK, 30, RNG(0)), FiniteClass([UniformPolicy(2), bad])),
    "total variation": lambda bad: agents.TotalVariationBC().fit(
        collect(TASK, 30, RNG(0)), FiniteClass([UniformPolicy(2), bad])
    ),
    "TaiLr": lambda bad: agents.TaiLrBC().fit(collect(TASK, 30, RNG(0)), FiniteClass([UniformPolicy(2), bad])),
    "DAgger": lambda bad: agents.DAgger(TASK, rounds=1, rollouts=5).fit(
        collect(TASK, 30, RNG(0)), FiniteClass([UniformPolicy(2), bad])
    ),
    "layers": lambda bad: agents.LogLossBC().fit(
        collect(TASK, 30, RNG(0)), ProductClass([[UniformPolicy(2), bad]] * 6)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_a_law_is_refused_by_name(kind, how):
    spoil, message = SPOILT[how]
    if kind == "greedy" and how in ("logits", "too little"):
        pytest.skip("the most probable token is the same")
    bad = KINDS[kind](spoil)
    with pytest.raises(ValueError, match=f"^q.*({message})"):
        distance(TASK.expert, bad, TASK, method="enumeration")
    with pytest.raises(ValueError, match=f"^policy.*({message})"):
        evaluate(bad, TASK, n=20, rng=RNG(0))


@pytest.mark.parametrize("place", READ)
def test_wherever_policies_are_read(place):
    right = Spoilt(lambda law: law)
    READ[place](right)
    for how in ("logits", "NaN", "a column more"):
        with pytest.raises(ValueError, match=SPOILT[how][1]):
            READ[place](Spoilt(SPOILT[how][0]))


def test_search_reads_checked_laws():
    task = make_task("Snowball", horizon=5)
    prompts, copier = task.sample_prompts(5, RNG(0)), task.sloppy_copier()
    for search in (backtracking_search, lambda *args, rng: best_of(*args, 3, rng=rng)):
        search(Spoilt(lambda law: law, copier), task, prompts, rng=RNG(0))
        with pytest.raises(ValueError, match=r"sum to 2\.01375"):
            search(Spoilt(lambda law: law + 0.7, copier), task, prompts, rng=RNG(0))


class Fast(Policy):
    """The uniform law with whole-sequence methods of its own, perhaps wrong ones."""

    def __init__(self, log_probs=None, sample=None, law=0.5):
        super().__init__(2)
        self.own_log_probs, self.own_sample, self.law = log_probs, sample, law

    def next_log_probs(self, prompts, tokens):
        return np.full((len(tokens), 2), np.log(self.law))

    def log_probs(self, prompts, tokens):
        right = np.full(np.shape(tokens), np.log(0.5))
        return right if self.own_log_probs is None else self.own_log_probs(right)

    def sample(self, prompts, horizon, rng):
        drawn = rng.integers(2, size=(len(prompts), horizon))
        return drawn if self.own_sample is None else self.own_sample(drawn)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Fast(lambda right: right + 0.7), "must be log-probabilities"),
        (Fast(lambda right: right + 0.1), "disagree with its next_log_probs"),
        (Fast(lambda right: right * np.nan), "not NaN"),
        (Fast(lambda right: right[:, :-1]), r"have shape \(.*, 5\)"),
        (Fast(law=0.6), "sum to 1.2"),
        (Fast(sample=lambda drawn: drawn + 1), r"outside its vocabulary \[0, 1\]"),
        (Fast(sample=lambda drawn: drawn[:, 1:]), r"sampled shape \(.*, 5\)"),
        (Fast(sample=lambda drawn: drawn * 1.0), "integers are needed"),
    ],
)
def test_methods_for_whole_sequences_are_held_to_the_law(policy, message):
    with pytest.raises(ValueError, match=message):
        distance(TASK.expert, policy, TASK, method="monte carlo", n=60)
    assert distance(TASK.expert, Fast(), TASK, method="monte carlo", n=60).final > 0


def test_checked_policies_give_the_same_numbers():
    for method in ("enumeration", "monte carlo", "monte carlo (one-sided)"):
        one, two = (
            distance(UniformPolicy(2), q, TASK, method=method, n=400, rng=RNG(3)).values
            for q in (TASK.expert, Spoilt(lambda law: law))
        )
        np.testing.assert_allclose(one, two, rtol=1e-12)
    one, two = (collect(TASK, 50, RNG(0), policy=p).tokens for p in (TASK.expert, Spoilt(lambda law: law)))
    np.testing.assert_array_equal(one, two)


def test_after_a_prefix_it_excludes_a_policy_may_say_anything():
    def law(prompts, tokens):
        out = np.tile([0.0, -np.inf], (len(tokens), 1))
        out[(np.asarray(tokens) == 1).any(axis=1)] = np.nan
        return out

    zeros = CallablePolicy(law, 2)
    curve = distance(UniformPolicy(2), zeros, TASK, metric="tv", method="enumeration")
    np.testing.assert_allclose(curve.values, 1.0 - 0.5 ** np.arange(1, 7))
    sampled = distance(UniformPolicy(2), zeros, TASK, metric="tv", method="monte carlo", n=2000)
    assert (np.abs(sampled.values - curve.values) < 0.05).all()


def test_logits_are_refused_and_their_log_softmax_is_right(rng):
    table = rng.normal(size=(2, 2))
    logits = CallablePolicy(lambda x, y: table[y[:, -1]] if y.shape[1] else np.log([[0.5, 0.5]] * len(y)), 2)
    mended = CallablePolicy(lambda x, y: log_softmax(logits.function(x, y), axis=1), 2)
    with pytest.raises(ValueError, match=r"q .CallablePolicy. is not normalised.*apply log_softmax to logits"):
        distance(TASK.expert, logits, TASK)
    same = TableAutomaton(
        np.vstack([np.exp(log_softmax(table, axis=1)), [0.5, 0.5]]), [[0, 1]] * 3, initial=[2, 2], prompt_length=1
    )
    assert distance(TASK.expert, mended, TASK).final == pytest.approx(distance(TASK.expert, same, TASK).final)


@pytest.mark.parametrize("policy", [UniformPolicy(2), TASK.expert, MixturePolicy([UniformPolicy(2)] * 2, [0.5, 0.5])])
def test_policies_of_ours_are_read_as_they_are(policy):
    assert checked_policy("q", policy) is policy


def test_policies_for_other_prompts_are_refused():
    far = TabularPolicy(
        [np.full((8, 2), 0.5)] * 1 + [np.full((8 * 2**h, 2), 0.5) for h in range(1, 6)], prompt_length=3
    )
    for read in (lambda: distance(TASK.expert, far, TASK), lambda: evaluate(far, TASK, n=5, rng=RNG(0))):
        with pytest.raises(ValueError, match="prompt_length=3 and the task 1"):
            read()


class Handmade(Policy):
    """A member with an array in it, for which ``list.index`` raises."""

    def __init__(self, theta):
        super().__init__(2)
        self.theta = np.array([1 - theta, theta])

    def __eq__(self, other):
        return self.theta == other.theta

    __hash__ = None

    def next_log_probs(self, prompts, tokens):
        return np.tile(np.log(self.theta), (len(tokens), 1))


@pytest.mark.parametrize(
    "agent",
    [
        agents.LogLossBC(),
        agents.SmoothedLogLossBC(),
        agents.RhoEstimatorBC(),
        agents.TotalVariationBC(),
        agents.TotalVariationBC("tournament"),
        agents.ClippedRatioBC(),
        agents.TaiLrBC(),
        agents.DAgger(TASK, rounds=2, rollouts=20),
        agents.OnPolicyDistillation(TASK, rounds=2, rollouts=20),
        agents.ScheduledSampling(rounds=2),
        agents.CrossValidatedBC(agents.SmoothedLogLossBC(), {"lam": [0.01, 0.1]}, folds=2),
        agents.TournamentBC([agents.LogLossBC(), agents.SmoothedLogLossBC()]),
        agents.TournamentBC([agents.LogLossBC(), agents.SmoothedLogLossBC()], refit=True),
    ],
    ids=repr,
)
def test_every_finite_fit_says_which_member_it_chose(agent):
    members = FiniteClass([Handmade(0.1), BernoulliPolicy(0.3), Handmade(0.45), Handmade(0.9)])
    demos = collect(TASK, 200, RNG(0), policy=Handmade(0.45))
    demos = dataclasses.replace(demos, expert_log_probs=Handmade(0.45).log_probs(demos.prompts, demos.tokens))
    fitted = agent.clone().fit(demos, members)
    index = fitted.fit_report_.details["index"]
    tokens = demos.tokens[:5]
    laws = [member.log_probs(demos.prompts[:5], tokens) for member in members]
    np.testing.assert_array_equal(fitted.policy_.log_probs(demos.prompts[:5], tokens), laws[index])
    assert type(index) is int
