"""ConsistencyGame and HalvingGame: exact factors, the halving bound by simulation, and the class they share."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from agents import LayerwiseBC
from ntp_envs import make_task
from ntp_envs.policy_classes import ErrorSetClass, ProductPolicy
from ntp_envs.tasks import ConsistencyGame, HalvingGame

SETTINGS = examples(30)


def hellinger2_by_sequences(task, policy):
    """Squared Hellinger distance from the log-probabilities alone: the expert's only sequence is 0^H."""
    prompts, mass = task.prompt_law()
    zeros = np.zeros((len(prompts), task.horizon), int)
    q = np.exp(policy.log_probs(prompts, zeros).sum(axis=1))  # P(0^H | x); the rest of the law is disjoint from P
    return float(mass @ ((1 - np.sqrt(q)) ** 2 + (1 - q)))


def best_on_chunks(task, chunk):
    """What minimises the mass of errors on each chunk by itself, by dynamic programming over subtrees of scales."""
    J, mass = task.scales, task.set_masses

    def cover(scale, index):  # cheapest cover of the layers of D[scale, index] by sets of this scale or finer
        own = mass[task.set_number(scale, index)]
        if scale == 0:
            return own, [(0, index)]
        halves = [cover(scale - 1, 2 * index + side) for side in (0, 1)]
        split = halves[0][0] + halves[1][0]
        return (own, [(scale, index)]) if own <= split else (split, halves[0][1] + halves[1][1])

    options = np.empty(task.horizon, int)
    k = chunk.bit_length() - 1
    for start in range(task.horizon // chunk):
        total, sets = cover(k, start)
        coarser = min(mass[task.set_number(j, (start * chunk) >> j)] for j in range(k, J + 1))
        assert total <= coarser
        for scale, index in sets:
            options[index << scale : (index + 1) << scale] = scale
    return options


# -- multi-scale -------------------------------------------------------------------------------------------------------


@given(
    J=st.integers(1, 5),
    eta=st.floats(0.01, 0.49),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 1000),
)
@SETTINGS
def test_distance_is_twice_the_mass_of_the_union(J, eta, share, seed):
    horizon = 2**J
    unit = ConsistencyGame(horizon=horizon, eps=1e-6, eta=eta).set_masses.sum() / 1e-6
    task = ConsistencyGame(horizon=horizon, eps=share * (1 - 1e-12) / unit, eta=eta)
    options = np.random.default_rng(seed).integers(0, J + 1, size=horizon)
    sets = {task.set_number(int(j), h >> int(j)) for h, j in enumerate(options)}  # D[j, floor(h / 2^j)]
    assert set(task.sets_used(options).tolist()) == sets
    distance = hellinger2_by_sequences(task, task.policy_class.policy(options))
    assert task.hellinger2(options) == pytest.approx(distance, rel=1e-12)
    assert distance >= task.best_in_class().hellinger2 * (1 - 1e-12)


@pytest.mark.parametrize("horizon", [2, 4])
def test_best_in_class_by_trying_every_member(horizon):
    for eta in (0.05, 0.3, 0.49):
        task = ConsistencyGame(horizon=horizon, eps=0.05, eta=eta)
        members = itertools.product(range(task.scales + 1), repeat=horizon)
        least = min(hellinger2_by_sequences(task, task.policy_class.policy(m)) for m in members)
        assert task.best_in_class().hellinger2 == pytest.approx(least, rel=1e-12)
        assert least == pytest.approx(2 * 0.05, rel=1e-12)


@pytest.mark.parametrize("J", [1, 2])
def test_consistency_pays_up_to_one_less_one_over_the_horizon(J):
    """Beyond the range of eta too, by all choices of options: what ends at J / (J + 1) are the chunks of two."""
    horizon = 2**J
    for eta, consistent in ((0.999 * (1 - 1 / horizon), True), (1.001 * (1 - 1 / horizon), False)):
        mass = [1 - eta * (J - j) / J for j in range(J + 1)]
        cost = lambda options: sum(mass[j] for j, _ in {(j, h >> j) for h, j in enumerate(options)})  # noqa: B023, E731
        least = min(map(cost, itertools.product(range(J + 1), repeat=horizon)))
        assert (least == cost([J] * horizon)) == consistent


def test_beyond_its_range_of_eta_chunks_of_two_would_not_find_their_scale():
    """The limit J / (J + 1) is sharp: there, two sets of the finest scale weigh as much as one of the next."""
    for J in (1, 3, 8):
        limit = J / (J + 1)
        mass = [1 - limit * (J - j) / J for j in range(J + 1)]
        assert 2 * mass[0] == pytest.approx(mass[1])
        ConsistencyGame(horizon=2**J, eps=1e-4, eta=limit - 1e-6)
        with pytest.raises(ValueError, match="two error sets of scale 0 weigh less than one of scale 1"):
            ConsistencyGame(horizon=2**J, eps=1e-4, eta=limit)


