"""The galleries: a page a task family, a study, an exercise sheet. What `write_pages` writes is not in the repository.

A task's page is made when the documentation is built, in seconds a family: what ``ntp-bench info`` says, and an episode
of the expert beside one of a learner. A study takes longer, so its figure is: run

    python docs/galleries.py [NAMES] [--workers N] [--expert MODEL]

(all studies by default; those whose libraries are missing are named and left out; a language model in a directory or a
.gguf file is the expert of ``lm``). Each is run as ``ntp-bench run NAME --quick`` in ``docs/_build/runs/NAME``, where a
run that was stopped goes on and one that is up to date costs a second; its headline figure, caption and findings then
go into ``docs/figures``, to be committed, with the time where the machine had nothing else to do. Most quick forms take
about a minute of two cores, trainings of networks some minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import importlib
import inspect
import io
import json
import os
import re
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from reference import as_rst, find

from agents import Agent, ConvergenceWarning, LogLossBC, PerceptronBC
from experiments.fingerprints import commit_of
from experiments.info import describe
from experiments.studies import STUDIES, load_study
from ntp_envs import NGramClass, NotTractableError, Task, collect, distance, make_task
from ntp_envs.tasks.registry import BUILT_IN, WITH_AN_EXTRA

HERE = Path(__file__).parent
FIGURES, SHEETS = HERE / "figures", HERE / "classroom"
LARGEST = 60_000  # bytes of a figure

#: where log-loss takes long, another learner
LEARNERS: dict[str, Agent] = {"ColumnAddition": PerceptronBC()}
#: where no learner of the core takes the class of the family: another class
CLASSES: dict[str, Any] = {"Multiplication": lambda task: NGramClass(task.vocab_size, 6)}
EPISODES, DEMONSTRATIONS, DRAWS = 1000, 1000, 2000

#: its names and its text, in a section of a docstring
ARGUMENT = r"^    (\*{0,2}\w[\w, *]*): ((?:.*\n?)(?:(?:     .*)?\n?)*)"


def write_pages(folder: Path) -> None:
    """Every page of both galleries; a page that has not changed is left alone."""
    tasks = {name: task_page(name) for name in BUILT_IN}
    tasks |= {name: extra_page(name) for name in WITH_AN_EXTRA}
    studies = {name: study_page(name) for name in STUDIES}
    pages = {f"tasks/{name}": page for name, page in tasks.items()}
    pages |= {f"studies/{name}": page for name, page in studies.items()}
    lines = {name: find(f"ntp_envs.tasks.{name}").__doc__.strip().partition("\n")[0] for name in tasks}
    lines = {name: rst_to_md(line) for name, line in lines.items()}
    about = "What each family shows, and an episode of its expert beside a learner's."
    pages["tasks"] = index("Gallery of tasks", about, "tasks", lines)
    about = "What each asks, and what it found in its quick form."
    pages["studies"] = index("Gallery of studies", about, "studies", {name: pictured(name) for name in studies})
    sheets = {path.stem: sheet_page(path.read_text(encoding="utf-8")) for path in sorted(SHEETS.glob("[0-9]*.py"))}
    pages |= {f"sheets/{name}": page for name, page in sheets.items()}
    titles = {name: page.partition("\n")[0].removeprefix("# ") for name, page in sheets.items()}
    pages["sheets"] = index("Exercise sheets", "In order of difficulty; each runs on a laptop.", "sheets", titles)
    for name, page in pages.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")


def index(title: str, about: str, place: str, lines: dict[str, str]) -> str:
    """The front page of a gallery."""
    rows = "".join(f"| [{name}]({place}/{name}.md) | {_cell(line)} |\n" for name, line in lines.items())
    tree = "\n".join(f"{place}/{name}" for name in lines)
    return f"# {title}\n\n{about}\n\n| | |\n|-|-|\n{rows}\n:::{{toctree}}\n:hidden:\n\n{tree}\n:::\n"


def pictured(name: str) -> str:
    """The question of a study, and below it the figure, which leads to its page."""
    question, picture = load_study(name).question, FIGURES / f"{name}.png"
    return f"{question} [![{name}](../figures/{picture.name})](studies/{name}.md)" if picture.exists() else question


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rst_to_md(text: str) -> str:
    """A sentence of a docstring in Markdown: both kinds of backquotes are code."""
    return re.sub(r"`{1,2}([^`]+)`{1,2}", r"`\1`", text)


# -- tasks -------------------------------------------------------------------------------------------------------------


def extra_page(name: str) -> str:
    """Of a family that has no defaults to be made from: its docstring."""
    return "\n\n".join([f"# {name}", *documented(find(f"ntp_envs.tasks.{name}"), {}), reference(name)]) + "\n"


def task_page(name: str) -> str:
    """What it shows, its sizes, an episode, the parameters."""
    found, task = describe(name), make_task(name)
    rows = {
        **{what: f"{size}" for what, size in found["sizes"].items()},
        "expert": f"`{found['expert']}`",
        "policy class": f"`{found['policy class']}`",
        "best in class": found["best in class"],
        "made by": f'`make_task("{name}", ...)`, `{found["environment"]}`',
    }
    facts = "| | |\n|-|-|\n" + "".join(f"| {what} | {_cell(value)} |\n" for what, value in rows.items())
    parts = [f"# {name}", *documented(type(task), found["parameters"], between=[*episode(task), "## Sizes", facts])]
    return "\n\n".join([*parts, reference(name)]) + "\n"


def reference(name: str) -> str:
    return f"Methods and closed forms: {{py:class}}`ntp_envs.tasks.{name}` in the reference."


def documented(kind: type, values: dict[str, str], between: list[str] | None = None) -> list[str]:
    """A docstring: what it says, what goes between, a table of the arguments, and the example."""
    words = inspect.cleandoc(kind.__doc__ or "")
    about, *sections = re.split(r"^(\w+):\n(?=    )", words, flags=re.M)
    example = re.search(r"^>>> .*\Z", words, flags=re.M | re.S)
    about = about.partition("\n>>> ")[0]
    parts = [_rst(about, kind), *(between or [])]
    for heading, text in zip(sections[::2], sections[1::2]):
        text = text.partition("\n>>> ")[0]
        if heading == "Args":
            rows = [".. list-table::", "   :class: parameters", "   :widths: auto", "   :header-rows: 1", "",
                    "   * - parameter", "     - in this instance", "     - what it is, and its range"]  # fmt: skip
            for names, meaning in re.findall(ARGUMENT, text, flags=re.M):
                given = ", ".join(f"``{values[one]}``" for one in names.split(", ") if one in values) or "\\"
                rows += [f"   * - ``{names}``", f"     - {given}", f"     - {' '.join(meaning.split())}"]
            parts += ["## Parameters", _rst("\n".join(rows), kind)]
    if example:
        parts += ["## Example", f"```python\n{example[0]}\n```"]
    return parts


def _rst(text: str, kind: type) -> str:
    """A part of a docstring, in the syntax that docstrings have."""
    text = re.sub(r"(?<![`:\w])`(\w+)`(?!`)", lambda found: _member(kind, found), text)
    lines = as_rst(text)
    return "\n".join(["```{eval-rst}", f".. py:currentmodule:: {kind.__module__}", "", *lines, "```"])


def _member(kind: type, found: re.Match[str]) -> str:
    """A method that a docstring names, as a reference that is understood outside of its class."""
    place = f"ntp_envs.tasks.{kind.__name__}.{found[1]}"
    return f":py:obj:`{found[1]} <{place}>`" if found[1] in vars(kind) else found[0]


def episode(task: Task) -> list[str]:
    """The expert and a learner on the same prompts and with the same random numbers, where they part first."""
    demonstrations, taught = _demonstrations(task)
    learner, policy_class = (
        LEARNERS.get(task.name, LogLossBC()),
        CLASSES.get(task.name, lambda task: task.policy_class)(task),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        policy = learner.fit(demonstrations, policy_class, rng=np.random.default_rng(0)).policy_
    prompts = task.sample_prompts(EPISODES, np.random.default_rng(1))
    written = [one.sample(prompts, task.horizon, np.random.default_rng(2)) for one in (task.expert, policy)]
    parted = (written[0] != written[1]).any(axis=1)
    row = int(parted.argmax())
    prompt = task.decode(prompts[row]) if task.prompt_length else ""
    columns = [_column(title, tokens[row], written[1 - side][row], task)
               for side, (title, tokens) in enumerate(zip(("the expert", f"{learner}"), written))]  # fmt: skip
    how = f"{EPISODES} episodes with the same prompts and random numbers"
    said = f"In {how} they write the same."
    if parted.any():
        said = f"In {int(parted.sum())} of {how} they part; this is the first, with the differences marked."
    other = "" if policy_class is task.policy_class else f" in the class of {policy_class.order}-grams"
    if prompt.strip():
        columns.insert(0, f'<pre class="prompt">{html.escape(prompt)}</pre>')
    parts = [
        "## An episode",
        f"`{learner}`{other}, fitted to {taught}, beside the expert. {said}",
        "\n".join(['<div class="episode">', *columns, "</div>"]),
    ]
    if task.has_success:
        shares = [float(np.mean(task.success(prompts, tokens))) for tokens in written]
        parts.append(f"Success over these episodes: the expert {shares[0]:.3g}, the learner {shares[1]:.3g}.")
    return [*parts, distances(task, policy)]


def _demonstrations(task: Task) -> tuple[Any, str]:
    """The population, unless it is not known or is large."""
    with suppress(NotTractableError):
        population = task.population()
        if len(population) <= DEMONSTRATIONS:
            return population, "infinitely many demonstrations"
    return collect(task, DEMONSTRATIONS, np.random.default_rng(0)), f"{DEMONSTRATIONS} demonstrations"


def _column(title: str, tokens: Any, other: Any, task: Task) -> str:
    """One text, with every token marked that is not the other's in the same place, if tokens can be told apart."""
    whole = task.decode(tokens)
    pieces = [task.decode(tokens[h : h + 1]) for h in range(len(tokens))]
    joint = next((joint for joint in ("", " ") if joint.join(pieces) == whole), None)
    if joint is None:
        marked = html.escape(whole)
    else:
        marked = joint.join(
            f"<mark>{html.escape(piece)}</mark>" if differs else html.escape(piece)
            for piece, differs in zip(pieces, tokens != other)
        )
    return f"<figure><figcaption>{html.escape(title)}</figcaption><pre>{marked}</pre></figure>"


