"""The verifiable reward of GRPO, which is the grading that evaluation uses.

A `Verifier` knows one kind of problem: when two texts are the same problem, which may be trained
on, and which responses solve it. Model output is only ever parsed, answers of mathematics in the
worker process that can be killed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.embedded.countdown import Puzzle, split_of, verify
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.grading import grade_batch
from nabla_eval.models.chat import render
from nabla_eval.models.tokenizers import own_thought, shown
from nabla_eval.thought import opened

GRADERS = 2  # worker processes that compare answers at once

_LAYOUT = re.compile(
    r"\s+|\$+|\\[()\[\]]|\\[,;:!> ]|\\q?quad(?![a-z])|\\(?:left|right|displaystyle)(?![a-z])|~"
)


@dataclass(frozen=True)
class Verifier:
    """One kind of problem."""

    prompt: str  # how a policy is asked, with {problem} in it
    # One text for every spelling of a problem; `DataError` where it is none.
    identity: Callable[[str], str]
    # Problems, golds and responses -> 1 for each right response, else 0.
    rewards: Callable[[Sequence[str], Sequence[str | None], Sequence[str]], list[float]]
    # Whether a problem may be trained on as far as its own text says: which are held out, only
    # evaluation sets can say (`--exclude`).
    trainable: Callable[[str], bool] = lambda problem: True


def _same_maths(problem: str) -> str:
    r"""Return the text without case, white space, dollar signs and LaTeX of mere layout.

    Nothing that can carry meaning is dropped: `3+4` and `3-4` remain two problems. Overlaps of
    n-grams are not looked for: competition problems share long phrases ("where m and n are
    relatively prime positive integers. Find m + n") without being the same.
    """
    text = unicodedata.normalize("NFKC", problem).replace("\\dfrac", "\\frac")
    text = _LAYOUT.sub("", text.replace("\\tfrac", "\\frac")).casefold().rstrip(".:?")
    if not text:
        raise DataError(
            f"{problem!r} is no problem: nothing is left of it without layout. Leave it out."
        )
    return text


def _right_answers(
    problems: Sequence[str], golds: Sequence[str | None], responses: Sequence[str]
) -> list[float]:
    """Grade by `nabla_eval.grading`, within its deadline."""
    pairs = [(gold or "", text) for gold, text in zip(golds, responses, strict=True)]
    return [float(grade.equal) for grade in grade_batch(pairs, workers=GRADERS)]


def _same_puzzle(problem: str) -> str:
    try:
        return Puzzle.from_prompt(problem.strip()).canonical
    except ConfigError as error:
        raise DataError(str(error)) from None


def _solutions(
    problems: Sequence[str], golds: Sequence[str | None], responses: Sequence[str]
) -> list[float]:
    """Read responses up to the first line break, as the task `nabla_countdown` does."""
    return [
        float(verify(problem.strip(), response.strip().partition("\n")[0]))
        for problem, response in zip(problems, responses, strict=True)
    ]


VERIFIERS: Mapping[str, Verifier] = {
    # The text of tasks/_math.yaml: training asks as evaluation does.
    "maths": Verifier(
        "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        _same_maths,
        _right_answers,
    ),
    "countdown": Verifier(
        "{problem}", _same_puzzle, _solutions, lambda problem: split_of(problem.strip()) == "train"
    ),
}


def reward_function(verifier: Verifier, tokenizer: Any) -> Callable[..., Any]:
    """Make the verifier a reward function of TRL's GRPOTrainer.

    TRL passes on the data set's columns `problem` and `answer`, one entry per completion. Only what
    stands after a thought is graded, as in an evaluation: a thought that the prompt opened and that
    was cut off is no answer.
    """
    own = own_thought(tokenizer)

    def answer_of(prompt: Any, completion: Any, ids: Sequence[int]) -> str:
        chat = None if isinstance(prompt, str) else prompt
        thought = opened(prompt if chat is None else render(tokenizer, chat), chat) or own
        if thought is not None:
            return thought.answer(shown(tokenizer, ids, thought))
        if isinstance(completion, str):
            return completion
        return "".join(str(message.get("content") or "") for message in completion)

    def correct(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        problem: Sequence[str],
        answer: Sequence[str | None],
        **_: Any,
    ) -> list[float]:
        rows = zip(prompts, completions, completion_ids, strict=True)
        return verifier.rewards(problem, answer, [answer_of(*row) for row in rows])

    return correct
