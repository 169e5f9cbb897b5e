"""Linear, MLP and transformer at equal data and compute on real text."""

from experiments.studies.scaling.analysis import analyse
from experiments.studies.scaling.options import ScalingOptions
from experiments.studies.scaling.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="scaling",
    question="Linear, MLP or transformer: which predicts text best at equal data and compute, and which drifts last?",
    options=ScalingOptions,
    cells=cells,
    analyse=analyse,
    labels=("budget", "width", "window"),
    reads=("corpus",),
)
