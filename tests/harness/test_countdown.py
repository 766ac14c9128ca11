"""The embedded task: its problems, its grading, and other models on it."""

from __future__ import annotations

import math

from nabla_eval.harness.countdown import process_results
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.response import NablaResponse

COUNTDOWN = "nabla_countdown"


def test_problems_are_read_as_the_policy_was_trained_to(lm):
    from nabla_eval.embedded.countdown import Puzzle

    loaded = NablaLM(method="greedy", device="cpu")
    for problem in (Puzzle((20, 14, 7, 3), 39), Puzzle((1, 10, 5), 16)):
        tokens = [*",".join(map(str, problem.numbers)).replace(",", " , ").split(), "="]
        ids = loaded.tokenizer.convert_tokens_to_ids([*tokens, str(problem.target), "?"])
        assert ids[::2][:-1] == [*problem.numbers]  # an integer's id is its value
        assert loaded.tok_encode(problem.prompt) == ids
        assert lm(method="greedy").tok_encode(problem.prompt) == ids


def test_the_task_also_runs_with_hf(evaluate, policy_folder, table):
    hf = evaluate("hf", COUNTDOWN, model_args=f"pretrained={policy_folder},dtype=float64")
    found = table(hf)
    assert math.isfinite(found["exact_match,none"])
    assert not any(name.startswith("model_calls") for name in found)
    ours = evaluate("nabla", COUNTDOWN, model_args="method=greedy,dtype=float64")
    texts = [
        [sample["resps"] for sample in results["samples"][COUNTDOWN]] for results in (hf, ours)
    ]
    assert texts[0] == texts[1]  # greedy decoding is greedy decoding


def test_the_three_number_task_has_as_many_problems(lm, evaluate):
    results = evaluate(lm(method="greedy"), "nabla_countdown4", limit=2)
    assert results["n-samples"]["nabla_countdown4"] == {"original": 1200, "effective": 2}
    assert [len(s["doc"]["numbers"]) for s in results["samples"]["nabla_countdown4"]] == [4, 4]


def test_right_and_wrong_answers_are_told_apart():
    doc = {"prompt": "20,14,7,3=39?", "numbers": [20, 14, 7, 3], "target": 39}
    right, wrong = "20-14=6;7*6=42;42-3=39", "20-14=6;7*6=42;42-3=38"
    for text, score in ((right, 1), (f" {right}\nand so on", 1), (wrong, 0), ("", 0)):
        assert process_results(doc, [text]) == {"exact_match": score}
    assert process_results(doc, [[right, wrong, wrong, right]]) == {"exact_match": 0.5}
    stats = {"model_calls": 9, "generated_tokens": 8, "candidates": 4, "rejected": 3}
    stats["malformed"] = 2
    assert process_results(doc, [NablaResponse(right, stats)]) == {
        "exact_match": 1,
        "model_calls": 9,
        "generated_tokens": 8,
        "rejection_rate": 0.75,
        "malformed": 2,
    }
