"""The tasks: those on problem sets, offline on a tiny pair with real tokenizers, and Countdown."""

from __future__ import annotations

import json
import math
from typing import Any

import model_builders as build
import pytest

from nabla_eval.embedded.countdown import Puzzle
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.metrics import NablaResponse
from nabla_eval.harness.problems.known import reference_copies
from nabla_eval.harness.tasks import score_countdown
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair

COUNTS = {
    "nabla_aime24": 30, "nabla_aime25": 30, "nabla_amc": 83, "nabla_amc23": 40,
    "nabla_math500": 500, "nabla_gsm8k": 200,  # of which the shared folder has the first 200
}  # fmt: skip
SAMPLES = {"nabla_math500": 1, "nabla_gsm8k": 1}  # of the others, 4
EVERY = {"exact_match", "truncated", "no_answer", "grader_timeout", "model_calls"}
EVERY |= {"generated_tokens", "rejection_rate", "malformed"}

RISE = 1.5  # in value: "increased the value of the house by 150%"
PROFITABLE = r"""The cost of the house and repairs was $80,000 + $50,000 = $130,000. The value rose
by 1.5 * $80,000 = $120,000, so it is worth $200,000. The profit is $\boxed{70{,}000}$."""
LOSS = r"""The value is 80,000 * 1.5 = 120,000 dollars. The profit is
$120,000 - $130,000$, that is $\boxed{-10{,}000}$ dollars."""


@pytest.fixture(scope="session")
def tiny_qwen(real):
    """A random Qwen2.5 policy and Qwen3 reward model on their real tokenizers."""
    policy, reward = real(build.QWEN25), real(build.QWEN3)
    options = {"max_position_embeddings": 4096}
    actor = build.tiny("policy", policy, "qwen2", rows=152064, **options)
    judge = build.tiny("outcome", reward, "qwen3", rows=151936, seed=1, **options)
    own = policy_from(actor.float(), policy)
    return Pair(own, reward_from(judge.float(), reward, own))


@pytest.fixture
def offline(shared_data, monkeypatch):
    monkeypatch.setenv("NABLA_DATA", str(shared_data))
    return shared_data


@pytest.fixture
def task_of(root, tmp_path):
    """A task that includes the tasks' common file and says the given lines."""

    def make(*lines, asks="aime24", metadata=None):
        from lm_eval.tasks import TaskManager

        own = ["task: mine", *lines]
        if asks is not None:
            own.append(f"dataset_kwargs: {{problem_set: {asks}}}")
        text = "\n".join([f"include: {root / 'tasks' / '_math.yaml'}", *own])
        (tmp_path / "mine.yaml").write_text(text)
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False, metadata=metadata)
        return manager.load("mine")["tasks"]["mine"]

    return make


@pytest.fixture(scope="module")
def results(tiny_qwen, evaluate, shared_data):
    """All tasks, one problem each, answers of three tokens: rows of 152,064 logits are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NABLA_DATA", str(shared_data))
        found: dict[str, Any] = evaluate(
            NablaLM(pair=tiny_qwen, method="nabla", n=2, passes=1, steps=1, seed=0),
            ["nabla_math", "nabla_amc23", "nabla_gsm8k"],
            limit=1,
            gen_kwargs={"max_gen_toks": 3},
            apply_chat_template=True,
        )
    return found


def test_every_task_runs_offline_and_reports_its_metrics(results):
    assert results["results"].keys() == {"nabla_math", *COUNTS}
    for task in COUNTS:
        k = SAMPLES.get(task, 4)
        found = {name.removesuffix(",none") for name in results["results"][task] if "," in name}
        found = {name for name in found if not name.endswith("_stderr")}
        assert found == EVERY | {f"pass@{k}", f"maj@{k}"}, task
    assert "exact_match,none" in results["results"]["nabla_math"]
    assert results["group_subtasks"]["nabla_math"] == [
        "nabla_aime24", "nabla_aime25", "nabla_amc", "nabla_math500",
    ]  # fmt: skip


@pytest.mark.parametrize("task", COUNTS)
def test_items_draws_and_prompts_of_every_task(results, task):
    assert results["n-samples"][task]["original"] == COUNTS[task]
    config = results["configs"][task]
    assert config["metadata"]["items"] == COUNTS[task]
    tested = reference_copies()[task.removeprefix("nabla_")]
    assert config["metadata"]["items_hash"] == tested["hash"]
    json.dumps(config)  # nothing in it that a results file could not hold
    for sample in results["samples"][task]:  # all repeats are scored, and are different draws
        (responses,) = sample["filtered_resps"]
        assert len(set(responses)) == len(responses) == SAMPLES.get(task, 4)
    (prompt, options), *_ = results["samples"][task][0]["arguments"]
    assert "put your final answer within \\boxed{}.<|im_end|>" in prompt
    assert (options["temperature"], options["top_p"], options["until"]) == (0.5, 0.95, [])
    assert config["generation_kwargs"]["max_gen_toks"] == 3, "--gen_kwargs reaches the task"


def test_lengths_and_repeats_are_the_papers(offline, task_manager):
    tasks = task_manager().load(list(COUNTS))["tasks"]
    lengths = {name: task.config.generation_kwargs["max_gen_toks"] for name, task in tasks.items()}
    assert lengths == dict.fromkeys(COUNTS, 1024) | {"nabla_aime24": 3072, "nabla_aime25": 3072}
    repeats = {name: task.config.repeats for name, task in tasks.items()}
    assert repeats == {name: SAMPLES.get(name, 4) for name in COUNTS}


def test_an_undressed_chat_model_is_noticed(tiny_qwen, ask, caplog):
    model = NablaLM(pair=tiny_qwen, method="greedy")
    asked = [ask("What is 1+1?", doc=doc, max_gen_toks=1) for doc in (0, 1)]
    model.generate_until(asked, disable_tqdm=True)
    assert caplog.text.count("Add --apply_chat_template") == 1


def test_answers_to_padding_copies_are_not_scored(task_of, offline):
    """With several ranks, lm-eval appends them to the last request's own."""
    right, wrong = r"\boxed{025}", r"\boxed{26}"
    task = task_of("repeats: 4")
    scored = task.process_results({"answer": "25"}, [[right, wrong, wrong, wrong, *[right] * 4]])
    assert scored == {  # of lm-eval's other models, whose costs nobody knows
        "exact_match": 0.25, "pass@4": 1, "maj@4": 0, "no_answer": 0, "grader_timeout": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "metadata", "grader", "score"),
    [
        ([], None, "nabla_eval", 0),
        ([], {"grader": "math_verify"}, "math_verify", 1),
        (["metadata: {grader: math_verify}"], None, "math_verify", 1),
    ],
)
def test_math_verify_may_grade_and_the_results_say_who_did(
    task_of, offline, lines, metadata, grader, score
):
    task = task_of(*lines, metadata=metadata)
    doc, response = {"answer": "odd"}, r"\boxed{ddo}"  # equal as products of letters
    assert task.config.metadata["grader"] == grader
    assert task.process_results(doc, [[response]])["exact_match"] == score


