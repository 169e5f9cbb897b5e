"""Distillation of networks: what an expert would write next, taught on texts that the student writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.base import COUNT, Checks, FitReport
from agents.interactive import OnPolicyDistillation
from agents.neural.network import ModuleClass, Network, NetworkClass, check_network, ending, evaluation_device
from agents.neural.training import Batches, Mode, Objective, Run, StoredBatches, Training, identity, train, written
from agents.targets import Targets
from ntp_envs import Demonstrations, EndedClass, Policy, PolicyClass
from ntp_envs.arrays import written as on_paper
from ntp_envs.torch_state import own_torch_state


class LawObjective(nn.Module):
    """A network and the divergence of its laws from those that are taught.

    Args:
        network: what is trained.
        divergence: ``"forward"``, ``KL(taught || network)``, or ``"reverse"``.
        end: the end token, where texts may end: what follows it is not counted.
    """

    def __init__(self, network: Network, divergence: str, end: int | None = None) -> None:
        super().__init__()
        self.network, self.divergence, self.end = network, divergence, end

    def forward(self, prompts: Tensor, tokens: Tensor, weights: None, taught: Tensor) -> tuple[Tensor, Tensor]:
        """The loss in nats a token, to be minimised, and in nats a sequence.

        Args:
            prompts: ``(B, P)``.
            tokens: ``(B, H)``.
            weights: sequences are drawn in proportion to theirs.
            taught: ``(B, H, A)`` log-laws of the next token.
        """
        with self.network.products():
            logits = self.network.out(self.network(prompts, tokens[:, :-1]))
        own = torch.log_softmax(logits.float(), dim=-1)
        first, second = (taught, own) if self.divergence == "forward" else (own, taught)
        each = torch.where(first.isneginf(), 0.0, first.exp() * (first - second)).sum(-1)  # (B, H)
        loss = (each * written(prompts, tokens, self.end)).sum(1).mean()
        return loss / tokens.shape[1], loss.detach()


class TaughtBatches(Batches):
    """Batches of texts with the laws that are taught there, drawn with replacement in proportion to their weights."""

    def __init__(self, targets: Targets, batch_size: int | None) -> None:
        self.targets, weights = targets, targets.per_token.sum(axis=1)
        self.size = len(weights) if batch_size is None else min(batch_size, len(weights))
        self._cumulative = np.cumsum(weights)

    def draw(self, rng: np.random.Generator) -> Any:
        levels = rng.random(self.size) * self._cumulative[-1]
        part = self.targets.rows(np.searchsorted(self._cumulative, levels, side="right"))
        return part.prompts, part.tokens, None, part.soft

    def fingerprint(self) -> Any:
        digest = hashlib.sha256()
        for array in (self.targets.prompts, self.targets.tokens, self._cumulative, self.targets.soft):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return {"taught": digest.hexdigest(), "size": self.size}


@dataclass(eq=False, repr=False)
class NeuralDistillation(Training, OnPolicyDistillation):
    """`agents.OnPolicyDistillation` of networks (`NetworkClass`, `agents.neural.language.TransformersClass`).

    The first student is trained by log-loss on the demonstrations. In each round the student writes ``rollouts``
    sequences, the expert gives its law at every prefix, and the student's training goes on with these, by the
    divergence. With ``on_policy=0, rounds=1`` the expert's laws are taught on the demonstrations alone. As after any
    training there is no certificate: ``gap`` is ``nan``. Laws of a round are kept: rollouts x H x A numbers.

    Args:
        task, divergence, rounds, rollouts, on_policy, floor, settle: see `agents.OnPolicyDistillation`.
        steps: updates of the weights by log-loss, at the beginning.
        round_steps: updates in each round; learning rate and schedule begin anew.
        batch_size, learning_rate, schedule, warmup, weight_decay, clip, precision, device, threads, checkpoint,
        checkpoint_every, progress: see `agents.neural.training.Training`.

    Raises:
        TypeError, ValueError: as from there.

    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=4)
    >>> agent = NeuralDistillation(task, divergence="reverse", steps=5, rounds=1, round_steps=5, settle=1.0)
    >>> demos = collect(task, 20, np.random.default_rng(0))
    >>> agent.fit(demos, NetworkClass.for_task("mlp", task, width=8)).policy_.horizon
    4
    """

    supports = (NetworkClass, ModuleClass, EndedClass)
    allowed: ClassVar[Checks] = {"round_steps": COUNT}

    _: KW_ONLY
    round_steps: int = 300
    tol: float = field(default=0.0, init=False)

    def _projections(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Callable[[], Policy], Callable[[Targets, str], tuple[Policy, FitReport]]]:
        spec, end, training = check_network(policy_class, demonstrations), policy_class.end_token, self.checked()
        seed, stages = int(rng.integers(2**31)), 0
        network = spec.initialised(torch.Generator().manual_seed(seed))

        def trained(objective: nn.Module, batches: Batches, steps: int) -> tuple[Policy, Run]:
            nonlocal stages
            number, stages = stages, stages + 1
            stage = replace(training, steps=steps, warmup=min(training.warmup, steps))
            if training.checkpoint is not None:
                stage = replace(stage, checkpoint=Path(training.checkpoint) / f"{number:02d}")
            with own_torch_state(threads=training.threads, grad=True):
                run = Run.begin(objective, stage, (seed + 2 * number + 1, seed + 2 * number + 2))

                def about() -> dict[str, Any]:  # of the stages before, what they wrote and were taught
                    return identity(
                        self,
                        free=("task", "rounds", "settle", "batch_size"),
                        network=spec.identity(),
                        **({} if end is None else {"end_token": end}),
                        data=batches.fingerprint(),
                        seed=seed,
                        device=stage.device.type,
                    )

                train(run, batches, stage, identity=about, tokens=demonstrations.horizon)
                return ending(spec.policy(network, device=evaluation_device(stage.device)), end), run

        def start() -> Policy:
            objective = Objective(network, Mode("tf", horizon=demonstrations.horizon), end)
            return trained(objective, StoredBatches(demonstrations, training.batch_size), training.steps)[0]

        def nearest(targets: Targets, divergence: str) -> tuple[Policy, FitReport]:
            if divergence == "reverse":
                counted = (targets.per_token > 0) & on_paper(targets.prompts, targets.tokens, end)
                if np.isneginf(targets.soft[counted]).any():
                    raise ValueError(
                        "reverse KL is infinite for every network: the expert excludes a token at a visited prefix. "
                        "Use divergence='forward', or mix a little of the uniform law in: floor=1e-3."
                    )
            objective = LawObjective(network, divergence, end)
            policy, run = trained(objective, TaughtBatches(targets, training.batch_size), self.round_steps)
            last = run.losses[-max(len(run.losses) // 10, 1) :]
            return policy, FitReport(float(np.mean(last)), float("nan"), True, len(run.losses))

        return start, nearest
