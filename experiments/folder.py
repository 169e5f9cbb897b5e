"""The output folder of a run: what it is for, and when it may be written to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.study import Study
from experiments.threads import THREADS, kernels

__all__ = ["FolderError", "OutputFolder", "run_settings"]

PACKAGES = ("numpy", "scipy", "gymnasium", "ntp-envs")
#: the setting that may change when a run is continued: other kernels round otherwise, and no result hangs on rounding
KERNELS = "kernels"
#: what a task's parameters in an option may hold
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


class FolderError(ValueError):
    """An output folder that must not be written to; the message names the ways out."""


def run_settings(study: Study, options: Any, *, quick: bool, seed: int) -> dict[str, Any]:
    """What ``config.json`` holds: everything a result depends on, and nothing else (no dates, no worker count).

    ``kernels`` decide the last bits only. A run may go on where they are others; all that had a part in it are listed.
    """
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    settings = {
        "study": study.name,
        "quick": quick,
        "seed": seed,
        "options": dataclasses.asdict(options),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": THREADS,
        KERNELS: kernels(),
    }
    if files := _read_files(study, dataclasses.asdict(options)):
        settings["files"] = files
    return json.loads(json.dumps(settings))  # tuples become lists, as they will be when read back


def _read_files(study: Study, options: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every file that is read: one that `Study.reads` names, or that a task of ``tasks`` quotes."""
    names = [options[name] for name in study.reads]
    names += [quoted for task in options.get("tasks", ()) for pair in QUOTED.findall(task) for quoted in pair]
    return {name: _sha256(name) for name in names if name and os.path.isfile(os.path.expanduser(name))}


def _sha256(name: str) -> str:
    digest = hashlib.sha256()
    with open(os.path.expanduser(name), "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


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


def _differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, but for the kernels, by name: there and now."""
    there, now, absent = _flat(there), _flat(now), "absent"
    return {
        name: (there.get(name, absent), now.get(name, absent))
        for name in sorted({*there, *now} - {KERNELS})
        if there.get(name, absent) != now.get(name, absent)
    }


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

    def prepare(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
        """Make the folder ready for a run with these settings, or for going on with one.

        Args:
            settings: from `run_settings`.
            overwrite: throw away the results of a run with other settings.

        Returns:
            The settings as they are written: with the kernels of the run that is continued, too.

        Raises:
            FolderError: the folder holds something else, or a run with other settings and ``overwrite`` is false.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"{self.path} is a file; choose another folder with --out.")
        settings = dict(settings)
        if self.path.is_dir() and any(self.path.iterdir()):
            there = self._settings_there()
            differing = _differing(there, settings)
            if differing and not overwrite:
                changes = "\n".join(f"  {name}: {old} there, {new} now" for name, (old, new) in differing.items())
                raise FolderError(
                    f"{self.path} holds a run with other settings:\n{changes}\n"
                    "Choose another folder with --out, or throw that run away with --overwrite."
                )
            if overwrite:
                self._clear()
            else:
                settings[KERNELS] = sorted({*map(str, there.get(KERNELS, ())), *settings[KERNELS]})
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return settings

    def _settings_there(self) -> dict[str, Any]:
        try:
            there = json.loads(self.config.read_text(encoding="utf-8"))
            there["study"], there["seed"], set(there.get(KERNELS, ()))
        except FileNotFoundError:
            raise FolderError(
                f"{self.path} is not empty and holds no run of ours (no config.json); choose another folder with --out."
            ) from None
        except Exception as error:  # a damaged file raises whatever json and what is read from it do
            raise FolderError(
                f"{self.config} is not the config.json of a run ({error!r}); choose another folder with --out."
            ) from error
        return there

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (self.config, self.results, self.summary, self.timings, self.report):
            path.unlink(missing_ok=True)
        self.results.with_name(self.results.name + "-journal").unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for ending in ("*.png", "*.svg"):
            for path in self.path.glob(ending):
                path.unlink()
