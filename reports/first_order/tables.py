"""Tunes on the validation runs, and writes the study's page from the test runs.

python reports/first_order/tables.py tune --runs results/first_order/runs
python reports/first_order/tables.py report --runs results/first_order/runs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from basis import NEXT_BEST
from decoded import Runs, collect, versions
from grid import HERE, Study, listed, numbers_of, read_chosen, read_study
from margins import rewards
from page import Cell, page, tested
from plots import draw
from rivals import rivalries
from tuning import choose

from nabla_eval.errors import DataError, NablaError

FIGURES = {  # of the model card's block: its name here, and where it stands
    "last-token AUC": ("reward_auc", "pooled"),
    "within-question AUC": ("reward_auc", "within_question"),
    "prefix AUC": ("prefix_auc", "pooled"),
    "lift of best of 8": ("best_of_8_gain", "value"),
}


def tune(study: Study, runs: Path, file: Path) -> None:
    """Write chosen.yaml from the validation runs."""
    cells: dict[str, Any] = {}
    for cell in study.cells:
        for kind in study.kinds:
            found = collect(study, "validation", cell, kind, runs)
            cells.setdefault(cell, {})[kind] = choose(study, found)
    said = "# Written by `tables.py tune` from the validation runs; by the rules of tuning.py.\n"
    file.write_text(
        said
        + yaml.safe_dump({"cells": cells}, sort_keys=False, default_flow_style=None, width=100),
        encoding="utf-8",
    )
    print(f"Wrote {file}.")


def measure(study: Study, pairs: Path, count: int) -> dict[str, Any]:
    """The choosers and the verifier's figures of every cell: [reward seeds] by kind and figure."""
    from nabla_eval.embedded.choosers import draw as draw_errors
    from nabla_eval.embedded.choosers import next_best, rank_first
    from nabla_eval.embedded.measure import describe

    found: dict[str, Any] = {}
    for cell in study.cells:
        policy, numbers = _policy(pairs / cell / "policy"), numbers_of(cell)
        drawn = draw_errors(policy, numbers=numbers, count=count)
        for kind in study.kinds:
            figures: dict[str, list[float]] = {}
            for seed in study.reward_seeds:
                reward = _reward(pairs / str(numbers) / f"{kind}-{seed}" / "reward")
                for chooser, right in rank_first(reward, drawn.errors).items():
                    figures.setdefault(f"right first, {chooser}", []).append(float(right.mean()))
                figures.setdefault(NEXT_BEST, []).append(float(next_best(drawn.errors).mean()))
                card = describe(policy, reward, drawn.questions, drawn.responses)
                for name, (block, key) in FIGURES.items():
                    figures.setdefault(name, []).append(card[block][key])
            found.setdefault(cell, {})[kind] = figures
    return found


def _policy(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _reward(folder: Path) -> Any:
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()


def report(study: Study, runs: Path, chosen_file: Path, pairs: Path, output: Path) -> None:
    """Write README.md, study.json and the figures."""
    chosen = read_chosen(chosen_file, study)
    found: dict[Cell, dict[str, Runs]] = {}
    missing = []
    for cell in study.cells:
        for kind in study.kinds:
            here = collect(study, "test", cell, kind, runs)
            left = [name for name in listed(chosen[cell][kind]) if name not in here]
            if left:
                missing.append(f"{cell} with {kind} reward models ({len(left)} settings left)")
            else:
                found[cell, kind] = here
    if not found:
        raise DataError("No cell is decoded in full on the test problems. Run decode.py.")
    best = {(c, k): tested(chosen[c][k], here) for (c, k), here in found.items()}
    tuned = {key: collect(study, "validation", *key, runs) for key in found}
    measured = measure(study, pairs, 400) if pairs.is_dir() else {}
    facts = {
        "command": "bash reports/first_order/run.sh",
        "versions": versions(run for here in found.values() for run in here.values()),
    }
    output.mkdir(parents=True, exist_ok=True)
    text = page(study, chosen, best, found, tuned, measured, facts, missing)
    (output / "README.md").write_text(text, encoding="utf-8")
    for (cell, kind), here in found.items():
        title = f"Countdown, {cell} policy, {kind} reward models, test problems"
        draw(study, here, title, output / f"cost-{cell}-{kind}.png")
    content = {
        **facts,
        "missing": missing,
        "choosers": measured,
        "cells": {f"{c}, {k}": numbers(chosen[c][k], found[c, k]) for c, k in found},
    }
    (output / "study.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {output}/README.md, study.json and {len(found)} figures.")


def numbers(entry: Any, found: dict[str, Runs]) -> dict[str, Any]:
    """One cell's figures as plain numbers."""
    return {
        "settings": {
            name: {
                "accuracy": run.accuracy,
                "by_reward_seed": run.by_seed().mean(axis=1).tolist(),
                "calls": run.calls,
                "gflops": run.gflops,
                "milliseconds": run.milliseconds,
                "reward": rewards(run),
            }
            for name, run in found.items()
        },
        "rivals": [
            {
                "first_order": line.own.variant.name,
                "equal": line.equal,
                "control": line.coin.words,
                "margin": line.margin.estimate.value,
                "ci95": list(line.margin.estimate.interval),
                "p": line.margin.p,
                "holm": line.margin.holm,
                "by_reward_seed": list(line.margin.by_seed),
            }
            for line in rivalries(entry, found)
        ],
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "report"))
    parser.add_argument("--runs", type=Path, default=Path("results/first_order/runs"))
    parser.add_argument("--pairs", type=Path, default=Path("results/first_order/pairs"))
    parser.add_argument("--study", type=Path, default=HERE / "study.yaml")
    parser.add_argument("--chosen", type=Path, default=HERE / "chosen.yaml")
    parser.add_argument("--output", type=Path, default=HERE)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        study = read_study(asked.study)
        if asked.action == "tune":
            tune(study, asked.runs, asked.chosen)
        else:
            report(study, asked.runs, asked.chosen, asked.pairs, asked.output)
    except NablaError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
