"""The tasks on problem sets, run by lm-eval on a tiny pair with real tokenizers, offline."""

from __future__ import annotations

import json
from typing import Any

import model_builders as build
import pytest
import torch

from nabla_eval.errors import ConfigError, DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.problems.check import known
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
def task_of(root, tmp_path, task_manager):
    """A task that includes the tasks' common file and says the given lines."""

    def make(*lines, metadata=None):
        from lm_eval.tasks import TaskManager

        base = root / "tasks" / "_math.yaml"
        text = "\n".join([f"include: {base}", "task: mine", *lines])
        (tmp_path / "mine.yaml").write_text(text)
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False, metadata=metadata)
        return manager.load("mine")["tasks"]["mine"]

    return make


@pytest.fixture
def aime(task_of, offline):
    return task_of("dataset_kwargs: {problem_set: aime24}", "repeats: 4")


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


def test_the_items_are_counted_and_named_by_a_hash(results):
    counts = {task: n["original"] for task, n in results["n-samples"].items()}
    assert counts == COUNTS
    for task, count in COUNTS.items():
        metadata = results["configs"][task]["metadata"]
        assert metadata["items"] == count
        assert metadata["items_hash"] == known()[task.removeprefix("nabla_")]["hash"]
    json.dumps(results["configs"])  # nothing in it that a results file could not hold


def test_all_repeats_are_scored_and_are_different_draws(results):
    for task in COUNTS:
        for sample in results["samples"][task]:
            (responses,) = sample["filtered_resps"]
            assert len(set(responses)) == len(responses) == SAMPLES.get(task, 4)


def test_prompts_ask_for_a_box_with_the_papers_sampling(results):
    for task in COUNTS:
        (prompt, options), *_ = results["samples"][task][0]["arguments"]
        assert "put your final answer within \\boxed{}.<|im_end|>" in prompt
        assert (options["temperature"], options["top_p"], options["until"]) == (0.5, 0.95, [])
        kwargs = results["configs"][task]["generation_kwargs"]
        assert kwargs["max_gen_toks"] == 3, "--gen_kwargs reaches the task"


def test_lengths_and_repeats_are_the_papers(offline, task_manager):
    tasks = task_manager().load(list(COUNTS))["tasks"]
    lengths = {name: task.config.generation_kwargs["max_gen_toks"] for name, task in tasks.items()}
    assert lengths == dict.fromkeys(COUNTS, 1024) | {"nabla_aime24": 3072, "nabla_aime25": 3072}
    repeats = {name: task.config.repeats for name, task in tasks.items()}
    assert repeats == {name: SAMPLES.get(name, 4) for name in COUNTS}


def test_hf_runs_the_tasks_too_without_costs(offline, real, evaluate, table):
    from lm_eval.models.huggingface import HFLM

    tokenizer = real(build.QWEN25)
    model = build.tiny("policy", tokenizer, rows=151936, max_position_embeddings=4096).float()
    with torch.random.fork_rng(devices=[]):
        found = evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=8),
            ["nabla_amc23"], limit=1, gen_kwargs={"max_gen_toks": 3},
        )  # fmt: skip
    assert {name for name in table(found, "nabla_amc23") if "stderr" not in name} == {
        f"{name},none" for name in ("exact_match", "pass@4", "maj@4", "no_answer", "grader_timeout")
    }
    (responses,) = found["samples"]["nabla_amc23"][0]["filtered_resps"]
    assert len(responses) == 4


def test_an_undressed_chat_model_is_noticed(tiny_qwen, ask, caplog):
    model = NablaLM(pair=tiny_qwen, method="greedy")
    asked = [ask("What is 1+1?", doc=doc, max_gen_toks=1) for doc in (0, 1)]
    model.generate_until(asked, disable_tqdm=True)
    assert caplog.text.count("Add --apply_chat_template") == 1


def test_answers_to_padding_copies_are_not_scored(aime):
    """With several ranks, lm-eval appends them to the last request's own."""
    right, wrong = r"\boxed{025}", r"\boxed{26}"
    doc = {"answer": "25"}
    scored = aime.process_results(doc, [[right, wrong, wrong, wrong, *[right] * 4]])
    assert (scored["exact_match"], scored["pass@4"], scored["maj@4"]) == (0.25, 1, 0)


