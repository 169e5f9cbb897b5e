"""Networks in studies: they are trained where torch is installed, unless the user says otherwise."""

from __future__ import annotations

__all__ = ["require_torch", "trains_networks", "without_torch"]


def without_torch() -> str | None:
    """Why no network can be trained here, with the way out; ``None`` where one can."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"networks need torch, which the extra 'neural' brings: pip install \"ntp-envs[neural]\" ({error})"
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
    if neural == "yes":
        require_torch(" Or leave the networks out with --neural no.")
    return without_torch() is None


def require_torch(otherwise: str = "") -> None:
    """Raises:
    ValueError: torch is missing; names the extra that brings it, and ``otherwise`` what else can be done.
    """
    if missing := without_torch():
        raise ValueError(f"{missing}.{otherwise}")
