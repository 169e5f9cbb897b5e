"""What a chain of thought buys a linear next-token model: Turing machines and parity, with it and without."""

from experiments.studies.turing.analysis import analyse
from experiments.studies.turing.options import TuringOptions
from experiments.studies.turing.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="turing",
    question="Can linear next-token models learn to compute, how far beyond their data, and what without the chain?",
    options=TuringOptions,
    cells=cells,
    analyse=analyse,
    labels=("chain", "length"),
)
