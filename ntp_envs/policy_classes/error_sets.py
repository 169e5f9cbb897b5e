"""Policies that are right except on chosen prompts: the classes of the consistency games."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._numerics import prefix_codes
from ntp_envs._validation import as_array, check_int
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.policies import Policy
from ntp_envs.policy_classes.base import PolicyClass
from ntp_envs.policy_classes.product import ProductClass

__all__ = ["ErrorSetClass", "ErrorSetPolicy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class ErrorSetPolicy(AutomatonPolicy):
    """Token 0 everywhere, except that layer h says 1 on one prompt of its own; tokens are binary and deterministic.

    A prompt is read as a binary number, first token most significant: its *context*. The context is the state of the
    automaton and never changes, so what the policy does at one layer has no effect on the next.

    Args:
        error_contexts: ``(H,)`` integers; layer h (0-based) errs on context ``error_contexts[h]`` alone.
        prompt_length: P; there are 2**P contexts.

    Raises:
        ValueError: a context outside [0, 2**P).

    >>> import numpy as np
    >>> policy = ErrorSetPolicy([2, 3], prompt_length=2)
    >>> policy.sample(np.array([[1, 0], [1, 1], [0, 1]]), 2, np.random.default_rng(0)).tolist()
    [[1, 0], [0, 1], [0, 0]]
    """

    def __init__(self, error_contexts: ArrayLike, *, prompt_length: int) -> None:
        self.n_states = 2 ** check_int("prompt_length", prompt_length, minimum=0)
        self.error_contexts = _check_contexts("error_contexts", error_contexts, self.n_states)
        super().__init__(2, horizon=len(self.error_contexts), prompt_length=prompt_length)
        self._stay = np.repeat(np.arange(self.n_states), 2).reshape(-1, 2)  # (S, 2)
        self._right = np.tile([0.0, -np.inf], (self.n_states, 1))  # (S, 2)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return prefix_codes(prompts, 2)

    def emissions(self, step: int) -> FloatArray:
        table = self._right.copy()
        table[self.error_contexts[step]] = -np.inf, 0.0
        return table

    def transitions(self, step: int) -> IntArray:
        return self._stay


class ErrorSetClass(ProductClass):
    """A product class whose options at each layer err on one context each (see `ErrorSetPolicy`).

    The parameter of a member is an ``(H,)`` array of option numbers, as in every `ProductClass`.

    Args:
        error_sets: H integer arrays; option j of layer h errs on context ``error_sets[h][j]``.
        prompt_length: P; contexts are prompts read as binary numbers, in [0, 2**P).

    Raises:
        ValueError: no layers, a layer without options, a context outside [0, 2**P).

    >>> game = ErrorSetClass([[0, 1], [0, 2]], prompt_length=2)
    >>> game.error_contexts([1, 1]).tolist(), game.policy([0, 0]).error_contexts.tolist()
    ([1, 2], [0, 0])
    """

    def __init__(self, error_sets: Sequence[ArrayLike], *, prompt_length: int) -> None:
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=0)
        if not len(error_sets):
            raise ValueError("error_sets is empty; one array of contexts a layer is needed.")
        self.error_sets = [
            _check_contexts(f"error_sets[{h}]", sets, 2**self.prompt_length) for h, sets in enumerate(error_sets)
        ]
        PolicyClass.__init__(self, 2, horizon=len(self.error_sets))

    @cached_property
    def layers(self) -> list[list[Policy]]:  # type: ignore[override]
        """The options as policies that make the same error at every layer; built on first use."""
        horizon = len(self.error_sets)
        return [
            [ErrorSetPolicy(np.full(horizon, context), prompt_length=self.prompt_length) for context in sets]
            for sets in self.error_sets
        ]

    @property
    def n_options(self) -> tuple[int, ...]:
        return tuple(len(sets) for sets in self.error_sets)

    def option_log_probs(self, layer: int, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        errs = prefix_codes(prompts, 2)[:, None] == self.error_sets[layer]  # (B, n_options)
        said_one = np.asarray(tokens)[:, layer].astype(bool)
        return np.where(errs == said_one[:, None], 0.0, -np.inf)

    def error_contexts(self, options: ArrayLike) -> IntArray:
        """``(H,)`` the context on which each layer of a member errs."""
        return np.array([self.error_sets[h][option] for h, option in enumerate(self.check_options(options))])

    def policy(self, options: ArrayLike) -> ErrorSetPolicy:
        return ErrorSetPolicy(self.error_contexts(options), prompt_length=self.prompt_length)


def _check_contexts(name: str, contexts: ArrayLike, n_contexts: int) -> IntArray:
    ids = as_array(name, contexts)
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be a non-empty list of integers, not shape {ids.shape} of {ids.dtype}.")
    if ids.min() < 0 or ids.max() >= n_contexts:
        raise ValueError(
            f"{name} must hold contexts in [0, {n_contexts - 1}]; it goes from {ids.min()} to {ids.max()}."
        )
    return ids.astype(np.int64)
