"""Choosing among learners on demonstrations they have not seen: tournaments, n-grams on a dial, cross-validation."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks, FitReport, chosen_index, in_subfolder, unfitted
from agents.fit_class import least, token_parts
from agents.log_loss import NGramBC
from agents.rho_game import TAU_SCALE, rho_tau, solve_finite_game
from ntp_envs import Demonstrations, EndedClass, FiniteClass, NGramClass, Policy, PolicyClass
from ntp_envs.arrays import ROUNDING, TIE, FloatArray, IntArray, first_best
from ntp_envs.checked import checked_policy
from ntp_envs.checks import (
    check_flag,
    check_generator,
    check_in,
    check_int,
    check_names,
    check_probability,
    check_real,
    optional,
)
from ntp_envs.saved import Savable


def shuffled_folds(
    demonstrations: Demonstrations, folds: int, rng: np.random.Generator
) -> list[tuple[Demonstrations, Demonstrations]]:
    """Pairs ``(rest, fold)``: every demonstration is in one fold, the sizes of the folds differ by at most one.

    Demonstrations keep their weights; those of weight zero are left out. Within a part they keep their order.

    Args:
        demonstrations: samples. An exact population cannot be split: its parts are no samples of anything.
        folds: at least 2 and at most the number of demonstrations of positive weight.
        rng: one permutation is drawn from it.

    Raises:
        TypeError, ValueError: ``folds`` or ``rng`` that do not fit, or a population.

    >>> demos = Demonstrations(np.zeros((5, 0), int), np.arange(5)[:, None], vocab_size=5)
    >>> [len(fold) for _, fold in shuffled_folds(demos, 2, np.random.default_rng(0))]
    [3, 2]
    """
    order = _shuffled(demonstrations, rng)
    folds = check_int("folds", folds, minimum=2)
    if folds > len(order):
        raise ValueError(
            f"folds={folds} is more than the {len(order)} demonstration(s) of positive weight; use folds in "
            f"[2, {len(order)}] or more demonstrations."
            if len(order) > 1
            else f"folds={folds} need at least {folds} demonstrations of positive weight, and there is 1; collect more."
        )
    parts = np.array_split(order, folds)
    return [_split(demonstrations, order, part) for part in parts]


def holdout_split(
    demonstrations: Demonstrations, fraction: float, rng: np.random.Generator
) -> tuple[Demonstrations, Demonstrations]:
    """``(rest, held out)``: a random ``fraction`` of the demonstrations, rounded, is held out.

    Weights are treated as in `shuffled_folds`.

    Raises:
        TypeError, ValueError: as `shuffled_folds`; ``fraction`` outside (0, 1) or so that one part would be empty.

    >>> demos = Demonstrations(np.zeros((5, 0), int), np.arange(5)[:, None], vocab_size=5)
    >>> [len(part) for part in holdout_split(demos, 0.2, np.random.default_rng(0))]
    [4, 1]
    """
    order = _shuffled(demonstrations, rng)
    size = round(check_probability("holdout", fraction) * len(order))
    if not 0 < size < len(order):
        raise ValueError(
            f"holdout={fraction} of {len(order)} demonstration(s) of positive weight leaves one part empty; use more "
            "demonstrations or a fraction nearer to 1/2."
        )
    return _split(demonstrations, order, order[:size])


def _shuffled(demonstrations: Demonstrations, rng: np.random.Generator) -> IntArray:
    check_generator(rng)
    if demonstrations.exactness is not None:
        raise ValueError(
            f"an exact population cannot be split ({demonstrations.exactness.describe()}); use samples (collect)."
        )
    return rng.permutation(np.flatnonzero(demonstrations.normalised_weights() > 0))


def _split(demonstrations: Demonstrations, rows: IntArray, held_out: IntArray) -> tuple[Demonstrations, Demonstrations]:
    rest = np.setdiff1d(rows, held_out)  # sorted, as is the part held out: sums do not depend on the shuffle
    return demonstrations.subset(rest), demonstrations.subset(np.sort(held_out))


# -- Tournaments among any policies, and selection among learners by them ---------------------------------------------

#: what a tournament compares two densities by
COMPARISONS = (*TAU_SCALE, "coverage")


def _above_one(name: str, value: Any) -> float:
    number = check_real(name, value, minimum=1.0)
    if number == 1.0:
        raise ValueError(f"{name}={value!r} must be above 1, such as 4.")
    return number


@dataclass(frozen=True, eq=False)
class TournamentResult(Savable):
    """Who won a tournament, and all its pairwise results.

    Attributes:
        names: of the M policies, in order.
        index: the winner: the smallest worst loss; the first of them within 1e-12.
        value: its worst loss ``max_k losses[index, k]``, at least 0.
        reply: the rival that inflicts it; the winner itself where no rival is better.
        losses: ``(M, M)``; entry (j, k) is the mean over demonstrations of tau(p_j, p_k), summed over chunks: positive
            where k explains the demonstrations better than j. Between -1 and 1 a chunk, and antisymmetric; a share of
            them, and 0 on the diagonal, where tau is ``"coverage"``.
        standard_errors: ``(M, M)`` of these means over independent demonstrations, whose weights count as
            repetitions; ``nan`` where their sum is 1 or less, 0 for an exact population.
        n: the sum of the weights (the number of demonstrations), ``inf`` for an exact population.
        tau: which comparison was played.
        threshold: N of the coverage tournament; ``nan`` where another was played.
    """

    names: tuple[str, ...]
    index: int
    value: float
    reply: int
    losses: FloatArray
    standard_errors: FloatArray
    n: float
    tau: str
    threshold: float = math.nan

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
    threshold: float = 4.0,
) -> TournamentResult:
    """The rho game among given policies: ``argmin_j max_k sum_i w_i tau(p_j(o_i), p_k(o_i))``, exactly.

    With ``tau="coverage"`` it is the coverage tournament, ``argmin_j max_k Cov_N(p_k || p_j)``, of the share of
    demonstrations that a rival makes at least N times likelier (our reading of Chen et al., arXiv:2510.15020). On whole
    sequences the winner misses little of what any policy covers: for every a in [1, N], in the population,
    ``Cov_{a N}(P || winner) <= 2 min_j Cov_a(P || p_j) + a / N`` (our own bound: where the winner is a N times too low
    and the best j is not a times, j is N times above it; and a rival is N / a times above P with probability a / N).

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
        tau: ``"ratio"``, ``(p' - p) / (p' + p)``, ``"psi"``, the same of square roots, or ``"coverage"``, whether
            ``p' >= N p > 0 or p' > 0 = p``.
        chunk: play on chunks of this many tokens given their prefix, summed over chunks; ``None`` is whole sequences.
        threshold: N of the coverage tournament, above 1.

    Time and memory: ``8 n M ceil(H / chunk)`` bytes for n distinct demonstrations, and M^2 / 2 passes over them.

    Raises:
        TypeError: something that is not a `Policy`, or not `Demonstrations`.
        ValueError: no policies, vocabularies or horizons that do not fit, an unknown ``tau``, ``threshold`` not
            above 1, ``chunk`` outside [1, H], a population that is not exact for such chunks, or densities that are
            ``nan`` or above 1.

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
    n = None if exact is None else np.inf
    return play(log_densities, data.weights, tuple(named), tau, n=n, threshold=threshold)


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
    log_densities: FloatArray,
    weights: FloatArray,
    names: tuple[str, ...],
    tau: str,
    *,
    n: float | None = None,
    threshold: float = 4.0,
) -> TournamentResult:
    """The tournament on ``(n, C, M)`` log-densities with ``(n,)`` weights of demonstrations; see `tournament`.

    ``n`` is the sum of the weights unless given; ``inf`` makes the standard errors 0.
    """
    tau, threshold = check_in("tau", tau, COMPARISONS), _above_one("threshold", threshold)
    _, chunks, size = log_densities.shape
    total = float(weights.sum())
    n, weights = total if n is None else n, weights / total
    losses, errors = np.zeros((size, size)), np.zeros((size, size))
    for j, k in itertools.permutations(range(size), 2):
        if tau != "coverage" and j > k:
            losses[j, k], errors[j, k] = -losses[k, j], errors[k, j]
            continue
        mine, other = log_densities[:, :, j], log_densities[:, :, k]
        results = (_covers(mine, other, threshold) if tau == "coverage" else rho_tau(mine, other, tau)).sum(axis=1)
        losses[j, k] = float(weights @ results)  # (n,) each
        spread = float(weights @ (results - losses[j, k]) ** 2)
        errors[j, k] = np.sqrt(spread / (n - 1.0)) if n > 1.0 else np.nan
    if tau == "coverage":
        worst = losses.max(axis=1)
        index = int(first_best(-worst, slack=ROUNDING))
        value = float(worst[index])
        reply = int(first_best(losses[index], slack=ROUNDING)) if value > 0.0 else index
    else:
        game = solve_finite_game(log_densities.reshape(-1, size), np.repeat(weights, chunks), tau)
        index, reply, value, threshold = game.index, game.reply, game.value, math.nan
    return TournamentResult(names, index, value, reply, losses, errors, n, tau, threshold)


