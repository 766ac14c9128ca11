"""What stands at the end of a prompt when the tokenizer appends something to every text."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from lm_eval.api.instance import Instance
from tokenizers.processors import TemplateProcessing

from nabla_eval.harness.lm import NablaLM


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
