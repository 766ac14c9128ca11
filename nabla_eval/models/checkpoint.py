"""Opening checkpoints: hub ids or folders to config, tokenizer and model, with clear errors.

Safetensors only and no code from the checkpoint, unless asked. Everything that can be refused from
the config and the file names is refused before any weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

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


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one model comes from and how much it is trusted."""

    name: str  # hub id or folder
    role: Role
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # from_pretrained's: device_map, ...

    @property
    def who(self) -> str:
        """Return what messages call it."""
        return "policy" if self.role == "policy" else "reward model"

    @property
    def hub(self) -> dict[str, Any]:
        """The arguments that every `from_pretrained` takes."""
        return {
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
        }


@dataclass(frozen=True)
class Trust:
    """Permissions for getting at checkpoints."""

    trust_remote_code: bool = False
    allow_pickle: bool = False
    local_files_only: bool = False

    def source(
        self, name: str | Path, role: Role, revision: str | None, options: Mapping[str, Any]
    ) -> Source:
        """A checkpoint by hub id or folder, in which ~ is the home folder."""
        text = str(name)
        return Source(
            name=str(Path(text).expanduser()) if text.startswith("~") else text,
            role=role,
            revision=revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
            local_files_only=self.local_files_only,
            options=options,
        )


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

    def load(self, dtype: Dtype, device: torch.device) -> Any:
        """The model, on the device unless `device_map` says where."""
        model = open_model(self.source, self.config, dtype)
        return model if self.source.options.get("device_map") is not None else model.to(device)

    def generation_config(self) -> Any:
        """The checkpoint's generation config, None where it has none. Raises `ModelError`."""
        from transformers import GenerationConfig

        source = self.source
        with explained(source.who, source.name, part="generation config"):
            try:
                return GenerationConfig.from_pretrained(source.name, **_without_code(source))
            except OSError:
                return None


def examine(source: Source, weights: bool = True) -> Checkpoint:
    """Open config and tokenizer, and refuse what they already show to be wrong.

    `weights=False` does without files of weights. Raises `ModelError`.
    """
    source = reachable(source)
    config = open_config(source)
    kind = check_architecture(source, config)
    if weights:
        check_weights(source)
    return Checkpoint(source, config, open_tokenizer(source), kind)


def reachable(source: Source) -> Source:
    """The source, from the local cache only where the hub is out of reach.

    The hub's own client repeats each request for half a minute before it gives up.
    """
    if source.local_files_only or os.path.exists(source.name) or hub_answers():
        return source
    return replace(source, local_files_only=True)


def open_config(source: Source) -> Any:
    """The checkpoint's config. Raises `ModelError` where it is missing or out of reach."""
    from transformers import AutoConfig

    _check_folder(source)
    source = reachable(source)
    with explained(source.who, source.name, part="config"):
        return AutoConfig.from_pretrained(source.name, **source.hub)


def open_tokenizer(source: Source) -> Any:
    """The checkpoint's tokenizer. Raises `ModelError` where it has none."""
    from transformers import AutoTokenizer

    source = reachable(source)
    with explained(source.who, source.name, part="tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.hub)
        tokenizer = faithful(tokenizer, **_without_code(source))
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"The {source.who} {source.name} comes without a tokenizer: it would have "
            f"{len(tokenizer.get_vocab())} tokens. Save one there with tokenizer.save_pretrained."
        )
    return tokenizer


def open_model(source: Source, config: Any, dtype: Dtype) -> Any:
    """The checkpoint's model for its role. Raises `ModelError`.

    Weights that the checkpoint lacks would be drawn at random: that is refused.
    """
    auto = auto_class(check_architecture(source, config))
    check_weights(source)
    source = reachable(source)
    with explained(source.who, source.name, part="weights"), _no_reports():
        model, info = auto.from_pretrained(
            source.name,
            config=config,
            dtype=dtype,
            use_safetensors=None if source.allow_pickle else True,
            output_loading_info=True,
            **source.hub,
            **source.options,
        )
    if info["missing_keys"]:
        trained = ", one that was trained as a reward model" if source.role == "reward" else ""
        raise ModelError(
            f"The {source.who} {source.name} lacks {len(info['missing_keys'])} of its weights "
            f"(first: {min(info['missing_keys'])}), which would be random. Use a complete "
            f"checkpoint{trained}."
        )
    return model


def has_weights(source: Source) -> bool | None:
    """Return whether a folder holds files of weights, of any kind; None for a hub id."""
    path = Path(source.name)
    if not os.path.isdir(path):
        return None
    return any(file.suffix in WEIGHTS for file in path.iterdir())


def _without_code(source: Source) -> dict[str, Any]:
    return {name: value for name, value in source.hub.items() if name != "trust_remote_code"}


