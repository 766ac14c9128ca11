"""Traces survive what runs do to them: odd numbers, odd text, kills, other versions."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from trace_lines import CONFIG, MODELS, OUTCOME, candidate, line, problem

from nabla_eval.errors import DataError
from nabla_eval.options import change, fingerprint, flatten
from nabla_eval.protocol import TemplateAffixes
from nabla_eval.traces import TraceWriter, done, read, restore, trace_path, unlike
from nabla_eval.traces.schema import SCHEMA, document, dumps, loads, seal


def written(path, count):
    with TraceWriter(path) as trace:
        for index in range(count):
            trace.write(line(index))
    return path


def test_a_record_restores_the_outcome_it_was_made_from(tmp_path):
    path = written(tmp_path / "new" / "trace-rank0.jsonl", 1)
    (stored,) = read(path)
    assert stored == line()
    assert restore(stored) == OUTCOME
    assert stored["ledger"]["model_calls"] == 9 + 4 * 2 + 3
    first = stored["candidates"][0]
    assert (first["context"], first["old_text"], first["new_text"]) == ("1 2", "<10>", "<11>")


def test_the_context_of_a_late_revision_stays_short():
    tokens = tuple(range(1000))
    outcome = dataclasses.replace(OUTCOME, candidates=(candidate(tokens=tokens, position=900),))
    (late,) = line(outcome=outcome)["candidates"]
    assert late["context"].split() == [str(token) for token in range(868, 900)]


def test_every_line_is_ascii_standard_json(tmp_path):
    hostile = "\x1b[31m<script>\u2028\ud800\x00 ∇"
    outcome = dataclasses.replace(
        OUTCOME,
        text=hostile,
        reward=math.nan,
        candidates=(candidate(new_reward=math.inf, old_reward=-math.inf),),
    )
    with TraceWriter(tmp_path / "t.jsonl") as trace:
        trace.write(line(outcome=outcome))
    raw = (tmp_path / "t.jsonl").read_bytes()
    raw.decode("ascii")
    assert raw.count(b"\n") == 1
    json.loads(raw, parse_constant=lambda word: pytest.fail(f"{word} in the file"))
    restored = restore(read(tmp_path / "t.jsonl")[0])
    assert restored.text == hostile
    assert math.isnan(restored.reward)
    assert restored.candidates[0].new_reward == math.inf
    assert restored.candidates[0].old_reward == -math.inf


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_round_trips_any_value(value):
    assume(not (isinstance(value, dict) and "$float" in value))
    assert loads(dumps(value)) == value


def test_records_are_on_disk_before_the_writer_is_closed(tmp_path):
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as trace:
        trace.write(line(0))
        assert [r["id"] for r in read(path)] == ["task/0/0"]


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path, lost):
    path = written(tmp_path / "trace-rank0.jsonl", 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with pytest.warns(UserWarning, match="torn"):
        assert done(tmp_path).keys() == {"task/0/0", "task/1/0"}
    with pytest.warns(UserWarning, match="torn"), TraceWriter(path) as trace:
        trace.write(line(2))
    assert path.read_bytes() == whole


def test_an_unreadable_whole_last_line_counts_as_torn(tmp_path):
    path = written(tmp_path / "t.jsonl", 2)
    path.write_bytes(path.read_bytes() + b"\x00\x00\x00\n")
    with pytest.warns(UserWarning, match="torn"):
        assert len(read(path)) == 2


def test_a_damaged_middle_line_names_file_and_line(tmp_path):
    path = written(tmp_path / "t.jsonl", 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(DataError, match=r"t\.jsonl:2 is damaged \(.+\)\. Remove the line"):
        read(path)
    with pytest.raises(DataError, match=r"t\.jsonl:2 is damaged"), TraceWriter(path):
        pass
    assert path.read_bytes().startswith(lines[0])


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(seal(line(0)) + seal({**line(1), "schema": SCHEMA + 1}))
    with pytest.raises(DataError, match=f":2 has schema {SCHEMA + 1}.* Read it with the version"):
        read(path)


@pytest.mark.parametrize("foreign", [b"[]\n", b'{"a": 1}\n', b'{"schema": 1}\n'])
def test_a_file_that_is_no_trace_is_refused(tmp_path, foreign):
    (tmp_path / "t.jsonl").write_bytes(foreign)
    with pytest.raises(DataError):
        read(tmp_path / "t.jsonl")


def test_a_missing_trace_is_an_error_to_read_and_nothing_done(tmp_path):
    assert done(tmp_path) == {} == done(tmp_path / "none")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"No trace at .* Give a folder"):
            read(path)


def test_ranks_are_read_together_in_order(tmp_path):
    for rank in (10, 2, 0):
        with TraceWriter(trace_path(tmp_path, rank)) as trace:
            trace.write(line(rank))
    assert [r["id"] for r in read(tmp_path)] == ["task/0/0", "task/2/0", "task/10/0"]


def test_only_the_same_work_is_resumed_and_differences_are_named(tmp_path):
    stored = done(written(tmp_path / "t.jsonl", 1))["task/0/0"]

    def found(asked=None, method="nabla", config=CONFIG, models=MODELS):
        return unlike(stored, asked or problem(), method, config, models)

    assert found() == []
    assert found(problem(seed=1)) == ["the seed"]
    for change_ in ({"prompt": (5,)}, {"max_new_tokens": 9}, {"affixes": TemplateAffixes((), ())}):
        (words,) = found(problem(**change_))
        assert words.startswith("the problem")
    assert found(method="twin") == ["method: nabla there, twin here"]
    assert sorted(found(config=change(CONFIG, lr=0.1, n=2))) == [
        "lr: 0.01 there, 0.1 here",
        "n: 4 there, 2 here",
    ]
    assert found(models={**MODELS, "policy": "other"}) == ["models' policy: tiny there, other here"]


def test_a_writer_that_is_not_open_or_cannot_write_says_so(tmp_path):
    with pytest.raises(DataError, match="not open"):
        TraceWriter(tmp_path / "t.jsonl").write(line())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"), TraceWriter(tmp_path / "file" / "t"):
        pass


def test_document_is_what_repeats_share():
    assert document("task/7/3") == "task/7" == document("task/7/0")
    assert document("alone") == "alone"


def test_a_trace_with_removed_options_that_did_nothing_is_a_run_without_them(tmp_path):
    """They are dropped, so that it continues and is pooled; what did something is kept."""
    record = line()
    for decay, differing in ((0.0, ""), (0.1, "weight_decay: 0.1 there, not set here")):
        config = {**record["config"], "error_below": None, "error_window": 3, "weight_decay": decay}
        older = {**record, "config": config, "config_hash": fingerprint(config)}
        (tmp_path / "t.jsonl").write_bytes(seal(older))
        (stored,) = read(tmp_path / "t.jsonl")
        found = unlike(stored, problem(), "nabla", CONFIG, MODELS)
        assert [word for word in found if "error_" not in word] == [differing][: bool(differing)]
        assert ("error_below" in stored["config"]) == bool(differing)


LATER = (
    "end_token", "threshold_inclusive", "schedule", "optimizer", "logits_dtype",
    "relaxation_temperature",
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({}, ""),
        ({"n": 3}, "n: 4 there, 3 here"),
        ({"schedule": "clipped_cosine"}, "schedule: cosine there, clipped_cosine here"),
        ({"end_token": "kept"}, "end_token: template there, kept here"),
        ({"relaxation_temperature": 1.0}, "relaxation_temperature: None there, 1.0 here"),
    ],
)
def test_a_trace_from_before_an_option_is_a_run_without_it(tmp_path, options, differing):
    """It continues and is pooled where the option has the value of what was done then."""
    record = line()
    config = {name: value for name, value in record["config"].items() if name not in LATER}
    assert len(config) == len(record["config"]) - len(LATER)
    older = {**record, "config": config, "config_hash": fingerprint(config)}
    (tmp_path / "t.jsonl").write_bytes(seal(older))
    (stored,) = read(tmp_path / "t.jsonl")
    asked = change(CONFIG, **options)
    assert "; ".join(unlike(stored, problem(), "nabla", asked, MODELS)) == differing
    assert (stored["config_hash"] == fingerprint(flatten(asked))) == (not differing)
