"""``ntp-bench explore``: one page with sliders, for a lecture or a phone: curves, the factor, documents side by side.

All numbers are computed here, exactly, and embedded; the page only looks them up. On `Contamination` little has to be
computed. A learner that looks at chunks of K tokens sees documents of any length as so many chunks of K, since flips
are exchangeable, so that one fit at horizon K serves all horizons; and the curve of a policy does not depend on the
horizon, which only says where it ends. Only the best in class is another one for each horizon.

Documents are drawn in pairs, token by token, by a maximal coupling of the next-token laws (`coupled`): as long as the
two have written the same they part at the next token with the least probability that any joint law has, the total
variation between the laws there; then each goes its own way. The expert's uniforms are the same for all learners, so
that a slider changes the learner's documents alone. (It is no maximal coupling of whole documents, which may part
later.)

The page draws with Vega-Lite, whose JavaScript is in the package vl-convert-python, the whole of it 0.9 MB; Plotly's is
4.8 MB, and its charts take the finger that wants to scroll the page. The controls are the browser's own, which a
keyboard and a screen reader know. A policy in the page forbids every connection: it works offline because it must.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console

from agents import ChunkedRhoBC, LogLossBC, NGramBC
from experiments.cells import write_whole
from experiments.charts import BLUES, contrast, learner_style, shades
from experiments.evaluation import build_task
from ntp_envs import NGramClass, __version__, distance
from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checks import check_int, import_extra
from ntp_envs.policies import Policy
from ntp_envs.tasks.bernoulli import Contamination
from ntp_envs.tasks.text import Text

HORIZONS = (4, 8, 16, 32, 64, 128, 256)
EPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ORDERS = (1, 2, 3, 4, 5)
#: pairs of documents on the page, of bits and of text, and bits of each
PAIRS, TEXT_PAIRS, SHOWN = 8, 4, 64
DIGITS = 8  # significant, of every number in the page

#: the page where a reader's device is set to dark, and what the five blues of the orders are there: light stands out
DARK = "#161616"
BLUES_ON_DARK = ("#DFF0FB", "#A6D4F0", "#6FB8E3", "#3C98CF", "#2A86C2")


@dataclass(frozen=True)
class ExploreSettings:
    """Write a page with sliders for H, eps, K and the learner; it works offline and on a phone."""

    out: Path
    """The page: a file that ends in .html."""
    text: Annotated[str, tyro.conf.arg(metavar="TASK")] = "Text"
    """The text below the sliders: Text, "Text(corpus='book.txt')", or none."""
    seed: int = 0
    """Of the documents, and of what is sampled on the text."""

    def __post_init__(self) -> None:
        check_int("seed", self.seed, minimum=0)
        if self.out.suffix != ".html":
            raise ValueError(f"--out {self.out} must end in .html: it is a page for a browser.")
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out}: there is no folder {self.out.absolute().parent}.")


# -- documents side by side --------------------------------------------------------------------------------------------


def coupled(
    p: Policy, q: Policy, prompts: IntArray, horizon: int, uniforms: FloatArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs of sequences, the first by p and the second by q, that stay together as long as a step allows.

    The token of p is drawn; q takes it over with probability ``min(1, q / p)`` and otherwise draws from what is left of
    q, so that two that are together part at a step with the total variation between its laws. Those that have parted
    are drawn independently.

    Args:
        p, q: over one vocabulary.
        prompts: ``(B, P)``.
        horizon: T.
        uniforms: ``(T, B, 3)`` in [0, 1), the first for p, the others for q.

    Returns:
        ``(B, T)`` tokens of p, those of q, and ``(B,)`` how many tokens they have in common (T: all).

    >>> from ntp_envs import UniformPolicy
    >>> fair, prompts = UniformPolicy(2), np.zeros((3, 0), dtype=np.int64)
    >>> coupled(fair, fair, prompts, 4, np.random.default_rng(0).random((4, 3, 3)))[2].tolist()
    [4, 4, 4]
    """
    first, second = np.zeros((2, len(prompts), 0), dtype=np.int64)
    common, together = np.zeros(len(prompts), dtype=np.int64), np.ones(len(prompts), dtype=bool)
    readers, rows = [p.cursor(prompts), q.cursor(prompts)], np.arange(len(prompts))
    for for_p, take, for_q in np.moveaxis(uniforms[:horizon], 2, 1):
        laws = [np.exp(reader.log_probs()) for reader in readers]
        x = _drawn(laws[0], for_p)
        takes = together & (take * laws[0][rows, x] < laws[1][rows, x])
        rest = np.where(together[:, None], np.maximum(laws[1] - laws[0], 0.0), laws[1])
        empty = rest.sum(axis=1) <= 0.0  # equal laws but for rounding
        y = np.where(takes | (together & empty), x, _drawn(np.where(empty[:, None], laws[1], rest), for_q))
        together &= x == y
        common += together
        first, second = np.column_stack([first, x]), np.column_stack([second, y])
        readers = [reader.advance(tokens) for reader, tokens in zip(readers, (x, y), strict=True)]
    return first, second, common


