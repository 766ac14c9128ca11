"""`nabla-eval run`'s command line, read into one evaluation for lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments as model_args
from nabla_eval.harness.arguments import NEUTRAL, Arguments, check_batch_size, check_devices
from nabla_eval.harness.preflight import parse, read_config, refuse
from nabla_eval.harness.register import NAME
from nabla_eval.methods.registry import option_names
from nabla_eval.options import coerce, flatten
from nabla_eval.traces.manifest import MANIFEST_SCHEMA, Manifest
from nabla_eval.traces.write import versions
from nabla_eval.validation import UNREADABLE, Count, Index, Positive, mismatch, text_of

TASK = "nabla_countdown"
OWN_TASKS = {"words": "nabla_words"}  # of the embedded pairs that are for another
COUNTED = (TASK, "nabla_countdown4")  # whose answers are checked by arithmetic
BATCH_SIZE = 32
# lm-eval's options that answers or scores depend on, besides those with a field in `run.json`.
OPTIONS = (
    "num_fewshot", "gen_kwargs", "apply_chat_template", "system_instruction", "samples",
    "predict_only", "metadata",
)  # fmt: skip
# Those that lm-eval takes any number for.
NUMBERS: dict[str, Any] = {
    "limit": Positive | None, "num_fewshot": Index | None, "max_batch_size": Count | None,
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """One evaluation with `--model nabla`, checked, without its output folder."""

    tasks: tuple[str, ...]
    model_args: Mapping[str, Any]
    arguments: Arguments  # the parsed `model_args`
    options: Mapping[str, Any]  # the rest of lm-eval's options, by the names of its command line

    def manifest(self, command: str, name: str = "") -> Manifest:
        """Return the `run.json` of this evaluation, which is about to start."""
        arguments, given = self.arguments, self.options.get
        limit, seeds = given("limit"), given("seed") or [None] * 3
        own = {*option_names(arguments.method), *NEUTRAL}
        options = {n: given(n) for n in OPTIONS if given(n) is not False and given(n) != {}}
        if given("fewshot_as_multiturn") is False:  # true is lm-eval's default
            options["fewshot_as_multiturn"] = False
        return {
            "schema": MANIFEST_SCHEMA,
            "name": name,
            "command": command,
            "status": "running",
            "tasks": list(self.tasks),
            "limit": int(limit) if limit is not None and limit == int(limit) else limit,
            "method": arguments.method,
            "preset": arguments.preset,
            "config": flatten(arguments.config),
            "config_hash": arguments.fingerprint,
            "seed": seeds[2] if arguments.seed is None else arguments.seed,
            "model_args": _plain({n: v for n, v in self.model_args.items() if n not in own}),
            "options": _plain(options),
            "models": {},
            "versions": dict(versions()),
            "device": given("device"),
            "batch_size": given("batch_size"),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": None,
            "wall_seconds": None,
            "peak_memory": None,
            "continued": 0,
            "error": None,
        }

    def documents(self) -> dict[str, list[int]] | None:
        """Return the documents that `--samples` names: JSON, or a file of it, as lm-eval reads it.

        Raises `ConfigError` for anything else.
        """
        chosen = self.options.get("samples")
        try:
            if isinstance(chosen, str):
                chosen = json.loads(text_of(chosen))
            wrong = mismatch(chosen, dict[str, list[int]] | None, "--samples")
        except UNREADABLE as error:
            wrong = f"--samples {chosen!r} is neither JSON nor a file of it ({error})"
        if wrong:
            raise ConfigError(f"{wrong}. Try --samples '{{\"nabla_countdown\": [0, 1]}}'.")
        return cast("dict[str, list[int]] | None", chosen)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON reads them back, without nulls."""
    given = {name: value for name, value in values.items() if value is not None}
    plain: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return plain


