"""Plain batched sampling from the embedded policies, for training and for the model cards.

The engine has its own keyed sampler; the shipped weights' bytes depend on the draws of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from pair_tokenizer import EOS_ID, PAD_ID, encode_prompt, token_strings
from torch import Tensor

from nabla_eval.models.prefix import cache_name

_ROWS = 512


@dataclass(frozen=True)
class Coding:
    """How a task's problems become token ids, and ids text."""

    prompt: Callable[[Any], list[int]]
    text: Callable[[Sequence[int]], str]  # of ids without the closing token
    longest: Callable[[Any], int]  # tokens at which a response is cut
    eos: int
    pad: int


COUNTDOWN: Final = Coding(
    prompt=encode_prompt,
    text=lambda ids: "".join(token_strings(ids)),
    longest=lambda problem: int(problem.response_tokens),
    eos=EOS_ID,
    pad=PAD_ID,
)


@torch.inference_mode()
def sample(
    model: Any,
    problems: Sequence[Any],
    *,
    temperature: float,
    generator: torch.Generator,
    coding: Coding = COUNTDOWN,
    mixed: bool = False,
) -> list[list[int]]:
    """One response (token ids, the closing token included if drawn) per problem.

    Temperature 0 is greedy. Prompts of one length are a batch, so no row is padded, unless batches
    are `mixed`. A Countdown response is cut at the length of a well-formed solution, since nothing
    longer can be right.
    """
    prompts = [coding.prompt(problem) for problem in problems]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    responses: dict[int, list[int]] = {}
    while order:
        length = len(prompts[order[0]])
        part = [index for index in order[:_ROWS] if mixed or len(prompts[index]) == length]
        order = order[len(part) :]
        width, limit = len(prompts[part[-1]]), coding.longest(problems[part[0]])
        ids = torch.tensor([[coding.pad] * (width - len(prompts[i])) + prompts[i] for i in part])
        shown = torch.tensor(
            [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in part]
        )
        mask = None if shown.all() else shown
        drawn = _rollout(model, ids, mask, limit, temperature, generator, coding.eos)
        for index, row in zip(part, drawn.tolist(), strict=True):
            responses[index] = row[: row.index(coding.eos) + 1] if coding.eos in row else row
    return [responses[index] for index in range(len(problems))]


def _rollout(
    model: Any,
    ids: Tensor,
    mask: Tensor | None,
    steps: int,
    temperature: float,
    generator: torch.Generator,
    eos: int,
) -> Tensor:
    """Token ids [B, <= steps] drawn after prompts [B, P] until all rows ended; the others run on.

    The mask [B, P] is 0 on the padding at the left, None without any.
    """
    name, cache, columns = cache_name(model), None, []
    ended = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(steps):
        options: dict[str, Any] = {name: cache}
        if mask is not None:
            places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            options |= {"attention_mask": mask, "position_ids": places}
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = model(input_ids=ids, **options, use_cache=True, logits_to_keep=1)
        cache, logits = getattr(output, name), output.logits[:, -1]
        if temperature == 0:
            ids = logits.argmax(dim=-1, keepdim=True)
        else:
            probabilities = (logits / temperature).softmax(dim=-1)
            ids = torch.multinomial(probabilities, 1, generator=generator)
        columns.append(ids)
        ended |= ids[:, 0] == eos
        if ended.all():
            break
    return torch.cat(columns, dim=1)


def response_text(ids: Sequence[int], coding: Coding = COUNTDOWN) -> str:
    """The text of a response, without its closing token."""
    return coding.text([index for index in ids if index != coding.eos])


def padded(rows: Sequence[Sequence[int]], pad: int = PAD_ID) -> Tensor:
    """Token ids [B, L], padded on the right: under causal attention padding changes nothing."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def token_logits(
    model: Any,
    problems: Sequence[Any],
    responses: Sequence[list[int]],
    coding: Coding = COUNTDOWN,
) -> list[Tensor]:
    """For each response, the policy's logits [tokens, V] that each of its tokens was drawn from."""
    read = _outputs(model, problems, responses, coding, use_cache=False)
    return [logits[start - 1 : stop - 1].clone() for logits, start, stop in read]


def prefix_scores(
    reward: Any,
    problems: Sequence[Any],
    responses: Sequence[list[int]],
    coding: Coding = COUNTDOWN,
) -> list[Tensor]:
    """For each response, the reward model's score [tokens] of every prefix; the last is final."""
    read = _outputs(reward, problems, responses, coding)
    return [scores[start:stop, 0].clone() for scores, start, stop in read]


def _outputs(
    model: Any,
    problems: Sequence[Any],
    responses: Sequence[list[int]],
    coding: Coding,
    **options: Any,
) -> Iterator[tuple[Tensor, int, int]]:
    """A model's outputs [L, ...] on every prompt and response, and where the response lies."""
    for first in range(0, len(problems), _ROWS):
        part = slice(first, first + _ROWS)
        prompts = [coding.prompt(problem) for problem in problems[part]]
        rows = [prompt + row for prompt, row in zip(prompts, responses[part], strict=True)]
        with torch.inference_mode():
            outputs = model(input_ids=padded(rows, coding.pad), **options).logits
        for prompt, row, values in zip(prompts, rows, outputs, strict=True):
            yield values, len(prompt), len(row)