def _covers(mine: FloatArray, other: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Where ``other`` is at least N times likelier, as the coverage profile counts it; not where both are 0."""
    with np.errstate(invalid="ignore"):  # -inf - -inf
        return other - mine >= math.log(threshold) - TIE


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


def _agents(name: str, value: Any) -> Any:
    _named(name, value, Agent)
    return value


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


@dataclass(eq=False, repr=False)
class TournamentBC(Agent):
    """Fits several learners on one part of the demonstrations, and lets a tournament on the other part choose.

    The tournament is on whole sequences, so that the choice does not suffer from the horizon as held-out log-loss does:
    the winner is within a constant factor of the best of the fitted policies (see `tournament`), whatever they are.

    Exact populations are not split: there is no overfitting to guard against, so that the population serves for both.
    It must be exact for whole sequences and for each learner.

    Args:
        agents: a list of agents, or a mapping from names to them; they are cloned, never fitted themselves. Nested
            hyper-parameters are called ``agents__0__lam`` or ``agents__name__lam``.
        tau: ``"ratio"`` or ``"psi"``, the rho tournament, or ``"coverage"``, the coverage tournament.
        holdout: fraction of the demonstrations, in (0, 1), that the tournament is played on.
        threshold: N of the coverage tournament, above 1.
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
    allowed: ClassVar[Checks] = {
        "agents": _agents,
        "tau": partial(check_in, options=COMPARISONS),
        "holdout": check_probability,
        "threshold": _above_one,
        "refit": check_flag,
    }

    agents: Sequence[Agent] | Mapping[str, Agent]
    tau: str = "ratio"
    _: KW_ONLY
    holdout: float = 0.5
    refit: bool = False
    threshold: float = 4.0

    def chunk_length(self, demonstrations: Demonstrations) -> int:
        return demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        agents = _named("agents", self.agents, Agent)
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
        fitted = {name: agent.policy_ for name, agent in self.agents_.items()}
        self.tournament_ = tournament(fitted, held_out, tau=self.tau, threshold=self.threshold)
        self.best_agent_ = self.agents_[self.tournament_.winner]
        if self.refit:
            again = in_subfolder(agents[self.tournament_.winner].clone(), "chosen")
            self.best_agent_ = again.fit(demonstrations, policy_class, rng=np.random.default_rng(last))
        report = FitReport(
            objective=self.tournament_.value,
            gap=0.0,
            converged=self.best_agent_.fit_report_.converged,
            details={
                "objective": f"worst loss in the {'coverage' if self.tau == 'coverage' else 'rho'} tournament",
                "winner": self.tournament_.winner,
                "worst_losses": dict(zip(agents, self.tournament_.worst.tolist())),
                "learned_from": len(rest),
                "held_out": len(held_out),
                "refit": bool(self.refit),
                **chosen_index(self.best_agent_),
            },
        )
        return self.best_agent_.policy_, report


# -- Interpolated n-gram models on a dial, and any learner of finite classes to set it --------------------------------


def _an_agent(name: str, value: Any) -> Agent:
    if not isinstance(value, Agent):
        raise TypeError(f"{name}={value!r} must be an agents.Agent.")
    return value


def _some(name: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    """The sequence as it is given: of at least one, and all such as ``check`` lets through."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        raise TypeError(f"{name}={value!r} must be a sequence of numbers, at least one.")
    for one in value:
        check(name, one)
    return value


@dataclass(eq=False, repr=False)
class NGramDialBC(Agent):
    """A learner of finite classes sets the dial of an interpolated n-gram model: its order and its smoothing.

    n-gram models of every order and several weights of shorter contexts are estimated from one part of the
    demonstrations (`agents.NGramBC`). They are a finite class, from which ``agent`` chooses by the other part. So
    learners on whole sequences, for which there is no fit in the class of all n-gram models, can be asked of real text,
    and compared with log-loss at equal means: ``NGramDialBC(RhoEstimatorBC())`` against ``NGramDialBC(LogLossBC())``.

    Exact populations are not split, and nothing is smoothed: then the dial has orders only.

    Args:
        agent: what chooses; it is cloned, never fitted itself.
        escapes: weights of shorter contexts, as in `agents.NGramBC`.
        orders: orders of the models; ``None`` is all from 1 to that of the class.
        holdout: fraction of the demonstrations, in (0, 1), that ``agent`` chooses by.

    Attributes after `fit`:
        members_: the ``(order, escape)`` of each model.
        agent_: the fitted chooser, whose policy is ``policy_``.

    Raises:
        TypeError, ValueError: on `fit`, an agent that takes no finite class, orders above that of the class, no or
            negative weights, a ``holdout`` that leaves a part empty; whatever the agent raises.

    >>> from agents import LogLossBC
    >>> from ntp_envs import NGramClass
    >>> demos = Demonstrations(np.zeros((40, 0), int), np.tile([0, 1], (40, 3)), vocab_size=2)
    >>> agent = NGramDialBC(LogLossBC()).fit(demos, NGramClass(2, order=2))
    >>> agent.fit_report_.details["order"], agent.fit_report_.details["escape"]
    (2, 0.0625)
    """

    supports = (NGramClass, EndedClass)
    allowed: ClassVar[Checks] = {
        "agent": _an_agent,
        "escapes": partial(_some, check=NOT_NEGATIVE),
        "orders": optional(partial(_some, check=COUNT)),
        "holdout": check_probability,
    }

    agent: Agent
    _: KW_ONLY
    escapes: Sequence[float] = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
    orders: Sequence[int] | None = None
    holdout: float = 0.5

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return self.agent.chunk_length(demonstrations)

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        inside = policy_class.members if isinstance(policy_class, EndedClass) else policy_class
        orders = range(1, inside.order + 1) if self.orders is None else self.orders  # type: ignore[attr-defined]
        rest = held_out = demonstrations
        escapes: Sequence[float] = (0.0,)
        if demonstrations.exactness is None:
            rest, held_out = holdout_split(demonstrations, self.holdout, rng)
            escapes = self.escapes
        self.members_ = [(order, escape) for order in orders for escape in escapes]
        learners = [NGramBC(order=order, escape=escape) for order, escape in self.members_]
        models = FiniteClass([learner.fit(rest, policy_class).policy_ for learner in learners])
        models.end_token = policy_class.end_token
        self.agent_ = in_subfolder(self.agent.clone(), "chooser").fit(held_out, models, rng=rng)
        report = self.agent_.fit_report_
        details = {**report.details, "learned_from": len(rest), "held_out": len(held_out)}
        if (chosen := details.pop("index", None)) is not None:  # of no member of ``policy_class``
            details |= dict(zip(("order", "escape"), self.members_[chosen]))
        return self.agent_.policy_, replace(report, details=details)


# -- Cross-validation over any hyper-parameters of any agent, by held-out log-loss or by a held-out rho tournament ----


CRITERIA = ("log_loss", "rho")


class FitFailedWarning(UserWarning):
    """Some candidates of a cross-validation could not be fitted; the message has their parameters and the errors."""


def _check_grid(name: str, grid: Any) -> Mapping[str, Sequence[Any]]:
    if not isinstance(grid, Mapping):
        raise TypeError(f"{name}={grid!r} must be a mapping from hyper-parameters to lists of values.")
    if not grid:
        example = "{'lam': [0.01, 0.1]}"
        raise ValueError(f"{name} is empty; name a hyper-parameter and the values to try, as in {example}.")
    for key, values in grid.items():
        if not isinstance(values, list | tuple | range | np.ndarray) or np.ndim(values) == 0:
            raise TypeError(f"{name}[{key!r}]={values!r} must be a list of values to try.")
        if len(values) == 0:
            raise ValueError(f"{name}[{key!r}] is empty; at least one value is needed.")
    return grid


def _check_error_score(name: str, value: Any) -> float | str:
    if not (isinstance(value, str) and value == "raise") and not (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{name}={value!r} must be 'raise' or nan; a candidate without a policy has no other score.")
    return value


@dataclass(eq=False, repr=False)
class CrossValidatedBC(Agent):
    """Chooses hyper-parameters of an agent by cross-validation, and fits it with them on all demonstrations.

    Every candidate, one for each combination of the grid's values, is fitted once for each fold on the demonstrations
    outside it, and judged on the whole sequences inside it, which it has not seen:

    * ``"log_loss"``: the candidate with the smallest mean held-out log-loss of a sequence. Where the log-loss of every
      candidate is infinite, and to compare the infinite ones in general, as in `LogLossBC`: first the number of
      held-out tokens of probability zero, then the log-loss of the rest.
    * ``"rho"``: the winner of the rho game among the candidates, each pairwise result summed over the held-out
      demonstrations of all folds. Being bounded, a result does not grow with the horizon, as log-losses do.

    Ties, within 1e-12 (relative for ``"log_loss"``, absolute for ``"rho"``), go to the first in the grid. Exact
    populations are not split: there is no overfitting to guard against, so that the population serves to fit and to
    judge, once.

    Args:
        agent: the agent; it is cloned, never fitted itself. Its own hyper-parameters are ``agent__lam`` and so on. One
            with a folder of checkpoints gets a subfolder for each candidate and fold.
        grid: lists of values by name of a hyper-parameter of ``agent`` (nested ones too): ``{"lam": [0.01, 0.1]}``.
        criterion: ``"log_loss"`` or ``"rho"``.
        folds: at least 2 and at most the number of demonstrations. A weighted demonstration is in one fold, with its
            weight.
        tau: for ``"rho"``: ``"ratio"`` or ``"psi"``, as in `RhoEstimatorBC`.
        error_score: what to do about a candidate that fails to fit or to give probabilities: ``nan`` leaves it out,
            with rank last and a `FitFailedWarning`; ``"raise"`` raises.

    Attributes after `fit`:
        cv_results_: a table with one entry a candidate, in the order of the grid: ``params`` (dicts), ``param_<name>``,
            ``mean_test_score`` (larger is better: minus the log-loss of a sequence in nats, or minus the worst loss in
            the tournament), ``standard_error`` (of that mean over held-out sequences, the fitted policies given),
            ``rank_test_score`` (1 is best), ``error`` (a message or ``""``); for ``"log_loss"`` also
            ``zero_density_tokens`` and ``log_loss_elsewhere``, the mean numbers a sequence that are compared.
        best_index_, best_params_, best_score_: of the candidate chosen.
        best_agent_: the agent with these parameters, fitted on all demonstrations; ``policy_`` is its policy.
        tournament_: for ``"rho"``, the `TournamentResult` of the candidates that did not fail.

    Raises:
        TypeError, ValueError: on `fit`: an empty grid, unknown hyper-parameters (the nearest is suggested), values
            that are not in a list, ``folds`` that do not fit; every candidate failed; a population that is not exact
            for single tokens (``"log_loss"``) or whole sequences (``"rho"``).

    Randomness: one permutation, and one seed for each fold that all candidates share, so that the policies compared do
    not depend on what else is in the grid. Nor do scores of ``"log_loss"``; a score of ``"rho"`` is the worst loss
    against the others.

    >>> from agents import SmoothedLogLossBC
    >>> from ntp_envs import collect, make_task
    >>> task = make_task("Contamination", horizon=64, eps=0.01, p=1e-4, q=1 - 1e-4, theta_min=1e-4)
    >>> demos = collect(task, 500, np.random.default_rng(0))
    >>> agent = CrossValidatedBC(SmoothedLogLossBC(), {"lam": [0.0, 0.1]}, criterion="rho")
    >>> agent.fit(demos, task.policy_class).best_params_
    {'lam': 0.1}
    """

    supports = CommonSupports()  # type: ignore[assignment]
    allowed: ClassVar[Checks] = {
        "agent": _an_agent,
        "grid": _check_grid,
        "criterion": partial(check_in, options=CRITERIA),
        "folds": partial(check_int, minimum=2),
        "tau": partial(check_in, options=TAU_SCALE),
        "error_score": _check_error_score,
    }

    agent: Agent
    grid: Mapping[str, Sequence[Any]]
    criterion: str = "log_loss"
    folds: int = 5
    _: KW_ONLY
    tau: str = "ratio"
    error_score: float | str = math.nan

    def __post_init__(self) -> None:
        self._candidates()

    def chunk_length(self, demonstrations: Demonstrations) -> int:
        return 1 if self.criterion == "log_loss" else demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        criterion, strict = self.criterion, self.error_score == "raise"
        candidates = self._candidates()
        exact = demonstrations.exactness is not None
        splits = [(demonstrations, demonstrations)] if exact else shuffled_folds(demonstrations, self.folds, rng)
        splits = [(rest, fold.pooled()) for rest, fold in splits]
        *seeds, last = rng.integers(1 << 63, size=len(splits) + 1)
        judged, errors = [], [""] * len(candidates)
        for c, parameters in enumerate(candidates):
            try:
                judged.append(
                    np.concatenate(
                        [
                            self._judge(
                                in_subfolder(self._candidate(parameters), f"candidate-{c}-fold-{k}"),
                                *split,
                                policy_class,
                                np.random.default_rng(seed),
                            )
                            for k, (split, seed) in enumerate(zip(splits, seeds))
                        ],
                        axis=1,
                    )
                )
            except Exception as error:
                kind = next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
                errors[c] = f"{kind}: {error}"
                if strict or (not judged and all(errors)):
                    which = "" if strict else f"all {len(candidates)} candidates failed, the last of them: "
                    raise ValueError(f"{which}{self.agent!r} with {parameters}: {errors[c]}") from error
        self._warn_of_failures(candidates, errors)
        fine = np.flatnonzero([not error for error in errors])
        zeros, log_losses = np.stack(judged, axis=2)  # (n, M') each
        weights = np.concatenate([fold.weights for _, fold in splits])
        n = np.inf if exact else float(weights.sum())
        if criterion == "log_loss":
            ranks, columns = _by_log_loss(zeros, log_losses, weights, n)
            best = int(ranks.argmin())
        else:
            log_densities = np.where(zeros > 0, -np.inf, -log_losses)[:, None, :]
            names = tuple(_label(candidates[c]) for c in fine)
            self.tournament_ = play(log_densities, weights, names, self.tau, n=n)
            ranks, columns = _by_tournament(self.tournament_)
            best = self.tournament_.index
        self.cv_results_ = {
            "params": candidates,
            **{f"param_{name}": [candidate[name] for candidate in candidates] for name in candidates[0]},
            **{name: _spread_out(column, fine, len(candidates)) for name, column in columns.items()},
            "rank_test_score": _spread_out(ranks, fine, len(candidates), fill=len(fine) + 1),
            "error": errors,
        }
        self.best_index_ = int(fine[best])
        self.best_params_ = candidates[self.best_index_]
        self.best_score_ = float(columns["mean_test_score"][best])
        self.best_agent_ = in_subfolder(self._candidate(self.best_params_), "chosen")
        self.best_agent_.fit(demonstrations, policy_class, rng=np.random.default_rng(last))
        report = FitReport(
            objective=-self.best_score_,
            gap=0.0,
            converged=self.best_agent_.fit_report_.converged,
            details={
                **chosen_index(self.best_agent_),
                "objective": "held-out log-loss" if criterion == "log_loss" else "worst loss in a held-out tournament",
                "best_params": self.best_params_,
                "candidates": len(candidates),
                "failed": sum(map(bool, errors)),
                "folds": 0 if exact else len(splits),
            },
        )
        return self.best_agent_.policy_, report

    # -- candidates ----------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values; the last name varies fastest."""
        known = {*self.agent.get_params(), *self.agent.RENAMED}
        check_names(f"{type(self.agent).__name__} has no parameter", self.grid, known)
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]

    def _candidate(self, parameters: dict[str, Any]) -> Agent:
        return self.agent.clone().set_params(**{name: unfitted(value) for name, value in parameters.items()})

    def _judge(
        self,
        candidate: Agent,
        rest: Demonstrations,
        fold: Demonstrations,
        policy_class: PolicyClass,
        rng: np.random.Generator,
    ) -> FloatArray:
        """``(2, n)`` for the sequences of a fold: number of zero-density tokens, log-loss of the others."""
        policy = candidate.fit(rest, policy_class, rng=rng).policy_
        log_probs = chunk_log_densities({str(candidate): policy}, fold, range(fold.horizon))[:, :, 0]
        return token_parts(log_probs).sum(axis=2)

    def _warn_of_failures(self, candidates: list[dict[str, Any]], errors: list[str]) -> None:
        failed = [f"{parameters}: {error}" for parameters, error in zip(candidates, errors) if error]
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(candidates)} candidates of {self.agent!r} failed and were left out "
                f"(error_score='raise' stops instead): " + "; ".join(failed),
                FitFailedWarning,
                stacklevel=4,
            )


