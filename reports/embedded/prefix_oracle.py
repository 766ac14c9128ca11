"""The exact prefix oracle: can a partly written response still be completed to a solution?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from nabla_eval.embedded.countdown import (
    INTEGER,
    ProblemLike,
    as_problem,
    combine,
    moves,
    reachable,
    solvable,
)

EOS: Final = "<eos>"
_TOKEN = re.compile(rf"{EOS}|{INTEGER}|.", re.DOTALL)


def tokenise(text: str) -> list[str]:
    """Split a response as the tokenizer does: integers 0..99, symbols, ``<eos>``."""
    return _TOKEN.findall(text)


class PrefixOracle:
    """Reads a response token by token and knows whether the target can still be reached.

    Integers are atomic, as in the vocabulary: after ``1`` the number is 1, not the start of 14.
    A dead prefix stays dead. ``<eos>`` is alive only after a complete solution.
    """

    def __init__(self, problem: ProblemLike) -> None:
        problem = as_problem(problem)
        self._target = problem.target
        self._available = list(problem.numbers)
        self._equation: list[str] = []
        self.finished = False
        self.alive = solvable(problem)

    def read(self, token: str) -> bool:
        """Take one more token and say whether the prefix that ends with it is alive."""
        self.alive = token in self.right_tokens()
        if self.alive:
            self._take(token)
        return self.alive

    def right_tokens(self) -> set[str]:
        """Every token after which the prefix is alive; none after a dead or a finished one."""
        if not self.alive or self.finished:
            return set()
        slot = len(self._equation)
        if slot == 5:
            return {";"} if len(self._available) > 2 else {EOS}
        if slot == 4:
            return {str(self._result())}
        if slot == 3:
            return {"="}
        begun = tuple(self._equation)
        live = live_equations(tuple(sorted(self._available)), self._target)
        return {written[slot] for written in live if written[:slot] == begun}

    def _result(self) -> int | None:
        left, operator, right = self._equation[:3]
        return combine(int(left), operator, int(right))

    def _take(self, token: str) -> None:
        if len(self._equation) < 5:
            self._equation.append(token)
            return
        left, right, result = (int(self._equation[slot]) for slot in (0, 2, 4))
        self._available.remove(left)
        self._available.remove(right)
        self._available.append(result)
        self._equation = []
        self.finished = token == EOS


@lru_cache(maxsize=1 << 16)
def live_equations(values: tuple[int, ...], target: int) -> tuple[tuple[str, str, str], ...]:
    """Left, operator and right of every next step from the (sorted) values that can still lead to
    the target."""
    return tuple(
        (str(left), operator, str(right))
        for left, operator, right, result, rest in moves(values)
        if target in reachable(tuple(sorted((*rest, result))))
    )


def prefix_labels(problem: ProblemLike, tokens: Sequence[str]) -> list[bool]:
    """For each prefix ``tokens[:1] .. tokens[:]``, whether the target is still reachable."""
    oracle = PrefixOracle(problem)
    return [oracle.read(token) for token in tokens]


def prefix_reachable(problem: ProblemLike, prefix: str) -> bool:
    """Whether some continuation of the prefix (possibly inside an equation) is a solution."""
    labels = prefix_labels(problem, tokenise(prefix))
    return labels[-1] if labels else solvable(problem)
