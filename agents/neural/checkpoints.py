"""Training runs in files: written whole or not at all, and continued as if they had never stopped."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from agents.base import Agent
    from agents.neural.training import Run

__all__ = ["Checkpoint", "CheckpointError", "identity", "plain"]

FORMAT = "ntp-envs training run 2"
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile),
    *(ValueError, LookupError, AttributeError, TypeError),
)


class Checkpoint:
    """The file of one training run.

    It holds all that the next step depends on: weights, optimiser, step, the states of both generators, and the
    settings of the run. A run continued from it ends with the same bits as one that was not interrupted.

    Args:
        folder: made if it is not there; the file in it is ``run.pt``.
        every: steps between two writes.
        settings: what identifies the run: all that its result depends on; a file of other settings is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int, settings: dict[str, Any]) -> None:
        self.path, self.every, self.settings = Path(folder) / "run.pt", every, plain(settings)

    def save(self, run: Run) -> None:
        """Write the run, replacing what was there at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "settings": json.dumps(self.settings),
            "step": run.step,
            "objective": run.objective.state_dict(),
            "optimiser": run.optimiser.state_dict(),
            "rng": json.dumps(run.rng.bit_generator.state),
            "generator": run.generator.get_state(),
            "losses": torch.tensor(run.losses, dtype=torch.float64),
            "gradient_norms": torch.tensor(run.gradient_norms, dtype=torch.float64),
        }
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        try:
            torch.save(content, partial)
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)

    def restore(self, run: Run) -> None:
        """Put ``run`` where the file left off; without a file, leave it as it is.

        Raises:
            CheckpointError: the file cannot be read, or is of a run with other settings (the message names them).
        """
        if not self.path.exists():
            return
        device = next(run.objective.parameters()).device
        try:
            content = torch.load(self.path, map_location=device, weights_only=True)
            if content["format"] != FORMAT:
                raise ValueError(f"it holds {content['format']!r}")
            self._check_settings(json.loads(content["settings"]))
            run.objective.load_state_dict(content["objective"])
            run.optimiser.load_state_dict(content["optimiser"])
            run.rng.bit_generator.state = json.loads(content["rng"])
            run.generator.set_state(content["generator"].cpu())
            run.step = int(content["step"])
            run.losses, run.gradient_norms = content["losses"].tolist(), content["gradient_norms"].tolist()
        except CheckpointError:
            raise
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({error}); delete it to train from the beginning."
            ) from error

    def _check_settings(self, theirs: dict[str, Any]) -> None:
        there, now = _flat(theirs), _flat(self.settings)
        names = sorted(n for n in {*there, *now} if there.get(n) != now.get(n))
        if names:
            pairs = ", ".join(f"{n}: {there.get(n)!r} there, {now.get(n)!r} now" for n in names)
            raise CheckpointError(
                f"{self.path} is the checkpoint of a run with other settings ({pairs}); use another folder, or "
                "delete it."
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level, with names such as ``data.size``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


#: hyper-parameters that the result does not depend on
FREE = ("checkpoint", "checkpoint_every", "on_step", "on_step_every", "progress")


def identity(agent: Agent, *, free: Sequence[str] = (), **resolved: Any) -> dict[str, Any]:
    """What a training run of an agent depends on: every hyper-parameter but those that are known to be free.

    So one that is added to an agent is part of its checkpoints' identity without being named.

    Args:
        agent: whose.
        free: more names that make no difference, or that ``resolved`` tells better.
        resolved: data, seeds and the like, and hyper-parameters as they come out on this machine.
    """
    given = {name: value for name, value in agent.get_params(deep=False).items() if name not in (*FREE, *free)}
    return {"agent": type(agent).__name__, **given, "threads": torch.get_num_threads(), **resolved}


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from: it is damaged, or of a run with other settings, data or seed."""


def plain(value: Any) -> Any:
    """Anything as JSON holds it: numbers of numpy as numbers, what JSON has no form for as its ``repr``."""

    def other(item: Any) -> Any:
        return item.tolist() if isinstance(item, np.generic | np.ndarray) else repr(item)

    return json.loads(json.dumps(value, default=other))
