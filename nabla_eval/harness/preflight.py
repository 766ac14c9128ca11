"""lm-eval's command line: read as it reads it, and refused at once, in one paragraph.

lm-eval indexes all its tasks (some 10 to 20 seconds) and loads torch before it asks for the model.
So `check_command_line` is for the start-up hook to call when lm-eval's command line begins to run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypedDict
from unittest.mock import patch

from nabla_eval.errors import ConfigError, NablaError
from nabla_eval.harness.register import NAME
from nabla_eval.signals import told
from nabla_eval.terminal import guard_streams, say, visible


class ConfigFile(TypedDict, total=False):
    """What is read of lm-eval's `--config` file; lm-eval reads the rest itself."""

    model: str
    model_args: dict[str, Any] | str | None
    tasks: list[Any] | str | None
    limit: float | None
    device: str | None
    batch_size: int | str | None


def check_command_line(words: Sequence[str] | None = None) -> None:
    """Exit with a message where `lm_eval --model nabla` got `--model_args` that cannot work.

    Command lines for other models, and those that this cannot read, are left to lm-eval.
    """
    try:
        options = parse(sys.argv[1:] if words is None else words)
        stored = read_config(options.get("config"))
    except (Exception, SystemExit):  # lm-eval says what is wrong with it
        return
    if (options.get("model") or stored.get("model")) != NAME:
        return
    plain_errors()
    from nabla_eval.harness.arguments import read

    try:
        read(options["model_args"] or stored.get("model_args") or {})
    except ConfigError as error:
        raise SystemExit(visible(f"Error: {error}")) from None


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Return what lm-eval's own parser makes of options; it exits with its usage on wrong ones."""
    from lm_eval._cli import HarnessCLI

    with patch.object(sys, "argv", ["lm_eval", *words]):
        options = vars(HarnessCLI().parse_args())
    return {name: value for name, value in options.items() if name not in ("command", "func")}


def read_config(path: str | None) -> dict[str, Any]:
    """Read lm-eval's `--config` file, with `model_args` as a dict. Raises `ConfigError`."""
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
    if isinstance(content.get("model_args"), str):
        content["model_args"] = simple_parse_args_string(content["model_args"])
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
