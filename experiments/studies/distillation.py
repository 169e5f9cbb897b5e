"""Students of growing size, taught by tokens, by laws, or on what they write themselves: whose own texts drift least?

The expert is an n-gram model of text, or a language model. The students are shorter n-gram models, for which every
objective is solved exactly, and networks. All are shown as many texts: of the expert, or, on policy, half of them and
as many of their own; and networks are updated as often in every way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents import Agent, make_agent
from experiments import charts, language_models
from experiments.cells import Cell, Label, Record
from experiments.language_models import FORCED, RATE, forced_kl, rate_record, text_columns
from experiments.measure import (
    NetworkOptions,
    distance_record,
    drawn_once,
    networks_left_out,
    quiet_fit,
    shown_lengths,
    trains_networks,
)
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Places, Summary, Table, interval_words, number, pivot
from experiments.texts import ModelOptions
from ntp_envs import NGramClass, PolicyClass, Task, collect, distance
from ntp_envs.tasks import Text


@dataclass(frozen=True)
class DistillationOptions(ModelOptions, NetworkOptions):
    """The text, the students, and sizes; the defaults are the full study.

    With a language model, laws of n x horizon x vocabulary numbers are kept.
    """

    orders: tuple[int, ...] = option((2, 3, 4, 5), most="expert_order")
    """Orders of the students."""
    horizon: int = option(16, quick=8, least=2)
    """Tokens to write."""
    n: int = option(8000, quick=2000, least=8)
    """Texts that each student is taught with."""
    rounds: int = option(2)
    """Times that a student on policy writes texts of its own; the last of them count."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    forced: int = option(500, quick=200, least=2)
    """Texts of the expert on which the teacher-forced divergence is computed."""
    seeds: int = option(5, quick=3)
    """Replicates."""
    networks: tuple[str, ...] = option(("mlp", "transformer"), choices=("mlp", "transformer"))
    """Networks among the students."""
    width: int = option(64, quick=32, least=4)
    """Width of the networks, a multiple of 4."""
    steps: int = option(1000, quick=150)
    """Updates of a network by log-loss, and then as many by laws; or twice as many by tokens."""

    def check(self) -> None:
        if self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4.")


# -- cells: a student of one size, taught in every way ----------------------------------------------------------------

TOKENS, LAWS, FORWARD, REVERSE = "by tokens", "by laws", "on policy, forward KL", "on policy, reverse KL"
COLOUR = dict(
    zip((TOKENS, LAWS, FORWARD, REVERSE), (charts.COLOURS[c] for c in ("vermilion", "orange", "blue", "green")))
)
DISTANCE2 = "hellinger2"


