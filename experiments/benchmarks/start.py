"""Importing this suite, in a new process, over what it imports: numpy and gymnasium, themselves timed as the peer.

Modules are read compiled, as they are once a package has been installed or imported, also where an environment keeps
Python from writing compiled files: they have a folder of their own, which an import that does not count fills.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from experiments.benchmarks import Clock, Row, Side


def importing(module: str, after: str, compiled: str) -> Side:
    """Processor seconds of ``import module`` once ``after`` is imported; compiled modules are kept in a folder."""
    code = f"import time, {after}\nbegun = time.process_time()\nimport {module}\nprint(time.process_time() - begun)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled

    def run() -> float:
        process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
        return float(process.stdout)

    def side(clock: Clock) -> None:
        clock.seconds = run()

    run()
    return side


def rows(quick: bool) -> Iterator[Row]:
    """Both packages, each over what it stands on."""
    with tempfile.TemporaryDirectory() as compiled:
        peer = {"import numpy, gymnasium": importing("numpy, gymnasium", "sys", compiled)}
        for work, after, goal in (("ntp_envs", "numpy, gymnasium", "0.1 s"), ("agents.log_loss", "ntp_envs", "0.05 s")):
            ours = importing(work, after, compiled)
            yield Row(f"import {work}", f"after {after}", ours, peer, lambda ours, theirs: True, goal)
