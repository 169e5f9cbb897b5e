"""Sequence-level alternatives to next-token log-loss for networks: what the learners share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from agents.neural.batches import ReferencedBatches
from agents.neural.checkpoints import Checkpoint, identity
from agents.neural.classes import NetworkClass, check_network
from agents.neural.devices import evaluation_device, resolve_device
from agents.neural.modes import Mode, Objective
from agents.neural.networks import Network
from agents.neural.policy import TorchPolicy
from agents.neural.progress import Report
from agents.neural.sequence_objectives import TrimmedLogLoss
from agents.neural.training import Run, Settings, train
from agents.torch_state import own_torch_state
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_int, check_real

__all__ = ["Player", "SequenceAgent"]

FloatArray = NDArray[np.float64]


class Player:
    """Trains networks of one class on one data set, stage by stage; each stage has a checkpoint of its own.

    A stage that a checkpoint shows to be finished is read back, so that an interrupted fit, started again, goes on
    where it was and ends with the same bits.
    """

    def __init__(self, agent: SequenceAgent, data: Demonstrations, spec: NetworkClass, rng: np.random.Generator):
        self.agent, self.data, self.spec = agent, data, spec
        self.chunk = agent.unit(data)
        self.starts = [positions.start for positions in data.chunks(self.chunk)]
        self.device = resolve_device(agent.device)
        known = data.expert_log_probs
        self.expert = None if known is None else hashlib.sha256(known.tobytes()).hexdigest()
        self.seed = int(rng.integers(2**31))
        self.stages = 0

    def initial(self) -> Network:
        """A network with fresh weights."""
        return self.spec.initialised(torch.Generator().manual_seed(self.seed))

    def copy(self, policy: TorchPolicy) -> Network:
        """A network with the weights of a policy, to be trained further."""
        network = self.initial()
        network.load_state_dict(policy.state)
        return network

    def train(
        self, name: str, objective: torch.nn.Module, steps: int, rate: float, reference: FloatArray | None = None
    ) -> TorchPolicy:
        """The policy after so many steps of the objective.

        Args:
            name: of the stage, for its checkpoint.
            objective: a module with a ``network``, called as `Run.update` does.
            steps: of AdamW.
            rate: its learning rate.
            reference: ``(n, C, R)`` what the objective compares with.
        """
        agent, number = self.agent, self.stages
        self.stages += 1
        settings = Settings(steps=steps, learning_rate=rate, clip=agent.clip, precision=agent.precision)
        batches = ReferencedBatches(self.data, agent.batch_size, reference)
        run = Run.begin(objective, settings, (self.seed + 2 * number + 1, self.seed + 2 * number + 2), self.device)
        checkpoint = None
        if agent.checkpoint is not None:
            # what a stage refers to is the outcome of the stages before, which were made of all this too
            stage = identity(
                agent,
                free=(*agent.LATER, "batch_size"),
                network=asdict(self.spec),
                data={**batches.fingerprint(), "expert": self.expert},
                seed=self.seed,
                stage=name,
                device=self.device.type,
            )
            folder = Path(agent.checkpoint) / f"{number:02d}-{name}"
            checkpoint = Checkpoint(folder, every=agent.checkpoint_every, settings=stage)
        tokens = batches.size * self.data.horizon
        train(run, batches, settings, checkpoint=checkpoint, progress=agent.progress, tokens_per_step=tokens)
        return self.spec.policy(run.objective.network, device=evaluation_device(self.device))

    def log_loss(self) -> TorchPolicy:
        """Where both learners start: next-token log-loss."""
        mode = Mode("tf", horizon=self.data.horizon)
        objective = Objective(self.initial(), mode)
        return self.train("log-loss", objective, self.agent.steps, self.agent.learning_rate)

    def trimmed(self, start: TorchPolicy, alpha: float) -> TorchPolicy:
        """Log-loss without the share ``alpha`` of sequences that the policy finds least likely as it goes."""
        objective = TrimmedLogLoss(self.copy(start), self.data.horizon, alpha)
        return self.train(f"trimmed-{alpha:g}", objective, self.agent.steps, self.agent.learning_rate)

    def starts_of(self, trims: Sequence[float]) -> dict[str, TorchPolicy]:
        """Log-loss, and log-loss trimmed by each share, by name."""
        first = self.log_loss()
        return {"log-loss": first, **{f"trimmed {alpha:g}": self.trimmed(first, alpha) for alpha in trims}}

    def units(self, log_probs: FloatArray) -> FloatArray:
        """``(n, H)`` log-probabilities of tokens -> ``(n, C)`` of units."""
        return np.add.reduceat(log_probs, self.starts, axis=1)

    def densities(self, policy: Policy) -> FloatArray:
        """``(n, C)`` log-probabilities of the units of the data."""
        return self.units(policy.log_probs(self.data.prompts, self.data.tokens))


class SequenceAgent(Agent):
    """What the two learners share: how to train, and where to begin."""

    supports = (NetworkClass,)

    #: hyper-parameters that no stage depends on, but only how many there are and what is said at the end
    LATER: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        chunk: int | None,
        trims: Sequence[float],
        steps: int,
        learning_rate: float,
        batch_size: int | None,
        clip: float | None,
        precision: str,
        device: str,
        threads: int | None,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int,
        progress: bool | Report,
    ) -> None:
        self.chunk = chunk
        self.trims = trims
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.clip = clip
        self.precision = precision
        self.device = device
        self.threads = threads
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.progress = progress

    def unit(self, demonstrations: Demonstrations) -> int:
        if self.chunk is None:
            return demonstrations.horizon
        return check_int("chunk", self.chunk, minimum=1, maximum=demonstrations.horizon)

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        spec = check_network(policy_class, demonstrations)
        check_int("checkpoint_every", self.checkpoint_every, minimum=1)
        if self.batch_size is not None:
            check_int("batch_size", self.batch_size, minimum=1)
        Settings(steps=self.steps, learning_rate=self.learning_rate, clip=self.clip, precision=self.precision)
        for alpha in self.trims:
            if not 0.0 < check_real("trims", alpha) < 1.0:
                raise ValueError(f"trims={self.trims!r} must hold shares in (0, 1).")
        self._check_own(demonstrations)
        threads = None if self.threads is None else check_int("threads", self.threads, minimum=1)
        with own_torch_state(threads=threads, grad=True):
            return self._play(Player(self, ReferencedBatches.kept(demonstrations), spec, rng))

    def _check_own(self, demonstrations: Demonstrations) -> None:
        """Hyper-parameters that only this learner has, before work starts."""
        raise NotImplementedError

    def _play(self, player: Player) -> tuple[Policy, FitReport]:
        """Learn; hyper-parameters are checked, and threads limited."""
        raise NotImplementedError
