"""∇-Reasoner: refine a trajectory token by token, keep what the reward model likes better.

Algorithm 1 (the decoding loop) with the selection of section 3.3 of the paper, as DESIGN 3.4
states it; DTO itself (Alg. 2 and 4) is behind the `Refine` request. `steps=0` is the zeroth-order
twin: the same loop with draws from the unrefined policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nabla_eval.config import DTO, Budget, Resampling, Sampling, Selection, require
from nabla_eval.cost.ledger import Ledger
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.pool import Pool
from nabla_eval.methods.select import hard_sequence, uncertain
from nabla_eval.requests import (
    Candidate,
    Differentiate,
    Generate,
    Gradient,
    Judgement,
    Method,
    Part,
    Problem,
    Refine,
    Refinement,
    Score,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True, kw_only=True)
class Nabla:
    """Options of ∇-Reasoner. The defaults are what measured best on the embedded pair."""

    n: int = 8  # N_max: rollouts in all, the first draft included
    passes: int = 8  # left-to-right sweeps over the trajectory (the paper: 1)
    stop_reward: float | None = None  # stop as soon as the reward reaches it
    acceptance: Literal["strict", "released"] = "strict"
    lookahead: int = 1  # candidates of one trajectory rolled out as one batch
    sampling: Sampling = field(default_factory=Sampling)
    resampling: Resampling = field(default_factory=Resampling)
    selection: Selection = field(default_factory=Selection)
    dto: DTO = field(default_factory=DTO)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "an integer >= 1")
        require(self.passes >= 1, "passes", self.passes, "an integer >= 1")
        require(self.lookahead >= 1, "lookahead", self.lookahead, "an integer >= 1")
        require(self.sampling.temperature > 0, "temperature", self.sampling.temperature, "> 0")

    @property
    def relaxation(self) -> float:
        """tau of the straight-through softmax: the temperature of the draw it prepares."""
        return self.resampling.of(self.sampling).temperature or 1.0

    @property
    def differentiates(self) -> bool:
        """Whether a gradient is ever looked at: the twin without a gradient gate needs none."""
        return self.dto.steps > 0 or self.selection.gradient_threshold > 0


# DESIGN 3.5. The paper gives no lambda: 1 is Eq. 2 as printed with equal weights.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "n": 8, "passes": 1, "temperature": 0.5, "top_p": 0.95,
        "resample_temperature": None, "min_probability": 0.0,
        "uncertainty": "entropy", "entropy_threshold": 0.25,
        "gradient_threshold": 8.0, "gradient_norm": "logits",
        "steps": 20, "lr": 0.01, "min_lr": 0.001, "lam": 1.0, "nll_weight": 1.0,
        "update": "all", "anchor": "argmax", "parameterisation": "logits",
    },
    "released": {
        "n": 8, "passes": 1, "temperature": 0.6, "top_p": 0.95,
        "resample_temperature": 0.5, "resample_top_p": 0.95, "min_probability": 0.0,
        "uncertainty": "top_probability", "top_probability_threshold": 0.97,
        "gradient_threshold": 4.0, "gradient_norm": "onehot",
        "steps": 20, "lr": 0.01, "min_lr": 0.001, "lam": 1.0, "nll_weight": 1e-3,
        "update": "first", "anchor": "argmax", "parameterisation": "logits",
    },
}  # fmt: skip


@dataclass
class _Run:
    """What the loop knows of one problem."""

    current: Trajectory
    reward: float
    rollouts: int = 1
    compared: float | None = None  # the mis-scored reward of acceptance=released
    gradients: dict[tuple[int, ...], Gradient] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    visited: int = 0
    positions: int = 0
    surplus: Ledger = field(default_factory=Ledger)  # what lookahead threw away

    def accept(self, rival: Trajectory, reward: float) -> None:
        self.current, self.reward, self.compared = rival, reward, None
        self.gradients.clear()

    def ended(self, config: Nabla) -> str | None:
        if config.stop_reward is not None and self.reward >= config.stop_reward:
            return "reward"
        return "budget" if self.rollouts >= config.n else None


def nabla(problem: Problem, config: Nabla) -> Method:
    """Algorithm 1: draft, then sweep over the uncertain positions until a budget is used."""
    pool = Pool(problem)
    ended = yield from unless_cut(_draft(pool, config))
    if ended:
        return pool.outcome(0, ended)
    run = _Run(pool.samples[0], pool.rewards[0])
    ended = yield from unless_cut(_sweeps(problem, config, run))
    return replace(
        pool.outcome(0, ended),
        text=run.current.text,
        tokens=run.current.tokens,
        stop=run.current.stop,
        reward=run.reward,
        candidates=tuple(run.candidates),
        visited=run.visited,
        positions=run.positions,
        ledger=run.surplus,  # the driver adds what the requests cost
    )


def _draft(pool: Pool, config: Nabla) -> Part:
    yield from pool.draw(1, config.sampling)
    yield from pool.judge()


def _sweeps(problem: Problem, config: Nabla, run: _Run) -> Part:
    for sweep in range(config.passes):
        visited = run.visited
        yield from _sweep(problem, config, run, sweep)
        # A sweep whose every draw was the token already there costs no model call, and the next one
        # draws afresh; where no position passes the gates, no later sweep will differ.
        if run.ended(config) or run.visited == visited:
            break
    return run.ended(config) or "done"


def _sweep(problem: Problem, config: Nabla, run: _Run, sweep: int) -> Part:
    """One left-to-right pass over what is left of the trajectory."""
    position = 0
    while run.ended(config) is None:
        window = yield from _window(problem, config, run, position)
        if not window:
            run.positions += len(run.current.tokens) - position
            break
        draws = yield [_refine(problem, config, run, sweep, i) for i in window]
        fresh = [
            (i, draw)
            for i, draw in zip(window, draws, strict=True)
            if draw.token != run.current.tokens[i]
        ][: config.n - run.rollouts]
        end = window[-1]
        if fresh:
            end = yield from _judge(problem, config, run, sweep, fresh, end)
        run.visited += sum(i <= end for i in window)
        run.surplus.speculative_passes += sum(
            draw.passes for i, draw in zip(window, draws, strict=True) if i > end
        )
        run.positions += end + 1 - position
        position = end + 1


def _window(problem: Problem, config: Nabla, run: _Run, start: int) -> Part:
    """The next `lookahead` positions that pass both gates of the selection."""
    window: list[int] = []
    for i in uncertain(run.current, config.selection, start):
        if config.differentiates:
            gradient = yield from _gradient(problem, config, run, i)
            if not gradient.norms[i] > config.selection.gradient_threshold:
                continue
        window.append(i)
        if len(window) == config.lookahead:
            break
    return window


def _gradient(problem: Problem, config: Nabla, run: _Run, position: int) -> Part:
    """The gradient at the hard sequence of a position, asked for once per sequence.

    By causality dL/dy_i does not depend on how much of y has been committed (DESIGN 3.6).
    """
    hard = hard_sequence(run.current, position, config.dto)
    if hard not in run.gradients:
        (run.gradients[hard],) = yield [
            Differentiate(
                problem,
                run.current,
                hard,
                config.dto.objective,
                rows=tuple(uncertain(run.current, config.selection)),
                norm=config.selection.gradient_norm,
                temperature=config.relaxation,
            )
        ]
    return run.gradients[hard]


def _refine(problem: Problem, config: Nabla, run: _Run, sweep: int, position: int) -> Refine:
    hard = hard_sequence(run.current, position, config.dto)
    return Refine(
        problem,
        run.current,
        position,
        key=problem.key / "resample" / sweep / position,
        sampling=config.resampling.of(config.sampling),
        dto=config.dto,
        gradient=run.gradients.get(hard) if config.dto.steps > 0 else None,
        relaxation=config.relaxation,
        min_probability=config.resampling.min_probability,
    )


def _judge(
    problem: Problem,
    config: Nabla,
    run: _Run,
    sweep: int,
    fresh: list[tuple[int, Refinement]],
    end: int,
) -> Part:
    """Roll the fresh draws out as one batch and judge them in position order.

    Returns the last position settled: that of the first acceptance, or of the last rollout the
    budget allowed, or `end`. What comes after an acceptance is speculative: thrown away unseen.
    """
    rivals = yield [
        Generate(
            problem,
            problem.key / "rollout" / sweep / i,
            config.sampling,
            prefix=run.current,
            keep=i,
            token=draw.token,
        )
        for i, draw in fresh
    ]
    judged = yield [Score(problem, rival) for rival in rivals]
    if config.acceptance == "released" and run.compared is None:
        (wrong,) = yield [Score(problem, run.current, repeat_prompt=True)]
        run.compared = wrong.reward
    for at, ((i, draw), rival, judgement) in enumerate(zip(fresh, rivals, judged, strict=True)):
        run.rollouts += 1
        candidate = _candidate(config, run, sweep, i, draw, rival, judgement)
        run.candidates.append(candidate)
        if candidate.verdict == "accepted":
            run.accept(rival, judgement.reward)
            unseen = rivals[at + 1 :]
            run.surplus.speculative_scorings += len(unseen)
            run.surplus.speculative_tokens += sum(r.cost.generated_tokens for r in unseen)
            return i
        if run.ended(config):
            return i
    return end


def _candidate(
    config: Nabla,
    run: _Run,
    sweep: int,
    position: int,
    draw: Refinement,
    rival: Trajectory,
    judgement: Judgement,
) -> Candidate:
    """Judge one candidate: accepted iff its reward is strictly higher; ties reject."""
    bar = run.reward if run.compared is None else run.compared
    verdict: Verdict = "accepted" if judgement.reward > bar else "rejected"
    if judgement.reward == bar:
        verdict = "tie"
    gradient = run.gradients.get(hard_sequence(run.current, position, config.dto))
    return Candidate(
        index=len(run.candidates),
        sweep=sweep,
        position=position,
        entropy=run.current.entropy[position],
        top_probability=run.current.top_probability[position],
        gradient_norm=None if gradient is None else gradient.norms[position],
        old_token=run.current.tokens[position],
        new_token=draw.token,
        old_reward=run.reward,
        new_reward=judgement.reward,
        verdict=verdict,
        tokens=rival.tokens,
        text=rival.text,
        stop=rival.stop,
        flips=draw.flips,
        moved=draw.moved,
        compared_reward=run.compared,
    )
