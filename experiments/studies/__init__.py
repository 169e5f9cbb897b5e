"""Studies: an experiment is a sweep and its analysis, in one place. A new one is a new file here with its ``STUDY``."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.study import Study

__all__ = ["ENTRY_POINT_GROUP", "STUDIES", "load_study", "study_names"]

#: under which an installed package offers studies of its own
ENTRY_POINT_GROUP = "ntp_envs.studies"

#: where each `experiments.study.Study` of this folder is: every file here is one; imported when it is asked for
STUDIES = {module.name: f"{__name__}.{module.name}:STUDY" for module in pkgutil.iter_modules(__path__)}


def study_names() -> list[str]:
    """Names that `load_study` knows, sorted."""
    return sorted({*STUDIES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def load_study(name: str) -> Study:
    """The study behind a name, or behind ``package.module:NAME``.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or one that cannot be imported.
    """
    from experiments.study import Study
    from ntp_envs.checks import did_you_mean

    places = {**{point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}, **STUDIES}
    place = places.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ValueError(f"unknown study {name!r}.{did_you_mean(name, places)}")
    try:
        study = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"study {name!r} cannot be imported: {error}.") from error
    if not isinstance(study, Study):
        raise ValueError(f"study {name!r}: {place} is a {type(study).__name__}, not an experiments.study.Study.")
    return study
