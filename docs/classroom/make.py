"""Notebooks and pages of the sheets: ``python docs/classroom/make.py``, with the extra ``classroom``.

A sheet is one file in jupytext's percent format. From it come, in ``docs/classroom/made``,

* ``NN_name.ipynb``, for students: no solutions, hints folded, and three dots where a line ends in ``# gap``;
* ``NN_name_solution.ipynb``, with solutions, executed (an error in it is an error here);
* ``NN_name.html``, the same as a page that needs no network.
"""

import argparse
import os
import re
from copy import deepcopy
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import HTMLExporter

HERE = Path(__file__).parent
SHEETS = sorted(HERE.glob("[0-9][0-9]_*.py"))
GAP = re.compile(r"^(\s*(?:return |\w+ = )).*  # gap$", flags=re.M)
#: of the pages, after nbconvert's own: narrow enough to read, and whole on a phone
CSS = """<style>
body { max-width: 62rem; margin: 0 auto !important; padding: .5rem 1rem !important; }
.jp-Cell { padding-left: 0 !important; padding-right: 0 !important; }
.jp-RenderedHTMLCommon { font-size: 16px; line-height: 1.5; }
.jp-OutputArea-output pre, .highlight pre { white-space: pre-wrap !important;
  word-break: normal !important; overflow-wrap: break-word; }
img { max-width: 100%; height: auto; }
details { border-left: 4px solid #0072B2; padding-left: .8rem; } summary { cursor: pointer; }
</style></head>"""


def read(sheet):
    """The notebook of a sheet, with its hints folded and a kernel named."""
    notebook = jupytext.read(sheet)
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if "hint" in cell.metadata.get("tags", ()):
            cell.source = f"<details><summary>Hint</summary>\n\n{cell.source}\n\n</details>"
    return notebook


def student(notebook):
    """Without solutions, and with gaps."""
    notebook = deepcopy(notebook)
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        cell.source = GAP.sub(r"\1...  # your turn", cell.source)
    return notebook


def solution(notebook):
    """With everything, and without the marks of the gaps."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace("  # gap", "")
    return notebook


def run(notebook):
    """Execute every cell, figures drawn into the notebook; raises what a cell raises."""
    how = {"timeout": 300, "kernel_name": "python3", "coalesce_streams": True}
    client = NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **how)
    return client.execute(env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})


def page(notebook, title):
    """HTML with everything inside: no scripts, nothing from elsewhere."""
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, sanitize_html=False)
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return re.sub(r"<script.*?</script>", "", html, flags=re.S).replace("</head>", CSS, 1)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "made", help="folder for what is made")
    parser.add_argument("--sheets", type=int, nargs="*", help="numbers of the sheets; all by default")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, sheet in enumerate(SHEETS, start=1):
        if options.sheets and number not in options.sheets:
            continue
        notebook, target = read(sheet), options.out / sheet.stem
        jupytext.write(student(notebook), target.with_suffix(".ipynb"))
        solved = run(solution(notebook))
        jupytext.write(solved, f"{target}_solution.ipynb")
        target.with_suffix(".html").write_text(page(solved, notebook.cells[0].source.splitlines()[0][2:]), "utf-8")
        print(target.with_suffix(".html"))


if __name__ == "__main__":
    main()
