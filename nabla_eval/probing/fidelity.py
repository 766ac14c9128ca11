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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nabla_eval.analysis.intervals import Estimate, mean, ratio, unknown
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Linearise, OpenPlace
from nabla_eval.probing.room import said
from nabla_eval.protocol import Generate, Part, Problem, Score, Trajectory

Floats = NDArray[np.float64]
Site = Mapping[str, Any]  # the figures of one position
Values = dict[tuple[int, int], list[float]]  # rewards after a token at a position

POLICY = "policy"
CHANGES = {"kept": "rest kept", "rolled": "rolled out"}
THIRDS = ("beginning", "middle", "end")


class Exchange(NamedTuple):
    """A position of a draft, and the tokens that are put there; the drafted one is among them."""

    position: int
    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]


def exchanges(
    pair: Pair, draft: Trajectory, places: Sequence[OpenPlace], problem: Problem, most: int
) -> list[Exchange]:
    """Return positions with at least two tokens to compare, at most so many, drawn by the key.

    Tokens that end the response or that the reward model lacks have no place in what it reads.
    """
    known, found = pair.judge.known, []
    for place in places:
        if place.position >= draft.scored:
            continue
        usable = [
            (token, p)
            for token, p in zip(place.tokens, place.probabilities, strict=True)
            if token not in pair.policy.end_ids and (known is None or bool(known[token]))
        ]
        own = draft.tokens[place.position]
        if own not in dict(usable):
            usable.append((own, math.exp(draft.log_probability[place.position])))
        if len(usable) >= 2:
            found.append(Exchange(place.position, *map(tuple, zip(*usable, strict=True))))
    return some(found, problem, most)


def some(items: Sequence[Any], problem: Problem, most: int) -> list[Any]:
    """Return at most so many of the items, a random set that depends on the problem's key alone."""
    order = (problem.key / "probe" / "position").uniforms(0, len(items)).argsort()
    return [items[i] for i in sorted(order[:most].tolist())]


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


def rankings(pair: Pair) -> dict[str, dict[str, Any]]:
    """Return the gradients that are compared, by name: options of `Linearise`."""
    kinds = ("final", "process") if pair.judge.process else ("final",)
    return {
        f"{kind} gradient, {'mean' if soft else 'hard'}": {"reward_gradient": kind, "mean": soft}
        for kind in kinds
        for soft in (False, True)
    }


def measure(
    pair: Pair,
    problem: Problem,
    draft: Trajectory,
    reward: float,
    chosen: Sequence[Exchange],
    values: Values,
    config: Nabla,
) -> Part:
    """Return the figures of each position: what ranks its tokens, and what exchanging them does."""
    if not chosen:
        return []
    places = tuple((own.position, own.tokens) for own in chosen)
    names = rankings(pair)
    slopes = yield [
        Linearise(problem, draft, places, process_weight=config.process_weight, **options)
        for options in names.values()
    ]
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
            **{n: list(each.changes[j]) for n, each in zip(names, slopes, strict=True)},
            "kept": [next(scores).reward - reward for _ in own.tokens],
            "rolled": [values[own.position, token] for token in own.tokens],
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
    names = [n for n in (known[0] if known else {}) if n not in ("where", *CHANGES)]
    rows = []
    for change in CHANGES if known else ():
        base = correlated(sites, POLICY, change, ranks)
        for name in names:
            own = correlated(sites, name, change, ranks)
            rows.append(
                {
                    "ranking": name,
                    "change": change,
                    "correlation": said(own.estimate),
                    "above_policy": None if name == POLICY else said(above(own, base)),
                    "top_1": said(agreement(sites, name, change)),
                    "top_1_corrected": said(correlated(sites, name, change, tops).estimate),
                    "gain": said(gain(sites, name)) if change == "rolled" else None,
                    "by_position": {
                        third: said(correlated(in_third(sites, i), name, change, ranks).estimate)
                        for i, third in enumerate(THIRDS)
                    },
                }
            )
    return {
        "positions": len(known),
        "tokens": sum(len(site[POLICY]) for site in known),
        "rollouts": plan.rollouts,
        "chance": {
            "correlation": 0.0,
            "top_1": float(np.mean([1 / len(site[POLICY]) for site in known])) if known else None,
        },
        "ceiling": said(ceiling(sites)),
        "rankings": rows,
    }


def ranks(values: Sequence[float]) -> Floats:
    """Return centred ranks; equal values share theirs."""
    found: Floats = rankdata(values) - (len(values) + 1) / 2
    return found


