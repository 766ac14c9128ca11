"""Plain batched sampling from the embedded policy, for training and for the model card.

The engine has its own keyed sampler; the shipped weights' bytes depend on the draws of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pair_tokenizer import EOS_ID, PAD_ID, encode_prompt, token_strings
from torch import Tensor

from nabla_eval.embedded.countdown import Puzzle
from nabla_eval.models.prefix import cache_name

_ROWS = 512


@torch.inference_mode()
def sample(
    model: Any,
    problems: Sequence[Puzzle],
    *,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    """One response (token ids, closing ``<eos>`` included if drawn) per problem.

    Temperature 0 is greedy. Problems must have equally many numbers; a response is cut at the
    length of a well-formed solution, since nothing longer can be right.
    """
    responses: list[list[int]] = []
    for start in range(0, len(problems), _ROWS):
        part = problems[start : start + _ROWS]
        prompts = torch.tensor([encode_prompt(problem) for problem in part])
        drawn = _rollout(model, prompts, part[0].response_tokens, temperature, generator)
        responses += [_until_eos(row) for row in drawn.tolist()]
    return responses


def _rollout(
    model: Any, ids: Tensor, steps: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Token ids [B, steps] drawn after prompts [B, P]; rows run on past their <eos>."""
    name, cache, columns = cache_name(model), None, []
    for _ in range(steps):
        output = model(input_ids=ids, **{name: cache}, use_cache=True, logits_to_keep=1)
        cache, logits = getattr(output, name), output.logits[:, -1]
        if temperature == 0:
            ids = logits.argmax(dim=-1, keepdim=True)
        else:
            probabilities = (logits / temperature).softmax(dim=-1)
            ids = torch.multinomial(probabilities, 1, generator=generator)
        columns.append(ids)
    return torch.cat(columns, dim=1)


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS_ID) + 1] if EOS_ID in ids else ids


def response_text(ids: Sequence[int]) -> str:
    """The text of a response, without its closing token."""
    return "".join(token_strings([index for index in ids if index != EOS_ID]))


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids [B, L], padded on the right: under causal attention padding changes nothing."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD_ID] * (width - len(row))] for row in rows])


def token_logits(
    model: Any, problems: Sequence[Puzzle], responses: Sequence[list[int]]
) -> list[Tensor]:
    """For each response, the policy's logits [tokens, V] that each of its tokens was drawn from."""
    read = _outputs(model, problems, responses, use_cache=False)
    return [logits[start - 1 : stop - 1].clone() for logits, start, stop in read]


def prefix_scores(
    reward: Any, problems: Sequence[Puzzle], responses: Sequence[list[int]]
) -> list[Tensor]:
    """For each response, the reward model's score [tokens] of every prefix; the last is final."""
    read = _outputs(reward, problems, responses)
    return [scores[start:stop, 0].clone() for scores, start, stop in read]


def _outputs(
    model: Any, problems: Sequence[Puzzle], responses: Sequence[list[int]], **options: Any
) -> Iterator[tuple[Tensor, int, int]]:
    """A model's outputs [L, ...] on every prompt and response, and where the response lies."""
    for first in range(0, len(problems), _ROWS):
        part = slice(first, first + _ROWS)
        prompts = [encode_prompt(problem) for problem in problems[part]]
        rows = [prompt + row for prompt, row in zip(prompts, responses[part], strict=True)]
        with torch.inference_mode():
            outputs = model(input_ids=padded(rows), **options).logits
        for prompt, row, values in zip(prompts, rows, outputs, strict=True):
            yield values, len(prompt), len(row)
