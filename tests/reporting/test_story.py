"""Stories and trees of moves of records whose candidates and moves are known."""

from __future__ import annotations

from typing import Any

import pytest
from told_runs import HOSTILE, searched_records, told_records

from nabla_eval.reporting.story import Story, brief, rightness, tell, tree_of
from nabla_eval.traces.index import shortened


def ends_in_4(_: Any, text: str) -> bool:
    return text.endswith("4")


def stories(*, profiles: bool = True) -> list[Story]:
    return [tell(record) for record in told_records(profiles=profiles)]


SCORES = {"toy/0": [1.0], "toy/1": [0.0], "toy/2": [0.0]}
DOCS = {name: {"target": "4"} for name in SCORES}


@pytest.mark.parametrize(
    ("scores", "docs", "judge", "right"),
    [
        (SCORES, DOCS, ends_in_4, [(False, True), (True, False), (False, False)]),
        (SCORES, DOCS, None, [(None, True), (None, False), (False, False)]),
        ({}, {}, ends_in_4, [(None, None)] * 3),
        ({"toy/0": [0.5]}, {"toy/0": {}}, ends_in_4, [(False, True), *[(None, None)] * 2]),
    ],
    ids=["known", "no grader", "no scores", "a mean over repeats says nothing of one of them"],
)
def test_the_task_scores_the_answer_and_its_grader_the_draft(
    scores: Any, docs: Any, judge: Any, right: list[Any]
) -> None:
    entries = map(shortened, told_records())
    assert [rightness(entry, scores, docs, judge) for entry in entries] == right


def test_a_line_in_a_list_says_what_became_of_the_draft() -> None:
    rights = [(False, True), (True, False), (None, False)]
    pairs = list(zip(told_records(), rights, strict=True))
    lines = [brief(shortened(record), right) for record, right in pairs]
    assert [line.change for line in lines] == ["wrong-right", "right-wrong", "unknown"]
    assert [(line.judged, line.accepted) for line in lines] == [(2, 1), (1, 1), (1, 0)]
    assert [tell(record, right).brief() for record, right in pairs] == lines


def test_candidates_stand_beside_the_response_that_they_were_to_replace() -> None:
    first, second = stories()[0].steps
    assert (first.shared, first.old_text, first.new_text) == ("a+", "12", "1")
    assert (first.old_rest, first.new_rest) == ("=7", "=9")
    assert (second.shared, second.old_rest, second.new_rest) == ("a+", "=7", "=4")


def test_the_revised_token_and_what_was_rolled_out_after_it_are_marked() -> None:
    final = stories()[0].final
    assert "".join(token.text for token in final) == "a+13=4"
    assert [t.text for t in final if t.revised] == ["13"]
    assert [t.text for t in final if t.by == 1 and not t.revised] == ["=4"]
    assert "".join(t.text for t in final if t.by is None) == "a+"


def test_tokens_carry_their_numbers_where_the_trace_has_them() -> None:
    first = stories()[0].first
    assert (first[2].text, first[2].entropy, first[2].norm) == ("12", 1.5, 8.25)
    assert first[0].norm is None
    assert stories(profiles=False)[0].first[0].entropy is None


def test_an_answer_that_the_candidates_do_not_lead_to_is_told_unmarked() -> None:
    (record, *_) = told_records(profiles=False)
    record["outcome"]["text"] = "chosen otherwise"
    assert [(t.text, t.by) for t in tell(record).final] == [("chosen otherwise", None)]


def test_a_revision_of_the_first_token_shares_nothing() -> None:
    (record, *_) = told_records(profiles=False)
    record["candidates"] = [
        {**record["candidates"][1], "position": 0, "context": "", "old_text": "a",
         "new_text": "ab", "text": "ab=4"}
    ]  # fmt: skip
    record["outcome"]["text"] = "ab=4"
    (step,) = tell(record).steps
    assert (step.shared, step.old_rest, step.new_rest) == ("", "+12=7", "=4")


def test_hostile_text_is_kept_as_it_is() -> None:
    assert stories(profiles=False)[2].first[0].text == HOSTILE


def test_moves_follow_what_they_go_on_from_and_the_answers_path_is_marked() -> None:
    moves = tell(searched_records()[0]).moves
    assert [(m.index, m.depth, m.chosen) for m in moves] == [
        (0, 0, False), (2, 1, False), (1, 0, True), (3, 1, True),
    ]  # fmt: skip


def test_a_revision_is_the_answer_by_its_own_tokens() -> None:
    moves = tell(searched_records()[1]).moves
    assert [(m.kind, m.chosen) for m in moves] == [("critique", True), ("revision", True)]


def test_an_answer_that_no_move_wrote_marks_none_and_no_steps_are_no_tree() -> None:
    steps = searched_records()[0]["steps"]
    assert not any(move.chosen for move in tree_of(steps, [1, 2]) if move.index != 1)
    assert not any(move.chosen for move in tree_of(steps, [9]))
    assert not any(move.chosen for move in tree_of(steps, []))
    assert tree_of([], [1]) == ()


def test_a_move_after_an_unknown_one_stands_alone_and_circles_end() -> None:
    first, *_, last = searched_records()[0]["steps"]
    lost = tree_of([{**last, "parent": 77}], [3, 4])
    assert [(m.index, m.depth, m.chosen) for m in lost] == [(3, 0, True)]
    circle = [{**first, "parent": 3}, {**last, "parent": 0}]
    assert [m.index for m in tree_of(circle, [1, 5, 3, 4])] == []
