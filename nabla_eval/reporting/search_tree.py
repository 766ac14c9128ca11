"""The moves of a search as a tree, depth first, with the path to the answer marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nabla_eval.outcome import Step


@dataclass(frozen=True)
class Move:
    """One move of a search: a step of a response, a critique, a revision."""

    index: int
    depth: int  # moves before it on its path
    kind: str
    text: str
    value: float | None  # what the method thinks of it
    visits: int
    note: str  # what was wrong with it
    stop: str
    chosen: bool  # on the path to the returned response


def tree_of(steps: Sequence[Step], answer: Sequence[int]) -> tuple[Move, ...]:
    """Every move below the one that it goes on from, in the order in which they were made.

    `answer`: tokens of the returned response. Its path is that of the last move whose own tokens
    (a revision's), or whose tokens with those before it (a step's), are the answer's; none is
    marked where no move has them.
    """
    known = {step["index"]: step for step in steps}
    children: dict[int | None, list[Step]] = {}
    for step in steps:
        parent = step["parent"] if step["parent"] in known else None
        children.setdefault(parent, []).append(step)
    chosen = _path(known, list(answer))
    moves: list[Move] = []
    waiting = [(step, 0) for step in reversed(children.get(None, []))]
    while waiting:
        step, depth = waiting.pop()
        moves.append(
            Move(
                step["index"], depth, step["kind"], step["text"], step["value"], step["visits"],
                step["note"], step["stop"], step["index"] in chosen,
            )
        )  # fmt: skip
        waiting += [(child, depth + 1) for child in reversed(children.get(step["index"], []))]
    return tuple(moves)


def _path(known: Mapping[int, Step], answer: list[int]) -> set[int]:
    """The moves that lead to the answer, the last one included."""
    for last in reversed(list(known.values())):
        path = _to_root(known, last)
        whole = [token for step in reversed(path) for token in step["tokens"]]
        if answer and answer in (whole, list(last["tokens"])):
            return {step["index"] for step in path}
    return set()


def _to_root(known: Mapping[int, Step], step: Step) -> list[Step]:
    path = [step]
    while (parent := path[-1]["parent"]) in known and parent is not None and parent < step["index"]:
        path.append(known[parent])
        if len(path) > len(known):  # a damaged trace goes in a circle
            break
    return path
