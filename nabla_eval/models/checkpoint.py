"""Opening checkpoints: hub ids or folders to config, tokenizer and model, with clear errors.

Safetensors only and no code from the checkpoint, unless asked. Everything that can be refused from
the config and the file names is refused before any weight is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from nabla_eval.errors import ConfigError, ModelError

Role = Literal["policy", "reward"]

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
OUTCOME = "ForSequenceClassification"
PROCESS = "ForTokenClassification"
DTYPES = ("float64", "float32", "bfloat16", "float16")
_SHORT = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one model comes from and how much it is trusted."""

    name: str  # hub id or folder
    role: Role
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # from_pretrained's: device_map, ...

    @property
    def hub(self) -> dict[str, Any]:
        """The arguments that every `from_pretrained` takes."""
        return {
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
        }


def open_config(source: Source) -> Any:
    """The checkpoint's config. Raises `ModelError` where it is missing or out of reach."""
    from transformers import AutoConfig

    _check_folder(source)
    with _explained(source):
        return AutoConfig.from_pretrained(source.name, **source.hub)


def open_tokenizer(source: Source) -> Any:
    """The checkpoint's tokenizer. Raises `ModelError` where it has none."""
    from transformers import AutoTokenizer

    with _explained(source, part="tokenizer"):
        return AutoTokenizer.from_pretrained(source.name, **source.hub)


def open_model(source: Source, config: Any, dtype: torch.dtype) -> Any:
    """The checkpoint's model for its role, evaluated, frozen. Raises `ModelError`.

    Weights that the checkpoint lacks would be drawn at random: that is refused.
    """
    kind = check_architecture(source, config)
    _check_weights(source)
    with _explained(source, part="weights"):
        model, info = _auto_class(kind).from_pretrained(
            source.name,
            config=config,
            dtype=dtype,
            use_safetensors=None if source.allow_pickle else True,
            output_loading_info=True,
            **source.hub,
            **source.options,
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"The {source.role} {source.name} lacks {len(missing)} of its weights (first: "
            f"{missing[0]}), which would be random. Use a complete checkpoint"
            + (", one that was trained as a reward model." if source.role == "reward" else ".")
        )
    return model


def check_architecture(source: Source, config: Any) -> Literal["causal", "outcome", "process"]:
    """What the checkpoint is, by `config.architectures`; `ModelError` if its role needs another."""
    names = list(getattr(config, "architectures", None) or [])
    found = ", ".join(names) or f"no architecture (model type {config.model_type})"
    kinds: dict[str, Literal["causal", "outcome", "process"]] = {OUTCOME: "outcome", PROCESS: "process"}
    kind = next((kinds[end] for end in kinds for name in names if name.endswith(end)), "causal")
    if source.role == "reward":
        if kind == "causal":
            raise ModelError(
                f"The reward model {source.name} is {found}; a ...{OUTCOME} (one score per response) "
                f"or ...{PROCESS} (one score per step) is needed. Give a reward model, such as "
                "Skywork/Skywork-Reward-V2-Qwen3-4B."
            )
        return kind
    if not any(name.endswith(CAUSAL) for name in names) or getattr(config, "is_encoder_decoder", False):
        hint = " It is a reward model: give it as reward=..." if kind != "causal" else ""
        raise ModelError(
            f"The policy {source.name} is {found}; a decoder-only language model (...ForCausalLM) "
            f"is needed.{hint or ' Give one, such as Qwen/Qwen2.5-7B-Instruct.'}"
        )
    return "causal"


def parse_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype or its name; by default bfloat16 on CUDA and float32 elsewhere."""
    if isinstance(dtype, torch.dtype):
        name = str(dtype).removeprefix("torch.")
    elif dtype in (None, "auto"):
        name = "bfloat16" if device.type == "cuda" else "float32"
    else:
        name = _SHORT.get(str(dtype), str(dtype)).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    parsed = getattr(torch, name)
    assert isinstance(parsed, torch.dtype)
    return parsed


def parse_device(device: str | int | torch.device | None) -> torch.device:
    """A device; by default CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device!r} is no device. Try cpu, cuda or cuda:1.") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r} was asked for, and torch sees no GPU. Try device=cpu.")
    return parsed


def _auto_class(kind: Literal["causal", "outcome", "process"]) -> Any:
    import transformers

    return {
        "causal": transformers.AutoModelForCausalLM,
        "outcome": transformers.AutoModelForSequenceClassification,
        "process": transformers.AutoModelForTokenClassification,
    }[kind]


def looks_local(name: str) -> bool:
    """Whether a name can only be a folder: hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~", os.sep)) or name.count("/") > 1 or "\\" in name


def _check_folder(source: Source) -> None:
    path = Path(source.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The {source.role} folder {path} has no config.json. Give a folder that "
                "save_pretrained wrote, or a hub id such as Qwen/Qwen2.5-7B-Instruct."
            )
    elif path.exists():
        raise ModelError(f"The {source.role} {path} is a file. Give the folder that holds it.")
    elif looks_local(source.name):
        raise ModelError(
            f"The {source.role} folder {source.name} does not exist. Check the path, or give a hub id."
        )


def _check_weights(source: Source) -> None:
    path = Path(source.name)
    if not path.is_dir() or source.allow_pickle or any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for end in ("*.bin", "*.pt", "*.pth") for file in path.glob(end))
    if not pickles:
        raise ModelError(
            f"The {source.role} folder {path} holds no weights (*.safetensors). Download them, or "
            "save the model there with save_pretrained."
        )
    raise _pickle_only(source, pickles[0])


def _pickle_only(source: Source, found: str) -> ModelError:
    return ModelError(
        f"The {source.role} {source.name} has only pickled weights ({found}), which can run any code "
        "when read. Convert them to safetensors, or pass allow_pickle=True if you trust the source."
    )


@contextmanager
def _explained(source: Source, part: str = "config") -> Iterator[None]:
    """Turn what `from_pretrained` raises into one paragraph: what, got, try."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, KeyError, json.JSONDecodeError, RuntimeError) as error:
        raise _explain(source, part, error) from error


def _explain(source: Source, part: str, error: Exception) -> ModelError:
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    what = f"The {source.role}'s {part} ({source.name}) cannot be read"
    if "trust_remote_code" in text or "custom code" in text:
        return ModelError(
            f"The {source.role} {source.name} comes with its own Python code, which is not run. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    if re.search(r"gated|401|403|[Aa]uthoriz|restricted", text):
        return ModelError(
            f"{what}: the hub wants a permission. Accept the model's licence on its hub page and log "
            "in (`hf auth login`, or HF_TOKEN), or give a folder with the checkpoint."
        )
    if re.search(r"no file named .*(safetensors|\.bin)|safetensors", text) and part == "weights":
        return _pickle_only(source, "no *.safetensors")
    if re.search(r"404|not a valid model identifier|RepositoryNotFound|Repo id must", text):
        return ModelError(
            f"{what}: there is no such folder or hub model. Check the name and revision; a private "
            "model also needs a login (`hf auth login`, or HF_TOKEN)."
        )
    if re.search(r"connect|offline|[Rr]esolve|[Nn]etwork|[Tt]imed? ?out|[Mm]ax retries|cache", text):
        return ModelError(
            f"{what}: it is neither a folder nor in the local cache, and the hub is out of reach. "
            "Check the name and the network, or give a folder with the checkpoint."
        )
    return ModelError(f"{what}: {type(error).__name__}: {text[:300]}. Check the checkpoint's files.")
