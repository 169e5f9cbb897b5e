"""Which rewards recover the expert's distribution, and which its mode only: PPO beside learners by imitation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Agent, make_agent
from agents.interactive import DAgger
from experiments import charts
from experiments.cells import Cell, Label, Record
from experiments.measure import BEST, SECONDS, Fit, build_learner, costed_fit, named
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, interval_words, intervals_over, number, pivot
from ntp_envs import Policy, Task, collect, distance, make_task
from ntp_envs.arrays import all_sequences


@dataclass(frozen=True)
class Asking(Options):
    """How DAgger asks the expert."""

    rollouts: int = option(200)
    """Sequences that DAgger writes in each of its rounds."""
    rounds: int = option(10)
    """Rounds of DAgger."""


@dataclass(frozen=True)
class RLOptions(Asking):
    rl: bool = True
    """Train PPO, which needs stable-baselines3 (the extra ``rl``); without it the other learners run."""
    horizon: int = option(8, quick=6, least=4, most=12)
    """Horizon H; every sequence is listed, so at most 12."""
    n: int = option(2000)
    """Demonstrations of the imitation learners."""
    steps: int = option(300_000, quick=70_000)
    """Environment steps (tokens) that PPO trains for."""
    n_envs: int = option(128)
    """Sequences that PPO writes side by side."""
    seeds: int = option(5, quick=2)
    """Replicates of every learner."""


# -- what a policy's whole law says: distance, entropy, mode, return; all by listing every sequence --------------------

ENTROPY, MODE = "entropy rate (nats a token)", "probability of its most likely sequence"
EXPERT_LOG_PROB = "expert log-probability (nats a token)"
REVERSE_KL = "KL(policy || expert) (nats a sequence)"
SUCCESS, QUERIES = "task success", "expert queries"
#: least expert log-probability of a token, as in the environments' reward
FLOOR = -20.0


def judged(task: Task, policy: Policy, labels: dict[str, Label]) -> list[Record]:
    """The distance curve to the expert (label ``h``), and how random and how well rewarded the policy is.

    * ``hellinger2``: ``sum (sqrt P - sqrt Q)^2``, in [0, 2], at every prefix length.
    * ``ENTROPY``: of a sequence given the prompt, over H; the expert's own is what to match.
    * ``MODE``: of the sequence that the policy likes best, averaged over prompts; 1 for a point mass.
    * ``EXPERT_LOG_PROB``: mean over the policy's sequences, at least ``FLOOR`` a token. H times it is the return of
      the reward ``"expert_log_prob"``.
    * ``REVERSE_KL``: minus the return of the maximum-entropy reward, with the same floor.
    * ``SUCCESS``: its mean, where the task has one.
    """
    prompts, masses = task.prompt_law()
    tokens = all_sequences(task.vocab_size, task.horizon)
    entropy = likeliest = rewarded = succeeded = 0.0
    for prompt, mass in zip(prompts, masses, strict=True):
        same = np.tile(prompt, (len(tokens), 1))
        log_law = policy.log_probs(same, tokens).sum(axis=1)
        law = np.exp(log_law)
        entropy -= mass * _mean(law, log_law)
        likeliest += mass * float(law.max())
        rewarded += mass * _mean(law, np.maximum(task.expert.log_probs(same, tokens), FLOOR).sum(axis=1))
        if task.has_success:
            succeeded += mass * _mean(law, task.success(same, tokens))
    method = "enumeration"
    values = {
        ENTROPY: entropy / task.horizon,
        MODE: likeliest,
        EXPERT_LOG_PROB: rewarded / task.horizon,
        REVERSE_KL: 0.0 - entropy - rewarded,
        **({SUCCESS: succeeded} if task.has_success else {}),
    }
    curve = distance(task.expert, policy, task, metric="hellinger2", method=method)
    places = [({**labels, "h": h}, float(value)) for h, value in enumerate(curve.values, 1)]
    return [
        *(Record(metric, value, labels, method=method) for metric, value in values.items()),
        *(Record("hellinger2", value, place, method=method) for place, value in places),
    ]


def _mean(law: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The expectation of values that may be infinite where the law is zero."""
    return float(law @ np.where(law > 0, values, 0.0))


