"""Does the margin that a probe expects come true? Settings of ∇-Reasoner on small pairs.

Expected: what `nabla-eval probe` calculates (`probing.loops`), on validation problems. Measured:
∇-Reasoner and its twin, run plainly, on test problems. The two share no problem. Nothing is tuned.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import equal_calls
import torch

import nabla_eval as ne
from nabla_eval.analysis.accuracy import difference
from nabla_eval.analysis.intervals import mean
from nabla_eval.embedded import countdown, words
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import Fault
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.outcome import Outcome
from nabla_eval.probing.advantage import expected
from nabla_eval.probing.loops import split_runs
from nabla_eval.probing.plan import Plan, ProbedProblem, probed
from nabla_eval.probing.probe import plain
from nabla_eval.probing.verdict import HARDLY, POINT
from nabla_eval.protocol import Part, Problem
from nabla_eval.randomness import Key
from nabla_eval.testing import additive_pair
from nabla_eval.traces.write import versions

HERE = Path(__file__).parent
DOCS, MARK = HERE.parents[1] / "docs" / "probe.md", "<!-- validation -->\n"
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


@dataclass(frozen=True)
class Bed:
    """A pair, its task, and the settings that are tried on it."""

    pair: str
    load: Callable[[], Any]
    task: str
    problems: Callable[..., list[Any]]  # of a split, disjoint from the others
    right: Callable[[Any, str], bool] | None  # as the task reads a response; None: nobody knows
    max_new_tokens: int
    settings: Mapping[str, Mapping[str, Any]]
    width: int  # problems that are active at once
    compared: int = 0  # validation problems by which methods are tuned that are then compared

    @property
    def measures(self) -> tuple[str, ...]:
        """Return what answers are compared by."""
        return ("reward",) if self.right is None else ("right", "reward")

    def value(self, problem: Any, outcome: Outcome) -> dict[str, Any]:
        """Return what is compared of an answer."""
        known = {} if self.right is None else {"right": self.right(problem, outcome.text)}
        return {"reward": outcome.reward, **known}


@dataclass(frozen=True)
class Letters:
    """A prompt of four letters."""

    prompt: str

    @property
    def canonical(self) -> str:
        return self.prompt


def letters(count: int, split: str, seed: int = 0) -> list[Letters]:
    """Return prompts of a split: validation prompts begin with another letter than test prompts."""
    first = {"validation": ascii_lowercase[:13], "test": ascii_lowercase[13:]}[split]
    rng, found = random.Random(f"{split}-{seed}"), dict[str, None]()
    while len(found) < count:
        found[rng.choice(first) + "".join(rng.choices(ascii_lowercase, k=3))] = None
    return [Letters(prompt) for prompt in found]


BEDS = {
    "countdown": Bed(
        "countdown", ne.load_pair, "Countdown", countdown.problems,
        lambda puzzle, text: countdown.verify(puzzle, text.strip().partition("\n")[0]),
        24, SETTINGS, 512,
    ),
    "words": Bed(
        "words", partial(ne.load_pair, "words"), "the word problems", words.problems, words.verify,
        220, {name: SETTINGS[name] for name in ("lr 0.1", "lr 1", "λ = -1, lr 0.1")}, 128,
    ),
    "additive": Bed(
        "additive", additive_pair,
        "a random policy of 30 tokens, and a reward that is nearly a sum over tokens", letters,
        None, 16,
        {
            name: SETTINGS[name]
            for name in ("lr 0.01", "lr 0.1", "lr 0.3", "lr 1", "SGD, lr 1", "λ = -1, lr 0.3")
        }, 256, 40,
    ),
}  # fmt: skip


def loops(problem: Problem, config: Nabla, plan: Plan, value: Callable[[Outcome], Any]) -> Part:
    """Measure the loops of one problem alone."""
    runs = yield from split_runs(problem, config, plan, value)
    return ProbedProblem({"loops": runs})


def expect(
    bed: Bed, pair: Any, options: Mapping[str, Any], count: int, seed: int
) -> dict[str, Any]:
    """Return the margin that a probe expects, from validation problems."""
    told = bed.problems(count, "validation", seed=seed)
    config, plan = probed(pair, Nabla(**options), count), Plan()
    methods = []
    for own in told:
        key = Key.root(seed) / "probe" / own.prompt
        asked = pair.problem(own.prompt, key, max_new_tokens=bed.max_new_tokens)
        methods.append(loops(asked, config, plan, partial(bed.value, own)))
    runs: dict[int, Any] = {}
    for i, end in drive(methods, Executor(pair), width=bed.width):
        if isinstance(end, Fault):
            raise end.error
        runs[i] = end.figures["loops"]  # type: ignore[attr-defined]
    found = list(runs.values())
    changed = [sum(run["differ"] for run in own) / len(own) for own in found]
    margins = {name: expected(found, name) for name in bed.measures}
    told: dict[str, Any] = plain({"differ": mean(changed), **margins})
    return told


def answers(
    bed: Bed, pair: Any, options: Mapping[str, Any], count: int, seeds: Sequence[int]
) -> Any:
    """Return what a method answers to test problems: rewards and verdicts, one list a problem."""
    told = bed.problems(count, "test")
    found: dict[str, dict[str, list[float]]] = {name: {} for name in bed.measures}
    for seed in seeds:
        made = ne.generate(
            pair, [own.prompt for own in told], seed=seed, max_new_tokens=bed.max_new_tokens,
            chat=False, batch_size=bed.width, **options,
        )  # fmt: skip
        for problem, own in zip(told, made, strict=True):
            for name, number in bed.value(problem, own.trace).items():
                found[name].setdefault(problem.prompt, []).append(float(number))
    return found


def costs(bed: Bed, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what methods reach within a number of calls, where the bed compares them."""
    if not bed.compared:
        return []
    names = equal_calls.TRIED
    files = {name: asked.work / bed.pair / f"equal-calls-{i}.json" for i, name in enumerate(names)}
    if asked.done:
        return equal_calls.paired([json.loads(f.read_text()) for f in files.values() if f.exists()])
    pair = bed.load()
    prompts = {
        "validation": [own.prompt for own in bed.problems(bed.compared, "validation", asked.seed)],
        "test": [own.prompt for own in bed.problems(asked.test, "test")],
    }

    def run(options: Mapping[str, Any], split: str) -> equal_calls.Answers:
        return equal_calls.answers(pair, prompts[split], options, asked.seeds[0])

    made = [kept(file, partial(equal_calls.study, name, run)) for name, file in files.items()]
    return equal_calls.paired(made)


