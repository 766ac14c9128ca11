"""CITATION.cff names this version and the paper, as the README's BibTeX does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import nabla_eval
from nabla_eval.validation import mismatch


@pytest.fixture(scope="module")
def cited(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    return content


def test_the_file_is_one_of_the_citation_file_format(cited: dict[str, Any]) -> None:
    """What version 1.2.0 of its schema asks for: these keys, and no person without a name."""
    assert cited["cff-version"] == "1.2.0"
    required = {"message": str, "title": str, "authors": list[dict[str, str]]}
    for part in (cited, {"message": "", **cited["preferred-citation"]}):
        assert [mismatch(part[name], kind, name) for name, kind in required.items()] == [None] * 3
    people = cited["authors"] + cited["preferred-citation"]["authors"]
    assert all(set(p) in ({"name"}, {"family-names", "given-names"}) for p in people)


def test_it_names_this_version_and_licence(cited: dict[str, Any], root: Path) -> None:
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert cited["version"] == nabla_eval.__version__
    assert f'license = "{cited["license"]}"' in project
    assert f'name = "{cited["authors"][0]["name"]}"' in project


def test_the_readme_cites_the_same_paper(cited: dict[str, Any], root: Path) -> None:
    paper = cited["preferred-citation"]
    (block,) = re.findall(r"```bibtex\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    fields = dict(re.findall(r"(\w+)\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}", " ".join(block.split())))
    assert fields["title"].replace("{", "").replace("}", "") == paper["title"]
    assert fields["author"].split(" and ") == [
        f"{person['family-names']}, {person['given-names']}" for person in paper["authors"]
    ]
    assert (int(fields["year"]), fields["booktitle"]) == (paper["year"], paper["collection-title"])
    (identifier,) = paper["identifiers"]
    assert fields["note"] == identifier["value"].replace(":", " ")
