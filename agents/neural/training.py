"""The one training loop: batches, modes, hyper-parameters, checkpoints and reports."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks
from agents.neural.network import Dropout, Network, resolve_device
from ntp_envs import Demonstrations, Task
from ntp_envs.checks import check_in, check_int, check_positive, optional
from ntp_envs.saved import whole

#: called after every step with the step, its loss (nats a sequence) and the speed (tokens a second)
Report = Callable[[int, float, float], None]


@contextmanager
def reporting(progress: bool | Report, *, start: int, steps: int, tokens_per_step: int) -> Iterator[Any]:
    """Gives a function of (step, loss), to be called after every step.

    Args:
        progress: ``False`` is silence, ``True`` a bar on standard error, or a function of your own: see `Report`.
        start: steps already done.
        steps: of the whole run.
        tokens_per_step: target tokens in a batch.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress={progress!r} must be True, False or a function of (step, loss, tokens a second).")
    if progress is False:
        yield lambda step, loss: None
        return
    begun = time.perf_counter()

    def speed(step: int) -> float:
        return (step - start) * tokens_per_step / max(time.perf_counter() - begun, 1e-9)

    if progress is not True:
        yield lambda step, loss: progress(step, loss, speed(step))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("", total=steps, completed=start)
        yield lambda step, loss: bar.update(
            row, completed=step, description=f"loss {loss:.4f} nats a sequence, {speed(step):,.0f} tokens/s"
        )


# -- Where the batches come from: the demonstrations, or new ones from a task's expert at every step ------------------


#: prompts (B, P), tokens (B, H), weights (B,) that sum to one or None for equal ones, and what else an objective reads
Batch = tuple[Any, ...]


class Batches(ABC):
    """A source of batches that keeps nothing between them: all randomness is the generator's.

    Attributes:
        size: B, the sequences in a batch.
    """

    size: int

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Batch:
        """A new batch."""

    @abstractmethod
    def fingerprint(self) -> Any:
        """What tells this source from another, as JSON would hold it."""


class StoredBatches(Batches):
    """Batches of demonstrations, drawn with replacement in proportion to their weights.

    Equal demonstrations are pooled and those of weight zero left out, so that a demonstration of weight k is the same
    as k copies. Where what is left fits into one batch, every batch is all of it with its weights, and nothing is
    drawn: gradient descent on the exact loss.

    Args:
        demonstrations: samples, or a population.
        batch_size: B; ``None`` is all.

    >>> demos = Demonstrations(np.zeros((3, 0), int), np.array([[1], [0], [1]]), vocab_size=2)
    >>> StoredBatches(demos, None).draw(np.random.default_rng(0))[2].round(3).tolist()
    [0.333, 0.667]
    """

    def __init__(self, demonstrations: Demonstrations, batch_size: int | None) -> None:
        pooled = demonstrations.pooled()
        weights = pooled.normalised_weights()
        kept = weights > 0
        self.prompts, self.tokens, self.weights = pooled.prompts[kept], pooled.tokens[kept], weights[kept]
        self.whole = batch_size is None or batch_size >= len(self.weights)
        self.size = len(self.weights) if batch_size is None else min(batch_size, len(self.weights))
        self._cumulative = np.cumsum(self.weights)

    def draw(self, rng: np.random.Generator) -> Batch:
        if self.whole:
            return self.prompts, self.tokens, self.weights
        rows = self._rows(rng)
        return self.prompts[rows], self.tokens[rows], None

    def _rows(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.searchsorted(self._cumulative, rng.random(self.size) * self._cumulative[-1], side="right")

    def fingerprint(self) -> Any:
        digest = hashlib.sha256()
        for array in (self.prompts, self.tokens, self.weights):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return {"demonstrations": digest.hexdigest(), "size": self.size}


class ReferencedBatches(StoredBatches):
    """Stored demonstrations, each with numbers of its own that the objective compares with.

    Args:
        demonstrations: as `distinct` leaves them, so that there is one row each.
        batch_size: B; ``None`` is all.
        reference: ``(n, ...)`` one row a demonstration; ``None`` where the objective needs none.
    """

    def __init__(
        self, demonstrations: Demonstrations, batch_size: int | None, reference: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(demonstrations, batch_size)
        if reference is not None and len(reference) != len(self.weights):
            raise ValueError(f"{len(reference)} rows of reference for {len(self.weights)} distinct demonstrations.")
        self.reference = reference

    @staticmethod
    def distinct(demonstrations: Demonstrations) -> Demonstrations:
        """The distinct demonstrations of positive weight, in the order of the batches' rows."""
        pooled = demonstrations.pooled()
        return pooled.subset(pooled.normalised_weights() > 0)

    def draw(self, rng: np.random.Generator) -> Batch:
        if self.reference is None:
            return super().draw(rng)
        if self.whole:
            return self.prompts, self.tokens, self.weights, self.reference
        rows = self._rows(rng)
        return self.prompts[rows], self.tokens[rows], None, self.reference[rows]


class OnlineBatches(Batches):
    """New prompts and the expert's answers at every step: no sequence is seen twice, but by chance.

    Args:
        task: gives both.
        batch_size: B.
    """

    def __init__(self, task: Task, batch_size: int) -> None:
        self.task, self.size = task, batch_size

    def draw(self, rng: np.random.Generator) -> Batch:
        prompts = self.task.sample_prompts(self.size, rng)
        return prompts, self.task.expert.sample(prompts, self.task.horizon, rng), None

    def fingerprint(self) -> Any:
        return {"task": self.task.fingerprint(), "size": self.size}


# -- What the network is asked to predict while it trains: the training modes -----------------------------------------


#: what a network may be trained to predict: every token under teacher forcing, or without what was written, several
#: tokens ahead, or the first only; see `NeuralBC`
MODES = ("tf", "teacherless", "mtp_k", "first_token_only")
#: other names that people know, and what to write for them
_MEANT = {
    **dict.fromkeys(
        ("reverse", "reversed"), "reversal is an option of the task: make_task('PathStar', reverse=True), for one"
    ),
    **dict.fromkeys(("teacher_forcing", "teacher forcing", "teacher-forcing", "next_token", "ntp"), "use 'tf'"),
    **dict.fromkeys(("mtp", "multi_token"), "use 'mtp_k' with k=2 or more"),
}


def check_mode(name: str, value: Any) -> str:
    if isinstance(value, str) and value in _MEANT:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, MODES))}; {_MEANT[value]}.")
    return check_in(name, value, MODES)


