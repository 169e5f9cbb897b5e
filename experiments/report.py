"""The report of a run: one HTML file with everything inside, to be mailed or archived."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from experiments.charts import spelt
from experiments.study import FigureSpec
from experiments.summary import Table

CSS = """
:root { --text: #1b1b1b; --soft: #555; --line: #ddd; --page: #fff; --box: #f5f5f5; --link: #0b5f9e; --bad: #b34700;
  --shade: rgba(0, 0, 0, .22); color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --soft: #aaa; --line: #444; --page: #161616;
  --box: #232323; --link: #7fbdf0; --bad: #ff9c5a; --shade: rgba(255, 255, 255, .3); } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
a { color: var(--link); }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav ol { columns: 20rem; padding-left: 1.4rem; }
figure { margin: 1.5rem 0; } figcaption, .note { color: var(--soft); }
.picture { display: block; overflow-x: auto; background: #fff; border: 1px solid var(--line); cursor: zoom-in; }
.picture input { position: absolute; opacity: 0; } .picture img { display: block; width: 100%; height: auto; }
.picture:has(:focus-visible) { outline: 3px solid var(--link); }
.picture :checked + img { width: 90rem; max-width: none; } .picture:has(:checked) { cursor: zoom-out; }
.scroll { overflow-x: auto; margin: 1.5rem 0 .5rem; background:
  linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: .85rem; }
.command { white-space: pre-wrap; }
.failure { border-left: 4px solid var(--bad); padding-left: 1rem; }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 .7rem; } .picture img { width: 46rem; }
  td:first-child { white-space: normal; min-width: 7rem; } th, td { padding: .25rem .45rem; } }
@media print { .picture img { width: 100% !important; } .scroll { background: none; } }
"""


@dataclass(frozen=True)
class Failure:
    """Something of a run that went wrong while the rest went on.

    Attributes:
        where: the cell with its parameters, the figure, or the analysis.
        error: traceback as text.
    """

    where: str
    error: str

    @property
    def last_line(self) -> str:
        """The exception itself."""
        return self.error.strip().splitlines()[-1]


def report_html(
    *,
    title: str,
    question: str,
    command: str,
    findings: Sequence[str],
    figures: Sequence[tuple[FigureSpec, bytes]],
    tables: Sequence[Table],
    failures: Sequence[Failure],
    settings: Mapping[str, Any],
    cells: int,
    made: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The page; figures are SVG bytes and go in as data, and their files beside the page are linked.

    ``made`` has the dates ``first`` and ``last`` of the run, and by package the ``commit``; what is not known is not
    said.
    """
    when = [f"run {made['last'][:16].replace('T', ' ')} UTC"] if "last" in made else []
    when += [f"{name} at commit {commit[:10]}{'+' * commit.endswith('+')}" for name, commit in _commits(made)]
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(question)}</p>"]
    if when:
        parts.append(f'<p class="note">{html.escape("; ".join(when))}</p>')
    places = [*((spec.name, spelt(spec.title, page=True)) for spec, _ in figures), ("numbers", "Numbers")]
    places += [("reproduce", "To reproduce"), ("settings", "Settings")]
    links = "".join(f'<li><a href="#{html.escape(name)}">{html.escape(words)}</a></li>' for name, words in places)
    contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>'
    if failures:
        items = "".join(
            f"<details><summary>{html.escape(failure.where)}: {html.escape(failure.last_line)}</summary>"
            f"<pre>{html.escape(failure.error)}</pre></details>"
            for failure in failures
        )
        parts.append(f'<div class="failure"><h2>{len(failures)} failed</h2>{items}</div>')
    if findings:
        parts.append("<ul>" + "".join(f"<li>{html.escape(finding)}</li>" for finding in findings) + "</ul>")
    parts.append(contents)
    parts += [figure_html(spec, svg) for spec, svg in figures]
    parts.append(
        '<h2 id="numbers">Numbers</h2><p class="note">C_apx: the approximation factor, the distance to the '
        "expert over that of the best policy of the class. Tables shaded at an edge go on there.</p>"
    )
    parts += [table.to_html() for table in tables]
    parts.append(
        "<p>All of them, with their intervals, are in <code>summary.csv</code>; each single measurement is in "
        "<code>results.sqlite</code>.</p>"
    )
    parts += [
        f'<h2 id="reproduce">To reproduce</h2><pre class="command">{html.escape(command)}</pre>',
        f'<p class="note">{cells} cells. The same settings and versions give the same bytes in <code>summary.csv'
        "</code>, whatever the number of workers; other kernels than those below may move the last digits.</p>",
        f'<h2 id="settings">Settings</h2><pre>{html.escape(json.dumps(settings, indent=2, sort_keys=True))}</pre>',
    ]
    return page_html(title, parts)


def figure_html(spec: FigureSpec, svg: bytes) -> str:
    """A figure with its heading and caption; the picture is in the page, and the file beside it is linked."""
    name, heading, caption = (html.escape(spelt(words, page=True)) for words in (spec.name, spec.title, spec.caption))
    data = base64.b64encode(svg).decode()
    return (
        f'<figure id="{name}"><h2>{heading}</h2><label class="picture"><input type="checkbox" '
        f'aria-label="full size: {heading}"><img alt="{caption}" src="data:image/svg+xml;base64,{data}"></label>'
        f'<figcaption>{caption} <a href="{name}.svg">Full size</a></figcaption></figure>'
    )


def page_html(title: str, parts: Sequence[str]) -> str:
    """A page of these parts, one after the other."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _commits(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The packages that the code is from, those of one commit together."""
    found: dict[str, list[str]] = {}
    for name, commit in made.get("commit", {}).items():
        found.setdefault(commit, []).append(name)
    return [(", ".join(names), commit) for commit, names in found.items()]
