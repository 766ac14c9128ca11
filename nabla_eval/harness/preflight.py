"""lm-eval's command line: read as it reads it, and refused at once, in one paragraph.

lm-eval indexes all its tasks (some 10 to 20 seconds) and loads torch before it asks for the model.
So `check_command_line` is for the start-up hook to call when lm-eval's command line begins to run.
"""

from __future__ import annotations

import io
import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from types import TracebackType
from typing import Any, NoReturn, TypedDict
from unittest.mock import patch

from nabla_eval.errors import ConfigError, DependencyError, NablaError
from nabla_eval.harness.register import NAME
from nabla_eval.signals import told
from nabla_eval.terminal import guard_streams, say, visible

NO_CACHE = (
    "--use_cache would answer with what another method, seed or model has written. Leave it out; "
    "trace_dir=FOLDER keeps answers and continues a stopped run, as `nabla-eval run` does."
)


class ConfigFile(TypedDict, total=False):
    """What is read of lm-eval's `--config` file; lm-eval reads the rest itself."""

    model: str
    model_args: dict[str, Any] | str | None
    tasks: list[Any] | str | None
    limit: float | None
    device: str | None
    batch_size: int | str | None
    seed: list[int | None] | int | None
    metadata: dict[str, Any] | str | None
    use_cache: str | None
    wandb_args: dict[str, Any] | str | None
    trackio_args: dict[str, Any] | str | None


def check_command_line(words: Sequence[str] | None = None) -> None:
    """Exit with a message where `lm_eval --model nabla` got options that cannot work.

    Command lines for other models, and those that this cannot read, are left to lm-eval.
    """
    try:
        with redirect_stderr(io.StringIO()):  # lm-eval says what is wrong with its own
            options = parse(sys.argv[1:] if words is None else words)
        stored = read_config(options.get("config"))
    except (Exception, SystemExit):
        return
    if (options.get("model") or stored.get("model")) != NAME:
        return
    plain_errors()
    from nabla_eval.harness.arguments import check_batch_size, check_devices, read

    try:
        refuse(options, stored)
        given = options["model_args"] or stored.get("model_args") or {}
        read(given)
        check_devices({"device": options.get("device") or stored.get("device"), **given})
        check_batch_size(options.get("batch_size") or stored.get("batch_size") or 32)
    except NablaError as error:
        raise SystemExit(visible(f"Error: {error}")) from None


def refuse(options: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Refuse options of lm-eval's that cannot work with this model, or on this machine.

    Raises `ConfigError` and, for a logger that is not installed, `DependencyError`.
    """
    given = {**stored, **{name: value for name, value in options.items() if value is not None}}
    if given.get("use_cache"):
        raise ConfigError(NO_CACHE)
    for package in ("wandb", "trackio"):
        if given.get(f"{package}_args") and find_spec(package) is None:
            raise DependencyError(
                f"--{package}_args needs {package}, which is not installed. Try `pip install "
                f"{package}`, or leave the option out."
            )


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Return what lm-eval's own parser makes of options; it exits with its usage on wrong ones.

    Raises `ConfigError` for JSON that is none.
    """
    from lm_eval._cli import HarnessCLI

    complain = ArgumentParser.error

    def error(parser: ArgumentParser, message: str) -> NoReturn:
        """Name no Python function of lm-eval's as the type of a value."""
        complain(
            parser, re.sub(r"invalid (functools\..*|\w+_\w+) value: ", "invalid value: ", message)
        )

    with (
        patch.object(sys, "argv", ["lm_eval", *words]),
        patch.object(ArgumentParser, "error", error),
    ):
        try:
            options = vars(HarnessCLI().parse_args())
        except ValueError as wrong:  # of an argument that begins as JSON does
            raise ConfigError(f"lm-eval cannot read its options: {wrong}") from wrong
    return {name: value for name, value in options.items() if name not in ("command", "func")}


def read_config(path: str | None) -> dict[str, Any]:
    """Read lm-eval's `--config` file; two of its options become dicts. Raises `ConfigError`."""
    if path is None:
        return {}
    import yaml
    from lm_eval.utils import simple_parse_args_string

    from nabla_eval.validation import UNREADABLE, mismatch, text_of

    try:
        content = yaml.safe_load(text_of(path))
    except (*UNREADABLE, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}. Try a YAML file.") from error
    if wrong := mismatch(content, ConfigFile):
        raise ConfigError(f"--config {path}: {wrong}. Try a mapping such as `limit: 8`.")
    for name in ("model_args", "metadata"):
        if isinstance(content.get(name), str):
            content[name] = simple_parse_args_string(content[name])
    return dict(content)


def plain_errors() -> None:
    """Have errors that nabla_eval raises on purpose end this process without a traceback.

    What else is printed on its way to a terminal is guarded from here on.
    """
    guard_streams()
    if getattr(sys.excepthook, "plain", None):
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, NablaError):
            say(f"Error: {error}", err=True)
        elif not told(error):
            before(kind, error, trace)

    hook.plain = True  # type: ignore[attr-defined]
    sys.excepthook = hook
