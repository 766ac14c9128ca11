"""A sweep as a Slurm job array: one cell per array task, continued until it is done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nabla_eval.errors import ConfigError

FILE = "slurm.sh"
_SCRIPT = """\
#!/usr/bin/env bash
{directives}
# {count} cells of {study}, one per array task.
# A cell that its time limit ends is stopped two minutes before, keeps its answers, and is queued again.
set -euo pipefail
cd {here}
cells=(
{cells}
)
stop() {{
    kill -TERM $(jobs -p) || true
    wait
    scontrol requeue "$SLURM_JOB_ID"
    exit 143
}}
trap stop TERM
# bash runs a trap only after the command in the foreground, so the cell is in the background.
{command} --cell "${{cells[$SLURM_ARRAY_TASK_ID]}}" &
wait "$!"
"""  # noqa: E501


def array_script(
    study: str, cells: Sequence[str], command: Sequence[str], options: str, folder: Path
) -> str:
    """Return the script of a job array that runs `command --cell CELL` for each cell.

    `options` are sbatch's own (`--gpus=1 --time=04:00:00`); they follow ours, so they win. The
    tasks log into `folder`. Raises `ConfigError` for words that are no options, and for what a
    directive, which is a comment to bash, cannot hold: the rest of a line break would be run.
    """
    try:
        given = shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--slurm {options!r} cannot be read: {error}.") from None
    if given and not given[0].startswith("-"):
        raise ConfigError(
            f"--slurm must be options of sbatch, got {options!r}. "
            "Try --slurm '--gpus=1 --time=04:00:00'."
        )
    study = " ".join(study.split())
    log = str(folder).replace("%", "%%") + "/slurm-%a.log"
    ours = [
        f"--job-name={study}", f"--array=0-{len(cells) - 1}", f"--output={log}",
        "--open-mode=append", "--requeue", "--signal=B:TERM@120",
    ]  # fmt: skip
    lines = [shlex.quote(word) for word in ours]
    for word in given:  # `-t 04:00:00` is one option in two words
        if word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    for line in lines:
        if len(line.splitlines()) > 1:
            raise ConfigError(
                f"#SBATCH {line!r} has a line break, which sbatch cannot read. Choose another "
                "folder with --output, or other options with --slurm."
            )
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in lines),
        count=len(cells),
        study=study,
        here=shlex.quote(str(Path.cwd())),
        cells="\n".join(f"    {shlex.quote(cell)}" for cell in cells),
        command=shlex.join(command),
    )
