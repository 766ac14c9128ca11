"""Several processes share a run: the same metrics, traces and ledger as one process gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields

import lm_eval_process
import pytest
from nearly import same

from nabla_eval.cost.ledger import Ledger
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.ranks import _with_all_metrics
from nabla_eval.traces import done, read, trace_path

# An odd number of documents: lm-eval pads the shorter rank with its last request, here with both
# repeats of it.
DATA = """
from datasets import Dataset
from nabla_eval.embedded.countdown import test_problems

def dataset(**options):
    return {"test": Dataset.from_list(test_problems(7))}
"""
TASK = """
include: {tasks}/nabla_countdown.yaml
task: shared
custom_dataset: !function data.dataset
repeats: 2
filter_list: [{{name: both, filter: [{{function: take_first_k, k: 2}}]}}]
"""
ARGUMENTS = "n=3,steps=2,passes=1,seed=5,dtype=float64,trace_dir="


def launch(*command, cwd):
    """Two processes on CPU, as `accelerate launch` starts them on GPUs: by torchrun."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *command],
        cwd=cwd,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "LMEVAL_LOG_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip


def decisions(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def total(records):
    return {f.name: sum(r["ledger"][f.name] for r in records) for f in fields(Ledger)}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(root, tmp_path, evaluate, table):
    folder, alone, shared = tmp_path / "task", tmp_path / "alone", tmp_path / "shared"
    folder.mkdir()
    (folder / "data.py").write_text(DATA)
    (folder / "shared.yaml").write_text(TASK.format(tasks=root / "tasks"))
    one = evaluate("nabla", "shared", folder, model_args=f"{ARGUMENTS}{alone}", limit=None)
    # What a killed run of one process left: three answers, of them some that are rank 1's now, and
    # the beginning of a fourth.
    lines = trace_path(alone).read_bytes().splitlines(keepends=True)
    shared.mkdir()
    trace_path(shared).write_bytes(b"".join(lines[:3]) + lines[3][:100])

    ended = launch(
        *(lm_eval_process.__file__, "--model", "nabla"),
        *("--include_path", str(folder), "--tasks", "shared"),
        *("--model_args", f"{ARGUMENTS}{shared}", "--batch_size", "4"),
        *("--output_path", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("exact_match") == 1, "one rank prints the table"
    (file,) = (tmp_path / "out").rglob("results_*.json")
    two = json.loads(file.read_text())
    assert same(table(two, "shared"), table(one, "shared"))
    assert two["n-samples"]["shared"]["effective"] == 7

    shards = [read(trace_path(shared, rank)) for rank in (0, 1)]
    assert all(len(shard) > 0 for shard in shards)
    expected, found = read(alone), read(shared)
    assert len(found) == len(expected) == 14, "every answer once, padding never"
    by_id = done(shared)
    for record in expected:
        assert same(decisions(by_id[record["id"]]), decisions(record)), record["id"]
    assert same(total(found), total(expected))

    # One process picks up what two have written.
    again = NablaLM(pretrained=None, **_options(f"{ARGUMENTS}{shared}"), device="cpu")
    again._executor = lambda: _never
    assert same(
        table(evaluate(again, "shared", folder, limit=None), "shared"), table(one, "shared")
    )


def _never(requests):
    pytest.fail("the shards were not used")


def _options(arguments):
    return dict(part.split("=", 1) for part in arguments.split(","))


def test_a_metric_that_only_other_ranks_have_is_gathered_or_named(lm, caplog):
    key = ("rejection_rate", "none")
    ranks = [{"t": {("a", "none"): [1], key: [0.5]}}, {"t": {("a", "none"): [2]}}]
    assert _with_all_metrics(ranks)[1] == {"t": {("a", "none"): [2], key: []}}
    assert not caplog.records
    _with_all_metrics([{"t": {("a", "none"): [2]}}, {"t": {key: [0.5]}}])
    assert "lacks rejection_rate of t" in caplog.text and "1 documents" in caplog.text
    samples = [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert _with_all_metrics(samples) == [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert lm(method="greedy").gather_object({"t": {}}) == [{"t": {}}]
