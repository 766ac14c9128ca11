"""Reported cases of decoding, thoughts, templates and arguments, each with its expected value.

The rows of the optional data are found by their kind; what they stand for is tested in full where
the code is (`test_stop_strings`, `test_not_finite`, `test_thinking`). Pairs to be graded are in
`tests/grading/test_pairs.py`, models in `tests/models/test_reported_models.py`.
"""

from __future__ import annotations

import json
import logging
import re
from itertools import permutations
from pathlib import Path

import model_builders as build
import pytest
import torch
from scripted_policy import logits_of, scripted_pair, served, tokenizer_with
from scripted_server import Script, serving
from tokenizers.processors import TemplateProcessing

from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import ConfigError, ItemError, ModelError
from nabla_eval.grading import grade
from nabla_eval.harness import arguments
from nabla_eval.harness.generation import Reader
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.metrics import check_metrics, majority, pass_at_k
from nabla_eval.models.chat import Framer, Template, render
from nabla_eval.models.load import policy_from
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.randomness import Key

DATA = Path(__file__).parents[3] / "shared" / "data" / "reported_inputs.jsonl"
ROWS = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()] if DATA.exists() else []
GREEDY = Sampling(temperature=0)
IM_END = "<|im_end|>"


def rows(*kinds):
    """Inputs and expected values of some kinds; a test without the data is skipped, and says so."""
    found = [row for row in ROWS if row["kind"] in kinds]
    if not found:
        return [pytest.param({}, marks=pytest.mark.skip("the optional data folder is absent"))]
    return [pytest.param(row, id=row["source"]) for row in found]


def scripted(parts, *special, chat=None, prompt="1+2="):
    """A pair whose policy writes these tokens after a prompt."""
    words = [*dict.fromkeys([*build.WORDS, *"ihnkmtx"]), r"\boxed{12}"]
    own = tokenizer_with(*special, words=words, chat=chat)
    vocabulary = own.get_vocab()
    begin = len(own(prompt)["input_ids"])
    return scripted_pair(own, logits_of([vocabulary[part] for part in parts], len(own), begin))


@pytest.mark.parametrize("row", rows("stop string that is a special token"))
def test_stop_strings_that_are_special_tokens(row, ask):
    until = row["input"]["until"]
    pair = scripted(["c", "+", "e", *until, "0", "e"], *until)
    if row["input"].get("rollout") != "vllm":
        model = NablaLM(pair=pair, method="greedy", seed=0)
        request = ask("1+2=", until=until, max_gen_toks=6)
        (response,) = model.generate_until([request], disable_tqdm=True)
        assert row["expected"].startswith(repr(str(response)))
        assert not response.stats["truncated"] and response.stats["generated_tokens"] == 4
        return
    problem = pair.problem("1+2=", Key.root(0), max_new_tokens=6, stop=until)
    (local,) = rollout(pair.policy, [Generate(problem, problem.key, GREEDY)])
    with serving(Script(served(pair))) as script:
        remotely = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
        (remote,) = remotely([Generate(problem, problem.key, GREEDY)])
        body = script.asked[-1]
    assert body["skip_special_tokens"] is False and body["stop"] == until
    assert pair.policy.token_of(until[0]) in body["stop_token_ids"]
    assert (remote.text, remote.scored, remote.stop) == ("c+e", 3, "stop")
    assert (local.text, local.scored, local.tokens) == (remote.text, remote.scored, remote.tokens)


@pytest.mark.parametrize(
    "row", rows("NaN in the policy goes on silently", "NaN in the policy, sampled")
)
def test_logits_that_become_nan_fail_their_item(row, ask):
    pair = scripted(["c"] * 12)
    pair.policy.base.logits[3 + 6 :] = torch.nan
    method, *options = row["input"]["method"].split()
    model = NablaLM(pair=pair, method=method, seed=0, **dict(o.split("=") for o in options))
    with pytest.raises(
        ItemError, match="policy in float64 gave logits that are not finite after 6"
    ):
        model.generate_until([ask("1+2=", max_gen_toks=12)], disable_tqdm=True)


@pytest.mark.parametrize("row", rows("R1-like template, cut-off thought"))
def test_a_cut_off_thought_is_no_answer(row, ask):
    given = row["input"]
    # Tokens of the whole response, written as one: what matters is its text.
    own = tokenizer_with(words=[*build.WORDS, *"<>think", given["response"]], chat=R1)
    asked = [{"role": "user", "content": "1+2"}]
    begin = len(own(render(own, asked))["input_ids"])
    token = own.get_vocab()[given["response"]]
    pair = scripted_pair(own, logits_of([token], len(own), begin))
    model = NablaLM(pair=pair, method="greedy", seed=0, think_end_token=given["think_end_token"])
    prompt = model.apply_chat_template(asked)
    (response,) = model.generate_until([ask(prompt, max_gen_toks=1)], disable_tqdm=True)
    assert response == "" and response.stats["truncated"]
    assert not grade(given["gold"], response).equal
    assert grade(given["gold"], given["response"]).equal, "which is what used to be graded"


