"""PathStar: prompts, expert and verifier, what copying and a pointer learner reach, another implementation."""

import math
import pickle
import tracemalloc
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import minimize

from agents import LogLossBC
from ntp_envs import GreedyPolicy, collect
from ntp_envs.features import PathPointers, StarPrompts
from ntp_envs.tasks import CleverHansPolicy, PathStar

QUICK = examples(30)


@st.composite
def stars(draw):
    """Any small task, with ten of its prompts."""
    degree, length = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    task = PathStar(
        degree,
        length,
        1 + degree * (length - 1) + draw(st.integers(0 if degree * length > 2 else 1, 6)),
        reverse=draw(st.booleans()),
        hops=draw(st.integers(0, length - 2)),
        teacherless=draw(st.booleans()),
    )
    return task, task.sample_prompts(10, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


def read_edges(task, prompt):
    """Edges, start and goal of one prompt, read by its symbols as a person would."""
    listing, question = task.decode(prompt).split(" / ")
    edges = [tuple(map(int, edge.split())) for edge in listing.split(" | ")]
    start, goal, equals = question.split()
    assert equals == "="
    return edges, int(start), int(goal)


def found_by_search(edges, start, goal):
    """The path from start to goal, by depth-first search from the start."""
    children = {}
    for u, v in edges:
        children.setdefault(u, []).append(v)
    paths = [[start]]
    while paths:
        path = paths.pop()
        if path[-1] == goal:
            return path
        paths += [[*path, v] for v in children.get(path[-1], [])]
    raise AssertionError("no path")


# -- prompts and answers -----------------------------------------------------------------------------------------------


@QUICK
@given(stars())
def test_a_prompt_encodes_a_star_and_the_expert_finds_the_path(drawn):
    task, prompts = drawn
    answers = task.targets(prompts)
    assert prompts.shape == (10, task.prompt_length) and answers.shape == (10, task.length)
    assert prompts.dtype == answers.dtype == np.int64
    for prompt, answer in zip(prompts, answers):
        edges, start, goal = read_edges(task, prompt)
        tails, heads = zip(*edges)
        assert len(edges) == task.degree * (task.length - 1)
        assert len({*tails, *heads}) == 1 + len(edges) == task.n_labels and max(*tails, *heads) < task.nodes
        assert len(set(heads)) == len(edges) and start not in heads  # one way to every node but the start
        assert tails.count(start) == task.degree
        assert all(tails.count(v) <= 1 for v in heads)
        leaves = [v for v in heads if v not in tails]
        assert goal in leaves and len(leaves) == task.degree
        assert all(len(found_by_search(edges, start, leaf)) == task.length for leaf in leaves)
        path = found_by_search(edges, start, goal)
        assert answer.tolist() == (path[::-1] if task.reverse else path)
    assert (task.success(prompts, answers) == 1).all()


def test_reverse_flips_the_answer_and_nothing_else(rng):
    ahead, back = PathStar(3, 4), PathStar(3, 4, reverse=True)
    prompts = ahead.sample_prompts(50, np.random.default_rng(1))
    np.testing.assert_array_equal(prompts, back.sample_prompts(50, np.random.default_rng(1)))
    np.testing.assert_array_equal(ahead.targets(prompts), back.targets(prompts)[:, ::-1])


def test_prompts_drawn_together_or_one_by_one_are_the_same():
    task, one_by_one = PathStar(), np.random.default_rng(3)
    together = task.sample_prompts(7, np.random.default_rng(3))
    np.testing.assert_array_equal(together, np.concatenate([task.sample_prompts(1, one_by_one) for _ in range(7)]))


def test_labels_and_the_place_of_the_goal_s_edge_are_uniform(rng):
    """Neither a label nor a place in the prompt says anything of the answer (chi-squared, p > 1e-4)."""
    from scipy.stats import chisquare

    task, n = PathStar(2, 3, 6), 20_000
    prompts = task.sample_prompts(n, rng)
    star, second = StarPrompts.read(prompts, task.n_edges), task.targets(prompts)[:, 1]
    place = (star.heads == second[:, None]).argmax(axis=1)
    assert chisquare(np.bincount(place, minlength=task.n_edges)).pvalue > 1e-4
    other = np.where((star.tails == star.start[:, None]) & (star.heads != second[:, None]), star.heads, -1).max(axis=1)
    pairs = np.bincount(second * 6 + other, minlength=36)
    assert chisquare(pairs[~np.eye(6, dtype=bool).ravel()]).pvalue > 1e-4


@pytest.mark.parametrize(("degree", "length", "nodes", "count"), [(1, 2, 2, 2), (2, 3, 5, 2880), (3, 2, 5, 360)])
def test_the_prompt_law_lists_every_prompt_once(degree, length, nodes, count, rng):
    task = PathStar(degree, length, nodes)
    prompts, law = task.prompt_law()
    assert len(prompts) == len({tuple(row) for row in prompts.tolist()}) == count
    np.testing.assert_allclose(law, 1 / count)
    drawn = {tuple(row) for row in task.sample_prompts(30 * count, rng).tolist()}
    assert drawn == {tuple(row) for row in prompts.tolist()}  # each is missed with probability e^-30


# -- the verifier ------------------------------------------------------------------------------------------------------


@QUICK
@given(stars())
def test_the_verifier_accepts_the_expert_and_follows_any_arm_until_its_end(drawn):
    task, prompts = drawn
    answers = task.targets(prompts)
    for t in range(task.length + 1):
        assert task.verify(prompts, answers[:, :t]).all()
    for prompt in prompts:
        edges, start, goal = read_edges(task, prompt)
        for leaf in {v for _, v in edges} - {u for u, _ in edges}:
            arm = found_by_search(edges, start, leaf)
            if not task.reverse:
                for t in range(task.length):
                    assert task.verify(prompt[None], np.array([arm[:t]], dtype=int)).all()
                assert task.verify(prompt[None], np.array([arm])).item() == (leaf == goal)
            else:  # backwards, the first node already says which arm it is
                assert task.verify(prompt[None], np.array([arm[:0:-1]])).item() == (leaf == goal)


@QUICK
@given(stars(), st.integers(0, 2**32 - 1))
def test_the_verifier_refuses_every_other_token(drawn, seed):
    """After any accepted prefix the accepted tokens are the neighbours; complete sequences pass where they succeed."""
    task, prompts = drawn
    prompt, rng = prompts[:1], np.random.default_rng(seed)
    edges, start, goal = read_edges(task, prompt[0])
    first, last = (goal, start) if task.reverse else (start, goal)
    steps = {(v, u) for u, v in edges} if task.reverse else set(edges)
    written = []
    for position in range(task.length):
        allowed = {first} if position == 0 else {v for u, v in steps if u == written[-1]}
        if position == task.length - 1:
            allowed &= {last}
        every = np.array([[*written, token] for token in range(task.vocab_size)])
        good = task.verify(np.repeat(prompt, len(every), axis=0), every)
        assert set(np.flatnonzero(good)) == allowed
        if not allowed:
            break
        written.append(int(rng.choice(sorted(allowed))))
    random = rng.integers(task.nodes, size=(10, task.length))
    random[::2] = CleverHansPolicy(task).sample(prompts[::2], task.length, rng)
    np.testing.assert_array_equal(task.verify(prompts, random), task.success(prompts, random) == 1)


def test_decoded_it_reads_like_the_question():
    task = PathStar(2, 2, 4)
    assert task.decode(np.array([3, 0, 4, 3, 1, 6, 3, 1, 5])) == "3 0 | 3 1 / 3 1 ="
    assert task.decode(np.array([7, 2])) == "$ 2"
    assert task.decode(np.array([], dtype=int)) == ""


# -- any prompt --------------------------------------------------------------------------------------------------------


@QUICK
@given(stars(), st.integers(0, 2**32 - 1))
def test_prompts_that_are_no_stars_are_answered_all_the_same(drawn, seed):
    task, rng = drawn[0], np.random.default_rng(seed)
    prompts = rng.integers(task.vocab_size, size=(20, task.prompt_length))
    tokens = rng.integers(task.vocab_size, size=(20, task.length))
    answers = task.expert.sample(prompts, task.length, rng)
    assert answers.min() >= 0 and answers.max() < task.vocab_size
    for prompt in prompts.tolist():
        edges = [tuple(prompt[3 * i : 3 * i + 2][:: -1 if task.reverse else 1]) for i in range(task.n_edges)]
        first, last = prompt[-3:-1][:: -1 if task.reverse else 1]
        walk = [first]
        while len(walk) < task.length:  # along edges, most of the time
            onward = [v for u, v in edges if u == walk[-1]]
            walk.append(int(rng.choice(onward) if onward and rng.random() < 0.9 else rng.integers(task.vocab_size)))
        for t in range(1, task.length + 1):
            good = all(step in edges for step in pairwise(walk[:t])) and (t < task.length or walk[-1] == last)
            assert task.verify(np.array([prompt]), np.array([walk[:t]])).item() == good
    for policy in (CleverHansPolicy(task), task.best_in_class().policy):
        np.testing.assert_allclose(np.exp(policy.forced_log_probs(prompts, tokens)).sum(axis=2), 1.0)
    assert (np.linalg.norm(task.features.path(prompts, tokens), axis=3) <= 1 + 1e-12).all()


def test_a_node_that_nothing_leads_to_is_its_own_parent():
    task = PathStar(1, 4, 6)  # a chain of three edges: here 4 > 5 is cut off from 0 > 1 and 2 > 1
    prompt = np.array([[0, 1, 6, 4, 5, 6, 2, 1, 8, 0, 1, 7]])
    assert task.targets(prompt).tolist() == [[0, 0, 0, 1]]  # of two edges to 1 the first counts
    assert task.verify(prompt, np.array([[0, 1]])).all()


# -- copying -----------------------------------------------------------------------------------------------------------
SMALL = [(2, 3, 5), (3, 2, 5), (2, 2, 4), (1, 4, 4)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("degree", "length", "nodes"), SMALL)
def test_clever_hans_exactly_over_all_prompts(degree, length, nodes, reverse):
    task = PathStar(degree, length, nodes, reverse=reverse)
    hans, everything = CleverHansPolicy(task), task.population()
    assert everything.exactness.everything
    log_probs = hans.log_probs(everything.prompts, everything.tokens)
    weights = everything.normalised_weights()
    np.testing.assert_allclose(weights @ np.exp(log_probs), hans.forced_accuracy, atol=1e-12)
    assert weights @ np.exp(log_probs.sum(axis=1)) == pytest.approx(hans.exact_match, abs=1e-12)
    assert -(weights @ log_probs).mean() == pytest.approx(hans.cross_entropy, abs=1e-12)
    greedy = GreedyPolicy(hans)
    guessed = np.exp(greedy.log_probs(everything.prompts, everything.tokens))  # 1 where the smallest child is right
    np.testing.assert_allclose(weights @ guessed, hans.forced_accuracy, atol=1e-12)
    free = greedy.sample(everything.prompts, length, np.random.default_rng(0))
    assert weights @ task.success(everything.prompts, free) == pytest.approx(hans.exact_match, abs=1e-12)


@pytest.mark.parametrize(
    ("degree", "length", "nodes"),
    [pytest.param(2, 5, 20, marks=pytest.mark.slow), (5, 5, 21), pytest.param(7, 7, 50, marks=pytest.mark.slow)],
)
def test_clever_hans_by_sampling(degree, length, nodes, rng):
    task, n = PathStar(degree, length, nodes), 20_000
    hans, demos = CleverHansPolicy(task), collect(task, 20_000, rng)
    expected = np.ones(length)
    expected[1] = 1 / degree
    np.testing.assert_array_equal(hans.forced_accuracy, expected)
    assert hans.cross_entropy == pytest.approx(math.log(degree) / length)
    slack = 4 * math.sqrt((1 - 1 / degree) / degree / n)
    free = hans.sample(demos.prompts, length, rng)
    assert abs(task.success(demos.prompts, free).mean() - 1 / degree) <= slack
    forced = hans.forced_log_probs(demos.prompts, demos.tokens).argmax(axis=2) == demos.tokens
    assert (np.abs(forced.mean(axis=0) - expected) <= slack).all()
    assert forced[:, [0, *range(2, length)]].all()
    assert task.verify(demos.prompts, free[:, :-1]).all()  # it breaks no local rule before the end


def test_clever_hans_away_from_the_star():
    """After a leaf or a symbol there is nothing to copy: any token."""
    task = PathStar(2, 3, 6)
    prompt = task.sample_prompts(1, np.random.default_rng(0))
    leaf = task.targets(prompt)[:, -1:]
    for written in (leaf, np.array([[6]])):
        np.testing.assert_allclose(CleverHansPolicy(task).next_log_probs(prompt, written), -math.log(10))
    with pytest.raises(ValueError, match="at most 3 tokens"):
        CleverHansPolicy(task).next_log_probs(prompt, np.zeros((1, 3), dtype=int))
    copy = pickle.loads(pickle.dumps(CleverHansPolicy(task)))
    np.testing.assert_array_equal(
        copy.next_log_probs(prompt, leaf), CleverHansPolicy(task).next_log_probs(prompt, leaf)
    )


# -- another implementation --------------------------------------------------------------------------------------------


def their_entries(**config):
    reasoning_gym = pytest.importorskip("reasoning_gym")
    return reasoning_gym.create_dataset("path_star", size=40, seed=3, **config)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("degree", "length"), [(2, 5), (5, 4), (3, 3)])
