"""Learners that interact or stay on policy: what they count, their costs, closed forms and plain minimisers."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, logit
from scipy.stats import binom

from agents import (
    AdversarialImitation,
    ConvergenceWarning,
    DAgger,
    ForwardTraining,
    LayerwiseBC,
    LogLossBC,
    OnPolicyDistillation,
    ScheduledSampling,
)
from agents.fit_class import fit_class
from agents.interactive import Discriminator, LayeredAutomaton, Session, truth_probability
from agents.targets import Targets
from agents.testing import Problem, check_agent
from ntp_envs import (
    ARLinearClass,
    AutomatonPolicy,
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    MarkovPolicy,
    ProductClass,
    TabularPolicy,
    Task,
    collect,
    make_task,
)
from ntp_envs.distances import distance
from ntp_envs.features import WindowOneHot

TASKS = {
    "Bernoulli": make_task("Contamination", horizon=4, eps=0.2, p=0.1, q=0.8, theta_min=0.01),
    "finite": make_task("RareMode", horizon=4, eps=0.2),
    "product": make_task("ConsistencyGame", horizon=4),
    "linear": make_task("ARLinear", horizon=4),
}


def demos(task, n=20, seed=0):
    return collect(task, n, np.random.default_rng(seed))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    "make",
    [
        lambda task: DAgger(task, rounds=2, rollouts=20, beta=0.5),
        lambda task: DAgger(task, rounds=2, rollouts=20, targets="sampled"),
        lambda task: ForwardTraining(task, rollouts=20),
        lambda task: OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0),
        lambda task: OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, on_policy=0.5, divergence="reverse"),
    ],
    ids=["DAgger", "DAgger sampled", "forward training", "distillation", "half on-policy reverse"],
)
def test_interactive_agents_conform_on_their_task(make, task):
    check_agent(make(task), problems=[Problem(task.name, task.policy_class, demos(task))])


# -- counts ------------------------------------------------------------------------------------------------------------


def counting(task):
    """The task with an expert that counts the prefixes it is asked about, and which."""
    expert, asked = task.expert, []

    def answer(prompts, tokens):
        asked.extend((*map(int, x), -1, *map(int, a)) for x, a in zip(prompts, tokens))
        return expert.next_log_probs(prompts, tokens)

    task = make_task(task.name, **task.parameters())
    vars(task)["expert"] = CallablePolicy(answer, 2, prompt_length=task.prompt_length)  # where cached_property keeps it
    return task, asked


@pytest.mark.parametrize(
    ("make", "queries", "steps"),
    [
        (lambda task: DAgger(task, rounds=3, rollouts=7), 3 * 7 * 4, 3 * 7 * 4),
        (lambda task: DAgger(task, rounds=3, rollouts=7, beta=0.5), 3 * 7 * 4, 3 * 7 * 4),
        (lambda task: ForwardTraining(task, rollouts=7), 7 * 4, 7 * (0 + 1 + 2 + 3)),
        (lambda task: OnPolicyDistillation(task, rounds=2, rollouts=7, settle=0.0), 2 * 7 * 4, 2 * 7 * 4),
        (lambda task: OnPolicyDistillation(task, rounds=2, rollouts=7, settle=0.0, on_policy=0.5), 56 + 20 * 4, 56),
        (lambda task: OnPolicyDistillation(task, rounds=2, settle=0.0, on_policy=0.0), 20 * 4, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:on-policy distillation has not settled")
def test_queries_and_steps_are_counted_exactly(make, queries, steps):
    task, asked = counting(TASKS["Bernoulli"])
    data = demos(TASKS["Bernoulli"])
    report = make(task).fit(data, task.policy_class).fit_report_
    assert (report.details["expert_queries"], report.details["environment_steps"]) == (queries, steps)
    assert len(asked) == queries


def test_exact_visits_query_each_possible_prefix_once():
    task, asked = counting(TASKS["Bernoulli"])
    report = DAgger(task, rounds=2, rollouts="exact").fit(demos(task), task.policy_class).fit_report_
    assert report.details["expert_queries"] == 2 * len(set(asked)) == 2 * 2 * (1 + 2 + 4 + 8)
    assert report.details["environment_steps"] == 0


def test_learners_without_an_expert_count_what_they_write():
    task = TASKS["Bernoulli"]
    details = ScheduledSampling(rounds=1, final=0.0).fit(demos(task), task.policy_class).fit_report_.details
    assert (details["expert_queries"], details["environment_steps"]) == (0, 20 * 3)  # no prefix has the last token
    agent = AdversarialImitation(rounds=3, rollouts=5, settle=10.0).fit(demos(task), task.policy_class)
    assert (agent.fit_report_.details["expert_queries"], agent.fit_report_.details["environment_steps"]) == (0, 60)


def test_what_makes_up_for_what_is_refused():
    """A floor under an expert that excludes tokens, and single tokens of a population."""
    rope = make_task("Tightrope", horizon=4)
    agent = OnPolicyDistillation(rope, divergence="reverse", floor=0.01, settle=1.0)
    agent.fit(rope.population(), ARLinearClass(WindowOneHot(2, 1), radius=2.0))
    task = TASKS["Bernoulli"]
    DAgger(task, rounds=1, rollouts=5).fit(task.population(), task.policy_class)


@pytest.mark.parametrize("targets", ["soft", "sampled"])
@pytest.mark.parametrize("rollouts", [30, "exact"])
def test_a_finite_class_is_fitted_to_all_rounds_though_each_is_read_once(targets, rollouts):
    """As the fit of all targets together has it."""
    task, rng = TASKS["finite"], np.random.default_rng(5)
    members = FiniteClass([TabularPolicy.random(2, 4, rng) for _ in range(4)] + [BernoulliPolicy(1.0)])
    agent = DAgger(task, rounds=4, rollouts=rollouts, beta=0.5, targets=targets)
    found = agent.fit(demos(task), members, rng=np.random.default_rng(1)).fit_report_
    session, seen = Session(task, np.random.default_rng(1)), [Targets.of(demos(task))]
    policy, losses = fit_class(members, demos(task))[0], []
    for i in range(1, 5):
        batch = session.visit(policy, rollouts, beta=0.5**i)
        seen.append(batch.drawn(session.rng) if targets == "sampled" else batch)
        policy, report = fit_class(members, Targets.join(seen))
        losses.append(report.objective)
    assert agent.policy_ is policy
    np.testing.assert_allclose(found.details.pop("rounds"), losses, rtol=1e-12)
    assert found.details.keys() >= report.details.keys()
    for name, value in report.details.items():
        assert found.details[name] == pytest.approx(value, rel=1e-12), name


# == DAgger and forward training =======================================================================================


EPS = (pytest.param(3e-4, marks=pytest.mark.slow), 1e-3, pytest.param(1e-2, marks=pytest.mark.slow))
HORIZONS = (64, 128, 256)


def tightrope(horizon, eps):
    return make_task("Tightrope", horizon=horizon, eps=eps, recoverable=True)


@pytest.mark.parametrize("eps", EPS)
def test_cost_of_dagger_is_linear_and_that_of_behaviour_cloning_quadratic(eps):
    costs = []
    for horizon in HORIZONS:
        task = tightrope(horizon, eps)
        cloned = LogLossBC().fit(task.population(), task.policy_class).policy_
        agent = DAgger(task, rounds=3, rollouts=100).fit(task.population(), task.policy_class)
        costs.append([task.expected_cost(cloned), task.expected_cost(agent.policy_)])
        assert costs[-1] == pytest.approx([task.bc_cost(), task.dagger_cost()], rel=0.05)
        assert agent.fit_report_.details["expert_queries"] == 3 * 100 * horizon
        walked = task.cost(agent.policy_.sample(np.empty((2500, 0), int), horizon, np.random.default_rng(0)))
        assert abs(walked.mean() - task.dagger_cost()) < 4 * walked.std() / 50
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
        agent = DAgger(task, rounds=3, rollouts=4000, beta=0.5, targets=labels)
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


# == on-policy learners ================================================================================================


TASK = make_task("Contamination", horizon=8, eps=0.2, p=0.1, q=0.7, theta_min=0.01)


def posterior_flip(task, h):
    """``(h + 1,)`` the expert's probability of a flip after k = 0..h flips."""
    k = np.arange(h + 1)
    clean = (1 - task.eps) * task.p**k * (1 - task.p) ** (h - k)
    other = task.eps * task.q**k * (1 - task.q) ** (h - k)
    return (clean * task.p + other * task.q) / (clean + other)


