"""Problems with their answers: from a folder with one JSONL file a set, or from the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.harness.problems.sets import Hub, ProblemSet
from nabla_eval.models.hub import hub_answers
from nabla_eval.validation import UNREADABLE, shown, text_of

VARIABLE = "NABLA_DATA"
_INTEGER = re.compile(r"[-−]?[0-9]{1,1000}(?:\.0+)?")


class Item(TypedDict):
    """One problem, as the JSONL files store it and as lm-eval's tasks see it."""

    id: str
    problem: str
    answer: str
    source: str


def item(
    problems: ProblemSet, row: Mapping[str, Any], place: str, columns: Hub | None = None
) -> Item:
    """Return the item of a row, whose columns are called as in the files or as ``columns`` says.

    Integer answers get one spelling: 25 for "025", "25.0" and 25.0, 70000 for "70,000". GSM8K's are
    taken out of its worked solutions. Raises `DataError` that names the row by its `place`.
    """
    names = ("id", "problem", "answer")
    if columns is not None:
        names = (columns.id, columns.problem, columns.answer)
    id_, problem, answer = (row.get(name) for name in names)
    for name, value, kinds in ((names[1], problem, str), (names[2], answer, str | int | float)):
        if not isinstance(value, kinds) or isinstance(value, bool) or not str(value).strip():
            raise DataError(
                f"{place} holds {shown(value)} under {name!r}. Each row needs a problem and its "
                "answer."
            )
    text = str(answer).rpartition("####")[2].strip()
    return {
        "id": str(id_) if id_ is not None else place.rpartition(" ")[2],
        "problem": str(problem),
        "answer": _integer(text, place, problems) if problems.integers else text,
        "source": str(row.get("source", columns or "")),
    }


def _integer(text: str, place: str, problems: ProblemSet) -> str:
    plain = text.replace(",", "").replace("$", "")
    if not _INTEGER.fullmatch(plain):
        raise DataError(
            f"{place} has the answer {text[:80]!r}, and every answer of {problems.title} is an "
            "integer. Mend the row, or fetch it anew."
        )
    return str(int(plain.partition(".")[0].replace("−", "-")))


def items_hash(items: Iterable[Item]) -> str:
    """16 hex digits that name these problems with these answers in this order; ids do not count."""
    digest = hashlib.sha256()
    for one in items:
        digest.update(json.dumps([one["problem"], one["answer"]]).encode() + b"\n")
    return digest.hexdigest()[:16]


def wording(one: Item) -> str:
    """8 hex digits of a problem's letters and digits: copies differ in spaces and in markup."""
    return _short(re.sub(r"[^0-9a-z]", "", one["problem"].lower()))


def answering(one: Item) -> str:
    """8 hex digits of an answer without its spaces."""
    return _short("".join(one["answer"].split()))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def repeated(items: Sequence[Item]) -> list[str]:
    """Return the ids of items whose problem stands before them already."""
    first: dict[str, int] = {}
    keys = ["".join(one["problem"].split()) for one in items]
    return [
        one["id"]
        for number, (key, one) in enumerate(zip(keys, items, strict=True))
        if first.setdefault(key, number) < number
    ]


@dataclass(frozen=True)
class Copy:
    """The items of one set, and where they came from."""

    problems: ProblemSet
    items: tuple[Item, ...]
    source: str  # a file or a hub data set
    expected: int

    @property
    def part(self) -> bool:
        """Return whether it is meant to hold only the first of the set's items."""
        return self.expected < self.problems.items

    @property
    def hash(self) -> str:
        return items_hash(self.items)


def find(folder: Path, problems: ProblemSet) -> Path | None:
    """Return the file of a folder that holds the set or, failing that, a part of it."""
    return next((folder / name for name in problems.files if os.path.isfile(folder / name)), None)


def read(folder: Path, problems: ProblemSet) -> Copy:
    """Return the set's items out of a folder, all of them.

    Raises `DataError` where the folder or its file is missing or torn, or has another number of
    items than the set.
    """
    file = find(folder, problems)
    if file is None:
        raise DataError(_absent(folder, problems))
    items = tuple(
        item(problems, row, f"{file}, row {number}") for number, row in enumerate(_rows(file), 1)
    )
    return Copy(problems, items, str(file), problems.files[file.name])


def counted(copy: Copy) -> Copy:
    """Return the same copy. Raises `DataError` where it has not as many items as the set."""
    if len(copy.items) != copy.expected:
        raise DataError(
            f"{copy.source} has {len(copy.items)} items, and {copy.problems.title} has "
            f"{copy.expected}. Fetch it anew (nabla-eval data fetch DIR)."
        )
    return copy


def _absent(folder: Path, problems: ProblemSet) -> str:
    advice = (
        f"Fetch it where there is a network (nabla-eval data fetch DIR --only {problems.name}), or "
        f"unset {VARIABLE} and data_dir to take it from the hub."
    )
    if not os.path.isdir(folder):
        return f"The folder of problems {folder} does not exist. Check {VARIABLE}. {advice}"
    held = ", ".join(sorted(file.name for file in folder.glob("*.jsonl"))) or "no *.jsonl file"
    return f"{folder} has no {problems.file} ({problems.title}): it holds {held}. {advice}"


def _rows(file: Path) -> Iterator[Any]:
    try:
        lines = text_of(file).split("\n")  # splitlines() also splits at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}. Fetch it anew.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UNREADABLE as error:
            raise DataError(
                f"{file}, row {number} is no JSON ({error}): {line[:60]!r}. Fetch it anew."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, row {number} is no object but {line[:60]!r}. Fetch it anew.")
        yield row


def write(folder: Path, copy: Copy) -> Path:
    """Store a copy as the folder's file of its set: a reader sees the old or the new one whole."""
    file = folder / copy.problems.file
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in copy.items]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{file.name}.") as draft:
            whole = Path(draft, file.name)
            with whole.open("w", encoding="utf-8") as stream:
                stream.writelines(lines)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(whole, file)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error}. Choose another folder.") from error
    return file


def from_hub(problems: ProblemSet) -> Copy:
    """Return the set's items from its hub data set, or from what the cache holds of it.

    Raises `DataError` where it is neither within reach nor in the cache.
    """
    import datasets

    hub = problems.hub
    try:
        with _no_waiting():
            rows = datasets.load_dataset(hub.path, hub.name, split=hub.split, revision=hub.revision)
    except Exception as error:  # of huggingface_hub, requests, httpx, fsspec, pyarrow, ...
        raise DataError(_explain(problems, error)) from error
    items = tuple(
        item(problems, row, f"{hub}, row {number}", hub) for number, row in enumerate(rows, 1)
    )
    return Copy(problems, items, str(hub), problems.items)


def _explain(problems: ProblemSet, error: Exception) -> str:
    what = f"{problems.title} ({problems.hub}) cannot be had from the hub"
    if hub_answers():
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(". ")
        return f"{what}: {detail}. Try again later, or give a folder of problems ({VARIABLE}=DIR)."
    return (
        f"{what}: there is no network, and it is not in the cache. Run `nabla-eval data fetch DIR` "
        f"where there is one, copy DIR here, and set {VARIABLE}=DIR (or pass "
        """--metadata '{"data_dir": "DIR"}' to lm_eval)."""
    )


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Without network, look into the cache only; else the client retries for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
