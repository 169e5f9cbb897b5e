"""What a training step costs: floating-point operations, counted from the architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.neural import NetworkClass

__all__ = ["steps_within", "training_flops"]

#: a multiply-add is two operations, and the backward pass costs two forward passes (for weights and for inputs)
OPERATIONS = 2 * 3


def training_flops(network: NetworkClass, batch_size: int) -> int:
    """Floating-point operations of one step of teacher forcing on ``batch_size`` sequences of H tokens.

    Forward and backward, matrix products only: the convention of Kaplan et al. (2020, arXiv:2001.08361, section 2.1),
    without its approximations. Embedding look-ups are free, and so are sums, activations, norms, softmax and the
    optimiser. What the networks of `agents.neural` really do is counted:

    * a window network (``"linear"``, ``"mlp"``) of width e over W places maps each of the A + 2 tokens once for each
      place, W (A + 2) e^2 multiply-adds a step whatever the batch, and then looks sums up; the hidden layers cost e^2
      and the output e A a token;
    * a transformer reads S = G + H - 1 vectors (G of the prompt) with 12 e^2 multiply-adds each in a block and 2 S^2 e
      in its attention, masked places included; the last block asks only for the H vectors that predict.

    Args:
        network: its architecture and sizes.
        batch_size: sequences a step.

    >>> from agents.neural import NetworkClass
    >>> spec = NetworkClass("linear", 10, prompt_length=2, horizon=5, width=8, window=3)
    >>> training_flops(spec, 4) == 6 * (3 * 12 * 64 + 4 * 5 * 8 * 10)
    True
    """
    e, tokens = network.width, batch_size * network.horizon
    output = tokens * e * network.vocab_size
    if network.architecture == "transformer":
        return OPERATIONS * (batch_size * _blocks(network) + output)
    places = network.horizon if network.positional else 1
    table = places * network.window_length * (network.vocab_size + 2) * e * e
    hidden = (network.layers - 1 if network.architecture == "mlp" else 0) * tokens * e * e
    return OPERATIONS * (table + hidden + output)


def _blocks(network: NetworkClass) -> int:
    """Multiply-adds of all blocks for one sequence."""
    e, rows = network.width, network.horizon
    size = max(network.prompt_length // network.prompt_group, 1) + network.horizon - 1
    total = 0
    for block in range(network.layers):
        asked = rows if block == network.layers - 1 else size
        total += 2 * size * e * e + 10 * asked * e * e + 2 * asked * size * e  # keys and values; the rest; attention
    return total


def steps_within(budget: float, network: NetworkClass, batch_size: int) -> int:
    """The number of steps whose cost is nearest to a budget in operations; 0 where one step is over twice of it."""
    return round(budget / training_flops(network, batch_size))