def on_policy_mean(task, theta, function):
    """Mean over layers of E[function(expert's flip probability)], the number of flips being Bin(h, theta)."""
    laws = [binom.pmf(np.arange(h + 1), h, theta) @ function(posterior_flip(task, h)) for h in range(task.horizon)]
    return float(np.mean(laws))


# -- distillation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divergence", "reply"),
    [
        ("forward", lambda theta: on_policy_mean(TASK, theta, lambda flip: flip)),
        ("reverse", lambda theta: expit(on_policy_mean(TASK, theta, logit))),
    ],
)
def test_distillation_ends_at_the_fixed_point(divergence, reply):
    fixed = brentq(lambda theta: reply(theta) - theta, 0.01, 0.35, xtol=1e-14)
    agent = OnPolicyDistillation(TASK, divergence=divergence, rollouts="exact", rounds=500, settle=1e-12)
    theta = agent.fit(TASK.population(), TASK.policy_class).policy_.theta
    assert agent.fit_report_.converged and theta == pytest.approx(fixed, abs=1e-9)
    # and the fixed point is what it claims to be: the best theta at the prefixes of this theta
    prefixes = [(binom.pmf(np.arange(h + 1), h, theta), posterior_flip(TASK, h)) for h in range(TASK.horizon)]

    def loss(x):
        total = 0.0
        for masses, flip in prefixes:
            p, q = (flip, x) if divergence == "forward" else (x, flip)
            total += masses @ (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        return total

    best = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-10})
    assert theta == pytest.approx(best.x, abs=1e-6)
    assert agent.fit_report_.objective == pytest.approx(best.fun, abs=1e-9)


