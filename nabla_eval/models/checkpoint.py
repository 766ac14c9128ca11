"""Opening checkpoints: hub ids or folders to config, tokenizer and model, with clear errors.

Safetensors only and no code from the checkpoint, unless asked. Everything that can be refused from
the config and the file names is refused before any weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers.utils import logging

from nabla_eval.errors import ConfigError, ModelError, NablaError
from nabla_eval.models.hub import hub_answers
from nabla_eval.models.tokenizers import faithful

Role = Literal["policy", "reward"]
Kind = Literal["causal", "outcome", "process"]
Dtype = torch.dtype | Literal["auto"]

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
OUTCOME = "ForSequenceClassification"
PROCESS = "ForTokenClassification"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
DTYPES = ("float64", "float32", "bfloat16", "float16")
_SHORT = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Trust:
    """Permissions for getting at checkpoints."""

    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False

    def source(
        self,
        name: str | Path,
        role: Role,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Source:
        """Return a checkpoint by hub id or folder, in which ~ is the home folder."""
        text = str(name)
        text = str(Path(text).expanduser()) if text.startswith("~") else text
        return Source(text, role, revision, self, options or {})


@dataclass(frozen=True)
class Source:
    """Where one model comes from and how much it is trusted."""

    name: str  # hub id or folder
    role: Role
    revision: str | None = None
    trust: Trust = field(default_factory=Trust)
    options: Mapping[str, Any] = field(default_factory=dict)  # from_pretrained's: device_map, ...

    @property
    def who(self) -> str:
        """Return what messages call it."""
        return "policy" if self.role == "policy" else "reward model"

    @property
    def folder(self) -> Path | None:
        """Return the folder that it is in; None for a hub id."""
        return Path(self.name) if os.path.isdir(self.name) else None

    def hub(self, code: bool = True) -> dict[str, Any]:
        """Return the arguments that every `from_pretrained` takes; some run no code.

        Only the local cache is read where the hub is out of reach: its own client repeats each
        request for half a minute before it gives up.
        """
        local = self.trust.local_files_only
        local = local or not (os.path.exists(self.name) or hub_answers())
        own: dict[str, Any] = {"revision": self.revision, "local_files_only": local}
        return own | ({"trust_remote_code": self.trust.trust_remote_code} if code else {})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it is known before its weights are read."""

    source: Source
    config: Any
    tokenizer: Any
    kind: Kind

    def dtype(self, asked: str | torch.dtype | None) -> torch.dtype:
        """Return what the model runs in: as asked, or what the config says that its weights are."""
        parsed = parse_dtype(asked)
        if not isinstance(parsed, torch.dtype):
            parsed = getattr(self.config, "dtype", None) or torch.float32
        return parsed

    def generation_config(self) -> Any:
        """Return the generation config, None where there is none. Raises `ModelError`."""
        source = self.source
        with explained(source, "generation config"):
            try:
                return transformers.GenerationConfig.from_pretrained(
                    source.name, **source.hub(code=False)
                )
            except OSError:
                return None

    def load(self, dtype: Dtype, device: torch.device) -> Any:
        """Return the model, on the device unless `device_map` says where. Raises `ModelError`.

        Weights that the checkpoint lacks would be drawn at random: that is refused.
        """
        source = self.source
        check_weights(source)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # its table of missing weights becomes an error below
        try:
            with explained(source, "weights"):
                model, info = auto_class(self.kind).from_pretrained(
                    source.name,
                    config=self.config,
                    dtype=dtype,
                    use_safetensors=None if source.trust.allow_pickle else True,
                    output_loading_info=True,
                    **source.hub(),
                    **source.options,
                )
        finally:
            logging.set_verbosity(verbosity)
        if missing := info["missing_keys"]:
            trained = ", one that was trained as a reward model" if source.role == "reward" else ""
            raise ModelError(
                f"The {source.who} {source.name} lacks {len(missing)} of its weights (first: "
                f"{min(missing)}), which would be random. Use a complete checkpoint{trained}."
            )
        return model if source.options.get("device_map") is not None else model.to(device)


def examine(source: Source, weights: bool = True) -> Checkpoint:
    """Open config and tokenizer, and refuse what they already show to be wrong.

    `weights=False` does without files of weights. Raises `ModelError`.
    """
    config, kind = open_config(source)
    if weights:
        check_weights(source)
    return Checkpoint(source, config, open_tokenizer(source), kind)


def open_config(source: Source) -> tuple[Any, Kind]:
    """Return a checkpoint's config, and what it is.

    Raises `ModelError` where it is missing, out of reach, or no checkpoint for its role.
    """
    _check_folder(source)
    with explained(source, "config"):
        config = transformers.AutoConfig.from_pretrained(source.name, **source.hub())
    return config, _kind(source, config)


def open_tokenizer(source: Source) -> Any:
    """Return the checkpoint's tokenizer. Raises `ModelError` where it has none."""
    with explained(source, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.name, **source.hub())
        tokenizer = faithful(tokenizer, **source.hub(code=False))
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"The {source.who} {source.name} comes without a tokenizer: it would have "
            f"{len(tokenizer.get_vocab())} tokens. Save one there with tokenizer.save_pretrained."
        )
    return tokenizer


def auto_class(kind: Kind) -> Any:
    """Return the transformers class that loads such a checkpoint."""
    return {
        "causal": transformers.AutoModelForCausalLM,
        "outcome": transformers.AutoModelForSequenceClassification,
        "process": transformers.AutoModelForTokenClassification,
    }[kind]