def distances(task: Task, policy: Any) -> str:
    """The distance after 1, 8 and H tokens."""
    curve = distance(task.expert, policy, task, n=DRAWS)
    lengths = sorted({1, min(8, task.horizon), task.horizon})
    cells = []
    for h in lengths:
        low, value, high = (float(ends[h - 1]) for ends in (curve.lower, curve.values, curve.upper))
        cells.append(f"{value:.3g}" if curve.is_exact else f"{value:.3g} [{low:.3g}, {high:.3g}]")
    head = " | ".join(f"h = {h}" for h in lengths)
    return (
        f"| tokens written | {head} |\n|-|{'-|' * len(lengths)}\n"
        f"| squared Hellinger distance | {' | '.join(cells)} |\n\n"
        f"From 0 (the same law) to 2 (nothing in common); {'exactly' if curve.is_exact else 'with 95 % intervals'}, by "
        f"the method `{curve.method}`."
    )


# -- sheets ------------------------------------------------------------------------------------------------------------


def sheet_page(source: str) -> str:
    """A sheet for students, from its file in jupytext's percent format: gaps open, hints folded, no solutions."""
    parts = []
    for marks, text in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", source, flags=re.M):
        text = text.strip("\n")
        if "solution" in marks:
            continue
        if "[markdown]" not in marks:
            text = re.sub(r"^(\s*(?:return |\w+ = )).*  # gap$", r"\1...  # your turn", text, flags=re.M)
            parts.append(f"```python\n{text}\n```")
            continue
        text = re.sub(r"^# ?", "", text, flags=re.M)
        hint = "<details>\n<summary>Hint</summary>\n\n{}\n\n</details>"
        parts.append(hint.format(text) if "hint" in marks else text)
    return "\n\n".join(parts) + "\n"