def test_math_verify_may_grade_and_the_results_say_who_did(task_of, offline):
    doc, response = {"answer": "odd"}, r"\boxed{ddo}"  # equal as products of letters
    set_ = "dataset_kwargs: {problem_set: aime24}"
    ours = task_of(set_)
    assert ours.config.metadata["grader"] == "nabla_eval"
    assert ours.process_results(doc, [[response]])["exact_match"] == 0
    for theirs in (
        task_of(set_, metadata={"grader": "math_verify"}),
        task_of(set_, "metadata: {grader: math_verify}"),
    ):
        assert theirs.config.metadata["grader"] == "math_verify"
        assert theirs.process_results(doc, [[response]])["exact_match"] == 1


def test_an_unknown_grader_is_refused_before_problems_are_loaded(task_of):
    told = {"grader": "math-verify"}
    with pytest.raises(ConfigError, match=r"no grader 'math-verify'\. Did you mean math_verify"):
        task_of("dataset_kwargs: {problem_set: aime24}", metadata=told)


def test_the_papers_example_of_gsm8k(task_of, offline):
    """D.3: a profit of 70,000 is right; the policy's own answer, -10,000, is not."""
    task = task_of("dataset_kwargs: {problem_set: gsm8k}")
    (doc,) = (doc for doc in task.test_docs() if "flipping a house" in doc["problem"])
    assert doc["answer"] == "70000" and "150%" in task.doc_to_text(doc)
    for response, score in ((PROFITABLE, 1), (LOSS, 0), ("#### 70,000", 1), ("#### -10,000", 0)):
        assert task.process_results(doc, [[response]])["exact_match"] == score


def test_metrics_can_be_picked_and_are_refused_without_their_samples(task_of, offline):
    set_, metric = (
        "dataset_kwargs: {problem_set: aime24}",
        "aggregation: mean, higher_is_better: true",
    )
    picked = task_of(set_, "repeats: 3", f"metric_list: [{{metric: pass@2, {metric}}}]")
    assert picked.process_results({"answer": "1"}, [["1", "2", "3"]]) == {
        "pass@2": pytest.approx(2 / 3)
    }
    with pytest.raises(ConfigError, match="pass@8 of mine needs at least 8 samples"):
        task_of(set_, "repeats: 4", f"metric_list: [{{metric: pass@8, {metric}}}]")


def test_metadata_names_the_folder_before_the_environment_does(task_of, offline, tmp_path):
    row = {"problem": "?", "answer": 1}
    (tmp_path / "aime24.jsonl").write_text("\n".join(json.dumps(row) for _ in range(30)))
    given = {"data_dir": str(tmp_path)}
    task = task_of("dataset_kwargs: {problem_set: aime24}", metadata=given)
    assert task.config.metadata["items_source"] == str(tmp_path / "aime24.jsonl")
    assert task.config.metadata["items_hash"] != known()["aime24"]["hash"]


def test_items_with_known_faults_are_pointed_out(task_of, shared_data, tmp_path, caplog):
    text = (shared_data / "aime24.jsonl").read_text()
    (tmp_path / "aime24.jsonl").write_text(text.replace('"385"', '"384"'))
    task_of("dataset_kwargs: {problem_set: aime24}", metadata={"data_dir": str(tmp_path)})
    assert "answers other than the known ones: aime24-" in caplog.text


def test_wrong_tasks_and_folders_say_what_is_wrong(task_of, tmp_path):
    with pytest.raises(ConfigError, match="does not say which problems"):
        task_of("repeats: 1")
    with pytest.raises(ConfigError, match="There is no problem set 'aime'"):
        task_of("dataset_kwargs: {problem_set: aime}")
    (tmp_path / "aime24.jsonl").write_text('{"problem": "?", "answer": 1}\n')
    with pytest.raises(DataError, match="has 1 items, and AIME 2024"):
        task_of("dataset_kwargs: {problem_set: aime24}", metadata={"data_dir": str(tmp_path)})
    with pytest.raises(DataError, match="has no amc83"):
        task_of("dataset_kwargs: {problem_set: amc}", metadata={"data_dir": str(tmp_path)})
    with pytest.raises(DataError, match="there is no network"):
        task_of("dataset_kwargs: {problem_set: amc}")
