"""Squared Hellinger distance from an automaton to autoregressive linear policies that share its states, with gradient.

Used to search for the best member of a class exactly: the Bhattacharyya coefficient is a product of matrices whose
entries are ``sqrt(p q)``, so one forward and one backward recursion give the value and its gradient at any horizon.
"""

from __future__ import annotations

import numpy as np

from ntp_envs.arrays import TIE, FloatArray, IntArray, first_best
from ntp_envs.features import FeatureMap
from ntp_envs.policy_classes import linear_log_probs


class AutomatonAffinity:
    """``theta -> (D_H^2, gradient)`` of an automaton's law against `ARLinearPolicy` (features, theta).

    Args:
        features: context feature map.
        state_features: ``(S, c)`` its values in each state of the automaton.
        log_probs: ``(S, A)`` log-probabilities of the automaton, the same at every step.
        transitions: ``(S, A)`` next states.
        initial: ``(S,)`` law of the first state.
        horizon: H.
    """

    def __init__(
        self,
        features: FeatureMap,
        state_features: FloatArray,
        log_probs: FloatArray,
        transitions: IntArray,
        initial: FloatArray,
        horizon: int,
    ) -> None:
        from scipy.sparse import csr_array

        self.features, self.values, self.horizon = features, state_features, horizon
        self.roots, self.transitions, self.initial = np.exp(0.5 * log_probs), transitions, initial
        n_states, vocab_size = transitions.shape
        self._rows = np.repeat(np.arange(n_states), vocab_size)
        self._matrix = lambda entries: csr_array(
            (entries.ravel(), (self._rows, transitions.ravel())), shape=(n_states, n_states)
        )

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """The squared Hellinger distance ``2 (1 - BC)`` at the full horizon, and its ``(d,)`` gradient."""
        log_q = linear_log_probs(self.features, theta, self.values)  # (S, A)
        q_roots = np.exp(0.5 * log_q)
        affinity = self.roots * q_roots  # (S, A)
        loss = ((self.roots - q_roots) ** 2).sum(axis=1)  # (S,): 2 (1 - affinity of one token), without cancellation
        step = self._matrix(affinity)
        back, forward = step.T.tocsr(), step
        alpha = np.empty((self.horizon, len(self.initial)))  # affinity of reaching a state at each step
        beta = np.empty_like(alpha)  # affinity of what is left after the next token, from its state
        alpha[0], beta[-1] = self.initial, 1.0
        for h in range(1, self.horizon):
            alpha[h] = back @ alpha[h - 1]
            beta[-1 - h] = forward @ beta[-h]
        pairs = alpha.T @ beta  # (S, S)
        shift = affinity * np.take_along_axis(pairs, self.transitions, axis=1)  # (S, A): -dD^2 / dlog q
        slope = np.exp(log_q) * shift.sum(axis=1, keepdims=True) - shift  # dD^2 / dlogits
        return float((alpha @ loss).sum()), self._pull_back(slope)

    def _pull_back(self, slope: FloatArray) -> FloatArray:
        """``(d,)`` gradient in theta from the ``(S, A)`` gradient in the logits."""
        if self.features.vocab_size == 2:
            return 0.5 * ((slope[:, 1] - slope[:, 0]) @ self.values)
        return (slope.T @ self.values).ravel()


def minimise_in_ball(objective: AutomatonAffinity, radius: float, starts: list[FloatArray]) -> tuple[FloatArray, float]:
    """The best local minimum over ``||theta|| <= radius`` from several starts, and its value (SLSQP, exact gradients).

    Of starts that lead to the same value (within 1e-9 of it) the first is taken.

    No claim is made that it is global.
    """
    from scipy.optimize import minimize

    ball = {"type": "ineq", "fun": lambda theta: radius**2 - theta @ theta, "jac": lambda theta: -2.0 * theta}
    found: list[tuple[float, FloatArray]] = []
    for start in starts:
        scale = max(objective(start)[0], 1e-12)

        def scaled(theta: FloatArray, scale: float = scale) -> tuple[float, FloatArray]:
            value, gradient = objective(theta)
            return value / scale, gradient / scale

        result = minimize(
            scaled, start, jac=True, constraints=[ball], method="SLSQP", options={"maxiter": 300, "ftol": 1e-13}
        )
        theta = result.x * min(1.0, radius / max(float(np.linalg.norm(result.x)), 1e-300))
        found.append((objective(theta)[0], theta))
    values = np.array([value for value, _ in found])
    value, theta = found[int(first_best(-values, slack=TIE * values.min()))]
    return theta, value
