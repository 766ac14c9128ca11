"""Opening checkpoints: hub ids or folders to config, tokenizer and model, with clear errors.

Safetensors only and no code from the checkpoint, unless asked. Everything that can be refused from
the config and the file names is refused before any weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers.utils import logging

from nabla_eval.errors import ConfigError, ModelError, NablaError, suggest
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

    def checkpoint(
        self,
        name: str | Path,
        role: Role,
        revision: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Return a checkpoint by hub id or folder, in which ~ is the home folder."""
        text = str(name)
        text = str(Path(text).expanduser()) if text.startswith("~") else text
        return Checkpoint(text, role, revision, self, options or {})


@dataclass(frozen=True)
class Checkpoint:
    """One model's config, tokenizer and weights, each read when it is asked for.

    Raises `ModelError` where it is missing, out of reach, damaged, or not what its role needs.
    """

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

    @property
    def weight_files(self) -> list[str] | None:
        """Return the names of a folder's files of weights, of any kind; None for a hub id."""
        if self.folder is None:
            return None
        return sorted(file.name for file in self.folder.iterdir() if file.suffix in WEIGHTS)

    @cached_property
    def config(self) -> Any:
        """Return its config."""
        _check_name(self)
        with explained(self, "config"):
            return transformers.AutoConfig.from_pretrained(self.name, **self._hub())

    @cached_property
    def kind(self) -> Kind:
        """Return what it is, by `config.architectures`."""
        return _kind(self)

    @cached_property
    def tokenizer(self) -> Any:
        """Return its tokenizer, which splits text as its tokenizer.json says."""
        with explained(self, "tokenizer"):
            found = transformers.AutoTokenizer.from_pretrained(self.name, **self._hub())
            found = faithful(found, **self._hub(code=False))
        if len(found.get_vocab()) <= len(found.all_special_ids):
            raise ModelError(
                f"The {self.who} {self.name} comes without a tokenizer: it would have "
                f"{len(found.get_vocab())} tokens. Save one there with tokenizer.save_pretrained."
            )
        return found

    @property
    def generation_config(self) -> Any:
        """Return its generation config; None where there is none."""
        with explained(self, "generation config"), suppress(OSError):
            return transformers.GenerationConfig.from_pretrained(self.name, **self._hub(code=False))
        return None

    def check(self) -> Checkpoint:
        """Return it, if neither its config nor the names of its files show a fault."""
        _kind(self)
        self.check_weights()
        return self

    def check_weights(self) -> None:
        """Raise `ModelError` where a folder holds no weights that may be read."""
        found = self.weight_files
        if found is None or self.trust.allow_pickle:
            return
        if not found:
            raise ModelError(
                f"The {self.who} folder {self.name} holds no weights (*.safetensors). Download "
                "them, or save the model there with save_pretrained."
            )
        if not any(name.endswith(".safetensors") for name in found):
            raise ModelError(f"The {self.who} {self.name}{_PICKLED.format(found[0])}")

    def dtype(self, asked: str | torch.dtype | None) -> torch.dtype:
        """Return what the model runs in: as asked, or what the config says that its weights are."""
        parsed = parse_dtype(asked)
        if isinstance(parsed, torch.dtype):
            return parsed
        return getattr(self.config, "dtype", None) or torch.float32

    def load(self, dtype: Dtype, device: torch.device) -> Any:
        """Return the model, on the device unless `device_map` says where.

        Weights that the checkpoint lacks would be drawn at random: that is refused.
        """
        self.check_weights()
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # its table of missing weights becomes an error below
        try:
            with explained(self, "weights"):
                model, info = auto_class(self.kind).from_pretrained(
                    self.name,
                    config=self.config,
                    dtype=dtype,
                    use_safetensors=None if self.trust.allow_pickle else True,
                    output_loading_info=True,
                    **self._hub(),
                    **self.options,
                )
        finally:
            logging.set_verbosity(verbosity)
        if missing := info["missing_keys"]:
            trained = ", one that was trained as a reward model" if self.role == "reward" else ""
            raise ModelError(
                f"The {self.who} {self.name} lacks {len(missing)} of its weights (first: "
                f"{min(missing)}), which would be random. Use a complete checkpoint{trained}."
            )
        return model if self.options.get("device_map") is not None else model.to(device)

    def _hub(self, code: bool = True) -> dict[str, Any]:
        """Return the arguments that every `from_pretrained` takes; some run no code.

        Only the local cache is read where the hub is out of reach: its own client repeats each
        request for half a minute before it gives up.
        """
        local = self.trust.local_files_only
        local = local or not (os.path.exists(self.name) or hub_answers())
        own: dict[str, Any] = {"revision": self.revision, "local_files_only": local}
        return own | ({"trust_remote_code": self.trust.trust_remote_code} if code else {})


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


