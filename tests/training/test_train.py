"""SFT and GRPO end to end on tiny policies: they learn, resume exactly, and load again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nabla_eval as ne
from nabla_eval.embedded.countdown import verify
from nabla_eval.errors import ConfigError, ContextError, DataError, ModelError
from nabla_eval.models import checkpoint
from nabla_training.data import DataFacts
from nabla_training.folder import (
    ADAPTER,
    CHECKPOINTS,
    LOG,
    OPTIONS,
    RECORD,
    TrainRecord,
    claim,
)
from nabla_training.recipe import GRPO, SFT, Recipe
from nabla_training.run import TrainJob, choose, make_trainer, prepare, run

FEW = SFT(steps=6, lr=1e-2, batch_size=16, save_every=2)
# The shipped policy, since a random one is never right and has nothing to reinforce.
GRADED = GRPO(
    steps=4, lr=1e-4, batch_size=4, generations=4, accumulate=2, max_new_tokens=12, save_every=2
)


def train(recipe: Recipe, output: Path, report: Any = lambda *_: None, **job: Any) -> TrainRecord:
    return run(TrainJob(recipe=recipe, output=output, device="cpu", **job), report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(record: TrainRecord) -> list[float]:
    return [entry["loss"] for entry in record["history"]]


class KilledError(Exception):
    """Stands for a signal."""


def killed_and_resumed(recipe: Recipe, output: Path, **job: Any) -> TrainRecord:
    """Kill a run after its third step, and go on from the checkpoint of the second."""

    def kill(done: int, steps: int, figures: Mapping[str, float]) -> None:
        if done >= 3 and figures:
            raise KilledError

    with pytest.raises(KilledError):
        train(recipe, output, kill, **job)
    assert not (output / RECORD).exists()
    record = train(recipe, output, resume=True, **job)
    assert record["resumed_from"] == 2
    return record


# --- SFT ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainRecord]:
    output = tmp_path_factory.mktemp("sft") / "out"
    return output, train(FEW, output, policy=str(tiny_policy), size=32)


def test_sft_learns_and_records_what_it_did(tuned: tuple[Path, TrainRecord]) -> None:
    output, record = tuned
    assert record == json.loads((output / RECORD).read_text())
    assert record["last"]["loss"] < 0.9 * record["first"]["loss"]
    assert [entry["step"] for entry in record["history"]] == [1, 2, 3, 4, 5, 6]
    assert record["data"]["problems"] == 32 and record["data"]["name"] == "countdown"
    assert record["parameters"]["trained"] == record["parameters"]["total"] > 0
    assert record["options"]["recipe"]["lr"] == record["learning_rate"] == 1e-2
    assert {"torch", "trl", "peft", "transformers", "python"} <= record["versions"].keys()
    kept = sorted(path.name for path in (output / CHECKPOINTS).glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6"]
    assert not list(output.glob("*.bin"))


def test_the_result_is_a_policy_like_any_other(
    tuned: tuple[Path, TrainRecord], tokenizer: Any
) -> None:
    pair = ne.load_pair(policy=tuned[0], device="cpu")
    answer = ne.generate(pair, "20,14,7=42?", method="greedy", max_new_tokens=12)
    assert pair.policy.decode(answer.token_ids, special=True).startswith(answer.text)
    assert pair.policy.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_resumed_sft_ends_with_the_same_bits(
    tuned: tuple[Path, TrainRecord], tiny_policy: Path, tmp_path: Path
) -> None:
    record = killed_and_resumed(FEW, tmp_path / "b", policy=str(tiny_policy), size=32)
    assert tuned[1]["resumed_from"] is None
    assert same(weights(tmp_path / "b"), weights(tuned[0]))
    assert losses(record) == losses(tuned[1])


def test_the_loss_is_that_of_the_solution_and_its_end(
    tokenizer: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    """TRL's rows are what evaluation shows the policy, and then the solution with one <eos>."""
    rows = {}
    for chat in (False, True):
        job = TrainJob(recipe=FEW, output=tmp_path, policy=str(tiny_policy), chat=chat, size=16)
        setting = prepare(job)
        chosen, _ = choose(setting)
        model = setting.checkpoint.load(torch.float32, torch.device("cpu"))
        trainer = make_trainer(setting, chosen, model)
        # Older TRL makes the labels when it makes batches.
        batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
        rows[chat] = [(b["input_ids"][0].tolist(), b["labels"][0].tolist()) for b in batches]
        for (ids, labels), example in zip(rows[chat], chosen, strict=True):
            prompt = tokenizer(example.problem)["input_ids"]
            answer = [*tokenizer(example.solution)["input_ids"], tokenizer.eos_token_id]
            assert ids == prompt + answer and labels == [-100] * len(prompt) + answer
            assert setting.tokens(example.problem, example.solution) == len(ids)
    assert rows[False] == rows[True]  # the embedded template adds nothing


