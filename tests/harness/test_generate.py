"""NablaLM.generate_until: what becomes of requests, one by one."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers.processors import TemplateProcessing

from nabla_eval.errors import DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.response import NablaResponse
from nabla_eval.traces import read

QUICK = {"n": 3, "steps": 2, "passes": 1}


def test_without_any_seed_it_is_zero(lm):
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # as a fresh process has it
        assert lm(seed=None).seed == 0


def test_a_draw_does_not_depend_on_the_repeats_or_documents_beside_it(lm, ask):
    model = lm(method="self_consistency", n=1, temperature=1.5)
    first, second = ask(doc=0, repeats=2), ask("9,8,2,1=20?", doc=1, repeats=2)
    together = model.generate_until([first, first, second, second], disable_tqdm=True)
    alone = model.generate_until([ask("9,8,2,1=20?", doc=1)], disable_tqdm=True)
    assert together[2] == alone[0] and together[0] != together[1]
    padded = model.generate_until([second, second, second, second], disable_tqdm=True)
    assert padded == [together[2], together[3]] * 2


def test_stop_strings_and_lengths_of_a_task(lm, ask):
    model = lm(method="greedy")
    (free,) = model.generate_until([ask()], disable_tqdm=True)
    assert ";" in free and not free.stats["truncated"]
    (stopped,) = model.generate_until([ask(until=[";", "<eos>"])], disable_tqdm=True)
    assert stopped == free.partition(";")[0]
    (short,) = model.generate_until([ask(max_gen_toks=2)], disable_tqdm=True)
    assert free.startswith(short) and short.stats["truncated"]
    assert short.stats["generated_tokens"] == 2


def test_a_length_that_nobody_asked_for_is_what_is_left(lm):
    model = lm(method="greedy", max_length=40)
    loose = Instance("generate_until", {}, ("5,3,2,1=11?", {}), 0)
    (response,) = model.generate_until([loose], disable_tqdm=True)
    assert not response.stats["truncated"]


def test_progress_counts_to_the_end(lm, ask):
    calls: list[tuple[int, int]] = []
    model = lm(method="greedy", progress=lambda done, total: calls.append((done, total)))
    model.generate_until([ask(doc=i) for i in range(3)])
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_responses_carry_their_statistics_through_pickling(lm, ask):
    (response,) = lm(**QUICK).generate_until([ask()], disable_tqdm=True)
    again = pickle.loads(pickle.dumps(response))
    assert type(again) is NablaResponse and again.stats == response.stats
    stats = response.stats
    assert stats["id"] == "task/0/0" and stats["method"] == "nabla" and stats["seconds"] > 0
    calls = stats["generated_tokens"] + 4 * stats["gradient_passes"] + stats["scorings"]
    assert stats["model_calls"] == calls
    json.dumps(stats, allow_nan=False)


def test_a_trace_has_one_line_per_problem_and_is_picked_up_again(lm, tmp_path, ask):
    requests = [ask(doc=i, prompt=p) for i, p in enumerate(("5,3,2,1=11?", "9,8,2,1=20?"))]
    model = lm(trace_dir=str(tmp_path), **QUICK)
    first = model.generate_until(requests[:1], disable_tqdm=True)
    both = model.generate_until(requests, disable_tqdm=True)
    assert both[0] == first[0] and both[0].stats == first[0].stats
    (file,) = tmp_path.glob("*.jsonl")
    records = read(tmp_path)
    assert len(file.read_text().splitlines()) == len(records) == 2
    assert [record["id"] for record in records] == ["task/0/0", "task/1/0"]
    assert records[1]["prompt"] == "9,8,2,1=20?" and records[1]["method"] == "nabla"
    assert records[1]["outcome"]["text"] == both[1]
    untraced = lm(**QUICK).generate_until(requests, disable_tqdm=True)
    assert untraced == both


@pytest.mark.parametrize("other", [{"seed": 1}, {"n": 4}, {"method": "best_of_n"}])
def test_a_trace_of_another_run_is_not_taken_for_this_one(other, lm, tmp_path, ask):
    base = {"method": "nabla", "n": 3, "trace_dir": str(tmp_path)}
    lm(**base).generate_until([ask()], disable_tqdm=True)
    with pytest.raises(DataError, match=r"of another run \(.+\)\. Choose another trace_dir"):
        lm(**{**base, **other}).generate_until([ask()], disable_tqdm=True)


def test_an_opened_answer_is_continued(lm, ask):
    model = lm(method="best_of_n", n=2)
    chat = [{"role": "user", "content": "5,3,2,1=11?"}, {"role": "assistant", "content": "5"}]
    prompt = model.apply_chat_template(chat, add_generation_prompt=False)
    assert prompt == "5,3,2,1=11?5"
    (response,) = model.generate_until([ask(prompt)], disable_tqdm=True)
    assert response.stats["reward"] is not None


def test_a_template_without_its_conversation_is_noticed(lm, caplog, ask):
    lm(method="greedy").generate_until([ask("5,3,2,1=11?<eos>5")], disable_tqdm=True)
    assert any("--cache_requests" in record.getMessage() for record in caplog.records)


def test_the_embedded_pair_needs_no_chat_template(lm, caplog, ask):
    lm(method="greedy").generate_until([ask()], disable_tqdm=True)
    assert "apply_chat_template" not in caplog.text


def test_thoughts_are_cut_off_as_text_and_as_a_token(lm, ask):
    (whole,) = lm(method="greedy").generate_until([ask()], disable_tqdm=True)
    (text,) = lm(method="greedy", think_end_token=";").generate_until([ask()], disable_tqdm=True)
    assert text == whole.rpartition(";")[2]
    token = lm().tokenizer.convert_tokens_to_ids(";")
    (cut,) = lm(method="greedy", think_end_token=str(token)).generate_until(
        [ask()], disable_tqdm=True
    )
    assert cut == text and cut.stats["generated_tokens"] == whole.stats["generated_tokens"]


def test_a_search_without_delimiters_is_noticed(lm, ask, caplog):
    """The embedded task has no blank lines, which the default waits for."""
    lm(method="beam", beams=2, width=2).generate_until([ask()], disable_tqdm=True)
    assert "No response held a step delimiter (step=blank_line)" in caplog.text
    caplog.clear()
    lm(method="beam", beams=2, width=2, step="semicolon").generate_until([ask()])
    lm(method="best_of_n", n=2).generate_until([ask()], disable_tqdm=True)
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


def test_responses_and_likelihoods_do_not_feel_an_appended_eos(lm, appending, ask):
    plain, other = lm(method="greedy"), NablaLM(pair=appending, method="greedy", seed=0)
    requests = [ask(), ask("9,8,2,1=20?", doc=1)]
    expected = plain.generate_until(requests, disable_tqdm=True)
    assert other.generate_until(requests, disable_tqdm=True) == expected
    pairs = [
        Instance("loglikelihood", {}, ("5,3,2,1=11?", "5+3=8"), 0),
        Instance("loglikelihood", {}, ("", "5+3=8"), 0),
    ]
    found = other.loglikelihood(pairs, disable_tqdm=True)
    for (value, _), (wanted, _) in zip(
        found, plain.loglikelihood(pairs, disable_tqdm=True), strict=True
    ):
        assert value == pytest.approx(wanted, abs=1e-9)


def test_truncation_from_the_left_keeps_the_end_of_the_text(appending):
    model = NablaLM(pair=appending, method="greedy")
    ids = model.tok_encode("5,3,2,1=11?")
    assert model.tok_encode("5,3,2,1=11?", left_truncate_len=3) == ids[-3:]
    assert model.tok_encode("5<eos>", add_special_tokens=False)[-1] == model.tokenizer.eos_token_id
