"""Cross-validation: against brute force and against learners it must equal, and what its two criteria see."""

import itertools
import warnings

import numpy as np
import pytest

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
)
from agents.chunk_kr import ChunkKR
from agents.selection import shuffled_folds
from agents.testing import check_agent
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    TabularPolicy,
    approximation_factor,
    collect,
    make_task,
)

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


def random_members(rng, count=6, sparsity=0.0):
    members = []
    for _ in range(count):
        tables = [rng.dirichlet(np.ones(2), size=2**h) for h in range(HORIZON)]
        for table in tables:
            table[rng.random(len(table)) < sparsity] = np.eye(2)[rng.integers(2)]
        members.append(TabularPolicy(tables))
    return FiniteClass(members)


def random_demos(rng, n, weights=None):
    return Demonstrations(np.zeros((n, 0), int), rng.integers(2, size=(n, HORIZON)), vocab_size=2, weights=weights)


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


@pytest.mark.parametrize("n", [2000, 5000])
def test_the_criterion_decides_on_contamination(n):
    """Held-out log-loss is the objective that fails, so it chooses no smoothing; the tournament does."""
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    grid = {"lam": [0.0, "1/(nH)", 1e-3, 1e-2, "1/H", 0.03, 0.1, 0.3]}
    for seed in range(3):
        demos = collect(task, n, np.random.default_rng(seed))
        plain = approximation_factor(task, LogLossBC().fit(demos, task.policy_class).policy_)
        by_log_loss, by_rho = (
            CrossValidatedBC(SmoothedLogLossBC(), grid, criterion).fit(demos, task.policy_class)
            for criterion in ("log_loss", "rho")
        )
        assert by_log_loss.best_params_["lam"] in (0.0, "1/(nH)")
        assert approximation_factor(task, by_log_loss.policy_) > 0.95 * plain > 20
        assert approximation_factor(task, by_rho.policy_) < 2 < plain / 10


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


def test_a_grid_that_fails_in_part_warns():
    policy_class, demos = random_members(np.random.default_rng(0), 3), random_demos(np.random.default_rng(0), 9)
    with pytest.warns(FitFailedWarning, match="chunk=9 must be an integer in"):
        CrossValidatedBC(ChunkedRhoBC(1), {"chunk": [1, 9]}).fit(demos, policy_class)


def test_as_many_folds_as_demonstrations():
    demos = random_demos(np.random.default_rng(0), 6)
    agent = CrossValidatedBC(SmoothedLogLossBC(), {"lam": [0.1, 0.2]}, folds=6).fit(demos, BernoulliClass())
    assert agent.fit_report_.details["folds"] == 6


# -- the contract ------------------------------------------------------------------------------------------------------

AGENTS = [
    CrossValidatedBC(SmoothedLogLossBC(), {"lam": [0.0, 0.1, 0.5]}),
    CrossValidatedBC(LayerwiseBC(), {"tie_break": ["random", "first"]}, "rho", 2, tau="psi", error_score="raise"),
    CrossValidatedBC(TournamentBC({"a": LogLossBC(), "b": SmoothedLogLossBC()}), {"agents__b__lam": [0.1, 0.2]}),
]


@pytest.mark.parametrize("agent", AGENTS, ids=["log_loss", "rho", "nested"])
def test_conformance(agent):
    """A split draws demonstrations, so copies are not weights; and one demonstration cannot be split."""
    check_agent(agent, skip=("weights", "small data"))
