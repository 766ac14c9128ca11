"""Reward alignment end to end: the term by hand, the control, resuming, adapters and errors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, logsigmoid

import nabla_eval as ne
from nabla_eval.cli.main import main
from nabla_eval.embedded import paths
from nabla_eval.embedded.countdown import problems
from nabla_eval.embedded.tokenizer import EOS_ID, PAD_ID, TOKENS, build_tokenizer
from nabla_eval.errors import ConfigError, DataError, ModelError, VocabularyError
from nabla_eval.models.chat import Framer
from nabla_eval.models.exact import widen_norms
from nabla_eval.training.align import RewardJob, run
from nabla_eval.training.countdown import one_solution
from nabla_eval.training.folder import ADAPTER, RECORD, Record
from nabla_eval.training.preferences import Preference, part, read
from nabla_eval.training.recipe import AlignReward, LoRA

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = AlignReward(steps=4, lr=1e-3, batch_size=4, save_every=2)


@pytest.fixture
def pairs(jsonl: Any) -> str:
    """24 Countdown solutions and the same beginning with another of the numbers."""
    rows = []
    for problem in problems(24, "train"):
        chosen = one_solution(problem)
        first, rest = re.findall(r"(\d+)(.*)", chosen)[0]
        other = next(str(number) for number in problem.numbers if str(number) != first)
        rows.append({"prompt": problem.prompt, "chosen": chosen, "rejected": other + rest})
    return str(jsonl(rows, "pairs.jsonl"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier of a real architecture, with random weights."""
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    from nabla_eval.embedded.policy import seeded
    from nabla_eval.embedded.tokenizer import save_tokenizer

    folder = tmp_path_factory.mktemp("classifier")
    config = Qwen2Config(
        vocab_size=len(TOKENS), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, num_labels=1,
        bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=PAD_ID, initializer_range=0.3,
    )  # fmt: skip
    with seeded(0):
        Qwen2ForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def train(output: Path, data: str, recipe: AlignReward = FEW, **options: Any) -> Record:
    report = options.pop("report", lambda step, steps, figures: None)
    return run(RewardJob(recipe=recipe, output=output, data=data, device="cpu", **options), report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- pairs --------------------------------------------------------------------------------------


def test_where_two_responses_part() -> None:
    tokenizer = build_tokenizer()
    framer = Framer(tokenizer)

    def parted(chosen: str, rejected: str) -> Any:
        return part(Preference("20,14,7=42?", chosen, rejected), tokenizer, framer)

    found = parted("20-14=6;6*7=42", "20-14=7;6*7=42")
    before = [*tokenizer("20,14,7=42?")["input_ids"], *tokenizer("20-14=")["input_ids"]]
    assert found.place == len(before) and found.right == 6
    assert found.chosen_ids[: found.place] == found.rejected_ids[: found.place] == tuple(before)
    assert (found.rejected_ids[found.place], found.chosen_ids[-1]) == (7, EOS_ID)
    assert list(found.prefix) == tokenizer("20-14=")["input_ids"]
    shorter = parted("20-14=6;6*7=42", "20-14=6")  # the end token is wrong there
    assert TOKENS[shorter.right] == ";" and shorter.rejected_ids[shorter.place] == EOS_ID
    assert parted("20-14=6", "20-14=6") is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2"),
        ("[1]", "has no text under each of prompt, chosen, rejected"),
        ({"prompt": "a", "chosen": "b"}, "has no text under each of prompt, chosen, rejected"),
    ],
)
def test_lines_that_are_no_pair(jsonl: Any, line: Any, what: str, tmp_path: Path) -> None:
    path = jsonl([{"prompt": "a", "chosen": "b", "rejected": "c"}, line])
    with pytest.raises(DataError, match="line 2") as error:
        read(Path(path))
    assert what in str(error.value) and "Every line is an object such as" in str(error.value)


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_the_loss_is_preference_plus_weighted_alignment(kind: str, classifier: Path) -> None:
    """Scores of single unpadded rows, and G by central differences in float64."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    from nabla_eval.training.aligned_trainer import _at_last_token, collator, linearised

    auto: Any = AutoModelForSequenceClassification
    folder = classifier
    if kind == "process":
        auto, folder = AutoModelForTokenClassification, paths()[1]
    model = auto.from_pretrained(folder, dtype=torch.float64).eval()
    assert widen_norms(model) > 0
    table = model.get_input_embeddings().weight
    examples = [
        {
            "chosen_ids": [20, 106, 14, 104, 6], "rejected_ids": [20, 106, 14, 104, 7, 105, 3],
            "place": 4, "right": 6, "point_ids": [7, 6, 90], "point_weights": [0.5, 0.3, 0.2],
        },
        {
            "chosen_ids": [20, 106, 14, EOS_ID], "rejected_ids": [20, 106, 15],
            "place": 2, "right": 14, "point_ids": [15], "point_weights": [1.0],
        },
    ]  # fmt: skip
    batch = collator(PAD_ID)(examples)
    rejected = batch["input_ids"].chunk(2)[1]
    columns: dict[str, Any] = {n: batch[n] for n in ("place", "point_ids", "point_weights")}
    after = (EOS_ID,) if kind == "outcome" else ()  # an outcome reward reads closed responses
    found = linearised(model, table, rejected, after=after, **columns).detach()

    @torch.no_grad()
    def score(ids: list[int], inner: torch.Tensor) -> torch.Tensor:
        embeddings = torch.cat([table[ids], inner[None], table[list(after)]])[None]
        return model(inputs_embeds=embeddings).logits.flatten()[-1]

    step = 1e-6
    for row, example in enumerate(examples):
        point: Any = example["point_ids"]
        mix = torch.tensor(example["point_weights"]).double()  # as the batch has them
        inner = (mix[:, None] * table[point].detach()).sum(0)
        prefix = example["rejected_ids"][: example["place"]]  # type: ignore[index,misc]
        for token in (6, 14, 104):
            ends = [
                logsigmoid(score(prefix, inner + sign * step * table[token].detach()))
                for sign in (1, -1)
            ]
            slope = ((ends[0] - ends[1]) / (2 * step)).item()
            assert found[row, token].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    together = _at_last_token(model)(**inputs).logits[:, 0]
    for row, ids in enumerate([e[n] for n in ("chosen_ids", "rejected_ids") for e in examples]):
        alone = model(input_ids=torch.tensor([ids])).logits.flatten()[-1]
        torch.testing.assert_close(together[row], alone)


def test_the_trainers_loss_has_both_terms(
    classifier: Path, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nabla_eval.training import aligned_trainer

    values = torch.zeros(4, len(TOKENS), requires_grad=True)
    monkeypatch.setattr(aligned_trainer, "linearised", lambda *_, **__: values)
    once = AlignReward(steps=1, batch_size=4)
    first = train(tmp_path / "a", pairs, once, reward=str(classifier))["history"][0]["loss"]
    control = AlignReward(steps=1, batch_size=4, alignment_weight=0.0)
    plain = train(tmp_path / "b", pairs, control, reward=str(classifier))["history"][0]["loss"]
    uniform = cross_entropy(values, torch.zeros(4, dtype=torch.long)).item()
    assert first - plain == pytest.approx(0.5 * uniform, abs=1e-3)


# --- runs ---------------------------------------------------------------------------------------


def test_the_embedded_reward_learns_which_token_is_right(pairs: str, tmp_path: Path) -> None:
    """Linearised at the embedded policy's mean embedding; the result is a reward model."""
    recipe = AlignReward(steps=40, lr=1e-3, schedule="constant", batch_size=8, save_every=40)
    record = train(tmp_path / "out", pairs, recipe, policy=str(paths()[0]))
    assert record["last"]["right_first"] > record["first"]["right_first"] + 0.3
    assert record["last"]["alignment"] < record["first"]["alignment"]
    assert record["method"] == "align-reward" and record["data"]["problems"] == 24
    pair = ne.load_pair(reward=str(tmp_path / "out"), device="cpu")
    out = ne.generate(pair, "20,14,7=42?", method="best_of_n", n=2, seed=0)
    assert out.stats["model_calls"] > 0


