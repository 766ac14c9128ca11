"""Every command on folders that a hostile author wrote: it works, or it says why not in words.

`NABLA_FUZZ=5000 pytest tests/cli/test_hostile_files.py` tries more, `NABLA_FUZZ_SEED` others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import traceback
import warnings
from pathlib import Path
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner, Result
from hostile import TEXTS, World, attack

from docs.commands import commands
from nabla_eval.cli.main import COMMANDS, main

CASES, SEED = int(os.environ.get("NABLA_FUZZ", 130)), int(os.environ.get("NABLA_FUZZ_SEED", 0))
REACHED = 77  # exit status where a command would begin to compute
SECONDS = 60.0  # of processor time, for one command
# Where commands begin to compute with models, for minutes: they are tried up to there.
COMPUTING = (
    "nabla_eval.runs.evaluate.Evaluator.evaluate", "nabla_eval.runs.sweep.Sweep._run",
    "nabla_training.run.claim", "nabla_theory.report.execute",
    "nabla_eval.harness.problems.store.from_hub", "nabla_eval.probing.probe.Probe.__call__",
)  # fmt: skip
# What commands read, by the beginning of their names; others get anything.
LIKELY = {
    "report compare": ["runs/nabla", "runs/twin"],
    "report all": ["runs", "runs/nabla"],
    "report": ["runs", "more", "runs/nabla", "runs/best"], "sweep": ["sweep.yaml"],
    "trace": ["more/told", "more/search", "more/guided", "more", "runs/best"],
    "data": ["problems"], "embedded": ["pair"], "check-pair": ["pair/policy", "pair/reward"],
    "train": ["rows.jsonl"],
}  # fmt: skip
# How often commands are tried that are slow, or read little of what is attacked.
SELDOM = {
    "report all": 0.03, "check-pair": 0.3, "trace html": 0.5, "tasks path": 0.01, "tasks list": 0.1,
    "demo": 0.05, "theory": 0.05, "data fetch": 0.2,
}  # fmt: skip


def places(world: World, name: str) -> list[str]:
    """Paths that a command may read: those of its kind, or all there are."""
    kinds = [kind for kind in LIKELY if name.startswith(kind)]
    named = LIKELY[kinds[0]] if kinds else [
        str(path.relative_to(world.root)) for path in (world.root, *world.root.iterdir())
    ]  # fmt: skip
    return [str(world.root / one) for one in named]


def a_value(kind: click.ParamType, likely: list[str], draw: random.Random) -> str:
    """What stands behind an option or in the place of an argument."""
    if isinstance(kind, click.Choice):
        return str(draw.choice(list(kind.choices)))
    if isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)):
        return draw.choice(["1", "3", "16", "200"])
    texts = [text for text in TEXTS if "\0" not in text]  # no command line can hold one
    known = ["0", "1", "toy/2/0"] if "more/told" in str(likely) else likely
    return draw.choice([*known, *known, draw.choice(texts)])


def arguments(
    name: str, command: click.Command, world: World, out: Path, draw: random.Random
) -> list[str]:
    """A command line that may make sense."""
    likely, words, last = places(world, name), name.split(), []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = draw.choice([1, 1, 2]) if parameter.nargs == -1 else 1
            skipped = not parameter.required and draw.random() < 0.2
            if skipped or parameter.type is click.UNPROCESSED:
                continue
            path = isinstance(parameter.type, click.Path) and draw.random() < 0.98
            values = (a_value(parameter.type, likely, draw) for _ in range(count))
            last += [draw.choice(likely) for _ in range(count)] if path else values
            continue
        assert isinstance(parameter, click.Option)
        option = max(parameter.opts, key=len)
        free = not isinstance(parameter.type, click.Choice | click.types.IntParamType)
        if option == "--output":
            words += [option, str(out)] if parameter.required or draw.random() < 0.2 else []
        elif option == "--data":
            words += [option, draw.choice(likely)]
        elif parameter.is_flag:
            words += [option] if draw.random() < 0.15 else []
        elif parameter.required or draw.random() < (0.02 if free else 0.1):
            words += [option, a_value(parameter.type, likely, draw)]
    return [*words, "--", *last] if last else words


def check(result: Result, words: list[str], out: Path) -> None:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    printed = result.stdout_bytes.decode("utf-8")
    assert result.exit_code in (0, REACHED) or printed or result.stderr
    files = [path for path in out.rglob("*") if path.suffix in (".json", ".csv", ".md", ".html")]
    texts = {str(path): path.read_text(encoding="utf-8") for path in files}
    if result.exit_code == 0 and "--json" in words and str(out) not in words:
        texts["stdout.json"] = printed
    for name, text in texts.items():
        if name.endswith(".json"):
            found = json.loads(text, parse_constant=pytest.fail)
            json.dumps(found, ensure_ascii=False).encode("utf-8")


@pytest.fixture
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in COMPUTING:
        monkeypatch.setattr(target, Mock(side_effect=SystemExit(REACHED)))


def attempt(
    case: int, commands: list[tuple[str, click.Command]], world: World, out: Path
) -> tuple[str, int]:
    """Try one drawn command on one drawn attack; returns the command and its exit code."""
    draw = random.Random(SEED + case)
    name, command = commands[case] if case < len(commands) else draw.choice(commands)
    while case >= len(commands) and draw.random() > SELDOM.get(name, 1.0):
        name, command = draw.choice(commands)
    words = arguments(name, command, world, out, draw)
    near = [path for path in world.files() if any(str(path).startswith(w) for w in words)]
    code = 0
    for told in attack(world, draw, near or world.files()):
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = CliRunner().invoke(main, words)
                check(result, words, out)
        except BaseException:
            trace = traceback.format_exc()[-6000:]
            pytest.fail(f"seed {SEED + case}: {words}\n{told}\n{trace}", pytrace=False)
        assert time.process_time() - began < SECONDS, (words, told)
        code = result.exit_code
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    return name, code


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_computed")
def test_every_command_takes_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "world")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    listed = list(commands())
    assert {name.split()[0] for name, _ in listed} == set(COMMANDS)
    tried = [attempt(case, listed, world, tmp_path / "out") for case in range(CASES)]
    assert {name for name, _ in tried} == {name for name, _ in listed}
    for part in ("report", "trace"):  # neither everything is refused nor nothing
        assert {code for name, code in tried if name.startswith(part)} >= {0, 1}
