"""ChunkKR: the values of the theory, its parts, and its projection against general-purpose solvers."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize

from agents import ChunkKR, ConvergenceWarning, LogLossBC, project_onto_ball_and_simplices
from agents.chunk_kr import agent as agent_module
from agents.chunk_kr.agent import ChunkKRAutomaton, ChunkKRPolicy
from agents.chunk_kr.program import (
    best_reply,
    certify,
    game_value,
    likelihood_prox,
    project_onto_simplex,
    smallest_feasible_norm,
)
from agents.chunk_kr.solvers import solve_admm, solve_gda
from agents.chunk_kr.space import (
    ChunkPoints,
    KernelRange,
    PrefixReader,
    canonical_order,
    cholesky_embedding,
    collect_points,
    eigen_embedding,
    gram_matrix,
    log_chunk_kernel,
    sequence_features,
    tree_keys,
    walsh,
    walsh_embedding,
)
from agents.testing import Problem, check_agent
from ntp_envs import (
    BernoulliClass,
    BernoulliMixturePolicy,
    Demonstrations,
    NotTractableError,
    RestartedPolicy,
    collect,
    make_task,
)
from ntp_envs.arrays import all_sequences
from ntp_envs.distances import approximation_factor, distance
from ntp_envs.features import (
    ByPosition,
    CallableFeatures,
    Concatenated,
    EpisodeBits,
    FlipSign,
    OffsetsOneHot,
    PairwiseProducts,
    Position,
    PrefixSigns,
    PromptFeatures,
    WindowOneHot,
)
from ntp_envs.policy_classes import ARLinearClass


@pytest.fixture(autouse=True)
def nothing_unconverged():
    """No fit may warn, except where a test says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        yield


def brute_hellinger2(task, policy):
    """Squared Hellinger distance 2 (1 - BC), in [0, 2], by listing all sequences."""
    prompts, mass = task.prompt_law()
    sequences = all_sequences(2, task.horizon)
    total = 0.0
    for prompt, weight in zip(prompts, mass):
        rows = np.tile(prompt, (len(sequences), 1))
        p, q = (np.exp(one.log_probs(rows, sequences).sum(axis=1)) for one in (task.expert, policy))
        total += weight * np.square(np.sqrt(p) - np.sqrt(q)).sum()
    return total


# -- the values of the theory ------------------------------------------------------------------------------------------

FLAT = {"eps": 0.05, "p": 0.01, "q": 0.9, "theta_min": 0.01}


@pytest.mark.parametrize(
    ("parameters", "chunk", "factor"),
    [
        ({}, 1, 7.5396),
        ({}, 2, 4.9923),
        ({}, 4, 2.9353),
        (FLAT, 1, 3.7079),
        (FLAT, 2, 3.7359),
        (FLAT, 4, 2.3315),
    ],
)
def test_contamination_at_population(parameters, chunk, factor):
    task = make_task("Contamination", horizon=8, **parameters)
    agent = ChunkKR(chunk, norm_bound=1.0).fit(task.population(chunk=chunk), task.policy_class)
    found = approximation_factor(task, agent.policy_)
    assert found == pytest.approx(factor, rel=1e-3)
    assert brute_hellinger2(task, agent.policy_) / task.best_in_class().hellinger2 == pytest.approx(found, rel=1e-6)
    assert ChunkKR(chunk).fit(task.population(chunk=chunk), task.policy_class).fit_report_.converged


PARITY = {1: 0.144929, 2: 0.078695, 4: 0.003021, 8: 0.0}


@pytest.mark.parametrize("bound", PARITY)
def test_noisy_parity(bound):
    """One chunk of one token, the answer, after prompts that hold the bits; or a whole episode as a chunk, its law 1/16
    of that of the answer, and so the norm."""
    task = make_task("NoisyParity", bits=4, subset=(0, 1, 2), noise=0.1)
    bits = all_sequences(2, 4)
    right = bits[:, :3].sum(axis=1) % 2
    demos = Demonstrations(
        np.tile(bits, (2, 1)),
        np.concatenate([right, 1 - right])[:, None],
        vocab_size=2,
        weights=np.repeat([0.9, 0.1], 16),
    )
    features = CallableFeatures(
        lambda prompts, tokens: task.policy_class.features.context(tokens, np.asarray(prompts)), 2, 5
    )
    policy = ChunkKR(1, norm_bound=bound, tol=1e-9).fit(demos, ARLinearClass(features, 4.0)).policy_
    learned = np.exp(policy.next_log_probs(bits, np.zeros((16, 0), int)))
    truth = np.where(np.arange(2) == right[:, None], 0.9, 0.1)
    expected = pytest.approx(PARITY[bound], abs=1e-6 if bound < 8 else 1e-8)
    assert np.square(np.sqrt(learned) - np.sqrt(truth)).sum(axis=1).mean() == expected
    agent = ChunkKR(5, norm_bound=bound / 16, tol=1e-9).fit(task.population(), task.policy_class)
    assert distance(task.expert, agent.policy_, task).final == expected


def test_one_token_on_contamination_is_maximum_likelihood(rng):
    task = make_task("Contamination", horizon=16, **FLAT)
    for demos in (task.population(), collect(task, 200, rng)):
        ours = ChunkKR(1, norm_bound=1.0, tol=1e-9).fit(demos, task.policy_class).policy_
        theirs = LogLossBC().fit(demos, task.policy_class).policy_
        prompts, empty = np.array([[0], [1]]), np.zeros((2, 0), int)
        assert np.allclose(ours.next_log_probs(prompts, empty), theirs.next_log_probs(prompts, empty), atol=1e-6)


