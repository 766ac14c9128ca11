"""`nabla-eval run`: lm-eval's command line with everything filled in that makes a run folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.cli.options import COUNT, FOLDER, device, option
from nabla_eval.cli.screen import Screen, load
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
@option("--method", "nabla, best_of_n, ..., or a module's (my_package.second).  [default: nabla]")
@option("--preset", "paper, or released[_aime|_amc]: their values instead of ours.")
@option("--n", "Rollouts per problem.", type=COUNT)
@option(
    "--task",
    "A task or group; may be repeated.  [default: the embedded pair's]",
    "tasks",
    multiple=True,
    metavar="NAME",
)
@option("--seed", "Of every random draw.  [default: 0]", metavar="N")
@option(
    "--limit",
    "Problems per task; below 1, their share.",
    type=click.FloatRange(min=0, min_open=True),
)
@option(
    "--set",
    "Any model argument: lr=0.1, pretrained=...; may be repeated.",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
)
@option(
    "--batch-size",
    "Problems that advance together; changes the speed, not the results.  [default: 32]",
    "--batch_size",
    metavar="N",
)
@device()
@option(
    "--grader",
    "Who says which final answers are right.  [default: nabla_eval]",
    type=click.Choice(GRADERS),
)
@option(
    "--name",
    "What `run`, `sweep` and the viewer call it; reports name runs by method and options.  "
    "[default: the folder's name]",
)
@option(
    "--output",
    "The run folder.  [default: below results/, named after the options]",
    type=FOLDER,
)
@option(
    "--dry-run",
    "Load and check everything, print the plan, memory and disk, try a document of each task.",
    is_flag=True,
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
    from lm_eval.utils import setup_logging

    from nabla_eval.cli.dry_run import try_first_documents
    from nabla_eval.harness.arguments import process_number
    from nabla_eval.runs.command import compose
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.folder import claim, inspect
    from nabla_eval.traces.lock import sole_writer

    evaluation = compose(rest, settings=values(settings), **given)
    setup_logging()
    typed = shlex.join(["nabla-eval", "run", *ctx.meta[__name__]])
    typed = re.sub(r"\btoken=[^\s,'\"]+", "token=...", typed)  # run.json is shared
    manifest = evaluation.manifest(typed, name or "")
    folder = output or default_folder(manifest)
    manifest["name"] = name or folder.name
    evaluator = Evaluator(keep=False)
    if dry_run:
        with stoppable(lambda: "A dry run keeps no answers."):
            load()
            try_first_documents(evaluation, manifest, folder)
    elif process_number("RANK", 0) > 0:  # the first rank claims the folder and prints
        if inspect(folder, manifest).state != "done":
            evaluator.evaluate(folder, evaluation, manifest)
    else:
        with stoppable(lambda: f"the same command continues from {folder}."):
            with sole_writer(folder):
                claimed = claim(folder, manifest)
                announce(folder, claimed)
                made = claimed.before if claimed.state == "done" else None
                if made is None:
                    load()
                    made = evaluator.evaluate(folder, evaluation, manifest)
            summarise(folder, made)


def values(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as a mapping, with values as lm-eval reads them.

    Raises `ConfigError` for one without an equals sign, and for two values of one name.
    """
    from lm_eval._cli.utils import handle_cli_value_string

    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting!r} has no name=value. Try --set lr=0.1.")
        read = handle_cli_value_string(value)
        if found.get(name, read) != read:
            raise ConfigError(f"--set {name}={found[name]} and --set {name}={read}: leave one out.")
        found[name] = read
    return found


def default_folder(manifest: Manifest) -> Path:
    """Return a folder below results/ that runs with other options never share."""
    from nabla_eval.runs.folder import identity_hash

    what = "-".join([manifest["method"], *manifest["tasks"]])
    return Path("results", f"{what[:80].replace('/', '_')}-{identity_hash(manifest)[:8]}")


def announce(folder: Path, claimed: Claim) -> None:
    """Say on stderr where a run goes and what it starts from."""
    words = {"new": "Running into", "unfinished": "Continuing", "done": "Already done:"}
    say(f"{words[claimed.state]} {folder}", err=True)
    if claimed.state == "unfinished" and claimed.before and claimed.before["status"] == "done":
        say("  It was done, and some of its files are gone: kept answers are used again.", err=True)
    for library, (old, new) in claimed.other_versions.items():
        say(f"  It was made with {library} {old}; this is {new}.", err=True)


def summarise(folder: Path, manifest: Manifest) -> None:
    """Print accuracy, cost, and where everything is."""
    from nabla_eval.cost.peak import describe
    from nabla_eval.reporting.overview import combine, measure, overview_table

    console = Screen()
    rows = [combine(manifest["name"], [part]) for part in measure(folder, manifest["seconds"])]
    console.print()
    console.tables([overview_table(rows)])
    if manifest["peak_memory"] is not None:
        console.print(f"\nPeak memory: {describe(manifest['peak_memory'])}.")
    files = {
        "run.json": "options, seed, models, versions, the command",
        "results_*, samples_*": "what lm-eval reports, and each response",
        "trace-rank*.jsonl": "every decision and cost of each problem",
    }
    console.files(f"Everything is in {folder}", files)
