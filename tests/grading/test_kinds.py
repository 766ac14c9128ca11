"""Every kind of notation by inputs of our own: what agrees, and above all what must not.

`kinds.tsv` holds one input a line: its kind, the verdict, the gold answer, and an answer (equal,
unequal) or a whole response (right, wrong), in which ⏎ stands for a line break.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from nabla_eval.grading import grade

TABLE = Path(__file__).with_name("kinds.tsv")


def _read() -> dict[tuple[str, str], list[tuple[str, str]]]:
    rows = defaultdict(list)
    # Not splitlines: some of the spaces between digits are line breaks to it.
    for line in TABLE.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        kind, verdict, gold, text = line.replace("⏎", "\n").split("\t")
        rows[kind, verdict].append((gold, text))
    return rows


ROWS = _read()


@pytest.mark.parametrize(("kind", "verdict"), ROWS)
def test_kind(kind: str, verdict: str) -> None:
    wrong = []
    for gold, text in ROWS[kind, verdict]:
        result = grade(gold, text, extracted=verdict in {"equal", "unequal"}, timeout=60)
        if result.timed_out or result.equal != (verdict in {"equal", "right"}):
            wrong.append((gold, text, result))
    assert not wrong


def test_every_kind_has_many_inputs_and_some_that_must_not_agree() -> None:
    assert {verdict for _, verdict in ROWS} == {"equal", "unequal", "right", "wrong"}
    kinds = {kind for kind, verdict in ROWS if verdict == "equal"} - {"further pairs"}
    assert len(kinds) >= 18
    for kind in kinds:
        assert len(ROWS[kind, "equal"]) + len(ROWS[kind, "unequal"]) >= 15, kind
        assert len(ROWS[kind, "unequal"]) >= 6, kind
