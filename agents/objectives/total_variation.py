"""Total variation in finite classes: minimum distance and tournament over Scheffe sets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from ntp_envs import Demonstrations, FiniteClass, NotTractableError, Policy, PolicyClass
from ntp_envs._numerics import ROUNDING, TIE, all_sequences, first_best
from ntp_envs._validation import check_in, check_int, check_real

__all__ = ["METHODS", "TotalVariationBC"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

METHODS = ("minimum distance", "tournament")
MAX_POINTS = 1 << 14
MAX_COMPARISONS = 1 << 40
MAX_TOKENS = 1 << 34


class TotalVariationBC(Agent):
    """The member of a finite class that agrees best with the data on the sets where members disagree.

    For members f_j, f_k let ``A_jk = {o : f_j(o) > f_k(o)}`` (o a prompt with its whole sequence), on which they differ
    by their total variation (Scheffe), and mu the law of the demonstrations. Devroye & Lugosi 2001 ("Combinatorial
    methods in density estimation", chapter 6):

    * ``"minimum distance"`` (Yatracos 1985): ``argmin_i max_jk |f_i(A_jk) - mu(A_jk)|``. Whatever the
      expert P, ``TV(f_i, P) <= 3 min_j TV(f_j, P) + 2 Delta`` with ``Delta = max_jk |mu(A_jk) - P(A_jk)|``, by three
      triangle inequalities; Delta is of order ``sqrt(log(M) / n)``, and 0 for a population. M^3 probabilities.
    * ``"tournament"``: j beats k if ``f_j(A_jk)`` is nearer to ``mu(A_jk)`` than ``f_k(A_jk)`` is; most
      wins take it. Between two members the same factor 3 holds; among more the constant is larger (9). 2 M^2
      probabilities.

    The probabilities are under the demonstrations' prompts, exact by enumeration while there are at most 16384
    sequences of prompts and tokens, and otherwise means over ``samples`` sequences drawn from each member, on which all
    M members are evaluated, one drawer at a time. Ties (probabilities within 1e-12, log-densities within 1e-9 nats) go
    to the first member, and win nothing.

    ``objective`` of the report is the winner's largest discrepancy ``max_jk |f_i(A_jk) - mu(A_jk)|`` over the sets that
    the method compares it on, in [0, 1]. ``gap`` is 0 where exact; otherwise twice the radius within which all sampled
    probabilities are with probability 95 % (Hoeffding).

    Args:
        method: ``"minimum distance"`` or ``"tournament"``.
        samples: a member, where they are needed.
        memory_gb: refuse a fit that needs more.

    Raises:
        NotTractableError: on `fit`, more than ``memory_gb``, densities of more than 2**34 tokens (M^2 samples H;
            minutes), or more than 2**40 comparisons of two densities (M^3 samples, or M^2 by tournament).
        TypeError: on `fit`, a class that is not finite.
        ValueError: on `fit`, an unknown method, or ``samples`` below 1.

    >>> from ntp_envs import make_task
    >>> task = make_task("RareMode", horizon=8)
    >>> agent = TotalVariationBC().fit(task.population(), task.policy_class)
    >>> agent.fit_report_.details["index"], agent.fit_report_.details["probabilities"]
    (0, 'enumeration')
    """

    supports = (FiniteClass,)

    def __init__(self, method: str = "minimum distance", *, samples: int = 4096, memory_gb: float = 4.0) -> None:
        self.method = method
        self.samples = samples
        self.memory_gb = memory_gb

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, FiniteClass)  # `supports` says so
        method = check_in("method", self.method, METHODS)
        samples = check_int("samples", self.samples, minimum=1)
        data, members = demonstrations.pooled(), policy_class.readers()
        weights = data.normalised_weights()
        n_prompts = len(np.unique(data.prompts, axis=0))
        exact = n_prompts * data.vocab_size**data.horizon <= MAX_POINTS
        points = n_prompts * data.vocab_size**data.horizon if exact else samples
        memory_gb = check_real("memory_gb", self.memory_gb, minimum=0.0)
        _check_size(method, len(members), points, data, 1 if exact else len(members), memory_gb)
        on_data = _log_densities(members, data.prompts, data.tokens)
        mu = np.stack([_more(row, on_data) @ weights for row in on_data])  # (M, M) mu(A_jk)
        draws = _enumerated(members, data, weights) if exact else _drawn(members, data, weights, samples, rng)
        worst, wins = np.zeros(len(members)), np.zeros(len(members), dtype=np.int64)
        if method == "minimum distance":
            for i, (log_densities, law) in enumerate(draws):
                off = (np.abs(_more(row, log_densities) @ law - mu[j]) for j, row in enumerate(log_densities))
                worst[i] = max(row.max() for row in off)
            winner, n_sets = int(first_best(-worst, slack=ROUNDING)), len(members) ** 3
        else:
            nearness = np.empty((2, len(members), len(members)))  # of f_j on A_jk, and of f_j on A_kj
            for j, (log_densities, law) in enumerate(draws):
                nearness[0, j] = np.abs(_more(log_densities[j], log_densities) @ law - mu[j])
                nearness[1, j] = np.abs(_more(log_densities, log_densities[j]) @ law - mu[:, j])
            wins = (nearness[0] < nearness[1].T - ROUNDING).sum(axis=1)
            worst, winner, n_sets = nearness.max(axis=(0, 2)), int(np.argmax(wins)), 2 * len(members) ** 2
        details = {
            "objective": "largest discrepancy on Scheffe sets",
            "index": winner,
            "method": method,
            "wins": wins.tolist(),
            "probabilities": "enumeration" if exact else f"Monte Carlo, {samples} sequences a member",
        }
        radius = 0.0 if exact else math.sqrt(math.log(2 * n_sets / 0.05) / (2 * samples))
        return policy_class.policy(winner), FitReport(float(worst[winner]), gap=2 * radius, details=details)


def _check_size(method: str, members: int, points: int, data: Demonstrations, drawers: int, memory_gb: float) -> None:
    """What a fit takes, said before it is taken: densities of all members on sets of points, and comparisons."""
    comparisons = members**2 * points * (members if method == "minimum distance" else 1)
    tokens = members * drawers * points * data.horizon
    needed = 8e-9 * members * (3 * points + len(data) + members)
    if needed <= memory_gb and comparisons <= MAX_COMPARISONS and tokens <= MAX_TOKENS:
        return
    raise NotTractableError(
        f"{method} among {members} policies needs about {needed:.3g} GB (memory_gb={memory_gb:g}), densities of "
        f"{tokens:.3g} tokens (at most {MAX_TOKENS:.3g}) and {comparisons:.3g} comparisons of densities (at most "
        f"{MAX_COMPARISONS:.3g}). Use fewer policies, a smaller samples=, method='tournament', or RhoEstimatorBC."
    )


def _more(one: FloatArray, others: FloatArray) -> NDArray[np.bool_]:
    """``(M, n)`` where the first of two log-densities is larger, by more than rounding."""
    return one > others + TIE


def _log_densities(members: list[Policy], prompts: IntArray, tokens: IntArray) -> FloatArray:
    """``(M, n)`` log-probabilities of whole sequences given their prompts."""
    return np.stack([member.log_probs(prompts, tokens).sum(axis=1) for member in members])


def _enumerated(
    members: list[Policy], data: Demonstrations, weights: FloatArray
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each member in turn: ``(M, N)`` log-densities of all on all sequences, and ``(N,)`` its law on them."""
    prompts, tokens, masses = _everything(data, weights)
    log_densities = _log_densities(members, prompts, tokens)
    return ((log_densities, np.exp(own) * masses) for own in log_densities)


def _drawn(
    members: list[Policy], data: Demonstrations, weights: FloatArray, samples: int, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """For each member in turn: ``(M, samples)`` log-densities of all on what it draws, and equal weights."""
    chosen = data.prompts[rng.choice(len(data), size=samples, p=weights)]
    for member in members:
        tokens = member.sample(chosen, data.horizon, rng)
        yield _log_densities(members, chosen, tokens), np.full(samples, 1.0 / samples)


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