def test_the_papers_example_of_gsm8k(task_of, offline):
    """D.3: a profit of 70,000 is right; the policy's own answer, -10,000, is not."""
    task = task_of(asks="gsm8k")
    (doc,) = (doc for doc in task.test_docs() if "flipping a house" in doc["problem"])
    assert doc["answer"] == "70000" and "150%" in task.doc_to_text(doc)
    for response, score in ((PROFITABLE, 1), (LOSS, 0), ("#### 70,000", 1), ("#### -10,000", 0)):
        assert task.process_results(doc, [[response]])["exact_match"] == score


def only(metric):
    how = "aggregation: mean, higher_is_better: true"
    return f"metric_list: [{{metric: {metric}, {how}}}]"


def test_metrics_can_be_picked(task_of, offline):
    picked = task_of("repeats: 3", only("pass@2"))
    found = picked.process_results({"answer": "1"}, [["1", "2", "3"]])
    assert found == {"pass@2": pytest.approx(2 / 3)}


def test_metadata_names_the_folder_and_items_with_known_faults_are_pointed_out(
    task_of, offline, tmp_path, caplog
):
    text = (offline / "aime24.jsonl").read_text()
    (tmp_path / "aime24.jsonl").write_text(text.replace('"385"', '"384"'))
    metadata = task_of(metadata={"data_dir": str(tmp_path)}).config.metadata
    assert metadata["items_source"] == str(tmp_path / "aime24.jsonl")
    assert metadata["items_hash"] != reference_copies()["aime24"]["hash"]
    assert "answers other than the known ones: aime24-" in caplog.text


@pytest.mark.parametrize(
    ("lines", "asks", "told", "kind", "said"),
    [
        (["repeats: 1"], None, {}, ConfigError, "does not say which problems"),
        ([], "aime", {}, ConfigError, "There is no problem set 'aime'"),
        ([], "aime24", {"data_dir": "HERE"}, DataError, "has 1 items, and AIME 2024"),
        ([], "amc", {"data_dir": "HERE"}, DataError, "has no amc83"),
        ([], "amc", {}, DataError, "there is no network"),
        ([], "amc", {"grader": "math-verify"}, ConfigError,
         r"no grader 'math-verify'\. Did you mean math_verify"),
        (["repeats: 4", only("pass@8")], "aime24", {}, ConfigError,
         "pass@8 of mine needs at least 8 samples"),
    ],
)  # fmt: skip
def test_wrong_tasks_and_folders_say_what_is_wrong(
    task_of, tmp_path, lines, asks, told, kind, said
):
    (tmp_path / "aime24.jsonl").write_text('{"problem": "?", "answer": 1}\n')
    metadata = {name: value.replace("HERE", str(tmp_path)) for name, value in told.items()}
    with pytest.raises(kind, match=said):
        task_of(*lines, asks=asks, metadata=metadata)


COUNTDOWN = "nabla_countdown"


def test_problems_are_read_as_the_policy_was_trained_to(lm):
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
        assert score_countdown(doc, [text]) == {"exact_match": score}
    assert score_countdown(doc, [[right, wrong, wrong, right]]) == {"exact_match": 0.5}
    stats = {"model_calls": 9, "generated_tokens": 8, "candidates": 4, "rejected": 3}
    stats["malformed"] = 2
    assert score_countdown(doc, [NablaResponse(right, stats)]) == {
        "exact_match": 1,
        "model_calls": 9,
        "generated_tokens": 8,
        "rejection_rate": 0.75,
        "malformed": 2,
    }
