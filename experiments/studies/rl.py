"""Which rewards recover the expert's distribution, and what does asking the expert save?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import Agent, make_agent
from agents.interactive import DAgger
from experiments.cells import Cell, Label, Record
from experiments.charts import DISTANCE, Line, draw_lines, plain_log_axis, room_for_labels
from experiments.measure import BEST, SECONDS, build_learner, check_distinct, costed_fit, named
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import (
    Series,
    Summary,
    SummaryRow,
    Table,
    derived,
    interval_words,
    intervals_over,
    number,
    slope_rows,
    with_interval,
)
from ntp_envs import Policy, Task, collect, distance, make_task
from ntp_envs.arrays import all_sequences
from ntp_envs.checks import check_int, check_probability

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RLOptions:
    """Sizes of the sweep; the defaults are the full study."""

    rl: bool = True
    """Train PPO, which needs stable-baselines3 (the extra ``rl``); without it the other learners and the cost run."""
    horizon: int = 8
    """Horizon H of the comparison of rewards; every sequence is listed, so at most 12."""
    n: int = 2000
    """Demonstrations of the imitation learners."""
    steps: int = 300_000
    """Environment steps (tokens) that PPO trains for."""
    n_envs: int = 128
    """Sequences that PPO writes side by side."""
    seeds: int = 5
    """Replicates of every learner, in both parts."""
    horizons: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Horizons of the cost on Tightrope."""
    eps: float = 1e-3
    """Slip probability there."""
    rollouts: int = 200
    """Sequences that DAgger writes in each of its rounds."""
    rounds: int = 10
    """Rounds of DAgger."""

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=4, maximum=12)
        for name in ("n", "steps", "n_envs", "seeds", "rollouts", "rounds"):
            check_int(name, getattr(self, name), minimum=1)
        check_distinct("horizons", self.horizons, minimum=2)
        if check_probability("eps", self.eps) >= 0.5:
            raise ValueError(f"eps={self.eps} must be below 1/2.")

    @classmethod
    def quick(cls) -> RLOptions:
        """One to two minutes on two cores."""
        return cls(steps=160_000, seeds=2)


# -- What a policy's whole law says: distance, entropy, mode, return. Everything by listing all sequences -------------


ENTROPY = "entropy rate (nats a token)"
MODE = "probability of its most likely sequence"
EXPERT_LOG_PROB = "expert log-probability (nats a token)"
REVERSE_KL = "KL(policy || expert) (nats a sequence)"
SUCCESS = "task success"
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
    records = [Record(metric, value, labels, method=method) for metric, value in values.items()]
    curve = distance(task.expert, policy, task, metric="hellinger2", method=method)
    records += [
        Record("hellinger2", float(value), {**labels, "h": h}, method=method) for h, value in enumerate(curve.values, 1)
    ]
    return records