def test_reasoning_gym_agrees(degree, length, reverse, rng):
    """Its questions in our tokens: the same answers; its scores and ours agree on right and wrong answers."""
    arms = length - 1  # its path length does not count the source
    data = their_entries(
        degree=degree, node_range=degree * length + 3, min_path_length=arms, max_path_length=arms, reversed=reverse
    )
    task = PathStar(degree, length, degree * length + 3, reverse=reverse)
    prompts = []
    for i in range(len(data)):
        listing, question = data[i]["question"].strip().splitlines()[-1].split("/")
        ends = question.split("=")[0].split()
        start, goal = ends[::-1] if reverse else ends  # reversed, it also asks in the other order
        words = [*listing.strip("|").replace("|", " | ").split(), "/", start, goal, "="]
        symbols = {symbol: task.nodes + k for k, symbol in enumerate("|=/$")}
        prompts.append([symbols[word] if word in symbols else int(word) for word in words])
    prompts = np.array(prompts)
    right = task.targets(prompts)
    guessed = CleverHansPolicy(PathStar(degree, length, task.nodes)).sample(prompts, length, rng)
    guessed = guessed[:, ::-1] if reverse else guessed
    broken = right.copy()
    broken[:, 1] = right[:, 0]
    for answers in (right, guessed, broken):
        scores = [data.score_answer(task.decode(answer), data[i]) for i, answer in enumerate(answers)]
        np.testing.assert_array_equal(scores, task.success(prompts, answers))
        np.testing.assert_array_equal(scores, task.verify(prompts, answers))
    assert (task.success(prompts, right) == 1).all() and (task.success(prompts, broken) == 0).all()
    assert 0 < task.success(prompts, guessed).mean() < 1
    for i, answer in enumerate(right):
        assert task.decode(answer) == data[i]["answer"]