def teacher(way: str, task: Task, n: int, rounds: int, training: Mapping[str, Any] | None = None) -> Agent:
    """Who teaches in this way: n-gram models, or networks with these hyper-parameters of their training."""
    if way == TOKENS:
        return make_agent("NGramBC" if training is None else "NeuralBC", **_steps(training, 2))
    name = "OnPolicyDistillation" if training is None else "NeuralDistillation"
    if way == LAWS:
        laws = {} if training is None else {"round_steps": training["steps"]}
        return make_agent(name, task=task, on_policy=0.0, rounds=1, **_steps(training), **laws)
    shown: dict[str, Any] = {"divergence": "forward" if way == FORWARD else "reverse", "rounds": rounds}
    shown["rollouts"] = max(1, n // 2 // rounds)
    if training is not None:
        shown |= {"round_steps": max(1, training["steps"] // rounds), "floor": FLOOR if way == REVERSE else 0.0}
    return make_agent(name, task=task, **shown, **_steps(training))


#: uniform mass in the laws that networks are taught by reverse KL, which is infinite where an expert excludes a token
FLOOR = 1e-6


def _steps(training: Mapping[str, Any] | None, times: int = 1) -> dict[str, Any]:
    return {} if training is None else {**training, "steps": times * training["steps"]}


def task_of(task: Mapping[str, Any], places: Mapping[str, Any]) -> Task:
    """The text, or the language model that lies there."""
    if not places:
        return Text(**task)
    from ntp_envs.tasks import LanguageModel

    return LanguageModel(places["path"], prompts=places["file"] or None, horizon=task["horizon"], learner="ngram")


def taught(
    *, task: Mapping[str, Any], order: int, n: int, rounds: int, draws: int, forced: int, replicate: int,
    rng: np.random.Generator, places: Mapping[str, Any] = {},
) -> list[Record]:  # fmt: skip
    """The students' distances at every length, and the divergence of their laws on texts of the expert."""
    made = task_of(task, places)
    teachers = {way: teacher(way, made, n, rounds) for way in COLOUR}
    return lessons(made, NGramClass(made.vocab_size, order), teachers, {"order": order}, n, draws, forced, rng)


def taught_network(
    *, task: Mapping[str, Any], network: str, width: int, steps: int, n: int, rounds: int, draws: int, forced: int,
    replicate: int, rng: np.random.Generator, places: Mapping[str, Any] = {},
) -> list[Record]:  # fmt: skip
    """The same of networks."""
    from agents.neural import NetworkClass

    made = task_of(task, places)
    window = {"window": min(WINDOW, made.prompt_length + made.horizon - 1)} if network == "mlp" else {}
    students = NetworkClass.for_task(network, made, width=width, layers=1, **window)
    training = {"steps": steps, "batch_size": 64, "learning_rate": 3e-3}
    teachers = {way: teacher(way, made, n, rounds, training) for way in COLOUR}
    return lessons(made, students, teachers, {"student": network}, n, draws, forced, rng)


#: tokens that an MLP sees
WINDOW = 8


def lessons(
    made: Task, students: PolicyClass, teachers: Mapping[str, Agent], place: Mapping[str, Label], n: int, draws: int,
    forced: int, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """Students of one class, taught in every way on the same texts, and measured."""
    demonstrations, held = collect(made, n, rng), collect(made, forced, rng)
    seed, expert = int(rng.integers(2**31)), drawn_once(made.expert)
    records = []
    for way, agent in teachers.items():
        shown = demonstrations if way in (TOKENS, LAWS) else demonstrations.subset(np.arange(n - n // 2))
        policy = quiet_fit(agent, shown, students, rng)  # so many rounds, settled or not
        labels: dict[str, Label] = {"learner": way, **place, "n": n, "H": made.horizon}
        drawing = np.random.default_rng(seed)
        curve = distance(expert, policy, made, method="monte carlo (bridge)", n=draws, rng=drawing)
        records += [distance_record(curve, labels, h) for h in shown_lengths(made.horizon)]
        records.append(rate_record(curve, labels))
        mask = np.ones(held.tokens.shape, dtype=bool)
        kl = forced_kl(made.expert, policy, held.prompts, held.tokens, mask)
        records.append(Record(FORCED, float(kl.mean()), labels, method=f"{forced} texts of the expert"))
    return records


def cells(o: DistillationOptions) -> Iterator[Cell]:
    task = o.given("corpus", "expert_order", "horizon", "prompt_length")
    places: dict[str, Any] = {}
    if o.expert:
        told, place = language_models.model_parameters(o.expert, o.prompts, None, "cpu", language_models.BLOCK)
        language_models.check_models(o.expert, horizon=o.horizon, prompts=o.prompts)
        task, places = {**told, "horizon": o.horizon}, {"places": place}
    sizes = {"task": task, **o.given("n", "rounds", "draws", "forced"), **places}
    networks = o.networks if trains_networks(o.neural) else ()
    for replicate in range(o.seeds):
        for network in networks:
            cell = {**sizes, "network": network, **o.given("width", "steps"), "replicate": replicate}
            yield Cell("networks", taught_network, cell, apart=("places",))
        for order in sorted(o.orders, reverse=True):
            yield Cell("students", taught, {**sizes, "order": order, "replicate": replicate}, apart=("places",))


def check_machine(o: DistillationOptions, processes: int) -> None:
    """``ValueError`` where a language model and the laws that are kept take more memory than is free."""
    if o.expert:
        size = language_models.configuration(o.expert).get_text_config().vocab_size
        laws = 4 * 8.0 * o.n * o.horizon * size
        language_models.check_memory(o.expert, processes, horizon=o.horizon, laws=laws)


# -- tables, figures and findings --------------------------------------------------------------------------------------


def students(o: DistillationOptions) -> Places:
    """Names of students by their place in the summary."""
    grams: Places = [(f"{order}-gram", {"order": order}) for order in sorted(o.orders)]
    return grams + [(NAMES[network], {"student": network}) for network in o.networks if o.neural != "no"]


NAMES = {"mlp": "MLP", "transformer": "transformer"}
MARKERS = {"mlp": "s", "transformer": "^"}


def subject(o: DistillationOptions) -> str:
    """Whom they learn from."""
    return language_models.shown_name(o.expert) if o.expert else f"an order-{o.expert_order} expert"


def tables(o: DistillationOptions, s: Summary) -> list[Table]:
    rows: Places = [
        (f"{name}, {way}", {**place, "learner": way})
        for name, place in students(o)
        for way in COLOUR
        if len(s.select(RATE, **place)) or "order" in place
    ]
    columns = text_columns(o.horizon, 4, 16)
    note = (
        "D^2: squared Hellinger distance (0 to 2) of the first h tokens; nats a token: -log(1 - D^2/2) of whole texts "
        f"over their length; forced KL: of the laws of the next token, on texts of the expert; {o.n} texts each. "
        f"{interval_words(o.seeds, 'replicates')}."
    )
    return [pivot(s, "Students by what they are taught with", DISTANCE2, rows, columns, corner="student", note=note)]


def compounding_figure(o: DistillationOptions, s: Summary) -> charts.Figure:
    """Drift against the teacher-forced divergence: a line a way of teaching, a point a size; networks apart."""
    figure, axes = charts.new_figure(
        title(o, s), "teacher-forced KL, nats a token", "drift of whole texts, nats a token", size=(9.0, 5.2)
    )
    for way, colour in COLOUR.items():
        forced, rate = (s.series("order", metric, part="students", learner=way) for metric in (FORCED, RATE))
        if len(forced.x) != len(rate.x) or not len(rate.x):
            continue
        axes.plot(forced.mean, rate.mean, "-", color=colour, label=way)
        charts.errorbars(axes, forced.mean, rate, colour, marker="o")
        for network in o.networks:
            x, y = (s.value(metric, student=network, learner=way) for metric in (FORCED, RATE))
            if x > 0 and y > 0:
                axes.plot([x], [y], MARKERS[network], color=colour, markerfacecolor="white", markersize=8)
    for order in sorted(o.orders):  # above the leftmost of its students
        points = [(s.value(FORCED, order=order, learner=w), s.value(RATE, order=order, learner=w)) for w in COLOUR]
        x, y = min((point for point in points if not math.isnan(sum(point))), default=(0.0, 0.0))
        if x > 0 and y > 0:
            axes.annotate(f"order {order}", (x, y), **charts.text(""), xytext=(-6, 9), ha="right")
    if not axes.lines:
        charts.no_data(axes)
        return figure
    charts.say_data(figure, s.select(RATE), f"students of {subject(o)}", what="replicates")
    charts.say(figure, "bars: 95 % intervals; squares: MLP, triangles: transformer")
    charts.plain_log_axis(axes)
    axes.set_xscale("log")
    low, high = charts.log_range(axes, "x")
    charts.round_ticks(axes, (low, high))
    axes.set_xlim(low / 1.3, high * 1.1)  # room for the names of the orders
    charts.legend_below(figure, COLOUR)
    return figure


def least(s: Summary, metric: str, place: Mapping[str, Any]) -> str:
    """The way of teaching that this is least for; empty where one was not measured."""
    found = {way: s.value(metric, learner=way, **place) for way in COLOUR}
    return "" if any(map(math.isnan, found.values())) else min(found, key=lambda way: found[way])


def at_equal(o: DistillationOptions, s: Summary) -> tuple[float, dict[str, float]] | None:
    """A teacher-forced divergence that all ways of teaching have, and the drift of each there, between two sizes."""
    curves = {
        way: [s.series("order", metric, part="students", learner=way).mean for metric in (FORCED, RATE)]
        for way in COLOUR
    }
    if any(len(forced) != len(o.orders) or len(rate) != len(o.orders) for forced, rate in curves.values()):
        return None
    ends = [(forced.min(), forced.max()) for forced, _ in curves.values()]
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    if not low <= high:
        return None
    x, order = math.sqrt(low * high), {way: forced.argsort() for way, (forced, _) in curves.items()}
    drift = {
        way: float(np.exp(np.interp(math.log(x), np.log(forced[order[way]]), np.log(rate[order[way]]))))
        for way, (forced, rate) in curves.items()
    }
    return x, drift


def title(o: DistillationOptions, s: Summary) -> str:
    if found := at_equal(o, s):
        best = min(found[1], key=lambda way: found[1][way])
        return f"At equal teacher-forced KL, n-grams taught {best.replace(', ', ' by ')} drift least"
    return "Whose own texts drift least, at an equal teacher-forced divergence?"


def figures(o: DistillationOptions, s: Summary) -> list[FigureSpec]:
    caption = (
        f"Students of {subject(o)} (n-gram models; squares: MLP, triangles: transformer), {o.n} texts each, of the "
        "expert or (on policy) half of them their own. Across: KL of the laws of the next token on texts of the "
        f"expert. Up: Bhattacharyya distance of texts of {o.horizon} tokens over their length. "
        f"{interval_words(o.seeds, 'replicates')}."
    )
    return [FigureSpec("headline", "Whose own texts drift least?", caption, lambda: compounding_figure(o, s))]


def findings(o: DistillationOptions, s: Summary) -> Iterator[str]:
    for name, place in students(o):
        drift, forced = least(s, RATE, place), least(s, FORCED, place)
        if not drift or not forced:
            continue
        words = "; ".join(
            f"{way} {s.shown(DISTANCE2, learner=way, **place, h=o.horizon)} and "
            f"{number(s.value(FORCED, learner=way, **place), 3)}"
            for way in COLOUR
        )
        verdict = f"{drift}, which" if drift == forced else f"{drift}, while {forced}"
        yield (
            f"{name[0].upper()}{name[1:]}, squared Hellinger distance of {o.horizon} tokens and forced KL a token: "
            f"{words}. Least drift: {verdict} has the least KL."
        )
    if found := at_equal(o, s):
        words = "; ".join(f"{way} {number(rate, 2)}" for way, rate in found[1].items())
        yield f"Nats of drift a token where forced KL is {number(found[0], 3)}, between two n-gram students: {words}."
    if why := networks_left_out(o.neural):
        yield f"Networks were {why}."


STUDY = Study(
    name="distillation",
    question="Taught by tokens, by laws or on their own texts: which students' texts drift least from the expert's?",
    options=DistillationOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("order", "student"),
    reads=("corpus", "expert", "prompts"),
    check_machine=check_machine,
)
