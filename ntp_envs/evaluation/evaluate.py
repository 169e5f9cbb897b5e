"""Evaluation of a policy on a task: forced, greedy and sampled, one pass each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import first_best
from ntp_envs._validation import check_generator, check_int
from ntp_envs.checked import check_policy
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.deterministic import GreedyPolicy
from ntp_envs.evaluation.result import Evaluation, SampleText
from ntp_envs.evaluation.search import backtracking_search
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task, collect

__all__ = ["evaluate"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: numbers of a ``(B, H, A)`` forced law held at once: 32 MiB of float64
BLOCK = 2**22


def evaluate(
    policy: Policy,
    task: Task,
    *,
    n: int = 1000,
    rng: np.random.Generator,
    demonstrations: Demonstrations | None = None,
    samples: int = 4,
    backtrack: int | None = None,
) -> Evaluation:
    """Accuracy, exact match, cross-entropy and success of a policy, with the true prefix and on its own.

    Args:
        policy: over the task's vocabulary.
        task: gives the prompts, the demonstrations by default, ``success`` and ``decode``.
        n: demonstrations to collect from the task's expert; not read where ``demonstrations`` are given.
        rng: source of all randomness.
        demonstrations: true sequences, all of which are used. Weights are kept: every measure is a weighted mean.
        samples: how many prompts to show with their answers, the first ones.
        backtrack: also write with the task's verifier at hand, going back so many tokens where it says no
            (`ntp_envs.evaluation.backtracking_search`).

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: vocabulary, horizon or prompt length of policy, task and demonstrations do not match; or the
            demonstrations are a population of representatives instead of the complete law.
        NotTractableError: ``backtrack`` without a verifier.
        TypeError: something else than a policy or a generator.

    >>> from ntp_envs import UniformPolicy, make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> round(evaluate(UniformPolicy(2), task, n=50, rng=np.random.default_rng(0)).bits_per_token, 6)
    1.0
    """
    check_generator(rng)
    check_int("samples", samples, minimum=0)
    demos = collect(task, n, rng) if demonstrations is None else demonstrations
    policy = check_policy("policy", policy, task)
    _check_shapes(task, demos)
    if demos.exactness is not None and not demos.exactness.everything:
        raise ValueError(
            f"the demonstrations are representatives, {demos.exactness.describe()}; what is measured here depends on "
            "every token of every sequence. Use collect(task, n, rng), or leave demonstrations out."
        )
    target = demos.tokens
    weights = np.ones(len(demos)) if demos.weights is None else demos.weights
    best, log_probs, costs = _forced(policy, demos)
    greedy = GreedyPolicy(policy).sample(demos.prompts, task.horizon, rng)
    sampled = policy.sample(demos.prompts, task.horizon, rng)

    measured: dict[str, FloatArray] = {}  # one row a demonstration
    for name, tokens in (("forced", best), ("greedy", greedy), ("sampled", sampled)):
        right = (tokens == target).astype(np.float64)
        measured[f"{name}_accuracy"] = right
        measured[f"{name}_token_accuracy"] = right.mean(axis=1)
        measured[f"{name}_exact"] = right.min(axis=1)
    if task.has_success:
        measured["greedy_success"] = task.success(demos.prompts, greedy)
        measured["sampled_success"] = task.success(demos.prompts, sampled)
    if backtrack is not None:
        search = backtracking_search(policy, task, demos.prompts, rng=rng, depth=backtrack)
        measured["backtracking_accepted"] = search.accepted.astype(np.float64)
        measured["backtracking_cost"] = search.drawn / task.horizon
    measured["impossible"] = np.isneginf(log_probs).astype(np.float64)
    measured["sequence_probability"] = np.exp(log_probs.sum(axis=1))
    measured["cross_entropy"] = 0.0 - log_probs
    measured["mean_cross_entropy"] = measured["cross_entropy"].mean(axis=1)
    means, errors = {}, {}
    for name, values in measured.items():
        means[name], errors[name] = _mean(values, weights)
    fields: dict[str, Any] = {name: m for name, m in means.items() if name not in _PROPERTIES}
    return Evaluation(
        task=task.name,
        n=len(demos),
        **{"greedy_success": None, "sampled_success": None, **fields},
        std_errors=errors,
        samples=tuple(
            SampleText(*(task.decode(row) for row in rows))
            for rows in zip(demos.prompts[:samples], target, greedy, sampled)
        ),
        effective_n=_worth(weights),
        cross_entropy_range=costs,
        error_n=_worth((weights / weights.max()) ** 2),
        unknown_share=float(weights @ (target == task.unknown_token).mean(axis=1) / weights.sum()),
    )


#: measured for their standard errors; an `Evaluation` computes the values from those by position
_PROPERTIES = (
    "forced_token_accuracy",
    "greedy_token_accuracy",
    "sampled_token_accuracy",
    "mean_cross_entropy",
)


def _check_shapes(task: Task, demos: Demonstrations) -> None:
    if not isinstance(demos, Demonstrations):
        raise TypeError(f"demonstrations must be ntp_envs.Demonstrations, not {type(demos).__name__}.")
    for name in ("vocab_size", "horizon", "prompt_length"):
        mine, theirs = getattr(task, name), getattr(demos, name)
        if mine != theirs:
            raise ValueError(
                f"the demonstrations have {name}={theirs} and {task.name} has {name}={mine}; "
                "use demonstrations of this task: collect(task, n, rng)."
            )


def _forced(policy: Policy, demos: Demonstrations) -> tuple[IntArray, FloatArray, tuple[FloatArray, FloatArray]]:
    """The most probable token after each true prefix and the log-probability of the true token, both ``(n, H)``; and
    the least and the most that any token would cost after any of these prefixes, in nats, ``(H,)`` each."""
    best = np.empty_like(demos.tokens)
    low, high = np.zeros(demos.horizon), np.full(demos.horizon, -np.inf)  # log-probabilities
    log_probs = np.empty(demos.tokens.shape)
    rows = max(1, BLOCK // (demos.horizon * demos.vocab_size))
    for start in range(0, len(demos), rows):
        block = slice(start, start + rows)
        law = policy.forced_log_probs(demos.prompts[block], demos.tokens[block])
        best[block] = first_best(law)
        low, high = np.minimum(low, law.min(axis=(0, 2))), np.maximum(high, law.max(axis=(0, 2)))
        log_probs[block] = np.take_along_axis(law, demos.tokens[block][:, :, None], axis=2)[:, :, 0]
    if np.isnan(log_probs).any():
        raise ValueError("policy returned NaN for the log-probability of a demonstrated token.")
    high = np.minimum(high, 0.0)  # rounding may leave a log-probability at +1e-16
    return best, np.minimum(log_probs, 0.0), (0.0 - high, 0.0 - low)


def _worth(weights: FloatArray) -> float:
    """How many equal weights have the same sum of squares, as a share of their sum."""
    shares = weights / weights.max()
    return float(shares.sum() ** 2 / (shares @ shares))


def _mean(values: FloatArray, weights: FloatArray) -> tuple[Any, Any]:
    """Weighted mean over the rows and its standard error, for independent rows; infinite values make both infinite.

    For weights that count copies (`Demonstrations.pooled`) the standard error is an upper bound: copies are taken to
    be one draw.
    """
    used = weights > 0  # no 0 * inf
    values, weights = values[used], weights[used]
    total = weights.sum()
    # a mean lies between its values, whatever the rounding; for equal weights a share is exact
    mean = np.clip(weights @ values / total, values.min(axis=0), values.max(axis=0))
    with np.errstate(invalid="ignore"):
        error = np.sqrt(weights**2 @ (values - mean) ** 2) / total
    error = np.where(np.isfinite(mean), error, np.inf)
    return (mean, error) if values.ndim > 1 else (float(mean), float(error))
