"""Behaviour cloning with a neural network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from agents.base import COUNT, Agent, Checks, FitReport, check_task, is_task
from agents.neural.network import ModuleClass, NetworkClass, check_network, ending, evaluation_device
from agents.neural.training import (
    Batches,
    Mode,
    Objective,
    OnlineBatches,
    Run,
    StoredBatches,
    Training,
    check_columns,
    check_mode,
    identity,
    train,
)
from ntp_envs import Demonstrations, EndedClass, Policy, PolicyClass, Task
from ntp_envs.checks import optional
from ntp_envs.torch_state import own_torch_state

CURVE_POINTS = 200


def _a_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name}={value!r} must be a function of (steps done, policy), or None.")
    return value


@dataclass(eq=False, repr=False)
class NeuralBC(Training, Agent):
    """Next-token prediction with a neural network (`NetworkClass`), trained by AdamW on the log-loss.

    Of texts that end (``ntp_envs.ended_class(network, end)``) what was written counts, and the policy is an
    `ntp_envs.EndedPolicy` of the network's.

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
        task: draw new data from this task's expert at every step, instead of the demonstrations.
        on_step: called with (steps done, policy so far) after a step. The policy is a copy and may be kept.
        on_step_every: steps between two calls.
        steps, batch_size, learning_rate, schedule, warmup, weight_decay, clip, precision, device, threads, checkpoint,
        checkpoint_every, progress: see `agents.neural.training.Training`.

    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=4)
    >>> spec = NetworkClass.for_task("mlp", task, width=8)
    >>> agent = NeuralBC(steps=5).fit(collect(task, 20, np.random.default_rng(0)), spec)
    >>> agent.policy_.vocab_size, agent.fit_report_.iterations
    (2, 5)
    """

    supports = (NetworkClass, ModuleClass, EndedClass)
    allowed: ClassVar[Checks] = {
        "mode": check_mode,
        **dict.fromkeys(("k", "on_step_every"), COUNT),
        "positions": check_columns,
        "task": optional(is_task),
        "on_step": optional(_a_function),
    }

    mode: str = "tf"
    _: KW_ONLY
    k: int = 2
    positions: Sequence[int] = (0,)
    task: Task | None = None
    on_step: Callable[[int, Any], Any] | None = None
    on_step_every: int = 1

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        """Single tokens with teacher forcing; the other modes look across a sequence."""
        return 1 if self.mode == "tf" else demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        spec = check_network(policy_class, demonstrations)
        mode, training, batches = self._resolved(demonstrations)
        seeds = [int(seed) for seed in rng.integers(2**63, size=3)]  # of the weights, the batches and dropout

        with own_torch_state(threads=training.threads, grad=True):
            network = spec.initialised(torch.Generator().manual_seed(seeds[0]))
            run = Run.begin(Objective(network, mode, policy_class.end_token), training, (seeds[1], seeds[2]))

            def policy() -> Policy:
                device = evaluation_device(training.device)
                return ending(spec.policy(network, teacherless=mode.teacherless, device=device), policy_class.end_token)

            def after_step(step: int) -> None:
                if self.on_step is not None and step % self.on_step_every == 0:
                    self.on_step(step, policy())

            def settings() -> dict[str, Any]:
                found = identity(
                    self,
                    free=("k", "positions", "batch_size", "task"),
                    mode={"name": mode.name, "columns": mode.columns, "k": mode.k if mode.name == "mtp_k" else 1},
                    network=spec.identity(),
                    **({} if policy_class.end_token is None else {"end_token": policy_class.end_token}),
                    data=batches.fingerprint(),
                    seeds=seeds,
                    device=training.device.type,
                )
                if training.schedule == "constant":
                    del found["steps"]  # a longer run begins with the same steps
                return found

            train(run, batches, training, identity=settings, after_step=after_step, tokens=len(mode.columns))
        learned = policy()
        return learned, _report(run, learned, demonstrations, mode, spec.n_parameters)

    def _resolved(self, demonstrations: Demonstrations) -> tuple[Mode, Training, Batches]:
        mode = Mode(self.mode, horizon=demonstrations.horizon, k=self.k, positions=self.positions)
        training = self.checked()
        if self.task is None:
            return mode, training, StoredBatches(demonstrations, training.batch_size)
        if training.batch_size is None:
            raise ValueError("batch_size=None is all demonstrations; with task there is no end of them, use a number.")
        return mode, training, OnlineBatches(check_task(self.task, demonstrations), training.batch_size)


def _report(run: Run, policy: Policy, demonstrations: Demonstrations, mode: Mode, parameters: int) -> FitReport:
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
        "parameters": parameters,
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
