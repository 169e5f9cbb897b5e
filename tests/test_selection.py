"""Selection: rho tournaments and cross-validation, against brute force and the theory's constants."""

import itertools
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import (
    Agent,
    ChunkedRhoBC,
    CrossValidatedBC,
    FitFailedWarning,
    FitReport,
    LayerwiseBC,
    LogLossBC,
    RhoEstimatorBC,
    SmoothedLogLossBC,
    TournamentBC,
    tournament,
)
from agents.chunk_kr import ChunkKR
from agents.selection import holdout_split, shuffled_folds
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    MixturePolicy,
    ProductClass,
    TabularPolicy,
    UniformPolicy,
    approximation_factor,
    collect,
    make_task,
)

# == tournaments =======================================================================================================


HORIZON = 4


class Pick(Agent):
    """Member ``index`` of a finite class; negative indices fail."""

    def __init__(self, index=0):
        self.index = index

    def _fit(self, demonstrations, policy_class, rng):
        if self.index < 0:
            raise RuntimeError("no such member")
        return policy_class.policy(self.index), FitReport(0.0, 0.0, converged=self.index % 2 == 0)


class Chance(Agent):
    """A random coin, of a bias about ``centre``."""

    def __init__(self, centre=0.5):
        self.centre = centre

    def _fit(self, demonstrations, policy_class, rng):
        return BernoulliPolicy(self.centre * rng.random()), FitReport(0.0, 0.0)


def random_policy(rng, sparsity=0.0):
    tables = [rng.dirichlet(np.ones(2), size=2**h) for h in range(HORIZON)]
    for table in tables:
        table[rng.random(len(table)) < sparsity] = np.eye(2)[rng.integers(2)]
    return TabularPolicy(tables)


def random_members(rng, count=6, sparsity=0.0):
    return FiniteClass([random_policy(rng, sparsity) for _ in range(count)])


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
    sparsity=st.sampled_from([0.0, 0.3]),
)
def test_brute_force(seed, size, tau, chunk, sparsity):
    rng = np.random.default_rng(seed)
    policies = [random_policy(rng, sparsity) for _ in range(size)]
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


@pytest.mark.slow
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
    chosen = TournamentBC({"log-loss": LogLossBC(), "pi_0": Pick(0)}).fit(samples, task.policy_class)
    assert chosen.tournament_.winner == "pi_0"
    assert approximation_factor(task, chosen.policy_) == pytest.approx(1.0)
    exact = tournament(members, task.population())
    assert exact.n == np.inf and (exact.standard_errors == 0).all()


@pytest.mark.parametrize("tau", ["ratio", pytest.param("psi", marks=pytest.mark.slow)])
def test_selection_among_learners_on_contamination(tau):
    """The selected policy is within the constant of the best of those fitted, and far better than log-loss."""
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    agents = {"log-loss": LogLossBC(), "rho": RhoEstimatorBC(), "smoothed": SmoothedLogLossBC(0.1)}
    for seed in range(2):
        demos = collect(task, 2000, np.random.default_rng(seed))
        chosen = TournamentBC(agents, tau).fit(demos, task.policy_class, rng=np.random.default_rng(seed))
        factors = {name: approximation_factor(task, agent.policy_) for name, agent in chosen.agents_.items()}
        factor = approximation_factor(task, chosen.policy_)
        assert factor == factors[chosen.tournament_.winner]
        assert factor <= (64 / 3 if tau == "psi" else 132) * min(factors.values())
        assert chosen.tournament_.winner != "log-loss" and factor < factors["log-loss"] / 5


def density(policy, tokens):
    """Of one sequence, token by token."""
    prompt = np.zeros((1, 0), int)
    each = [np.exp(policy.next_log_probs(prompt, tokens[None, :h]))[0, tokens[h]] for h in range(HORIZON)]
    return float(np.prod(each))


