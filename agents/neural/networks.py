"""The networks, as torch modules: tokens in, one hidden vector for each next token out.

Shapes: B sequences, P prompt tokens, T tokens after it that are inputs, A tokens, e = width. A network answers T + 1
questions at once: what follows the prompt, and what follows each of the T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from agents.neural.classes import NetworkClass

__all__ = ["ACTIVATIONS", "Dropout", "Network", "State", "Transformer", "WindowNetwork"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}

#: what a network keeps of the sequences it has read, to go on from: tensors whose first axis is the batch
State = tuple[Tensor, ...]


class Network(nn.Module):
    """What the trainer and `TorchPolicy` know of a network. The token A is the dummy of teacherless training."""

    out: nn.Linear
    #: what products of matrices are taken in while it trains: ``"float32"`` or ``"bf16"``
    precision = "float32"

    def products(self) -> AbstractContextManager[Any]:
        """Inside, products of matrices are taken in ``precision``; weights, sums and norms stay as they are."""
        if self.precision == "float32":
            return nullcontext()
        # no cache: it would outlive the weights' next update inside an autocast of the caller's
        return torch.autocast(self.out.weight.device.type, torch.bfloat16, cache_enabled=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights, from this generator only. Called without gradients."""
        raise NotImplementedError

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        """``(B, P)`` prompts and ``(B, T)`` tokens -> ``(B, T + 1, e)`` hidden vectors, which `out` turns to logits."""
        raise NotImplementedError

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        """``(B, e)`` after the ``(B, P)`` prompts, and what to go on from."""
        raise NotImplementedError

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        """``(B, e)`` after the ``(B,)`` tokens more, which are number ``step`` (from 0) after the prompt."""
        raise NotImplementedError


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own (`torch.nn.Dropout` has only the global one)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0.0:
            return x
        kept = torch.empty_like(x).bernoulli_(1.0 - self.share, generator=self.generator)
        return x * kept / (1.0 - self.share)


class WindowNetwork(Network):
    """Linear or MLP: a sum over the last W tokens of one e x e map each, then hidden layers if there are any."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        self.window, self.vocab_size = spec.window_length, spec.vocab_size
        self.activation = None if spec.architecture == "linear" else ACTIVATIONS[spec.activation]
        self.positional = spec.positional
        e, places = spec.width, spec.horizon if spec.positional else 1
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size + 1, e))
        self.mix = nn.Parameter(torch.empty(places, self.window, e, e))  # oldest place of the window first
        self.bias = nn.Parameter(torch.empty(places, e))
        hidden = spec.layers - 1 if spec.architecture == "mlp" else 0
        self.hidden = nn.ModuleList(nn.Linear(e, e) for _ in range(hidden))
        self.dropout = Dropout(spec.dropout)
        self.out = nn.Linear(e, spec.vocab_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Scales that keep the variance of hidden units near one, and logits small."""
        e = self.embedding.shape[1]
        deviations = {"embedding": 1.0, "mix": 1.0 / math.sqrt(self.window * e), "out.weight": 1.0 / e}
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, deviations.get(name, 1.0 / math.sqrt(e)), generator=generator)

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        ids = F.pad(torch.cat([prompts, inputs], 1), (self.window, 0), value=self.vocab_size + 1)  # (B, W + P + T)
        return self._hidden(ids.unfold(1, self.window, 1)[:, -inputs.shape[1] - 1 :], 0)

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        ids = F.pad(prompts, (self.window, 0), value=self.vocab_size + 1)[:, prompts.shape[1] :]  # (B, W)
        return self._hidden(ids[:, None], 0)[:, 0], (ids,)

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        ids = torch.cat([state[0][:, 1:], tokens[:, None]], 1)  # (B, W)
        return self._hidden(ids[:, None], step + 1)[:, 0], (ids,)

    def _hidden(self, ids: Tensor, first: int) -> Tensor:
        """``(B, N, W)`` windows, for output positions ``first`` onwards -> ``(B, N, e)``."""
        embedding = F.pad(self.embedding, (0, 0, 0, 1))  # (A + 2, e): the last row, zero, is before the beginning
        places = slice(first, first + ids.shape[1]) if self.positional else slice(0, 1)
        # what each token adds from each place: ten times cheaper than mapping every occurrence
        table = torch.einsum("ae,nweo->nwao", embedding, self.mix[places]).to(embedding.dtype)  # (N or 1, W, A + 2, e)
        n, size = table.shape[0], table.shape[2]
        rows = torch.arange(n * self.window, device=ids.device).view(n, self.window) * size
        x = F.embedding_bag((ids + rows).flatten(0, 1), table.flatten(0, 2), mode="sum")  # (B N, e)
        x = x.view(*ids.shape[:2], x.shape[1]) + self.bias[places]
        if self.activation is None:
            return self.dropout(x)
        x = self.dropout(self.activation(x))
        for layer in self.hidden:
            x = self.dropout(self.activation(layer(x)))
        return x


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to what came in (pre-norm)."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        e = spec.width
        self.heads, self.activation = spec.heads, ACTIVATIONS[spec.activation]
        self.norm1, self.norm2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.query, self.key_value, self.project = nn.Linear(e, e), nn.Linear(e, 2 * e), nn.Linear(e, e)
        self.up, self.down = nn.Linear(e, 4 * e), nn.Linear(4 * e, e)
        self.dropout = Dropout(spec.dropout)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, S, e) -> (B, heads, S, e / heads)

    def forward(self, x: Tensor, mask: Tensor | None, past: State, keep: int) -> tuple[Tensor, State]:
        """``(B, S, e)`` -> the last ``keep`` of its vectors, and keys and values, those of the past first."""
        y = self.norm1(x)
        key, value = (self._split(part) for part in self.key_value(y).chunk(2, dim=2))
        if past:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        query = self._split(self.query(y[:, -keep:]))  # (B, heads, keep, e / heads)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x[:, -keep:] + self.dropout(self.project(seen.transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.down(self.activation(self.up(self.norm2(x)))))
        return x, (key, value)


