"""∇-Reasoner: refine a trajectory token by token, keep what the reward model likes better.

Algorithm 1 (the decoding loop) with the selection of section 3.3 of the paper, as DESIGN 3.4
states it; DTO itself (Alg. 2 and 4) is behind the `Refine` request. `steps=0` is the zeroth-order
twin: the same loop with draws from the unrefined policy.
"""

from __future__ import annotations

from dataclasses import replace

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.nabla_options import PRESETS, Nabla, lookahead
from nabla_eval.methods.nabla_state import LoopState, Visit
from nabla_eval.methods.pool import Pool
from nabla_eval.methods.select import hard_sequence
from nabla_eval.randomness import Key
from nabla_eval.requests import (
    Candidate,
    Certify,
    Differentiate,
    Generate,
    Method,
    Part,
    Problem,
    Refine,
    Refinement,
    Score,
    Trajectory,
    Verdict,
)

__all__ = ["PRESETS", "Nabla", "nabla"]


def nabla(problem: Problem, config: Nabla) -> Method:
    """Algorithm 1: draft, then sweep over the uncertain positions until a budget is used."""
    pool = Pool(problem)
    ended = yield from unless_cut(_draft(pool, config))
    if ended:
        return pool.outcome(0, ended)
    draft, judgement = pool.samples[0], pool.judgements[0]
    judged = {draft.tokens[: draft.scored]: judgement}
    run = LoopState(problem, config, draft, judgement.reward, judged=judged)
    ended = yield from unless_cut(_sweeps(run))
    run.waste()
    run.discard(run.spare.values())
    run.surplus.speculative_scorings = len(run.unseen)
    return replace(
        pool.outcome(0, ended),
        text=run.current.text,
        tokens=run.current.tokens,
        stop=run.current.stop,
        reward=run.reward,
        candidates=tuple(run.candidates),
        visited=run.visited,
        certified=run.certified,
        positions=run.positions,
        ledger=run.surplus,  # the driver adds what the requests cost
    )


def _draft(pool: Pool, config: Nabla) -> Part:
    yield from pool.draw(1, config.sampling)
    pool.samples = [judged_whole(sample, config) for sample in pool.samples]
    yield from pool.judge()


def _sweeps(run: LoopState) -> Part:
    """Propose and judge until a budget is used; returns why it ended."""
    while run.ended is None:
        wanted = min(lookahead(run.config, run.candidates), run.config.n - run.rollouts)
        visits, beyond = yield from _ahead(run, wanted)
        fresh = [visit for visit in visits if run.differs(visit)]
        if not fresh:
            run.settle(visits)
            run.move(*beyond)
            return "done"
        yield from _judge(run, visits, fresh)
    return run.ended


def _ahead(run: LoopState, wanted: int) -> Part:
    """Return what the loop comes to as long as nothing is accepted, and the place where it then is.

    Draws follow each other by position and sweep, up to the last of `wanted` that propose a token.
    A sweep whose every draw was the token already there costs no model call, and the next one draws
    afresh; where no position passes the gates, no later sweep will differ.
    """
    visits: list[Visit] = []
    sweep, position, entered, fresh = run.sweep, run.position, run.entered, 0
    while sweep < run.config.passes and fresh < wanted:
        window = yield from _window(run, sweep, position, wanted - fresh)
        if not window and not entered:
            return visits, (sweep, len(run.current.tokens))
        if not window:
            sweep, position, entered = sweep + 1, 0, False
            continue
        if run.config.certifies:
            yield from _certify(run, sweep, window)
        yield from _refine(run, sweep, [i for i in window if run.visit(sweep, i) is None])
        found = [visit for i in window if (visit := run.visit(sweep, i)) is not None]
        visits += found
        fresh += sum(run.differs(visit) for visit in found)
        position, entered = window[-1] + 1, True
    return visits, (sweep, position)


def _window(run: LoopState, sweep: int, start: int, size: int) -> Part:
    """The next positions that pass both gates of the selection."""
    selection = run.config
    unsure = run.unsure(start)
    if selection.gradient_threshold == 0:
        return unsure[:size]
    window: list[int] = []
    while unsure and len(window) < size:
        next_ones = unsure[: size - len(window)]
        unsure = unsure[len(next_ones) :]
        yield from _differentiate(run, sweep, next_ones)
        for i in next_ones:
            gradient = run.gradient(i)
            if gradient is not None and selection.steep(gradient.norms[i]):
                window.append(i)
    return window


def _differentiate(run: LoopState, sweep: int, positions: list[int]) -> Part:
    """Ask for the gradients at the hard sequences of positions, once per sequence."""
    config, new = run.config, dict[tuple[int, ...], tuple[int, int]]()
    for i in positions:
        hard = hard_sequence(run.current, i, config.dto)
        if hard not in run.gradients:
            new.setdefault(hard, (sweep, i))
    if not new:
        return
    gated = config.gradient_threshold > 0
    gradients = yield [
        Differentiate(
            run.problem,
            run.current,
            hard,
            config.objective,
            rows=tuple(run.unsure()),
            norm=config.gradient_norm if gated else None,
            temperature=config.relaxation,
        )
        for hard in new
    ]
    for (hard, place), gradient in zip(new.items(), gradients, strict=True):
        run.gradients[hard] = gradient, place


