"""∇-Reasoner: refine a trajectory token by token, keep what the reward model likes better.

Algorithm 1 with the selection of section 3.3 of the paper, as DESIGN 3.4 states it; DTO (Alg. 2
and 4) is behind the `Refine` request. `steps=0` is the zeroth-order twin: draws from the unrefined
policy. `engine/naive.py` has the loop without look-ahead, and without a memory of what it did.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from nabla_eval.cost.ledger import Ledger
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.nabla_options import Nabla, lookahead, uncertain
from nabla_eval.methods.samples import Pool
from nabla_eval.outcome import Candidate, Verdict
from nabla_eval.protocol import (
    Differentiate,
    Generate,
    Method,
    Part,
    Problem,
    Refine,
    Refinement,
    Score,
    Trajectory,
)

Tokens: TypeAlias = tuple[int, ...]
Place: TypeAlias = tuple[int, int]  # sweep and position, in the order in which the loop goes


class Resample(NamedTuple):
    """A token drawn at one place from the refined distribution."""

    place: Place
    start: Tokens  # the committed tokens before it, and the token: what its rollout begins with
    proposes: bool  # it differs from the token that is there
    certified: bool  # no gradient could change it
    refinement: Refinement


@dataclass
class LoopState:
    """The state of the loop for one problem: first, the draft is accepted."""

    problem: Problem
    config: Nabla
    current: Trajectory = field(init=False)
    reward: float = field(init=False)
    place: Place = (0, 0)  # where the loop goes on; a sweep that is entered is past position 0
    candidates: list[Candidate] = field(default_factory=list)
    committed: list[Resample] = field(default_factory=list)
    positions: int = 0
    # Rollouts (by place and start), scores and gradients for what the loop may never come to:
    ahead: dict[tuple[Place, Tokens], Trajectory] = field(default_factory=dict)
    unjudged: set[Tokens] = field(default_factory=set)  # responses that were scored
    wasted_passes: int = 0
    rewards: dict[Tokens, float] = field(default_factory=dict)  # by what was shown as a response
    # Of the current trajectory:
    draws: dict[Place, Resample] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)  # of the gradient, for its gate
    passes: list[tuple[Place, int]] = field(default_factory=list)  # taken for a place

    @property
    def ended(self) -> str | None:
        if self.config.stop_reward is not None and self.reward >= self.config.stop_reward:
            return "reward"
        return "budget" if len(self.candidates) >= self.config.n - 1 else None

    def commit(self, draws: list[Resample], place: Place) -> None:
        """Count the draws and positions of the current trajectory up to a place; go on there."""
        self.committed += draws
        sweeps = place[0] - self.place[0]
        self.positions += sweeps * len(self.current.tokens) + place[1] - self.place[1]
        self.place = place

    def count_waste(self) -> None:
        """Count the gradient passes for places that the loop has not come to."""
        self.wasted_passes += sum(count for place, count in self.passes if place >= self.place)

    def accept(self, rival: Trajectory, reward: float) -> None:
        """Replace the current trajectory; the loop goes on where it is."""
        self.count_waste()
        self.current, self.reward, self.rewards[rival.shown] = rival, reward, reward
        self.unsure = uncertain(rival, self.config)
        self.draws, self.norms, self.passes = {}, {}, []


def nabla(problem: Problem, config: Nabla) -> Method:
    """Algorithm 1: draft, then sweep over the uncertain positions until a budget is used."""
    pool = Pool(problem, config.judged)
    ended = yield from unless_cut(pool.draft(config.sampling))
    if ended:
        return pool.outcome(0, ended)
    run = LoopState(problem, config)
    run.accept(pool.samples[0], pool.rewards[0])
    ended = yield from unless_cut(_sweeps(run))
    run.count_waste()
    speculative = Ledger(  # the driver adds what the requests cost
        speculative_tokens=sum(own.cost.generated_tokens for own in run.ahead.values()),
        speculative_scorings=len(run.unjudged), speculative_passes=run.wasted_passes,
    )  # fmt: skip
    return replace(
        pool.outcome(0, ended),
        text=run.current.text, tokens=run.current.tokens, stop=run.current.stop, reward=run.reward,
        candidates=tuple(run.candidates), positions=run.positions, visited=len(run.committed),
        certified=sum(draw.certified for draw in run.committed), ledger=speculative,
    )  # fmt: skip


def _sweeps(run: LoopState) -> Part:
    """Propose, roll out and judge until a budget is used; returns why it ended."""
    while run.ended is None:
        wanted = min(lookahead(run.config, run.candidates), run.config.n - 1 - len(run.candidates))
        draws, behind = yield from _look_ahead(run, wanted)
        proposals = [draw for draw in draws if draw.proposes]
        if not proposals:
            run.commit(draws, behind)
            return "done"
        rivals = yield from _roll_out(run, proposals)
        for draw, rival in zip(proposals, rivals, strict=True):
            del run.ahead[draw[:2]]
            run.unjudged.discard(rival.shown)
            candidate = _candidate(run, draw, rival)
            run.candidates.append(candidate)
            if candidate.verdict == "accepted" or run.ended:
                # The rest is thrown away unseen, unless the loop comes to it after all.
                draws = [other for other in draws if other.place <= draw.place]
                break
        sweep, position = draws[-1].place
        run.commit(draws, (sweep, position + 1))  # on the trajectory that was swept, so before:
        if candidate.verdict == "accepted":
            run.accept(rival, candidate.new_reward)
    return run.ended


def _look_ahead(run: LoopState, wanted: int) -> Part:
    """Draws that the loop comes to as long as nothing is accepted, and the place behind them.

    They end with the last of `wanted` that propose a token. A sweep that proposes none costs no
    model call, and the next one draws afresh; where no position passes the gates, none ever will.
    """
    draws: list[Resample] = []
    (sweep, position), proposals = run.place, 0
    while sweep < run.config.passes and proposals < wanted:
        window = yield from _window(run, sweep, position, wanted - proposals)
        if window:
            new = yield from _draw(run, sweep, window)
            draws += new
            proposals += sum(draw.proposes for draw in new)
            position = window[-1] + 1
        elif position:
            sweep, position = sweep + 1, 0
        else:
            return draws, (sweep, len(run.current.tokens))
    return draws, (sweep, position)


def _window(run: LoopState, sweep: int, start: int, size: int) -> Part:
    """The next positions that pass both gates of the config."""
    config = run.config
    unsure = run.unsure[bisect_left(run.unsure, start) :]
    if config.gradient_threshold == 0:
        return unsure[:size]
    window: list[int] = []
    while unsure and len(window) < size:
        ahead, unsure = unsure[: size - len(window)], unsure[size - len(window) :]
        new = [i for i in ahead if i not in run.norms]
        gradients = yield [
            Differentiate(
                run.problem, run.current, i, config.dto, rows=tuple(run.unsure),
                norm=config.gradient_norm, temperature=config.relaxation,
            )
            for i in new
        ]  # fmt: skip
        for i, gradient in zip(new, gradients, strict=True):
            run.norms.update(gradient.norms)
            run.passes.append(((sweep, i), gradient.cost.gradient_passes))
        window += [i for i in ahead if config.steep(run.norms[i])]
    return window


def _draw(run: LoopState, sweep: int, positions: list[int]) -> Part:
    """Draws of a sweep. A position is refined once, and draws for the sweeps left come with it."""
    config, streams = run.config, run.problem.key / "resample"
    new = [i for i in positions if (sweep, i) not in run.draws]
    refinements = yield [
        Refine(
            run.problem, run.current, i,
            keys=tuple(streams / later / i for later in range(sweep, config.passes)),
            sampling=config.drawing, dto=config.dto, relaxation=config.relaxation,
            min_probability=config.min_probability,
            norm=config.gradient_norm, certify=config.certifies,
        )
        for i in new
    ]  # fmt: skip
    for i, own in zip(new, refinements, strict=True):
        run.passes.append(((sweep, i), own.cost.gradient_passes))
        kept, old = run.current.tokens[:i], run.current.tokens[i]
        for later, token in enumerate(own.tokens, start=sweep):
            if token is not None:  # else it is drawn when the loop comes to it
                proposes, certified = token != old, own.certified[later - sweep]
                run.draws[later, i] = Resample((later, i), (*kept, token), proposes, certified, own)
    return [run.draws[sweep, i] for i in positions]


def _roll_out(run: LoopState, proposals: list[Resample]) -> Part:
    """Roll out and score as one batch, but for what was rolled out or scored before."""
    new = [draw for draw in proposals if draw[:2] not in run.ahead]
    streams = run.problem.key / "rollout"
    written = yield [
        Generate(
            run.problem, streams / sweep / position, run.config.sampling,
            prefix=run.current, keep=position, token=start[-1],
        )
        for (sweep, position), start, *_ in new
    ]  # fmt: skip
    whole = [run.config.judged(rival) for rival in written]
    run.ahead.update((draw[:2], rival) for draw, rival in zip(new, whole, strict=True))
    rivals = [run.ahead[draw[:2]] for draw in proposals]
    unscored = {rival.shown: rival for rival in rivals if rival.shown not in run.rewards}
    scores = yield [Score(run.problem, rival) for rival in unscored.values()]
    run.rewards.update((own, score.reward) for own, score in zip(unscored, scores, strict=True))
    run.unjudged.update(unscored)
    shown = run.problem.prompt + run.current.shown
    if run.config.acceptance == "released" and shown not in run.rewards:
        (score,) = yield [Score(run.problem, run.current, repeat_prompt=True)]
        run.rewards[shown] = score.reward  # that of a rival that reads the same: an exact tie
    return rivals


def _candidate(run: LoopState, draw: Resample, rival: Trajectory) -> Candidate:
    """Judge one candidate: accepted iff its reward is strictly higher; ties reject."""
    released = run.config.acceptance == "released"
    compared = run.rewards[run.problem.prompt + run.current.shown] if released else None
    bar, reward = run.reward if compared is None else compared, run.rewards[rival.shown]
    verdict: Verdict = "accepted" if reward > bar else "tie" if reward == bar else "rejected"
    (sweep, position), old = draw.place, run.current
    return Candidate(
        index=len(run.candidates), sweep=sweep, position=position,
        entropy=old.entropy[position], top_probability=old.top_probability[position],
        gradient_norm=run.norms.get(position, draw.refinement.norm),
        old_token=old.tokens[position], new_token=draw.start[-1], old_reward=run.reward,
        new_reward=reward, verdict=verdict, compared_reward=compared,
        tokens=rival.tokens, text=rival.text, stop=rival.stop, certified=draw.certified,
        flips=draw.refinement.flips, moved=draw.refinement.moved,
    )  # fmt: skip
