"""DAgger and forward training: linear cost where behaviour cloning pays quadratically, and exact small cases."""

import itertools

import numpy as np
import pytest

from agents import DAgger, ForwardTraining, LayerwiseBC, LogLossBC
from agents.interactive import LayeredAutomaton, Session
from ntp_envs import (
    AutomatonPolicy,
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    MarkovClass,
    ProductClass,
    TabularPolicy,
    Task,
    collect,
    make_task,
)
from ntp_envs.distances import distance

EPS = (3e-4, 1e-3, 1e-2)
HORIZONS = (64, 128, 256)


def tightrope(horizon, eps):
    return make_task("Tightrope", horizon=horizon, eps=eps, recoverable=True)


@pytest.mark.parametrize("eps", EPS)
def test_cost_of_dagger_is_linear_and_that_of_behaviour_cloning_quadratic(eps):
    costs = []
    for horizon in HORIZONS:
        task = tightrope(horizon, eps)
        cloned = LogLossBC().fit(task.population(), task.policy_class).policy_
        agent = DAgger(task, rounds=3, rollouts=400).fit(task.population(), task.policy_class)
        costs.append([task.expected_cost(cloned), task.expected_cost(agent.policy_)])
        assert costs[-1] == pytest.approx([task.bc_cost(), task.dagger_cost()], rel=0.05)
        assert agent.fit_report_.details["expert_queries"] == 3 * 400 * horizon
        walked = task.cost(agent.policy_.sample(np.empty((10_000, 0), int), horizon, np.random.default_rng(0)))
        assert abs(walked.mean() - task.dagger_cost()) < 4 * walked.std() / 100
    slopes = np.diff(np.log(costs), axis=0) / np.log(2)  # of log cost in log H, between successive horizons
    assert slopes[:, 1] == pytest.approx(1.0, abs=0.02)
    if eps * HORIZONS[-1] < 0.1:
        assert (slopes[:, 0] > 1.95).all()


def test_forward_training_and_dagger_agree_on_the_rope():
    task = tightrope(64, 0.01)
    agent = ForwardTraining(task, rollouts=300).fit(task.population(), task.policy_class)
    assert isinstance(agent.policy_, LayeredAutomaton)
    # only layers reached before the first slip among 300 walkers may still be taken for a member that stays down
    assert task.expected_cost(agent.policy_) == pytest.approx(task.dagger_cost(), rel=0.05)


def test_dagger_without_slips_in_its_rollouts_has_nothing_to_learn_from():
    task = tightrope(8, 1e-6)
    agent = DAgger(task, rounds=2, rollouts=5).fit(task.population(), task.policy_class)
    assert task.expected_cost(agent.policy_) == pytest.approx(task.bc_cost())


# -- exact rounds ------------------------------------------------------------------------------------------------------


def flip_rate(task, theta, beta):
    """Mean over layers of E[P*(flip | k flips so far)] for a walker that flips with probability theta, or P* beta."""
    total, law = 0.0, np.ones(1)  # of k
    for h in range(task.horizon):
        k = np.arange(h + 1)
        clean = (1 - task.eps) * task.p**k * (1 - task.p) ** (h - k)
        other = task.eps * task.q**k * (1 - task.q) ** (h - k)
        expert = (clean * task.p + other * task.q) / (clean + other)
        total += law @ expert
        flip = (1 - beta) * theta + beta * expert
        law = np.append(law * (1 - flip), 0.0) + np.append(0.0, law * flip)
    return total / task.horizon


@pytest.mark.parametrize("beta", [0.0, 0.6, 1.0])
def test_exact_rounds_of_dagger_follow_the_leader(beta):
    task = make_task("Contamination", horizon=6, eps=0.3, p=0.1, q=0.8, theta_min=0.01)
    rates = [(1 - task.eps) * task.p + task.eps * task.q]
    for i in range(1, 5):
        rates.append(flip_rate(task, np.mean(rates), beta**i))
    agent = DAgger(task, rounds=4, rollouts="exact", beta=beta).fit(task.population(), task.policy_class)
    assert agent.policy_.theta == pytest.approx(np.mean(rates), abs=1e-12)


def test_beta_mixes_the_expert_in_step_by_step():
    task = make_task("Contamination", horizon=4, eps=0.3, p=0.1, q=0.8, theta_min=0.01)
    policy, beta = BernoulliPolicy(0.4, on="flips"), 0.3
    labels = Session(task, np.random.default_rng(0)).visit(policy, "exact", beta=beta)
    for h, a in itertools.product(range(1, 4), range(2)):  # prefix: prompt 0, then h tokens equal to a
        tokens = np.full((1, h), a)
        reached = 0.5
        for t in range(h):
            laws = [np.exp(p.next_log_probs(np.zeros((1, 1), int), tokens[:, :t])[0, a]) for p in (policy, task.expert)]
            reached *= (1 - beta) * laws[0] + beta * laws[1]
        here = (labels.prompts[:, 0] == 0) & (labels.tokens[:, :h] == a).all(axis=1)
        assert labels.weights[here, h].sum() == pytest.approx(reached, rel=1e-12)
    assert labels.weights.sum(axis=0) == pytest.approx(1.0)


def test_sampled_rounds_tend_to_the_exact_ones():
    task = make_task("Contamination", horizon=6, eps=0.3, p=0.1, q=0.8, theta_min=0.01)
    exact = DAgger(task, rounds=3, rollouts="exact", beta=0.5).fit(task.population(), task.policy_class).policy_.theta
    for labels in ("soft", "sampled"):
        agent = DAgger(task, rounds=3, rollouts=4000, beta=0.5, labels=labels)
        theta = agent.fit(task.population(), task.policy_class, rng=np.random.default_rng(3)).policy_.theta
        assert abs(theta - exact) < 4 * 0.5 / np.sqrt(3 * 4000 * 6) * 2  # tokens of one document are correlated


