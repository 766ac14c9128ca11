"""NablaLM under lm-eval's own evaluator, on the embedded pair."""

from __future__ import annotations

import math

import pytest

from nabla_eval.errors import ConfigError

COUNTDOWN = "nabla_countdown"
QUICK = {"n": 3, "steps": 2, "passes": 1}


def test_the_default_is_nabla_on_the_embedded_pair(evaluate, table):
    results = evaluate("nabla", COUNTDOWN, model_args="n=3,steps=2", batch_size=4)
    found = table(results)
    for name in ("exact_match", "model_calls", "generated_tokens"):
        assert math.isfinite(found[f"{name},none"]), name
        assert math.isfinite(found[f"{name}_stderr,none"]), name
    assert found["model_calls,none"] > found["generated_tokens,none"] > 0
    info = results["config"]["nabla"]
    assert (info["method"], info["config"]["n"], info["config"]["steps"]) == ("nabla", 3, 2)
    assert info["seed"] == 1234  # lm-eval's own default for torch
    assert len(info["config_hash"]) == 16 and "policy_hash" in info["models"]


@pytest.mark.parametrize("options", [QUICK, {"method": "best_of_n", "n": 3}])
def test_the_same_numbers_for_every_batch_size(options, lm, evaluate, table):
    runs = []
    for size in (1, 64):
        results = evaluate(lm(batch_size=size, **options), COUNTDOWN, limit=6)
        runs.append((table(results), [s["resps"] for s in results["samples"][COUNTDOWN]]))
    assert runs[0] == runs[1]


def test_the_seed_argument_beats_lm_evals_seed(lm, evaluate):
    def texts(model, torch_seed):
        results = evaluate(model, COUNTDOWN, torch_random_seed=torch_seed)
        return [sample["resps"] for sample in results["samples"][COUNTDOWN]]

    sampled = {"method": "self_consistency", "n": 1}
    fixed, free = lm(seed=3, **sampled), lm(seed=None, **sampled)
    assert texts(fixed, 1) == texts(fixed, 2) == texts(free, 3)
    assert texts(free, 1) != texts(free, 2)


def test_repeats_are_different_draws_and_all_are_scored(lm, evaluate, root, tmp_path):
    (tmp_path / "repeated.yaml").write_text(
        f"include: {root / 'tasks' / 'nabla_countdown.yaml'}\n"
        "task: repeated\nrepeats: 4\n"
        "filter_list: [{name: all, filter: [{function: take_first_k, k: 4}]}]\n"
    )
    model = lm(method="self_consistency", n=1, temperature=1.5)
    results = evaluate(model, "repeated", tmp_path, limit=3)
    for sample in results["samples"]["repeated"]:
        (responses,) = sample["resps"]
        assert len(responses) == 4 and len(set(responses)) > 1
        assert sample["exact_match"] in {0, 0.25, 0.5, 0.75, 1}
        ids = [response.stats["id"] for response in responses]
        assert ids == [f"repeated/{sample['doc_id']}/{k}" for k in range(4)]
        tokens = [response.stats["generated_tokens"] for response in responses]
        assert sample["generated_tokens"] == sum(tokens) / 4


def test_generation_arguments_of_the_command_line_and_chosen_documents(lm, evaluate, table):
    chosen = {"limit": None, "samples": {COUNTDOWN: [3, 5]}}
    for given in ("max_gen_toks=3", "max_new_tokens=3", {"max_gen_toks": 3}):  # the task says 24
        results = evaluate(lm(method="greedy"), COUNTDOWN, gen_kwargs=given, **chosen)
        assert table(results)["generated_tokens,none"] == 3
        assert [sample["doc_id"] for sample in results["samples"][COUNTDOWN]] == [3, 5]
    with pytest.raises(ConfigError, match="temprature"):
        evaluate(lm(method="greedy"), COUNTDOWN, gen_kwargs="temprature=3")


def test_a_conversation_reaches_the_reward_model_in_its_own_template(lm, evaluate, monkeypatch):
    model = lm(method="best_of_n", n=2)
    seen = []
    affixes = type(model.pair.reward.affixes).__call__
    monkeypatch.setattr(
        type(model.pair.reward.affixes),
        "__call__",
        lambda self, messages: seen.append(messages) or affixes(self, messages),
    )
    options = {"apply_chat_template": True, "system_instruction": "Count."}
    results = evaluate(model, COUNTDOWN, limit=2, **options)
    prompts = [sample["doc"]["prompt"] for sample in results["samples"][COUNTDOWN]]
    expected = [
        [{"role": "system", "content": "Count."}, {"role": "user", "content": prompt}]
        for prompt in prompts
    ]
    assert seen == expected


def test_few_shot_examples_are_turns_of_the_conversation(lm, evaluate, root, tmp_path):
    (tmp_path / "shots.yaml").write_text(
        f"include: {root / 'tasks' / 'nabla_countdown.yaml'}\n"
        "task: shots\nnum_fewshot: 2\nfewshot_split: test\n"
    )
    model = lm(method="greedy")
    options = {"apply_chat_template": True, "limit": 1}
    evaluate(model, "shots", tmp_path, fewshot_as_multiturn=True, **options)
    (chat,) = model._conversations.values()
    roles = [message["role"] for message in chat]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    evaluate(model, "shots", tmp_path, fewshot_as_multiturn=False, **options)
    assert [len(chat) for chat in model._conversations.values()] == [5, 1]


LOGLIKELIHOOD = """
task: choices
custom_dataset: !function nabla_eval.harness.tasks.countdown
dataset_kwargs: {countdown_numbers: 4}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["1", "-"]
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_loglikelihood_tasks_are_those_of_hf(evaluate, lm, policy_folder, tmp_path):
    (tmp_path / "choices.yaml").write_text(LOGLIKELIHOOD)

    def answers(model, **options):
        results = evaluate(model, "choices", tmp_path, **options)
        return [sample["resps"] for sample in results["samples"]["choices"]]

    # In float32: in float64 a policy gets norms of its own precision, which hf's models lack.
    hf = answers("hf", model_args=f"pretrained={policy_folder},dtype=float32", batch_size=4)
    assert answers("nabla", model_args="dtype=float32", batch_size=4) == hf
    loaded = answers("nabla", model_args="dtype=float64", batch_size=4)
    assert answers(lm(batch_size=4)) == loaded


def test_use_cache_is_refused(lm, evaluate, tmp_path):
    with pytest.raises(ConfigError, match=r"--use_cache .* trace_dir=FOLDER keeps answers"):
        evaluate(lm(**QUICK), COUNTDOWN, use_cache=str(tmp_path / "cache"))
