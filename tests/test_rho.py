"""The rho learners: the numbers they were built to show, and product classes against every joint choice."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

import agents.rho as rho_module
from agents import ChunkedRhoBC, ConvergenceWarning, LayerwiseBC, LogLossBC, RhoEstimatorBC
from agents import rho as rho_product
from agents.rho import least_union, solve_product_game
from agents.rho_game import OneParameterSolution, rho_tau
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    FiniteClass,
    NotTractableError,
    ProductClass,
    TabularPolicy,
    approximation_factor,
    collect,
    make_task,
)
from ntp_envs.features import WindowOneHot

fixed = examples(50)


def factor(agent, task, *, chunk=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unconverged fit would warn
        agent.fit(task.population(chunk=chunk), task.policy_class)
    return approximation_factor(task, agent.policy_)


# -- the table of approximation factors on Contamination ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "horizon", "expected"),
    [
        ("ratio", 16, 3.219),
        ("ratio", 64, 3.238),
        pytest.param("ratio", 256, 3.108, marks=pytest.mark.slow),
        ("psi", 16, 5.20),
        ("psi", 64, 5.78),
        pytest.param("psi", 256, 5.69, marks=pytest.mark.slow),
    ],
)
def test_whole_sequences_on_contamination(tau, horizon, expected):
    task = make_task("Contamination", horizon=horizon)
    assert factor(RhoEstimatorBC(tau), task) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (4, {16: 8.188, 64: 29.599, 256: 112.964}),
        pytest.param(8, {16: 5.099, 64: 17.347, 256: 65.592}, marks=pytest.mark.slow),
        pytest.param(16, {16: 3.219, 64: 9.863, 256: 36.217}, marks=pytest.mark.slow),
        pytest.param(32, {64: 5.537, 256: 19.087}, marks=pytest.mark.slow),
        (64, {64: 3.238, 256: 9.937}),
    ],
)
def test_chunks_on_contamination(chunk, expected):
    for horizon, value in expected.items():
        task = make_task("Contamination", horizon=horizon)
        assert factor(ChunkedRhoBC(chunk), task, chunk=chunk) == pytest.approx(value, rel=0.01)


@pytest.mark.slow
def test_slopes_on_contamination():
    """Falling almost like 1/K in the chunk length; the table above is flat in H."""
    chunks = np.array([16, 32, 64, 128])
    task = make_task("Contamination", horizon=256)
    factors = [factor(ChunkedRhoBC(int(chunk)), task, chunk=int(chunk)) for chunk in chunks]
    in_chunk = np.polyfit(np.log(chunks), np.log(factors), 1)[0]
    assert -1.0 <= in_chunk <= -0.9 and in_chunk == pytest.approx(-0.923, abs=0.01)


@pytest.mark.slow
def test_from_samples_on_contamination():
    """n = 10^4, 20 seeds: the mean within four standard errors of the tabulated one."""
    task = make_task("Contamination", horizon=64, eps=1e-2, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    factors = []
    for seed in range(20):
        demos = collect(task, 10_000, np.random.default_rng(seed))
        fits = [agent.fit(demos, task.policy_class).policy_ for agent in (RhoEstimatorBC(), ChunkedRhoBC(8))]
        factors.append([approximation_factor(task, policy) for policy in fits])
    (whole, chunked), (sd_whole, sd_chunked) = np.mean(factors, axis=0), np.std(factors, axis=0, ddof=1)
    assert abs(whole - 3.17) <= 4 * 0.22 / np.sqrt(20)
    assert 0.1 <= sd_whole <= 0.4
    assert abs(chunked - 16.7) <= 4 * sd_chunked / np.sqrt(20)


@pytest.mark.parametrize(("density_ratio", "horizons"), [(np.e, (64, 65, 66)), (10.0, (28, 29, 30))])
def test_rare_mode_never_tempts_rho(density_ratio, horizons):
    for horizon in horizons:
        task = make_task("RareMode", horizon=horizon, eps=0.01, density_ratio=float(density_ratio))
        agent = RhoEstimatorBC().fit(task.population(), task.policy_class)
        assert agent.fit_report_.details["index"] == 0
        assert approximation_factor(task, agent.policy_) == pytest.approx(1.0)
    log_loss = LogLossBC().fit(task.population(), task.policy_class)
    assert approximation_factor(task, log_loss.policy_) > 20


# -- facts -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=8), st.floats(0.0, 0.3))
@fixed
def test_rho_on_single_tokens_is_log_loss(tokens, theta_min):
    demos = Demonstrations(np.zeros((len(tokens), 0), int), np.array(tokens), vocab_size=2)
    policy_class = BernoulliClass(theta_min)
    rho = ChunkedRhoBC(1).fit(demos, policy_class).policy_
    assert rho.theta == pytest.approx(LogLossBC().fit(demos, policy_class).policy_.theta, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("tau", ["ratio", "psi"])
def test_chunks_of_the_whole_length_are_the_rho_estimator(tau):
    rng = np.random.default_rng(0)
    demos = Demonstrations(rng.integers(2, size=(50, 1)), rng.integers(2, size=(50, 7)), vocab_size=2)
    finite = FiniteClass([TabularPolicy.random(2, 7, rng, prompt_length=1) for _ in range(20)])
    for policy_class in (BernoulliClass(0.01, on="flips"), finite):
        whole, chunked = RhoEstimatorBC(tau).fit(demos, policy_class), ChunkedRhoBC(7, tau).fit(demos, policy_class)
        assert whole.fit_report_ == chunked.fit_report_


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 5))
@fixed
def test_conditional_distance_is_at_most_twice_the_joint_one(seed, contexts, outcomes):
    """``E_{x~P} D_H^2(P(.|x), Q(.|x)) <= 2 D_H^2(P, Q)`` for any two laws of (x, y)."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(contexts * outcomes, rng.choice([0.05, 0.3, 2.0])), size=2) + 1e-12
    p, q = ((law / law.sum()).reshape(contexts, outcomes) for law in (p, q))
    joint = ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
    given_x = [law / law.sum(axis=1, keepdims=True) for law in (p, q)]
    conditional = p.sum(axis=1) @ ((np.sqrt(given_x[0]) - np.sqrt(given_x[1])) ** 2).sum(axis=1)
    assert conditional <= 2 * joint * (1 + 1e-9) + 1e-12


