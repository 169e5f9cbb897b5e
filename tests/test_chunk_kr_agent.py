"""ChunkKR as a learner: the values of the theory, the H/K line, its policies, its report."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import ChunkKR, ConvergenceWarning, LogLossBC
from agents.chunk_kr import agent as agent_module
from agents.chunk_kr.agent import ChunkKRAutomaton, ChunkKRPolicy
from agents.chunk_kr.program import best_reply
from agents.testing import Problem, check_agent
from ntp_envs import BernoulliClass, BernoulliMixturePolicy, Demonstrations, RestartedPolicy, collect, make_task
from ntp_envs.arrays import all_sequences
from ntp_envs.distances import approximation_factor, distance
from ntp_envs.features import CallableFeatures, FlipSign, WindowOneHot
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
def test_noisy_parity_answers(bound):
    """One chunk of one token, the answer, after prompts that hold the bits."""
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
    assert np.square(np.sqrt(learned) - np.sqrt(truth)).sum(axis=1).mean() == pytest.approx(
        PARITY[bound], abs=1e-6 if bound < 8 else 1e-8
    )


@pytest.mark.parametrize("bound", PARITY)
def test_noisy_parity_episodes(bound):
    """A whole episode as a chunk: its law is 1/16 of that of the answer, and so is the norm."""
    task = make_task("NoisyParity", bits=4, subset=(0, 1, 2), noise=0.1)
    agent = ChunkKR(5, norm_bound=bound / 16, tol=1e-9).fit(task.population(), task.policy_class)
    assert distance(task.expert, agent.policy_, task).final == pytest.approx(
        PARITY[bound], abs=1e-6 if bound < 8 else 1e-8
    )


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
