"""Where torch computes."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["evaluation_device", "resolve_device"]


def resolve_device(device: Any) -> torch.device:
    """``"auto"`` is CUDA where there is one, otherwise the CPU; anything else as torch reads it.

    Raises:
        ValueError: a device that torch does not know, or that this machine does not have.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({str(error).splitlines()[0]}); use 'auto' or 'cpu'."
        ) from error
    return found


def evaluation_device(device: torch.device) -> str:
    """Where the policy of a network trained on ``device`` is evaluated: there, but for MPS, which has no float64."""
    return "cpu" if device.type == "mps" else str(device)
