"""Product classes Pi_1 x ... x Pi_H: a choice of its own at every layer, no parameters shared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._validation import as_array, check_int
from ntp_envs.checked import checked_policy
from ntp_envs.policies import Policy
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["ProductClass", "ProductPolicy"]

FloatArray = NDArray[np.float64]


class ProductPolicy(Policy):
    """The policy that uses ``layers[h]`` for token h (0-based)."""

    def __init__(self, layers: Sequence[Policy]) -> None:
        lengths = {layer.prompt_length for layer in layers if layer.prompt_length is not None}
        super().__init__(
            layers[0].vocab_size,
            horizon=len(layers),
            prompt_length=lengths.pop() if len(lengths) == 1 else None,
        )
        self.layers = list(layers)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(tokens.shape[1] + 1)
        return self.layers[tokens.shape[1]].next_log_probs(prompts, tokens)


class ProductClass(PolicyClass):
    """One policy to choose at each of H layers, independently.

    The parameter of a member is an ``(H,)`` array of option numbers. A subclass may override
    `option_log_probs` and `policy` where its options are cheaper to evaluate together.

    Args:
        layers: H sequences of policies; ``layers[h]`` are the options for token h.

    Raises:
        ValueError: no layers, a layer without options, different vocabularies.

    >>> from ntp_envs import BernoulliPolicy
    >>> ProductClass([[BernoulliPolicy(0.1), BernoulliPolicy(0.2)]] * 3).n_options
    (2, 2, 2)
    """

    def __init__(self, layers: Sequence[Sequence[Policy]]) -> None:
        self.layers = [list(options) for options in layers]
        if not self.layers or not all(self.layers):
            raise ValueError("every one of the H >= 1 layers needs at least one option.")
        sizes = {policy.vocab_size for options in self.layers for policy in options}
        if len(sizes) > 1:
            raise ValueError(f"the options have different vocabulary sizes {sorted(sizes)}; one is needed.")
        super().__init__(sizes.pop(), horizon=len(self.layers))

    @property
    def n_options(self) -> tuple[int, ...]:
        """Number of options at each of the H layers."""
        return tuple(len(options) for options in self.layers)

    def option_log_probs(self, layer: int, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, n_options[layer])`` log-probability of token ``layer`` given what precedes it, under each option."""
        rows, token = np.arange(len(tokens)), tokens[:, layer]
        options = (checked_policy(f"layer {layer}, option {j}", option) for j, option in enumerate(self.layers[layer]))
        return np.stack([option.next_log_probs(prompts, tokens[:, :layer])[rows, token] for option in options], axis=1)

    def policy(self, options: ArrayLike) -> Policy:
        """The member that takes option ``options[h]`` at layer h."""
        return ProductPolicy([self.layers[h][option] for h, option in enumerate(self.check_options(options))])

    def check_options(self, options: ArrayLike) -> NDArray[np.int64]:
        """``options`` as an ``(H,)`` int64 array, each in range; ``ValueError`` otherwise."""
        chosen = as_array("options", options)
        sizes = self.n_options
        if chosen.shape != (len(sizes),):
            raise ValueError(f"options has shape {chosen.shape}; ({len(sizes)},) is needed, one a layer.")
        for h, option in enumerate(chosen):
            check_int(f"options[{h}]", option, minimum=0, maximum=sizes[h] - 1)
        return chosen.astype(np.int64)
