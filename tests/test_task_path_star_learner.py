"""What a pointer learner misses of PathStar, exactly: its table, the closed form, the second token, the features."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from path_stars import QUICK, found_by_search, read_edges, stars
from scipy.optimize import minimize

from agents import LogLossBC
from ntp_envs import GreedyPolicy, collect
from ntp_envs.features import PathPointers, StarPrompts
from ntp_envs.tasks import PathStar

MODES = {
    "tf": {},
    "reverse": {"reverse": True},
    "teacherless": {"teacherless": True},
    "both": {"teacherless": True, "reverse": True},
}
#: (mode, d) -> exact match for hops 0, 1 and L - 2, at L = 5: the table of the family
TABLE = {
    ("tf", 2): (0.5, 0.5, 1),
    ("tf", 5): (0.2, 0.2, 1),
    ("reverse", 2): (1, 1, 1),
    ("reverse", 5): (1, 1, 1),
    ("teacherless", 2): (0.031, 0.1667, 1),
    ("teacherless", 5): (0.002, 0.0222, 1),
}


def star(mode, degree, hops, length=5, nodes=None):
    nodes = nodes or max(20, 1 + degree * (length - 1))
    return PathStar(degree, length, nodes, hops=hops, **MODES[mode])


@pytest.mark.parametrize("hops", [0, 1, 3])
@pytest.mark.parametrize(("mode", "degree"), TABLE)
def test_the_table_of_exact_matches(mode, degree, hops):
    """Fitted on the exact population: the probability that a sampled answer is right, the same for every prompt."""
    task = star(mode, degree, hops)
    policy = LogLossBC().fit(task.population(), task.policy_class).policy_
    fresh = collect(task, 200, np.random.default_rng(2))
    right = np.exp(policy.log_probs(fresh.prompts, fresh.tokens).sum(axis=1))
    np.testing.assert_allclose(right, TABLE[mode, degree][[0, 1, 3].index(hops)], rtol=0, atol=0.002)
    np.testing.assert_allclose(right, task.class_exact_match, rtol=1e-4)


@pytest.mark.parametrize("hops", [0, 1, 3])
@pytest.mark.parametrize(("mode", "degree"), TABLE)
def test_the_table_by_sampling_from_a_fit_to_samples(mode, degree, hops):
    task, rng, n = star(mode, degree, hops), np.random.default_rng(5), 4000
    policy = LogLossBC().fit(collect(task, 60, rng), task.policy_class).policy_
    prompts = task.sample_prompts(n, rng)
    free = task.success(prompts, policy.sample(prompts, task.length, rng)).mean()
    p = task.class_exact_match
    assert abs(free - p) <= 4 * math.sqrt(p * (1 - p) / n) + 1e-4 * (p == 1)


def equals_counted(task):
    """The supremum from its definition: one over the candidates whose features equal the right token's, multiplied."""
    demo = collect(task, 1, np.random.default_rng(11))
    path = task.features.path(demo.prompts, demo.tokens)[0]  # (L, A, d)
    result = Fraction(1)
    for h, token in enumerate(demo.tokens[0]):
        result /= int((path[h] == path[h, token]).all(axis=1).sum())
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_the_closed_form_counts_equal_candidates(mode, degree):
    for length in range(2, 8):
        for hops in range(length - 1):
            task = star(mode, degree, hops, length)
            assert task.class_exact_match == pytest.approx(float(equals_counted(task)), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hops", [0, 1, 2])
def test_the_closed_form_for_another_star(mode, hops):
    task = star(mode, 3, hops, length=4)
    expected = {"tf": (1 / 3, 1 / 3, 1), "reverse": (1, 1, 1)}.get(mode, (1 / 9, 1 / 3, 1))[hops]
    report = LogLossBC(tol=1e-6).fit(collect(task, 40, np.random.default_rng(1)), task.policy_class).fit_report_
    assert task.class_exact_match == pytest.approx(expected)
    assert math.exp(-report.objective) == pytest.approx(expected, abs=1e-5)  # the log-loss says it all


@pytest.mark.parametrize("degree", [2, 5])
def test_greedy_decoding_agrees_but_for_two_open_positions_of_one_kind(degree):
    """Between the children and the known ancestors greedy decoding writes the same label twice: never right."""
    rng, n = np.random.default_rng(8), 5000
    for mode, hops, expected in [
        ("tf", 0, 1 / degree),
        ("tf", 1, 1 / degree),
        ("tf", 3, 1.0),
        ("reverse", 0, 1.0),
        ("teacherless", 0, 0.0),
        ("teacherless", 1, 1 / (degree * (2 * degree - 1))),
        ("teacherless", 3, 1.0),
    ]:
        task = star(mode, degree, hops)
        policy = GreedyPolicy(LogLossBC().fit(task.population(), task.policy_class).policy_)
        prompts = task.sample_prompts(n, rng)
        free = policy.sample(prompts, task.length, rng)
        assert abs(task.success(prompts, free).mean() - expected) <= 4 * math.sqrt(expected * (1 - expected) / n)
        if (mode, hops) == ("teacherless", 0):
            np.testing.assert_array_equal(free[:, 2], free[:, 3])


def test_teacherless_inputs_do_not_help_without_hops():
    """Hiding what was written takes the shortcut away and gives nothing in its place."""
    for degree in (2, 3, 5):
        assert star("teacherless", degree, 0).class_exact_match < star("tf", degree, 0).class_exact_match
        for hops in (0, 1, 2):  # the second token is as open as before
            task = star("teacherless", degree, hops)
            policy = LogLossBC().fit(task.population(), task.policy_class).policy_
            law = np.exp(policy.log_probs(*second_tokens(task)))[:, 1]
            np.testing.assert_allclose(law, 1 / degree, rtol=1e-3)


def second_tokens(task, n=20):
    demos = collect(task, n, np.random.default_rng(4))
    return demos.prompts, demos.tokens[:, :2]


@pytest.mark.parametrize("teacherless", [False, True])
@pytest.mark.parametrize("degree", [2, 5])
def test_the_second_token_alone_is_no_easier(degree, teacherless):
    """Log-loss of the second token only, by another optimiser: uniform over the arms without the last hop."""
    for hops in (0, 2, 3):
        task = PathStar(degree, 5, 1 + 4 * degree, hops=hops, teacherless=teacherless)
        prompts, tokens = second_tokens(task)
        phi = task.features.joint(prompts, tokens[:, :1])  # (B, A, d)
        right = phi[np.arange(len(phi)), tokens[:, 1]]

        def loss(theta, phi=phi, right=right):
            logits = phi @ theta
            top = logits.max(axis=1, keepdims=True)
            probs = np.exp(logits - top)
            norm = probs.sum(axis=1, keepdims=True)
            value = (np.log(norm[:, 0]) + top[:, 0] - right @ theta).mean()
            return value, (np.einsum("ba,bad->bd", probs / norm, phi) - right).mean(axis=0)

        found = minimize(loss, np.zeros(task.features.dimension), jac=True, method="L-BFGS-B", options={"ftol": 1e-14})
        policy = task.policy_class.policy(found.x * min(1, task.radius / np.linalg.norm(found.x)))
        law = np.exp(policy.next_log_probs(prompts, tokens[:, :1]))
        arms = StarPrompts.read(prompts, task.n_edges).children(tokens[:, 0], task.vocab_size)
        if hops < 3:
            assert found.fun == pytest.approx(math.log(degree), abs=1e-3)
            np.testing.assert_allclose(law[arms], 1 / degree, atol=1e-3)
        else:
            assert found.fun == pytest.approx(0.0, abs=1e-3)
            assert law[np.arange(len(law)), tokens[:, 1]].min() > 0.999


@QUICK
@given(stars(), st.integers(0, 2**32 - 1))
def test_members_do_not_care_for_labels_or_the_order_of_edges(drawn, seed):
    """So one demonstration is an exact population; and no member tells the arms apart without the last hop."""
    task, prompts = drawn
    theta = np.random.default_rng(seed).normal(size=task.features.dimension)
    policy = task.policy_class.policy(theta)
    tokens = task.targets(prompts)
    log_probs = policy.log_probs(prompts, tokens)
    np.testing.assert_allclose(log_probs, np.repeat(log_probs[:1], len(prompts), axis=0), atol=1e-12)
    one = task.population()
    if not one.exactness.everything:
        assert len(one) == 1 and one.exactness.covers(task.length, task.policy_class)
        np.testing.assert_allclose(policy.log_probs(one.prompts, one.tokens)[0], log_probs[0], atol=1e-12)
    if task.hops < task.length - 2 and not task.reverse:
        arms = StarPrompts.read(prompts, task.n_edges).children(tokens[:, 0], task.vocab_size)
        law = policy.next_log_probs(prompts, tokens[:, :1])[arms].reshape(-1, task.degree)
        np.testing.assert_allclose(law, np.repeat(law[:, :1], task.degree, axis=1), atol=1e-12)


@QUICK
@given(stars(), st.sampled_from([0.5, 3.0, 30.0, 100.0]))
def test_best_in_class_has_a_valid_certificate(drawn, radius):
    task = PathStar(**{**drawn[0].parameters(), "radius": radius})
    best, demos = task.best_in_class(), collect(task, 8, np.random.default_rng(0))
    affinity = np.exp(0.5 * best.policy.log_probs(demos.prompts, demos.tokens).sum(axis=1)).mean()
    assert best.hellinger2 == pytest.approx(2 * (1 - affinity), abs=1e-12)
    assert np.linalg.norm(best.policy.theta) <= radius
    fitted = LogLossBC(tol=1e-4).fit(task.population(), task.policy_class).policy_
    affinity = np.exp(0.5 * fitted.log_probs(demos.prompts, demos.tokens).sum(axis=1)).mean()
    assert 2 * (1 - affinity) >= best.hellinger2 - best.tolerance - 1e-12


@pytest.mark.parametrize("degree", [2, 5])
@pytest.mark.parametrize("mode", MODES)
def test_best_in_class_is_nearly_tight_in_the_default_ball(mode, degree):
    for length in (2, 3, 4, 5):
        for hops in range(length - 1):
            assert star(mode, degree, hops, length).best_in_class().tolerance < 1e-5


# -- the features ------------------------------------------------------------------------------------------------------


@QUICK
@given(stars(), st.integers(0, 2**32 - 1))
def test_features_are_what_they_are_called(drawn, seed):
    """Against the names, from edges read by hand, after arbitrary prefixes."""
    task, prompts = drawn
    rng, phi = np.random.default_rng(seed), task.features
    tokens = rng.integers(task.vocab_size, size=(10, task.length))
    tokens[::2] = task.targets(prompts)[::2]
    path = phi.path(prompts, tokens)
    for h in range(task.length):
        np.testing.assert_array_equal(path[:, h], phi.joint(prompts, tokens[:, :h]))
    edges, start, goal = read_edges(task, prompts[0])
    back = found_by_search(edges, start, goal)[::-1]
    for h in range(task.length):
        previous = None if h == 0 or task.teacherless else tokens[0, h - 1]
        for token in range(task.vocab_size):
            true = {
                "source": token == start,
                "goal": token == goal,
                "child_of_source": (start, token) in edges,
                "child_of_previous": (previous, token) in edges,
                "parent_of_previous": (token, previous) in edges,
                "internal": any(u == token for u, _ in edges) and any(v == token for _, v in edges),
            } | {f"ancestor_{hop}": back[hop] == token for hop in range(1, task.hops + 1)}
            values = np.zeros((task.length, len(phi.names)))
            values[h] = [0.5 * true[name] for name in phi.names]
            np.testing.assert_array_equal(path[0, h, token], values.ravel())


def test_feature_maps_have_an_identity():
    maps = [PathPointers(2, 5, 20, hops, hidden) for hops in (0, 3) for hidden in (False, True)]
    for phi in maps:
        assert pickle.loads(pickle.dumps(phi)) == phi
        assert sum(phi == other for other in maps) == 1
        assert phi.dimension == 5 * (6 + phi.hops) == 5 * len(phi.names)
    assert repr(maps[0]) == "PathPointers(degree=2, length=5, nodes=20, hops=0, teacherless=False)"


def test_features_of_many_prompts_come_in_blocks(rng):
    task = PathStar(5, 5, 21, hops=3)
    demos, seen = collect(task, 3000, rng), 0
    for rows, values in task.features.blocks(demos.prompts, demos.tokens, max_bytes=1 << 24):
        seen += rows.stop - rows.start
        assert values.nbytes <= 1 << 24
        assert values.any(axis=(1, 2, 3)).all()
    assert seen == 3000
