"""The Agent contract on learners that interact or stay on policy, what they refuse, and what they count."""

import numpy as np
import pytest

from agents import (
    AdversarialImitation,
    DAgger,
    ForwardTraining,
    OnPolicyDistillation,
    ScheduledSampling,
    agent_names,
)
from agents.fit_class import fit_class
from agents.targets import Targets
from agents.testing import Problem, check_agent
from ntp_envs import CallablePolicy, MarkovClass, UniformPolicy, collect, make_task
from ntp_envs.checks import NotTractableError
from ntp_envs.policy_classes import PolicyClass

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
        lambda task: DAgger(task, rounds=2, rollouts=20, labels="sampled"),
        lambda task: ForwardTraining(task, rollouts=20),
        lambda task: OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0),
        lambda task: OnPolicyDistillation(task, rounds=2, rollouts=20, settle=1.0, on_policy=0.5, divergence="reverse"),
    ],
    ids=["DAgger", "DAgger sampled", "forward training", "distillation", "half on-policy reverse"],
)
def test_interactive_agents_conform_on_their_task(make, task):
    check_agent(make(task), problems=[Problem(task.name, task.policy_class, demos(task))])


@pytest.mark.parametrize("agent", [ScheduledSampling(rounds=2), AdversarialImitation(rounds=2, rollouts=20, settle=1)])
def test_on_policy_agents_without_an_expert_conform(agent):
    check_agent(agent, skip=("weights",))  # what is drawn for a demonstration is drawn anew for each copy of it


def test_they_are_known_by_name():
    wanted = {"AdversarialImitation", "DAgger", "ForwardTraining", "OnPolicyDistillation", "ScheduledSampling"}
    assert wanted <= set(agent_names())


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


def test_the_same_generator_gives_the_same_policy_and_another_may_not():
    task = TASKS["Bernoulli"]
    fits = [
        DAgger(task, rounds=2, rollouts=10).fit(demos(task), task.policy_class, rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    thetas = [agent.policy_.theta for agent in fits]
    assert thetas[0] == thetas[1] != thetas[2]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "error", "message"),
    [
        (DAgger("Contamination"), TypeError, "task='Contamination' must be an ntp_envs.Task"),
        (DAgger(make_task("Contamination", horizon=5)), ValueError, "horizon=4, the task 5"),
        (DAgger(make_task("Tightrope", horizon=4)), ValueError, "prompt_length=1, the task 0"),
        (DAgger(TASKS["Bernoulli"], rounds=0), ValueError, "rounds=0"),
        (DAgger(TASKS["Bernoulli"], rollouts=0), ValueError, "rollouts=0"),
        (DAgger(TASKS["Bernoulli"], rollouts="all"), ValueError, "rollouts='all' must be an integer >= 1, or 'exact'"),
        (DAgger(TASKS["Bernoulli"], rollouts=2.5), TypeError, "rollouts=2.5"),
        (DAgger(TASKS["Bernoulli"], beta=1.5), ValueError, "beta=1.5"),
        (DAgger(TASKS["Bernoulli"], labels="hard"), ValueError, "labels='hard' is not an option"),
        (DAgger(TASKS["Bernoulli"], tol=-1.0), ValueError, "tol=-1"),
        (ForwardTraining(TASKS["Bernoulli"], rollouts="exact"), TypeError, "rollouts='exact'"),
        (OnPolicyDistillation(TASKS["Bernoulli"], divergence="js"), ValueError, "divergence='js' is not an option"),
        (OnPolicyDistillation(TASKS["Bernoulli"], on_policy=-0.1), ValueError, "on_policy=-0.1"),
        (OnPolicyDistillation(TASKS["Bernoulli"], floor=2), ValueError, "floor=2"),
        (ScheduledSampling(schedule="cosine"), ValueError, "schedule='cosine' is not an option"),
        (ScheduledSampling(final=1.1), ValueError, "final=1.1"),
        (AdversarialImitation(step=0.0), ValueError, "step=0 must be positive"),
        (AdversarialImitation(reward="gan"), ValueError, "reward='gan' is not an option"),
        (AdversarialImitation(pseudo_count=float("nan")), ValueError, "pseudo_count"),
    ],
)
def test_bad_input(agent, error, message):
    task = TASKS["Bernoulli"]
    with pytest.raises(error, match=message):
        agent.fit(demos(task), task.policy_class)


def test_exact_visits_have_a_limit():
    task = make_task("Contamination", horizon=64)
    with pytest.raises(NotTractableError, match=r"2 x 2\^64 sequences, more than 65536; give a number of rollouts"):
        DAgger(task, rollouts="exact").fit(task.population(), task.policy_class)


def test_an_expert_that_cannot_be_asked_everywhere():
    task, _ = counting(TASKS["Bernoulli"])
    data = demos(TASKS["Bernoulli"])
    vars(task)["expert"] = CallablePolicy(
        lambda x, a: np.full((len(a), 2), np.log(0.5) if a.shape[1] == 0 else np.nan), 2
    )
    with pytest.raises(ValueError, match="no next-token law at a prefix that the learner visits"):
        DAgger(task).fit(data, task.policy_class)


def test_reverse_kl_to_an_expert_that_excludes_tokens_needs_a_floor_in_a_linear_class():
    from ntp_envs import ARLinearClass
    from ntp_envs.features import WindowOneHot

    task = make_task("Tightrope", horizon=4)
    linear = ARLinearClass(WindowOneHot(2, 1), radius=2.0)
    with pytest.raises(ValueError, match="reverse KL is infinite for every autoregressive linear policy"):
        OnPolicyDistillation(task, divergence="reverse").fit(task.population(), linear)
    OnPolicyDistillation(task, divergence="reverse", floor=0.01, settle=1.0).fit(task.population(), linear)


def test_populations_that_do_not_cover_changed_prefixes_are_refused():
    task = TASKS["Bernoulli"]
    for agent in (ScheduledSampling(), AdversarialImitation(), OnPolicyDistillation(task, on_policy=0.5)):
        with pytest.raises(ValueError, match="population is not exact"):
            agent.fit(task.population(), task.policy_class)
    DAgger(task, rounds=1, rollouts=5).fit(task.population(), task.policy_class)  # single tokens: covered


def test_classes_that_no_learner_knows():
    class Strange(PolicyClass):
        def policy(self, parameters, /):
            return UniformPolicy(2)

    labels = Targets(np.zeros((1, 0), int), np.zeros((1, 1), int), np.log([[[0.5, 0.5]]]), np.ones((1, 1)))
    with pytest.raises(TypeError, match="nothing is known of Strange"):
        fit_class(Strange(2), labels)
    with pytest.raises(ValueError, match="divergence='sideways'"):
        fit_class(MarkovClass(2, 0), labels, divergence="sideways")
    task = TASKS["finite"]
    with pytest.raises(TypeError, match="AdversarialImitation cannot fit FiniteClass"):
        AdversarialImitation().fit(demos(task), task.policy_class)
