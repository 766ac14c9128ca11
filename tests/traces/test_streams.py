"""A trace is read line by line: what is in memory does not grow with what is on the disk."""

from __future__ import annotations

import tracemalloc
from collections import deque
from dataclasses import asdict, replace

import pytest
from large_runs import write_large_run
from run_folders import BEST_OF_N, as_run, candidate, record, write_run
from trace_lines import line

from nabla_eval.analysis.calibration import drafted_answers
from nabla_eval.analysis.candidates import gain, rejection
from nabla_eval.analysis.cost import acceleration
from nabla_eval.errors import DataError
from nabla_eval.traces import TraceWriter, done, read, trace_path
from nabla_eval.traces.index import kept, whole
from nabla_eval.traces.read import stream
from nabla_eval.traces.schema import seal

SIZES = (10, 50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_large_run(root / str(size), size) for size in SIZES]


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drained(records):
    deque(records, maxlen=0)


def opened(folder):
    with TraceWriter(trace_path(folder)):
        pass


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (lambda run: drained(stream(run)), 500),
        (lambda run: drained(done(run).values()), 1_000),
        (lambda run: list(kept(run)), 16_000),
        (opened, 500),
    ],
    ids=["stream", "done", "kept", "writer"],
)
def test_memory_grows_by_what_is_kept_and_not_by_the_line(runs, work, most):
    """A record of 90 KB takes about 300 KB of memory; `most` is in bytes a problem."""
    work(runs[0])  # what is imported and cached at first
    small, large = (peak(lambda run=run: work(run)) for run in runs)
    assert (large - small) / (SIZES[1] - SIZES[0]) < most


def test_done_knows_the_last_record_of_each_id_in_all_shards(tmp_path):
    for rank, seconds in enumerate((1.0, 2.0)):
        with TraceWriter(trace_path(tmp_path, rank)) as writer:
            for index in (rank, 2):
                writer.write(replace(line(index), seconds=seconds))
    found = done(tmp_path)
    assert sorted(found) == ["task/0/0", "task/1/0", "task/2/0"] and len(found) == 3
    assert found["task/2/0"]["seconds"] == 2.0 and found["task/0/0"]["seconds"] == 1.0
    assert found.get("task/3/0") is None and "task/1/0" in found
    assert dict(found) == {r["id"]: r for r in read(tmp_path)}
    assert done(tmp_path / "none") == {}


def test_a_shard_that_was_changed_since_is_refused(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    one, other = seal(line(0)), seal(line(1))
    assert len(one) == len(other)
    path.write_bytes(one + other)
    found = done(path)
    path.write_bytes(other + one)
    with pytest.raises(DataError, match="changed while it was read"):
        found["task/0/0"]
    path.write_bytes(b" " + one + other)
    with pytest.raises(DataError, match="is damaged"):
        found["task/0/0"]
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        found["task/0/0"]


def test_all_ways_of_reading_refuse_the_same(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    whole_lines = [seal(line(index)) for index in range(3)]
    path.write_bytes(whole_lines[0] + whole_lines[1][:-30] + b"\n" + whole_lines[2])
    for look in (read, done, lambda path: list(kept(path))):
        with pytest.raises(DataError, match=r"trace-rank0\.jsonl:2 is damaged"):
            look(path)
    path.write_bytes(whole_lines[0] + whole_lines[1][:-30])
    for look in (read, done, lambda path: list(kept(path))):
        with pytest.warns(UserWarning, match="torn"):
            assert len(look(path)) == 1
    assert len(done(path, growing=True)) == 1


def test_lines_that_others_append_meanwhile_are_left_to_the_next_reader(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    path.write_bytes(seal(line(0)) + seal(line(1)))
    reading = stream(path)
    first = next(reading)
    with path.open("ab") as shard:
        shard.write(seal(line(2))[:-9])
    assert [first["id"], *(record["id"] for record in reading)] == ["task/0/0", "task/1/0"]


def test_analyses_of_what_is_kept_are_those_of_whole_records(tmp_path):
    judged = [
        [candidate("rejected", 1, text="a b"), candidate("accepted", 2, text="a c d", index=1)],
        [candidate("tie", 1, norm=None)],
        [],
    ]
    records = [record(i, candidates=found, drafts=[0.5]) for i, found in enumerate(judged)]
    for found in records:
        found["ledger"]["flops"] = float("inf")  # which JSON has no word for
    run = write_run(tmp_path / "nabla", records, [1.0, 0.0, 1.0])
    short, full = list(kept(run)), read(run)
    kept_run, full_run = as_run(short), as_run(full)
    for analysis in (gain, acceleration, lambda r: rejection(r.candidates)):
        assert repr(asdict(analysis(kept_run))) == repr(asdict(analysis(full_run)))
    assert [whole(each) for each in short] == full
    assert [whole({**each, "id": "renamed/0/1.0"}) for each in short] == full  # as pooling does
    assert whole(full[0]) is full[0]


def test_drafts_are_graded_by_the_texts_on_the_disk(tmp_path):
    records = [
        record(i, method="best_of_n", config=BEST_OF_N, drafts=[0.1, None, 0.3]) for i in range(3)
    ]
    run = write_run(tmp_path, records, [1.0] * 3)
    docs = {f"toy/{i}": {"target": "4"} for i in range(3)}
    found = [
        drafted_answers(as_run(each, docs=docs), lambda doc, text: text == "4")
        for each in (list(kept(run)), records)
    ]
    assert found[0].equals(found[1]) and list(found[0]["right"][:2]) == [True, False]


@pytest.mark.parametrize(
    "change",
    [{"drafts": [5]}, {"candidates": [{}]}, {"outcome": {"text": "4"}}, {"ledger": 3},
     {"ledger": {"model_calls": 1}}, {"prompt": None}, {"drafts": 7}],
)  # fmt: skip
def test_parts_that_no_trace_has_are_refused_by_line(tmp_path, change):
    path = tmp_path / "trace-rank0.jsonl"
    path.write_bytes(seal(line(0)) + seal({**line(1), **change}))
    with pytest.raises(DataError, match=r"jsonl:2: .*Run again"):
        list(kept(path))


def test_numbers_and_profiles_that_no_run_has_are_refused(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    ledger = line(1)["ledger"]
    profile = {"tokens": ["a"], "entropy": [], "gradient_norms": {}}
    for change, words in (
        ({"ledger": {**ledger, "generated_tokens": 1e308}}, "generated_tokens of the ledger is"),
        ({"ledger": {**ledger, "flops": -1.0}}, "flops of the ledger is -1.0"),
        ({"profiles": {"first": profile}}, "first has 1 tokens and 0 entropies"),
    ):
        path.write_bytes(seal({**line(1), **change}))
        with pytest.raises(DataError, match=words):
            read(path)
