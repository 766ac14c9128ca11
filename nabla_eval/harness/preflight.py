"""Refusing a wrong command line at once, and in one paragraph.

lm-eval indexes all its tasks (some 10 to 20 seconds) and loads torch before it asks for the model.
So `check_command_line` is for the start-up hook to call when lm-eval's command line begins to run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from nabla_eval.errors import ConfigError, NablaError
from nabla_eval.harness.register import NAME
from nabla_eval.signals import told
from nabla_eval.terminal import guard_streams, say, visible


def check_command_line(argv: Sequence[str] | None = None) -> None:
    """Exit with a message where `lm_eval --model nabla` got `--model_args` that cannot work.

    Command lines for other models, and those that this cannot read, are left to lm-eval.
    """
    asked = model_args(sys.argv[1:] if argv is None else argv)
    if asked is None:
        return
    plain_errors()
    from nabla_eval.harness.arguments import read

    try:
        read(asked)
    except ConfigError as error:
        raise SystemExit(visible(f"Error: {error}")) from None


def model_args(argv: Sequence[str]) -> dict[str, Any] | None:
    """`--model_args` of a command line for `--model nabla`, as lm-eval reads them; else None."""
    import yaml

    from nabla_eval.validation import text_of

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model", "-M")
    parser.add_argument("--model_args", "-a", nargs="+", action="append", default=[])
    parser.add_argument("--config", "-C")
    try:
        asked = parser.parse_known_args(list(argv))[0]
        stored = {} if asked.config is None else dict(yaml.safe_load(text_of(asked.config)))
        if (asked.model or stored.get("model")) != NAME:
            return None
        return _merged(asked.model_args) if asked.model_args else as_dict(stored.get("model_args"))
    except Exception:  # lm-eval says what is wrong with it
        return None


def _merged(groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    from lm_eval._cli.utils import key_val_to_dict, try_parse_json

    merged: dict[str, Any] = {}
    for group in groups:
        whole = try_parse_json(group[0])
        if isinstance(whole, dict):
            merged |= whole
        else:
            for part in group:
                merged |= key_val_to_dict(part)
    return merged


def as_dict(value: Any) -> dict[str, Any]:
    """Model arguments of a `--config` file, which may be one text as on the command line."""
    from lm_eval.utils import simple_parse_args_string

    return dict(value) if isinstance(value, dict) else simple_parse_args_string(value)


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
