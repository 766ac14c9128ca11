"""Page, figure and JSON of what SFT and GRPO do to the greedy accuracy of the embedded policy.

    python reports/training/report.py results/training --output reports/training

The folder is what run.sh leaves: the trained policies with their records, and lm-eval's samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import nabla_eval as ne
from nabla_eval import embedded
from nabla_eval.analysis.accuracy import accuracy, difference
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.embedded.countdown import Puzzle, split_of
from nabla_eval.reporting.text import p_value
from nabla_training.data import fingerprint, open_rows, rank
from nabla_training.reward import VERIFIERS

ROWS = {  # folder of the evaluation: what the page calls it, where its training began
    "start400": ("400 steps", None),
    "sft400": ("SFT, early", "start400"),
    "start": ("700 steps", None),
    "sft": ("SFT", "start"),
    "grpo": ("GRPO", "start"),
}
FIGURES = {"sft": ("loss", "cross-entropy, nats"), "grpo": ("reward", "share of right answers")}


def scores(folder: Path) -> dict[str, float]:
    """exact_match of each test problem, by its prompt."""
    (file,) = folder.rglob("samples_nabla_countdown_*.jsonl")
    with file.open(encoding="utf-8") as lines:
        samples = [json.loads(line) for line in lines]
    return {sample["doc"]["prompt"]: float(sample["exact_match"]) for sample in samples}


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return content


def trained_on(facts: dict[str, Any]) -> set[str]:
    """Canonical problems that a run was trained on, made again and checked by their fingerprint."""
    verifier = VERIFIERS["countdown"]
    rows = open_rows(facts["name"], size=facts["read"], seed=facts["seed"])
    found = rank({verifier.identity(problem) for problem in rows.problems}, facts["seed"])
    assert fingerprint(found) == facts["fingerprint"], "these are not the problems of the record"
    return set(found)


def line(name: str, work: Path, results: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures of one row."""
    title, control = ROWS[name]
    values = results[name]
    row: dict[str, Any] = {"name": title, "accuracy": estimate(accuracy(single(values)))}
    tested = {Puzzle.from_prompt(prompt).canonical for prompt in values}
    if control is None:
        facts = start_facts(work / name / "policy_training.json")
        return {**row, "steps": facts["recipe"]["steps"], "minutes": facts["training_minutes"]}
    training = record(work / name)
    seen = trained_on(training["data"])
    assert not seen & tested, "problems of the test were trained on"
    assert all(split_of(problem + "?") == "train" for problem in seen)
    found = difference(single(values), single(results[control]))
    row["against"] = {
        ROWS[control][0]: {
            **estimate(found.estimate),
            "p": found.p,
            "won": found.wins,
            "lost": found.losses,
        }
    }
    return {
        **row,
        "steps": training["steps"],
        "minutes": training["seconds"] / 60,
        "problems": len(seen),
        "first": training["first"],
        "last": training["last"],
        "learning_rate": training["learning_rate"],
        "recipe": training["options"]["recipe"],
        "data": training["data"],
    }


def start_facts(file: Path) -> dict[str, Any]:
    """How a policy that training began from was trained: its own record, else the shipped card."""
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    card = embedded.paths()[0].parent / "card.json"
    return dict(json.loads(card.read_text(encoding="utf-8"))["policy"])


def single(values: dict[str, float]) -> dict[str, list[float]]:
    """One answer to each problem, as scores of its runs."""
    return {problem: [value] for problem, value in values.items()}


def estimate(value: Estimate) -> dict[str, float]:
    return {
        "value": value.value, "se": value.se, "low": value.low, "high": value.high,
        "problems": value.clusters,
    }  # fmt: skip


def points(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['value']:+.1f} [{low:+.1f}, {high:+.1f}]"


