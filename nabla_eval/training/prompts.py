"""How a policy is asked, and what it should answer: the texts that TRL turns into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nabla_eval.errors import ConfigError
from nabla_eval.training.sources import Example

FIELD = "{problem}"


@dataclass(frozen=True)
class Prompting:
    """The prompt's text and whether it goes through the policy's chat template.

    Both must be those of the evaluation: its task's `doc_to_text`, and `--apply_chat_template`.
    """

    text: str  # with {problem} in it
    chat: bool

    def __post_init__(self) -> None:
        if self.text.count(FIELD) != 1:
            raise ConfigError(
                f"The prompt {self.text!r} must contain {FIELD} once: the problem goes there. "
                f"Try '{FIELD}\\nThink step by step.'"
            )

    def prompt(self, problem: str) -> Any:
        """A string, or messages where there is a chat template."""
        text = self.text.replace(FIELD, problem)
        return [{"role": "user", "content": text}] if self.chat else text

    def completion(self, solution: str) -> Any:
        """The answer in the same form; TRL (or the template) closes it with the end token."""
        return [{"role": "assistant", "content": solution}] if self.chat else solution

    def tokens(self, tokenizer: Any, example: Example, *, solution: bool) -> int:
        """Length of the prompt, with its solution and end token if asked for."""
        prompt = self.prompt(example.problem)
        answer = self.completion(example.solution or "") if solution else None
        if self.chat:
            messages = prompt if answer is None else prompt + answer
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=answer is None, return_dict=True
            )["input_ids"]
            return len(ids)
        text = prompt if answer is None else prompt + answer + tokenizer.eos_token
        return len(tokenizer(text)["input_ids"])


def prompting(text: str, tokenizer: Any, chat: bool | None) -> Prompting:
    """With the chat template where there is one, unless told otherwise."""
    templated = bool(getattr(tokenizer, "chat_template", None))
    if chat and not templated:
        raise ConfigError(
            f"The tokenizer of {tokenizer.name_or_path} has no chat template. Use --no-chat."
        )
    return Prompting(text, templated if chat is None else chat)
