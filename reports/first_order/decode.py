"""Decodes the study's units: every method and setting on every pair, one file each.

    python reports/first_order/decode.py --pairs results/first_order/pairs \\
        --output results/first_order/runs --split validation --jobs 2

Finished units are kept. The test split runs only what `tables.py tune` chose (chosen.yaml), unless
--variants names settings.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import units
from grid import (
    HERE,
    SPLITS,
    Study,
    Unit,
    disjoint,
    listed,
    numbers_of,
    problems_of,
    read_chosen,
    read_study,
    select,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import nabla_eval as ne
from nabla_eval.embedded.countdown import verify
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.score import score
from nabla_eval.errors import ConfigError, Fault, NablaError
from nabla_eval.methods.registry import start
from nabla_eval.models.pair import Pair
from nabla_eval.randomness import Key
from nabla_eval.requests import Outcome, Problem, Score, Trajectory
from nabla_eval.traces.write import versions

ROOM = 4  # tokens beyond those of a well-formed solution
SCORED_AT_ONCE = 512


def decode(unit: Unit, study: Study, pairs: Path, runs: Path) -> float:
    """Run one unit and write its file; the processor seconds it took."""
    pair = load(*units.folders(pairs, unit))
    count = study.splits[unit.split].problems
    questions = problems_of(unit.split, numbers_of(unit.cell), count)
    problems = [
        pair.problem(
            question.prompt,
            Key.root(unit.seed) / "first_order" / question.canonical,
            max_new_tokens=question.response_tokens + ROOM,
        )
        for question in questions
    ]
    wall, processor = time.perf_counter(), time.process_time()
    outcomes = drive(
        [start(problem, unit.variant.config) for problem in problems],
        Executor(pair),
        width=study.width,
    )
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    ledgers = [outcome.ledger for outcome in outcomes]
    units.write(
        unit.file(runs),
        {
            **units.identity(unit),
            "name": unit.variant.name,
            "weights": units.weights(pairs, unit),
            "problems": units.problems_hash(questions),
            "versions": dict(versions()),
            "processor_seconds": processor,
            "wall_seconds": wall,
        },
        {
            "right": [verify(q, o.text) for q, o in zip(questions, outcomes, strict=True)],
            "reward": final_rewards(pair, problems, outcomes),
            "calls": [ledger.model_calls for ledger in ledgers],
            "flops": [ledger.flops for ledger in ledgers],
            "tokens": [ledger.generated_tokens for ledger in ledgers],
            "visited": [outcome.visited for outcome in outcomes],
            "changed": [changed(outcome) for outcome in outcomes],
            "gradients": [ledger.gradient_passes + ledger.prefix_gradients for ledger in ledgers],
        },
    )
    return processor


def changed(outcome: Outcome) -> int:
    """Accepted candidates; of a response that was guided in one pass, tokens chosen otherwise."""
    if outcome.choices and not outcome.candidates:
        return sum(choice.new_token != choice.old_token for choice in outcome.choices)
    return sum(candidate.verdict == "accepted" for candidate in outcome.candidates)


def final_rewards(
    pair: Pair, problems: Sequence[Problem], outcomes: Sequence[Outcome]
) -> list[float]:
    """r(y|x) of every answer; raises `RewardError` where it is no finite number."""
    requests = [Score(p, answered(p, o)) for p, o in zip(problems, outcomes, strict=True)]
    rewards: list[float] = []
    for first in range(0, len(requests), SCORED_AT_ONCE):
        for judged in score(pair.judge, requests[first : first + SCORED_AT_ONCE]):
            if isinstance(judged, Fault):
                raise judged.error
            rewards.append(judged.reward)
    return rewards


def answered(problem: Problem, outcome: Outcome) -> Trajectory:
    """An answer as the reward model is to see it: without its end-of-turn token."""
    scored = len(outcome.tokens) - (outcome.stop == "eos")
    return Trajectory(outcome.tokens, outcome.text, scored, outcome.stop, (), (), (), problem.key)


@lru_cache(maxsize=2)
def load(policy: Path, reward: Path) -> Pair:
    """A pair, warmed up: its first batch would be the first unit's seconds."""
    torch.set_num_threads(1)
    pair = ne.load_pair(policy=policy, reward=reward)
    ne.generate(pair, ["3,4,5=12?"] * 8, method="prefix_gradient", max_new_tokens=8, chat=False)
    return pair