# -- studies -----------------------------------------------------------------------------------------------------------


def study_page(name: str) -> str:
    """The question, the command, and the figure with its findings if it has been made."""
    study = load_study(name)
    about = inspect.cleandoc(importlib.import_module(STUDIES[name].partition(":")[0]).__doc__ or "")
    made = FIGURES / f"{name}.json"
    said = json.loads(made.read_text(encoding="utf-8")) if made.exists() else {}
    command = " ".join(["ntp-bench run", name, "--quick", *said.get("given", [])])
    parts = [f"# {name}", f"**{study.question}**", f"```console\n$ {command}\n```"]
    if said:
        alt = re.sub(r"[\[\]\n]", " ", said["caption"])
        image = [f":::{{image}} ../../figures/{said['figure']}", f":alt: {alt}"]
        image += [f":target: ../../_images/{said['figure']}", ":::"]  # at its full size
        parts += ["\n".join(image), f"*{_plain(said['caption'])}*"]
        parts += ["\n".join(f"* {_plain(finding)}" for finding in said["findings"])] if said["findings"] else []
        took = f" in {said['seconds']:g} seconds of one core," if "seconds" in said else ""
        parts += [f"Made by this command{took} at commit `{said['commit']}`."]
    parts += ["## What it does", _rst(about, study.options)]
    options = dataclasses.fields(study.options)
    quick = study.options.quick()
    rows = "".join(
        f"| `--{f.name.replace('_', '-')}` | `{_short(f.default)}` | `{_short(getattr(quick, f.name))}` |\n"
        for f in options
    )
    parts += ["## Options", f"| option | in full | quick |\n|-|-|-|\n{rows}"]
    return "\n\n".join(parts) + "\n"


