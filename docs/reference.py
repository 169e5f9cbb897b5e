"""The reference: every public name, on the page of the chapter in which it is defined.

Public is what ``__all__`` of a package says, or in a module without one what it defines and does not hide. A new name
needs no edit here. A page says which chapter it is, ``{public} distances``, and gets a table and an entry a name.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import inspect
import pydoc
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from numpy.typing import ArrayLike, NDArray
from sphinx.ext.autodoc.mock import mock
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

#: a name that several of them give is documented where it comes first, and is found under all of its names
MODULES = (
    "ntp_envs",
    "ntp_envs.tasks",
    "ntp_envs.distances",
    "ntp_envs.text",
    "ntp_envs.features",
    "ntp_envs.evaluation",
    "ntp_envs.wrappers",
    "ntp_envs.data",
    "ntp_envs.language",
    "ntp_envs.perturbed",
    "ntp_envs.hugging_face",
    "ntp_envs.testing",
    "agents",
    "agents.neural",
    "agents.neural.training",
    "agents.neural.language",
    "agents.rl",
    "agents.testing",
    "experiments.studies",
    "experiments.study",
    "experiments.advise",
    "experiments.classroom",
    "experiments.testing",
)

#: of some modules without ``__all__`` only these: the rest is there for our own use
ONLY = {
    "ntp_envs.data": ("from_minari", "imitation_expert", "to_d3rlpy", "to_imitation", "to_minari"),
    "ntp_envs.language": ("TransformersPolicy", "load_model"),
    "ntp_envs.perturbed": ("perturbed", "perturbed_models"),
    "ntp_envs.evaluation": ("SearchResult",),
    "agents.neural.training": ("Training",),
    "agents.neural.language": ("TrainedTransformersPolicy", "TransformersClass"),
    "experiments.advise": ("Advice", "Cost", "Evidence", "Prediction", "advise"),
    "experiments.classroom": ("Verdict", "check"),
    "experiments.testing": ("check_study", "figure_faults"),
}

#: page of ``docs/api``: where what stands on it is defined; the longest match counts
CHAPTERS = {
    "tasks": ("ntp_envs.tasks",),
    "policies": ("ntp_envs.policies", "ntp_envs.automata", "ntp_envs.ngram"),
    "policy_classes": ("ntp_envs.policy_classes", "ntp_envs.features"),
    "demonstrations": ("ntp_envs.demonstrations", "ntp_envs.data"),
    "distances": ("ntp_envs.distances", "ntp_envs.intervals"),
    "evaluation": ("ntp_envs.evaluation",),
    "environments": ("ntp_envs.env", "ntp_envs.vector_env", "ntp_envs.wrappers", "ntp_envs.registration"),
    "text": ("ntp_envs.text",),
    "language": ("ntp_envs.language", "ntp_envs.perturbed", "ntp_envs.hugging_face", "agents.neural.language"),
    "agents": ("agents",),
    "neural": ("agents.neural",),
    "rl": ("agents.rl",),
    "studies": ("experiments",),
    "classroom": ("experiments.classroom",),
    "testing": ("ntp_envs.testing", "agents.testing", "experiments.testing"),
    "errors": ("ntp_envs",),
}


#: what is described without being there
EXTRAS = ("torch", "stable_baselines3", "transformers", "datasets", "gguf", "safetensors", "psutil", "minari")
ABSENT = [name for name in EXTRAS if importlib.util.find_spec(name) is None]


def load(module: str) -> ModuleType:
    """A module, whether or not what its extra brings is installed."""
    with mock(ABSENT):
        return importlib.import_module(module)


def names_of(module: ModuleType) -> list[str]:
    """What a module makes public."""
    if hasattr(module, "__all__"):
        return [name for name in [*module.__all__, *getattr(module, "WITH_AN_EXTRA", ())] if name != "__version__"]
    if module.__name__ in ONLY:
        return list(ONLY[module.__name__])
    own = [name for name, item in vars(module).items() if getattr(item, "__module__", None) == module.__name__]
    return sorted(name for name in own if not name.startswith("_"))


def defined_in(item: Any, module: str, name: str) -> str:
    """The module that defines a public name: where a class or function says, else the one that assigns the constant."""
    if inspect.isclass(item) or inspect.isroutine(item):
        return item.__module__
    source = inspect.getsource(load(module))
    found = re.search(rf"^from ([\w.]+) import (?:[^(\n]*|\([^)]*)\b{name}\b", source, flags=re.M)
    return found[1] if found else module


@cache
def public() -> dict[str, list[tuple[str, ...]]]:
    """By chapter the names of each thing: first the one that it is documented under, last where it is defined."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in MODULES:
        for name in names_of(load(module)):
            item = find(f"{module}.{name}")
            found.setdefault((defined_in(item, module, name), name), []).append(f"{module}.{name}")
    chapters: dict[str, list[tuple[str, ...]]] = {chapter: [] for chapter in CHAPTERS}
    for (module, name), names in found.items():
        places = [(len(place), chapter) for chapter, known in CHAPTERS.items() for place in known
                  if f"{module}.".startswith(f"{place}.")]  # fmt: skip
        chapters[max(places)[1]].append((*names, *{f"{module}.{name}"}.difference(names)))
    return chapters


