"""`nabla_eval.probe`: measure problems, sum them up, say what it means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nabla_eval.analysis.intervals import Estimate
from nabla_eval.api import problems_of, stops_of, texts_of
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import ConfigError, Fault, ItemError
from nabla_eval.grading import grade as grade_answer
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.registry import configure
from nabla_eval.models.identity import identity
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling, build, coerce, fingerprint, flatten, leaves, require
from nabla_eval.probing import advantage, fidelity, reach, reward, room
from nabla_eval.probing.grades import Grade, graded
from nabla_eval.probing.measure import measure
from nabla_eval.probing.plan import Plan, ProbedProblem, looped, probed
from nabla_eval.probing.store import Store
from nabla_eval.probing.verdict import verdict
from nabla_eval.protocol import Method, Problem
from nabla_eval.terminal import LOGGER
from nabla_eval.thought import Thought
from nabla_eval.traces.schema import problem_hash
from nabla_eval.validation import Count

SCHEMA = 2  # of the folder's lines: they are taken up by probes of the same number


_NO_TIME = "The time was up. Try a larger max_seconds."


@dataclass(frozen=True)
class Asked:
    """A problem, and who says whether a response to it is right."""

    problem: Problem
    grade: Grade = lambda text: None

    @property
    def name(self) -> tuple[str, str]:
        """Id and hash: a problem whose text has changed is another one."""
        return self.problem.id, problem_hash(self.problem)


@dataclass
class Probe:
    """A probe of a pair at ∇-Reasoner's options; call it with problems.

    `advance(done, total)` is called as problems are done, `facts` join what the folder's lines
    depend on. Raises what `plan.probed` raises.
    """

    pair: Pair
    config: Nabla
    plan: Plan = field(default_factory=Plan)
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    execute: Executor | None = None
    width: int = 8  # problems that are active at once: few, so that `max_seconds` is kept
    advance: Callable[[int, int], None] = lambda done, total: None
    _took: float = field(default=0.0, init=False)  # seconds, the last problem that was finished

    def __call__(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """Measure problems, those of the folder's lines excepted; return the six sections.

        Raises `ItemError` where fewer than two problems could be measured.
        """
        config = probed(self.pair, self.config, len(asked))
        sampling = {"sampling": flatten(config.sampling), **self.facts}
        store = Store(self.folder, known_at_once(config, self.plan) | sampling)
        found = {
            own.name: graded(store.found[own.name], own.grade)
            for own in asked
            if own.name in store.found
        }
        left = [own for own in asked if own.name not in found]
        self.advance(len(asked) - len(left), len(asked))
        failed = []
        ends = drive(
            self._methods(left, config), self.execute or Executor(self.pair), width=self.width
        )
        for done, (i, end) in enumerate(ends, start=len(asked) - len(left) + 1):
            if isinstance(end, Fault):
                failed.append(f"{left[i].problem.id}: {type(end.error).__name__}: {end.error}")
                LOGGER.error("A problem failed and is left out: %s", failed[-1])
            else:
                assert isinstance(end, ProbedProblem)
                store.add(left[i].name, end.figures)  # first: a grader may fail
                found[left[i].name] = graded(end.figures, left[i].grade)
            self.advance(done, len(asked))
        if len(found) < 2:
            raise ItemError(
                f"Only {len(found)} of {len(asked)} problems could be measured, and intervals need "
                f"2. {f'{len(failed)} failed, first {failed[0]}' if failed else _NO_TIME}"
            )
        in_order = [found[own.name] for own in asked if own.name in found]
        return summarise(in_order, config, self.plan, len(asked))

    def _methods(self, asked: Sequence[Asked], config: Nabla) -> Iterator[Method]:
        limit, began = self.plan.max_seconds, time.monotonic()
        for i, own in enumerate(asked):
            if time.monotonic() - began + self._took > limit:
                LOGGER.warning(
                    "max_seconds=%g is over: %d of %d problems are not begun. With a folder as "
                    "output the same call goes on with them.", limit, len(asked) - i, len(asked),
                )  # fmt: skip
                return
            yield self._timed(own, config)

    def _timed(self, own: Asked, config: Nabla) -> Method:
        began = time.monotonic()
        found = yield from measure(self.pair, own.problem, config, self.plan)
        self._took = time.monotonic() - began
        return found


def known_at_once(config: Nabla, plan: Plan) -> dict[str, Any]:
    """Return what a folder's lines depend on, as far as it is known before models and tasks are."""
    own, later = flatten(looped(config)), leaves(Sampling)  # which tasks may set
    return {
        "schema": SCHEMA,
        "config": {name: value for name, value in own.items() if name not in later},
        "plan": {n: value for n, value in flatten(plan).items() if n != "max_seconds"},
    }


