"""Behaviour cloning with a neural network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from agents.base import Agent, FitReport
from agents.neural.network import NetworkClass, TorchPolicy, check_network, evaluation_device, resolve_device
from agents.neural.training import (
    Batches,
    Checkpoint,
    Mode,
    Objective,
    OnlineBatches,
    Report,
    Run,
    Settings,
    StoredBatches,
    identity,
    train,
)
from agents.torch_state import own_torch_state
from ntp_envs import Demonstrations, Policy, PolicyClass, Task
from ntp_envs.checks import check_int

CURVE_POINTS = 200


class NeuralBC(Agent):
    """Next-token prediction with a neural network (`NetworkClass`), trained by AdamW on the log-loss.

    Known to `agents.make_agent` by its path, ``"agents.neural:NeuralBC"``: torch is imported only when it is used.

    Stochastic gradient descent gives no certificate: ``fit_report_.gap`` is ``nan``, and ``fit_report_.converged``
    says only that the training loss has stopped falling: over the last fifth of the steps, its mean in the second half
    is not below that in the first by more than two standard errors (it says nothing of how good the plateau is).
    ``fit_report_.objective`` is the log-loss of the final policy in nats a sequence, summed over the positions that
    the mode counts, on the demonstrations given to `fit`: the training data, or with ``task`` a held-out sample.
    ``details`` has the curve of the loss, the norm of the last gradients and the number of parameters.

    The same seed gives the same weights, bit for bit, on one machine's CPU (with equal versions and ``threads``); no
    global state is read or changed: neither random generators nor torch's settings (`torch.autocast`, default types
    and devices, precisions, inference mode and so on). On a GPU the order of some sums is not fixed.

    With ``precision="bf16"`` products of matrices are taken in bfloat16 while training; weights, loss and the policy
    stay in full precision. Where training converges, the policy is the same for practical purposes: in the tests the
    objective within 1 % and the two laws of a sequence at a squared Hellinger distance below 0.01. Stopped long before
    that, two trainings differ as those of two seeds do.

    Args:
        mode: ``"tf"``, ``"teacherless"``, ``"mtp_k"`` or ``"first_token_only"``: see `agents.neural.training.Mode`.
        k: heads of ``"mtp_k"``.
        positions: of ``"first_token_only"``: which tokens count, from 0.
        steps: updates of the weights.
        batch_size: sequences a step, drawn with replacement in proportion to their weights; all of them, with their
            weights, where they are not more than that (equal ones count once), or with ``None``.
        learning_rate, schedule, warmup, weight_decay, clip, precision: see `agents.neural.training.Settings`.
        task: draw new data from this task's expert at every step, instead of the demonstrations.
        device: ``"auto"`` (CUDA where there is one), or as torch names it.
        threads: of the CPU; ``None`` is torch's own setting. Results can depend on it in the last bits.
        checkpoint: a folder; the run is kept there and `fit` goes on from what it finds, with the same result as if it
            had never stopped. A checkpoint of other settings, data, task or seed is refused with a `CheckpointError`.
        checkpoint_every: steps between two checkpoints.
        on_step: called with (steps done, policy so far) after a step. The policy is a copy and may be kept.
        on_step_every: steps between two calls.
        progress: ``True`` shows a bar on standard error; a function is called with (step, loss, tokens a second).

    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=4)
    >>> spec = NetworkClass.for_task("mlp", task, width=8)
    >>> agent = NeuralBC(steps=5).fit(collect(task, 20, np.random.default_rng(0)), spec)
    >>> agent.policy_.vocab_size, agent.fit_report_.iterations
    (2, 5)
    """

    supports = (NetworkClass,)

    def __init__(
        self,
        mode: str = "tf",
        *,
        k: int = 2,
        positions: Sequence[int] = (0,),
        steps: int = 1000,
        batch_size: int | None = 256,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        precision: str = "float32",
        task: Task | None = None,
        device: str = "auto",
        threads: int | None = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
        on_step: Callable[[int, TorchPolicy], Any] | None = None,
        on_step_every: int = 1,
        progress: bool | Report = False,
    ) -> None:
        self.mode = mode
        self.k = k
        self.positions = positions
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.clip = clip
        self.precision = precision
        self.task = task
        self.device = device
        self.threads = threads
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.on_step = on_step
        self.on_step_every = on_step_every
        self.progress = progress

    def unit(self, demonstrations: Demonstrations) -> int | None:
        """Single tokens with teacher forcing; the other modes look across a sequence."""
        return 1 if self.mode == "tf" else demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        spec = check_network(policy_class, demonstrations)
        mode, settings, batches = self._resolved(demonstrations)
        device = resolve_device(self.device)
        threads = None if self.threads is None else check_int("threads", self.threads, minimum=1)
        seeds = [int(seed) for seed in rng.integers(2**63, size=3)]  # of the weights, the batches and dropout

        with own_torch_state(threads=threads, grad=True):
            network = spec.initialised(torch.Generator().manual_seed(seeds[0]))
            run = Run.begin(Objective(network, mode), settings, (seeds[1], seeds[2]), device)

            def policy() -> TorchPolicy:
                return spec.policy(network, teacherless=mode.teacherless, device=evaluation_device(device))

            def after_step(step: int) -> None:
                if self.on_step is not None and step % self.on_step_every == 0:
                    self.on_step(step, policy())

            train(
                run,
                batches,
                settings,
                checkpoint=self._checkpoint(spec, mode, settings, batches, seeds, device),
                after_step=after_step,
                progress=self.progress,
                tokens_per_step=batches.size * len(mode.columns),
            )
        learned = policy()
        return learned, _report(run, learned, demonstrations, mode)

    def _resolved(self, demonstrations: Demonstrations) -> tuple[Mode, Settings, Batches]:
        mode = Mode(self.mode, horizon=demonstrations.horizon, k=self.k, positions=self.positions)
        settings = Settings(
            steps=self.steps,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            precision=self.precision,
        )
        check_int("checkpoint_every", self.checkpoint_every, minimum=1)
        check_int("on_step_every", self.on_step_every, minimum=1)
        if self.on_step is not None and not callable(self.on_step):
            raise TypeError(f"on_step={self.on_step!r} must be a function of (steps done, policy), or None.")
        size = None if self.batch_size is None else check_int("batch_size", self.batch_size, minimum=1)
        if self.task is None:
            return mode, settings, StoredBatches(demonstrations, size)
        return mode, settings, self._online(demonstrations, size)

    def _online(self, demonstrations: Demonstrations, size: int | None) -> Batches:
        task = self.task
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, or None to train on the demonstrations.")
        if size is None:
            raise ValueError("batch_size=None is all demonstrations; with task there is no end of them, use a number.")
        ours = task.vocab_size, task.horizon, task.prompt_length
        theirs = demonstrations.vocab_size, demonstrations.horizon, demonstrations.prompt_length
        if ours != theirs:
            raise ValueError(
                f"the demonstrations have (vocabulary, horizon, prompt length) {theirs}, the task {ours}; give the "
                "task that they come from."
            )
        return OnlineBatches(task, size)

    def _checkpoint(
        self,
        spec: NetworkClass,
        mode: Mode,
        settings: Settings,
        batches: Batches,
        seeds: list[int],
        device: torch.device,
    ) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        resolved = asdict(settings) | {
            "mode": {"name": mode.name, "columns": mode.columns, "k": mode.k if mode.name == "mtp_k" else 1},
            "network": asdict(spec),
            "data": batches.fingerprint(),
            "seeds": seeds,
            "device": device.type,
        }
        run = identity(self, free=("k", "positions", "batch_size", "task"), **resolved)
        if settings.schedule == "constant":
            del run["steps"]  # a longer run begins with the same steps
        return Checkpoint(self.checkpoint, every=self.checkpoint_every, settings=run)


def _report(run: Run, policy: TorchPolicy, demonstrations: Demonstrations, mode: Mode) -> FitReport:
    log_probs = policy.log_probs(demonstrations.prompts, demonstrations.tokens)[:, list(mode.columns)]
    objective = -float(demonstrations.normalised_weights() @ log_probs.sum(axis=1))
    losses = np.array(run.losses)
    blocks = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    tail = max(len(losses) // 10, 1)
    details = {
        "objective": "log-loss of the final policy on the demonstrations given, in nats a sequence",
        "positions": list(mode.columns),
        "loss_curve": [[int(block[-1]) + 1, float(losses[block].mean())] for block in blocks],
        "gradient_norm": float(np.mean(run.gradient_norms[-tail:])),
        "parameters": policy.network_class.n_parameters,
    }
    return FitReport(objective, float("nan"), _has_stopped_falling(losses), len(losses), details)


def _has_stopped_falling(losses: np.ndarray) -> bool:
    """See `NeuralBC`; false where there are too few steps to tell."""
    half = len(losses) // 10
    if half < 10:
        return False
    before, after = losses[-2 * half : -half], losses[-half:]
    error = np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / half)
    return bool(before.mean() - after.mean() <= 2 * error)
