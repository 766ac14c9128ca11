"""`nabla-eval probe` on the embedded pair, and what it refuses before anything is measured."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_task import TASK, write_task

from nabla_eval import embedded
from nabla_eval.cli.main import main
from nabla_eval.cli.screen import Screen
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.progress import Progress
from nabla_eval.reporting.tables import Column, Table, text
from nabla_eval.runs.probed import grader, in_turn

SMALL = [
    "--limit", "2", "--n", "2", "--drafts", "2", "--positions", "1", "--rollouts", "2",
    "--repeats", "1", "--splits", "1", "--device", "cpu",
]  # fmt: skip


@pytest.mark.usefixtures("no_environment")
def test_a_probe_of_the_embedded_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["probe", *SMALL, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert re.search(r"Verdict: (pays|costs|cannot matter|cannot be told); ", done.stdout)
    assert "figures/probe.png" in done.stdout
    assert (tmp_path / "figures" / "probe.png").is_file()
    stored: list[bool] = []

    real = Progress.advance

    def advance(self: Progress, **given: bool) -> None:
        stored.append(given["stored"])
        real(self, **given)

    monkeypatch.setattr(Progress, "advance", advance)
    again = CliRunner().invoke(main, ["probe", *SMALL, "--json", "--output", str(tmp_path)])
    assert stored == [True, True], "time left is told from problems that took time"
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert list(found) == ["room", "reach", "fidelity", "advantage", "reward", "verdict"]
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    assert found["room"]["problems"] == 2
    assert found["reward"]["note"] is None, "Countdown says what is right"


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("name", ["nabla_countd?wn", "nabla_countdown,nabla_countd*wn"])
def test_patterns_and_commas_name_tasks(name: str) -> None:
    done = CliRunner().invoke(main, ["probe", *SMALL, "--task", name, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["room"]["problems"], found["reward"]["note"]) == (2, None)


def test_no_number_is_cut_off_on_a_narrow_screen() -> None:
    """An interval that does not fit beside two names goes on in a second line."""
    figure = "+0.87 (+0.17 to +1.00)"
    columns = [text("Ranking", "a"), text("Against", "b"), Column("Correlation", "c", str)]
    rows = [{"a": "final gradient, hard", "b": "rolled out", "c": figure}] * 2
    for width in range(30, 90):
        made = Table("t", "T", columns, rows, ["Noise is taken out of correlations. By chance."])
        stream = StringIO()
        screen = Screen(stream)
        screen.width = width
        screen.tables([made])
        shown = stream.getvalue()
        for sign in ("+0.87", "(+0.17", "+1.00)", "correlations."):
            assert sign in shown, (width, shown)


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limit", "1"], "at least 2 problems"),
        (["--set", f"pretrained={embedded.paths()[0]}"], "needs a reward model"),
        (["--set", "method=greedy"], "has no gradient to probe"),
        (["--set", "temperature=0"], "temperature must be"),
        (["--set", "steps=0", "--limit", "2"], "steps=0 is the twin"),
        (["--gen_kwargs", "do_sample=False", "--limit", "2"], "asks for greedy decoding"),
        (["--rollouts", "3"], "rollouts must be an even number"),
        (["--samples", '{"nabla_countdown": [4]}'], "at least 2 problems"),
        (["--samples", '{"nabla_countdown": [4, 5]}', "--limit", "2"], "others: leave one"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_cannot_be_probed_is_refused(words: list[str], told: str) -> None:
    done = CliRunner().invoke(main, ["probe", *words, "--device", "cpu"])
    assert done.exit_code == 1, done.output
    assert told in " ".join(done.stderr.split())


GREEDY = """
task: greedy_task
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{prompt}}"
generation_kwargs: {until: ["x"], do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "1"], r"another seed \(0 there, 1 here\)"),
        (["--set", "lr=0.5"], r"another config.lr \(0.01 there, 0.5 here\)"),
        (["--drafts", "3"], r"another plan.drafts"),
        (["--gen_kwargs", "top_p=0.5"], r"another options.gen_kwargs"),
        (["--set", "dtype=bfloat16"], r"another model_args.dtype"),
        (["--output", "RUN"], r"cannot be a probe's: it holds run.json and no settings.json"),
        (["--output", "REPORT"], r"cannot be a probe's: it holds csv and no settings.json"),
        (["--output", "NEW", "--task", "nabla_contdown"], r"no task 'nabla_contdown'"),
        (["--output", "NEW", "--gen_kwargs", "temperature=0"], r"asks for greedy decoding"),
        (["--output", "NEW", "--task", "greedy_task"], r"greedy_task asks for greedy decoding"),
        (["--output", "NEW", "--task", "greedy_*"], r"greedy_task asks for greedy decoding"),
        (["--output", "NEW", "--task", "no_data"], r"nowhere.jsonl"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_known_before_models_are_is_refused_before(
    words: list[str],
    told: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No folder of something else is touched, and no model is loaded."""
    names = {name: tmp_path / name.lower() for name in ("RUN", "REPORT", "NEW", "PROBE")}
    for name in ("RUN", "REPORT"):
        names[name].mkdir()
    (names["RUN"] / "run.json").write_text("{}")
    (names["REPORT"] / "csv").mkdir()
    (names["REPORT"] / "report.html").write_text("a report")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "data.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    for task, data in (("greedy_task", "data"), ("no_data", "nowhere")):
        text = GREEDY.replace("DATA", str(tasks / f"{data}.jsonl")).replace("greedy_task", task)
        (tasks / f"{task}.yaml").write_text(text)
    probe = ["probe", *SMALL, "--include_path", str(tasks), "--output", str(names["PROBE"])]
    if "--output" not in words:
        facts = tmp_path_factory.getbasetemp() / "probed-before"
        if not facts.exists():
            done = CliRunner().invoke(main, [*probe[:-1], str(facts)])
            assert done.exit_code == 0, done.output
        probe[-1] = str(facts)
    before = {path for path in tmp_path.rglob("*") if "new" not in path.parts}
    monkeypatch.setattr(NablaLM, "__init__", lambda *_, **__: pytest.fail("a model is loaded"))
    done = CliRunner().invoke(main, [*probe, *(str(names.get(word, word)) for word in words)])
    assert done.exit_code == 1, done.output
    assert re.search(told, " ".join(done.stderr.split())), done.stderr
    assert {path for path in tmp_path.rglob("*") if "new" not in path.parts} == before


def test_tasks_are_measured_in_turn() -> None:
    """Where the time is up, each task has had its share, and not the first one alone."""
    samples: list[Any] = [
        SimpleNamespace(request=SimpleNamespace(task_name=name), repeat=i)
        for name, count in (("a", 3), ("b", 1), ("c", 2))
        for i in range(count)
    ]
    order = [f"{own.request.task_name}{own.repeat}" for own in in_turn(samples)]
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2"]


@pytest.mark.parametrize(("upwards", "right"), [(True, True), (False, None)])
def test_a_metric_of_which_less_is_better_grades_nothing(upwards: bool, right: bool | None) -> None:
    def keep(requests: list[Any]) -> None:
        for own in requests:
            own.filtered_resps = {"none": own.resps}

    task = SimpleNamespace(
        _filters=[SimpleNamespace(name="none", apply=keep)],
        process_results=lambda doc, results: {"errors": 0.75},
        higher_is_better=lambda: {"errors": upwards},
    )
    request = SimpleNamespace(task_name="a", doc={}, resps=[], filtered_resps={}, repeats=1)
    found: Any = SimpleNamespace(tasks={"a": task})
    assert grader(found, request, SimpleNamespace(thought=None))("text") is right  # type: ignore[arg-type]
    task._filters = []  # lm-eval measures nothing then
    assert grader(found, request, SimpleNamespace(thought=None))("text") is None  # type: ignore[arg-type]


FILTERED = """\
repeats: {repeats}
filter_list:
  - name: first
    filter:
{first}
  - name: flexible
    filter:
      - {{function: take_first}}
"""


@pytest.mark.parametrize(
    ("steps", "repeats", "right"),
    [
        (["{function: regex, regex_pattern: ZZZ}", "{function: take_first}"], 1, False),
        (["{function: take_first}"], 1, True),
        (["{function: take_first_k, k: 3}"], 3, True),
        (["{function: majority_vote}", "{function: take_first}"], 3, True),
    ],
    ids=["strict", "flexible", "all repeats", "a vote"],
)
@pytest.mark.usefixtures("no_environment")
def test_a_probe_and_a_report_go_by_the_first_filter(
    tmp_path: Path, steps: list[str], repeats: int, right: bool
) -> None:
    folder, first = write_task(tmp_path / "tasks"), "\n".join(f"      - {step}" for step in steps)
    file = folder / f"{TASK}.yaml"
    file.write_text(file.read_text() + FILTERED.format(repeats=repeats, first=first))
    of_task = ["--include_path", str(folder), "--task", TASK, "--limit", "4", "--device", "cpu"]
    run = [*of_task, "--method", "greedy", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(main, ["run", *run])
    assert done.exit_code == 0, done.output
    told = CliRunner().invoke(main, ["report", "accuracy", str(tmp_path / "run"), "--json"])
    (row,) = json.loads(told.stdout)["runs"]
    probe = ["probe", *SMALL, *of_task, "--output", str(tmp_path / "probe")]
    done = CliRunner().invoke(main, probe)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "probe" / "probe.json").read_text())["room"]["greedy"]["value"]
    assert found == row["accuracy"] and (found > 0) == right
    assert f"Right by the filter first of {TASK}'s filters." in " ".join(done.stdout.split())
    told = CliRunner().invoke(main, ["report", "accuracy", str(tmp_path / "run")])
    assert f"Filters: {TASK} has first, flexible. Scores are of first;" in " ".join(
        told.stdout.split()
    )
