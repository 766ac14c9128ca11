"""`reports/memory.md`: what a 7B policy and a 4B reward model need on one 80 GB GPU.

python reports/memory/memory_page.py reports/memory.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from nabla_eval.models import memory
from nabla_eval.models.memory import CHUNK, GIB, Memory, Shape, Term, Use
from nabla_eval.terminal import say

COMMAND = "python reports/memory/memory_page.py reports/memory.md"
LENGTH, PROMPT = 3072, 256
PROBLEMS = 32  # active at once, by default
CACHED = 2 * 2**17  # tokens whose keys and values are kept: of running rollouts, and of prefixes
READ = 2**16  # tokens of prefixes whose keys and values the reward model keeps
RESERVE = 4 * GIB
USABLE = 80 * 10**9 - RESERVE


@dataclass(frozen=True)
class Model:
    """A published architecture."""

    name: str
    shape: Shape
    parameters: int


@dataclass(frozen=True)
class Plan:
    """A way to take gradients."""

    name: str
    use: Use  # of one sequence

    @property
    def fits(self) -> int:
        """The most sequences whose gradients fit at once, beside both models' weights."""
        batch = 0
        while needed(self, batch + 1) <= USABLE:
            batch += 1
        return batch


@cache
def models() -> tuple[Model, Model]:
    """Policy and reward model, with the sizes of their published configs."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        Qwen2Config,
        Qwen3Config,
    )

    policy = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4,
    )  # fmt: skip
    reward = Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    reward.num_labels = 1
    return (
        _model("Qwen2.5-7B", policy, AutoModelForCausalLM),
        _model("Qwen3-4B reward", reward, AutoModelForSequenceClassification),
    )


def _model(name: str, config: Any, auto: Any) -> Model:
    return Model(name, Shape.of(config), memory.parameter_count(config, auto))


def plans() -> list[Plan]:
    """From what keeps most to what keeps least."""
    whole = Use(PROMPT + LENGTH, 1, 2)
    half = replace(whole, prefix=PROMPT + LENGTH // 2)
    return [
        Plan("every position", whole),
        Plan("from the middle on", half),
        Plan("every position, checkpointing", replace(whole, checkpointing=True)),
        Plan("from the middle on, checkpointing", replace(half, checkpointing=True)),
    ]


def needed(plan: Plan, batch: int) -> int:
    """Bytes of both models' weights and of the larger of the two passes, which take turns."""
    parts = [part for _, part in passes(replace(plan.use, batch=batch))]
    return (
        sum(model.parameters * 2 for model in models())
        + max(part.bytes for part in parts)
        + held(PROBLEMS)
        + cached()
    )


def passes(use: Use) -> list[tuple[Model, Memory]]:
    """Each model's pass without its weights, and without the rollouts, which are over by then."""
    policy, reward = models()
    parts = [
        (policy, memory.of_policy(policy.shape, 0, use)),
        (reward, memory.of_reward(reward.shape, 0, use, copied=False)),
    ]
    left_out = ("weights", "key-value cache of rollouts")
    return [
        (model, Memory(tuple(term for term in part.terms if term.name not in left_out)))
        for model, part in parts
    ]


def held(problems: int) -> int:
    """Bytes of states and gradients that problems keep between passes: vectors of size D."""
    policy, reward = (model.shape.hidden for model in models())
    return problems * LENGTH * (3 * policy + reward) * 2


def cached() -> int:
    """Bytes of the models' keys and values that may be there while gradients are taken."""
    policy, reward = (memory.cache_per_token(model.shape, 2) for model in models())
    return CACHED * policy + READ * reward


def of_dto(vocabulary: int, rows: int) -> Memory:
    """DTO with `rows` free rows of logits: float32 state, and what a step makes on the way.

    The state is the policy's logits, z, Adam's two moments, dL/dy, the result and the anchor.
    """
    state, part = rows * vocabulary, min(CHUNK, rows * vocabulary)
    return Memory(
        (
            Term("state of the free rows", 7 * 4 * state, f"7 × {state:,} numbers × 4 bytes"),
            Term("one step's temporaries", 10 * 4 * part, f"10 × {part:,} numbers × 4 bytes"),
        )
    )