def test_the_constant_two_is_sharp():
    """A rare x, of no weight under Q, after which P and Q are disjoint."""
    rare, never = 1e-4, 1e-16
    p = np.array([[1 - rare, 0.0, 0.0], [0.0, rare, 0.0]])
    q = np.array([[1 - never, 0.0, 0.0], [0.0, 0.0, never]])
    joint = ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
    assert 1.99 < rare * 2.0 / joint <= 2.0


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_finite_classes_on_chunks_by_brute_force(chunk, tau):
    """Shared policy, loops over chunks and sequences; 3 does not divide 5: the last chunk has two tokens."""
    rng = np.random.default_rng(chunk)
    policies = [TabularPolicy.random(3, 5, rng, concentration=0.3) for _ in range(12)]
    demos = Demonstrations(np.zeros((25, 0), int), rng.integers(3, size=(25, 5)), vocab_size=3, weights=rng.random(25))
    scale = 0.5 if tau == "ratio" else 0.25
    per_token = [policy.log_probs(demos.prompts, demos.tokens) for policy in policies]
    chunks = [slice(start, min(start + chunk, 5)) for start in range(0, 5, chunk)]
    payoffs = np.zeros((12, 12))
    for (j, own), (k, other) in itertools.product(enumerate(per_token), repeat=2):
        for part in chunks:
            ratios = other[:, part].sum(axis=1) - own[:, part].sum(axis=1)
            payoffs[j, k] += demos.normalised_weights() @ np.tanh(scale * ratios)
    worst = payoffs.max(axis=1)
    report = ChunkedRhoBC(chunk, tau).fit(demos, FiniteClass(policies)).fit_report_
    assert report.details["index"] == int(worst.argmin())
    assert report.objective == pytest.approx(worst.min(), abs=1e-12)
    assert report.gap == 0.0 and report.converged


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
def test_representatives_stand_for_the_whole_law(chunk):
    """All 2 * 2^7 documents with their probabilities; 3 and 4 do not divide 7."""
    task = make_task("Contamination", horizon=7, eps=0.05, p=0.02, q=0.9, theta_min=0.01)
    everything = np.array(list(itertools.product((0, 1), repeat=8)))
    prompts, tokens = everything[:, :1], everything[:, 1:]
    law = np.exp(task.expert.log_probs(prompts, tokens).sum(axis=1)) / 2
    exhaustive = ChunkedRhoBC(chunk).fit(Demonstrations(prompts, tokens, 2, law), task.policy_class)
    short = ChunkedRhoBC(chunk).fit(task.population(chunk=chunk), task.policy_class)
    assert short.fit_report_.objective == pytest.approx(exhaustive.fit_report_.objective, rel=1e-6, abs=1e-12)
    assert short.policy_.theta == pytest.approx(exhaustive.policy_.theta, rel=1e-4)


