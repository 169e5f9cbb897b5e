"""The cells of the study: one training each, and one for every n-gram model to compare with."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import make_agent
from experiments.networks import require_torch
from experiments.studies.scaling.flops import steps_within, training_flops
from experiments.studies.scaling.measures import UNKNOWN, judged
from experiments.studies.scaling.options import ScalingOptions
from experiments.study import Cell, Label, Record, keyed_rng
from ntp_envs import Demonstrations, NGramClass
from ntp_envs.tasks import Text

if TYPE_CHECKING:
    from agents.neural import NetworkClass

__all__ = [
    "ARCHITECTURES",
    "EPOCHS",
    "EXPERT",
    "FLOPS",
    "LEAST_STEPS",
    "NGRAM",
    "PARAMETERS",
    "REFERENCE",
    "SECONDS",
    "STEPS",
    "TOKENS",
    "TRAINING",
    "Clock",
    "cells",
    "network_for",
    "shared_windows",
    "text_task",
]

TRAINING, REFERENCE = "training", "reference"
ARCHITECTURES = ("linear", "mlp", "transformer")
NGRAM, EXPERT = "Witten-Bell", "expert"

FLOPS, STEPS, TOKENS = "floating-point operations", "steps", "characters read"
EPOCHS, PARAMETERS, SECONDS = "passes over the windows", "parameters", "wall seconds of the training"

#: chosen among 0.003, 0.01, 0.02 and 0.03 for the budgets of the quick study
LEARNING_RATE = 1e-2
#: of the transformer, divided by its width: 0.01 is best at width 32 and too much at 64
TRANSFORMER_RATE = 0.2
#: share of the steps over which the learning rate rises; then it falls to zero along a cosine
WARMUP = 0.05
#: a training with fewer steps says nothing of its architecture and is left out
LEAST_STEPS = 10
PROMPT_LENGTH = 8
CHECKPOINTS = 20


def text_task(corpus: str, max_chars: int, H: int) -> Text:
    """The text and its expert."""
    return Text(corpus, horizon=H, prompt_length=PROMPT_LENGTH, max_chars=max_chars)


def shared_windows(task: Text, n: int, replicate: int) -> Demonstrations:
    """The training windows: the same for every cell of a replicate."""
    return task.windows(n, keyed_rng(replicate, "training windows of the study scaling"))


def network_for(architecture: str, task: Text, width: int, window: int | None) -> NetworkClass:
    """The network: two hidden layers or blocks, four heads."""
    from agents.neural import NetworkClass

    return NetworkClass.for_task(architecture, task, width=width, window=window)


class Clock:
    """Wall seconds of a training that may be stopped and resumed, in a file beside its checkpoint."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.before = float(path.read_text()) if path.exists() else 0.0
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def __call__(self, step: int, loss: float, speed: float) -> None:
        """After every step."""
        if step % self.every == 0:
            self.path.write_text(f"{self.seconds!r}")


