"""Loading checkpoints as a pair, and what is refused: one paragraph, before weights are read."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_builders as build
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers import __version__ as transformers_version

from nabla_eval import embedded, load_pair
from nabla_eval.errors import ModelError, NablaError, VocabularyError
from nabla_eval.models import hub
from nabla_eval.models.chat import Template
from nabla_eval.models.check import check_pair
from nabla_eval.models.checkpoint import parse_dtype
from nabla_eval.models.load import end_ids, policy_from

FIVE = transformers_version >= "5"
Make = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")


def test_the_embedded_pair_is_the_default() -> None:
    pair = load_pair(dtype="float64")
    assert pair.policy.embedding.dtype == torch.float64
    assert pair.judge.process and pair.judge.ends is None
    assert pair.judge.embedding.data_ptr() == pair.judge.table.data_ptr()
    affixes = pair.judge.affixes([{"role": "user", "content": "20,14,7,3=39?"}])
    assert pair.policy.decode(affixes.before) == "20,14,7,3=39?"
    assert affixes.after == pair.policy.end_ids


@pytest.mark.parametrize("kind", ["outcome", "process"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "gpt2"])
def test_a_pair_from_folders(checkpoints: Make, family: str, kind: str) -> None:
    pair = load_pair(checkpoints("policy", family=family), checkpoints(kind, family=family))
    assert pair.judge.process == (kind == "process")
    assert pair.policy.embedding.dtype == torch.float64  # the file's
    assert pair.policy.context == pair.judge.context == 512


def test_dtype_by_name(checkpoints: Make) -> None:
    assert {parse_dtype(name) for name in ("float64", "fp64", torch.float64)} == {torch.float64}
    pair = load_pair(checkpoints("policy"), checkpoints("outcome"), "fp64", reward_dtype="bf16")
    assert pair.policy.embedding.dtype == torch.float64
    assert pair.judge.table.dtype == torch.bfloat16


@pytest.mark.parametrize("asked", [None, "auto"])
def test_each_model_runs_in_its_checkpoints_own_dtype(
    checkpoints: Make, caplog: pytest.LogCaptureFixture, asked: str | None
) -> None:
    """As lm-eval's hf means dtype=auto, on the CPU too; one line says what came of it."""
    policy, reward = checkpoints("policy", dtype=torch.bfloat16), checkpoints("outcome")
    with caplog.at_level(logging.INFO, "nabla_eval"):
        pair = load_pair(policy, reward, asked)
    assert pair.policy.embedding.dtype == torch.bfloat16
    assert pair.judge.table.dtype == torch.float64
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"Loaded: policy {policy} in bfloat16 on cpu, reward model {reward} in float64 on cpu."
    )
    # What is asked for the policy is asked for the reward model, unless it has a word of its own.
    assert load_pair(policy, reward, "float32").judge.table.dtype == torch.float32
    assert load_pair().policy.embedding.dtype == torch.float32  # the embedded pair's own


def test_no_reward_model_is_enough_until_one_is_asked_for(checkpoints: Make) -> None:
    pair = load_pair(checkpoints("policy"))
    assert pair.reward is None
    with pytest.raises(ModelError, match="no reward model beside the policy"):
        _ = pair.judge


def test_a_prompt_gets_one_bos() -> None:
    tokenizer = build.word_tokenizer(bos_token="<bos>")
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    policy = policy_from(build.tiny("policy", tokenizer), tokenizer)
    assert policy.encode("1+1") == policy.encode("<bos>1+1") == (bos, 1, 10, 1)


def test_end_ids_come_from_generation_config_tokenizer_and_template() -> None:
    tokenizer = build.word_tokenizer(chat="{{ messages[-1].content }}<unk>")
    model = build.tiny("policy", tokenizer)
    model.generation_config.eos_token_id = [3, 5]
    assert end_ids(model.generation_config, model.config, tokenizer) == (
        3,
        5,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
    )


