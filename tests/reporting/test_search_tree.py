"""Trees of moves from records whose trees are known."""

from __future__ import annotations

from told_runs import searched_records

from nabla_eval.reporting.story import tell, tree_of


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
