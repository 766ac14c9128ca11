"""`--model_args` of `--model nabla`, checked before anything heavy is imported or loaded.

Three kinds of names meet in one flat list: those of this class, those of the method (DESIGN 3.5),
and those of lm-eval's `HFLM`. Each has one owner, so a name that nobody owns is a mistake.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nabla_eval import embedded
from nabla_eval.engine.vllm_client import ServerOptions
from nabla_eval.errors import ConfigError, suggest
from nabla_eval.methods.registry import (
    METHODS,
    MethodSpec,
    configure,
    option_names,
    refuse_removed,
    settle,
    spec,
)
from nabla_eval.options import Options, build, coerce, fingerprint, flatten, leaves
from nabla_eval.validation import Count

# Parameters of `HFLM.__init__`; written out, because importing it takes as long as torch does.
HFLM_NAMES = frozenset({
    "backend", "revision", "subfolder", "tokenizer", "truncation", "logits_cache", "max_length",
    "device", "dtype", "softmax_dtype", "mixed_precision_dtype", "batch_size", "max_batch_size",
    "trust_remote_code", "use_fast_tokenizer", "add_bos_token", "prefix_token_id", "parallelize",
    "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "tp_plan", "peft", "delta",
    "autogptq", "gptqmodel", "gguf_file", "think_end_token", "enable_thinking",
    "chat_template_args",
})  # fmt: skip
# What `HFLM` hands on to `from_pretrained`.
PASSED_ON = frozenset({
    "attn_implementation", "cache_dir", "device_map", "force_download", "load_in_4bit",
    "load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_quant_storage",
    "bnb_4bit_use_double_quant", "local_files_only", "low_cpu_mem_usage", "max_memory",
    "offload_buffers", "offload_state_dict", "proxies", "quantization_config", "rope_scaling",
    "token", "use_safetensors", "variant",
})  # fmt: skip
# How the reward model is loaded and shown conversations: see `nabla_eval.models.load`.
REWARD_NAMES = frozenset({
    "reward_dtype", "reward_device", "reward_device_map", "reward_revision",
    "reward_chat_template", "reward_system", "reward_thinking", "vocab", "step_delimiter",
    "process_score",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OwnOptions(Options):
    """Arguments of `--model nabla` itself, whatever the method."""

    seed: int | None = None  # None: lm-eval's own --seed
    rollout: Literal["local", "vllm"] = "local"
    max_batch_tokens: Count = 2**17  # padded tokens of one micro-batch
    gradient_checkpointing: bool = False  # keep less for backward passes, and compute it again
    max_errors: int = 10  # items that may fail before a run stops early
    allow_errors: bool = False  # end well although items failed; they have no score
    allow_pickle: bool = False


OWN_NAMES = leaves(OwnOptions).keys() | {
    "pair", "pretrained", "reward", "method", "preset", "trace_dir",
}  # fmt: skip
SERVER_NAMES = frozenset(leaves(ServerOptions))  # of `rollout=vllm`
COMMON_NAMES = OWN_NAMES | SERVER_NAMES | REWARD_NAMES | HFLM_NAMES | PASSED_ON
# No answer depends on these, or they stand in `run.json` under a name of their own.
NEUTRAL = frozenset({
    "method", "preset", "seed", "trace_dir", "batch_size", "max_batch_size", "max_batch_tokens",
    "device", "device_map", "reward_device", "reward_device_map", "parallelize", "max_memory",
    "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "offload_buffers",
    "offload_state_dict", "low_cpu_mem_usage", "cache_dir", "local_files_only", "force_download",
    "proxies", "token", "logits_cache", "gradient_checkpointing", "max_errors", "allow_errors",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments(OwnOptions):
    """The parsed `--model_args`. `config` holds the method's validated options."""

    method: str
    preset: str | None
    config: Any
    given: frozenset[str]  # options of the method that model_args name: they beat gen_kwargs
    pretrained: Any = None  # hub id, folder or a loaded model; None: the embedded policy
    reward: str | Path | None = None
    trace_dir: Path | None = None
    dry: bool = False  # a dry run, of which nothing is kept
    server: ServerOptions | None = None  # of rollout=vllm; None: rollouts are local
    reward_options: Mapping[str, Any] = field(default_factory=dict)
    hf: Mapping[str, Any] = field(default_factory=dict)  # HFLM's own

    def __post_init__(self) -> None:
        """Leave the values alone: `read` has checked them."""

    @property
    def spec(self) -> MethodSpec:
        return spec(self.method)

    @property
    def dtype_of_reward(self) -> str:
        """Return the dtype asked for the reward model: its own, the policy's, or "auto"."""
        return str(self.reward_options.get("reward_dtype") or self.hf.get("dtype") or "auto")

    @property
    def needs_reward(self) -> bool:
        """Return whether the method, with these options, scores responses."""
        return bool(self.config.needs_reward)

    @property
    def fingerprint(self) -> str:
        """Short hash of the method's options, as traces store it."""
        return fingerprint(flatten(self.config))


