"""Games in product classes against enumeration of every joint choice."""

import itertools

import numpy as np
import pytest

from agents import ChunkedRhoBC, ConvergenceWarning, LayerwiseBC, RhoEstimatorBC
from agents import rho as rho_product
from agents.rho import least_union, solve_product_game
from agents.rho_game import rho_tau
from ntp_envs import (
    BernoulliPolicy,
    Demonstrations,
    NotTractableError,
    ProductClass,
    TabularPolicy,
    approximation_factor,
    make_task,
)


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


def draw(rng, n, horizon, vocab_size=2):
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
    demos = draw(rng, 12, horizon)
    game = solve_product_game(policy_class, demos, chunk, tau)
    total = 0.0
    for start in range(0, horizon, chunk):
        stop = min(start + chunk, horizon)
        brute = worst_cases(policy_class, demos, (start, stop), tau)
        total += min(brute.values())
        assert brute[tuple(game.options[start:stop])] == pytest.approx(min(brute.values()), abs=1e-12)
    assert game.value == pytest.approx(total, abs=1e-11)


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
    """C_K = (H / K) (1 - eta (J - k) / J) for K = 2^k at H = 256, eta = .1."""
    task = make_task("ConsistencyGame", horizon=256, eta=0.1)
    population = task.population()
    expected = [230.4, 116.8, 59.2, 30, 15.2, 7.7, 3.9, 1.975, 1]
    for k, factor in enumerate(expected):
        agent = ChunkedRhoBC(2**k).fit(population, task.policy_class)
        assert approximation_factor(task, agent.policy_) == pytest.approx(factor, rel=1e-12)
        assert agent.fit_report_.converged and agent.fit_report_.gap <= 1e-12
    whole = RhoEstimatorBC("psi").fit(population, task.policy_class)
    assert approximation_factor(task, whole.policy_) == pytest.approx(1.0, rel=1e-12)
    layerwise = LayerwiseBC().fit(population, task.policy_class)
    assert approximation_factor(task, layerwise.policy_) == pytest.approx(expected[0], rel=1e-12)


def test_last_chunk_is_shorter():
    rng = np.random.default_rng(1)
    policy_class = random_product(rng, 5, 3)
    demos = draw(rng, 20, 5)
    chunked = solve_product_game(policy_class, demos, 2, "ratio")
    last = worst_cases(policy_class, demos, (4, 5), "ratio")
    assert last[tuple(chunked.options[4:])] == pytest.approx(min(last.values()), abs=1e-12)
    assert chunked.enumerated == 3


def test_refuses_too_many_joint_choices():
    rng = np.random.default_rng(2)
    policy_class = ProductClass([[BernoulliPolicy(t) for t in rng.uniform(0.3, 0.7, size=8)] for _ in range(12)])
    demos = draw(rng, 200, 12)
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