def test_weights_are_relative():
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, size=(30, 6))
    classes = [BernoulliClass(0.01), FiniteClass([BernoulliPolicy(t) for t in np.linspace(0.1, 0.9, 40)])]
    for policy_class in classes:
        one, many = (
            ChunkedRhoBC(3).fit(Demonstrations(np.zeros((30, 0), int), tokens, 2, np.full(30, w)), policy_class)
            for w in (1.0, 1e6)
        )
        assert one.policy_.theta == pytest.approx(many.policy_.theta, rel=1e-9)
        assert one.fit_report_.objective == pytest.approx(many.fit_report_.objective, rel=1e-9)


@pytest.mark.slow
def test_finite_grid_agrees_with_the_continuous_class():
    """The value over a subset is not below the value over the class by more than the replies the subset lacks."""
    task = make_task("Contamination", horizon=32)
    continuous = RhoEstimatorBC().fit(task.population(), task.policy_class)
    grid = RhoEstimatorBC().fit(task.population(), task.policy_class.grid(1500))
    assert grid.policy_.theta == pytest.approx(continuous.policy_.theta, rel=0.02)
    assert grid.fit_report_.objective == pytest.approx(continuous.fit_report_.objective, rel=0.01)


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize("tokens", [[[0, 1, 0, 0]], [[0, 1, 0, 0]] * 50, [[1, 1, 1, 1]] * 3])
def test_one_sequence_or_all_alike(tokens, tau):
    """A single point: whoever gives it the highest probability wins, the maximum likelihood estimate."""
    demos = Demonstrations(np.zeros((len(tokens), 0), int), np.array(tokens), vocab_size=2)
    agent = RhoEstimatorBC(tau).fit(demos, BernoulliClass())
    assert agent.policy_.theta == pytest.approx(np.mean(tokens))
    finite = RhoEstimatorBC(tau).fit(demos, FiniteClass([BernoulliPolicy(t) for t in (0.3, 0.9, 0.3)]))
    assert finite.policy_.theta == (0.9 if np.mean(tokens) == 1 else 0.3)
    assert finite.fit_report_.details["index"] == (1 if np.mean(tokens) == 1 else 0)


def test_when_every_policy_is_impossible_the_first_is_taken():
    demos = Demonstrations(np.zeros((2, 0), int), np.array([[0, 1], [1, 0]]), vocab_size=2)
    agent = RhoEstimatorBC().fit(demos, FiniteClass([BernoulliPolicy(0.0), BernoulliPolicy(1.0)]))
    assert (agent.policy_.theta, agent.fit_report_.objective) == (0.0, 0.0)


def test_memory_is_that_of_distinct_sequences():
    """By another number of members, or of different sequences, this would be refused (as in the table of refusals)."""
    many = FiniteClass([BernoulliPolicy(t) for t in np.linspace(0.1, 0.9, 200)])
    same = Demonstrations(np.zeros((500, 0), int), np.zeros((500, 12), int), vocab_size=2)
    RhoEstimatorBC(memory_gb=1e-3).fit(same, many)
    few = draw_from(np.random.default_rng(0), 50, 16)
    RhoEstimatorBC(memory_gb=0.02, candidates=2).fit(few, ARLinearClass(WindowOneHot(2, 4), 4.0))


