"""The file of a sweep: what it multiplies to, and what it is told where it is wrong."""

from __future__ import annotations

import pytest

from nabla_eval.errors import ConfigError, DataError
from nabla_eval.runs.command import compose
from nabla_eval.runs.sweep_file import read_sweep


def study(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return read_sweep(file)


def rows(found):
    def own(cell):
        return {k: v for k, v in cell.evaluation.model_args.items() if k != "seed"}

    return [(cell.name, cell.task, cell.seed, own(cell)) for cell in found.cells]


def test_lists_multiply_and_names_tell_the_cells_apart(tmp_path):
    text = """
        tasks: [a, b]
        seeds: [0, 7]
        grid: {n: [2, 4], lr: 1e-3}
        variants:
          - {name: nabla, method: nabla}
          - {name: twin, steps: 0, n: 3}
        """
    found = study(tmp_path, text)
    assert len(found.cells) == 2 * 2 * 2 + 2 * 2
    first = {"n": 2, "lr": "1e-3", "method": "nabla"}  # YAML reads 1e-3 as text
    assert rows(found)[:3] == [
        ("nabla n=2", "a", 0, first), ("nabla n=2", "a", 7, first), ("nabla n=2", "b", 0, first),
    ]  # fmt: skip
    assert rows(found)[-1] == ("twin", "b", 7, {"n": 3, "lr": "1e-3", "steps": 0})
    folders = {cell.folder for cell in found.cells}
    assert len(folders) == len(found.cells) and found.cells[0].folder == "nabla_n2-a-s0"
    read = [cell.evaluation.arguments for cell in found.cells]
    assert (read[0].config.n, read[0].config.lr, read[1].seed) == (2, 0.001, 7)
    small = study(tmp_path, "tasks: a\ngrid: {n: [2]}\nvariants: [{name: nabla}]")
    assert {cell.folder for cell in small.cells} < folders, "they stay when others are added"


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        # A grid alone names its cells by method.
        (
            "tasks: a\ngrid: {method: [nabla, best_of_n], n: [2, 4]}",
            [
                ("nabla n=2", "a", 0, {"method": "nabla", "n": 2}),
                ("nabla n=4", "a", 0, {"method": "nabla", "n": 4}),
                ("best_of_n n=2", "a", 0, {"method": "best_of_n", "n": 2}),
                ("best_of_n n=4", "a", 0, {"method": "best_of_n", "n": 4}),
            ],
        ),
        # What a method does not have is left out of the grid; one that draws nothing has one seed.
        (
            "tasks: a\nseeds: [0, 1]\ngrid: {method: [greedy, best_of_n], n: [2, 4], steps: 3}",
            [
                ("greedy", "a", 0, {"method": "greedy"}),
                ("best_of_n n=2", "a", 0, {"method": "best_of_n", "n": 2}),
                ("best_of_n n=2", "a", 1, {"method": "best_of_n", "n": 2}),
                ("best_of_n n=4", "a", 0, {"method": "best_of_n", "n": 4}),
                ("best_of_n n=4", "a", 1, {"method": "best_of_n", "n": 4}),
            ],
        ),
        # Null takes an argument out.
        (
            "tasks: a\ngrid: {stop_reward: 2, n: 4}\nvariants: [{stop_reward: null},"
            " {name: b, n: 2}]",
            [("nabla", "a", 0, {"n": 4}), ("b", "a", 0, {"stop_reward": 2, "n": 2})],
        ),
        # YAML's merge key; a mapping's own keys replace what it merges, wherever that was read.
        (
            "tasks: a\nvariants: [{name: b, <<: [{<<: {n: 4, steps: 3}, n: 2}, {lr: 1, n: 5}],"
            " lr: 2}]",
            [("b", "a", 0, {"n": 2, "steps": 3, "lr": 2})],
        ),
        (
            "tasks: a\ngen_kwargs: {a: {b: {c: &d {<<: {n: 4}, n: 2}}}}\ngrid: {<<: *d}",
            [("nabla", "a", 0, {"n": 2})],
        ),
    ],
)
def test_the_cells_of_a_grid_and_its_variants(tmp_path, text, cells):
    assert rows(study(tmp_path, text)) == cells


def test_settings_are_lm_evals(tmp_path):
    text = """
        {name: mine, tasks: a, limit: 8, batch_size: 64, device: cpu, num_fewshot: 2,
         gen_kwargs: {max_gen_toks: 12}, apply_chat_template: true, include_path: elsewhere}
        """
    found = study(tmp_path, text)
    evaluation = found.cells[0].evaluation
    assert (found.name, evaluation.options["include_path"]) == ("mine", ["elsewhere"])
    manifest = evaluation.manifest("c", "n")
    assert (manifest["limit"], manifest["batch_size"], manifest["tasks"]) == (8, 64, ["a"])
    assert manifest["options"] == {
        "num_fewshot": 2, "gen_kwargs": {"max_gen_toks": 12}, "apply_chat_template": True,
    }  # fmt: skip


def test_a_cell_is_the_evaluation_that_a_run_makes(tmp_path):
    found = study(tmp_path, "tasks: nabla_amc\ngrader: math_verify\nlimit: 4\ngrid: {n: 2}")
    alone = compose([], tasks=("nabla_amc",), grader="math_verify", limit=4, n=2)
    one, other = found.cells[0].evaluation.manifest("c", "n"), alone.manifest("c", "n")
    assert {**one, "started": ""} == {**other, "started": ""}


