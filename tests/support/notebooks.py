"""Runs the notebooks of examples/, each in a kernel of its own and in an empty folder.

`python tests/support/notebooks.py` (or `make notebooks`) writes their outputs anew.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def executed(file: Path, folder: Path) -> NotebookNode:
    """Return a notebook with its outputs. Raises `CellExecutionError` where a cell fails.

    What goes to stderr is left out: progress bars, and what libraries say of this machine.
    """
    notebook = nbformat.read(file, as_version=4)
    about = notebook.metadata.copy()
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, record_timing=False, resources=resources).execute()
    notebook.metadata = about  # without the versions of the kernel
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Execute all notebooks, or those that are named."""
    for file in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(file, Path(folder)), file)


if __name__ == "__main__":
    main()
