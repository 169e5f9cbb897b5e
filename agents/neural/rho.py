"""The rho-estimator for networks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.base import ConvergenceWarning, FitReport
from agents.neural.policy import TorchPolicy
from agents.neural.progress import Report
from agents.neural.sequence_level import Player, SequenceAgent
from agents.neural.sequence_objectives import Reply, WorstReply
from agents.neural.training import Settings
from agents.rho_game import TAU_SCALE, GameSolution, solve_finite_game
from ntp_envs import Demonstrations, Policy
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["NeuralRhoBC"]

FloatArray = NDArray[np.float64]


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
        batch_size, clip, precision, device, threads, checkpoint, checkpoint_every, progress: as in
            `agents.neural.NeuralBC`; every stage has a folder of its own in ``checkpoint``.

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

    def __init__(
        self,
        tau: str = "ratio",
        *,
        chunk: int | None = None,
        rounds: int = 4,
        trims: Sequence[float] = (0.05, 0.2),
        steps: int = 500,
        game_steps: int = 200,
        learning_rate: float = 1e-2,
        game_learning_rate: float = 5e-3,
        tol: float = 0.02,
        batch_size: int | None = 256,
        clip: float | None = 1.0,
        precision: str = "float32",
        device: str = "auto",
        threads: int | None = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
        progress: bool | Report = False,
    ) -> None:
        super().__init__(
            chunk=chunk,
            trims=trims,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            clip=clip,
            precision=precision,
            device=device,
            threads=threads,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
        self.tau = tau
        self.rounds = rounds
        self.game_steps = game_steps
        self.game_learning_rate = game_learning_rate
        self.tol = tol

    def _check_own(self, demonstrations: Demonstrations) -> None:
        check_in("tau", self.tau, TAU_SCALE)
        check_int("rounds", self.rounds, minimum=1)
        check_real("tol", self.tol, minimum=0.0)
        check_int("game_steps", self.game_steps, minimum=1)
        Settings(steps=self.game_steps, learning_rate=self.game_learning_rate, clip=self.clip)

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

    def _reply(self, player: Player, start: TorchPolicy, opponent: FloatArray) -> TorchPolicy:
        objective = Reply(player.copy(start), player.chunk, TAU_SCALE[self.tau])
        return player.train("reply", objective, self.game_steps, self.game_learning_rate, opponent[:, :, None])

    def _learner(self, player: Player, start: TorchPolicy, opponents: list[FloatArray]) -> TorchPolicy:
        objective = WorstReply(player.copy(start), player.chunk, TAU_SCALE[self.tau])
        reference = np.stack(opponents, axis=2)
        return player.train("learner", objective, self.game_steps, self.game_learning_rate, reference)

    def _solved(self, player: Player, densities: list[FloatArray]) -> GameSolution:
        n_units = densities[0].shape[1]
        matrix = np.stack([density.ravel() for density in densities], axis=1)  # (n C, M)
        return solve_finite_game(matrix, np.repeat(player.data.normalised_weights(), n_units), self.tau)

    def _payoff(self, player: Player, ours: FloatArray, theirs: FloatArray) -> float:
        payoffs = np.tanh(TAU_SCALE[self.tau] * (theirs - ours)).sum(axis=1)
        return float(player.data.normalised_weights() @ payoffs)