def test_an_uncertified_fit_warns(monkeypatch):
    loose = OneParameterSolution(0.2, value=0.1, reply=0.3, reply_gap=1e-3, slack=1e-4, evaluations=3, points=2)
    monkeypatch.setattr(rho_module, "solve_bernoulli_game", lambda *args, **kwargs: loose)
    demos = Demonstrations(np.zeros((3, 0), int), np.eye(3, 6, dtype=int), vocab_size=2)
    with pytest.warns(
        ConvergenceWarning, match=r"gap of 0.0011 at value 0.1: not solved to tol=1e-06; use a larger tol.$"
    ) as caught:
        agent = RhoEstimatorBC().fit(demos, BernoulliClass())
    assert caught[0].filename == __file__
    assert not agent.fit_report_.converged and agent.fit_report_.gap == pytest.approx(1.1e-3)


# == product classes ===================================================================================================


def random_product(rng, horizon, most_options, vocab_size=2):
    """Options that see the whole prefix, so that nothing is symmetric."""
    return ProductClass(
        [
            [
                TabularPolicy.random(vocab_size, horizon, rng, concentration=0.5)
                for _ in range(rng.integers(1, most_options + 1))
            ]
            for _ in range(horizon)
        ]
    )


def draw_from(rng, n, horizon, vocab_size=2):
    return Demonstrations(
        np.zeros((n, 0), int), rng.integers(vocab_size, size=(n, horizon)), vocab_size=vocab_size, weights=rng.random(n)
    )


def worst_cases(policy_class, demos, positions, tau):
    """Each joint choice of a chunk and its worst case, by brute force."""
    tables = [policy_class.option_log_probs(h, demos.prompts, demos.tokens) for h in range(*positions)]
    choices = list(itertools.product(*(range(table.shape[1]) for table in tables)))
    vectors = [sum(table[:, option] for table, option in zip(tables, choice)) for choice in choices]
    weights = demos.normalised_weights()
    return {
        choice: max(float(weights @ rho_tau(own, other, tau)) for other in vectors)
        for choice, own in zip(choices, vectors)
    }


