"""``ntp-bench distance``: distances between two models from a file of log-probabilities."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.charts import COLOURS, Figure, end_labels, new_panels, render, shades, styled
from experiments.summary import write_csv
from experiments.terminal import print_whole
from ntp_envs.checks import check_int, import_extra
from ntp_envs.distances import (
    DEFAULT_THRESHOLDS,
    DistanceCurve,
    SamplingLawWarning,
    distance_from_log_probs,
    one_sided_distance_from_log_probs,
)
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.saved import MAX_BYTES, check_size, read_arrays

SHOWN_LENGTHS = 12
FORMAT = """\
How far apart are the texts of two models, as they get longer? From the log-probability that each model gives each
token, under the law that sampled (after temperature, top-k, top-p).

FILE is one of

  .npz      arrays p_on_p and q_on_p (n, H): log-probabilities under P and under Q of n texts that P wrote;
            p_on_q and q_on_q (m, H): of m texts that Q wrote (without them: the one-sided estimator);
            mask_p (n, H) and mask_q (m, H), if texts end early: true where a token was written
  .jsonl    one line a text: {"written_by": "p", "log_p": [-1.2, -0.3], "log_q": [-0.9, -0.5]}; written_by is "p" or
            "q", and the two lists have a number a token, the end token's included; they may be shorter for texts that
            end early. -Infinity is a token that the model excludes
  .parquet  the same as columns written_by, log_p, log_q (needs pyarrow: pip install "ntp-envs[hf]")

docs/log_probs.md says how to have them from vLLM, SGLang, llama.cpp and TRL."""
METRIC_NAMES = {
    "hellinger2": "squared Hellinger distance",
    "tv": "total variation",
    "kl": "KL(P, Q), nats",
    "coverage": "coverage, P(P / Q ≥ N)",
}


# -- the file ----------------------------------------------------------------------------------------------------------


def read_log_probs(path: Path, *more: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The arrays of a file, by the names of `distance_from_log_probs`'s arguments.

    Args:
        path: of the file.
        more: others, whose texts count as well; all of them are .jsonl then.
        max_bytes: refuse a file whose arrays would take more, before memory is taken for them.

    Raises:
        ValueError: an unknown kind of file, one that is damaged or too large, or one without what is needed; the
            message has the file, and what was found.
        FileNotFoundError, OSError: no such file, or it cannot be read.
        ImportError: parquet without pyarrow.
    """
    for one in (path, *more):
        if one.suffix not in READERS:
            raise ValueError(f"{one} is not a kind of file that is read: {', '.join(READERS)}.")
        if not one.is_file():
            reason = "is a folder, not a file" if one.is_dir() else "there is no such file"
            raise FileNotFoundError(f"{one}: {reason}.")
        if more and one.suffix != ".jsonl":
            raise ValueError(f"{one}: several files are read together only if all are .jsonl; put the arrays into one.")
    return READERS[path.suffix](path, *more, max_bytes=max_bytes)


ARRAYS = ("p_on_p", "q_on_p", "p_on_q", "q_on_q")
OPTIONAL = ("mask_p", "mask_q")


def _read_npz(path: Path, *, max_bytes: int) -> dict[str, Any]:
    try:
        found = read_arrays(path, max_bytes)
    except Exception as error:  # of a damaged file, zipfile, zlib and numpy raise a dozen kinds
        raise ValueError(f"{path} cannot be read as an npz file of numbers ({error}); is it whole?") from error
    texts_of_q = any(name in found for name in ("p_on_q", "q_on_q", "mask_q"))
    needed = ARRAYS if texts_of_q else ARRAYS[:2]
    missing, unknown = [name for name in needed if name not in found], set(found) - {*ARRAYS, *OPTIONAL}
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"holds {', '.join(sorted(unknown))}, not known here"
        raise ValueError(
            f"{path} {wrong}. Found: {', '.join(sorted(found)) or 'nothing'}. Wanted: {', '.join(ARRAYS)}, "
            f"or the first two alone; and {' and '.join(OPTIONAL)} if texts end early."
        )
    return found


FIELDS = ("written_by", "log_p", "log_q")


def _read_jsonl(*paths: Path, max_bytes: int) -> dict[str, Any]:
    """Of one file, or of several together."""
    where = ", ".join(map(str, paths))
    check_size(where, sum(path.stat().st_size for path in paths), max_bytes)

    def rows() -> Iterator[tuple[str, Any]]:
        for path in paths:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        try:
                            yield f"{path}, line {number}", json.loads(line)
                        except (ValueError, RecursionError) as error:
                            raise ValueError(
                                f"{path}, line {number} is not JSON ({error}); one text a line."
                            ) from error

    try:
        return _from_rows(where, rows(), max_bytes)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not text in UTF-8 ({error}).") from error


