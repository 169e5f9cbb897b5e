"""A network as an `ntp_envs.Policy`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.neural.classes import NetworkClass
from agents.neural.devices import resolve_device
from agents.neural.networks import Network, State
from agents.torch_state import own_torch_state
from ntp_envs import Policy
from ntp_envs._validation import check_tokens
from ntp_envs.policies import Cursor, check_sequences

__all__ = ["TorchPolicy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CHUNK_NUMBERS = 2**23  # about how many float64 numbers the widest layer may take in one pass: 64 MiB


class TorchPolicy(Policy):
    """The law of the next token under a trained network; `NetworkClass.policy` builds one.

    Weights are kept as they were trained (float32) and evaluated in float64, so that the ways to ask agree: a cursor
    (window buffer, or cache of keys and values), `next_log_probs` from scratch and the one-pass `forced_log_probs`
    differ by rounding, below 1e-10 in the tests, and so do batches of different sizes, which are cut into chunks of
    bounded memory. Equal calls give equal bits on one machine, whatever torch's settings: on the CPU, evaluation takes
    one thread. Pickling keeps the weights, and gives back a policy on the CPU.

    Args:
        network_class: the specification.
        state: its weights by name, as `NetworkClass.checked_state` gives them.
        teacherless: tokens after the prompt are read as the dummy token: a product law given the prompt.
        device: where to compute; one without float64 (``"mps"``) is refused.

    >>> spec = NetworkClass("mlp", 3, prompt_length=1, horizon=4, width=8)
    >>> policy = spec.policy(spec.initialised(torch.Generator().manual_seed(0)))
    >>> policy.forced_log_probs(np.array([[2]]), np.array([[0, 1, 2, 0]])).shape
    (1, 4, 3)
    """

    def __init__(
        self, network_class: NetworkClass, state: dict[str, Tensor], *, teacherless: bool = False, device: Any = "cpu"
    ) -> None:
        super().__init__(
            network_class.vocab_size, horizon=network_class.horizon, prompt_length=network_class.prompt_length
        )
        self.network_class, self.state, self.teacherless = network_class, state, bool(teacherless)
        self.device = resolve_device(device)
        if self.device.type == "mps":
            raise ValueError("device='mps' has no float64, in which policies are evaluated; use device='cpu'.")

    def __repr__(self) -> str:
        return f"TorchPolicy({self.network_class!r}{', teacherless=True' if self.teacherless else ''})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "network"} | {"device": torch.device("cpu")}

    @cached_property
    def network(self) -> Network:
        """The network in float64, ready to be evaluated."""
        with own_torch_state():
            network = self.network_class.empty()
            copies = {name: value.to(self.device, torch.float64, copy=True) for name, value in self.state.items()}
            network.load_state_dict(copies, assign=True)
            return network.eval().requires_grad_(False)

    # -- whole sequences -----------------------------------------------------------------------------------------------

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out = np.empty((*np.shape(tokens), self.vocab_size))
        for rows, law in self._forced(prompts, tokens):
            out[rows] = law
        return out

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        out, index = np.empty(np.shape(tokens)), np.asarray(tokens, dtype=np.int64)[..., None]
        for rows, law in self._forced(prompts, tokens):
            out[rows] = np.take_along_axis(law, index[rows], axis=2)[:, :, 0]
        return out

    def _forced(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> Iterator[tuple[slice, FloatArray]]:
        """The rows of a chunk and their ``(b, H, A)`` teacher-forced law, chunk after chunk."""
        prompts, tokens = check_sequences(self, prompts, tokens)
        self._check_length(tokens.shape[1])
        for rows in self._chunks(len(tokens), tokens.shape[1]):
            yield rows, self._log_probs(self._run(prompts[rows], tokens[rows, :-1]))

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts, tokens = check_sequences(self, prompts, tokens)
        self._check_length(tokens.shape[1] + 1)
        out = np.empty((len(tokens), self.vocab_size))
        for rows in self._chunks(len(tokens), tokens.shape[1] + 1):
            out[rows] = self._log_probs(self._run(prompts[rows], tokens[rows])[:, -1])
        return out

    def _run(self, prompts: IntArray, inputs: IntArray) -> Tensor:
        """``(b, T + 1, e)``."""
        if self.teacherless:
            inputs = np.full_like(inputs, self.vocab_size)
        with own_torch_state(threads=1):
            return self.network(self.tensor(prompts), self.tensor(inputs))

    def _log_probs(self, hidden: Tensor) -> FloatArray:
        with own_torch_state(threads=1):
            return torch.log_softmax(self.network.out(hidden), dim=-1).cpu().numpy()

    def tensor(self, tokens: NDArray[np.integer]) -> Tensor:
        """Tokens as an int64 tensor on the policy's device."""
        return torch.from_numpy(np.require(tokens, dtype=np.int64, requirements=["C", "W"])).to(self.device)

    def _chunks(self, n: int, length: int) -> Iterator[slice]:
        """Rows whose widest intermediate result is about `CHUNK_NUMBERS` numbers."""
        rows = max(CHUNK_NUMBERS // self.network_class.numbers_per_sequence(length), 1)
        for start in range(0, max(n, 1), rows):
            yield slice(start, start + rows)

    # -- token by token ------------------------------------------------------------------------------------------------

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        prompts = check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length)
        with own_torch_state(threads=1):
            parts = [self.network.begin(self.tensor(prompts[rows])) for rows in self._chunks(len(prompts), 1)]
            return _TorchCursor(self, *_joined(parts), step=0)


class _TorchCursor(Cursor):
    """Hidden vectors ``(B, e)`` of what has been read, and what the network needs to read on."""

    def __init__(self, policy: TorchPolicy, hidden: Tensor, state: State, step: int) -> None:
        self.policy, self.hidden, self.state, self.step = policy, hidden, state, step
        self._law: FloatArray | None = None

    def log_probs(self) -> FloatArray:
        self.policy._check_length(self.step + 1)
        if self._law is None:
            self._law = self.policy._log_probs(self.hidden)
        return self._law.copy()

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        with own_torch_state(threads=1):
            picked = self.policy.tensor(rows)
            hidden, state = self.hidden[picked], tuple(part[picked] for part in self.state)
        return self._read(hidden, state, tokens)

    def advance(self, tokens: IntArray) -> Cursor:
        return self._read(self.hidden, self.state, tokens)

    def _read(self, hidden: Tensor, state: State, tokens: IntArray) -> Cursor:
        policy = self.policy
        if self.step + 1 < policy.network_class.horizon:  # after the last token there is nothing more to say
            read = np.full(len(tokens), policy.vocab_size) if policy.teacherless else tokens
            with own_torch_state(threads=1):
                hidden, state = policy.network.read(state, policy.tensor(read), self.step)
        return _TorchCursor(policy, hidden, state, self.step + 1)


def _joined(parts: list[tuple[Tensor, State]]) -> tuple[Tensor, State]:
    """Chunks of a batch put together."""
    hidden = torch.cat([part[0] for part in parts])
    return hidden, tuple(torch.cat(tensors) for tensors in zip(*(part[1] for part in parts)))
