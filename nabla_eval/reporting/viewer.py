"""The trace viewer: an HTML page per run, without network and without framework.

A run's page holds its problems as long as they fit into one part (`PART`). The page of a larger run
lists the problems and loads their parts, `NAME-problems/part-0.js` and so on, when one is shown:
scripts, because a page from a disk may read nothing else. Several runs get an `index.html`, which
has them side by side, problem by problem, and whose cells lead to their pages.

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
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from nabla_eval.analysis.folders import natural
from nabla_eval.errors import DataError
from nabla_eval.reporting.story import Brief, Story, StoryStep
from nabla_eval.reporting.text import TEMPLATES, script_of, templates
from nabla_eval.terminal import visible

# In JSON without its escaped backslashes: what `_shown` may have to change.
_UNUSUAL = re.compile(r'\\[^"nt]|\x7f')
_CONTROL = re.compile(r"[^\n\t -~]")
PART = 4 << 20  # characters of problems that a page holds, or loads at once
INDEX = "index"  # the page of several runs
# What several runs are compared by: of a problem, each run's [right or not, reward, model calls].
Cells: TypeAlias = dict[str, tuple[str, list[Any]]]


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
    """JSON that can stand in a script element: nothing in it looks like markup or is invisible."""
    try:
        text = msgspec.json.encode(data).decode()
        plain = text if text.isascii() else visible(text)
    except UnicodeError:  # half characters
        text, plain = "", "\\u"
    if text != plain or _UNUSUAL.search(plain.replace("\\\\", "")):
        text = json.dumps(_shown(msgspec.to_builtins(data)), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _lean(story: Story) -> dict[str, Any]:
    """Return a story as the page's data: what candidates share with another text is not repeated.

    A step has its own text from its `place` on, and how much of it, and of the text that it was to
    replace, is the token there; lengths are those of JavaScript.
    """
    found = {field.name: getattr(story, field.name) for field in fields(story)}
    for name in ("first", "final"):
        if tokens := found[name]:
            texts, entropy, *rest = zip(*tokens, strict=True)
            short = [x if x is None else round(x, 4) for x in entropy]
            found[name] = list(zip(texts, short, *rest, strict=True))
    if found["question"] == found["prompt"]:
        found["prompt"] = None
    found["start"] = story.steps[0].before if story.steps else ""
    found["steps"] = [_lean_step(step) for step in story.steps]
    return found


def _lean_step(step: StoryStep) -> dict[str, Any]:
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    texts = ("shared", "old_rest", "new_rest", "before", "text")
    shared, old_rest, new_rest, before, text = map(values.pop, texts)
    own = text[len(shared) :]
    return {
        **values, "own": own, "place": _units(shared),
        "old": _units(before[len(shared) : len(before) - len(old_rest)]),
        "new": _units(own[: len(own) - len(new_rest)]),
    }  # fmt: skip


def _units(text: str) -> int:
    """Return the length of what is shown of a text in JavaScript."""
    if not _CONTROL.search(text):
        return len(text)
    return len(visible(text).encode("utf-16-le", "surrogatepass")) // 2


def _html(kind: str, title: str, data: str, parts: bool = False) -> str:
    """Return the page of a kind, `viewer` or `runs`, with its script and its data."""
    style, (script, digest) = _style(), script_of("shared.js", f"{kind}.js")
    template = templates().get_template(f"{kind}.html.jinja")
    return template.render(
        title=visible(title), style=style, script=script, digest=digest, data=data, parts=parts
    )


@cache
def _style() -> str:
    return (TEMPLATES / "viewer.css").read_text(encoding="utf-8")


def write_pages(pages: Mapping[str, TracePage], folder: str | Path) -> list[Path]:
    """Write one `NAME.html` per page, of a large run with its parts beside it; returns their paths.

    Several pages get an `index.html`, the first of the paths. Raises `DataError` where the folder
    cannot be written.
    """
    folder = Path(folder)
    paths: list[Path] = []
    cells: Cells = {}
    titles = [(page.title, f"{name}.html") for name, page in pages.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, (name, page) in enumerate(pages.items()):
            paths.append(folder / f"{name}.html")
            others = titles[:place] + titles[place + 1 :]
            for row in _write(page, paths[-1], others):
                right, reward, calls = row.right[1], row.rewards[1], row.calls
                blank = row.question, [None] * len(pages)
                cells.setdefault(row.id, blank)[1][place] = (right, reward, calls)
        if len(pages) > 1:
            paths.insert(0, folder / f"{INDEX}.html")
            paths[0].write_text(_index(titles, cells), encoding="utf-8")
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error
    return paths


def _index(titles: Sequence[tuple[str, str]], cells: Cells) -> str:
    """Return the page of several runs, their answers side by side."""
    rows = [(name, *cells[name]) for name in sorted(cells, key=natural)]
    return _html("runs", "Runs side by side", _embedded({"runs": titles, "problems": rows}))


def beside(path: Path) -> Path:
    """The folder of a page's parts, which only large runs have."""
    return path.with_name(f"{path.stem}-problems")


def _write(page: TracePage, path: Path, others: Sequence[tuple[str, str]]) -> list[Brief]:
    """Write a page, story by story: never more than one part is in memory. Return its list."""
    folder, scales = beside(path), _Scales()
    path.unlink(missing_ok=True)  # stopped midway, no old page must show parts of the new one
    for old in folder.glob("part-*.js"):
        old.unlink()
    rows: list[Brief] = []
    firsts: list[int] = []  # place of the first problem of each part that is written
    part: list[str] = []
    size = 0
    for story in page.stories:
        scales.see(story)
        text = _embedded(_lean(story))
        if part and size + len(text) > PART:
            _write_part(folder, firsts, len(rows), part)
            part, size = [], 0
        rows.append(story.brief())
        part.append(text)
        size += len(text)
    if firsts:
        _write_part(folder, firsts, len(rows), part)
    elif folder.exists() and not any(folder.iterdir()):
        folder.rmdir()  # of a larger run of that name
    head = _embedded(
        {"title": page.title, "facts": list(page.facts.items()), "scales": scales.found(),
         "folder": folder.name, "firsts": firsts, "others": others}
    )  # fmt: skip
    problems = map(_embedded, rows) if firsts else part
    data = f'{head[:-1]},"problems":[{",".join(problems)}]}}'
    path.write_text(_html("viewer", page.title, data, bool(firsts)), encoding="utf-8")
    return rows


def _write_part(folder: Path, firsts: list[int], end: int, part: Sequence[str]) -> None:
    """Write the problems before the place `end` as the next part, and note where they begin."""
    folder.mkdir(exist_ok=True)
    text = f"part({len(firsts)},[{','.join(part)}]);\n"
    (folder / f"part-{len(firsts)}.js").write_text(text, encoding="utf-8")
    firsts.append(end - len(part))