def test_the_two_divergences_and_log_loss_all_differ():
    def theta(**options):
        agent = OnPolicyDistillation(TASK, rollouts="exact", rounds=500, settle=1e-9, **options)
        return agent.fit(TASK.population(), TASK.policy_class).policy_.theta

    forward, reverse = theta(), theta(divergence="reverse")
    log_loss = LogLossBC().fit(TASK.population(), TASK.policy_class).policy_.theta
    assert reverse + 0.01 < forward < log_loss - 0.01  # reverse KL seeks the common mode


def test_off_policy_distillation_is_word_level_distillation():
    data = collect(TASK, 300, np.random.default_rng(0))
    agent = OnPolicyDistillation(TASK, on_policy=0.0, rounds=3).fit(data, TASK.policy_class)
    flips = np.diff(np.column_stack([data.prompts, data.tokens]), axis=1) != 0
    so_far = np.column_stack([np.zeros(300, int), np.cumsum(flips, axis=1)[:, :-1]])
    soft = [posterior_flip(TASK, h)[so_far[:, h]].mean() for h in range(TASK.horizon)]
    assert agent.policy_.theta == pytest.approx(np.mean(soft), abs=1e-12)
    assert agent.fit_report_.details["environment_steps"] == 0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_share_of_own_prefixes(share):
    data = collect(TASK, 300, np.random.default_rng(0))
    agent = OnPolicyDistillation(TASK, on_policy=share, rollouts="exact", rounds=300, settle=1e-12)
    off_policy = OnPolicyDistillation(TASK, on_policy=0.0, rounds=2).fit(data, TASK.policy_class).policy_.theta

    def reply(theta):
        return share * on_policy_mean(TASK, theta, lambda flip: flip) + (1 - share) * off_policy

    fixed = brentq(lambda theta: reply(theta) - theta, 0.01, 0.35, xtol=1e-14)
    assert agent.fit(data, TASK.policy_class).policy_.theta == pytest.approx(fixed, abs=1e-9)


def test_distillation_says_when_it_has_not_settled():
    agent = OnPolicyDistillation(TASK, rollouts="exact", rounds=1, settle=1e-9)
    with pytest.warns(ConvergenceWarning, match="has not settled after 1 rounds.*Raise rounds"):
        agent.fit(TASK.population(), TASK.policy_class)
    assert not agent.fit_report_.converged and agent.fit_report_.details["change"] > 1e-9


def test_a_floor_mixes_the_uniform_law_into_the_expert():
    task, floor = make_task("Tightrope", horizon=3, eps=0.01), 0.1
    agent = OnPolicyDistillation(task, floor=floor, rollouts="exact", rounds=5)
    assert agent.fit(task.population(), task.policy_class).policy_.theta == pytest.approx(floor / 2, abs=1e-12)


