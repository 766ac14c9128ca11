"""Runs the notebooks of examples/, in an empty folder and in one kernel: torch is imported once.

`python tests/support/notebooks.py` (or `make notebooks`) writes their outputs anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def executed(files: Sequence[Path], folder: Path) -> list[NotebookNode]:
    """Return notebooks with their outputs. Raises `CellExecutionError` where a cell fails.

    None knows a name of the one before it. What goes to stderr is left out: progress bars, and what
    libraries say of this machine.
    """
    read = [nbformat.read(file, as_version=4) for file in files]
    whole = nbformat.v4.new_notebook(metadata=read[0].metadata.copy())
    for notebook in read:
        whole.cells += [*notebook.cells, nbformat.v4.new_code_cell("%reset -f")]
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(whole, timeout=900, record_timing=False, resources=resources).execute()
    for notebook in read:
        codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, cell in enumerate(codes, start=1):
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for numbered in (cell, *(o for o in cell.outputs if "execution_count" in o)):
                numbered.execution_count = count
    return read


def main() -> None:
    """Execute all notebooks, or those that are named."""
    files = list(map(Path, sys.argv[1:])) or sorted(FOLDER.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        for file, notebook in zip(files, executed(files, Path(folder)), strict=True):
            nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
