"""Networks in studies: they are trained where torch is installed, unless the user says otherwise."""

from __future__ import annotations

__all__ = ["trains_networks", "without_torch"]


def without_torch() -> str | None:
    """Why no network can be trained here, with the way out; ``None`` where one can."""
    try:
        import agents.neural  # noqa: F401
    except ImportError as error:
        return str(error).rstrip(".")
    return None


def trains_networks(neural: str) -> bool:
    """Whether a study trains networks.

    Args:
        neural: its option: ``"auto"`` (where torch is there), ``"yes"`` or ``"no"``.

    Raises:
        ValueError: ``"yes"``, and torch is missing.
    """
    if neural == "no":
        return False
    missing = without_torch()
    if missing and neural == "yes":
        raise ValueError(f"{missing}. Or leave the networks out with --neural no.")
    return missing is None
