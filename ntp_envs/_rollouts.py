"""The latest finished rollouts of an environment, and their distance to an expert; no Gymnasium here."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import (
    check_generator,
    check_in,
    check_int,
    check_keywords,
    check_tokens,
    keywords_of,
    small_int_dtype,
)
from ntp_envs.checked import check_policy
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.monte_carlo import SAMPLED_METRICS, bridge_distances, one_sided_distances
from ntp_envs.distances.result import DistanceCurve
from ntp_envs.distances.two_sample import TWO_SAMPLE_METHODS, TwoSampleResult, two_sample_test
from ntp_envs.errors import NotTractableError
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task, collect, source_of

__all__ = ["CURVE_METHODS", "Rollouts"]

IntArray = NDArray[np.int64]

CURVE_METHODS = ("auto", "bridge", "one-sided", *TWO_SAMPLE_METHODS)
#: which test estimates, or bounds from below, which metric
_TEST_OF_METRIC = {"tv": "classifier", "hellinger2": "classifier", "ngram_tv": "n-gram", "mmd2": "mmd"}
_FILLED_IN = {"demonstrations", "of_p", "of_q", "p", "q", "metrics"}  # of the estimators' arguments, by `Rollouts`


class Rollouts:
    """A ring buffer of finished sequences, in the smallest dtype, and their comparison with an expert.

    Args:
        expert: a task (its expert is compared with), or demonstrations where no density is known.
        window: sequences kept, the latest; ``window * (P + H)`` tokens of memory.
        policy: who writes the rollouts, if it has log-probabilities.

    Attributes:
        finished: complete sequences seen, also those that have left the window.
        dropped: sequences given up before their last token, or that went past it.
    """

    def __init__(self, expert: Task | Demonstrations, *, window: int, policy: Policy | None = None) -> None:
        self.expert = expert
        self.window = check_int("window", window, minimum=1)
        self.vocab_size, self.horizon, self.prompt_length = expert.vocab_size, expert.horizon, expert.prompt_length
        self.policy = None if policy is None else check_policy("policy", policy, self.expert)
        dtype = small_int_dtype(self.vocab_size - 1)
        self._lines = np.zeros((self.window, self.prompt_length + self.horizon), dtype=dtype)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.finished = self.dropped = self._stored = 0

    def __len__(self) -> int:
        return min(self._stored, self.window)

    @property
    def has_log_probs(self) -> bool:
        """Whether both sides are known to have log-probabilities."""
        return self.policy is not None and isinstance(self.expert, Task)

    def add(self, prompts: ArrayLike, tokens: ArrayLike) -> None:
        """``(k, P)`` prompts and ``(k, H)`` tokens of sequences that are complete, oldest first."""
        try:
            lines = np.concatenate(
                [
                    check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length),
                    check_tokens("tokens", tokens, self.vocab_size, width=self.horizon),
                ],
                axis=1,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is not a rollout of the expert's shape: {error} See read_prompt=.") from error
        self.finished += len(lines)
        lines = lines[-self.window :]
        self._lines[(self._stored + np.arange(len(lines))) % self.window] = lines
        self._stored += len(lines)

    def demonstrations(self) -> Demonstrations:
        """The rollouts in the window, oldest first.

        Raises:
            ValueError: there are none.
        """
        if not len(self):
            raise ValueError(
                f"no rollout of {self.horizon} tokens has finished yet ({self.dropped} were dropped unfinished); "
                "step the environment to the end of an episode first."
            )
        order = np.arange(self._stored - len(self), self._stored) % self.window
        lines = self._lines[order].astype(np.int64)
        source: dict[str, Any] = {"by": "rollouts", "finished": self.finished, "dropped": self.dropped}
        if isinstance(self.expert, Task):
            source |= source_of(self.expert)
        return Demonstrations(
            lines[:, : self.prompt_length], lines[:, self.prompt_length :], vocab_size=self.vocab_size, source=source
        )

    def test(
        self,
        method: str = "classifier",
        *,
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> TwoSampleResult:
        """A two-sample test of the rollouts against the expert's sequences; see `RolloutDistance.test`."""
        rng = _own_generator() if rng is None else check_generator(rng)
        rollouts = self.demonstrations()
        if isinstance(self.expert, Demonstrations):
            expert = self.expert
            if n is not None:
                raise ValueError(f"n={n} sequences cannot be drawn from given demonstrations; leave n out.")
        else:
            expert = self._fresh(n, rng)
        result = two_sample_test(expert, rollouts, rng=rng, method=method, **options)
        return dataclasses.replace(result, curve=self._named(result.curve))

    def curve(
        self,
        metric: str = "hellinger2",
        *,
        policy: Policy | None = None,
        method: str = "auto",
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> DistanceCurve:
        """A distance from the expert to the rollouts at every prefix length; see `RolloutDistance.curve`."""
        check_in("method", method, CURVE_METHODS)
        check_in("metric", metric, dict.fromkeys((*SAMPLED_METRICS, *_TEST_OF_METRIC)))
        writer = self.policy if policy is None else check_policy("policy", policy, self.expert)
        chosen = self._choose(metric, writer) if method == "auto" else method
        if chosen in TWO_SAMPLE_METHODS:
            if _TEST_OF_METRIC.get(metric) != chosen:
                raise NotTractableError(self._no_samples(metric, chosen))
            curve = self.test(chosen, n=n, rng=rng, **options).curve
            return _hellinger2_bound(curve) if metric == "hellinger2" else curve
        if metric not in SAMPLED_METRICS:
            raise NotTractableError(f"{metric} is estimated by method={_TEST_OF_METRIC[metric]!r}, not {chosen!r}.")
        if not isinstance(self.expert, Task) or writer is None:
            missing = "no known expert: only demonstrations" if writer is not None else "no policy: pass policy="
            raise NotTractableError(f"method={chosen!r} needs log-probabilities of both sides; there is {missing}.")
        rng = _own_generator() if rng is None else check_generator(rng)
        estimator = bridge_distances if chosen == "bridge" else one_sided_distances
        check_keywords(f"curve(method={chosen!r})", options, {*keywords_of(estimator)} - _FILLED_IN)
        if chosen == "bridge":
            samples = self._fresh(n, rng), self.demonstrations()
            return bridge_distances(*samples, p=self.expert.expert, q=writer, metrics=[metric], **options)[metric]
        if metric not in ("hellinger2", "tv"):
            raise NotTractableError(
                f"{metric} of the expert relative to the policy needs sequences of the expert; use method='bridge'."
            )
        rollouts = self.demonstrations()
        if np.isneginf(writer.log_probs(rollouts.prompts, rollouts.tokens)).any():
            raise ValueError("policy gives probability 0 to one of the rollouts: it did not write them all.")
        return one_sided_distances(rollouts, self.expert.expert, p=writer, metrics=[metric], **options)[metric]

    def _choose(self, metric: str, writer: Policy | None) -> str:
        if metric in SAMPLED_METRICS and isinstance(self.expert, Task) and writer is not None:
            return "bridge"
        if metric not in _TEST_OF_METRIC:
            raise NotTractableError(self._no_samples(metric, "auto"))
        return _TEST_OF_METRIC[metric]

    def _no_samples(self, metric: str, method: str) -> str:
        known = ", ".join(f"{name} ({test})" for name, test in _TEST_OF_METRIC.items())
        way = "pass policy=, or choose" if isinstance(self.expert, Task) else "there is no known expert here; choose"
        return f"{metric} cannot be had from samples only by method={method!r}; {way} one of: {known}."

    def _fresh(self, n: int | None, rng: np.random.Generator) -> Demonstrations:
        assert isinstance(self.expert, Task)
        return collect(self.expert, max(len(self), 8) if n is None else n, rng)

    def _named(self, curve: DistanceCurve) -> DistanceCurve:
        if isinstance(self.expert, Task):
            return curve
        note = f"no known expert: against {len(self.expert)} demonstrations"
        return dataclasses.replace(curve, method=f"{curve.method}, {note}")


def _own_generator() -> np.random.Generator:
    """Reproducible, and not the stream of ``reset(seed=0)``: the expert's prompts would be those of the rollouts."""
    return np.random.default_rng(np.random.SeedSequence(0, spawn_key=(1,)))


def _hellinger2_bound(curve: DistanceCurve) -> DistanceCurve:
    """A lower bound on TV as one on ``sum (sqrt P - sqrt Q)^2``: ``2 (1 - sqrt(1 - TV^2))``, from TV^2 <= 1 - BC^2."""

    def bound(tv: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2.0 * tv * tv / (1.0 + np.sqrt(1.0 - tv * tv))

    slope = 2.0 * curve.values / np.sqrt(np.maximum(1.0 - curve.values**2, 1e-12))
    return dataclasses.replace(
        curve,
        metric="hellinger2",
        values=bound(curve.values),
        lower=bound(curve.lower),
        upper=2.0 * curve.upper,
        std_error=slope * curve.std_error,
    )
