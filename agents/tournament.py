"""The rho game among any policies, and selection among learners by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport, chosen_index, in_subfolder
from agents.rho_game import TAU_SCALE, rho_tau, solve_finite_game
from agents.splits import holdout_split
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_in
from ntp_envs.checked import checked_policy

__all__ = ["CommonSupports", "TournamentBC", "TournamentResult", "chunk_log_densities", "play", "tournament"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TournamentResult:
    """Who won a tournament, and all its pairwise results.

    Attributes:
        names: of the M policies, in order.
        index: the winner: the smallest worst loss; the first of them within 1e-12.
        value: its worst loss ``max_k losses[index, k]``, at least 0.
        reply: the rival that inflicts it; the winner itself where no rival is better.
        losses: ``(M, M)`` antisymmetric; entry (j, k) is the mean over demonstrations of tau(p_j, p_k), summed over
            chunks: positive where k explains the demonstrations better than j. Between -1 and 1 a chunk.
        standard_errors: ``(M, M)`` of these means over independent demonstrations, whose weights count as
            repetitions; ``nan`` where their sum is 1 or less, 0 for an exact population.
        n: the sum of the weights (the number of demonstrations), ``inf`` for an exact population.
        tau: which comparison was played.
    """

    names: tuple[str, ...]
    index: int
    value: float
    reply: int
    losses: FloatArray
    standard_errors: FloatArray
    n: float
    tau: str

    @property
    def winner(self) -> str:
        """Name of the winner."""
        return self.names[self.index]

    @property
    def worst(self) -> FloatArray:
        """``(M,)`` worst losses, what the winner has least of."""
        return self.losses.max(axis=1)

    def rivals(self, index: int | None = None) -> list[dict[str, Any]]:
        """How policy ``index`` (the winner by default) fared: a row for each rival, the worst first.

        Each row has ``rival`` (name), ``index``, ``loss`` and ``standard_error``.
        """
        j = self.index if index is None else index
        rows = [
            {
                "rival": self.names[k],
                "index": k,
                "loss": float(self.losses[j, k]),
                "standard_error": float(self.standard_errors[j, k]),
            }
            for k in range(len(self.names))
            if k != j % len(self.names)
        ]
        return sorted(rows, key=lambda row: -round(row["loss"], 12))


def tournament(
    policies: Sequence[Policy] | Mapping[str, Policy],
    demonstrations: Demonstrations,
    *,
    tau: str = "ratio",
    chunk: int | None = None,
) -> TournamentResult:
    """The rho game among given policies: ``argmin_j max_k sum_i w_i tau(p_j(o_i), p_k(o_i))``, exactly.

    Only the densities of the demonstrations are needed, so that policies of different classes, or of none, can play.
    Demonstrations that no policy was fitted on make it a test: on whole sequences (``chunk=None``), as their number
    grows, the winner is within a constant factor of the policy nearest to the expert in squared Hellinger distance
    ``2 (1 - BC)``, however badly all of them fit. The factor is at most 64/3 for ``"psi"`` (our reading of Baraud and
    Birge, "Rho-estimators revisited", 2018: 2 a0 / a1 with a0 = 4, a1 = 3/8) and at most 132 for ``"ratio"`` (our own
    bound); the tests check the inequalities behind both. A finite sample adds a term of order ``log(M) / n``.

    Args:
        policies: at least one, over one vocabulary; a mapping gives them names (otherwise ``"0"``, ``"1"``, ...).
        demonstrations: samples, or a population that is exact for chunks of this length; whether the likelihoods of
            these policies depend on more than its ``exactness.statistic`` cannot be checked.
        tau: ``"ratio"``, ``(p' - p) / (p' + p)``, or ``"psi"``, the same of square roots.
        chunk: play on chunks of this many tokens given their prefix, summed over chunks; ``None`` is whole sequences.

    Time and memory: ``8 n M ceil(H / chunk)`` bytes for n distinct demonstrations, and M^2 / 2 passes over them.

    Raises:
        TypeError: something that is not a `Policy`, or not `Demonstrations`.
        ValueError: no policies, vocabularies or horizons that do not fit, an unknown ``tau``, ``chunk`` outside
            [1, H], a population that is not exact for such chunks, or densities that are ``nan`` or above 1.

    >>> from ntp_envs import make_task
    >>> task = make_task("RareMode", horizon=256)  # log-loss prefers policy 1, at 22.6 times the distance
    >>> result = tournament(task.policy_class.policies, task.population())
    >>> result.index, round(result.value, 4), result.losses.round(2).tolist()
    (0, 0.0, [[0.0, -0.32], [0.32, 0.0]])
    """
    named = _named("policies", policies, Policy)
    if not isinstance(demonstrations, Demonstrations):
        raise TypeError(f"demonstrations must be ntp_envs.Demonstrations, not {type(demonstrations).__name__}.")
    for name, policy in named.items():
        if policy.vocab_size != demonstrations.vocab_size:
            raise ValueError(
                f"policy {name!r} has {policy.vocab_size} tokens, the demonstrations {demonstrations.vocab_size}."
            )
    unit = demonstrations.horizon if chunk is None else chunk
    starts = [positions.start for positions in demonstrations.chunks(unit)]
    exact = demonstrations.exactness
    if exact is not None and not exact.everything and unit not in exact.units:
        raise ValueError(
            f"a tournament on chunks of {unit} token(s) needs a population that is exact for them; this one is "
            f"{exact.describe()}. Use task.population(chunk=...) or collect."
        )
    data = demonstrations.pooled()
    assert data.weights is not None  # of pooled demonstrations, the numbers of copies
    log_densities = chunk_log_densities(named, data, starts)
    return play(log_densities, data.weights, tuple(named), tau, n=None if exact is None else np.inf)


def chunk_log_densities(
    policies: Mapping[str, Policy], demonstrations: Demonstrations, starts: Sequence[int]
) -> FloatArray:
    """``(n, C, M)`` log-densities of the chunks that begin at ``starts``, given their prefix, in nats."""
    out = np.empty((len(demonstrations), len(starts), len(policies)))
    for j, (name, policy) in enumerate(policies.items()):
        reader = checked_policy(f"policy {name!r}", policy)
        log_probs = reader.log_probs(demonstrations.prompts, demonstrations.tokens)
        if not log_probs.max() <= 1e-6:
            raise ValueError(
                f"log_probs of policy {name!r} must be log-probabilities, at most 0 and not NaN; their largest is "
                f"{log_probs.max()}."
            )
        out[:, :, j] = np.add.reduceat(log_probs, starts, axis=1)
    return out


def play(
    log_densities: FloatArray, weights: FloatArray, names: tuple[str, ...], tau: str, *, n: float | None = None
) -> TournamentResult:
    """The tournament on ``(n, C, M)`` log-densities with ``(n,)`` weights of demonstrations; see `tournament`.

    ``n`` is the sum of the weights unless given; ``inf`` makes the standard errors 0.
    """
    tau = check_in("tau", tau, TAU_SCALE)
    _, chunks, size = log_densities.shape
    total = float(weights.sum())
    n, weights = total if n is None else n, weights / total
    losses, errors = np.zeros((size, size)), np.zeros((size, size))
    for j in range(size):
        for k in range(j + 1, size):
            results = rho_tau(log_densities[:, :, j], log_densities[:, :, k], tau).sum(axis=1)  # (n,)
            mean = float(weights @ results)
            losses[j, k], losses[k, j] = mean, -mean
            spread = float(weights @ (results - mean) ** 2)
            errors[j, k] = errors[k, j] = np.sqrt(spread / (n - 1.0)) if n > 1.0 else np.nan
    game = solve_finite_game(log_densities.reshape(-1, size), np.repeat(weights, chunks), tau)
    return TournamentResult(
        names=names,
        index=game.index,
        value=game.value,
        reply=game.reply,
        losses=losses,
        standard_errors=errors,
        n=n,
        tau=tau,
    )


def _named(what: str, items: Any, kind: type) -> dict[str, Any]:
    """A mapping of names from a mapping or a sequence, not empty and of one kind."""
    if not isinstance(items, Mapping) and (isinstance(items, str) or not isinstance(items, Sequence)):
        raise TypeError(f"{what} must be a list or a mapping of {kind.__name__} objects, not {type(items).__name__}.")
    named = dict(items) if isinstance(items, Mapping) else {str(j): item for j, item in enumerate(items)}
    if not named:
        raise ValueError(f"{what} is empty; at least one {kind.__name__} is needed.")
    for name, item in named.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} has the key {name!r}; names must be strings.")
        if not isinstance(item, kind):
            hint = f"; make one, {item.__name__}(...)" if isinstance(item, type) and issubclass(item, kind) else ""
            wanted = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
            raise TypeError(f"{what}[{name}] must be an instance of {wanted}, not {item!r}{hint}.")
    return named


class CommonSupports:
    """The value of `Agent.supports` for an agent made of others: the policy classes that all of them can fit.

    ``()`` ("any, or it does not say") where none of them says, where they have nothing in common (the fit of the first
    agent that cannot do it then raises), and on the class itself.
    """

    def __get__(self, instance: Any, owner: Any = None) -> tuple[type[PolicyClass], ...]:
        if instance is None:
            return ()
        stated = [agent.supports for agent in instance._nested().values() if agent.supports]
        return tuple(
            dict.fromkeys(
                kind for kinds in stated for kind in kinds if all(issubclass(kind, others) for others in stated)
            )
        )


class TournamentBC(Agent):
    """Fits several learners on one part of the demonstrations, and lets a rho tournament on the other part choose.

    The tournament is on whole sequences, so that the choice does not suffer from the horizon as held-out log-loss does:
    the winner is within a constant factor of the best of the fitted policies (see `tournament`), whatever they are.

    Exact populations are not split: there is no overfitting to guard against, so that the population serves for both.
    It must be exact for whole sequences and for each learner.

    Args:
        agents: a list of agents, or a mapping from names to them; they are cloned, never fitted themselves. Nested
            hyper-parameters are called ``agents__0__lam`` or ``agents__name__lam``.
        tau: ``"ratio"`` or ``"psi"``.
        holdout: fraction of the demonstrations, in (0, 1), that the tournament is played on.
        refit: fit the winner again on all demonstrations. Off by default: what was selected, and what the guarantee is
            about, is the policy and not the learner. Another fit of a learner that was lucky with its part of the data
            may be bad.

    Attributes after `fit`:
        tournament_: the `TournamentResult`.
        agents_: the fitted agents, by name.
        best_agent_: the winner (fitted again if ``refit``), whose policy is ``policy_``.

    Raises:
        TypeError, ValueError: on `fit`, ``agents`` that are not agents, or none; ``holdout`` that leaves a part empty;
            a population that is not exact for whole sequences; whatever the agents raise.

    Source: rho-estimation among estimators on an independent sample is Baraud and Birge's; its use for imitation is
    our reading of Rohatgi et al. (2025, arXiv:2502.12465).

    >>> from agents import LogLossBC, SmoothedLogLossBC
    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> agent = TournamentBC({"log-loss": LogLossBC(), "smoothed": SmoothedLogLossBC()})
    >>> agent.fit(task.population(), task.policy_class).tournament_.winner
    'smoothed'
    """

    supports = CommonSupports()  # type: ignore[assignment]

    def __init__(
        self,
        agents: Sequence[Agent] | Mapping[str, Agent],
        tau: str = "ratio",
        *,
        holdout: float = 0.5,
        refit: bool = False,
    ) -> None:
        self.agents = agents
        self.tau = tau
        self.holdout = holdout
        self.refit = refit

    def unit(self, demonstrations: Demonstrations) -> int:
        return demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        agents = _named("agents", self.agents, Agent)
        tau = check_in("tau", self.tau, TAU_SCALE)
        if not isinstance(self.refit, bool | np.bool_):
            raise TypeError(f"refit={self.refit!r} must be True or False.")
        if demonstrations.exactness is None:
            rest, held_out = holdout_split(demonstrations, self.holdout, rng)
        else:
            rest = held_out = demonstrations
        for agent in agents.values():
            agent._check_fit_input(rest, policy_class)  # all of them, before the first expensive fit
        *seeds, last = rng.integers(1 << 63, size=len(agents) + 1)
        self.agents_ = {
            name: in_subfolder(agent.clone(), f"member-{k}").fit(rest, policy_class, rng=np.random.default_rng(seed))
            for k, ((name, agent), seed) in enumerate(zip(agents.items(), seeds))
        }
        self.tournament_ = tournament({name: agent.policy_ for name, agent in self.agents_.items()}, held_out, tau=tau)
        self.best_agent_ = self.agents_[self.tournament_.winner]
        if self.refit:
            again = in_subfolder(agents[self.tournament_.winner].clone(), "chosen")
            self.best_agent_ = again.fit(demonstrations, policy_class, rng=np.random.default_rng(last))
        report = FitReport(
            objective=self.tournament_.value,
            gap=0.0,
            converged=self.best_agent_.fit_report_.converged,
            details={
                "objective": "worst loss in the rho tournament",
                "winner": self.tournament_.winner,
                "worst_losses": dict(zip(agents, self.tournament_.worst.tolist())),
                "learned_from": len(rest),
                "held_out": len(held_out),
                "refit": bool(self.refit),
                **chosen_index(self.best_agent_),
            },
        )
        return self.best_agent_.policy_, report