def compose(rest: Sequence[str], **given: Any) -> Evaluation:
    """Read lm-eval's own options (`rest`) and those of `nabla-eval run` (`given`), which win.

    Without a task it is that of the embedded pair.
    `given`: method, preset, n, tasks, seed, limit, settings (name -> value), batch_size, device,
    grader (passed to tasks on problem sets in lm-eval's metadata).
    Raises `ConfigError` or `DependencyError` for what cannot work; lm-eval's parser exits by
    itself.
    """
    options = parse(["run", "--model", NAME, *rest])
    stored = read_config(options["config"])
    refuse(options, stored)
    _refuse(options, stored)
    arguments = {**(stored.get("model_args") or {}), **(options["model_args"] or {})}
    arguments |= {n: given[n] for n in ("method", "preset", "n") if given.get(n) is not None}
    arguments |= _settings(given)
    for name in (*OPTIONS, "limit", "device", "seed"):
        if options.get(name) is None:
            options[name] = stored.get(name)
    _seed(options, arguments, given.get("seed"))
    for name in ("limit", "device"):
        if given.get(name) is not None:
            options[name] = given[name]
    for name, kind in NUMBERS.items():
        options[name] = coerce(name, options.get(name), kind)
    if (named := arguments.pop("device", None)) is not None and given.get("device") is None:
        options["device"] = str(named)  # beats lm-eval's own, and `run.json` tells which it was
    if "batch_size" not in options:
        named = arguments.pop("batch_size", stored.get("batch_size"))
        options["batch_size"] = given.get("batch_size") or named or BATCH_SIZE
    check_batch_size(options["batch_size"])
    if given.get("grader") is not None:
        options["metadata"] = {**(options["metadata"] or {}), "grader": given["grader"]}
    named = options["tasks"] or stored.get("tasks") or ()
    named = named.split(",") if isinstance(named, str) else named
    tasks = [*given.get("tasks", ()), *(n for n in named if isinstance(n, str))]
    tasks = tasks or [OWN_TASKS.get(str(arguments.get("pair")), TASK)]
    _check_grader(options["metadata"], tasks)
    read = model_args.read(arguments)
    if read.trace_dir is not None:
        raise ConfigError(
            f"trace_dir={read.trace_dir}: a run keeps its traces in its own folder. Leave "
            "trace_dir out, and choose the folder with --output."
        )
    check_devices({**arguments, "device": options["device"]})
    made = Evaluation(tuple(dict.fromkeys(tasks)), arguments, read, options)
    if made.documents() is not None and options["limit"] is not None:
        raise ConfigError(
            f"--samples names the documents, and --limit {options['limit']:g} others: leave one."
        )
    return made


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what --set sets. Raises `ConfigError` where an option gives another value for it."""
    settings = dict(given.get("settings") or {})
    for name, value in settings.items():
        if given.get(name) not in (None, value) and str(given[name]) != str(value):
            raise ConfigError(
                f"--{name.replace('_', '-')} {given[name]} and --set {name}={value}: leave one out."
            )
    return settings


def _refuse(options: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for another model, and for an output path."""
    models = {options["model"], stored.get("model", NAME)}
    if models != {NAME}:
        other = next(iter(models - {NAME}))
        raise ConfigError(
            f"--model {other}: this command runs --model {NAME}. Leave --model out, or try "
            f"`lm_eval --model {other} ...`."
        )
    if options.get("output_path") is not None or stored.get("output_path") is not None:
        raise ConfigError("--output_path is filled in. Choose the folder with --output.")


def _seed(options: dict[str, Any], arguments: dict[str, Any], seed: str | None) -> None:
    """One integer is the seed of the draws; four, as lm-eval takes them, are left to lm-eval.

    So are those of a `--config` file, where one stands for four.
    """
    if seed is None:
        if options["seed"] is None:
            arguments.setdefault("seed", 0)
        elif not isinstance(options["seed"], list):
            options["seed"] = [options["seed"]] * 4
        return
    try:
        arguments["seed"] = int(seed)
        return
    except ValueError:
        given = [item.strip().lower() for item in seed.split(",")]
    if len(given) not in (1, 3, 4) or not all(re.fullmatch(r"-?\d+|none", item) for item in given):
        raise ConfigError(
            "--seed must be an integer, or lm-eval's four: of Python, NumPy, torch (which is the "
            f"draws') and few-shot examples, got {seed!r}. Try --seed 0, or --seed 0,1234,0,1234."
        )
    options["seed"] = parse(["run", "--seed", seed])["seed"]


def _check_grader(metadata: Mapping[str, Any] | None, tasks: Sequence[str]) -> None:
    """Raise `ConfigError` where a grader is named and no task has final answers to grade."""
    named = (metadata or {}).get("grader")
    if named is not None and all(name in COUNTED for name in tasks):
        raise ConfigError(
            f"grader={named}: the answers of {', '.join(tasks)} are checked by arithmetic. Leave "
            "it out, or choose a task on a problem set, such as nabla_math500."
        )
