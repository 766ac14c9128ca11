"""Frames against transformers' own rendering: before + response + after is the whole input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import model_builders as build
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nabla_eval.errors import ModelError
from nabla_eval.models.chat import (
    THINKING,
    AffixFinder,
    Template,
    altered,
    check_template,
    end_of_turn,
    render,
)
from nabla_eval.models.tokenizers import encode

USER = {"role": "user", "content": "What is 2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SHOT = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is \\boxed{2}."}]
CONVERSATIONS = {
    "plain": [USER],
    "system": [SYSTEM, USER],
    "few-shot": [SYSTEM, *SHOT, *SHOT, USER],
    "marker": [{"role": "user", "content": "Nablaresponse Nablaresponsex"}],
}
RESPONSES = ("The answer is \\boxed{4}.", "So 2+2 = 4.\n\nHence 4 ∎", "1234567", "<|im_end|>?")
TOKENIZERS = (build.QWEN25, build.QWEN3, build.LLAMA)


def hf_ids(tokenizer: Any, messages: list[dict[str, str]], response: str) -> tuple[int, ...]:
    """transformers' own path, the date pinned as Llama's template takes it."""
    chat = [*messages, {"role": "assistant", "content": response}]
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, date_string="26 Jul 2024")
    return tuple(encoded["input_ids"])


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_frame_is_what_transformers_renders(
    real: Callable[[str], Any], name: str, conversation: str
) -> None:
    tokenizer, messages = real(name), CONVERSATIONS[conversation]
    affixes = AffixFinder(tokenizer)(messages)
    for response in RESPONSES:
        framed = affixes.before + encode(tokenizer, response) + affixes.after
        assert framed == hf_ids(tokenizer, messages, response)


def test_no_second_bos(real: Callable[[str], Any]) -> None:
    tokenizer = real(build.LLAMA)
    assert AffixFinder(tokenizer)([USER]).before.count(tokenizer.bos_token_id) == 1
    plain = AffixFinder(tokenizer, Template(chat_template="plain"))
    assert plain([USER]).before.count(tokenizer.bos_token_id) == 1
    again = [{"role": "user", "content": "<|begin_of_text|>2+2"}]
    assert plain(again).before.count(tokenizer.bos_token_id) == 1


def test_the_date_is_pinned(real: Callable[[str], Any]) -> None:
    tokenizer = real(build.LLAMA)
    text = tokenizer.decode(AffixFinder(tokenizer)([USER]).before)
    assert "Today Date: 26 Jul 2024" in text
    tokenizer = build.word_tokenizer(chat="{{ strftime_now('%d%m%Y') }}{{ messages[0].content }}")
    assert render(tokenizer, [{"role": "user", "content": "a"}]) == "26072024a"


def test_thinking_block_stands_where_the_response_brings_it(real: Callable[[str], Any]) -> None:
    tokenizer = real(build.QWEN3)
    answer, thought = AffixFinder(tokenizer), AffixFinder(tokenizer, Template(thinking=True))
    assert tokenizer.decode(answer([USER]).before).endswith("<think>\n\n</think>\n\n")
    assert altered(answer, THINKING)
    assert tokenizer.decode(thought([USER]).before).endswith("<|im_start|>assistant\n")
    assert not altered(thought, THINKING)


@pytest.mark.parametrize(
    ("name", "response", "reason"),
    [
        (build.LLAMA, "Ends in a line break.\n", "trimmed"),
        (build.QWEN3, "\nStarts with one.", "trimmed"),
        (build.QWEN25, "\nStarts with one.", "merge"),
        (build.QWEN3, THINKING, "thinking blocks"),
    ],
)
def test_what_a_template_does_to_a_response_is_explained(
    real: Callable[[str], Any], name: str, response: str, reason: str
) -> None:
    assert reason in altered(AffixFinder(real(name)), response)


def test_a_response_that_continues_a_message_keeps_the_blank_before_it(
    real: Callable[[str], Any],
) -> None:
    tokenizer = real(build.QWEN25)
    opened = [USER, {"role": "assistant", "content": "The answer is "}]
    before = AffixFinder(tokenizer)(opened).before
    assert tokenizer.decode(before).endswith("<|im_start|>assistant\nThe answer is ")
    assert AffixFinder(tokenizer)(opened).after == AffixFinder(tokenizer)([USER]).after


def test_system_option_adds_but_does_not_replace(real: Callable[[str], Any]) -> None:
    finder = AffixFinder(real(build.QWEN25), Template(system="Be brief."))
    assert finder([USER]) == finder([SYSTEM, USER])
    other = {"role": "system", "content": "Be long."}
    assert "Be long." in finder.tokenizer.decode(finder([other, USER]).before)


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ m['content'] }};{% endfor %}"
)


def test_a_system_message_that_is_refused_goes_into_the_user_message() -> None:
    tokenizer = build.word_tokenizer(chat=NO_SYSTEM)
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert render(tokenizer, chat) == "a\n\nb;"
    assert chat[1]["content"] == "b", "the caller's messages must stay as they are"


LAST = "{{ messages[-1].content }}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('must alternate') }}", "roles user, assistant: must alternate"),
        ("{{ messages[0].content }}", "shows the response 0 times"),
        (LAST * 2, "shows the response 2 times"),
        ("{{ messages[-1].content | upper }}", "shows the response 0 times"),
        ("{{ messages[0].content }}{{ messages[-1].content | replace('0', '9') }}", "for word"),
        (None, "no chat template"),
    ],
)
def test_a_template_that_does_not_show_a_response_as_it_is(
    template: str | None, words: str
) -> None:
    tokenizer = build.word_tokenizer([*"019"], chat=template)
    with pytest.raises(ModelError, match=words):
        check_template(AffixFinder(tokenizer))
        render(tokenizer, [USER])


@pytest.mark.parametrize("delimiter", [None, "\n"])
def test_without_a_template_the_texts_are_joined_and_eos_or_a_delimiter_closes(
    delimiter: str | None,
) -> None:
    tokenizer = build.word_tokenizer(chat=None)
    finder = AffixFinder(tokenizer, Template(delimiter=delimiter))
    affixes = finder([{"role": "user", "content": "1+1"}, {"role": "user", "content": "2="}])
    assert tokenizer.decode(affixes.before) == "1+1\n\n2="
    closing = (tokenizer.eos_token_id,) if delimiter is None else encode(tokenizer, delimiter)
    assert affixes.after == closing
    assert not any(check_template(finder).values())


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's way: a word's token starts with the blank before it."""
    words = ["<unk>", "</s>", "▁", "▁[I]", "▁[/I]", "▁What", "▁Four", "▁a", "▁b", "▁Nablaresponse"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "[I] {{ messages[0].content }} [/I] {{ messages[-1].content }}{{ eos_token }}"
    )
    return tokenizer


def test_a_blank_before_the_response_belongs_to_its_first_token() -> None:
    tokenizer = metaspace_tokenizer()
    finder = AffixFinder(tokenizer)
    affixes = finder([{"role": "user", "content": "What"}])
    assert tokenizer.convert_ids_to_tokens(list(affixes.before)) == ["▁[I]", "▁What", "▁[/I]"]
    assert affixes.after == (tokenizer.eos_token_id,)
    assert not altered(finder, "Four a b", [{"role": "user", "content": "What"}])


def test_end_of_turn(real: Callable[[str], Any]) -> None:
    assert end_of_turn(real(build.QWEN25)) == 151645
    assert end_of_turn(real(build.LLAMA)) == 128009
    assert end_of_turn(build.word_tokenizer(chat=None)) is None
    assert end_of_turn(build.word_tokenizer(chat="{{ messages[-1].content }};")) is None