R1 = "{% for m in messages %}{{ m['content'] }}{% endfor %}=<think>\n"


@pytest.mark.parametrize("row", rows("R1-like reward template with enable_thinking"))
def test_reward_templates_that_leave_thoughts_out(row):
    assert "reward_thinking=false" in row["expected"]
    strips = (
        "{% for m in messages %}{{ m['content'].split('</think>')[-1].strip() }}"
        "{{ eos_token }}{% endfor %}"
    )
    tokenizer = build.word_tokenizer([*build.WORDS, *"<>thinkNablresposx"], chat=strips)
    asked = [{"role": "user", "content": "1+2"}]
    with pytest.raises(ModelError, match="need reward_thinking=false"):
        Framer(tokenizer, Template(thinking=True))(asked)
    assert Framer(tokenizer, Template(thinking=False))(asked).after == (tokenizer.eos_token_id,)


@pytest.mark.parametrize("row", rows("BOS of plain prompts"))
def test_a_plain_prompt_has_one_bos(row, ask):
    own = build.word_tokenizer(["<bos>", *build.WORDS], chat=None, bos_token="<bos>")
    bos = own.bos_token_id
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    model = NablaLM(pair=scripted_pair(own, logits_of([], len(own), 5)), method="greedy", seed=0)
    for prompt in (row["input"]["prompt"], "<bos>" + row["input"]["prompt"]):
        ids = model.tok_encode(prompt)
        assert ids[0] == bos and ids.count(bos) == 1
        assert model.pair.policy.encode(prompt) == tuple(ids)


@pytest.mark.parametrize("row", rows("GRPO ends at every EOS"))
def test_grpo_ends_at_every_end_token(row):
    """TRL's own list, in which its generation stops and its loss ends."""
    pytest.importorskip("trl", minversion="1.15")
    import inspect

    from trl import GRPOTrainer

    assert "eos_token_ids" in inspect.getsource(GRPOTrainer)


@pytest.mark.parametrize("row", rows("few-shot as turns"))
def test_few_shot_examples_as_turns(row, lm, evaluate, root, tmp_path):
    (tmp_path / "shots.yaml").write_text(
        f"include: {root / 'tasks' / 'nabla_countdown.yaml'}\ntask: shots\nfewshot_split: test\n"
        f"num_fewshot: {row['input']['num_fewshot']}\n"
    )
    model = lm(method="greedy")
    evaluate(model, "shots", tmp_path, limit=1, apply_chat_template=True,
             fewshot_as_multiturn=row["input"]["fewshot_as_multiturn"])  # fmt: skip
    (chat,) = model._conversations.values()
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]


@pytest.mark.parametrize("row", rows("--samples"))
def test_chosen_documents(row, lm, evaluate):
    assert row["input"]["samples"] == "{nabla_countdown:[3,5]}"
    results = evaluate(
        lm(method="greedy"), "nabla_countdown", limit=None, samples={"nabla_countdown": [3, 5]}
    )
    assert [s["doc_id"] for s in results["samples"]["nabla_countdown"]] == [3, 5]


@pytest.mark.parametrize("row", rows("gen_kwargs as text and as JSON", "gen_kwargs reach requests"))
def test_generation_arguments_reach_requests(row, lm, evaluate):
    for given in ("max_gen_toks=16", {"max_gen_toks": 16}):
        results = evaluate(lm(method="greedy"), "nabla_countdown", limit=1, gen_kwargs=given)
        (sample,) = results["samples"]["nabla_countdown"]
        assert sample["arguments"][0][1]["max_gen_toks"] == 16


@pytest.mark.parametrize("row", rows("generation_config of the server"))
def test_the_servers_own_penalties_do_not_apply(row):
    pair = scripted(["c", "<eos>"])
    with serving(Script(served(pair))) as script:
        remotely = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
        problem = pair.problem("1+2=", Key.root(0), max_new_tokens=6)
        remotely([Generate(problem, problem.key, GREEDY)])
    sent = script.asked[-1]
    assert (sent["repetition_penalty"], sent["presence_penalty"], sent["frequency_penalty"]) == (
        1.0, 0.0, 0.0,
    )  # fmt: skip
    assert sent["min_p"] == 0.0 and sent["top_k"] == -1


