"""The one training loop: AdamW on batches, with a schedule, clipping, checkpoints and reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.neural.batches import Batches
from agents.neural.checkpoints import Checkpoint, CheckpointError
from agents.neural.networks import Dropout, Network
from agents.neural.progress import Report, reporting
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["PRECISIONS", "SCHEDULES", "Run", "Settings", "train"]

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Settings:
    """The options of the optimiser.

    Args:
        steps: updates of the weights.
        learning_rate: its largest value.
        schedule: ``"cosine"`` falls along half a cosine that would reach zero one step after the last, ``"constant"``
            stays.
        warmup: steps over which the learning rate first rises, linearly.
        weight_decay: of AdamW, on every weight.
        clip: largest norm of the gradient (of the loss in nats a counted token); ``None`` is no limit.
        precision: ``"float32"``, or ``"bf16"``: products of matrices are taken in bfloat16 (8 significant bits),
            forward and backward, on the CPU and on a GPU alike; it is faster where there are units for it. The
            weights, their moments, norms and the loss stay in float32, and policies are evaluated in float64 as ever.

    >>> Settings(steps=10, learning_rate=1.0, warmup=2).learning_rate_at(0)
    0.5
    """

    steps: int
    learning_rate: float
    schedule: str = "cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float | None = 1.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)  # the checked values are those that are used
        keep("steps", check_int("steps", self.steps, minimum=1))
        keep("learning_rate", check_real("learning_rate", self.learning_rate, minimum=0.0))
        check_in("schedule", self.schedule, SCHEDULES)
        keep("warmup", check_int("warmup", self.warmup, minimum=0, maximum=self.steps))
        keep("weight_decay", check_real("weight_decay", self.weight_decay, minimum=0.0))
        check_in("precision", self.precision, PRECISIONS)
        if self.clip is None:
            return
        keep("clip", check_real("clip", self.clip, minimum=0.0))
        if self.clip == 0:
            raise ValueError("clip=0 leaves no gradient; use a positive number, or None for no limit.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, ..., steps - 1."""
        rise = min((step + 1) / max(self.warmup, 1), 1.0)
        if self.schedule == "constant":
            return self.learning_rate * rise
        done = max(step - self.warmup, 0) / max(self.steps - self.warmup, 1)
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass
class Run:
    """A training run, as far as it has come: everything that the next step depends on.

    Attributes:
        objective: the network with what is trained along with it; called on the arrays of a batch, it gives the loss
            to be minimised and the number to be reported.
        optimiser: AdamW with its moments.
        rng: draws the batches.
        generator: draws what is dropped out.
        step: updates done.
        losses, gradient_norms: of every update; the loss is that of the first head, in nats a sequence.
    """

    objective: torch.nn.Module
    optimiser: torch.optim.Optimizer
    rng: np.random.Generator
    generator: torch.Generator
    step: int = 0
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, objective: torch.nn.Module, settings: Settings, seeds: tuple[int, int], device: torch.device) -> Run:
        """A run of no steps. ``seeds`` are of the batches and of dropout."""
        objective = objective.to(device).train()
        generator = torch.Generator(device).manual_seed(seeds[1])
        for module in objective.modules():
            if isinstance(module, Dropout):
                module.generator = generator
            if isinstance(module, Network):
                module.precision = settings.precision
        optimiser = torch.optim.AdamW(
            objective.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        return cls(objective, optimiser, np.random.default_rng(seeds[0]), generator)

    def update(self, batches: Batches, settings: Settings) -> float:
        """One step; its loss."""
        device = next(self.objective.parameters()).device
        prompts, tokens, *numbers = batches.draw(self.rng)
        loss, reported = self.objective(
            _tensor(prompts, device), _tensor(tokens, device), *(_floats(array, device) for array in numbers)
        )
        self.optimiser.zero_grad()
        loss.backward()
        limit = math.inf if settings.clip is None else settings.clip
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(self.step)
        self.step += 1
        value = float(reported)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise ValueError(
                f"training diverged: at step {self.step} the loss is {value:g} and the gradient norm {float(norm):g}; "
                "lower learning_rate, or clip."
            )
        self.optimiser.step()
        self.losses.append(value)
        self.gradient_norms.append(float(norm))
        return value


def train(
    run: Run,
    batches: Batches,
    settings: Settings,
    *,
    checkpoint: Checkpoint | None = None,
    after_step: Callable[[int], Any] | None = None,
    progress: bool | Report = False,
    tokens_per_step: int = 0,
) -> Run:
    """Run the steps that are left.

    Args:
        run: where to start; a checkpoint that is there already replaces it.
        batches: what to learn from.
        settings: of the optimiser.
        checkpoint: where to keep the run, every few steps and at the end.
        after_step: called with the number of steps done.
        progress: see `agents.neural.progress.reporting`.
        tokens_per_step: target tokens in a batch, for the speed that is shown.

    Raises:
        ValueError: the loss or its gradient stopped being finite, or the checkpoint is of another run or damaged.
    """
    if checkpoint is not None:
        checkpoint.restore(run)
        if run.step > settings.steps:
            raise CheckpointError(
                f"{checkpoint.path} has done {run.step} steps, more than steps={settings.steps}; use another folder."
            )
    with reporting(progress, start=run.step, steps=settings.steps, tokens_per_step=tokens_per_step) as report:
        while run.step < settings.steps:
            loss = run.update(batches, settings)
            if checkpoint is not None and (run.step % checkpoint.every == 0 or run.step == settings.steps):
                checkpoint.save(run)
            report(run.step, loss)
            if after_step is not None:
                after_step(run.step)
    return run


def _tensor(tokens: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.require(tokens, requirements=["C", "W"])).to(device)


def _floats(array: NDArray[np.float64] | None, device: torch.device) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array.astype(np.float32)).to(device)
