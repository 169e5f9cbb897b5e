"""stable-baselines3 seeds and draws from global generators; here that stays local."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["global_generators_restored"]


@contextmanager
def global_generators_restored() -> Iterator[None]:
    """Whatever is seeded or drawn inside, the global generators of Python, numpy and torch are afterwards as before.

    CUDA generators are included where CUDA is in use. Not a lock: other threads that draw meanwhile are disturbed.
    """
    saved = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
