"""TPO: test-time preference optimisation by textual critique (Li et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nabla_eval.methods.limit import collect, unless_cut
from nabla_eval.methods.questions import Prompts, ask, flaw, spoken
from nabla_eval.methods.samples import Pool
from nabla_eval.options import Budget, Sampling
from nabla_eval.outcome import Step
from nabla_eval.protocol import Compose, Generate, Method, Part, Problem, Trajectory
from nabla_eval.validation import Count, Index


@dataclass(frozen=True, kw_only=True)
class Tpo(Sampling, Prompts, Budget):
    """Options of TPO.

    2 samples and 2 iterations, as the ∇-Reasoner paper runs it; Li et al. take 5 samples and 2
    iterations (their D2-N5), temperature 0.7, top-p 0.95, at most 2048 tokens a reply.
    """

    samples: Count = 2  # N: responses at first, and revisions an iteration
    iterations: Index = 2  # D: rounds of critique and revision
    # The longest critique or list of instructions; None: as long as a response, 2048 at most.
    reply_tokens: Count | None = None

    needs_chat = True

    @property
    def idle(self) -> str | None:
        if self.samples == 1:
            return "samples=1 is one response, there is nothing to compare it with"
        if self.iterations == 0:
            return "iterations=0 revises nothing: it is best-of-N with n=samples"
        return super().idle


def tpo(problem: Problem, config: Tpo) -> Method:
    """The response with the highest reward of all that were drawn or revised.

    Each iteration (their section 4.1): the policy explains why the best response so far beats the
    worst (the textual loss), turns that into instructions (the textual gradient), and revises the
    best one by them, N times. An empty or endless critique ends it.
    """
    revision = _Revision(problem, config)
    ended = yield from unless_cut(revision.run())
    return revision.pool.outcome(revision.pool.best(), ended, revision.steps)


class _Revision:
    """The responses to one problem, and what the policy said of them."""

    def __init__(self, problem: Problem, config: Tpo) -> None:
        self.problem, self.config = problem, config
        self.pool = Pool(problem)
        self.steps: list[Step] = []

    def run(self) -> Part:
        """Draw, then criticise and revise; returns why it ended."""
        pool = self.pool
        yield from pool.draw(self.config.samples, self.config.sampling)
        yield from pool.judge()
        for turn in range(self.config.iterations):
            worst = min(range(len(pool.samples)), key=pool.rewards.__getitem__)
            chosen, rejected = pool.texts[pool.best()], pool.texts[worst]
            if chosen == rejected:
                return "done"  # nothing to compare
            critique = yield from self._say(turn, "critique", "loss", chosen, rejected=rejected)
            if flaw(critique):
                return "malformed"
            said = spoken(critique)
            gradient = yield from self._say(turn, "gradient", "gradient", chosen, critique=said)
            if flaw(gradient):
                return "malformed"
            if not (yield from self._revise(turn, chosen, spoken(gradient))):
                return "malformed"
        return "budget"

    def _say(self, turn: int, kind: str, prompt: str, chosen: str, **values: str) -> Part:
        """Return what the policy replies to a prompt."""
        config = self.config
        question = config.fill(f"tpo_{prompt}", self.problem, chosen=chosen, **values)
        keys = [self.problem.key / kind / turn]
        (reply,) = yield from ask(
            self.problem, [question], keys, config.sampling, config.reply_tokens, 2048
        )
        self._note(kind, len(self.steps) - 1, reply, flaw(reply))
        return reply

    def _revise(self, turn: int, chosen: str, gradient: str) -> Part:
        """Sample and judge revisions; False where the prompt leaves no room for one."""
        text = self.config.fill("tpo_update", self.problem, chosen=chosen, gradient=gradient)
        longest, stop = self.problem.max_new_tokens, self.problem.stop
        (prompt,) = yield [Compose(self.problem, (("user", text),), longest, stop)]
        parent = len(self.steps) - 1
        if prompt.problem.max_new_tokens < 1:
            self._note("revision", parent, None, flaw(None))
            return False

        def keep(revisions: Sequence[Trajectory]) -> None:
            self.pool.samples += revisions
            for own in revisions:
                self._note("revision", parent, own, "runaway length" * (own.stop == "length"))

        stream = self.problem.key / "revision" / turn
        draws = range(self.config.samples)
        requests = [Generate(prompt.problem, stream / i, self.config.sampling) for i in draws]
        yield from collect(requests, keep)
        yield from self.pool.judge()
        return True

    def _note(self, kind: str, parent: int, reply: Trajectory | None, note: str) -> None:
        before = parent if parent >= 0 else None
        step = Step(len(self.steps), before, kind, (), "", "length", note=note)
        if reply is not None:
            step = replace(step, tokens=reply.tokens, text=reply.text, stop=reply.stop)
        self.steps.append(step)
