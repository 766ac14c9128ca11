"""One problem, measured: a generator as methods are, so that the engine batches problems."""

from __future__ import annotations

from typing import Any

from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling
from nabla_eval.outcome import Outcome
from nabla_eval.probing import advantage, fidelity, reach, room
from nabla_eval.probing.loops import side_by_side, split_runs
from nabla_eval.probing.plan import Plan, ProbedProblem
from nabla_eval.protocol import Generate, Part, Problem, Score, Trajectory


def measure(pair: Pair, problem: Problem, config: Nabla, plan: Plan) -> Part:
    """Measure all sections on one problem; the result is `ProbedProblem`, ungraded."""

    def value(answer: Outcome) -> dict[str, Any]:
        return {"reward": answer.reward, "text": answer.text}

    drafts, rewards = yield from _drafts(problem, config, plan.drafts)
    *sampled, greedy = [
        {"reward": reward, "text": own.text} for own, reward in zip(drafts, rewards, strict=True)
    ]
    draft, reward = drafts[0], rewards[0]
    places = room.open_places(pair.policy, draft, plan)
    refined = yield from reach.refined(problem, draft, config)
    gated = fidelity.some(refined, problem, plan.positions)
    moved, own = yield from reach.measure(problem, draft, gated, config, plan)
    comparable = fidelity.exchanges(pair, draft, places)
    chosen = [comparable[i] for i in fidelity.some(comparable, problem, plan.positions)]
    wanted = [(place.position, token) for place in chosen for token in place.tokens]
    for i, *tokens in advantage.differing(gated, own, plan):
        wanted += [(i, token) for token in tokens]
    values, sites, loops = yield from side_by_side(
        [
            fidelity.roll_out(problem, draft, wanted, config, plan.rollouts),
            fidelity.measure(pair, problem, draft, reward, chosen, config),
            split_runs(problem, config, plan, value),
        ]
    )
    for site, place in zip(sites, chosen, strict=True):
        site["rolled"] = [values[place.position, token] for token in place.tokens]
    return ProbedProblem(
        {
            "drafts": sampled,
            "greedy": greedy,
            "room": room.measure(draft, places, len(refined)),
            "reach": moved,
            "fidelity": sites,
            "advantage": advantage.measure(gated, own, values, plan),
            "loops": loops,
        }
    )


def _drafts(problem: Problem, config: Nabla, count: int) -> Part:
    """Return drafts, which are those of best-of-N, then the greedy response; and their rewards."""
    streams = problem.key / "draft"
    asked = [Generate(problem, streams / i, config.sampling) for i in range(count)]
    greedy = Generate(problem, problem.key / "greedy", Sampling(temperature=0))
    written: list[Trajectory] = yield [*asked, greedy]
    drafts = [config.judged(own) for own in written]
    scores = yield [Score(problem, own) for own in drafts]
    return drafts, [score.reward for score in scores]