# -- scheduled sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse sigmoid"])
def test_schedules_fall_from_one_to_their_end(schedule):
    values = [truth_probability(schedule, s, 0.2) for s in np.linspace(0, 1, 11)]
    assert values[0] == pytest.approx(1.0) and values[-1] == pytest.approx(0.2) and (np.diff(values) < 0).all()


def test_with_demonstrated_prefixes_alone_it_is_log_loss():
    data = collect(TASK, 100, np.random.default_rng(0))
    one = ScheduledSampling(final=1.0, rounds=2).fit(data, MarkovClass(2, 1)).policy_.emissions(0)
    assert np.allclose(np.exp(one), np.exp(LogLossBC().fit(data, MarkovClass(2, 1)).policy_.emissions(0)), atol=1e-12)


def test_with_prefixes_of_its_own_alone_it_forgets_what_prefixes_say():
    """Huszar 2015: the labels no longer depend on the prefix, so each layer is fitted to the marginal law."""
    expert = MarkovPolicy([[0.95, 0.05], [0.05, 0.95], [0.5, 0.5]], order=1)  # copies its last token
    prompts = np.empty((4000, 0), int)
    data = Demonstrations(prompts, expert.sample(prompts, 6, np.random.default_rng(0)), vocab_size=2)
    agent = ScheduledSampling(rounds=3, final=0.0).fit(data, MarkovClass(2, 1))
    copied = np.exp(agent.policy_.emissions(0))[[0, 1], [0, 1]]
    assert np.abs(copied - 0.5).max() < 0.03
    assert np.exp(LogLossBC().fit(data, MarkovClass(2, 1)).policy_.emissions(0))[0, 0] > 0.93


# -- adversarial imitation ---------------------------------------------------------------------------------------------


def test_the_discriminator_is_the_logistic_optimum(rng):
    expert, learner = (rng.dirichlet(np.ones(6)).reshape(1, 3, 2) for _ in range(2))
    judge = Discriminator(expert, learner, 1e-3)
    e, q = (array.ravel() + 1e-3 for array in (expert, learner))
    best = minimize(lambda x: e @ np.log1p(np.exp(-x)) + q @ np.log1p(np.exp(x)), np.zeros(6), tol=1e-12)
    assert judge.logits.ravel() == pytest.approx(best.x, abs=1e-4)
    assert judge.rewards("js").ravel() == pytest.approx(-np.log1p(-expit(judge.logits)).ravel())  # -log(1 - D)


def test_the_divergence_is_the_discriminators_advantage(rng):
    expert, learner = (rng.dirichlet(np.ones(6), size=2).reshape(2, 3, 2) for _ in range(2))
    expert[0, 0, 0], learner[1, 2, 1] = 0.0, 0.0
    expert, learner = (array / array.sum(axis=(1, 2), keepdims=True) for array in (expert, learner))
    per_layer = [jensenshannon(expert[h].ravel(), learner[h].ravel()) ** 2 for h in range(2)]
    assert Discriminator(expert, learner, 1.0).divergence() == pytest.approx(np.mean(per_layer))


def test_action_values_are_expected_sums_of_rewards(rng):
    policy = MarkovPolicy(rng.dirichlet(np.ones(2), size=3), order=1)
    law, horizon = np.exp(policy.emissions(0)), 4
    occupancy = np.zeros((horizon, 3, 2))
    for tokens in itertools.product(range(2), repeat=horizon):
        mass = np.exp(policy.log_probs(np.empty((1, 0), int), np.array([tokens]))).prod()
        for h, a in enumerate(tokens):
            occupancy[h, 2 if h == 0 else tokens[h - 1], a] += mass
    judge = Discriminator(rng.dirichlet(np.ones(6), size=horizon).reshape(horizon, 3, 2), occupancy, 0.01)
    rewards, values = judge.rewards("log ratio"), judge.action_values("log ratio")
    for h, context, action in [(3, 0, 1), (2, 1, 0), (1, 0, 0), (0, 2, 1)]:
        expected = 0.0
        for rest in itertools.product(range(2), repeat=horizon - h - 1):
            mass, gained, before = 1.0, rewards[h, context, action], action
            for t, a in enumerate(rest, start=h + 1):
                mass *= law[before, a]
                gained += rewards[t, before, a]
                before = a
            expected += mass * gained
        assert values[h, context, action] == pytest.approx(expected, abs=1e-12)


