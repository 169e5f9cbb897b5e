"""What Bash offers where Tab is pressed: the script is run by Bash itself."""

import shutil
import subprocess

import pytest

from agents import agent_names
from experiments.cli import COMMANDS, show_completion
from experiments.studies import study_names
from ntp_envs import task_names

TRY = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ntp_bench; echo "${COMPREPLY[@]}"'


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda text, end: printed.append(text))
        assert show_completion(["bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(printed[0])
    return path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([""], ["run", *COMMANDS]),
        (["run", "co"], [name for name in study_names() if name.startswith("co")]),
        (["run", "compare", "--age"], ["--agents"]),
        (["run", "compare", "--agents", "LogLossBC", "Ch"], [name for name in agent_names() if name.startswith("Ch")]),
        (["run", "compare", "--tasks", "Pa"], [name for name in task_names() if name.startswith("Pa")]),
        (["run", "compare", "--table", "m"], ["markdown"]),
        (["run", "text", "--corpus", "book"], []),  # files, which the shell adds
        (["evaluate", "Text", "Rho"], ["RhoEstimatorBC"]),
        (["info", "Cont"], ["Contamination"]),
        (["distance", "te"], []),
    ],
)
def test_names_are_completed(script, typed, offered):
    command = ["bash", "-c", f"source {script}; {TRY}", "bash", "ntp-bench", *typed]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(found) == sorted(offered)
