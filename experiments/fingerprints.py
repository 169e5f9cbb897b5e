"""What code a number was made by: the files behind a function or class, each with a hash of what it does.

A cell of a study keeps these hashes beside its records, so that a run which goes on knows the cells whose code was
edited meanwhile. Files are followed from import to import, without importing any: through packages of one's own and
ours. A name that is imported from a package leads to the module that defines it, not to all that the package hands
out. In `experiments`, where what makes numbers lies beside what keeps, counts and draws them, a name leads to what it
uses in its module, and the rest of that module does not count. Comments, docstrings and layout never do. Of other
distributions the version does, and the hash of what was installed.

    >>> sorted(code_behind(("experiments.fingerprints:digest",)))
    ['experiments/fingerprints.py']
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

OURS = ("ntp_envs", "agents", "experiments")
#: whose modules count name by name
BY_NAME = "experiments"
#: distributions whose versions are settings of the whole run, or that no number hangs on
KNOWN = {"numpy", "scipy", "gymnasium", "matplotlib", "rich", "tyro", "threadpoolctl"}
#: folders of what is installed
INSTALLED = {"site-packages", "dist-packages"}
#: a string that names an object, as registries have them
NAMED_CONSTANT = re.compile(r"Constant\(value='(\w+(?:\.\w+)*):\w+'")
NAME = re.compile(r"Name\(id='(\w+)'")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def digest(text: str | bytes) -> str:
    """Sixteen hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def file_hash(name: str) -> str:
    """The sha256 of a file, ``"none"`` where there is none."""
    if not os.path.isfile(path := os.path.expanduser(name)):
        return "none"
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def distribution_version(name: str) -> str:
    """The version of an installed distribution, by its own name or that of a package in it."""
    return "not installed" if (found := _installed(name)) is None else found.version


@cache
def distribution_mark(name: str) -> str:
    """The version, and a hash of the modules as they were installed."""
    found = _installed(name)
    lines = ((found and found.read_text("RECORD")) or "").splitlines()
    modules = sorted(line for line in lines if line.partition(",")[0].endswith(".py"))
    return f"{distribution_version(name)}{f' {digest(chr(10).join(modules))}' if modules else ''}"


def _installed(name: str) -> Distribution | None:
    with suppress(PackageNotFoundError):
        return distribution(name)
    for known in () if name in sys.stdlib_module_names else packages_distributions().get(name, ()):  # reads all of them
        with suppress(PackageNotFoundError):
            return distribution(known)
    return None


def code_behind(
    objects: Iterable[str] = (), *, parts: Iterable[str] = (), through_names: bool = False
) -> dict[str, str]:
    """Hashes of the files behind some objects, and marks of the distributions that these import.

    Args:
        objects: ``"package.module:name"`` each; the whole module counts, and what it imports.
        parts: the same, but in its own module only what the object uses counts, or what may act on it unasked
            (decorated functions, statements): not the analysis below the cells of a study.
        through_names: follow the strings of that form too that are met on the way, as in registries: what these name
            may have taken part. Versions are then left out that only such modules import.

    Returns:
        ``{"package/module.py": hash, "distribution": "version hash"}``, but for those of every study. What was
        typed into an interpreter has no file, and is not in it. Which files there are is found once, see `look_again`.
    """
    found: dict[str, str] = {}
    own = {*OURS, *(name.partition(".")[0] for name in (*objects, *parts) if _read(name.partition(":")[0]) is not None)}
    start = [Import(name.partition(":")[0], True) for name in objects]
    start += [Import(module, True, name=attribute) for module, _, attribute in (part.partition(":") for part in parts)]
    used: dict[Source, set[str]] = {}
    for one in _reached(start, own, lambda one: through_names or not one.by_name):
        if (source := _own(one.target, own)) is not None:
            used.setdefault(source, set()).add(one.name)
    found = {source.label: source.digest_of(names) for source, names in used.items()}
    loaded = {one.target.partition(".")[0] for one in _reached(start, own, lambda one: one.at_once)}
    for package in sorted(loaded - own - KNOWN - set(sys.stdlib_module_names)):
        if _own(package, own) is None:
            found[package] = distribution_mark(package)
    return found


def written_since(code: Iterable[str], moment: float) -> list[str]:
    """The files of `code_behind` that were written, or laid where they are, after a moment of `time.time`."""
    modules = {label: re.sub(r"(/__init__)?\.py$", "", label).replace("/", ".") for label in code if Path(label).suffix}
    found = {label: path for label, module in modules.items() if (path := _find(module)) is not None}
    return [label for label, path in found.items() if path.stat().st_ctime > moment]


