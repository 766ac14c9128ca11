"""NablaLM.generate_until: what becomes of requests, one by one."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import model_builders as build
import pytest
import torch
from lm_eval.api.instance import Instance
from scripted_policy import logits_of, scripted_pair
from tokenizers.processors import TemplateProcessing

from nabla_eval.errors import DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.traces import read

QUICK = {"n": 3, "steps": 2, "passes": 1}
OTHER = "9,8,2,1=20?"


@pytest.fixture
def answers(lm):
    """Responses of a model with these options to some requests."""

    def generate(*requests, **options):
        return lm(**options).generate_until(list(requests), disable_tqdm=True)

    return generate


def test_without_any_seed_it_is_zero(lm):
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # as a fresh process has it
        assert lm(seed=None).seed == 0


def test_a_draw_does_not_depend_on_the_repeats_or_documents_beside_it(answers, ask):
    sampled = {"method": "self_consistency", "n": 1, "temperature": 1.5}
    first, second = ask(doc=0, repeats=2), ask(OTHER, doc=1, repeats=2)
    together = answers(first, first, second, second, **sampled)
    (alone,) = answers(ask(OTHER, doc=1), **sampled)
    assert together[2] == alone and together[0] != together[1]
    padded = answers(second, second, second, second, **sampled)
    assert padded == [together[2], together[3]] * 2


def test_stop_strings_and_lengths_of_each_task(answers, ask):
    asked = [{}, {"until": [";", "<eos>"]}, {"until": ["="]}, {"max_gen_toks": 2}]
    requests = [ask(doc=doc, **options) for doc, options in enumerate(asked)]
    free, stopped, other, short = answers(*requests, method="greedy")
    assert ";" in free and not free.stats["truncated"]
    assert (stopped, other) == (free.partition(";")[0], free.partition("=")[0])
    assert free.startswith(short) and short.stats["truncated"]
    assert short.stats["generated_tokens"] == 2


def test_a_length_that_nobody_asked_for_is_what_is_left(answers):
    loose = Instance("generate_until", {}, ("5,3,2,1=11?", {}), 0)
    (response,) = answers(loose, method="greedy", max_length=40)
    assert not response.stats["truncated"]


def test_progress_counts_to_the_end(answers, ask):
    calls: list[tuple[int, int]] = []
    answers(*map(ask, ["1,2,3=29?"] * 3, range(3)), method="greedy",
            progress=lambda *counts: calls.append(counts))  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_trace_has_one_line_per_problem_and_is_picked_up_again(answers, tmp_path, ask):
    requests = [ask(doc=0), ask(OTHER, doc=1)]
    traced = {"trace_dir": str(tmp_path), **QUICK}
    first = answers(requests[0], **traced)
    both = answers(*requests, **traced)
    assert both[0] == first[0] and both[0].stats == first[0].stats
    (file,) = tmp_path.glob("*.jsonl")
    records = read(tmp_path)
    assert len(file.read_text().splitlines()) == len(records) == 2
    assert [record["id"] for record in records] == ["task/0/0", "task/1/0"]
    assert records[1]["prompt"] == OTHER and records[1]["method"] == "nabla"
    assert records[1]["outcome"]["text"] == both[1]
    assert answers(*requests, **QUICK) == both, "untraced"
    stats = both[1].stats
    assert stats["id"] == "task/1/0" and stats["method"] == "nabla" and stats["seconds"] > 0
    calls = stats["generated_tokens"] + 4 * stats["gradient_passes"] + stats["scorings"]
    assert stats["model_calls"] == calls
    json.dumps(stats, allow_nan=False)
    for other in ({**QUICK, "seed": 1}, {**QUICK, "n": 4}, {"method": "best_of_n", "n": 3}):
        with pytest.raises(DataError, match=r"of another run \(.+\)\. Choose another trace_dir"):
            answers(requests[0], trace_dir=str(tmp_path), **other)


def test_a_prompt_that_is_asked_again_without_a_task_is_picked_up_each_time(answers, tmp_path):
    requests = [Instance("generate_until", {}, ("5,3,2,1=11?", {}), 0) for _ in range(2)]
    traced = {"method": "greedy", "trace_dir": str(tmp_path)}
    before = answers(*requests, **traced)
    assert answers(*requests, **traced) == before and len(read(tmp_path)) == 2


def test_an_opened_answer_is_continued(lm, ask):
    model = lm(method="best_of_n", n=2)
    chat = [{"role": "user", "content": "5,3,2,1=11?"}, {"role": "assistant", "content": "5"}]
    prompt = model.apply_chat_template(chat, add_generation_prompt=False)
    assert prompt == "5,3,2,1=11?5"
    (response,) = model.generate_until([ask(prompt)], disable_tqdm=True)
    assert response.stats["reward"] is not None


def test_a_template_without_its_conversation_is_noticed(answers, caplog, ask):
    answers(ask(), method="greedy")
    assert "apply_chat_template" not in caplog.text, "the embedded pair needs none"
    answers(ask("5,3,2,1=11?<eos>5"), method="greedy")
    assert "--cache_requests" in caplog.text


def test_a_search_without_delimiters_is_noticed(answers, ask, caplog):
    """The embedded task has no blank lines, which the default waits for."""
    beam = {"method": "beam", "beams": 2, "width": 2}
    answers(ask(), **beam)
    assert "No response held a step delimiter (step=blank_line)" in caplog.text
    caplog.clear()
    answers(ask(), step="semicolon", **beam)
    answers(ask(), method="best_of_n", n=2)
    assert "delimiter" not in caplog.text


@pytest.fixture
def appending(double_pair):
    """The embedded pair with a tokenizer that puts EOS behind every text."""
    tokenizer = copy.deepcopy(double_pair.policy.tokenizer)
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    assert tokenizer("5,3")["input_ids"][-1] == tokenizer.eos_token_id
    return replace(double_pair, policy=replace(double_pair.policy, tokenizer=tokenizer))


def test_an_appended_eos_changes_neither_responses_nor_likelihoods(lm, appending, ask):
    plain, other = lm(method="greedy"), NablaLM(pair=appending, method="greedy", seed=0)
    requests = [ask(), ask(OTHER, doc=1)]
    expected = plain.generate_until(requests, disable_tqdm=True)
    assert other.generate_until(requests, disable_tqdm=True) == expected
    pairs = [
        Instance("loglikelihood", {}, (context, "5+3=8"), 0) for context in ("5,3,2,1=11?", "")
    ]
    found, wanted = (model.loglikelihood(pairs, disable_tqdm=True) for model in (other, plain))
    assert [v for v, _ in found] == pytest.approx([v for v, _ in wanted], abs=1e-9)
    ids = other.tok_encode("5,3,2,1=11?")
    assert other.tok_encode("5,3,2,1=11?", left_truncate_len=3) == ids[-3:]
    assert other.tok_encode("5<eos>", add_special_tokens=False)[-1] == other.tokenizer.eos_token_id


def test_a_plain_prompt_has_one_bos():
    own = build.word_tokenizer(["<bos>", *build.WORDS], chat=None, bos_token="<bos>")
    bos = own.bos_token_id
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    model = NablaLM(pair=scripted_pair(own, logits_of([], len(own), 5)), method="greedy", seed=0)
    for prompt in ("1+2=", "<bos>1+2="):
        ids = model.tok_encode(prompt)
        assert ids[0] == bos and ids.count(bos) == 1
        assert model.pair.policy.encode(prompt) == tuple(ids)
