"""Chat templates: the policy's prompts, and the tokens around a response (DESIGN 6).

The reward model reads its own chat template around the conversation and the response. Rollouts are
token ids and the gradient must land on exactly these ids, so a response is never re-tokenised:
its ids are put between a prefix and a suffix, which are found by rendering the conversation with a
marker in place of the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import jinja2

from nabla_eval.errors import ModelError
from nabla_eval.models.tokenizers import bos_ids, decode, encode, special_ids
from nabla_eval.protocol import Message, TemplateAffixes

Messages = Sequence[Mapping[str, str]]

# Llama's own fallback. Any fixed day will do: today's would make a reward depend on the day.
DAY = date(2024, 7, 26)
PLAIN = "plain"
_MARKER = "Nablaresponse"
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(?P<format>.*?)\1\s*\)""")


# --- rendering ----------------------------------------------------------------------------------


def render(
    tokenizer: Any,
    messages: Messages,
    *,
    generate: bool = True,
    chat_template: str | None = None,
    **options: Any,
) -> str:
    """Return a conversation as a tokenizer's chat template writes it, with the date pinned.

    `generate` opens the assistant's turn. `options` are the template's own, such as
    `enable_thinking`. A template that refuses system messages gets them in front of the first user
    message. Raises `ModelError` where there is no template or it refuses the conversation.
    """
    if chat_template is None and getattr(tokenizer, "chat_template", None) is None:
        name = getattr(tokenizer, "name_or_path", "") or "this model"
        raise ModelError(
            f"The tokenizer of {name} has no chat template. Use a chat model, or prompts without "
            "apply_chat_template."
        )
    source = tokenizer.get_chat_template(chat_template)
    pinned = _CLOCK.sub(lambda call: json.dumps(DAY.strftime(call["format"])), source)
    options = {"date_string": f"{DAY:%d %b %Y}", **options}
    chat = [dict(message) for message in messages]
    for attempt in (chat, _merge_system(chat)):
        try:
            text: str = tokenizer.apply_chat_template(
                attempt,
                tokenize=False,
                add_generation_prompt=generate,
                chat_template=pinned,
                **options,
            )
            return text
        except jinja2.TemplateError as error:
            refusal = error
    roles = ", ".join(message["role"] for message in chat)
    raise ModelError(
        f"The chat template refuses a conversation with the roles {roles}: {refusal}. Use a "
        "template that takes it (reward_chat_template=...), or other few-shot settings "
        "(fewshot_as_multiturn=False)."
    ) from refusal