def check_columns(name: str, value: Any) -> Any:
    if isinstance(value, str) or np.ndim(value) != 1 or not len(value):
        raise ValueError(f"{name}={value!r} must be a list of token positions, such as (0,).")
    for position in value:
        check_int(name, position, minimum=0)
    return value


@dataclass(frozen=True)
class Mode:
    """A training mode and its options.

    * ``"tf"``: teacher forcing: every token given the prompt and the true tokens before it.
    * ``"teacherless"``: the tokens after the prompt are replaced by a dummy in the input, so that each is predicted
      from the prompt alone (Bachmann and Nagarajan 2024, arXiv:2403.06963, after Monea et al. 2023). The policy that
      results runs the same way: its tokens are independent given the prompt.
    * ``"mtp_k"``: teacher forcing with k heads, head j for the token j places on; the losses of the heads are added.
      The policy uses the first, the others only shape what the network computes (Gloeckle et al. 2024,
      arXiv:2404.19737; there a further head is a transformer layer, here a linear map).
    * ``"first_token_only"``: teacher forcing with a loss on some positions only, the first by default.

    Args:
        name: one of `MODES`.
        k: heads of ``"mtp_k"``.
        positions: of ``"first_token_only"``: which tokens, counted from 0.
        horizon: H, the number of tokens a sequence.

    >>> Mode("first_token_only", positions=(1,), horizon=5).columns
    (1,)
    """

    name: str
    horizon: int
    k: int = 2
    positions: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        check_mode("mode", self.name)
        check_int("k", self.k, minimum=1)
        check_columns("positions", self.positions)
        if self.name == "first_token_only":
            for position in self.positions:
                check_int("positions", position, minimum=0, maximum=self.horizon - 1)

    @property
    def columns(self) -> tuple[int, ...]:
        """The token positions that the loss counts."""
        if self.name == "first_token_only":
            return tuple(sorted({int(position) for position in self.positions}))
        return tuple(range(self.horizon))

    @property
    def teacherless(self) -> bool:
        """Whether the policy that results reads the dummy instead of tokens."""
        return self.name == "teacherless"


