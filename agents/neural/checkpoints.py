"""Training runs in files: written whole or not at all, and continued as if they had never stopped."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from agents.neural.training import Run

__all__ = ["Checkpoint"]

FORMAT = "ntp-envs training run 1"
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
        settings: what identifies the run, as JSON holds it; a file of other settings is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int, settings: dict[str, Any]) -> None:
        self.path, self.every, self.settings = Path(folder) / "run.pt", every, json.loads(json.dumps(settings))

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
            ValueError: the file cannot be read, or is of a run with other settings (the message names them).
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
        except _OtherRun:
            raise
        except _UNREADABLE as error:
            raise ValueError(
                f"{self.path} is not a readable checkpoint ({error}); delete it to train from the beginning."
            ) from error

    def _check_settings(self, theirs: dict[str, Any]) -> None:
        names = sorted(n for n in {*theirs, *self.settings} if theirs.get(n) != self.settings.get(n))
        if names:
            pairs = ", ".join(f"{n}: {theirs.get(n)!r} there, {self.settings.get(n)!r} now" for n in names)
            raise _OtherRun(
                f"{self.path} is the checkpoint of a run with other settings ({pairs}); use another folder, or "
                "delete it."
            )


class _OtherRun(ValueError):
    """A checkpoint of other settings."""
