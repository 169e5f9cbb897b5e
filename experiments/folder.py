"""The output folder of a run: what it is for, and when it may be written to."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.study import Study

__all__ = ["FolderError", "OutputFolder", "run_settings"]

PACKAGES = ("numpy", "scipy", "gymnasium", "ntp-envs")


class FolderError(ValueError):
    """An output folder that must not be written to; the message names the ways out."""


def run_settings(study: Study, options: Any, *, quick: bool, seed: int) -> dict[str, Any]:
    """What ``config.json`` holds: everything a result depends on, and nothing else (no dates, no worker count)."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    settings = {
        "study": study.name,
        "quick": quick,
        "seed": seed,
        "options": dataclasses.asdict(options),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be when read back


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


@dataclass(frozen=True)
class OutputFolder:
    """Where a run keeps its settings, results, figures and report.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def results(self) -> Path:
        return self.path / "results.sqlite"

    @property
    def summary(self) -> Path:
        return self.path / "summary.csv"

    @property
    def timings(self) -> Path:
        return self.path / "timings.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """What unfinished cells have left to go on from (`experiments.study.Cell.scratch`)."""
        return (self.path / "checkpoints").absolute()

    def prepare(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Make the folder ready for a run with these settings, or for going on with one.

        Args:
            settings: from `run_settings`.
            overwrite: throw away the results of a run with other settings.

        Raises:
            FolderError: the folder holds something else, or a run with other settings and ``overwrite`` is false.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"{self.path} is a file; choose another folder with --out.")
        if self.path.is_dir() and any(self.path.iterdir()):
            differing = self._differing(settings)
            if differing and not overwrite:
                changes = "\n".join(f"  {name}: {old} there, {new} now" for name, (old, new) in differing.items())
                raise FolderError(
                    f"{self.path} holds a run with other settings:\n{changes}\n"
                    "Choose another folder with --out, or throw that run away with --overwrite."
                )
            if overwrite:
                self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _differing(self, settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        try:
            there = _flat(json.loads(self.config.read_text(encoding="utf-8")))
            there["study"], there["seed"]
        except FileNotFoundError:
            raise FolderError(
                f"{self.path} is not empty and holds no run of ours (no config.json); choose another folder with --out."
            ) from None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise FolderError(
                f"{self.config} is not the config.json of a run ({error!r}); choose another folder with --out."
            ) from error
        now, absent = _flat(settings), "absent"
        return {
            name: (there.get(name, absent), now.get(name, absent))
            for name in sorted({*there, *now})
            if there.get(name, absent) != now.get(name, absent)
        }

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (self.config, self.results, self.summary, self.timings, self.report):
            path.unlink(missing_ok=True)
        self.results.with_name(self.results.name + "-journal").unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for ending in ("*.png", "*.svg"):
            for path in self.path.glob(ending):
                path.unlink()