def pair_laws(chain, horizon):
    """Laws of (last token, token) at each position of a chain; its third row is the law of the first token."""
    laws, now = [chain[2]], chain[2]
    for _ in range(1, horizon):
        laws.append((now[:, None] * chain[:2]).ravel())
        now = now @ chain[:2]
    return laws


@pytest.mark.parametrize("reward", ["js", pytest.param("log ratio", marks=pytest.mark.slow)])
def test_adversarial_imitation_minimises_the_divergence_of_occupancies(reward):
    chain, prompts = np.array([[0.97, 0.03], [0.3, 0.7], [0.9, 0.1]]), np.empty((20_000, 0), int)
    expert = pair_laws(chain, 8)

    def divergence(theta):
        total = 0.0
        for e, q in zip(expert, pair_laws(np.tile([1 - theta, theta], (3, 1)), 8)):
            m = 0.5 * (e + q)
            js = 0.5 * (e @ np.log(e / m) + q @ np.log(q / m))
            total += js if reward == "js" else q @ np.log(q / e)
        return total

    best = minimize_scalar(divergence, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-9}).x
    tokens = MarkovPolicy(chain, order=1).sample(prompts, 8, np.random.default_rng(0))
    assert tokens.mean() - best > 0.04  # log-loss matches the mean, which is far from it
    agent = AdversarialImitation(rounds=60, rollouts=2000, step=4.0, reward=reward)
    theta = agent.fit(Demonstrations(prompts, tokens, vocab_size=2), BernoulliClass(0.001)).policy_.theta
    assert agent.fit_report_.converged
    assert theta == pytest.approx(best, abs=0.004)


def test_adversarial_imitation_recovers_a_chain():
    chain = MarkovPolicy([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], order=1)
    prompts = np.empty((2000, 0), int)
    data = Demonstrations(prompts, chain.sample(prompts, 10, np.random.default_rng(1)), vocab_size=2)
    agent = AdversarialImitation(rounds=30, rollouts=1000).fit(data, MarkovClass(2, 1))
    assert np.exp(agent.policy_.emissions(0)) == pytest.approx(np.exp(chain.emissions(0)), abs=0.05)


def test_adversarial_imitation_warns_when_it_still_moves():
    chain = MarkovPolicy([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], order=1)
    prompts = np.empty((100, 0), int)
    data = Demonstrations(prompts, chain.sample(prompts, 10, np.random.default_rng(1)), vocab_size=2)
    agent = AdversarialImitation(rounds=5, rollouts=100, step=10.0, settle=1e-6)
    with pytest.warns(ConvergenceWarning, match="still moves.*lower step=10"):
        agent.fit(data, MarkovClass(2, 1))
    assert not agent.fit_report_.converged and np.isnan(agent.fit_report_.gap)


@pytest.mark.parametrize("order", [0, 1])
def test_the_bias_of_the_reported_divergence_does_not_grow_with_the_horizon(order):
    """Learner and expert alike: what is reported is sampling noise, within the bound of the docstring."""
    means = {}
    for horizon in (4, 32):
        found = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            tokens = (rng.random((400, horizon)) < 0.4).astype(int)
            data = Demonstrations(np.zeros((400, 0), int), tokens, 2)
            agent = AdversarialImitation(order=order, rounds=1, rollouts=400, settle=1e6)
            found.append(agent.fit(data, BernoulliClass(0.4, 0.4 + 1e-9), rng=rng).fit_report_.objective)
        means[horizon] = np.mean(found)
        bound = (2 ** (order + 1) - 1) / 8 * (1 / 400 + 1 / 400)
        assert 0.2 * bound < means[horizon] < 1.2 * bound
    assert means[32] < 1.5 * means[4]


@pytest.mark.parametrize("rollouts", [50, 800])
def test_the_noise_floor_of_distillation(rollouts):
    task = make_task("Contamination", horizon=16)
    agent = OnPolicyDistillation(task, rounds=4, rollouts=rollouts, settle=1e6)
    change = agent.fit(task.population(), task.policy_class, rng=np.random.default_rng(0)).fit_report_.details["change"]
    assert change <= 1 / np.sqrt(rollouts * 16)
