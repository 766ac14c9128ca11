"""Training rows for the policy: random solutions of training problems, drawn in bulk with numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pair_tokenizer import EOS_ID, IDS

from nabla_eval.embedded.countdown import (
    MAX_VALUE,
    MIN_TARGET,
    OPERATORS,
    Puzzle,
    largest_input,
    split_of,
)

Integers = NDArray[np.int64]

_IGNORED: Final = -100
_OPERATOR_IDS: Final = np.array([IDS[operator] for operator in OPERATORS])


def random_chains(
    count: int, numbers: int, rng: np.random.Generator
) -> tuple[Integers, Integers, Integers]:
    """Random legal calculations: inputs [N, n], result [N], response tokens [N, 6(n-1)].

    Every step goes on with the previous result and one more number, in a random order of the
    numbers, with one of the operations that are legal. Sums and products are written with the
    previous result first (in the first step, the larger number): one way to write each calculation
    is learned sooner than several. Chains that get stuck are dropped, so N is at most `count`.
    """
    inputs = rng.integers(1, largest_input(numbers) + 1, size=(count, numbers))
    order = np.argsort(rng.random((count, numbers)), axis=1)
    shuffled = np.take_along_axis(inputs, order, axis=1)
    shuffled[:, :2] = np.sort(shuffled[:, :2], axis=1)[:, ::-1]
    value, legal = shuffled[:, 0], np.ones(count, dtype=bool)
    columns: list[Integers] = []
    for step in range(1, numbers):
        left, operator, right, value, possible = _random_step(value, shuffled[:, step], rng)
        legal &= possible
        closing = IDS[";"] if step < numbers - 1 else EOS_ID
        columns += [left, operator, right]
        columns += [np.full(count, IDS["="]), value, np.full(count, closing)]
    return inputs[legal], value[legal], np.stack(columns, axis=1)[legal]


def _random_step(
    a: Integers, b: Integers, rng: np.random.Generator
) -> tuple[Integers, Integers, Integers, Integers, NDArray[np.bool_]]:
    """Left operand, operator id, right operand, result and whether any operation was legal, [N].

    The operations are a+b, a-b, a*b, a/b, b-a and b/a; stuck rows hold values without meaning.
    """
    low_a, low_b = np.maximum(a, 1), np.maximum(b, 1)
    values = np.stack([a + b, a - b, a * b, a // low_b, b - a, b // low_a], axis=1)
    legal = (values >= 1) & (values <= MAX_VALUE)
    legal[:, 3] &= a % low_b == 0
    legal[:, 5] &= (b % low_a == 0) & (a != b)
    choice = np.argmax(np.where(legal, rng.random(legal.shape), -1.0), axis=1)
    turned = choice >= 4
    operator = _OPERATOR_IDS[[0, 1, 2, 3, 1, 3]][choice]
    value = np.take_along_axis(values, choice[:, None], axis=1)[:, 0]
    possible: NDArray[np.bool_] = np.asarray(legal.any(axis=1))
    return np.where(turned, b, a), operator, np.where(turned, a, b), value, possible


class TrainingRows:
    """Solutions of training problems; `batch` draws rows with their loss labels.

    Rows are weighted by 1 / (occurrences of their problem), so that problems with many solutions
    are not favoured and the distribution matches that of the test problems.
    """

    def __init__(
        self, *, walks: int, numbers: int, mismatched: float, rng: np.random.Generator
    ) -> None:
        inputs, target, response = random_chains(walks, numbers, rng)
        usable = (target >= MIN_TARGET) & (inputs != target[:, None]).all(axis=1)
        inputs, target, response = inputs[usable], target[usable], response[usable]
        problem, occurrences, keys = _training_problems(inputs, target)
        self._keys = keys[occurrences > 0]
        self.problems = len(self._keys)
        weight = np.where(occurrences > 0, 1.0 / np.maximum(occurrences, 1), 0.0)[problem]
        self._cumulative = np.cumsum(weight)
        self._inputs, self._target, self._response = inputs, target, response
        self._mismatched, self._rng = mismatched, rng

    def canonical_problems(self) -> set[str]:
        """Every problem that a row can belong to, in the form of `Problem.canonical`."""
        rows = self._keys.tolist()
        return {Puzzle(tuple(row[:-1]), row[-1]).canonical for row in rows}

    def batch(self, size: int) -> tuple[Integers, Integers]:
        """Token ids [B, L] and labels [B, L], -100 where there is no loss.

        A share of the rows carries another row's target, with loss only on ``=``, the result and
        the closing token: so the policy calculates correctly even where it misses the target.
        """
        point = self._rng.random(size) * self._cumulative[-1]
        rows = np.searchsorted(self._cumulative, point, side="right")
        target = self._target[rows]
        other = self._rng.permutation(target)
        swapped = self._rng.random(size) < self._mismatched
        swapped &= _in_training(self._inputs[rows], other, where=swapped)
        prompt = _prompt_ids(self._inputs[rows], np.where(swapped, other, target))
        response = self._response[rows]
        forced = np.arange(response.shape[1]) % 6 >= 3
        labels = np.where(swapped[:, None] & ~forced, _IGNORED, response)
        ids = np.concatenate([prompt, response], axis=1)
        return ids, np.concatenate([np.full_like(prompt, _IGNORED), labels], axis=1)


def _training_problems(inputs: Integers, target: Integers) -> tuple[Integers, Integers, Integers]:
    """Each row's problem index and, per problem, its rows (0 if not for training) and its key."""
    keys = np.concatenate([np.sort(inputs, axis=1), target[:, None]], axis=1)
    base = (MAX_VALUE + 1) ** np.arange(keys.shape[1])
    _, first, problem, occurrences = np.unique(
        keys @ base, return_index=True, return_inverse=True, return_counts=True
    )
    unique = keys[first]
    allowed = _in_training(unique[:, :-1], unique[:, -1], where=np.ones(len(unique), dtype=bool))
    return problem, np.where(allowed, occurrences, 0), unique


def _in_training(
    inputs: Integers, target: Integers, *, where: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether each problem [B] belongs to the training split; False outside `where`.

    Asked of mismatched rows too: not even the prompt of a test problem is ever seen in training.
    """
    chosen = np.zeros(len(target), dtype=bool)
    for row in np.flatnonzero(where):
        problem = Puzzle(tuple(inputs[row].tolist()), int(target[row]))
        chosen[row] = split_of(problem) == "train"
    return chosen


def _prompt_ids(inputs: Integers, target: Integers) -> Integers:
    """Prompts ``a,b,c,d=t?`` as ids [B, 2 numbers + 2]."""
    rows, numbers = inputs.shape
    ids = np.full((rows, 2 * numbers + 2), IDS[","])
    ids[:, 0 : 2 * numbers : 2] = inputs
    ids[:, -3], ids[:, -2], ids[:, -1] = IDS["="], target, IDS["?"]
    return ids
