"""The group `nabla-eval`: its commands by name, imported only when they are run."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, NamedTuple

import click

from nabla_eval import __version__
from nabla_eval.cli.streams import sturdy_streams
from nabla_eval.errors import DataError, DependencyError, NablaError, suggest
from nabla_eval.signals import Terminated, status, stoppable
from nabla_eval.terminal import guard_streams


class Lazy(NamedTuple):
    """Where a command is, and the line that the list of commands shows for it."""

    target: str  # "module:object", imported when the command is run or asked for its help
    summary: str
    stopped: str = ""  # what to say of what is kept, where the command itself does not


COMMANDS = {
    "demo": Lazy(
        "nabla_eval.cli.demo:demo", "Compare the methods on the embedded pair in under a minute."
    ),
    "report": Lazy(
        "nabla_eval.cli.report:report",
        "Tables and figures of run folders, controls included.",
        "the run folders are as they were; the same command makes the report anew.",
    ),
    "run": Lazy("nabla_eval.cli.run:run", "Evaluate one method through lm-eval."),
    "sweep": Lazy("nabla_eval.cli.sweep:sweep", "Evaluate a grid of methods and options."),
    "trace": Lazy("nabla_eval.cli.trace:trace", "Look at single problems of a run."),
    "embedded": Lazy(
        "nabla_eval.cli.included:embedded", "The pairs that ship with the package, and their cards."
    ),
    "tasks": Lazy("nabla_eval.cli.included:tasks", "Where the lm-eval tasks are, and which."),
    "data": Lazy("nabla_eval.cli.data:data", "The tasks' problems, for machines without network."),
    "check-pair": Lazy(
        "nabla_eval.cli.check_pair:check_pair", "Do a policy and a reward model fit together?"
    ),
    "probe": Lazy(
        "nabla_eval.cli.probe:probe", "What a gradient can buy on a pair and its problems."
    ),
    "train": Lazy("nabla_training.__main__:train", "Train a policy by SFT or GRPO (needs TRL)."),
    "theory": Lazy("nabla_theory.__main__:main", "Check the paper's mathematics numerically."),
}


class LazyGroup(click.Group):
    """A group that lists its commands without importing them, and prints our errors plainly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command when it is asked for; None for another name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            raise DependencyError(
                f"`nabla-eval {cmd_name}` needs {error.name}, which this installation lacks: it is "
                "older than the code. Install again (pip install -e . in a clone)."
            ) from None
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. {suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        with sturdy_streams():
            guard_streams()
            try:
                return super().main(*args, **extra)
            except OSError as error:
                if error.errno is None or error.filename is not None:
                    raise
                show(refused(error))  # a full disk behind stdout; --help meets it outside `invoke`
                raise SystemExit(1) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: signals end it in words, and errors of ours are shown without a trace."""

        def words() -> str:
            entry = COMMANDS.get(ctx.invoked_subcommand or "")
            return "" if entry is None else entry.stopped

        try:
            with stoppable(words, interrupts=True):
                return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as stop:
            ctx.exit(status(stop))
        except (NablaError, OSError) as error:
            if ctx.params["traceback"] or isinstance(error, BrokenPipeError):
                raise
            show(error if isinstance(error, NablaError) else refused(error))
            ctx.exit(1)


def refused(error: OSError) -> DataError:
    """Return an error for what the operating system refused: an unreadable folder, a full disk."""
    return DataError(f"{error}. Check that place, or give another; --traceback shows more.")


def show(error: NablaError) -> None:
    """Print an error as one paragraph on stderr."""
    from rich.text import Text

    from nabla_eval.cli.screen import Screen

    Screen(err=True).paragraph(Text.assemble(("Error: ", "bold red"), str(error)))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nabla-eval")
@click.option("--traceback", is_flag=True, help="Show where in the code an error arose.")
def main(traceback: bool) -> None:
    """Run, measure and compare ∇-Reasoner and its rivals.

    Evaluations themselves run through lm-eval:

    \b
      lm_eval --model nabla --tasks nabla_countdown \\
          --include_path "$(nabla-eval tasks path)" --limit 32

    Example: nabla-eval demo
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on few cores, waiting threads must yield


if __name__ == "__main__":
    main()