@pytest.mark.parametrize("chunk", [2, 4, 8])
def test_with_a_large_ball_the_chunks_are_learned_exactly(chunk):
    """At population the limit is the expert, restarted at every chunk: the improper learner of independent chunks."""
    task = make_task("Contamination", horizon=8, **FLAT)
    agent = ChunkKR(chunk, norm_bound=1.0, tol=1e-9).fit(task.population(chunk=chunk), task.policy_class)
    inner = BernoulliMixturePolicy([task.p, task.q], [1 - task.eps, task.eps], horizon=chunk, on="flips")
    assert distance(RestartedPolicy(inner, chunk), agent.policy_, task).final < 1e-8


@pytest.mark.slow
def test_the_line_of_h_over_k_from_samples():
    """C_apx = 1 + H/K up to the noise of the number of contaminated documents, H = 64."""
    task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    factors = np.empty((4, 3))
    for seed in range(4):
        demos = collect(task, 10_000, np.random.default_rng(seed))
        share = (demos.tokens != np.column_stack([demos.prompts, demos.tokens[:, :-1]])).mean() / 0.01
        for j, chunk in enumerate((2, 4, 8)):
            policy = ChunkKR(chunk, norm_bound=1.0).fit(demos, task.policy_class).policy_
            assert isinstance(policy, ChunkKRAutomaton)
            factors[seed, j] = approximation_factor(task, policy)
            assert factors[seed, j] == pytest.approx(share * 64 / chunk + 1, rel=0.15)
    line = 1 + 64 / np.array([2, 4, 8])
    centre, error = factors.mean(axis=0), factors.std(axis=0, ddof=1) / 2
    assert (np.abs(centre - line) < 3.2 * error + 0.1 * line).all()  # t interval of 4 seeds, and (1 + H/K) is to ~10 %
    slope = np.polyfit(np.log([2, 4, 8]), np.log(centre), 1)[0]
    assert -1.0 < slope < -0.8


# -- certificates ------------------------------------------------------------------------------------------------------


def window_problem(seed, n=30, horizon=5, width=2):
    rng = np.random.default_rng(seed)
    policy_class = ARLinearClass(WindowOneHot(2, width), 4.0)
    theta = rng.normal(size=policy_class.features.dimension)
    expert = policy_class.policy(2.0 * theta / np.linalg.norm(theta))
    prompts = np.zeros((n, 0), int)
    return Demonstrations(prompts, expert.sample(prompts, horizon, rng), vocab_size=2), policy_class


@given(seed=st.integers(0, 1000), chunk=st.integers(1, 3), bound=st.sampled_from([0.8, 1.0, 2.0]))
@examples(8)
def test_every_fit_is_certified_by_an_independent_search_for_replies(seed, chunk, bound):
    demos, policy_class = window_problem(seed)
    seen = []
    solve = agent_module.solve_admm

    def spy(embedding, weights, radius, **options):
        solution = solve(embedding, weights, radius, **options)
        seen.append((embedding, weights, radius, solution))
        return solution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_module, "solve_admm", spy)
        report = ChunkKR(chunk, norm_bound=bound).fit(demos, policy_class).fit_report_
    assert report.converged and report.gap <= 1e-6 and len(seen) == len(report.details["programs"])
    for embedding, weights, radius, solution in seen:
        found, _ = best_reply(
            weights, solution.law, embedding.phi, radius, rng=np.random.default_rng(seed), starts=2, steps=10
        )
        assert found <= solution.certificate.gap + 2e-6  # the law is feasible to 1e-6


def test_gda_warns_with_its_gap_and_the_knobs():
    task = make_task("Contamination", horizon=4)
    agent = ChunkKR(2, norm_bound=1.0, solver="gda", max_iterations=3)
    with pytest.warns(ConvergenceWarning, match=r"gap .*max_iterations.*solver='admm'"):
        agent.fit(task.population(chunk=2), task.policy_class)
    assert not agent.fit_report_.converged and agent.fit_report_.gap > 1e-6


def test_admm_warns_when_it_is_stopped_early():
    demos, policy_class = window_problem(0)
    with pytest.warns(ConvergenceWarning, match="gap"):
        ChunkKR(2, norm_bound=1.0, max_iterations=10, tol=1e-12).fit(demos, policy_class)


# -- policies ----------------------------------------------------------------------------------------------------------


def whole_prefix_class(width=2):
    """The window features without their finite memory, so that the general policy is used."""
    features = WindowOneHot(2, width)
    return ARLinearClass(CallableFeatures(features.context, 2, features.n_context), 4.0)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_policies_with_and_without_an_automaton_agree(chunk):
    demos, policy_class = window_problem(1)
    one = ChunkKR(chunk, norm_bound=1.0, tol=1e-9).fit(demos, policy_class).policy_
    two = ChunkKR(chunk, norm_bound=1.0, tol=1e-9).fit(demos, whole_prefix_class()).policy_
    assert (
        isinstance(one, ChunkKRAutomaton) and isinstance(two, ChunkKRPolicy) and not isinstance(two, ChunkKRAutomaton)
    )
    tokens = all_sequences(2, 5)
    prompts = np.zeros((32, 0), int)
    laws = [np.exp(policy.log_probs(prompts, tokens).sum(axis=1)) for policy in (one, two)]
    assert laws[0].sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(laws[0], laws[1], atol=1e-5)
    stepwise = sum(one.next_log_probs(prompts, tokens[:, :h])[np.arange(32), tokens[:, h]] for h in range(5))
    assert np.allclose(np.exp(stepwise), laws[0], atol=1e-12)


