"""`nabla-eval probe`: what a gradient can buy on a pair and its problems."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nabla_eval.cli.options import COUNT, FOLDER, as_json, device, option
from nabla_eval.cli.run import Verbatim, values
from nabla_eval.cli.screen import Screen, load
from nabla_eval.signals import stoppable
from nabla_eval.terminal import say

LIMIT = 50  # problems per task, where neither --limit nor --samples says
PLAN = ("drafts", "positions", "rollouts", "repeats", "splits", "max_seconds")


@click.command(
    cls=Verbatim,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[OPTIONS] [LM-EVAL OPTIONS]",
)
@option("--preset", "paper, or released[_aime|_amc]: their values instead of ours.")
@option("--n", "Rollouts per problem, of the margin that is expected.  [default: 8]", type=COUNT)
@option(
    "--task",
    "A task or group; may be repeated.  [default: the embedded pair's]",
    "tasks",
    multiple=True,
    metavar="NAME",
)
@option("--seed", "Of every random draw.  [default: 0]", metavar="N")
@option("--limit", "Problems per task.  [default: 50]", type=click.IntRange(min=1))
@option(
    "--set",
    "Any model argument: lr=0.1, pretrained=...; may be repeated.",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
)
@option(
    "--batch-size",
    "Problems that advance together; changes the speed, not the results.  [default: 8]",
    "--batch_size",
    metavar="N",
)
@device()
@option("--drafts", "Drafts of a problem, for room and reward.  [default: 8]", type=COUNT)
@option("--positions", "Positions of a draft where tokens are tried.  [default: 4]", type=COUNT)
@option("--rollouts", "Rollouts of each token there, an even number.  [default: 4]", type=COUNT)
@option("--repeats", "Pairs of loops on a problem.  [default: 2]", type=COUNT)
@option("--splits", "Places at which a pair of loops is split.  [default: 2]", type=COUNT)
@option(
    "--max-seconds",
    "Begin no problem that would end after that.  [default: 240]",
    type=click.FloatRange(0, min_open=True),
)
@option(
    "--output",
    "Folder for the figures, a page and a picture; the same command goes on from it.",
    type=FOLDER,
)
@as_json("the six sections as JSON")
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def probe(
    ctx: click.Context,
    rest: tuple[str, ...],
    settings: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure what ∇-Reasoner's gradient can buy on your pair and problems, before a week of GPUs.

    Room for other tokens, how far the gradient moves draws, whether it ranks tokens as rolling them
    out does, the margin over the twin to expect, and whether the reward model knows what is right;
    then a verdict and what to change (docs/probe.md). Models and tasks are named as for
    `nabla-eval run`; options that are not listed here are lm-eval's own.

    \b
    Example:
      nabla-eval probe
      nabla-eval probe --model_args pretrained=Qwen/Qwen2.5-7B-Instruct,reward=Skywork/... \\
          --tasks nabla_gsm8k --apply_chat_template --limit 50 --output results/probe
    """
    from nabla_eval.options import build
    from nabla_eval.probing.plan import Plan, check
    from nabla_eval.reporting.tables import json_text
    from nabla_eval.runs.command import compose

    plan = build(Plan, {n: v for n in PLAN if (v := given.pop(n)) is not None})
    evaluation = compose(rest, settings=values(settings), **given)
    documents, options = evaluation.documents(), evaluation.options
    if documents is None and options["limit"] is None:
        options = {**options, "limit": LIMIT}
        evaluation = replace(evaluation, options=options)
    if evaluation.arguments.method == "nabla":
        named = sum(map(len, (documents or {}).values()))
        count = named or options["limit"] * len(evaluation.tasks)
        if count >= 1:  # a share of a task is counted once it is loaded
            check(evaluation.arguments.config, int(count))
    command = shlex.join(["nabla-eval", "probe", *ctx.meta[Verbatim.__module__]])
    began = time.perf_counter()
    kept = f"what was measured is in {output}; the same command goes on from it."
    with stoppable(lambda: kept if output else "nothing is kept without --output."):
        load()
        found, facts = _measure(evaluation, plan, output, given["batch_size"] is None)
    if output is not None:
        _write(found, facts, command, output)
    if as_json:
        say(json_text(found), end="")
        return
    _show(found, facts, time.perf_counter() - began, output)


def _measure(evaluation: Any, plan: Any, output: Path | None, narrow: bool) -> tuple[Any, Any]:
    """Return the six sections, and what they depend on; a bar on a terminal tells how far it is."""
    from contextlib import ExitStack

    from nabla_eval.harness.progress import Progress
    from nabla_eval.probing.probe import Probe
    from nabla_eval.runs.probed import load as load_problems
    from nabla_eval.runs.probed import refuse
    from nabla_eval.traces.lock import sole_writer

    with ExitStack() as stack:
        refuse(evaluation, plan, output)  # before the lock, which makes the folder
        if output is not None:
            stack.enter_context(sole_writer(output, "probe"))
        loaded = load_problems(evaluation)
        progress = Progress(len(loaded.asked), "probe", doing="Problems")
        stack.enter_context(progress)

        told: list[int] = []

        def advance(done: int, total: int) -> None:
            """Go on to `done`; those of the first call were stored before, and took no time."""
            while progress.done < done:
                progress.advance(stored=not told)
            told.append(done)

        probed = Probe(
            loaded.pair, loaded.config, plan, output, loaded.facts, loaded.execute,
            min(loaded.width, 8) if narrow else loaded.width, advance,
        )  # fmt: skip
        return probed(loaded.asked), loaded.facts


def _write(found: dict[str, Any], facts: Any, command: str, output: Path) -> None:
    from nabla_eval.reporting.page import Page, write_page
    from nabla_eval.reporting.probe import probe_report
    from nabla_eval.reporting.tables import json_text
    from nabla_eval.reporting.text import write_files
    from nabla_eval.traces.write import versions

    write_files(output, {"probe.json": json_text(found)})
    told = {
        "problems": f"{found['room']['problems']} of {', '.join(facts['tasks'])}",
        "seed": str(facts["seed"]),
        "policy": str(facts["models"]["policy"]),
        "reward model": str(facts["models"]["reward"]),
        "versions": ", ".join(f"{name} {own}" for name, own in versions().items()),
    }
    if by := _filters(facts):
        told["right by"] = by
    write_page(
        Page("What a gradient can buy here", command, [probe_report(found)], (), told), output
    )


def _filters(facts: Any) -> str:
    """Name the filter that says what is right, of each task that has several."""
    filters = facts.get("filters", {})
    return ", ".join(f"{own[0]} of {task}'s filters" for task, own in filters.items())


def _show(found: dict[str, Any], facts: Any, seconds: float, output: Path | None) -> None:
    from nabla_eval.reporting.probe import probe_report

    screen, made = Screen(), probe_report(found)
    screen.tables(table for table in made.tables if table.rows)
    by = [f"Right by the filter {by}."] if (by := _filters(facts)) else []
    screen.sentences(made.title, [*made.sentences, *by])
    if output is None:
        return screen.print(f"\n{seconds:.0f} s. With --output DIR a page and a figure are kept.")
    files = {
        "probe.json": "the six sections",
        "report.html, report.md": "these tables, with figures/probe.png",
        "problems.jsonl, settings.json": "what was measured, and at which settings",
    }
    return screen.files(f"{seconds:.0f} s. Everything is in {output}", files)
