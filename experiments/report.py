"""The report of a run: one HTML file with everything inside, to be mailed or archived."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.study import FigureSpec
from experiments.summary import Table

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption, .note { color: #555; }
table { border-collapse: collapse; margin: 1.5rem 0 .5rem; font-size: .9rem; font-variant-numeric: tabular-nums;
  display: block; overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.failure { border-left: 4px solid #D55E00; padding-left: 1rem; }
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
) -> str:
    """The page; figures are PNG bytes and go in as data."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(question)}</p>"]
    if failures:
        items = "".join(
            f"<details><summary>{html.escape(failure.where)}: {html.escape(failure.last_line)}</summary>"
            f"<pre>{html.escape(failure.error)}</pre></details>"
            for failure in failures
        )
        parts.append(f'<div class="failure"><h2>{len(failures)} failed</h2>{items}</div>')
    if findings:
        parts.append("<ul>" + "".join(f"<li>{html.escape(finding)}</li>" for finding in findings) + "</ul>")
    for spec, png in figures:
        data = base64.b64encode(png).decode()
        parts.append(
            f'<figure id="{html.escape(spec.name)}"><h2>{html.escape(spec.title)}</h2>'
            f'<img alt="{html.escape(spec.caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(spec.caption)}</figcaption></figure>"
        )
    parts.append("<h2>Numbers</h2>")
    parts += [table.to_html() for table in tables]
    parts.append(
        "<p>All of them, with their intervals, are in <code>summary.csv</code>; each single measurement is in "
        "<code>results.sqlite</code>.</p>"
    )
    parts += [
        f"<h2>To reproduce</h2><pre>{html.escape(command)}</pre>",
        f'<p class="note">{cells} cells. The same settings and versions give the same bytes in <code>summary.csv'
        "</code>, whatever the number of workers; other kernels than those below may move the last digits.</p>",
        f"<h2>Settings</h2><pre>{html.escape(json.dumps(settings, indent=2, sort_keys=True))}</pre>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