# -- cells: learners and rewards on tasks of a short horizon -----------------------------------------------------------

REWARDED, DAGGER, EXPERT = "rewards", "DAgger", "expert"
IMITATION = ("log-loss", "rho", DAGGER)
#: name in the study: the reward of `agents.rl.SB3Agent`
REWARDS = {"PPO, task success": "success", "PPO, expert log-prob": "expert_log_prob", "PPO, maximum entropy": "max_ent"}
#: parameters of each task; ``NoisyParity`` has a horizon of its own. Only it and Tightrope have a task success
TASKS: dict[str, dict[str, Any]] = {
    "Tightrope": {"eps": 0.05},
    "Contamination": {"eps": 0.3, "p": 0.1, "q": 0.9, "theta_min": 0.1},
    "ARLinear": {},
    "NoisyParity": {},
}


def learning_rate(left: float) -> float:
    """Of PPO, by the share of the training that is left: constant, then to zero over the second half.

    At a constant rate the policy keeps moving about the optimum: on ARLinear that costs ten times the distance.
    """
    return 3e-3 * min(1.0, 2.0 * left)


#: found on Contamination, where PPO learns last: with larger clips it stays with the majority's documents
PPO = {"learning_rate": learning_rate, "n_epochs": 4, "clip_range": 0.1}


def build_task(task: str, horizon: int) -> Task:
    """A task of the comparison."""
    sizes = {} if task == "NoisyParity" else {"horizon": horizon}
    return make_task(task, **sizes, **TASKS[task])


def fitted(task: Task, n: int, rounds: int, rollouts: int, rng: np.random.Generator) -> Iterator[tuple[str, Fit]]:
    """The imitation learners on one data set, each from the same seed; DAgger is told the task."""
    demonstrations, seed = collect(task, n, rng), int(rng.integers(1 << 31))
    for learner in IMITATION:
        told = DAgger(task, rounds=rounds, rollouts=rollouts) if learner == DAGGER else build_learner(learner, task)
        yield learner, costed_fit(told, demonstrations, task.policy_class, seed, memory=False)


def queries(agent: Agent) -> float:
    """Next-token laws that the expert was asked for."""
    return float(agent.fit_report_.details.get("expert_queries", 0))


