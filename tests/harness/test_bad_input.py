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
        ({"reward": "NAN"}, ["gives nan", "Try a wider dtype"]),
    ],
)  # fmt: skip
def test_what_is_refused_and_in_which_words(refusal, models, monkeypatch, options, words):
    if not options.keys() & {"prompt", "request"} and "NAN" not in options.values():
        # Before any weights are read.
        monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", pytest.fail)
    named = {n: models.get(str(v).lower(), v) for n, v in options.items()}
    text = refusal(**named)
    assert all(word in text for word in words), text
    if "NAN" in options.values():
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
