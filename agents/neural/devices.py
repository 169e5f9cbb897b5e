"""Where torch computes, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["limited_threads", "resolve_device"]


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Inside, torch computes on so many CPU threads; ``None`` leaves it as it is.

    The order in which a sum is taken, and with it the last bits of a result, depends on their number. It is a setting
    of the process: other Python threads see it too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
