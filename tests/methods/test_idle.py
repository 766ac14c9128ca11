"""Options that leave nothing of a method: they are said, and they really leave nothing."""

from __future__ import annotations

import logging

import pytest

from nabla_eval import generate
from nabla_eval.harness.arguments import read
from nabla_eval.harness.generation import Reader
from nabla_eval.methods.registry import METHODS, configure
from nabla_eval.testing import tiny_pair

# method, options, what is said, the method that it comes down to
IDLE = [
    ("nabla", {"n": 1}, "n=1 is the draft alone", "draft"),
    ("nabla", {"lam": 0, "nll_weight": 0, "n": 3}, "it is the twin", "twin"),
    ("best_of_n", {"n": 1}, "n=1 is one sample", "draft"),
    ("best_of_n", {"n": 4, "temperature": 0}, "temperature=0 makes all samples alike", "greedy"),
    ("best_of_n", {"n": 4, "top_k": 1}, "top_k=1 makes all samples alike", "greedy"),
    ("weighted_best_of_n", {"n": 1}, "n=1 is one sample", "draft"),
    ("weighted_best_of_n", {"temperature": 0}, "temperature=0 makes", "greedy"),
    ("self_consistency", {"n": 1}, "n=1 is one sample", "draft"),
    ("self_consistency", {"top_k": 1}, "top_k=1 makes all samples alike", "greedy"),
    ("beam", {"beams": 1, "width": 1, "temperature": 0}, "beams=1 with width=1", "greedy"),
    ("beam", {"temperature": 0}, "temperature=0 makes all samples alike", "greedy"),
    ("tree_of_thought", {"proposals": 1, "temperature": 0}, "proposals=1", "greedy"),
    ("tree_of_thought", {"temperature": 0}, "temperature=0 makes all samples alike", "greedy"),
    ("rap", {"branching": 1, "temperature": 0}, "branching=1", "greedy"),
    ("rap", {"top_k": 1}, "top_k=1 makes all samples alike", "greedy"),
    ("tpo", {"samples": 1}, "samples=1 is one response", None),  # a tiny policy cannot be asked
    ("tpo", {"iterations": 0}, "it is best-of-N with n=samples", None),
    ("tpo", {"temperature": 0}, "temperature=0 makes all samples alike", None),
]
STEPPED = {"step": "tokens", "step_tokens": 3}


@pytest.mark.parametrize(("method", "options", "said", "left"), IDLE)
def test_they_are_said_and_leave_nothing(method, options, said, left, caplog):
    assert said in (configure(method, options).idle or "")
    if left is None:
        return
    pair = tiny_pair(process=False)
    other, own = {
        "draft": ("best_of_n", {"n": 1}),
        "twin": ("nabla", {"n": 3, "steps": 0}),
        "greedy": ("greedy", {}),
    }[left]
    stepped = STEPPED if method in ("beam", "tree_of_thought", "rap") else {}
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        for problem in ("ab", "cab"):
            ours = generate(pair, problem, method, max_new_tokens=8, **options, **stepped)
            theirs = generate(pair, problem, other, max_new_tokens=8, **own)
            assert ours.token_ids == theirs.token_ids
    assert f"method={method}: " in caplog.text and said in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_defaults_presets_and_controls_are_not_idle(method):
    for preset in (None, *METHODS[method].presets):
        assert configure(method, {}, preset).idle is None
    controls = {"nabla": [{"steps": 0}, {"lam": 0}, {"lam": -1}], "tpo": [{"samples": 2}],
                "tree_of_thought":
                [{"generation": "propose", "temperature": 0, "step": "newline"}]}  # fmt: skip
    for options in controls.get(method, []):
        assert configure(method, options).idle is None


def test_a_run_says_it_once_also_where_the_task_asks_for_it(caplog):
    reader = Reader(read({"method": "best_of_n"}))
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        reader({"max_gen_toks": 3})
        assert not caplog.records
        reader({"top_k": 1})
        reader({"top_k": 1, "max_gen_toks": 3})
    (entry,) = caplog.records
    assert entry.getMessage() == (
        "method=best_of_n: top_k=1 makes all samples alike, there is nothing to choose from."
    )
