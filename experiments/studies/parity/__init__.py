"""The linear class at its limits: noisy parity, which it cannot represent, and contamination, which misleads it."""

from experiments.studies.parity.analysis import analyse
from experiments.studies.parity.options import ParityOptions
from experiments.studies.parity.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="parity",
    question="Is the error of a linear policy what its class cannot say, or what its learner amplifies?",
    options=ParityOptions,
    cells=cells,
    analyse=analyse,
    labels=("B",),
)
