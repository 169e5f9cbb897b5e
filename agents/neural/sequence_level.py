"""Networks trained on whole sequences: the rho-estimator by a double oracle, and losses of ratios to the expert."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks, ConvergenceWarning, FitReport
from agents.neural.network import (
    ModuleClass,
    Network,
    NetworkClass,
    TrainedPolicy,
    check_network,
    ending,
    evaluation_device,
)
from agents.neural.training import Mode, Objective, ReferencedBatches, Run, Training, identity, train, written
from agents.objectives import ClippedRatioLoss, JSDPlusTVLoss, RatioLoss, known_expert
from agents.rho_game import TAU_SCALE, GameSolution, solve_finite_game
from ntp_envs import Demonstrations, EndedClass, Policy, PolicyClass
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_in, check_int, check_positive, check_probability, optional
from ntp_envs.torch_state import own_torch_state


class SequenceObjective(nn.Module):
    """A network and a loss of its log-probabilities of units: chunks of K tokens given what precedes them.

    Args:
        network: what is trained.
        chunk: K; H is whole sequences.
        loss: a scalar of ``(B, C)`` log-probabilities, ``(B,)`` weights of sum 1 and ``(B, C, R)`` references.
        end: the end token, where texts may end: what follows it is not counted.
    """

    def __init__(self, network: Network, chunk: int, loss: Callable[..., Tensor], end: int | None = None) -> None:
        super().__init__()
        self.network, self.chunk, self.loss, self.end = network, chunk, loss, end

    def forward(
        self, prompts: Tensor, tokens: Tensor, weights: Tensor | None, reference: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, twice: to be minimised, and to be reported.

        Args:
            prompts: ``(B, P)``.
            tokens: ``(B, H)``.
            weights: ``(B,)``, of sum 1; ``None`` is equal weights.
            reference: ``(B, C, R)`` log-probabilities of the C units under R other policies.
        """
        with self.network.products():
            logits = self.network.out(self.network(prompts, tokens[:, :-1]))  # (B, H, A)
        log_probs = torch.log_softmax(logits.float() if logits.dtype == torch.bfloat16 else logits, dim=-1)
        taken = log_probs.gather(2, tokens[:, :, None])[:, :, 0] * written(prompts, tokens, self.end)
        units = torch.stack([part.sum(1) for part in taken.split(self.chunk, 1)], 1)  # (B, C)
        if weights is None:
            weights = units.new_full((len(units),), 1.0 / len(units))
        loss = self.loss(units, weights, reference)
        return loss, loss.detach()


def reply_loss(units: Tensor, weights: Tensor, reference: Tensor, *, scale: float) -> Tensor:
    """Minus the pay-off of a reply in the rho game: ``-sum tanh(s (ours - theirs))``, against one reference."""
    return -(weights @ torch.tanh(scale * (units - reference[:, :, 0])).sum(1))


SHARPNESS = 50.0


def worst_reply_loss(units: Tensor, weights: Tensor, reference: Tensor, *, scale: float) -> Tensor:
    """The pay-off of the best of R replies, ``max_r sum tanh(s (theirs_r - ours))``, smoothed by a soft maximum."""
    payoffs = weights @ torch.tanh(scale * (reference - units[:, :, None])).sum(1)  # (R,)
    return torch.logsumexp(SHARPNESS * payoffs, 0) / SHARPNESS


