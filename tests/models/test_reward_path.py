"""The reward's whole path (affixes, aligned table, base, head) against transformers' own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import model_builders as build
import pytest
import torch

from nabla_eval.dto.objective import Site, embed_reward, reward_rows
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair, Reward
from nabla_eval.models.prefix import padded, position_ids
from nabla_eval.models.tokenizers import encode

USER = {"role": "user", "content": "Is 12+34=46?"}
SYSTEM = {"role": "system", "content": "Judge."}
TURNS = [USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And 7*8?"}]
RESPONSES = ("The answer is \\boxed{56}.", "It is 56, for:\n\n- 7*8 = 56 ✓", "4")


def path(reward: Reward, messages: list[dict[str, str]], rows: list[tuple[int, ...]]) -> Any:
    """Scores `[B, T]` of policy token rows as one left-padded batch, and the mask."""
    affixes = reward.affixes(messages)
    sites = [Site((), affixes, row, len(row)) for row in rows]
    embeds, mask = inputs(reward, sites)
    return scores_of(reward, embeds, mask), mask


def inputs(reward: Reward, sites: list[Site]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = padded(reward_rows(reward, sites), reward.device)
    return embed_reward(reward, ids), mask


def scores_of(reward: Reward, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    states = reward.base(
        inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state
    return reward.head(states)


@pytest.mark.parametrize(
    ("own", "other", "family"),
    [
        (build.QWEN25, build.QWEN3, "qwen3"),
        (build.QWEN3, build.QWEN25, "qwen2"),
        (build.LLAMA, build.LLAMA, "llama"),
    ],
)
def test_reward_of_a_conversation_is_transformers_own(
    real: Callable[[str], Any], own: str, other: str, family: str
) -> None:
    tokenizer, judge_tokenizer = real(own), real(other)
    policy = policy_from(build.tiny("policy", tokenizer, rows=152064), tokenizer)
    models = {
        kind: build.tiny(kind, judge_tokenizer, family, rows=151936, seed=1)
        for kind in ("outcome", "process")
    }
    judges = {kind: reward_from(model, judge_tokenizer, policy) for kind, model in models.items()}
    rows = [encode(tokenizer, text) for text in RESPONSES]
    conversations = ([USER], [SYSTEM, USER], [SYSTEM, *TURNS])
    for messages, (kind, model) in itertools.product(conversations, models.items()):
        scores, _ = path(judges[kind], messages, rows)
        for row, response in zip(scores, RESPONSES, strict=True):
            chat = [*messages, {"role": "assistant", "content": response}]
            encoded = judge_tokenizer.apply_chat_template(
                chat, return_tensors="pt", return_dict=True, date_string="26 Jul 2024"
            )
            with torch.no_grad():
                whole = model(input_ids=encoded["input_ids"]).logits
            expected = whole[0, -1, 0] if kind == "process" else whole[0, 0]
            torch.testing.assert_close(row[-1], expected, atol=1e-6, rtol=0)


def shuffled_pair(seed: int) -> tuple[Pair, Pair]:
    """One reward model under the policy's ids, and the same one under shuffled ids."""
    words = list(build.WORDS)
    tokenizer = build.word_tokenizer(words)
    policy = policy_from(build.tiny("policy", tokenizer), tokenizer)
    model = build.tiny("process", tokenizer, seed=1)
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()
    other_tokenizer = build.word_tokenizer([words[i] for i in order])
    other = build.tiny("process", tokenizer, seed=1)
    with torch.no_grad():
        lookup = other.get_input_embeddings().weight
        lookup[: len(order)] = lookup[order]
    straight = Pair(policy, reward_from(model, tokenizer, policy))
    return straight, Pair(policy, reward_from(other, other_tokenizer, policy))


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_vocabulary_gives_the_same_reward(seed: int) -> None:
    straight, shuffled = shuffled_pair(seed)
    rows = [tuple(range(5, 17)), (3, 1, 4)]
    chat = [{"role": "user", "content": "1+2=?"}]
    one, other = (path(pair.judge, chat, rows)[0] for pair in (straight, shuffled))
    assert torch.equal(one[:, -1], other[:, -1])
    assert shuffled.judge.affixes(chat).before != straight.judge.affixes(chat).before
    assert shuffled.judge.known is None


def test_gradient_flows_through_the_aligned_table() -> None:
    """dr/dy = E_r . dr/de' (DESIGN 3.1) against central differences in the one-hot entries."""
    judge = shuffled_pair(1)[1].judge
    row = (3, 1, 4, 1, 5)
    chat = [{"role": "user", "content": "1+2=?"}]
    site = Site((), judge.affixes(chat), row, len(row))
    embeds, mask = inputs(judge, [site])
    before = len(site.affixes.before)
    span = slice(before, before + len(row))
    embeds.requires_grad_()
    (gradient,) = torch.autograd.grad(scores_of(judge, embeds, mask)[0, -1], embeds)
    ours = gradient[0, span] @ judge.embedding.T
    step = 1e-5
    for position, token in ((0, 0), (2, 17), (4, 9), (3, 1)):
        values = []
        for sign in (1, -1):
            moved = embeds.detach().clone()
            moved[0, span][position] += sign * step * judge.embedding[token]
            values.append(scores_of(judge, moved, mask)[0, -1])
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(ours[position, token], slope, atol=1e-7, rtol=1e-6)


def test_a_shorter_reward_table_grows_without_a_second_copy() -> None:
    tokenizer = build.word_tokenizer()
    policy = policy_from(build.tiny("policy", tokenizer, rows=48), tokenizer)
    model = build.tiny("process", tokenizer, rows=40, seed=1)
    own = model.get_input_embeddings().weight.clone()
    judge = reward_from(model, tokenizer, policy)
    assert judge.embedding.shape == (48, 16) and judge.table.shape == (40, 16)
    assert judge.embedding.data_ptr() == judge.table.data_ptr()
    assert model.get_input_embeddings().weight.data_ptr() == judge.table.data_ptr()
    assert torch.equal(judge.table[: len(tokenizer)], own[: len(tokenizer)])
    assert judge.known is not None and judge.known.sum() == len(tokenizer)


def test_tokens_the_reward_model_lacks_are_known_to_be_unknown() -> None:
    words = [chr(0x4E00 + i) for i in range(150)]
    tokenizer, other = build.word_tokenizer(words), build.word_tokenizer(words[1:])
    policy = policy_from(build.tiny("policy", tokenizer), tokenizer)
    judge = reward_from(build.tiny("process", other, seed=1), other, policy)
    assert judge.known is not None
    assert judge.known.nonzero()[:, 0].tolist() == list(range(1, len(tokenizer)))
    assert judge.embedding[0].abs().sum() == 0
    assert torch.equal(judge.embedding[1:], judge.table[: len(other)])
