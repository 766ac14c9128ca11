"""Loading a policy and a reward model as one pair (DESIGN 4, 6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.models import chat, heads
from nabla_eval.models.chat import AffixFinder, Template
from nabla_eval.models.checkpoint import Checkpoint, Dtype, Trust, parse_device, parse_dtype
from nabla_eval.models.memory import checkpoint_gradients
from nabla_eval.models.pair import Pair, Policy, Reward
from nabla_eval.models.step_ends import StepEnds, checked_steps, delimiter_of
from nabla_eval.models.tokenizers import check_tokenizer
from nabla_eval.models.vocabulary import Mode, align, check_overlap, compare
from nabla_eval.terminal import LOGGER
from nabla_eval.validation import mismatch

Contrast = Literal["logit", "probability"]


def load_pair(
    policy: str | Path,
    reward: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    *,
    reward_dtype: str | torch.dtype | None = None,
    reward_device: str | int | torch.device | None = None,
    device_map: Any = None,
    reward_device_map: Any = None,
    parallelize: bool = False,
    attn_implementation: str | None = None,
    revision: str | None = None,
    reward_revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    local_files_only: bool = False,
    vocab: Mode = "align",
    step_delimiter: str | None = None,
    process_score: Contrast = "logit",
    template: Template | None = None,
    gradient_checkpointing: bool = False,
) -> Pair:
    """Load a policy and a reward model, each a hub id or a folder.

    Without a reward model, `Pair.reward` is None. `device_map` is accelerate's;
    `parallelize` spreads both models over all GPUs ("auto"). `gradient_checkpointing` keeps less
    for backward passes and takes longer over them. dtype: by default ("auto") each checkpoint's
    own; `reward_dtype` is the reward model's. `vocab`, `step_delimiter`, `process_score`,
    `template`: see `reward_from`.

    Raises `ModelError` (`VocabularyError` for vocabularies that do not fit) and `ConfigError`.
    """
    attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    trust = Trust(trust_remote_code, allow_pickle, local_files_only)
    spread = device_map if device_map is not None else ("auto" if parallelize else None)
    loading = {"device_map": spread, **attention}
    actor = trust.checkpoint(policy, "policy", revision, loading).check()
    where, kind = parse_device(device), parse_dtype(dtype)
    judge = None
    if reward is not None:
        if reward_device_map is None and reward_device is None and isinstance(spread, str):
            reward_device_map = spread
        loading = {"device_map": reward_device_map, **attention}
        judge = trust.checkpoint(reward, "reward", reward_revision, loading).check()
        check_overlap(compare(actor.tokenizer.get_vocab(), judge.tokenizer.get_vocab()), vocab)
    reward_where = where if reward_device is None else parse_device(reward_device, "reward_device")
    return with_reward(
        policy_from(actor.load(kind, where), actor.tokenizer),
        judge,
        parse_dtype(reward_dtype or kind),
        reward_where,
        gradient_checkpointing=gradient_checkpointing,
        vocab=vocab,
        step_delimiter=step_delimiter,
        process_score=process_score,
        template=template,
    )


def with_reward(
    policy: Policy,
    checkpoint: Checkpoint | None,
    dtype: Dtype = "auto",
    device: torch.device | None = None,
    *,
    gradient_checkpointing: bool = False,
    **reading: Any,
) -> Pair:
    """Load a reward model beside a policy that is loaded, and log what each runs in.

    This is where `load_pair` and lm-eval's model meet. Without a checkpoint the pair has no reward
    model. `reading` are options of `reward_from`.
    """
    pair = Pair(policy, None)
    if checkpoint is not None:
        model = checkpoint.load(dtype, parse_device(None) if device is None else device)
        pair = Pair(policy, reward_from(model, checkpoint.tokenizer, policy, **reading))
        if gradient_checkpointing:
            checkpoint_gradients(pair)
    models = (("policy", policy), ("reward model", pair.reward))
    words = [f"{role} {m.name} in {m.dtype} on {m.device}" for role, m in models if m is not None]
    LOGGER.info("Loaded: %s.", ", ".join(words))
    return pair


def policy_from(model: Any, tokenizer: Any, *, context: int | None = None) -> Policy:
    """Return the `Policy` of a loaded transformers causal language model (also with LoRA adapters).

    The weights are frozen in place. Raises `ModelError` where base and head do not add up to the
    model.
    """
    if hasattr(model, "get_base_model"):  # peft: its adapters sit inside the layers
        model = model.get_base_model()
    name = str(getattr(model, "name_or_path", "") or "policy")
    check_tokenizer(tokenizer)
    with heads.faults_explained(model, name):
        halves = heads.split_policy(model, name)
    ends = end_ids(getattr(model, "generation_config", None), model.config, tokenizer)
    if not ends:
        raise ModelError(
            f"The policy {name} has no end-of-text token: neither its tokenizer nor its generation "
            "config names one, so no response would end. Set tokenizer.eos_token."
        )
    return Policy(
        base=halves.base,
        head=halves.head,
        embedding=halves.embedding,
        tokenizer=tokenizer,
        end_ids=ends,
        context=context or halves.context,
        parameters=halves.parameters,
        name=name,
    )


def reward_from(
    model: Any,
    tokenizer: Any,
    policy: Policy,
    *,
    vocab: Mode = "align",
    step_delimiter: str | None = None,
    process_score: Contrast = "logit",
    template: Template | None = None,
    context: int | None = None,
) -> Reward:
    """Return the `Reward` of a loaded sequence (outcome) or token classifier (process).

    `vocab`: "align" re-indexes by token string, "same" refuses to, "force" takes any overlap.
    `step_delimiter`: what ends a step, by the names of the search methods (`Steps.parse`) or as the
    text itself; a process reward is then read at the tokens that end steps, and a delimiter closes
    the last step in place of the template's tail. Without it, every token ends a step.
    `process_score`: how two labels (wrong, right) become a score. `template`: how conversations are
    shown.
    """
    name = str(getattr(model, "name_or_path", "") or "reward")
    check_tokenizer(tokenizer)
    with heads.faults_explained(model, name):
        halves, process = heads.split_reward(model, name, process_score)
    table = _grow(model, halves.embedding, policy.vocabulary)
    vocabularies = policy.tokenizer.get_vocab(), tokenizer.get_vocab()
    embedding, known = align(table, *vocabularies, policy.vocabulary, vocab)
    if step_delimiter is not None and not process:
        raise ConfigError(
            f"step_delimiter={step_delimiter!r} needs a process reward (a token classifier), and "
            f"{name} gives one score per response. Leave step_delimiter out."
        )
    template = template or Template()
    steps = None
    if step_delimiter is not None:
        steps = checked_steps(policy.tokenizer, step_delimiter)
        template = replace(template, delimiter=delimiter_of(step_delimiter))
    affixes = AffixFinder(tokenizer, template)
    chat.check_template(affixes)
    return Reward(
        base=halves.base,
        head=halves.head,
        table=table[: halves.embedding.shape[0]],
        embedding=embedding,
        affixes=affixes,
        context=context or halves.context,
        parameters=halves.parameters,
        known=known,
        process=process,
        ends=None if steps is None else StepEnds(steps, policy.decode),
        name=name,
    )


def end_ids(generation: Any, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return tokens that end a response: the generation config's, the tokenizer's, the turn's.

    Raises `ModelError` where a config names something else.
    """
    ids: list[int | None] = []
    for owner in (generation, config.get_text_config()):
        found = getattr(owner, "eos_token_id", None)
        if mismatch(found, int | list[int] | None):
            raise ModelError(
                f"eos_token_id is {found!r} in config.json or generation_config.json of "
                f"{config.name_or_path}. Write the token's id there, or a list of ids."
            )
        ids += found if isinstance(found, list) else [found]
    ids += [tokenizer.eos_token_id, chat.end_of_turn(tokenizer)]
    return tuple(dict.fromkeys(index for index in ids if index is not None))


def _grow(model: Any, table: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the reward model's table with at least `rows` rows, of which the model has a view.

    Padding differs inside a family (152064 and 151936 rows). Growing the one table costs the few
    rows that are missing, a second table would cost gigabytes.
    """
    own = table.shape[0]
    if own >= rows:
        return table
    grown = torch.cat([table, table.new_zeros(rows - own, table.shape[1])])
    lookup = model.base_model.get_input_embeddings()
    if lookup.weight.data_ptr() == table.data_ptr():
        lookup.weight.data = grown[:own]
    return grown
