"""Problem sets as files: reading, hashing, storing, and telling right copies from wrong ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from nabla_eval.errors import ConfigError, DataError
from nabla_eval.harness.problems import known, store
from nabla_eval.harness.problems.known import Findings, examine, fingerprint, reference_copies
from nabla_eval.harness.problems.sets import SETS, Hub, ProblemSet, problem_set
from nabla_eval.harness.problems.store import Copy, Item, from_hub, item, items_hash

COUNTS = {"aime24": 30, "aime25": 30, "amc": 83, "amc23": 40, "math500": 500, "gsm8k": 1319}
TOY = ProblemSet("toy", "Toy", 3, "toy.jsonl", Hub("owner/toy", "0" * 40, "test"))
ROWS = [
    {"id": "a", "problem": "What is $1+1$?", "answer": "2"},
    {"id": "b", "problem": "What is $2+2$?", "answer": "4"},
    {"id": "c", "problem": "What is $-1-2$?", "answer": "-3"},
]


def copy_of(rows, problems=TOY):
    items = tuple(item(problems, row, f"row {n}") for n, row in enumerate(rows, 1))
    return Copy(problems, items, "here", problems.items)


def fill(folder, rows):
    file = folder / TOY.file
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_the_sets_have_their_published_sizes():
    assert {name: problems.items for name, problems in SETS.items()} == COUNTS
    assert problem_set("nabla_amc23") is SETS["amc23"]
    with pytest.raises(ConfigError, match="Did you mean aime2"):
        problem_set("aime42")
    for problems in SETS.values():
        assert len(problems.hub.revision) == 40, "a branch moves, a commit does not"


@pytest.mark.parametrize("name", SETS)
def test_the_known_hashes_are_those_of_the_shared_copies(shared_data, name):
    copy = store.counted(store.read(shared_data, SETS[name]))
    assert len(copy.items) == (200 if name == "gsm8k" else COUNTS[name])
    assert fingerprint(copy.items) == reference_copies()[name]
    assert examine(copy) == Findings(())


def test_the_circulating_copy_of_aime24_is_told_from_the_right_one(shared_data):
    copy = store.read(shared_data, SETS["aime24"])
    (wrong,) = (n for n, one in enumerate(copy.items) if one["answer"] == "385")
    items = [{**one} for one in copy.items]
    items[wrong]["answer"] = "384"
    (fault,) = examine(replace(copy, items=tuple(items))).faults
    assert fault == f"answers other than the known ones: {items[wrong]['id']}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("025", "25"), ("000", "0"), (25, "25"), (142.0, "142"), ("142.0", "142"), ("-4", "-4"),
        ("−4", "-4"), ("70,000", "70000"), ("$18", "18"), ("She has 3.\n#### 1,200", "1200"),
    ],
)  # fmt: skip
def test_integer_answers_get_one_spelling_and_others_stay(answer, expected):
    row = {"problem": "?", "answer": answer}
    assert item(TOY, row, "row 1")["answer"] == expected
    text = str(answer).rpartition("#### ")[2]
    assert item(replace(TOY, integers=False), row, "row 1")["answer"] == text


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"answer": "1"}, "row 7 holds None under 'problem'. Each row needs a problem"),
        ({"problem": " ", "answer": "1"}, "row 7 holds ' ' under 'problem'"),
        ({"problem": "?"}, "row 7 holds None under 'answer'"),
        ({"problem": "?", "answer": ["1"]}, "row 7 holds a list under 'answer'"),
        ({"problem": "?", "answer": "9" * 1001}, "the answer '999"),
        ({"problem": "?", "answer": "1/2"}, "the answer '1/2', and every answer of Toy is an"),
        ({"problem": "?", "answer": float("nan")}, "the answer 'nan'"),
    ],
)
def test_rows_that_are_no_problems(row, part):
    with pytest.raises(DataError) as caught:
        item(TOY, row, "row 7")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_the_hash_names_problems_answers_and_order():
    items = copy_of(ROWS).items
    assert items_hash(items) == items_hash([{**one, "id": "?", "source": "?"} for one in items])
    others: list[list[Item]] = [
        [items[1], items[0], items[2]],
        [*items[:2]],
        [{**items[0], "answer": "3"}, *items[1:]],
        [{**items[0], "problem": items[0]["problem"] + " "}, *items[1:]],
    ]
    assert len({items_hash(other) for other in [*others, items]}) == 5


def test_a_folder_is_read_whole_and_a_part_is_taken_where_the_whole_is_missing(tmp_path):
    problems = replace(TOY, parts={"toy_first1.jsonl": 1})
    (tmp_path / "toy_first1.jsonl").write_text(json.dumps(ROWS[0]))
    part = store.counted(store.read(tmp_path, problems))
    assert part.part and len(part.items) == 1
    fill(tmp_path, ROWS)
    copy = store.counted(store.read(tmp_path, problems))
    assert not copy.part and copy.source == str(tmp_path / TOY.file)
    assert [one["answer"] for one in copy.items] == ["2", "4", "-3"]
    fill(tmp_path, ROWS[:2])
    with pytest.raises(DataError, match="has 2 items, and Toy has 3"):
        store.counted(store.read(tmp_path, TOY))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"problem": "?"', "row 1 is no JSON"),
        (b"[1, 2]", "row 1 is no object"),
        (b"\n\n7\n", "row 3 is no object"),
        (b"\xff\xfe", "cannot be read"),
        (None, r"has no toy.jsonl \(Toy\): it holds other.jsonl. Fetch"),
    ],
)
def test_folders_without_a_whole_set(tmp_path, content, said):
    (tmp_path / "other.jsonl").touch()
    if content is not None:
        (tmp_path / TOY.file).write_bytes(content)
    with pytest.raises(DataError, match=said):
        store.read(tmp_path, TOY)
    with pytest.raises(DataError, match=r"does not exist\. Check NABLA_DATA\. Fetch it"):
        store.read(tmp_path / "no", TOY)


def test_what_is_written_is_what_is_read(tmp_path):
    copy = copy_of([*ROWS[:2], {**ROWS[2], "problem": "Ist 1 ≤ 2?\u2028ja"}])
    file = store.write(tmp_path / "new", copy)
    assert store.read(file.parent, TOY).items == copy.items
    assert [path.name for path in file.parent.iterdir()] == [TOY.file]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    store.write(tmp_path, copy_of(ROWS))
    before = (tmp_path / TOY.file).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"cannot be written: .*No space left"):
        store.write(tmp_path, copy_of(ROWS[:1]))
    assert (tmp_path / TOY.file).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file stays behind"


@pytest.mark.parametrize(
    ("rows", "faults", "notes"),
    [
        (ROWS, [], []),
        (ROWS[::-1], [], []),  # another order
        ([{**ROWS[0], "problem": r"What is \(1+1\) ?"}, *ROWS[1:]], [], []),  # another markup
        ([{**ROWS[0], "problem": "1+1?"}, *ROWS[1:]], [], ["otherwise than in the tested copy: a"]),
        ([{**ROWS[0], "answer": "3"}, *ROWS[1:]], ["other than the known ones: a"], []),
        ([{**ROWS[0], "problem": "1?", "answer": "1"}, *ROWS[1:]], ["known ones: a"], []),
        (ROWS[:2], ["2 items instead of 3"], []),
        ([*ROWS, ROWS[0]], ["4 items instead", "stand there twice: a", "known ones: a"], []),
    ],
)  # fmt: skip
def test_copies_are_compared_with_the_tested_one(rows, faults, notes, monkeypatch):
    tested = {"toy": fingerprint(copy_of(ROWS).items)}
    monkeypatch.setattr(known, "reference_copies", lambda: tested)
    findings = examine(copy_of(rows))
    assert len(findings.faults) == len(faults) and len(findings.notes) == len(notes)
    for found, part in zip((*findings.faults, *findings.notes), [*faults, *notes], strict=True):
        assert part in found
    assert findings.verdict == ("wrong" if faults else "other wording" if notes else "ok")


def test_of_a_set_that_is_known_in_part_nothing_is_said_about_the_rest(monkeypatch):
    tested = {"toy": fingerprint(copy_of(ROWS[:1]).items)}
    monkeypatch.setattr(known, "reference_copies", lambda: tested)
    assert examine(copy_of(ROWS)).verdict == "ok"
    (fault,) = examine(copy_of([{**ROWS[0], "problem": "1?", "answer": "9"}, *ROWS[1:]])).faults
    assert fault == "1 known problems, or their answers, are not there"


def test_hub_rows_become_items(monkeypatch):
    import datasets

    rows = {
        "gsm8k": {"question": "1+1?", "answer": "It is 2.\n#### 2"},
        "math500": {"unique_id": "test/a.json", "problem": "?", "answer": r"\frac12"},
        "amc": {"id": 3, "problem": "?", "answer": -4.0, "url": "https://"},
    }
    found = {}
    for name, row in rows.items():
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, told=row, **__: [told] * 2)
        found[name] = from_hub(SETS[name]).items[1]
    assert found["gsm8k"] == {
        "id": "2", "problem": "1+1?", "answer": "2", "source": "openai/gsm8k@740312a",
    }  # fmt: skip
    assert (found["math500"]["id"], found["amc"]["answer"]) == ("test/a.json", "-4")


def test_a_hub_that_cannot_be_reached_or_refuses(monkeypatch):
    with pytest.raises(DataError) as caught:
        from_hub(TOY)
    text = str(caught.value)
    assert "there is no network, and it is not in the cache" in text and "\n" not in text
    assert "nabla-eval data fetch DIR" in text and "NABLA_DATA=DIR" in text

    def gated(*_, **__):
        raise ValueError("Dataset 'owner/toy' is gated.\nAsk for access.")

    monkeypatch.setattr("datasets.load_dataset", gated)
    monkeypatch.setattr(store, "hub_answers", lambda: True)
    with pytest.raises(DataError, match=r"is gated. Ask for access"):
        from_hub(TOY)
