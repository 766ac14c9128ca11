"""An executor that knows a tree of steps: what follows each step, and what each text is worth."""

from __future__ import annotations

from collections import Counter

from nabla_eval.cost.ledger import Ledger
from nabla_eval.options import Steps
from nabla_eval.protocol import (
    Compose,
    Generate,
    Problem,
    Prompt,
    Replay,
    RewardScore,
    Score,
    TemplateAffixes,
    Trajectory,
)
from nabla_eval.randomness import Key

KEY = Key.root(0)
SEMICOLON = {"step": "semicolon"}
NO_TEMPLATE = TemplateAffixes((), ())
PROBLEM = Problem(
    KEY,
    (1,),
    TemplateAffixes((), ()),
    60,
    text="Q",
    id="p",
    messages=(("system", "s"), ("user", "What?")),
)


def trajectory(text, stop="eos", log_probability=-1.0, certainty=1.0):
    """One token a character."""
    tokens = tuple(map(ord, text))
    zeros = (0.0,) * len(tokens)
    return Trajectory(
        tokens, text, len(tokens), stop, tokens, zeros, zeros, KEY,
        (log_probability,) * len(tokens), (certainty,) * len(tokens),
        cost=Ledger(generated_tokens=len(tokens)),
    )  # fmt: skip


class ScriptedTree:
    """The i-th step sampled after a text is child i of it; a step that ends in `;` goes on.

    `children(text, i)` is the next step, `worth(text)` a text's score, `says(question, i)` the
    policy's i-th reply to a question, `likes(question, answer)` a log-likelihood.
    """

    def __init__(self, children, worth=None, says=None, likes=None):
        self.children, self.worth, self.says, self.likes = children, worth, says, likes
        self.drawn, self.asked, self.scored, self.questions = Counter(), [], [], []

    def __call__(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        self.asked.append(type(request).__name__)
        match request:
            case Score():
                self.scored.append(request.trajectory.text)
                return RewardScore(self.worth(request.trajectory.text), cost=Ledger(scorings=1))
            case Compose():
                ((_, text),) = request.messages
                self.questions.append(text)
                return Prompt(Problem(KEY, (2,), NO_TEMPLATE, request.max_new_tokens, text=text))
            case Replay():
                if request.problem.text != "Q":
                    return trajectory(request.text, "step", self.likes(request.problem.text,
                                      request.text) / len(request.text))  # fmt: skip
                before = "" if request.prefix is None else request.prefix.text
                return trajectory(before + request.text, "step")
            case Generate():
                return self.write(request)

    def write(self, request):
        before = "" if request.prefix is None else request.prefix.text
        place = (request.problem.text, before)
        count = self.drawn[place]
        self.drawn[place] += 1
        if request.problem.text != "Q":
            said = self.says(request.problem.text, count)
            return said if isinstance(said, Trajectory) else trajectory(said)
        text = self.children(before, count)
        while request.until is None and text.endswith(";"):
            text += self.children(before + text, 0)
        assert request.until is None or isinstance(request.until, Steps)
        return trajectory(before + text, "step" if text.endswith(";") else "eos")