class Objective(nn.Module):
    """A network with what is trained along with it; called on a batch, it gives the loss.

    Args:
        network: what is trained.
        mode: for what.
        end: the end token, where texts may end: what follows it is not counted.
    """

    def __init__(self, network: Network, mode: Mode, end: int | None = None) -> None:
        super().__init__()
        self.network, self.mode, self.end = network, mode, end
        self.ahead: nn.Parameter | None = None
        if not isinstance(network.out, nn.Linear):
            if mode.name in ("teacherless", "mtp_k"):
                raise ValueError(
                    f"mode={mode.name!r} needs a dummy token, or hidden vectors, that a language model of transformers "
                    "does not have; use 'tf' or 'first_token_only'."
                )
        elif mode.name == "mtp_k" and mode.k > 1:
            # heads 2, ..., k; zero to begin with, so that no random numbers are needed
            self.ahead = nn.Parameter(torch.zeros(mode.k - 1, network.out.in_features, network.vocab_size))

    def forward(self, prompts: Tensor, tokens: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss to be minimised, in nats a counted token, and its part of the first head, in nats a sequence.

        Args:
            prompts: ``(B, P)``.
            tokens: ``(B, H)``.
            weights: ``(B,)``, of sum 1; ``None`` is equal weights.
        """
        columns = self.mode.columns
        tokens = tokens[:, : columns[-1] + 1]  # nothing after the last column that counts matters
        inputs, counted = tokens[:, :-1], written(prompts, tokens, self.end)
        if self.mode.teacherless:
            inputs = torch.full_like(inputs, self.network.vocab_size)
        with self.network.products():
            hidden = self.network(prompts, inputs)  # (B, T, e)
            if len(columns) < tokens.shape[1]:
                hidden, tokens, counted = hidden[:, columns], tokens[:, columns], counted[:, columns]
            heads = [self.network.out(hidden)]
            if self.ahead is not None:
                heads += [hidden[:, :-j] @ head for j, head in enumerate(self.ahead[: tokens.shape[1] - 1], start=1)]
        losses = [_cross_entropy(logits, tokens[:, j:], counted[:, j:], weights) for j, logits in enumerate(heads)]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total / len(columns), losses[0].detach()


def written(prompts: Tensor, tokens: Tensor, end: int | None) -> Tensor:
    """`ntp_envs.arrays.written` of tensors: ``(B, H)`` booleans."""
    if end is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    before = torch.cat([(prompts == end).any(1, keepdim=True), tokens[:, :-1] == end], 1)
    return before.cumsum(1) == 0


def _cross_entropy(logits: Tensor, tokens: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """Nats a sequence: ``(B, T, A)`` logits, ``(B, T)`` tokens, which count, ``(B,)`` weights -> a scalar, not below
    float32."""
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)
    losses = (losses * counted).sum(1)
    return losses.mean() if weights is None else weights @ losses


# -- Training runs in files: written whole or not at all, and continued as if they had never stopped ------------------


FORMAT = "ntp-envs training run 2"
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile),
    *(ValueError, LookupError, AttributeError, TypeError),
)


class Checkpoint:
    """The file of one training run.

    It holds all that the next step depends on: weights, optimiser, step, the states of both generators, and the
    settings of the run. A run continued from it ends with the same bits as one that was not interrupted.

    Args:
        folder: made if it is not there; the file in it is ``run.pt``.
        every: steps between two writes.
        settings: what identifies the run: all that its result depends on; a file of other settings is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int, settings: dict[str, Any]) -> None:
        self.path, self.every, self.settings = Path(folder) / "run.pt", every, plain(settings)

    def save(self, run: Run) -> None:
        """Write the run, replacing what was there at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "settings": json.dumps(self.settings),
            "step": run.step,
            "objective": run.objective.state_dict(),
            "optimiser": run.optimiser.state_dict(),
            "rng": json.dumps(run.rng.bit_generator.state),
            "generator": run.generator.get_state(),
            "losses": torch.tensor(run.losses, dtype=torch.float64),
            "gradient_norms": torch.tensor(run.gradient_norms, dtype=torch.float64),
        }
        with whole(self.path) as new:
            torch.save(content, new)

    def restore(self, run: Run) -> None:
        """Put ``run`` where the file left off; without a file, leave it as it is.

        Raises:
            CheckpointError: the file cannot be read, or is of a run with other settings (the message names them).
        """
        if not self.path.exists():
            return
        device = next(run.objective.parameters()).device
        try:
            with zipfile.ZipFile(self.path) as archive:  # so that nothing unpacks to more than the file has
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is packed, which torch.save does not do")
            content = torch.load(self.path, map_location=device, weights_only=True)
            if content["format"] != FORMAT:
                raise ValueError(f"it holds {content['format']!r}")
            self._check_settings(json.loads(content["settings"]))
            run.objective.load_state_dict(content["objective"])
            run.optimiser.load_state_dict(content["optimiser"])
            run.rng.bit_generator.state = json.loads(content["rng"])
            run.generator.set_state(content["generator"].cpu())
            run.step = int(content["step"])
            run.losses, run.gradient_norms = content["losses"].tolist(), content["gradient_norms"].tolist()
        except CheckpointError:
            raise
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({error}); delete it to train from the beginning."
            ) from error

    def _check_settings(self, theirs: dict[str, Any]) -> None:
        there, now = _flat(theirs), _flat(self.settings)
        names = sorted(n for n in {*there, *now} if there.get(n) != now.get(n))
        if names:
            pairs = ", ".join(f"{n}: {there.get(n)!r} there, {now.get(n)!r} now" for n in names)
            raise CheckpointError(
                f"{self.path} is the checkpoint of a run with other settings ({pairs}); use another folder, or "
                "delete it."
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level, with names such as ``data.size``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


#: hyper-parameters that the result does not depend on
FREE = ("checkpoint", "checkpoint_every", "on_step", "on_step_every", "progress")


def identity(agent: Agent, *, free: Sequence[str] = (), **resolved: Any) -> dict[str, Any]:
    """What a training run of an agent depends on: every hyper-parameter but those that are known to be free.

    So one that is added to an agent is part of its checkpoints' identity without being named.

    Args:
        agent: whose.
        free: more names that make no difference, or that ``resolved`` tells better.
        resolved: data, seeds and the like, and hyper-parameters as they come out on this machine.
    """
    given = {name: value for name, value in agent.get_params(deep=False).items() if name not in (*FREE, *free)}
    return {"agent": type(agent).__name__, **given, "threads": torch.get_num_threads(), **resolved}


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from: it is damaged, or of a run with other settings, data or seed."""


