"""Training of the words policy from scratch; checkpoints and optimisers of both models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from train_policy import Report, seeded
from words_forward import HALF, hidden_states
from words_rows import IGNORED, Batch, WordsRecipe, policy_batches

KEEP_EVERY: Final = 100  # steps between checkpoints


def build_words_policy(recipe: WordsRecipe, tokenizer: Any) -> Any:
    """A randomly initialised Qwen2 model with tied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.shared,
        max_position_embeddings=1024,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(recipe.seed):
        return Qwen2ForCausalLM(config)


def train_words_policy(
    recipe: WordsRecipe, tokenizer: Any, folder: Path, report: Report
) -> tuple[Any, dict[str, Any]]:
    """Train, or go on from the checkpoint in `folder`; return (model, facts for the card)."""
    model = build_words_policy(recipe, tokenizer).train()
    batches = policy_batches(tokenizer, recipe)
    losses = fit(model, recipe, batches, policy_loss, folder / "policy.pt", report)
    facts = {"training_rows": recipe.stop * recipe.batch, "losses": losses}
    return model.eval(), facts


def policy_loss(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy in nats of the labelled tokens."""
    hidden = hidden_states(model.model, batch.ids[:, :-1])
    labels = batch.labels[:, 1:]
    kept = labels != IGNORED
    logits = linear(hidden[kept], model.lm_head.weight.to(HALF))
    return cross_entropy(logits.float(), labels[kept])


def optimizers(model: Any, recipe: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, heads, biases and norms."""
    named = list(model.named_parameters())
    matrices = [value for name, value in named if value.ndim == 2 and "layers" in name]
    others = [value for name, value in named if not (value.ndim == 2 and "layers" in name)]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def fit(
    model: Any,
    recipe: Any,
    batches: Callable[[int], Iterator[Any]],
    loss_of: Callable[[Any, Any], Tensor],
    checkpoint: Path,
    report: Report,
) -> list[float]:
    """Take clipped steps from the checkpoint on up to `recipe.stop`; return all losses.

    The learning rate of a round is level at first and falls on a line to zero at its last step.
    `batches(step)` yields what comes from a step on, so a run that was stopped goes on as if it had
    not been.
    """
    found, step = optimizers(model, recipe), 0
    losses: list[float] = []
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=True)
        step, losses = kept["step"], kept["losses"]
        model.load_state_dict(kept["model"])
        for optimizer, state in zip(found, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    for batch in batches(step):
        if step >= recipe.stop:
            break
        begin, end = next(part for part in pairwise((0, *recipe.rounds)) if step < part[1])
        done = step - begin
        rate = min((done + 1) / recipe.warmup, 1.0, 1.15 * (1 - done / (end - begin)))
        for optimizer in found:
            for group in optimizer.param_groups:
                group["lr"] = rate * recipe.learning_rate
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in found:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        losses.append(loss.item())
        report(step, losses[-1])
        if step % KEEP_EVERY == 0 or step == recipe.stop:
            states = [optimizer.state_dict() for optimizer in found]
            keep = {"step": step, "losses": losses, "model": model.state_dict()}
            torch.save({**keep, "optimizers": states}, f"{checkpoint}.part")
            os.replace(f"{checkpoint}.part", checkpoint)
    return losses
