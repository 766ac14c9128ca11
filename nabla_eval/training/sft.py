"""Supervised fine-tuning on solutions, with TRL's SFTTrainer: the paper's row SFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nabla_eval.training.data import Need
from nabla_eval.training.recipe import SFT
from nabla_eval.training.setting import Setting, within
from nabla_eval.training.sources import Example


class SupervisedFineTuning:
    """The backend of `SFT`: prompts are context, solutions and their end token carry the loss."""

    method: Final = "sft"
    need: Final[Need] = "solution"

    def __init__(self, recipe: SFT) -> None:
        self.recipe = recipe

    def fits(self, setting: Setting, example: Example) -> bool:
        """Whether prompt and solution are at most `max_length` tokens together.

        TRL would cut them: the policy would learn not to finish.
        """
        return within(setting, example, solution=True, room=0, limit=self.recipe.max_length)

    def trainer(
        self, setting: Setting, examples: Sequence[Example], model: Any, shared: dict[str, Any]
    ) -> Any:
        """TRL's SFTTrainer over prompts and completions."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        asked = setting.prompting
        rows = [
            {
                "prompt": asked.prompt(example.problem),
                "completion": asked.completion(example.solution or ""),
            }
            for example in examples
        ]
        return SFTTrainer(
            model=model,
            args=SFTConfig(**shared, max_length=None, completion_only_loss=True),
            train_dataset=Dataset.from_list(rows),
            processing_class=setting.checkpoint.tokenizer,
            peft_config=setting.peft,
        )
