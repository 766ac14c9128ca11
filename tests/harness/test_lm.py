"""NablaLM under lm-eval's own evaluator, on the embedded pair."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from nabla_eval.errors import ConfigError, ContextError, DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.response import NablaResponse
from nabla_eval.traces import read

COUNTDOWN = "nabla_countdown"
QUICK = {"n": 3, "steps": 2, "passes": 1}


def metrics(results: dict[str, Any], task: str = COUNTDOWN) -> dict[str, float]:
    return {n: v for n, v in results["results"][task].items() if "," in n}


def request(
    prompt: str = "5,3,2,1=11?", doc: int = 0, repeats: int = 1, **options: Any
) -> Instance:
    arguments = (prompt, {"max_gen_toks": 24, **options})
    return Instance("generate_until", {}, arguments, 0, metadata=("task", doc, repeats))


@pytest.fixture
def lm(double_pair: Any) -> Callable[..., NablaLM]:
    def make(**options: Any) -> NablaLM:
        return NablaLM(pair=double_pair, **{"seed": 0, **options})

    return make


def test_the_default_is_nabla_on_the_embedded_pair(evaluate: Callable[..., Any]) -> None:
    results = evaluate("nabla", COUNTDOWN, model_args="n=3,steps=2", batch_size=4)
    found = metrics(results)
    for name in ("exact_match", "model_calls", "generated_tokens"):
        assert math.isfinite(found[f"{name},none"]), name
        assert math.isfinite(found[f"{name}_stderr,none"]), name
    assert found["model_calls,none"] > found["generated_tokens,none"] > 0
    info = results["config"]["nabla"]
    assert (info["method"], info["config"]["n"], info["config"]["steps"]) == ("nabla", 3, 2)
    assert info["seed"] == 1234  # lm-eval's own default for torch
    assert len(info["config_hash"]) == 16 and "policy_hash" in info["models"]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "greedy"},
        {"method": "self_consistency", "n": 3},
        {"method": "best_of_n", "n": 3},
        {"method": "best_of_n", "n": 3, "stop_reward": 0.0},
        {"method": "nabla", "steps": 0, "n": 3},
        {"method": "nabla", "preset": "paper", "n": 2, "gradient_threshold": 0},
    ],
)
def test_every_method_gives_finite_metrics(
    options: dict[str, Any], lm: Callable[..., NablaLM], evaluate: Callable[..., Any]
) -> None:
    found = metrics(evaluate(lm(**options), COUNTDOWN))
    assert {"exact_match,none", "model_calls,none", "generated_tokens,none"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("options", [QUICK, {"method": "best_of_n", "n": 3}])
def test_the_same_numbers_twice_and_for_every_batch_size(
    options: dict[str, Any], lm: Callable[..., NablaLM], evaluate: Callable[..., Any]
) -> None:
    runs = []
    for size in (1, 64, 64):
        results = evaluate(lm(batch_size=size, **options), COUNTDOWN, limit=6)
        runs.append((metrics(results), [s["resps"] for s in results["samples"][COUNTDOWN]]))
    assert runs[0] == runs[1] == runs[2]


def test_the_seed_argument_beats_lm_evals_seed(
    lm: Callable[..., NablaLM], evaluate: Callable[..., Any]
) -> None:
    def texts(model: NablaLM, torch_seed: int) -> list[Any]:
        results = evaluate(model, COUNTDOWN, torch_random_seed=torch_seed)
        return [sample["resps"] for sample in results["samples"][COUNTDOWN]]

    sampled = {"method": "self_consistency", "n": 1}
    fixed, free = lm(seed=3, **sampled), lm(seed=None, **sampled)
    assert texts(fixed, 1) == texts(fixed, 2) == texts(free, 3)
    assert texts(free, 1) != texts(free, 2)


def test_without_any_seed_it_is_zero(lm: Callable[..., NablaLM]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # as a fresh process has it
        assert lm(seed=None).seed == 0


def test_repeats_are_different_draws_and_all_are_scored(
    lm: Callable[..., NablaLM], evaluate: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
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


def test_a_draw_does_not_depend_on_the_repeats_or_documents_beside_it(
    lm: Callable[..., NablaLM],
) -> None:
    model = lm(method="self_consistency", n=1, temperature=1.5)
    first, second = request(doc=0, repeats=2), request("9,8,2,1=20?", doc=1, repeats=2)
    together = model.generate_until([first, first, second, second], disable_tqdm=True)
    alone = model.generate_until([request("9,8,2,1=20?", doc=1)], disable_tqdm=True)
    assert together[2] == alone[0] and together[0] != together[1]
    padded = model.generate_until([second, second, second, second], disable_tqdm=True)
    assert padded == [together[2], together[3]] * 2


def test_stop_strings_and_lengths_of_a_task(lm: Callable[..., NablaLM]) -> None:
    model = lm(method="greedy")
    (free,) = model.generate_until([request()], disable_tqdm=True)
    assert ";" in free and not free.stats["truncated"]
    (stopped,) = model.generate_until([request(until=[";", "<eos>"])], disable_tqdm=True)
    assert stopped == free.partition(";")[0]
    (short,) = model.generate_until([request(max_gen_toks=2)], disable_tqdm=True)
    assert free.startswith(short) and short.stats["truncated"]
    assert short.stats["generated_tokens"] == 2


def test_generation_arguments_of_the_command_line_reach_the_method(
    lm: Callable[..., NablaLM], evaluate: Callable[..., Any]
) -> None:
    found = metrics(evaluate(lm(method="greedy"), COUNTDOWN, gen_kwargs="max_gen_toks=3"))
    assert found["generated_tokens,none"] == 3
    with pytest.raises(ConfigError, match="temprature"):
        evaluate(lm(method="greedy"), COUNTDOWN, gen_kwargs="temprature=3")


def test_what_does_not_fit_is_refused_before_any_decoding(
    lm: Callable[..., NablaLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lm(method="greedy", max_length=40)
    monkeypatch.setattr(model, "_executor", lambda: pytest.fail("decoding had begun"))
    with pytest.raises(ContextError, match="max_gen_toks"):
        model.generate_until([request(), request(max_gen_toks=100)], disable_tqdm=True)
    with pytest.raises(ContextError, match="few-shot"):
        model.generate_until([request("1," * 40)], disable_tqdm=True)


def test_a_length_that_nobody_asked_for_is_what_is_left(lm: Callable[..., NablaLM]) -> None:
    model = lm(method="greedy", max_length=40)
    loose = Instance("generate_until", {}, ("5,3,2,1=11?", {}), 0)
    (response,) = model.generate_until([loose], disable_tqdm=True)
    assert not response.stats["truncated"]


def test_progress_counts_to_the_end(lm: Callable[..., NablaLM]) -> None:
    calls: list[tuple[int, int]] = []
    model = lm(method="greedy", progress=lambda done, total: calls.append((done, total)))
    model.generate_until([request(doc=i) for i in range(3)])
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_responses_carry_their_statistics_through_pickling(lm: Callable[..., NablaLM]) -> None:
    (response,) = lm(**QUICK).generate_until([request()], disable_tqdm=True)
    again = pickle.loads(pickle.dumps(response))
    assert type(again) is NablaResponse and again.stats == response.stats
    stats = response.stats
    assert stats["id"] == "task/0/0" and stats["method"] == "nabla" and stats["seconds"] > 0
    calls = stats["generated_tokens"] + 4 * stats["gradient_passes"] + stats["scorings"]
    assert stats["model_calls"] == calls
    json.dumps(stats, allow_nan=False)


def test_a_trace_has_one_line_per_problem_and_is_picked_up_again(
    lm: Callable[..., NablaLM], tmp_path: Path
) -> None:
    requests = [request(doc=i, prompt=p) for i, p in enumerate(("5,3,2,1=11?", "9,8,2,1=20?"))]
    model = lm(trace_dir=str(tmp_path), **QUICK)
    first = model.generate_until(requests[:1], disable_tqdm=True)
    both = model.generate_until(requests, disable_tqdm=True)
    assert both[0] == first[0] and both[0].stats == first[0].stats
    (file,) = tmp_path.iterdir()
    records = read(tmp_path)
    assert len(file.read_text().splitlines()) == len(records) == 2
    assert [record["id"] for record in records] == ["task/0/0", "task/1/0"]
    assert records[1]["prompt"] == "9,8,2,1=20?" and records[1]["method"] == "nabla"
    assert records[1]["outcome"]["text"] == both[1]
    untraced = lm(**QUICK).generate_until(requests, disable_tqdm=True)
    assert untraced == both


@pytest.mark.parametrize("other", [{"seed": 1}, {"n": 4}, {"method": "best_of_n"}])
def test_a_trace_of_another_run_is_not_taken_for_this_one(
    other: dict[str, Any], lm: Callable[..., NablaLM], tmp_path: Path
) -> None:
    base = {"method": "nabla", "n": 3, "trace_dir": str(tmp_path)}
    lm(**base).generate_until([request()], disable_tqdm=True)
    with pytest.raises(DataError, match="another run"):
        lm(**{**base, **other}).generate_until([request()], disable_tqdm=True)


def test_a_killed_run_leaves_what_it_finished(lm: Callable[..., NablaLM], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    requests = [request(doc=i) for i in range(4)]
    model = lm(method="greedy", trace_dir=str(tmp_path), batch_size=1, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        model.generate_until(requests)
    assert len(read(tmp_path)) == 2


def test_a_conversation_reaches_the_reward_model_in_its_own_template(
    lm: Callable[..., NablaLM], evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lm(method="best_of_n", n=2)
    seen = []
    frame = type(model.pair.reward.frame).__call__  # type: ignore[union-attr]
    monkeypatch.setattr(
        type(model.pair.reward.frame),  # type: ignore[union-attr]
        "__call__",
        lambda self, messages: seen.append(messages) or frame(self, messages),
    )
    options = {"apply_chat_template": True, "system_instruction": "Count."}
    results = evaluate(model, COUNTDOWN, limit=2, **options)
    prompts = [sample["doc"]["prompt"] for sample in results["samples"][COUNTDOWN]]
    expected = [
        [{"role": "system", "content": "Count."}, {"role": "user", "content": prompt}]
        for prompt in prompts
    ]
    assert seen == expected


def test_an_opened_answer_is_continued(lm: Callable[..., NablaLM]) -> None:
    model = lm(method="best_of_n", n=2)
    chat = [{"role": "user", "content": "5,3,2,1=11?"}, {"role": "assistant", "content": "5"}]
    prompt = model.apply_chat_template(chat, add_generation_prompt=False)
    assert prompt == "5,3,2,1=11?5"
    (response,) = model.generate_until([request(prompt)], disable_tqdm=True)
    assert response.stats["reward"] is not None


def test_a_template_without_its_conversation_is_noticed(
    lm: Callable[..., NablaLM], caplog: pytest.LogCaptureFixture
) -> None:
    lm(method="greedy").generate_until([request("5,3,2,1=11?<eos>5")], disable_tqdm=True)
    assert any("--cache_requests" in record.getMessage() for record in caplog.records)


def test_thoughts_are_cut_off_as_text_and_as_a_token(lm: Callable[..., NablaLM]) -> None:
    (whole,) = lm(method="greedy").generate_until([request()], disable_tqdm=True)
    (text,) = lm(method="greedy", think_end_token=";").generate_until(
        [request()], disable_tqdm=True
    )
    assert text == whole.rpartition(";")[2]
    token = lm().tokenizer.convert_tokens_to_ids(";")
    (cut,) = lm(method="greedy", think_end_token=str(token)).generate_until(
        [request()], disable_tqdm=True
    )
    assert cut == text and cut.stats["generated_tokens"] == whole.stats["generated_tokens"]


LOGLIKELIHOOD = """
task: choices
custom_dataset: !function nabla_eval.harness.countdown.dataset
dataset_kwargs: {countdown_numbers: 4}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["1", "-"]
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_loglikelihood_tasks_are_those_of_hf(
    evaluate: Callable[..., Any], lm: Callable[..., NablaLM], policy_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "choices.yaml").write_text(LOGLIKELIHOOD)

    def answers(model: Any, **options: Any) -> list[Any]:
        results = evaluate(model, "choices", tmp_path, **options)
        return [sample["resps"] for sample in results["samples"]["choices"]]

    # In float32: in float64 a policy gets norms of its own precision, which hf's models lack.
    hf = answers("hf", model_args=f"pretrained={policy_folder},dtype=float32", batch_size=4)
    assert answers("nabla", model_args="dtype=float32", batch_size=4) == hf
    loaded = answers("nabla", model_args="dtype=float64", batch_size=4)
    assert answers(lm(batch_size=4)) == loaded


