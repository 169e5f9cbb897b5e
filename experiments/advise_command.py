"""``ntp-bench advise``: data as users have them, and the four answers on the terminal, in a picture and on a page."""

from __future__ import annotations

import html
import json
import math
import re
import shlex
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from agents import ConvergenceWarning
from agents.fit_class import fit_class
from experiments.advise import (
    LEAST,
    Advice,
    advise,
    ends,
    growth_words,
    nats_a_token,
    power_of_h,
    reached_words,
    tokens_until_one,
)
from experiments.charts import COLOURS, Axes, Figure, learner_style, log_axis, new_panels, render, styled
from experiments.evaluation import build_task, parse_call
from experiments.log_probs import curves_of, read_log_probs
from experiments.measure import powers_of_two, require_torch
from experiments.report import figure_html, page_html
from experiments.study import FigureSpec
from experiments.summary import Table
from ntp_envs import (
    ARLinearClass,
    Demonstrations,
    MarkovClass,
    NGramClass,
    PolicyClass,
    collect,
    distance,
    ended_class,
)
from ntp_envs.checks import check_int
from ntp_envs.features import WindowOneHot
from ntp_envs.intervals import CONFIDENCE, each_of
from ntp_envs.tasks.text import Text

# -- the data ----------------------------------------------------------------------------------------------------------

ABOUT = """\
What should I do with my data? Four sentences, each a measured number: is the class misspecified, is the horizon long,
what can be afforded, which learner.

DATA is a text file (or "default", the text that comes with Python), a file of demonstrations (.npz, written by
Demonstrations.save), a task such as "Contamination(eps=0.05)", or one or two files of log-probabilities as
`ntp-bench distance` reads them.

--class is ngram(order=3), markov(order=1), linear(window=4, radius=8), or nothing for a task's own."""


