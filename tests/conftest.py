"""Shared fixtures: one seeded generator a test, and no test may touch numpy's global random state."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices, one worker a core: BLAS threads only spin

import numpy as np
import pytest
from hypothesis import settings
from laws import USUAL

settings.register_profile("repeat", deadline=None, derandomize=True, max_examples=USUAL)
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=10 * USUAL, print_blob=True)
settings.load_profile("repeat")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250218)
