"""Does the margin that a probe expects come true? Settings of ∇-Reasoner on the embedded pair.

Expected: what `nabla-eval probe` calculates (`probing.loops`), on validation problems. Measured:
∇-Reasoner and its twin, run plainly, on test problems. The two share no problem. Nothing is tuned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import nabla_eval as ne
from nabla_eval.analysis.accuracy import difference
from nabla_eval.analysis.intervals import mean
from nabla_eval.embedded.countdown import Puzzle, problems, test_problems, verify
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import Fault
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.outcome import Outcome
from nabla_eval.probing.advantage import expected
from nabla_eval.probing.loops import split_runs
from nabla_eval.probing.plan import Plan, ProbedProblem, probed
from nabla_eval.probing.room import said
from nabla_eval.protocol import Part, Problem
from nabla_eval.randomness import Key
from nabla_eval.traces.write import versions

HERE = Path(__file__).parent
DOCS, MARK = HERE.parents[1] / "docs" / "probe.md", "<!-- validation -->\n"
_WIDTH = 512  # problems that are active at once
SETTINGS: dict[str, dict[str, Any]] = {
    "lr 0.01": {"lr": 0.01},
    "lr 0.03": {"lr": 0.03},
    "lr 0.1": {"lr": 0.1},
    "lr 0.3": {"lr": 0.3},
    "lr 1": {"lr": 1.0},
    "SGD, lr 0.1": {"optimizer": "sgd", "lr": 0.1},
    "SGD, lr 1": {"optimizer": "sgd", "lr": 1.0},
    "process, lr 0.1": {"reward_gradient": "process", "lr": 0.1},
    "process, lr 0.3": {"reward_gradient": "process", "lr": 0.3},
    "λ = -1, lr 0.1": {"lam": -1.0, "lr": 0.1},
    "λ = -1, lr 0.3": {"lam": -1.0, "lr": 0.3},
    "λ = -1, lr 1": {"lam": -1.0, "lr": 1.0},
    "update=all, lr 0.1": {"update": "all", "lr": 0.1},
    "N = 4, lr 0.3": {"n": 4, "lr": 0.3},
}


def right(puzzle: Puzzle, text: str) -> bool:
    """Tell whether a response is right, read as the task `nabla_countdown` reads it."""
    return verify(puzzle, text.strip().partition("\n")[0])


def value(puzzle: Puzzle, outcome: Outcome) -> dict[str, Any]:
    """Return what is compared of an answer."""
    return {"reward": outcome.reward, "right": right(puzzle, outcome.text)}


def loops(problem: Problem, puzzle: Puzzle, config: Nabla, plan: Plan) -> Part:
    """Measure the loops of one problem alone."""
    runs = yield from split_runs(problem, config, plan, partial(value, puzzle))
    return ProbedProblem({"loops": runs})


def expect(pair: Any, options: Mapping[str, Any], count: int, seed: int) -> dict[str, Any]:
    """Return the margin that a probe expects, from validation problems."""
    puzzles = problems(count, "validation", seed=seed)
    config, plan = probed(pair, Nabla(**options), count), Plan()
    asked = [
        pair.problem(own.prompt, Key.root(seed) / "probe" / own.prompt, max_new_tokens=24)
        for own in puzzles
    ]
    methods = [loops(a, own, config, plan) for a, own in zip(asked, puzzles, strict=True)]
    runs: dict[int, Any] = {}
    for i, end in drive(methods, Executor(pair), width=_WIDTH):
        if isinstance(end, Fault):
            raise end.error
        runs[i] = end.figures["loops"]  # type: ignore[attr-defined]
    found = list(runs.values())
    changed = [sum(run["differ"] for run in own) / len(own) for own in found]
    return {
        "differ": said(mean(changed)),
        "right": said(expected(found, "right")),
        "reward": said(expected(found, "reward")),
    }


def answers(pair: Any, options: Mapping[str, Any], count: int, seeds: Sequence[int]) -> Any:
    """Return what a method answers to test problems: rewards and verdicts, one list a problem."""
    puzzles = [Puzzle.from_prompt(doc["prompt"]) for doc in test_problems(count)]
    found: dict[str, dict[str, list[float]]] = {"right": {}, "reward": {}}
    for seed in seeds:
        texts = [puzzle.prompt for puzzle in puzzles]
        made = ne.generate(
            pair, texts, seed=seed, max_new_tokens=24, chat=False, batch_size=_WIDTH, **options
        )
        for puzzle, own in zip(puzzles, made, strict=True):
            for name, number in value(puzzle, own.trace).items():
                found[name].setdefault(puzzle.prompt, []).append(float(number))
    return found


def kept(path: Path, make: Any) -> Any:
    """Return what a file holds, or make it: a stopped study goes on where it was."""
    if not path.exists():
        began = time.perf_counter()
        made = {**make(), "seconds": time.perf_counter() - began}
        path.parent.mkdir(parents=True, exist_ok=True)
        partly = path.with_suffix(".part")
        partly.write_text(json.dumps(made))
        partly.replace(path)
        print(path.name, round(made["seconds"]), "s", flush=True)
    return json.loads(path.read_text())


def study(pair: Any, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row a setting."""
    rows = []
    for i, (name, options) in enumerate(SETTINGS.items()):
        work, n = asked.work, options.get("n", 8)
        files = [work / f"{kind}.json" for kind in (f"nabla-{i}", f"probe-{i}", f"twin-{n}")]
        if asked.done and not all(file.exists() for file in files):
            continue
        ours, theirs = (
            kept(work / f"{place}.json", partial(answers, pair, own, asked.test, asked.seeds))
            for place, own in (
                (f"nabla-{i}", options),
                (f"twin-{n}", {"n": n, "steps": 0}),
            )
        )
        told = kept(
            work / f"probe-{i}.json", partial(expect, pair, options, asked.probe, asked.seed)
        )
        apart = [
            sum(ours["reward"][p]) / len(ours["reward"][p]) - sum(each) / len(each)
            for p, each in theirs["reward"].items()
        ]
        measured = {
            "right": said(difference(ours["right"], theirs["right"]).estimate),
            "reward": said(mean(apart)),
        }
        rows.append({"setting": name, "options": options, "expected": told, "measured": measured})
    return rows


