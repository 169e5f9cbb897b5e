"""PathStar: prompts, expert and verifier, what copying reaches, and another implementation of the same questions."""

import math
import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from path_stars import QUICK, found_by_search, read_edges, stars

from ntp_envs import GreedyPolicy, collect
from ntp_envs.features import StarPrompts
from ntp_envs.tasks import CleverHansPolicy, PathStar

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


def test_a_large_sample_is_read_and_answered_in_one_go(rng):
    task = PathStar(5, 5, 30)
    prompts = task.sample_prompts(100_000, rng)
    star, answers = StarPrompts.read(prompts, task.n_edges), task.targets(prompts)
    assert (answers[:, 0] == star.start).all() and (answers[:, -1] == star.goal).all()
    assert task.verify(prompts, answers).all()


# -- the verifier ------------------------------------------------------------------------------------------------------


@QUICK
@given(stars())
def test_the_verifier_accepts_the_expert_at_every_prefix(drawn):
    task, prompts = drawn
    answers = task.targets(prompts)
    for t in range(task.length + 1):
        assert task.verify(prompts, answers[:, :t]).all()


@QUICK
@given(stars())
def test_the_verifier_follows_any_arm_until_its_end(drawn):
    task, prompts = drawn
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
    assert task.verify(prompts, tokens).shape == (20,)
    for policy in (CleverHansPolicy(task), task.best_in_class().policy):
        np.testing.assert_allclose(np.exp(policy.forced_log_probs(prompts, tokens)).sum(axis=2), 1.0)
    assert (np.linalg.norm(task.features.path(prompts, tokens), axis=3) <= 1 + 1e-12).all()


def test_a_node_that_nothing_leads_to_is_its_own_parent():
    task = PathStar(1, 4, 6)  # a chain of three edges: here 4 > 5 is cut off from 0 > 1 and 2 > 1
    prompt = np.array([[0, 1, 6, 4, 5, 6, 2, 1, 8, 0, 1, 7]])
    assert task.targets(prompt).tolist() == [[0, 0, 0, 1]]  # of two edges to 1 the first counts
    assert task.verify(prompt, np.array([[0, 1]])).all()


def test_in_the_environment():
    env = gym.make("ntp/PathStar-v0", degree=2, length=3, nodes=9)
    task = env.unwrapped.task
    env.reset(seed=1)
    for token in task.targets(env.unwrapped.prompt[None])[0]:
        _, reward, terminated, _, _ = env.step(token)
    assert terminated and reward == 1.0
    env.reset(options={"prompt": np.zeros(task.prompt_length, dtype=int)})
    assert env.step(0)[1] == 0.0


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


@pytest.mark.parametrize(("degree", "length", "nodes"), [(2, 5, 20), (5, 5, 21), (7, 7, 50)])
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


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_docstring_for_two_arms_of_five():
    found = [PathStar(degree=2, length=5, hops=h, teacherless=True).class_exact_match for h in range(4)]
    assert found == pytest.approx([1 / 32, 1 / 6, 1 / 2, 1.0])
