"""Models and batches that people reported trouble with elsewhere, from the optional data folder.

Every row of these kinds of `reported_inputs.jsonl`: its architecture as a tiny random model, its
dtype, and prompts of different lengths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.score import score
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate, Score
from nabla_eval.testing import tiny_pair, tiny_problems, tiny_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data" / "reported_inputs.jsonl"
ROWS = [json.loads(line) for line in DATA.read_text().splitlines()] if DATA.is_file() else []
GREEDY = ("hybrid / linear-attention policy", "left-padded batch = single generate")
WORDS = tiny_tokenizer(19)
NEW = 8


def of_kind(*kinds: str) -> list[Any]:
    rows = [row["input"] for row in ROWS if row["kind"] in kinds]
    names = [
        "-".join(map(str, (row.get("architecture", "all"), *list(row.values())[1:])))
        for row in rows
    ]
    if not rows:
        return [pytest.param({}, marks=pytest.mark.skip("the optional data folder is absent"))]
    return [pytest.param(row, id=name) for row, name in zip(rows, names, strict=True)]


def generated(model: Any, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """What transformers writes after one prompt."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )
    return tuple(whole[0, len(prompt) :].tolist())


@pytest.mark.parametrize("asked", of_kind(*GREEDY))
def test_a_batch_of_prompts_is_what_each_prompt_is_alone(asked: dict[str, Any]) -> None:
    """Greedy tokens are those of `generate`; drawn ones do not depend on the batch."""
    model = architectures.architecture(asked["architecture"], 19, getattr(torch, asked["dtype"]))
    policy = policy_from(model, WORDS)
    problems = tiny_problems(tiny_pair(vocabulary=19), 5, max_new_tokens=NEW)
    assert len({len(problem.prompt) for problem in problems}) > 2
    greedy, warm = (
        [Generate(p, p.key / 0, Sampling(temperature=t)) for p in problems] for t in (0.0, 1.1)
    )
    for problem, own in zip(problems, rollout(policy, greedy), strict=True):
        assert own.tokens == generated(model, problem.prompt)
    together = [own.tokens for own in rollout(policy, warm)]
    assert together == [rollout(policy, [one])[0].tokens for one in warm]


@pytest.mark.parametrize("asked", of_kind("reward score of a padded batch"))
def test_a_padded_batch_of_scores_equals_row_by_row(asked: dict[str, Any]) -> None:
    """Against transformers' classifier, which is shown one row without padding."""
    words = tiny_tokenizer(19)
    words.padding_side = asked["tokenizer pads"]
    words.pad_token = words.eos_token
    own = architectures.options(asked["architecture"], 19)
    config = AutoConfig.for_model(
        own.pop("family", asked["architecture"]), **{**own, "pad_token_id": 1, "num_labels": 1}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        judge = AutoModelForSequenceClassification.from_config(config, dtype=torch.float64).eval()
    policy = policy_from(architectures.architecture("qwen2", 19, torch.float64), WORDS)
    pair = Pair(policy, reward_from(judge, words, policy))
    problems = tiny_problems(pair, 5, max_new_tokens=NEW)
    drafts = rollout(policy, [Generate(p, p.key / 0, Sampling()) for p in problems])
    scored = score(pair.judge, [Score(p, d) for p, d in zip(problems, drafts, strict=True)])
    for problem, draft, judged in zip(problems, drafts, scored, strict=True):
        shown = (*problem.affixes.before, *draft.tokens[: draft.scored], *problem.affixes.after)
        with torch.no_grad():
            hidden = judge.base_model(input_ids=torch.tensor([shown])).last_hidden_state
            wanted = float(judge.score(hidden)[0, -1, 0])
        assert judged.reward == pytest.approx(wanted, abs=1e-6)
