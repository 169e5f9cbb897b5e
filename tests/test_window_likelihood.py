"""Maximum likelihood of large token windows, on places of features: against dense evaluation and other solvers."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import approx_fprime
from scipy.special import log_softmax

from agents import ChunkedRhoBC, ClippedRatioBC, ConvergenceWarning, LogLossBC, RhoEstimatorBC, SmoothedLogLossBC
from agents import linear_rows as indicator_rows
from agents.ball import newton_cg_in_ball
from agents.fit_class import fit_class
from agents.linear_likelihood import SmoothedLoss, maximum_likelihood
from agents.linear_rows import IndicatorRows, check_dimension, distinct_rows, is_large
from agents.targets import Targets
from ntp_envs import ARLinearClass, ARLinearPolicy, Demonstrations, NotTractableError
from ntp_envs.features import CallableFeatures, FlipSign, WindowOneHot

QUICK = examples(20)


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(indicator_rows, "DENSE_DIMENSION", 0)


def draw(features, seed=0, n=60, horizon=6, prompt_length=1, size=6.0):
    """Sequences from a member with random weights of the given norm."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=features.dimension)
    prompts = rng.integers(0, features.vocab_size, (n, prompt_length))
    policy = ARLinearPolicy(features, theta * (size / np.linalg.norm(theta)))
    return Demonstrations(prompts, policy.sample(prompts, horizon, rng), vocab_size=features.vocab_size)


def written_out(features, demos):
    """``(n H, A, d)`` joint features, from the definition: nothing but one-hot vectors."""
    rows = []
    for prompt, tokens in zip(demos.prompts, demos.tokens):
        for h in range(len(tokens)):
            seen = [*prompt, *tokens[:h]]
            u = np.zeros(features.n_context)
            if features.bias:
                u[0] = 1.0
            for lag, token in enumerate(reversed(seen[-features.width :] if features.width else [])):
                u[features.bias + lag * features.vocab_size + token] = 1.0
            u /= np.sqrt(features.width + features.bias)
            rows.append(np.kron(np.eye(features.vocab_size), u))
    return np.array(rows)


def dense_loss(features, demos, law):
    """theta -> the mean log-loss of a sequence, by matrix products with all features."""
    joint, answers = written_out(features, demos), demos.tokens.ravel()
    per_token = np.repeat(law, demos.tokens.shape[1])
    return lambda theta: -float(per_token @ log_softmax(joint @ theta, axis=1)[np.arange(len(answers)), answers])


@QUICK
@given(
    seed=st.integers(0, 10**6),
    vocab_size=st.integers(3, 5),
    width=st.integers(0, 3),
    bias=st.booleans(),
    prompt_length=st.integers(0, 4),
)
def test_passes_are_the_derivatives_of_the_loss_written_out(seed, vocab_size, width, bias, prompt_length):
    features = WindowOneHot(vocab_size, max(width, 1 - bias), bias)
    demos = draw(features, seed, n=8, horizon=3, prompt_length=prompt_length)
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.ones(len(demos)))
    rows = indicator_rows.indicator_rows(features, Targets.of(demos, law))
    loss = dense_loss(features, demos, law)
    theta, direction = rng.normal(size=(2, features.dimension)) * 2
    value, gradient = rows.loss_and_gradient(theta)
    assert value == pytest.approx(loss(theta), rel=1e-12)
    np.testing.assert_allclose(gradient, approx_fprime(theta, loss, 1e-6), atol=2e-6)
    product = rows.hessian_times(direction)
    diagonal = rows.hessian_diagonal()
    step = 1e-5
    ahead = rows.loss_and_gradient(theta + step * direction)[1]
    behind = rows.loss_and_gradient(theta - step * direction)[1]
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), atol=1e-7)
    rows.loss_and_gradient(theta)
    own = [rows.hessian_times(unit)[i] for i, unit in enumerate(np.eye(features.dimension))]
    np.testing.assert_allclose(diagonal, own, atol=1e-12)


