"""Inputs made after public reports that concern the harness, by kind; grading has its own test."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import model_builders as build
import pytest
from tokenizers.processors import TemplateProcessing

from nabla_eval.config import Sampling
from nabla_eval.engine.vllm import sampling_arguments
from nabla_eval.errors import ConfigError
from nabla_eval.grading import grade
from nabla_eval.harness.arguments import read
from nabla_eval.harness.command import compose
from nabla_eval.harness.generation import Reader
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.math_metrics import check_metrics, majority, pass_at_k
from nabla_eval.models.chat import render
from nabla_eval.models.load import policy_from

Row = dict[str, Any]
Tools = Callable[[str], Any]  # a fixture by its name


def encoded(template: str, prompt: str) -> tuple[Any, tuple[int, ...]]:
    tokenizer = build.word_tokenizer(bos_token="<bos>")
    special = [t for t in ("<bos>", "<eos>") if t in template]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template,
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in special],
    )
    return tokenizer, policy_from(build.tiny("policy", tokenizer), tokenizer).encode(prompt)


def appended_eos(row: Row, tools: Tools) -> None:
    tokenizer, ids = encoded("$A <eos>", row["input"]["prompt"])
    assert ids[-1] != tokenizer.eos_token_id and len(ids) == 4


def one_bos(row: Row, tools: Tools) -> None:
    tokenizer, ids = encoded("<bos> $A", row["input"]["prompt"])
    assert row["expected"] == "BOS once" and ids.count(tokenizer.bos_token_id) == 1


def stop_names_until(row: Row, tools: Tools) -> None:
    with pytest.raises(ConfigError, match=r"lm-eval's name is until: try until=\[';'\]"):
        Reader(read({}))(row["input"]["gen_kwargs"])


def both_spellings(row: Row, tools: Tools) -> None:
    for given in ("max_gen_toks=16", '{"max_gen_toks": 16}'):
        options = compose(["--gen_kwargs", given]).namespace.gen_kwargs
        assert Reader(read({}))(options).max_new_tokens == 16


def reach_requests(row: Row, tools: Tools) -> None:
    found = tools("evaluate")(
        tools("lm")(method="greedy"), "nabla_countdown", limit=1,
        gen_kwargs=row["input"]["gen_kwargs"],
    )  # fmt: skip
    ((_, options), *_) = found["samples"]["nabla_countdown"][0]["arguments"]
    assert str(options["max_gen_toks"]) == row["expected"]


def refused_with_advice(row: Row, tools: Tools) -> None:
    options = compose(["--gen_kwargs", row["input"]["gen_kwargs"]]).namespace.gen_kwargs
    with pytest.raises(ConfigError, match=r"repetition_penalty=1\.05 has no counterpart .* leave"):
        Reader(read({}))(options)


def any_order(row: Row, tools: Tools) -> None:
    told = row["input"]
    grades = [grade(told["gold"], answer, extracted=True) for answer in told["answers"]]
    (found,) = {majority(order) for order in permutations(grades)}
    if share := re.search(r"(\d) of (\d) votes are graded right", row["expected"]):
        assert found == int(share[1]) / int(share[2])


def too_few(row: Row, tools: Tools) -> None:
    n, k = row["input"]["n"], row["input"]["k"]
    with pytest.raises(ConfigError, match=f"pass@{k} of the task needs at least {k} samples"):
        pass_at_k(n, 1, k)
    with pytest.raises(ConfigError, match=f"pass@{k} of t needs at least {k} samples"):
        check_metrics([f"pass@{k}"], n, "t")


def chosen_documents(row: Row, tools: Tools) -> None:
    task, places = re.fullmatch(r"\{(\w+):(\[.*\])\}", row["input"]["samples"]).groups()
    found = tools("evaluate")(
        tools("lm")(method="greedy"), task, limit=None, samples={task: json.loads(places)}
    )
    assert row["expected"] == "two documents" and len(found["samples"][task]) == 2


def each_its_own(row: Row, tools: Tools) -> None:
    tools("monkeypatch").setenv("NABLA_DATA", str(tools("shared_data")))
    tasks = tools("task_manager")().load(row["input"]["tasks"])["tasks"]
    reader = Reader(read({}))
    asked = {name: reader(task.config.generation_kwargs) for name, task in tasks.items()}
    for name, task in tasks.items():
        assert asked[name].stop == tuple(task.config.generation_kwargs["until"])
        assert asked[name].max_new_tokens == task.config.generation_kwargs["max_gen_toks"]
    assert len({found.stop for found in asked.values()}) == len(tasks)


def merged(row: Row, tools: Tools) -> None:
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    tokenizer = build.word_tokenizer(chat=refusing)
    system = {"role": "system", "content": row["input"]["system_instruction"]}
    text = render(tokenizer, [system, {"role": "user", "content": "1+1?"}])
    assert text == "Be brief\n\n1+1?"


def greedy_or_a_warning(row: Row, tools: Tools) -> None:
    caplog = tools("caplog")
    options = compose(["--gen_kwargs", row["input"]["gen_kwargs"]]).namespace.gen_kwargs
    with caplog.at_level(logging.WARNING, logger="nabla_eval"):
        Reader(read({"method": "greedy"}))(options)
        assert not caplog.records
        Reader(read({"method": "nabla"}))(options)
    assert "asks for greedy decoding (temperature=0), which method=nabla cannot" in caplog.text


def not_the_checkpoints(row: Row, tools: Tools) -> None:
    penalised = tools("tmp_path") / "policy"
    shutil.copytree(tools("policy_folder"), penalised)
    stored = penalised / "generation_config.json"
    told = json.loads(stored.read_text()) if stored.is_file() else {}
    told |= {"repetition_penalty": 5.0, "top_k": 1, "temperature": 0.1, "do_sample": True}
    stored.write_text(json.dumps(told))
    request = tools("ask")()
    texts = [
        NablaLM(folder, device="cpu", method="self_consistency", n=3, seed=0).generate_until(
            [request], disable_tqdm=True
        )
        for folder in (str(penalised), tools("policy_folder"))
    ]
    assert row["expected"] == "engine's output unchanged" and texts[0] == texts[1]


def penalties_are_sent(row: Row, tools: Tools) -> None:
    sent = sampling_arguments(Sampling())
    assert (sent["repetition_penalty"], sent["presence_penalty"], sent["min_p"]) == (1, 0, 0)


CHECKS: dict[str, Callable[[Row, Tools], None]] = {
    "EOS appended to the prompt": appended_eos,
    "BOS of plain prompts": one_bos,
    "`stop` in gen_kwargs": stop_names_until,
    "gen_kwargs as text and as JSON": both_spellings,
    "gen_kwargs reach requests": reach_requests,
    "repetition_penalty asked for": refused_with_advice,
    "maj@k depends on the order of samples": any_order,
    "pass@k with n<k": too_few,
    "--samples": chosen_documents,
    "several tasks, several until": each_its_own,
    "system message refused by the template": merged,
    "temperature 0": greedy_or_a_warning,
    "generation_config penalties": not_the_checkpoints,
    "generation_config of the server": penalties_are_sent,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_reported_inputs(kind: str, shared_data: Path, request: pytest.FixtureRequest) -> None:
    lines = (shared_data / "reported_inputs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == kind]
    assert rows, f"no row is of the kind {kind!r}"
    for row in rows:
        CHECKS[kind](row, request.getfixturevalue)
