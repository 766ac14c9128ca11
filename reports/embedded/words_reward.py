"""Training of the words reward model: a score at every token, initialised from the policy.

The score after a prefix is the logit that all of it is right; at the closing token it is the logit
that the answer is right. Labels are exact (`nabla_eval.embedded.words.first_error`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from plain_sampling import Coding, padded, sample
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear
from train_policy import Report, seeded
from words_forward import hidden_states
from words_policy import fit
from words_rows import encode
from words_solutions import mistaken, write

from nabla_eval.embedded.words import WordProblem, first_error, problems, verify

Rows: TypeAlias = list[tuple[WordProblem, list[int]]]  # closed responses
LONGEST: Final = 220  # tokens of a response


@dataclass(frozen=True)
class WordsRewardRecipe:
    """Everything the reward model's weights depend on, besides the policy and the versions."""

    seed: int = 0
    rounds: tuple[int, ...] = (450, 950)  # steps at which the learning rate has fallen to zero
    batch: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup: int = 30
    questions: int = 1_500  # that the policy answers
    samples: int = 3  # at each temperature
    temperatures: tuple[float, ...] = (1.0,)
    written: int = 6_000  # problems whose responses are written, half of them with a mistake
    replaced: float = 0.4  # share of rows in which one token is another
    first_error_weight: float = 3.0
    later_error_weight: float = 0.2

    @property
    def stop(self) -> int:
        """Return the step at which training ends: the last."""
        return self.rounds[-1]

    @property
    def told(self) -> int:
        """Return the number of problems."""
        return self.questions + self.written


@dataclass(frozen=True)
class Marked:
    """A batch of responses with exact labels; B rows, L tokens, padded on the right."""

    ids: Tensor  # [B, L] prompt and response
    right: Tensor  # [B, L] 1 where all that is written is right; the answer's, at the last token
    weight: Tensor  # [B, L] of the per-prefix loss; 0 on the prompt and the padding
    last: Tensor  # [B] index of the closing token


def coding_of(tokenizer: Any) -> Coding:
    """Return how word problems become token ids."""
    return Coding(
        prompt=lambda problem: encode(tokenizer, [problem.prompt])[0],
        text=lambda ids: str(tokenizer.decode(ids)),
        longest=lambda problem: LONGEST,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
    )


def train_words_reward(
    policy: Any, recipe: WordsRewardRecipe, tokenizer: Any, folder: Path, report: Report
) -> tuple[Any, dict[str, Any]]:
    """Train, or go on from the checkpoint in `folder`; return (model, facts for the card).

    The training responses are kept there too: drawing them takes minutes.
    """
    model, kept = build_reward(policy, recipe.seed).train(), folder / "responses.json"
    if not kept.is_file():
        drawn = [(problem.canonical, ids) for problem, ids in collect(policy, recipe, tokenizer)]
        kept.write_text(json.dumps(drawn), encoding="utf-8")
    known = {p.canonical: p for p in problems(recipe.told, "train", seed=recipe.seed + 1)}
    rows = [(known[name], ids) for name, ids in json.loads(kept.read_text(encoding="utf-8"))]
    losses = fit(
        model,
        recipe,
        reward_batches(rows, recipe, tokenizer),
        reward_loss,
        folder / "reward.pt",
        report,
    )
    pieces = pieces_of(tokenizer)
    right = sum(labels_of(problem, ids, pieces)[-1] for problem, ids in rows) / len(rows)
    return model.eval(), {"graded_responses": len(rows), "share_right": right, "losses": losses}


def build_reward(policy: Any, seed: int) -> Any:
    """A token classifier with one label on a copy of the policy's body."""
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    settings = policy.config.to_dict()
    for stale in ("architectures", "id2label", "label2id"):
        settings.pop(stale, None)
    config = Qwen2Config(**settings)
    config.id2label, config.label2id = {0: "correct"}, {"correct": 0}
    config.classifier_dropout, config.use_cache = 0.0, False
    with seeded(seed):
        model = Qwen2ForTokenClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def collect(policy: Any, recipe: WordsRewardRecipe, tokenizer: Any) -> Rows:
    """Return answers of the policy and written ones, right and wrong, all closed."""
    coding, rng = coding_of(tokenizer), random.Random(f"reward/{recipe.seed}")
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    told = problems(recipe.told, "train", seed=recipe.seed + 1)
    asked, others = told[: recipe.questions] * recipe.samples, told[recipe.questions :]
    rows: Rows = []
    for temperature in recipe.temperatures:
        drawn = sample(policy, asked, temperature=temperature, generator=generator, coding=coding)
        rows += zip(asked, drawn, strict=True)
    texts = [(mistaken if rng.random() < 0.5 else write)(problem, rng) for problem in others]
    rows += zip(others, encode(tokenizer, texts), strict=True)
    return [
        (problem, _replaced(_closed(ids, coding.eos), rng, tokenizer, recipe.replaced))
        for problem, ids in rows
    ]


