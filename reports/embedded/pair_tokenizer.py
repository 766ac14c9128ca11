"""The vocabulary of the embedded pair: one token per integer 0..99 and one per symbol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from prefix_oracle import EOS

from nabla_eval.embedded.countdown import MAX_VALUE, Puzzle

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
SYMBOLS: Final = ("+", "-", "*", "/", "=", ";", ",", "?")

# An integer's id is its value, so that arithmetic on ids is arithmetic on numbers.
TOKENS: Final = (*map(str, range(MAX_VALUE + 1)), *SYMBOLS, EOS, PAD, UNKNOWN)
IDS: Final = {token: index for index, token in enumerate(TOKENS)}
EOS_ID: Final = IDS[EOS]
PAD_ID: Final = IDS[PAD]

# Integers have no leading zeros: "114" reads as 11 and 4, "05" as 0 and 5.
_INTEGER_OR_CHARACTER = r"[1-9][0-9]|[\s\S]"

# The user's message as it is, and a closed assistant turn: a reward model's final score is read at
# the closing <eos>, where the response is known to be complete.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` with ``decode(encode(text)) == text`` and no BOS."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(IDS, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_INTEGER_OR_CHARACTER), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files under the class name that transformers 4 and 5 both know."""
    build_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def encode_prompt(problem: Puzzle) -> list[int]:
    """Token ids of a prompt, 2 per number and 2 for the target and ``?``."""
    ids = []
    for number in problem.numbers:
        ids += [number, IDS[","]]
    return [*ids[:-1], IDS["="], problem.target, IDS["?"]]


def token_strings(ids: Sequence[int]) -> list[str]:
    """The text of each token."""
    return [TOKENS[index] for index in ids]
