"""A policy and a reward model, reduced to what the engine needs of them (DESIGN 6).

Both are seen as base (tokens or embeddings -> last hidden states), head (hidden states -> logits or
scores) and an embedding table whose rows follow the *policy's* token ids, so that one gradient
with respect to input embeddings per model gives dL/dy at every position (DESIGN 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nabla_eval.errors import ModelError
from nabla_eval.models import tokenizers
from nabla_eval.models.step_ends import StepEnds
from nabla_eval.protocol import Problem, TemplateAffixes
from nabla_eval.randomness import Key
from nabla_eval.thought import Thought

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Policy:
    """A causal language model. V is the width of its logits, D its hidden size."""

    base: torch.nn.Module = field(repr=False)  # -> .last_hidden_state [B, L, D]
    head: Callable[[Tensor], Tensor] = field(repr=False)  # [..., D] -> logits [..., V]
    embedding: Tensor = field(repr=False)  # [V, D], as the base sees tokens
    tokenizer: Any = field(repr=False)
    end_ids: tuple[int, ...]  # tokens that end a response
    context: int  # longest input, tokens
    parameters: int  # outside the input embedding table
    name: str = "policy"
    _pieces: dict[int, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> str:
        """Return the dtype as users write it: float32."""
        return str(self.embedding.dtype).removeprefix("torch.")

    @property
    def vocabulary(self) -> int:
        """Return V, the rows of the embedding table."""
        return self.embedding.shape[0]

    def encode(self, text: str, special: bool = True) -> tuple[int, ...]:
        """Return token ids of a rendered prompt; `special` adds BOS where the tokenizer would.

        A text that already starts with BOS, as chat templates write it, gets no second one. An EOS
        that the tokenizer would append is left out.
        """
        ids = tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        if special:
            ids = tokenizers.to_be_continued(self.tokenizer, ids, text)
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == (bos, bos) else ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Return the text of token ids; `special` keeps special tokens such as the end of turn."""
        return tokenizers.decode(self.tokenizer, ids, special)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Return the tokens that are no text."""
        return frozenset(tokenizers.special_ids(self.tokenizer))

    @cached_property
    def thought(self) -> Thought | None:
        """Return that of the known tags that the vocabulary has tokens for."""
        return tokenizers.own_thought(self.tokenizer)

    def hidden(self, thought: Thought | None) -> frozenset[int]:
        """Return tokens that the text of a response leaves out."""
        return tokenizers.hidden_ids(self.tokenizer, thought)

    def shown(self, ids: Sequence[int], thought: Thought | None) -> str:
        """Return the text of a response, in which thoughts can be told from answers."""
        return tokenizers.shown(self.tokenizer, ids, thought)

    def piece(self, token: int) -> str:
        """Return text with every character that the token may add to a response; remembered.

        Written twice: the text of a token at the beginning may be another than further on.
        """
        if token not in self._pieces:
            self._pieces[token] = self.decode([token, token], special=True)
        return self._pieces[token]

    def token_of(self, text: str) -> int | None:
        """Return the one token that a text is, if it is one."""
        ids = self.encode(text, special=False)
        return ids[0] if len(ids) == 1 and self.decode(ids, special=True) == text else None


@dataclass(frozen=True)
class Reward:
    """A reward model: outcome (one score, read at the last token) or process (one per prefix)."""

    base: torch.nn.Module = field(repr=False)  # -> .last_hidden_state [B, L, D]
    head: Callable[[Tensor], Tensor] = field(repr=False)  # [..., D] -> scores [...]
    table: Tensor = field(repr=False)  # [own vocabulary, D], for the template's tokens
    embedding: Tensor = field(repr=False)  # [V, D], rows in the policy's order
    # User messages -> ids around a response.
    affixes: Callable[[Messages], TemplateAffixes] = field(repr=False)
    context: int
    parameters: int
    known: Tensor | None = field(default=None, repr=False)  # [V] bool; None: knows every token
    process: bool = False
    ends: StepEnds | None = field(default=None, repr=False)  # of steps; None: every token is one
    name: str = "reward"

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def dtype(self) -> str:
        """Return the dtype as users write it: float32."""
        return str(self.table.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Pair:
    """Policy and reward model that agree about the meaning of token ids.

    `reward` is None where none was given: enough for the methods that never ask for a score.
    """

    policy: Policy
    reward: Reward | None

    @property
    def judge(self) -> Reward:
        """Return the reward model. Raises `ModelError` where the pair has none."""
        if self.reward is None:
            raise ModelError(
                "This method scores responses, and there is no reward model beside the policy "
                f"{self.policy.name}. Give one (reward=...), or use method=greedy or "
                "method=self_consistency."
            )
        return self.reward

    def problem(
        self,
        prompt: str | Sequence[int],
        key: Key,
        *,
        messages: Messages | None = None,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        id: str = "",
    ) -> Problem:
        """Make a `Problem` of a rendered prompt (text or policy token ids).

        `messages` are the chat messages behind the prompt; without them the reward model is shown
        the whole prompt as one user message.
        """
        ids = self.policy.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
        text = prompt if isinstance(prompt, str) else self.policy.decode(ids)
        messages = messages or [{"role": "user", "content": text}]
        return Problem(
            key=key,
            prompt=ids,
            affixes=TemplateAffixes((), ())
            if self.reward is None
            else self.reward.affixes(messages),
            max_new_tokens=max_new_tokens,
            stop=tuple(stop),
            text=text,
            id=id,
            messages=tuple((message["role"], message["content"]) for message in messages),
        )