def test_without_the_term_it_is_trls_trainer(classifier: Path, pairs: str, tmp_path: Path) -> None:
    """`alignment_weight=0` is the step-matched control: the same bits as TRL alone."""
    from nabla_eval.training import aligned_trainer

    control = AlignReward(steps=3, lr=1e-3, batch_size=4, alignment_weight=0.0)
    train(tmp_path / "ours", pairs, control, reward=str(classifier))
    original = aligned_trainer.AlignedRewardTrainer.compute_loss

    def plain(self: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return super(aligned_trainer.AlignedRewardTrainer, self).compute_loss(model, kept)

    aligned_trainer.AlignedRewardTrainer.compute_loss = plain  # type: ignore[method-assign]
    try:
        train(tmp_path / "trl", pairs, control, reward=str(classifier))
    finally:
        aligned_trainer.AlignedRewardTrainer.compute_loss = original  # type: ignore[method-assign]
    train(tmp_path / "aligned", pairs, AlignReward(steps=3, lr=1e-3, batch_size=4),
          reward=str(classifier))  # fmt: skip
    assert same(weights(tmp_path / "ours"), weights(tmp_path / "trl"))
    assert not same(weights(tmp_path / "ours"), weights(tmp_path / "aligned"))


class KilledError(Exception):
    """Stands for a signal."""


def test_a_killed_run_resumes_to_the_same_weights(
    classifier: Path, pairs: str, tmp_path: Path
) -> None:
    def kill(done: int, steps: int, figures: Mapping[str, float]) -> None:
        if done >= 3 and figures:
            raise KilledError

    name = str(classifier)
    train(tmp_path / "whole", pairs, reward=name)
    with pytest.raises(KilledError):
        train(tmp_path / "cut", pairs, reward=name, report=kill)
    assert not (tmp_path / "cut" / RECORD).exists()
    record = train(tmp_path / "cut", pairs, reward=name, resume=True)
    assert record["resumed_from"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_adapters_are_merged(kind: str, classifier: Path, pairs: str, tmp_path: Path) -> None:
    source = classifier if kind == "outcome" else paths()[1]
    recipe = AlignReward(steps=2, batch_size=4, lora=LoRA(rank=2, alpha=4))
    record = train(tmp_path / "out", pairs, recipe, reward=str(source))
    assert 0 < record["parameters"]["trained"] < record["parameters"]["total"] / 5
    assert (tmp_path / "out" / ADAPTER / "adapter_config.json").is_file()
    before, after = weights(source), weights(tmp_path / "out")
    assert before.keys() == after.keys() and not same(before, after)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


# --- the command and errors ---------------------------------------------------------------------


def test_from_the_command_line(classifier: Path, pairs: str, tmp_path: Path) -> None:
    arguments = ["train", "align-reward", "--reward", str(classifier), "--data", pairs]
    arguments += ["--steps", "1", "--size", "16", "--device", "cpu"]
    output = tmp_path / "out"
    result = CliRunner().invoke(main, [*arguments, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "16 pairs of" in result.stdout and "right token first" in result.stdout
    assert f"--model_args reward={output}" in result.stdout
    assert "No evaluation set" not in result.stdout


def test_what_cannot_be_aligned(
    classifier: Path, tiny_policy: Path, pairs: str, jsonl: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    twins = jsonl([{"prompt": "1,2=3?", "chosen": "1+2=3", "rejected": "1+2=3"}], "twins.jsonl")
    with pytest.raises(DataError, match=r"leaves 0 pairs.*1 do not differ in a token"):
        train(output, twins, reward=str(classifier))
    with pytest.raises(DataError, match=r"leaves 24 pairs, and 99 are asked for"):
        train(output, pairs, reward=str(classifier), size=99)
    with pytest.raises(ConfigError, match=r"batch_size=4 is more than the 2 pairs"):
        train(output, pairs, reward=str(classifier), size=2)
    with pytest.raises(ModelError, match=r"is needed\. Give a reward model"):
        train(output, pairs, reward=str(tiny_policy))
    with pytest.raises(ConfigError, match="alignment_weight="):
        AlignReward(alignment_weight=-1.0)
    assert not output.exists()


def test_a_policy_that_lacks_a_token_of_a_response(
    classifier: Path, tiny_policy: Path, jsonl: Any, tmp_path: Path
) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    rules = json.loads((policy / "tokenizer.json").read_text(encoding="utf-8"))
    rules["model"]["vocab"]["sum"] = rules["model"]["vocab"].pop("=")
    (policy / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    rows = [{"prompt": "1,2=3?", "chosen": f"1+{n}={n + 1}", "rejected": f"1+{n}={n + 2}"}
            for n in range(1, 9)]  # fmt: skip
    with pytest.raises(DataError, match=r"lacks a token of the response '1\+\d=\d'\. Leave out"):
        train(tmp_path / "out", jsonl(rows), FEW, reward=str(classifier), policy=str(policy))


def test_a_reward_model_of_two_labels(classifier: Path, pairs: str, tmp_path: Path) -> None:
    two = Path(shutil.copytree(classifier, tmp_path / "two"))
    config = json.loads((two / "config.json").read_text())
    config["id2label"] = {"0": "wrong", "1": "right"}
    config["label2id"] = {"wrong": 0, "right": 1}
    (two / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"gives 2 numbers per token.* Use a reward model"):
        train(tmp_path / "out", pairs, reward=str(two))


def test_a_policy_of_another_vocabulary(
    classifier: Path, pairs: str, tmp_path: Path, shared_data: Path
) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stranger = tmp_path / "stranger"
    name = next((shared_data / "tokenizers").iterdir())
    shutil.copytree(name, stranger)
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=160_000, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=1, num_key_value_heads=1)
    ).save_pretrained(stranger)  # fmt: skip
    with pytest.raises(VocabularyError):
        train(tmp_path / "out", pairs, reward=str(classifier), policy=str(stranger))
