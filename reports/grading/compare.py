"""Where our grader and math-verify alone differ, on labelled pairs; writes a page."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nabla_eval.grading import close, extract, grade_batch
from nabla_eval.terminal import printable

SHOWN = 3  # rows of a kind in the table of differences
LONGEST = 60  # characters of an excerpt
SECONDS = 20.0  # of processor time for one comparison: no verdict hangs on the machine
SETS = {
    "grading_pairs": "labelled pairs of other projects' test tables",
    "grading_pairs_policy": "pairs on which honest graders differ, with their source's label",
    "reported_inputs": "inputs made after public reports",
}


@dataclass(frozen=True)
class Row:
    """One labelled pair and both verdicts."""

    kind: str
    gold: str
    given: str
    label: bool
    ours: bool
    theirs: bool

    @property
    def differs(self) -> bool:
        return self.ours != self.theirs


def pairs(file: Path) -> Iterator[tuple[str, str, str, bool, bool]]:
    """(kind, gold, response, is it an answer already, label) of each row that has all of them."""
    for line in file.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if "pred" in row:
            kind = row.get("reason") or row["source"].split(":")[0].split("/")[-1]
            bare = extract(row["pred"]) == row["pred"].strip()  # one expression and nothing else
            yield kind, row["gold"], row["pred"], bare, row["equal"]
        elif isinstance(row["expected"], bool) and isinstance(row["input"].get("gold"), str):
            told = row["input"]
            given = told.get("answer", told.get("response"))
            if isinstance(given, str) and set(told) <= {"gold", "answer", "response"}:
                yield row["kind"], told["gold"], given, "answer" in told, row["expected"]


def graded(file: Path) -> list[Row]:
    """Every row of a file with both verdicts."""
    found: dict[int, list[Any]] = {}
    rows = list(pairs(file))
    for extracted in (False, True):
        places = [i for i, row in enumerate(rows) if row[3] == extracted]
        asked = [(rows[i][1], rows[i][2]) for i in places]
        verdicts = [
            grade_batch(asked, extracted=extracted, timeout=SECONDS, grader=grader)
            for grader in ("nabla_eval", "math_verify")
        ]
        for i, ours, theirs in zip(places, *verdicts, strict=True):
            kind, gold, given, _, label = rows[i]
            found[i] = [kind, gold, given, label, ours.equal, theirs.equal]
    return [Row(*found[i]) for i in sorted(found)]


def counts(sets: dict[str, list[Row]]) -> Iterator[str]:
    """One line a set: how many labels each grader agrees with, and its false accepts."""
    yield "| set | rows | ours | math-verify | they differ | false accepts: ours | math-verify |"
    yield "|---|---|---|---|---|---|---|"
    for name, rows in sets.items():
        ours, theirs = (share(rows, [getattr(row, who) for row in rows]) for who in WHO)
        wrong = [sum(getattr(row, who) and not row.label for row in rows) for who in WHO]
        differ = sum(row.differs for row in rows)
        yield (
            f"| `{name}`: {SETS[name]} | {len(rows)} | {ours} | {theirs} | {differ} | "
            f"{wrong[0]} | {wrong[1]} |"
        )


WHO = ("ours", "theirs")


def share(rows: Sequence[Row], verdicts: Iterable[bool]) -> str:
    """How many verdicts agree with the labels."""
    right = sum(verdict == row.label for row, verdict in zip(rows, verdicts, strict=True))
    return f"{right} ({100 * right / len(rows):.1f} %)"


def differences(rows: Sequence[Row]) -> Iterator[str]:
    """The kinds in which the graders differ, with the first rows of each."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row.kind].append(row)
    yield "| kind | rows | right: ours | math-verify | for example |"
    yield "|---|---|---|---|---|"
    for kind, own in sorted(kinds.items(), key=lambda item: -sum(r.differs for r in item[1])):
        apart = [row for row in own if row.differs]
        if apart:
            right = [sum(getattr(row, who) == row.label for row in own) for who in WHO]
            shown = "<br>".join(map(example, apart[:SHOWN]))
            yield f"| {cell(kind)} | {len(own)} | {right[0]} | {right[1]} | {shown} |"


def example(row: Row) -> str:
    """A row in brief, and who accepts it."""
    accepts = "ours" if row.ours else "math-verify"
    label = "equal" if row.label else "unequal"
    return f"{code(row.gold)} and {code(row.given)}: {label}; accepted by {accepts}"


def code(text: str) -> str:
    """An excerpt as code in a table's cell."""
    text = printable(" ".join(text.split()))
    if len(text) > LONGEST:
        text = f"… {text[-LONGEST:]}"
    return f"<code>{cell(text)}</code>"


def cell(text: str) -> str:
    """Text that no cell of a table ends at."""
    for mark, written in (
        ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"),
        ("$", "&#36;"), ("\\", "&#92;"), ("*", "&#42;"), ("_", "&#95;"),
    ):  # fmt: skip
        text = text.replace(mark, written)
    return text


def page(sets: dict[str, list[Row]]) -> str:
    """The whole page, in Markdown."""
    lines = [
        "# Our grader beside math-verify",
        "",
        f"Made by `reports/grading/run.sh` with math-verify {version('math-verify')}. Both graders "
        "saw the same gold answers and the same responses. math-verify finds the answer by its own "
        "rules (`--grader math_verify`): the gold answer in a box, the response as it is; what is "
        "already an answer stands in a box, too. Ours is [described here]"
        "(../../nabla_eval/grading/README.md); where math-verify parses for us, our vetoes follow.",
        "",
        "Labels are those of the sources. In the second set they are what one project decided and "
        "others decide otherwise, so agreement there is no measure of quality. The first set is "
        "mostly of math-verify's own tests and of its relatives', the third was made for faults "
        "that users of such graders reported, some of them ours: neither is a sample of what "
        "policies write. Ours has been mended on these very rows, so its agreement says little of "
        "rows to come.",
        "",
        *counts(sets),
    ]
    for name, rows in sets.items():
        lines += ["", f"## Where they differ: `{name}`", "", *differences(rows)]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the labelled pairs")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    missing = [name for name in SETS if not (asked.data / f"{name}.jsonl").is_file()]
    if missing:
        raise SystemExit(f"{asked.data} has no {missing[0]}.jsonl. Name the folder that holds it.")
    sets = {name: graded(asked.data / f"{name}.jsonl") for name in SETS}
    close()
    asked.output.write_text(page(sets), encoding="utf-8")


if __name__ == "__main__":
    main()
