"""The documentation: every public name is described, found by search, and the pages' links lead somewhere.

The site that is looked at is the folder that the variable SITE names, or one that is built here, warnings being errors.
"""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import zlib
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("reference")
    sys.path.remove(str(DOCS))


def public_items(reference):
    for names in (names for chapter in reference.public().values() for names in chapter):
        yield names[0], reference.find(names[0])


# -- docstrings --------------------------------------------------------------------------------------------------------


def members(kind):
    """Public methods and properties that a class defines itself."""
    for name, item in vars(kind).items():
        if not name.startswith("_") and (
            isinstance(item, property | cached_property | classmethod | staticmethod) or inspect.isroutine(item)
        ):
            yield name


def described(kind, name):
    """By a docstring of its own, or of the method that it overrides, perhaps of a library that is not there."""
    return getattr(kind, "__sphinx_mock__", False) or any(
        getattr(vars(base)[name], "__doc__", None) for base in kind.__mro__ if name in vars(base)
    )


@pytest.mark.slow  # imports everything
def test_every_public_name_has_a_docstring_of_its_own(reference):
    without = []
    for path, item in public_items(reference):
        words = reference.words_on(path)
        if not words or words.startswith(f"{path.rpartition('.')[2]}("):  # what a dataclass gives itself
            without.append(path)
        without += (
            [f"{path}.{name}" for name in members(item) if not described(item, name)] if inspect.isclass(item) else []
        )
    assert without == []


@pytest.mark.slow
def test_every_chapter_has_names_and_a_page(reference):
    chapters = reference.public()
    assert sum(map(len, chapters.values())) > 200
    for chapter, names in chapters.items():
        assert names and f"{{public}} {chapter}\n" in (DOCS / "api" / f"{chapter}.md").read_text(encoding="utf-8")


# -- links to the glossary ---------------------------------------------------------------------------------------------

TERMS = {term.lower(): term for term in ("horizon", "squared Hellinger distance", "rho", "Hellinger")}


@pytest.mark.parametrize(
    ("line", "linked"),
    [
        ("The horizon and the horizon.", "The :term:`horizon <horizon>` and the horizon."),
        ("Horizons, long.", ":term:`Horizons <horizon>`, long."),
        ("A squared Hellinger distance.", "A :term:`squared Hellinger distance <squared Hellinger distance>`."),
        ("Of ``horizon`` tokens, `horizon`, :term:`x <horizon>`.", None),
        (":param horizon: its length", None),
        (":param n: of a horizon", ":param n: of a :term:`horizon <horizon>`"),
        (">>> horizon", None),
        ("The rho-estimator at H.", None),
        (".. horizon::", None),
        ("In log horizon(a|s) nothing.", None),
        ("see https://x.org/horizon for it", None),
    ],
)
def test_terms_become_links(reference, line, linked):
    assert reference.link_terms([line], dict(TERMS)) == [line if linked is None else linked]


def test_examples_and_code_are_left_alone(reference):
    lines = [">>> f(", "...     horizon)", "horizon", "", "After: horizon", "", "Code::", "", "    horizon", "", "rho"]
    left = dict(TERMS)
    linked = reference.link_terms(lines, left)
    assert linked == [*lines[:4], "After: :term:`horizon <horizon>`", *lines[5:-1], ":term:`rho <rho>`"]
    assert sorted(left) == ["hellinger", "squared hellinger distance"]
    assert reference.link_terms(lines, left) == lines
    assert reference.link_terms(lines[6:9], dict(TERMS)) == lines[6:9]


# -- galleries ---------------------------------------------------------------------------------------------------------


def test_every_study_has_its_figure():
    from experiments.studies import STUDIES

    assert {path.stem for path in (DOCS / "figures").glob("*.png")} == set(STUDIES)


def test_figures_are_small_and_say_where_they_come_from():
    for path in sorted((DOCS / "figures").glob("*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        assert (path.parent / said["figure"]).stat().st_size <= 60_000
        assert said["caption"] and len(said["commit"]) == 7, "made from a checkout with changes"


# -- the built site ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if "SITE" in os.environ:
        return Path(os.environ["SITE"]).resolve()
    out = tmp_path_factory.mktemp("site")
    words = [
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(out / "trees"),
        str(DOCS),
        str(out / "html"),
    ]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


class Page(HTMLParser):
    """What a page links to and loads, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        self.loaded += [found[key] for key in ("src", "href") if tag in ("img", "script", "link") and found.get(key)]


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 60
    broken, elsewhere = [], []
    for path, page in pages.items():
        elsewhere += [(path.name, target) for target in page.loaded if urlsplit(target).netloc]
        for target in page.links + page.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[there].anchors if there in pages else {unquote(parts.fragment)}
            if not there.exists() or unquote(parts.fragment) not in anchors:
                broken.append((str(path.relative_to(site)), target))
    assert broken == [] and elsewhere == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?:", styles) == []


@pytest.mark.slow
def test_every_public_name_is_found(site, reference):
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    known = {line.split()[0] for line in lines if line.split()[1].startswith("py:")}
    names = {name for chapter in reference.public().values() for names in chapter for name in names}
    assert names - known == set()
    searched = (site / "searchindex.js").read_text(encoding="utf-8")
    shown = {names[0].rpartition(".")[2] for chapter in reference.public().values() for names in chapter}
    assert {name for name in shown if f'"{name}"' not in searched} == set()


@pytest.mark.slow
def test_every_family_and_study_has_a_page(site):
    from experiments.studies import STUDIES
    from ntp_envs.tasks.registry import BUILT_IN, WITH_AN_EXTRA

    for folder, names in {"tasks": [*BUILT_IN, *WITH_AN_EXTRA], "studies": STUDIES}.items():
        assert {path.stem for path in (site / "gallery" / folder).glob("*.html")} == set(names)
