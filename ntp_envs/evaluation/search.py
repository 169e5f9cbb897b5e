"""Writing with a verifier at hand: backtracking token by token, and whole answers drawn again until one passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._numerics import first_best, sample_categorical
from ntp_envs._validation import check_generator, check_in, check_int, check_tokens
from ntp_envs.checked import check_policy
from ntp_envs.distances.intervals import CONFIDENCE, score_interval
from ntp_envs.errors import NotTractableError
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

__all__ = ["SearchResult", "backtracking_search", "best_of"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DECODINGS = ("sampled", "greedy")
#: default budget of a backtracking search, in tokens a token of the answer
DEFAULT_BUDGET = 20


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search wrote for each of B prompts, and what it cost.

    Attributes:
        tokens: ``(B, H)`` int64; -1 where nothing that the verifier lets pass was written (see ``length``).
        accepted: ``(B,)`` whether the whole answer passed the verifier.
        length: ``(B,)`` number of tokens written; H where accepted.
        drawn: ``(B,)`` tokens drawn from the policy, those that were thrown away included: the cost.
        rejected: ``(B,)`` how often the verifier said no.
        restarts: ``(B,)`` how often the search went back to the bare prompt.
    """

    tokens: IntArray
    accepted: BoolArray
    length: IntArray
    drawn: IntArray
    rejected: IntArray
    restarts: IntArray

    def share_within(self, budget: float = np.inf) -> float:
        """Share of prompts answered and accepted with at most ``budget`` drawn tokens: the curve of the search."""
        return float((self.accepted & (self.drawn <= budget)).mean())

    def interval(self, budget: float = np.inf, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Wilson's interval of `share_within` (`ntp_envs.distances.score_interval`)."""
        share, n = self.share_within(budget), len(self.accepted)
        lower, upper = score_interval(share, np.sqrt(share * (1.0 - share) / n), n, confidence=confidence)
        return float(lower), float(upper)

    def __repr__(self) -> str:
        return (
            f"SearchResult({len(self.tokens)} prompts, accepted={self.share_within():.4g}, "
            f"mean tokens drawn={self.drawn.mean():.4g}, H={self.tokens.shape[1]})"
        )


def backtracking_search(
    policy: Policy,
    task: Task,
    prompts: ArrayLike,
    *,
    rng: np.random.Generator,
    depth: int | None = 1,
    budget: int | None = None,
    decoding: str = "sampled",
) -> SearchResult:
    """Write token by token and ask ``task.verify`` after each one; where it says no, go back and draw again.

    * ``depth=k``: a rejected token is taken back with the k - 1 tokens before it, and drawn anew from the policy's own
      law. ``depth=1`` draws from the policy conditioned on passing the verifier, one token at a time; with an
      independent error eps a token that costs H / (1 - eps) tokens. ``depth=H`` starts again. A search that never
      looks farther back than k tokens cannot take back an early choice that only the end shows to be wrong.
    * ``depth=None``: depth-first search. A token rejected at a prefix is not tried there again, and a prefix after
      which nothing is left is itself rejected, one token back. Every sequence of positive probability is reached with
      enough budget: this is exhaustive, and costs accordingly.

    A verifier knows rules, not plans. It repairs what goes wrong in the writing; where the policy's law of an early
    token says nothing of the right choice, only exhaustive search finds the answer, and the policy is no guide to it
    (the distinction of Bachmann and Nagarajan 2024, arXiv:2403.06963, between failures of inference and of learning).

    Args:
        policy: what is asked for tokens; its law is asked for once a prefix, however many draws are made there.
        task: its `ntp_envs.Task.verify` is the verifier, ``has_verifier`` must hold.
        prompts: ``(B, P)`` tokens.
        rng: source of all randomness.
        depth: how many tokens a rejection takes back, at least 1, or ``None`` for depth-first search; it then keeps
            a table of B * H * A rejected tokens.
        budget: tokens to draw a prompt, at least H; 20 H by default.
        decoding: ``"sampled"``, or ``"greedy"`` (the most probable token not yet rejected), which needs ``depth=None``:
            it would only repeat itself.

    Returns:
        A `SearchResult`. Rows that ran out of budget (or of tokens, with ``depth=None``) keep the prefix that passed.

    Raises:
        NotTractableError: the task has no verifier.
        ValueError: prompts, depth, budget or decoding out of range, or a policy that does not fit the task.

    >>> from ntp_envs import make_task
    >>> task = make_task("Snowball", horizon=30, eps=0.1)
    >>> rng = np.random.default_rng(0)
    >>> found = backtracking_search(task.sloppy_copier(), task, task.sample_prompts(50, rng), rng=rng)
    >>> found.share_within(), bool(found.drawn.mean() < 1.2 * 30)
    (1.0, True)
    """
    policy, prompts = _checked(policy, task, prompts, rng)
    if not task.has_verifier:
        raise NotTractableError(
            f"{task.name} has no verifier to backtrack with."
            + (" best_of needs its success only." if task.has_success else " It has no success either.")
        )
    horizon = task.horizon
    if depth is not None:
        check_int("depth", depth, minimum=1)
    budget = DEFAULT_BUDGET * horizon if budget is None else check_int("budget", budget, minimum=horizon)
    check_in("decoding", decoding, DECODINGS)
    if decoding == "greedy" and depth is not None:
        raise ValueError(f"decoding='greedy' with depth={depth} draws the same token again; use depth=None.")
    return _Search(policy, task, prompts, rng, depth, budget, greedy=decoding == "greedy").run()


class _Search:
    """The state of a batch. All rows at the shortest prefix are served at once, so that laggards catch up."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        prompts: IntArray,
        rng: np.random.Generator,
        depth: int | None,
        budget: int,
        *,
        greedy: bool,
    ) -> None:
        n, horizon = len(prompts), task.horizon
        self.policy, self.task, self.prompts, self.rng = policy, task, prompts, rng
        self.depth, self.budget, self.greedy = depth, budget, greedy
        self.tokens = np.full((n, horizon), -1, dtype=np.int64)
        self.length, self.drawn, self.rejected, self.restarts = (np.zeros(n, dtype=np.int64) for _ in range(4))
        self.active = np.ones(n, dtype=bool)
        self.law = np.empty((n, policy.vocab_size))  # after the present prefix, where known
        self.known = np.zeros(n, dtype=bool)
        shape = (n, horizon, policy.vocab_size) if depth is None else (0, 0, 0)
        self.tried = np.zeros(shape, dtype=bool)  # rejected at each prefix of the present one

    def run(self) -> SearchResult:
        while self.active.any():
            step = int(self.length[self.active].min())
            self._serve(np.flatnonzero(self.active & (self.length == step)), step)
        self.tokens[np.arange(self.tokens.shape[1]) >= self.length[:, None]] = -1
        accepted = self.length == self.tokens.shape[1]
        return SearchResult(self.tokens, accepted, self.length, self.drawn, self.rejected, self.restarts)

    def _serve(self, rows: IntArray, step: int) -> None:
        """One draw for each of these rows, which all have ``step`` tokens."""
        log_probs = self._laws(rows, step)
        if self.depth is None:
            possible = np.isfinite(log_probs).any(axis=1)
            self._give_up(rows[~possible], step)
            rows, log_probs = rows[possible], log_probs[possible]
        if not len(rows):
            return
        self.tokens[rows, step] = first_best(log_probs) if self.greedy else sample_categorical(log_probs, self.rng)
        self.drawn[rows] += 1
        passed = np.asarray(self.task.verify(self.prompts[rows], self.tokens[rows, : step + 1]))
        self._move(rows[passed], step + 1)
        self._reject(rows[~passed], step)
        self.active[rows] = (self.length[rows] < self.task.horizon) & (self.drawn[rows] < self.budget)

    def _laws(self, rows: IntArray, step: int) -> FloatArray:
        """The next-token law without what was tried, its largest log-probability 0; ``-inf`` where nothing is left."""
        new = rows[~self.known[rows]]
        if len(new):
            self.law[new] = self.policy.next_log_probs(self.prompts[new], self.tokens[new, :step])
            self.known[new] = True
        log_probs = self.law[rows]
        if self.depth is None:
            log_probs[self.tried[rows, step]] = -np.inf
        top = log_probs.max(axis=1, keepdims=True)
        return log_probs - np.where(np.isfinite(top), top, 0.0)

    def _move(self, rows: IntArray, length: int) -> None:
        self.length[rows] = length
        self.known[rows] = False

    def _reject(self, rows: IntArray, step: int) -> None:
        self.rejected[rows] += 1
        if self.depth is None:
            self.tried[rows, step, self.tokens[rows, step]] = True
        elif self.depth > 1 and step > 0:
            back = max(step - self.depth + 1, 0)
            self._move(rows, back)
            self.restarts[rows] += back == 0

    def _give_up(self, rows: IntArray, step: int) -> None:
        """Nothing is left to try after these prefixes: the last token of each is rejected."""
        if step == 0:
            self.active[rows] = False
            return
        self.tried[rows, step] = False
        self.tried[rows, step - 1, self.tokens[rows, step - 1]] = True
        self._move(rows, step - 1)
        self.restarts[rows] += step == 1


def best_of(policy: Policy, task: Task, prompts: ArrayLike, k: int, *, rng: np.random.Generator) -> SearchResult:
    """Up to k independent complete samples a prompt, until one passes the verdict on the whole answer.

    The verdict is ``task.verify`` at the full length, or full success (1) where a task has no verifier. An answer
    that is right with probability p is found with probability ``1 - (1 - p)**k``, at ``H (1 - (1 - p)**k) / p``
    tokens on average.

    Args:
        policy: what is sampled.
        task: gives the verdict.
        prompts: ``(B, P)`` tokens.
        k: samples a prompt at most, at least 1.
        rng: source of all randomness.

    Returns:
        A `SearchResult`: the first sample that passed, or the last one. `SearchResult.share_within` (j H) is the share
        that j samples would have found, for every j up to k.

    Raises:
        NotTractableError: the task has neither a verifier nor a success.
        ValueError: prompts or k out of range, or a policy that does not fit the task.

    >>> from ntp_envs import make_task
    >>> task = make_task("Snowball", horizon=10, eps=0.1)
    >>> rng = np.random.default_rng(0)
    >>> found = best_of(task.sloppy_copier(), task, task.sample_prompts(400, rng), 5, rng=rng)
    >>> bool(abs(found.share_within() - (1 - (1 - 0.9**10) ** 5)) < 0.1)
    True
    """
    policy, prompts = _checked(policy, task, prompts, rng)
    check_int("k", k, minimum=1)
    verdict = _verdict(task)
    n, horizon = len(prompts), task.horizon
    tokens = np.full((n, horizon), -1, dtype=np.int64)
    accepted = np.zeros(n, dtype=bool)
    samples = np.zeros(n, dtype=np.int64)
    for _ in range(k):
        rows = np.flatnonzero(~accepted)
        if not len(rows):
            break
        tokens[rows] = policy.sample(prompts[rows], horizon, rng)
        samples[rows] += 1
        accepted[rows] = verdict(prompts[rows], tokens[rows])
    return SearchResult(
        tokens, accepted, np.full(n, horizon), samples * horizon, samples - accepted, np.maximum(samples - 1, 0)
    )


def _verdict(task: Task) -> Callable[[IntArray, IntArray], BoolArray]:
    if task.has_verifier:
        return lambda prompts, tokens: np.asarray(task.verify(prompts, tokens))
    if task.has_success:
        return lambda prompts, tokens: np.asarray(task.success(prompts, tokens)) >= 1.0
    raise NotTractableError(f"{task.name} has neither a verifier nor a success, so no answer can be chosen.")


def _checked(policy: Policy, task: Task, prompts: ArrayLike, rng: np.random.Generator) -> tuple[Policy, IntArray]:
    check_generator(rng)
    policy = check_policy("policy", policy, task)
    checked = check_tokens("prompts", prompts, task.vocab_size, width=task.prompt_length)
    if not len(checked):
        raise ValueError("there are no prompts (0 rows); at least one is needed.")
    return policy, checked