def kept(path: Path, make: Any) -> Any:
    """Return what a file holds, or make it: a stopped study goes on where it was."""
    if not path.exists():
        began = time.process_time()
        made = {**make(), "seconds": time.process_time() - began}
        path.parent.mkdir(parents=True, exist_ok=True)
        partly = path.with_suffix(".part")
        partly.write_text(json.dumps(made))
        partly.replace(path)
        print(path.name, round(made["seconds"]), "s", flush=True)
    return json.loads(path.read_text())


def study(bed: Bed, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row a setting."""
    pair, rows = None if asked.done else bed.load(), []
    for i, (name, options) in enumerate(bed.settings.items()):
        twin = {"n": options.get("n", 8), "steps": 0}
        work = {
            f"probe-{i}": partial(expect, bed, pair, options, asked.probe, asked.seed),
            f"nabla-{i}": partial(answers, bed, pair, options, asked.test, asked.seeds),
            f"twin-{twin['n']}": partial(answers, bed, pair, twin, asked.test, asked.seeds),
        }
        files = {place: asked.work / bed.pair / f"{place}.json" for place in work}
        if asked.done and not all(file.exists() for file in files.values()):
            continue
        told, ours, theirs = (kept(files[place], make) for place, make in work.items())
        apart = [
            sum(ours["reward"][p]) / len(ours["reward"][p]) - sum(each) / len(each)
            for p, each in theirs["reward"].items()
        ]
        measured = {"reward": plain(mean(apart))}
        if bed.right is not None:
            measured["right"] = plain(difference(ours["right"], theirs["right"]).estimate)
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


UNITS = {"right": ("points", 100, 1), "reward": ("reward", 1, 2)}  # name, scale, digits


def _cell(entry: Mapping[str, Any], scale: float, digits: int) -> str:
    low, high = (scale * end for end in entry["ci95"])
    return f"{scale * entry['value']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def says(expected: Mapping[str, Any]) -> str:
    """Return the verdict by an expected margin, as `probing.verdict` has it."""
    low, high = expected["right" if "right" in expected else "reward"]["ci95"]
    within = "right" in expected and max(-low, high) < POINT
    if within or expected["differ"]["ci95"][1] < HARDLY:
        return "cannot matter"
    return "pays" if low > 0 else "costs" if high < 0 else "cannot be told"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the validation table in Markdown."""
    names = [name for name in UNITS if name in rows[0]["measured"]]
    heads = ["setting", "runs that differ"]
    for unit in (UNITS[name][0] for name in names):
        heads += [f"expected, {unit}", f"measured, {unit}", "agree"]
    lines = [f"| {' | '.join([*heads, 'it says'])} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        ours, theirs = row["expected"], row["measured"]
        cells = [row["setting"], f"{100 * ours['differ']['value']:.0f} %"]
        for name in names:
            _, scale, digits = UNITS[name]
            cells += [_cell(ours[name], scale, digits), _cell(theirs[name], scale, digits)]
            cells.append("yes" if agrees(row, name) else "no")
        cells.append(says(ours))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(made: Mapping[str, Any]) -> str:
    """Return what was found on one pair."""
    bed, rows = BEDS[made["pair"]], made["rows"]
    agreed = " and ".join(
        f"{sum(agrees(row, name) for row in rows)} of {len(rows)} settings in {UNITS[name][0]}"
        for name in bed.measures
    )
    left = [name for name in bed.settings if name not in {row["setting"] for row in rows}]
    told = {
        **made,
        "task": bed.task,
        "agreed": agreed,
        "left": f"*Not run: {'; '.join(left)}.*\n\n" if left else "",
        "minutes": round(made["seconds"] / 60),
        "table": "\n".join(table(rows)),
        "compared": equal_calls.section(made.get("costs", []), bed.compared),
        "seeds": ", ".join(map(str, made["seeds"])),
        "versions": ", ".join(f"{name} {own}" for name, own in made["versions"].items()),
    }
    return SECTION.format(**told)


def page(several: Sequence[Mapping[str, Any]]) -> str:
    """Return README.md of this folder."""
    return PAGE + "".join(map(section, several))


PAGE = """# Does the margin that a probe expects come true?

Expected is the margin of ∇-Reasoner over its twin (N = 8 where none is named) that the loops of
`nabla-eval probe` find on validation problems; measured is what running both on test problems
gives, none of which is among the former. Points are percentage points of accuracy; intervals are
95 %, over problems. The two agree where their difference lies within both intervals, combined as if
independent. By chance alone one in twenty would not; the settings of a pair share their problems.
*It says* is the verdict by the expected interval (in points where answers are known). In these
tables nothing was tuned. On both trained pairs no setting gains anything, so agreement there shows
that losses and nothing are told apart. On the third pair, made so that a gradient has something to
find, the probe recognises the gain.

**A margin over the twin is no reason to run ∇-Reasoner.** The third pair's last table gives
every method the same calls. ∇-Reasoner has the highest reward there of the toolkit's searches
(from 400 calls on also by its interval over the twin), and *token regression*
(`token_regression.py`) has more from 200 calls on: it takes no gradient, regresses the rewards of a
problem's first drafts on their tokens, and tilts the policy of the next. It suits this pair alone,
whose reward is nearly a sum over tokens; but so does the gradient.
"""

SECTION = """
**The pair `{pair}`**, {task}: {probe_problems} validation problems (seed {seed}), {test_problems}
test problems (seeds {seeds}). They agree in {agreed}.

{left}{table}

{compared}Made by `{command}` in {minutes} minutes of one core. Versions: {versions}.
"""


def _command(asked: argparse.Namespace) -> str:
    seeds = " ".join(map(str, asked.seeds))
    options = f"--probe {asked.probe} --test {asked.test} --seed {asked.seed} --seeds {seeds}"
    return f"python reports/probe/validate.py --pair {asked.pair} {options}"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return what was found on each pair that was run."""
    files = [folder / f"{name}.json" for name in BEDS]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def write_docs(text: str) -> None:
    """Put the page, without its heading, at the end of docs/probe.md."""
    head, mark, _ = DOCS.read_text(encoding="utf-8").partition(MARK)
    DOCS.write_text(head + mark + text.partition("\n")[2], encoding="utf-8")


def main() -> None:
    """Run what is missing on one pair, and write its JSON and `README.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=BEDS, default="countdown")
    parser.add_argument("--probe", type=int, default=120, help="validation problems")
    parser.add_argument("--test", type=int, default=320, help="test problems")
    parser.add_argument("--seed", type=int, default=0, help="of the probe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the measured runs")
    parser.add_argument("--done", action="store_true", help="tabulate what is there, run nothing")
    parser.add_argument("--work", type=Path, default=Path("results/probe-validation"))
    parser.add_argument("--output", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, spendings = study(BEDS[asked.pair], asked), costs(BEDS[asked.pair], asked)
    spent = [json.loads(f.read_text())["seconds"] for f in (asked.work / asked.pair).glob("*.json")]
    made = {
        "pair": asked.pair,
        "command": _command(asked),
        "seed": asked.seed,
        "seeds": asked.seeds,
        "probe_problems": asked.probe,
        "test_problems": asked.test,
        "seconds": sum(spent),
        "versions": dict(versions()),
        "rows": rows,
        "costs": spendings,
    }
    (asked.output / f"{asked.pair}.json").write_text(json.dumps(made, indent=1) + "\n")
    text = page(read(asked.output))
    (asked.output / "README.md").write_text(text, encoding="utf-8")
    if asked.output == HERE:
        write_docs(text)


if __name__ == "__main__":
    main()
