"""TPO: test-time preference optimisation by textual critique (Li et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nabla_eval.methods.limit import collect, unless_cut
from nabla_eval.methods.pool import Pool
from nabla_eval.methods.voices import Prompts, ask, flaw, reply_length, spoken
from nabla_eval.options import Budget, Sampling
from nabla_eval.outcome import Step
from nabla_eval.protocol import Compose, Generate, Method, Part, Problem, Request, Trajectory
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

    @property
    def idle(self) -> str | None:
        if self.samples == 1:
            return "samples=1 is one response, there is nothing to compare it with"
        if self.iterations == 0:
            return "iterations=0 revises nothing: it is best-of-N with n=samples"
        return super().idle

    @property
    def needs_chat(self) -> bool:
        """Return whether the policy is asked in words."""
        return True


def tpo(problem: Problem, config: Tpo) -> Method:
    """The response with the highest reward of all that were drawn or revised.

    Each iteration (their section 4.1): the policy explains why the best response so far beats the
    worst (the textual loss), turns that into instructions (the textual gradient), and revises the
    best one by them, N times. An empty or endless critique ends it.
    """
    run = _Run(problem, config)
    ended = yield from unless_cut(run())
    return run.pool.outcome(run.pool.best(), ended, tuple(run.steps))


class _Run:
    def __init__(self, problem: Problem, config: Tpo) -> None:
        self.problem, self.config = problem, config
        self.pool = Pool(problem)
        self.steps: list[Step] = []

    def __call__(self) -> Part:
        yield from self.pool.draw(self.config.samples, self.config.sampling)
        yield from self.pool.judge()
        for round in range(self.config.iterations):
            best = self.pool.best()
            worst = min(range(len(self.pool.samples)), key=self.pool.rewards.__getitem__)
            chosen, rejected = self.pool.texts[best], self.pool.texts[worst]
            if chosen == rejected:
                return "done"  # nothing to compare
            critique = yield from self._say(
                round, "critique", "tpo_loss", chosen=chosen, rejected=rejected
            )
            if critique is None:
                return "malformed"
            gradient = yield from self._say(
                round, "gradient", "tpo_gradient", chosen=chosen, critique=critique
            )
            if gradient is None:
                return "malformed"
            if not (yield from self._revise(round, chosen, gradient)):
                return "malformed"
        return "budget"

    def _say(self, round: int, kind: str, prompt: str, **values: str) -> Part:
        """Return what the policy says to a prompt; None, and a note in the trace, where it is no
        use.
        """
        question = self.config.fill(prompt, question=self.problem.question, **values)
        key = self.problem.key / kind / round
        longest = reply_length(self.problem, self.config.reply_tokens, 2048)
        (reply,) = yield from ask(self.problem, [question], [key], self.config.sampling, longest)
        self._note(kind, reply, flaw(reply))
        return None if flaw(reply) else spoken(reply)

    def _revise(self, round: int, chosen: str, gradient: str) -> Part:
        """Sample and judge revisions; False where the prompt leaves no room for one."""
        text = self.config.fill(
            "tpo_update", question=self.problem.question, chosen=chosen, gradient=gradient
        )
        longest, stop = self.problem.max_new_tokens, self.problem.stop
        (prompt,) = yield [Compose(self.problem, (("user", text),), longest, stop)]
        room: Problem = prompt.problem
        if room.max_new_tokens < 1:
            self._note("revision", None, flaw(None))
            return False
        requests: list[Request] = [
            Generate(room, self.problem.key / "revision" / round / i, self.config.sampling)
            for i in range(self.config.samples)
        ]
        start = len(self.pool.samples)
        try:
            yield from collect(requests, self.pool.samples)
        finally:
            for sample in self.pool.samples[start:]:
                self._note("revision", sample, "runaway length" * (sample.stop == "length"))
        yield from self.pool.judge()
        return True

    def _note(self, kind: str, reply: Trajectory | None, note: str) -> None:
        index = len(self.steps)
        parent = index - 1 if index else None
        if kind == "revision":
            parent = max(
                (step.index for step in self.steps if step.kind == "gradient"), default=None
            )
        blank = Step(index, parent, kind, (), "", "length", note=note)
        if reply is not None:
            blank = replace(blank, tokens=reply.tokens, text=reply.text, stop=reply.stop)
        self.steps.append(blank)
