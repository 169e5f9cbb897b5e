"""Shared fixtures: one seeded generator a test, and no test may touch numpy's global random state."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250218)
