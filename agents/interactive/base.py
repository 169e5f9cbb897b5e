"""Learners that interact: they are told the task, walk where their own policy leads, and ask its expert there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from agents.interactive.labels import Labels
from agents.log_loss import RegisteredClasses, maximise_likelihood
from ntp_envs import Demonstrations, Policy, PolicyClass, Task
from ntp_envs._numerics import all_sequences, sample_categorical
from ntp_envs._validation import check_int
from ntp_envs.errors import NotTractableError

__all__ = ["EXACT", "InteractiveAgent", "Session", "check_rollouts", "with_details"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

EXACT = "exact"
MAX_SEQUENCES = 1 << 16


def check_rollouts(rollouts: int | str) -> int | str:
    """``rollouts`` itself: an integer >= 1, or ``"exact"``."""
    if isinstance(rollouts, str):
        if rollouts != EXACT:
            raise ValueError(f"rollouts={rollouts!r} must be an integer >= 1, or {EXACT!r}.")
        return rollouts
    return check_int("rollouts", rollouts, minimum=1)


class Session:
    """The expert and the environment of a task, and what has been asked of them.

    Attributes:
        expert_queries: times the expert was asked for its next-token law at a prefix.
        environment_steps: tokens generated.
    """

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        self.task, self.rng = task, rng
        self.expert_queries = self.environment_steps = 0

    def ask(self, prompts: IntArray, tokens: IntArray, weights: FloatArray) -> Labels:
        """The expert's law at every prefix of ``(n, H)`` tokens, each of which is a query."""
        log_laws = self.task.expert.forced_log_probs(prompts, tokens)
        self.expert_queries += tokens.size
        return Labels(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def visit(self, policy: Policy, rollouts: int | str, *, beta: float = 0.0) -> Labels:
        """The expert's laws at the prefixes that a policy visits; the weights of each layer sum to one.

        Args:
            policy: who walks.
            rollouts: number of sequences, or ``"exact"`` for all prefixes, weighted by their probability. Then no
                step is made, and every prefix that is possible is one query.
            beta: at each step, the expert's own token is taken with this probability instead.

        Raises:
            NotTractableError: exact, with more than 65536 sequences.
        """
        if check_rollouts(rollouts) == EXACT:
            return self._visit_all(policy, beta)
        n, horizon = int(rollouts), self.task.horizon
        prompts = self.task.sample_prompts(n, self.rng)
        log_laws, tokens = np.empty((n, horizon, self.task.vocab_size)), np.empty((n, horizon), dtype=np.int64)
        walker, expert = policy.cursor(prompts), self.task.expert.cursor(prompts)
        for h in range(horizon):
            log_laws[:, h] = expert.log_probs()
            tokens[:, h] = sample_categorical(_mixed(walker.log_probs(), log_laws[:, h], beta), self.rng)
            if h + 1 < horizon:
                walker, expert = walker.advance(tokens[:, h]), expert.advance(tokens[:, h])
        self.environment_steps += tokens.size
        self.expert_queries += tokens.size
        weights = np.full(tokens.shape, 1.0 / n)
        return Labels(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def visit_layer(self, policy: Policy, rollouts: int, layer: int) -> Labels:
        """The expert's laws after ``layer`` tokens of the policy's own: one query and ``layer`` steps a sequence."""
        prompts = self.task.sample_prompts(rollouts, self.rng)
        tokens = np.zeros((rollouts, layer + 1), dtype=np.int64)
        log_laws = np.zeros((rollouts, layer + 1, self.task.vocab_size))
        weights = np.zeros(tokens.shape)
        if layer:
            tokens[:, :layer] = policy.sample(prompts, layer, self.rng)
        expert = self.task.expert.cursor(prompts)
        for column in tokens[:, :layer].T:
            expert = expert.advance(column)
        log_laws[:, layer], weights[:, layer] = expert.log_probs(), 1.0 / rollouts
        self.environment_steps += rollouts * layer
        self.expert_queries += rollouts
        return Labels(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def _visit_all(self, policy: Policy, beta: float) -> Labels:
        prompts, masses = self.task.prompt_law()
        size, horizon = self.task.vocab_size, self.task.horizon
        if len(prompts) * size**horizon > MAX_SEQUENCES:
            raise NotTractableError(
                f"rollouts='exact' lists all {len(prompts)} x {size}^{horizon} sequences, more than {MAX_SEQUENCES}; "
                "give a number of rollouts, or lower the horizon."
            )
        tokens = np.tile(all_sequences(size, horizon), (len(prompts), 1))
        prompts = np.repeat(prompts, size**horizon, axis=0)
        log_laws = self.task.expert.forced_log_probs(prompts, tokens)
        walk = _mixed(policy.forced_log_probs(prompts, tokens), log_laws, beta)
        steps = np.exp(np.take_along_axis(walk, tokens[:, :, None], axis=2)[:, :, 0])
        reached = np.cumprod(np.column_stack([np.repeat(masses, size**horizon), steps[:, :-1]]), axis=1)
        copies = np.arange(len(tokens))[:, None] % size ** np.arange(horizon, 0, -1) == 0  # one sequence a prefix
        weights = np.where(copies, reached, 0.0)
        self.expert_queries += int((weights > 0).sum())
        return Labels(prompts, tokens, _checked(log_laws, weights > 0), weights)

    def counts(self) -> dict[str, int]:
        """What goes into `FitReport.details`."""
        return {"expert_queries": self.expert_queries, "environment_steps": self.environment_steps}


def _mixed(log_probs: FloatArray, log_laws: FloatArray, beta: float) -> FloatArray:
    """Log-probabilities of the expert's token with probability ``beta``, else the learner's."""
    if beta == 0.0:
        return log_probs
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-beta) + log_probs, np.log(beta) + log_laws)


def _checked(log_laws: FloatArray, asked: NDArray[np.bool_]) -> FloatArray:
    sums = np.exp(log_laws[asked]).sum(axis=-1)
    if not (np.abs(sums - 1.0) < 1e-6).all():
        raise ValueError(
            "the expert has no next-token law at a prefix that the learner visits (its probabilities sum to "
            f"{sums[np.argmax(~(np.abs(sums - 1.0) < 1e-6))]:g}); an interactive learner needs an expert that can be "
            "asked anywhere."
        )
    return log_laws


class InteractiveAgent(Agent):
    """An agent that is told its task: it can generate tokens there, and ask the expert for its law at any prefix.

    The demonstrations given to `fit` start it off: its first policy is their maximum likelihood. Its report's
    ``details`` count ``expert_queries`` and ``environment_steps``. A subclass writes `_interact`, and stores ``task``
    in its ``__init__``.

    Raises:
        TypeError: on `fit`, a ``task`` that is not an `ntp_envs.Task`.
        ValueError: on `fit`, demonstrations with another vocabulary, horizon or prompt length than the task's.
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]
    task: Task
    tol: float

    @abstractmethod
    def _interact(
        self, session: Session, start: Callable[[], Policy], demonstrations: Demonstrations, policy_class: PolicyClass
    ) -> tuple[Policy, FitReport]:
        """Learn; ``start()`` fits the first policy to the demonstrations."""

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        if not isinstance(self.task, Task):
            raise TypeError(f"task={self.task!r} must be an ntp_envs.Task; build one with ntp_envs.make_task.")
        for name in ("vocab_size", "horizon", "prompt_length"):
            theirs, ours = getattr(demonstrations, name), getattr(self.task, name)
            if theirs != ours:
                raise ValueError(
                    f"the demonstrations have {name}={theirs}, the task {ours}; collect them from the task given to "
                    f"{type(self).__name__}."
                )
        session = Session(self.task, rng)

        def start() -> Policy:
            return maximise_likelihood(policy_class, demonstrations, tol=self.tol)[0]

        policy, report = self._interact(session, start, demonstrations, policy_class)
        report.details.update(session.counts())
        return policy, report


def with_details(report: FitReport, objective: str, **details: Any) -> FitReport:
    """The report with the name of its objective and more details."""
    report.details.update(objective=objective, **details)
    return report
