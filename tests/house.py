"""The house in numbers: ``python tests/house.py [--against REVISION]``, a table in markdown, before and after.

Files and lines a folder, passages that stand twice, modules that only one other imports, circles of imports, the time
that each package takes to import, and the length of the evening's reading list at the head of ``ntp_envs/__init__.py``.
An import counts wherever it stands (in a function, under ``TYPE_CHECKING``) and so does a name in a list of strings,
``"package.module:name"``. Lines of code are those that Python would write: without comments, docstrings, line breaks
and imports. Chapters on what version 0.1 could not do are listed in `LATER`, and counted apart; abilities that came
into the other files are not.
"""

import argparse
import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("ntp_envs", "agents", "experiments")
FRONT_DOORS = ("ntp_envs", "agents", "experiments.cli")
#: by subject, the files on what version 0.1 (its last commit: 8276d95) could not do
LATER = {
    "language models": """ntp_envs/language.py ntp_envs/perturbed.py ntp_envs/hugging_face.py
        ntp_envs/tasks/language_model.py agents/neural/language.py experiments/language_models.py
        experiments/seeded_model.py experiments/benchmarks/language.py experiments/studies/lm.py""",
    "log-probabilities of others": "ntp_envs/distances/from_log_probs.py experiments/log_probs.py",
    "policies of others, checked": "ntp_envs/checked.py",
    "texts that end": "ntp_envs/tasks/documents.py",
    "files that run nothing": "ntp_envs/saved.py",
    "distillation, decoding, selection": """agents/neural/distillation.py experiments/studies/decoding.py
        experiments/studies/distillation.py experiments/studies/selection.py""",
    "divergences, phases": "experiments/studies/divergence.py experiments/studies/phase.py",
    "suite and leaderboard": """experiments/leaderboard.py experiments/aggregate.py
        experiments/studies/suite.py""",
    "advice": "experiments/advise.py experiments/advise_command.py experiments/studies/advice.py",
    "clusters, fingerprints": "experiments/clusters.py experiments/fingerprints.py experiments/threads.py",
    "commands": "experiments/completion.py experiments/difference.py experiments/info.py",
    "teaching": "experiments/classroom.py experiments/explore.py experiments/play.py ntp_envs/plots.py",
    "calibration, growth, benchmarks": """experiments/calibration.py experiments/growth.py
        experiments/benchmarks/ngram.py experiments/benchmarks/neural.py experiments/benchmarks/demonstrations.py
        experiments/benchmarks/start.py""",
}