def imitated(
    *, task: str, H: int, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The imitation learners on one data set, with the best in class and, once, the expert itself."""
    made, records = build_task(task, H), []
    for learner, fit in fitted(made, n, rounds, rollouts, rng):
        labels: dict[str, Label] = named(task, learner, made.horizon, n)
        records += judged(made, fit.agent.policy_, labels)
        records += [Record(QUERIES, queries(fit.agent), labels), *fit.records(labels)]
    if replicate == 0:
        for name, policy in ((BEST, made.best_in_class().policy), (EXPERT, made.expert)):
            records += judged(made, policy, {"task": task, "learner": name, "H": made.horizon})
    return records


def rewarded(
    *, task: str, learner: str, H: int, steps: int, n_envs: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """PPO trained for one reward."""
    from ntp_envs.torch_state import own_torch_state

    made = build_task(task, H)
    how = {"reward": REWARDS[learner], "total_timesteps": steps, "n_envs": n_envs, "model_kwargs": PPO}
    agent = make_agent("agents.rl:SB3Agent", algorithm="PPO", task=made, **how)
    with own_torch_state(threads=1):
        shapes = collect(made, 1, rng)  # only its shapes are read
        fit = costed_fit(agent, shapes, made.policy_class, int(rng.integers(1 << 31)), memory=False)
        labels: dict[str, Label] = {"task": task, "learner": learner, "H": made.horizon}
        records = judged(made, agent.policy_, labels)
    return [*records, Record(QUERIES, queries(agent), labels), *fit.records(labels)]


def cells(options: RLOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together.

    Raises:
        ValueError: PPO is asked for and stable-baselines3 is missing; before anything is run.
    """
    if options.rl:
        try:
            import agents.rl  # noqa: F401
        except ImportError as error:
            raise ValueError(f"{error} Or leave PPO out with --no-rl.") from error
    asked = {"rounds": options.rounds, "rollouts": options.rollouts}
    for replicate in range(options.seeds):
        for task in TASKS:
            for learner in learners_of(task) if options.rl else ():
                cell = {"task": task, "learner": learner, "H": options.horizon, "steps": options.steps}
                yield Cell(REWARDED, rewarded, {**cell, "n_envs": options.n_envs, "replicate": replicate})
    for replicate in range(options.seeds):
        for task in TASKS:
            cell = {"task": task, "H": options.horizon, "n": options.n, **asked, "replicate": replicate}
            yield Cell(REWARDED, imitated, cell)


def learners_of(task: str) -> list[str]:
    """The rewards that the task can give."""
    has_success = build_task(task, 4).has_success
    return [name for name, reward in REWARDS.items() if reward != "success" or has_success]


# -- what the summary says of a learner --------------------------------------------------------------------------------

#: up to this squared Hellinger distance at H the distribution counts as recovered
RECOVERED = 0.05
#: below this share of the expert's entropy a policy has collapsed
COLLAPSED = 0.25
SUCCESS_REWARD, _, MAX_ENT = REWARDS


def shown_learners(s: Summary, task: str) -> list[str]:
    """The learners that the summary has on this task, in the order of the tables."""
    return [name for name in (*REWARDS, *IMITATION, BEST) if len(s.select(ENTROPY, task=task, learner=name))]


def of(s: Summary, metric: str, task: str, learner: str) -> float:
    """The mean of a metric of the comparison."""
    return s.value(metric, task=task, learner=learner)


def whole(s: Summary, task: str) -> dict[str, Any]:
    """Where the distance of whole sequences is."""
    rows = s.select("hellinger2", task=task)
    return {"task": task, "h": max((row["h"] for row in rows), default=None)}


def reached(s: Summary, task: str, learner: str) -> float:
    """The squared Hellinger distance of whole sequences."""
    return s.value("hellinger2", learner=learner, **whole(s, task))


def verdict(s: Summary, task: str, learner: str) -> str:
    """What a reward made of the expert's distribution, in words."""
    distance = reached(s, task, learner)
    if distance <= RECOVERED:
        return "recovered"
    if of(s, ENTROPY, task, learner) < COLLAPSED * of(s, ENTROPY, task, EXPERT):
        return "collapsed"
    if distance < min(reached(s, task, name) for name in ("log-loss", BEST)):
        return "nearer than log-loss and the best in class, not recovered within the budget"
    return "not recovered"


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(o: RLOptions, s: Summary) -> Iterator[Table]:
    """The distance of every learner, and all of it on each task."""
    learners = [(name, {"learner": name}) for name in (*REWARDS, *IMITATION, BEST, EXPERT)]
    squared = "Squared Hellinger distance sum (sqrt P - sqrt Q)^2 at H"
    note = f"{squared}, in [0, 2]. {intervals_over(s.select('hellinger2'))}."
    ends = [(task, whole(s, task)) for task in TASKS]
    yield pivot(s, "Distance to the expert", "hellinger2", learners[:-1], ends, digits=2, note=note)
    for task in TASKS:
        heads = {ENTROPY: "entropy rate", MODE: "P(mode)", EXPERT_LOG_PROB: "expert log-prob", REVERSE_KL: "reverse KL"}
        if len(s.select(SUCCESS, task=task)):
            heads[SUCCESS] = "success"
        place: dict[str, Any] = {"task": task, "bare": True}
        columns = [
            ("D_H^2", whole(s, task)),
            *((head, {**place, "metric": metric}) for metric, head in heads.items()),
            (QUERIES, {**place, "metric": QUERIES, "digits": 9}),
            ("seconds", {**place, "metric": SECONDS, "timing": True, "digits": 2}),
        ]
        note = (
            f"{squared}; entropy and expert log-probability in nats a token, reverse KL in nats a sequence, expert "
            f"log-probabilities at least -20 a token. {intervals_over(s.select('hellinger2', task=task))}."
        )
        yield pivot(s, task, "hellinger2", learners, columns, note=note)


# -- figures -----------------------------------------------------------------------------------------------------------

#: colour, marker and dashes of the learners of this study; solid for rewards, broken for imitation. Markers shrink in
#: the order of drawing, so that lines that coincide show all of them
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": colour, "marker": marker, "linestyle": dashes, "markersize": size}
    for name, colour, marker, dashes, size in (
        *zip(
            REWARDS, (charts.COLOURS[hue] for hue in ("grey", "purple", "green")), "vDo", "---", (10, 7, 4), strict=True
        ),
        ("log-loss", charts.COLOURS["vermilion"], "o", "--", 10),
        ("rho", charts.COLOURS["blue"], "s", "--", 7),
        (DAGGER, "#7A4B00", "^", "--", 4),
        (BEST, charts.COLOURS["black"], "", ":", 5),
    )
}


