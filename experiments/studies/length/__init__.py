"""How long must a chain of thought be? Accuracy against length, samples, vocabulary and the richness of a step."""

from experiments.studies.length.analysis import analyse
from experiments.studies.length.options import LengthOptions
from experiments.studies.length.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="length",
    question="Which chains of thought make a parity learnable by a linear predictor, and what does a short one cost?",
    options=LengthOptions,
    cells=cells,
    analyse=analyse,
    labels=("format", "V", "degree", "p", "round"),
)
