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

import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from nabla_eval.errors import DataError
from nabla_eval.reporting.story import Story
from nabla_eval.reporting.text import TEMPLATES, script_of, templates
from nabla_eval.terminal import visible

# In JSON without its escaped backslashes: what `_shown` may have to change.
_UNUSUAL = re.compile(r'\\[^"nt]|\x7f|NaN|Infinity')
PART = 4 << 20  # characters of problems that a page holds, or loads at once


@dataclass(frozen=True)
class TracePage:
    """Everything that a page shows: the run's name, facts about it, and its stories."""

    title: str
    stories: Iterable[Story]  # gone through once
    facts: Mapping[str, str] = field(default_factory=dict)


class _Scales:
    """The entropy and the gradient norm at which a colour is full.

    All but the largest hundredth of a run's values lie below it; of a large run, of its first ones.
    """

    most = 200_000

    def __init__(self) -> None:
        self.values = array("d"), array("d")

    def see(self, story: Story) -> None:
        """Note the numbers of a story's tokens."""
        tokens = (*story.first, *(story.final or ()))
        for values, name in zip(self.values, ("entropy", "norm"), strict=True):
            if len(values) < self.most:
                seen = (getattr(token, name) for token in tokens)
                values.extend(x for x in seen if x is not None and math.isfinite(x))

    def found(self) -> list[float]:
        """Return both numbers, 0 where there are no values."""
        ranked = map(sorted, self.values)
        return [some[math.ceil(0.99 * len(some)) - 1] if some else 0.0 for some in ranked]


def _shown(value: Any) -> Any:
    """Return values as the page's script reads them; unknown numbers are null."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _embedded(data: Any) -> str:
    """JSON that can stand in a script element: ASCII, and nothing in it looks like markup."""
    values = msgspec.to_builtins(data)
    text = json.dumps(values, separators=(",", ":"))
    if _UNUSUAL.search(text.replace("\\\\", "")):
        text = json.dumps(_shown(values), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _html(title: str, data: str, parts: bool) -> str:
    style, (script, digest) = _style(), script_of("viewer.js")
    template = templates().get_template("viewer.html.jinja")
    return template.render(
        title=visible(title), style=style, script=script, digest=digest, data=data, parts=parts
    )


@cache
def _style() -> str:
    return (TEMPLATES / "viewer.css").read_text(encoding="utf-8")


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
        scales.see(story)
        text = _embedded(story)
        if part and size + len(text) > PART:
            _write_part(folder, firsts, len(rows), part)
            part, size = [], 0
        row = msgspec.to_builtins(story.brief())
        del row["response"]  # which the page's list does not show
        rows.append(_embedded(row))
        part.append(text)
        size += len(text)
    if firsts:
        _write_part(folder, firsts, len(rows), part)
    elif folder.exists() and not any(folder.iterdir()):
        folder.rmdir()  # of a larger run of that name
    head = _embedded(
        {"title": page.title, "facts": list(page.facts.items()), "scales": scales.found(),
         "folder": folder.name, "firsts": firsts}
    )  # fmt: skip
    data = f'{head[:-1]},"problems":[{",".join(rows if firsts else part)}]}}'
    path.write_text(_html(page.title, data, bool(firsts)), encoding="utf-8")


def _write_part(folder: Path, firsts: list[int], end: int, part: Sequence[str]) -> None:
    """Write the problems before the place `end` as the next part, and note where they begin."""
    folder.mkdir(exist_ok=True)
    text = f"part({len(firsts)},[{','.join(part)}]);\n"
    (folder / f"part-{len(firsts)}.js").write_text(text, encoding="ascii")
    firsts.append(end - len(part))