@contextmanager
def _no_reports() -> Iterator[None]:
    """Keep transformers' tables of missing weights back: what they say becomes an error."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def check_architecture(source: Source, config: Any) -> Kind:
    """Return what the checkpoint is, by `config.architectures`; `ModelError` if its role needs
    another.
    """
    names = list(getattr(config, "architectures", None) or [])
    found = ", ".join(names) or f"no architecture (model type {config.model_type})"
    kind: Kind = "causal"
    if any(name.endswith((OUTCOME, PROCESS)) for name in names):
        kind = "outcome" if any(name.endswith(OUTCOME) for name in names) else "process"
    if source.role == "reward":
        if kind == "causal":
            raise ModelError(
                f"The {source.who} {source.name} is {found}; a ...{OUTCOME} (one score per "
                f"response) or ...{PROCESS} (one score per step) is needed. Give a reward model, "
                "such as Skywork/Skywork-Reward-V2-Qwen3-4B."
            )
        return kind
    decoder = not getattr(config, "is_encoder_decoder", False)
    if not decoder or not any(name.endswith(CAUSAL) for name in names):
        hint = " It is a reward model: give it as reward=..." if kind != "causal" else ""
        raise ModelError(
            f"The {source.who} {source.name} is {found}; a decoder-only language model "
            f"(...ForCausalLM) is needed.{hint or ' Give one, such as Qwen/Qwen2.5-7B-Instruct.'}"
        )
    return "causal"


def parse_dtype(dtype: str | torch.dtype | None) -> Dtype:
    """A dtype or its name; by default "auto", lm-eval's word for the checkpoint's own."""
    if dtype in (None, "auto"):
        return "auto"
    name = _SHORT.get(str(dtype), str(dtype)).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}. Try float32.")
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
        raise ConfigError(f"device={device!r} is not there: torch sees no GPU. Try device=cpu.")
    return parsed


def auto_class(kind: Kind) -> Any:
    """The transformers class that loads such a checkpoint."""
    import transformers

    return {
        "causal": transformers.AutoModelForCausalLM,
        "outcome": transformers.AutoModelForSequenceClassification,
        "process": transformers.AutoModelForTokenClassification,
    }[kind]


def looks_local(name: str) -> bool:
    """Return whether a name can only be a folder: hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~", os.sep)) or name.count("/") > 1 or "\\" in name


def _check_folder(source: Source) -> None:
    path = Path(source.name)
    if os.path.isdir(path):  # os.path: a name that no path can be is just not there
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The {source.who} folder {path} has no config.json. Give a folder that "
                "save_pretrained wrote, or a hub id such as Qwen/Qwen2.5-7B-Instruct."
            )
    elif os.path.exists(path):
        raise ModelError(f"The {source.who} {path} is a file. Give the folder that holds it.")
    elif looks_local(source.name):
        raise ModelError(
            f"The {source.who} folder {source.name} does not exist. Check the path, or give a hub "
            "id such as Qwen/Qwen2.5-7B-Instruct."
        )


def check_weights(source: Source) -> None:
    """Raise `ModelError` where a folder holds no weights that may be read."""
    path = Path(source.name)
    if not os.path.isdir(path) or source.allow_pickle or any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in WEIGHTS)
    if not pickles:
        raise ModelError(
            f"The {source.who} folder {path} holds no weights (*.safetensors). Download them, or "
            "save the model there with save_pretrained."
        )
    raise ModelError(pickle_only(source.who, source.name, pickles[0]))


# --- what goes wrong when a checkpoint is read --------------------------------------------------


@contextmanager
def explained(who: str, name: str, part: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into one paragraph: what, got, try."""
    try:
        yield
    except NablaError:
        raise
    except Exception as error:  # whatever the readers of a dozen formats make of foreign bytes
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ModelError(_explain(who, name, part, type(error).__name__, text)) from error


def _explain(who: str, name: str, part: str, kind: str, text: str) -> str:
    what = f"The {who}'s {part} ({name}) cannot be read"
    if re.search(r"trust_remote_code|custom code", text):
        return (
            f"The {who} {name} comes with its own Python code, which is not run. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    if re.search(r"gated|401|403|[Aa]uthoriz|restricted", text):
        return (
            f"{what}: the hub wants a permission. Accept the model's licence on its hub page and "
            "log in (`hf auth login`, or HF_TOKEN), or give a folder with the checkpoint."
        )
    if part == "weights" and re.search(r"no file named .*(safetensors|\.bin)", text):
        return pickle_only(who, name, "no *.safetensors")
    if re.search(r"404|not a valid model identifier|RepositoryNotFound|Repo id must", text):
        return (
            f"{what}: there is no such folder or hub model. Check the name and revision; a private "
            "model also needs a login (`hf auth login`, or HF_TOKEN)."
        )
    if re.search(r"connect|offline|[Nn]etwork|[Tt]imed? ?out|retries|cache", text):
        return (
            f"{what}: it is neither a folder nor in the local cache, and the hub is out of reach. "
            "Check the name and the network, or give a folder with the checkpoint."
        )
    if re.search(r"mismatched_sizes|size mismatch", text):
        return f"{what}: their shapes are not those of config.json. Use the config they came with."
    if kind == "SafetensorError":
        return f"{what}: a file is damaged ({text}). Download or save it again."
    advice = "Install what it needs, or choose otherwise" if kind == "ImportError" else "Mend it"
    return f"{what}: {kind}: {text[:300].rstrip('. ')}. {advice}, or use another checkpoint."


def pickle_only(who: str, name: str, found: str) -> str:
    """Message for a checkpoint without safetensors."""
    return (
        f"The {who} {name} has only pickled weights ({found}), which can run any "
        "code when read. Convert them to safetensors, or pass allow_pickle=True if you trust the "
        "source."
    )
