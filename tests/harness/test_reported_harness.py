"""Inputs made after public reports: ends of prompts, stop=, maj@k and pass@k, row by row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import permutations
from typing import Any

import model_builders as build
import pytest
from tokenizers.processors import TemplateProcessing

from nabla_eval.errors import ConfigError
from nabla_eval.grading import grade
from nabla_eval.harness.arguments import read
from nabla_eval.harness.generation import Reader
from nabla_eval.harness.metrics import check_metrics, majority, pass_at_k
from nabla_eval.models.load import policy_from

Row = dict[str, Any]


def appended_eos(row):
    tokenizer = build.word_tokenizer()
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", eos)]
    )
    prompt = row["input"]["prompt"]
    assert tokenizer(prompt)["input_ids"][-1] == eos
    ids = policy_from(build.tiny("policy", tokenizer), tokenizer).encode(prompt)
    assert eos not in ids and len(ids) == len(prompt)


def stop_names_until(row):
    assert row["expected"] == "refused, naming until"
    with pytest.raises(ConfigError, match=r"lm-eval's name is until. Try until=\[';'\]"):
        Reader(read({}))(row["input"]["gen_kwargs"])


def any_order(row):
    told = row["input"]
    grades = [grade(told["gold"], answer, extracted=True) for answer in told["answers"]]
    (found,) = {majority(order) for order in permutations(grades)}
    if share := re.search(r"(\d) of (\d) votes are graded right", row["expected"]):
        assert found == int(share[1]) / int(share[2])


def too_few(row):
    n, k = row["input"]["n"], row["input"]["k"]
    with pytest.raises(ConfigError, match=f"pass@{k} of the task needs at least {k} samples"):
        pass_at_k(n, 1, k)
    with pytest.raises(ConfigError, match=f"pass@{k} of t needs at least {k} samples"):
        check_metrics([f"pass@{k}"], n, "t")


CHECKS: dict[str, Callable[[Row], None]] = {
    "EOS appended to the prompt": appended_eos,
    "`stop` in gen_kwargs": stop_names_until,
    "maj@k depends on the order of samples": any_order,
    "pass@k with n<k": too_few,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_reported_inputs(kind, shared_data):
    lines = (shared_data / "reported_inputs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == kind]
    assert rows, f"no row is of the kind {kind!r}"
    for row in rows:
        CHECKS[kind](row)
