"""Fidelity: does the gradient rank the tokens of a position as exchanging them would?

The linearised change of the reward is <dr/dy_i, e_v - e_y>. Beside it stand two exact ones: of the
response with the token exchanged and the rest kept, and of what the policy writes after it. The
latter is a mean of few rollouts; its noise is taken out of correlations by halves. With x the ranks
under a ranking, z and z' those of two halves of the rollouts, all centred at their position, and
sums over tokens and positions,

    corr = sum x (z + z')/2 / sqrt( sum x^2  sum z z' )

estimates the correlation of x with the ranks that one half has on average, because the noise of the
two halves is independent. Top-1 agreement is the same with indicators of the top token for ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nabla_eval.analysis.intervals import Estimate, mean, ratio, unknown
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Linearise
from nabla_eval.probing.room import OpenPlace
from nabla_eval.protocol import Generate, Part, Problem, Score, Trajectory

Floats: TypeAlias = NDArray[np.float64]
Site: TypeAlias = Mapping[str, Any]  # the figures of one position
Sites: TypeAlias = Sequence[Sequence[Site]]  # by problem
Values: TypeAlias = dict[tuple[int, int], list[float]]  # rewards after a token at a position

POLICY = "policy"
KEPT, ROLLED = "kept", "rolled"  # exact changes: with the rest kept, or rolled out
THIRDS = ("beginning", "middle", "end")


def exchanges(pair: Pair, draft: Trajectory, places: Sequence[OpenPlace]) -> dict[int, OpenPlace]:
    """Return positions with at least two tokens to compare.

    The drafted token is one of them. Tokens that end the response or that the reward model lacks
    are none: they have no place in what it reads.
    """
    known, found = pair.judge.known, {}
    for place in places:
        if place.position >= draft.scored:
            continue
        usable = {
            token: p
            for token, p in zip(place.tokens, place.probabilities, strict=True)
            if token not in pair.policy.end_ids and (known is None or bool(known[token]))
        }
        own = draft.tokens[place.position]
        usable.setdefault(own, math.exp(draft.log_probability[place.position]))
        if len(usable) >= 2:
            tokens, probabilities = tuple(usable), tuple(usable.values())
            found[place.position] = place._replace(tokens=tokens, probabilities=probabilities)
    return found


def some(positions: Iterable[int], problem: Problem, most: int) -> list[int]:
    """Return at most so many of the positions, drawn by the problem's key.

    One random order of all positions serves every set that is drawn from, so that sets which share
    positions share what is rolled out there.
    """
    numbers = (problem.key / "probe" / "position").uniforms(0, problem.max_new_tokens)
    return sorted(sorted(positions, key=lambda i: float(numbers[i]))[:most])


def roll_out(
    problem: Problem,
    draft: Trajectory,
    pairs: Sequence[tuple[int, int]],
    config: Nabla,
    rollouts: int,
) -> Part:
    """Return the rewards of rollouts after tokens at positions; rollout j has one key for all."""
    if not pairs:
        return {}
    streams = problem.key / "probe" / "rollout"
    places = [(i, token, j) for i, token in dict.fromkeys(pairs) for j in range(rollouts)]
    written = yield [
        Generate(problem, streams / i / j, config.sampling, prefix=draft, keep=i, token=token)
        for i, token, j in places
    ]
    scores = yield [Score(problem, config.judged(own)) for own in written]
    found: Values = {}
    for (i, token, _), score in zip(places, scores, strict=True):
        found.setdefault((i, token), []).append(score.reward)
    return found


def measure(
    pair: Pair,
    problem: Problem,
    draft: Trajectory,
    reward: float,
    chosen: Sequence[OpenPlace],
    config: Nabla,
) -> Part:
    """Return the figures of each position: what ranks its tokens, and what exchanging them does.

    With the rest kept, that is; what rolling out gives is measured beside it (`roll_out`). With
    lam < 0 gradients rank tokens as the loop follows them, downwards.
    """
    if not chosen:
        return []
    places = tuple((own.position, own.tokens) for own in chosen)
    kinds: list[Literal["final", "process"]] = ["final"]
    if pair.judge.process:
        kinds.append("process")
    rankings = {
        f"{kind} gradient, {'mean' if soft else 'hard'}": Linearise(
            problem, draft, places, kind, config.process_weight, soft
        )
        for kind in kinds
        for soft in (False, True)
    }
    slopes = yield list(rankings.values())
    sign = -1.0 if config.lam < 0 else 1.0  # the loop follows lam dr/dy
    kept = yield [
        Score(problem, replace(draft, tokens=(*draft.tokens[:i], v, *draft.tokens[i + 1 :])))
        for i, tokens in places
        for v in tokens
    ]
    scores = iter(kept)
    return [
        {
            "where": own.position / draft.scored,
            POLICY: [math.log(p) for p in own.probabilities],
            **{
                name: [sign * own for own in each.changes[j]]
                for name, each in zip(rankings, slopes, strict=True)
            },
            KEPT: [next(scores).reward - reward for _ in own.tokens],
        }
        for j, own in enumerate(chosen)
    ]


# --- sums over problems ---


def summary(problems: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Return how well each ranking agrees with the exact changes; `chance` is that of no ranking.

    `gain` is what the reward after rolling out would rise by, in the mean over positions, if the
    top token of a ranking were taken for one drawn evenly.
    """
    sites = [each["fidelity"] for each in problems]
    known = [site for own in sites for site in own]
    names = [n for n in (known[0] if known else {}) if n not in ("where", KEPT, ROLLED)]
    sizes = [len(site[POLICY]) for site in known]
    return {
        "positions": len(known),
        "tokens": sum(sizes),
        "rollouts": plan.rollouts,
        "chance": {
            "correlation": 0.0,
            "top_1": float(np.mean([1 / size for size in sizes])) if known else None,
        },
        "ceiling": over_sites(sites, _agreed),
        "rankings": [_row(sites, name, change) for change in (KEPT, ROLLED) for name in names],
    }


