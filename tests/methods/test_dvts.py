"""DVTS: its subtrees know nothing of each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted_trees import PROBLEM, SEMICOLON, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.methods.registry import configure, start
from nabla_eval.randomness import Key

DEPTH = 3


def keyed_step(text, key):
    """The step that a key draws after a text: one of four, complete at the third or by chance."""
    draw = int(key.uniform() * 4)
    return f"{draw}" + ("." if text.count(";") == DEPTH - 1 or (text and draw == 0) else ";")


def worth(text):
    return (Key.root(5) / text).uniform()


class KeyedTree(ScriptedTree):
    """Steps follow from the request's key alone, as the engine's do."""

    def write(self, request):
        before = "" if request.prefix is None else request.prefix.text
        text = before + keyed_step(before, request.key)
        return trajectory(text, "step" if text.endswith(";") else "eos")


def solve(problem, **options):
    config = configure("dvts", {**SEMICOLON, "width": 3, **options})
    script = KeyedTree(None, worth)
    (outcome,) = drive_all([start(problem, config)], script)
    return outcome, script


def alone(key, subtree):
    """Every text of one subtree: three draws a level, of which the best goes on."""
    seen, tip = [], ""
    for level in range(DEPTH):
        own = [tip + keyed_step(tip, key / "subtree" / subtree / level / j) for j in range(3)]
        seen += own
        tip = max(own, key=worth)
        if tip.endswith("."):
            break
    return seen


@pytest.mark.parametrize("seed", range(6))
def test_a_subtree_is_what_it_would_be_alone(seed):
    """With 1 to 4 subtrees: the same texts as each on its own, each scored once, and the best."""
    key = Key.root(seed)
    problem = replace(PROBLEM, key=key)
    rewards = []
    for subtrees in range(1, 5):
        outcome, script = solve(problem, subtrees=subtrees)
        texts = [text for subtree in range(subtrees) for text in alone(key, subtree)]
        assert sorted(script.scored) == sorted(set(texts))
        assert outcome.text == max((t for t in texts if t.endswith(".")), key=worth)
        rewards.append(outcome.reward)
    assert rewards == sorted(rewards)  # more subtrees never answer worse


def test_a_subtree_keeps_its_own_best_where_a_beam_would_leave_it():
    """Both of the best second steps follow `a;`, and still the subtree of `b;` goes on."""
    first = iter(["a;", "a;", "b;", "b;"])
    script = ScriptedTree(
        lambda text, i: next(first) if not text else f"{i % 2}.",
        {"a;": 3.0, "b;": 0.0, "a;0.": 2.0, "a;1.": 1.0, "b;0.": -1.0, "b;1.": 9.0}.get,
    )
    config = configure("dvts", {**SEMICOLON, "subtrees": 2, "width": 2})
    (outcome,) = drive_all([start(PROBLEM, config)], script)
    assert outcome.text == "b;1." and outcome.ended == "done"
    assert sorted(script.scored) == ["a;", "a;0.", "a;1.", "b;", "b;0.", "b;1."]