def clipped_ratio_loss(units: Tensor, weights: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """``1 - min(1, (ours / theirs)^beta)`` a unit, against one reference: the expert."""
    log_ratios = beta * (units - reference[:, :, 0])
    return weights @ -torch.expm1(log_ratios.clamp(max=0.0)).sum(1)


def jsd_plus_tv_loss(units: Tensor, weights: Tensor, reference: Tensor, *, weight: float) -> Tensor:
    """The loss of `agents.objectives.JSDPlusTVLoss` a unit, against one reference: the expert."""
    log_ratios = units - reference[:, :, 0]
    near, nothing = log_ratios.clamp(-60.0, 40.0), torch.zeros_like(log_ratios)
    term = torch.exp(near) * torch.logaddexp(nothing, -near)  # r log(1 + 1/r), from 0 (r = 0) to 1
    jensen = math.log(2.0) - 0.5 * (torch.logaddexp(nothing, log_ratios) + term)
    return weights @ (jensen - weight * torch.expm1(log_ratios.clamp(max=0.0))).sum(1)


def trimmed_log_loss(units: Tensor, weights: Tensor, reference: Tensor | None, *, alpha: float, tokens: int) -> Tensor:
    """Log-loss a token, of ``tokens`` a sequence, without the share ``alpha`` of weight that is least likely now."""
    log_probs = units.sum(1)
    order = torch.argsort(log_probs, stable=True)
    below = torch.cumsum(weights[order], 0) - alpha  # weight up to here that is beyond the trimmed share
    kept = torch.minimum(below.clamp(min=0.0), weights[order])
    return -(kept @ log_probs[order]) / kept.sum() / tokens


# -- Sequence-level alternatives to next-token log-loss for networks: what the learners share -------------------------


class Player:
    """Trains networks of one class on one data set, stage by stage; each stage has a checkpoint of its own.

    A stage that a checkpoint shows to be finished is read back, so that an interrupted fit, started again, goes on
    where it was and ends with the same bits.
    """

    def __init__(
        self,
        agent: SequenceAgent,
        training: Training,
        data: Demonstrations,
        spec: ModuleClass,
        rng: np.random.Generator,
    ) -> None:
        self.agent, self.training, self.data, self.spec = agent, training, data, spec
        self.chunk = agent.chunk_length(data)
        self.starts = [positions.start for positions in data.chunks(self.chunk)]
        known = data.expert_log_probs
        self.end = data.end_token
        self.expert = None if known is None else hashlib.sha256(known.tobytes()).hexdigest()
        self.seed = int(rng.integers(2**31))
        self.stages = 0

    def initial(self) -> Network:
        """A network with fresh weights."""
        return self.spec.initialised(torch.Generator().manual_seed(self.seed))

    def copy(self, policy: TrainedPolicy) -> Network:
        """A network with the weights of a policy, to be trained further."""
        network = self.initial()
        network.load_state_dict(policy.state)
        return network

    def train(
        self, name: str, objective: torch.nn.Module, steps: int, rate: float, reference: FloatArray | None = None
    ) -> TrainedPolicy:
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
        training = replace(self.training, steps=steps, learning_rate=rate)
        if training.checkpoint is not None:
            training = replace(training, checkpoint=Path(training.checkpoint) / f"{number:02d}-{name}")
        batches = ReferencedBatches(self.data, training.batch_size, reference)
        run = Run.begin(objective, training, (self.seed + 2 * number + 1, self.seed + 2 * number + 2))

        def stage() -> dict[str, Any]:  # what it refers to is the outcome of the stages before, made of all this too
            return identity(
                agent,
                free=(*agent.LATER, "batch_size"),
                network=self.spec.identity(),
                **({} if self.end is None else {"end_token": self.end}),
                data={**batches.fingerprint(), "expert": self.expert},
                seed=self.seed,
                stage=name,
                device=training.device.type,
            )

        train(run, batches, training, identity=stage, tokens=self.data.horizon)
        return self.spec.policy(run.objective.network, device=evaluation_device(training.device))

    def log_loss(self) -> TrainedPolicy:
        """Where both learners start: next-token log-loss."""
        mode = Mode("tf", horizon=self.data.horizon)
        objective = Objective(self.initial(), mode, self.end)
        return self.train("log-loss", objective, self.training.steps, self.training.learning_rate)

    def trimmed(self, start: TrainedPolicy, alpha: float) -> TrainedPolicy:
        """Log-loss without the share ``alpha`` of sequences that the policy finds least likely as it goes."""
        horizon = self.data.horizon
        loss = partial(trimmed_log_loss, alpha=alpha, tokens=horizon)
        objective = SequenceObjective(self.copy(start), horizon, loss, self.end)
        return self.train(f"trimmed-{alpha:g}", objective, self.training.steps, self.training.learning_rate)

    def starts_of(self, trims: Sequence[float]) -> dict[str, TrainedPolicy]:
        """Log-loss, and log-loss trimmed by each share, by name."""
        first = self.log_loss()
        return {"log-loss": first, **{f"trimmed {alpha:g}": self.trimmed(first, alpha) for alpha in trims}}

    def units(self, log_probs: FloatArray) -> FloatArray:
        """``(n, H)`` log-probabilities of tokens -> ``(n, C)`` of units, of what was written of them."""
        return np.add.reduceat(np.where(self.data.written, log_probs, 0.0), self.starts, axis=1)

    def densities(self, policy: Policy) -> FloatArray:
        """``(n, C)`` log-probabilities of the units of the data."""
        return self.units(policy.log_probs(self.data.prompts, self.data.tokens))


def _shares(name: str, value: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name}={value!r} must be a list of shares in (0, 1).")
    for share in value:
        check_probability(name, share)
    return value


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceAgent(Training, Agent):
    """What the two learners share: how to train, and where to begin."""

    supports = (NetworkClass, ModuleClass, EndedClass)
    allowed: ClassVar[Checks] = {"chunk": optional(COUNT), "trims": _shares}

    #: hyper-parameters that no stage depends on, but only how many there are and what is said at the end
    LATER: ClassVar[tuple[str, ...]] = ()

    chunk: int | None = None
    trims: Sequence[float] = (0.05,)
    steps: int = 500
    learning_rate: float = 1e-2
    schedule: str = field(default="cosine", init=False)
    warmup: int = field(default=0, init=False)
    weight_decay: float = field(default=0.0, init=False)

    def chunk_length(self, demonstrations: Demonstrations) -> int:
        if self.chunk is None:
            return demonstrations.horizon
        return check_int("chunk", self.chunk, minimum=1, maximum=demonstrations.horizon)

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        spec = check_network(policy_class, demonstrations)
        training = self.checked()
        self._check_own(demonstrations)
        with own_torch_state(threads=training.threads, grad=True):
            policy, report = self._play(Player(self, training, ReferencedBatches.distinct(demonstrations), spec, rng))
        return ending(policy, policy_class.end_token), report

    def _check_own(self, demonstrations: Demonstrations) -> None:
        """What only this learner asks of the data, before work starts."""

    def _play(self, player: Player) -> tuple[Policy, FitReport]:
        """Learn; hyper-parameters are checked, and threads limited."""
        raise NotImplementedError


# -- Losses of ratios to the expert for networks -----------------------------------------------------------------------


@dataclass(eq=False, repr=False, kw_only=True)
class RatioAgent(SequenceAgent):
    """What the two learners of ratios share: the descent from each start, and the choice among the ends."""

    reads_expert = True
    allowed: ClassVar[Checks] = {"ratio_steps": COUNT, "ratio_learning_rate": NOT_NEGATIVE}
    formula: ClassVar[str]
    stage: ClassVar[str]

    ratio_steps: int = 300
    ratio_learning_rate: float = 5e-3

    def _loss(self) -> Callable[..., Tensor]:
        """Of a batch, as `SequenceObjective` takes it."""
        raise NotImplementedError

    def _exact(self, data: Demonstrations, chunk: int) -> RatioLoss:
        """The same of all demonstrations."""
        raise NotImplementedError

    def _check_own(self, demonstrations: Demonstrations) -> None:
        if not np.isfinite(known_expert(demonstrations)).all():
            raise ValueError("expert_log_probs has -inf: the expert cannot have written these demonstrations.")

    def _play(self, player: Player) -> tuple[Policy, FitReport]:
        data = player.data
        expert = player.units(known_expert(data))  # (n, C)
        starts = player.starts_of(self.trims)
        ends: dict[str, TrainedPolicy] = dict(starts)
        for name, start in starts.items():
            objective = SequenceObjective(player.copy(start), player.chunk, self._loss(), player.end)
            ends[f"{name}, descended"] = player.train(
                self.stage, objective, self.ratio_steps, self.ratio_learning_rate, expert[:, :, None]
            )
        weights, exact = data.normalised_weights(), self._exact(data, player.chunk)
        losses = {}
        for name, policy in ends.items():
            log_ratios = player.densities(policy) - expert
            losses[name] = float(weights @ exact.of_ratios(log_ratios).sum(axis=1))
        best = min(losses, key=lambda name: losses[name])
        details = {
            "objective": f"{self.formula}, summed over units",
            "chunk": player.chunk,
            "ends": losses,
            "start": best,
        }
        report = FitReport(losses[best], float("nan"), best not in starts, len(ends) - len(starts), details)
        return ends[best], report


@dataclass(eq=False, repr=False)
class NeuralClippedRatioBC(RatioAgent):
    """``argmin_q E_p[1 - min(1, (q(o)/p(o))^beta)]`` over the policies q of a network class, p being the expert.

    The objective of `agents.ClippedRatioBC`, by stochastic gradients. It is bounded, so that the sequences that no
    member explains cost a constant each; at ``beta=1`` on whole sequences it *is* the total variation distance. The
    expert's probabilities of the demonstrations must be known (``collect(..., expert_log_probs=True)``).

    It is descended from log-loss and from log-loss without the least likely sequences (``trims``), as it has no slope
    where q is far below p; the best end on the data is returned, log-loss included. ``gap`` is ``nan``: no
    certificate. ``converged`` says that the descent improved on where it started.

    Args:
        beta: > 0. Below 1 the slope reaches farther: 1/2 is a good choice for long sequences.
        chunk: K, tokens a unit, their losses added; ``None`` is whole sequences.
        trims, steps, learning_rate: of the starts, as in `NeuralRhoBC`.
        ratio_steps, ratio_learning_rate: of the descent from each.
        batch_size, clip, precision, device, threads, checkpoint, checkpoint_every, progress: see
            `agents.neural.training.Training`.

    Raises:
        ValueError: on `fit`, parameters out of range, or demonstrations without ``expert_log_probs``.

    >>> from agents.neural import NetworkClass
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=16, eps=0.05, p=0.01, q=0.99)
    >>> spec = NetworkClass("linear", 2, prompt_length=1, horizon=16, width=2, window=1)
    >>> demos = collect(task, 200, np.random.default_rng(0), expert_log_probs=True)
    >>> report = NeuralClippedRatioBC(steps=30, ratio_steps=20).fit(demos, spec).fit_report_
    >>> 0 <= report.objective <= report.details["ends"]["log-loss"] <= 1
    True
    """

    allowed: ClassVar[Checks] = {"beta": check_positive}
    formula = "E_p[1 - min(1, (q/p)^beta)]"
    stage = "clipped"

    beta: float = 0.5

    def _loss(self) -> Callable[..., Tensor]:
        return partial(clipped_ratio_loss, beta=self.beta)

    def _exact(self, data: Demonstrations, chunk: int) -> RatioLoss:
        return ClippedRatioLoss(data, self.beta, chunk)


@dataclass(eq=False, repr=False)
class NeuralJSDPlusTVBC(RatioAgent):
    """``argmin_q JSD(P, Q) + weight TV(P, Q)`` over the policies of a network class, P being the law of the expert.

    The objective of `agents.JSDPlusTVBC`, descended as that of `NeuralClippedRatioBC` is. Unlike the total variation
    it has a slope where q is above p, and more of one where q is far below.

    Args:
        weight: >= 0, of the total variation.
        chunk, trims, steps, learning_rate, ratio_steps, ratio_learning_rate, batch_size, clip, precision, device,
        threads, checkpoint, checkpoint_every, progress: as in `NeuralClippedRatioBC`.

    Raises:
        ValueError: on `fit`, as `NeuralClippedRatioBC`.

    >>> from agents.neural import NetworkClass
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=16, eps=0.05, p=0.01, q=0.99)
    >>> spec = NetworkClass("linear", 2, prompt_length=1, horizon=16, width=2, window=1)
    >>> demos = collect(task, 200, np.random.default_rng(0), expert_log_probs=True)
    >>> report = NeuralJSDPlusTVBC(steps=30, ratio_steps=20).fit(demos, spec).fit_report_
    >>> report.objective <= report.details["ends"]["log-loss"] <= 1.7
    True
    """

    allowed: ClassVar[Checks] = {"weight": NOT_NEGATIVE}
    formula = "JSD + weight TV"
    stage = "jsd-plus-tv"

    weight: float = 1.0

    def _loss(self) -> Callable[..., Tensor]:
        return partial(jsd_plus_tv_loss, weight=self.weight)

    def _exact(self, data: Demonstrations, chunk: int) -> RatioLoss:
        return JSDPlusTVLoss(data, self.weight, chunk)


# -- The rho-estimator for networks -----------------------------------------------------------------------------------


@dataclass(eq=False, repr=False)
class NeuralRhoBC(SequenceAgent):
    """The rho-estimator over the policies of a network class, by a double oracle.

    ``argmin_pi max_pi' sum_i w_i tau(P^pi(o_i), P^pi'(o_i))`` over whole sequences (or chunks) o_i, with
    tau = tanh(l/2) (``"ratio"``) or tanh(l/4) (``"psi"``) of the log-ratio l: see `agents.RhoEstimatorBC`, which solves
    the game in classes where that can be done. Here the game is not convex, and gradient descent-ascent from
    log-loss does not leave it: the maximum likelihood is a stationary point of the game, and a local equilibrium.
    So the learner keeps a pool of policies:

    1. log-loss; then log-loss without the least likely sequences, once for each share in ``trims``: what
       misspecification cannot explain is left out, which is where good replies are found;
    2. ``rounds`` times: solve the finite game over the pool exactly (`agents.rho_game.solve_finite_game`); train a best
       reply to its winner, from its worst opponent; train a learner against the whole pool, from the winner; add both;
    3. return the winner of the last finite game.

    What is guaranteed is that: among the policies of the pool, the returned one has the smallest worst case over the
    pool, on the data. ``fit_report_.objective`` is that worst case. Nothing bounds the worst case over the whole class
    (``gap`` is ``nan``); ``details["reply_gap"]`` is by how much the best reply trained in the last round exceeds what
    the pool knew then, and `ConvergenceWarning` says where that is more than ``tol``.

    Args:
        tau: ``"ratio"`` or ``"psi"``.
        chunk: K, tokens a unit, their pay-offs added; ``None`` is whole sequences.
        rounds: of the double oracle.
        trims: shares of the sequences left out by the first members of the pool, in (0, 1).
        steps: of log-loss training, for each of the first members.
        game_steps: of each best reply and each learner.
        learning_rate, game_learning_rate: largest learning rates of the two; both fall as a cosine.
        tol: see above, in pay-off, which is at most one a unit.
        batch_size, clip, precision, device, threads, checkpoint, checkpoint_every, progress: see
            `agents.neural.training.Training`; every stage has a folder of its own in ``checkpoint``.

    Source: the estimator is Baraud and Birge's (2018); that it avoids error amplification is Rohatgi et al. (2025,
    arXiv:2502.12465); the double oracle (McMahan et al. 2003) with trimmed starts is ours.

    >>> from agents.neural import NetworkClass
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=16, eps=0.05, p=0.01, q=0.99)
    >>> spec = NetworkClass("linear", 2, prompt_length=1, horizon=16, width=2, window=1)
    >>> demos = collect(task, 200, np.random.default_rng(0))
    >>> agent = NeuralRhoBC(rounds=1, steps=30, game_steps=20, tol=1.0).fit(demos, spec)
    >>> agent.fit_report_.details["pool"][:3]
    ['log-loss', 'trimmed 0.05', 'trimmed 0.2']
    """

    LATER = ("rounds", "tol")
    allowed: ClassVar[Checks] = {
        "tau": partial(check_in, options=TAU_SCALE),
        **dict.fromkeys(("rounds", "game_steps"), COUNT),
        **dict.fromkeys(("tol", "game_learning_rate"), NOT_NEGATIVE),
    }

    tau: str = "ratio"
    _: KW_ONLY
    rounds: int = 4
    trims: Sequence[float] = (0.05, 0.2)
    game_steps: int = 200
    game_learning_rate: float = 5e-3
    tol: float = 0.02

    def _play(self, player: Player) -> tuple[Policy, FitReport]:
        pool = player.starts_of(self.trims)
        densities = [player.densities(policy) for policy in pool.values()]
        game = self._solved(player, densities)
        reply_gap = 0.0
        for number in range(1, self.rounds + 1):
            names = list(pool)
            reply = self._reply(player, pool[names[game.reply]], densities[game.index])
            densities.append(player.densities(reply))
            pool[f"reply {number}"] = reply
            reply_gap = max(self._payoff(player, densities[game.index], densities[-1]) - game.value, 0.0)
            learner = self._learner(player, pool[names[game.index]], densities)
            densities.append(player.densities(learner))
            pool[f"learner {number}"] = learner
            game = self._solved(player, densities)
        winner = list(pool)[game.index]
        if reply_gap > self.tol:
            warnings.warn(
                f"the rho game ended after {self.rounds} rounds with value {game.value:.3g}; the best reply trained in "
                f"the last was worth {reply_gap:.3g} more than the pool knew. Raise rounds={self.rounds}, "
                f"game_steps={self.game_steps}, or tol={self.tol:g}.",
                ConvergenceWarning,
                stacklevel=4,
            )
        details = {
            "objective": "value of the finite rho game over the pool",
            "tau": self.tau,
            "chunk": player.chunk,
            "pool": list(pool),
            "winner": winner,
            "reply": list(pool)[game.reply],
            "reply_gap": reply_gap,
        }
        return pool[winner], FitReport(game.value, float("nan"), reply_gap <= self.tol, self.rounds, details)

    def _reply(self, player: Player, start: TrainedPolicy, opponent: FloatArray) -> TrainedPolicy:
        loss = partial(reply_loss, scale=TAU_SCALE[self.tau])
        objective = SequenceObjective(player.copy(start), player.chunk, loss, player.end)
        return player.train("reply", objective, self.game_steps, self.game_learning_rate, opponent[:, :, None])

    def _learner(self, player: Player, start: TrainedPolicy, opponents: list[FloatArray]) -> TrainedPolicy:
        loss = partial(worst_reply_loss, scale=TAU_SCALE[self.tau])
        objective = SequenceObjective(player.copy(start), player.chunk, loss, player.end)
        reference = np.stack(opponents, axis=2)
        return player.train("learner", objective, self.game_steps, self.game_learning_rate, reference)

    def _solved(self, player: Player, densities: list[FloatArray]) -> GameSolution:
        n_units = densities[0].shape[1]
        matrix = np.stack([density.ravel() for density in densities], axis=1)  # (n C, M)
        return solve_finite_game(matrix, np.repeat(player.data.normalised_weights(), n_units), self.tau)

    def _payoff(self, player: Player, ours: FloatArray, theirs: FloatArray) -> float:
        payoffs = np.tanh(TAU_SCALE[self.tau] * (theirs - ours)).sum(axis=1)
        return float(player.data.normalised_weights() @ payoffs)
