"""Worked solutions of word problems: right ones for the policy, wrong ones for the reward model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from nabla_eval.embedded.words import OPERATORS, Calculation, WordProblem, combine, of

Kind: TypeAlias = Literal["slip", "operand", "operator", "stop"]

KINDS: Final[tuple[Kind, ...]] = ("slip", "operand", "operator", "stop")

_OPENINGS: Final = (
    "We want to find {goal}.",
    "Let us work out {goal}.",
    "The question is {goal}.",
    "We need to know {goal}.",
)
_FIRST: Final = ("First, ", "To begin, ", "To start, ", "")
_LATER: Final = ("Next, ", "Then ", "After that, ", "Now ", "So ", "")
_BODIES: Final = (
    "{a} has {eq} {t}.",
    "the number of {t} that {a} has is {eq}.",
    "we get {eq} {t} for {a}.",
    "this means that {a} has {eq} {t}.",
)
_OWN_BODIES: Final = {
    "gain": ("{a} now has {eq} {t}.", "this brings {a} to {eq} {t}.", "{a} goes up to {eq} {t}."),
    "loss": ("{a} now has {eq} {t}.", "this leaves {a} with {eq} {t}.", "{a} keeps {eq} {t}."),
    "packed": ("{a} holds {eq} {t}.", "there are {eq} {t} in {a}.", "we get {eq} {t} for {a}."),
    "sold": ("{a} gets {eq} {t}.", "the price is {eq} {t} for {a}.", "{a} earns {eq} {t}."),
}
_CLOSINGS: Final = (
    "The answer is \\boxed{{{n}}}.",
    "So the answer is \\boxed{{{n}}}.",
    "Therefore, {a} has \\boxed{{{n}}} {t}.",
    "This gives \\boxed{{{n}}} {t}.",
)


@dataclass(frozen=True)
class Mistake:
    """What goes wrong, and at which step of the problem; later steps go on from it."""

    step: int
    kind: Kind


# How often a fact is misread, and as what: comparisons are, as pupils do.
_MISREAD: Final = {"fewer": (0.5, "+"), "more": (0.15, "-"), "times": (0.2, "+")}


def misread(problem: WordProblem, rng: random.Random) -> str:
    """Return a solution in which some comparisons may be misread, and all else follows from that.

    So a policy that learns from these is of two minds where a fact compares, and its most likely
    reading is often wrong. Where a misreading would lead to no whole number, there is none.
    """
    steps = list(problem.steps)
    for index, step in enumerate(steps):
        share, operator = _MISREAD.get(step.kind, (0.0, ""))
        if rng.random() < share:
            steps[index] = replace(step, operator=operator)
    told = replace(problem, steps=tuple(steps))
    results: list[int] = []
    for step in steps:
        value = combine(of(step.left, results), step.operator, of(step.right, results))
        if value is None:
            return write(problem, rng)
        results.append(value)
    return write(told, rng)


def write(problem: WordProblem, rng: random.Random, mistake: Mistake | None = None) -> str:
    """Return a solution in random words and a random order of the steps that allows it."""
    values: dict[int, int] = {}
    last = problem.steps[-1]
    sentences = [rng.choice(_OPENINGS).format(goal=_goal(last))]
    for index in _order(problem.steps, rng):
        if mistake == Mistake(index, "stop") and values:
            break
        step = problem.steps[index]
        known = [values.get(i, 0) for i in range(len(problem.steps))]
        left, operator, right = of(step.left, known), step.operator, of(step.right, known)
        wrong = mistake is not None and mistake.step == index
        if wrong and mistake is not None:
            left, operator, right = _misread(problem, mistake.kind, left, operator, right, rng)
        result = _result(left, operator, right)
        if wrong and mistake is not None and mistake.kind == "slip":
            result = _slipped(result, rng)
        values[index] = result
        if operator in "+×" and rng.random() < 0.3:
            left, right = right, left
        ways = rng.choice(_FIRST if len(sentences) == 1 else _LATER)
        body = rng.choice(_OWN_BODIES.get(step.kind, _BODIES))
        equation = f"{left} {operator} {right} = {result}"
        text = ways + body.format(a=step.owner, eq=equation, t=step.unit)
        sentences.append(text[0].upper() + text[1:])
    answer = list(values.values())[-1]
    closings = _CLOSINGS[:2] + _CLOSINGS[3:] if last.kind in ("packed", "sold") else _CLOSINGS
    sentences.append(rng.choice(closings).format(n=answer, a=last.owner, t=last.unit))
    return "\n\n".join(sentences)


def mistaken(problem: WordProblem, rng: random.Random) -> str:
    """Return a solution with one mistake somewhere."""
    return write(problem, rng, Mistake(rng.randrange(len(problem.steps)), rng.choice(KINDS)))


def _goal(last: Calculation) -> str:
    if last.kind == "packed":
        return f"how many {last.unit} are in {last.owner}"
    return f"how many {last.unit} {last.owner} {'gets' if last.kind == 'sold' else 'has'}"


def _order(steps: Sequence[Calculation], rng: random.Random) -> list[int]:
    """Return a random order in which every step follows those that it needs."""
    done: list[int] = []
    while len(done) < len(steps):
        ready = [
            i for i, s in enumerate(steps) if i not in done and all(n in done for n in s.needs)
        ]
        done.append(rng.choice(ready))
    return done


def _misread(
    problem: WordProblem, kind: Kind, left: int, operator: str, right: int, rng: random.Random
) -> tuple[int, str, int]:
    if kind == "operator":
        others = [o for o in OPERATORS if o != operator and combine(left, o, right) is not None]
        return left, rng.choice(others or [operator]), right
    if kind == "operand":
        sides = [side for step in problem.steps for side in (step.left, step.right)]
        given = [side for side in sides if isinstance(side, int)]
        if rng.random() < 0.5:
            return rng.choice(given), operator, right
        return left, operator, rng.choice(given)
    return left, operator, right


def _result(left: int, operator: str, right: int) -> int:
    """Return what a step makes, or something near it where a mistake left the legal range."""
    value = combine(left, operator, right)
    if value is not None:
        return value
    return {"+": left + right, "-": abs(left - right), "×": left * right}.get(
        operator, max(left, right) // max(1, min(left, right))
    )


def _slipped(result: int, rng: random.Random) -> int:
    change = rng.choice((1, 1, 2, 10, 10, 20, 100 if result > 100 else 3))
    slipped = result + rng.choice((-1, 1)) * change
    return slipped if slipped > 0 else result + change
