"""Group relative policy optimisation with TRL's GRPOTrainer: the paper's row GRPO.

Each problem is answered several times; an answer's advantage is how much better than its group it
was graded, in the group's standard deviations (Shao et al. 2024, arXiv 2402.03300). The grade is
the verifiable reward of `reward`: that of the evaluation, and no reward model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from nabla_eval.training.data import Need
from nabla_eval.training.recipe import GRPO
from nabla_eval.training.reward import reward_function
from nabla_eval.training.setting import Setting, within
from nabla_eval.training.sources import Example


class GroupRelativePolicyOptimisation:
    """The backend of `GRPO`."""

    method: Final = "grpo"
    need: Final[Need] = "answer"

    def __init__(self, recipe: GRPO) -> None:
        self.recipe = recipe

    def fits(self, setting: Setting, example: Example) -> bool:
        """Whether the prompt leaves room for the answer in the policy's context."""
        room = self.recipe.max_new_tokens
        return within(setting, example, solution=False, room=room, limit=sys.maxsize)

    def trainer(
        self, setting: Setting, examples: Sequence[Example], model: Any, shared: dict[str, Any]
    ) -> Any:
        """TRL's GRPOTrainer; every optimiser step has fresh answers to fresh problems."""
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        recipe = self.recipe
        rows = [
            {
                "prompt": setting.prompting.prompt(example.problem),
                "problem": example.problem,
                "answer": example.answer,
            }
            for example in examples
        ]
        args = GRPOConfig(
            **shared,
            num_generations=recipe.generations,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            beta=recipe.beta,
            epsilon=recipe.clip,
            loss_type=recipe.loss,
            scale_rewards=recipe.scale,
        )
        tokenizer = setting.checkpoint.tokenizer
        # Before transformers 5 tokenizers also give token types, which policies do not take.
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        return GRPOTrainer(
            model=model,
            reward_funcs=reward_function(setting.verifier, tokenizer),
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=setting.peft,
        )