def _label(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in parameters.items())


def _by_log_loss(
    zeros: FloatArray, rest: FloatArray, weights: FloatArray, n: float
) -> tuple[IntArray, dict[str, FloatArray]]:
    """Ranks and columns of the table, from ``(n, M)`` numbers of zero-density tokens and log-losses of others."""
    share = weights / weights.sum()
    total = np.stack([share @ zeros, share @ rest])  # (2, M)
    ranks = _ranks(rest.shape[1], lambda rows: np.isin(np.arange(len(rows)), least(total[:, rows])))
    infinite = total[0] > 0
    variance = share @ (rest - total[1]) ** 2 / (n - 1.0) if n > 1.0 else np.full(len(ranks), np.nan)
    return ranks, {
        "mean_test_score": np.where(infinite, -np.inf, -total[1]),
        "standard_error": np.where(infinite, np.nan, np.sqrt(variance)),
        "zero_density_tokens": total[0],
        "log_loss_elsewhere": total[1],
    }


def _by_tournament(game: TournamentResult) -> tuple[IntArray, dict[str, FloatArray]]:
    """Ranks and columns of the table; the standard errors are those of the worst losses."""
    worst, count = game.worst, len(game.names)
    ranks = _ranks(count, lambda rows: worst[rows] <= worst[rows].min() + ROUNDING)
    errors = game.standard_errors[np.arange(count), first_best(game.losses, slack=ROUNDING)]
    return ranks, {"mean_test_score": 0.0 - worst, "standard_error": errors}


def _ranks(count: int, best: Callable[[IntArray], NDArray[np.bool_]]) -> IntArray:
    """``(count,)`` ranks from 1, equals sharing the smallest; ``best`` says which of some are not beaten among them."""
    ranks, left = np.empty(count, dtype=np.int64), np.arange(count)
    while len(left):
        top = best(left)
        ranks[left[top]] = count - len(left) + 1
        left = left[~top]
    return ranks


def _spread_out(column: NDArray[Any], rows: IntArray, size: int, *, fill: float = math.nan) -> NDArray[Any]:
    """``(size,)``, ``fill`` outside ``rows``."""
    out = np.full(size, fill)
    out[rows] = column
    return out
