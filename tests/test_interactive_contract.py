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
from agents.testing import Problem, check_agent
from ntp_envs import ARLinearClass, CallablePolicy, collect, make_task
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


def test_what_makes_up_for_what_is_refused():
    """A floor under an expert that excludes tokens, and single tokens of a population."""
    rope = make_task("Tightrope", horizon=4)
    agent = OnPolicyDistillation(rope, divergence="reverse", floor=0.01, settle=1.0)
    agent.fit(rope.population(), ARLinearClass(WindowOneHot(2, 1), radius=2.0))
    task = TASKS["Bernoulli"]
    DAgger(task, rounds=1, rollouts=5).fit(task.population(), task.policy_class)