@given(seed=st.integers(0, 1000), chunk=st.integers(1, 4), low_rank=st.sampled_from([None, 4]))
@examples(10)
def test_the_extension_to_unseen_prefixes_is_normalised(seed, chunk, low_rank):
    demos, _ = window_problem(seed, n=3, horizon=6, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        policy = ChunkKR(chunk, norm_bound=2.0, low_rank=low_rank).fit(demos, whole_prefix_class(4)).policy_
    tokens = all_sequences(2, 6)
    law = policy.log_probs(np.zeros((64, 0), int), tokens).sum(axis=1)
    assert np.exp(law).sum() == pytest.approx(1, abs=1e-10)
    drawn = policy.sample(np.zeros((40, 0), int), 6, np.random.default_rng(seed))
    assert np.isfinite(policy.log_probs(np.zeros((40, 0), int), drawn)).all()


def test_low_rank_with_all_ranks_is_the_full_fit():
    demos, policy_class = window_problem(2)
    full = ChunkKR(2, norm_bound=1.0, tol=1e-9).fit(demos, policy_class)
    low = ChunkKR(2, norm_bound=1.0, tol=1e-9, low_rank=500).fit(demos, policy_class)
    assert low.fit_report_.objective == pytest.approx(full.fit_report_.objective, abs=1e-7)
    part = ChunkKR(2, norm_bound=1.0, low_rank=5).fit(demos, policy_class)
    assert part.fit_report_.objective >= full.fit_report_.objective - 1e-6  # a subset of the class
    assert part.fit_report_.details["programs"][0]["trace_error"] > 0.01


def test_the_norm_bound_is_chosen_by_held_out_likelihood():
    """More coins than data: the largest balls overfit and are not chosen; the choice is drawn from rng."""
    demos, policy_class = window_problem(3, n=400, horizon=8, width=3)
    agent = ChunkKR(2).fit(demos, policy_class, rng=np.random.default_rng(1))
    details = agent.fit_report_.details
    tried = dict(details["norm_bounds_tried"])
    assert tried[details["norm_bound"]] >= max(tried.values()) - 1e-6
    few = demos.subset(np.arange(4))
    assert ChunkKR(2).fit(few, policy_class).fit_report_.details["norm_bound"] == 1.0


def test_report():
    task = make_task("Contamination", horizon=10)
    agent = ChunkKR(4, norm_bound=1.0).fit(task.population(chunk=4), task.policy_class)
    report = agent.fit_report_
    assert [entry["length"] for entry in report.details["programs"]] == [4, 2]  # 4 + 4 + 2
    entry = report.details["programs"][0]
    assert entry["prefixes"] == 1 and entry["points"] == 16 and entry["positions"] == 2
    assert entry["condition"] == pytest.approx(2.0**4, rel=1e-9)  # the fourth tensor power of [[2, 2/3], [2/3, 2]]
    assert entry["kernel_log_range"] == pytest.approx((4 * np.log(2 / 3), 4 * np.log(2)))
    assert 0 < entry["projection_share"] < 1 and entry["memory_bytes"] > 0 and entry["norm"] <= 1.0
    # the objective is the log-loss of the policy it returns
    demos = collect(task, 50, np.random.default_rng(0))
    agent.fit(demos, task.policy_class)
    loss = -agent.policy_.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean()
    assert agent.fit_report_.objective == pytest.approx(loss, abs=1e-9)


@pytest.mark.slow
def test_contract(rng):
    flips = BernoulliClass(0.01, on="flips")
    prompts = rng.integers(2, size=(30, 1))
    demos = Demonstrations(prompts, rng.integers(2, size=(30, 6)), vocab_size=2)
    window, policy_class = window_problem(4, n=30, horizon=6)
    problems = [Problem("flips", flips, demos), Problem("window", policy_class, window)]
    check_agent(ChunkKR(2, norm_bound=1.0), problems=problems)
    check_agent(ChunkKR(4), problems=problems[:1], skip={"weights"})  # copies fall on both sides of a split


# -- input -------------------------------------------------------------------------------------------------------------


def test_contradictory_duplicates_are_averaged():
    """One prefix, half of the strings each way: the law is half and half."""
    tokens = np.array([[0, 0], [1, 1]] * 3)
    demos = Demonstrations(np.zeros((6, 0), int), tokens, vocab_size=2)
    policy = ChunkKR(2, norm_bound=4.0).fit(demos, whole_prefix_class()).policy_
    law = np.exp(policy.log_probs(np.zeros((4, 0), int), all_sequences(2, 2)).sum(axis=1))
    assert np.allclose(law, [0.5, 0, 0, 0.5], atol=1e-4)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_equal_or_single_demonstrations(n, chunk):
    demos = Demonstrations(np.zeros((n, 1), int), np.tile([0, 1, 1, 0], (n, 1)), vocab_size=2)
    for policy_class in (ARLinearClass(FlipSign(), 3.0), BernoulliClass(on="tokens"), whole_prefix_class()):
        agent = ChunkKR(chunk, norm_bound=1.0).fit(demos, policy_class)
        law = agent.policy_.log_probs(np.zeros((16, 1), int), all_sequences(2, 4)).sum(axis=1)
        assert np.exp(law).sum() == pytest.approx(1)
        assert agent.fit_report_.gap <= 1e-6


def test_pooling_is_exact():
    """Twice the prompts that look alike give the same fit as the prompts themselves."""
    demos, _ = window_problem(5)
    doubled = Demonstrations(np.repeat([[0], [1]], len(demos), axis=0), np.tile(demos.tokens, (2, 1)), vocab_size=2)
    blind = ARLinearClass(CallableFeatures(lambda prompts, tokens: whole_features(tokens), 2, 5), 4.0)
    one, two = (ChunkKR(2, norm_bound=1.0).fit(data, blind) for data in (demos, doubled))
    first, second = one.fit_report_.details["programs"][0], two.fit_report_.details["programs"][0]
    assert second["raw_prefixes"] == 2 * first["raw_prefixes"] and second["prefixes"] == first["prefixes"]
    assert one.fit_report_.objective == pytest.approx(two.fit_report_.objective, abs=1e-7)


def whole_features(tokens):
    return WindowOneHot(2, 2).context(np.zeros((len(tokens), 0), int), tokens)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_a_loose_tolerance_is_reached_as_a_tight_one_is(tol):
    for seed in range(6):
        tokens = np.random.default_rng(seed).integers(0, 2, size=(6, 4))
        demos = Demonstrations(np.zeros((6, 0), int), tokens, vocab_size=2)
        report = ChunkKR(2, norm_bound=0.36, tol=tol).fit(demos, ARLinearClass(WindowOneHot(2, 2), 5.0)).fit_report_
        assert report.converged and report.gap <= tol


@given(seed=st.integers(0, 10_000), rank=st.integers(1, 3))
@examples(10)
def test_every_low_rank_gives_a_policy(seed, rank):
    rng = np.random.default_rng(seed)
    demos = Demonstrations(np.zeros((6, 0), int), rng.integers(0, 2, size=(6, 3)), vocab_size=2)
    fit = ChunkKR(int(rng.integers(1, 4)), norm_bound=1.0, low_rank=rank).fit(
        demos, ARLinearClass(WindowOneHot(2, 1), 5.0)
    )
    everything = all_sequences(2, 3)
    log_probs = fit.policy_.log_probs(np.zeros((8, 0), int), everything).sum(axis=1)
    assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-9)
    if rank == 1:  # all that is left of the space is the constant
        assert np.allclose(log_probs, -3 * np.log(2))


