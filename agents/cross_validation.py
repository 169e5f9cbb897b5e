"""Cross-validation over any hyper-parameters of any agent, by held-out log-loss or by a held-out rho tournament."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport, chosen_index, in_subfolder, unfitted
from agents.log_loss import _best, _evidence
from agents.rho_game import TAU_SCALE
from agents.splits import shuffled_folds
from agents.tournament import CommonSupports, TournamentResult, chunk_log_densities, play
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._numerics import ROUNDING, first_best
from ntp_envs._validation import check_in, check_names

__all__ = ["CrossValidatedBC", "FitFailedWarning"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CRITERIA = ("log_loss", "rho")


class FitFailedWarning(UserWarning):
    """Some candidates of a cross-validation could not be fitted; the message has their parameters and the errors."""


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

    def __init__(
        self,
        agent: Agent,
        grid: Mapping[str, Sequence[Any]],
        criterion: str = "log_loss",
        folds: int = 5,
        *,
        tau: str = "ratio",
        error_score: float | str = math.nan,
    ) -> None:
        self.agent = agent
        self.grid = grid
        self.criterion = criterion
        self.folds = folds
        self.tau = tau
        self.error_score = error_score

    def unit(self, demonstrations: Demonstrations) -> int:
        return 1 if check_in("criterion", self.criterion, CRITERIA) == "log_loss" else demonstrations.horizon

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        criterion = check_in("criterion", self.criterion, CRITERIA)
        tau = check_in("tau", self.tau, TAU_SCALE)
        strict = _check_error_score(self.error_score)
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
        zeros, rest_log_likelihood = np.stack(judged, axis=2)  # (n, M') each
        weights = np.concatenate([fold.weights for _, fold in splits])
        n = np.inf if exact else float(weights.sum())
        if criterion == "log_loss":
            ranks, columns = _by_log_loss(zeros, rest_log_likelihood, weights, n)
            best = int(ranks.argmin())
        else:
            log_densities = np.where(zeros > 0, -np.inf, rest_log_likelihood)[:, None, :]
            names = tuple(_label(candidates[c]) for c in fine)
            self.tournament_ = play(log_densities, weights, names, tau, n=n)
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
        if not isinstance(self.agent, Agent):
            raise TypeError(f"agent={self.agent!r} must be an agents.Agent.")
        if not isinstance(self.grid, Mapping):
            raise TypeError(f"grid={self.grid!r} must be a mapping from hyper-parameters to lists of values.")
        if not self.grid:
            raise ValueError("grid is empty; name a hyper-parameter and the values to try, as in {'lam': [0.01, 0.1]}.")
        check_names(f"{type(self.agent).__name__} has no parameter", self.grid, self.agent.get_params())
        for name, values in self.grid.items():
            if not isinstance(values, list | tuple | range | np.ndarray) or np.ndim(values) == 0:
                raise TypeError(f"grid[{name!r}]={values!r} must be a list of values to try.")
            if len(values) == 0:
                raise ValueError(f"grid[{name!r}] is empty; at least one value is needed.")
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
        """``(2, n)`` for the sequences of a fold: number of zero-density tokens, log-likelihood of the others."""
        policy = candidate.fit(rest, policy_class, rng=rng).policy_
        log_probs = chunk_log_densities({str(candidate): policy}, fold, range(fold.horizon))[:, :, 0]
        return _evidence(log_probs.T, np.ones(fold.horizon), 0.0, fold.vocab_size)

    def _warn_of_failures(self, candidates: list[dict[str, Any]], errors: list[str]) -> None:
        failed = [f"{parameters}: {error}" for parameters, error in zip(candidates, errors) if error]
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(candidates)} candidates of {self.agent!r} failed and were left out "
                f"(error_score='raise' stops instead): " + "; ".join(failed),
                FitFailedWarning,
                stacklevel=4,
            )


def _check_error_score(error_score: Any) -> bool:
    """Whether to raise."""
    if isinstance(error_score, str) and error_score == "raise":
        return True
    if isinstance(error_score, float) and math.isnan(error_score):
        return False
    raise ValueError(
        f"error_score={error_score!r} must be 'raise' or nan; a candidate without a policy has no other score."
    )


def _label(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in parameters.items())


def _by_log_loss(
    zeros: FloatArray, rest: FloatArray, weights: FloatArray, n: float
) -> tuple[IntArray, dict[str, FloatArray]]:
    """Ranks and columns of the table, from ``(n, M)`` numbers of zero-density tokens and log-likelihoods of others."""
    share = weights / weights.sum()
    total = np.stack([share @ zeros, share @ rest])  # (2, M)
    ranks = _ranks(rest.shape[1], lambda rows: np.isin(np.arange(len(rows)), _best(total[:, rows])))
    infinite = total[0] > 0
    variance = share @ (rest - total[1]) ** 2 / (n - 1.0) if n > 1.0 else np.full(len(ranks), np.nan)
    return ranks, {
        "mean_test_score": np.where(infinite, -np.inf, total[1]),
        "standard_error": np.where(infinite, np.nan, np.sqrt(variance)),
        "zero_density_tokens": total[0],
        "log_loss_elsewhere": -total[1],
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