def test_long_examples_are_left_out_and_not_cut(
    jsonl: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    rows = [{"problem": f"{i}?", "solution": "1+" * (i % 3)} for i in range(30, 48)]
    recipe = SFT(max_length=5, batch_size=2)  # i, ?, 1, +, <eos>
    job = TrainJob(recipe=recipe, output=tmp_path, policy=str(tiny_policy), data=jsonl(rows),
              prompt="{problem}")  # fmt: skip
    _, facts = choose(prepare(job))
    assert facts["problems"] == 6 and facts["too_long"] == 6 and facts["unusable"] == 6


def test_adapters_are_merged_into_the_checkpoint(tiny_policy: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    output, again = tmp_path / "lora", tmp_path / "again"
    recipe = SFT(steps=4, batch_size=8, save_every=2, lora=True, lora_rank=4, lora_alpha=8, lr=1e-2)
    record = train(recipe, output, policy=str(tiny_policy), size=16)
    torch.manual_seed(99)  # adapters are a function of the recipe's seed and of nothing else
    assert 0 < record["parameters"]["trained"] < record["parameters"]["total"]
    start = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before, after = start(ids).logits, merged(ids).logits
        adapted = PeftModel.from_pretrained(start, output / ADAPTER)(ids).logits
    torch.testing.assert_close(after, adapted, atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-2

    killed_and_resumed(recipe, again, policy=str(tiny_policy), size=16)
    assert same(weights(again), weights(output))


# --- GRPO -----------------------------------------------------------------------------------------


def test_a_resumed_grpo_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, again = tmp_path / "a", tmp_path / "b"
    rewards = [entry["reward"] for entry in train(GRADED, whole, size=16)["history"]]
    assert len(rewards) == 4 and all(reward * 16 == round(reward * 16) for reward in rewards)
    assert 0 < sum(rewards) < 4  # the shipped policy is right about half the time
    assert not same(weights(whole), weights(Path(ne.embedded.paths()[0])))
    killed_and_resumed(GRADED, again, size=16)
    assert same(weights(again), weights(whole))


def test_grpo_raises_the_reward_of_problems_that_it_repeats(tmp_path: Path) -> None:
    """16 passes over 4 problems: about half right in the beginning, nearly all in the end."""
    recipe = GRPO(
        epochs=16, lr=3e-4, schedule="constant", batch_size=4, generations=16, max_new_tokens=12
    )
    rewards = [entry["reward"] for entry in train(recipe, tmp_path / "out", size=4)["history"]]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15


# --- what is refused, and when --------------------------------------------------------------------


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.Checkpoint, "load", lambda *_: pytest.fail("weights were read"))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"data": "absent.jsonl"}, DataError, "absent.jsonl"),
        ({"size": 15}, ConfigError, "batch_size=16 is more than the 15 problems"),
        ({"verifier": "math"}, ConfigError, "Did you mean maths"),
        ({"prompt": "Solve."}, ConfigError, "must contain {problem} once"),
        ({"exclude": ["absent.jsonl"]}, DataError, "absent.jsonl"),
        ({"device": "tpu"}, ConfigError, "tpu"),
        ({"dtype": "int8"}, ConfigError, "int8"),
        ({"policy": "./absent"}, ModelError, "absent"),
        ({"policy": str(ne.embedded.paths()[1])}, ModelError, "reward model"),
        ({"recipe": GRPO(max_new_tokens=512)}, ContextError, "512 new .*--max-new-tokens 256"),
    ],
)
def test_bad_input_is_refused_before_any_weight_is_read(
    options: dict[str, Any], error: type[Exception], what: str, tmp_path: Path
) -> None:
    job = {"recipe": FEW, "output": tmp_path / "out", "device": "cpu", "size": 64, **options}
    with pytest.raises(error, match=what):
        run(TrainJob(**job))
    assert not (tmp_path / "out").exists()