def read(options: Mapping[str, Any], *, paired: bool = False, rewarded: bool = True) -> Arguments:
    """Check flat model arguments and sort them by owner; strings are read as the option's type.

    `paired`: the models are loaded already (`rewarded`: a reward model too), so nothing that says
    how to load them is accepted.
    Raises `ConfigError` for an unknown, unfitting or contradictory argument. Loads nothing.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if "pair" in options and not paired:
        options = _with_pair(options)
    method = str(options.get("method", "nabla"))
    own = option_names(method)
    _refuse_unknown(options, method, own)
    preset = options.get("preset")
    config = configure(method, {n: options[n] for n in options if n in own}, preset)
    if not paired:
        rewarded = "pretrained" not in options or "reward" in options
    config = settle(config, rewarded)
    own_options = build(OwnOptions, {n: options[n] for n in leaves(OwnOptions) if n in options})
    arguments = Arguments(
        **flatten(own_options),
        method=method,
        preset=None if preset is None else str(preset),
        config=config,
        given=frozenset(options) & frozenset(own),
        pretrained=options.get("pretrained"),
        reward=options.get("reward"),
        trace_dir=Path(str(options["trace_dir"])) if "trace_dir" in options else None,
        server=_server(options, own_options.rollout),
        reward_options={n: options[n] for n in options if n in REWARD_NAMES},
        hf={n: options[n] for n in options if n in HFLM_NAMES | PASSED_ON},
    )
    if paired:
        _refuse_loading(options)
    _refuse_contradictions(arguments, paired)
    return arguments


def _with_pair(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the folders of the embedded pair that `pair` names."""
    said = [name for name in ("pretrained", "reward") if name in options]
    if said:
        raise ConfigError(
            f"pair={options['pair']} is an embedded policy with its reward model, and "
            f"{', '.join(said)} names another. Leave out pair, or {' and '.join(said)}."
        )
    policy, reward = embedded.paths(str(options["pair"]))
    return {**options, "pretrained": str(policy), "reward": str(reward)}


def process_number(name: str, default: int) -> int:
    """Return RANK or WORLD_SIZE, as torchrun and `accelerate launch` set them for each process.

    Raises `ConfigError` where the environment variable is no integer >= 0.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal()):
        raise ConfigError(
            f"{name} in the environment must be an integer >= 0, got {given!r}. Unset it, or start "
            "the processes with torchrun or `accelerate launch`, which set it."
        )
    return int(given)


def _server(options: Mapping[str, Any], rollout: str) -> ServerOptions | None:
    """Return where rollouts come from; None where they are made here."""
    named = {name: options[name] for name in options if name in SERVER_NAMES}
    if rollout == "vllm":
        if "vllm_url" not in named:
            raise ConfigError("rollout=vllm needs vllm_url. Try vllm_url=http://127.0.0.1:8000.")
        return build(ServerOptions, named)
    if named:
        raise ConfigError(
            f"{', '.join(named)}: the address of a server, and rollout=local asks none. "
            "Add rollout=vllm, or leave them out."
        )
    return None


def _refuse_unknown(options: Iterable[str], method: str, own: tuple[str, ...]) -> None:
    known = {*own, *COMMON_NAMES}
    for name in options:
        if name in known:
            continue
        if method == "nabla":
            refuse_removed(name)
        owners = [other for other in METHODS if name in option_names(other)]
        if owners:
            raise ConfigError(
                f"method={method} has no option {name!r}; it belongs to method={'|'.join(owners)}. "
                f"Leave it out, or change the method."
            )
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = suggest(name, known if close else own)
        raise ConfigError(
            f"--model nabla has no argument {name!r}, neither of its own (method={method}) nor of "
            f"lm-eval's hf model. {hint}"
        )


def _refuse_contradictions(arguments: Arguments, paired: bool) -> None:
    hf = arguments.hf
    alone = arguments.pretrained is not None and arguments.reward is None
    if alone and arguments.needs_reward and not paired:
        raise ConfigError(
            f"method={arguments.method} needs a reward model, and got pretrained="
            f"{arguments.pretrained} without one. Pass reward=..., leave pretrained out for the "
            "embedded pair, or try method=greedy or method=self_consistency, which need none."
        )
    if hf.get("backend", "causal") not in ("causal", "default"):
        raise ConfigError(
            f"backend={hf['backend']!r} cannot be steered token by token. Use a decoder-only model."
        )
    if hf.get("enable_thinking") and hf.get("think_end_token") is None:
        raise ConfigError(
            "enable_thinking=True needs think_end_token, or the thoughts would be graded. "
            "Try think_end_token=</think>."
        )
    check_batch_size(hf.get("batch_size", 32))


def check_batch_size(size: Any) -> None:
    """Raise `ConfigError` unless a batch size is a count, `auto` or lm-eval's `auto:N`."""
    automatic, colon, times = str(size).partition(":")
    if automatic != "auto":
        coerce("batch_size", size, Count, 32)
    elif colon:
        coerce("the N of batch_size=auto:N", times, Count)


def check_devices(options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where `device` or `reward_device` is none, or none of this machine.

    Imports torch where they name another than the CPU.
    """
    for option in ("device", "reward_device"):
        if options.get(option) not in (None, "cpu"):
            from nabla_eval.models.checkpoint import parse_device

            parse_device(options[option], option)


# With a loaded pair these still mean something; the rest would silently do nothing.
_STILL_USED = frozenset({
    "batch_size", "max_batch_size", "max_length", "add_bos_token", "prefix_token_id",
    "think_end_token", "enable_thinking", "chat_template_args", "logits_cache", "softmax_dtype",
    "mixed_precision_dtype", "truncation", "backend",
})  # fmt: skip
LOADING = {"pair", "pretrained", "reward", "allow_pickle", "gradient_checkpointing"}
LOADING |= (HFLM_NAMES | PASSED_ON | REWARD_NAMES) - _STILL_USED


def loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat model arguments that say which models to load, and how."""
    return {name: options[name] for name in options if name in LOADING}


def _refuse_loading(options: Mapping[str, Any]) -> None:
    said = (name for name, value in loading(options).items() if value is not False)
    idle = [name for name in said if name != "allow_pickle"]
    if idle:
        raise ConfigError(
            f"{', '.join(idle)}: these say how to load models, and pair= is loaded already. "
            "Leave them out, or leave pair out."
        )
