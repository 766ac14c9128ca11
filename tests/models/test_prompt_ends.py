"""What a tokenizer appends to every text is no part of a prompt that is to be continued."""

from __future__ import annotations

from typing import Any

import model_builders as build
import pytest
from architectures import MAJOR
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing

from nabla_eval.models.chat import AffixFinder, Template
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.models.tokenizers import to_be_continued
from nabla_eval.randomness import Key


def tokenizer(template: str, bos: str | None = "<bos>", **options: Any) -> Any:
    """A tokenizer with this post-processor, spaces between its parts; "" for none."""
    made = build.word_tokenizer(
        bos_token=bos, additional_special_tokens=["<sep>", "<end>"], **options
    )
    if template:
        named = [part for part in template.split() if not part.startswith("$")]
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=template,
            special_tokens=[(name, made.convert_tokens_to_ids(name)) for name in set(named)],
        )
    return made


@pytest.mark.parametrize("text", ["1+2=", "1", "", "1<eos>", "1+<end>", "<eos>", "<eos><eos>"])
@pytest.mark.parametrize(
    ("template", "front"),
    [
        ("", []),
        ("<bos> $A", ["<bos>"]),
        ("$A <eos>", []),
        ("<bos> $A <eos>", ["<bos>"]),
        ("$A <eos> <eos>", []),
        ("$A <sep>", []),
        ("$A <sep> <eos>", []),
        ("<sep> $A <end>", ["<sep>"]),
        ("<eos> $A <eos>", ["<eos>"]),
        ("<bos> <sep> $A <sep> <eos>", ["<bos>", "<sep>"]),
    ],
)
def test_nothing_stands_behind_a_prompt(template: str, front: list[str], text: str) -> None:
    made = tokenizer(template)
    plain = made(text, add_special_tokens=False)["input_ids"]
    expected = (*made.convert_tokens_to_ids(front), *plain)
    assert to_be_continued(made, made(text)["input_ids"], text) == expected
    assert to_be_continued(made, plain, text) == tuple(plain)
    policy = policy_from(build.tiny("policy", made), made)
    assert policy.encode(text) == expected
    assert policy.encode(text, special=False) == tuple(plain)


def test_several_post_processors_and_one_token_for_both_ends() -> None:
    made = tokenizer("", bos="<eos>")
    eos = made.eos_token_id
    template = TemplateProcessing(single="<eos> $A <eos>", special_tokens=[("<eos>", eos)])
    made.backend_tokenizer.post_processor = Sequence([ByteLevel(trim_offsets=False), template])
    assert made("1+1")["input_ids"] == [eos, 1, 10, 1, eos]
    assert to_be_continued(made, made("1+1")["input_ids"], "1+1") == (eos, 1, 10, 1)


def test_llama_with_add_eos_token() -> None:
    if MAJOR < 5:
        pytest.skip("LlamaTokenizer takes a file of sentencepiece before transformers 5")
    from transformers import LlamaTokenizer

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6}
    made = LlamaTokenizer(vocab=vocabulary, merges=[("▁", "a")], add_eos_token=True)
    assert made("a b")["input_ids"][-1] == 2
    ids = to_be_continued(made, made("a b")["input_ids"], "a b")
    assert 2 not in ids and ids[-1] == 5 and ids[0] == made("a b")["input_ids"][0]


def test_every_prompt_of_a_pair_and_the_frame_of_a_reward_model() -> None:
    made = tokenizer("<bos> $A <eos>", chat=None)
    policy = policy_from(build.tiny("policy", made), made)
    pair = Pair(policy, reward_from(build.tiny("outcome", made), made, policy))
    bos, eos = made.bos_token_id, made.eos_token_id
    problem = pair.problem("1+1", Key.root(0))
    assert problem.prompt == policy.encode("<bos>1+1") == (bos, 1, 10, 1)
    assert problem.affixes.before == (bos, 1, 10, 1) and problem.affixes.after == (eos,)
    asked = Template(chat_template="{% for m in messages %}{{ m.content }}<end>{% endfor %}")
    affixes = AffixFinder(made, asked)([{"role": "user", "content": "1"}])
    end = made.convert_tokens_to_ids("<end>")
    assert affixes.before == (1, end) and affixes.after == (end,)  # the template's own ends stay
