"""Every place in the code that makes an error for users, and what the tests saw there.

`make errors` runs the tests with a recorder and writes the README's full list of errors: the cause
is the name of the test that provokes it. `tests/architecture/test_errors.py` holds that list
against the code.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import error_table

from nabla_eval import errors

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- all-errors:begin -->", "<!-- all-errors:end -->"
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.NablaError) and name != "OutOfCalls"
}


@dataclass(frozen=True)
class Site:
    """A call that makes an error, and what its message looks like."""

    file: str  # relative to the repository
    first: int  # lines
    last: int
    template: str  # the message, with ... for what differs

    def says(self, row: str) -> bool:
        """Whether a row of a table may be this message: its literal parts, in order.

        Blanks and the punctuation at which tables cut a message in two do not count.
        """
        text, place = _bones(row), 0
        for part in map(_bones, self.template.split("...")):
            place = text.find(part, place)
            if place < 0:
                return False
            place += len(part)
        return True

    @property
    def bare(self) -> bool:
        """Whether it passes on what another error or a variable says."""
        return self.template == "..."

    @property
    def part(self) -> bool:
        """Whether it is caught, and another error says the rest of the sentence."""
        return self.template.startswith(("is ", "has "))

    @property
    def told(self) -> str:
        return f"{self.file}: {self.template}"


def _bones(text: str) -> str:
    return re.sub(r"[\s;:,]", "", text)


@cache
def sites() -> tuple[Site, ...]:
    """All places of `nabla_eval`, in order."""
    return tuple(
        site for file in sorted((ROOT / "nabla_eval").rglob("*.py")) for site in _sites_of(file)
    )


def _sites_of(file: Path) -> Iterator[Site]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in KINDS and node.args:
            name, last = str(file.relative_to(ROOT)), node.end_lineno or node.lineno
            yield Site(name, node.lineno, last, _template(node.args[0]))


def _template(node: ast.AST) -> str:
    """Literal text, and ... for everything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return re.sub(r"(\.\.\.)+", "...", "".join(map(_template, parts)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return re.sub(r"(\.\.\.)+", "...", _template(left) + _template(right))
        case _:
            return "..."


# --- recording ----------------------------------------------------------------------------------

Seen = dict[str, list[tuple[str, str]]]  # site -> (test, message)


class Recorder:
    """A pytest plugin: notes which test saw which message from which place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, Seen()
        self.test: str | None = None
        self.places: dict[str, list[Site]] = {}
        for site in sites():
            self.places.setdefault(str(ROOT / site.file), []).append(site)
        original = errors.NablaError.__init__
        recorder = self

        def noting(error: errors.NablaError, *words: Any) -> None:
            original(error, *words)
            recorder.note(error, sys._getframe(1))

        errors.NablaError.__init__ = noting  # type: ignore[method-assign]

    def note(self, error: errors.NablaError, frame: Any) -> None:
        if self.test is None:
            return
        for site in self.places.get(frame.f_code.co_filename, ()):
            if site.first <= frame.f_lineno <= site.last:
                self.seen.setdefault(site.told, []).append((self.test, str(error)))

    def pytest_runtest_setup(self, item: Any) -> None:
        drawn = getattr(item.obj, "is_hypothesis_test", False)  # says something else on every day
        self.test = None if drawn else getattr(item, "originalname", item.name)

    def pytest_sessionfinish(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.json"
        file.write_text(json.dumps(self.seen), encoding="utf-8")


# --- the README's list --------------------------------------------------------------------------


def shown(message: str) -> str:
    """A message without what differs between machines and runs."""
    text = " ".join(message.split())
    name = r"[^/\s:,;)\"']*[^/\s:,;)\"'.]"
    text = re.sub(rf"/\S*?/pytest-of-[^/\s]+/pytest-\d+/(?:popen-gw\d+/)?{name}", "FOLDER", text)
    text = re.sub(rf"/tmp/{name}", "FOLDER", text)
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), "FOLDER")
    text = re.sub(r"127\.0\.0\.1:\d{5}", "127.0.0.1:PORT", text)
    return text if len(text) <= 420 else text[:240].rstrip() + " [...] " + text[-160:].lstrip()


def split(text: str) -> tuple[str, str]:
    """What and got; and what to try, which the last sentences say."""
    ends = [m.end() for m in re.finditer(r"[.?)\"'][.?]? (?=[A-Z`])|[.;:] (?=[A-Z`])", text)]
    ends = ends or [
        m.end() for m in re.finditer(r"[:;] (?=it takes|leave |it must|they must)", text)
    ]
    if not ends:
        return text, ""
    place = ends[0] if len(text) - ends[-1] > 160 else ends[-1]
    return text[:place].strip(), text[place:].strip()


def rows(seen: Seen) -> list[tuple[str, str, str]]:
    """(cause, message, remedy) of places that the shorter table does not show."""
    known = list(map(" ".join, error_table.read().values()))
    found = []
    for site in sites():
        shorter = not site.bare and any(site.says(plain(row)) for row in known)
        if site.told not in seen or shorter or site.part:
            continue
        test, message = min(seen[site.told], key=lambda one: (len(one[1]), one))
        cause = test.removeprefix("test_").replace("_", " ")
        found.append((cause, *split(shown(message))))
    return sorted(set(found), key=lambda row: row[0].casefold())


def plain(cell: str) -> str:
    """A table's text as it was before it was escaped."""
    return re.sub(r"\\([|<*])", r"\1", cell)


def write(seen: Seen) -> int:
    """Write the list; how many rows it has."""
    text = error_table.README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, "README.md has lost the markers of its list of all errors."
    lines = [f"| {' | '.join(map(error_table._cell, row))} |" for row in rows(seen)]
    table = "\n".join([error_table.HEAD, *lines])
    content = f"{before}{BEGIN}\n{table}\n{END}{after}"
    error_table.README.write_text(content, encoding="utf-8")
    return len(lines)


def rows_written() -> list[list[str]]:
    """Cause, message and remedy of the list as it stands."""
    text = error_table.README.read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0]
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4]] for line in lines]


def listed() -> list[str]:
    """Every row of both tables: message and remedy."""
    pairs = [(message, remedy) for _, message, remedy in rows_written()]
    return [plain(f"{a} {b}") for a, b in (*pairs, *error_table.read().values())]


if __name__ == "__main__":
    merged: Seen = {}
    for part in sorted(Path(sys.argv[1]).glob("*.json")):
        for place, pairs in json.loads(part.read_text(encoding="utf-8")).items():
            merged.setdefault(place, []).extend((test, message) for test, message in pairs)
    print(f"{write(merged)} rows in README.md; {len(merged)} of {len(sites())} places seen.")
    for cause, message, remedy in rows(merged):
        if not remedy:
            print(f"no remedy: {cause}: {message}")
    for site in sites():
        if site.told not in merged:
            print(f"not seen: {site.file}:{site.first}: {site.template}")