# == parts =============================================================================================================


def random_points(seed, n=3, length=2, dimension=3, draws=4, blind=False):
    """Random features in the unit ball at every node (or token: blind to the chunk), and a few strings drawn after
    every prefix."""
    rng = np.random.default_rng(seed)
    tree = []
    for t in range(length):
        u = rng.normal(size=(n, 1 if blind else 2**t, dimension))
        u = u / np.linalg.norm(u, axis=2, keepdims=True) * rng.random((n, u.shape[1], 1))
        tree.append(np.repeat(u, 2**t // u.shape[1], axis=1))
    weights = rng.multinomial(draws, np.full(2**length, 0.5**length), size=n).astype(float)
    return ChunkPoints(length, tree, weights / weights.sum(), {}, n, 1)


# -- features ----------------------------------------------------------------------------------------------------------


def test_both_last_tokens_are_one_prefix_in_a_class_of_flips():
    reader = PrefixReader(FlipSign())
    contexts, _ = reader.distinct(np.array([[0], [1]]), np.zeros((2, 0), int))
    tree, order = canonical_order(reader.tree(contexts, 3))
    assert len(set(tree_keys(tree))) == 1
    # a renamed string spells flips: after a 1, "no flip" three times is 111 = 7; after a 0 it is 000
    assert order[:, 0].tolist() == [0, 7]
    assert sorted(order[1].tolist()) == list(range(8))


def test_trees_are_the_same_by_states_and_by_prefix(rng):
    by_states = WindowOneHot(2, 2)
    whole = CallableFeatures(by_states.context, 2, by_states.n_context)
    prompts, tokens = rng.integers(2, size=(6, 1)), rng.integers(2, size=(6, 3))
    trees = []
    for features in (by_states, whole):
        reader = PrefixReader(features)
        assert (reader.states is None) == (features is whole)
        contexts, inverse = reader.distinct(prompts, tokens)
        trees.append([level[inverse] for level in reader.tree(contexts, 3)])
    for one, two in zip(*trees):
        assert np.array_equal(one, two)


# -- kernel ------------------------------------------------------------------------------------------------------------


def test_log_kernel_is_the_product_over_tokens():
    points = random_points(0, n=2, length=3)
    log_kernel = log_chunk_kernel(points.tree, sequence_features(points.tree, np.arange(16)))
    for i, j in itertools.product(range(16), repeat=2):
        product = 1.0
        for t in range(3):
            v, w = ((2 * ((x % 8 >> (2 - t)) & 1) - 1) * points.tree[t][x // 8, (x % 8) >> (3 - t)] for x in (i, j))
            product /= 1 - v @ w / 2
        assert math.exp(log_kernel[i, j]) == pytest.approx(product, rel=1e-12)


def test_log_products_at_twelve_tokens_stay_in_their_range():
    seen = KernelRange()
    tree = [np.ones((1, 2**t, 1)) for t in range(12)]
    log_chunk_kernel(tree, sequence_features(tree, np.array([0, 1, 4095])), seen)
    assert seen.low == pytest.approx(12 * math.log(2 / 3), rel=1e-12)
    assert seen.high == pytest.approx(12 * math.log(2), rel=1e-12)


# -- coordinates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3])
def test_eigen_coordinates_reproduce_the_gram_matrix(length):
    points = random_points(1, n=4, length=length)
    embedding = eigen_embedding(points)
    gram = gram_matrix(points)
    assert np.abs(embedding.phi @ embedding.phi.T - gram).max() < 1e-7 * gram.max()
    assert np.allclose(embedding.phi.T @ embedding.phi, np.diag(embedding.eigenvalues), atol=1e-8 * gram.max())
    assert embedding.condition == pytest.approx(np.linalg.cond(gram), rel=1e-5)


def test_full_cholesky_equals_the_gram_matrix_and_low_rank_reports_what_it_leaves_out():
    points = random_points(2, n=5, length=2)
    gram = gram_matrix(points)
    whole = cholesky_embedding(points, points.n_points + 1)
    assert np.abs(whole.phi @ whole.phi.T - gram).max() < 1e-7 and whole.trace_error < 1e-8
    part = cholesky_embedding(points, 6)
    missing = gram - part.phi @ part.phi.T
    assert part.rank == 6
    assert part.trace_error == pytest.approx(np.trace(missing) / np.trace(gram), abs=1e-9)
    assert np.linalg.eigvalsh(missing).min() > -1e-9  # a subset of the space, with its norms


MAPS = [
    FlipSign(),
    WindowOneHot(2, 3),
    WindowOneHot(2, 7, bias=False),
    OffsetsOneHot(2, [-1, -3]),
    Position(2, 8),
    PromptFeatures(2, 3),
    EpisodeBits(2),
    ByPosition(WindowOneHot(2, 2), 8),
    PairwiseProducts(WindowOneHot(2, 3)),
    Concatenated([WindowOneHot(2, 2), Position(2, 8)]),
    PrefixSigns(2, 3, 8, degree=3),
]


def counted(prompts, tokens):
    """The share of ones: neither an indicator of a token nor a sign."""
    share = (prompts.sum(axis=1) + tokens.sum(axis=1)) / 32
    return np.stack([0.7 + 0 * share, share], axis=1)


COUNTED = CallableFeatures(counted, 2, 2)


def drawn_points(features, chunk, starts=(0, 2), seed=0, n=6):
    """Points of chunks at some places of random sequences, after prompts of three."""
    rng = np.random.default_rng(seed)
    demos = Demonstrations(rng.integers(2, size=(n, 3)), rng.integers(2, size=(n, 8)), vocab_size=2)
    places = [slice(start, start + chunk) for start in starts]
    return collect_points(demos, PrefixReader(features), places, max_points=None)


@pytest.mark.parametrize("starts", [(2,), (0, 2)])
@pytest.mark.parametrize("features", [*MAPS, COUNTED], ids=lambda features: type(features).__name__)
def test_a_kernel_is_stationary_if_its_matrix_is(features, starts):
    """Renaming all strings by the same exclusive or leaves the Gram matrix as it is, or it does not."""
    points = drawn_points(features, 4, starts)
    gram, strings = gram_matrix(points).reshape(points.n_prefixes, 16, points.n_prefixes, 16), np.arange(16)
    moved = max(np.abs(gram[:, strings ^ by][:, :, :, strings ^ by] - gram).max() for by in strings)
    assert points.stationary == (
        features is not COUNTED and (len(starts) == 1 or not isinstance(features, PrefixSigns))
    )
    assert moved < 1e-12 if points.stationary else moved > 1e-3


def test_random_features_are_not_stationary_unless_blind_to_the_chunk():
    assert random_points(7, blind=True).stationary and not random_points(7).stationary


PLACES = [(1, 5, 1), (3, 4, 2), (6, 3, 1), (4, 1, 3)]  # n, K, d


@pytest.mark.parametrize("made", [*PLACES, *MAPS], ids=str)
def test_walsh_coordinates_are_those_of_the_gram_matrix(made):
    if isinstance(made, tuple):
        n, length, d = made
        points, beyond = (random_points(seed, k, length, d, blind=True) for seed, k in ((7, n), (8, 3)))
    else:
        starts = (2,) if isinstance(made, PrefixSigns) else (0, 2)
        points, beyond = drawn_points(made, 4, starts), drawn_points(made, 4, (0, 4), seed=1)
    embedding, whole, gram = walsh_embedding(points), eigen_embedding(points), gram_matrix(points)
    phi = embedding.matrix()
    assert np.abs(phi @ phi.T - gram).max() < 1e-12 * gram.max() or embedding.rank < points.n_points
    assert np.abs(phi @ phi.T - gram).max() < 1e-7 * gram.max()
    assert np.allclose(phi.T @ phi, np.diag(embedding.eigenvalues), atol=1e-8 * gram.max())
    assert embedding.condition == pytest.approx(whole.condition, rel=1e-5)
    assert embedding.trace_error == pytest.approx(whole.trace_error, abs=1e-12)
    assert (embedding.kernel.low, embedding.kernel.high) == pytest.approx((whole.kernel.low, whole.kernel.high))
    rng = np.random.default_rng(0)
    c, values = rng.normal(size=embedding.rank), rng.normal(size=points.n_points)
    assert np.allclose(embedding.phi @ c, phi @ c, atol=1e-12) and np.allclose(embedding.phi.T @ values, phi.T @ values)
    # elsewhere: kernel coefficients a of values G a, by each embedding's own coordinates
    coefficients = rng.normal(size=points.n_points)
    at = [one.expansion(one.matrix().T @ coefficients)(beyond.tree) for one in (embedding, whole)]
    assert np.abs(at[0] - at[1]).max() < 1e-6 * np.abs(at[1]).max()


def test_a_kernel_that_is_stationary_between_the_data_alone_is_summed_beyond_them():
    """Features that look into the chunk after some prefixes, none of them in the data."""

    def looks(prompts, tokens):
        u = COUNTED.context(prompts, tokens)
        u[:, 1] = np.where(prompts[:, 0] == 1, u[:, 1], 0.3)
        return u

    reader = PrefixReader(CallableFeatures(looks, 2, 2))
    demos = Demonstrations(np.zeros((5, 1), int), all_sequences(2, 3)[:5], vocab_size=2)
    points = collect_points(demos, reader, [slice(0, 3)], max_points=None)
    assert points.stationary
    beyond = reader.tree((np.array([[0], [1]]), np.zeros((2, 0), int)), 3)
    assert not random_points(0).stationary
    at = [
        one.expansion(one.matrix().T @ points.weights.ravel())(beyond)
        for one in (walsh_embedding(points), eigen_embedding(points))
    ]
    assert np.allclose(*at, atol=1e-9)


# the law of one pooled prefix after 16 tokens, 24 after 10, and 200 after 6
@pytest.mark.parametrize(("n", "chunk"), [(1, 16), (24, 10), (200, 6)])
def test_long_chunks_of_windows_are_fitted_whole(n, chunk):
    """Certified, and the function is that law where the kernel is summed directly, point by point."""
    rng = np.random.default_rng(0)
    prompts = np.repeat((rng.choice(2**11, size=n, replace=False)[:, None] >> np.arange(11)) & 1, 20, axis=0)
    tokens = (rng.random((len(prompts), chunk)) < 0.8).astype(int)
    points = collect_points(
        Demonstrations(prompts, tokens, vocab_size=2),
        PrefixReader(WindowOneHot(2, 11)),
        [slice(0, chunk)],
        max_points=None,
    )
    assert points.n_prefixes == n and points.stationary
    embedding, radius = walsh_embedding(points), 0.6**chunk
    assert embedding.rank == points.n_points and embedding.trace_error == 0
    found = solve_admm(embedding, points.weights, radius, tol=1e-6, max_iterations=5000)
    assert found.acceptable(1e-6) and found.certificate.log_likelihood > -chunk * math.log(2) + 0.1
    expansion = embedding.expansion(found.c)
    kernel_sums = walsh(expansion.coefficients.T).ravel()
    at = rng.choice(points.n_points, size=20, replace=False)
    at[:10] = rng.choice(np.flatnonzero(points.weights), size=10)
    columns = np.exp(log_chunk_kernel(points.tree, sequence_features(points.tree, at)))
    assert np.allclose(kernel_sums @ columns, found.law.ravel()[at], rtol=0, atol=1.1e-6)
    values = (embedding.phi @ found.c).reshape(found.law.shape)
    assert kernel_sums @ values.ravel() == pytest.approx(found.c @ found.c, rel=1e-6)  # a' G a, the norm squared
    assert found.c @ found.c <= radius**2 * (1 + 1e-12)


@pytest.mark.parametrize("window", [None, 2, 4])
@pytest.mark.parametrize("chunk", [3, 6])
def test_a_fit_by_walsh_transforms_is_the_fit_of_the_gram_matrix(chunk, window, monkeypatch, rng, tmp_path):
    task = make_task("Contamination", horizon=6, eps=0.1)
    demonstrations = collect(task, 30, rng)
    policy_class = task.policy_class if window is None else ARLinearClass(WindowOneHot(2, window), 4.0)
    fits = []
    for small in (1024, 0):
        monkeypatch.setattr("agents.chunk_kr.agent.SMALL_POINTS", small)
        fits.append(ChunkKR(chunk, norm_bound=1.0, tol=1e-8).fit(demonstrations, policy_class))
    methods = [{program["method"] for program in fit.fit_report_.details["programs"]} for fit in fits]
    assert methods == [{"eigen"}, {"walsh"}]
    assert fits[0].fit_report_.objective == pytest.approx(fits[1].fit_report_.objective, abs=2e-8)
    assert distance(fits[0].policy_, fits[1].policy_, task).values[-1] < 1e-7
    fits[1].save(tmp_path / "fit.npz")
    again = ChunkKR.load(tmp_path / "fit.npz").policy_
    prompts = np.zeros((2**6, task.prompt_length), int)
    log_probs = [policy.log_probs(prompts, all_sequences(2, 6)) for policy in (fits[1].policy_, again)]
    assert np.array_equal(*log_probs)
    ours = brute_hellinger2(task, fits[1].policy_)
    assert ours == pytest.approx(distance(task.expert, fits[1].policy_, task).values[-1], abs=1e-10)


def test_many_points_are_refused_and_sooner_where_the_kernel_is_not_stationary():
    task = make_task("Contamination", horizon=17)
    points = collect_points(task.population(chunk=16), PrefixReader(FlipSign()), [slice(0, 16)], max_points=None)
    assert points.n_points == 2**16
    with pytest.raises(NotTractableError, match="max_points=65536"):
        ChunkKR(17).fit(task.population(chunk=17), task.policy_class)
    with pytest.raises(NotTractableError, match="max_points=1000"):
        ChunkKR(10, max_points=1000).fit(task.population(chunk=10), task.policy_class)
    demos = Demonstrations(np.zeros((1, 3), int), np.zeros((1, 16), int), vocab_size=2)
    with pytest.raises(NotTractableError, match="max_points=50000"):
        ChunkKR(16).fit(demos, ARLinearClass(COUNTED, 2.0))


@pytest.mark.parametrize(
    ("embed", "blind"),
    [(eigen_embedding, False), (lambda points: cholesky_embedding(points, 8), False), (walsh_embedding, True)],
)
def test_expansion_gives_the_same_values_as_the_coordinates(embed, blind):
    points = random_points(3, n=4, length=2, blind=blind)
    embedding = embed(points)
    c = np.random.default_rng(0).normal(size=embedding.rank)
    values = embedding.expansion(c)(points.tree)
    assert np.allclose(values.ravel(), embedding.phi @ c, atol=1e-9)


@pytest.mark.parametrize("embed", [eigen_embedding, walsh_embedding, lambda points: cholesky_embedding(points, 5)])
def test_the_constant_function_is_kept_with_norm_at_most_one(embed):
    """Many prefixes in one dimension: most eigenvalues are dropped, and the uniform law must stay feasible."""
    rng = np.random.default_rng(4)
    points = ChunkPoints(1, [rng.uniform(0.1, 1.0, size=(40, 1, 1))], np.full((40, 2), 1 / 80), {}, 40, 1)
    embedding = embed(points)
    c = np.linalg.lstsq(embedding.matrix(), np.ones(80), rcond=1e-13)[0]
    assert np.abs(embedding.phi @ c - 1).max() < 1e-7
    assert np.linalg.norm(c) <= 1 + 1e-6


# -- likelihood step ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), size=st.integers(2, 6))
@examples(40)
def test_likelihood_step_satisfies_its_optimality_conditions(seed, size):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(3, size)) * 10.0 ** rng.uniform(-1, 2)
    weights = rng.random((3, size)) * 10.0 ** rng.uniform(-4, 1, size=(3, size)) * (rng.random((3, size)) < 0.7)
    z, slopes = likelihood_prox(points, weights)
    assert np.allclose(z.sum(axis=1), 1) and (z[weights > 0] > 0).all() and (z >= 0).all()
    assert ((slopes >= 0) & (slopes <= 1)).all()
    for p, w, row in zip(points, weights, z):
        pull = (
            np.where(w > 0, w / np.where(w > 0, row, 1), 0) + p - row
        )  # equal to nu on the support, at most nu off it
        inside = row > 1e-6
        nu = pull[inside].mean()
        scale = 1e-6 * (1 + np.abs(p).max() + np.abs(pull[inside]).max())
        assert np.abs(pull[inside] - nu).max() < scale
        assert (pull[(w == 0) & (row == 0)] <= nu + scale).all()


# -- the game and its certificate --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), length=st.integers(1, 2), radius=st.sampled_from([0.6, 1.0, 3.0]))
@examples(8)
@example(seed=320, length=2, radius=0.6)  # the law of the data lies inside: all multipliers vanish
@example(seed=15, length=2, radius=0.6)
@example(seed=50, length=1, radius=3.0)
def test_over_a_convex_class_the_rho_game_is_won_by_maximum_likelihood(seed, length, radius):
    """Fact 1: an independent search finds no reply to the maximum-likelihood law; to another law it finds one."""
    points = random_points(seed, n=2, length=length)
    embedding = eigen_embedding(points)
    best = solve_admm(embedding, points.weights, radius, tol=1e-9, max_iterations=5000)
    assert best.certificate.gap <= 1e-9 and best.infeasibility <= 1e-9 and best.acceptable(1e-9)
    found, _ = best_reply(
        points.weights, best.law, embedding.phi, radius, rng=np.random.default_rng(seed), starts=2, steps=8
    )
    assert found <= best.certificate.gap + 1e-6
    uniform = np.full_like(best.law, 0.5**length)
    lead = best.certificate.log_likelihood - math.log(0.5**length)
    if lead > 1e-3:  # a law of lower likelihood loses: f* is a reply with F > 0 on the way to it
        along = [game_value(points.weights, uniform, (1 - t) * uniform + t * best.law) for t in (0.1, 1.0)]
        assert max(along) > 0


@pytest.mark.slow
def test_the_certificate_bounds_every_reply_to_a_poor_law():
    for seed in range(4):
        points = random_points(seed, n=2, length=2)
        embedding = eigen_embedding(points)
        best = solve_admm(embedding, points.weights, 1.0, tol=1e-9, max_iterations=5000)
        rough = solve_admm(embedding, points.weights, 1.0, tol=1e-9, max_iterations=10)
        uniform = np.full_like(best.law, 0.25)
        at = np.linalg.lstsq(embedding.phi, uniform.ravel())[0]
        for law, c, dual in ((uniform, at, best.dual), (uniform, at, rough.dual), (uniform, at, 0 * rough.dual)):
            certificate = certify(points.weights, law, embedding.phi, c, 1.0, dual)
            found, _ = best_reply(
                points.weights, law, embedding.phi, 1.0, rng=np.random.default_rng(seed), starts=2, steps=8
            )
            lead = best.certificate.log_likelihood - certificate.log_likelihood
            assert 0 < found <= min(certificate.gap, certificate.linear) + 1e-9
            assert lead <= certificate.gap + 1e-9
            assert certificate.upper_bound >= best.certificate.log_likelihood - 1e-9


def test_admm_finds_the_likelihood_that_slsqp_finds():
    for seed, radius in ((0, 0.5), (1, 0.8), (2, 2.0)):
        points = random_points(seed, n=2, length=2)
        embedding = eigen_embedding(points)
        ours = solve_admm(embedding, points.weights, radius, tol=1e-9, max_iterations=5000)
        phi, w = embedding.phi, points.weights.ravel()
        rows = phi.reshape(2, 4, -1).sum(axis=1)
        theirs = minimize(
            lambda c, phi=phi, w=w: -(w[w > 0] @ np.log(np.maximum(phi[w > 0] @ c, 1e-12))),
            np.linalg.lstsq(phi, np.full(8, 0.25))[0],
            constraints=[
                {"type": "ineq", "fun": lambda c, phi=phi: phi @ c},
                {"type": "eq", "fun": lambda c, rows=rows: rows @ c - 1},
                {"type": "ineq", "fun": lambda c, radius=radius: radius**2 - c @ c},
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert ours.certificate.log_likelihood == pytest.approx(-theirs.fun, abs=1e-6)


def test_newton_steps_finish_what_first_order_steps_cannot():
    """Many prefixes, few coordinates: the sums of the rows nearly determine the function."""
    rng = np.random.default_rng(0)
    tree = [rng.normal(size=(30, 1, 2)), rng.normal(size=(30, 2, 2))]
    tree = [level / (1e-9 + np.linalg.norm(level, axis=2, keepdims=True)) * 0.3 for level in tree]
    weights = rng.multinomial(3, np.full(4, 0.25), size=30).astype(float)
    points = ChunkPoints(2, tree, weights / weights.sum(), {}, 30, 1)
    embedding = eigen_embedding(points)
    short = solve_admm(embedding, points.weights, 1.0, tol=1e-8, max_iterations=400)
    whole = solve_admm(embedding, points.weights, 1.0, tol=1e-8, max_iterations=5000)
    assert embedding.rank < 120 and whole.acceptable(1e-8)
    assert max(whole.certificate.gap, whole.infeasibility) <= max(short.certificate.gap, short.infeasibility)


@pytest.mark.slow
def test_gda_is_certified_and_its_gap_is_true():
    points = random_points(5, n=2, length=1)
    embedding = eigen_embedding(points)
    best = solve_admm(embedding, points.weights, 1.0, tol=1e-9, max_iterations=5000)
    literal = solve_gda(embedding, points.weights, 1.0, tol=1e-9, max_iterations=20)
    lead = best.certificate.log_likelihood - literal.certificate.log_likelihood
    assert -1e-8 <= lead <= literal.certificate.gap + 1e-9
    found, _ = best_reply(points.weights, literal.law, embedding.phi, 1.0, rng=np.random.default_rng(0))
    assert found <= literal.certificate.gap + 1e-9
    assert literal.projection_seconds > 0


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-9])
def test_a_solution_is_feasible_however_loose_the_tolerance(tol):
    for seed in range(6):
        points = random_points(seed, n=2, length=2)
        found = solve_admm(eigen_embedding(points), points.weights, 0.6, tol=tol, max_iterations=5000)
        assert found.acceptable(tol)
        assert found.certificate.gap <= tol and found.infeasibility <= min(tol, 1e-5)


def test_a_single_coordinate_is_the_constant_function():
    points = random_points(7, n=3, length=2)
    expansion = cholesky_embedding(points, 1).expansion(np.array([0.25]))
    assert np.allclose(np.abs(expansion(points.tree)), 0.25)


# == projection ========================================================================================================


def random_problem(seed, n, bits, extra, radius):
    """A point and coordinates in which the constant function is the first one: uniform rows are feasible."""
    rng = np.random.default_rng(seed)
    size = 2**bits
    rank = max(2, min(n * size, n + extra))
    phi = rng.normal(size=(n * size, rank))
    phi[:, 0] = 1.0
    point = rng.normal(size=rank) * rng.choice([0.1, 1.0, 5.0])
    return point, phi, size, {"tight": 1.2 / size, "middle": 0.5 + 1.0 / size, "none": np.inf}[radius]


def slsqp(point, phi, size, radius):
    rows = phi.reshape(-1, size, phi.shape[1]).sum(axis=1)
    constraints = [
        {"type": "ineq", "fun": lambda c: phi @ c, "jac": lambda c: phi},
        {"type": "eq", "fun": lambda c: rows @ c - 1.0, "jac": lambda c: rows},
    ]
    if np.isfinite(radius):
        constraints.append({"type": "ineq", "fun": lambda c: radius**2 - c @ c, "jac": lambda c: -2.0 * c})
    start = np.zeros(len(point))
    start[0] = 1.0 / size
    return minimize(
        lambda c: 0.5 * np.square(c - point).sum(),
        start,
        jac=lambda c: c - point,
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-16},
    )


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 3),
    bits=st.integers(1, 3),
    extra=st.integers(0, 12),
    radius=st.sampled_from(["tight", "middle", "none"]),
)
@example(seed=6086, n=1, bits=3, extra=7, radius="middle")
@examples(60)
def test_projection_agrees_with_slsqp(seed, n, bits, extra, radius):
    point, phi, size, ball = random_problem(seed, n, bits, extra, radius)
    ours = project_onto_ball_and_simplices(point, phi, size, ball)
    theirs = slsqp(point, phi, size, ball)
    assert ours.converged
    f = (phi @ ours.point).reshape(-1, size)
    assert f.min() > -1e-8 and np.abs(f.sum(axis=1) - 1).max() < 1e-8
    assert np.linalg.norm(ours.point) <= ball * (1 + 1e-12)
    # never farther than theirs, once it is drawn into the ball towards the uniform rows: it leaves by up to 1e-7,
    # which at this distance from the point looks like being nearer
    uniform = np.eye(len(point))[0] / size
    step = theirs.x - uniform
    a, b, c = step @ step, uniform @ step, uniform @ uniform - ball**2
    inside = uniform + min(1.0, (np.sqrt(b * b - a * c) - b) / max(a, 1e-300)) * step if np.isfinite(ball) else theirs.x
    assert np.linalg.norm(ours.point - point) <= np.linalg.norm(inside - point) + 1e-8
    if theirs.success:
        assert np.abs(ours.point - theirs.x).max() < 1e-7