def _drawn(weights: FloatArray, uniforms: FloatArray) -> IntArray:
    """``(B,)`` a token of each row, by its inverse distribution function; never one of weight 0."""
    sums = np.cumsum(weights, axis=1)
    return (sums <= uniforms[:, None] * sums[:, -1:]).sum(axis=1)


# -- the numbers -------------------------------------------------------------------------------------------------------


def rounded(values: Any) -> Any:
    """Numbers with 8 significant digits, lists of them as lists."""
    if isinstance(values, (list, tuple, np.ndarray)):
        return [rounded(value) for value in values]
    return float(f"{values:.{DIGITS}g}")


def contamination_data(
    horizons: Sequence[int] = HORIZONS, eps: Sequence[float] = EPS, *, seed: int = 0
) -> dict[str, Any]:
    """Curves, best in class and documents on `Contamination`, for each eps.

    Args:
        horizons: powers of two, ascending.
        eps: fractions of contaminated documents.
        seed: of the documents.

    Returns:
        ``horizons``, ``chunks``, ``eps``; ``expert``: documents by eps; ``learners``: by eps a list of policies, first
        that of log-loss, then one for each K; ``best``: by eps one for each H. A policy is ``theta``, ``curve``
        (squared Hellinger distance to the expert after 1, 2, ... tokens), ``documents`` and ``common`` (tokens that
        each has in common with the expert's).
    """
    longest, chunks = horizons[-1], [2**k for k in range(horizons[-1].bit_length())]
    shown = min(SHOWN, longest)
    uniforms = np.random.default_rng(seed).random((shown, PAIRS, 3))
    prompts = np.arange(PAIRS)[:, None] % 2
    found: dict[str, Any] = {"horizons": list(horizons), "chunks": chunks, "eps": list(eps), "expert": []}
    found |= {"learners": [], "best": [], "prompts": prompts[:, 0].tolist(), "task": ""}
    for share in eps:
        task = Contamination(horizon=longest, eps=share)

        def seen(policy: Any, length: int, task: Contamination = task) -> dict[str, Any]:
            curve = distance(task.expert, policy, task.replace(horizon=length)).values
            _, learnt, common = coupled(task.expert, policy, prompts, shown, uniforms)
            texts = ["".join(map(str, row)) for row in learnt]
            return {
                "theta": rounded(policy.theta),
                "curve": rounded(curve),
                "documents": texts,
                "common": common.tolist(),
            }

        fits = [LogLossBC().fit(task.population(), task.policy_class).policy_]
        for chunk in chunks:
            part = task.replace(horizon=chunk)
            fits.append(ChunkedRhoBC(chunk).fit(part.population(chunk=chunk), part.policy_class).policy_)
        found["learners"].append([seen(policy, longest) for policy in fits])
        found["best"].append([seen(task.replace(horizon=H).best_in_class().policy, H) for H in horizons])
        drawn = coupled(task.expert, task.expert, prompts, shown, uniforms)[0]
        found["expert"].append(["".join(map(str, row)) for row in drawn])
    found["task"] = f"Contamination(p={task.p:g}, q=1 - {1 - task.q:g})"
    return found


