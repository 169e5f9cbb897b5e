"""``ntp-bench advise``: data as users have them, and the four answers on the terminal, in a picture and on a page."""

from __future__ import annotations

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
from experiments.advise import LEAST, Advice, advise, nats_a_token, reached_words, tokens_until_one
from experiments.charts import COLOURS, Figure, end_labels, learner_style, new_panels, render, styled
from experiments.evaluation import build_task, parse_call
from experiments.log_probs import curves_of, read_log_probs
from experiments.measure import require_torch
from experiments.report import report_html
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
    """Set a small transformer against the class too, beside n-grams and mixtures (extra neural)."""
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

    def linear(window: int, radius: float = 8.0) -> PolicyClass:
        return ARLinearClass(WindowOneHot(size, window), radius)

    kinds: dict[str, Callable[..., PolicyClass]] = {
        "ngram": lambda order: NGramClass(size, order),
        "markov": lambda order: MarkovClass(size, order),
        "linear": linear,
    }
    if call.name not in kinds:
        raise ValueError(f"--class {text} is none of {', '.join(kinds)}; write, for instance, ngram(order=3).")
    try:
        found = kinds[call.name](**dict(call.parameters))
    except TypeError as error:
        raise ValueError(f"--class {text}: {str(error).rpartition('>.')[2]}.") from error
    return ended_class(found, data.end_token)


def read_data(settings: AdviseSettings, rng: np.random.Generator) -> tuple[Demonstrations, PolicyClass | None, Any]:
    """Demonstrations, the class that goes with them, and the task that they are from, if any."""
    (name,) = settings.data
    path = Path(name)
    if path.suffix == ".npz":
        return Demonstrations.load(path), None, None
    if name != "default" and not path.exists():
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
    nats, at = nats_a_token(curve)
    until = tokens_until_one(curve)
    horizon, low, high = curve.horizon, float(curve.lower[-1]), float(curve.upper[-1])
    sentences = (
        f"1. Q is {'not P' if low > 0 else 'not told from P'}: after {horizon} tokens D_H^2 = {curve.final:.3g} "
        f"[{low:.3g}, {high:.3g}].",
        f"2. Q drifts by {nats[0]:.2g} [{nats[1]:.2g}, {nats[2]:.2g}] nats a token (at h = {at}); "
        + reached_words(until, horizon)
        + ".",
        "3. No class and no learner is named by two files of log-probabilities, so there is nothing to afford.",
        "4. For a recommendation give texts of P instead: a text file or demonstrations, and --class.",
    )
    return Advice(
        n=len(arrays["p_on_p"]),
        horizon=horizon,
        vocab_size=0,
        curve=curve,
        nats_per_token=nats,
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
        _write(settings, found, [*found.sentences, *truth], time.perf_counter() - start)
        if not settings.json:
            console.print(escape(f"report: {settings.out / 'report.html'}"), soft_wrap=True)
    return 0


def draw(found: Advice, title: str) -> Figure:
    """Left, the drift over the length; right, what each learner costs."""
    figure, (drift, price) = new_panels(
        title,
        ["tokens written, h", "processor seconds with all demonstrations (dotted: the budget)"],
        "",
        share=False,
        titles=("squared Hellinger distance of log-loss", "learners of the class"),
        size=(11.0, 4.6),
    )
    assert found.curve is not None
    h = np.arange(1, found.horizon + 1)
    colour = learner_style("log-loss").colour
    drift.plot(h, found.curve.values, color=colour)
    drift.fill_between(h, found.curve.lower, found.curve.upper, color=colour, alpha=0.22, linewidth=0)
    drift.plot(found.lengths, found.hellinger2_lower, color=COLOURS["black"], marker="o", linestyle="--")
    drift.set_xscale("log", base=2)
    drift.set_ylim(0, 2.05)
    drift.set_xlim(1, found.horizon * 1.9)
    drift.set_xticks(found.lengths, [str(one) for one in found.lengths])
    ends = [
        (found.horizon, found.curve.final, f"from {found.rival}", colour),
        (found.horizon, float(found.hellinger2_lower[-1]), "proved, at least", COLOURS["black"]),
    ]
    end_labels(drift, [end for end in ends if math.isfinite(end[1])])
    costs = [cost for cost in found.costs if math.isfinite(cost.seconds)]
    for row, cost in enumerate(costs):
        chosen = cost.learner == found.recommended
        shade = COLOURS["blue"] if chosen else COLOURS["grey" if not cost.why_not else "vermilion"]
        price.plot([cost.seconds], [row], "o", color=shade, markersize=9 if chosen else 6)
    price.set_yticks(
        range(len(costs)), [c.learner + (" (take this)" if c.learner == found.recommended else "") for c in costs]
    )
    price.set_xscale("log")
    price.axvline(found.budget, color=COLOURS["vermilion"], linestyle=":")
    price.set_xlim(min(1e-3, *(cost.seconds for cost in costs)) / 2.0, 4.0 * found.budget)
    price.invert_yaxis()
    return figure


def _write(settings: AdviseSettings, found: Advice, sentences: list[str], seconds: float) -> None:
    assert settings.out is not None
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "advice.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    title = f"advise: {', '.join(settings.data)} {settings.class_}".strip()
    figures = []
    if found.costs:
        caption = (
            f"Left: squared Hellinger distance of the log-loss fit from the best rival ({found.rival}), 95 % at each "
            "h, and the lower bound proved from samples for all lengths together. Right: seconds of each learner."
        )
        with styled():
            png, svg = render(draw(found, f"{title}: n = {found.n}, H = {found.horizon}"))[:2]
        (settings.out / "advice.png").write_bytes(png)
        (settings.out / "advice.svg").write_bytes(svg)
        figures = [(FigureSpec("advice", title, caption, lambda *_: None), svg)]  # type: ignore[arg-type]
    rows = [[c.learner, c.seconds, c.megabytes, found.losses.get(c.learner, math.nan), c.why_not] for c in found.costs]
    table = Table("learners", ["learner", "seconds", "MB", "worst loss, held out", "why not"], rows)
    among = ["--class", settings.class_] if settings.class_ else []
    page = report_html(
        title=title,
        question="What should I do with my data?",
        command=shlex.join(["ntp-bench", "advise", *settings.data, *among]),
        findings=sentences,
        figures=figures,
        tables=[table],
        failures=[],
        settings={"n": found.n, "horizon": found.horizon, "seconds": round(seconds, 1), "class": settings.class_},
        cells=0,
    )
    (settings.out / "report.html").write_text(page, encoding="utf-8")
