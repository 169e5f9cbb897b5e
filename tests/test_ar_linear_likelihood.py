"""Maximum likelihood in the norm ball: other optimisers as oracles, certificates, pooling, large and bad data."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import approx_fprime, minimize

from agents import ConvergenceWarning
from agents import linear_rows as softmax_rows
from agents.ball import Curvature, certified_gap, minimise_quadratic_in_ball
from agents.linear_likelihood import SmoothedLoss, maximum_likelihood
from agents.linear_rows import SoftmaxRows, rows_of
from agents.targets import Targets
from ntp_envs import ARLinearPolicy, BernoulliClass, Demonstrations, collect, make_task
from ntp_envs.features import (
    CallableFeatures,
    FeatureMap,
    FlipSign,
    IndicatorFeatureMap,
    OffsetsOneHot,
    PairwiseProducts,
    Position,
    WindowOneHot,
)

QUICK = examples(25)


def waves(prompts, tokens):
    """Context features that see the whole prefix: nothing can be pooled."""
    place = 1.0 + np.arange(tokens.shape[1])
    sums = (tokens * np.cos(place)).sum(axis=1), (tokens * np.sin(2 * place)).sum(axis=1)
    return np.column_stack([np.ones(len(tokens)), np.cos(sums[0]), np.sin(sums[1])]) / math.sqrt(3)


class Repeats(FeatureMap):
    """Joint features: is the next token the last one, the one before, and is it token 0?"""

    def __init__(self):
        super().__init__(3, 3)

    def joint(self, prompts, tokens):
        last = np.concatenate([np.full((len(tokens), 2), 3), prompts, tokens], axis=1)[:, -2:]
        same = np.arange(3)[None, :, None] == last[:, None, :]  # (B, A, 2)
        zero = np.broadcast_to(np.array([1, 0, 0])[None, :, None], (len(tokens), 3, 1))
        return np.concatenate([same, zero], axis=2) / math.sqrt(3)


MAPS = [
    WindowOneHot(2, 3),
    WindowOneHot(3, 2),
    PairwiseProducts(WindowOneHot(2, 2)),
    Position(2, 6, wrap=True),
    FlipSign(),
    CallableFeatures(waves, 2, 3),
    CallableFeatures(waves, 4, 3),
    Repeats(),
]


def draw(features, seed=0, n=40, horizon=6):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=features.dimension) * 2
    prompts = rng.integers(0, features.vocab_size, (n, 1))
    return Demonstrations(
        prompts, ARLinearPolicy(features, theta).sample(prompts, horizon, rng), vocab_size=features.vocab_size
    )


def loss_of(features, demos, weights=None):
    """Mean log-loss of a sequence, from the policy alone."""
    law = demos.normalised_weights() if weights is None else weights / weights.sum()

    def loss(theta):
        return -float(law @ ARLinearPolicy(features, theta).log_probs(demos.prompts, demos.tokens).sum(axis=1))

    return loss


@examples(10)
@given(
    index=st.integers(0, len(MAPS) - 1),
    seed=st.integers(0, 10**6),
    radius=st.sampled_from([0.3, 2.0, 30.0]),
    weighted=st.booleans(),
)
def test_agrees_with_slsqp_and_the_gap_is_a_bound(index, seed, radius, weighted):
    features = MAPS[index]
    demos = draw(features, seed)
    weights = np.random.default_rng(seed).exponential(size=len(demos)) if weighted else None
    theta, report = maximum_likelihood(features, radius, demos, weights=weights, tol=1e-9)
    loss = loss_of(features, demos, weights)
    assert report.converged and 0 <= report.gap <= 1e-9 and np.linalg.norm(theta) <= radius * (1 + 1e-12)
    assert report.objective == pytest.approx(loss(theta), rel=1e-12)
    found = minimize(
        loss,
        theta * 0.5,
        method="SLSQP",
        constraints=[{"type": "ineq", "fun": lambda t: radius**2 - t @ t}],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    inside = found.x * min(1.0, radius / max(np.linalg.norm(found.x), 1e-12))
    assert report.objective - report.gap <= loss(inside) + 1e-12  # the certificate
    assert report.objective >= loss(inside) - 1e-5  # ... and SLSQP finds about the same minimum


@pytest.mark.parametrize("vocab_size", [2, 3])
def test_agrees_with_scikit_learn(vocab_size):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = WindowOneHot(vocab_size, 2)
    demos = draw(features, n=400, horizon=8)
    theta, report = maximum_likelihood(features, 50.0, demos, tol=1e-12)
    rows = features.path(demos.prompts, demos.tokens).reshape(-1, features.n_context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=5000)
        model.fit(rows, demos.tokens.ravel())
    peer = loss_of(features, demos)(model.coef_.ravel())
    assert report.objective == pytest.approx(peer, abs=1e-8)
    probs = model.predict_proba(rows).reshape(len(demos), 8, vocab_size)
    ours = np.exp(ARLinearPolicy(features, theta).log_probs(demos.prompts, demos.tokens))
    np.testing.assert_allclose(ours, np.take_along_axis(probs, demos.tokens[:, :, None], axis=2)[:, :, 0], atol=1e-4)


@QUICK
@given(seed=st.integers(0, 10**6), radius=st.floats(0.5, 8.0))
def test_contamination_as_an_ar_linear_class_of_dimension_one(seed, radius):
    task = make_task("Contamination", horizon=12, eps=0.1, p=0.05, q=0.9)
    demos = collect(task, 50, np.random.default_rng(seed))
    theta, _ = maximum_likelihood(FlipSign(), radius, demos, tol=1e-14)
    flips = BernoulliClass(on="flips").events(demos.prompts, demos.tokens).mean()
    expected = np.clip(math.log(flips / (1 - flips)), -radius, radius)
    assert theta[0] == pytest.approx(expected, abs=1e-6)


def test_contamination_population():
    task = make_task("Contamination", horizon=64)
    theta, _ = maximum_likelihood(FlipSign(), 20.0, task.population(), tol=1e-14)
    mean = (1 - task.eps) * task.p + task.eps * task.q
    assert theta[0] == pytest.approx(math.log(mean / (1 - mean)), abs=1e-5)


@pytest.mark.parametrize("features", MAPS, ids=repr)
def test_passes_are_the_loss_its_gradient_and_hessian(features):
    demos = draw(features, n=30)
    weights = np.random.default_rng(1).exponential(size=30)
    weights /= weights.sum()
    rows = rows_of(features, Targets.of(demos, weights))
    theta = np.random.default_rng(2).normal(size=features.dimension)
    loss = loss_of(features, demos, weights)
    assert rows.loss_and_gradient(theta)[0] == pytest.approx(loss(theta), rel=1e-12)
    np.testing.assert_allclose(rows.loss_and_gradient(theta)[1], approx_fprime(theta, loss, 1e-6), atol=1e-5)
    columns = [approx_fprime(theta, lambda t, i=i: rows.loss_and_gradient(t)[1][i], 1e-6) for i in range(len(theta))]
    np.testing.assert_allclose(rows.hessian(theta), columns, atol=1e-5)


@pytest.mark.parametrize(
    "features", [WindowOneHot(2, 3), WindowOneHot(3, 14), CallableFeatures(waves, 2, 3, window=99)]
)
def test_pooled_rows_are_the_same_objective_as_single_tokens(features):
    demos = draw(features, n=60, horizon=5)
    pooled = rows_of(features, Targets.of(demos))
    single = softmax_rows._SequenceRows(features, Targets.of(demos))
    theta = np.random.default_rng(0).normal(size=features.dimension)
    assert pooled.n_rows <= single.n_rows == 300
    if features.window != 99:  # 3^99 contexts have no integer codes: not pooled
        assert pooled.n_rows < 300
    for rows in (single, single.in_memory()):
        assert rows.loss_and_gradient(theta)[0] == pytest.approx(pooled.loss_and_gradient(theta)[0], rel=1e-12)
        np.testing.assert_allclose(rows.loss_and_gradient(theta)[1], pooled.loss_and_gradient(theta)[1], atol=1e-12)
        np.testing.assert_allclose(rows.hessian(theta), pooled.hessian(theta), atol=1e-12)


class Digit(IndicatorFeatureMap):
    """One of ``width`` places, which a sum over the tokens gives; none at the beginning."""

    def __init__(self, width):
        super().__init__(2, width, 1)
        self.width = width

    def active(self, prompts, tokens):
        if not tokens.shape[1]:
            return np.full((len(tokens), 1), self.width, np.int32)
        return (tokens @ np.arange(5, tokens.shape[1] + 5) ** 3 % self.width)[:, None].astype(np.int32)


@pytest.mark.parametrize(
    "features",
    [WindowOneHot(2, 45), WindowOneHot(2, 50, bias=False), OffsetsOneHot(2, range(-60, -10)), Digit(9), Digit(700)],
    ids=repr,
)
@pytest.mark.parametrize("soft", [False, True])
def test_rows_in_digits_are_the_rows_written_out(features, soft, monkeypatch):
    monkeypatch.setattr(softmax_rows, "MANY_ROWS", 1000)
    monkeypatch.setattr(softmax_rows, "PASS_BYTES", 1 << 15)  # several blocks
    rng = np.random.default_rng(3)
    demos = draw(features, n=30, horizon=64)
    weights = rng.exponential(size=30)
    targets = Targets.of(demos, weights / weights.sum())
    if soft:
        law = rng.dirichlet(np.ones(2), targets.shape)
        targets = Targets(targets.prompts, targets.tokens, np.log(law), targets.per_token, None, 2)
    rows, written = rows_of(features, targets), rows_of(features, targets, written_out=True)
    assert isinstance(rows, softmax_rows.DigitRows) == (features != Digit(700))  # more places than a digit has values
    assert written.values is not None and rows.n_rows == written.n_rows == 30 * 64
    for size in (0.0, 2.0, 50.0):
        theta = size * rng.normal(size=features.dimension)
        loss, gradient = written.loss_and_gradient(theta)
        assert rows.loss_and_gradient(theta)[0] == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(rows.loss_and_gradient(theta)[1], gradient, atol=1e-12)
        np.testing.assert_allclose(rows.hessian(theta), written.hessian(theta), atol=1e-12)
    smoothed = SmoothedLoss(features, targets, 0.1)
    loss, gradient = smoothed(theta)
    smoothed.rows = written
    assert loss == pytest.approx(smoothed(theta)[0], rel=1e-12)
    np.testing.assert_allclose(gradient, smoothed(theta)[1], atol=1e-12)


def test_a_fit_in_digits_is_the_fit_written_out(monkeypatch):
    features = WindowOneHot(2, 45)
    demos = draw(features, n=40, horizon=64)
    expected, before = maximum_likelihood(features, 3.0, demos)
    monkeypatch.setattr(softmax_rows, "MANY_ROWS", 1000)
    found, after = maximum_likelihood(features, 3.0, demos)
    assert before.converged and after.converged
    assert after.objective == pytest.approx(before.objective, abs=1e-12 + before.gap + after.gap)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_digits_that_would_not_fit_are_not_kept(monkeypatch):
    monkeypatch.setattr(softmax_rows, "MANY_ROWS", 1000)
    monkeypatch.setattr(softmax_rows, "MEMORY_BYTES", 1 << 10)
    features = WindowOneHot(2, 45)
    assert isinstance(rows_of(features, Targets.of(draw(features, n=30, horizon=64))), softmax_rows._SequenceRows)


def test_features_are_computed_anew_where_they_would_not_fit(monkeypatch):
    features = CallableFeatures(waves, 2, 3)
    demos = draw(features, n=200)
    stored, _ = maximum_likelihood(features, 5.0, demos)
    monkeypatch.setattr(softmax_rows, "MEMORY_BYTES", 100)
    monkeypatch.setattr(softmax_rows, "PASS_BYTES", 1 << 12)
    assert rows_of(features, Targets.of(demos)).values is None
    streamed, report = maximum_likelihood(features, 5.0, demos)
    assert report.converged
    np.testing.assert_allclose(streamed, stored, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_large_data_start_from_a_part(weighted):
    features = CallableFeatures(waves, 2, 3)
    demos = draw(features, n=14_000)
    weights = np.random.default_rng(0).exponential(size=len(demos)) ** 3 if weighted else None
    theta, report = maximum_likelihood(features, 10.0, demos, weights=weights)
    assert report.converged and 0 < report.details["subset_rows"] < report.details["rows"] == 84_000
    loss = loss_of(features, demos, weights)
    rng = np.random.default_rng(1)
    assert all(loss(theta + 1e-3 * rng.normal(size=3)) > report.objective for _ in range(10))


def test_a_large_vocabulary_uses_the_hessian_of_a_part(monkeypatch):
    """With no Hessian of all the data affordable at first, the answer is still certified."""
    monkeypatch.setattr("agents.linear_likelihood.FULL_HESSIAN_WORK", 0.0)
    monkeypatch.setattr("agents.linear_likelihood.SUBSET_ROWS", 500)
    features = CallableFeatures(waves, 4, 3)
    demos = draw(features, n=2000)
    _, report = maximum_likelihood(features, 10.0, demos, tol=1e-9)
    assert report.converged and 0 < report.details["subset_rows"] < 1000
    monkeypatch.undo()
    _, exact = maximum_likelihood(features, 10.0, demos, tol=1e-9)
    assert exact.details["subset_rows"] == 0
    assert report.objective == pytest.approx(exact.objective, abs=2e-9)


@pytest.mark.parametrize("radius", [1.0, 10.0, 100.0])
def test_separable_data_end_on_the_sphere(radius):
    """Every token repeats the prompt: without the ball theta would run away."""
    prompts = np.array([[0], [1]])
    demos = Demonstrations(prompts, np.repeat(prompts, 5, axis=1), vocab_size=2)
    theta, report = maximum_likelihood(FlipSign(), radius, demos)
    assert report.converged and theta[0] < 0
    if radius <= 10:  # at 100 every theta beyond -20 has the same loss to 1e-8
        assert theta[0] == pytest.approx(-radius, rel=1e-6 if radius == 1 else 1e-2)
    assert report.objective == pytest.approx(5 * math.log1p(math.exp(-radius)), abs=1e-8)
    wide, report = maximum_likelihood(WindowOneHot(2, 3), radius, demos)
    assert report.converged and np.linalg.norm(wide) <= radius * (1 + 1e-12)


@QUICK
@given(st.integers(0, 10_000), st.integers(0, len(MAPS) - 1), st.integers(1, 6), st.sampled_from([4.0, 200.0]))
def test_what_the_data_say_nothing_about_stays_zero(seed, index, n, radius):
    """The smallest of equally good thetas: which one is not for the rounding of a processor to decide."""
    features = MAPS[index]
    demonstrations = draw(features, seed, n)
    theta, _ = maximum_likelihood(features, radius, Targets.of(demonstrations), tol=1e-6)
    differences = []
    for h in range(demonstrations.horizon):
        joint = features.joint(demonstrations.prompts, demonstrations.tokens[:, :h])  # (n, A, d)
        differences.append((joint - joint[:, :1]).reshape(-1, features.dimension))
    stacked = np.concatenate(differences)
    _, sizes, rows = np.linalg.svd(stacked, full_matrices=True)
    flat = rows[int((sizes > 1e-10 * sizes.max(initial=1e-300)).sum()) :]
    assert np.abs(flat @ theta).max(initial=0.0) <= 1e-9 * max(1.0, float(np.linalg.norm(theta)))


def test_one_demonstration_and_all_equal_demonstrations():
    for n in (1, 30):
        demos = Demonstrations(np.zeros((n, 0), int), np.tile([[0, 1, 1, 0]], (n, 1)), vocab_size=2)
        theta, report = maximum_likelihood(WindowOneHot(2, 2), 3.0, demos)
        assert report.converged and np.isfinite(theta).all()


def test_zero_weights_leave_their_sequences_out():
    features = WindowOneHot(2, 2)
    demos = draw(features)
    keep = np.arange(len(demos)) < 25
    theta, _ = maximum_likelihood(features, 5.0, demos, weights=keep.astype(float), tol=1e-12)
    part, _ = maximum_likelihood(features, 5.0, demos.subset(keep), tol=1e-12)
    np.testing.assert_allclose(theta, part, atol=1e-6)


def test_an_unfinished_fit_says_so():
    features = WindowOneHot(3, 2)
    demos = draw(features, n=300)
    with pytest.warns(ConvergenceWarning, match=r"certified gap of .*tol=1e-09.*max_iterations=1"):
        theta, report = maximum_likelihood(features, 50.0, demos, tol=1e-9, max_iterations=1)
    assert not report.converged and report.gap > 1e-9 and np.isfinite(theta).all()


# -- the pieces --------------------------------------------------------------------------------------------------------


@QUICK
@given(seed=st.integers(0, 10**6), radius=st.floats(0.01, 5.0), flat=st.booleans())
def test_quadratic_in_a_ball(seed, radius, flat):
    rng = np.random.default_rng(seed)
    root, linear = rng.normal(size=(2 if flat else 6, 4)), rng.normal(size=4)
    matrix = root.T @ root
    w, mu = minimise_quadratic_in_ball(Curvature.of(np.zeros(4), matrix, exact=True), linear, radius)
    assert np.linalg.norm(w) <= radius * (1 + 1e-12) and mu >= 0
    value = 0.5 * w @ matrix @ w + linear @ w
    points = rng.normal(size=(500, 4))
    points *= radius * rng.random((500, 1)) ** 0.25 / np.linalg.norm(points, axis=1, keepdims=True)
    others = 0.5 * np.einsum("ni,ij,nj->n", points, matrix, points) + points @ linear
    assert value <= others.min() + 1e-9
    if mu > 0:  # stationary on the sphere
        np.testing.assert_allclose(matrix @ w + linear, -mu * w, atol=1e-6 * max(1, mu * radius))


@QUICK
@given(seed=st.integers(0, 10**6), index=st.integers(0, len(MAPS) - 1), radius=st.floats(0.2, 10.0))
def test_both_bounds_hold_anywhere_in_the_ball(seed, index, radius):
    features = MAPS[index]
    demos = draw(features, seed)
    rows = rows_of(features, Targets.of(demos))
    _, report = maximum_likelihood(features, radius, demos, tol=1e-10)
    rng = np.random.default_rng(seed)
    theta, centre = rng.normal(size=(2, features.dimension))
    theta *= radius * rng.random() / np.linalg.norm(theta)
    loss, gradient = rows.loss_and_gradient(theta)
    first = certified_gap(theta, gradient, radius, features.spread, None)
    near = theta + 0.1 * centre / np.linalg.norm(centre)
    for at in (theta, near):
        curvature = Curvature.of(at, rows.hessian(at), exact=True)
        bound = certified_gap(theta, gradient, radius, features.spread, curvature)
        assert loss - (report.objective - report.gap) >= 0
        assert first + 1e-12 >= bound >= loss - report.objective - 1e-9


def test_an_estimated_hessian_is_not_used_as_a_certificate():
    theta, gradient = np.zeros(2), np.array([1e-3, 0.0])
    guess = Curvature.of(theta, np.eye(2), exact=False)
    assert certified_gap(theta, gradient, 2.0, 1.0, guess) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": 0.0}, ValueError, "radius=0"),
        ({"radius": np.inf}, ValueError, "radius=inf"),
        ({"tol": -1.0}, ValueError, "tol=-1"),
        ({"max_iterations": 0}, ValueError, "max_iterations=0"),
        ({"features": "window"}, TypeError, "FeatureMap"),
        ({"features": WindowOneHot(3, 1)}, ValueError, "3 tokens, the data 2"),
        ({"weights": [1.0]}, ValueError, r"shape \(1,\)"),
        ({"weights": [-1.0, 2.0]}, ValueError, "non-negative"),
        ({"weights": [0.0, 0.0]}, ValueError, "not all zero"),
        ({"weights": [np.nan, 1.0]}, ValueError, "finite"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"features": FlipSign(), "radius": 1.0, **change}
    demos = Demonstrations(np.zeros((2, 1), int), np.array([[0, 1], [1, 1]]), vocab_size=2)
    with pytest.raises(error, match=message):
        maximum_likelihood(arguments.pop("features"), arguments.pop("radius"), demos, **arguments)


class Broken(WindowOneHot):
    """NaN after two tokens, and not through `CallableFeatures`, which would notice by itself."""

    def path(self, prompts, tokens):
        out = super().path(prompts, tokens)
        out[:, 2:] = np.nan
        return out

    def states(self):
        return None

    def codes(self, prompts, tokens):
        return None


def test_features_that_are_not_finite_are_named():
    demos = Demonstrations(np.zeros((2, 1), int), np.array([[0, 1, 0], [1, 1, 0]]), vocab_size=2)
    with pytest.raises(ValueError, match="not finite"):
        maximum_likelihood(Broken(2, 1), 1.0, demos)
    with pytest.raises(ValueError, match="not finite"):
        maximum_likelihood(CallableFeatures(lambda x, a: np.full((len(a), 1), np.nan), 2, 1), 1.0, demos)


def test_rows_without_features_need_their_own_blocks():
    with pytest.raises(NotImplementedError, match="blocks"):
        next(SoftmaxRows(FlipSign(), None, None).blocks())