def test_prompts_with_and_without_a_template(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(chat: bool | None) -> Any:
        policy = str(tiny_policy)
        return prepare(
            TrainJob(recipe=FEW, output=tmp_path, policy=policy, prompt="{problem}!", chat=chat)
        )

    assert asked(None).prompt("{x}") == [{"role": "user", "content": "{x}!"}]
    plain = asked(False)
    assert plain.prompt("p") == "p!" and plain.completion("s") == "s"
    assert plain.tokens("20,14") == 4 and plain.tokens("20,14", "1+1") == 8
    bare = plain.checkpoint.tokenizer
    bare.chat_template = None
    monkeypatch.setattr(checkpoint.Checkpoint, "tokenizer", bare)
    assert not asked(None).chat
    with pytest.raises(ConfigError, match="no chat template"):
        asked(True)
    bare.eos_token = None
    with pytest.raises(ConfigError, match="has no end token, so no answer would end"):
        asked(None)


def test_facts_are_told_before_a_folder_is_made(tiny_policy: Path, tmp_path: Path) -> None:
    told: list[DataFacts] = []

    def stop(facts: DataFacts) -> None:
        told.append(facts)
        raise KilledError

    job = TrainJob(recipe=FEW, output=tmp_path / "out", policy=str(tiny_policy), size=32)
    with pytest.raises(KilledError):
        run(job, selected=stop)
    assert not job.output.exists()
    examples, facts = choose(prepare(job))
    assert told == [facts] and facts["problems"] == 32
    assert all(verify(example.problem, example.solution or "") for example in examples)


# --- the output folder ----------------------------------------------------------------------------

OPTION = {"lr": 0.1, "exclude": ["a"], "recipe": {"seed": 0}}


def fake_checkpoint(folder: Path, step: str, state: str = "{}") -> Path:
    path = folder / CHECKPOINTS / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(state)
    return path


def test_the_newest_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    (tmp_path / LOG).touch()  # is opened before the run is
    assert claim(tmp_path, OPTION, resume=False) is None
    assert claim(tmp_path, OPTION, resume=True) is None  # killed before the first checkpoint
    fake_checkpoint(tmp_path, "9")
    newest = fake_checkpoint(tmp_path, "10")
    fake_checkpoint(tmp_path, "11", state="{")  # killed while it was written
    fake_checkpoint(tmp_path, "best")
    (tmp_path / CHECKPOINTS / "checkpoint-12").mkdir()
    assert claim(tmp_path, OPTION, resume=True) == newest


def unclaimable(folder: Path, options: dict[str, Any], resume: bool) -> str:
    with pytest.raises(DataError) as refused:
        claim(folder, options, resume=resume)
    return str(refused.value)


def test_other_uses_of_a_folder_are_refused(tmp_path: Path) -> None:
    assert "nothing to resume" in unclaimable(tmp_path, OPTION, True)
    claim(tmp_path, OPTION, resume=False)
    assert "unfinished training run. Go on with --resume" in unclaimable(tmp_path, OPTION, False)
    other = {**OPTION, "lr": 0.2, "recipe": {"seed": 1}}
    said = unclaimable(tmp_path, other, True)
    assert "other options: lr, recipe (first: lr=0.1 there, 0.2 here)" in said
    (tmp_path / OPTIONS).write_text("{")
    assert "torn" in unclaimable(tmp_path, OPTION, True)
    (tmp_path / RECORD).touch()
    assert "finished training run" in unclaimable(tmp_path, OPTION, True)
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").touch()
    assert "not empty and holds no training run" in unclaimable(own, OPTION, False)
    assert "is a file" in unclaimable(own / "thesis.tex", OPTION, False)
    assert "Cannot write to" in unclaimable(Path("/proc/nowhere"), OPTION, False)
