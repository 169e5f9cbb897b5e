"""All benchmarks, one after the other: ``python -m experiments.benchmarks [--quick]``."""

from experiments.benchmarks import main, names

if __name__ == "__main__":
    main(*names())
