"""Solutions of Countdown problems for SFT to imitate, in the embedded policy's own spelling."""

from __future__ import annotations

from nabla_eval.embedded.countdown import Problem, moves, reachable
from nabla_eval.errors import DataError
from nabla_eval.randomness import Key


def one_solution(problem: Problem, seed: int = 0) -> str:
    """A solution that is a function of (seed, problem), or `DataError` where there is none.

    Sums and products have the previous result first, else the larger number: the one way to write
    a calculation that the policy was taught (`embedded.data.random_chains`).
    """
    key = Key.root(seed) / "countdown solution" / problem.canonical
    steps = _complete(list(problem.numbers), None, problem.target, key)
    if steps is None:
        raise DataError(f"{problem.prompt} has no solution. Leave it out.")
    return ";".join(steps)


def _complete(values: list[int], previous: int | None, target: int, key: Key) -> list[str] | None:
    """Steps from the available values to the target; each choice is drawn by the steps so far."""
    if len(values) == 1:
        return [] if values[0] == target else None
    options = [
        (f"{left}{operator}{right}={result}", result, rest)
        for left, operator, right, result, rest in moves(values)
        if _spelt(left, operator, right, previous)
        and target in reachable(tuple(sorted((*rest, result))))
    ]
    for place in key.uniforms(0, len(options)).argsort():
        step, result, rest = options[place]
        tail = _complete([*rest, result], result, target, key / step)
        if tail is not None:
            return [step, *tail]
    return None


def _spelt(left: int, operator: str, right: int, previous: int | None) -> bool:
    """Whether this is the way to write a calculation that `one_solution` promises."""
    if operator in "-/":
        return True
    return left == previous if previous in (left, right) else left >= right