def curve_figure(s: Summary) -> charts.Figure:
    """The distance curve of every learner, a panel for each task."""
    tasks = {name: [task for task in TASKS if name in shown_learners(s, task)] for name in REWARDS}
    title = "Which rewards recover the expert's distribution?"
    if not any(tasks.values()):
        title = "How far are the imitation learners from the expert?"
    elif [name for name in REWARDS if all(reached(s, task, name) <= RECOVERED for task in tasks[name])] == [MAX_ENT]:
        title = "Only the maximum-entropy reward recovers the expert's distribution on every task"
    figure, panels = task_panels(s, title, "prefix length h", charts.DISTANCE)
    for axes, task in zip(panels, TASKS, strict=True):
        for name in shown_learners(s, task):
            series = s.series("h", "hellinger2", task=task, learner=name)
            charts.plot_series(axes, series, name, **LOOKS[name], label=name)
    panels[0].set_ylim(-0.03, None)
    charts.legend_below(figure, LOOKS, size=9)
    return figure


def entropy_figure(s: Summary) -> charts.Figure:
    """A dot for each learner and task at its entropy rate, with the expert's as a line."""
    title = "Is the policy as random as the expert?"
    figure, panels = task_panels(s, title, "entropy rate (nats a token)", "", height=4.2)
    learners = [name for name in LOOKS if any(name in shown_learners(s, task) for task in TASKS)]
    heights = charts.name_rows(panels[0], {name: LOOKS[name]["color"] for name in learners})
    small: dict[str, Any] = {"va": "center", "fontsize": 8.5}
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for axes, task in zip(panels, TASKS, strict=True):
        expert = mark_expert(axes, s, ENTROPY, task)
        for learner, height in heights.items():
            for row in s.select(ENTROPY, task=task, learner=learner):
                words = f"{of(s, MODE, task, learner):.2g}"
                charts.interval_dot(axes, row, height, LOOKS[learner]["color"], words, fontsize=8.5, bbox=white)
        axes.set_xlim(-0.03, 0.87)
        axes.grid(visible=False, axis="y")
        if SUCCESS_REWARD in learners and SUCCESS_REWARD not in shown_learners(s, task):
            axes.annotate("(no success)", (0.0, heights[SUCCESS_REWARD]), **small, color=charts.COLOURS["grey"])
        top, words = (expert, len(learners) + 0.75), f"expert, {of(s, MODE, task, EXPERT):.2g}"
        side: dict[str, Any] = {"xytext": (4, 0)} if expert < 0.4 else {"xytext": (-4, 0), "ha": "right"}
        axes.annotate(words, top, textcoords="offset points", **side, **small)
    charts.say(figure, "numbers: probability of the most likely sequence; broad lines: 95 % intervals")
    panels[0].set_ylim(0.4, len(learners) + 1.1)
    return figure


def return_figure(s: Summary) -> charts.Figure:
    """Distance at H against the return of the reward "expert log-probability", the expert's own as a line."""
    title = "Does more expert log-probability mean more of the expert's distribution?"
    figure, panels = task_panels(s, title, EXPERT_LOG_PROB, charts.DISTANCE)
    for axes, task in zip(panels, TASKS, strict=True):
        mark_expert(axes, s, EXPERT_LOG_PROB, task)
        for learner in (name for name in shown_learners(s, task) if name != BEST):
            (reward,) = s.select(EXPERT_LOG_PROB, task=task, learner=learner)
            last, look = s.select("hellinger2", learner=learner, **whole(s, task)), LOOKS[learner]
            axes.plot([reward.lower, reward.upper], [last[0].mean] * 2, color=look["color"], linewidth=1.5)
            size = {"markersize": look["markersize"] + 1, "elinewidth": 1.5, "capsize": 0}
            charts.errorbars(axes, [reward.mean], last, look["color"], marker=look["marker"], **size, label=learner)
        axes.margins(x=0.2)
    panels[0].set_ylim(-0.06, None)
    charts.legend_below(figure, LOOKS, size=9)
    return figure


