"""Settings of the documentation: ``sphinx-build -W -b html docs docs/_build/html`` builds it, offline, from nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import galleries  # noqa: E402
import reference  # noqa: E402

import ntp_envs  # noqa: E402

project = "ntp-envs"
author = "the authors of ntp-envs"
version = release = ntp_envs.__version__
html_title = f"ntp-envs {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "classroom/made"]
nitpicky = True
nitpick_ignore = [("py:class", "dict[str")]  # of an annotation that Sphinx does not take apart
default_role = "py:obj"

# pages are read on a code host as well: links to files elsewhere in the repository become downloads here
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # an overridden method is described where it is defined first
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_mock_imports = reference.ABSENT
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif", "font-stack--monospace": "ui-monospace, monospace"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _math(block: bool) -> Any:
    """Formulas as MathML, which browsers draw themselves: no script, no network."""

    def visit(translator: Any, node: Any) -> None:
        text = node.astext().replace(r"\lt", "<").replace(r"\gt", ">")  # which MyST's readers write for a code host
        try:
            translator.body.append(tex2mathml(text, as_block=block))
        except MathError as error:
            logger.warning("formula: %s: %s", error, text, location=node)
        raise SkipNode

    return visit, None


def _galleries(app: Any, page: str, source: list[str]) -> None:
    """Links to the files of the sheets lead to their pages here, and names of studies to theirs."""
    if page == "studies":
        source[0] = re.sub(r"^\| `(\w+)` \|", r"| [`\1`](gallery/studies/\1.md) |", source[0], flags=re.M)
    if page.startswith("classroom/"):
        source[0] = re.sub(r"\]\((\d\d_\w+)\.py\)", r"](../gallery/sheets/\1.md)", source[0])


def setup(app: Any) -> dict[str, Any]:
    terms = {term.lower(): term for term in reference.glossary_terms(HERE / "glossary.md")}
    unlinked: dict[str, dict[str, str]] = {}

    def process(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
        entry = name.rpartition(".")[0] if what in ("method", "property", "attribute") else name
        left = unlinked.setdefault(entry, dict(terms))  # a class and its members link to a term once
        lines[:] = reference.link_terms(reference.as_rst("\n".join(lines)), left)

    app.add_directive("public", reference.Public)
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", lambda *given: tuple(map(reference.shorter, given[-2:])))
    app.connect("env-updated", reference.also_known)
    app.connect("doctree-resolved", reference.link_code)
    app.connect("missing-reference", reference.resolve)
    app.connect("source-read", _galleries)
    app.connect("builder-inited", lambda app: galleries.write_pages(HERE / "gallery"))
    app.add_html_math_renderer("mathml", inline_renderers=_math(False), block_renderers=_math(True))
    return {"parallel_read_safe": False, "parallel_write_safe": True}
