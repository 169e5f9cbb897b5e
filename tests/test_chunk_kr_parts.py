"""Parts of ChunkKR: features and pooling, kernel, coordinates, likelihood step, certificates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize

from agents.chunk_kr.program import best_reply, certify, game_value, likelihood_prox
from agents.chunk_kr.solvers import solve_admm, solve_gda
from agents.chunk_kr.space import (
    ChunkPoints,
    KernelRange,
    PrefixReader,
    canonical_order,
    cholesky_embedding,
    eigen_embedding,
    gram_matrix,
    log_chunk_kernel,
    sequence_features,
    tree_keys,
)
from ntp_envs.features import CallableFeatures, FlipSign, WindowOneHot


def random_points(seed, n=3, length=2, dimension=3, draws=4):
    """Random features in the unit ball at every node, and a few strings drawn after every prefix."""
    rng = np.random.default_rng(seed)
    tree = []
    for t in range(length):
        u = rng.normal(size=(n, 2**t, dimension))
        tree.append(u / np.linalg.norm(u, axis=2, keepdims=True) * rng.random((n, 2**t, 1)))
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


@pytest.mark.parametrize("embed", [eigen_embedding, lambda points: cholesky_embedding(points, 8)])
def test_expansion_gives_the_same_values_as_the_coordinates(embed):
    points = random_points(3, n=4, length=2)
    embedding = embed(points)
    c = np.random.default_rng(0).normal(size=embedding.rank)
    values = embedding.expansion(c)(points.tree)
    assert np.allclose(values.ravel(), embedding.phi @ c, atol=1e-9)


@pytest.mark.parametrize("embed", [eigen_embedding, lambda points: cholesky_embedding(points, 5)])
def test_the_constant_function_is_kept_with_norm_at_most_one(embed):
    """Many prefixes in one dimension: most eigenvalues are dropped, and the uniform law must stay feasible."""
    rng = np.random.default_rng(4)
    points = ChunkPoints(1, [rng.uniform(0.1, 1.0, size=(40, 1, 1))], np.full((40, 2), 1 / 80), {}, 40, 1)
    embedding = embed(points)
    c = np.linalg.lstsq(embedding.phi, np.ones(80), rcond=1e-13)[0]
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
@examples(25)
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
