"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math

from experiments.fits import SECONDS
from experiments.learners import BEST
from experiments.statistics import interval_words
from experiments.studies.rl.drawings import (
    SUCCESS_REWARD,
    cost_figure,
    curve_figure,
    entropy_figure,
    return_figure,
    shown_learners,
)
from experiments.studies.rl.measures import ENTROPY, EXPERT_LOG_PROB, MODE, REVERSE_KL, SUCCESS
from experiments.studies.rl.options import RLOptions
from experiments.studies.rl.sweep import (
    CLOSED_FORMS,
    COST,
    COSTS,
    DAGGER,
    EXPERT,
    IMITATION,
    QUERIES,
    REWARDED,
    REWARDS,
    TASKS,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived, intervals_over, slope_rows
from experiments.tables import Table, number, with_interval

__all__ = ["GAP", "SLOPE", "analyse"]

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