def find(path: str) -> Any:
    """What ``package.module.name`` is."""
    module, _, name = path.rpartition(".")
    with mock(ABSENT):
        return getattr(importlib.import_module(module), name)


def words_on(path: str) -> str:
    """A name's own docstring, or the comment ``#:`` above a constant."""
    item = find(path)
    if inspect.isclass(item) or inspect.isroutine(item):
        return inspect.cleandoc(item.__doc__ or "")
    module, _, name = path.rpartition(".")
    comments = ModuleAnalyzer.for_module(defined_in(item, module, name)).find_attr_docs()
    return " ".join(comments.get(("", name), [])).strip()


def entry(path: str) -> list[str]:
    """The directive that documents a name."""
    item = find(path)
    if inspect.isclass(item) and issubclass(item, BaseException):
        return [f".. autoexception:: {path}", ""]
    if inspect.isclass(item):
        bases = ["   :show-inheritance:"] if item.__bases__ != (object,) else []
        return [f".. autoclass:: {path}", "   :members:", *bases, ""]
    if inspect.isroutine(item):
        return [f".. autofunction:: {path}", ""]
    value = [f"   :value: {item!r}"] if len(repr(item)) < 200 and "<" not in repr(item) else []
    return [f".. py:data:: {path}", *value, "", f"   {words_on(path)}", ""]


def summary(path: str) -> str:
    """The first line of what a name says of itself, in which backquotes are code."""
    return re.sub(r"`+([^`]+)`+", r"``\1``", words_on(path).partition("\n")[0])


class Public(Directive):
    """``{public} CHAPTER``: a table of its names with a line on each, and their entries."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        paths = [names[0] for names in public()[self.arguments[0]]]
        table = [".. list-table::", "   :class: names", "   :widths: auto", ""]
        for path in paths:
            table += [f"   * - :py:obj:`{path.rpartition('.')[2]} <{path}>`", f"     - {summary(path)}"]
        lines = [*table, "", *(line for path in paths for line in entry(path))]
        self.state.document.settings.env.note_dependency(__file__)
        box = nodes.container()
        text = ["````{eval-rst}", *lines, "````"]
        self.state.nested_parse(StringList(text, source=f"the chapter {self.arguments[0]}"), 0, box)
        return box.children


def also_known(app: Any, env: Any) -> None:
    """Every other public name of a thing leads to its entry, too."""
    domain = env.get_domain("py")
    for names in (names for chapter in public().values() for names in chapter):
        known = domain.objects.get(names[0])
        for name in names[1:] if known else ():
            domain.objects.setdefault(name, known._replace(aliased=True))


# -- links -------------------------------------------------------------------------------------------------------------


def resolve(app: Any, env: Any, node: Any, contnode: nodes.Node) -> nodes.Node | None:
    """What backquotes in a docstring name: the one documented thing with these last words, or something of Python's.

    What is neither is left for Sphinx to warn of. (What the class or module has, Sphinx has found before.)
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].lstrip("~.")
    domain = env.get_domain("py")
    ends = [path for path, known in domain.objects.items() if path.endswith(f".{target}") and not known.aliased]
    if len(ends) == 1:
        known = domain.objects[ends[0]]
        return make_refnode(app.builder, node["refdoc"], known.docname, known.node_id, contnode, ends[0])
    return contnode if ends or exists(target, node.get("py:module"), node.get("py:class")) else None


def link_code(app: Any, doctree: nodes.document, page: str) -> None:
    """Code in a sentence that is a public name, or ``Class.member`` of one, leads to its entry."""
    objects = app.env.get_domain("py").objects
    places = {name.rpartition(".")[2]: names[0] for chapter in public().values() for names in chapter for name in names}
    for literal in list(doctree.findall(nodes.literal)):
        first, _, member = literal.astext().removesuffix("()").partition(".")
        path = literal.astext() if literal.astext() in objects else ".".join(filter(None, [places.get(first), member]))
        parents = (literal.parent, literal.parent.parent)
        if path in objects and not any(isinstance(one, nodes.reference | nodes.title) for one in parents):
            known = objects[path]
            link = make_refnode(app.builder, page, known.docname, known.node_id, literal.deepcopy(), path)
            literal.replace_self(link)


#: libraries that docstrings name, and the short names that they have there
LIBRARIES = {"np", "gym", "imitation", "d3rlpy", "torch", "transformers", "stable_baselines3", "sb3_contrib", "minari"}


