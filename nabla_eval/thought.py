"""Thoughts and answers: which text of a response is which, by the tags of the known models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TAGS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, Phi-4-reasoning and most others
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
"""The tags that open and end a thought."""

_STARTS = {"</": "<", "[/": "[", "<|end_": "<|begin_", "<|END_": "<|START_", "◁/": "◁"}

_CHANNELS = re.compile(r"analysis(?=[A-Z]|\S.*assistantfinal)", re.DOTALL)

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Thought:
    """The tags between a response's thoughts and its answer (lm-eval's `think_end_token`)."""

    end: str
    start: str = ""  # "" where it is not known
    opened: bool = False  # the prompt has opened one already

    def answer_at(self, text: str) -> int | None:
        """Where the answer begins in a response; None while it is still thinking."""
        last = text.rfind(self.end)
        after = last + len(self.end) if last >= 0 else 0
        open_ = last < 0 and self.opened
        return None if open_ or (self.start and self.start in text[after:]) else after

    def answer(self, text: str) -> str:
        """Return what a response says after its thoughts: nothing where they never end."""
        begin = self.answer_at(text)
        return "" if begin is None else text[begin:].lstrip() if begin else text

    def opened_by(self, prompt: str, messages: Messages | None = None) -> bool:
        """Return whether a rendered prompt opens a thought of these tags and leaves it open.

        Only the beginning of the assistant's turn counts. `messages` are those that a chat template
        made the prompt of: what their user says opens nothing, what the assistant is made to begin
        with may.
        """
        text, last = prompt.rstrip(), messages[-1] if messages else None
        if not self.start:
            return False
        if last is not None:
            said = last["content"].rstrip()
            if last["role"] == "assistant" and self.start in said:
                return self.end not in said[said.rfind(self.start) :]
            if said and text.endswith(said):
                text = text.removesuffix(said).rstrip() if last["role"] == "assistant" else ""
        return text.endswith(self.start)


def opening(end: str) -> str:
    """Return what opens a thought that ends so: `<think>` for `</think>`; "" where that is not
    known.
    """
    known = {closing: start for start, closing in TAGS}
    if end in known:
        return known[end]
    for closing, start in _STARTS.items():
        if end.startswith(closing):
            return start + end.removeprefix(closing)
    return ""


def opened(
    prompt: str, messages: Messages | None = None, tags: Iterable[tuple[str, str]] = TAGS
) -> Thought | None:
    """The thought that a rendered prompt has opened; None where it opens none."""
    thoughts = (Thought(end, start, opened=True) for start, end in tags)
    return next((thought for thought in thoughts if thought.opened_by(prompt, messages)), None)


def spoken(text: str, in_thought: bool = False) -> str:
    """Return what a response says after thoughts of any known tags: nothing where one never ends.

    `in_thought`: the prompt has opened one. gpt-oss's channels are also known without their special
    tokens, which many programs drop.
    """
    for start, end in TAGS:
        _, closed, rest = text.rpartition(end)
        if closed:
            text, in_thought = rest, False
        text = text.partition(start)[0]
    if "<|channel|>" in text:  # of commentary, or cut off before its name
        text = text.partition("<|channel|>")[0]
    if _CHANNELS.match(text):
        text = text.partition("assistantfinal")[2]
    return "" if in_thought else text


def answered(prompt: str, text: str) -> str:
    """Return what a recorded response says after the thought that its prompt opened, if it opened
    one.
    """
    thought = opened(prompt)
    return text if thought is None else thought.answer(text)