def test_a_policy_that_never_ends_is_refused() -> None:
    tokenizer = build.word_tokenizer(chat=None)
    model = build.tiny("policy", tokenizer, eos_token_id=None)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        policy_from(model, tokenizer)


def test_template_options_reach_the_frame(checkpoints: Make) -> None:
    pair = load_pair(
        checkpoints("policy"), checkpoints("process"), template=Template(chat_template="plain")
    )
    affixes = pair.judge.affixes(
        [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}]
    )
    assert pair.policy.decode(affixes.before) == "1\n\n2"


def test_vocabularies_are_compared_before_weights_are_read(checkpoints: Make) -> None:
    policy = checkpoints("policy")
    reward = checkpoints("process", build.word_tokenizer([chr(0x4E00 + i) for i in range(40)]))
    (reward / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(VocabularyError, match=r"has 3 of the policy's 31 tokens"):
        load_pair(policy, reward)


def refused(policy: Any, reward: Any = None, limit: int = 600, **options: Any) -> str:
    """The error's one paragraph, which must come within a second or so."""
    began = time.perf_counter()
    with pytest.raises(NablaError) as caught:
        load_pair(policy, reward, **options)
    assert time.perf_counter() - began < 10
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < limit
    return text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "does not exist") for name in ("/no/such/folder", "./nothing", "a/b/c")),
        *((name, "the hub is out of reach") for name in ("no-such-owner/model", "no-such-model")),
        *((name, "policy") for name in ("x" * 500, "a\0b", "\ud800", "x/" * 300, "/dev/null")),
    ],
)
def test_a_name_that_leads_nowhere(name: str, words: str) -> None:
    assert words in refused(name, limit=1600)


def test_a_dead_network_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused
    monkeypatch.setattr(hub, "getproxies", dict)
    hub.hub_answers.cache_clear()
    try:
        assert "the hub is out of reach" in refused("no-such-owner/no-such-model")
    finally:
        hub.hub_answers.cache_clear()


def test_a_gated_model_asks_for_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def gated(*_: Any, **__: Any) -> Any:
        raise OSError("You are trying to access a gated repo. 401 Client Error. Log in.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    assert "Accept the model's licence" in refused("meta-llama/Llama-3.1-8B")


def test_models_in_the_wrong_role(checkpoints: Make) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    assert "The reward model's config" in refused(policy, "no-such-model")
    text = refused(policy, policy)
    assert "is Qwen2ForCausalLM" in text and "ForSequenceClassification" in text
    assert "give it as reward=" in refused(reward, reward)


def test_pickled_weights_need_leave(checkpoints: Make) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    torch.save(load_file(reward / "model.safetensors"), reward / "pytorch_model.bin")
    (reward / "model.safetensors").unlink()
    assert "only pickled weights (pytorch_model.bin)" in refused(policy, reward)
    assert load_pair(policy, reward, allow_pickle=True).judge.process
    (reward / "pytorch_model.bin").unlink()
    assert "holds no weights" in refused(policy, reward)


def test_weights_that_would_be_random(checkpoints: Make) -> None:
    headless = checkpoints("policy")
    build.edit_config(headless, architectures=["Qwen2ForTokenClassification"], num_labels=1)
    text = refused(checkpoints("policy"), headless)
    assert "lacks 2 of its weights (first: score." in text


def test_damaged_files(checkpoints: Make) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    weights = (reward / "model.safetensors").read_bytes()
    (reward / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "a file is damaged" in refused(policy, reward)
    (reward / "model.safetensors").write_bytes(weights)
    build.edit_config(reward, hidden_size=24)
    assert "shapes are not those of config.json" in refused(policy, reward)
    (reward / "config.json").write_text("{")
    assert "not a valid JSON" in refused(policy, reward)
    (reward / "config.json").unlink()
    assert "has no config.json" in refused(policy, reward)


def test_no_tokenizer(checkpoints: Make) -> None:
    reward = checkpoints("process")
    for file in reward.glob("token*"):
        file.unlink()
    said = refused(checkpoints("policy"), reward)
    # Before transformers 5 none is made up, and the words are its own.
    assert ("comes without a tokenizer" if FIVE else "tokenizer") in said


def test_a_tokenizer_keeps_the_rules_of_its_file(checkpoints: Make) -> None:
    """transformers 5 makes a Qwen2Tokenizer of any tokenizer beside a Qwen2 config."""
    policy, reward = checkpoints("policy"), checkpoints("process")
    pair = load_pair(policy, reward)
    assert pair.policy.encode("1\n2") == (1, 18, 2)
    assert pair.policy.tokenizer.chat_template == build.CHAT
    if not FIVE:
        return
    replaced = AutoTokenizer.from_pretrained(policy)
    assert replaced("1\n2")["input_ids"] != [1, 18, 2], "transformers has mended this: simplify"
    with pytest.raises(ModelError, match="as a Qwen2Tokenizer, which splits"):
        policy_from(build.tiny("policy", replaced), replaced)


def test_code_of_a_checkpoint_is_not_run(checkpoints: Make) -> None:
    reward = checkpoints("process")
    auto = {"AutoConfig": "own.Config", "AutoModelForTokenClassification": "own.Model"}
    build.edit_config(reward, auto_map=auto, model_type="own")
    (reward / "own.py").write_text("raise SystemExit('ran')")
    assert "its own Python code, which is not run" in refused(checkpoints("policy"), reward)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"dtype": "int8"}, "dtype='int8' is not one of float64"),
        ({"device": "gpu"}, "device='gpu' is no device"),
        ({"vocab": "loose"}, "vocab='loose' is not one of align"),
    ],
)
def test_options_out_of_range(checkpoints: Make, options: dict[str, str], part: str) -> None:
    assert part in refused(checkpoints("policy"), checkpoints("process"), **options)