def _merge_system(chat: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    system = [message["content"] for message in chat if message["role"] == "system"]
    rest = [dict(message) for message in chat if message["role"] != "system"]
    first = next((message for message in rest if message["role"] == "user"), None)
    if first is not None:
        first["content"] = "\n\n".join([*system, first["content"]])
    return rest


def has_chat_template(tokenizer: Any) -> bool:
    """Return whether the tokenizer has a chat template that adds anything to a user's message."""
    try:
        return render(tokenizer, [{"role": "user", "content": "a"}]) != "a"
    except ModelError:
        return False


def compose(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """Return a conversation that is put to the policy itself, as its chat template writes it.

    Raises `ModelError` where there is no chat template, or the tokenizer has no tokens for most of
    the words: a model of another language than the question's cannot be asked.
    """
    chat = [{"role": role, "content": content} for role, content in messages]
    text = render(tokenizer, chat, **options)
    ids = encode(tokenizer, text)
    unknown = tokenizer.unk_token_id
    if unknown is not None and 2 * ids.count(unknown) > len(ids):
        name = getattr(tokenizer, "name_or_path", "") or "this model"
        raise ModelError(
            f"The tokenizer of {name} has no tokens for {_excerpt(text)}: it cannot be asked in "
            "words. Use a chat model; tree_of_thought and rap can let the reward model judge "
            "instead (evaluator=reward, generation=sample)."
        )
    return text


def check_asked(tokenizer: Any) -> None:
    """Raise `ModelError` for a policy that cannot be asked in words, before anything is decoded."""
    compose(tokenizer, (("user", "Is this step right? Answer Yes or No."),))


def _excerpt(text: str, length: int = 200) -> str:
    half = length // 2
    return repr(text if len(text) <= length else f"{text[:half]} ... {text[-half:]}")


# --- the tokens around a response ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a reward model is shown a conversation."""

    # Jinja source in place of the tokenizer's own, or "plain": the messages joined by blank lines,
    # the response right after them, then EOS. Tokenizers without a chat template are always plain.
    chat_template: str | None = None
    # Goes in front of conversations that have no system message.
    system: str | None = None
    # Responses carry their own <think> block: templates like Qwen3's otherwise add an empty one.
    thinking: bool = False
    # Closes the response in place of the template's tail: what ends a process reward's steps,
    # because there it was trained to judge.
    delimiter: str | None = None

    @property
    def advice(self) -> str:
        """Return what to try where the template does not show a response as it is."""
        own = "Templates that leave thoughts out need reward_thinking=false. "
        other = "(reward_chat_template=...), or reward_chat_template=plain for none."
        return f"{own if self.thinking else ''}Give another template {other}"


@dataclass(frozen=True)
class AffixFinder:
    """A reward model's template as a function: messages -> ids before and after the response."""

    tokenizer: Any
    template: Template = Template()

    @property
    def plain(self) -> bool:
        """Return whether conversations are shown without a chat template."""
        if self.template.chat_template is not None:
            return self.template.chat_template == PLAIN
        return getattr(self.tokenizer, "chat_template", None) is None

    def __call__(self, messages: Messages) -> TemplateAffixes:
        """Return the tokens around a response that answers these messages or continues the last.

        Raises `ModelError` where the template drops or rewrites an ordinary response.
        """
        affixes = self._plain(messages) if self.plain else self._rendered(messages)
        if self.template.delimiter is None:
            return affixes
        return TemplateAffixes(affixes.before, encode(self.tokenizer, self.template.delimiter))

    def render(self, messages: Messages, response: str) -> str:
        """Return the reward model's whole input as text, response included."""
        template, chat = self.template, [dict(message) for message in messages]
        if template.system and not any(message["role"] == "system" for message in chat):
            chat.insert(0, {"role": "system", "content": template.system})
        opening = ""
        if chat and chat[-1]["role"] == "assistant":  # lm-eval's gen_prefix
            opening = chat.pop()["content"]
        if self.plain:
            return "\n\n".join(message["content"] for message in chat) + opening + response
        chat.append({"role": "assistant", "content": opening + response})
        own = template.chat_template
        return render(self.tokenizer, chat, generate=False, chat_template=own)

    def _plain(self, messages: Messages) -> TemplateAffixes:
        before = bos_ids(self.tokenizer) + encode(self.tokenizer, self.render(messages, ""))
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and before[:2] == (bos, bos):
            before = before[1:]
        return TemplateAffixes(before=before, after=() if eos is None else (eos,))

    def _rendered(self, messages: Messages) -> TemplateAffixes:
        marker = _MARKER
        while any(marker in message["content"] for message in messages):
            marker += "x"
        if self.template.thinking:
            marker = f"<think>\n{marker}\n</think>\n\n{marker}"
        text = self.render(messages, marker)
        if text.count(marker) != 1:
            raise ModelError(
                f"The reward model's chat template shows the response {text.count(marker)} times "
                f"in {_excerpt(text)}: it must be there once, word for word. "
                f"{self.template.advice}"
            )
        start = text.index(marker)
        continued = bool(messages) and messages[-1]["role"] == "assistant"
        return _split(self.tokenizer, text, start, start + len(marker), glue=not continued)


def _split(tokenizer: Any, text: str, start: int, stop: int, glue: bool) -> TemplateAffixes:
    """Return token ids before and after `text[start:stop]`, which stands for the response.

    With `glue`, white space of the template that the tokenizer joins to the response's first token
    belongs to the response: a policy of the same family writes it there. Other tokens that reach
    across a border would be wrong for every other response: there both sides are tokenised apart.
    """
    if not getattr(tokenizer, "is_fast", False):
        return TemplateAffixes(encode(tokenizer, text[:start]), encode(tokenizer, text[stop:]))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoding["input_ids"], encoding["offset_mapping"]
    first = next((i for i, (_, right) in enumerate(spans) if right > start), len(ids))
    last = next((i for i, (left, _) in enumerate(spans) if left >= stop), len(ids))
    joined = glue and first < len(ids) and not text[min(spans[first][0], start) : start].strip()
    apart = last > 0 and spans[last - 1][1] > stop
    return TemplateAffixes(
        before=tuple(ids[:first]) if joined else encode(tokenizer, text[:start]),
        after=encode(tokenizer, text[stop:]) if apart else tuple(ids[last:]),
    )


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the special token with which the chat template closes an assistant's turn, if any."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    try:
        after = AffixFinder(tokenizer)([{"role": "user", "content": "a"}]).after
    except ModelError:
        return None
    return after[0] if after and after[0] in special_ids(tokenizer) else None


# --- is a response between its affixes what the reward model would read? ------------------------

# Templates trim, drop or move what is in a response. Each probe is rendered and tokenised whole,
# and the tokens between the two sides must be the response, the whole response, and nothing else.

QUESTION: Messages = ({"role": "user", "content": "What is 2+2?"},)
THINKING = "<think>\nTwo and two.\n</think>\n\nFour."
ORDINARY = ("The answer is \\boxed{12}.", "First, $x^2 = 9$.\n\nSo $x = 3$, or ∇f = 0.")
# What templates are known to touch. Between the affixes all of it is kept.
TOUCHY = ("Ends in a line break.\n", "\nStarts with one.", THINKING)


def altered(finder: AffixFinder, response: str, messages: Messages = QUESTION) -> str:
    """Say what the rendered conversation makes of a response; empty where it is kept as it is."""
    finder = replace(finder, template=replace(finder.template, delimiter=None))
    affixes, text = finder(messages), finder.render(messages, response)
    whole = encode(finder.tokenizer, text)
    if finder.plain:
        bos = bos_ids(finder.tokenizer)
        whole = (whole if whole[: len(bos)] == bos else bos + whole) + affixes.after
    start, stop = len(affixes.before), len(whole) - len(affixes.after)
    shown = decode(finder.tokenizer, whole[start:stop], special=True)
    # SentencePiece glues the blank before a word to the word.
    same = response in (shown, shown.lstrip(" "))
    if same and whole[:start] == affixes.before and whole[stop:] == affixes.after:
        return ""
    bare = response.strip()
    if bare != response and finder.render(messages, bare) == text:
        return "white space at its ends is trimmed; here it is kept"
    if "<think>" in response and not finder.plain:
        return "thinking blocks are added, moved or dropped (see the option thinking)"
    if response in text:
        return "tokens merge across its border; here they are kept apart"
    return "words are changed"


def check_template(finder: AffixFinder) -> dict[str, str]:
    """Return what becomes of probe responses, ordinary ones first; empty where they are kept.

    Raises `ModelError` where an ordinary response is altered.
    """
    thinking, tokenizer = finder.template.thinking, finder.tokenizer
    found = {}
    for response in [THINKING] if thinking else probes(tokenizer):
        found[response] = altered(finder, response)
        if found[response]:
            raise ModelError(
                "The reward model's chat template does not show a response word for word: of "
                f"{response!r} {found[response]}. {finder.template.advice}"
            )
    touchy = [f"{THINKING}\n"] if thinking else TOUCHY
    return found | {text: altered(finder, text) for text in touchy if _encodable(tokenizer, text)}


def probes(tokenizer: Any) -> list[str]:
    """Return plain texts that the tokenizer can write, made of its own words if need be."""
    found = [response for response in ORDINARY if _encodable(tokenizer, response)]
    if found:
        return found
    special = special_ids(tokenizer)
    ids = [index for index in sorted(tokenizer.get_vocab().values()) if index not in special]
    drawn = (ids[start :: max(1, len(ids) // 5)][:5] for start in range(min(len(ids), 20)))
    texts = (decode(tokenizer, row, special=True) for row in drawn)
    return [text for text in texts if text.strip() == text and _encodable(tokenizer, text)][:2]


def _encodable(tokenizer: Any, text: str) -> bool:
    return bool(text) and decode(tokenizer, encode(tokenizer, text), special=True) == text