def test_published_factors_at_256():
    task = ConsistencyGame(horizon=256, eta=0.1)
    factors = [task.chunk_factor(2**k) for k in range(9)]
    assert factors == pytest.approx([230.4, 116.8, 59.2, 30, 15.2, 7.7, 3.9, 1.975, 1], rel=1e-12)


@pytest.mark.parametrize(("horizon", "eta"), [(256, 0.1), (64, 0.5), (16, 0.79), (2, 0.49)])
def test_chunk_factor_is_what_the_best_choice_on_each_chunk_pays(horizon, eta):
    task = ConsistencyGame(horizon=horizon, eta=eta)
    for k in range(task.scales + 1):
        options = best_on_chunks(task, 2**k)
        ratio = task.hellinger2(options) / task.best_in_class().hellinger2
        assert ratio == pytest.approx(task.chunk_factor(2**k), rel=1e-12)


def test_a_layer_ranks_its_options_by_mass_and_takes_the_finest():
    task = ConsistencyGame(horizon=8)
    demos = task.population()
    for layer in range(8):
        log_probs = task.policy_class.option_log_probs(layer, demos.prompts, demos.tokens)
        errors = demos.normalised_weights() @ np.isneginf(log_probs)
        assert (np.diff(errors) > 0).all()
    assert task.hellinger2(np.zeros(8, int)) / task.best_in_class().hellinger2 == pytest.approx(task.chunk_factor(1))


def test_set_numbers_are_a_numbering():
    task = ConsistencyGame(horizon=16)
    numbers = [task.set_number(j, i) for j in range(5) for i in range(16 >> j)]
    assert numbers == list(range(31)) and task.prompt_length == 5
    prompts, mass = task.prompt_law()
    assert prompts.shape == (32, 5) and mass.sum() == pytest.approx(1, abs=1e-12)
    assert prompts[task.set_number(1, 0)].tolist() == [1, 0, 0, 0, 0]  # 16, most significant bit first
    assert mass[task.set_number(4, 0)] == pytest.approx(1e-3) and mass[0] == pytest.approx(0.9e-3)


def test_success_is_all_zeros(rng):
    task = ConsistencyGame(horizon=4)
    prompts, _ = task.prompt_law()
    assert task.success(prompts, task.expert.sample(prompts, 4, rng)).min() == 1.0
    worst = task.policy_class.policy([0] * 4)
    success = task.success(prompts, worst.sample(prompts, 4, rng))
    assert success.tolist() == [0.0] * 4 + [1.0] * 4  # errs on contexts 0..3, the sets of scale 0


@pytest.mark.parametrize(("family", "horizon"), [("ConsistencyGame", 256), ("ConsistencyGame", 2), ("HalvingGame", 12)])
def test_the_largest_eps_named_in_the_error_works(family, horizon):
    with pytest.raises(ValueError, match="largest eps") as caught:
        make_task(family, horizon=horizon, eps=0.9)
    largest = float(str(caught.value).rstrip(".").split()[-1])
    assert make_task(family, horizon=horizon, eps=largest).prompt_law()[1].min() >= 0.0
    with pytest.raises(ValueError, match="largest eps"):
        make_task(family, horizon=horizon, eps=largest * 1.00002)


# -- halving -----------------------------------------------------------------------------------------------------------


def test_each_layer_offers_a_random_half_of_the_one_before():
    task = HalvingGame(horizon=7, seed=3)
    offers = task.error_sets()
    assert [len(offer) for offer in offers] == [64, 32, 16, 8, 4, 2, 1]
    for before, after in itertools.pairwise(offers):
        assert np.isin(after, before).all() and (np.diff(after) > 0).all()
    assert HalvingGame(horizon=7, seed=3).error_sets()[-1] == offers[-1]
    survivors = {int(HalvingGame(horizon=7, seed=s).error_sets()[-1][0]) for s in range(30)}
    assert len(survivors) > 10


def test_the_halves_are_uniform():
    hits = np.zeros(8)
    for seed in range(2000):
        hits[HalvingGame(horizon=4, seed=seed).error_sets()[1]] += 1
    assert np.abs(hits / 2000 - 0.5).max() < 5 * np.sqrt(0.25 / 2000)


