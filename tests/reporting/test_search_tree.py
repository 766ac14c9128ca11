"""Trees of moves from records whose trees are known."""

from __future__ import annotations

from told_runs import searched_records

from nabla_eval.reporting.search_tree import tree_of
from nabla_eval.reporting.story import tell
from nabla_eval.reporting.viewer import TracePage, page_data, page_html, visible


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


def test_the_page_holds_every_move_as_data() -> None:
    page = TracePage("r", [tell(record) for record in searched_records()])
    moves = page_data(page)["problems"][0]["moves"]
    assert [move["text"] for move in moves][2:] == ["b;", "c=4"]
    assert moves[1]["note"] == visible(searched_records()[0]["steps"][2]["note"])
    assert page_html(page).count("<script") == 2