class Transformer(Network):
    """A small decoder-only transformer that sees the whole prompt at once."""

    def __init__(self, spec: NetworkClass) -> None:
        super().__init__()
        e, self.group = spec.width, spec.prompt_group
        self.n_prompt = max(spec.prompt_length // self.group, 1)  # G vectors; without a prompt, one to begin with
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size + 1, e))
        self.begin_vector = nn.Parameter(torch.empty(1, e)) if spec.prompt_length == 0 else None
        self.roles = nn.Parameter(torch.empty(self.group, spec.vocab_size, e)) if self.group > 1 else None
        positions = spec.prompt_positions and spec.prompt_length > 0
        self.prompt_position = nn.Parameter(torch.empty(self.n_prompt, e)) if positions else None
        self.position = nn.Parameter(torch.empty(spec.horizon - 1, e))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(e)
        self.out = nn.Linear(e, spec.vocab_size)
        self.dropout = Dropout(spec.dropout)

    def initialise(self, generator: torch.Generator) -> None:
        """As GPT-2: normal of deviation 0.02, residual projections divided by sqrt(2 layers)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                residual = name.endswith(("project.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * len(self.blocks)) if residual else 0.02
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(self, prompts: Tensor, inputs: Tensor) -> Tensor:
        tokens = F.embedding(inputs, self.embedding) + self.position[: inputs.shape[1]]
        x = self.dropout(torch.cat([self._embed(prompts), tokens], 1))  # (B, S, e) with S = G + T
        size = x.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        mask[:, : self.n_prompt] = True  # everyone sees the whole prompt
        return self._run(x, mask, (), inputs.shape[1] + 1)[0]

    def begin(self, prompts: Tensor) -> tuple[Tensor, State]:
        hidden, state = self._run(self._embed(prompts), None, (), 1)
        return hidden[:, 0], state

    def read(self, state: State, tokens: Tensor, step: int) -> tuple[Tensor, State]:
        x = F.embedding(tokens, self.embedding) + self.position[step]  # (B, e)
        hidden, state = self._run(x[:, None], None, state, 1)
        return hidden[:, 0], state

    def _embed(self, prompts: Tensor) -> Tensor:
        """``(B, P)`` -> ``(B, G, e)``."""
        if self.begin_vector is not None:
            return self.begin_vector.expand(len(prompts), 1, -1)
        if self.roles is None:
            x = F.embedding(prompts, self.embedding)
        else:
            grouped = prompts.unflatten(1, (-1, self.group))  # (B, G, group)
            x = F.embedding(grouped[:, :, 0], self.roles[0])
            for role in range(1, self.group):
                x = x + F.embedding(grouped[:, :, role], self.roles[role])
        return x if self.prompt_position is None else x + self.prompt_position

    def _run(self, x: Tensor, mask: Tensor | None, past: State, keep: int) -> tuple[Tensor, State]:
        """Through the blocks; only the last ``keep`` vectors are wanted, which saves work in the last block."""
        state: State = ()
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            rows = keep if last else x.shape[1]
            seen = mask if mask is None else mask[-rows:]
            x, new = block(x, seen, past[2 * i : 2 * i + 2], rows)
            state += new
        return self.norm(x), state
