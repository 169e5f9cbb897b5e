"""Total variation in finite classes: minimum distance and tournament over Scheffe sets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from ntp_envs import Demonstrations, FiniteClass, Policy, PolicyClass
from ntp_envs._numerics import ROUNDING, TIE, all_sequences, first_best
from ntp_envs._validation import check_in, check_int

__all__ = ["METHODS", "TotalVariationBC"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

METHODS = ("minimum distance", "tournament")
MAX_POINTS = 1 << 14


class TotalVariationBC(Agent):
    """The member of a finite class that agrees best with the data on the sets where members disagree.

    For members f_j, f_k let ``A_jk = {o : f_j(o) > f_k(o)}`` (o a prompt with its whole sequence), on which they differ
    by their total variation (Scheffe), and mu the law of the demonstrations. Devroye & Lugosi 2001 ("Combinatorial
    methods in density estimation", chapter 6):

    * ``"minimum distance"`` (Yatracos 1985): ``argmin_i max_jk |f_i(A_jk) - mu(A_jk)|``. Whatever the
      expert P, ``TV(f_i, P) <= 3 min_j TV(f_j, P) + 2 Delta`` with ``Delta = max_jk |mu(A_jk) - P(A_jk)|``, by three
      triangle inequalities; Delta is of order ``sqrt(log(M) / n)``, and 0 for a population. M^3 probabilities.
    * ``"tournament"``: j beats k if ``f_j(A_jk)`` is nearer to ``mu(A_jk)`` than ``f_k(A_jk)`` is; most
      wins take it. Between two members the same factor 3 holds; among more the constant is larger (9). M^2
      probabilities.

    Ties go to the first member, and log-densities within 1e-9 nats of each other are equal.

    The probabilities are under the demonstrations' prompts, exact by enumeration while there are at most 16384
    sequences of prompts and tokens, and otherwise means over ``samples`` sequences drawn from each member.

    ``objective`` of the report is the winner's largest discrepancy ``max_jk |f_i(A_jk) - mu(A_jk)|`` over the sets that
    the method compares it on, in [0, 1]. ``gap`` is 0 where exact; otherwise twice the radius within which all sampled
    probabilities are with probability 95 % (Hoeffding).

    Args:
        method: ``"minimum distance"`` or ``"tournament"``.
        samples: a member, where they are needed.

    Raises:
        TypeError: on `fit`, a class that is not finite.
        ValueError: on `fit`, an unknown method, or ``samples`` below 1.

    >>> from ntp_envs import make_task
    >>> task = make_task("RareMode", horizon=8)
    >>> agent = TotalVariationBC().fit(task.population(), task.policy_class)
    >>> agent.fit_report_.details["index"], agent.fit_report_.details["probabilities"]
    (0, 'enumeration')
    """

    supports = (FiniteClass,)

    def __init__(self, method: str = "minimum distance", *, samples: int = 4096) -> None:
        self.method = method
        self.samples = samples

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, FiniteClass)  # `supports` says so
        method = check_in("method", self.method, METHODS)
        samples = check_int("samples", self.samples, minimum=1)
        data = demonstrations.pooled()
        weights = data.normalised_weights()
        members = policy_class.readers()
        on_data = _log_densities(members, data.prompts, data.tokens)
        n_prompts = len(np.unique(data.prompts, axis=0))
        exact = n_prompts * data.vocab_size**data.horizon <= MAX_POINTS
        if exact:
            prompts, tokens, masses = _everything(data, weights)
            points = _log_densities(members, prompts, tokens)  # (M, N)
            law = np.exp(points) * masses

            def probabilities(j: int, k: int) -> FloatArray:
                return law @ (points[j] > points[k] + TIE)

        else:
            chosen = data.prompts[rng.choice(len(data), size=samples, p=weights)]
            drawn = [_log_densities(members, chosen, m.sample(chosen, data.horizon, rng)) for m in members]
            sampled = np.stack(drawn)  # (who drew, who judges, samples)

            def probabilities(j: int, k: int) -> FloatArray:
                return (sampled[:, j] > sampled[:, k] + TIE).mean(axis=1)

        worst, wins = np.zeros(len(members)), np.zeros(len(members), dtype=np.int64)
        for j, k in _pairs(len(members)):
            inside = on_data[j] > on_data[k] + TIE
            off = np.abs(probabilities(j, k) - weights @ inside)  # (M,)
            if method == "minimum distance":
                worst = np.maximum(worst, off)
            else:
                worst[[j, k]] = np.maximum(worst[[j, k]], off[[j, k]])
                wins[j] += off[j] < off[k] - ROUNDING
        winner = int(first_best(-worst, slack=ROUNDING) if method == "minimum distance" else np.argmax(wins))
        details = {"objective": "largest discrepancy on Scheffe sets", "method": method, "wins": wins.tolist()}
        details["probabilities"] = "enumeration" if exact else f"Monte Carlo, {samples} sequences a member"
        radius = 0.0 if exact else math.sqrt(math.log(2 * len(members) ** 3 / 0.05) / (2 * samples))
        return policy_class.policy(winner), FitReport(float(worst[winner]), gap=2 * radius, details=details)


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    return ((j, k) for j in range(size) for k in range(size) if j != k)


def _log_densities(members: list[Policy], prompts: IntArray, tokens: IntArray) -> FloatArray:
    """``(M, n)`` log-probabilities of whole sequences given their prompts."""
    return np.stack([member.log_probs(prompts, tokens).sum(axis=1) for member in members])


def _everything(data: Demonstrations, weights: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """All sequences on every prompt of the data, and the prompt's weight."""
    prompts, which = np.unique(data.prompts, axis=0, return_inverse=True)
    masses = np.bincount(which.ravel(), weights=weights)
    sequences = all_sequences(data.vocab_size, data.horizon)
    return (
        np.repeat(prompts, len(sequences), axis=0),
        np.tile(sequences, (len(prompts), 1)),
        np.repeat(masses, len(sequences)),
    )
