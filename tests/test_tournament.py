"""Rho tournaments: against brute force, against the theory's constants, and what they select that log-loss does not."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import Agent, FitReport, LayerwiseBC, LogLossBC, RhoEstimatorBC, SmoothedLogLossBC, TournamentBC, tournament
from agents.selection import holdout_split
from agents.testing import check_agent
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    FiniteClass,
    MixturePolicy,
    ProductClass,
    TabularPolicy,
    UniformPolicy,
    approximation_factor,
    collect,
    make_task,
)

HORIZON = 4


def random_policy(rng, *, sparse=False):
    tables = []
    for h in range(HORIZON):
        rows = rng.dirichlet(np.ones(2), size=2**h)
        if sparse:
            rows[rng.random(2**h) < 0.3] = [0.0, 1.0]
        tables.append(rows)
    return TabularPolicy(tables)


def random_demos(rng, n, weights=None):
    return Demonstrations(np.zeros((n, 0), int), rng.integers(2, size=(n, HORIZON)), vocab_size=2, weights=weights)


def by_hand(policies, demos, tau, chunk):
    """``(n, M, M)`` results of every demonstration, from densities, one chunk at a time."""
    size = len(policies)
    out = np.zeros((len(demos), size, size))
    for i, (prompt, tokens) in enumerate(zip(demos.prompts, demos.tokens)):
        for start in range(0, demos.horizon, chunk):
            density = []
            for policy in policies:
                p = 1.0
                for h in range(start, min(start + chunk, demos.horizon)):
                    p *= np.exp(policy.next_log_probs(prompt[None], tokens[None, :h]))[0, tokens[h]]
                density.append(p if tau == "ratio" else np.sqrt(p))
            for j, k in product(range(size), repeat=2):
                if density[j] + density[k] > 0:
                    out[i, j, k] += (density[k] - density[j]) / (density[j] + density[k])
    return out


@examples(40)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 5),
    tau=st.sampled_from(["ratio", "psi"]),
    chunk=st.sampled_from([1, 3, 4]),
    sparse=st.booleans(),
)
def test_brute_force(seed, size, tau, chunk, sparse):
    rng = np.random.default_rng(seed)
    policies = [random_policy(rng, sparse=sparse) for _ in range(size)]
    weights = rng.integers(4, size=8)
    weights[0] = 2
    demos = random_demos(rng, 8, weights)
    result = tournament(policies, demos, tau=tau, chunk=chunk)
    table = by_hand(policies, demos, tau, chunk)
    losses = np.tensordot(weights / weights.sum(), table, axes=1)
    np.testing.assert_allclose(result.losses, losses, atol=1e-12)
    np.testing.assert_array_equal(result.losses, -result.losses.T)
    worst = losses.max(axis=1)
    assert result.value == pytest.approx(worst.min(), abs=1e-12) == worst[result.index]
    assert result.index == np.flatnonzero(worst <= worst.min() + 1e-11)[0]
    assert losses[result.index, result.reply] == pytest.approx(result.value, abs=1e-12)
    copies = np.repeat(table, weights, axis=0)  # weights count as repetitions
    expected = copies.std(axis=0, ddof=1) / np.sqrt(len(copies))
    np.testing.assert_allclose(result.standard_errors, expected, atol=1e-12)
    assert result.n == weights.sum()


@examples(25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_policies_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    policies, order = [random_policy(rng) for _ in range(5)], rng.permutation(5)
    demos = random_demos(rng, 11)
    one, two = tournament(policies, demos), tournament([policies[j] for j in order], demos)
    assert order[two.index] == one.index
    np.testing.assert_allclose(two.losses, one.losses[np.ix_(order, order)], atol=1e-13)


def test_standard_errors_are_those_of_repeated_experiments():
    policies = [BernoulliPolicy(theta) for theta in (0.3, 0.5)]
    prompts, rng = np.zeros((50, 0), int), np.random.default_rng(0)
    results = [
        tournament(policies, Demonstrations(prompts, rng.binomial(1, 0.4, size=(50, 6)), vocab_size=2))
        for _ in range(400)
    ]
    spread = np.std([result.losses[0, 1] for result in results], ddof=1)
    assert np.mean([result.standard_errors[0, 1] for result in results]) == pytest.approx(spread, rel=0.12)


def test_one_demonstration_has_no_standard_error():
    rng = np.random.default_rng(0)
    result = tournament([random_policy(rng), random_policy(rng)], random_demos(rng, 1))
    assert result.n == 1 and np.isnan(result.standard_errors[0, 1])


def test_names_and_the_table_of_rivals():
    rng = np.random.default_rng(3)
    policies = {name: random_policy(rng) for name in "abcd"}
    result = tournament(policies, random_demos(rng, 9))
    assert result.names == tuple("abcd") and result.winner == "abcd"[result.index]
    for index in (None, 2, -2):
        rows = result.rivals(index)
        j = result.index if index is None else 2
        assert {row["rival"] for row in rows} == set("abcd") - {"abcd"[j]}
        assert [row["loss"] for row in rows] == sorted((result.losses[j, row["index"]] for row in rows), reverse=True)
        assert all(row["standard_error"] == result.standard_errors[j, row["index"]] for row in rows)
    assert max(result.rivals()[0]["loss"], 0.0) == pytest.approx(result.value)
    assert tournament(list(policies.values()), random_demos(rng, 2)).names == ("0", "1", "2", "3")


def test_any_policies_can_play():
    """Outside every class: a callable, a mixture; the mixture that is the expert wins."""
    expert = MixturePolicy([BernoulliPolicy(0.05), BernoulliPolicy(0.9)], [0.8, 0.2])
    slow = CallablePolicy(lambda prompts, tokens: np.log(np.tile([0.7, 0.3], (len(tokens), 1))), 2)
    prompts = np.zeros((500, 0), int)
    demos = Demonstrations(prompts, expert.sample(prompts, 8, np.random.default_rng(0)), vocab_size=2)
    result = tournament({"mixture": expert, "slow": slow, "fair": UniformPolicy(2)}, demos)
    assert result.winner == "mixture" and result.rivals()[0]["loss"] < 0 == result.value


class _Only(Agent):
    """Always member ``index`` of a finite class."""

    def __init__(self, index):
        self.index = index

    def _fit(self, demonstrations, policy_class, rng):
        return policy_class.policy(self.index), FitReport(0.0, 0.0)


# -- what the theory says ----------------------------------------------------------------------------------------------


def laws(seed, *, sharp):
    """Three laws on a few points, some nearly equal, some with zeros."""
    rng = np.random.default_rng(seed)
    size = rng.integers(2, 6)
    base = rng.dirichlet(np.full(size, sharp))
    out = []
    for _ in range(3):
        mix = rng.choice([0.0, 0.01, 0.3, 1.0])
        out.append((1 - mix) * base + mix * rng.dirichlet(np.full(size, sharp)))
    return out


@examples(400)
@given(seed=st.integers(0, 2**32 - 1), sharp=st.sampled_from([0.05, 0.3, 1.0, 10.0]))
def test_the_constants_of_the_guarantee(seed, sharp):
    """``E_s tau(q, r) <= a D^2(s, q) - b D^2(s, r)``, D^2 = 2 (1 - BC), gives the factor 2 a / b.

    For the winner q and the nearest r: E_s tau(q, r) <= value <= max_r' E_s tau(r, r') <= a D^2(s, r), while by
    antisymmetry E_s tau(q, r) = -E_s tau(r, q) >= b D^2(s, q) - a D^2(s, r). For "ratio", with Delta = sum (r - q)^2 /
    (r + q) >= D^2(q, r): E_q tau = -Delta / 2; |E_s tau - E_q tau| <= D(s, q) sqrt(2 sum (s + q) tau^2), s + q <= 3 q +
    2 (sqrt s - sqrt q)^2 and sum q tau^2 <= Delta give E_s tau <= 8 D^2(s, q) - Delta / 4, and D^2(q, r) >=
    D^2(s, r) / 2 - D^2(s, q).
    """
    s, q, r = laws(seed, sharp=sharp)

    def hellinger2(p, other):
        return ((np.sqrt(p) - np.sqrt(other)) ** 2).sum()

    for power, a, b in ((0.5, 2.0, 3 / 16), (1.0, 8.25, 1 / 8)):  # psi (a0 / 2 and a1 / 2); ratio
        u, v = q**power, r**power
        both = u + v > 0
        expectation = (s[both] * ((v - u)[both] / (u + v)[both])).sum()
        assert expectation <= a * hellinger2(s, q) - b * hellinger2(s, r) + 1e-12


def complete(law):
    """The law of (no prompt, one token) as an exact population, and policies from laws."""
    tokens = np.arange(len(law))[:, None]
    return Demonstrations(np.zeros((len(law), 0), int), tokens, vocab_size=len(law), weights=law)


@examples(100)
@given(seed=st.integers(0, 2**32 - 1), tau=st.sampled_from(["ratio", "psi"]))
def test_the_winner_is_within_a_constant_factor_of_the_nearest(seed, tau):
    rng = np.random.default_rng(seed)
    expert = rng.dirichlet(np.full(6, 0.3))
    others = [(1 - m) * expert + m * rng.dirichlet(np.full(6, 0.3)) for m in rng.choice([0.05, 0.2, 1.0], size=6)]
    result = tournament([TabularPolicy([law[None]]) for law in others], complete(expert), tau=tau)
    distances = [((np.sqrt(law) - np.sqrt(expert)) ** 2).sum() for law in others]
    assert distances[result.index] <= (64 / 3 if tau == "psi" else 132) * min(distances) + 1e-12


def test_rare_mode_is_kept_where_log_loss_gives_it_up():
    task = make_task("RareMode", horizon=256)
    members = task.policy_class.policies
    samples = collect(task, 2000, np.random.default_rng(0))
    for demos in (task.population(), samples):
        assert LogLossBC().fit(demos, task.policy_class).policy_.next_log_probs(
            np.zeros((1, 0), int), np.zeros((1, 0), int)
        )[0, 1] == pytest.approx(np.log(0.5))
        for tau in ("ratio", "psi"):
            assert tournament(members, demos, tau=tau).index == 0
    chosen = TournamentBC({"log-loss": LogLossBC(), "pi_0": _Only(0)}).fit(samples, task.policy_class)
    assert chosen.tournament_.winner == "pi_0"
    assert approximation_factor(task, chosen.policy_) == pytest.approx(1.0)
    exact = tournament(members, task.population())
    assert exact.n == np.inf and (exact.standard_errors == 0).all()


@pytest.mark.parametrize("tau", ["ratio", "psi"])
def test_selection_among_learners_on_contamination(tau):
    """The selected policy is within the constant of the best of those fitted, and far better than log-loss."""
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    agents = {"log-loss": LogLossBC(), "rho": RhoEstimatorBC(), "smoothed": SmoothedLogLossBC(0.1)}
    for seed in range(4):
        demos = collect(task, 2000, np.random.default_rng(seed))
        chosen = TournamentBC(agents, tau).fit(demos, task.policy_class, rng=np.random.default_rng(seed))
        factors = {name: approximation_factor(task, agent.policy_) for name, agent in chosen.agents_.items()}
        factor = approximation_factor(task, chosen.policy_)
        assert factor == factors[chosen.tournament_.winner]
        assert factor <= (64 / 3 if tau == "psi" else 132) * min(factors.values())
        assert chosen.tournament_.winner != "log-loss" and factor < factors["log-loss"] / 5


# -- TournamentBC ------------------------------------------------------------------------------------------------------


def members(rng, count=4):
    return FiniteClass([random_policy(rng) for _ in range(count)])


def test_fitted_on_one_part_selected_on_the_other():
    rng = np.random.default_rng(5)
    policy_class, demos = members(rng, 6), random_demos(rng, 41)
    agents = [LogLossBC(), RhoEstimatorBC("psi"), SmoothedLogLossBC(0.5)]
    for seed in range(5):
        chosen = TournamentBC(agents, holdout=0.3).fit(demos, policy_class, rng=np.random.default_rng(seed))
        rest, held_out = holdout_split(demos, 0.3, np.random.default_rng(seed))
        assert (len(rest), len(held_out)) == (29, 12)
        policies = [agent.clone().fit(rest, policy_class).policy_ for agent in agents]
        expected = by_hand(policies, held_out, "ratio", HORIZON).mean(axis=0)
        np.testing.assert_allclose(chosen.tournament_.losses, expected, atol=1e-12)
        worst = expected.max(axis=1)
        winner = int(np.flatnonzero(worst <= worst.min() + 1e-12)[0])
        assert chosen.tournament_.index == winner and chosen.best_agent_ is chosen.agents_[str(winner)]
        np.testing.assert_array_equal(
            chosen.policy_.log_probs(demos.prompts, demos.tokens),
            policies[winner].log_probs(demos.prompts, demos.tokens),
        )
        assert chosen.fit_report_.objective == pytest.approx(worst.min(), abs=1e-12)
        assert chosen.fit_report_.details["held_out"] == 12


def test_refit_uses_everything():
    rng = np.random.default_rng(0)
    demos = random_demos(rng, 30)
    kept, again = (TournamentBC([LogLossBC()], refit=refit).fit(demos, BernoulliClass()) for refit in (False, True))
    rest, _ = holdout_split(demos, 0.5, np.random.default_rng(0))
    assert kept.policy_.theta == pytest.approx(rest.tokens.mean())
    assert again.policy_.theta == pytest.approx(demos.tokens.mean())
    assert again.agents_["0"].policy_.theta == kept.policy_.theta != again.policy_.theta
    assert again.best_agent_ is not again.agents_["0"]


class _Coin(Agent):
    """A coin of random bias."""

    def _fit(self, demonstrations, policy_class, rng):
        return BernoulliPolicy(rng.random()), FitReport(0.0, 0.0)


def test_the_same_seed_gives_the_same_result():
    demos = random_demos(np.random.default_rng(0), 20)
    agent = TournamentBC([_Coin(), SmoothedLogLossBC(), _Coin()])
    one, two, other = (agent.clone().fit(demos, BernoulliClass(), rng=np.random.default_rng(s)) for s in (4, 4, 5))
    np.testing.assert_array_equal(one.tournament_.losses, two.tournament_.losses)
    assert not np.array_equal(other.tournament_.losses, one.tournament_.losses)
    assert one.agents_["0"].policy_.theta != one.agents_["2"].policy_.theta  # restarts of one learner differ


def test_a_population_serves_for_both():
    task = make_task("Contamination", horizon=64)
    agent = TournamentBC({"log-loss": LogLossBC(), "smoothed": SmoothedLogLossBC()})
    agent.fit(task.population(), task.policy_class)
    assert agent.tournament_.winner == "smoothed" and agent.tournament_.n == np.inf
    assert agent.fit_report_.details["learned_from"] == agent.fit_report_.details["held_out"]
    assert approximation_factor(task, agent.policy_) == pytest.approx(1.0)
    assert tournament([UniformPolicy(2)], task.population(chunk=8), chunk=8).value == 0


AGENTS = [
    TournamentBC([LogLossBC(), SmoothedLogLossBC(0.2)]),
    TournamentBC({"layers": LayerwiseBC(tie_break="random"), "plain": LogLossBC()}, "psi", holdout=0.25, refit=True),
    TournamentBC((TournamentBC([LogLossBC()]), SmoothedLogLossBC())),
]


@pytest.mark.parametrize("agent", AGENTS, ids=["list", "mapping", "nested"])
def test_conformance(agent):
    """A split draws demonstrations, so copies are not weights; and one demonstration cannot be split."""
    check_agent(agent, skip=("weights", "small data"))


def test_supports_what_all_agents_support():
    assert TournamentBC([LogLossBC(), LayerwiseBC()]).supports == (ProductClass,)
    assert set(TournamentBC([LogLossBC()]).supports) == set(LogLossBC.supports)
    assert TournamentBC([]).supports == () == TournamentBC.supports
