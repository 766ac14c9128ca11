"""Stories and trees of moves of records whose candidates and moves are known."""

from __future__ import annotations

from typing import Any

import pytest
from told_runs import HOSTILE, profile, searched_records, told_records

from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.reporting.story import Assessment, Story, brief, own_question, tell, tree_of
from nabla_eval.traces.index import shortened


def stories(*, profiles: bool = True) -> list[Story]:
    return [tell(record) for record in told_records(profiles=profiles)]


def test_a_line_in_a_list_says_what_became_of_the_draft() -> None:
    rights = [(False, True), (True, False), (None, False)]
    known = [Assessment(grades=Grades(*map(Graded, right))) for right in rights]
    pairs = list(zip(told_records(), known, strict=True))
    lines = [brief(shortened(record), told) for record, told in pairs]
    assert [line.change for line in lines] == ["wrong-right", "right-wrong", "unknown"]
    assert [(line.judged, line.accepted) for line in lines] == [(2, 1), (1, 1), (1, 0)]
    assert [(line.no_answer, line.truncated) for line in lines] == [
        (False, False), (True, False), (True, False),
    ]  # fmt: skip
    assert [tell(record, told).brief() for record, told in pairs] == lines


CHAT = "<|im_start|>user\nSolve it.\nWhat is 2 + 2?\nUse one word, four.<|im_end|>"


@pytest.mark.parametrize(
    ("doc", "question"),
    [
        ({"question": " What is 2 + 2?\n", "answer": "Use one word, four."}, "What is 2 + 2?"),
        ({"text": "What is 2 + 2?", "answer": "four"}, "What is 2 + 2?"),
        ({"text": "What is 3 + 3?", "answer": "four", "numbers": [2, 2]}, ""),
        ({"problem": ""}, ""),
        ("What is 2 + 2?", ""),
        (None, ""),
    ],
)
def test_a_problem_is_called_by_its_own_question(doc: Any, question: str) -> None:
    assert own_question({"prompt": CHAT}, doc) == question


def test_without_the_tasks_doc_the_users_message_is_the_question() -> None:
    (record, *_) = told_records()
    asked = {**record, "prompt": CHAT, "question": "What is 2 + 2?"}
    assert tell(asked).question == "What is 2 + 2?" and tell(asked).prompt == CHAT
    assert (
        tell(asked, Assessment("2 + 2")).question == "2 + 2"
        and tell(record).question == "question 0"
    )


def test_each_candidate_and_draft_has_its_grade() -> None:
    (record, *_) = told_records()
    record["drafts"] = [record["drafts"][0], {**record["drafts"][0], "index": 1, "text": "a+13=4"}]
    judged = (Graded(False, "9"), Graded(True, "4"), Graded(False, "7"), Graded(True, "4"))
    grades = Grades(Graded(False, "7"), Graded(True, "4"), judged)
    story = tell(record, Assessment(gold="4", grades=grades))
    assert [(step.right, step.answer) for step in story.steps] == [(False, "9"), (True, "4")]
    assert [(each.answer, each.returned) for each in story.samples] == [("7", False), ("4", True)]
    assert (story.gold, story.answers) == ("4", ("7", "4"))
    assert [step.right for step in tell(record).steps] == [None, None]


def test_of_drafts_with_the_same_text_one_is_returned() -> None:
    (record, *_) = told_records()
    (draft,) = record["drafts"][:1]
    answer = {**draft, "text": record["outcome"]["text"]}
    record["drafts"] = [{**draft, "text": "?"}, answer, answer]
    assert [each.returned for each in tell(record).samples] == [False, True, False]


@pytest.mark.parametrize(
    ("norm", "certified", "steps", "most", "said"),
    [(1e-9, False, 20, 0.5, "taken"), (None, True, 20, 0.5, "certified"),
     (None, False, 20, 0.5, "none"), (None, True, 0, 0.5, "none"),
     # Of tokens below min_probability=0.01 the most likely one alone may be drawn.
     (None, True, 20, 0.995, "alone"), (None, True, 20, 0.005, "alone")],
)  # fmt: skip
def test_a_draw_without_a_gradient_says_why(
    norm: float | None, certified: bool, steps: int, most: float, said: str
) -> None:
    (record, *_) = told_records()
    record["config"] |= {"steps": steps, "min_probability": 0.01}
    for step in record["candidates"]:
        step |= {"gradient_norm": norm, "certified": certified, "top_probability": most}
    assert {step.gradient for step in tell(record).steps} == {said}


@pytest.mark.parametrize(
    ("pieces", "whole", "shown"),
    [
        (["a", "�", "�", "b"], "a∇b", ["a", "∇", "", "b"]),
        (["�", "��", "<eos>"], "∇", ["∇", "", "<eos>"]),
        (["<bos>", "é", "�", "�", "�", "�"], "é日本", ["<bos>", "é", "日本", "", "", ""]),
        (["a", "�", "b"], "a�b", ["a", "�", "b"]),  # bytes that are no character at all
        (["�", "�", "x", "�", "�"], "éxé", ["é", "", "x", "é", ""]),
    ],
)
def test_characters_that_several_tokens_make_up_are_whole(
    pieces: list[str], whole: str, shown: list[str]
) -> None:
    (record, *_) = told_records()
    record["drafts"][0]["text"] = whole
    record["profiles"]["first"] = profile(pieces, [0.0] * len(pieces), {})
    assert [token.text for token in tell(record).first] == shown


def test_how_a_search_ended_is_said_in_words() -> None:
    assert stories()[0].ended == "n used up"


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