def plain(value: Any) -> Any:
    """Anything as JSON holds it: numbers of numpy as numbers, what JSON has no form for as its ``repr``."""

    def other(item: Any) -> Any:
        return item.tolist() if isinstance(item, np.generic | np.ndarray) else repr(item)

    return json.loads(json.dumps(value, default=other))


# -- The one training loop: AdamW on batches, with a schedule, clipping, checkpoints and reports ----------------------


SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bf16")


def _a_device(name: str, value: Any) -> Any:
    """As torch names devices, whether or not this machine has it."""
    try:
        if not isinstance(value, str) or value != "auto":
            torch.device(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name}={value!r} must be 'auto', or a device as torch names it ({error}).") from error
    return value


def _a_folder(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}={value!r} must be the path of a folder, or None.")
    return value


def _a_report(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and not callable(value):
        raise TypeError(f"{name}={value!r} must be True, False or a function of (step, loss, tokens a second).")
    return value


@dataclass(eq=False, repr=False, kw_only=True)
class Training:
    """How a network is trained: the hyper-parameters of every learner that trains one, which derives from this.

    A learner stores them as given, as all its hyper-parameters, and may have other defaults; `checked` gives them
    alone, as the training loop takes them.

    Args:
        steps: updates of the weights.
        batch_size: sequences a step, drawn with replacement in proportion to their weights; all of them, with their
            weights, where they are not more than that (equal ones count once), or with ``None``.
        learning_rate: its largest value.
        schedule: ``"cosine"`` falls along half a cosine that would reach zero one step after the last, ``"constant"``
            stays.
        warmup: steps over which the learning rate first rises, linearly.
        weight_decay: of AdamW, on every weight.
        clip: largest norm of the gradient (of the loss in nats a counted token); ``None`` is no limit.
        precision: ``"float32"``, or ``"bf16"``: products of matrices are taken in bfloat16 (8 significant bits),
            forward and backward, on the CPU and on a GPU alike; it is faster where there are units for it. The
            weights, their moments, norms and the loss stay in float32, and policies are evaluated in float64 as ever.
        device: ``"auto"`` (CUDA where there is one), or as torch names it.
        threads: of the CPU; ``None`` is torch's own setting. Results can depend on it in the last bits.
        checkpoint: a folder; the run is kept there and `fit` goes on from what it finds, with the same result as if it
            had never stopped. A checkpoint of other settings, data, task or seed is refused with a `CheckpointError`.
        checkpoint_every: steps between two checkpoints.
        progress: ``True`` shows a bar on standard error; a function is called with (step, loss, tokens a second).

    >>> Training(steps=10, learning_rate=1.0, warmup=2).learning_rate_at(0)
    0.5
    """

    allowed: ClassVar[Checks] = {
        **dict.fromkeys(("steps", "checkpoint_every"), COUNT),
        **dict.fromkeys(("batch_size", "threads"), optional(COUNT)),
        **dict.fromkeys(("learning_rate", "weight_decay"), NOT_NEGATIVE),
        "schedule": partial(check_in, options=SCHEDULES),
        "warmup": partial(check_int, minimum=0),
        "clip": optional(check_positive),
        "precision": partial(check_in, options=PRECISIONS),
        "device": _a_device,
        "checkpoint": _a_folder,
        "progress": _a_report,
    }

    steps: int = 1000
    batch_size: int | None = 256
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float | None = 1.0
    precision: str = "float32"
    device: Any = "auto"
    threads: int | None = 1
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int = 100
    progress: bool | Report = False

    def checked(self) -> Training:
        """These hyper-parameters alone, checked, with ``device`` as torch knows it.

        Raises:
            TypeError, ValueError: one that is out of range, or a device that this machine does not have.
        """
        given = {each.name: getattr(self, each.name) for each in fields(Training)}
        given = {name: Training.allowed[name](name, value) for name, value in given.items()}
        check_int("warmup", self.warmup, minimum=0, maximum=self.steps)
        return Training(**{**given, "device": resolve_device(self.device)})

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
    def begin(cls, objective: torch.nn.Module, training: Training, seeds: tuple[int, int]) -> Run:
        """A run of no steps of a checked training. ``seeds`` are of the batches and of dropout."""
        objective = objective.to(training.device).train()
        generator = torch.Generator(training.device).manual_seed(seeds[1])
        for module in objective.modules():
            if isinstance(module, Dropout | Network):
                module.generator = generator
            if isinstance(module, Network):
                module.precision = training.precision
        optimiser = torch.optim.AdamW(
            objective.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        return cls(objective, optimiser, np.random.default_rng(seeds[0]), generator)

    def update(self, batches: Batches, training: Training) -> float:
        """One step; its loss."""
        device = next(self.objective.parameters()).device
        prompts, tokens, *numbers = batches.draw(self.rng)
        loss, reported = self.objective(
            _tensor(prompts, device), _tensor(tokens, device), *(_floats(array, device) for array in numbers)
        )
        self.optimiser.zero_grad()
        loss.backward()
        limit = math.inf if training.clip is None else training.clip
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        for group in self.optimiser.param_groups:
            group["lr"] = training.learning_rate_at(self.step)
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
    training: Training,
    *,
    identity: Callable[[], dict[str, Any]],
    after_step: Callable[[int], Any] | None = None,
    tokens: int,
) -> Run:
    """Run the steps that are left.

    Args:
        run: where to start; a checkpoint that is there already replaces it.
        batches: what to learn from.
        training: checked; the run is kept in its ``checkpoint``, every few steps and at the end.
        identity: gives all that the result of the run depends on, see `identity`.
        after_step: called with the number of steps done.
        tokens: that count in a sequence, for the speed that is shown.

    Raises:
        ValueError: the loss or its gradient stopped being finite, or the checkpoint is of another run or damaged.
    """
    checkpoint = None
    if training.checkpoint is not None:
        checkpoint = Checkpoint(training.checkpoint, every=training.checkpoint_every, settings=identity())
        checkpoint.restore(run)
        if run.step > training.steps:
            raise CheckpointError(
                f"{checkpoint.path} has done {run.step} steps, more than steps={training.steps}; use another folder."
            )
    speed = batches.size * tokens
    with reporting(training.progress, start=run.step, steps=training.steps, tokens_per_step=speed) as report:
        while run.step < training.steps:
            loss = run.update(batches, training)
            if checkpoint is not None and (run.step % checkpoint.every == 0 or run.step == training.steps):
                checkpoint.save(run)
            report(run.step, loss)
            if after_step is not None:
                after_step(run.step)
    return run


def _tensor(tokens: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.require(tokens, requirements=["C", "W"])).to(device)


def _floats(array: NDArray[np.float64] | None, device: torch.device) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array.astype(np.float32)).to(device)
