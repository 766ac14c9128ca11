"""The models behind `--model nabla`: the policy as `HFLM` loads it, the reward model beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nabla_eval import embedded
from nabla_eval.harness.arguments import Arguments
from nabla_eval.harness.ranks import on_cpu
from nabla_eval.models.chat import Template
from nabla_eval.models.checkpoint import Checkpoint, Trust, parse_device, parse_dtype
from nabla_eval.models.load import policy_from, with_reward
from nabla_eval.models.pair import Pair
from nabla_eval.options import coerce


def policy_options(arguments: Arguments) -> dict[str, Any]:
    """Arguments of `HFLM.__init__`: the embedded policy and the device where nothing was said.

    Raises `ModelError` where the checkpoint cannot be a policy, before its weights are read.
    """
    options = dict(arguments.hf)
    pretrained = arguments.pretrained
    options["pretrained"] = str(embedded.paths()[0]) if pretrained is None else pretrained
    options.setdefault("batch_size", 32)  # HFLM's own default, 1, would run problems one by one
    cuda = torch.cuda.is_available() and not on_cpu()
    where = parse_device(options.get("device", "cuda" if cuda else "cpu"))
    # HFLM knows `cpu`, `cuda` and `mps`, of others `xpu:0`: what it does not know, it replaces by
    # the default without a word.
    known = ":" in str(where) or where.type in ("cpu", "cuda", "mps")
    options["device"] = str(where) if known else f"{where}:0"
    options["dtype"] = parse_dtype(options.get("dtype"))
    plain = not any(options.get(n) for n in ("subfolder", "gguf_file", "autogptq", "gptqmodel"))
    if isinstance(options["pretrained"], str) and plain:
        policy = _checkpoint(arguments, options["pretrained"], "policy", options.get("revision"))
        policy.check()
        if not {"tokenizer", "use_fast_tokenizer", "add_bos_token"} & options.keys():
            options["tokenizer"] = policy.tokenizer  # which keeps a checkpoint's own rules
        if not arguments.allow_pickle:
            options.setdefault("use_safetensors", True)
    return options


def check_reward(arguments: Arguments) -> None:
    """Check the reward model and its device before any weights are read.

    Raises `ModelError` where the checkpoint is no reward model, and `ConfigError`.
    """
    parse_device(arguments.reward_options.get("reward_device"), "reward_device")
    if (checkpoint := _reward(arguments)) is not None:
        checkpoint.check()


def load_pair(arguments: Arguments, model: Any, tokenizer: Any, device: Any) -> Pair:
    """The policy that `HFLM` has loaded, and the reward model, if the method needs one."""
    context = coerce("max_length", arguments.hf.get("max_length"), int | None)
    policy = policy_from(model, tokenizer, context=context)
    checkpoint = _reward(arguments)
    if checkpoint is None:
        return with_reward(policy, None)
    options = arguments.reward_options
    spread = options.get("reward_device_map")
    if spread is None and "reward_device" not in options and arguments.hf.get("parallelize"):
        spread = "auto"
    loading = {} if spread is None else {"device_map": spread}
    if "attn_implementation" in arguments.hf:
        loading["attn_implementation"] = arguments.hf["attn_implementation"]
    return with_reward(
        policy,
        replace(checkpoint, options=loading).check(),
        parse_dtype(arguments.dtype_of_reward),
        parse_device(options["reward_device"]) if "reward_device" in options else device,
        gradient_checkpointing=arguments.gradient_checkpointing,
        template=_template(arguments),
        **{n: options[n] for n in ("vocab", "step_delimiter", "process_score") if n in options},
    )


def _template(arguments: Arguments) -> Template:
    options = arguments.reward_options
    thinking = options.get("reward_thinking", arguments.hf.get("enable_thinking") or False)
    return Template(
        chat_template=options.get("reward_chat_template"),
        system=options.get("reward_system"),
        thinking=coerce("reward_thinking", thinking, bool),
    )


def _reward(arguments: Arguments) -> Checkpoint | None:
    """Where the reward model is; None for methods that ask for no reward."""
    if not arguments.needs_reward:
        return None
    name = embedded.paths()[1] if arguments.reward is None else arguments.reward
    revision = arguments.reward_options.get("reward_revision")
    return _checkpoint(arguments, str(name), "reward", revision)


def _checkpoint(arguments: Arguments, name: str, role: Any, revision: Any) -> Checkpoint:
    trust = Trust(
        bool(arguments.hf.get("trust_remote_code", False)),
        arguments.allow_pickle,
        bool(arguments.hf.get("local_files_only", False)),
    )
    return Checkpoint(name, role, None if revision is None else str(revision), trust)