def test_problems_are_read_as_the_policy_was_trained_to(lm: Callable[..., NablaLM]) -> None:
    from nabla_eval.embedded.countdown import Problem
    from nabla_eval.embedded.tokenizer import encode_prompt

    loaded = NablaLM(method="greedy", device="cpu")
    for problem in (Problem((20, 14, 7, 3), 39), Problem((1, 10, 5), 16)):
        assert loaded.tok_encode(problem.prompt) == encode_prompt(problem)
        assert lm(method="greedy").tok_encode(problem.prompt) == encode_prompt(problem)


def test_the_task_also_runs_with_hf(evaluate: Callable[..., Any], policy_folder: str) -> None:
    hf = evaluate("hf", COUNTDOWN, model_args=f"pretrained={policy_folder},dtype=float64")
    found = metrics(hf)
    assert math.isfinite(found["exact_match,none"])
    assert not any(name.startswith("model_calls") for name in found)
    ours = evaluate("nabla", COUNTDOWN, model_args="method=greedy,dtype=float64")
    texts = [
        [sample["resps"] for sample in results["samples"][COUNTDOWN]] for results in (hf, ours)
    ]
    assert texts[0] == texts[1]  # greedy decoding is greedy decoding


def test_use_cache_answers_again_and_refuses_what_it_cannot_hold(
    lm: Callable[..., NablaLM], evaluate: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    cache = {"use_cache": str(tmp_path / "cache")}
    first = metrics(evaluate(lm(**QUICK), COUNTDOWN, **cache))
    idle = lm(**QUICK)
    idle._executor = lambda: pytest.fail("the cache was not used")  # type: ignore[method-assign]
    assert metrics(evaluate(idle, COUNTDOWN, **cache)) == first
    with pytest.raises(DataError, match="config"):
        evaluate(lm(**{**QUICK, "n": 4}), COUNTDOWN, **cache)
    (tmp_path / "twice.yaml").write_text(
        f"include: {root / 'tasks' / 'nabla_countdown.yaml'}\ntask: twice\nrepeats: 2\n"
    )
    with pytest.raises(ConfigError, match="--use_cache"):
        evaluate(lm(**QUICK), "twice", tmp_path, use_cache=str(tmp_path / "other"))


def test_a_rank_without_candidates_does_not_break_the_gathering(
    lm: Callable[..., NablaLM],
) -> None:
    from nabla_eval.harness.lm import _with_all_metrics

    key = ("rejection_rate", "none")
    ranks = [{"t": {("a", "none"): [1], key: [0.5]}}, {"t": {("a", "none"): [2]}}]
    assert _with_all_metrics(ranks)[1] == {"t": {("a", "none"): [2], key: []}}
    samples = [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert _with_all_metrics(samples) == [{"t": [{"doc_id": 0}]}, {"t": []}]
    assert lm(method="greedy").gather_object({"t": {}}) == [{"t": {}}]


def test_a_pair_without_a_reward_model_serves_methods_that_need_none(
    double_pair: Any,
) -> None:
    from dataclasses import replace

    from nabla_eval.errors import ModelError

    alone = replace(double_pair, reward=None)
    (response,) = NablaLM(pair=alone, method="greedy").generate_until(
        [request()], disable_tqdm=True
    )
    assert response.stats["reward"] is None
    with pytest.raises(ModelError, match="reward"):
        NablaLM(pair=alone, method="nabla")


def test_model_arguments_beat_lm_evals_own(policy_folder: str) -> None:
    model = NablaLM.create_from_arg_string(
        f"method=greedy,pretrained={policy_folder},batch_size=5,device=cpu",
        {"batch_size": 1, "device": "cuda:0", "max_batch_size": None},
    )
    assert (model.width, str(model.device), model.pair.reward) == (5, "cpu", None)
    assert model.pair.policy.embedding.dtype == torch.float32


def test_an_error_comes_before_any_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabla_eval.harness.loading.open_config", lambda _: pytest.fail("opened"))
    with pytest.raises(ConfigError, match="steps"):
        NablaLM(stepz=3)