def _certify(run: LoopState, sweep: int, positions: list[int]) -> Part:
    """Ask, once for each position, which draws of the sweeps left no gradient could change."""
    config = run.config
    new = [i for i in positions if i not in run.known and i not in run.refined]
    if not new:
        return
    known = yield [
        Certify(
            run.problem,
            run.current,
            i,
            keys=_keys(run, sweep, i),
            sampling=config.drawing,
            dto=config.dto,
            min_probability=config.min_probability,
        )
        for i in new
    ]
    run.known.update((i, (own, sweep)) for i, own in zip(new, known, strict=True))


def _keys(run: LoopState, sweep: int, position: int) -> tuple[Key, ...]:
    """Return what a position draws with in this sweep and those that are left."""
    return tuple(stream / position for stream in run.streams[sweep:])


def _refine(run: LoopState, sweep: int, positions: list[int]) -> Part:
    """Refine positions of the current trajectory, each once, and draw there for all sweeps left."""
    problem, config = run.problem, run.config
    new = [i for i in positions if i not in run.refined]
    if not new:
        return
    if config.steps > 0:
        yield from _differentiate(run, sweep, new)
    draws = yield [
        Refine(
            problem,
            run.current,
            i,
            keys=_keys(run, sweep, i),
            sampling=config.drawing,
            dto=config.dto,
            gradient=run.gradient(i) if config.steps > 0 else None,
            norm=config.gradient_norm,
            relaxation=config.relaxation,
            min_probability=config.min_probability,
        )
        for i in new
    ]
    run.refined.update((i, (draw, (sweep, i))) for i, draw in zip(new, draws, strict=True))


def _judge(run: LoopState, visits: list[Visit], fresh: list[Visit]) -> Part:
    """Roll the fresh draws out as one batch and judge them in order, up to an acceptance.

    What comes after it is speculative: thrown away unseen, unless the loop comes to it after all.
    """
    rivals = yield from _roll_out(run, fresh)
    rewards = yield from _score(run, rivals)
    if run.config.acceptance == "released" and run.compared is None:
        # Known where a rival is what this shows the reward model: then they tie to the last digit.
        shown = run.problem.prompt + run.current.tokens[: run.current.scored]
        if shown not in run.judged:
            (run.judged[shown],) = yield [Score(run.problem, run.current, repeat_prompt=True)]
        run.compared = run.judged[shown].reward
    for visit, rival, reward in zip(fresh, rivals, rewards, strict=True):
        run.rollouts += 1
        run.spare.pop(run.start(visit))
        run.unseen.discard(rival.tokens[: rival.scored])
        candidate = _candidate(run, visit, rival, reward)
        run.candidates.append(candidate)
        if candidate.verdict == "accepted" or run.ended:
            run.settle([other for other in visits if other.place <= visit.place])
            if candidate.verdict == "accepted":
                run.accept(rival, reward)
            return
    run.settle(visits)


def _roll_out(run: LoopState, fresh: list[Visit]) -> Part:
    """Responses that draws lead to; one that was rolled out before is not rolled out again."""
    new = [visit for visit in fresh if run.start(visit) not in run.spare]
    rivals = yield [
        Generate(
            run.problem,
            run.problem.key / "rollout" / visit.sweep / visit.position,
            run.config.sampling,
            prefix=run.current,
            keep=visit.position,
            token=visit.token,
        )
        for visit in new
    ]
    whole = [judged_whole(rival, run.config) for rival in rivals]
    run.spare.update((run.start(visit), rival) for visit, rival in zip(new, whole, strict=True))
    return [run.spare[run.start(visit)] for visit in fresh]


def _score(run: LoopState, rivals: list[Trajectory]) -> Part:
    """Rewards of responses; one whose sequence was scored before is not scored again."""
    new = {r.tokens[: r.scored]: r for r in rivals if r.tokens[: r.scored] not in run.judged}
    judged = yield [Score(run.problem, rival) for rival in new.values()]
    run.judged.update(zip(new, judged, strict=True))
    run.unseen.update(new)
    return [run.judged[rival.tokens[: rival.scored]].reward for rival in rivals]


def judged_whole(trajectory: Trajectory, config: Nabla) -> Trajectory:
    """A response as the reward model is to read it: with end_token=kept, up to its end token."""
    if config.end_token == "template" or trajectory.stop != "eos":
        return trajectory
    return replace(trajectory, scored=len(trajectory.tokens))


def _candidate(run: LoopState, visit: Visit, rival: Trajectory, reward: float) -> Candidate:
    """Judge one candidate: accepted iff its reward is strictly higher; ties reject."""
    bar = run.reward if run.compared is None else run.compared
    verdict: Verdict = "accepted" if reward > bar else "rejected"
    if reward == bar:
        verdict = "tie"
    position, gradient = visit.position, run.gradient(visit.position)
    norms = {} if gradient is None else gradient.norms
    draw = visit.draw or Refinement((), ())
    return Candidate(
        index=len(run.candidates),
        sweep=visit.sweep,
        position=position,
        entropy=run.current.entropy[position],
        top_probability=run.current.top_probability[position],
        gradient_norm=norms.get(position, draw.norm),
        old_token=run.current.tokens[position],
        new_token=visit.token,
        old_reward=run.reward,
        new_reward=reward,
        verdict=verdict,
        tokens=rival.tokens,
        text=rival.text,
        stop=rival.stop,
        flips=draw.flips,
        moved=draw.moved,
        certified=visit.certified,
        compared_reward=run.compared,
    )
