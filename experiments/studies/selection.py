"""Choosing a checkpoint: along one training, the one that held-out log-loss picks is not the nearest of them.

The expert writes text, but for a share of its documents, which are shuffled text. Log-loss pays for those at every
token, and stops a training before the rest is learned; tournaments among the checkpoints on whole held-out documents
pay once. One learner is a table of logits that gradient descent fits; with the extra ``neural`` there is a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from agents import make_agent, tournament
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure, end_labels, log2_axis, new_panels, no_data, plot_series, span
from experiments.measure import NetworkOptions, networks_left_out, trains_networks
from experiments.studies.text import BRIDGE, DISTANCE2
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Interval, Summary, Table, beyond_chance, interval_words, paired_rows, with_interval
from experiments.texts import CorpusOptions, contaminated_text, read
from ntp_envs import Demonstrations, EndedPolicy, MarkovPolicy, Policy, collect, distance_from_log_probs, ended_class
from ntp_envs.arrays import first_best
from ntp_envs.tasks import Text


@dataclass(frozen=True)
class SelectionOptions(CorpusOptions, NetworkOptions):
    """The text, and sizes of the sweep; the defaults are the full study."""

    contamination: float = option(0.03, above=0.0, most=0.25)
    """Share of shuffled documents; the expert is otherwise a bigram model of the text."""
    vocab: int = option(30, least=2)
    """Vocabulary."""
    horizons: tuple[int, ...] = option((16, 32, 64, 128, 256), quick=(32, 256), least=2)
    """Lengths H of the documents."""
    n: int = option(300)
    """Documents to learn from."""
    held_out: int = option(400, least=2)
    """Documents to choose by."""
    threshold: float = option(10.0, above=1.0)
    """N of the coverage tournament, and of the coverage that is shown."""
    steps: int = option(400, least=2)
    """Updates of a training."""
    checkpoints: int = option(12, quick=7, least=2)
    """Checkpoints of a training, evenly spread over the logarithm of the last 39 steps of 40."""
    network_horizon: int = option(128, quick=64, least=2)
    """Length of the documents that the network learns from."""
    width: int = option(64, quick=32)
    """Width of the network, an MLP of the last two tokens."""
    network_steps: int = option(400, quick=200, least=2)
    """Updates of its training."""
    network_seeds: int = option(5, quick=2)
    """Replicates of that."""
    draws: int = option(4000, quick=800, least=4)
    """Sequences that a distance is measured with."""
    seeds: int = option(10, quick=5)
    """Replicates of the table: of all documents, and of the training."""


# -- cells: one training, and what each rule chooses along it ---------------------------------------------------------

TABLE, NETWORK = "table", "network"
#: rules, and the one that knows the distances
LOG_LOSS, RHO, COVERAGE, NEAREST = "held-out log-loss", "rho tournament", "coverage tournament", "nearest"
RULES = (LOG_LOSS, RHO, COVERAGE, NEAREST)
COLOUR = dict(zip(RULES, (COLOURS[c] for c in ("vermilion", "blue", "green", "black"))))
STEP, UNCOVERED, NATS, WORST = "step chosen", "coverage", "log-loss", "worst loss in the rho tournament"


def marks(steps: int, checkpoints: int) -> tuple[int, list[int]]:
    """Updates between two looks, and those after which a checkpoint is kept: from about a 40th, the last among them.

    >>> marks(400, 5)
    (10, [10, 30, 60, 160, 400])
    """
    every = max(steps // 40, 1)
    return every, sorted({every * int(look) for look in np.geomspace(1, steps // every, checkpoints).round()})


RATE = 0.1


def table_path(demonstrations: Demonstrations, kept: list[int]) -> dict[int, Policy]:
    """Bigram models along Adam on the log-loss of all that was written, from the uniform law of every next token."""
    lines = np.hstack([demonstrations.prompts[:, -1:], demonstrations.tokens])
    size, written, end = demonstrations.vocab_size, demonstrations.written, demonstrations.end_token
    shares: NDArray[np.float64] = np.zeros((size, size))
    np.add.at(shares, (lines[:, :-1][written], lines[:, 1:][written]), 1.0 / written.sum())
    logits, mean, square = (np.zeros((size, size)) for _ in range(3))
    found: dict[int, Policy] = {}
    for step in range(1, kept[-1] + 1):
        slope = shares - shares.sum(axis=1, keepdims=True) * softmax(logits, axis=1)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        logits += RATE * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        if step in kept:
            rows = np.vstack([np.exp(log_softmax(logits, axis=1)), np.full((1, size), 1.0 / size)])
            policy = MarkovPolicy(rows / rows.sum(axis=1, keepdims=True), 1)
            policy.prompt_length = demonstrations.prompt_length
            found[step] = policy if end is None else EndedPolicy(policy, end)
    return found


def network_path(
    task: Text, demonstrations: Demonstrations, steps: int, every: int, kept: list[int], width: int,
    rng: np.random.Generator,
) -> dict[int, Policy]:  # fmt: skip
    """Checkpoints of an MLP of the last two tokens."""
    from agents.neural import NetworkClass

    spec = NetworkClass.for_task("mlp", task, width=width, layers=1, window=min(2, task.horizon))
    found: dict[int, Policy] = {}

    def keep(step: int, policy: Policy) -> None:
        if step in kept:
            found[step] = policy

    how: dict[str, Any] = {"steps": steps, "batch_size": 64, "learning_rate": 1e-2, "schedule": "constant"}
    how |= {"on_step": keep, "on_step_every": every}
    make_agent("agents.neural:NeuralBC", **how).fit(demonstrations, ended_class(spec, task.end_token), rng=rng)
    return found


def measured(
    task: Text, policies: list[Policy], draws: int, threshold: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(M,)`` distances of whole documents and shares that are not covered, on the same documents of the expert."""
    prompts = task.sample_prompts(draws, rng)
    half = prompts[: draws // 2]
    tokens = task.expert.sample(half, task.horizon, rng)
    seed, found = int(rng.integers(2**31)), []
    p_on_p = whole(task.expert, half, tokens)
    for policy in policies:
        own = policy.sample(prompts[len(half) :], task.horizon, np.random.default_rng(seed))
        scores = [whole(each, prompts[len(half) :], own) for each in (task.expert, policy)]
        curves = distance_from_log_probs(
            p_on_p, whole(policy, half, tokens), *scores, metrics=(DISTANCE2, UNCOVERED), thresholds=threshold
        )
        found.append([float(np.ravel(curves[metric].values)[0]) for metric in (DISTANCE2, UNCOVERED)])
    distances, uncovered = np.array(found).T
    return distances, uncovered


def whole(policy: Policy, prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(n, 1)`` log-probabilities of documents."""
    return policy.log_probs(prompts, tokens).sum(axis=1, keepdims=True)


def chosen(
    *, text: Mapping[str, Any], learner: str, H: int, n: int, held_out: int, threshold: float, steps: int,
    checkpoints: int, width: int, draws: int, replicate: int, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """What each rule chooses, its distance and its coverage; and all of it at every checkpoint."""
    task = read(text, horizon=H)
    shown, held = collect(task, n, rng), collect(task, held_out, rng)
    every, kept = marks(steps, checkpoints)
    of_table = learner == TABLE
    path = table_path(shown, kept) if of_table else network_path(task, shown, steps, every, kept, width, rng)
    policies = {str(step): policy for step, policy in path.items()}
    (distances, uncovered), (others, _) = (measured(task, list(path.values()), draws, threshold, rng) for _ in range(2))
    nats = np.array([-policy.log_probs(held.prompts, held.tokens).sum(axis=1).mean() / H for policy in path.values()])
    rho = tournament(policies, held)
    picks = {
        LOG_LOSS: int(first_best(-nats)),
        RHO: rho.index,
        COVERAGE: tournament(policies, held, tau="coverage", threshold=threshold).index,
        NEAREST: int(first_best(-others)),  # by other draws than those that its distance is measured with
    }
    labels: dict[str, Label] = {"task": task.name, "H": H, "n": n}
    method, records = f"{BRIDGE}, n={draws}", []
    for rule, k in picks.items():
        place = {**labels, "learner": rule}
        records.append(Record(DISTANCE2, distances[k], place, method=method))
        records.append(Record(UNCOVERED, uncovered[k], {**place, "N": threshold}, method=method))
        records.append(Record(STEP, float(kept[k]), place))
    for k, step in enumerate(kept):
        place = {**labels, "step": step}
        records.append(Record(DISTANCE2, distances[k], place, method=method))
        records += [Record(NATS, nats[k], place), Record(WORST, float(rho.worst[k]), place)]
    return records


def cells(o: SelectionOptions) -> Iterator[Cell]:
    """The slow cells first.

    Raises:
        ValueError: the text will not do, or networks are asked for and torch is missing; before anything is run.
    """
    text = contaminated_text(o, o.vocab, max(*o.horizons, o.network_horizon))
    shared = {"text": text, **o.given("n", "held_out", "threshold", "checkpoints", "draws")}
    trained = {"learner": NETWORK, "H": o.network_horizon, "steps": o.network_steps, "width": o.width}
    for replicate in range(o.network_seeds if trains_networks(o.neural) else 0):
        yield Cell(NETWORK, chosen, {**shared, **trained, "replicate": replicate})
    for H in sorted(o.horizons, reverse=True):
        table = {"learner": TABLE, "H": H, "steps": o.steps, "width": 0}
        for replicate in range(o.seeds):
            yield Cell(TABLE, chosen, {**shared, **table, "replicate": replicate})


# -- tables, figures and findings --------------------------------------------------------------------------------------

#: what is learned by, in words
NAMES = {TABLE: "Table of logits", NETWORK: "MLP"}


def extra(s: Summary, part: str, rule: str, H: int) -> Interval | None:
    """How much farther this rule's choice is than the nearest checkpoint, paired; ``None`` where it is not measured."""
    return farther(s, part, rule, NEAREST, H)


def farther(s: Summary, part: str, one: str, other: str, H: int) -> Interval | None:
    """How much farther the one choice is than the other, paired; ``None`` where it is not measured."""
    return paired_rows(*(s.select(DISTANCE2, part=part, learner=name, H=H) for name in (one, other)))


def parts(s: Summary) -> list[str]:
    """The learners that were measured."""
    return [part for part in NAMES if len(s.select(part=part))]


def lengths(o: SelectionOptions, part: str) -> list[int]:
    return [o.network_horizon] if part == NETWORK else sorted(o.horizons)


def tables(o: SelectionOptions, s: Summary) -> list[Table]:
    lines = []
    for part in parts(s):
        for H in lengths(o, part):
            for rule in RULES:
                shown = [s.shown(metric, part=part, learner=rule, H=H) for metric in (STEP, DISTANCE2, UNCOVERED)]
                more = extra(s, part, rule, H) if rule != NEAREST else None
                lines.append([f"{NAMES[part]}, H={H}: {rule}", *shown, with_interval(*more) if more else ""])
    columns = ["learner, length and rule", STEP, "D^2", f"not covered, N={o.threshold:g}", "D^2 more than the nearest"]
    note = (
        "D^2: squared Hellinger distance (0 to 2) of whole documents to the expert; not covered: share of its "
        f"documents to which the checkpoint gives 1/{o.threshold:g} of their probability or less; the last column is "
        f"paired. The nearest is named by other draws. {interval_words(o.seeds, 'trainings')}"
        f"{f' ({o.network_seeds} of the MLP)' if NETWORK in parts(s) else ''}."
    )
    return [Table("Which checkpoint does each rule choose?", columns, lines, note)]


def verdict(o: SelectionOptions, s: Summary, part: str) -> str:
    """What one sees at the longest documents, as a title."""
    H = max(lengths(o, part))
    found = {rule: extra(s, part, rule, H) for rule in (LOG_LOSS, RHO)}
    one, other = found[LOG_LOSS], found[RHO]
    if one and other and (gap := farther(s, part, LOG_LOSS, RHO, H)) and gap[1] > 0:
        return f"H={H}: log-loss stops {one[0]:.2g} too far from the expert, the rho tournament {other[0]:.2g}"
    return "Which checkpoint is nearest, and which does a held-out score choose?"


def path_panel(o: SelectionOptions, s: Summary, part: str, axes: Any) -> None:
    """Distance along the training at the longest documents, and where each rule stops on average."""
    H = max(lengths(o, part))
    series = s.series("step", DISTANCE2, part=part, H=H, learner=None)
    if not len(series.x):
        no_data(axes)
        return
    plot_series(axes, series, "", color=COLOURS["grey"], marker="", linestyle="-")
    axes.set_xscale("log")
    axes.set_ylim(0, 2.05)
    for rule in RULES:
        for row in s.select(STEP, part=part, learner=rule, H=H):
            steps = np.array(row.replicates)
            at, many = np.unique(steps, return_counts=True)
            heights = np.interp(at, series.x, series.mean)
            offset = 0.04 * (1 + RULES.index(rule))
            axes.scatter(at, heights + offset, s=18 * many, color=COLOUR[rule], label=rule, zorder=3)
    axes.legend(loc="lower left", fontsize=9, title="chosen (area: times)")


def extra_panel(o: SelectionOptions, s: Summary, part: str, axes: Any) -> None:
    """What each rule loses against the nearest, by the length of the documents."""
    ends = []
    for shift, rule in enumerate((LOG_LOSS, RHO, COVERAGE), -1):
        found = [(H, more) for H in lengths(o, part) if (more := extra(s, part, rule, H))]
        if not found:
            continue
        xs = np.array([H for H, _ in found]) * 1.04**shift
        mean, lower, upper = np.array([more for _, more in found], dtype=float).T
        axes.plot(xs, mean, color=COLOUR[rule])
        lower, upper = (np.where(np.isnan(end), mean, end) for end in (lower, upper))
        axes.errorbar(xs, mean, [mean - lower, upper - mean], fmt="o", color=COLOUR[rule], capsize=2, elinewidth=1.2)
        ends.append(
            (float(xs[-1]), float(mean[-1]), rule.partition(" ")[0] if rule != LOG_LOSS else "log-loss", COLOUR[rule])
        )
    if not ends:
        no_data(axes)
        return
    log2_axis(axes, lengths(o, part))
    low, high = min(lengths(o, part)), max(lengths(o, part))
    axes.set_xlim(low / 1.2, high * (high / low) ** 0.3 * 1.3)
    axes.axhline(0.0, color="black", linewidth=1, linestyle="--")
    end_labels(axes, ends)


def path_figure(o: SelectionOptions, s: Summary, part: str) -> Figure:
    """Along the training, and over the lengths where there are several."""
    titles = (f"distance of documents of {max(lengths(o, part))} tokens", "what is lost against the nearest")
    xlabels = ("updates", "length of the documents H\n(bars: 95 %, paired)")
    draws = (path_panel, extra_panel)[: min(len(lengths(o, part)), 2)]
    many = len(draws)
    figure, panels = new_panels(
        verdict(o, s, part), xlabels[:many], "", share=False, size=(11.5 if many > 1 else 7.5, 4.8), titles=titles
    )
    for draw, axes in zip(draws, panels, strict=True):
        draw(o, s, part, axes)
    return figure


def setting(o: SelectionOptions) -> str:
    return f"Text; {o.contamination:.0%} of the documents shuffled; {span('H', o.horizons)}; {span('n', [o.n])}"


def figures(o: SelectionOptions, s: Summary) -> list[FigureSpec]:
    specs = []
    for part in parts(s) or [TABLE]:
        caption = (
            f"Checkpoints of one training ({NAMES[part]}, {o.n} documents, {100 * o.contamination:g} % of them "
            f"shuffled text) and what {o.held_out} other documents choose. Squared Hellinger distance to the expert. "
            f"{interval_words(o.seeds if part == TABLE else o.network_seeds, 'trainings')}."
        )
        name = "headline" if part == TABLE else part
        specs.append(
            FigureSpec(name, "Which checkpoint?", caption, lambda part=part: path_figure(o, s, part))  # type: ignore[misc]
        )
    return specs


def findings(o: SelectionOptions, s: Summary) -> Iterator[str]:
    for part in parts(s):
        for H in sorted({min(lengths(o, part)), max(lengths(o, part))}):
            words = []
            for rule in (LOG_LOSS, RHO, COVERAGE):
                if more := extra(s, part, rule, H):
                    step, missed = (s.shown(m, part=part, learner=rule, H=H) for m in (STEP, UNCOVERED))
                    lost = with_interval(*more, digits=2)
                    words.append(f"{rule} stops at {step}, loses {lost} and leaves {missed} uncovered")
            if len(words) == 3:
                least = s.shown(DISTANCE2, part=part, learner=NEAREST, H=H)
                yield f"{NAMES[part]}, H={H}: the nearest checkpoint is at a distance of {least}; {'; '.join(words)}."
        H = max(lengths(o, part))
        if gap := farther(s, part, LOG_LOSS, RHO, H):
            yield (
                f"{NAMES[part]}, H={H}: the choice of held-out log-loss is farther than that of the rho "
                f"tournament by {with_interval(*gap, digits=2)} (paired), {beyond_chance(gap)}."
            )
    if why := networks_left_out(o.neural):
        yield f"Networks were {why}."


STUDY = Study(
    name="selection",
    question="Which checkpoint of a training is nearest to the expert, and which do held-out scores choose?",
    options=SelectionOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings, setting=setting),
    labels=("step", "N"),
    reads=("corpus",),
)
