"""Shared fixtures: one seeded generator a test, and no test may touch numpy's global random state."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices, one worker a core: BLAS threads only spin

import gc
import random
import time

import numpy as np
import pytest
from hypothesis import settings
from laws import USUAL

from ntp_envs.distances import metrics

settings.register_profile("repeat", deadline=None, derandomize=True, max_examples=6 * USUAL // 10)
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=10 * USUAL, print_blob=True)
settings.load_profile("repeat")

BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seconds",
        type=float,
        help="begin no test after so many seconds; --hypothesis-seed draws the order, so that each has its turn",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays to the end: no search for garbage goes through it, now or in any test, and
    the searches through what tests make are fewer, as they took a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(50_000)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seconds") is not None:
        random.Random(config.getoption("--hypothesis-seed")).shuffle(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--seconds")
    if seconds is not None and time.monotonic() - BEGUN > seconds:
        pytest.skip(f"not reached within {seconds:g} seconds")


@pytest.fixture(autouse=True)
def metrics_of_the_suite():
    """What a test or an example registers is forgotten after it."""
    known = dict(metrics._known)
    yield
    metrics._known.clear()
    metrics._known.update(known)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250218)