def trained(
    *,
    architecture: str,
    width: int,
    window: int | None,
    budget: int,
    batch_size: int,
    corpus: str,
    max_chars: int,
    H: int,
    n: int,
    samples: int,
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """One network trained within a budget of 10^9 operations: how well it predicts, and how soon its text drifts."""
    from agents.neural import NeuralBC

    task = text_task(corpus, max_chars, H)
    windows = shared_windows(task, n, replicate)
    spec = network_for(architecture, task, width, window)
    size = min(batch_size, len(windows.pooled()))  # as many as there are different ones
    steps = steps_within(budget * 1e9, spec, size)
    every = max(steps // CHECKPOINTS, 1)
    clock = Clock(scratch / "seconds", every)
    agent = NeuralBC(
        steps=steps,
        batch_size=batch_size,
        learning_rate=TRANSFORMER_RATE / width if architecture == "transformer" else LEARNING_RATE,
        warmup=math.ceil(WARMUP * steps),
        device=device,
        checkpoint=scratch,
        checkpoint_every=every,
        progress=clock,
    )
    agent.fit(windows, spec, rng=rng)
    labels: dict[str, Label] = {
        "task": task.name,
        "learner": architecture,
        "H": H,
        "n": n,
        "budget": budget,
        "width": width,
        "window": context(spec),
    }
    sizes = {
        FLOPS: steps * training_flops(spec, size),
        STEPS: steps,
        TOKENS: steps * size * H,
        EPOCHS: steps * size / n,
        PARAMETERS: spec.n_parameters,
    }
    records = [Record(metric, float(value), labels, method="count") for metric, value in sizes.items()]
    records.append(Record(SECONDS, clock.seconds, labels, machine=True))
    return records + judged(task, agent.policy_, windows, agent.fit_report_.objective, labels, samples, rng)


def context(spec: NetworkClass) -> int:
    """The most characters that the network sees."""
    if spec.architecture == "transformer":
        return spec.prompt_length + spec.horizon - 1
    return spec.window_length


def reference(
    *,
    order: int | None,
    corpus: str,
    max_chars: int,
    H: int,
    n: int,
    samples: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """The Witten-Bell model of the same windows, or (``order=None``) the expert, which is that of the whole text."""
    task = text_task(corpus, max_chars, H)
    windows = shared_windows(task, n, replicate)
    if order is None:
        labels: dict[str, Label] = {"task": task.name, "learner": EXPERT, "H": H, "window": task.expert_order - 1}
        nats = -float(task.expert.log_probs(windows.prompts, windows.tokens).sum(axis=1).mean())
        unknown = task.bits_per_char(task.expert).unknown_share
        return [Record(UNKNOWN, unknown, labels), *judged(task, task.expert, windows, nats, labels, 0, rng)]
    agent = make_agent("NGramBC").fit(windows, NGramClass(task.vocab_size, order), rng=rng)
    labels = {"task": task.name, "learner": NGRAM, "H": H, "n": n, "window": order - 1}
    counted = Record(FLOPS, float(n * H * order), labels, method="additions to counts")
    return [counted, *judged(task, agent.policy_, windows, agent.fit_report_.objective, labels, samples, rng)]


def cells(options: ScalingOptions) -> Iterator[Cell]:
    """The largest budgets first, so that workers end together.

    Raises:
        ValueError: torch or the device is missing, the text cannot be used, or a budget is too small for any width of
            some architecture; before anything is run.
    """
    require_torch()
    from agents.neural.devices import resolve_device

    resolve_device(options.device)
    task = text_task(options.corpus, options.max_chars, options.horizon)
    shared = {"corpus": options.corpus, "max_chars": options.max_chars, "H": options.horizon, "n": options.n}
    shared |= {"samples": options.samples}
    own = {"batch_size": options.batch_size, "device": options.device}
    places = list(_places(options, task))
    for replicate in range(options.seeds):
        for place in places:
            yield Cell(TRAINING, trained, {**place, **own, **shared, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for order in options.orders:
            yield Cell(REFERENCE, reference, {"order": order, **shared, "replicate": replicate})
    yield Cell(REFERENCE, reference, {"order": None, **shared, "replicate": 0})


def _places(options: ScalingOptions, task: Text) -> Iterator[dict[str, Any]]:
    """Architecture, width, window and budget of every training."""
    for budget in sorted(options.budgets, reverse=True):
        for architecture in ARCHITECTURES:
            found = 0
            for width, window in _shapes(options, architecture, compared=budget == options.window_budget):
                spec = network_for(architecture, task, width, window)
                if steps_within(budget * 1e9, spec, options.batch_size) >= LEAST_STEPS:
                    found += window in (None, options.window)
                    yield {"architecture": architecture, "width": width, "window": window, "budget": budget}
            if not found:
                raise ValueError(
                    f"budgets={budget} (10^9 operations) gives no {architecture} as many as {LEAST_STEPS} steps; "
                    f"raise it, or lower widths, transformer_widths or batch_size={options.batch_size}."
                )


def _shapes(options: ScalingOptions, architecture: str, *, compared: bool) -> list[tuple[int, int | None]]:
    """Widths and windows of an architecture; where windows are compared, those of the comparison as well."""
    if architecture == "transformer":
        return [(width, None) for width in sorted(options.transformer_widths)]
    shapes = {(width, options.window) for width in options.widths}
    if compared:
        shapes |= {(options.window_width, window) for window in options.windows}
    return sorted(shapes)
