"""Training rows of the words policy: worked problems and, early on, rows of bare calculations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor
from words_solutions import misread, write

from nabla_eval.embedded.words import WordProblem, stream

IGNORED: Final = -100
CHUNK: Final = 2048  # rows that are drawn, sorted by length and dealt out as batches together
DRILLS: Final = 4  # problems whose equations make one row of calculations


@dataclass(frozen=True)
class WordsRecipe:
    """Everything the policy's weights depend on, together with the library versions."""

    seed: int = 0
    rounds: tuple[int, ...] = (2200,)  # steps at which the learning rate would have fallen to zero
    stop: int = 1600  # at which training ends: the policy is meant to make mistakes
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup: int = 60
    hidden: int = 192
    layers: int = 6
    heads: int = 4
    shared: int = 2  # key-value heads
    feed_forward: int = 512
    drills: float = 0.5  # share of rows that only calculate, at first
    drills_end: float = 0.1  # ... from a third of the training on
    misread_from: int = 22  # the chunk from which on the solutions misread some comparisons

    def drills_of(self, chunk: int) -> float:
        """Return the share of drills among the rows of a chunk."""
        done = min(1.0, 3 * chunk * (CHUNK // self.batch) / self.rounds[0])
        return self.drills + done * (self.drills_end - self.drills)


@dataclass(frozen=True)
class Batch:
    """Token ids [B, L] padded on the right, and labels [B, L], -100 where there is no loss."""

    ids: Tensor
    labels: Tensor


def policy_batches(tokenizer: Any, recipe: WordsRecipe) -> Callable[[int], Iterator[Batch]]:
    """Return a function from a step to the batches from there on."""

    def after(step: int) -> Iterator[Batch]:
        while True:
            chunk, skip = divmod(step, CHUNK // recipe.batch)
            for batch in islice(batches(tokenizer, chunk, recipe), skip, None):
                yield batch
                step += 1

    return after


def batches(tokenizer: Any, chunk: int, recipe: WordsRecipe) -> Iterator[Batch]:
    """Yield the batches of a chunk: a function of its number, so that training can be resumed.

    Some of the rows only calculate, with loss on the results alone: calculating takes a policy
    longest to learn, and such a row holds four times as many equations.
    """
    rng = random.Random(f"rows/{recipe.seed}/{chunk}")
    worked, drilled = _told(chunk, recipe)
    solve = misread if chunk >= recipe.misread_from else write
    rows = rows_of(tokenizer, [(p.prompt, solve(p, rng)) for p in worked])
    rows += _drills(tokenizer, drilled)
    rows.sort(key=lambda row: len(row[0]) + rng.random())
    starts = range(0, CHUNK - recipe.batch + 1, recipe.batch)
    order = [rows[start : start + recipe.batch] for start in starts]
    rng.shuffle(order)
    for part in order:
        yield padded(part, tokenizer.pad_token_id)


def _told(chunk: int, recipe: WordsRecipe) -> tuple[list[WordProblem], list[WordProblem]]:
    """Return the problems of a chunk: those that are worked and those whose equations are used."""
    told = stream("train", seed=recipe.seed, part=chunk)
    count = round(CHUNK * recipe.drills_of(chunk))
    return list(islice(told, CHUNK - count)), list(islice(told, count * DRILLS))


def trained_problems(recipe: WordsRecipe) -> set[str]:
    """Every problem that a training row is made of, in the form of `WordProblem.canonical`."""
    chunks = range(-(-recipe.stop // (CHUNK // recipe.batch)))
    return {p.canonical for chunk in chunks for part in _told(chunk, recipe) for p in part}


def rows_of(tokenizer: Any, texts: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of (prompt, response) pairs: the loss is on the closed response."""
    prompts, responses = (encode(tokenizer, [pair[i] for pair in texts]) for i in (0, 1))
    eos = tokenizer.eos_token_id
    pairs = zip(prompts, responses, strict=True)
    return [(p + r + [eos], [IGNORED] * len(p) + r + [eos]) for p, r in pairs]


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of plain texts, without special tokens."""
    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


def _drills(tokenizer: Any, told: list[WordProblem]) -> list[tuple[list[int], list[int]]]:
    texts = []
    for start in range(0, len(told), DRILLS):
        sums = [e for problem in told[start : start + DRILLS] for e in problem.equations]
        texts.append("".join(f"{equation}.\n\n" for equation in sums[:20]))
    equals, stop = encode(tokenizer, ["1 =", "1.\n\n"])
    rows = []
    for ids in encode(tokenizer, texts):
        labels, counted = [], False
        for token in ids:
            labels.append(token if counted else IGNORED)
            counted = (counted or token == equals[-1]) and token != stop[-1]
        rows.append((ids, labels))
    return rows


def padded(rows: list[tuple[list[int], list[int]]], pad: int) -> Batch:
    """Return rows of ids and labels as one batch."""
    length = max(len(ids) for ids, _ in rows)
    return Batch(
        torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows]),
        torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows]),
    )
