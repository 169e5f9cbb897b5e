"""Feature maps made from others, and from a plain function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import as_array, check_int
from ntp_envs.features.base import ContextFeatureMap, FeatureStates, FloatArray

__all__ = ["CallableFeatures", "Concatenated", "PairwiseProducts"]


class PairwiseProducts(ContextFeatureMap):
    """All products u_i u_j, i <= j, of another map's features.

    Those with i < j are multiplied by sqrt 2, so that ``<v, v'> = <u, u'>^2`` and the norm is ``||u||^2 <= 1``. With a
    bias among the u the linear terms are included.

    Args:
        of: a context feature map.

    >>> from ntp_envs.features import WindowOneHot
    >>> PairwiseProducts(WindowOneHot(2, 2)).n_context
    15
    """

    def __init__(self, of: ContextFeatureMap) -> None:
        if not isinstance(of, ContextFeatureMap):
            raise TypeError(f"of must be a ContextFeatureMap, not {type(of).__name__}.")
        self.of, self.window, self.horizon = of, of.window, of.horizon
        self._first, self._second = np.triu_indices(of.n_context)
        self._factor = np.where(self._first == self._second, 1.0, math.sqrt(2.0))
        super().__init__(of.vocab_size, len(self._first))

    def _products(self, u: FloatArray) -> FloatArray:
        return u[..., self._first] * u[..., self._second] * self._factor

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._products(self.of.context(prompts, tokens))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._products(self.of.path(prompts, tokens))

    def states(self) -> FeatureStates | None:
        inner = self.of.states()
        if inner is None:
            return None
        return FeatureStates(inner.transitions, self._products(inner.features), inner.order, inner.initial)


class Concatenated(ContextFeatureMap):
    """Several context feature maps side by side, divided by the square root of their number: norms stay <= 1.

    The window is the widest of theirs, where all have one.

    Args:
        maps: context feature maps over one vocabulary.

    >>> from ntp_envs.features import PromptFeatures, WindowOneHot
    >>> Concatenated([WindowOneHot(2, 1), PromptFeatures(2, 1)]).n_context
    6
    """

    def __init__(self, maps: Sequence[ContextFeatureMap]) -> None:
        self.maps = list(maps)
        if not self.maps:
            raise ValueError("maps is empty; at least one feature map is needed.")
        sizes = {part.vocab_size for part in self.maps}
        if len(sizes) > 1:
            raise ValueError(f"the maps have different vocabulary sizes {sorted(sizes)}; one is needed.")
        windows = [part.window for part in self.maps if part.window is not None]
        horizons = [part.horizon for part in self.maps if part.horizon is not None]
        self.window = max(windows) if len(windows) == len(self.maps) else None
        self.horizon = min(horizons, default=None)
        super().__init__(sizes.pop(), sum(part.n_context for part in self.maps))

    def _joined(self, parts: list[FloatArray]) -> FloatArray:
        return np.concatenate(parts, axis=-1) / math.sqrt(len(self.maps))

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._joined([part.context(prompts, tokens) for part in self.maps])

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._joined([part.path(prompts, tokens) for part in self.maps])


class CallableFeatures(ContextFeatureMap):
    """Context features from a plain function ``(prompts (B, P), tokens (B, t)) -> (B, c)``.

    Every answer is checked: right shape, finite, norms at most 1 (to 1e-9). A longer row is refused, or with
    ``rescale`` divided by its norm (shorter rows stay as they are).

    Args:
        function: the map; a module-level function if it is to be pickled.
        vocab_size: A.
        n_context: c.
        window: promise that the function sees only this many of the last tokens; trusted, it lets contexts be pooled.
        rescale: divide rows longer than 1 by their norm instead of refusing them.

    Raises:
        ValueError: on use, a wrong shape, a value that is not finite, or a norm above 1 without ``rescale``.

    >>> import numpy as np
    >>> count = CallableFeatures(lambda x, a: a.mean(axis=1, keepdims=True) if a.size else np.zeros((len(a), 1)), 2, 1)
    >>> count.context(np.zeros((1, 0), int), np.array([[0, 1]])).tolist()
    [[0.5]]
    """

    def __init__(
        self,
        function: Callable[[NDArray[np.integer], NDArray[np.integer]], ArrayLike],
        vocab_size: int,
        n_context: int,
        window: int | None = None,
        rescale: bool = False,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function={function!r} must be callable: (prompts, tokens) -> (B, c) features.")
        self.function, self.rescale = function, bool(rescale)
        self.window = None if window is None else check_int("window", window, minimum=0)
        super().__init__(vocab_size, n_context)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        u = as_array("what the function returned", self.function(prompts, tokens), np.float64)
        if u.shape != (len(tokens), self.n_context):
            raise ValueError(f"the features have shape {u.shape}; {(len(tokens), self.n_context)} is needed.")
        norms = np.sqrt((u * u).sum(axis=1))
        if not np.isfinite(norms).all():
            row = int(np.flatnonzero(~np.isfinite(norms))[0])
            raise ValueError(
                f"the features of row {row} after {np.shape(tokens)[1]} tokens are not finite: {u[row]}; "
                "mend the function (a division by zero at the empty prefix is the usual cause)."
            )
        if norms.max(initial=0.0) <= 1 + 1e-9:
            return u
        if not self.rescale:
            row = int(norms.argmax())
            raise ValueError(
                f"the features of row {row} have norm {norms[row]:.6g}; norms are at most 1. Divide by a bound, or "
                "use rescale=True, which divides each longer row by its own norm."
            )
        return u / np.maximum(norms, 1.0)[:, None]
