"""Reported cases of decoding, thoughts, templates and arguments: each kind has a test of its own.

Pairs to be graded are in `tests/grading/test_pairs.py`, models in
`tests/models/test_reported_models.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import model_builders as build
import pytest
from scripted_policy import logits_of, scripted_pair
from tokenizers.processors import TemplateProcessing

from nabla_eval import load_pair
from nabla_eval.engine.rollout import rollout
from nabla_eval.errors import ModelError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models.chat import AffixFinder, Template
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.randomness import Key

TESTS = Path(__file__).parents[1]
COVERED = {
    "stop string that is a special token": "engine/test_stop_strings.py: test_a_server_is_told",
    "NaN in the policy goes on silently": "engine/test_not_finite.py: test_methods_end_with",
    "NaN in the policy, sampled": "engine/test_not_finite.py: test_a_row_fails_alone",
    "R1-like template, cut-off thought": "harness/test_thinking.py: test_a_thought_that_the_temp",
    "R1-like reward template with enable_thinking": "harness/test_reported_cases.py: test_reward_t",
    "BOS of plain prompts": "harness/test_reported_cases.py: test_a_plain_prompt_has_one_bos",
    "EOS appended to the prompt": "harness/test_generate.py: test_an_appended_eos_changes_neither",
    "few-shot as turns": "harness/test_lm.py: test_few_shot_examples_are_turns",
    "--samples": "harness/test_lm.py: test_generation_arguments_of",
    "gen_kwargs as text and as JSON": "harness/test_lm.py: test_generation_arguments_of",
    "gen_kwargs reach requests": "harness/test_lm.py: test_generation_arguments_of",
    "generation_config of the server": "engine/test_vllm.py: test_sampling_options_and_seeds",
    "generation_config penalties": "harness/test_reported_cases.py: test_penalties_of_a_checkpoint",
    "repetition_penalty asked for": "harness/test_instances.py: test_generation_arguments_that",
    "several tasks, several until": "harness/test_generate.py: test_stop_strings_and_lengths",
    "system message refused by the template": "models/test_chat.py: test_a_system_message_that_is",
    "temperature 0": "harness/test_instances.py: test_a_sampling_method_keeps_sampling",
    "`stop` in gen_kwargs": "harness/test_instances.py: test_generation_arguments_that",
    "maj@k depends on the order of samples": "harness/test_metrics.py: test_maj_at_k_does_not",
    "pass@k with n<k": "harness/test_metrics.py: test_too_few_samples_are_refused",
}


@pytest.mark.parametrize("kind", COVERED)
def test_every_kind_has_a_test(kind):
    file, _, name = COVERED[kind].partition(": ")
    assert f"def {name}" in (TESTS / file).read_text(encoding="utf-8")


def test_every_reported_case_is_of_a_kind_with_a_test(shared_data):
    """Of those that grading, models, statistics, the command line and TRL itself do not have."""
    elsewhere = {"gold", "answer"}, {"gold", "response"}, {"architecture"}, {"accuracy"}, {"values"}
    others = {"results independent of batch", "interval at 0 % or 100 % with repeats"}
    others |= {"one problem", "GRPO ends at every EOS"}
    text = (shared_data / "reported_inputs.jsonl").read_text("utf-8")
    kinds = {
        row["kind"]
        for row in map(json.loads, text.splitlines())
        if not any(names <= row["input"].keys() for names in elsewhere)
    }
    assert kinds - others <= COVERED.keys()


def test_reward_templates_that_leave_thoughts_out():
    strips = (
        "{% for m in messages %}{{ m['content'].split('</think>')[-1].strip() }}"
        "{{ eos_token }}{% endfor %}"
    )
    tokenizer = build.word_tokenizer([*build.WORDS, *"<>thinkNablresposx"], chat=strips)
    asked = [{"role": "user", "content": "1+2"}]
    with pytest.raises(ModelError, match="need reward_thinking=false"):
        AffixFinder(tokenizer, Template(thinking=True))(asked)
    assert AffixFinder(tokenizer, Template(thinking=False))(asked).after == (
        tokenizer.eos_token_id,
    )


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


def test_penalties_of_a_checkpoint_do_not_apply(tmp_path):
    from transformers import GenerationConfig

    folder = build.save(tmp_path / "policy", "policy", build.word_tokenizer())
    texts = []
    for options in ({}, {"repetition_penalty": 5.0, "top_k": 1, "temperature": 0.1}):
        GenerationConfig(do_sample=bool(options), **options).save_pretrained(folder)
        pair = load_pair(str(folder), dtype="float64", device="cpu")
        problem = pair.problem("1+2=", Key.root(0), max_new_tokens=12)
        sampled = Generate(problem, problem.key, Sampling(temperature=1.0))
        texts.append([t.tokens for t in rollout(pair.policy, [sampled])])
    assert texts[0] == texts[1]
