"""Which models NablaLM loads; what cannot work ends in one paragraph, before any decoding."""

from __future__ import annotations

import math
from dataclasses import replace

import architectures
import model_builders as build
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from nabla_eval import embedded, load_pair
from nabla_eval.engine import execute
from nabla_eval.engine.rollout import rollout
from nabla_eval.errors import ModelError, NablaError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models import hub
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.randomness import Key


def test_a_pair_without_a_reward_model_serves_methods_that_need_none(double_pair, ask):
    alone = replace(double_pair, reward=None)
    (response,) = NablaLM(pair=alone, method="greedy").generate_until([ask()], disable_tqdm=True)
    assert response.stats["reward"] is None
    with pytest.raises(ModelError, match="reward"):
        NablaLM(pair=alone, method="nabla")


def test_a_reward_model_can_be_named_with_options_of_its_own(policy_folder, ask):
    reward = embedded.paths()[1]
    model = NablaLM(
        pretrained=policy_folder,
        reward=str(reward),
        dtype="float32",
        reward_dtype="float64",
        reward_chat_template="plain",
        device="cpu",
    )
    judge = model.pair.judge
    assert (judge.name, judge.embedding.dtype) == (str(reward), torch.float64)
    assert judge.affixes.plain
    assert model.pair.policy.embedding.dtype == torch.float32
    assert math.isfinite(model.generate_until([ask()], disable_tqdm=True)[0].stats["reward"])


def test_model_arguments_beat_lm_evals_own(policy_folder):
    model = NablaLM.create_from_arg_string(
        f"method=greedy,pretrained={policy_folder},batch_size=5,device=cpu",
        {"batch_size": 1, "device": "cuda:0", "max_batch_size": None},
    )
    assert (model.width, str(model.device), model.pair.reward) == (5, "cpu", None)
    assert model.pair.policy.embedding.dtype == torch.float32


@pytest.mark.parametrize("asked", [{}, {"dtype": "auto"}])
def test_dtype_is_each_checkpoints_own_on_a_cpu_too(asked, tmp_path):
    policy = AutoModelForCausalLM.from_pretrained(embedded.paths()[0], dtype=torch.bfloat16)
    policy.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded.paths()[0]).save_pretrained(tmp_path)
    reward = str(embedded.paths()[1])
    pair = NablaLM(pretrained=str(tmp_path), reward=reward, device="cpu", **asked).pair
    assert pair.policy.embedding.dtype == torch.bfloat16
    assert pair.judge.table.dtype == torch.float32


def test_a_recurrent_policy_answers(tmp_path, ask):
    words = AutoTokenizer.from_pretrained(embedded.paths()[0])
    rows = len(words)
    architectures.architecture("mamba2", rows, torch.float32).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    reward = str(embedded.paths()[1])
    model = NablaLM(pretrained=str(tmp_path), reward=reward, device="cpu", method="best_of_n", n=3)
    responses = model.generate_until([ask(), ask()], disable_tqdm=True)
    assert all(math.isfinite(response.stats["reward"]) for response in responses)


PROMPT = "1+1=?"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy with a context of 512 tokens, a reward model, and those that give NaN."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = build.word_tokenizer()
    for name, kind, spoilt in (
        ("policy", "policy", None), ("nan_policy", "policy", "model.norm.weight"),
        ("reward", "outcome", None), ("nan_reward", "outcome", "score.weight"),
    ):  # fmt: skip
        file = build.save(folder / name, kind, tokenizer, seed=1) / "model.safetensors"
        if spoilt is not None:
            weights = load_file(file)
            weights[spoilt][:] = torch.nan
            save_file(weights, file, metadata={"format": "pt"})
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture
def refusal(models, ask, monkeypatch):
    """The paragraph with which these models, or these requests, are refused."""
    monkeypatch.setattr(execute.Decoder, "run", lambda _: pytest.fail("decoding had begun"))

    def refuse(prompt=PROMPT, request=None, **options):
        options = {"pretrained": models["policy"], "reward": models["reward"], **options}
        with pytest.raises(NablaError) as caught:
            model = NablaLM(device="cpu", **options)
            asked = ask(prompt, **{"max_gen_toks": 24, **(request or {})})
            model.generate_until([ask(PROMPT), asked], disable_tqdm=True)
        text = str(caught.value)
        assert "\n" not in text and 60 < len(text) < 600
        return text

    return refuse


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pretrained": "/no/policy"}, ["policy folder /no/policy does not exist. Check the path"]),
        ({"reward": "/no/reward"}, ["reward model folder /no/reward does not exist"]),
        ({"reward": "POLICY"}, ["is Qwen2ForCausalLM; a ...ForSequenceClassification",
                                "Give a reward model, such as"]),
        ({"pretrained": "REWARD"}, ["give it as reward=..."]),
        ({"prompt": "1+" * 300}, ["takes 600 tokens", "holds 512", "Use fewer few-shot"]),
        ({"request": {"max_gen_toks": 600}}, ["takes 5 tokens", "max_gen_toks=600", "holds 512",
                                              "Try --gen_kwargs max_gen_toks=507"]),
        ({"reward": "NAN_REWARD"}, ["gives nan", "Try a wider dtype"]),
        ({"pretrained": "NAN_POLICY"}, ["gives nan"]),
    ],
)  # fmt: skip
def test_what_is_refused_and_in_which_words(refusal, models, monkeypatch, options, words):
    if not options.keys() & {"prompt", "request"} and "NAN" not in str(options):
        # Before any weights are read.
        monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", pytest.fail)
    named = {n: models.get(str(v).lower(), v) for n, v in options.items()}
    text = refusal(**named)
    assert all(word in text for word in words), text


def test_the_api_refuses_a_reward_model_that_gives_no_numbers(models):
    with pytest.raises(NablaError, match="gives nan"):
        load_pair(models["policy"], models["nan_reward"])


def test_a_gated_model(refusal, models, monkeypatch):
    from transformers import AutoConfig

    def gated(*_, **__):
        raise OSError("You are trying to access a gated repo. 401 Client Error. Log in.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    text = refusal(pretrained="meta-llama/Llama-3.1-8B-Instruct")
    assert "the hub wants a permission" in text and "Accept the model's licence" in text


def test_no_network(refusal, monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    text = refusal(reward="Skywork/Skywork-Reward-V2-Qwen3-4B")
    assert "the hub is out of reach" in text and "Check the name and the network" in text


def test_penalties_of_a_checkpoint_do_not_apply(tmp_path):
    folder = build.save(tmp_path / "policy", "policy", build.word_tokenizer())
    texts = []
    for options in ({}, {"repetition_penalty": 5.0, "top_k": 1, "temperature": 0.1}):
        GenerationConfig(do_sample=bool(options), **options).save_pretrained(folder)
        pair = load_pair(str(folder), dtype="float64", device="cpu")
        problem = pair.problem("1+2=", Key.root(0), max_new_tokens=12)
        sampled = Generate(problem, problem.key, Sampling(temperature=1.0))
        texts.append([t.tokens for t in rollout(pair.policy, [sampled])])
    assert texts[0] == texts[1]