def parse_device(device: str | int | torch.device | None, option: str = "device") -> torch.device:
    """Return a device by its name; by default CUDA where there is one, else the CPU.

    Raises `ConfigError`, naming the `option`, for what is no device and for one that is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seen = [f"{kind}:{n}" for kind in ("cuda", "mps", "xpu") for n in range(_count(kind))]
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        hint = suggest(str(device), ["cpu", "cuda", "mps", *seen])
        raise ConfigError(f"{option}={device!r} is no device. {hint}") from None
    if (parsed.index or 0) >= _count(parsed.type):
        raise ConfigError(
            f"{option}={device!r} is not there: torch {torch.__version__} sees "
            f"{', '.join(seen) or 'no GPU'}. Try {option}={[*seen, 'cpu'][0]}."
        )
    return torch.device("cpu") if parsed.type == "cpu" else parsed


def _count(kind: str) -> int:
    """Return how many devices of a kind there are: 0 of those that torch has no module for."""
    return int(getattr(getattr(torch, kind, None), "device_count", int)())


# --- what is refused ----------------------------------------------------------------------------


def _kind(checkpoint: Checkpoint) -> Kind:
    config = checkpoint.config
    names = list(getattr(config, "architectures", None) or [])
    found = ", ".join(names) or f"no architecture (model type {config.model_type})"
    kind: Kind = "causal"
    if any(name.endswith((OUTCOME, PROCESS)) for name in names):
        kind = "outcome" if any(name.endswith(OUTCOME) for name in names) else "process"
    if checkpoint.role == "reward":
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
        who = f"The {checkpoint.who} {checkpoint.name}"
        raise ModelError(f"{who} is {found}; {needed} is needed. {hint}")
    return kind


def _check_name(checkpoint: Checkpoint) -> None:
    """Raise `ModelError` for a path that leads to no checkpoint."""
    name, folder = checkpoint.name, checkpoint.folder
    # Hub ids are `name` or `owner/name`.
    hub_id = not os.path.exists(name) and not name.startswith((".", "/")) and name.count("/") < 2
    if hub_id or (folder is not None and (folder / "config.json").is_file()):
        return
    fault = "is a file" if os.path.exists(name) else "does not exist"
    if folder is not None:
        fault = "has no config.json"
    raise ModelError(
        f"The {checkpoint.who} folder {name} {fault}. Check the path, or give a hub id such as "
        "Qwen/Qwen2.5-7B-Instruct."
    )


@contextmanager
def explained(checkpoint: Checkpoint, part: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into one paragraph: what, got, try."""
    try:
        yield
    except NablaError:
        raise
    except Exception as error:  # whatever the readers of a dozen formats make of foreign bytes
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ModelError(_explain(checkpoint, part, type(error).__name__, text)) from error


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


def _explain(checkpoint: Checkpoint, part: str, kind: str, text: str) -> str:
    for pattern, words in _OF_CHECKPOINT.items():
        if re.search(pattern, text):
            return f"The {checkpoint.who} {checkpoint.name}{words}"
    what = f"The {checkpoint.who}'s {part} ({checkpoint.name}) cannot be read"
    for pattern, words in _OF_PART.items():
        if re.search(pattern, text):
            return f"{what}: {words}"
    if kind == "SafetensorError":
        return f"{what}: a file is damaged ({text}). Download or save it again."
    advice = "Install what it needs, or choose otherwise" if kind == "ImportError" else "Mend it"
    return f"{what}: {kind}: {text[:300].rstrip('. ')}. {advice}, or use another checkpoint."
