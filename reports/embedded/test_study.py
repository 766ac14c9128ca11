"""The embedded study's files, and the page that answers.py makes of known runs of two seeds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import BEST_OF_N, NABLA, candidate, record, write_run

from nabla_eval.runs.sweep_file import read_sweep

P = 10  # problems
GREEDY = {"max_calls": None}


@pytest.mark.parametrize("name", ["scaling", "ablations", "search"])
def test_the_grids_have_four_seeds_and_enough_problems(root: Path, name: str) -> None:
    study = read_sweep(root / "reports/embedded" / f"{name}.yaml")
    assert {cell.seed for cell in study.cells} == {0, 1, 2, 3}
    assert {cell.evaluation.options["limit"] for cell in study.cells} == {500}
    methods = {cell.evaluation.arguments.method for cell in study.cells}
    if name == "search":
        assert {"beam", "tree_of_thought", "rap", "weighted_best_of_n"} <= methods
    if name == "scaling":
        assert {cell.evaluation.model_args.get("preset") for cell in study.cells} >= {
            "paper",
            "released",
        }


def write(folder: Path, name: str, right: int, calls: float, method: str, config: Any) -> None:
    """Two seeds; the second is right on one problem more."""
    for seed in (0, 1):
        steps = [candidate("rejected"), candidate("accepted", index=1)]
        lines = [
            record(i, method=method, config=config, seed=seed, calls=calls + i,
                   candidates=steps if method == "nabla" else ())
            for i in range(P)
        ]  # fmt: skip
        scores = [float(i < right + seed) for i in range(P)]
        run = write_run(folder / f"{name}-s{seed}", lines, scores, seed=seed)
        (run / "run.json").write_text(json.dumps({"name": name}))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    stop = {"stop_reward": 0.0}
    best = {n: {**BEST_OF_N, "n": n} for n in (1, 8)}
    write(tmp_path / "scaling", "greedy", 3, 5.0, "greedy", GREEDY)
    for n, right in ((1, 2), (8, 6)):
        write(tmp_path / "scaling", f"best {n}", right, 10.0 * n, "best_of_n", best[n])
        stopping = {**best[n], **stop}
        write(tmp_path / "scaling", f"best {n} stop", right, 5.0 * n, "best_of_n", stopping)
    write(tmp_path / "scaling", "nabla", 8, 30.0, "nabla", NABLA)
    write(tmp_path / "scaling", "twin", 7, 30.0, "nabla", {**NABLA, "steps": 0})
    write(tmp_path / "ablations", "nabla", 8, 30.0, "nabla", NABLA)
    write(tmp_path / "ablations", "twin", 7, 30.0, "nabla", {**NABLA, "steps": 0})
    write(tmp_path / "ablations", "lr 0.1", 6, 30.0, "nabla", {**NABLA, "lr": 0.1})
    write(tmp_path / "search", "rap", 5, 40.0, "rap", {"iterations": 10})
    return tmp_path


def page(root: Path, studies: Path, monkeypatch: pytest.MonkeyPatch, training: Path) -> str:
    file = root / "reports/embedded/answers.py"
    spec = importlib.util.spec_from_file_location("embedded_answers", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    words = ["answers.py", str(studies), "--output", str(studies), "--training", str(training)]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    return (studies / "README.md").read_text(encoding="utf-8")


def test_the_page_answers_with_seeds_pooled_within_problems(root, studies, monkeypatch) -> None:
    text = page(root, studies, monkeypatch, studies / "none.json")
    assert "`bash reports/embedded/run.sh`" in text and "seeds 0, 1" in text
    for question in ("beat its zeroth-order twin?", "best-of-N at equal N?", "equal model calls?"):
        assert question in text
    # 8.5 against 7.5 of 10 right: two problems differ by one half each.
    row = next(line for line in text.splitlines() if line.startswith("| default | 1."))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:4] == ["8", "85.0 %"] and cells[5] == "+10.0" and cells[7] == "1.000"
    audit = next(line for line in text.splitlines() if line.startswith("| lr 0.1 |"))
    assert "| 65.0 % | -10.0 (" in audit
    search = next(line for line in text.splitlines() if line.startswith("| rap |"))
    assert "| 55.0 % |" in search and "| -10.0 (" in search and "| +20.0 (" in search
    assert "The trained rows (SFT, GRPO) are not in this report" in text


def test_trained_rows_are_taken_in_where_they_are(root, studies, monkeypatch) -> None:
    rows = [
        {"name": "under-trained", "accuracy": {"value": 0.357}},
        {"name": "SFT", "accuracy": {"value": 0.475},
         "against": {"under-trained": {"value": 0.118, "low": 0.08, "high": 0.15}}},
    ]  # fmt: skip
    file = studies / "training.json"
    file.write_text(json.dumps({"problems": 600, "seed": 0, "rows": rows}))
    text = page(root, studies, monkeypatch, file)
    assert (
        "| SFT | 47.5 % | +11.8 (+8.0 to +15.0) over under-trained |" in text
        and "not in this report" not in text
    )
