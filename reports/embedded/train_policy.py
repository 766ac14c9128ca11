"""Training of the embedded policy from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from pair_tokenizer import EOS_ID, PAD_ID, TOKENS
from torch import Tensor
from training_rows import TrainingRows

from nabla_eval.errors import ModelError
from nabla_eval.options import require

Report = Callable[[int, float], None]  # (step, loss in nats)
Start = Literal["random", "shipped"]


@dataclass(frozen=True)
class PolicyRecipe:
    """Everything the policy's weights depend on, together with the library versions."""

    seed: int = 0
    numbers: int = 3
    steps: int = 1000
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 100
    mismatched: float = 0.2
    walks: int = 4_000_000
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 256
    start: Start = "random"  # or the shipped policy's weights: calculating is known already

    def __post_init__(self) -> None:
        known = get_args(Start)
        require(self.start in known, "start", self.start, f"one of {known}")


def build_policy(recipe: PolicyRecipe) -> Any:
    """A Qwen2 model with tied embeddings, randomly initialised or a copy of the shipped policy."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        use_cache=True,
    )
    with seeded(recipe.seed):
        model = Qwen2ForCausalLM(config)
    if recipe.start == "shipped":
        _load_shipped(model)
    return model


def _load_shipped(model: Any) -> None:
    """Fill a Qwen2 model of the shipped size with the shipped weights: `as_llama` undone."""
    from transformers import AutoModelForCausalLM

    from nabla_eval.embedded import paths

    shipped = AutoModelForCausalLM.from_pretrained(paths()[0], dtype=torch.float32).state_dict()
    kept = {name: shipped[name] for name in model.state_dict()}
    left = shipped.keys() - kept.keys()
    if any(shipped[name].any() for name in left):
        raise ModelError(
            f"The shipped policy has weights that Qwen2 does not know: {sorted(left)}. Install the "
            "package again."
        )
    model.load_state_dict(kept)


def train_policy(recipe: PolicyRecipe, report: Report | None = None) -> tuple[Any, dict[str, Any]]:
    """Train and return (model, facts for the card); bit for bit a function of the recipe."""
    rows = TrainingRows(
        walks=recipe.walks,
        numbers=recipe.numbers,
        mismatched=recipe.mismatched,
        rng=np.random.default_rng([recipe.seed, recipe.numbers]),
    )
    model = build_policy(recipe).train()

    def loss() -> Tensor:
        ids, labels = (torch.from_numpy(part) for part in rows.batch(recipe.batch))
        return _response_loss(model, ids, labels)

    losses = fit(model, recipe, loss, report)
    facts = {"training_problems": rows.problems, "training_rows": recipe.steps * recipe.batch}
    return as_llama(model).eval(), {**facts, "losses": losses}


def as_llama(model: Any) -> Any:
    """The same function as a Llama checkpoint: Qwen2 is Llama with q, k and v biases.

    transformers 5 gives every checkpoint of type qwen2 Qwen2's own byte-level tokenizer, whatever
    tokenizer lies beside it, and would read ``20`` as two tokens; for Llama it reads the folder's.
    Llama's further bias, of the attention output, is zero.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shared = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads max_position_embeddings initializer_range rms_norm_eps "
        "tie_word_embeddings bos_token_id eos_token_id pad_token_id use_cache"
    )
    settings = {name: getattr(model.config, name) for name in shared.split()}
    with seeded(0):
        llama = LlamaForCausalLM(LlamaConfig(**settings, attention_bias=True))
    missing, unexpected = llama.load_state_dict(model.state_dict(), strict=False)
    if unexpected or not all(name.endswith("o_proj.bias") for name in missing):
        raise ModelError(
            f"Qwen2 and Llama layers differ in this transformers: {missing} are missing, "
            f"{unexpected} unexpected. Train with the versions in constraints.txt."
        )
    return llama


def _response_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats of the labelled tokens of ids [B, L].

    Rows have one length, so the head runs on the response's positions only.
    """
    start = int((labels != -100).any(dim=0).int().argmax())
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, start - 1 :])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, start:].flatten())


def fit(
    model: Any, recipe: Any, loss_of_batch: Callable[[], Tensor], report: Report | None
) -> list[float]:
    """Take `recipe.steps` clipped steps of AdamW, each on a batch of its own; return the losses.

    The learning rate has a short linear warm-up and falls along a cosine to zero.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(recipe.warmup, 1))
        return rise * 0.5 * (1.0 + float(np.cos(np.pi * step / recipe.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses: list[float] = []
    for step in range(recipe.steps):
        loss = loss_of_batch()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if report is not None:
            report(step + 1, losses[-1])
    return losses


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block only: module initialisers read it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: sums keep their order, so the same seed gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
