"""Importing this suite, in a new process, over what it imports: numpy and gymnasium, themselves timed as the peer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from experiments.benchmarks import Clock, Row, Side


def importing(module: str, after: str = "sys") -> Side:
    """Processor seconds of ``import module`` once ``after`` is imported."""
    code = f"import time, {after}\nbegun = time.process_time()\nimport {module}\nprint(time.process_time() - begun)"

    def side(clock: Clock) -> None:
        clock.seconds = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    return side


def rows(quick: bool) -> Iterator[Row]:
    """Both packages, each over what it stands on."""
    peer = {"import numpy, gymnasium": importing("numpy, gymnasium")}
    for work, after, goal in (("ntp_envs", "numpy, gymnasium", "0.1 s"), ("agents.log_loss", "ntp_envs", "0.05 s")):
        yield Row(f"import {work}", f"after {after}", importing(work, after), peer, lambda ours, theirs: True, goal)
