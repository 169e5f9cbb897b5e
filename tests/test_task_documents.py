"""Texts that end early: the family Documents, and what every layer makes of an end token."""

import itertools
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize_scalar

import ntp_envs
from agents import ChunkedRhoBC, LogLossBC, RhoEstimatorBC, SmoothedLogLossBC, TaiLrBC
from agents.rho_linear import ChunkLikelihood
from experiments.evaluation import network_class
from ntp_envs.data import to_d3rlpy, to_imitation
from ntp_envs.features import ByPosition, FlipSign, OffsetsOneHot, WindowOneHot

NO_PROMPT = np.empty((1, 0), dtype=int)


def texts_of(task):
    """Every document and its probability, from hazards alone: a mixture of two geometric laws, cut at H."""
    for words in range(task.horizon + 1):
        ended = words < task.horizon
        law = [
            share * (1 - hazard) ** words * (hazard if ended else 1.0)
            for share, hazard in ((1 - task.eps, task.short), (task.eps, task.long))
        ]
        yield [0] * words + [1] * (task.horizon - words), sum(law)


@examples(30)
@given(
    horizon=st.integers(1, 9),
    eps=st.floats(0.01, 0.99),
    hazards=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).filter(lambda pair: pair[0] < pair[1]),
    members=st.integers(2, 5),
)
def test_closed_forms_are_sums_over_documents(horizon, eps, hazards, members):
    task = ntp_envs.make_task("Documents", horizon=horizon, eps=eps, long=hazards[0], short=hazards[1], members=members)
    documents, law = (np.array(part) for part in zip(*texts_of(task)))
    prompts = np.repeat(NO_PROMPT, len(documents), axis=0)
    assert law.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.exp(task.expert.log_probs(prompts, documents).sum(axis=1)), law, rtol=1e-9)
    theirs = np.exp(task.policy_class.log_probs(prompts, documents).sum(axis=2))  # (members, H + 1)
    hellinger2 = ((np.sqrt(law) - np.sqrt(theirs)) ** 2).sum(axis=1)
    np.testing.assert_allclose(task.member_hellinger2(), hellinger2, rtol=1e-6, atol=1e-13)
    np.testing.assert_allclose(task.member_kl(), (law * np.log(law / theirs)).sum(axis=1), rtol=1e-6, atol=1e-13)
    best = task.best_in_class()
    assert best.hellinger2 == pytest.approx(hellinger2.min(), rel=1e-6, abs=1e-13)
    curve = ntp_envs.distance(task.expert, best.policy, task)
    assert curve.method == "automaton" and curve.final == pytest.approx(best.hellinger2, rel=1e-9, abs=1e-12)
    likeliest = minimize_scalar(  # of all hazards, not only those of the class
        lambda hazard: (
            -sum(
                p * (sum(t == 0 for t in text) * math.log(1 - hazard) + (1 in text) * math.log(hazard))
                for text, p in zip(documents, law)
            )
        ),
        bounds=(1e-6, 1 - 1e-6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert task.log_loss_hazard() == pytest.approx(likeliest.x, abs=1e-6)


@pytest.mark.parametrize("horizon", [4, 16, 64, 256])
def test_fits_of_the_population_are_the_closed_forms(horizon):
    task = ntp_envs.make_task("Documents", horizon=horizon)
    population, best = task.population(), task.best_in_class()
    fit = LogLossBC().fit(population, task.policy_class)
    assert fit.fit_report_.details["index"] == int(np.argmin(task.member_kl()))
    factor = ntp_envs.distance(task.expert, fit.policy_, task).final / best.hellinger2
    assert factor == pytest.approx(task.log_loss_factor(), rel=1e-8)
    hazard = LogLossBC().fit(population, ntp_envs.ended_class(ntp_envs.BernoulliClass(), 1)).policy_.policy.theta
    assert hazard == pytest.approx(task.log_loss_hazard(), rel=1e-9)


def test_the_factor_of_log_loss_grows_until_long_documents_end_and_that_of_rho_does_not():
    tasks = [ntp_envs.make_task("Documents", horizon=horizon) for horizon in (4, 16, 64, 256, 1024)]
    factors = [task.log_loss_factor() for task in tasks]
    assert factors == sorted(factors) and factors[0] == 1.0 and factors[3] > 3 * factors[1]
    assert factors[4] == pytest.approx(factors[3])
    long = tasks[3]
    for agent in (RhoEstimatorBC(), ChunkedRhoBC(256)):
        rho = agent.fit(long.population(), long.policy_class).policy_
        assert ntp_envs.distance(long.expert, rho, long).final < 0.5 * factors[3] * long.best_in_class().hellinger2


# -- what was written, and nothing else, is fitted ---------------------------------------------------------------------


def texts(seed, n=40, horizon=5, vocab_size=3, end=2):
    """Random texts that end with a token of probability 1/3 a step, or are cut."""
    tokens = np.random.default_rng(seed).integers(vocab_size, size=(n, horizon))
    ended = np.logical_or.accumulate(tokens == end, axis=1)
    return ntp_envs.Demonstrations(np.zeros((n, 0), int), np.where(ended, end, tokens), vocab_size, end_token=end)


@examples(20)
@given(seed=st.integers(0, 10**6))
def test_demonstrations_know_their_lengths(seed):
    demos = texts(seed)
    lengths = [next((i + 1 for i, token in enumerate(row) if token == 2), 5) for row in demos.tokens.tolist()]
    assert demos.lengths.tolist() == lengths and demos.written.sum() == sum(lengths)
    assert demos.subset(np.arange(3)).lengths.tolist() == lengths[:3]
    assert demos.pooled().end_token == 2


@examples(10)
@given(seed=st.integers(0, 10**6))
def test_likelihoods_are_those_of_what_was_written(seed):
    """Token counts of a class without memory; the others by the derivative of the loss of the written tokens."""
    demos = texts(seed, vocab_size=2, end=1)
    ends, written = (demos.tokens == 1) & demos.written, demos.written
    if not ends.any() or not (written & ~ends).any():
        return
    for agent in (LogLossBC(), SmoothedLogLossBC(0.0)):
        fit = agent.fit(demos, ntp_envs.EndedClass(ntp_envs.BernoulliClass(), 1))
        share = ends.sum() / written.sum()
        assert fit.policy_.policy.theta == pytest.approx(share)
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert fit.fit_report_.objective == pytest.approx(entropy * demos.lengths.mean())  # nats a text
    linear = LogLossBC().fit(demos, ntp_envs.EndedClass(ntp_envs.ARLinearClass(FlipSign(), 5.0), 1))

    def loss(theta):
        law = ntp_envs.ARLinearClass(FlipSign(), 5.0).policy(np.array([theta])).log_probs(demos.prompts, demos.tokens)
        return -(law * written).sum() / len(demos)

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    assert linear.fit_report_.objective == pytest.approx(best.fun, abs=1e-7)
    trigrams = LogLossBC().fit(demos, ntp_envs.ended_class(ntp_envs.NGramClass(2, 1), 1)).policy_
    assert np.exp(trigrams.next_log_probs(NO_PROMPT, np.empty((1, 0), int)))[0, 1] == pytest.approx(share)


def test_a_finite_class_of_endings_fits_every_learner(rng):
    """Its members are laws of whole texts: log-loss, rho and chunks read them as any other."""
    inside = [ntp_envs.TabularPolicy.random(2, 4, np.random.default_rng(i)) for i in range(4)]
    members = ntp_envs.ended_class(ntp_envs.FiniteClass(inside), 1)
    assert [type(policy) for policy in members] == [ntp_envs.EndedPolicy] * 4 and members.end_token == 1
    tokens = members.policy(2).sample(np.repeat(NO_PROMPT, 3000, axis=0), 4, rng)
    demos = ntp_envs.Demonstrations(np.empty((3000, 0), int), tokens, 2, end_token=1)
    for agent in (LogLossBC(), RhoEstimatorBC(), ChunkedRhoBC(2)):
        assert agent.fit(demos, members).fit_report_.details["index"] == 2
    with pytest.raises(ValueError, match=r"end_token=1, the policy class None: .*ended_class"):
        LogLossBC().fit(demos, ntp_envs.FiniteClass(inside))
    with pytest.raises(TypeError, match=r"cannot fit EndedClass.*ended_class\(FiniteClass"):
        TaiLrBC().fit(demos, ntp_envs.EndedClass(ntp_envs.BernoulliClass(), 1))
    with pytest.raises(TypeError, match=r"cannot fit EndedClass of MarkovClass.*ended_class\(FiniteClass"):
        RhoEstimatorBC().fit(demos, ntp_envs.EndedClass(ntp_envs.MarkovClass(2, 1), 1))


def worst_case(theirs, ours, weights):
    """``max sum w tanh((theirs - ours) / 2)`` over the columns of ``theirs``, for each column of ``ours``."""
    return np.array([(weights @ np.tanh(0.5 * (theirs - one[:, None]))).max() for one in ours.T])


@pytest.mark.parametrize("chunk", [pytest.param(32, marks=pytest.mark.slow), 5])
def test_the_rho_game_of_one_hazard_is_that_of_brute_force(chunk):
    """Hazards of a fine grid, their densities of each chunk from the hazards alone."""
    task = ntp_envs.make_task("Documents", horizon=32, eps=0.2)
    population = task.population()
    grid = 1 / (1 + np.exp(-np.linspace(-6, 6, 400)))
    chosen = ChunkedRhoBC(chunk).fit(population, ntp_envs.EndedClass(ntp_envs.BernoulliClass(0.001), 1))
    linear = ChunkedRhoBC(chunk).fit(
        population, ntp_envs.EndedClass(ntp_envs.ARLinearClass(WindowOneHot(2, 1), 20.0), 1)
    )

    def densities(hazards):
        per_token = np.where(population.tokens[:, :, None] == 1, np.log(hazards), np.log1p(-hazards))
        per_token = per_token * population.written[:, :, None]
        starts = range(0, 32, chunk)
        return np.add.reduceat(per_token, starts, axis=1).reshape(-1, len(hazards))

    weights = np.repeat(population.normalised_weights(), -(-32 // chunk))
    theta = np.array([chosen.policy_.policy.theta])
    value = worst_case(densities(grid), densities(theta), weights)[0]
    assert chosen.fit_report_.objective == pytest.approx(value, abs=1e-4)
    assert value <= worst_case(densities(grid), densities(grid), weights).min() + 1e-6
    assert linear.fit_report_.objective >= 0 and linear.policy_.end == 1
    factor = ntp_envs.distance(task.expert, chosen.policy_, task).final / task.best_in_class().hellinger2
    assert factor < task.log_loss_factor() if chunk == 32 else factor < 10


def test_texts_that_had_ended_before_they_began_say_nothing():
    demos = ntp_envs.Demonstrations(np.ones((3, 1), int), np.ones((3, 4), int), 2, end_token=1)
    features = [FlipSign(), WindowOneHot(2, 1), WindowOneHot(2, 20), OffsetsOneHot(2, (-3, -1))]
    for members in (ntp_envs.BernoulliClass(0.1), *(ntp_envs.ARLinearClass(each, 5.0) for each in features)):
        for agent in (LogLossBC(), RhoEstimatorBC(), ChunkedRhoBC(2)):
            fit = agent.fit(demos, ntp_envs.EndedClass(members, 1))
            assert fit.fit_report_.objective == pytest.approx(0.0, abs=1e-12)
            np.testing.assert_array_equal(fit.policy_.log_probs(demos.prompts, demos.tokens), 0.0)


@pytest.mark.parametrize("chunk", [4, 3])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_rho_game_of_layers_is_that_of_all_their_members(chunk, deterministic, rng):
    def option():
        tables = [rng.dirichlet(np.ones(2), size=2**h) for h in range(4)]
        return ntp_envs.TabularPolicy([np.eye(2)[table.argmax(axis=1)] if deterministic else table for table in tables])

    layers = ntp_envs.ProductClass([[option(), option(), option()] for _ in range(4)])
    members = ntp_envs.FiniteClass(
        [layers.policy(np.array(choice)) for choice in itertools.product(range(3), repeat=4)]
    )
    demos = texts(int(rng.integers(10**6)), horizon=4, vocab_size=2, end=1)
    one = ChunkedRhoBC(chunk).fit(demos, ntp_envs.EndedClass(layers, 1))
    two = ChunkedRhoBC(chunk).fit(demos, ntp_envs.ended_class(members, 1))
    law = lambda agent: agent.policy_.log_probs(demos.prompts, demos.tokens)  # noqa: E731
    if chunk == 4:  # else each chunk of layers is a game of its own
        np.testing.assert_allclose(law(one).sum(axis=1), law(two).sum(axis=1), atol=1e-9)
    if not deterministic:
        assert one.fit_report_.objective <= two.fit_report_.objective + 1e-9


@pytest.mark.parametrize("features", [WindowOneHot(3, 2), ByPosition(WindowOneHot(3, 1), 5)], ids=["shared", "each"])
def test_chunks_of_texts_have_the_densities_of_what_was_written(features, rng):
    """Chunks are merged and reordered, so that sums over them are compared."""
    demos, thetas = texts(3), rng.normal(size=(4, features.dimension))
    likelihood = ChunkLikelihood(features, demos, 2)
    found = likelihood.log_densities(thetas)
    for m, theta in enumerate(thetas):
        policy = ntp_envs.EndedPolicy(ntp_envs.ARLinearClass(features, 100.0).policy(theta), 2)
        log_probs = np.add.reduceat(policy.log_probs(demos.prompts, demos.tokens), [0, 2, 4], axis=1)
        for power in (1, 2, 3):
            assert likelihood.weights @ found[:, m] ** power == pytest.approx((log_probs**power).mean(axis=0).sum())


def test_networks_learn_what_was_written():
    """Of a window of one token: a hazard at the beginning, and another after a word, both known."""
    pytest.importorskip("torch")
    from agents.neural import NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC

    task = ntp_envs.make_task("Documents", horizon=12, eps=0.2)
    population, law = task.population(), np.exp(task.length_law()[0])
    after = law[1:] @ np.minimum(np.arange(1, 13), 11)  # tokens written after a word
    first, later = law[0], law[1:12].sum() / after
    entropy = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    least = entropy(first) + entropy(later) * after
    network = ntp_envs.ended_class(NetworkClass("linear", 2, prompt_length=0, horizon=12, width=2, window=1), 1)
    fit = NeuralBC(steps=150, learning_rate=0.1).fit(population, network)
    assert fit.fit_report_.objective == pytest.approx(least, abs=1e-5)
    hazards = np.exp(fit.policy_.policy.forced_log_probs(NO_PROMPT, np.zeros((1, 12), int)))[0, :, 1]
    np.testing.assert_allclose(hazards, [first, *[later] * 11], atol=1e-3)
    heads = NeuralBC("mtp_k", steps=150, learning_rate=0.1).fit(population, network)
    assert heads.fit_report_.objective == pytest.approx(least, abs=1e-2)

    def distances(policy):
        """Hellinger and total variation, over all texts."""
        theirs = np.exp(policy.log_probs(population.prompts, population.tokens).sum(axis=1))
        assert theirs.sum() == pytest.approx(1.0)
        return 2 - 2 * np.sqrt(law * theirs).sum(), np.maximum(law - theirs, 0).sum()

    known = replace(population, expert_log_probs=task.expert.log_probs(population.prompts, population.tokens))
    options = {"trims": (0.2,), "steps": 50, "learning_rate": 0.05}
    rho = NeuralRhoBC(rounds=1, game_steps=40, tol=1.0, **options).fit(population, network)
    clipped = NeuralClippedRatioBC(beta=1.0, ratio_steps=40, **options).fit(replace(known, exactness=None), network)
    assert type(rho.policy_) is type(clipped.policy_) is ntp_envs.EndedPolicy
    assert distances(rho.policy_)[0] < distances(fit.policy_)[0]
    assert clipped.fit_report_.objective == pytest.approx(distances(clipped.policy_)[1])
    assert distances(clipped.policy_)[1] < distances(fit.policy_)[1]
    named = network_class("linear(width=2, window=1)", task)  # as on the command line
    assert named.members == network.members and named.end_token == 1
    with pytest.raises(TypeError, match="cannot fit EndedClass of BernoulliClass; it takes NetworkClass"):
        NeuralBC().fit(population, ntp_envs.EndedClass(ntp_envs.BernoulliClass(), 1))


@examples(15)
@given(seed=st.integers(0, 10**6), horizon=st.integers(1, 4))
def test_an_ending_policy_is_a_law_of_texts(seed, horizon):
    inside = ntp_envs.TabularPolicy.random(3, horizon, np.random.default_rng(seed))
    policy = ntp_envs.EndedPolicy(inside, 1)
    everything = np.array(list(itertools.product(range(3), repeat=horizon)))
    probabilities = np.exp(policy.log_probs(np.repeat(NO_PROMPT, len(everything), axis=0), everything).sum(axis=1))
    assert probabilities.sum() == pytest.approx(1.0)
    for text, found in zip(everything.tolist(), probabilities):
        length = text.index(1) + 1 if 1 in text else horizon
        whole = all(token == 1 for token in text[length:])
        written = inside.log_probs(NO_PROMPT, np.array([text[:length]])).sum()
        assert found == pytest.approx(math.exp(written) if whole else 0.0)
    drawn = policy.sample(np.repeat(NO_PROMPT, 50, axis=0), horizon, np.random.default_rng(seed))
    ntp_envs.Demonstrations(np.empty((50, 0), int), drawn, 3, end_token=1)  # which checks that ends are ends


# -- environments, wrappers, files and other libraries -----------------------------------------------------------------


def test_an_episode_ends_where_the_text_does():
    env = ntp_envs.TokenEnv("Documents", horizon=5)
    env.reset(seed=0)
    assert env.step(0)[2] is False
    observation, reward, terminated, truncated, _ = env.step(1)
    assert (terminated, truncated) == (True, False) and observation.tolist() == [0, 1, 2, 2, 2]
    assert reward == pytest.approx(env.task.expert.log_probs(NO_PROMPT, np.array([[0, 1]]))[0, 1])
    assert env.tokens.tolist() == [0, 1] and not env.action_masks().any()
    with pytest.raises(gym.error.ResetNeeded, match="has all its 2 tokens"):
        env.step(0)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rollouts_are_whole_texts_however_they_are_recorded(mode, rng):
    """By the state of our environments, by SyncVectorEnv's, and by actions alone where nothing else can be read."""
    task = ntp_envs.make_task("Documents", horizon=5, short=0.4)

    class Elsewhere(gym.Wrapper):  # an environment of somebody else's, of which only actions can be read
        unwrapped = property(lambda self: self)

    n, seen = 6, []
    batches = {
        "native": ntp_envs.TokenVectorEnv(n, task, autoreset_mode=mode),
        "sync": gym.vector.SyncVectorEnv([lambda: ntp_envs.TokenEnv(task)] * n, autoreset_mode=mode),
    }
    for envs in batches.values():
        recorded, policy_rng = ntp_envs.VectorRolloutDistance(envs, policy=task.expert), np.random.default_rng(5)
        observations, _ = recorded.reset(seed=1)
        while recorded.rollouts.finished < 300:
            actions, _ = task.expert.predict(observations, rng=policy_rng)
            observations, _, over, _, _ = recorded.step(actions)
            if mode is AutoresetMode.DISABLED and over.any():
                observations, _ = recorded.reset(options={"reset_mask": over})
        demos = recorded.demonstrations()
        assert demos.end_token == 1 and recorded.rollouts.dropped == 0
        seen.append(demos.tokens[:300].tolist())
        curve = recorded.curve(rng=rng)
        assert (curve.values == 0.0).all()  # the writer is the expert
    assert seen[0] == seen[1]

    single = ntp_envs.RolloutDistance(Elsewhere(ntp_envs.TokenEnv(task)), expert=task)
    for _ in range(20):
        observation, over = single.reset()[0], False
        while not over:
            observation, _, over, _, _ = single.step(task.expert.predict(observation, rng=rng)[0])
    assert single.demonstrations().tokens.shape == (20, 5) and (single.demonstrations().lengths < 5).any()


def test_files_and_other_libraries_get_what_was_written(tmp_path, rng):
    task = ntp_envs.make_task("Documents", horizon=6)
    demos = ntp_envs.collect(task, 30, rng, expert_log_probs=True)
    again = ntp_envs.Demonstrations.load(demos.save(tmp_path / "texts"))
    assert again.end_token == 1 and again.lengths.tolist() == demos.lengths.tolist()
    transitions = to_imitation(demos, form="arrays")
    assert len(transitions["acts"]) == transitions["dones"].size == demos.lengths.sum()
    assert transitions["dones"].sum() == 30 and len(transitions["infos"]) == demos.lengths.sum()
    ends = np.flatnonzero(transitions["dones"])
    assert np.diff(ends, prepend=-1).tolist() == demos.lengths.tolist()
    steps = to_d3rlpy(demos, form="arrays")
    assert len(steps["actions"]) == len(steps["observations"]) == demos.lengths.sum()
    paid = task.expert.log_probs(demos.prompts, demos.tokens)[demos.written]
    np.testing.assert_allclose(steps["rewards"][:, 0], paid, rtol=1e-6)


def test_minari_gives_texts_back(tmp_path, monkeypatch, rng):
    pytest.importorskip("minari")
    data = pytest.importorskip("ntp_envs.data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    demos = ntp_envs.collect(ntp_envs.make_task("Documents", horizon=6), 30, rng, expert_log_probs=True)
    dataset = data.to_minari(demos, "ntp/documents-v0")
    assert [len(episode.actions) for episode in dataset.iterate_episodes()] == demos.lengths.tolist()
    again = data.from_minari("ntp/documents-v0")
    np.testing.assert_array_equal(again.tokens, demos.tokens)
    np.testing.assert_array_equal(again.expert_log_probs, demos.expert_log_probs)
    assert again.end_token == 1


def test_evaluation_and_sampled_distances_take_texts_as_they_are(rng):
    task = ntp_envs.make_task("Documents", horizon=8)
    best = task.best_in_class()
    curve = ntp_envs.distance(task.expert, best.policy, task, method="monte carlo", n=4000, rng=rng)
    exact = ntp_envs.distance(task.expert, best.policy, task)
    assert ((curve.lower <= exact.values) & (exact.values <= curve.upper)).all()
    assert ntp_envs.evaluate(best.policy, task, n=200, rng=rng).n == 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ntp_envs.Demonstrations(NO_PROMPT, np.array([[1, 0]]), 2, end_token=1),
            r"tokens\[0, 1\]=0 follows an end_tok",
        ),
        (lambda: ntp_envs.Demonstrations(NO_PROMPT, np.array([[1, 1]]), 2, end_token=2), r"end_token=2"),
        (lambda: ntp_envs.EndedPolicy(ntp_envs.TabularPolicy.random(2, 2, np.random.default_rng(0)), 5), r"end=5"),
        (lambda: ntp_envs.make_task("Documents", long=0.6), r"long=0.6 must be below short=0.5"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
