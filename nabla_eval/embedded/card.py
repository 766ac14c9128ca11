"""The model card: what was trained, how, what it measures, and the hash of every shipped file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.validation import UNREADABLE, mismatch, text_of

CARD = "card.json"
README = "README.md"
TEMPLATES = {"Word problems": "words.md.jinja"}  # by the task's name; of others, card.md.jinja
FOLDERS = ("policy", "reward")
SCHEMA = 1


class File(TypedDict):
    """A shipped file."""

    sha256: str
    bytes: int


class Card(TypedDict):
    """The part of a card that the code reads; the page made of it reads more."""

    schema: int
    task: dict[str, Any]
    reward: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, File]


def file_hashes(folder: Path) -> dict[str, File]:
    """Return SHA-256 and size in bytes of every file of a pair, by path relative to the folder."""
    found: dict[str, File] = {}
    for path in sorted(path for part in FOLDERS for path in (folder / part).rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            name, digest = path.relative_to(folder).as_posix(), hashlib.sha256(content).hexdigest()
            found[name] = {"sha256": digest, "bytes": len(content)}
    return found


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card beside a pair. Raises DataError if it is missing or of another schema."""
    path = folder / CARD
    if not path.is_file():
        raise DataError(
            f"No model card at {path}. Train a pair with `python reports/embedded/train.py`."
        )
    card: dict[str, Any] = {}
    try:
        card = json.loads(text_of(path))
        wrong = mismatch(card, dict[str, Any])
        if not wrong and card.get("schema") != SCHEMA:
            wrong = f"it has schema {card.get('schema')!r}, and this version reads {SCHEMA}"
        wrong = wrong or mismatch(card, Card)
    except UNREADABLE as error:
        wrong = str(error)
    if wrong:
        raise DataError(
            f"{path} cannot be read: {wrong}. Install the package, or train the pair again."
        )
    return card


def verify_files(folder: Path) -> list[str]:
    """Say how the files differ from the card; empty when each byte is as described."""
    expected, found = read_card(folder)["files"], file_hashes(folder)
    problems = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name}: not in the card" for name in sorted(found.keys() - expected.keys())]
    both = sorted(expected.keys() & found.keys())
    problems += [f"{name}: other bytes" for name in both if found[name] != expected[name]]
    return problems


def render_card(card: dict[str, Any]) -> str:
    """Return the card as Markdown; every number in it is read from the card."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    name = TEMPLATES.get(str(card["task"].get("name")), "card.md.jinja")
    template = environment.get_template(name)
    try:
        return template.render(card) + "\n"
    except (UndefinedError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"The model card lacks a figure: {error}. Train the pair again.") from error