@contextmanager
def checkout(revision, root=ROOT):
    """A folder with the repository as it was at a revision, in a worktree of git's that is gone afterwards."""
    git = ["git", "-C", str(root), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "old"
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


@cache
def modules(root=ROOT):
    """Every module's name and file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(root=ROOT):
    """For every module, those of ours that it imports or names in a string: the deepest that the words name."""
    known = modules(root)

    def module_of(words):
        while words and words not in known:
            words = words.rpartition(".")[0]
        return words

    edges = {}
    for name, path in known.items():
        said = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                said |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                said |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said |= {node.value.partition(":")[0]} if re.fullmatch(r"(\w+\.)+\w+:\w+", node.value) else set()
        edges[name] = {module_of(words) for words in said} - {name, ""}
    return edges


def circles(edges):
    """Groups of modules each of which leads back to itself through the others (Tarjan's components)."""
    order, lowest, stack, found = {}, {}, [], []

    def visit(module):
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in edges[module]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in edges:
        if module not in order:
            visit(module)
    return found


def imported_once(root=ROOT):
    """Modules that exactly one other imports, and that no package hands out, no list names and no folder (studies)."""
    found, edges = modules(root), imports(root)
    users = Counter(other for others in edges.values() for other in others)
    faces = {name for name in found if name.startswith("experiments.studies.")}
    faces |= {other for name, others in edges.items() if found[name].name == "__init__.py" for other in others}
    files = {name: path.name for name, path in found.items()}
    return [name for name in found if users[name] == 1 and name not in faces and files[name] != "__init__.py"]


def reading_list(root=ROOT):
    """``[(file, names, lines)]`` of the evening; no names: the whole file."""
    words = ast.get_docstring(ast.parse((root / "ntp_envs" / "__init__.py").read_text())) or ""
    out = []
    for file, names in re.findall(r"^ {4}(\S+\.py)(?: \(([^)]*)\))?$", words, flags=re.MULTILINE):
        text = (root / file).read_text()
        wanted = names.split(", ") if names else []
        lines = len(text.splitlines())
        if wanted:
            parts = {node.name: node for node in ast.parse(text).body if hasattr(node, "name")}
            lines = sum(parts[name].end_lineno - parts[name].lineno + 1 for name in wanted)
        out.append((file, wanted, lines))
    return out


@cache
def code(path):
    """The lines of a file as Python would write them: without comments, docstrings, line breaks and imports."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    said = (line.strip() for line in ast.unparse(tree).splitlines())
    return [line for line in said if line and line != "pass" and not line.startswith(("import ", "from "))]


def counted(paths):
    """How many files these are, their lines, and those of code."""
    lines = sum(len(path.read_text().splitlines()) for path in paths)
    return {"files": len(paths), "lines": lines, "lines of code": sum(len(code(path)) for path in paths)}


def chapters(root=ROOT):
    """Files and lines of all packages, of the studies, and of the subjects that came after version 0.1 (`LATER`)."""
    every = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    later = {root / name for files in LATER.values() for name in files.split()}
    studies = root / "experiments" / "studies"
    groups = {"all packages": every, "of 0.1's subjects": [path for path in every if path not in later]}
    groups["studies of 0.1's subjects"] = [path for path in groups["of 0.1's subjects"] if studies in path.parents]
    out = {f"{what}, {name}": n for name, paths in groups.items() for what, n in counted(paths).items()}
    for subject, files in LATER.items():
        there = [root / name for name in files.split() if (root / name).exists()]
        out |= {f"lines since 0.1, {subject}": counted(there)["lines"]} if there else {}
    return out


def twins(root=ROOT, lines=4):
    """Passages of so many lines of `code` or more that stand elsewhere too: ``[(module, first line)]``."""
    texts = {name: code(path) for name, path in modules(root).items()}
    windows = {n: [tuple(t[i : i + lines]) for i in range(len(t) - lines + 1)] for n, t in texts.items()}
    seen = Counter(window for some in windows.values() for window in some)
    return [
        (name, some[i][0])
        for name, some in windows.items()
        for i in range(len(some))
        if seen[some[i]] > 1 and (i == 0 or seen[some[i - 1]] == 1)
    ]


def import_seconds(module, root=ROOT):
    """How long an import takes, numpy and gymnasium among it; the best of five."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return min(float(subprocess.check_output([sys.executable, "-c", code], cwd=root)) for _ in range(5))


def numbers(root=ROOT):
    """``{what: number}``, in the order of the table; folders by their path."""
    out = {}
    for folder in (*PACKAGES, "tests"):
        files = sorted((root / folder).rglob("*.py"))
        out[f"files, {folder}"] = len(files)
        for path in files:
            place = f"lines, {path.parent.relative_to(root).as_posix()}"
            out[place] = out.get(place, 0) + len(path.read_text().splitlines())
    parts = reading_list(root)
    return {
        **out,
        **chapters(root),
        "imported by one other only": len(imported_once(root)),
        "circles": len(circles(imports(root))),
        "passages of 4 lines or more that stand twice": len(twins(root)),
        "the evening, parts": len(parts),
        "the evening, lines": sum(lines for *_, lines in parts),
        **{f"import {package}, seconds": round(import_seconds(package, root), 2) for package in FRONT_DOORS},
    }


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="print its numbers too")
    against = parser.parse_args(words).against
    columns = {"now": numbers()}
    if against:
        with checkout(against) as old:
            columns = {against: numbers(old), **columns}
    print(f"| | {' | '.join(columns)} |\n|-|{'-:|' * len(columns)}")
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        print(f"| {name} | {' | '.join(str(column.get(name, '')) for column in columns.values())} |")


if __name__ == "__main__":
    main(sys.argv[1:])
