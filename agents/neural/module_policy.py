"""Any causal language model in torch as an `ntp_envs.Policy`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.neural.devices import resolve_device
from agents.torch_state import own_torch_state
from ntp_envs import Policy
from ntp_envs._validation import check_int
from ntp_envs.policies import check_sequences

__all__ = ["ModulePolicy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class ModulePolicy(Policy):
    """A module that turns ``(B, S)`` token ids into ``(B, S, A)`` logits of the token after each of them.

    That is what nanoGPT-like modules return, and what the models of the `transformers` library have in ``.logits`` of
    their output; both are taken. The module is used as it is: it is put into evaluation mode while it is asked and
    left in the mode it was in, and its weights, device and precision stay. Settings of the caller's that change what
    torch computes (`torch.autocast`, default types and so on) make no difference: put them into ``forward``. Each next
    token is one pass over the whole prefix; for long sequences from many prompts subclass
    `ntp_envs.policies.SequentialPolicy` with a cache instead.

    Args:
        module: causal, so that logits at a place depend on nothing after it.
        vocab_size: A; the module may have more logits, for tokens that are never used: the first A count.
        prompt_length: P.
        begin: id put before every sequence; needed where P is 0, as a model must read something to say anything.
        horizon: the longest answer it can read, or ``None``.
        batch_size: sequences a pass.
        device: where the ids go; ``None`` is where the module's weights are.

    Raises:
        ValueError, TypeError: on construction, parameters that do not fit; on use, logits of another shape.

    >>> gpt = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))
    >>> policy = ModulePolicy(gpt, 5, prompt_length=1)
    >>> policy.forced_log_probs(np.array([[4]]), np.array([[0, 1, 2]])).shape
    (1, 3, 5)
    """

    def __init__(
        self,
        module: torch.nn.Module,
        vocab_size: int,
        *,
        prompt_length: int,
        begin: int | None = None,
        horizon: int | None = None,
        batch_size: int = 256,
        device: str | None = None,
    ) -> None:
        super().__init__(vocab_size, horizon=horizon, prompt_length=prompt_length)
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}.")
        self.module = module
        self.begin = None if begin is None else check_int("begin", begin, minimum=0)
        if self.begin is None and prompt_length == 0:
            raise ValueError("without a prompt the module has nothing to read; give begin, the id to start from.")
        self.batch_size = check_int("batch_size", batch_size, minimum=1)
        self.device = None if device is None else resolve_device(device)

    def __repr__(self) -> str:
        return f"ModulePolicy({type(self.module).__name__}, vocab_size={self.vocab_size})"

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens)
        self._check_length(tokens.shape[1])
        out = np.empty((*tokens.shape, self.vocab_size))
        for rows, law in self._laws(prompts, tokens[:, :-1]):
            out[rows] = law
        return out

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens)
        self._check_length(tokens.shape[1])
        out = np.empty(tokens.shape)
        for rows, law in self._laws(prompts, tokens[:, :-1]):
            out[rows] = np.take_along_axis(law, tokens[rows][:, :, None], axis=2)[:, :, 0]
        return out

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens)
        self._check_length(tokens.shape[1] + 1)
        out = np.empty((len(tokens), self.vocab_size))
        for rows, law in self._laws(prompts, tokens):
            out[rows] = law[:, -1]
        return out

    def _laws(self, prompts: IntArray, inputs: IntArray) -> Iterator[tuple[slice, FloatArray]]:
        """``(b, T + 1, A)`` log-probabilities after the prompt and after each of T tokens, batch after batch."""
        ids = np.concatenate([prompts, inputs], axis=1)
        if self.begin is not None:
            ids = np.column_stack([np.full(len(ids), self.begin), ids])
        first = ids.shape[1] - inputs.shape[1] - 1
        training = self.module.training
        self.module.eval()
        try:
            for start in range(0, len(ids), self.batch_size):
                rows = slice(start, start + self.batch_size)
                yield rows, self._ask(ids[rows])[:, first:]
        finally:
            self.module.train(training)

    def _ask(self, ids: IntArray) -> FloatArray:
        device: Any = self.device
        if device is None:
            weight = next(self.module.parameters(), None)
            device = "cpu" if weight is None else weight.device
        with own_torch_state(device=device):
            try:
                found = self.module(torch.from_numpy(np.require(ids, requirements=["C", "W"])).to(device))
            except (IndexError, AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the module fails on ids of shape {ids.shape} ({type(error).__name__}: {error}). It must read ids "
                    f"up to {ids.max(initial=0)} and {ids.shape[1]} of them in a row: look at begin={self.begin} and "
                    f"vocab_size={self.vocab_size}, and at the horizon against the longest sequence that it takes."
                ) from error
        logits = getattr(found, "logits", found)
        if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape or logits.ndim != 3:
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"the module returned {shape}; logits of shape {(*ids.shape, self.vocab_size)} are needed."
            )
        if logits.shape[2] < self.vocab_size:
            raise ValueError(f"the module has logits for {logits.shape[2]} tokens, {self.vocab_size} are needed.")
        with own_torch_state():
            law = torch.log_softmax(logits[:, :, : self.vocab_size].to("cpu", torch.float64), dim=-1).numpy()
        if np.isnan(law).any():
            raise ValueError("the module returned logits that are not a number.")
        return law