def summarise(
    found: Sequence[Mapping[str, Any]], config: Nabla, plan: Plan, asked: int
) -> dict[str, Any]:
    """Return the six sections of measured problems, as JSON."""
    sections = {
        "room": room.summary(found, plan.drafts),
        "reach": reach.summary(found, config),
        "fidelity": fidelity.summary(found, plan),
        "advantage": advantage.summary(found, config.n),
        "reward": reward.summary(found, plan.drafts),
    }
    sections["verdict"] = verdict(sections, config, missing=asked - len(found))
    return {name: plain(own) for name, own in sections.items()}


def plain(figures: Any) -> Any:
    """Return figures as JSON keeps them: of an estimate value, 95 % interval and problems."""
    if isinstance(figures, Estimate):
        ends = list(figures.interval)
        return {"value": figures.value, "ci95": ends, "problems": figures.clusters}
    if isinstance(figures, dict):
        return {name: plain(own) for name, own in figures.items()}
    return [plain(own) for own in figures] if isinstance(figures, list) else figures


def probe(
    pair: Pair,
    problems: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    grade: Callable[[str, str], bool | None] | None = None,
    seed: int = 0,
    preset: str | None = None,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    chat: bool | None = None,
    batch_size: int = 8,
    output: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure what a gradient can buy on a pair and its problems (docs/probe.md).

    `answers` are the right final answers; or `grade(problem, response)` says what is right (None
    where it cannot tell: such a problem counts for nothing that is about right answers). Without
    either, rewards are compared with nothing. `options` are ∇-Reasoner's (`lr=0.1, n=8, ...`) and
    the probe's (`probing.plan.Plan`: `drafts`, `positions`, `rollouts`, ...). With `output`, a
    folder, what was measured is kept there and a second call goes on from it; responses are kept as
    text, and each call grades them itself. Problems are rendered as `generate` does.

    Returns a dict with the keys room, reach, fidelity, advantage, reward and verdict; every figure
    has `value`, `ci95` (over problems) and `problems`. Raises `ConfigError` for what cannot be
    probed (one problem, steps=0, greedy draws) and `ModelError` for a pair without a reward model.
    """
    problems = texts_of("problems", problems)
    answers = None if answers is None else texts_of("answers", answers)
    stop = stops_of(stop)
    batch_size = coerce("batch_size", batch_size, Count, 8)
    require(grade is None or callable(grade), "grade", grade, "a function of problem and response")
    if answers is not None and len(answers) != len(problems):
        raise ConfigError(
            f"answers must be one for each of the {len(problems)} problems, got {len(answers)}."
        )
    pair.judge  # noqa: B018 - raises where there is none
    own = {name: options.pop(name) for name in leaves(Plan) if name in options}
    config = configure("nabla", options, preset)
    told = problems_of(pair, problems, seed, max_new_tokens, stop, chat)
    asked = [
        Asked(
            replace(problem, id=f"api/{i}/0"),
            _grade(text, None if answers is None else answers[i], grade, problem.thought),
        )
        for i, (text, problem) in enumerate(zip(problems, told, strict=True))
    ]
    facts = {
        "models": identity(pair),
        "problems": fingerprint({own.problem.id: own.problem.text for own in asked}),
        "seed": seed, "max_new_tokens": max_new_tokens, "stop": stop, "chat": chat,
    }  # fmt: skip
    folder = None if output is None else Path(output)
    return Probe(pair, config, build(Plan, own), folder, facts, width=batch_size)(asked)


def _grade(
    problem: str,
    answer: str | None,
    given: Callable[[str, str], bool | None] | None,
    thought: Thought | None,
) -> Grade:
    def grade(text: str) -> bool | None:
        if given is not None:
            told = given(problem, text)
            return None if told is None else bool(told)
        if answer is None:
            return None
        return grade_answer(answer, text if thought is None else thought.answer(text)).equal

    return grade