def _read_parquet(path: Path, *, max_bytes: int) -> dict[str, Any]:
    pyarrow = import_extra(
        "pyarrow", "pyarrow.parquet", what=f"{path}: reading parquet", install='pip install "ntp-envs[hf]"'
    )
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about, names = file.metadata, [name for name in FIELDS if name in file.schema_arrow.names]
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            numbers = sum(group.column(j).num_values for group in groups for j in range(about.num_columns))
            # a column that says one number a million times is small in the file, its own word for its size included
            check_size(path, max(8 * numbers, sum(group.total_byte_size for group in groups)), max_bytes)
            table = file.read(columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}); is it whole?") from error
    return _from_rows(path, ((f"{path}, row {n}", row) for n, row in enumerate(table.to_pylist())), max_bytes)


def _from_rows(path: Path | str, rows: Iterable[tuple[str, Any]], max_bytes: int) -> dict[str, Any]:
    """Padded arrays and masks of texts one by one."""
    texts: dict[str, list[list[np.ndarray]]] = {"p": [], "q": []}
    for where, row in rows:
        if not isinstance(row, dict) or not all(name in row for name in FIELDS):
            there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{where} lacks one of {', '.join(FIELDS)}; found: {there or 'nothing'}.")
        if row["written_by"] not in ("p", "q"):
            raise ValueError(f"{where}: written_by={row['written_by']!r} must be 'p' or 'q'.")
        try:
            pair = [np.array(row[name], dtype=np.float64) for name in FIELDS[1:]]  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: log_p and log_q must be lists of numbers ({error}).") from error
        if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not pair[0].size:
            raise ValueError(
                f"{where}: log_p has shape {pair[0].shape} and log_q {pair[1].shape}; both need a number for every "
                "token, the end token's included, and at least one."
            )
        texts[row["written_by"]].append(pair)
    if not texts["p"]:
        raise ValueError(f"{path} has no text written by p; found {len(texts['q'])} written by q.")
    horizon = max(len(pair[0]) for pairs in texts.values() for pair in pairs)
    check_size(
        f"{path}, whose longest text has {horizon} tokens,", 16 * horizon * sum(map(len, texts.values())), max_bytes
    )
    found: dict[str, Any] = {}
    for writer, pairs in texts.items():
        if pairs:
            lengths = np.array([len(pair[0]) for pair in pairs])
            mask = found[f"mask_{writer}"] = np.arange(horizon) < lengths[:, None]
            for index, model in enumerate("pq"):
                array = found[f"{model}_on_{writer}"] = np.zeros(mask.shape)
                array[mask] = np.concatenate([pair[index] for pair in pairs])
    return found