def test_probabilities_that_do_not_fit_are_computed_anew(monkeypatch):
    features = WindowOneHot(4, 2)
    demos = draw(features, n=100)
    kept = indicator_rows.indicator_rows(features, Targets.of(demos))
    monkeypatch.setattr(indicator_rows, "MEMORY_BYTES", 0)
    anew = indicator_rows.indicator_rows(features, Targets.of(demos))
    theta, direction = np.random.default_rng(0).normal(size=(2, features.dimension))
    for rows in (kept, anew):
        rows.loss_and_gradient(theta)
    assert kept._laws and not anew._laws
    np.testing.assert_allclose(anew.hessian_times(direction), kept.hessian_times(direction), atol=1e-14)
    np.testing.assert_allclose(anew.hessian_diagonal(), kept.hessian_diagonal(), atol=1e-14)


@QUICK
@given(seed=st.integers(0, 10**6), base=st.sampled_from([2, 7, 961, 10**6]), width=st.integers(1, 18))
def test_distinct_rows(seed, base, width):
    """However many digits: rows with few values each, so that some are equal, and numbers beyond 62 bits."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, base, size=(3, width))
    rows = values[rng.integers(0, 3, 40)]
    rows[::7, -1] = rng.integers(0, base)
    first, which = distinct_rows(rows, base)
    assert len(first) == len({tuple(row) for row in rows.tolist()})
    np.testing.assert_array_equal(rows[first][which], rows)
    assert all(which[i] not in which[:i] for i in first)


@QUICK
@given(
    seed=st.integers(0, 10**6),
    radius=st.sampled_from([0.5, 5.0, 60.0]),
    vocab_size=st.integers(3, 5),
    width=st.integers(1, 3),
    weighted=st.booleans(),
)
@example(seed=768, radius=5.0, vocab_size=3, width=1, weighted=True)  # the minimum is inside, the way there was not
@example(seed=845056, radius=60.0, vocab_size=5, width=2, weighted=True)
def test_agrees_with_the_dense_newton_and_the_gap_is_a_bound(seed, radius, vocab_size, width, weighted):
    features = WindowOneHot(vocab_size, width)
    demos = draw(features, seed)
    weights = np.random.default_rng(seed).exponential(size=len(demos)) if weighted else None
    _, dense = maximum_likelihood(features, radius, demos, weights=weights, tol=1e-10)
    law = demos.normalised_weights() if weights is None else weights / weights.sum()
    rows = indicator_rows.indicator_rows(features, Targets.of(demos, law))
    fit = newton_cg_in_ball(rows, radius, 1e-9, 60)
    assert fit.gap <= 1e-9 and np.linalg.norm(fit.theta) <= radius * (1 + 1e-12)
    assert fit.loss == pytest.approx(dense_loss(features, demos, law)(fit.theta), rel=1e-12)
    assert abs(fit.loss - dense.objective) <= 1e-9 + 1e-10
    for iterations in (1, 3, 6):  # stopped early, the gap still bounds the excess over a certified lower bound
        early = newton_cg_in_ball(rows, radius, 1e-9, iterations)
        assert early.loss - (dense.objective - dense.gap) <= early.gap + dense.gap + 1e-12
        assert early.loss >= dense.objective - dense.gap - 1e-12


@QUICK
@given(
    seed=st.integers(0, 10**6),
    radius=st.sampled_from([1e-6, 0.01, 1.0, 30.0, 100.0, 300.0, 1000.0]),
    vocab_size=st.integers(3, 6),
    width=st.integers(1, 3),
    n=st.sampled_from([3, 10, 50]),
    horizon=st.sampled_from([2, 5, 10]),
    prompt_length=st.integers(0, 2),
    size=st.sampled_from([0.1, 6.0, 50.0]),
)
@example(seed=480881, radius=300.0, vocab_size=3, width=3, n=3, horizon=10, prompt_length=0, size=6.0)
@example(seed=231372, radius=300.0, vocab_size=5, width=1, n=3, horizon=10, prompt_length=0, size=0.1)
@example(seed=591362, radius=1000.0, vocab_size=3, width=1, n=50, horizon=10, prompt_length=2, size=50.0)
@pytest.mark.slow
def test_few_weighted_sequences_are_fitted_in_balls_of_every_size(**problem):
    check_few_weighted_sequences(**problem)


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        {"seed": 517904, "radius": 300.0, "vocab_size": 6, "width": 3, "n": 10, "horizon": 2, "size": 0.1},
        {"seed": 0, "radius": 1000.0, "vocab_size": 4, "width": 3, "n": 3, "horizon": 10, "size": 0.1},
        {"seed": 377360, "radius": 1000.0, "vocab_size": 5, "width": 3, "n": 3, "horizon": 10, "size": 6.0},
    ],
)
def test_nearly_flat_losses_of_few_weighted_sequences(problem):
    check_few_weighted_sequences(prompt_length=0, **problem)


def check_few_weighted_sequences(seed, radius, vocab_size, width, n, horizon, prompt_length, size):
    """Most are separable, so that the weights grow until the sphere or the tolerance stops them.

    The gap inside the ball is the radius times the gradient's norm: at radius 1000 a gap of 1e-8 asks for a gradient
    of 1e-11, which rounding may leave out of reach (the gap returned then says so).
    """
    features = WindowOneHot(vocab_size, width)
    demos = draw(features, seed, n, horizon, prompt_length, size)
    law = np.random.default_rng(seed).dirichlet(np.ones(n))
    fit = newton_cg_in_ball(indicator_rows.indicator_rows(features, Targets.of(demos, law)), radius, 1e-8, 60)
    assert fit.gap <= (1e-8 if radius < 1000 else 1e-7) and np.linalg.norm(fit.theta) <= radius * (1 + 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the other solver's bound counts, whatever it is
        _, dense = maximum_likelihood(features, radius, demos, weights=law, tol=1e-10)
    assert dense.objective - dense.gap - 1e-12 <= fit.loss <= dense.objective + 1e-8 + 1e-12


def test_log_loss_takes_this_path_by_size():
    features = WindowOneHot(12, 4)
    assert is_large(features) and not is_large(WindowOneHot(12, 3)) and not is_large(WindowOneHot(2, 400))
    demos = draw(features, n=300, horizon=12, size=30.0)
    agent = LogLossBC(tol=1e-6).fit(demos, ARLinearClass(features, 40.0))
    report = agent.fit_report_
    assert report.converged and 0 <= report.gap <= 1e-6
    assert report.details["norm"] == pytest.approx(40.0) and report.details["rows"] < 3600
    policy = agent.policy_
    assert report.objective == pytest.approx(
        -policy.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean(), rel=1e-12
    )


@pytest.mark.slow
def test_the_two_paths_agree_at_mid_size(monkeypatch):
    """d = 588: the certified minima are equal, and so are the laws."""
    features = WindowOneHot(12, 4)
    demos = draw(features, n=300, horizon=12, size=30.0)
    theta, report = maximum_likelihood(features, 40.0, demos, tol=1e-8)
    monkeypatch.setattr(indicator_rows, "DENSE_DIMENSION", 10**6)
    dense_theta, dense = maximum_likelihood(features, 40.0, demos, tol=1e-8)
    assert "multiplier" in report.details and "subset_rows" in dense.details
    assert abs(report.objective - dense.objective) <= 2e-8
    ours, theirs = (ARLinearPolicy(features, t).log_probs(demos.prompts, demos.tokens) for t in (theta, dense_theta))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_agrees_with_scikit_learn(everything_is_large):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = WindowOneHot(4, 2)
    demos = draw(features, n=500, horizon=8, size=4.0)
    theta, report = maximum_likelihood(features, 200.0, demos, tol=1e-10)  # the minimum is inside
    assert report.converged and report.details["norm"] < 100
    rows = features.path(demos.prompts, demos.tokens).reshape(-1, features.n_context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=5000)
        model.fit(rows, demos.tokens.ravel())
    peer = -ARLinearPolicy(features, model.coef_.ravel()).log_probs(demos.prompts, demos.tokens).sum(axis=1).mean()
    assert report.objective == pytest.approx(peer, abs=1e-8)
    laws = ARLinearPolicy(features, theta).forced_log_probs(demos.prompts, demos.tokens).reshape(-1, 4)
    np.testing.assert_allclose(np.exp(laws), model.predict_proba(rows), atol=1e-4)


def test_weights_are_repetitions(everything_is_large):
    features = WindowOneHot(4, 2)
    demos = draw(features, n=30)
    times = np.random.default_rng(1).integers(0, 4, 30)
    repeated = demos.subset(np.repeat(np.arange(30), times))
    theta, _ = maximum_likelihood(features, 5.0, demos, weights=times.astype(float), tol=1e-12)
    same, report = maximum_likelihood(features, 5.0, repeated, tol=1e-12)
    np.testing.assert_allclose(theta, same, atol=1e-6)
    own = Demonstrations(demos.prompts, demos.tokens, vocab_size=4, weights=times.astype(float))
    assert maximum_likelihood(features, 5.0, own, tol=1e-12)[1].objective == pytest.approx(report.objective, abs=1e-10)


@pytest.mark.parametrize("radius", [1.0, 30.0, 1000.0])
def test_separable_data_end_on_the_sphere(everything_is_large, radius):
    """Tokens count up modulo 5: without the ball the weights would run away."""
    prompts = np.arange(5)[:, None]
    demos = Demonstrations(prompts, (prompts + np.arange(1, 9)) % 5, vocab_size=5)
    theta, report = maximum_likelihood(WindowOneHot(5, 2), radius, demos, tol=1e-7)
    assert report.converged and np.isfinite(theta).all() and np.linalg.norm(theta) <= radius * (1 + 1e-12)
    if radius < 1000:
        assert np.linalg.norm(theta) == pytest.approx(radius, rel=1e-6)
    best = ARLinearPolicy(WindowOneHot(5, 2), theta).next_log_probs(prompts, np.empty((5, 0), int)).argmax(axis=1)
    assert best.tolist() == [1, 2, 3, 4, 0]


def test_uniform_data_need_no_step(everything_is_large):
    prompts = np.repeat(np.arange(3), 3)[:, None]
    demos = Demonstrations(prompts, np.tile(np.arange(3), 3)[:, None], vocab_size=3)
    theta, report = maximum_likelihood(WindowOneHot(3, 1), 5.0, demos)
    assert report.objective == pytest.approx(np.log(3)) and report.gap < 1e-8 and np.abs(theta).max() < 1e-6


def test_an_unfinished_fit_says_so(everything_is_large):
    features = WindowOneHot(4, 2)
    with pytest.warns(ConvergenceWarning, match=r"certified gap of .*tol=1e-09.*max_iterations=1.*radius=50"):
        theta, report = maximum_likelihood(features, 50.0, draw(features), tol=1e-9, max_iterations=1)
    assert not report.converged and report.gap > 1e-9 and np.isfinite(theta).all() and report.iterations == 1


def test_an_unattainable_tolerance_ends_by_itself(everything_is_large):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rounding decides whether the gap comes out as zero
        _, report = maximum_likelihood(WindowOneHot(4, 2), 5.0, draw(WindowOneHot(4, 2)), tol=0.0, max_iterations=10**4)
    assert report.gap < 1e-10 and report.iterations < 200


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": 0.0}, ValueError, "radius=0"),
        ({"tol": -1.0}, ValueError, "tol=-1"),
        ({"max_iterations": 0}, ValueError, "max_iterations=0"),
        ({"features": WindowOneHot(4, 1)}, ValueError, "4 tokens, the data 3"),
        ({"weights": [1.0]}, ValueError, r"shape \(1,\)"),
        ({"weights": [np.nan, 1.0]}, ValueError, "finite"),
    ],
)
def test_bad_input(everything_is_large, change, error, message):
    arguments = {"features": WindowOneHot(3, 1), "radius": 1.0, **change}
    demos = Demonstrations(np.zeros((2, 1), int), np.array([[0, 1], [1, 2]]), vocab_size=3)
    with pytest.raises(error, match=message):
        maximum_likelihood(arguments.pop("features"), arguments.pop("radius"), demos, **arguments)


# -- other learners ----------------------------------------------------------------------------------------------------


@QUICK
@given(seed=st.integers(0, 10**6), lam=st.sampled_from([0.01, 0.3, 0.9]))
def test_smoothed_loss_and_its_gradient(seed, lam):
    features = WindowOneHot(4, 2)
    demos = draw(features, seed, n=10)
    dense = SmoothedLoss(features, demos, lam)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indicator_rows, "DENSE_DIMENSION", 0)
        sparse = SmoothedLoss(features, demos, lam)
    assert isinstance(sparse.rows, IndicatorRows) and not isinstance(dense.rows, IndicatorRows)
    theta = 5 * np.random.default_rng(seed).normal(size=features.dimension)
    assert sparse(theta)[0] == pytest.approx(dense(theta)[0], rel=1e-12)
    np.testing.assert_allclose(sparse(theta)[1], dense(theta)[1], atol=1e-12)


def test_smoothed_log_loss_fits_a_large_window(everything_is_large):
    features = WindowOneHot(4, 2)
    agent = SmoothedLogLossBC(0.05, tol=1e-5).fit(draw(features), ARLinearClass(features, 10.0))
    assert agent.fit_report_.converged and agent.fit_report_.details["stationarity"] <= 1e-5


def as_soft(targets):
    """Hard targets as soft ones."""
    return Targets(targets.prompts, targets.tokens, targets.laws(), targets.per_token)


def test_projection_of_soft_labels(everything_is_large, monkeypatch):
    """Forward KL to laws: both paths reach the same divergence."""
    features = WindowOneHot(4, 2)
    demos, teacher = draw(features), ARLinearPolicy(WindowOneHot(4, 3), np.random.default_rng(3).normal(size=52) * 2)
    laws = teacher.forced_log_probs(demos.prompts, demos.tokens)
    labels = Targets(demos.prompts, demos.tokens, laws, np.random.default_rng(4).exponential(size=demos.tokens.shape))
    policy_class = ARLinearClass(features, 8.0)
    _, sparse = fit_class(policy_class, labels, tol=1e-9)
    monkeypatch.setattr(indicator_rows, "DENSE_DIMENSION", 10**6)
    _, dense = fit_class(policy_class, labels, tol=1e-9)
    assert sparse.converged and dense.converged
    assert sparse.objective == pytest.approx(dense.objective, abs=2e-9)
    one_hot = as_soft(Targets.of(demos))
    rows = indicator_rows.indicator_rows(features, one_hot)
    hard = indicator_rows.indicator_rows(features, Targets.of(demos))
    np.testing.assert_allclose(rows.counts.toarray(), hard.counts.toarray(), atol=1e-12)
    np.testing.assert_allclose(rows.totals, hard.totals, atol=1e-12)


WIDE = ARLinearClass(WindowOneHot(60, 4), 100.0)


@pytest.mark.parametrize(
    "agent", [RhoEstimatorBC(), ChunkedRhoBC(2), ClippedRatioBC()], ids=lambda agent: type(agent).__name__
)
def test_learners_that_would_take_hours_refuse(agent):
    rng = np.random.default_rng(0)
    log_probs = np.full((20, 8), -np.log(60))
    tokens = rng.integers(0, 60, (20, 8))
    demos = Demonstrations(np.zeros((20, 1), int), tokens, vocab_size=60, expert_log_probs=log_probs)
    with pytest.raises(NotTractableError, match=r"limited to (2048|8192) weights.*d=14460.*LogLossBC"):
        agent.fit(demos, WIDE)


def test_reverse_projections_and_dense_features_of_that_size_are_refused():
    demos = Demonstrations(np.zeros((2, 1), int), np.zeros((2, 3), int), vocab_size=60)
    with pytest.raises(NotTractableError, match="reverse KL is limited to 8192"):
        fit_class(WIDE, Targets.of(demos), divergence="reverse")
    huge = CallableFeatures(lambda x, a: np.full((len(a), 200), 0.01), 60, 200)
    with pytest.raises(NotTractableError, match=r"maximum likelihood is limited to 8192 weights.*d=12000"):
        maximum_likelihood(huge, 1.0, demos)
    check_dimension(FlipSign(), "anything")


# -- what makes it fast ------------------------------------------------------------------------------------------------


def test_products_in_single_precision_keep_seven_digits():
    features = WindowOneHot(5, 3)
    rows = indicator_rows.indicator_rows(features, Targets.of(draw(features, n=100)))
    theta, direction = np.random.default_rng(0).normal(size=(2, features.dimension))
    rows.loss_and_gradient(3 * theta)
    exact = rows.hessian_times(direction)
    for size in (1.0, 1e-60, 1e60):  # beyond the range of single precision too
        single = rows.hessian_times(size * direction, single=True)
        assert 0 < np.abs(single / size - exact).max() < 1e-6 * np.abs(exact).max()
    assert not rows.hessian_times(0.0 * direction, single=True).any()


def test_the_estimate_of_the_inverse_is_exact_where_laws_do_not_depend_on_the_context(monkeypatch):
    features = WindowOneHot(4, 4)
    rows = indicator_rows.indicator_rows(features, Targets.of(draw(features, n=100)))
    theta = np.zeros((features.vocab_size, features.n_context))
    theta[:, 0] = [0.0, 1.0, -1.0, 3.0]  # the constant's weights
    rows.loss_and_gradient(theta.ravel())
    hessian = np.array([rows.hessian_times(unit) for unit in np.eye(features.dimension)])
    right = np.random.default_rng(0).normal(size=features.dimension)
    for mu in (1e-2, 1.0):
        expected = np.linalg.solve(hessian + mu * np.eye(features.dimension), right)
        np.testing.assert_allclose(rows.inverse(rows.hessian_diagonal())(right, mu), expected, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(indicator_rows, "GRAM_ACTIVE", 6)
    np.testing.assert_allclose(
        rows.inverse(rows.hessian_diagonal())(right, 0.5), right / (np.diag(hessian) + 0.5), rtol=1e-12
    )


def test_a_fit_preconditioned_by_the_diagonal_ends_in_the_same_place(everything_is_large, monkeypatch):
    features = WindowOneHot(4, 4)
    demos = draw(features, n=300)
    found = []
    for limit in (2048, 1):
        monkeypatch.setattr(indicator_rows, "GRAM_LIMIT", limit)
        found.append(maximum_likelihood(features, 40.0, demos, tol=1e-8)[1])
    assert all(report.converged for report in found)
    assert abs(found[0].objective - found[1].objective) <= 2e-8


def test_many_contexts_start_from_a_fit_to_some(everything_is_large, monkeypatch):
    features = WindowOneHot(4, 4)
    demos = draw(features, n=400, horizon=8)
    _, whole = maximum_likelihood(features, 40.0, demos, tol=1e-6)
    assert whole.details["subset_rows"] == 0
    monkeypatch.setattr("agents.linear_likelihood.THINNED_ROWS", 100)
    monkeypatch.setattr("ntp_envs.features.BLOCK_ENTRIES", 1 << 8)  # several blocks
    _, begun = maximum_likelihood(features, 40.0, demos, tol=1e-6)
    assert 0 < begun.details["subset_rows"] <= whole.details["rows"] / 8 + 16
    assert begun.converged and abs(begun.objective - whole.objective) <= 2e-6
    rows = indicator_rows.indicator_rows(features, Targets.of(demos))
    part = rows.thinned(8)
    assert part.totals.sum() == pytest.approx(rows.totals.sum()) and part.n_rows == begun.details["subset_rows"]
    assert sum(counts.sum() for _, counts in part.blocks()) == pytest.approx(rows.totals.sum())
    assert part.loss_and_gradient(np.zeros(features.dimension))[0] == pytest.approx(8 * np.log(4))
