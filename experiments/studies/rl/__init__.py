"""Which rewards recover the expert's distribution, and what does asking the expert save?"""

from experiments.studies.rl.analysis import analyse
from experiments.studies.rl.options import RLOptions
from experiments.studies.rl.sweep import cells
from experiments.study import Study

__all__ = ["STUDY"]

STUDY = Study(
    name="rl",
    question="Which rewards recover the expert's distribution, which collapse to its mode, and what does DAgger save?",
    options=RLOptions,
    cells=cells,
    analyse=analyse,
)