# -- forward training --------------------------------------------------------------------------------------------------


class Given(Task):
    """A task made of an expert and a class."""

    vocab_size, prompt_length = 2, 0

    def __init__(self, expert, policy_class, horizon):
        self.horizon = horizon
        vars(self).update(expert=expert, policy_class=policy_class)

    expert = policy_class = None

    def prompt_law(self):
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    def best_in_class(self):
        raise NotImplementedError


def test_forward_training_finds_a_member_that_is_the_expert(rng):
    layers = [[TabularPolicy.random(2, 4, rng) for _ in range(3)] for _ in range(4)]
    product, chosen = ProductClass(layers), [2, 0, 1, 2]
    task = Given(product.policy(chosen), product, 4)
    agent = ForwardTraining(task, rollouts=5).fit(collect_from(task, 3, rng), product)
    assert distance(task.expert, agent.policy_, task).final < 1e-20
    assert agent.fit_report_.objective == pytest.approx(0.0, abs=1e-15)


def collect_from(task, n, rng):
    prompts = task.sample_prompts(n, rng)
    return Demonstrations(prompts, task.expert.sample(prompts, task.horizon, rng), vocab_size=2)


def test_forward_training_is_greedy_on_its_own_prefixes(rng):
    layers = [[TabularPolicy.random(2, 3, rng) for _ in range(3)] for _ in range(3)]
    product, expert = ProductClass(layers), TabularPolicy.random(2, 3, rng)
    task = Given(expert, product, 3)
    options, reached = [], {(): 1.0}  # prefixes of the chosen layers with their probabilities
    for h in range(3):
        at = {prefix: (np.empty((1, 0), int), np.array([prefix], int).reshape(1, h)) for prefix in reached}
        losses = [
            -sum(
                mass * float(np.exp(expert.next_log_probs(*at[prefix])[0]) @ option.next_log_probs(*at[prefix])[0])
                for prefix, mass in reached.items()
            )
            for option in layers[h]
        ]
        options.append(int(np.argmin(losses)))
        chosen = {prefix: np.exp(layers[h][options[h]].next_log_probs(*at[prefix])[0]) for prefix in reached}
        reached = {(*prefix, a): mass * chosen[prefix][a] for prefix, mass in reached.items() for a in range(2)}
    agent = ForwardTraining(task, rollouts=5000).fit(collect_from(task, 3, rng), product)
    assert distance(product.policy(options), agent.policy_, task).final < 1e-20


def test_where_the_rope_is_a_product_class_only_forward_training_climbs_back():
    rope = tightrope(24, 0.05)
    product = ProductClass([rope.policy_class.policies] * 24)
    cloned = LayerwiseBC().fit(rope.population(), product).policy_
    agent = ForwardTraining(rope, rollouts=400).fit(rope.population(), product)
    prompts = np.empty((20_000, 0), int)
    costs = [rope.cost(p.sample(prompts, 24, np.random.default_rng(0))) for p in (cloned, agent.policy_)]
    for cost, expected in zip(costs, (rope.bc_cost(), rope.dagger_cost())):
        assert abs(cost.mean() - expected) < 4 * cost.std() / np.sqrt(20_000)


def test_forward_training_outside_product_classes_is_one_member_a_layer():
    task = make_task("Contamination", horizon=5, eps=0.3, p=0.1, q=0.8, theta_min=0.01)
    agent = ForwardTraining(task, rollouts=20_000)
    policy = agent.fit(collect(task, 5, np.random.default_rng(0)), task.policy_class).policy_
    assert isinstance(policy, AutomatonPolicy) and policy.horizon == 5
    first = (1 - task.eps) * task.p + task.eps * task.q  # no prefix yet: the same for every document
    thetas = [layer.theta for layer in policy.layers]
    assert thetas[0] == pytest.approx(first, abs=1e-12)
    k = np.arange(2)
    clean, other = (1 - task.eps) * task.p**k * (1 - task.p) ** (1 - k), task.eps * task.q**k * (1 - task.q) ** (1 - k)
    after_one = (clean * task.p + other * task.q) / (clean + other)
    assert thetas[1] == pytest.approx(np.array([1 - first, first]) @ after_one, abs=0.02)
    chain = ForwardTraining(task, rollouts=50).fit(collect(task, 5, np.random.default_rng(0)), MarkovClass(2, 1))
    assert chain.policy_.n_states == 3 and len(chain.policy_.layers) == 5


def test_layered_automaton_is_the_product_of_its_layers(rng):
    layers = [BernoulliClass(0.1, on="flips").policy(theta) for theta in (0.2, 0.7, 0.4)]
    policy, tokens = LayeredAutomaton(layers), rng.integers(2, size=(10, 3))
    prompts = rng.integers(2, size=(10, 1))
    flips = np.diff(np.column_stack([prompts, tokens]), axis=1) != 0
    assert np.exp(policy.log_probs(prompts, tokens)) == pytest.approx(np.where(flips, [0.2, 0.7, 0.4], [0.8, 0.3, 0.6]))


@pytest.mark.parametrize("tol", [1e-8, 1e-3, 0.1])
def test_forward_training_converges_to_its_tolerance_in_nats_a_sequence(tol, rng):
    task = make_task("ARLinear", horizon=8)
    report = ForwardTraining(task, rollouts=50, tol=tol).fit(collect_from(task, 20, rng), task.policy_class).fit_report_
    assert report.converged and report.gap <= tol * (1 + 1e-12)
