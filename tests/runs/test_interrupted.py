"""A run that is killed, stopped or out of disk ends, once continued, as if nothing had happened.

`NABLA_MOMENTS=10` hits it twenty times by each signal, as before a release; by default eight times.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
import warnings
from functools import partial

import pytest
from lm_eval_process import launcher
from nearly import same

from nabla_eval.traces import done, read, trace_path

KILLS = 2 * int(os.environ.get("NABLA_MOMENTS", "4"))
DOCUMENTS = 16
MODEL = "method=nabla,n=3,steps=4,seed=3,dtype=float64,batch_size=4"


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory):
    with launcher(tmp_path_factory.mktemp("log") / "log.txt") as made:
        yield made


def command(root, folder, documents=DOCUMENTS):
    return [
        "--model", "nabla", "--model_args", f"{MODEL},trace_dir={folder}",
        "--include_path", str(root / "tasks"), "--tasks", "nabla_countdown",
        "--limit", str(documents),
        "--device", "cpu", "--log_samples", "--output_path", str(folder / "results.json"),
    ]  # fmt: skip


def result(folder):
    """Metrics, samples and ledgers, without what says when and how fast.

    Of the newest results: what was killed between writing them and its end is run again, and
    writes others under a later time.
    """
    results = max(folder.glob("results_*.json"))
    samples = max(folder.glob("samples_*.jsonl"))
    metrics = json.loads(results.read_text())["results"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines.sort(key=lambda line: line["doc_id"])  # of several ranks, one comes after the other
    records = {record["id"]: {**record, "seconds": 0} for record in read(folder)}
    return {"metrics": metrics, "samples": lines, "records": records}


def answered(folder):
    """Answers in a folder; a torn last line, which a killed run may leave, is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return len(done(folder))


def reached(folder, answers):
    """Whether the trace has so many whole lines."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("trace-*")) >= answers


def written_by(folder, ranks):
    """Whether each of so many ranks has answered something."""
    return sum(file.stat().st_size > 0 for file in folder.glob("trace-rank*.jsonl")) >= ranks


@pytest.fixture(scope="module")
def undisturbed(root, lm_eval, tmp_path_factory):
    """The result of a run that nothing happens to, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.perf_counter()
    assert lm_eval.run(*command(root, folder)) == 0, lm_eval.log.read_text()
    return result(folder), time.perf_counter() - began