@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), bits=st.integers(1, 3))
@examples(30)
def test_projection_satisfies_the_variational_inequality(seed, n, bits):
    """<x - P x, y - P x> <= 0 for feasible y: what it is to be the nearest point of a convex set."""
    point, phi, size, ball = random_problem(seed, n, bits, 12, "middle")
    nearest = project_onto_ball_and_simplices(point, phi, size, ball).point
    rng = np.random.default_rng(seed + 1)
    for _ in range(5):
        other = project_onto_ball_and_simplices(rng.normal(size=len(point)), phi, size, ball).point
        assert (point - nearest) @ (other - nearest) <= 1e-7 * (1 + np.linalg.norm(point))


def test_without_ball_and_with_unit_coordinates_it_is_the_simplex_projection(rng):
    rows = rng.normal(size=(6, 4))
    found = project_onto_ball_and_simplices(rows.ravel(), np.eye(24), 4).point.reshape(6, 4)
    assert np.allclose(found, project_onto_simplex(rows), atol=1e-9)


def test_simplex_projection_agrees_with_slsqp(rng):
    for row in rng.normal(size=(5, 6)) * 2:
        best = minimize(
            lambda z, row=row: np.square(z - row).sum(),
            np.full(6, 1 / 6),
            bounds=[(0, None)] * 6,
            constraints={"type": "eq", "fun": lambda z: z.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert np.allclose(project_onto_simplex(row[None]), best.x, atol=1e-6)


def test_too_small_a_ball_is_refused_with_the_smallest_radius():
    # two strings, one prefix, f = c: the shortest probability vector is (1/2, 1/2)
    with pytest.raises(ValueError, match=r"radius=0.5 is too small.*0\.70710"):
        project_onto_ball_and_simplices([1.0, 0.0], np.eye(2), 2, 0.5)
    assert smallest_feasible_norm(np.eye(2), 2) == pytest.approx(np.sqrt(0.5), abs=1e-8)