def task_panels(
    s: Summary, title: str, xlabel: str, ylabel: str, *, height: float = 4.8
) -> tuple[charts.Figure, list[charts.Axes]]:
    """A panel for each task."""
    figure, panels = charts.new_panels(title, [xlabel] * len(TASKS), ylabel, size=(13.0, height), titles=TASKS)
    charts.say_data(figure, s.select("hellinger2"))
    return figure, panels


def mark_expert(axes: charts.Axes, s: Summary, metric: str, task: str) -> float:
    """The expert's own number, as a line."""
    expert = of(s, metric, task, EXPERT)
    axes.axvline(expert, color=charts.COLOURS["black"], linestyle="--", linewidth=1.2, zorder=1)
    return expert


def figures(o: RLOptions, s: Summary) -> list[FigureSpec]:
    """Distances, entropies and returns."""
    over = interval_words(o.seeds)
    question, words = "How far are the imitation learners from the expert?", "Without PPO (--no-rl). Distance curves"
    deterministic = ""
    if o.rl:
        question, words = "Which rewards recover the expert's distribution?", "Distance curves"
        deterministic = (
            " The expert of Tightrope is deterministic, so there every reward that makes sense recovers it; elsewhere "
            "the expert's log-probability is maximised by one sequence, and task success by any sequence that succeeds."
        )
    return [
        FigureSpec("headline", question, f"{words} at each h. {over}.{deterministic}", lambda: curve_figure(s)),
        FigureSpec(
            "entropy",
            "Which policies collapse to a mode?",
            f"Entropy rate. {over}; dashed: the expert's. The numbers are the probability of the policy's most likely "
            "sequence: 1 is a point mass.",
            lambda: entropy_figure(s),
        ),
        FigureSpec(
            "return",
            "Does a higher return mean nearer to the expert?",
            f"{over}; dashed: what the expert itself scores. Its distribution is at the bottom of that line; a higher "
            "score is farther away, as is a lower one.",
            lambda: return_figure(s),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def findings(o: RLOptions, s: Summary) -> Iterator[str]:
    """A sentence for each reward, one on success, and one on the learners that are bound to the class."""
    for learner in REWARDS:
        words = [
            f"{task} {verdict(s, task, learner)} (D_H^2 {number(reached(s, task, learner), 2)}, "
            f"entropy rate {of(s, ENTROPY, task, learner):.2g} of {of(s, ENTROPY, task, EXPERT):.2g}, "
            f"P(mode) {of(s, MODE, task, learner):.2g} of {of(s, MODE, task, EXPERT):.2g})"
            for task in TASKS
            if learner in shown_learners(s, task)
        ]
        if words:
            yield f"{learner}: {'; '.join(words)}."
    task = "NoisyParity"
    if SUCCESS_REWARD in shown_learners(s, task):
        score, expert = (of(s, SUCCESS, task, name) for name in (SUCCESS_REWARD, EXPERT))
        yield (
            f"Rewarded for success on {task} PPO succeeds in {score:.1%} of its sequences, the expert in {expert:.1%}; "
            f"D_H^2 is {reached(s, task, SUCCESS_REWARD):.3g}, that of log-loss {reached(s, task, 'log-loss'):.3g}."
        )
    within = [
        f"{task} {', '.join(f'{name} {number(reached(s, task, name), 3)}' for name in (*IMITATION, BEST))}"
        for task in TASKS
    ]
    yield (
        f"Imitation within the class, D_H^2 at H: {'; '.join(within)}. PPO's network is not bound to the class, so it "
        "may pass the best in class."
    )


STUDY = Study(
    name="rl",
    question="Which rewards recover the expert's distribution, and which collapse to its mode?",
    options=RLOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
)
