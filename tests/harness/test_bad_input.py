"""What cannot work ends in one paragraph (what, got, try), before any decoding."""

from __future__ import annotations

import model_builders as build
import pytest
import torch
from safetensors.torch import load_file, save_file

from nabla_eval import load_pair
from nabla_eval.engine import execute
from nabla_eval.errors import NablaError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models import hub

PROMPT = "1+1=?"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy with a context of 512 tokens, a reward model, and one that answers NaN."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = build.word_tokenizer()
    build.save(folder / "policy", "policy", tokenizer)
    build.save(folder / "reward", "outcome", tokenizer, seed=1)
    broken = build.save(folder / "nan", "outcome", tokenizer, seed=1) / "model.safetensors"
    weights = load_file(broken)
    weights["score.weight"][:] = torch.nan
    save_file(weights, broken, metadata={"format": "pt"})
    return {name: str(folder / name) for name in ("policy", "reward", "nan")}


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


def test_a_missing_or_wrong_checkpoint_before_weights_are_read(refusal, models, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", pytest.fail)
    text = refusal(pretrained="/no/such/policy")
    assert "policy folder /no/such/policy does not exist. Check the path" in text
    assert "reward model folder /no/such/reward" in refusal(reward="/no/such/reward")
    text = refusal(reward=models["policy"])
    assert "is Qwen2ForCausalLM; a ...ForSequenceClassification" in text
    assert "Give a reward model, such as" in text
    assert "give it as reward=..." in refusal(pretrained=models["reward"])


def test_a_prompt_longer_than_the_context(refusal):
    text = refusal("1+" * 300)
    assert "takes 600 tokens" in text and "holds 512" in text and "Use fewer few-shot" in text


def test_more_tokens_than_the_context_holds(refusal):
    text = refusal(request={"max_gen_toks": 600})
    assert "takes 5 tokens" in text and "max_gen_toks=600" in text and "holds 512" in text
    assert "Try --gen_kwargs max_gen_toks=507" in text


def test_a_reward_that_is_no_number(refusal, models):
    text = refusal(reward=models["nan"])
    assert "gives nan" in text and "Try a wider dtype" in text
    with pytest.raises(NablaError, match="gives nan"):
        load_pair(models["policy"], models["nan"])


def test_a_policy_that_gives_no_numbers(refusal, models, tmp_path):
    broken = build.save(tmp_path / "policy", "policy", build.word_tokenizer())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "gives nan" in refusal(pretrained=str(broken))


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
