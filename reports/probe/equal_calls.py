"""What methods reach within a number of model calls, each with the options that suit it best.

Options are chosen on validation problems: of those whose mean calls are within the limit, the ones
with the highest mean reward. The figures are of test problems, none of which is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import token_regression

import nabla_eval as ne
from nabla_eval.analysis.intervals import mean
from nabla_eval.probing.probe import plain

LIMITS = (100, 200, 400, 800)  # model calls a problem
LENGTH = 16  # tokens of a response
SIZES = [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 57, 68, 80, 96, 114]
TEMPERATURES = (1.0, 1.5, 2.0)
TRIED: dict[str, dict[str, Sequence[Any]]] = {  # the first option says how large a search is
    "∇-Reasoner": {
        "n": SIZES[::2], "method": ["nabla"], "lr": (0.1, 0.3, 1.0), "temperature": TEMPERATURES,
    },
    "twin": {"n": SIZES, "method": ["nabla"], "steps": [0], "temperature": TEMPERATURES},
    "best-of-N": {"n": SIZES, "method": ["best_of_n"], "temperature": TEMPERATURES},
    "token regression": {
        "n": SIZES, "rounds": (2, 4), "tilt": (3.0, 10.0, 30.0), "ridge": [0.003],
        "temperature": TEMPERATURES,
    },
}  # fmt: skip

Answers = list[tuple[float, float]]  # reward and model calls of each problem


def answers(pair: Any, prompts: Sequence[str], options: Mapping[str, Any], seed: int) -> Answers:
    """Return what a method gives for prompts, in their order."""
    if "method" not in options:
        return [token_regression.answer(pair, p, seed, LENGTH, **options) for p in prompts]
    made = ne.generate(
        pair, prompts, seed=seed, max_new_tokens=LENGTH, chat=False, batch_size=256, **options
    )
    return [(own.trace.reward, float(own.stats["model_calls"])) for own in made]


def mean_of(told: Answers) -> tuple[float, float]:
    """Return mean reward and mean calls."""
    rewards, calls = zip(*told, strict=True)
    return sum(rewards) / len(told), sum(calls) / len(told)


def study(name: str, run: Callable[[Mapping[str, Any], str], Answers]) -> dict[str, Any]:
    """Return a method's answers to test problems at each limit; `run(options, split)` makes any."""
    tried = TRIED[name]
    size, sizes = next(iter(tried.items()))
    found, means = [], []
    for own in product(*list(tried.values())[1:]):
        for number in sizes:
            options = {size: number, **dict(zip(list(tried)[1:], own, strict=True))}
            told = mean_of(run(options, "validation"))
            if told[1] > LIMITS[-1]:
                break
            found.append(options)
            means.append(told)
    rows = []
    for limit in LIMITS:
        within = [i for i, (_, calls) in enumerate(means) if calls <= limit]
        chosen = found[max(within, key=lambda i: means[i][0])]
        rewards, calls = zip(*run(chosen, "test"), strict=True)
        kept = [round(own, 4) for own in rewards]
        told = plain({"calls": mean(calls)})
        rows.append({"limit": limit, "options": chosen, "rewards": kept, **told})
    return {"method": name, "tried": tried, "rows": rows}


def paired(methods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean rewards, and the first method's lead problem by problem, in place of rewards."""
    told = []
    for own in methods:
        rows = []
        for ours, row in zip(methods[0]["rows"], own["rows"], strict=True):
            apart = [a - b for a, b in zip(ours["rewards"], row["rewards"], strict=True)]
            means = plain({"reward": mean(row["rewards"]), "lead": mean(apart)})
            rows.append({**{k: v for k, v in row.items() if k != "rewards"}, **means})
        told.append({**own, "rows": rows})
    return told


def table(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rewards within each limit in Markdown."""
    first = methods[0]["method"]
    lines = [
        f"| calls, at most | method | chosen | calls | reward | {first}'s lead |",
        "|---|---|---|---|---|---|",
    ]
    for i, limit in enumerate(LIMITS):
        for own in methods:
            row, several = own["rows"][i], own["tried"]
            chosen = [f"{k} {row['options'][k]:g}" for k, each in several.items() if len(each) > 1]
            value, (low, high) = row["lead"]["value"], row["lead"]["ci95"]
            cells = [
                str(limit), own["method"], ", ".join(chosen), f"{row['calls']['value']:.0f}",
                f"{row['reward']['value']:.2f}",
                "" if own is methods[0] else f"{value:+.2f} ({low:+.2f} to {high:+.2f})",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(methods: Sequence[Mapping[str, Any]], validation: int) -> str:
    """Return the table and how it was made; nothing where nothing was compared."""
    if not methods:
        return ""
    tried = "; ".join(
        f"{own['method']} " + ", ".join(
            f"{name} {' '.join(f'{value:g}' for value in each)}"
            for name, each in own["tried"].items() if name != "n" and len(each) > 1
        )
        for own in methods
    )  # fmt: skip
    return SECTION.format(table="\n".join(table(methods)), validation=validation, tried=tried)


SECTION = """Every method within the same model calls, with the options (and N, 2 to 114; of token
regression, drafts in a round) of the highest mean reward on {validation} validation problems.
∇-Reasoner was tried at every second N alone, so it may leave more of its calls unspent.
Rewards and leads are of the test problems (first seed), leads problem by problem. Tried were:
{tried}. All chose the
highest temperature, so more of it may be better still: this policy is noise.

{table}

"""