def page() -> str:
    """The page, in Markdown."""
    policy, reward = models()
    cache_, read = (memory.cache_per_token(model.shape, 2) for model in (policy, reward))
    weights = [model.parameters * 2 for model in (policy, reward)]
    free = USABLE - sum(weights) - held(PROBLEMS) - cached()
    rollouts = CACHED // 2 // (PROMPT + LENGTH)
    one, all_ = (of_dto(policy.shape.rows, rows) for rows in (1, LENGTH))
    at_once = CHUNK // policy.shape.rows
    fits = {plan.name: plan.fits for plan in plans()}
    first, *_, last = fits.values()
    return f"""# Memory: a 7B policy and a 4B reward model on one 80 GB GPU

Made by `{COMMAND}`.
Arithmetic, term by term. **Measured peak: not measured, no GPU at hand.**
{policy.name} and {reward.name} in bfloat16, V = {policy.shape.rows:,}, responses of L = {LENGTH:,}
tokens after prompts (and templates) of {PROMPT}. 80 GB are {80e9 / GIB:.1f} GiB, of which
{RESERVE // GIB} are set aside for CUDA's context, workspaces and fragmentation (an assumption).

## Always there

| what | GiB | arithmetic |
|---|---:|---|
| weights, {policy.name} | {_gib(weights[0])} | {policy.parameters:,} parameters × 2 bytes |
| weights, {reward.name} | {_gib(weights[1])} | {reward.parameters:,} parameters × 2 bytes |
| states and gradients of {PROBLEMS} problems | {_gib(held(PROBLEMS))} | {PROBLEMS} × {LENGTH:,} \
tokens × (3 × {policy.shape.hidden:,} + {reward.shape.hidden:,}) × 2 bytes |
| keys and values of rollouts | {_gib(CACHED * cache_)} | 2 × {CACHED // 2:,} tokens × \
{cache_:,} bytes |
| keys and values of scores | {_gib(READ * read)} | {READ:,} tokens × {read:,} bytes |
| left | {_gib(free)} | |

## Rollouts

A token's keys and values take {cache_:,} bytes, a full sequence
{_gib(cache_ * (PROMPT + LENGTH))} GiB. `max_batch_tokens`, {CACHED // 2:,} by default, bounds the
tokens of the running batch ({rollouts:,} full sequences), and as many may be kept of prefixes that
later rollouts go on from. Logits exist for the tokens of one step only (B × V). The reward model
keeps half as many tokens of what it scored, for scores and gradients of what begins alike; out of
memory, all that is kept is dropped and encoded again where it is needed.

## One gradient pass

The two models take turns, so the larger pass counts. GiB of one sequence:

{_pass_table()}

"Every position" is what a first sweep asks for, "from the middle on" what a refinement at position
L/2 does: tokens before the first wanted row leave their keys and values, and no activations.

| gradients | sequences at once | {policy.name} pass, GiB | {reward.name} pass, GiB |
|---|---:|---:|---:|
{_fit_rows()}

Sequences that fit at once: {first} with everything kept, {last} with checkpointing from the middle
on, for one more forward pass per gradient (`gradient_checkpointing=true`). On a GPU, batches of
gradients are cut by this arithmetic to what is free; one that does not fit all the same is halved,
with a warning.

## Numbers per vocabulary entry

L × V float32 numbers would be {_gib(4 * LENGTH * policy.shape.rows)} GiB. Log-probabilities, their
gradients, norms and anchors are formed for {at_once} rows at a time
({_gib(4 * at_once * policy.shape.rows)} GiB each). DTO itself holds what is free:

| free rows | state, GiB | a step's temporaries, GiB |
|---|---:|---:|
| 1 (`update=first`, one problem) | {_gib(one.terms[0].bytes, 3)} | {_gib(one.terms[1].bytes, 3)} |
| {LENGTH:,} (`update=all` from position 0) | {_gib(all_.terms[0].bytes)} | \
{_gib(all_.terms[1].bytes)} |

The state is 7 numbers a row and entry: the policy's logits, z, Adam's two moments, dL/dy, the
result and the anchor. `update=all` is L × V free numbers by definition and fits beside the weights.
`update=first`, the default, takes {at_once} problems' rows in one batch.

## What the arithmetic was held to

`tests/models/test_memory.py`: the bytes that autograd keeps per layer equal the formula exactly for
Qwen2, Qwen3 and Llama shapes, float32 and bfloat16, alone, padded, and after a prefix; the peak of
all live tensors of a gradient pass through an 8-layer Qwen2, counted operation by operation on the
CPU, lies between 65 % and 100 % of the sum of the terms. `tests/engine/test_refine_in_parts.py`
counts DTO's 7. GPU kernels may keep other statistics of the softmax than the CPU's; they are small.
"""


def _gib(size: float, digits: int = 2) -> str:
    return f"{size / GIB:.{digits}f}"


def _pass_table() -> str:
    lines = ["| gradients | model | term | GiB | arithmetic |", "|---|---|---|---:|---|"]
    for plan in plans():
        for model, part in passes(plan.use):
            lines += [
                f"| {plan.name} | {model.name} | {term.name} | {_gib(term.bytes)} | "
                f"{term.arithmetic} |"
                for term in part.terms
            ]
    return "\n".join(lines)


def _fit_rows() -> str:
    rows = []
    for plan in plans():
        sizes = [_gib(part.bytes) for _, part in passes(replace(plan.use, batch=plan.fits))]
        rows.append(f"| {plan.name} | {plan.fits} | {' | '.join(sizes)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        say(page(), end="")
