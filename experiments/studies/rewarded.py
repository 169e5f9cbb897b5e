"""Why rewarded answers grow: where few demonstrations hold a chain of thought, keeping right answers favours chains.

Answers without the chain of `ParityMix` are guesses, so what is kept of a learner's own samples has a larger share of
chains than they had. Every share has a closed form. What the chain itself has to be: `experiments.studies.length`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure
from experiments.panels import Curve, Guide, Panel, chart
from experiments.studies.length import CLOSED, SAMPLED, closed_forms, learned
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, interval_words, intervals_over, pivot
from ntp_envs import Demonstrations, GreedyPolicy, Policy, collect
from ntp_envs.tasks import ParityMix
from ntp_envs.tasks.parity import GREEDY_THRESHOLD, filtered_share, rounds_to_pass


@dataclass(frozen=True)
class RewardedOptions(Options):
    bits: int = option(5, least=4)
    """Bits d of ParityMix, at least 4."""
    shares: tuple[float, ...] = option(
        (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.32, 0.35, 0.4, 0.5, 0.6),
        quick=(0.1, 0.2, 0.3, 0.35, 0.4, 0.6),
        above=0.0,
        below=1.0,
    )
    """Shares p of chains whose accuracy is measured."""
    starts: tuple[float, ...] = option((0.01, 0.05, 0.1), above=0.0, below=1.0)
    """Shares p from which filtered rounds start."""
    rounds: int = option(8)
    """Filtered rounds."""
    n: int = option(100_000, quick=30_000, least=100)
    """Demonstrations, and samples a round."""
    seeds: int = option(10, quick=3)
    """Data sets, in both parts."""
    fresh: int = option(4000)
    """Fresh prompts that accuracies are measured on."""


# -- cells: what is learned from a share of chains, and its growth under a filter --------------------------------------

MIX, ROUNDS = "mix", "rounds"
GREEDY, SHARE, LENGTH = "answer right, greedy", "share of chains", "length of an answer"
PASSED = "rounds until the share of chains is above 1/3"
TOLERANCE = 1e-4  # of a fit, in nats a sequence: rare chains count


def mix_accuracy(*, p: float, d: int, n: int, fresh: int, replicate: int, rng: Generator) -> list[Record]:
    """Sampled and greedy accuracy, and length, after demonstrations with a share p of chains."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng, TOLERANCE)
    records = judged(task, policy, fresh, {"task": task.name, "learner": "log-loss", "n": n, "p": p}, rng)
    if replicate == 0:
        closed = {SAMPLED: task.sampled_accuracy(), GREEDY: task.greedy_accuracy(), LENGTH: task.mean_length()}
        records += closed_forms(closed, {"task": task.name, "p": p})
    return records


