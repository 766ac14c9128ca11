"""Measure what traces of a large run cost: to write, list, report on, show, open, resume.

Example: python tests/benchmarks/trace_scale.py --problems 20000 --candidates 8 --tokens 1000

The run is made by a seed and written by `TraceWriter`, as any run is. Each command then runs in a
process of its own, whose seconds and largest memory are printed. `opening` is the time from asking
a headless Chromium for the page of `trace html` until its first problem is drawn, and until
another one, whose part is on the disk, is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chromium import browser, executable
from large_runs import large_record, write_large_run

from nabla_eval.traces import TraceWriter

DECODED = 10_000  # tokens a second, of all problems together: a fast GPU at a large batch
# What a resumed run does before it answers anything.
RESUME = """
import sys
from nabla_eval.traces import TraceWriter, trace_path
from nabla_eval.traces.index import entries

with TraceWriter(trace_path(sys.argv[1])):
    stored = {e["id"]: (e["outcome"]["text"], e["stats"]) for e in entries(sys.argv[1])}
print(len(stored))
"""
COMMANDS = {
    "report all": ["report", "all", "{run}", "--output", "{out}"],
    "trace list": ["trace", "list", "{run}"],
    "trace list all": ["trace", "list", "{run}", "--limit", "1000000"],
    "trace show": ["trace", "show", "{run}", "toy/7/0"],
    "trace html": ["trace", "html", "{run}", "-o", "{out}"],
    "resume": [],
}


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    bytes: int  # of memory, at most


def cost(name: str, run: Path, out: Path) -> Cost:
    """Run one of `COMMANDS` in a process of its own."""
    words = [word.format(run=run, out=out) for word in COMMANDS[name]]
    command = ["-m", "nabla_eval.cli.main", *words] if words else ["-c", RESUME, str(run)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env={**os.environ, **threads}
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{name} ended with status {child.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def opening(page: Path, scratch: Path) -> tuple[float, float]:
    """Return the seconds until a page shows its first problem, and then until another one."""
    shown = "document.querySelector('.tokens') && document.querySelector('h2').textContent"
    with browser(scratch / "profile") as chromium:
        chromium.open("about:blank")
        start = time.perf_counter()
        chromium.open(page.as_uri())
        first = chromium.run(shown)
        opened = time.perf_counter() - start
        chromium.run(
            f"new Promise((done) => {{ const look = () => {{ const now = {shown};"
            f" now && now !== {first!r} ? done() : setTimeout(look, 1); }};"
            " document.querySelectorAll('#list button')[LISTED - 1].click(); look(); })"
        )
        return opened, time.perf_counter() - start - opened


def writing(folder: Path, candidates: int, tokens: int, problems: int = 50) -> float:
    """Return the CPU seconds that it takes to write one record."""
    records = [large_record(document, candidates, tokens) for document in range(problems)]
    with TraceWriter(folder / "trace-rank0.jsonl") as writer:
        start = time.process_time()
        for record in records:
            writer.write(record)
        return (time.process_time() - start) / problems


def main() -> None:
    """Print a table of costs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("problems", 2000), ("candidates", 8), ("tokens", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="Keep the run here, and reuse what is there.")
    parser.add_argument("--only", choices=list(COMMANDS), action="append")
    asked = parser.parse_args()
    with TemporaryDirectory() as scratch:
        each = writing(Path(scratch) / "w", asked.candidates, asked.tokens)
        decoding = (asked.candidates + 1) * asked.tokens / DECODED
        print(f"writing        {1000 * each:8.1f} ms a problem, {each / decoding:.2%} of decoding")
        run = asked.folder or Path(scratch) / "run"
        if not run.exists():
            write_large_run(run, asked.problems, asked.candidates, asked.tokens, asked.seed)
        for what, files in (("traces", "trace-*"), ("index", ".trace-*.index")):
            size = sum(file.stat().st_size for file in run.glob(files))
            each = size / asked.problems
            print(f"{what:<14} {size / 1e9:8.2f} GB, {each / 1000:.0f} KB a problem")
        for name in asked.only or COMMANDS:
            taken = cost(name, run, Path(scratch) / name.replace(" ", "-"))
            used = f"{taken.cpu_seconds:8.1f} s CPU {taken.bytes / 1e6:8.0f} MB"
            print(f"{name:<14} {taken.seconds:8.1f} s {used}", flush=True)
            if name == "trace html" and executable():
                (page,) = (Path(scratch) / "trace-html").glob("*.html")
                first, other = opening(page, Path(scratch))
                print(f"opening        {first:8.2f} s, another problem {other:.2f} s", flush=True)


if __name__ == "__main__":
    main()
