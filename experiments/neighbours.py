"""Is the package ``agents`` that Python finds ours? Many people have one of their own."""

from __future__ import annotations

import importlib
from pathlib import Path

__all__ = ["shadowed_agents"]


def shadowed_agents() -> str | None:
    """A message with the way round if something else is imported as ``agents``; ``None`` if all is well."""
    ours = Path(__file__).resolve().parent.parent / "agents"
    try:
        found = importlib.import_module("agents")
    except Exception as error:
        return _message(f"`import agents` fails ({type(error).__name__}: {error})", ours)
    file = getattr(found, "__file__", None)
    places = [file] if file else list(getattr(found, "__path__", []))
    is_ours = any(ours in (Path(place).resolve(), Path(place).resolve().parent) for place in places)
    if is_ours and hasattr(found, "Agent"):
        return None
    if is_ours:
        return (
            f"the package `agents` at {ours} was imported without its contents; the installation is stale or another "
            "distribution has replaced files of it. Install ntp-envs again, in an environment of its own."
        )
    return _message(f"the package `agents` that Python finds is {', '.join(places) or found!r}", ours)


def _message(what: str, ours: Path) -> str:
    return (
        f"{what}, not the one of ntp-envs ({ours}). Something that comes earlier on sys.path shadows it: a folder or "
        "file named agents in the current folder or on PYTHONPATH, or another installed distribution. Run "
        f"`ntp-bench` from another folder, or put ours first: PYTHONPATH={ours.parent} ntp-bench ...; or install "
        "ntp-envs in an environment of its own. `ntp_envs` works without it."
    )
