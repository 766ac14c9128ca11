"""`nabla-eval data`: fetching problem sets, and saying which rows of a copy are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nabla_eval.cli.main import main
from nabla_eval.harness.problems import known, store
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.models import hub as models_hub

ROWS = [{"id": n, "problem": f"What is {n} + 1?", "answer": n + 1} for n in range(30)]


def run(*arguments: Any) -> Result:
    words = ["data", *map(str, arguments)]
    return CliRunner().invoke(main, words, env={"COLUMNS": "200"})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A hub that serves these rows under every name, and remembers who was asked for."""
    import datasets

    asked: list[str] = []

    def serve(rows: list[dict[str, Any]]) -> list[str]:
        def load(path: str, *_: Any, **__: Any) -> list[dict[str, Any]]:
            asked.append(path)
            return rows

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(known, "reference_copies", dict)
        for module in (store, models_hub):
            monkeypatch.setattr(module, "hub_answers", lambda: True)
        return asked

    return serve


def test_fetch_then_check(served: Callable[..., list[str]], tmp_path: Path) -> None:
    asked = served(ROWS)
    folder = tmp_path / "problems"
    fetched = run("fetch", folder, "--only", "aime24", "--only", "nabla_aime25")
    assert fetched.exit_code == 0, fetched.output
    assert asked == ["HuggingFaceH4/aime_2024", "math-ai/aime25"]
    assert "30 of 30" in fetched.stdout and f"NABLA_DATA={folder}" in fetched.stdout
    assert store.read(folder, SETS["aime24"]).items[3]["answer"] == "4"
    checked = run("check", folder)
    assert checked.exit_code == 0 and checked.stdout.count("ok") == 2


def test_what_is_there_and_right_is_kept(served: Callable[..., list[str]], tmp_path: Path) -> None:
    asked = served(ROWS)
    run("fetch", tmp_path, "--only", "aime24")
    run("fetch", tmp_path, "--only", "aime24")
    assert len(asked) == 1
    (tmp_path / "aime24.jsonl").write_text("{")
    assert run("fetch", tmp_path, "--only", "aime24").exit_code == 0
    run("fetch", tmp_path, "--only", "aime24", "--force")
    assert len(asked) == 3


def test_what_cannot_be_fetched_is_said_and_does_not_stop_the_others(
    served: Callable[..., list[str]], tmp_path: Path
) -> None:
    offline = run("fetch", tmp_path / "new")
    assert offline.exit_code == 1 and not (tmp_path / "new").exists()
    assert "there is no network" in offline.stderr and offline.stderr.strip().count("\n") == 0
    served(ROWS)  # which MATH-500 cannot be
    done = run("fetch", tmp_path, "--only", "math500", "--only", "aime25")
    assert done.exit_code == 1
    assert "HuggingFaceH4/MATH-500@6e4ed1a has 30 items, and MATH-500 has 500" in done.stdout
    assert (tmp_path / "aime25.jsonl").is_file() and not (tmp_path / "math500.jsonl").exists()


def test_check_names_what_is_wrong(served: Callable[..., list[str]], tmp_path: Path) -> None:
    served(ROWS)
    run("fetch", tmp_path, "--only", "aime24")
    file = tmp_path / "aime24.jsonl"
    file.write_text(file.read_text().replace("What is 8 + 1?", "What is 7 + 1?"))
    done = run("check", tmp_path)
    assert done.exit_code == 1
    assert "aime24.jsonl: problems that stand there twice: 8." in done.stdout
    found = json.loads(run("check", tmp_path, "--json").stdout)
    assert not found["ok"] and found["sets"]["aime24"]["verdict"] == "wrong"
    file.unlink()
    gone = run("check", tmp_path, "--only", "aime24")
    assert gone.exit_code == 1 and "aime24.jsonl" in gone.stdout and "not there" in gone.stdout


def test_check_of_the_shared_folder(shared_data: Path) -> None:
    done = run("check", shared_data)
    assert done.exit_code == 0, done.output
    for count in ("30 of 30", "83 of 83", "40 of 40", "500 of 500", "200 of 1319"):
        assert count in done.stdout
    assert "ok (part)" in done.stdout


def test_check_refuses_what_is_no_set(tmp_path: Path) -> None:
    empty = run("check", tmp_path)
    assert empty.exit_code == 1 and "holds no problem set" in empty.stderr
    unknown = run("check", tmp_path, "--only", "aime")
    assert unknown.exit_code == 1 and "Did you mean" in unknown.stderr
    (tmp_path / "amc23.jsonl").write_text('{"problem": "?", "answer": "1"}\n')
    (tmp_path / "aime25.jsonl").write_text('{"problem": "[red]?", "answer": "[red]"}\n')
    done = run("check", tmp_path)
    assert done.exit_code == 1
    assert "amc23.jsonl: 1 items instead of 40" in done.stdout
    assert "row 1 has the answer '[red]'" in done.stdout
