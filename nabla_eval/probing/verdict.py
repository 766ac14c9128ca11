"""The verdict: should ∇-Reasoner be used on this pair? By rules that docs/probe.md states.

    cannot matter   no draw is moved, or the two loops differ in fewer than `HARDLY` of runs, or the
                    margin in accuracy lies within a point of zero
    pays, costs     the expected margin's interval lies above, below zero
    cannot be told  neither

The margin is in accuracy where answers are known, else in reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nabla_eval.analysis.intervals import Estimate
from nabla_eval.methods.nabla_options import Nabla

HARDLY = 0.02  # of runs that differ: fewer than one in fifty
FEW = 0.5  # uncertain positions a response, below which there is no room
# Within-question AUC, below which a reward model is called weak. With one of .78 (.81 on another 50
# problems) both searches lose with N, the map's bed `words`; on three numbers (reports/LOG.md,
# 2026-11-25) ∇-Reasoner less best-of-4 is -0.2 points with one of .84, +1.8 and +4.3 with .87, .92.
WEAK = 0.85
POINT = 0.01  # a margin below it is none; more problems should make it visible

UNLIKE = {  # gradients to try in place of the one that ∇-Reasoner follows
    "process gradient, hard": "reward_gradient=process: its gradient ranks tokens better.",
    "final gradient, mean": "Gradients at the mean embedding (method=prefix_gradient).",
    "process gradient, mean": "Gradients at the mean embedding (method=prefix_gradient).",
}


def verdict(sections: Mapping[str, Any], config: Nabla, missing: int = 0) -> dict[str, Any]:
    """Return the answer, what the figures say in words, and what to change."""
    case = _Case(sections, config)
    left_out = [f"{missing} problems are left out: they failed, or the time was up."][: missing > 0]
    return {
        "answer": case.answer,
        "sentences": [*case.sentences(), *left_out],
        "try": list(case.changes()),
    }


class _Case:
    """The sections of a probe, whose figures are estimates, and what follows from them."""

    def __init__(self, sections: Mapping[str, Any], config: Nabla) -> None:
        self.room, self.reward = sections["room"], sections["reward"]
        self.advantage, self.config = sections["advantage"], config
        self.given, *self.others = sections["reach"]["settings"]
        self.graded = self.advantage["margin"]["accuracy"] is not None
        self.margin: Estimate = self.advantage["margin"]["accuracy" if self.graded else "reward"]
        rolled = (r for r in sections["fidelity"]["rankings"] if r["change"] == "rolled")
        rankings = {row["ranking"]: row for row in rolled}
        own = rankings.pop(f"{config.reward_gradient} gradient, hard", {})  # what is followed
        own = own if config.lam else {}
        self.followed = "The gradient" if config.lam >= 0 else f"At lam={config.lam:g} the loop"
        self.correlation: Estimate | None = own.get("correlation")
        self.above: Estimate | None = own.get("above_policy")
        self.rankings = {name: row["correlation"] for name, row in rankings.items()}
        self.answer = self._answer()

    def _answer(self) -> str:
        low, high = self.margin.interval
        within = self.graded and max(-low, high) < POINT
        if not self.moves or self.advantage["runs_that_differ"].high < HARDLY or within:
            return "cannot matter"
        return "pays" if low > 0 else "costs" if high < 0 else "cannot be told"

    @property
    def flat(self) -> bool:
        """Whether tokens are hardly ever plausible because too many are likely."""
        few = self.room["uncertain_positions"].value < FEW
        return bool(few and self.room["flat_positions"].value >= FEW)

    @property
    def moves(self) -> bool:
        draws = self.given["variation"].value  # of first drafts; NaN where none is refined
        return bool(draws > 0 or self.advantage["runs_that_differ"].value > 0)

    @property
    def order(self) -> str:
        """How the gradient ranks tokens, in words; empty where nobody knows."""
        own, above = self.correlation, self.above
        if own is None or above is None or math.isnan(own.low):
            return ""
        if own.low <= 0:
            return "backwards" if own.high < 0 else "no better than chance"
        if math.isnan(above.low):
            return "better than chance"
        side = "better" if above.low > 0 else "worse" if above.high < 0 else "no better"
        return f"{side} than the policy does"

    def sentences(self) -> Iterator[str]:
        """Yield what was found, the margin first; nothing of a section that measured nothing."""
        yield self._on_margin()
        yield self._on_room()
        yield self._on_reach()
        if self.order and self.correlation is not None:
            told = f"rank correlation with what rolling out shows {_told(self.correlation)}"
            yield f"{self.followed} ranks tokens {self.order}: {told}."
        elif not self.config.lam:
            yield "At lam=0 the loop follows no gradient of the reward."
        else:
            words = "in too few problems do rewards of two tokens differ beyond noise"
            yield f"Fidelity is unknown: {words}."
        yield from self._on_reward()

    def _on_margin(self) -> str:
        own, n = self.advantage, self.advantage["n"]
        margin = _told(self.margin, " points") if self.graded else f"{_told(self.margin)} of reward"
        changed = f"the gradient changes {_told(own['runs_that_differ'], ' %')} of runs at N = {n}"
        start = {
            "pays": "The gradient pays",
            "costs": "The gradient does harm",
            "cannot matter": "The gradient cannot matter here",
            "cannot be told": "What the gradient gains cannot be told from nothing",
        }[self.answer]
        calls = f"for {own['calls_per_problem'].value:.1f} model calls more a problem"
        if self.config.gradient_threshold:
            calls = calls.replace("more", "for gradients") + " (the gate costs the twin too)"
        return (
            f"{start}: expect {margin} over the twin, the same search without gradients, {calls}; "
            f"{changed}."
        )

    def _on_room(self) -> str:
        positions, tokens = self.room["uncertain_positions"].value, self.room["plausible_tokens"]
        if positions < FEW:
            where = "the policy is sure of its tokens"
            if self.flat:
                where = "the policy spreads over the whole vocabulary, as an untrained one does"
            return (
                f"There is hardly any room: a response has {positions:.1f} positions with two "
                f"plausible tokens, since {where}."
            )
        words = f"A response has {positions:.1f} positions with {tokens.value:.1f} plausible tokens"
        most, greedy = list(self.room["pass_at"])[-1], self.room["greedy"].value
        if math.isnan(greedy):
            return f"{words} each."
        return (
            f"{words} each; one of {most} drafts is right for "
            f"{100 * self.room['pass_at'][most].value:.0f} % of problems, greedy decoding for "
            f"{100 * greedy:.0f} %."
        )

    def _on_reach(self) -> str:
        if math.isnan(self.given["variation"].value):
            which = "No position of a first draft" if self.moves else "No position"
            why = "at none is the policy unsure"
            if self.config.gradient_threshold:
                why += f" and the gradient's norm above {self.config.gradient_threshold:g}"
            return f"{which} is refined at these settings: {why}."
        if not self.moves:
            return "No draw moves at all at these settings."
        bound = self.given["variation_bound"]
        most = "nothing bounds it" if bound is None else f"at most {100 * bound:.1f} % is possible"
        return (
            f"The refined draw differs from the policy's by {_told(self.given['variation'], ' %')} "
            f"of its probability ({most}); {100 * self.given['certified'].value:.0f} % of draws "
            "are certified."
        )

    def _on_reward(self) -> Iterator[str]:
        if self.reward["note"]:
            yield self.reward["note"]
        if not self.graded:
            return
        auc, lost = self.reward["auc_within"], self.reward["over_optimised"]
        if not math.isnan(auc.value):
            yield (
                "The reward model tells right from wrong within a question with AUC "
                f"{auc.value:.2f} ({auc.low:.2f} to {auc.high:.2f})."
            )
        n = self.advantage["n"]
        best = max((r for r in self.reward["best_of"] if r["k"] <= n), key=lambda row: row["k"])
        yield (
            f"Gradients aside, the search is right for {_whole(self.advantage['common']['right'])} "
            f"of problems at N = {n}, the best of {best['k']} drafts for {_whole(best['right'])}."
        )
        if lost.high < 0:
            yield f"Choosing among twice as many drafts by reward loses {_told(lost, ' points')}."

    def changes(self) -> Iterator[str]:
        """Yield what to change, the most useful first."""
        if self.flat:
            yield "The policy first: is it trained, and the prompt as it knows it (check-pair)?"
        elif self.room["uncertain_positions"].value < FEW:
            yield "Harder problems or a higher temperature: this policy is sure of its answers."
        if self.config.logits_dtype == "bfloat16" and self.given["logits_moved"].value < 1:
            yield "logits_dtype=float32: in bfloat16 steps are lost to rounding."
        if self.config.lam <= 0 and self.answer != "pays":
            where = "down the reward" if self.config.lam else "no reward"
            yield f"lam=1: at lam={self.config.lam:g} the loop follows {where}."
        if self.config.gradient_threshold and math.isnan(self.given["variation"].value):
            yield "gradient_threshold=0: as given it lets hardly any position through."
        if self.config.lam and self.answer in ("cannot matter", "cannot be told"):
            yield from self._larger_rate()
        highest = -math.inf if self.correlation is None else self.correlation.high
        better = [n for n, own in self.rankings.items() if own.low > max(0.0, highest)]
        if self.correlation is not None:
            yield from dict.fromkeys(UNLIKE[name] for name in UNLIKE if name in better)
        yield from self._other_reward()
        width = self.margin.high - self.margin.low
        if self.answer == "cannot be told" and self.graded and width > 2 * POINT:
            more = (width / 2 / POINT) ** 2 * self.margin.clusters
            number = int(float(f"{more:.1e}"))
            yield f"Take about {number:,} problems if a margin of a point should show."
        if self.answer == "pays":
            yield "Give best_of_n and steps=0 (the twin) as many calls first; see report scaling."
        else:
            yield "Search without gradients: best_of_n or steps=0 (the twin); see report scaling."

    def _other_reward(self) -> Iterator[str]:
        """Propose another reward model: for what was seen to happen here, else for its AUC."""
        auc, lost = self.reward["auc_within"], self.reward["over_optimised"]
        if lost is not None and lost.high < 0:
            yield "Another reward model: the more drafts this one may choose from, the worse."
        elif auc is not None and auc.value < WEAK:
            yield f"Another reward model: with an AUC below {WEAK:g}, search can lose with N."

    def _larger_rate(self) -> Iterator[str]:
        """Propose the first larger lr, or say why none: only what ranks tokens should move them."""
        wider = [r for r in self.others if r["setting"].startswith("lr=")]
        least = 2 * self.given["variation"].value
        more = next((r for r in wider if r["variation"].value > least), None)
        if more is not None and self.correlation is not None and self.correlation.low > 0:
            yield f"{more['setting']}: it moves {_told(more['variation'], ' %')} of a draw."
        elif more is not None:
            where = "towards worse tokens" if self.order == "backwards" else "at random"
            ranks = f"{self.followed[0].lower()}{self.followed[1:]} ranks tokens {self.order}"
            known = ranks if self.order else "fidelity is unknown"
            yield f"Do not raise lr: {known}, so more of it would move draws {where}."


def _told(own: Estimate, unit: str = "") -> str:
    scale, form = {"": (1, "+.2f"), " %": (100, ".1f"), " points": (100, "+.1f")}[unit]
    value, low, high = (f"{scale * x:{form}}" for x in (own.value, own.low, own.high))
    return f"{value}{unit} ({low} to {high})"


def _whole(own: Estimate) -> str:
    return f"{100 * own.value:.0f} %"