@dataclass(frozen=True)
class AdviseSettings:
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """See above."""
    class_: Annotated[str, tyro.conf.arg(name="class")] = ""
    """The policy class."""
    horizon: int | None = None
    """Tokens wanted; 64 of a text or a task, all that there are of demonstrations."""
    budget: str = "10min"
    """Processor time that a fit may take: 90s, 10min, 2h."""
    memory: str = "8GB"
    """Memory that it may take: 500MB, 8GB."""
    n: int = 2000
    """Sequences that are drawn from a text or a task, at most."""
    run: bool = False
    """Fit the recommended learner, and log-loss, to all demonstrations, and compare."""
    network: bool = False
    """Set a small transformer against the class too, beside n-grams and mixtures, and say its cost (extra neural)."""
    seed: int = 0
    """Of everything that is drawn."""
    json: bool = False
    """Print all numbers as JSON."""
    out: Path | None = None
    """A folder for report.html, advice.json and the figure."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.data) <= 2:
            raise ValueError(f"DATA is {len(self.data)} words; it is one, or two files of log-probabilities.")
        check_int("n", self.n, minimum=LEAST)
        check_int("seed", self.seed, minimum=0)
        if self.network:
            require_torch()
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file; a folder is needed.")


UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "MB": 1e6, "GB": 1e9}


def quantity(name: str, text: str, units: Sequence[str]) -> float:
    """A number with its unit.

    >>> quantity("budget", "10min", ("s", "min", "h")), quantity("memory", "8GB", ("MB", "GB"))
    (600.0, 8000000000.0)
    """
    match = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in (*units, "") or match[1].count(".") > 1 or match[1] == ".":
        raise ValueError(
            f"--{name} {text} cannot be read: a number and one of {', '.join(units)}, such as 10{units[0]}."
        )
    return float(match[1]) * UNITS[match[2] or units[0]]


def class_of(text: str, data: Demonstrations) -> PolicyClass:
    """The class of a call, over the demonstrations' vocabulary.

    Raises:
        ValueError, TypeError: another name, or parameters that do not fit.
    """
    call = parse_call(text)
    size = data.vocab_size

    def ngram(order: int) -> PolicyClass:
        return NGramClass(size, order)

    def markov(order: int) -> PolicyClass:
        return MarkovClass(size, order)

    def linear(window: int, radius: float = 8.0) -> PolicyClass:
        return ARLinearClass(WindowOneHot(size, window), radius)

    kinds: dict[str, Callable[..., PolicyClass]] = {"ngram": ngram, "markov": markov, "linear": linear}
    if call.name not in kinds:
        raise ValueError(f"--class {text} is none of {', '.join(kinds)}; write, for instance, ngram(order=3).")
    try:
        found = kinds[call.name](**dict(call.parameters))
    except TypeError as error:
        said = str(error).rpartition(">.")[2]
        raise ValueError(f"--class {text}: {said}; ngram(order=3), markov(order=1) or linear(window=4).") from error
    return ended_class(found, data.end_token)


def read_data(settings: AdviseSettings, rng: np.random.Generator) -> tuple[Demonstrations, PolicyClass | None, Any]:
    """Demonstrations, the class that goes with them, and the task that they are from, if any."""
    (name,) = settings.data
    path = Path(name)
    if path.suffix == ".npz":
        return Demonstrations.load(path), None, None
    if name != "default" and not path.exists():
        if not set(name) & set("(:") and (path.suffix or path.name != name):
            raise ValueError(f"{name} is not there: DATA is a file of text or of demonstrations, a task, or default.")
        call = parse_call(name)
        task = build_task(name, settings.horizon if "horizon" not in dict(call.parameters) else None)
        return collect(task, settings.n, rng), task.policy_class, task
    text = Text(corpus=name, horizon=settings.horizon or 64)
    width = text.prompt_length + text.horizon
    places = np.arange(0, len(text.data.train) - width + 1, width)
    if len(places) < LEAST:
        raise ValueError(
            f"{name} has {len(places)} stretches of {width} tokens; at least {LEAST} are needed: a shorter --horizon."
        )
    chosen = np.sort(rng.permutation(len(places))[: settings.n])
    lines = text.data.train.lines(places[chosen], width, None)
    prompts, tokens = lines[:, : text.prompt_length], lines[:, text.prompt_length :]
    return Demonstrations(prompts, tokens, vocab_size=text.vocab_size), None, None


def _truth(task: Any, data: Demonstrations) -> str:
    """What only the task knows."""
    policy = fit_class(task.policy_class, data, tol=1e-6)[0]
    curve = distance(task.expert, policy, task, rng=np.random.default_rng(0))
    return (
        f"   (The task knows its expert: after {task.horizon} tokens log-loss is at D_H^2 = {curve.final:.3g} from it.)"
    )


def _log_probs(settings: AdviseSettings) -> dict[str, Any] | None:
    """Arrays of log-probabilities, if that is what the files hold."""
    if len(settings.data) == 1 and Path(settings.data[0]).suffix == ".npz":
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(settings.data[0]) as file:
            if "p_on_p.npy" in file.namelist():
                return read_log_probs(Path(settings.data[0]))
        return None  # demonstrations, or nothing that can be read, which their reader says
    if len(settings.data) == 1 and Path(settings.data[0]).suffix not in (".jsonl", ".parquet"):
        return None
    return read_log_probs(*map(Path, settings.data))


def _from_arrays(arrays: dict[str, Any]) -> Advice:
    """Two models and no class: the first two answers, and why there are no others."""
    curve = curves_of(arrays, metrics=["hellinger2"])["hellinger2"]
    power = power_of_h(curves_of(arrays, metrics=["hellinger2"], confidence=each_of(CONFIDENCE, 2))["hellinger2"])
    nats, at = nats_a_token(curve)
    until = tokens_until_one(curve)
    horizon, low, high = curve.horizon, float(curve.lower[-1]), float(curve.upper[-1])
    sentences = (
        f"1. Q is {'not P' if low > 0 else 'not told from P'}: after {horizon} tokens the squared Hellinger distance "
        f"D_H^2 (0 to 2) is {curve.final:.3g} [{low:.3g}, {high:.3g}], so at least {low / 2:.2g} of the mass is "
        "elsewhere.",
        f"2. Q drifts by {ends(nats)} nats a token (at h = {at}), which {growth_words(power)}; "
        f"{reached_words(until, horizon)}.",
        "3. No class and no learner is named by two files of log-probabilities, so there is nothing to afford.",
        "4. For a recommendation give texts of P instead: a text file or demonstrations, and --class.",
    )
    return Advice(
        n=len(arrays["p_on_p"]),
        horizon=horizon,
        vocab_size=0,
        curve=curve,
        nats_per_token=nats,
        power=power,
        tokens_until_one=until,
        sentences=sentences,
    )


# -- the answers -------------------------------------------------------------------------------------------------------


def show_advice(words: list[str]) -> int:
    """The command: parse, read, measure, print and write."""
    settings = tyro.cli(
        AdviseSettings, args=words, prog="ntp-bench advise", description=ABOUT, config=(tyro.conf.FlagCreatePairsOff,)
    )
    budget = quantity("budget", settings.budget, ("s", "min", "h"))
    memory = quantity("memory", settings.memory, ("MB", "GB"))
    rng = np.random.default_rng(settings.seed)
    start = time.perf_counter()
    arrays = _log_probs(settings)
    truth = []
    if arrays is not None:
        found = _from_arrays(arrays)
    else:
        data, own, task = read_data(settings, rng)
        policy_class = class_of(settings.class_, data) if settings.class_ else own
        if policy_class is None:
            raise ValueError(
                f"--class is missing: what may a learner of {settings.data[0]} choose from? ngram(order=3)?"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = advise(
                data,
                policy_class,
                horizon=None if task else settings.horizon,
                budget=budget,
                memory=memory,
                run=settings.run,
                network=settings.network,
                rng=rng,
            )
        if task is not None and not settings.class_:
            truth = [_truth(task, data)]
    console = Console(highlight=False)
    if settings.json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        for sentence in (*found.sentences, *truth):
            console.print(escape(sentence), soft_wrap=True)
    if settings.out is not None:
        _write(settings.out, words, settings, found, [*found.sentences, *truth], time.perf_counter() - start)
        if not settings.json:
            console.print(escape(f"report: {settings.out / 'report.html'}"), soft_wrap=True)
    return 0


def draw(found: Advice, title: str) -> Figure:
    """The drift over the length; what the pilot says of each affordable learner; what each learner costs."""
    labels = ["tokens written, h", "distance over the nearest candidate's", "processor seconds (dotted: the budget)"]
    titles = ["squared Hellinger distance of log-loss", "in a pilot, from the best rival", "with all demonstrations"]
    if not found.costs:  # of two models
        figure, (drift,) = new_panels(title, labels[:1], "", titles=("squared Hellinger distance of Q from P",))
        draw_drift(drift, found, "Q from P")
        return figure
    size = (14.0, 1.8 + 0.3 * max(len(found.costs), 9))
    figure, (drift, factor, price) = new_panels(title, labels, "", share=False, titles=titles, size=size)
    draw_drift(drift, found, f"from the rival ({found.rival})")
    rows = {cost.learner: row for row, cost in enumerate(found.costs)}
    pilot = {one.learner: one.pilot for one in found.predictions if math.isfinite(one.pilot[0])}
    edge = 2.0 * max([2.0, *(value for value, _, _ in pilot.values())])
    for cost in found.costs:
        row, chosen = rows[cost.learner], cost.learner == found.recommended
        shade = COLOURS["blue"] if chosen else COLOURS["grey" if not cost.why_not else "vermilion"]
        look: dict[str, Any] = {"color": shade, "marker": "o", "markersize": 9 if chosen else 6, "linestyle": ""}
        if cost.learner in pilot:
            value, lower, upper = pilot[cost.learner]
            factor.plot([lower, min(upper, 2.0 * edge)], [row, row], color=shade)
            factor.plot([value], [row], **look)
        if math.isfinite(cost.seconds):
            price.plot([cost.seconds], [row], **look)
    names = [name + (" (take this)" if name == found.recommended else "") for name in rows]
    for axes in (factor, price):
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), names if axes is factor else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
    log_axis(factor, "x", 0.9, edge)
    price.axvline(found.budget, color=COLOURS["vermilion"], linestyle=":")
    seconds = [cost.seconds for cost in found.costs if math.isfinite(cost.seconds)]
    log_axis(price, "x", min([1e-3, *seconds]) / 2.0, 4.0 * max([found.budget, *seconds]))
    return figure


def draw_drift(axes: Axes, found: Advice, label: str) -> None:
    """The distance with its band, and what is proved without a rival."""
    assert found.curve is not None
    h, colour = np.arange(1, found.horizon + 1), learner_style("log-loss").colour
    top = max(float(found.curve.upper.max()), *found.hellinger2_lower, 1e-6)
    axes.plot(h, found.curve.values, color=colour)
    axes.fill_between(h, found.curve.lower, found.curve.upper, color=colour, alpha=0.22, linewidth=0)
    axes.text(0.04, 0.94, f"{label}; band: {found.curve.band}", transform=axes.transAxes, color=colour)
    if len(found.lengths):
        axes.plot(found.lengths, found.hellinger2_lower, color=COLOURS["black"], marker="o", linestyle="--")
        axes.text(0.04, 0.87, "dashed: proved from samples, at least", transform=axes.transAxes)
    ticks = powers_of_two(found.horizon)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(1, max(found.horizon, 2))
    axes.set_ylim(0, 1.28 * top)  # room for the words
    axes.set_yticks([tick for tick in axes.get_yticks() if 0.0 <= tick <= min(2.0, 1.1 * top)])


NUMBERS = (
    ("e-value against the class, as a power of ten", lambda found: f"{found.log_e_value / math.log(10.0):.1f}"),
    ("p-value", lambda found: f"{found.p_value:.2g}"),
    ("nats a token that the rival gains on held-out texts", lambda found: ends(found.held_out)),
    ("the same as rho counts it, -1 to 1 a text", lambda found: ends(found.held_out_rho)),
    ("held-out texts with probability 0 under log-loss's fit", lambda found: f"{found.impossible:.1%}"),
    ("total variation at H, at least", lambda found: f"{found.tv_lower[-1]:.2g}"),
    ("total variation that could not have been seen", lambda found: f"{found.detectable:.2g}"),
    ("drift of log-loss, nats a token", lambda found: ends(found.nats_per_token)),
    ("power of h that it adds up with (1: like H)", lambda found: ends(found.power)),
    ("tokens until the distance is 1", lambda found: ends(found.tokens_until_one)),
    ("chance in the distance of the recommended fit, a share", lambda found: ends(found.chance)),
)
LEARNERS_NOTE = (
    "Seconds of one processor and megabytes with all demonstrations. In the pilot: distance from the best rival over "
    "the nearest candidate's, -log(1 - D/2) at the longest unsaturated h, 95 % for all learners together. Theory: the "
    "order that the approximation factor is of if the class is misspecified, and the sections of docs/theory.md. Worst "
    "loss: of the rho tournament on held-out texts, at most 1 a text; 0 wins."
)


def _page(words: list[str], found: Advice, title: str, sentences: list[str], svg: bytes, seconds: float) -> str:
    answers = "".join(f"<li>{html.escape(sentence[3:])}</li>" for sentence in sentences[:4])
    known = [f"<p>{html.escape(sentence.strip())}</p>" for sentence in sentences[4:]]
    parts = [f"<h1>{html.escape(title)}</h1>", "<p>What should I do with my data?</p>", f"<ol>{answers}</ol>", *known]
    parts.append(
        '<p class="note">Distances are between laws of whole texts: the squared Hellinger distance D_H^2 is 0 for '
        "equal laws and 2 for laws with no text in common; total variation is the share of texts that would have to "
        "change. value [lower, upper]: 95 %.</p>"
    )
    caption = "Squared Hellinger distance of Q from P at every length."
    if found.costs:
        caption = (
            f"Left: squared Hellinger distance of the log-loss fit from the best rival ({found.rival}), and the lower "
            "bound proved from samples for all lengths together. Middle: how many times as far as the nearest "
            "candidate each affordable learner is. Right: what each costs; orange is over the budget."
        )
    parts.append(figure_html(FigureSpec("advice", "One picture", caption, lambda *_: None), svg))  # type: ignore[arg-type]
    if found.costs:
        by = {one.learner: one for one in found.predictions}
        rows = []
        for cost in found.costs:
            one, loss = by.get(cost.learner), found.losses.get(cost.learner, math.nan)
            pilot, said = (ends(one.pilot), one.theory) if one else ("", cost.why_not)
            rows.append([cost.learner, cost.seconds, cost.megabytes, pilot, loss, said])
        rows += [[one.learner, one.seconds, one.megabytes, "", math.nan, one.why_not] for one in found.networks]
        heads = ["learner", "seconds", "MB", "in the pilot", "worst loss", "theory, or why not"]
        parts.append(Table("Learners", heads, rows, LEARNERS_NOTE).to_html())
        numbers = [[what, of(found)] for what, of in NUMBERS]
        parts.append(Table("What the sentences rest on", ["number", "value"], numbers).to_html())
    command = shlex.join(["ntp-bench", "advise", *words])
    parts.append(f'<h2>To reproduce</h2><pre class="command">{html.escape(command)}</pre>')
    parts.append(
        f'<p class="note">n = {found.n}, H = {found.horizon}, {seconds:.0f} s. All numbers: advice.json. The same seed '
        "gives the same answers but for seconds, and for what hangs on them.</p>"
    )
    return page_html(title, parts)


def _write(
    out: Path, words: list[str], settings: AdviseSettings, found: Advice, sentences: list[str], seconds: float
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "advice.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    title = f"advise: {', '.join(settings.data)} {settings.class_}".strip()
    with styled():
        png, svg = render(draw(found, f"{title}: n = {found.n}, H = {found.horizon}"))[:2]
    (out / "advice.png").write_bytes(png)
    (out / "advice.svg").write_bytes(svg)
    page = _page(words, found, title, sentences, svg, seconds)
    (out / "report.html").write_text(page, encoding="utf-8")
