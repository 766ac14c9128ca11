"""The trace viewer: one self-contained HTML page per run, without network and without framework.

Model text reaches the page as data only: control, bidirectional and other invisible characters are
spelled out, the JSON cannot end its script element, the page's own script sets text and never
markup, and the content security policy allows that one script by its hash, and no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.reporting.search_tree import Move
from nabla_eval.reporting.story import Chosen, Step, Story, Token
from nabla_eval.reporting.text import jsonable
from nabla_eval.terminal import visible

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class TracePage:
    """Everything that a page shows: the run's name, facts about it, and its stories."""

    title: str
    stories: Sequence[Story]
    facts: Mapping[str, str] = field(default_factory=dict)


def page_data(page: TracePage) -> dict[str, Any]:
    """What the page's script reads, as plain data; unknown numbers are null."""
    return {
        "title": visible(page.title),
        "facts": [[visible(name), visible(value)] for name, value in page.facts.items()],
        "problems": [_story(story) for story in page.stories],
    }


def _story(story: Story) -> dict[str, Any]:
    same = story.first == story.final
    return {
        "id": visible(story.id),
        "prompt": visible(story.prompt),
        "first": [_token(token) for token in story.first],
        "final": None if same else [_token(token) for token in story.final],
        "rewards": jsonable([story.first_reward, story.final_reward]),
        "right": [story.first_right, story.final_right],
        "change": story.change,
        "accepted": story.accepted,
        "drafts": story.drafts,
        "ended": visible(story.ended),
        "stop": visible(story.stop),
        "calls": jsonable(story.model_calls),
        "steps": [_shown(step) for step in story.steps],
        "moves": [_shown(move) for move in story.moves],
        "choices": [_shown(choice) for choice in story.choices],
    }


def _token(token: Token) -> list[Any]:
    """[text, entropy, gradient norm, candidate, is it the revised token]."""
    return [
        visible(token.text), jsonable(token.entropy), jsonable(token.norm), token.by,
        int(token.revised),
    ]  # fmt: skip


def _shown(part: Step | Move | Chosen) -> dict[str, Any]:
    fields = jsonable(asdict(part))
    return {k: visible(v) if isinstance(v, str) else v for k, v in fields.items()}


def page_html(page: TracePage) -> str:
    """The page as one HTML document."""
    style, script = (_read(name) for name in ("viewer.css", "viewer.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return str(
        _template().render(
            title=visible(page.title), style=style, script=script, digest=digest,
            data=_embedded(page_data(page)),
        )
    )  # fmt: skip


def _embedded(data: Any) -> str:
    """JSON that can stand in a script element: ASCII, and nothing in it looks like markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("viewer.html.jinja")


def write_pages(pages: Mapping[str, TracePage], folder: str | Path) -> list[Path]:
    """Write one `NAME.html` per page; returns their paths.

    Raises `DataError` where the folder cannot be written.
    """
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            paths.append(folder / f"{name}.html")
            paths[-1].write_text(page_html(page), encoding="utf-8")
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error
    return paths
