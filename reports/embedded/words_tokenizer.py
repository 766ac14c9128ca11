"""The tokenizer of the words pair: byte-level BPE with Qwen2's rules, trained on the task."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any, Final

from words_solutions import write

from nabla_eval.embedded.words import stream

EOS: Final = "<|im_end|>"
PAD: Final = "<|endoftext|>"
VOCABULARY: Final = 1024  # at most: training stops where no pair of tokens is left to merge
TRAINING_TEXTS: Final = 8000

# Qwen2's split, under which a digit is a token of its own. transformers 5 gives it to every
# checkpoint of a Qwen class, whatever tokenizer.json says, so no other would be read alike.
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# A lone user message is shown as it is, and an assistant's turn is closed: a reward model's final
# score is read at <|im_end|>. Later turns are set apart by a blank line.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] != 'assistant' and not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer(seed: int = 0) -> Any:
    """Train and return a `PreTrainedTokenizerFast` with ``decode(encode(text)) == text``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    split = pre.Split(Regex(_SPLIT), behavior="isolated")
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre.Sequence([split, byte_level])
    core.decoder = decoders.ByteLevel()
    rng = random.Random(f"tokenizer/{seed}")
    told = islice(stream("train", seed=seed, part=-1), TRAINING_TEXTS)
    texts = [text for problem in told for text in (problem.prompt, write(problem, rng))]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=20,
        initial_alphabet=pre.ByteLevel.alphabet(),
        special_tokens=[AddedToken(PAD, special=True), AddedToken(EOS, special=True)],
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's files under the class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
