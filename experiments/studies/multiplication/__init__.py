"""Multiplication by a linear next-token predictor: with weights written down, and with weights learned."""

from experiments.studies.multiplication.analysis import analyse
from experiments.studies.multiplication.options import MultiplicationOptions
from experiments.studies.multiplication.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="multiplication",
    question="Which steps of written multiplication can a linear predictor do, and which does it learn?",
    options=MultiplicationOptions,
    cells=cells,
    analyse=analyse,
    labels=("format", "digits", "step", "kind", "addends"),
)
