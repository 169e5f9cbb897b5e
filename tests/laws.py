"""How many random examples a law is tried on: the same few on every run, or many times as many new ones.

Every property test says ``@examples(30)``. Under the profile that the suite runs with (`tests/conftest.py`), these are
the same 18 examples each time; with ``pytest --hypothesis-profile explore`` they are 300 that nobody has seen, of the
seed that pytest prints or is given (``--hypothesis-seed``). What such a run ever finds becomes an ``@example`` of its
test.
"""

from hypothesis import settings

USUAL = 100  # examples of a test that does not say how many, before the profile scales them


def examples(number: int = USUAL) -> settings:
    """Hypothesis's settings with `number` examples, scaled as the profile in force scales its own."""
    return settings(max_examples=max(1, number * settings.default.max_examples // USUAL))