def text_data(task: Text, *, seed: int = 0, n: int = 4000, draws: int = 2000) -> dict[str, Any]:
    """n-gram learners of real text: curves with intervals, bits a character, and how they go on from real prompts.

    Args:
        task: its expert is the model that they are compared to.
        seed: of the training text, of what is sampled and of the documents.
        n: stretches of the text that they are fitted to.
        draws: texts of either that a distance is estimated from.

    Returns:
        ``orders``, ``horizon``, ``task``, ``prompts``, ``expert`` (documents); ``learners``, one for each order:
        ``curve``, ``lower``, ``upper``, ``bits``, ``documents``, ``common``. A document is a list of tokens as text.
    """
    rng = np.random.default_rng([seed, 1])
    windows = task.windows(n, rng)
    prompts = task.sample_prompts(TEXT_PAIRS, rng)
    uniforms = rng.random((task.horizon, TEXT_PAIRS, 3))
    learners = []

    def written(row: NDArray[np.integer]) -> list[str]:
        return [task.decode(row[i : i + 1]) for i in range(len(row))]

    for order in ORDERS:
        learnt = NGramBC().fit(windows, NGramClass(task.vocab_size, order)).policy_
        curve = distance(task.expert, learnt, task, n=draws, rng=rng)
        expert, own, common = coupled(task.expert, learnt, prompts, task.horizon, uniforms)
        one = {"curve": curve.values, "lower": curve.lower, "upper": curve.upper}
        learners.append({name: rounded(values) for name, values in one.items()})
        learners[-1] |= {"bits": rounded(task.bits_per_char(learnt).value), "documents": [written(row) for row in own]}
        learners[-1]["common"] = common.tolist()
    return {
        "task": f"{task.name}(corpus={task.corpus!r}, expert_order={task.expert_order})",
        "orders": list(ORDERS),
        "horizon": task.horizon,
        "n": n,
        "draws": draws,
        "prompts": [written(row) for row in prompts],
        "expert": [written(row) for row in expert],
        "learners": learners,
    }


# -- the page ----------------------------------------------------------------------------------------------------------


def library() -> str:
    """Vega-Lite with all it needs, as JavaScript that may stand in a page.

    Raises:
        ImportError: vl-convert-python is missing; the message names the extra.
    """
    convert = import_extra("vl_convert", what="ntp-bench explore", install="pip install 'ntp-envs[explore]'")
    return convert.javascript_bundle().replace("</script", "<\\/script")


def page(data: dict[str, Any], javascript: str) -> str:
    """The page with its numbers and its library inside."""
    content = json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    template = files("experiments").joinpath("explore_page.html").read_text(encoding="utf-8")
    return template.replace("{{page}}", DARK).replace("{{data}}", content).replace("{{library}}", javascript)


def look() -> dict[str, Any]:
    """Version and colours, on light pages those of the learners in all figures."""
    light = {name: learner_style(name).colour for name in ("log-loss", "chunked", "rho", "best in class")}
    dark = {**{name: lit(colour) for name, colour in light.items()}, "best in class": "#E6E6E6"}
    colours = {
        "light": {"learners": light, "orders": list(shades(ORDERS, BLUES).values())},
        "dark": {"learners": dark, "orders": list(shades(ORDERS, BLUES_ON_DARK).values())},
    }
    return {"version": __version__, "colours": colours}


def lit(colour: str) -> str:
    """The colour, lightened until it can be read on the dark page.

    >>> lit("#FFFFFF"), contrast(lit("#0072B2"), DARK) > 4.5
    ('#ffffff', True)
    """
    from matplotlib.colors import to_hex, to_rgb

    own = np.array(to_rgb(colour))
    lighter = (tuple(own + share * (1 - own)) for share in np.linspace(0, 1, 101))
    return next(to_hex(each) for each in lighter if contrast(each, DARK) > 4.5)


def show_explore(words: list[str]) -> int:
    """The command. Errors of use are raised as ``ValueError``, ``TypeError``, ``OSError`` or ``ImportError``."""
    settings = tyro.cli(ExploreSettings, args=words, prog="ntp-bench explore", config=(tyro.conf.FlagCreatePairsOff,))
    stderr = Console(stderr=True, highlight=False)
    javascript = library()  # before anything is computed
    task = None if settings.text == "none" else build_task(settings.text)
    if task is not None and not isinstance(task, Text):
        raise ValueError(f"--text {settings.text} must be a task of the family Text, or none.")
    stderr.print("learners on Contamination ...")
    data = {**look(), "contamination": contamination_data(seed=settings.seed)}
    if task is not None:
        stderr.print("learners of the text ...")
        data["text"] = text_data(task, seed=settings.seed)
    content = page(data, javascript)
    write_whole(settings.out, content)
    print(f"page: {settings.out} ({len(content.encode()) / 1e6:.1f} MB)")
    return 0
