"""On how many CPU threads torch computes. Imported only by what needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["limited_threads"]


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Inside, torch computes on so many CPU threads; ``None`` leaves it as it is.

    The order in which a sum is taken, and with it the last bits of a result, depends on their number; for small
    networks one is also faster where cores are shared. It is a setting of the process: other Python threads see it
    too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