# -- what a pointer learner misses -------------------------------------------------------------------------------------


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
    task, rng, n = star(mode, degree, hops), np.random.default_rng(5), 1500
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
    rng, n = np.random.default_rng(8), 2000
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


@pytest.mark.parametrize(
    "task", [PathStar(2, 5, hops=3), PathStar(3, 4, reverse=True), PathStar(2, 5, teacherless=True)]
)
def test_laws_of_members_are_those_of_the_features_written_out(task, rng, monkeypatch):
    demos = collect(task, 60, rng)
    policy = task.policy_class.policy(rng.normal(size=task.features.dimension))
    expected = policy.features.log_probs(policy.theta, task.features.path(demos.prompts, demos.tokens))
    monkeypatch.setattr("ntp_envs.features.BLOCK_BYTES", 1 << 16)  # several blocks
    np.testing.assert_allclose(policy.forced_log_probs(demos.prompts, demos.tokens), expected, rtol=0, atol=1e-13)
    for h in range(task.length):
        law = policy.next_log_probs(demos.prompts, demos.tokens[:, :h])
        np.testing.assert_allclose(law, expected[:, h], rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="no feature for position"):
        policy.features.next_log_probs(policy.theta, demos.prompts, demos.tokens)


def test_a_member_writes_no_features_of_other_positions(rng):
    task = PathStar(2, 64)
    policy, prompts = task.best_in_class().policy, task.sample_prompts(200, rng)
    tracemalloc.start()
    policy.sample(prompts, task.length, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * task.vocab_size * task.features.dimension * 8 / 8  # all positions' features at one step: 80 MB