def _agreed(site: Site) -> float:
    one, other = map(tops, halves(site))
    return float(one @ other)


def _row(sites: Sites, name: str, change: str) -> dict[str, Any]:
    own = correlated(sites, name, change)
    thirds = [[[s for s in own if int(3 * s["where"]) == i] for own in sites] for i in range(3)]
    return {
        "ranking": name,
        "change": change,
        "correlation": own.estimate,
        "above_policy": None if name == POLICY else above(own, correlated(sites, POLICY, change)),
        "top_1": agreement(sites, name, change),
        "top_1_corrected": correlated(sites, name, change, tops).estimate,
        "gain": over_sites(sites, lambda site: _gain(site, name)) if change == ROLLED else None,
        "by_position": {
            third: correlated(own, name, change).estimate
            for third, own in zip(THIRDS, thirds, strict=True)
        },
    }


def tops(values: Sequence[float]) -> Floats:
    """Return the indicator of the greatest value, shared by equal ones."""
    top = np.asarray(values) == max(values)
    shared: Floats = top / top.sum()
    return shared


def halves(site: Site, change: str = ROLLED) -> tuple[Sequence[float], Sequence[float]]:
    """Return the changes of a position twice, with independent noise."""
    if change == KEPT:
        return site[KEPT], site[KEPT]
    one, other = np.split(np.asarray(site[ROLLED], dtype=float), 2, axis=1)
    return one.mean(1).tolist(), other.mean(1).tolist()


class Correlated(NamedTuple):
    """A correlation, and each problem's first-order part of its error."""

    value: float
    errors: Floats

    @property
    def estimate(self) -> Estimate:
        """The correlation with its interval over problems."""
        own = _with_errors(*self)
        low, value, high = np.clip([own.low, own.value, own.high], -1, 1).tolist()
        return replace(own, value=value, low=low, high=high)


def correlated(
    sites: Sites, name: str, change: str, view: Callable[[Sequence[float]], Floats] = rankdata
) -> Correlated:
    """Return the correlation of a ranking with a change, noise taken out (see the module)."""
    sums = np.array([_moments(own, name, change, view) for own in sites]).reshape(-1, 3)
    sums = sums[sums[:, 1] > 0]
    a, b, c = sums.sum(0)
    if b <= 0 or c <= 0:
        return Correlated(math.nan, np.zeros(len(sums)))
    scale = math.sqrt(b * c)
    errors = sums[:, 0] / scale - a / scale * (sums[:, 1] / b + sums[:, 2] / c) / 2
    return Correlated(float(a / scale), errors)


def _moments(
    sites: Sequence[Site], name: str, change: str, view: Callable[[Sequence[float]], Floats]
) -> tuple[float, float, float]:
    a = b = c = 0.0
    for site in sites:
        views = [view(own) for own in (site[name], *halves(site, change))]
        x, z, other = (own - own.mean() for own in views)
        a, b, c = a + float(x @ (z + other)) / 2, b + float(x @ x), c + float(z @ other)
    return a, b, c


def above(own: Correlated, base: Correlated) -> Estimate:
    """Return the difference of two correlations on the same problems."""
    if math.isnan(own.value + base.value) or len(own.errors) != len(base.errors):
        return unknown()
    return _with_errors(own.value - base.value, own.errors - base.errors)


def _with_errors(value: float, errors: Floats) -> Estimate:
    return mean(value + len(errors) * errors)


def agreement(sites: Sites, name: str, change: str) -> Estimate:
    """Return how often a ranking's top token is that of the change (of half the rollouts)."""

    def each(site: Site) -> float:
        return float(np.mean([tops(site[name]) @ tops(own) for own in halves(site, change)]))

    return over_sites(sites, each)


def _gain(site: Site, name: str) -> float:
    values = np.asarray(site[ROLLED], dtype=float).mean(1)
    return float(tops(site[name]) @ values - values.mean())


def over_sites(sites: Sites, each: Callable[[Site], float]) -> Estimate:
    """Return the mean over positions, clustered by problem."""
    used = [own for own in sites if own]
    return ratio([sum(map(each, own)) for own in used], [len(own) for own in used])