def parse_dtype(dtype: str | torch.dtype | None) -> Dtype:
    """Return a dtype by its name; by default "auto", lm-eval's word for the checkpoint's own."""
    if dtype in (None, "auto"):
        return "auto"
    name = _SHORT.get(str(dtype), str(dtype)).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}. Try float32.")
    parsed = getattr(torch, name)
    assert isinstance(parsed, torch.dtype)
    return parsed


def parse_device(device: str | int | torch.device | None) -> torch.device:
    """Return a device by its name; by default CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device!r} is no device. Try cpu, cuda or cuda:1.") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r} is not there: torch sees no GPU. Try device=cpu.")
    return parsed


# --- what is refused ----------------------------------------------------------------------------


def _kind(source: Source, config: Any) -> Kind:
    """Return what the checkpoint is, by `config.architectures`."""
    names = list(getattr(config, "architectures", None) or [])
    found = ", ".join(names) or f"no architecture (model type {config.model_type})"
    kind: Kind = "causal"
    if any(name.endswith((OUTCOME, PROCESS)) for name in names):
        kind = "outcome" if any(name.endswith(OUTCOME) for name in names) else "process"
    if source.role == "reward":
        fits = kind != "causal"
        needed = f"a ...{OUTCOME} (one score per response) or ...{PROCESS} (one score per step)"
        hint = "Give a reward model, such as Skywork/Skywork-Reward-V2-Qwen3-4B."
    else:
        decoder = not getattr(config, "is_encoder_decoder", False)
        fits = kind == "causal" and decoder and any(name.endswith(CAUSAL) for name in names)
        needed = "a decoder-only language model (...ForCausalLM)"
        hint = "Give one, such as Qwen/Qwen2.5-7B-Instruct."
        if kind != "causal":
            hint = "It is a reward model: give it as reward=..."
    if not fits:
        raise ModelError(f"The {source.who} {source.name} is {found}; {needed} is needed. {hint}")
    return kind


def _check_folder(source: Source) -> None:
    name, instead = source.name, "or a hub id such as Qwen/Qwen2.5-7B-Instruct."
    if source.folder is not None:
        if not (source.folder / "config.json").is_file():
            raise ModelError(
                f"The {source.who} folder {name} has no config.json. Give a folder that "
                f"save_pretrained wrote, {instead}"
            )
    # Hub ids are `name` or `owner/name`.
    elif os.path.exists(name) or name.startswith((".", "/")) or name.count("/") > 1:
        fault = "is a file" if os.path.exists(name) else "does not exist"
        raise ModelError(f"The {source.who} folder {name} {fault}. Check the path, {instead}")


def weight_files(source: Source) -> list[str] | None:
    """Return the names of a folder's files of weights, of any kind; None for a hub id."""
    if source.folder is None:
        return None
    return sorted(file.name for file in source.folder.iterdir() if file.suffix in WEIGHTS)


def check_weights(source: Source) -> None:
    """Raise `ModelError` where a folder holds no weights that may be read."""
    found = weight_files(source)
    if found is None or source.trust.allow_pickle:
        return
    if not found:
        raise ModelError(
            f"The {source.who} folder {source.name} holds no weights (*.safetensors). Download "
            "them, or save the model there with save_pretrained."
        )
    if not any(name.endswith(".safetensors") for name in found):
        raise ModelError(f"The {source.who} {source.name}{_PICKLED.format(found[0])}")


@contextmanager
def explained(source: Source, part: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into one paragraph: what, got, try."""
    try:
        yield
    except NablaError:
        raise
    except Exception as error:  # whatever the readers of a dozen formats make of foreign bytes
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ModelError(_explain(source, part, type(error).__name__, text)) from error


_PICKLED = (
    " has only pickled weights ({}), which can run any code when read. Convert them to "
    "safetensors, or pass allow_pickle=True if you trust the source."
)
# Patterns of messages, and what is said in their place: of the checkpoint, then of its part.
_OF_CHECKPOINT = {
    r"trust_remote_code|custom code": " comes with its own Python code, which is not run. "
    "Read that code, then pass trust_remote_code=True if you trust it.",
    r"no file named .*(safetensors|\.bin)": _PICKLED.format("no *.safetensors"),
}
_OF_PART = {
    r"gated|401|403|[Aa]uthoriz|restricted": "the hub wants a permission. Accept the model's "
    "licence on its hub page and log in (`hf auth login`, or HF_TOKEN), or give a folder with the "
    "checkpoint.",
    r"404|not a valid model identifier|RepositoryNotFound|Repo id must": "there is no such folder "
    "or hub model. Check the name and revision; a private model also needs a login "
    "(`hf auth login`, or HF_TOKEN).",
    r"connect|offline|[Nn]etwork|[Tt]imed? ?out|retries|cache": "it is neither a folder nor in the "
    "local cache, and the hub is out of reach. Check the name and the network, or give a folder "
    "with the checkpoint.",
    r"mismatched_sizes|size mismatch": "their shapes are not those of config.json. Use the config "
    "they came with.",
}


def _explain(source: Source, part: str, kind: str, text: str) -> str:
    for pattern, words in _OF_CHECKPOINT.items():
        if re.search(pattern, text):
            return f"The {source.who} {source.name}{words}"
    what = f"The {source.who}'s {part} ({source.name}) cannot be read"
    for pattern, words in _OF_PART.items():
        if re.search(pattern, text):
            return f"{what}: {words}"
    if kind == "SafetensorError":
        return f"{what}: a file is damaged ({text}). Download or save it again."
    advice = "Install what it needs, or choose otherwise" if kind == "ImportError" else "Mend it"
    return f"{what}: {kind}: {text[:300].rstrip('. ')}. {advice}, or use another checkpoint."