@pytest.mark.parametrize("tau", ["ratio", "psi"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_each_chunk_is_won_as_by_brute_force(seed, chunk, tau):
    rng = np.random.default_rng(seed)
    horizon = 5
    policy_class = random_product(rng, horizon, 3)
    demos = draw_from(rng, 12, horizon)
    game = solve_product_game(policy_class, demos, chunk, tau)
    total = 0.0
    for start in range(0, horizon, chunk):
        stop = min(start + chunk, horizon)
        brute = worst_cases(policy_class, demos, (start, stop), tau)
        total += min(brute.values())
        assert brute[tuple(game.options[start:stop])] == pytest.approx(min(brute.values()), abs=1e-12)
    assert game.value == pytest.approx(total, abs=1e-11)
    assert chunk != 2 or game.enumerated == 3


def test_merging_and_pruning_leave_the_game_as_it_is(monkeypatch):
    """Independent Bernoulli options: most joint choices are equal or dominated at the data points."""
    policy_class = ProductClass([[BernoulliPolicy(t) for t in (0.5, 0.1, 0.5, 0.9)]] * 4)
    demos = Demonstrations(np.zeros((3, 0), int), np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), vocab_size=2)
    pruned = solve_product_game(policy_class, demos, 4, "ratio")
    sizes = []
    monkeypatch.setattr(
        rho_product, "_undominated", lambda vectors: sizes.append(len(vectors)) or np.arange(len(vectors))
    )
    whole = solve_product_game(policy_class, demos, 4, "ratio")
    assert pruned.options.tolist() == whole.options.tolist()
    assert pruned.value == pytest.approx(whole.value, abs=1e-13)
    assert max(sizes) <= 3**4  # of 4**4


@pytest.mark.parametrize("seed", range(30))
def test_least_union_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, layers = int(rng.integers(1, 12)), int(rng.integers(1, 6))
    errors = [rng.random((n, rng.integers(1, 5))) < rng.uniform(0.1, 0.9) for _ in range(layers)]
    weights = rng.integers(1, 4, size=n) / 7 if seed % 2 else rng.random(n) ** 4
    masses = {
        choice: weights @ np.logical_or.reduce([error[:, o] for error, o in zip(errors, choice)])
        for choice in itertools.product(*(range(error.shape[1]) for error in errors))
    }
    options, mass, gap = least_union(errors, weights, 60.0)
    assert masses[tuple(options)] == pytest.approx(min(masses.values()), abs=1e-9 * weights.sum())
    assert mass == pytest.approx(masses[tuple(options)])
    assert gap <= 1e-6 * mass + 1e-12
    again, _, _ = least_union(errors, weights, 60.0)
    assert again.tolist() == options.tolist()


def test_ties_go_to_the_first_option_that_errs_nowhere_else():
    nowhere, somewhere = np.zeros(3, bool), np.array([True, False, False])
    errors = [np.stack([somewhere, nowhere, nowhere], axis=1), np.stack([nowhere, nowhere], axis=1)]
    assert least_union(errors, np.ones(3), 60.0)[0].tolist() == [1, 0]
    lost = [np.stack([somewhere, somewhere], axis=1), np.stack([nowhere, somewhere], axis=1)]
    options, mass, gap = least_union(lost, np.ones(3), 60.0)  # all err on the first point anyway
    assert (options.tolist(), mass, gap) == ([0, 0], 1.0, 0.0)


def test_consistency_game_is_exactly_as_computed_by_hand():
    """C_K = (H / K) (1 - eta (J - k) / J) for K = 2^k, H = 2^J."""
    task = make_task("ConsistencyGame", horizon=64, eta=0.1)
    population = task.population()
    expected = [64 / 2**k * (1 - 0.1 * (6 - k) / 6) for k in range(7)]
    for k, factor in enumerate(expected):
        agent = ChunkedRhoBC(2**k).fit(population, task.policy_class)
        assert approximation_factor(task, agent.policy_) == pytest.approx(factor, rel=1e-12)
        assert agent.fit_report_.converged and agent.fit_report_.gap <= 1e-12
    whole = RhoEstimatorBC("psi").fit(population, task.policy_class)
    assert approximation_factor(task, whole.policy_) == pytest.approx(1.0, rel=1e-12)
    layerwise = LayerwiseBC().fit(population, task.policy_class)
    assert approximation_factor(task, layerwise.policy_) == pytest.approx(expected[0], rel=1e-12)


def test_refuses_too_many_joint_choices():
    rng = np.random.default_rng(2)
    policy_class = ProductClass([[BernoulliPolicy(t) for t in rng.uniform(0.3, 0.7, size=8)] for _ in range(12)])
    demos = draw_from(rng, 200, 12)
    with pytest.raises(
        NotTractableError, match=r"tokens 0 to 11 has 8\*8.* GB at \d+ data points. Use a smaller chunk"
    ):
        RhoEstimatorBC(memory_gb=0.01).fit(demos, policy_class)
    report = ChunkedRhoBC(2, memory_gb=0.01).fit(demos, policy_class).fit_report_
    assert report.details["enumerated_chunks"] == 6


def test_an_integer_program_out_of_time_warns():
    rng = np.random.default_rng(3)
    layers, points = 60, 60
    tables = rng.random((layers, points, 6)) < 0.3

    class Errors(ProductClass):
        def option_log_probs(self, layer, prompts, tokens):
            return np.where(tables[layer][prompts @ (1 << np.arange(6)) % points], -np.inf, 0.0)

    policy_class = Errors([[BernoulliPolicy(0.5)] * 6] * layers)
    prompts = np.array(list(itertools.product((0, 1), repeat=6)))[:points]
    demos = Demonstrations(prompts, np.zeros((len(prompts), layers), int), vocab_size=2)
    with pytest.warns(ConvergenceWarning, match=r"gap of .* raise time_limit=0\.001"):
        agent = RhoEstimatorBC(time_limit=1e-3).fit(demos, policy_class)
    assert not agent.fit_report_.converged
    assert 0 < agent.fit_report_.gap <= 1