def render(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# SFT and GRPO on the embedded policy",
        "",
        f"Greedy accuracy on the {facts['problems']:,} problems of `nabla_countdown`'s test split, "
        "through `lm_eval --model nabla --model_args pretrained=...,method=greedy`. Differences "
        "are in points of accuracy, paired by problem, with 95 % intervals; p is McNemar's exact "
        "test. All of it comes "
        f"from `{facts['command']}`, one thread, seed {facts['seed']}.",
        "",
        "| policy | accuracy % ± se | change | right now, wrong now | p | trained on | steps "
        "| minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        found = row["accuracy"]
        against = next(iter(row.get("against", {}).values()), None)
        moved = (
            f"{points(against)} | {against['won']}, {against['lost']} | {p_value(against['p'])}"
            if against
            else " | | "
        )
        lines.append(
            f"| {row['name']} | {100 * found['value']:.1f} ± {100 * found['se']:.1f} "
            f"| {moved} "
            f"| {format(row['problems'], ',') + ' problems' if 'problems' in row else ''} "
            f"| {row['steps']} | {row['minutes']:.1f} |"
        )
    lines += ["", *notes(rows, facts)]
    return "\n".join(lines) + "\n"


def notes(rows: list[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
    """What the numbers say, in words that depend on the numbers."""
    said = []
    trained = [row for row in rows if "against" in row]
    for row in trained:
        for name, found in row["against"].items():
            clear = found["low"] > 0 or found["high"] < 0
            verb = "raises" if found["value"] > 0 else "lowers"
            word = (
                f"{verb} greedy accuracy" if clear else "changes greedy accuracy by noise at most"
            )
            said.append(f"- {row['name']}, from {name}: {points(found)} points: it {word}.")
        for what, title in (("reward", "reward"), ("loss", "loss"), ("kl", "divergence")):
            if what in row["first"] and (what != "loss" or "SFT" in row["name"]):
                said[-1] += f" Its {title} went from {row['first'][what]:.3f} to "
                said[-1] += f"{row['last'][what]:.3f} (first and last tenth of the steps)."
    said += [
        "",
        "None of the test problems was trained on: every training problem was made again from its "
        "record, is in the hash's training split and not among the test's (asserted by report.py). "
        "Minutes are elapsed on a shared machine, evaluation apart.",
        "",
        "![Learning curves](curves.png)",
        "",
        f"Versions: {', '.join(f'{name} {found}' for name, found in facts['versions'].items())}.",
    ]
    return said


def draw(work: Path, rows: list[str], file: Path) -> None:
    """Loss of SFT and reward of GRPO at each step, with running means."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(1, len(rows), figsize=(3.6 * len(rows), 3), layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), rows, strict=True):
        training = record(work / name)
        key, label = FIGURES[training["method"]]
        steps = [entry["step"] for entry in training["history"]]
        values = np.array([entry[key] for entry in training["history"]])
        width = max(1, len(values) // 20)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps, values, color="#999999", lw=0.6)
        axis.plot(steps[width - 1 :], smooth, color="#0072B2", lw=1.6)
        axis.set_xlabel("optimiser step")
        axis.set_ylabel(label)
        axis.set_title(ROWS[name][0], fontsize=10)
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    names = list(ROWS)
    results = {name: scores(chosen.work / "evaluated" / name) for name in names}
    rows = [line(name, chosen.work, results) for name in names]
    facts = {
        "command": "reports/training/run.sh",
        "seed": record(chosen.work / "sft")["options"]["recipe"]["seed"],
        "problems": len(results["start"]),
        "versions": {"nabla_eval": ne.__version__, **record(chosen.work / "sft")["versions"]},
    }
    page = render(rows, facts)
    (chosen.output / "training.json").write_text(
        json.dumps({**facts, "rows": rows}, indent=1) + "\n"
    )
    (chosen.output / "README.md").write_text(page, encoding="utf-8")
    draw(chosen.work, ["sft400", "sft", "grpo"], chosen.output / "curves.png")
    print(page)


if __name__ == "__main__":
    main()
