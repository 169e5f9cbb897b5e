"""What decoding does to whole texts: one temperature brings them near to the expert's, another covers them.

Squared Hellinger distance asks that the two laws agree; coverage, which bounds what the best of many texts can be,
only that the learner gives each of the expert's texts a fair share of its due. Where a rule says which texts pass, that
share is the number of texts to draw until one does; search token by token goes round it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import make_agent
from experiments import charts, language_models
from experiments.cells import Cell, Label, Record
from experiments.measure import doublings, drawn_once
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Places, Summary, Table, interval_words, loglog_slope, paired_rows, pivot, with_interval
from experiments.texts import ModelOptions, RuledText
from ntp_envs import DecodedPolicy, DistanceCurve, NGramClass, collect, distance_curves
from ntp_envs.arrays import first_best
from ntp_envs.evaluation import backtracking_search, backtracking_walk, best_of
from ntp_envs.tasks import Text


@dataclass(frozen=True)
class DecodingOptions(ModelOptions):
    """The text, how it is decoded, and sizes; the defaults are the full study."""

    order: int = option(3, most="expert_order")
    """Order of the n-gram learner."""
    horizon: int = option(32, quick=16, least=2)
    """Tokens to write."""
    temperatures: tuple[float, ...] = option(
        (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4), quick=(0.5, 0.7, 0.85, 1.0, 1.15, 1.3), above=0.0
    )
    """Temperatures of the learner; 1 is its own law."""
    top_ps: tuple[float, ...] = option(
        (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0), quick=(0.5, 0.7, 0.9, 0.97, 1.0), above=0.0, most=1.0
    )
    """Masses of top-p of the learner; 1 is its own law."""
    thresholds: tuple[float, ...] = option((10.0, 1e3, 1e6), least=1.0)
    """N of coverage: the share of the expert's texts to which the learner gives 1/N of their probability or less."""
    detail: int = option(8, most="horizon")
    """The length at which findings are told: a power of two, or the horizon."""
    n: int = option(4000, quick=3000)
    """Sequences of the expert that the learner is shown."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    seeds: int = option(5, quick=3)
    """Replicates: of what the learner is shown and of the draws, which all ways of decoding share."""
    rule_order: int = option(5, least=2, most=5)
    """k of the rule of the search: a text passes while all its stretches of k tokens occur in the corpus."""
    search_horizons: tuple[int, ...] = option((4, 8, 12, 16), quick=(4, 6, 8))
    """Tokens to write there."""
    search_temperatures: tuple[float, ...] = option((0.6, 0.8, 1.0, 1.2), quick=(0.7, 1.0), above=0.0)
    """Temperatures of the learner there."""
    searched: int = option(400, quick=150, least=10)
    """Prompts there."""
    answered: float = option(0.8, above=0.0, below=1.0)
    """Share of them for which a text that passes is to be found."""
    most: int = option(1000, quick=200)
    """Texts that are drawn at most for a prompt there, and as many texts' worth of tokens."""
    learner: str = "int4"
    """With ``expert``: the learner that is decoded, a change of the expert (see `ntp_envs.perturbed`)."""
    batch: int = option(64)
    """With ``expert``: texts that are computed together: fewer take less memory."""

    def check(self) -> None:
        if not self.expert and max(self.order, self.rule_order) > min(self.rule_order, self.prompt_length + 1):
            raise ValueError(
                f"rule_order={self.rule_order} must be at least order={self.order}, and prompt_length="
                f"{self.prompt_length} at least rule_order - 1."
            )
        if self.detail not in doublings(self.horizon):
            raise ValueError(f"detail={self.detail} must be one of {doublings(self.horizon)}.")


# -- cells: one learner, decoded in every way on the same draws -------------------------------------------------------

TEMPERATURE, TOP_P = "temperature", "top_p"
WAYS = {TEMPERATURE: "temperature of the learner", TOP_P: "top-p of the learner"}
DISTANCE2, COVERAGE = "hellinger2", "coverage"


