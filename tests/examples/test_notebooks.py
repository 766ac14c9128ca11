"""The notebooks run, and print what is stored in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="the extra test is not installed")
pytest.importorskip("ipykernel", reason="the extra test is not installed")

from nbformat import NotebookNode, read
from notebooks import FOLDER, executed

FILES = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def shown(notebook: NotebookNode) -> list[tuple[str, list[str], str]]:
    """Kinds and text of every output; pages and pictures differ between versions."""
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    return [
        (each.output_type, sorted(each.get("data", ())), text)
        for each in outputs
        for text in [each.get("text") or each["data"]["text/plain"]]
    ]


@pytest.mark.slow
def test_they_run_and_print_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for file, notebook in zip(FILES, executed(FILES, tmp_path), strict=True):
        stored, fresh = shown(read(file, as_version=4)), shown(notebook)
        assert [each[:2] for each in stored] == [each[:2] for each in fresh], file.name
        for (*_, old), (*_, new) in zip(stored, fresh, strict=True):
            assert NUMBER.sub("", old).split() == NUMBER.sub("", new).split(), file.name
            numbers = [[float(n) for n in NUMBER.findall(text)] for text in (old, new)]
            # Rounded to hundredths, of rewards that differ by up to 8e-5 between processors.
            assert numbers[0] == pytest.approx(numbers[1], abs=0.011), file.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_stored_is_small_and_names_no_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text) < 60_000
    for place in (str(Path.home()), sys.prefix, str(FOLDER.parents[1])):
        assert len(place) < 6 or place not in text
    assert not re.search(r"(?<![\w.<:/])/(?:home|root|tmp|usr|opt|Users|work)/", text)
    for cell in read(file, as_version=4).cells:
        outputs = cell.get("outputs", ())
        assert all(each.output_type != "error" for each in outputs)
        assert cell.cell_type != "code" or cell.execution_count  # it was run