@pytest.mark.parametrize("n_sets", [None, 100])
def test_best_uses_one_set(n_sets):
    task = HalvingGame(horizon=6, n_sets=n_sets, eps=1e-4)
    assert len(task.sets_used(task.best_options())) == 1
    best = task.best_in_class()
    assert best.hellinger2 == 2e-4 == pytest.approx(hellinger2_by_sequences(task, best.policy), rel=1e-12)


def first_in_order(task, rng):
    return np.zeros(task.horizon, int)


def at_random(task, rng):
    return rng.integers(0, task.policy_class.n_options)


def keep_while_offered(task, rng):
    """Reuse a set already used wherever one is offered, else draw a new one."""
    used, options = [], []
    for offer in task.error_sets():
        known = np.flatnonzero(np.isin(offer, used))
        options.append(int(known[0]) if len(known) else int(rng.integers(len(offer))))
        used.append(offer[options[-1]])
    return np.array(options)


def hedge(task, rng):
    """Take a second set early, in the hope that one of the two lasts."""
    used, options = [], []
    for h, offer in enumerate(task.error_sets()):
        known, new = np.flatnonzero(np.isin(offer, used)), np.flatnonzero(~np.isin(offer, used))
        options.append(int(known[0]) if len(known) and (h != 1 or not len(new)) else int(rng.choice(new)))
        used.append(offer[options[-1]])
    return np.array(options)


@pytest.mark.parametrize(
    ("learner", "tight"), [(first_in_order, True), (keep_while_offered, True), (at_random, False), (hedge, False)]
)
@pytest.mark.slow
def test_halving_bound_by_simulation(learner, tight):
    """Over many games no layer-by-layer rule is below 1 + (H - 1) / 2 sets; keeping a set while it lasts attains it."""
    for horizon in (3, 8):
        used = []
        for seed in range(500):
            task = HalvingGame(horizon=horizon, seed=seed)
            used.append(len(task.sets_used(learner(task, np.random.default_rng([seed, 1])))))
        mean, error = np.mean(used), np.std(used) / np.sqrt(len(used))
        bound = task.expected_sets_lower_bound()
        assert bound == 1 + (horizon - 1) / 2
        assert mean > bound - 4 * error
        if tight:
            assert mean == pytest.approx(bound, abs=4 * error)
        else:
            assert mean > bound + 4 * error


@pytest.mark.parametrize(
    ("tie_break", "tight"), [("first", True), pytest.param("random", False, marks=pytest.mark.slow)]
)
def test_layerwise_learner_on_the_exact_law(tie_break, tight):
    """With infinite data a layer's options are equal to it: how it breaks ties decides, and none is below the bound."""
    used = []
    for seed in range(300):
        task = HalvingGame(horizon=7, seed=seed)
        agent = LayerwiseBC(tie_break=tie_break)
        agent.fit(task.population(), task.policy_class, rng=np.random.default_rng([seed, 2]))
        used.append(len(np.unique(agent.policy_.error_contexts)))
    excess = np.mean(used) - task.expected_sets_lower_bound()
    error = np.std(used) / np.sqrt(len(used))
    assert abs(excess) < 4 * error if tight else excess > 4 * error


def test_layerwise_learner_pays_the_factor_of_single_tokens():
    task = ConsistencyGame(horizon=32)
    learnt = LayerwiseBC().fit(task.population(), task.policy_class).policy_
    ratio = hellinger2_by_sequences(task, learnt) / task.best_in_class().hellinger2
    assert ratio == pytest.approx(task.chunk_factor(1), rel=1e-12)


# -- the policy class --------------------------------------------------------------------------------------------------


@given(P=st.integers(0, 4), horizon=st.integers(1, 5), seed=st.integers(0, 10_000))
@SETTINGS
def test_class_equals_the_product_of_its_options(P, horizon, seed):
    rng = np.random.default_rng(seed)
    members = ErrorSetClass([rng.integers(0, 2**P, size=rng.integers(1, 5)) for _ in range(horizon)], prompt_length=P)
    prompts, tokens = rng.integers(0, 2, (20, P)), rng.integers(0, 2, (20, horizon))
    options = [int(rng.integers(size)) for size in members.n_options]
    policy = members.policy(options)
    slow = ProductPolicy([members.layers[h][option] for h, option in enumerate(options)])
    assert np.array_equal(policy.log_probs(prompts, tokens), slow.log_probs(prompts, tokens))
    for layer in range(horizon):
        generic = super(ErrorSetClass, members).option_log_probs(layer, prompts, tokens)
        assert np.array_equal(members.option_log_probs(layer, prompts, tokens), generic)
        assert np.array_equal(generic[:, options[layer]], policy.log_probs(prompts, tokens)[:, layer])