# --- damaged files --------------------------------------------------------------------------------


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    return buffer.getvalue()


class Trap:
    """Runs a function when it is unpickled by somebody who trusts it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("foreign code ran",))


PICKLES = {
    "noise": b"\x00\xff" * 50, "empty": b"", "text": b"hello world\n", "end": b"\x80\x02",
    "code": pickle.dumps(Trap()), "code in torch's own": saved(Trap()), "protocol": b"\x80\x09.",
    "torn": saved({"a": torch.zeros(3)})[:-40], "a list": saved([1, 2]), "a zip": zipped(),
    "a number": pickle.dumps(5), "numpy": b"\x93NUMPY",
    "other weights": saved({"a": torch.zeros(3)}),
}  # fmt: skip


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded.paths()[0], tmp_path / "policy"))


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_is_damaged_or_runs_code_is_refused(policy: Path, kind: str) -> None:
    (policy / "model.safetensors").unlink()
    (policy / "pytorch_model.bin").write_bytes(PICKLES[kind])
    assert str(policy) in refused(policy, embedded.paths()[1], 1600, allow_pickle=True)


JSONS = [b"", b"[]", b"5", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@pytest.mark.parametrize("content", JSONS, ids=[repr(one[:8]) for one in JSONS])
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_something_else_is_refused(policy: Path, file: str, content: bytes) -> None:
    (policy / file).write_bytes(content)
    assert "policy" in refused(policy, embedded.paths()[1], 1600)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"5", "policy's generation config"),
        (b"[" * 100_000, "policy's generation config"),
        (b'{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        (b'{"top_k": [[]]}', ""),
    ],
)
def test_a_generation_config_that_is_wrong_is_refused(
    policy: Path, content: bytes, words: str
) -> None:
    (policy / "generation_config.json").write_bytes(content)
    with contextlib.suppress(ModelError):  # or it does not matter
        load_pair(policy, embedded.paths()[1], device="cpu")
    report = check_pair(str(policy), str(embedded.paths()[1]))
    failed = {found.name: found.text for found in report.findings if found.verdict == "failed"}
    assert words in failed.get("end of response", "")