@pytest.mark.parametrize("row", rows("generation_config penalties"))
def test_penalties_of_a_checkpoint_do_not_apply(row, tmp_path):
    from transformers import GenerationConfig

    from nabla_eval import load_pair

    folder = build.save(tmp_path / "policy", "policy", build.word_tokenizer())
    texts = []
    for options in ({}, {"repetition_penalty": 5.0, "top_k": 1, "temperature": 0.1}):
        GenerationConfig(do_sample=bool(options), **options).save_pretrained(folder)
        pair = load_pair(str(folder), dtype="float64", device="cpu")
        problem = pair.problem("1+2=", Key.root(0), max_new_tokens=12)
        sampled = Generate(problem, problem.key, Sampling(temperature=1.0))
        texts.append([t.tokens for t in rollout(pair.policy, [sampled])])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("row", rows("repetition_penalty asked for"))
def test_a_penalty_that_is_asked_for_is_refused(row):
    name, value = row["input"]["gen_kwargs"].split("=")
    with pytest.raises(ConfigError, match="has no counterpart in --model nabla: leave it out"):
        Reader(arguments.read({"method": "greedy"}))({name: float(value)})


@pytest.mark.parametrize("row", rows("several tasks, several until"))
def test_each_task_has_its_own_stop_strings(row, lm, ask):
    model = lm(method="greedy")
    (whole,) = model.generate_until([ask()], disable_tqdm=True)
    asked = [ask(doc=0, until=[";"]), ask(doc=1, until=["="]), ask(doc=2)]
    found = model.generate_until(asked, disable_tqdm=True)
    assert found == [whole.partition(";")[0], whole.partition("=")[0], whole]


@pytest.mark.parametrize("row", rows("system message refused by the template"))
def test_a_system_message_goes_into_the_users(row):
    refuses = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}"
        "{% endif %}{{ m['content'] }};{% endfor %}"
    )
    system = row["input"]["system_instruction"]
    chat = [{"role": "system", "content": system}, {"role": "user", "content": "1+2"}]
    assert render(build.word_tokenizer(chat=refuses), chat) == f"{system}\n\n1+2;"


@pytest.mark.parametrize("row", rows("temperature 0"))
def test_temperature_zero_is_greedy_or_a_warning(row, lm, ask, caplog):
    greedy = lm(method="greedy").generate_until([ask(temperature=0)], disable_tqdm=True)
    assert greedy == lm(method="greedy").generate_until([ask()], disable_tqdm=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        lm(method="nabla", n=1)._read({"temperature": 0})
    assert "asks for greedy decoding" in caplog.text and "Use method=greedy" in caplog.text


@pytest.mark.parametrize("row", rows("EOS appended to the prompt"))
def test_an_appended_eos_is_no_part_of_a_prompt(row):
    tokenizer = build.word_tokenizer()
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", eos)]
    )
    prompt = row["input"]["prompt"]
    assert tokenizer(prompt)["input_ids"][-1] == eos
    ids = policy_from(build.tiny("policy", tokenizer), tokenizer).encode(prompt)
    assert eos not in ids and len(ids) == len(prompt)


@pytest.mark.parametrize("row", rows("`stop` in gen_kwargs"))
def test_stop_is_refused_naming_until(row):
    assert row["expected"] == "refused, naming until"
    with pytest.raises(ConfigError, match=r"lm-eval's name is until. Try until=\[';'\]"):
        Reader(arguments.read({}))(row["input"]["gen_kwargs"])


@pytest.mark.parametrize("row", rows("maj@k depends on the order of samples"))
def test_a_majority_of_samples_in_any_order(row):
    told = row["input"]
    grades = [grade(told["gold"], answer, extracted=True) for answer in told["answers"]]
    (found,) = {majority(order) for order in permutations(grades)}
    if share := re.search(r"(\d) of (\d) votes are graded right", row["expected"]):
        assert found == int(share[1]) / int(share[2])


@pytest.mark.parametrize("row", rows("pass@k with n<k"))
def test_too_few_samples_are_refused(row):
    n, k = row["input"]["n"], row["input"]["k"]
    with pytest.raises(ConfigError, match=f"pass@{k} of the task needs at least {k} samples"):
        pass_at_k(n, 1, k)
    with pytest.raises(ConfigError, match=f"pass@{k} of t needs at least {k} samples"):
        check_metrics([f"pass@{k}"], n, "t")


def test_every_row_of_these_kinds_is_tested(shared_data):
    """Of those that grading, models, statistics and the command line do not have."""
    elsewhere = {"gold", "answer"}, {"gold", "response"}, {"architecture"}, {"accuracy"}, {"values"}
    others = "results independent of batch", "interval at 0 % or 100 % with repeats", "one problem"
    source = Path(__file__).read_text(encoding="utf-8")
    left = [
        row["kind"]
        for row in ROWS
        if not any(names <= row["input"].keys() for names in elsewhere)
        and row["kind"] not in others
        and f'"{row["kind"]}"' not in source
    ]
    assert left == []
