"""`nabla-eval run`: lm-eval's command line with everything filled in that makes a run folder."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.errors import ConfigError
from nabla_eval.grading import GRADERS
from nabla_eval.signals import stoppable
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.runs.folder import Claim
    from nabla_eval.traces.manifest import Manifest


class Verbatim(click.Command):
    """A command that knows how it was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)


@click.command(
    cls=Verbatim,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[OPTIONS] [LM-EVAL OPTIONS]",
)
@click.option("--method", help="nabla, best_of_n, ...  [default: nabla]")
@click.option("--preset", help="paper, or released[_aime|_amc]: their values instead of ours.")
@click.option("--n", type=click.IntRange(min=1), help="Rollouts per problem.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="A task or group; may be repeated.  [default: nabla_countdown]",
)
@click.option("--seed", metavar="N", help="Of every random draw.  [default: 0]")
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    help="Problems per task; below 1, their share.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any model argument: lr=0.1, pretrained=...; may be repeated.",
)
@click.option(
    "--batch-size",
    "--batch_size",
    metavar="N",
    help="Problems that advance together; changes the speed, not the results.  [default: 32]",
)
@click.option("--device", help="cpu, cuda, cuda:1, ...  [default: CUDA if there is]")
@click.option(
    "--grader",
    type=click.Choice(GRADERS),
    help="Who says which final answers are right.  [default: nabla_eval]",
)
@click.option("--name", help="What tables call the run.  [default: the folder's name]")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run folder.  [default: below results/, named after the options]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Load and check everything, print the plan, memory and disk, try a document of each task.",
)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.pass_context
def run(
    ctx: click.Context,
    rest: tuple[str, ...],
    settings: tuple[str, ...],
    output: Path | None,
    name: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Evaluate one method through lm-eval, and keep everything about it in one run folder.

    Options that are not listed here are lm-eval's own and reach it untouched: --num_fewshot,
    --apply_chat_template, --model_args, ... (`lm_eval run --help`). Filled in are the model, the
    task folder, traces and output. The same command continues a run that was stopped; a folder
    that holds another run is refused.

    \b
    Example:
      nabla-eval run --method nabla --n 8 --limit 200 --output results/nabla --dry-run
      nabla-eval run --method nabla --n 8 --limit 200 --output results/nabla
      nabla-eval run --task gsm8k --apply_chat_template \\
          --set pretrained=Qwen/Qwen2.5-7B-Instruct \\
          --set reward=Skywork/Skywork-Reward-V2-Qwen3-4B
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on few cores, waiting threads must yield
    from lm_eval.utils import setup_logging

    from nabla_eval.cli.dry_run import try_first_documents
    from nabla_eval.cli.loading import load
    from nabla_eval.harness.arguments import process_number
    from nabla_eval.runs.command import compose
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.folder import claim, inspect
    from nabla_eval.traces.lock import sole_writer

    first = process_number("RANK", 0) == 0
    evaluation = compose(rest, settings=values(settings), **given)
    setup_logging()
    typed = shlex.join(["nabla-eval", "run", *ctx.meta[__name__]])
    manifest = evaluation.manifest(typed, name or "")
    folder = output or default_folder(manifest)
    manifest["name"] = name or folder.name
    if dry_run:
        with stoppable(lambda: "A dry run keeps no answers."):
            load()
            try_first_documents(evaluation, manifest, folder)
        return
    evaluator = Evaluator(keep=False)
    if not first:
        if inspect(folder, manifest).state == "done":
            return
        evaluator.evaluate(folder, evaluation, manifest)
        return
    with stoppable(lambda: f"the same command continues from {folder}."):
        with sole_writer(folder):
            claimed = claim(folder, manifest)
            announce(folder, claimed)
            if claimed.state != "done":
                load()
                manifest = evaluator.evaluate(folder, evaluation, manifest)
        summarise(folder, claimed.before if claimed.state == "done" else manifest)


def values(settings: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs as a mapping, values as lm-eval reads them.

    Raises `ConfigError` for one without an equals sign.
    """
    from lm_eval._cli.utils import handle_cli_value_string

    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting!r} has no name=value. Try --set lr=0.1.")
        found[name] = handle_cli_value_string(value)
    return found


def default_folder(manifest: Manifest) -> Path:
    """A folder below results/ that runs with other options never share."""
    from nabla_eval.runs.folder import identity_hash

    what = "-".join([manifest["method"], *manifest["tasks"]])
    return Path("results", f"{what[:80].replace('/', '_')}-{identity_hash(manifest)[:8]}")


def announce(folder: Path, claimed: Claim) -> None:
    """Say on stderr where a run goes and what it starts from."""
    words = {"new": "Running into", "unfinished": "Continuing", "done": "Already done:"}
    say(f"{words[claimed.state]} {folder}", err=True)
    for library, (old, new) in claimed.other_versions.items():
        say(f"  It was made with {library} {old}; this is {new}.", err=True)


def summarise(folder: Path, manifest: Manifest | None) -> None:
    """The closing summary: accuracy, cost, and where everything is."""
    from rich.text import Text

    from nabla_eval.cli.screen import Screen
    from nabla_eval.cost.peak import describe
    from nabla_eval.reporting.overview import combine, measure, overview_table
    from nabla_eval.reporting.tables import fitting, to_rich

    assert manifest is not None
    console = Screen()
    rows = [combine(manifest["name"], [part]) for part in measure(folder, manifest["seconds"])]
    console.print()
    for part in fitting(overview_table(rows), console.width):
        console.print(to_rich(part))
    if manifest["peak_memory"] is not None:
        console.print(f"\nPeak memory: {describe(manifest['peak_memory'])}.")
    console.print(Text(f"\nEverything is in {folder}:", style="bold"), soft_wrap=True)
    console.print(
        Text(
            "  run.json               options, seed, models, versions, the command\n"
            "  results_*, samples_*   what lm-eval reports, and each response\n"
            "  trace-rank*.jsonl      every decision and cost of each problem"
        )
    )