def ways(o: DecodingOptions) -> dict[str, tuple[float, ...]]:
    return {TEMPERATURE: o.temperatures, TOP_P: o.top_ps}


def decoded(
    *, text: Mapping[str, Any], way: str, values: Sequence[float], order: int, thresholds: Sequence[float], n: int,
    draws: int, replicate: int, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """Distance and coverage at every length, of a learner decoded with each of the values."""
    task = Text(**text)
    learner = make_agent("NGramBC").fit(collect(task, n, rng), NGramClass(task.vocab_size, order), rng=rng).policy_
    seed, expert = int(rng.integers(2**31)), drawn_once(task.expert)  # for all values alike
    records: list[Record] = []
    for value in values:
        setting: dict[str, Any] = {way: value}
        curves = distance_curves(
            expert, DecodedPolicy(learner, **setting), task, metrics=(DISTANCE2, COVERAGE), n=draws,
            method="monte carlo (bridge)", thresholds=thresholds, rng=np.random.default_rng(seed),
        )  # fmt: skip
        records += curve_records(curves, {way: value, "H": task.horizon, "n": n}, thresholds, draws)
    return records


def curve_records(
    curves: Mapping[str, DistanceCurve], labels: Mapping[str, Label], thresholds: Sequence[float], draws: int
) -> Iterator[Record]:
    """Both curves at every length that is shown."""
    for metric, curve in curves.items():
        at = [{"N": N} for N in thresholds] if metric == COVERAGE else [{}]
        for h in doublings(len(curve.values)):
            ends = (np.atleast_1d(column[h - 1]) for column in (curve.values, curve.lower, curve.upper))
            for place, mean, lower, upper in zip(at, *ends, strict=True):
                yield Record(metric, mean, {**labels, "h": h, **place}, lower, upper, f"{curve.method}, n={draws}")


def decoded_model(
    *, expert: Mapping[str, Any], learner: str, way: str, values: Sequence[float], horizon: int,
    thresholds: Sequence[float], draws: int, replicate: int, places: Mapping[str, Any], rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:  # fmt: skip
    """The same of a changed language model: the expert's texts are those of all values, and of both ways."""
    policy, tokenizer, ids = language_models.expert_of(**expert, **places)
    changed = language_models.learner_of(learner, policy, tokenizer, places["device"])
    texts = language_models.expert_texts(expert, places, draws, horizon, replicate, scratch)
    seed, end = int(rng.integers(2**63)), tokenizer.eos_token_id
    asked: dict[str, Any] = {"metrics": (DISTANCE2, COVERAGE), "thresholds": thresholds}
    records: list[Record] = []
    for value in values:
        other = language_models.learner_of(f"{way}={value}", changed, tokenizer, places["device"])
        name = f"{way}-{value}"
        curves = language_models.text_curves(name, policy, other, ids, texts, end, seed, scratch, **asked)
        records += curve_records(curves, {way: value, "H": horizon, "n": draws}, thresholds, draws)
    return records


# -- cells: how many texts must be drawn until one passes, as its coverage says, and search instead ------------------


#: ways to a text that passes
BEST_OF, LOCAL, DEPTH_FIRST, WALK = "best of N", "one token back", "depth-first", "walk, exact value"
SEARCH, PREDICTED, NEEDED = "search", "N at which coverage suffices", "texts' worth of tokens drawn"


def searched(
    *, text: Mapping[str, Any], rule_order: int, temperatures: Sequence[float], order: int, n: int, prompts: int,
    answered: float, most: int, replicate: int, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """For each temperature: N of coverage for all but this share of prompts, and what each search needs for them."""
    task = RuledText(**text, rule_order=rule_order)
    learner = make_agent("NGramBC").fit(collect(task, n, rng), NGramClass(task.vocab_size, order), rng=rng).policy_
    given, seed, records = task.sample_prompts(prompts, rng), int(rng.integers(2**31)), []
    anywhere = copy.copy(learner)
    anywhere.prompt_length = None
    budget = most * task.horizon
    for temperature in temperatures:
        policy = DecodedPolicy(learner, temperature=temperature)
        labels: dict[str, Label] = {TEMPERATURE: temperature, "h": task.horizon, "n": n}
        value = task.value(DecodedPolicy(anywhere, temperature=temperature))
        chances = value(given, np.empty((len(given), 0), dtype=np.int64))
        least = float(np.quantile(chances, 1.0 - answered, method="inverted_cdf"))
        if least > 0.0:
            records.append(Record(PREDICTED, 1.0 / least, labels, method="exact"))
        rngs = (np.random.default_rng(seed) for _ in range(4))
        found = {
            BEST_OF: best_of(policy, task, given, most, rng=next(rngs)),
            LOCAL: backtracking_search(policy, task, given, rng=next(rngs), budget=budget),
            DEPTH_FIRST: backtracking_search(policy, task, given, rng=next(rngs), depth=None, budget=budget),
            WALK: backtracking_walk(policy, task, given, rng=next(rngs), budget=budget, value=value),
        }
        for way, result in found.items():
            drawn = np.where(result.accepted, result.drawn, np.inf)
            needed = float(np.quantile(drawn, answered, method="inverted_cdf")) / task.horizon
            if np.isfinite(needed):  # else the budget did not suffice
                method = f"sampled, {prompts} prompts"
                records.append(Record(NEEDED, needed, {**labels, "decoding": way}, method=method))
    return records


def cells(o: DecodingOptions) -> Iterator[Cell]:
    if o.expert:
        yield from model_cells(o)
        return
    text = o.given("corpus", "expert_order", "horizon", "prompt_length")
    sizes = o.given("order", "thresholds", "n", "draws")
    for replicate in range(o.seeds):
        for way, values in ways(o).items():
            yield Cell(way, decoded, {"text": text, "way": way, "values": values, **sizes, "replicate": replicate})
    search = o.given("rule_order", "order", "n", "answered", "most")
    search |= {"temperatures": o.search_temperatures, "prompts": o.searched}
    for replicate in range(o.seeds):
        for h in sorted(o.search_horizons, reverse=True):
            yield Cell(SEARCH, searched, {"text": {**text, "horizon": h}, **search, "replicate": replicate})


def model_cells(o: DecodingOptions) -> Iterator[Cell]:
    expert, place = language_models.model_parameters(o.expert, o.prompts, None, "cpu", o.batch)
    language_models.check_models(o.expert, horizon=o.horizon, prompts=o.prompts, batch=o.batch, changes=(o.learner,))
    sizes = {"expert": expert, **o.given("learner", "horizon", "thresholds", "draws")}
    for replicate in range(o.seeds):
        for way, values in ways(o).items():
            cell = {**sizes, "way": way, "values": values, "replicate": replicate, "places": place}
            yield Cell(way, decoded_model, cell, scratch=True, apart=("places",))


def check_machine(o: DecodingOptions, processes: int) -> None:
    """``ValueError`` where language models take more memory than is free."""
    if o.expert:
        language_models.check_memory(o.expert, processes, horizon=o.horizon, batch=o.batch)


# -- tables, figures and findings --------------------------------------------------------------------------------------


def subject(o: DecodingOptions) -> str:
    """Who learned of whom."""
    if o.expert:
        return f"{language_models.shown_name(o.expert)} with {o.learner}, decoded, against the model itself"
    return f"An order-{o.order} learner of an order-{o.expert_order} expert, decoded"


def words(N: float) -> str:
    """``"1,000,000"``, ``"2.5"``."""
    return f"{N:,.0f}" if round(N) == N else f"{N:g}"


def places(o: DecodingOptions) -> dict[str, dict[str, Any]]:
    """Where the distance is, and the shares that are not covered, by name."""
    return {DISTANCE2: {"metric": DISTANCE2}, **{f"N={words(N)}": {"metric": COVERAGE, "N": N} for N in o.thresholds}}


def best(o: DecodingOptions, s: Summary, way: str, place: Mapping[str, Any], h: int) -> float:
    """The setting at which this is least; ``nan`` where one of them was not measured."""
    series = s.series(way, part=way, h=h, **place)
    return float(series.x[first_best(-series.mean)]) if len(series.x) == len(ways(o)[way]) else math.nan


def compared(o: DecodingOptions, s: Summary, way: str, N: float, h: int) -> dict[str, Any] | None:
    """The nearest setting and that which covers best, and what the second has more than the first, paired."""
    wheres = places(o)[DISTANCE2], places(o)[f"N={words(N)}"]
    near, covering = (best(o, s, way, place, h) for place in wheres)
    if math.isnan(near) or math.isnan(covering):
        return None
    at: list[Any] = [{way: value} for value in (near, covering)]
    rows = [[s.select(part=way, h=h, **place, **value)[0] for value in at] for place in wheres]
    gaps = [gap for one, two in rows if (gap := paired_rows([two], [one]))]
    if len(gaps) < len(rows):
        return None
    covers = near != covering and gaps[1][2] < 0
    apart = covers and gaps[0][1] > 0
    shown = [[row.shown() for row in pair] for pair in rows]
    told = [with_interval(*found, digits=2) for found in gaps]
    return {"near": near, "covering": covering, "gaps": told, "covers": covers, "apart": apart, "shown": shown}


def tables(o: DecodingOptions, s: Summary) -> list[Table]:
    lines = []
    hs = sorted({2, o.detail, o.horizon})
    for way, h, N in ((way, h, N) for way in WAYS for h in hs for N in o.thresholds):
        if found := compared(o, s, way, N, h):
            near, covering = f"{found['near']:g}", f"{found['covering']:g}"
            shown = [near, found["shown"][0][0], covering, found["shown"][1][1], *found["gaps"]]
            lines.append([way.replace("_", "-"), str(h), words(N), *shown])
    columns = ["by", "h", "N", "nearest at", "D^2", "covers best at", "not covered", "D^2 changes"]
    columns.append("not covered changes")
    note = (
        f"{subject(o)}. D^2: squared Hellinger distance (0 to 2) of "
        "the first h tokens; not covered: share of the expert's texts with 1/N of their probability or less. The last "
        "two: what the setting that covers best has more than the nearest one, paired (both are chosen by the same "
        f"numbers). {interval_words(o.seeds, 'replicates')}."
    )
    chosen = Table("Which setting brings whole texts nearest, and which covers them best?", columns, lines, note)
    return [chosen] if o.expert else [chosen, search_table(o, s)]


def settings(o: DecodingOptions) -> list[dict[str, Any]]:
    """Where the searches are compared."""
    return [{TEMPERATURE: t, "h": h} for h in sorted(o.search_horizons) for t in sorted(o.search_temperatures)]


def search_table(o: DecodingOptions, s: Summary) -> Table:
    rows = [(f"h={place['h']}, temperature {place[TEMPERATURE]:g}", {"part": SEARCH, **place}) for place in settings(o)]
    columns: Places = [("coverage", {"metric": PREDICTED})]
    columns += [(way, {"decoding": way}) for way in WAY_COLOURS]
    note = (
        f"A text passes while all its stretches of {o.rule_order} tokens occur in the corpus. Coverage: the least N "
        f"with Cov_N at most {1 - o.answered:.2g}, of the learner's law given that the text passes: exact. The others: "
        f"tokens drawn over h until {100 * o.answered:g} % of the prompts have a text that passes; empty where "
        f"{o.most} texts' worth was not enough. {interval_words(o.seeds, 'replicates')}."
    )
    return pivot(s, "Texts to draw until one passes", NEEDED, rows, columns, corner="length and temperature", note=note)


WAY_COLOURS = dict(
    zip((BEST_OF, LOCAL, DEPTH_FIRST, WALK), (charts.COLOURS[c] for c in ("vermilion", "green", "blue", "purple")))
)


def against(o: DecodingOptions, s: Summary, way: str) -> list[Summary]:
    """What coverage says and what this search needs, two rows, at each setting in which all replicates have both."""
    pairs = [
        Summary([told, needed])
        for place in settings(o)
        for needed in s.select(NEEDED, part=SEARCH, decoding=way, **place)
        for told in s.select(PREDICTED, part=SEARCH, **place)
        if told.seeds == needed.seeds == o.seeds
    ]
    return sorted(pairs, key=lambda pair: pair[0].mean)


def ratios(pairs: Sequence[Summary]) -> tuple[float, float]:
    """The least and the largest of what is needed over what coverage says."""
    found = [needed.mean / told.mean for told, needed in pairs]
    return min(found), max(found)


def search_figure(o: DecodingOptions, s: Summary) -> charts.Figure:
    """What each search needs against what coverage says that drawing whole texts needs."""
    every = {way: against(o, s, way) for way in WAY_COLOURS}
    said = "How many texts until one passes?"
    if len(every[BEST_OF]) > 2:
        low, high = ratios(every[BEST_OF])
        said = f"Best of N needs {low:.2g} to {high:.2g} times the N that coverage says"
    xlabel = rf"least N with $\mathrm{{Cov}}_N$ at most {1 - o.answered:.2g} (exact)"
    figure, axes = charts.new_figure(said, xlabel, "texts' worth of tokens drawn", size=(8.6, 5.2))
    for way, pairs in every.items():
        if pairs:
            x = [told.mean for told, _ in pairs]
            charts.errorbars(axes, x, [needed for _, needed in pairs], WAY_COLOURS[way], marker="o", linestyle="-")
            charts.end_labels(axes, [(x[-1], pairs[-1][1].mean, way, WAY_COLOURS[way])])
    if not axes.lines:
        charts.no_data(axes)
        return figure
    axes.set(xscale="log", yscale="log")
    charts.log_axis(axes, "y", *axes.get_ylim())
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "--", color="black", linewidth=1)
    charts.log_axis(axes, "x", low, high)
    charts.say(figure, "dashed: as many as coverage says")
    return figure


def search_findings(o: DecodingOptions, s: Summary) -> Iterator[str]:
    """How well coverage tells what best of N needs, and what search needs instead."""
    for way, pairs in ((way, against(o, s, way)) for way in WAY_COLOURS):
        if len(pairs) < 2:
            continue
        low, high = ratios(pairs)
        slope = loglog_slope(*([row.mean for row in column] for column in zip(*pairs)))
        first, last = ((f"N={told.mean:.3g}", needed.shown()) for told, needed in (pairs[0], pairs[-1]))
        yield (
            f"{way[0].upper()}{way[1:]}, {len(pairs)} settings, {100 * o.answered:g} % of prompts answered: at "
            f"{first[0]} of coverage it needs {first[1]} texts' worth of tokens, at {last[0]} {last[1]}; {low:.2g} to "
            f"{high:.2g} times N, with slope {slope:.2f}."
        )


def way_figure(o: DecodingOptions, s: Summary, way: str) -> charts.Figure:
    """Distance at every length, and coverage for every N, against the setting; the least of each is marked."""
    name = way.replace("_", "-")
    said = f"Which {name} is nearest to the expert, and which covers it?"
    found = compared(o, s, way, max(o.thresholds), o.detail)
    if found and found["apart"]:
        said = f"{name.capitalize()} {found['near']:g} comes nearest, {found['covering']:g} leaves least out"
    elif found and found["covers"]:
        said = f"{name.capitalize()} {found['covering']:g} leaves least out, and none is nearer beyond chance"
    hs, plain = doublings(o.horizon), {"marker": "", "linestyle": "-"}
    shape: dict[str, Any] = {"xscale": "linear", "yscale": "zero"}
    blue, orange = charts.shades(hs, charts.BLUES), charts.shades(o.thresholds, charts.ORANGES)
    near = [Curve({"part": way, "h": h}, f"h={h}", look={**plain, "color": blue[h]}) for h in hs]
    at = {"part": way, "h": o.detail}
    left = [Curve({**at, "N": N}, f"N={words(N)}", look={**plain, "color": orange[N]}) for N in o.thresholds]
    uncovered = f"share of texts of {o.detail} tokens that is not covered"
    panels = [
        Panel(way, WAYS[way], DISTANCE2, near, ylabel="squared Hellinger distance of h tokens", **shape),
        Panel(way, WAYS[way], COVERAGE, left, ylabel=uncovered, **shape),
    ]
    figure = chart(s, said, "", *panels, size=(11.0, 4.8))
    for axes, panel in zip(figure.axes, panels, strict=True):
        for curve in panel.curves:
            line = panel.series(s, curve, math.inf)
            for least in [first_best(-line.mean)] if len(line.x) else []:
                axes.plot(line.x[least], line.mean[least], "o", color=curve.look["color"], markersize=9, zorder=4)
    return figure


def setting(o: DecodingOptions) -> str:
    return f"{o.learner} of {Path(o.expert).name}" if o.expert else f"Text; order {o.order} of {o.expert_order}"


def figures(o: DecodingOptions, s: Summary) -> list[FigureSpec]:
    caption = (
        f"{subject(o)}. Left: squared Hellinger "
        "distance of the first h tokens. Right: share of the expert's texts to which the learner gives 1/N of their "
        f"probability or less. Dots: the least. {interval_words(o.seeds, 'replicates')}."
    )
    found = [
        FigureSpec(name, f"What does {words} do?", caption, lambda way=way: way_figure(o, s, way))  # type: ignore[misc]
        for name, way, words in (("headline", TEMPERATURE, "temperature"), ("top_p", TOP_P, "top-p"))
    ]
    caption = (
        f"An order-{o.order} learner decoded at temperatures "
        f"{', '.join(f'{t:g}' for t in sorted(o.search_temperatures))} writes "
        f"{', '.join(map(str, sorted(o.search_horizons)))} tokens; a text passes while all its stretches of "
        f"{o.rule_order} tokens occur in the corpus. Up: tokens drawn over the length until {100 * o.answered:g} % "
        f"of the prompts have a text that passes. {interval_words(o.seeds, 'replicates')}."
    )
    said = f"Text; order {o.order}; {charts.span('H', o.search_horizons)}; {o.seeds} replicates"
    search = FigureSpec("search", "How many texts until one passes?", caption, lambda: search_figure(o, s), said)
    return found if o.expert else [*found, search]


def findings(o: DecodingOptions, s: Summary) -> Iterator[str]:
    for way, N in ((way, N) for way in WAYS for N in o.thresholds):
        if not (found := compared(o, s, way, N, o.detail)):
            continue
        near, covering, (distances, shares) = found["near"], found["covering"], found["shown"]
        said = f"{way.replace('_', '-')}, {o.detail} tokens, N={words(N)}:"
        if near == covering:
            yield f"{said} {near:g} is nearest and covers best, {distances[0]} and {shares[0]}."
            continue
        verdict = "no setting serves both" if found["apart"] else "not both changes are beyond chance"
        yield (
            f"{said} the squared Hellinger distance is least at {near:g} ({distances[0]}; {distances[1]} at "
            f"{covering:g}), the share that is not covered at {covering:g} ({shares[1]}; {shares[0]} at {near:g}). "
            f"Paired, the distance changes by {found['gaps'][0]} and the share by {found['gaps'][1]}: {verdict}."
        )
    yield from search_findings(o, s)


STUDY = Study(
    name="decoding",
    question="What do temperature and top-p do to the law of whole texts: nearer to the expert, or covering it better?",
    options=DecodingOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings, setting=setting),
    labels=(TEMPERATURE, TOP_P, "N", "decoding"),
    reads=("corpus", "expert", "prompts"),
    check_machine=check_machine,
)
