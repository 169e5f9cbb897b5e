"""Optional libraries, imported where they are needed, with a message that names what to install."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_extra"]


def import_extra(*modules: str, what: str, install: str) -> Any:
    """Import the modules and return the first.

    Args:
        *modules: names, such as ``"minari"``; all of them must be there.
        what: what cannot be done without them, in words.
        install: the command that installs them.

    Raises:
        ImportError: one is missing; the message names it, what it is for and the command.

    >>> import_extra("json", what="reading JSON", install="pip install python").__name__
    'json'
    """
    found = []
    for module in modules:
        try:
            found.append(importlib.import_module(module))
        except ImportError as error:
            raise ImportError(f"{what} needs {module}, which cannot be imported ({error}); {install}") from error
    return found[0]
