"""A run of three problems with known stories: wrong → right, right → wrong, and hostile text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_folders import candidate, record, sample, write_run

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    "\x1b[31mred\x00\u202eabc{{7*7}}&amp;"
)
IDS = ("toy/0/0", "toy/1/0", "toy/2/0")


def profile(tokens: list[str], entropy: list[float], norms: dict[str, float]) -> dict[str, Any]:
    return {"tokens": tokens, "entropy": entropy, "gradient_norms": norms}


def _candidate(index: int, verdict: Any, was: str, new: str, text: str, **more: Any) -> Any:
    base = candidate(verdict, 2, text=text, index=index, **more)
    return {**base, "old_text": was, "new_text": new, "context": "a+"}


def told_records(*, profiles: bool = True) -> list[Any]:
    """Document 0: two candidates, the second accepted; 1: accepted and made worse; 2: hostile."""
    steps = [
        _candidate(0, "rejected", "12", "1", "a+1=9", old=0.0),
        _candidate(1, "accepted", "12", "13", "a+13=4", old=0.0),
    ]
    worse = [_candidate(0, "accepted", "b", "c", "a+c=5", old=1.0)]
    outcome = {"text": "a+13=4", "tokens": [1, 2, 3, 4], "stop": "eos", "reward": 1.0,
               "ended": "budget", "visited": 2, "positions": 4}  # fmt: skip
    drafts = [{"index": 0, "tokens": [9, 9], "text": "a+12=7", "stop": "eos", "reward": 0.0}]
    first = profile(["a", "+", "12", "=7"], [0.0, 0.1, 1.5, 0.2], {"2": 8.25})
    final = profile(["a", "+", "13", "=4"], [0.0, 0.1, 1.5, 0.3], {})
    lines = [
        {**record(0, candidates=steps), "outcome": outcome, "drafts": drafts,
         "profiles": {"first": first, "final": final}},
        {**record(1, candidates=worse), "outcome": {**outcome, "text": "a+c=5", "reward": 2.0},
         "drafts": [{**drafts[0], "text": "a+b=4", "reward": 1.0}],
         "profiles": {"first": profile(["a", "+", "b", "=4"], [0.1] * 4, {}),
                      "final": profile(["a", "+", "c", "=5"], [0.1] * 4, {})}},
        {**record(2, text=HOSTILE, prompt=HOSTILE,
                  candidates=[_candidate(0, "tie", HOSTILE, HOSTILE, HOSTILE)]),
         "profiles": {"first": profile([HOSTILE, "\n", "<b>"], [2.0, 0.5, 0.1], {"0": 1.0})}},
    ]  # fmt: skip
    if not profiles:
        for line in lines:
            del line["profiles"]
    return lines


def write_told_run(folder: Path) -> Path:
    """The run as a folder; the task scores the answers 1, 0 and 0."""
    samples = [sample(doc, score) for doc, score in enumerate([1.0, 0.0, 0.0])]
    samples[0]["target"] = "a+13=4"
    return write_run(folder, told_records(), [1.0, 0.0, 0.0], samples=samples)


def _move(index: int, parent: int | None, tokens: list[int], text: str, **more: Any) -> Any:
    return {"index": index, "parent": parent, "kind": "step", "tokens": tokens, "text": text,
            "stop": "step", "value": None, "visits": 0, "note": "", **more}  # fmt: skip


def searched_records() -> list[Any]:
    """Document 0: a tree of steps in which 1 → 3 is the answer; 1: critique, then revision."""
    tree = [
        _move(0, None, [1, 5], "a;", value=0.25, visits=2),
        _move(1, None, [1, 2], "b;", value=0.75, visits=3),
        _move(2, 0, [8], HOSTILE, note=f"cut off {HOSTILE}", stop="length"),
        _move(3, 1, [3, 4], "c=4", value=1.5, visits=1, stop="eos"),
    ]
    talk = [
        _move(0, None, [7], "too long", kind="critique", stop="eos"),
        _move(1, 0, [1, 2, 3, 4], "b;c=4", kind="revision", stop="eos"),
    ]
    return [
        record(0, method="rap", steps=tree, text="b;c=4"),
        record(1, method="tpo", steps=talk, text="b;c=4"),
    ]


def guided_records() -> list[Any]:
    """A guided response: the first unsure token was replaced, the second one kept."""
    known = {"by": "gradient", "top_probability": 0.625, "old_token": 3, "scored": 1,
             "old_log_probability": -0.47, "old_gradient": -0.5, "old_score": -2.0,
             "new_score": None, "old_text": HOSTILE}  # fmt: skip
    replaced = {"new_token": 4, "new_log_probability": -1.25, "new_gradient": 0.75, "new_text": "7"}
    kept = {"new_token": 3, "new_log_probability": -0.47, "new_gradient": -0.5, "new_score": -2.0,
            "new_text": HOSTILE}  # fmt: skip
    choices = [
        {**known, **replaced, "index": 0, "position": 2},
        {**known, **kept, "index": 1, "position": 3},
    ]
    return [record(0, method="prefix_gradient", choices=choices, drafts=(), text="a+7")]