def look_again() -> None:
    """Forget where modules are and what they import: files may have changed since."""
    _find.cache_clear()
    _links.cache_clear()


def fingerprint(code: Mapping[str, str]) -> str:
    """One hash for all of `code_behind`."""
    return digest(json.dumps(dict(code), sort_keys=True))


def commit_of(file: str | Path) -> str | None:
    """The commit of git that a file is of, with ``+`` where the checkout has changes; ``None`` outside of any."""
    git = ["git", "-C", str(Path(file).parent)]
    try:
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


# -- from module to module ---------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """A module that another one reaches: at once, when a function is called (``at_once`` false), or by a string.

    Where ``name`` is given, only what that uses in the module counts.
    """

    target: str
    at_once: bool
    by_name: bool = False
    name: str = ""


def _reached(start: Iterable[Import], own: set[str], follow: Callable[[Import], bool]) -> list[Import]:
    """All that is reached through modules of one's own and ours by imports that are to be followed, each once."""
    found: dict[tuple[str, str], Import] = {}
    todo = [one for one in start if follow(one)]
    while todo:
        one = todo.pop()
        if (one.target, one.name) not in found:
            found[one.target, one.name] = one
            known = _own(one.target, own) is not None
            todo += [more for more in _links(one.target, one.name) if follow(more)] if known else []
    return list(found.values())


@lru_cache(maxsize=4096)
def _links(module: str, name: str) -> list[Import]:
    """What a module, or what a name uses in it, imports, wherever it does."""
    source = _read(module)
    if source is None:
        return []
    used = source.used_by(name)
    return _resolved(source, _imports(used) if used else source.imports)


def _own(module: str, own: set[str]) -> Source | None:
    """The file of a module in one of these packages, or outside of what is installed."""
    path = _find(module)
    if path is None or (module.partition(".")[0] not in own and INSTALLED & set(path.parts)):
        return None
    return _read(module)


@lru_cache(maxsize=4096)
def _find(module: str) -> Path | None:
    """The file of a module, found without importing it; ``None`` for what has none or is of Python's own library."""
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names:
        return None
    loaded = getattr(sys.modules.get(top), "__file__", None)
    try:
        spec = None if loaded else importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    origin = loaded or (spec.origin if spec is not None else None)
    if origin is None or not Path(origin).is_file():
        return None
    if not rest:
        return Path(origin)
    place = Path(origin).parent.joinpath(*rest)
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None) if Path(origin).name == "__init__.py" else None


def _resolved(source: Source, imports: Iterable[Statement]) -> list[Import]:
    """The modules that import statements of a file are about."""
    parts, found = source.module.split("."), []
    for one in imports:
        base = one.base
        if one.level:  # relative: so many packages up
            above = parts[: len(parts) - one.level + source.is_package]
            base = ".".join([*above, base] if base else above)
        if not one.by_name or _find(base) is not None:
            target = _definer(base, one.name) if one.name else base
            name = one.name if target == base and base.partition(".")[0] == BY_NAME else ""
            found.append(Import(target, one.at_once, one.by_name, name))
    return found


def _definer(base: str, name: str) -> str:
    """The module that ``from base import name`` is about: a submodule, or where a package has the name from.

    Of what is installed the distribution counts, whatever its package hands out, and its files are not read.
    """
    path, top = _find(base), base.partition(".")[0]
    if path is None or (INSTALLED & set(path.parts) and top not in OURS):
        return base
    if _find(f"{base}.{name}") is not None:
        return f"{base}.{name}"
    source = _read(base)
    if source is None or not source.is_package:
        return base
    for one in source.imports:
        if one.name and one.at_once and name == (one.alias or one.name):
            (found,) = _resolved(source, [one])
            return found.target
    return base


# -- one file ----------------------------------------------------------------------------------------------------------


class Statement(NamedTuple):
    """An import as it is written, or a string that names an object."""

    base: str
    name: str = ""
    alias: str | None = None
    level: int = 0
    at_once: bool = True
    by_name: bool = False


