"""What the headline of the page rests on: reward models, the bed, the step size, the controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from decoded import Runs
from grid import Study
from rivals import Rivalry

from theory.reach import cosine_rates, logit_reach, total_variation_bound

LEARNED = 0.9  # last-token AUC from which a reward model is called able to verify
NEXT_BEST = "right first, policy without the wrong token"

Cell = tuple[str, str]  # (cell, kind of reward model)


def basis(
    study: Study,
    best: Mapping[Cell, Mapping[str, Runs]],
    ahead: Sequence[tuple[Cell, Rivalry]],
    measured: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
) -> list[str]:
    """A Markdown list; each item from the study's own numbers."""
    return [f"- {text}" for text in _items(study, best, ahead, measured)]


def _items(
    study: Study,
    best: Mapping[Cell, Mapping[str, Runs]],
    ahead: Sequence[tuple[Cell, Rivalry]],
    measured: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
) -> Iterator[str]:
    plain = {cell: kinds["plain"]["last-token AUC"] for cell, kinds in measured.items()}
    if plain:
        areas = "; ".join(f"{cell} {_digits(values)}" for cell, values in plain.items())
        able = ", ".join(
            f"{sum(value >= LEARNED for value in values)} of {len(values)} in {cell}"
            for cell, values in plain.items()
        )
        yield (
            f"**{len(study.reward_seeds)} reward models of 500 steps** (run.sh) for each kind and "
            "number of operands; the intervals do not hold what their training is uncertain by. "
            f"Last-token AUC of the plain ones, by seed: {areas}. {LEARNED:g} is reached by {able}."
        )
    known = {cell: kinds["plain"].get(NEXT_BEST) for cell, kinds in measured.items()}
    shares = [f"{100 * v[0]:.0f} % in {cell}" for cell, v in known.items() if v]
    if shares:
        rest = " (not measured in the other cells)" if len(shares) < len(known) else ""
        yield (
            "**A bed on which the policy alone knows what to repair.** At first errors of sampled "
            "responses, its most likely token but the wrong one is right: "
            f"{', '.join(shares)}{rest}. That leaves little for a better chooser of repairs."
        )
    steps = [
        v.config
        for v in study.variants.values()
        if v.method == "nabla" and v.config.dto.steps > 0 and v.config.dto.weight_decay == 0
    ]
    if steps:
        reached = [
            (logit_reach(cosine_rates(c.dto.lr, c.dto.min_lr, c.dto.steps)), c.drawing.temperature)
            for c in steps
        ]
        yield (
            f"**∇-Reasoner at lr {_each(c.dto.lr for c in steps)} and resample temperature "
            f"{_each(c.drawing.temperature for c in steps)}.** Adam's step is bounded: no logit "
            f"moves further than {max(r for r, _ in reached):.3f}, so no draw by more than "
            f"{max(total_variation_bound(*pair) for pair in reached):.2f} in total variation "
            "(theory/reach.py). That it equals its twin follows from the setting; the study had no "
            "larger steps."
        )
    for (cell, kind), line in ahead:
        yield _control(study, best[cell, kind], f"{cell}, {kind}", line)


def _control(study: Study, best: Mapping[str, Runs], where: str, line: Rivalry) -> str:
    """An interval above zero, beside the most accurate of its own controls at no more calls."""
    own = line.own
    controls = [best[name] for name in study.families[line.family].controls if name in best]
    rivals = [run for run in controls if run.calls <= own.calls]
    said = (
        f"**An interval above zero** ({where}): {own.variant.name}, {_figures(own)}, beside the "
        f"control that validation chose, {line.coin.words}"
    )
    if not rivals:
        return f"{said}."
    other = max(rivals, key=lambda run: run.accuracy)
    return f"{said}. Of its own controls, {other.variant.name} has {_figures(other)}."


def _figures(run: Runs) -> str:
    return f"{100 * run.accuracy:.1f} % at {run.calls:.1f} calls"


def _digits(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _each(values: Iterator[float]) -> str:
    return " and ".join(f"{value:g}" for value in dict.fromkeys(values))
