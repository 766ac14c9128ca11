"""The trace viewer: an HTML page per run, without network and without framework.

A run's page holds its problems as long as they fit into one part (`PART`). The page of a larger run
lists the problems and loads their parts, `NAME-problems/part-0.js` and so on, when one is shown:
scripts, because a page from a disk may read nothing else.

Model text reaches the page as data only: control, bidirectional and other invisible characters are
spelled out, the JSON cannot end its script element, the page's own script sets text and never
markup, and the content security policy allows that one script by its hash, what it loads itself,
and no other request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.reporting.search_tree import Move
from nabla_eval.reporting.story import Brief, Chosen, Story, StoryStep, Token
from nabla_eval.reporting.text import jsonable
from nabla_eval.terminal import visible

_TEMPLATES = Path(__file__).parent / "templates"
PART = 4 << 20  # characters of problems that a page holds, or loads at once


@dataclass(frozen=True)
class TracePage:
    """Everything that a page shows: the run's name, facts about it, and its stories."""

    title: str
    stories: Iterable[Story]  # gone through once
    facts: Mapping[str, str] = field(default_factory=dict)


def page_data(page: TracePage) -> dict[str, Any]:
    """Return what the script of a page that holds its problems reads; unknown numbers are null."""
    scales = _Scales()
    problems = [_story(scales.seen(story)) for story in page.stories]
    return {**_head(page, scales), "problems": problems}


def _head(page: TracePage, scales: _Scales) -> dict[str, Any]:
    return {
        "title": visible(page.title),
        "facts": [[visible(name), visible(value)] for name, value in page.facts.items()],
        "scales": scales.found(),
    }


class _Scales:
    """The entropy and the gradient norm at which a colour is full.

    All but the largest hundredth of a run's values lie below it; of a large run, of its first ones.
    """

    most = 200_000

    def __init__(self) -> None:
        self.values = array("d"), array("d")

    def seen(self, story: Story) -> Story:
        """The story, its numbers noted."""
        tokens = (*story.first, *story.final) if story.revised else story.first
        for values, name in zip(self.values, ("entropy", "norm"), strict=True):
            if len(values) < self.most:
                seen = (_finite(getattr(token, name)) for token in tokens)
                values.extend(value for value in seen if value is not None)
        return story

    def found(self) -> list[float]:
        """Both numbers, 0 where there are no values."""
        ranked = map(sorted, self.values)
        return [some[math.ceil(0.99 * len(some)) - 1] if some else 0.0 for some in ranked]


def _row(story: Story) -> dict[str, Any]:
    """Return what the list of problems shows and filters by."""
    brief = Brief.of(story)
    return {
        "id": visible(brief.id),
        "prompt": visible(brief.prompt),
        "right": [brief.first_right, brief.final_right],
        "change": brief.change,
        "judged": brief.judged,
        "accepted": brief.accepted,
        "searched": brief.searched,
        "calls": jsonable(brief.model_calls),
    }


def _story(story: Story) -> dict[str, Any]:
    return {
        **_row(story),
        "prompt": visible(story.prompt),
        "first": [_token(token) for token in story.first],
        "final": [_token(token) for token in story.final] if story.revised else None,
        "rewards": jsonable([story.first_reward, story.final_reward]),
        "drafts": story.drafts,
        "ended": visible(story.ended),
        "stop": visible(story.stop),
        "steps": [_shown(step) for step in story.steps],
        "moves": [_shown(move) for move in story.moves],
        "choices": [_shown(choice) for choice in story.choices],
    }


def _token(token: Token) -> list[Any]:
    """[text, entropy, gradient norm, candidate, is it the revised token]."""
    return [
        visible(token.text), _finite(token.entropy), _finite(token.norm), token.by,
        int(token.revised),
    ]  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _shown(part: StoryStep | Move | Chosen) -> dict[str, Any]:
    fields = asdict(part)
    return {k: visible(v) if isinstance(v, str) else jsonable(v) for k, v in fields.items()}


def page_html(page: TracePage) -> str:
    """The page as one HTML document that holds its problems."""
    return _html(page, _embedded(page_data(page)))


def _html(page: TracePage, data: str, parts: bool = False) -> str:
    style, script = (_read(name) for name in ("viewer.css", "viewer.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return str(
        _template().render(
            title=visible(page.title), style=style, script=script, digest=digest, data=data,
            parts=parts,
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
    """Write one `NAME.html` per page, of a large run with its parts beside it; returns their paths.

    Raises `DataError` where the folder cannot be written.
    """
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            paths.append(folder / f"{name}.html")
            _write(page, paths[-1])
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error
    return paths


def beside(path: Path) -> Path:
    """The folder of a page's parts, which only large runs have."""
    return path.with_name(f"{path.stem}-problems")


def _write(page: TracePage, path: Path) -> None:
    """Write a page, story by story: never more than one part is in memory."""
    folder, scales = beside(path), _Scales()
    path.unlink(missing_ok=True)  # stopped midway, no old page must show parts of the new one
    for old in folder.glob("part-*.js"):
        old.unlink()
    rows: list[str] = []
    firsts: list[int] = []  # place of the first problem of each part that is written
    part: list[str] = []
    size = 0
    for story in page.stories:
        text = _embedded(_story(scales.seen(story)))
        if part and size + len(text) > PART:
            _write_part(folder, firsts, len(rows), part)
            part, size = [], 0
        rows.append(_embedded(_row(story)))
        part.append(text)
        size += len(text)
    if firsts:
        _write_part(folder, firsts, len(rows), part)
    elif folder.exists() and not any(folder.iterdir()):
        folder.rmdir()  # of a larger run of that name
    head = _embedded({**_head(page, scales), "folder": folder.name, "firsts": firsts})
    data = f'{head[:-1]},"problems":[{",".join(rows if firsts else part)}]}}'
    path.write_text(_html(page, data, parts=bool(firsts)), encoding="utf-8")


def _write_part(folder: Path, firsts: list[int], end: int, part: Sequence[str]) -> None:
    """Write the problems before the place `end` as the next part, and note where they begin."""
    folder.mkdir(exist_ok=True)
    text = f"part({len(firsts)},[{','.join(part)}]);\n"
    (folder / f"part-{len(firsts)}.js").write_text(text, encoding="ascii")
    firsts.append(end - len(part))
