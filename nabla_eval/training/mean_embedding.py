"""The policy's likely tokens where two responses part, whose mean embedding is the soft point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from nabla_eval.errors import DataError
from nabla_eval.models.chat import to_be_continued
from nabla_eval.models.checkpoint import examine
from nabla_eval.models.vocabulary import check_overlap, compare, reward_ids
from nabla_eval.training.preferences import Parted
from nabla_eval.training.prompts import FIELD, prompting

if TYPE_CHECKING:
    from nabla_eval.training.align import RewardJob, RewardSetting

Point = tuple[tuple[int, ...], tuple[float, ...]]  # reward token ids, and weights that sum to 1


@torch.no_grad()
def likely_tokens(job: RewardJob, setting: RewardSetting, pairs: Sequence[Parted]) -> list[Point]:
    """For each pair, the policy's `top` tokens there that the reward model knows, renormalised.

    The policy sees its own prompt and the response so far; one pass per pair. Raises
    `VocabularyError` where the two models' tokens differ.
    """
    assert job.policy is not None
    checkpoint = examine(job.trust.source(job.policy, "policy", None, {}))
    tokenizer = checkpoint.tokenizer
    own, other = tokenizer.get_vocab(), setting.checkpoint.tokenizer.get_vocab()
    check_overlap(compare(own, other), "align")
    model = checkpoint.load(setting.dtype, setting.device).eval()
    height = setting.checkpoint.config.vocab_size
    to_reward = reward_ids(own, other, model.get_input_embeddings().weight.shape[0], height)
    to_policy = {reward: policy for policy, reward in enumerate(to_reward.tolist()) if reward >= 0}
    asked = prompting(FIELD, tokenizer, None)
    points = []
    for pair in pairs:
        if any(token not in to_policy for token in pair.prefix):
            raise DataError(
                f"The policy {job.policy} lacks a token of the response "
                f"{pair.preference.chosen[:80]!r}. Leave out --policy, or give one of the reward "
                "model's family."
            )
        prompt = _prompt_ids(tokenizer, asked.prompt(pair.preference.prompt))
        ids = torch.tensor([[*prompt, *(to_policy[token] for token in pair.prefix)]])
        logits = model(input_ids=ids.to(setting.device), use_cache=False).logits[0, -1].float()
        known = to_reward.to(logits.device) >= 0
        chosen = logits.masked_fill(~known[: len(logits)], -torch.inf).topk(
            min(job.recipe.top, int(known.sum()))
        )
        weights = chosen.values.softmax(dim=-1).cpu()
        points.append((tuple(to_reward[chosen.indices.cpu()].tolist()), tuple(weights.tolist())))
    return points


def _prompt_ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(to_be_continued(tokenizer, tokenizer(prompt)["input_ids"], prompt))
    encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])
