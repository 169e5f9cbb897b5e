"""Exceptions of the suite. Both are ``ValueError``, so that a plain ``except ValueError`` still works."""

from __future__ import annotations

__all__ = ["NotTractableError", "WellSpecifiedError"]


class NotTractableError(ValueError):
    """An exact computation was asked for that would not fit in memory or time; the message gives the way round."""


class WellSpecifiedError(ValueError):
    """The approximation factor was asked for where the policy class contains the expert (it would be x / 0)."""
