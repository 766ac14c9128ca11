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
    plain = Template(chat_template="plain")
    policy, reward = checkpoints("policy", family=family), checkpoints(kind, family=family)
    pair = load_pair(policy, reward, template=plain)
    assert pair.judge.process == (kind == "process")
    assert pair.policy.context == pair.judge.context == 512
    affixes = pair.judge.affixes(
        [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}]
    )
    assert pair.policy.decode(affixes.before) == "1\n\n2"


def test_each_model_runs_in_the_dtype_asked_for_or_its_checkpoints_own(
    checkpoints: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As lm-eval's hf means dtype=auto, on the CPU too; one line says what came of it."""
    policy, reward = checkpoints("policy", dtype=torch.bfloat16), checkpoints("outcome")
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    for asked, own, found in (
        (None, None, (half, double)),
        ("auto", None, (half, double)),
        ("float32", None, (single, single)),
        ("fp64", "bf16", (double, half)),
    ):
        with caplog.at_level(logging.INFO, "nabla_eval"):
            pair = load_pair(policy, reward, asked, reward_dtype=own)
        assert (pair.policy.embedding.dtype, pair.judge.table.dtype) == found
    assert caplog.records[0].getMessage() == (
        f"Loaded: policy {policy} in bfloat16 on cpu, reward model {reward} in float64 on cpu."
    )
    assert {parse_dtype(name) for name in ("float64", "fp64", double)} == {double}


def test_no_reward_model_is_enough_until_one_is_asked_for(checkpoints: Make) -> None:
    pair = load_pair(checkpoints("policy"))
    assert pair.reward is None
    with pytest.raises(ModelError, match="no reward model beside the policy"):
        _ = pair.judge


def test_end_ids_come_from_generation_config_tokenizer_and_template() -> None:
    tokenizer = build.word_tokenizer(chat="{{ messages[-1].content }}<unk>")
    model = build.tiny("policy", tokenizer)
    model.generation_config.eos_token_id = [3, 5]
    expected = (3, 5, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert end_ids(model.generation_config, model.config, tokenizer) == expected


def test_a_policy_that_never_ends_is_refused() -> None:
    tokenizer = build.word_tokenizer(chat=None)
    model = build.tiny("policy", tokenizer, eos_token_id=None)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        policy_from(model, tokenizer)


def test_vocabularies_are_compared_before_weights_are_read(checkpoints: Make) -> None:
    policy = checkpoints("policy")
    reward = checkpoints("process", build.word_tokenizer([chr(0x4E00 + i) for i in range(40)]))
    (reward / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(VocabularyError, match=r"has 3 of the policy's 31 tokens"):
        load_pair(policy, reward)


def test_a_tokenizer_keeps_the_rules_of_its_file(checkpoints: Make) -> None:
    """transformers 5 makes a Qwen2Tokenizer of any tokenizer beside a Qwen2 config."""
    policy = checkpoints("policy")
    pair = load_pair(policy)
    assert pair.policy.encode("1\n2") == (1, 18, 2)
    assert pair.policy.tokenizer.chat_template == build.CHAT
    if not FIVE:
        return
    replaced = AutoTokenizer.from_pretrained(policy)
    assert replaced("1\n2")["input_ids"] != [1, 18, 2], "transformers has mended this: simplify"
    with pytest.raises(ModelError, match="as a Qwen2Tokenizer, which splits"):
        policy_from(build.tiny("policy", replaced), replaced)


# --- what is refused ------------------------------------------------------------------------------


def refused(policy: Any, reward: Any = None, limit: int = 600, **options: Any) -> str:
    """The error's one paragraph, which must come within a second or so."""
    began = time.perf_counter()
    with pytest.raises(NablaError) as caught:
        load_pair(policy, reward, **options)
    assert time.perf_counter() - began < 10
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < limit
    return text


def pickled(_: Path, reward: Path) -> None:
    weights = reward / "model.safetensors"
    torch.save(load_file(weights), reward / "pytorch_model.bin")
    weights.unlink()


def halved(_: Path, reward: Path) -> None:
    weights = reward / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def headless(policy: Path, _: Path) -> dict[str, Any]:
    build.edit_config(policy, architectures=["Qwen2ForTokenClassification"], num_labels=1)
    return {"policy": embedded.paths()[0], "reward": policy, "vocab": "force"}


def without_tokenizer(_: Path, reward: Path) -> None:
    for file in reward.glob("token*"):
        file.unlink()


def with_own_code(_: Path, reward: Path) -> None:
    auto = {"AutoConfig": "own.Config", "AutoModelForTokenClassification": "own.Model"}
    build.edit_config(reward, auto_map=auto, model_type="own")
    (reward / "own.py").write_text("raise SystemExit('ran')")


# What is done to the folders of a policy and a reward model, or asked for instead; part of the
# error.
REFUSED: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "reward model of no name": (lambda p, r: {"reward": "no-such-model"}, "reward model's config"),
    "policy as reward model": (
        lambda p, r: {"reward": p}, "is Qwen2ForCausalLM; a ...ForSequenceClassification"
    ),
    "reward model as policy": (lambda p, r: {"policy": r}, "give it as reward="),
    "pickled weights": (pickled, "only pickled weights (pytorch_model.bin)"),
    "no weights": (lambda p, r: (r / "model.safetensors").unlink(), "holds no weights"),
    "weights that would be random": (headless, "lacks 2 of its weights (first: score."),
    "half of the weights": (halved, "a file is damaged"),
    "another shape": (
        lambda p, r: build.edit_config(r, hidden_size=24), "shapes are not those of config.json"
    ),
    "no JSON": (lambda p, r: (r / "config.json").write_text("{"), "not a valid JSON"),
    "no config": (lambda p, r: (r / "config.json").unlink(), "has no config.json"),
    # Before transformers 5 none is made up, and the words are its own.
    "no tokenizer": (without_tokenizer, "comes without a tokenizer" if FIVE else "tokenizer"),
    "own code": (with_own_code, "its own Python code, which is not run"),
    "dtype": (lambda p, r: {"dtype": "int8"}, "dtype='int8' is not one of float64"),
    "device": (lambda p, r: {"device": "gpu"}, "device='gpu' is no device"),
    "vocab": (lambda p, r: {"vocab": "loose"}, "vocab='loose' is not one of align"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_pair_that_cannot_be_loaded(checkpoints: Make, name: str) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    change, words = REFUSED[name]
    changed = change(policy, reward)
    options = changed if isinstance(changed, dict) else {}
    assert words in refused(**{"policy": policy, "reward": reward, **options})


def test_pickled_weights_are_read_with_leave(checkpoints: Make) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    pickled(policy, reward)
    assert load_pair(policy, reward, allow_pickle=True).judge.process


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


# --- files that are something else ----------------------------------------------------------------


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
JSONS = [b"", b"[]", b"5", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
DAMAGED = [("pytorch_model.bin", content) for content in PICKLES.values()]
DAMAGED += [(file, content) for file in FILES for content in JSONS]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded.paths()[0], tmp_path / "policy"))


@pytest.mark.parametrize(
    ("file", "content"), DAMAGED, ids=[f"{file} {content[:8]!r}" for file, content in DAMAGED]
)
def test_a_file_that_is_damaged_or_runs_code_is_refused(
    policy: Path, file: str, content: bytes
) -> None:
    if file not in FILES:
        (policy / "model.safetensors").unlink()
    (policy / file).write_bytes(content)
    told = refused(policy, embedded.paths()[1], 1600, allow_pickle=file not in FILES)
    assert str(policy) in told or "policy" in told


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