@examples(25)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 5), N=st.sampled_from([1.5, 3.0, 8.0]), sparse=st.booleans())
def test_coverage_tournament_by_brute_force(seed, size, N, sparse):
    rng = np.random.default_rng(seed)
    policies = [random_policy(rng, 0.3 if sparse else 0.0) for _ in range(size)]
    demos = random_demos(rng, 8, rng.integers(1, 4, size=8))
    copies = np.repeat(demos.tokens, demos.weights.astype(int), axis=0)
    table = np.array([[density(policy, tokens) for policy in policies] for tokens in copies])  # (copies, M)
    covers = (table[:, None, :] > 0) & (table[:, None, :] >= N * table[:, :, None])  # (copy, mine, rival)
    shares = covers.mean(axis=0)
    result = tournament(policies, demos, tau="coverage", threshold=N)
    np.testing.assert_allclose(result.losses, shares, atol=1e-12)
    worst = shares.max(axis=1)
    assert result.index == np.flatnonzero(worst <= worst.min() + 1e-12)[0]
    assert result.value == pytest.approx(worst.min()) == shares[result.index, result.reply]
    np.testing.assert_allclose(result.standard_errors, covers.std(axis=0, ddof=1) / np.sqrt(len(copies)), atol=1e-12)


@examples(25)
@given(seed=st.integers(0, 2**32 - 1), N=st.sampled_from([2.0, 6.0, 20.0]))
def test_the_winner_of_the_coverage_tournament_misses_little_of_what_another_covers(seed, N):
    rng = np.random.default_rng(seed)
    policies, expert = [random_policy(rng) for _ in range(5)], random_policy(rng)
    sequences = np.array(list(product(range(2), repeat=HORIZON)))
    law = np.array([density(expert, tokens) for tokens in sequences])
    demos = Demonstrations(np.zeros((len(law), 0), int), sequences, vocab_size=2, weights=law)
    winner = tournament(policies, demos, tau="coverage", threshold=N).index
    table = np.array([[density(policy, tokens) for tokens in sequences] for policy in policies])
    for a in np.geomspace(1, N, 5):
        least = min(law @ (law >= a * row) for row in table)
        assert law @ (law >= a * N * table[winner]) <= 2 * least + a / N + 1e-12


def test_coverage_and_rho_choose_different_policies_of_raremode():
    task = make_task("RareMode", horizon=64)
    members = task.policy_class.policies
    result = tournament(members, task.population(), tau="coverage", threshold=4.0)
    assert (result.winner, result.value, result.reply, result.threshold) == ("1", 0.0, 1, 4.0)
    np.testing.assert_allclose(result.losses, [[0, 0.01], [0, 0]])  # the likeliest document is 1.98 times likelier
    assert tournament(members, task.population(), tau="coverage", threshold=1.9).index == 0
    pair = {"pi_0": Pick(0), "pi_1": Pick(1)}
    demos = collect(task, 2000, np.random.default_rng(0))
    for tau, winner in (("coverage", "pi_1"), ("ratio", "pi_0")):
        chosen = TournamentBC(pair, tau).fit(demos, task.policy_class, rng=np.random.default_rng(0))
        assert chosen.tournament_.winner == winner
    with pytest.raises(ValueError, match=r"threshold=1.0 must be above 1"):
        TournamentBC(pair, "coverage", threshold=1.0)


# -- TournamentBC ------------------------------------------------------------------------------------------------------


def test_fitted_on_one_part_selected_on_the_other():
    rng = np.random.default_rng(5)
    policy_class, demos = random_members(rng, 6), random_demos(rng, 41)
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


def test_restarts_of_one_learner_differ():
    agent = TournamentBC([Chance(), SmoothedLogLossBC(), Chance()])
    agent.fit(random_demos(np.random.default_rng(0), 20), BernoulliClass())
    assert agent.agents_["0"].policy_.theta != agent.agents_["2"].policy_.theta


def test_a_population_serves_for_both():
    task = make_task("Contamination", horizon=64)
    agent = TournamentBC({"log-loss": LogLossBC(), "smoothed": SmoothedLogLossBC()})
    agent.fit(task.population(), task.policy_class)
    assert agent.tournament_.winner == "smoothed" and agent.tournament_.n == np.inf
    assert agent.fit_report_.details["learned_from"] == agent.fit_report_.details["held_out"]
    assert approximation_factor(task, agent.policy_) == pytest.approx(1.0)
    assert tournament([UniformPolicy(2)], task.population(chunk=8), chunk=8).value == 0