def exists(words: str, module: str | None, kind: str | None) -> bool:
    """Whether Python knows the dotted words: a built-in, of a library, or of any module of ours, public or not."""
    first, *rest = words.split(".")
    parent = pydoc.locate(words.rpartition(".")[0])
    if first in LIBRARIES or hasattr(builtins, first) or pydoc.locate(words) is not None or _has(parent, rest[-1:]):
        return True
    scopes = [
        part for name, part in sorted(sys.modules.items()) if name.startswith(("ntp_envs", "agents", "experiments"))
    ]
    scopes += [find(f"{module}.{kind}")] if module and kind and "." not in kind else []
    return any(_has(getattr(scope, first, None), rest) or first in _fields(scope) for scope in scopes)


def _has(item: Any, words: list[str]) -> bool:
    for word in words if item is not None else ():
        if word in _fields(item):
            return True
        item = getattr(item, word, None)
    return item is not None


def _fields(item: Any) -> set[str]:
    """What classes annotate, and so have once they are made."""
    return {name for kind in getattr(item, "__mro__", ()) for name in vars(kind).get("__annotations__", ())}


# -- signatures --------------------------------------------------------------------------------------------------------

DTYPES = ("float64", "float32", "int64", "int32", "integer", "bool_")
ARRAYS = {f"NDArray[{name}]": NDArray[getattr(np, name)] for name in DTYPES} | {"NDArray": NDArray[Any]}
#: what Sphinx makes of numpy's aliases, and their names
SHORT = {stringify_annotation(kind, "smart"): name for name, kind in {**ARRAYS, "ArrayLike": ArrayLike}.items()}


def shorter(words: str | None) -> str | None:
    """A signature in which numpy's aliases have their names again, and what stands for a default is Python."""
    for long, short in {**SHORT, "<factory>": "..."}.items() if words else ():
        words = words.replace(long, short)
    return words


# -- docstrings --------------------------------------------------------------------------------------------------------

AFTER = "Attributes after fit"
#: "p, q: two policies" is one entry of a list; as a field ``:param p, q:`` it would be a q of type p
GOOGLE = Config(
    napoleon_use_param=False,
    napoleon_use_rtype=False,
    napoleon_custom_sections=[("Attributes", "params_style"), (AFTER, "params_style")],
)


def as_rst(words: str) -> list[str]:
    """A docstring of ours as Sphinx reads it: sections in Google's style, headings in Gymnasium's."""
    words = re.sub(r"^( *)Attributes after `fit`.*:$", rf"\1{AFTER}:", words, flags=re.M)
    words = re.sub(r"^## (.*)$", r"**\1**\n", words, flags=re.M)
    words = re.sub(r"^( +[\w, *]+,)\n +(?=[\w, *]+: )", r"\1 ", words, flags=re.M)  # names on two lines
    words = re.sub(r"(?<=, )\*\*(?=\w+: )", r"\\*\\*", words)
    return GoogleDocstring(words, GOOGLE).lines()


# -- the glossary ------------------------------------------------------------------------------------------------------


def glossary_terms(path: Path) -> list[str]:
    """The terms of a ``{glossary}`` block: its lines that are not indented."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    blocks = re.findall(r"^(?:`{3,}|:{3,})\{glossary\}\n(.*?)^(?:`{3,}|:{3,})\s*$", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    terms = [line for line in lines if line[:1].strip() and not line.startswith((":", ".."))]
    return [term.partition(" : ")[0].strip(" *") for term in terms]  # in bold, for a code host


#: what a link may stand between, for docutils to see it
_BEFORE, _AFTER = r"(?<![^\s(\[\"'/])", r"(?![^\s.,:;!?)\]\"'/])"
#: what is left alone in a line: code, references, links, and the field that a line of a list opens with
_SKIP = r"``.*?``|:[\w:]+:`[^`]*`|`[^`]*`_{0,2}|^\s*:[^:]+:|\S+://\S+|\*\*.*?\*\*"


def link_terms(lines: list[str], left: dict[str, str]) -> list[str]:
    """The first occurrence of each term (or of its plural) becomes a link to the glossary, and leaves ``left``.

    Not in code, examples, directives or links; words may not be broken over two lines.

    Args:
        lines: of a docstring.
        left: the terms to look for, by themselves in lower case.
    """
    if not left:
        return lines
    words = "|".join(re.escape(term) for term in sorted(left, key=len, reverse=True))
    pattern = re.compile(rf"(?P<skip>{_SKIP})|{_BEFORE}(?P<term>{words})s?{_AFTER}", flags=re.I)

    def replace(match: re.Match[str]) -> str:
        term = left.pop((match["term"] or "").lower(), None)
        if term is None:
            return match[0]
        return f":term:`{match[0]} <{term}>`"

    linked, literal = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and line.lstrip().startswith((">>>", "...")):
            literal = indent - 1
        elif literal is None and (line.lstrip().startswith(".. ") or line.rstrip().endswith("::")):
            literal = indent
        elif literal == indent - 1 and not line.strip():
            literal = None
        linked.append(line if literal is not None else pattern.sub(replace, line))
    return linked