READERS: dict[str, Callable[..., dict[str, Any]]] = {
    ".npz": _read_npz,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


# -- the command -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistanceSettings:
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Log-probabilities: .npz, .jsonl or .parquet."""
    metrics: tuple[str, ...] = ("hellinger2", "tv", "kl")
    """What is measured: of these, and coverage."""
    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS
    """The N of the coverage profile."""
    confidence: float = CONFIDENCE
    """Level of the intervals."""
    simultaneous: bool = False
    """Intervals that hold at all lengths together."""
    lengths: tuple[int, ...] = ()
    """Prefix lengths shown; by default a dozen. The csv has all."""
    max_bytes: int = MAX_BYTES
    """A file whose numbers would take more memory is refused before they are read."""
    out: Path | None = None
    """A folder for distance.csv and the figure (distance.png, .svg, .pdf); files of these names are overwritten."""

    def __post_init__(self) -> None:
        check_int("max_bytes", self.max_bytes, minimum=1)
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file; a folder is needed.")


def show_distance(words: list[str]) -> int:
    """The command: parse, read, measure, print and write. Errors of use are raised as in `read_log_probs`."""
    settings = tyro.cli(
        DistanceSettings,
        args=words,
        prog="ntp-bench distance",
        description=FORMAT,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    stdout, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SamplingLawWarning)
        curves = measured(settings)
    for warning in caught:
        stderr.print(f"[yellow]warning:[/] {escape(str(warning.message))}", soft_wrap=True)
    columns = _columns(curves)
    horizon = next(iter(curves.values())).horizon
    table = RichTable(title=escape(_title(settings, curves)))
    table.add_column("h", justify="right")
    for name, *_ in columns:
        table.add_column(name, justify="right")
    for h in settings.lengths or np.unique(np.linspace(1, horizon, min(SHOWN_LENGTHS, horizon)).round().astype(int)):
        cells = (f"{v[h - 1]:.4g} [{lo[h - 1]:.4g}, {hi[h - 1]:.4g}]" for _, v, lo, hi in columns)
        table.add_row(str(h), *map(escape, cells))
    print_whole(table)
    for curve in curves.values():
        if curve.caveat:
            stdout.print(escape(curve.caveat), soft_wrap=True)
    if settings.out is not None:
        written = _write(settings, curves)
        stdout.print(f"written: {escape(', '.join(map(str, written)))}", soft_wrap=True)
    return 0


def curves_of(arrays: dict[str, Any], **how: Any) -> dict[str, DistanceCurve]:
    """By the bridge, or by the one-sided estimator where there are texts of one model only."""
    if "p_on_q" in arrays:
        return distance_from_log_probs(**arrays, **how)
    return one_sided_distance_from_log_probs(arrays["p_on_p"], arrays["q_on_p"], mask=arrays.get("mask_p"), **how)


def measured(settings: DistanceSettings) -> dict[str, DistanceCurve]:
    """The curves of a file; raises as `read_log_probs`, and for lengths that no text has."""
    found = read_log_probs(settings.file, max_bytes=settings.max_bytes)
    how: dict[str, Any] = {
        name: getattr(settings, name) for name in ("metrics", "thresholds", "confidence", "simultaneous")
    }
    try:
        curves = curves_of(found, **how)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{settings.file}: {error}") from error
    horizon = next(iter(curves.values())).horizon
    wrong = [h for h in settings.lengths if not 1 <= h <= horizon]
    if wrong:
        raise ValueError(f"--lengths {wrong[0]}: the texts have 1 to {horizon} tokens.")
    return curves


Column = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def _columns(curves: dict[str, DistanceCurve]) -> list[Column]:
    """Name, value and ends ``(H,)`` of each number; coverage has one a threshold."""
    columns: list[Column] = []
    for name, curve in curves.items():
        if curve.thresholds is None:
            columns.append((name, curve.values, curve.lower, curve.upper))
        else:
            columns += [
                (f"{name} N={threshold:g}", curve.values[:, i], curve.lower[:, i], curve.upper[:, i])
                for i, threshold in enumerate(curve.thresholds)
            ]
    return columns


def _title(settings: DistanceSettings, curves: dict[str, DistanceCurve]) -> str:
    curve = next(iter(curves.values()))
    return f"{settings.file.name}: {curve.method}, n={curve.n}, intervals {100 * curve.confidence:.12g} %" + (
        " for all lengths together" if curve.simultaneous else " at each h"
    )


def _write(settings: DistanceSettings, curves: dict[str, DistanceCurve]) -> list[Path]:
    assert settings.out is not None
    settings.out.mkdir(parents=True, exist_ok=True)
    paths = [settings.out / f"distance.{kind}" for kind in ("csv", "png", "svg", "pdf")]
    columns = _columns(curves)
    header = ["h", *(f"{name}{end}".replace(" N=", "_") for name, *_ in columns for end in ("", "_lower", "_upper"))]
    lines = (
        (h + 1, *(float(array[h]) for _, *arrays in columns for array in arrays)) for h in range(len(columns[0][1]))
    )
    write_csv(paths[0], header, lines)
    with styled():
        for path, drawn in zip(paths[1:], render(draw(curves, _title(settings, curves)), pdf=True)):
            path.write_bytes(drawn)
    return paths


def draw(curves: dict[str, DistanceCurve], title: str) -> Figure:
    """A panel a metric, over the tokens written; every number with its interval as a band."""
    bands = [curve.band for curve in curves.values()]
    figure, panels = new_panels(
        title,
        [f"tokens written, h\n(bands: {band})" for band in bands],
        "",
        size=(max(4.6 * len(curves), 6.0), 4.4),
        share=False,
    )
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        axes.set_title(METRIC_NAMES.get(name, name), fontsize=11)
        lines = _columns({name: curve})
        greens = shades(range(len(lines)))
        h = np.arange(1, curve.horizon + 1)
        ends = []
        for i, (label, value, lower, upper) in enumerate(lines):
            colour = COLOURS["blue"] if len(lines) == 1 else greens[i]
            finite = np.isfinite(value)
            axes.plot(h[finite], value[finite], color=colour, marker="o" if finite.sum() == 1 else "")
            axes.fill_between(h, lower, upper, where=finite, color=colour, alpha=0.22, linewidth=0)
            if len(lines) > 1 and finite.any():
                ends.append((float(h[finite][-1]), float(value[finite][-1]), label.partition(" ")[2], colour))
        axes.set_xlim(1, max(curve.horizon * (1.18 if ends else 1.02), 2))
        axes.set_ylim(bottom=0)
        end_labels(axes, ends)
    return figure