def test_supports_what_all_agents_support():
    assert TournamentBC([LogLossBC(), LayerwiseBC()]).supports == (ProductClass,)
    assert set(TournamentBC([LogLossBC()]).supports) == set(LogLossBC.supports)
    assert TournamentBC.supports == ()


# == cross-validation ==================================================================================================


def densities(policy, demos):
    """``(n,)`` probabilities of the sequences, as products of next-token probabilities."""
    out = np.ones(len(demos))
    for h in range(demos.horizon):
        law = np.exp(policy.next_log_probs(demos.prompts, demos.tokens[:, :h]))
        out *= law[np.arange(len(demos)), demos.tokens[:, h]]
    return out


# -- brute force and equivalences --------------------------------------------------------------------------------------


def brute_force(candidates, demos, policy_class, folds, seed):
    """``(n, M)`` held-out densities and ``(n,)`` weights, refitting by hand for each fold."""
    columns, weights = [], []
    for rest, fold in shuffled_folds(demos, folds, np.random.default_rng(seed)):
        policies = [agent.clone().fit(rest, policy_class).policy_ for agent in candidates]
        columns.append(np.stack([densities(policy, fold) for policy in policies], axis=1))
        weights.append(np.ones(len(fold)) if fold.weights is None else fold.weights)
    return np.concatenate(columns), np.concatenate(weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_held_out_log_loss_by_brute_force(seed, weighted):
    rng = np.random.default_rng(seed)
    policy_class = BernoulliClass(0.05)
    demos = random_demos(rng, 23, rng.integers(1, 4, size=23) if weighted else None)
    grid = {"lam": [0.3, 0.0, 0.6, 0.05]}
    agent = CrossValidatedBC(SmoothedLogLossBC(), grid, folds=4)
    agent.fit(demos, policy_class, rng=np.random.default_rng(seed))
    candidates = [SmoothedLogLossBC(lam) for lam in grid["lam"]]
    density, weights = brute_force(candidates, demos, policy_class, 4, seed)
    assert (density > 0).all()
    scores = weights @ np.log(density) / weights.sum()
    results = agent.cv_results_
    np.testing.assert_allclose(results["mean_test_score"], scores, rtol=1e-12)
    np.testing.assert_array_equal(results["rank_test_score"], 1 + np.argsort(np.argsort(-scores)))
    repeated = np.repeat(np.log(density), weights.astype(int), axis=0)
    np.testing.assert_allclose(
        results["standard_error"], repeated.std(axis=0, ddof=1) / np.sqrt(len(repeated)), rtol=1e-10
    )
    assert agent.best_index_ == scores.argmax() and agent.best_score_ == results["mean_test_score"].max()
    assert agent.best_params_ == {"lam": grid["lam"][scores.argmax()]} == results["params"][agent.best_index_]
    assert results["param_lam"] == grid["lam"]
    refitted = candidates[agent.best_index_].fit(demos, policy_class).policy_
    np.testing.assert_array_equal(agent.policy_.log_probs(demos.prompts, demos.tokens),
                                  refitted.log_probs(demos.prompts, demos.tokens))  # fmt: skip
    assert agent.fit_report_.objective == -agent.best_score_


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize("seed", range(4))
def test_held_out_tournament_by_brute_force(seed, tau):
    rng = np.random.default_rng(seed)
    demos = random_demos(rng, 23, rng.integers(1, 4, size=23))
    grid = {"lam": [0.0, 0.05, 0.3, 0.9]}
    agent = CrossValidatedBC(SmoothedLogLossBC(), grid, "rho", 4, tau=tau)
    agent.fit(demos, MarkovClass(2, order=1), rng=np.random.default_rng(seed))
    density, weights = brute_force([SmoothedLogLossBC(x) for x in grid["lam"]], demos, MarkovClass(2, order=1), 4, seed)
    assert (density == 0).any()  # lam = 0.9 leaves nothing to what is rare
    value = density if tau == "ratio" else np.sqrt(density)
    losses = np.zeros((4, 4))
    for j, k in itertools.product(range(4), repeat=2):
        both = value[:, j] + value[:, k]
        results = np.divide(value[:, k] - value[:, j], both, where=both > 0, out=np.zeros(len(both)))
        losses[j, k] = weights @ results / weights.sum()
    np.testing.assert_allclose(agent.tournament_.losses, losses, atol=1e-12)
    worst = losses.max(axis=1)
    np.testing.assert_allclose(agent.cv_results_["mean_test_score"], -worst, atol=1e-12)
    assert agent.best_index_ == worst.argmin() == agent.cv_results_["rank_test_score"].argmin()
    assert agent.tournament_.names == ("lam=0.0", "lam=0.05", "lam=0.3", "lam=0.9")
    replies = losses.argmax(axis=1)
    expected = agent.tournament_.standard_errors[range(4), replies]
    np.testing.assert_array_equal(agent.cv_results_["standard_error"], expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_choosing_a_fixed_policy_is_learning_in_the_finite_class(seed, sparsity):
    """No candidate learns, so folds do not matter: log-loss is `LogLossBC`, infinite losses too; rho the estimator."""
    rng = np.random.default_rng(seed)
    policy_class, demos = random_members(rng, sparsity=sparsity), random_demos(rng, 12, rng.integers(3, size=12))
    grid = {"index": range(6)}
    for criterion, learner in (("log_loss", LogLossBC()), ("rho", RhoEstimatorBC())):
        agent = CrossValidatedBC(Pick(), grid, criterion, folds=3).fit(demos, policy_class)
        learned = learner.fit(demos, policy_class)
        same = np.array([densities(p, demos) for p in (agent.policy_, learned.policy_)])
        np.testing.assert_array_equal(same[0], same[1])
        assert agent.fit_report_.objective == pytest.approx(learned.fit_report_.objective, rel=1e-9, abs=1e-12)
        assert agent.fit_report_.converged == (agent.best_index_ % 2 == 0)


def test_infinite_losses_are_compared_by_zero_tokens_first():
    """Two candidates that call 1 and 2 of 8 demonstrated tokens impossible; the second explains the rest better."""
    sharp = TabularPolicy([[[0.5, 0.5]], [[0.5, 0.5], [0.0, 1.0]]])  # after 1 never 0
    blind = TabularPolicy([[[0.0, 1.0]], [[0.9, 0.1], [0.9, 0.1]]])  # never starts with 0
    demos = Demonstrations(np.zeros((4, 0), int), [[1, 0], [0, 0], [1, 1], [0, 1]], vocab_size=2)
    agent = CrossValidatedBC(Pick(), {"index": [1, 0]}, folds=2).fit(demos, FiniteClass([sharp, blind]))
    results = agent.cv_results_
    np.testing.assert_allclose(results["zero_density_tokens"], [0.5, 0.25])
    np.testing.assert_allclose(
        results["log_loss_elsewhere"], [-np.log(0.9 * 0.9 * 0.1 * 0.1) / 4, -np.log(0.5**4 * 0.5**2) / 4]
    )
    assert (results["mean_test_score"] == -np.inf).all() and np.isnan(results["standard_error"]).all()
    assert results["rank_test_score"].tolist() == [2, 1] and agent.best_params_ == {"index": 0}


def test_ties_go_to_the_first_and_share_their_rank():
    rng = np.random.default_rng(0)
    policy_class, demos = random_members(rng, 3), random_demos(rng, 9)
    best = CrossValidatedBC(Pick(), {"index": range(3)}).fit(demos, policy_class).best_index_
    other = (best + 1) % 3
    for criterion in ("log_loss", "rho"):
        agent = CrossValidatedBC(Pick(), {"index": [other, best, best, other]}, criterion).fit(demos, policy_class)
        ranks = agent.cv_results_["rank_test_score"].tolist()
        assert ranks in ([3, 1, 1, 3], [1, 3, 3, 1]) and agent.best_index_ == ranks.index(1)


def test_several_parameters_and_nested_ones():
    rng = np.random.default_rng(0)
    demos = random_demos(rng, 20)
    inner = CrossValidatedBC(SmoothedLogLossBC(), {"lam": [0.0, 0.2]})
    agent = CrossValidatedBC(inner, {"criterion": ["log_loss", "rho"], "agent__tol": (1e-8, 1e-4), "folds": [2, 3]})
    agent.fit(demos, BernoulliClass(0.01))
    assert len(agent.cv_results_["params"]) == 8
    assert agent.cv_results_["params"][1] == {"criterion": "log_loss", "agent__tol": 1e-8, "folds": 3}
    assert agent.cv_results_["param_folds"] == [2, 3] * 4
    assert agent.best_agent_.agent.tol == agent.best_params_["agent__tol"]
    selected = CrossValidatedBC(
        TournamentBC([LogLossBC(), SmoothedLogLossBC()]), {"agents__1__lam": np.array([0.1, 0.2]), "tau": ["psi"]}
    ).fit(demos, BernoulliClass(0.01))
    assert selected.best_agent_.agents[1].lam == selected.best_params_["agents__1__lam"]
    assert selected.agent.agents[1].lam == "1/H"


def test_agents_as_values_are_cloned():
    demos = random_demos(np.random.default_rng(0), 20)
    shared = [LogLossBC()]
    agent = CrossValidatedBC(TournamentBC([LogLossBC()]), {"agents": [shared, [LogLossBC(tol=1e-3)]]})
    agent.fit(demos, BernoulliClass(0.01))
    assert agent.best_params_["agents"] is shared and agent.best_agent_.agents[0] is not shared[0]


# -- randomness --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_table_whatever_else_is_in_the_grid():
    demos = random_demos(np.random.default_rng(0), 20)

    def scores(grid, seed):
        agent = CrossValidatedBC(Chance(), {"centre": grid}, folds=3)
        return agent.fit(demos, BernoulliClass(), rng=np.random.default_rng(seed)).cv_results_["mean_test_score"]

    one = scores([0.3, 0.6, 0.9], 1)
    np.testing.assert_array_equal(one, scores([0.3, 0.6, 0.9], 1))
    np.testing.assert_array_equal(one[[2, 0]], scores([0.9, 0.3], 1))
    assert not np.array_equal(one, scores([0.3, 0.6, 0.9], 2))


def test_a_score_of_the_tournament_depends_on_what_else_is_in_the_grid():
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    demos = collect(task, 500, np.random.default_rng(0))
    scores = [
        CrossValidatedBC(SmoothedLogLossBC(), {"lam": grid}, criterion="rho").fit(demos, task.policy_class)
        for grid in ([0.0], [0.0, 0.1])
    ]
    alone, beside = (agent.cv_results_["mean_test_score"][0] for agent in scores)
    assert alone == 0.0 and beside == pytest.approx(-0.0548, abs=1e-3)


# -- what the criteria see ---------------------------------------------------------------------------------------------


def test_the_criterion_decides_on_contamination():
    """Held-out log-loss is the objective that fails, so it chooses no smoothing; the tournament does."""
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    grid = {"lam": [0.0, "1/(nH)", 1e-3, 1e-2, "1/H", 0.03, 0.1, 0.3]}
    for seed in range(3):
        demos = collect(task, 2000, np.random.default_rng(seed))
        plain = approximation_factor(task, LogLossBC().fit(demos, task.policy_class).policy_)
        by_log_loss, by_rho = (
            CrossValidatedBC(SmoothedLogLossBC(), grid, criterion).fit(demos, task.policy_class)
            for criterion in ("log_loss", "rho")
        )
        assert by_log_loss.best_params_["lam"] in (0.0, "1/(nH)")
        assert approximation_factor(task, by_log_loss.policy_) > 0.95 * plain > 20
        assert approximation_factor(task, by_rho.policy_) < 2 < plain / 10


@pytest.mark.slow
def test_chunk_length_by_a_tournament():
    """Of the chunked rho learners on contamination, the tournament takes long chunks, log-loss single tokens."""
    task = make_task("Contamination", horizon=16, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    demos = collect(task, 1000, np.random.default_rng(0))
    grid = {"chunk": [1, 4, 16]}
    chosen = {
        criterion: CrossValidatedBC(ChunkedRhoBC(1), grid, criterion, folds=3).fit(demos, task.policy_class)
        for criterion in ("log_loss", "rho")
    }
    assert chosen["log_loss"].best_params_ == {"chunk": 1}
    assert chosen["rho"].best_params_ == {"chunk": 16}
    factors = [approximation_factor(task, chosen[c].policy_) for c in ("log_loss", "rho")]
    assert factors[1] < factors[0] / 2


def test_chunk_length_and_norm_bound_of_chunk_kr():
    """Improper learners too: the tournament takes the longest chunks, and bounds that leave nothing are left out."""
    task = make_task("Contamination", horizon=8, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    for seed in range(2):
        demos = collect(task, 1000, np.random.default_rng(seed))
        agent = CrossValidatedBC(ChunkKR(1, norm_bound=1.0), {"chunk": [1, 2, 4]}, "rho", folds=3)
        assert agent.fit(demos, task.policy_class).best_params_ == {"chunk": 4}
        single = ChunkKR(1, norm_bound=1.0).fit(demos, task.policy_class)
        assert approximation_factor(task, agent.policy_) < approximation_factor(task, single.policy_) / 2
    agent = CrossValidatedBC(ChunkKR(2), {"norm_bound": [1e-3, 1.0]}, folds=3)
    with pytest.warns(FitFailedWarning, match=r"norm_bound=0.001 is too small.* smallest feasible bound found"):
        agent.fit(demos, task.policy_class)
    assert agent.best_params_ == {"norm_bound": 1.0}


def test_a_population_serves_to_fit_and_to_judge():
    task = make_task("Contamination", horizon=64)
    grid = {"lam": [0.0, "1/H"]}
    population = task.population()
    by_log_loss = CrossValidatedBC(SmoothedLogLossBC(), grid).fit(population, task.policy_class)
    by_rho = CrossValidatedBC(SmoothedLogLossBC(), grid, "rho").fit(population, task.policy_class)
    assert by_log_loss.best_params_ == {"lam": 0.0} and by_rho.best_params_ == {"lam": "1/H"}
    for agent in (by_log_loss, by_rho):
        assert agent.fit_report_.details["folds"] == 0
        assert (agent.cv_results_["standard_error"] == 0).all()
    likelihood = LogLossBC().fit(population, task.policy_class).fit_report_.objective
    assert -by_log_loss.best_score_ == pytest.approx(likelihood, rel=1e-12)
    chunks = task.population(chunk=8)  # exact for tokens and chunks of 8, not for whole sequences
    assert CrossValidatedBC(SmoothedLogLossBC(), grid).fit(chunks, task.policy_class).best_params_ == {"lam": 0.0}
    with pytest.raises(ValueError, match=r"looks at chunks of 64 .* not exact"):
        CrossValidatedBC(SmoothedLogLossBC(), grid, "rho").fit(chunks, task.policy_class)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["log_loss", "rho"])
def test_candidates_that_fail_are_left_out_with_a_warning(criterion):
    rng = np.random.default_rng(0)
    policy_class, demos = random_members(rng, 3), random_demos(rng, 9)
    agent = CrossValidatedBC(Pick(), {"index": [-1, 0, 7, 2, 1]}, criterion)
    with pytest.warns(FitFailedWarning, match=r"2 of 5 .*'index': -1}: RuntimeError: no such member; .*7}: IndexError"):
        agent.fit(demos, policy_class)
    assert agent.best_params_["index"] in (0, 1, 2)
    results = agent.cv_results_
    assert (
        np.isnan(results["mean_test_score"][[0, 2]]).all() and np.isfinite(results["mean_test_score"][[1, 3, 4]]).all()
    )
    assert sorted(results["rank_test_score"][[1, 3, 4]]) == [1, 2, 3]
    assert results["rank_test_score"][[0, 2]].tolist() == [4, 4]
    assert results["error"][0] == "RuntimeError: no such member" and results["error"][1] == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean = CrossValidatedBC(Pick(), {"index": [0, 2, 1]}, criterion).fit(demos, policy_class)
    assert clean.best_params_ == agent.best_params_
    assert agent.fit_report_.details["failed"] == 2
    if criterion == "rho":
        assert agent.tournament_.names == ("index=0", "index=2", "index=1")


def test_as_many_folds_as_demonstrations():
    demos = random_demos(np.random.default_rng(0), 6)
    agent = CrossValidatedBC(SmoothedLogLossBC(), {"lam": [0.1, 0.2]}, folds=6).fit(demos, BernoulliClass())
    assert agent.fit_report_.details["folds"] == 6