def _short(value: Any) -> str:
    words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return _cell(words) or " "


def _plain(text: str) -> str:
    """Text as it stands, whatever it means in Markdown; formulas of figures keep their dollars."""
    parts = re.split(r"(\$[^$]+\$)", " ".join(text.split()))
    return "".join(part if i % 2 else re.sub(r"([\\*_\[\]<>`#|])", r"\\\1", part) for i, part in enumerate(parts))


def make_figure(name: str, workers: int, commit: str, expert: str = "") -> str:
    """Run a study quickly, or go on with it, and keep its headline figure; a line on what came of it."""
    from PIL import Image

    from experiments.run import run_study

    study, start = load_study(name), time.perf_counter()
    given = {"expert": expert} if expert and name == "lm" else {}
    options = dataclasses.replace(study.options.quick(), **given)
    outcome = run_study(study, options, out=HERE / "_build" / "runs" / name, quick=True, workers=workers, tell=print)
    if outcome.failures:
        return f"{name}: failed: {outcome.failures[0].where}: {outcome.failures[0].last_line}"
    figures = {spec.name: spec for spec in outcome.analysis.figures}
    spec = figures.get("headline") or outcome.analysis.figures[0]
    picture = Image.open(outcome.folder.path / f"{spec.name}.png").convert("RGB")
    for colours in (128, 64, 32, 16, 8):
        data = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() <= LARGEST:
            break
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.png").write_bytes(data.getvalue())
    timings = outcome.folder.timings.read_text(encoding="utf-8").splitlines()[1:]
    seconds = sum(float(line.rpartition(",")[2]) for line in timings if ",seconds," in line)
    free = hasattr(os, "getloadavg") and os.getloadavg()[0] <= 1.5 * (os.cpu_count() or 1)  # Windows does not say
    said = {
        "figure": f"{name}.png",
        **({"given": ["--expert", Path(expert).name]} if given else {}),
        "title": spec.title,
        "caption": spec.caption,
        "findings": list(outcome.analysis.findings),
        **({"seconds": float(f"{seconds:.2g}")} if free else {}),
        "commit": commit,
    }
    (FIGURES / f"{name}.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"{name}: {data.tell()} bytes, {colours} colours, {time.perf_counter() - start:.0f} s"


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Run studies quickly and keep their headline figures.")
    parser.add_argument("names", nargs="*", default=sorted(STUDIES), help="all by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--expert", default="", help="of the study lm: a language model")
    settings = parser.parse_args(words)
    found = commit_of(__file__) or ""  # before the first figure is written
    commit, failed = found[:7] + found[40:], 0
    for name in settings.names:
        try:
            line = make_figure(name, settings.workers, commit, settings.expert)
        except (ImportError, ValueError) as error:
            line = f"{name}: left out: {error}"
        failed += ": failed" in line or ": left out" in line
        print(line, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