def tops(values: Sequence[float]) -> Floats:
    """Return the indicator of the greatest value, shared by equal ones, and centred."""
    own = np.asarray(values, dtype=float)
    top = own == own.max()
    found: Floats = top / top.sum() - 1 / len(own)
    return found


def halves(site: Site, change: str) -> tuple[list[float], list[float]]:
    """Return the changes of a position twice, with independent noise."""
    if change == "kept":
        return site["kept"], site["kept"]
    rolled = np.asarray(site["rolled"], dtype=float)
    half = rolled.shape[1] // 2
    return rolled[:, :half].mean(1).tolist(), rolled[:, half:].mean(1).tolist()


class Correlated(NamedTuple):
    """A correlation, and each problem's first-order part of its error."""

    value: float
    errors: Floats

    @property
    def estimate(self) -> Estimate:
        """The correlation with its interval over problems."""
        return _clipped(_with_errors(self.value, self.errors))


def correlated(
    sites: Sequence[Sequence[Site]],
    name: str,
    change: str,
    view: Callable[[Sequence[float]], Floats],
) -> Correlated:
    """Return the correlation of a ranking with a change, noise taken out (see the module)."""
    sums = np.array([_moments(own, name, change, view) for own in sites]).reshape(-1, 3)
    sums = sums[sums[:, 1] > 0]
    a, b, c = sums.sum(0) if len(sums) else (0.0, 0.0, 0.0)
    if b <= 0 or c <= 0:
        return Correlated(math.nan, np.zeros(len(sums)))
    scale = math.sqrt(b * c)
    value = a / scale
    errors = sums[:, 0] / scale - value * (sums[:, 1] / b + sums[:, 2] / c) / 2
    return Correlated(float(value), errors)


def _moments(
    sites: Sequence[Site], name: str, change: str, view: Callable[[Sequence[float]], Floats]
) -> tuple[float, float, float]:
    a = b = c = 0.0
    for site in sites:
        x, (z, other) = view(site[name]), map(view, halves(site, change))
        a, b, c = a + float(x @ (z + other)) / 2, b + float(x @ x), c + float(z @ other)
    return a, b, c


def above(own: Correlated, base: Correlated) -> Estimate:
    """Return the difference of two correlations on the same problems."""
    if math.isnan(own.value) or math.isnan(base.value) or len(own.errors) != len(base.errors):
        return unknown()
    return _with_errors(own.value - base.value, own.errors - base.errors)


def _with_errors(value: float, errors: Floats) -> Estimate:
    if math.isnan(value):
        return unknown(len(errors))
    return mean(value + len(errors) * errors)


def _clipped(own: Estimate) -> Estimate:
    low, value, high = np.clip([own.low, own.value, own.high], -1, 1).tolist()
    return replace(own, value=value, low=low, high=high)


def agreement(sites: Sequence[Sequence[Site]], name: str, change: str) -> Estimate:
    """Return how often a ranking's top token is that of the change (of half the rollouts)."""

    def each(site: Site) -> float:
        x = _shares(site[name])
        return float(np.mean([x @ _shares(own) for own in halves(site, change)]))

    return _over_sites(sites, each)


def ceiling(sites: Sequence[Sequence[Site]]) -> Estimate:
    """Return how often two halves of the rollouts have one top token."""

    def each(site: Site) -> float:
        one, other = (_shares(own) for own in halves(site, "rolled"))
        return float(one @ other)

    return _over_sites(sites, each)


def _shares(values: Sequence[float]) -> Floats:
    return tops(values) + 1 / len(values)


def gain(sites: Sequence[Sequence[Site]], name: str) -> Estimate:
    """Return the mean rise of the reward by a ranking's top token; its choice knows no rollout."""

    def each(site: Site) -> float:
        values = np.asarray(site["rolled"], dtype=float).mean(1)
        return float(_shares(site[name]) @ values - values.mean())

    return _over_sites(sites, each)


def _over_sites(sites: Sequence[Sequence[Site]], each: Callable[[Site], float]) -> Estimate:
    """Return the mean over positions, clustered by problem."""
    used = [own for own in sites if own]
    return ratio([sum(map(each, own)) for own in used], [len(own) for own in used])


def in_third(sites: Sequence[Sequence[Site]], third: int) -> list[list[Site]]:
    """Return the positions in one third of their responses, by problem."""
    return [[s for s in own if int(3 * s["where"]) == third] for own in sites]