@pytest.mark.parametrize(("given", "kept"), [("true", None), ("false", False)])
def test_multiturn_without_a_chat_template_says_nothing(tmp_path, given, kept):
    """lm-eval would refuse it as true."""
    found = study(tmp_path, f"tasks: a\nfewshot_as_multiturn: {given}")
    assert found.cells[0].evaluation.options["fewshot_as_multiturn"] is kept


def test_long_and_odd_names_make_safe_folders(tmp_path):
    text = f"tasks: a\nvariants: [{{name: '../{'x' * 200}1'}}, {{name: '../{'x' * 200}2'}}]"
    folders = [cell.folder for cell in study(tmp_path, text).cells]
    assert len(set(folders)) == 2
    assert all(len(folder) <= 100 and "/" not in folder for folder in folders)
    assert not any(folder.startswith(".") for folder in folders)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: a\nsedes: 3", ["'sedes'", "seeds"]),
        ("tasks: a\nsteps: 3", ["'steps'", "grid"]),
        ("grid: {n: 2}", ["tasks", "Try"]),
        ("tasks: a\nseeds: []", ["seeds", "Try"]),
        ("tasks: a\nseeds: [1.5]", ["seeds", "1.5", "integer"]),
        ("tasks: [1]", ["tasks[0]", "1", "string"]),
        ("tasks: a\nlimit: many", ["limit", "'many'"]),
        ("tasks: a\nlimit: 0", ["limit", "0"]),
        ("tasks: a\nlimit: true", ["limit", "True"]),
        ("tasks: a\nbatch_size: 0", ["batch_size", "0"]),
        ("tasks: a\ngrader: me", ["grader must be nabla_eval or math_verify, got 'me'"]),
        ("tasks: a\ngrid: [1]", ["grid", "mapping"]),
        ("tasks: a\ngrid: {n: {x: 1}}", ["grid.n", "list of values"]),
        ("tasks: a\ngrid: {n: []}", ["grid.n", "[]"]),
        ("tasks: a\ngrid: {n: []}\nvariants: [{method: greedy}]", ["grid.n", "[]"]),
        ("tasks: a\ngrid: {seed: 3}", ["grid sets seed=3", "at the top, as `seeds:`"]),
        ("tasks: a\nseed: [0, 1]", ["unknown key 'seed'. Did you mean `seeds:`?"]),
        ("tasks: a\ntrace_dir: x", ["unknown key 'trace_dir'. Leave it out"]),
        ("tasks: a\ngrid: {seed: 3}\nvariants: [{method: greedy}]", ["grid sets seed=3"]),
        ("tasks: a\nvariants: [{device: cpu}]", ["variants[0] sets device='cpu'", "as `device:`"]),
        ("tasks: a\ngrid: {limit: 3}", ["grid sets limit=3. Write it at the top, as `limit:`"]),
        ("tasks: a\ngrid: {seeds: [3]}", ["grid sets seeds=[3]", "at the top, as `seeds:`"]),
        ("tasks: a\ngrid: {trace_dir: x}", ["trace_dir", "Leave it out"]),
        ("tasks: a\ngrid: {n: 0}", ["nabla: n must be an integer >= 1, got 0"]),
        ("tasks: a\ngrid: {stepz: 3}", ["nabla", "'stepz'", "steps"]),
        ("tasks: a\nvariants: {}", ["variants", "a list"]),
        ("tasks: a\nvariants: [{name: 3}]", ["variants[0].name", "3"]),
        ("tasks: a\nvariants: [{name: x}, {name: x, n: 2}]", ["two variants", "'x'"]),
        (
            "tasks: a\nvariants: [{name: 日}, {name: 月, n: 2}]",
            ["'日' and '月' would share a folder"],
        ),
        ("tasks: a\nvariants: [{method: greedy, n: 4}]", ["method=greedy has no option 'n'"]),
        ("tasks: a\nvariants: [{method: nable}]", ["nable", "Did you mean nabla"]),
    ],
)
def test_mistakes_are_named_with_file_key_value_and_what_to_try(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, text)
    assert all(word in str(caught.value) for word in ["study.yaml", *words]), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [", "not readable YAML"),
        ("tasks: a\ntasks: b", "line 2: the key 'tasks' is there twice"),
        ("tasks: a\ngrid: {<<: {n: 2}, n: 3, n: 4}", "line 2: the key 'n' is there twice"),
        ("tasks: a\ngrid: {<<: {n: 2}, <<: {n: 3}}", "line 2: the key '<<' is there twice"),
        ("tasks: a\ngrid: {<<: {n: 2, n: 3}}", "line 2: the key 'n' is there twice"),
        ("tasks: a\ngrid: {<<: 3}", "expected a mapping"),
        ("tasks: !!python/object/apply:os.system ['exit 1']", "not readable YAML"),
        ("- a", "holds list"),
        ("", "holds NoneType"),
    ],
)
def test_what_is_no_study_is_refused_and_nothing_is_run(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        study(tmp_path, text)
    with pytest.raises(DataError, match="There is no file"):
        read_sweep(tmp_path / "none.yaml")