def judged(task: ParityMix, policy: Policy, fresh: int, labels: dict[str, Label], rng: Generator) -> list[Record]:
    """What a policy writes after fresh prompts."""
    prompts = task.sample_prompts(fresh, rng)
    greedy = GreedyPolicy(policy).sample(prompts, task.horizon, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    lengths = task.lengths(tokens)
    values = {
        GREEDY: task.success(prompts, greedy).mean(),
        SAMPLED: task.success(prompts, tokens).mean(),
        SHARE: (lengths == task.d).mean(),
        LENGTH: lengths.mean(),
    }
    return [Record(metric, float(value), labels) for metric, value in values.items()]


def filtered(task: ParityMix, policy: Policy, n: int, rng: Generator) -> Demonstrations:
    """The right ones of n sequences that the policy writes: the data of the next round."""
    prompts = task.sample_prompts(n, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    right = task.success(prompts, tokens) == 1.0
    return Demonstrations(prompts[right], tokens[right], vocab_size=task.vocab_size)


def filtered_rounds(
    *, p: float, d: int, n: int, rounds: int, fresh: int, replicate: int, rng: Generator
) -> list[Record]:
    """Sample, keep what is right, fit again; what the policy writes after each round."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng, TOLERANCE)
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "n": n, "p": p}
    records, passed = [], math.inf
    for done in range(rounds + 1):
        if done:
            policy = learned(task, filtered(task, policy, n, rng), rng, TOLERANCE)
        found = judged(task, policy, fresh, {**labels, "round": done}, rng)
        if any(record.metric == SHARE and record.value > GREEDY_THRESHOLD for record in found):
            passed = min(passed, done)
        records += found
        if replicate == 0:
            records += closed_forms({SHARE: filtered_share(p, done)}, {"task": task.name, "p": p, "round": done})
    records.append(Record(PASSED, float(passed), labels))
    if replicate == 0:
        records += closed_forms({PASSED: float(rounds_to_pass(p))}, {"task": task.name, "p": p})
    return records


def cells(o: RewardedOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together."""
    common = {"d": o.bits, "n": o.n, "fresh": o.fresh}
    for replicate in range(o.seeds):
        for p in o.starts:
            yield Cell(ROUNDS, filtered_rounds, {"p": p, **common, "rounds": o.rounds, "replicate": replicate})
        for p in o.shares:
            yield Cell(MIX, mix_accuracy, {"p": p, **common, "replicate": replicate})


# -- tables, figure and findings ---------------------------------------------------------------------------------------


def tables(o: RewardedOptions, summary: Summary) -> Iterator[Table]:
    """Accuracies by the share of chains, and that share by round."""
    rows = [(f"{p:g}", {"part": MIX, "p": p}) for p in sorted(summary.distinct("p", part=MIX))]
    columns = []
    heads = {SAMPLED: ("sampled", "(1+p)/2"), GREEDY: ("greedy", "limit"), LENGTH: ("length", "1+p(d-1)")}
    for metric, (head, closed) in heads.items():
        columns += [(head, {"metric": metric}), (closed, {"metric": CLOSED + metric})]
    spread = intervals_over(summary.select(part=MIX))
    note = f"Share of answers right and tokens before the end, beside closed forms. {spread}."
    yield pivot(summary, "ParityMix: accuracy against the share of chains", "", rows, columns, corner="p", note=note)
    rounds = sorted(summary.distinct("round", part=ROUNDS))
    lines = []
    for p in sorted(summary.distinct("p", part=ROUNDS)):
        for name, source in (("sampled", ""), ("closed form", CLOSED)):
            shares = [summary.shown(source + SHARE, 2, part=ROUNDS, p=p, round=r) for r in rounds]
            lines.append([f"p={p:g}, {name}", *shares, summary.shown(source + PASSED, part=ROUNDS, p=p)])
    by_round = ["start", *(f"round {r}" for r in rounds), "above 1/3 after"]
    note = "A round samples, keeps the right answers and fits again. Closed form: the odds double."
    yield Table("ParityMix: share of chains under filtered rounds", by_round, lines, note)


def mix_figure(summary: Summary) -> Figure:
    """Accuracy against the share of chains, and the share under filtered rounds."""
    cut, blue, orange = GREEDY_THRESHOLD, COLOURS["blue"], COLOURS["orange"]
    points: dict[str, Any] = {"marker": "o", "linestyle": ""}
    line: dict[str, Any] = {"marker": "", "linestyle": "-", "linewidth": 1.4}
    accuracies = [
        Curve({"part": MIX}, "greedy", GREEDY, look={**points, "color": blue, "marker": "s"}),
        Curve({"part": MIX}, "sampled", SAMPLED, look={**points, "color": orange}),
        Curve({"part": MIX}, "(1 + p)/2", CLOSED + SAMPLED, look={**line, "color": orange}),
    ]
    shares = sorted(summary.distinct("p", part=MIX)) or [0.0]
    step = Guide(points=[(shares[0], 0.5), (cut, 0.5), (cut, 1.0), (shares[-1], 1.0)], colour=blue, dashes="-")
    third = Guide(place=cut, note="1/3", at=(cut, 0.44), offset=(5, 0))
    level = Guide(cut, note="1/3", at=(0, cut), offset=(0, 8))
    starts = sorted(summary.distinct("p", part=ROUNDS))
    shares_by_round, colours = [], (COLOURS["purple"], COLOURS["vermilion"], COLOURS["green"])
    for p, colour in zip(starts, colours * len(starts)):
        place = {"part": ROUNDS, "p": p}
        shares_by_round.append(Curve(place, f"from p={p:g}", look={**points, "color": colour}))
        shares_by_round.append(Curve(place, "", CLOSED + SHARE, look={**line, "color": colour}))
    passed = [f"{summary.value(PASSED, part=ROUNDS, p=p):.2g} from p={p:g}" for p in starts]
    xlabels = "p, share of demonstrations with a chain", "rounds of sampling, filtering, fitting"
    axis: dict[str, Any] = {"xscale": "linear"}
    ticks = [i / 10 for i in range(11) if shares[0] <= i / 10 <= shares[-1]]
    return chart(
        summary,
        f"Rounds until more than 1/3 are chains: {', '.join(passed)}" if passed else "Why do rewarded answers grow?",
        "share of answers right",
        Panel("p", xlabels[0], "", accuracies, [step, third], yscale="linear", ylim=(0.4, 1.05), ticks=ticks, **axis),
        Panel("round", xlabels[1], SHARE, shares_by_round, [level], yscale="share", ylabel="share of chains", **axis),
        size=(11.4, 4.6),
    )


def figures(o: RewardedOptions, s: Summary) -> Iterator[FigureSpec]:
    yield FigureSpec(
        "headline",
        "Why do rewarded answers grow?",
        f"ParityMix, d={o.bits}, {o.n} demonstrations or samples a round; lines: closed forms, "
        f"points: samples. {interval_words(o.seeds)}. With fewer samples they lag behind: shares then differ "
        "between prompts, and 2 p/(1 + p) is concave. In theory greedy decoding writes the chain above 1/3.",
        lambda: mix_figure(s),
    )


def findings(o: RewardedOptions, summary: Summary) -> Iterator[str]:
    """The threshold and the rounds."""
    shares = sorted(summary.distinct("p", part=MIX))
    sides = [*[p for p in shares if p < 1 / 3][-1:], *[p for p in shares if p > 1 / 3][:1]]
    if len(sides) == 2:
        words = [
            f"p={p:g}: greedy {summary.shown(GREEDY, part=MIX, p=p)}, sampled "
            f"{summary.shown(SAMPLED, part=MIX, p=p)} ((1+p)/2 = {(1 + p) / 2:.3g})"
            for p in sides
        ]
        yield f"ParityMix, where in theory greedy decoding switches to the chain at p = 1/3: {'; '.join(words)}."
    words = [
        f"{summary.shown(PASSED, part=ROUNDS, p=p)} from p={p:g} "
        f"(closed form {summary.value(CLOSED + PASSED, part=ROUNDS, p=p):g})"
        for p in sorted(summary.distinct("p", part=ROUNDS))
    ]
    if words:
        more = "Each filtered round doubles the odds of a chain; rounds until more than 1/3 are chains: "
        yield f"{more}{'; '.join(words)}."


STUDY = Study(
    name="rewarded",
    question="Why do answers grow longer when right ones are kept, and after how many rounds do chains win?",
    options=RewardedOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings, setting=lambda o: f"{o.bits} bits"),
    labels=("p", "round"),
    seeds_of="length",
)