def test_a_run_leaves_results_samples_and_traces(undisturbed, lm_eval):
    found, _ = undisturbed
    assert len(found["samples"]) == len(found["records"]) == DOCUMENTS
    metrics = found["metrics"]["nabla_countdown"]
    for metric in ("exact_match", "model_calls", "generated_tokens"):
        assert math.isfinite(metrics[f"{metric},none"]) and metric in lm_eval.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_interruptions_change_nothing(number, root, lm_eval, undisturbed, tmp_path):
    expected, seconds = undisturbed
    draw = random.Random(number)
    kills = chains = caught = 0
    while kills < KILLS:
        folder = tmp_path / str(chains)
        folder.mkdir()
        chains += 1
        status = None
        before = 0
        while status != 0 and kills < KILLS:
            # By turns at a random time, most of which is spent loading, and at a random answer.
            after, goal = draw.uniform(0, seconds), DOCUMENTS + 1
            if kills % 2:
                if before >= DOCUMENTS - 1:
                    break  # nothing is left to be caught at: this run is let end, another begins
                after, goal = 60, draw.randint(before + 1, DOCUMENTS - 1)
            status = lm_eval.interrupted(
                number, after, partial(reached, folder, goal), *command(root, folder)
            )
            kills += 1
            assert status in (0, -number, 128 + number), lm_eval.log.read_text()[-3000:]
            now = answered(folder)
            caught += before < now < DOCUMENTS
            before = now
        if status != 0:
            assert lm_eval.run(*command(root, folder)) == 0, lm_eval.log.read_text()[-3000:]
        assert same(result(folder), expected)
    assert caught >= KILLS // 7, "too few interruptions hit while answers were being written"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "ranks"), [(signal.SIGKILL, (1, 2, 1)), (signal.SIGTERM, (2, 1, 2))]
)
def test_interruptions_from_one_number_of_ranks_to_another_change_nothing(
    number, ranks, root, lm_eval, undisturbed, tmp_path
):
    draw, ours = random.Random(f"{number}{ranks}"), command(root, tmp_path)
    for now in ranks[:-1]:
        before = answered(tmp_path)
        goal = draw.randint(before + 1, (before + DOCUMENTS) // 2)
        lm_eval.interrupted(
            number, 300, lambda n=now, g=goal: reached(tmp_path, g) and written_by(tmp_path, n),
            *ours, ranks=now,
        )  # fmt: skip
        assert answered(tmp_path) > before
    assert lm_eval.run(*ours, ranks=ranks[-1]) == 0, lm_eval.log.read_text()[-3000:]
    assert same(result(tmp_path), undisturbed[0])
    assert written_by(tmp_path, 2)


def test_sigterm_says_how_to_go_on(root, lm_eval, undisturbed, tmp_path):
    documents = 20 * DOCUMENTS  # or, where this process waits for a core, it may end on its own
    (pid,) = lm_eval.start(*command(root, tmp_path, documents))
    while not any(tmp_path.glob("trace-*")) or not next(tmp_path.glob("trace-*")).stat().st_size:
        time.sleep(0.01)
    began = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    assert lm_eval.wait() == 128 + signal.SIGTERM
    assert time.perf_counter() - began < 5
    told = [line for line in lm_eval.log.read_text().splitlines() if line.startswith("Stopped:")]
    assert f"of {documents} answers are in {tmp_path}; the same command goes on" in told[-1]


@pytest.mark.slow
def test_a_full_disk_stops_a_run_and_room_lets_it_go_on(root, lm_eval, undisturbed, tmp_path):
    """The limit of file sizes plays the disk: a line that does not fit is written in part."""
    lm_eval.log.write_text("")  # it is a file, too
    assert lm_eval.run(*command(root, tmp_path), largest_file=40_000) == 1
    assert "Cannot write the trace" in lm_eval.log.read_text()
    assert 0 < len(read(tmp_path)) < DOCUMENTS
    assert lm_eval.run(*command(root, tmp_path)) == 0, lm_eval.log.read_text()[-3000:]
    assert same(result(tmp_path), undisturbed[0])


# An odd number of documents: lm-eval pads the shorter rank with its last request, here with both
# repeats of it.
TASK = """
include: {tasks}/nabla_countdown.yaml
task: shared
repeats: 2
filter_list: [{{name: both, filter: [{{function: take_first_k, k: 2}}]}}]
"""


def test_two_ranks_give_what_one_gives(root, lm_eval, tmp_path):
    (tmp_path / "shared.yaml").write_text(TASK.format(tasks=root / "tasks"))

    def run(folder, ranks):
        before = len(lm_eval.log.read_text())
        status = lm_eval.run(
            "--model", "nabla", "--include_path", str(tmp_path), "--tasks", "shared", "--limit",
            "7", "--model_args", f"{MODEL},trace_dir={folder}", "--device", "cpu", "--log_samples",
            "--output_path", str(folder / "results.json"), ranks=ranks,
        )  # fmt: skip
        said = lm_eval.log.read_text()[before:]
        assert status == 0 and said.count("|exact_match") == 1, said[-3000:]  # one table

    def scored(folder):  # samples also hold the answers to padding
        return {name: part for name, part in result(folder).items() if name != "samples"}

    alone, shared = tmp_path / "alone", tmp_path / "both"
    run(alone, 1)
    # What a killed run of one process left: three answers, of them some that are rank 1's now, and
    # the beginning of a fourth.
    lines = trace_path(alone).read_bytes().splitlines(keepends=True)
    shared.mkdir()
    trace_path(shared).write_bytes(b"".join(lines[:3]) + lines[3][:100])
    run(shared, 2)
    assert written_by(shared, 2) and len(lines) == 14
    assert len(read(shared)) == 14, "every answer once, padding never"
    assert same(scored(shared), scored(alone))
    run(shared, 1)  # one process picks up what two have written
    assert len(read(shared)) == 14 and same(scored(shared), scored(alone))


def test_two_ranks_make_one_run_folder_and_find_it_done(lm_eval, tmp_path):
    """`torchrun ... nabla-eval run`: the first rank alone writes run.json and the results."""
    ours = ["nabla-eval", "run", "--method", "greedy", "--limit", "6", "--output", str(tmp_path)]
    assert lm_eval.run(*ours, ranks=2) == 0, lm_eval.log.read_text()[-3000:]
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "done"
    first = len(lm_eval.log.read_text())
    assert lm_eval.run(*ours, ranks=2) == 0, lm_eval.log.read_text()[-3000:]
    assert "Already done" in lm_eval.log.read_text()[first:]
