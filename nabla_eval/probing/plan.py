"""How much a probe measures on each problem, and what it refuses to measure."""

from __future__ import annotations

from dataclasses import dataclass, field

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import ConfigError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.options import Options, change, require
from nabla_eval.validation import Count, Positive, Probability

PLAUSIBLE = 0.01  # the least probability, at temperature 1, of a token that counts as plausible


@dataclass(frozen=True, kw_only=True)
class Plan(Options):
    """What is measured on each problem; more of it narrows the intervals and takes longer."""

    drafts: Count = 8  # responses that room and reward rest on
    positions: Count = 4  # of the first draft, at which tokens are exchanged
    tokens: Count = 6  # the most likely plausible ones at each of them, the drafted one included
    rollouts: Count = 4  # of each of these tokens
    draws: Count = 32  # uniform numbers at each position of `reach`
    repeats: Count = 2  # pairs of loops
    splits: Count = 2  # places of each pair of loops at which its two draws are made to differ
    plausible: Probability = PLAUSIBLE
    max_seconds: Positive = 240.0  # no problem is begun that would end after that

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.drafts >= 2, "drafts", self.drafts, "at least 2, for pass@k and best-of-k")
        even = self.rollouts >= 2 and self.rollouts % 2 == 0
        require(even, "rollouts", self.rollouts, "an even number, whose halves tell the noise")
        require(self.tokens >= 2, "tokens", self.tokens, "at least 2, to be ranked")


@dataclass(frozen=True)
class ProbedProblem:
    """The figures of one problem, as JSON, and what they cost."""

    figures: dict
    ledger: Ledger = field(default_factory=Ledger)


def check(config: Nabla, problems: int) -> None:
    """Raise `ConfigError` for options or a number of problems at which nothing can be measured."""
    if problems < 2:
        raise ConfigError(
            f"A probe needs at least 2 problems, because its intervals are over problems, got "
            f"{problems}. Try --limit 50."
        )
    if config.steps == 0:
        raise ConfigError("steps=0 is the twin, which has no gradient to probe. Try steps=20.")
    if config.n < 2:
        raise ConfigError(f"n={config.n} is the draft alone, and nothing is refined. Try n=8.")
    if config.sampling.idle or config.drawing.idle:
        raise ConfigError(
            f"{config.sampling.idle or config.drawing.idle}: both draws of a pair are the same "
            "token. Try temperature=0.7 and resample_temperature=1.5."
        )


def looped(config: Nabla) -> Nabla:
    """Return the options of the loops that are compared: one candidate at a time, no budget."""
    budgets = {"max_calls": None, "max_item_tokens": None, "max_item_seconds": None}
    return change(config, lookahead=1, **budgets)


def probed(pair: Pair, config: Nabla, problems: int) -> Nabla:
    """Return `looped` options.

    Raises what `check` raises, and `ModelError` without a reward model.
    """
    pair.judge  # noqa: B018 - raises where there is none
    check(config, problems)
    return looped(config)
