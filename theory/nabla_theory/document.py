"""The report folder: README.md with every check, checks.json with the numbers, and the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nabla_theory import discrete, routes
from nabla_theory.claims import laws
from nabla_theory.figures import CAPTIONS
from nabla_theory.results import Result, summary, versions
from nabla_theory.targets import SETTINGS


def write(folder: Path, result: Result, names: Sequence[str] = ()) -> list[Path]:
    """Write checks.json and README.md into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, page = folder / "checks.json", folder / "README.md"
    numbers.write_text(json.dumps(summary(result), indent=1) + "\n", encoding="utf-8")
    page.write_text("\n".join(_page(result, names)) + "\n", encoding="utf-8")
    return [numbers, page]


def _page(result: Result, names: Sequence[str]) -> Iterator[str]:
    rows, context = result.rows, result.context
    libraries = ", ".join(f"{name} {value}" for name, value in versions().items())
    seeds = result.repeats[0].seeds if result.repeats else 1
    command = "python -m nabla_theory" + "".join(f" --check {name}" for name in names)
    yield "# The mathematics behind ∇-Reasoner, checked"
    yield ""
    yield f"{sum(row.passed for row in rows)} of {len(rows)} checks hold."
    yield "What they say, and the derivations, are in `theory/README.md`."
    yield f"Made by `{command} --seed {context.seed} --seeds {seeds} --report FOLDER`"
    yield f"on {context.device}, with {libraries}, in {sum(result.seconds.values()):.0f} s"
    yield "for the first seed. `checks.json` beside this page holds every digit."
    yield ""
    yield "## Figures"
    for name, caption in CAPTIONS.items():
        yield f"\n![{name}]({name}.png)\n\n{caption}"
    yield ""
    if not names:
        yield from _routes(result)
        yield from _laws(result)
    yield from _checks(result)
    if result.repeats:
        yield from _repeats(result)


def _routes(result: Result) -> Iterator[str]:
    """E[r], KL and L_PPO by every route, for every setting."""
    context = result.context
    yield "## One optimum, four routes\n"
    yield "E[r], KL(ρ‖π) and L_PPO(ρ) in nats. Quadrature gives their values at ρ*, where the last"
    yield "is -log Z; the density flow, the particles (ULA at h and h/2, extrapolated to h = 0,"
    yield "with standard errors) and the softmax policy all start at π. 1/gap is the time in which"
    yield "Langevin dynamics forgets its slowest mode: the price of a barrier, which the policy"
    yield "does not pay.\n"
    yield "| density, reward | λ | 1/gap | route | E[r] | KL | L_PPO |"
    yield "|---|---|---|---|---|---|---|"
    for name, setting in SETTINGS.items():
        cloud = routes.by_particles(name, context.seed, context.device)
        found = [
            ("quadrature", [f"{v:.6f}" for v in routes.by_quadrature(setting)]),
            ("Fokker-Planck", [f"{v:.6f}" for v in routes.by_density(setting)]),
            ("softmax policy", [f"{v:.6f}" for v in routes.by_policy(setting)]),
            (
                f"{routes.PARTICLES:,} particles, {cloud.steps} steps",
                [
                    f"{cloud.found[key].value:.4f} ± {cloud.found[key].error:.4f}"
                    for key in ("reward", "kl", "free_energy")
                ],
            ),
        ]
        label = f"{name} | {setting.target.lam:g} | {routes.relaxation_time(setting):.2f}"
        for route, numbers in found:
            yield f"| {label} | {route} | " + " | ".join(numbers) + " |"
            label = " | | "
    yield ""


def _laws(result: Result) -> Iterator[str]:
    """KL to ρ* of Algorithm 1's exact law over λ, T, lr and N."""
    responses = laws.responses_of(result.context.seed)
    pi, counts = np.exp(responses.log_policy), (1, 2, 4, 8)
    yield "## Algorithm 1's exact law against ρ* = π e^{λr}/Z\n"
    yield f"KL(p‖ρ*) in nats with N rollouts over the {len(pi)} responses of a random pair, nothing"
    yield "sampled; then E[r] at N = 8 with the most that any law of the same KL(p‖π) can have."
    yield "T = 0 is the loop without a gradient.\n"
    yield "| λ | T | lr | " + " | ".join(f"N = {n}" for n in counts) + " | E[r] | at most |"
    yield "|---|---|---|" + "---|" * (len(counts) + 2)
    for (lam, steps, lr), path in laws.sweep(responses).items():
        star, law = discrete.gibbs(responses, lam)[0], path[-1]
        away = " | ".join(f"{abs(discrete.divergence(path[n - 1], star)):.3f}" for n in counts)
        most = discrete.frontier(responses, discrete.divergence(law, pi))
        yield f"| {lam:g} | {steps} | {lr} | {away} | {law @ responses.reward:.3f} | {most:.3f} |"
    yield ""


def _checks(result: Result) -> Iterator[str]:
    yield "## Every check\n"
    yield "| check | statement | expected | measured | tolerance | why this tolerance | rejects | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in result.rows:
        numbers = f"{row.sense.value} {row.expected:.6g} | {row.measured:.6g} | {row.tolerance:.2g}"
        verdict = "pass" if row.passed else "**FAIL**"
        words = [_cell(text) for text in (row.statement, row.why, row.rejects)]
        cells = (f"`{row.name}`", words[0], numbers, words[1], words[2], verdict)
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _repeats(result: Result) -> Iterator[str]:
    chance = {row.name: row.chance for row in result.rows}
    yield f"## {result.repeats[0].seeds} seeds\n"
    yield "The rows whose measured value depends on the seed. A row that holds only up to sampling"
    yield "error says so with its probability of failing by chance; the others may not fail at all."
    yield f"Over all of them a sound package fails with probability ≤ {result.chance:.1g}.\n"
    yield "| check | held | lowest | highest | by chance, each |"
    yield "|---|---|---|---|---|"
    for r in result.repeats:
        odds = f"{chance[r.name]:g}" if chance[r.name] else "never"
        yield f"| `{r.name}` | {r.held} of {r.seeds} | {r.lowest:.4g} | {r.highest:.4g} | {odds} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