def _mean(law: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The expectation of values that may be infinite where the law is zero."""
    return float(law @ np.where(law > 0, values, 0.0))


# -- The cells of the study: learners and rewards on tasks of a short horizon, and the cost of a slip on Tightrope ----


REWARDED, COSTS = "rewards", "cost"
DAGGER, EXPERT = "DAgger", "expert"
IMITATION = ("log-loss", "rho", DAGGER)
#: name in the study: the reward of `agents.rl.SB3Agent`
REWARDS = {
    "PPO, task success": "success",
    "PPO, expert log-prob": "expert_log_prob",
    "PPO, maximum entropy": "max_ent",
}
#: parameters of each task; ``NoisyParity`` has a horizon of its own. Only it and Tightrope have a task success
TASKS: dict[str, dict[str, Any]] = {
    "Tightrope": {"eps": 0.05},
    "Contamination": {"eps": 0.3, "p": 0.1, "q": 0.9, "theta_min": 0.1},
    "ARLinear": {},
    "NoisyParity": {},
}
COST = "expected cost"
QUERIES = "expert queries"
#: where the cost of each learner should lie, and the method of the task that gives it
CLOSED_FORMS = {"closed form, never back": "bc_cost", "closed form, back at once": "dagger_cost"}


def learning_rate(left: float) -> float:
    """Of PPO, by the share of the training that is left: constant, then to zero over the second half.

    At a constant rate the policy keeps moving about the optimum: on ARLinear that costs ten times the distance.
    """
    return 3e-3 * min(1.0, 2.0 * left)


#: found on Contamination, where PPO learns last: with larger clips it stays with the majority's documents
PPO = {"learning_rate": learning_rate, "n_epochs": 4, "clip_range": 0.1}


def check_stable_baselines3() -> None:
    """Raises:
    ValueError: it is missing; names the extra that brings it, and how to go without.
    """
    try:
        import agents.rl  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error} Or leave PPO out with --no-rl.") from error


def build_task(task: str, horizon: int) -> Task:
    """A task of the comparison."""
    sizes = {} if task == "NoisyParity" else {"horizon": horizon}
    return make_task(task, **sizes, **TASKS[task])


def build(learner: str, task: Task, rounds: int, rollouts: int) -> Agent:
    """An imitation learner; DAgger is told the task."""
    return DAgger(task, rounds=rounds, rollouts=rollouts) if learner == DAGGER else build_learner(learner, task)


def queries(agent: Agent) -> float:
    """Next-token laws that the expert was asked for."""
    return float(agent.fit_report_.details.get("expert_queries", 0))


def imitated(
    *, task: str, H: int, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The imitation learners on one data set, with the best in class and, once, the expert itself."""
    made = build_task(task, H)
    demonstrations = collect(made, n, rng)
    seed = int(rng.integers(1 << 31))
    records = []
    for learner in IMITATION:
        fit = costed_fit(build(learner, made, rounds, rollouts), demonstrations, made.policy_class, seed, memory=False)
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
    from agents.torch_state import own_torch_state

    made = build_task(task, H)
    agent = make_agent(
        "agents.rl:SB3Agent",
        algorithm="PPO",
        task=made,
        reward=REWARDS[learner],
        total_timesteps=steps,
        n_envs=n_envs,
        model_kwargs=PPO,
    )
    with own_torch_state(threads=1):
        shapes = collect(made, 1, rng)  # only its shapes are read
        fit = costed_fit(agent, shapes, made.policy_class, int(rng.integers(1 << 31)), memory=False)
        labels: dict[str, Label] = {"task": task, "learner": learner, "H": made.horizon}
        records = judged(made, agent.policy_, labels)
    return [*records, Record(QUERIES, queries(agent), labels), *fit.records(labels)]


def costs(
    *, H: int, eps: float, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The exact expected cost of each learner on Tightrope where one can climb back, with its closed forms."""
    made = make_task("Tightrope", horizon=H, eps=eps, recoverable=True)
    demonstrations = collect(made, n, rng)
    seed = int(rng.integers(1 << 31))
    records = []
    for learner in IMITATION:
        agent = build(learner, made, rounds, rollouts)
        agent.fit(demonstrations, made.policy_class, rng=np.random.default_rng(seed))
        labels = named("Tightrope", learner, H, n)
        cost = made.expected_cost(agent.policy_)  # type: ignore[attr-defined]
        records.append(Record(COST, cost, labels, method="automaton"))
        records.append(Record(QUERIES, queries(agent), labels))
    if replicate == 0:
        for name, method in CLOSED_FORMS.items():
            labels = {"task": "Tightrope", "learner": name, "H": H}
            records.append(Record(COST, getattr(made, method)(), labels, method="closed form"))
    return records


def cells(options: RLOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together.

    Raises:
        ValueError: PPO is asked for and stable-baselines3 is missing; before anything is run.
    """
    if options.rl:
        check_stable_baselines3()
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
        for H in options.horizons:
            cell = {"H": H, "eps": options.eps, "n": options.n, **asked, "replicate": replicate}
            yield Cell(COSTS, costs, cell)


def learners_of(task: str) -> list[str]:
    """The rewards that the task can give."""
    has_success = build_task(task, 4).has_success
    return [name for name, reward in REWARDS.items() if reward != "success" or has_success]


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


SUCCESS_REWARD = next(iter(REWARDS))


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of the learners of this study; solid for rewards, broken for imitation.

    Markers shrink in the order of drawing, so that lines that coincide show all of them.
    """
    from experiments.charts import COLOURS

    success, mode, law = REWARDS
    return {
        success: {"color": COLOURS["grey"], "marker": "v", "markersize": 10},
        mode: {"color": COLOURS["purple"], "marker": "D", "markersize": 7},
        law: {"color": COLOURS["green"], "marker": "o", "markersize": 4},
        "log-loss": {"color": COLOURS["vermilion"], "marker": "o", "linestyle": "--", "markersize": 10},
        "rho": {"color": COLOURS["blue"], "marker": "s", "linestyle": "--", "markersize": 7},
        DAGGER: {"color": "#7A4B00", "marker": "^", "linestyle": "--", "markersize": 4},
        BEST: {"color": COLOURS["black"], "marker": "", "linestyle": ":"},
    }


def shown_learners(summary: Summary, task: str) -> list[str]:
    """The learners that the summary has on this task, in the order of the tables."""
    return [name for name in (*REWARDS, *IMITATION, BEST) if len(summary.select(ENTROPY, task=task, learner=name))]


def curve_figure(summary: Summary, title: str) -> Figure:
    """The distance curve of every learner, a panel for each task."""
    from experiments.charts import new_panels, say_band

    figure, panels = new_panels(
        title,
        ["prefix length h"] * len(TASKS),
        DISTANCE,
        size=(13.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        for learner in shown_learners(summary, task):
            series = summary.series("h", "hellinger2", part=REWARDED, task=task, learner=learner)
            look = looks()[learner]
            (names[learner],) = axes.plot(series.x, series.mean, **look, label=learner)
            axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.2, linewidth=0)
            say_band(axes, "each h")
    order = [name for name in looks() if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=9)
    panels[0].set_ylim(-0.03, None)
    return figure


def entropy_figure(summary: Summary) -> Figure:
    """A dot for each learner and task at its entropy rate, with the expert's as a line."""
    from experiments.charts import COLOURS, new_panels

    figure, panels = new_panels(
        "Is the policy as random as the expert? (numbers: probability of its most likely sequence)",
        ["entropy rate (nats a token)"] * len(TASKS),
        "",
        size=(13.0, 4.2),
    )
    learners = [name for name in looks() if any(name in shown_learners(summary, task) for task in TASKS)]
    heights = {name: len(learners) - place for place, name in enumerate(learners)}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        expert = summary.value(ENTROPY, part=REWARDED, task=task, learner=EXPERT)
        axes.axvline(expert, color=COLOURS["black"], linestyle="--", linewidth=1.2)
        for learner in learners:
            for row in summary.select(ENTROPY, part=REWARDED, task=task, learner=learner):
                colour, height = looks()[learner]["color"], heights[learner]
                axes.plot([row.lower, row.upper], [height] * 2, color=colour, linewidth=6, alpha=0.35)
                axes.plot([row.mean], [height], "o", color=colour, markersize=7)
                mode = summary.value(MODE, part=REWARDED, task=task, learner=learner)
                axes.annotate(
                    f"{mode:.2g}",
                    (row.top, height),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=colour,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
                )
        axes.set_xlim(-0.03, 0.87)
        axes.grid(visible=False, axis="y")
        if SUCCESS_REWARD in learners and SUCCESS_REWARD not in shown_learners(summary, task):
            at = heights[SUCCESS_REWARD]
            axes.annotate("(no success)", (0.0, at), va="center", fontsize=8.5, color=COLOURS["grey"])
        axes.annotate(
            f"expert, {summary.value(MODE, part=REWARDED, task=task, learner=EXPERT):.2g}",
            (expert, len(learners) + 0.75),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    panels[0].set_ylim(0.4, len(learners) + 1.1)
    panels[0].set_yticks(list(heights.values()), labels=list(heights))
    for label, name in zip(panels[0].get_yticklabels(), heights, strict=True):
        label.set(color=looks()[name]["color"], fontweight="bold", fontsize=9)
    return figure


def return_figure(summary: Summary) -> Figure:
    """Distance at H against the return of the reward "expert log-probability", the expert's own as a line."""
    from experiments.charts import COLOURS, new_panels

    figure, panels = new_panels(
        "More expert log-probability than the expert has means less of its distribution",
        ["expert log-probability (nats a token)"] * len(TASKS),
        DISTANCE,
        size=(13.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        expert = summary.value(EXPERT_LOG_PROB, part=REWARDED, task=task, learner=EXPERT)
        axes.axvline(expert, color=COLOURS["black"], linestyle="--", linewidth=1.2, zorder=1)
        for learner in (name for name in shown_learners(summary, task) if name != BEST):
            (reward,) = summary.select(EXPERT_LOG_PROB, part=REWARDED, task=task, learner=learner)
            curve = summary.select("hellinger2", part=REWARDED, task=task, learner=learner)
            last = max(curve, key=lambda row: row["h"])
            look = looks()[learner]
            axes.plot([reward.lower, reward.upper], [last.mean] * 2, color=look["color"], linewidth=1.5)
            axes.plot([reward.mean] * 2, [last.lower, last.upper], color=look["color"], linewidth=1.5)
            style = {**look, "linestyle": "", "markersize": look["markersize"] + 1}
            (names[learner],) = axes.plot([reward.mean], [last.mean], **style)
        axes.margins(x=0.2)
    order = [name for name in looks() if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=9)
    panels[0].set_ylim(-0.06, None)
    return figure


def cost_figure(summary: Summary) -> Figure:
    """Expected cost against H, with the closed forms as lines under the points of the learners."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    figure, axes = new_figure(
        "The same distance, another cost: quadratic for cloning, linear for DAgger",
        "horizon H",
        "expected steps off the rope",
        size=(8.2, 4.8),
    )

    def of(learner: str) -> Series:
        return summary.series("H", COST, part=COSTS, learner=learner)

    worse, better = CLOSED_FORMS
    horizons = [float(H) for H in of(worse).x]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], 4.5)
    axes.set_yscale("log")
    look: dict[str, Any] = {"linestyle": "", "markersize": 8}
    lines = [
        Line(of(worse), worse, "sum of 1 - (1 - eps)^h", color=COLOURS["grey"], marker="", linestyle="-"),
        Line(of(better), better, "", color=COLOURS["grey"], marker="", linestyle="-"),
        Line(of("log-loss"), "log-loss", "", **{**look, "markersize": 11}),
        Line(of("rho"), "rho", "", **{**look, "markersize": 5}),
        Line(of(DAGGER), DAGGER, "", **{**look, "color": looks()[DAGGER]["color"], "marker": "^"}),
    ]
    draw_lines(axes, lines[1:2] + lines[:1] + lines[2:], limits=plain_log_axis)
    axes.annotate(
        "about eps H",
        (horizons[-1], float(of(better).mean[-1])),
        xytext=(9, 0),
        textcoords="offset points",
        color=COLOURS["grey"],
        fontweight="bold",
        fontsize=10,
        va="center",
    )
    middle = len(horizons) // 2
    for learner, label, shift in (("log-loss", "log-loss and rho", 16), (DAGGER, "DAgger", -16)):
        series = of(learner)
        if len(series.x) and np.isfinite(series.mean).all():
            axes.annotate(
                label,
                (series.x[middle], series.mean[middle]),
                xytext=(0, shift),
                textcoords="offset points",
                color=looks()[learner]["color"],
                fontweight="bold",
                ha="right" if shift > 0 else "left",
                va="center",
            )
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


SLOPE = "slope of log cost in log H"
GAP = "largest relative gap to the closed form"
#: up to this squared Hellinger distance at H the distribution counts as recovered
RECOVERED = 0.05
#: below this share of the expert's entropy a policy has collapsed
COLLAPSED = 0.25
NOT_MEASURED = derived(REWARDED, "hellinger2", math.nan, "")
NEVER_BACK, BACK = CLOSED_FORMS
#: the closed form that each learner should be on
FORMS = {"log-loss": NEVER_BACK, "rho": NEVER_BACK, DAGGER: BACK}


def final(summary: Summary, task: str, learner: str) -> list[SummaryRow]:
    """The row of the squared Hellinger distance at the full length."""
    rows = summary.select("hellinger2", part=REWARDED, task=task, learner=learner)
    return sorted(rows, key=lambda row: row["h"])[-1:]


def distance_at_end(summary: Summary, task: str, learner: str) -> float:
    """Its mean, or ``nan``."""
    rows = final(summary, task, learner)
    return rows[0].mean if rows else math.nan


def of(summary: Summary, metric: str, task: str, learner: str) -> float:
    """The mean of a metric of the comparison."""
    return summary.value(metric, part=REWARDED, task=task, learner=learner)


def distance_table(summary: Summary) -> Table:
    """The distance at H of every learner on every task."""
    shown = {task: shown_learners(summary, task) for task in TASKS}
    lines = []
    for learner in (*REWARDS, *IMITATION, BEST):
        cells = [
            with_interval(row.mean, row.lower, row.upper, 2)
            for task in TASKS
            for row in final(summary, task, learner) or [NOT_MEASURED]
        ]
        if any(learner in names for names in shown.values()):
            lines.append([learner, *cells])
    over = intervals_over(row for task in TASKS for name in shown[task] for row in final(summary, task, name))
    note = f"Squared Hellinger distance sum (sqrt P - sqrt Q)^2 at H, in [0, 2]. {over}."
    return Table("Distance to the expert", ["learner", *TASKS], lines, note)


def comparison_table(summary: Summary, task: str) -> Table:
    """Every learner on one task."""
    heads = {ENTROPY: "entropy rate", MODE: "P(mode)", EXPERT_LOG_PROB: "expert log-prob", REVERSE_KL: "reverse KL"}
    if len(summary.select(SUCCESS, part=REWARDED, task=task)):
        heads[SUCCESS] = "success"
    lines = []
    for learner in [*shown_learners(summary, task), EXPERT]:
        cells = [with_interval(row.mean, row.lower, row.upper) for row in final(summary, task, learner)] or ["-"]
        cells += [number(of(summary, metric, task, learner), 3) for metric in heads]
        queries = of(summary, QUERIES, task, learner)
        seconds = summary.timings.value(SECONDS, part=REWARDED, task=task, learner=learner)
        cells += [f"{queries:,.0f}" if math.isfinite(queries) else "-", number(seconds, 2)]
        lines.append([learner, *cells])
    note = (
        "Squared Hellinger distance sum (sqrt P - sqrt Q)^2 at H; entropy and expert log-probability in nats a "
        "token, reverse KL in nats a sequence, expert log-probabilities at least -20 a token. "
        f"{intervals_over(row for name in shown_learners(summary, task) for row in final(summary, task, name))}."
    )
    return Table(task, ["learner", "D_H^2", *heads.values(), "expert queries", "seconds"], lines, note)


def cost_table(summary: Summary) -> Table:
    """Expected cost of every learner and the closed forms."""
    horizons = summary.distinct("H", part=COSTS)
    lines = [
        [name, *(number(summary.value(COST, part=COSTS, learner=name, H=H), 5) for H in horizons)]
        for name in (*FORMS, *CLOSED_FORMS)
    ]
    note = "Steps off the rope, exact for the policy learned (forward recursion); means over replicates."
    return Table("Cost on Tightrope, recoverable", ["learner", *(f"H={H}" for H in horizons)], lines, note)


def cost_rows(summary: Summary) -> list[SummaryRow]:
    """The slope of each learner's cost, and how far the worst of its means is from its closed form."""
    rows = []
    for learner, form in FORMS.items():
        found = summary.series("H", COST, part=COSTS, learner=learner)
        wanted = summary.series("H", COST, part=COSTS, learner=form)
        if not len(found.x) or list(found.x) != list(wanted.x):
            continue  # a cell failed
        labels = {"task": "Tightrope", "learner": learner}
        gap = float(abs(found.mean / wanted.mean - 1).max())
        rows.append(derived(COSTS, GAP, gap, "over the horizons", **labels))
        rows += slope_rows(summary.select(COST, part=COSTS, learner=learner), "H", SLOPE)
    return rows


def verdict(summary: Summary, task: str, learner: str) -> str:
    """What a reward made of the expert's distribution, in words."""
    reached = distance_at_end(summary, task, learner)
    entropy, expert = (of(summary, ENTROPY, task, name) for name in (learner, EXPERT))
    if reached <= RECOVERED:
        return "recovered"
    if entropy < COLLAPSED * expert:
        return "collapsed"
    if reached < min(distance_at_end(summary, task, name) for name in ("log-loss", BEST)):
        return "nearer than log-loss and the best in class, not recovered within the budget"
    return "not recovered"


def reward_findings(summary: Summary) -> list[str]:
    """A sentence for each reward, one on success, and one on the learners that are bound to the class."""
    said = []
    for learner in REWARDS:
        words = [
            f"{task} {verdict(summary, task, learner)} (D_H^2 {number(distance_at_end(summary, task, learner), 2)}, "
            f"entropy rate {of(summary, ENTROPY, task, learner):.2g} of {of(summary, ENTROPY, task, EXPERT):.2g}, "
            f"P(mode) {of(summary, MODE, task, learner):.2g} of {of(summary, MODE, task, EXPERT):.2g})"
            for task in TASKS
            if learner in shown_learners(summary, task)
        ]
        if words:
            said.append(f"{learner}: {'; '.join(words)}.")
    task = "NoisyParity"
    if SUCCESS_REWARD in shown_learners(summary, task):
        score, expert = (of(summary, SUCCESS, task, name) for name in (SUCCESS_REWARD, EXPERT))
        said.append(
            f"Rewarded for success on {task} PPO succeeds in {score:.1%} of its sequences, the expert in {expert:.1%}; "
            f"D_H^2 is {distance_at_end(summary, task, SUCCESS_REWARD):.3g}, that of log-loss "
            f"{distance_at_end(summary, task, 'log-loss'):.3g}."
        )
    words = [
        f"{task} "
        + ", ".join(f"{name} {number(distance_at_end(summary, task, name), 3)}" for name in (*IMITATION, BEST))
        for task in TASKS
    ]
    said.append(
        f"Imitation within the class, D_H^2 at H: {'; '.join(words)}. PPO's network is not bound to the class, so it "
        "may pass the best in class."
    )
    return said


def cost_findings(rows: list[SummaryRow], summary: Summary) -> list[str]:
    """The cost at the largest horizon, the slopes and the gaps."""
    horizons = summary.distinct("H", part=COSTS)
    values = {(row["learner"], row.metric): row.mean for row in rows}
    if not values:
        return []
    top = max(horizons)
    words = []
    for learner, form in FORMS.items():
        if (learner, GAP) not in values:
            continue  # a cell failed
        cost, wanted = (summary.value(COST, part=COSTS, learner=name, H=top) for name in (learner, form))
        words.append(
            f"{learner} {number(cost, 5)} (closed form {number(wanted, 5)}; slope in H "
            f"{number(values.get((learner, SLOPE), math.nan), 3)}; largest gap {values[learner, GAP]:.2g})"
        )
    gap = max(values[learner, GAP] for learner in FORMS if (learner, GAP) in values)
    kept = "all within 5 % of the closed forms" if gap <= 0.05 else f"not within 5 % of the closed forms ({gap:.0%})"
    queries = summary.value(QUERIES, part=COSTS, learner=DAGGER, H=top)
    return [
        f"Tightrope where one can climb back, expected cost at H={top}: {'; '.join(words)}: {kept}. DAgger asked "
        f"the expert {queries:,.0f} times there. The class has two members, equally far from the expert; cloning "
        "cannot tell them apart and takes the first, DAgger sees the difference after its first slip."
    ]


def analyse(options: RLOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    rows = cost_rows(summary)
    headline = (
        FigureSpec(
            "headline",
            "Which rewards recover the expert's distribution?",
            f"Distance curves at each h. {interval_words(options.seeds)}. The expert of Tightrope is deterministic, "
            "so there every reward that makes sense recovers it; elsewhere the expert's log-probability is maximised "
            "by one sequence, and task success by any sequence that succeeds.",
            lambda: curve_figure(summary, "Only the maximum-entropy reward aims at the expert's distribution"),
        )
        if options.rl
        else FigureSpec(
            "headline",
            "How far are the imitation learners from the expert?",
            f"Without PPO (--no-rl). Distance curves at each h. {interval_words(options.seeds)}.",
            lambda: curve_figure(summary, "How far are the imitation learners from the expert?"),
        )
    )
    figures = [
        headline,
        FigureSpec(
            "entropy",
            "Which policies collapse to a mode?",
            f"Entropy rate. {interval_words(options.seeds)}; dashed: the expert's. The numbers are the probability of "
            "the policy's most likely sequence: 1 is a point mass.",
            lambda: entropy_figure(summary),
        ),
        FigureSpec(
            "return",
            "Does a higher return mean nearer to the expert?",
            f"{interval_words(options.seeds)}; dashed: what the expert itself scores. Its distribution is at the "
            "bottom of that line; a higher score is farther away, as is a lower one.",
            lambda: return_figure(summary),
        ),
        FigureSpec(
            "cost",
            "What does asking the expert save?",
            "Exact expected cost of the learned policies on the Tightrope that can be climbed back on; lines: closed "
            "forms.",
            lambda: cost_figure(summary),
        ),
    ]
    tables = [distance_table(summary), *(comparison_table(summary, task) for task in TASKS), cost_table(summary)]
    findings = [*reward_findings(summary), *cost_findings(rows, summary)]
    return Analysis(rows=rows, tables=tables, figures=figures, findings=findings)


STUDY = Study(
    name="rl",
    question="Which rewards recover the expert's distribution, which collapse to its mode, and what does DAgger save?",
    options=RLOptions,
    cells=cells,
    analyse=analyse,
)
