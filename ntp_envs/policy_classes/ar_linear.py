"""Autoregressive linear policies: softmax of <theta, phi(prefix, next token)>, theta in a ball."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import as_array, check_real
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.features import ContextFeatureMap, FeatureMap
from ntp_envs.features.indicators import IndexArray, IndicatorFeatureMap, IndicatorMatrices
from ntp_envs.policies import Cursor, Policy
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["ARLinearAutomaton", "ARLinearClass", "ARLinearPolicy", "linear_log_probs"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK_BYTES = 1 << 25  # of laws and places of features held at once


def linear_log_probs(features: FeatureMap, theta: FloatArray, values: FloatArray) -> FloatArray:
    """``(..., A)`` log-probabilities from feature values ``(..., c)`` or ``(..., A, d)`` of ``features``."""
    if isinstance(features, ContextFeatureMap) and features.vocab_size == 2:
        log_odds = values @ theta
        return -np.logaddexp(0.0, np.stack([log_odds, -log_odds], axis=-1))
    if isinstance(features, ContextFeatureMap):
        logits = values @ theta.reshape(features.vocab_size, features.n_context).T
    else:
        logits = values @ theta
    return _normalised(logits)


def _normalised(logits: FloatArray) -> FloatArray:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class ARLinearPolicy(Policy):
    """``pi(a | prefix)`` proportional to ``exp <theta, phi(prefix, a)>``.

    Where the features are indicators (`ntp_envs.features.WindowOneHot` and its kind) of more than two tokens, logits
    are sums of the few rows of weights that count; features are not written out.

    Args:
        features: the feature map phi.
        theta: ``(d,)`` parameters. For `ContextFeatureMap` s they are the log-odds weights (binary tokens) or one row
            of weights a token, flattened.

    Raises:
        ValueError: theta of the wrong shape, or not finite.

    >>> import numpy as np
    >>> from ntp_envs.features import FlipSign
    >>> ARLinearPolicy(FlipSign(), [0.0]).next_log_probs(np.array([[0]]), np.zeros((1, 0), int)).round(3).tolist()
    [[-0.693, -0.693]]
    """

    def __init__(self, features: FeatureMap, theta: ArrayLike) -> None:
        super().__init__(
            features.vocab_size, horizon=features.horizon, prompt_length=getattr(features, "prompt_length", None)
        )
        self.features = features
        self.theta = as_array("theta", theta, np.float64).copy()
        if self.theta.shape != (features.dimension,):
            raise ValueError(f"theta has shape {self.theta.shape}; ({features.dimension},) is needed.")
        if not np.isfinite(self.theta).all():
            raise ValueError("theta must be finite.")

    @property
    def _gathers(self) -> bool:
        return isinstance(self.features, IndicatorFeatureMap) and self.vocab_size > 2

    def _law_at(self, active: IndexArray) -> FloatArray:
        """``(N, A)`` log-probabilities from the ``(N, K)`` places of indicator features."""
        assert isinstance(self.features, IndicatorFeatureMap)  # `_gathers` says so
        weights = IndicatorMatrices.padded(self.theta.reshape(self.vocab_size, -1).T)  # (c + 1, A)
        out = np.empty((len(active), self.vocab_size))
        for rows, matrix in self.features.matrices(active):
            out[rows] = _normalised(matrix @ weights)
        return out

    def _laws(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> Iterator[tuple[slice, FloatArray]]:
        """``(b, H, A)`` teacher-forced laws of a few sequences at a time, with their rows."""
        if not self._gathers:
            for rows, values in self.features.blocks(prompts, tokens):
                yield rows, linear_log_probs(self.features, self.theta, values)
            return
        assert isinstance(self.features, IndicatorFeatureMap)
        sequence = tokens.shape[1] * (8 * self.vocab_size + 4 * self.features.n_active)
        size = max(BLOCK_BYTES // max(sequence, 1), 1)
        for start in range(0, len(tokens), size):
            rows = slice(start, min(start + size, len(tokens)))
            active = self.features.active_path(prompts[rows], tokens[rows])
            law = self._law_at(active.reshape(-1, self.features.n_active))
            yield rows, law.reshape(*active.shape[:2], self.vocab_size)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        if self._gathers:
            return self._law_at(self.features.active(prompts, tokens))  # type: ignore[attr-defined]
        return linear_log_probs(self.features, self.theta, self.features.prefix_features(prompts, tokens))

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = np.asarray(prompts), np.asarray(tokens)
        self._check_length(tokens.shape[1])
        out = np.empty(tokens.shape)
        for rows, law in self._laws(prompts, tokens):
            out[rows] = np.take_along_axis(law, tokens[rows, :, None].astype(np.int64), axis=2)[:, :, 0]
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = np.asarray(prompts), np.asarray(tokens)
        self._check_length(tokens.shape[1])
        out = np.empty((*tokens.shape, self.vocab_size))
        for rows, law in self._laws(prompts, tokens):
            out[rows] = law
        return out

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        window = self.features.window
        return super().cursor(prompts) if window is None else _WindowCursor(self, np.asarray(prompts), window, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.features!r}, theta of norm {np.linalg.norm(self.theta):.4g})"


class _WindowCursor(Cursor):
    """Keeps no more of the sequences than the window of the features, which is all that they see."""

    def __init__(self, policy: ARLinearPolicy, seen: NDArray[np.integer], window: int, step: int) -> None:
        self.policy, self.seen, self.window, self.step = policy, seen[:, max(seen.shape[1] - window, 0) :], window, step

    def log_probs(self) -> FloatArray:
        return self.policy.next_log_probs(np.empty((len(self.seen), 0), dtype=np.int64), self.seen)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _WindowCursor(self.policy, np.column_stack([self.seen[rows], tokens]), self.window, self.step + 1)


class ARLinearAutomaton(ARLinearPolicy, AutomatonPolicy):
    """An `ARLinearPolicy` whose features have finite memory (`FeatureMap.states`): an automaton, exact at any H.

    `ARLinearClass.policy` gives one wherever it can.

    Args:
        features, theta: as for `ARLinearPolicy`.

    Raises:
        ValueError: features without a table of states.

    >>> from ntp_envs.features import WindowOneHot
    >>> ARLinearAutomaton(WindowOneHot(2, 2), [0.0] * 5).n_states
    9
    """

    def __init__(self, features: FeatureMap, theta: ArrayLike) -> None:
        super().__init__(features, theta)
        states = features.states()
        if states is None:
            raise ValueError(f"{features!r} has no table of states (or too large a one); use ARLinearPolicy.")
        self._states = states
        self.n_states = len(states.transitions)
        self._emissions = linear_log_probs(features, self.theta, states.features)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self._states.initial_states(prompts)

    def emissions(self, step: int) -> FloatArray:
        return self._emissions

    def transitions(self, step: int) -> IntArray:
        return self._states.transitions

    cursor = AutomatonPolicy.cursor

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(np.shape(tokens)[1])
        return self._emissions[self._states.path(np.asarray(prompts), np.asarray(tokens)), tokens]

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(np.shape(tokens)[1])
        return self._emissions[self._states.path(np.asarray(prompts), np.asarray(tokens))]


class ARLinearClass(PolicyClass):
    """Autoregressive linear policies with ``||theta||_2 <= radius``.

    Its likelihoods depend on the data through the counts of (features, next token), which is its ``statistic``.

    Over a window of the last T tokens (`ntp_envs.features.WindowOneHot`) it is the linear next-token predictor of
    Malach (2023, arXiv:2309.06979) at full rank: it contains the predictors that embed tokens in fewer dimensions, map
    the window linearly and read tokens out again, whose weights are matrices of low rank. A member's policy is an
    automaton (exact distances) where the window has few states, ``(A + 1)^T`` at most 65536 with at most 2^24 numbers
    in their table, and reads the last T tokens otherwise.

    ``radius`` over such a window: features are divided by ``sqrt(T + 1)`` and a logit is the sum of T + 1 weights
    so divided, so that norms are large where there are many tokens. Maximum likelihood on 3 10^5 characters of English
    (A = 60) costs 2.482, 2.475 and 2.475 nats a token at radius 100, 200 and 300 for T = 1, and 2.176, 2.057, 2.034 and
    2.026 at 100, 200, 300 and 500 for T = 4. Pairs of tokens that never occur draw it to the sphere whatever the
    radius, which therefore regularises: 100 to 300 is a sensible range, and larger values take longer to fit.

    Args:
        features: the feature map phi, norms <= 1.
        radius: of the ball, > 0.

    >>> from ntp_envs.features import FlipSign
    >>> ARLinearClass(FlipSign(), radius=5.0).policy([1.0]).n_states
    3
    """

    def __init__(self, features: FeatureMap, radius: float) -> None:
        if not isinstance(features, FeatureMap):
            raise TypeError(f"features must be a ntp_envs.features.FeatureMap, not {type(features).__name__}.")
        super().__init__(features.vocab_size, horizon=features.horizon)
        self.features = features
        self.radius = check_real("radius", radius, minimum=0.0)
        if self.radius == 0:
            raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")
        self.statistic = f"next tokens given {features!r}"

    def policy(self, theta: ArrayLike) -> ARLinearPolicy:
        """The member with these ``(d,)`` parameters; ``ValueError`` outside the ball (by more than 1e-9, relative)."""
        norm = float(np.linalg.norm(as_array("theta", theta, np.float64)))
        if norm > self.radius * (1 + 1e-9):
            raise ValueError(
                f"theta has norm {norm:.9g}; the class is the ball of radius {self.radius:g}. "
                "Scale it down, or raise the radius."
            )
        kind = ARLinearPolicy if self.features.states() is None else ARLinearAutomaton
        return kind(self.features, theta)