# --- which units, and in how many processes -----------------------------------------------------


def wanted(study: Study, asked: Any) -> Iterator[Unit]:
    """The units that the command line asks for, those of one pair together."""
    chosen = None
    if asked.split == "test" and not asked.variants:
        chosen = read_chosen(asked.chosen, study)
    for cell, kind in itertools.product(study.cells, study.kinds):
        names = asked.variants
        if chosen is not None:
            names = listed(chosen.get(cell, {}).get(kind) or {"families": {}})
            if not names:
                raise ConfigError(f"{asked.chosen} has nothing for {cell}, {kind}. Tune again.")
        found = [
            unit
            for variant in select(study, names)
            for unit in study.units(asked.split, cell, kind, variant)
        ]
        yield from sorted(found, key=lambda unit: unit.reward_seed)


def missing(found: Sequence[Unit], study: Study, pairs: Path, runs: Path) -> list[Unit]:
    """The units without a file; those with one have to be of the weights that are there now."""
    left = []
    for unit in found:
        sha = units.weights(pairs, unit)
        done = units.read(unit, study, runs)
        if done is None:
            left.append(unit)
        else:
            units.same_weights(done, sha)
    return left


def run(left: Sequence[Unit], study: Study, pairs: Path, runs: Path, jobs: int) -> list[str]:
    """Decode units; what failed, in words."""
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("Decoding", total=len(left))

        def ended(unit: Unit, outcome: Any) -> None:
            try:
                outcome()
            except Exception as error:
                failed.append(f"{unit.name}: {type(error).__name__}: {error}")
                bar.console.print(f"failed: {failed[-1]}", markup=False)
            bar.advance(task)

        if jobs == 1:
            for unit in left:
                ended(unit, lambda unit=unit: decode(unit, study, pairs, runs))
            return failed
        spawned = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, mp_context=spawned) as pool:
            futures = {pool.submit(decode, unit, study, pairs, runs): unit for unit in left}
            try:
                for future in as_completed(futures):
                    ended(futures[future], future.result)
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
    return failed


def narrowed(study: Study, asked: Any) -> Study:
    """The study with the cells, kinds, seeds and problems that the command line names."""
    changes: dict[str, Any] = {}
    for name, given in (
        ("cells", asked.cells), ("kinds", asked.kinds), ("reward_seeds", asked.seeds),
    ):  # fmt: skip
        known = getattr(study, name)
        odd = [value for value in given or () if value not in known]
        if odd:
            raise ConfigError(
                f"study.yaml has no {odd[0]!r} in {name}: {', '.join(map(str, known))}."
            )
        if given:
            changes[name] = tuple(given)
    return replace(study, **changes)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=Path, default=Path("results/first_order/pairs"))
    parser.add_argument("--output", type=Path, default=Path("results/first_order/runs"))
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--study", type=Path, default=HERE / "study.yaml")
    parser.add_argument("--chosen", type=Path, default=HERE / "chosen.yaml")
    parser.add_argument("--cells", nargs="+")
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the reward models")
    parser.add_argument("--variants", nargs="+", help="families, or settings by their full names")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        study = narrowed(read_study(asked.study), asked)
        print(*disjoint(study), sep="\n")
        found = list(wanted(study, asked))
        left = missing(found, study, asked.pairs, asked.output)
        print(f"{len(found)} units, {len(found) - len(left)} done before, {len(left)} to do")
        failed = run(left, study, asked.pairs, asked.output, max(1, asked.jobs))
    except NablaError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