def agrees(row: Mapping[str, Any], name: str) -> bool:
    """Tell whether the two agree: their difference lies within both intervals joined."""
    ours, theirs = row["expected"][name], row["measured"][name]
    above = ours["value"] > theirs["value"]
    arms = [
        ours["value"] - ours["ci95"][0] if above else ours["ci95"][1] - ours["value"],
        theirs["ci95"][1] - theirs["value"] if above else theirs["value"] - theirs["ci95"][0],
    ]
    return bool(abs(ours["value"] - theirs["value"]) <= sum(arm**2 for arm in arms) ** 0.5)


def _cell(entry: Mapping[str, Any], scale: float, digits: int) -> str:
    low, high = (scale * end for end in entry["ci95"])
    return f"{scale * entry['value']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the validation table in Markdown."""
    lines = [
        "| setting | runs that differ | expected, points | measured, points | agree "
        "| expected, reward | measured, reward | agree |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = row["expected"], row["measured"]
        cells = [row["setting"], f"{100 * ours['differ']['value']:.0f} %"]
        for name, scale, digits in (("right", 100, 1), ("reward", 1, 2)):
            cells += [_cell(ours[name], scale, digits), _cell(theirs[name], scale, digits)]
            cells.append("yes" if agrees(row, name) else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(made: Mapping[str, Any]) -> str:
    """Return README.md of this folder."""
    rows = made["rows"]
    points, rewards = (sum(agrees(row, name) for row in rows) for name in ("right", "reward"))
    words = {
        **made,
        "settings": len(rows),
        "points": points,
        "rewards": rewards,
        "status": "*Finished.*" if len(rows) == len(SETTINGS) else _unfinished(rows),
        "minutes": round(made["seconds"] / 60),
        "table": "\n".join(table(rows)),
        "seeds": ", ".join(map(str, made["seeds"])),
        "told": ", ".join(f"{name} {own}" for name, own in made["versions"].items()),
    }
    return PAGE.format(**words)


def _unfinished(rows: Sequence[Mapping[str, Any]]) -> str:
    left = [name for name in SETTINGS if name not in {row["setting"] for row in rows}]
    return f"*Unfinished: {len(left)} of {len(SETTINGS)} settings are not run ({'; '.join(left)}).*"


PAGE = """# Does the margin that a probe expects come true?

{status}

On the embedded pair: the margin of ∇-Reasoner over its twin (N = 8 where none is named) as the
loops of `nabla-eval probe` expect it from {probe_problems} validation problems of Countdown (seed
{seed}), and as it is measured by running both on {test_problems} test problems (seeds {seeds}),
none of which is among the former. Points are percentage points of accuracy; intervals are 95 %,
over problems. The two agree where their difference lies within both intervals, joined as of
independent figures.

{table}

Points agree in {points} of {settings} settings, rewards in {rewards}. At 95 % one in twenty would
not by chance; the settings share their problems, so they are no independent trials. Nothing was
tuned.

Made by `{command}` in {minutes} minutes of a busy core. Versions: {told}.
"""


def _command(asked: argparse.Namespace) -> str:
    seeds = " ".join(map(str, asked.seeds))
    options = f"--probe {asked.probe} --test {asked.test} --seed {asked.seed} --seeds {seeds}"
    return f"python reports/probe/validate.py {options}"


def write_docs(text: str) -> None:
    """Put the page, without its heading, at the end of docs/probe.md."""
    head, mark, _ = DOCS.read_text(encoding="utf-8").partition(MARK)
    DOCS.write_text(head + mark + text.partition("\n")[2], encoding="utf-8")


def main() -> None:
    """Run what is missing, and write `validation.json` and `README.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", type=int, default=120, help="validation problems")
    parser.add_argument("--test", type=int, default=320, help="test problems")
    parser.add_argument("--seed", type=int, default=0, help="of the probe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the measured runs")
    parser.add_argument("--done", action="store_true", help="tabulate what is there, run nothing")
    parser.add_argument("--work", type=Path, default=Path("results/probe-validation"))
    parser.add_argument("--output", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = study(None if asked.done else ne.load_pair(), asked)
    spent = [json.loads(file.read_text())["seconds"] for file in asked.work.glob("*.json")]
    made = {
        "command": _command(asked),
        "seed": asked.seed,
        "seeds": asked.seeds,
        "probe_problems": asked.probe,
        "test_problems": asked.test,
        "seconds": sum(spent),
        "versions": dict(versions()),
        "rows": rows,
    }
    (asked.output / "validation.json").write_text(json.dumps(made, indent=1) + "\n")
    (asked.output / "README.md").write_text(page(made), encoding="utf-8")
    if asked.output == HERE:
        write_docs(page(made))


if __name__ == "__main__":
    main()