def _written_imports(node: ast.stmt, at_once: bool = True) -> Iterator[Statement]:
    for one, loaded in _statements([node]):
        if isinstance(one, ast.Import):
            yield from (Statement(alias.name, at_once=loaded) for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            base, level = one.module or "", one.level
            yield from (Statement(base, alias.name, alias.asname, level, loaded) for alias in one.names)


def _statements(nodes: Iterable[ast.stmt], at_once: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """All statements, and whether they run when the file is imported."""
    for node in nodes:
        yield node, at_once
        inside = at_once and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            for block in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(part, block, ()), inside)


class Part(NamedTuple):
    """A statement at the top of a file.

    Attributes:
        dump: its syntax, as `ast.dump` writes it: what is asked of it is found there far quicker than in all nodes.
        bound: the names that it gives a value to; none for one that just acts.
        decorators: the names that its decorators begin with.
        imports: inside of it, as they are written.
    """

    dump: str
    bound: tuple[str, ...]
    decorators: tuple[str, ...]
    imports: tuple[Statement, ...]

    def uses(self) -> set[str]:
        """All names in it."""
        return set(NAME.findall(self.dump))


def _imports(parts: Iterable[Part]) -> list[Statement]:
    """What parts import, and the objects that strings in them name."""
    parts = list(parts)
    named = dict.fromkeys(base for part in parts for base in NAMED_CONSTANT.findall(part.dump))
    written = [one for part in parts for one in part.imports]
    return [*written, *(Statement(base, at_once=False, by_name=True) for base in named)]


@dataclass(frozen=True, eq=False)
class Source:
    """A file, read: its syntax without docstrings, and what it imports."""

    module: str
    path: Path
    parts: list[Part]
    digest: str
    imports: list[Statement]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def label(self) -> str:
        return self.module.replace(".", "/") + ("/__init__.py" if self.is_package else self.path.suffix)

    def used_by(self, name: str) -> list[Part]:
        """The statements at the top that an object depends on, in their order; none if the file has no such object."""
        owners: dict[str, list[Part]] = {}
        for part in self.parts if name else ():
            for one in part.bound:
                owners.setdefault(one, []).append(part)
        if name not in owners:
            return []
        used: dict[int, Part] = {}
        todo = [*owners[name], *self._acting()]
        while todo:
            part = todo.pop()
            if id(part) not in used:
                used[id(part)] = part
                todo += [owner for one in part.uses() & owners.keys() for owner in owners[one]]
        return [part for part in self.parts if id(part) in used]

    def digest_of(self, names: set[str]) -> str:
        """Of what some objects depend on; of the whole file where one of them is not in it, as ``""`` never is."""
        used = [self.used_by(name) for name in names]
        if not all(used):
            return self.digest
        together = {id(part) for parts in used for part in parts}
        return digest("\n".join(part.dump for part in self.parts if id(part) in together))

    def _acting(self) -> list[Part]:
        """What may change what others do: a call, or what has a decorator that is not Python's own."""
        known = {one.alias or one.name for one in self.imports if one.base.partition(".")[0] in sys.stdlib_module_names}
        known |= {"property", "staticmethod", "classmethod"}
        return [part for part in self.parts if not part.bound or not known.issuperset(part.decorators)]


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, DEFINITIONS):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return []


def _decorators(node: ast.stmt) -> list[str]:
    if not isinstance(node, DEFINITIONS):
        return []
    return [next((part.id for part in ast.walk(d) if isinstance(part, ast.Name)), "") for d in node.decorator_list]


def _read(module: str) -> Source | None:
    path = _find(module)
    return None if path is None else _parsed(module, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _parsed(module: str, path: Path, written: int) -> Source:
    content, collects = path.read_bytes(), gc.isenabled()
    gc.disable()  # a tree is many objects, and none of them garbage: looking for some takes twice as long as parsing
    try:
        parts = _parts(ast.parse(content))
    except (SyntaxError, ValueError):  # compiled, or nothing that will run
        return Source(module, path, [], digest(content), [])
    finally:
        if collects:
            gc.enable()
    whole = ast.dump(ast.Module([ast.Pass()] if parts else [], []))
    dump = whole.replace("Pass()", ", ".join(part.dump for part in parts))
    return Source(module, path, parts, digest(dump), _imports(parts))


def _parts(tree: ast.Module) -> list[Part]:
    """The statements at the top of a file, its docstrings left out."""
    for node in (tree, *(node for node, _ in _statements(tree.body))):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                del node.body[0]
    return [
        Part(ast.dump(node), tuple(_bound(node)), tuple(_decorators(node)), tuple(_written_imports(node)))
        for node in tree.body
    ]
