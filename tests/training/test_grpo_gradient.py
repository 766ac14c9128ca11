"""What TRL's trainer makes of our options is the policy gradient, written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nabla_eval.embedded.countdown import verify
from nabla_training.recipe import GRPO
from nabla_training.run import TrainJob, choose, make_trainer, prepare, save

TEMPERATURE = 0.7
RECIPE = GRPO(
    steps=1, batch_size=4, generations=8, max_new_tokens=12, temperature=TEMPERATURE, scale="none"
)


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    setting = prepare(TrainJob(recipe=RECIPE, output=tmp_path / "out", size=8, device="cpu"))
    model = setting.checkpoint.load(setting.dtype, torch.device("cpu"))
    found = make_trainer(setting, choose(setting)[0], model)
    found.model.train()
    found.current_gradient_accumulation_steps = 1
    return found


def log_likelihood(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """log pi(y|x) at the sampling temperature, with the end token's: one row, no padding."""
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
    table = (logits[len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1)
    return table[range(len(response)), response].sum()


def test_the_gradient_is_that_of_the_mean_reward(trainer: Any, tokenizer: Any) -> None:
    """-1/T sum_i (r_i - mean of its group) grad log pi(y_i|x), over the T tokens of the batch."""
    rows = next(iter(trainer.get_train_dataloader()))
    batch = trainer._prepare_inputs(rows)
    trainer.compute_loss(trainer.model, batch).backward()
    theirs = [weight.grad.clone() for weight in trainer.model.parameters()]
    trainer.model.zero_grad()

    def unpadded(what: str) -> list[list[int]]:
        masks = batch[f"{what}_mask"].tolist()
        return [
            [token for token, kept in zip(ids, mask, strict=True) if kept]
            for ids, mask in zip(batch[f"{what}_ids"].tolist(), masks, strict=True)
        ]

    asked = {tuple(tokenizer(row["problem"])["input_ids"]): row["problem"] for row in rows}
    prompts, responses = unpadded("prompt"), unpadded("completion")  # in an order of TRL's
    assert len(asked) == 4 and len(responses) == 32
    ended = [response[-1] == tokenizer.eos_token_id for response in responses]
    assert sum(ended) > 24  # and the end is not masked out
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    rewards = torch.tensor(
        [
            float(verify(asked[tuple(prompt)], text))
            for prompt, text in zip(prompts, texts, strict=True)
        ]
    )
    groups = [[other == prompt for other in prompts] for prompt in prompts]
    advantages = torch.stack(
        [reward - rewards[group].mean() for reward, group in zip(rewards, groups, strict=True)]
    )
    assert all(sum(group) == 8 for group in groups) and advantages.any()
    torch.testing.assert_close(batch["advantages"].flatten(), advantages)

    tokens = sum(map(len, responses))
    loss = (
        -sum(
            advantage * log_likelihood(trainer.model, prompt, response)
            for advantage, prompt, response in zip(advantages, prompts, responses, strict=True)
        )
        / tokens
    )
    loss.backward()
    for mine, their in zip(trainer.model.parameters(), theirs, strict=True):
        torch.testing.assert_close(their, mine.grad, rtol=1e-3, atol=1e-6)


def test_sampling_is_from_the_policy_itself(trainer: Any, tokenizer: Any) -> None:
    """No truncation: the ratio of the loss is that of what was sampled."""
    found = trainer.generation_config
    assert found.do_sample and found.temperature == TEMPERATURE
    assert found.top_p == 1.0 and found.top_k in (0, None) and not found.min_p
    assert found.repetition_penalty in (None, 1.0)
    assert found.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])


def test_input_and_output_embeddings_stay_tied(trainer: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.add_(0.01)
    ids = torch.tensor([[3, 5, 7]])
    expected = trainer.model(input_ids=ids).logits
    save(trainer, tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
