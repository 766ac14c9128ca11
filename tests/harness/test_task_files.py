"""The task files are found, and read without running anything in them."""

from __future__ import annotations

import pytest
from lm_eval.tasks import TaskManager

from nabla_eval.errors import DataError
from nabla_eval.harness import task_files
from nabla_eval.harness.task_files import TaskFile, list_tasks, tasks_path


def test_a_checkout_uses_its_own_files(root):
    assert tasks_path() == root / "tasks"


def test_lm_eval_finds_the_same_names():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    assert {task.name for task in list_tasks()} <= set(manager.all_tasks)


def test_tasks_and_groups_are_told_apart_and_templates_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "_template.yaml").write_text("dataset_path: json\noutput_type: generate_until\n")
    (tmp_path / "sub" / "one.yaml").write_text(
        "include: ../_template.yaml\ntask: one\nprocess_results: !function utils.process\n"
    )
    (tmp_path / "all.yaml").write_text("group: all\ntask: [one]\n")
    assert list_tasks(tmp_path) == [
        TaskFile("all", "group", tmp_path / "all.yaml", ""),
        TaskFile("one", "task", tmp_path / "sub" / "one.yaml", ""),
    ]


def test_missing_files_are_reported_with_every_place(tmp_path, monkeypatch):
    places = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(task_files, "_candidates", lambda: iter(places))
    with pytest.raises(DataError, match="Reinstall") as caught:
        tasks_path()
    assert all(str(place) in str(caught.value) for place in places)
