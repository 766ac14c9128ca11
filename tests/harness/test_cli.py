"""The command that users type, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def lm_eval(*arguments, cwd):
    """Run lm-eval's command line with the start-up hook of this checkout."""
    return subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        cwd=cwd,
        env={**os.environ, "LMEVAL_LOG_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_embedded_task_end_to_end(root, tmp_path):
    done = lm_eval(
        *("--model", "nabla", "--include_path", str(root / "tasks"), "--tasks", "nabla_countdown"),
        *("--model_args", f"n=3,steps=2,seed=5,trace_dir={tmp_path / 'traces'}"),
        *("--limit", "8", "--batch_size", "8", "--device", "cpu"),
        *("--log_samples", "--output_path", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for metric in ("exact_match", "model_calls", "generated_tokens"):
        assert metric in done.stdout
    assert "nan" not in done.stdout.lower()
    (results,) = (tmp_path / "out").rglob("results_*.json")
    info = json.loads(results.read_text())["config"]["nabla"]
    assert (info["seed"], info["config"]["n"]) == (5, 3)
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 8
    (trace,) = (tmp_path / "traces").glob("*.jsonl")
    assert len(trace.read_text().splitlines()) == 8