def _closed(ids: list[int], eos: int) -> list[int]:
    return ids if ids and ids[-1] == eos else [*ids, eos]


def _replaced(ids: list[int], rng: random.Random, tokenizer: Any, share: float) -> list[int]:
    """Put another token in one place of some: for a digit mostly a digit, else a token nearby.

    What follows stays as it was written, as it does for a gradient at a swapped token.
    """
    if rng.random() >= share or len(ids) < 3:
        return ids
    digits = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    place = rng.randrange(len(ids) - 1)
    if rng.random() < 0.5:  # half of the places among the numbers, where mistakes are made
        place = rng.choice([i for i, token in enumerate(ids) if token in digits] or [place])
    other = rng.choice(digits if ids[place] in digits and rng.random() < 0.8 else ids[:-1])
    return [*ids[:place], other, *ids[place + 1 :]]


def pieces_of(tokenizer: Any) -> list[str]:
    """Return the text of every token; one that ends within a character is a mark of its own."""
    return [str(tokenizer.decode([index])) for index in range(len(tokenizer))]


def labels_of(problem: WordProblem, ids: Sequence[int], pieces: Sequence[str]) -> list[bool]:
    """Return for each token of a closed response whether all up to its end is right.

    The closing token's label says whether the answer is right.
    """
    texts = [pieces[token] for token in ids[:-1]]
    text = "".join(texts)
    error = first_error(problem, text)
    right = [error is None or end <= error for end in accumulate(map(len, texts))]
    return [*right, verify(problem, text)]


def marked(rows: Rows, recipe: WordsRewardRecipe, coding: Coding, pieces: Sequence[str]) -> Marked:
    """Return exact labels and loss weights of closed responses as one batch.

    Where the mistake is made matters most; after it the label is repeated, not learned.
    """
    prompts = [coding.prompt(problem) for problem, _ in rows]
    ids = padded([p + r for p, (_, r) in zip(prompts, rows, strict=True)], coding.pad)
    right, weight = torch.zeros(ids.shape), torch.zeros(ids.shape)
    last = torch.zeros(len(rows), dtype=torch.long)
    for index, (prompt, (problem, response)) in enumerate(zip(prompts, rows, strict=True)):
        labels = labels_of(problem, response, pieces)
        start, stop = len(prompt), len(prompt) + len(response)
        wrong = labels[:-1].count(False)
        weights = [1.0] * (len(labels) - 1 - wrong) + [recipe.later_error_weight] * wrong + [0.0]
        if wrong:
            weights[-1 - wrong] = recipe.first_error_weight
        right[index, start:stop] = torch.tensor(labels, dtype=right.dtype)
        weight[index, start:stop] = torch.tensor(weights)
        last[index] = stop - 1
    return Marked(ids, right, weight, last)


def reward_loss(model: Any, batch: Marked) -> Tensor:
    """Binary cross-entropy at the closing token plus its weighted mean over the prefixes."""
    hidden = hidden_states(model.model, batch.ids)
    scores = linear(hidden.float(), model.score.weight, model.score.bias)[..., 0]
    losses = binary_cross_entropy_with_logits(scores, batch.right, reduction="none")
    final = losses.gather(1, batch.last[:, None]).mean()
    return final + (losses * batch.weight).sum() / batch.weight.sum()


def reward_batches(
    rows: Rows, recipe: WordsRewardRecipe, tokenizer: Any
) -> Callable[[int], Iterator[Marked]]:
    """Return a function from a step to the batches from there on: rows of about one length."""
    coding, pieces = coding_of(tokenizer), pieces_of(tokenizer)
    lengths = [len(problem.prompt) // 4 + len(ids) for problem, ids in rows]

    def after(step: int) -> Iterator[Marked]:
        per_pass = len(rows) // recipe.batch
        while True:
            number, skip = divmod(step, per_pass)
            rng = random.Random(f"reward/{recipe.seed}/{number}")
            order = sorted(range(len(rows)), key=lambda i: lengths[i] + 8 * rng.random())
            starts = [batch * recipe.batch for batch in range(per_pass)]
            rng.shuffle(starts)
            for start in starts[skip:]:
                chosen = [rows[i] for i in order[start : start + recipe.batch]]
                yield marked(chosen, recipe, coding, pieces)
                step += 1

    return after
