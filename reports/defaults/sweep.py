"""Which defaults of ∇-Reasoner measure best on the embedded pair, each beside its twin.

Runs on the validation split: neither the training nor the test problems. Every configuration uses
the same random numbers, so that all differences are paired by problem.

    python reports/defaults/sweep.py --problems 600 --seed 0 --output reports/defaults
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

import nabla_eval as ne
from nabla_eval.analysis.accuracy import accuracy, difference
from nabla_eval.analysis.candidates import judged, rejection
from nabla_eval.embedded import countdown
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.randomness import Key

# The reward is the logit that the response is right: from 0 on, right is likelier than wrong.
STOP = {"stop_reward": 0.0}
PLAIN = {"resample_temperature": None, "min_probability": 0.0}  # draw as the rollout does
LONG = {"passes": 8, **PLAIN, **STOP}
WARM = {**LONG, "resample_temperature": 1.5}
STRONG = {**LONG, "lr": 0.1, "min_lr": 0.01}

# name -> (method, preset, options, name of the run it is compared with)
RUNS: dict[str, tuple[str, str | None, dict[str, Any], str | None]] = {
    "greedy": ("greedy", None, {}, None),
    "self-consistency": ("self_consistency", None, {}, None),
    "best-of-8": ("best_of_n", None, {}, None),
    "best-of-8, stop": ("best_of_n", None, STOP, "best-of-8"),
    "best-of-8, stop, T=1": ("best_of_n", None, {**STOP, "temperature": 1.0}, "best-of-8, stop"),
    "twin, 1 pass": ("nabla", None, {**PLAIN, "passes": 1, "steps": 0}, None),
    "DTO, 1 pass": ("nabla", None, {**PLAIN, "passes": 1}, "twin, 1 pass"),
    "preset=paper": ("nabla", "paper", {}, None),
    "preset=paper, twin": ("nabla", "paper", {"steps": 0}, "preset=paper"),
    "preset=released": ("nabla", "released", {}, None),
    "preset=released, twin": ("nabla", "released", {"steps": 0}, "preset=released"),
    "default": ("nabla", None, {}, "best-of-8"),
    "default, twin": ("nabla", None, {"steps": 0}, "best-of-8"),
    "default, stop": ("nabla", None, STOP, "best-of-8, stop"),
    "default, stop, twin": ("nabla", None, {**STOP, "steps": 0}, "best-of-8, stop"),
    "twin": ("nabla", None, {**LONG, "steps": 0}, None),
    "twin, resample T=0.5": (
        "nabla", None, {**LONG, "steps": 0, "resample_temperature": 0.5}, "twin"),
    "twin, resample T=1": (
        "nabla", None, {**LONG, "steps": 0, "resample_temperature": 1.0}, "twin"),
    "twin, resample T=1.5": (
        "nabla", None, {**LONG, "steps": 0, "resample_temperature": 1.5}, "twin"),
    "twin, resample T=2": (
        "nabla",
        None,
        {**LONG, "steps": 0, "resample_temperature": 2.0},
        "twin",
    ),
    "twin, resample T=3": (
        "nabla",
        None,
        {**LONG, "steps": 0, "resample_temperature": 3.0},
        "twin",
    ),
    "twin, resample T=1.5, gate 0.05": (
        "nabla",
        None,
        {**WARM, "steps": 0, "entropy_threshold": 0.05},
        "twin, resample T=1.5",
    ),
    "twin, T=1, resample T=1.5": (
        "nabla",
        None,
        {**WARM, "steps": 0, "temperature": 1.0},
        "twin, resample T=1.5",
    ),
    "twin, resample T=1.5, floor 0.01": (
        "nabla",
        None,
        {**WARM, "steps": 0, "min_probability": 0.01},
        "twin, resample T=1.5",
    ),
    "DTO, lr 0.01, resample T=1.5, floor 0.01": (
        "nabla",
        None,
        {**WARM, "min_probability": 0.01},
        "twin, resample T=1.5, floor 0.01",
    ),
    "DTO, lr 0.01": ("nabla", None, LONG, "twin"),
    "DTO, lr 0.01, resample T=1.5": ("nabla", None, WARM, "twin, resample T=1.5"),
    "DTO, lr 0.01, resample T=2": (
        "nabla",
        None,
        {**LONG, "resample_temperature": 2.0},
        "twin, resample T=2",
    ),
    "DTO, lr 0.01, resample T=1.5, process gradient": (
        "nabla",
        None,
        {**WARM, "reward_gradient": "process"},
        "twin, resample T=1.5",
    ),
    "DTO, lr 0.03, resample T=1.5, process gradient": (
        "nabla",
        None,
        {**WARM, "lr": 0.03, "min_lr": 0.003, "reward_gradient": "process"},
        "twin, resample T=1.5",
    ),
    "DTO, lr 0.01, resample T=1.5, negated": (
        "nabla",
        None,
        {**WARM, "lam": -1.0},
        "DTO, lr 0.01, resample T=1.5",
    ),
    "DTO, lr 0.01, resample T=1.5, gate 0.05": (
        "nabla",
        None,
        {**WARM, "entropy_threshold": 0.05},
        "twin, resample T=1.5, gate 0.05",
    ),
    "DTO, lr 0.03": ("nabla", None, {**LONG, "lr": 0.03, "min_lr": 0.003}, "twin"),
    "DTO, lr 0.1": ("nabla", None, STRONG, "twin"),
    "DTO, lr 0.3": ("nabla", None, {**LONG, "lr": 0.3, "min_lr": 0.03}, "twin"),
    "DTO, lr 0.3, floor 0.01": (
        "nabla", None, {**LONG, "lr": 0.3, "min_lr": 0.03, "min_probability": 0.01}, "twin"),
    "DTO, lr 0.1, resample T=1": (
        "nabla", None, {**STRONG, "resample_temperature": 1.0}, "twin, resample T=1"),
    "DTO, lr 0.1, all rows": ("nabla", None, {**STRONG, "update": "all"}, "DTO, lr 0.1"),
    "DTO, lr 0.1, anchor argmax": ("nabla", None, {**STRONG, "anchor": "argmax"}, "DTO, lr 0.1"),
    "DTO, lr 0.1, latents": (
        "nabla", None, {**STRONG, "parameterisation": "latents"}, "DTO, lr 0.1"),
    "DTO, lr 0.1, process gradient": (
        "nabla", None, {**STRONG, "reward_gradient": "process"}, "DTO, lr 0.1"),
    "DTO, lr 0.1, NLL weight 1": ("nabla", None, {**STRONG, "nll_weight": 1.0}, "DTO, lr 0.1"),
    "DTO, lr 0.1, reward ignored (lam 0)": ("nabla", None, {**STRONG, "lam": 0.0}, "DTO, lr 0.1"),
    "DTO, lr 0.1, reward negated (lam -1)": ("nabla", None, {**STRONG, "lam": -1.0}, "DTO, lr 0.1"),
    "DTO, lr 0.1, released acceptance": (
        "nabla", None, {**STRONG, "acceptance": "released"}, "DTO, lr 0.1"),
}  # fmt: skip


def evaluate(pair: Any, docs: list[dict], name: str, seed: int) -> dict[str, Any]:
    """Run one configuration on all problems."""
    method, preset, options, _ = RUNS[name]
    config = configure(method, options, preset)
    problems = [
        pair.problem(doc["prompt"], Key.root(seed) / "sweep" / i, max_new_tokens=16)
        for i, doc in enumerate(docs)
    ]
    began = time.perf_counter()
    outcomes = drive_all([start(p, config) for p in problems], Executor(pair), width=256)
    right = {str(i): [float(countdown.verify(doc, outcome.text))]
             for i, (doc, outcome) in enumerate(zip(docs, outcomes, strict=True))}  # fmt: skip
    verdicts = [(str(i), [c.verdict for c in o.candidates]) for i, o in enumerate(outcomes)]
    return {
        "scores": right,
        "verdicts": verdicts,
        "seconds": time.perf_counter() - began,
        "calls": sum(o.ledger.model_calls for o in outcomes) / len(outcomes),
        "passes": sum(o.ledger.gradient_passes for o in outcomes) / len(outcomes),
    }


def row(name: str, results: dict[str, dict]) -> dict[str, Any]:
    """The figures of one configuration, with the paired difference from its control."""
    own, control = results[name], RUNS[name][3]
    score, rejected = accuracy(own["scores"]), rejection(judged(own["verdicts"]))
    line: dict[str, Any] = {
        "name": name,
        "accuracy": score.value,
        "se": score.se,
        "model_calls": own["calls"],
        "gradient_passes": own["passes"],
        "candidates": rejected.overall.judged,
        "rejection": rejected.overall.estimate.value,
        "first_rejection": rejected.first.estimate.value,
        "seconds": own["seconds"],
    }
    if control is not None:
        gap = difference(own["scores"], results[control]["scores"]).estimate
        line["against"] = {"control": control, "difference": gap.value, "ci95": list(gap.interval)}
    return line


def render(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Which defaults measure best on the embedded pair",
        "",
        f"{facts['problems']} problems of the **validation** split (not trained, not tested on), "
        "N = 8. All configurations draw the same random numbers; differences are in points of "
        "accuracy, paired by problem, with 95 % t intervals. Calls are per problem.",
        "",
        f"    {facts['command']}",
        "",
        f"Versions: {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}.",
        "",
        "| run | accuracy % ± se | calls | passes | rejection | first | against | difference |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for line in rows:
        against = line.get("against")
        gap = ""
        if against:
            low, high = (100 * bound for bound in against["ci95"])
            gap = f"{100 * against['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        rates = ["", ""]
        if line["candidates"]:
            rates = [f"{line['rejection']:.2f}", f"{line['first_rejection']:.2f}"]
        lines.append(
            f"| {line['name']} | {100 * line['accuracy']:.1f} ± {100 * line['se']:.1f} "
            f"| {line['model_calls']:.0f} | {line['gradient_passes']:.1f} "
            f"| {rates[0]} | {rates[1]} | {against['control'] if against else ''} | {gap} |"
        )
    return "\n".join(lines) + "\n"


FAMILIES = {  # marker and colour (Okabe and Ito's palette) by the start of the name
    "greedy": ("D", "#000000"),
    "self-consistency": ("P", "#999999"),
    "best-of-8": ("s", "#0072B2"),
    "twin": ("o", "#E69F00"),
    "DTO": ("^", "#D55E00"),
}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Accuracy against model calls, one point a configuration, bars of one standard error."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for family, (marker, colour) in FAMILIES.items():
        own = [line for line in rows if line["name"].startswith(family)]
        axes.errorbar(
            [line["model_calls"] for line in own],
            [100 * line["accuracy"] for line in own],
            [100 * line["se"] for line in own],
            fmt=marker, color=colour, ms=6, lw=1, alpha=0.85, label=family,
        )  # fmt: skip
    axes.set_xlabel("model calls per problem (tokens + 4 × gradient passes + scorings)")
    axes.set_ylabel("accuracy, % (± 1 standard error)")
    axes.set_title("Countdown, embedded pair, N = 8, validation split", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pair = ne.load_pair()
    problems = countdown.problems(chosen.problems, "validation", seed=chosen.seed)
    docs = [{"prompt": p.prompt, "numbers": list(p.numbers), "target": p.target} for p in problems]
    results = {}
    for name in track(RUNS, "Sweeping", console=Console(stderr=True)):
        results[name] = evaluate(pair, docs, name, chosen.seed)
        print(f"{name}: {results[name]['seconds']:.0f} s", flush=True)
    rows = [row(name, results) for name in RUNS]
    facts = {
        "command": "python reports/defaults/sweep.py "
        f"--problems {chosen.problems} --seed {chosen.seed}",
        "problems": chosen.problems,
        "versions": {
            "nabla_eval": ne.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "sweep.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    (chosen.output / "sweep.md").write_text(render(rows, facts))
    draw(rows, chosen.output / "accuracy_calls.png")
    print(render(rows, facts))


if __name__ == "__main__":
    main()
