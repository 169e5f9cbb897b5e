"""Checks that the options of studies share."""

from __future__ import annotations

from collections.abc import Sequence

from ntp_envs._validation import check_int

__all__ = ["check_distinct"]


def check_distinct(name: str, values: Sequence[int], *, minimum: int = 1, maximum: int | None = None) -> None:
    """``ValueError`` unless the option holds at least one integer, each once and within its range."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}={values} must hold distinct integers, at least one.")
    for value in values:
        check_int(name, value, minimum=minimum, maximum=maximum)
