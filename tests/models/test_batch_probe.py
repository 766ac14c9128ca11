"""What the probe finds of real architectures, and decoding, scores and gradients after it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import model_builders as build
import pytest
import torch
from plain_engine import Plain
from transformers import Qwen2ForTokenClassification

from nabla_eval import load_pair
from nabla_eval.dto.objective import Site, differentiate
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.naive import next_logits
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.score import score
from nabla_eval.errors import ModelError
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.batch_probe import probe
from nabla_eval.models.check import PairUse, check_pair
from nabla_eval.models.load import reward_from
from nabla_eval.models.prefix import Batching, batching
from nabla_eval.options import Objective, Sampling
from nabla_eval.protocol import Generate, Problem, Score, TemplateAffixes
from nabla_eval.testing import tiny_pair, tiny_problems, tiny_tokenizer

WORDS = tiny_tokenizer(19)
F32, F64 = torch.float32, torch.float64
HYBRID = Batching(reusable=False)  # and purely recurrent ones
APART = Batching(padded=False, reusable=False)
AGAIN = Batching(cached=False, reusable=False)
NEITHER = Batching(padded=False, cached=False, reusable=False)

# Architecture, dtype, attention, and what the probe should find.
CASES = [
    ("qwen2", F64, None, Batching()),
    ("qwen2_sw", F64, None, HYBRID),
    ("qwen3_next", F32, None, HYBRID),
    ("qwen3_5_text", F64, None, HYBRID),
    ("lfm2", F64, None, HYBRID),
    ("jamba", F32, None, HYBRID),
    ("bamba", F64, None, HYBRID),
    ("granitemoehybrid", F32, None, HYBRID),
    ("falcon_h1", F64, None, HYBRID),
    # Their single steps differ from their whole passes, by 5e-5 of a state and more.
    ("nemotron_h", F64, None, AGAIN),
    ("zamba2", F64, None, AGAIN),
    ("kimi_linear", F32, None, HYBRID),
    ("mamba", F64, None, HYBRID),
    ("mamba2", F64, None, HYBRID),
    ("falcon_mamba", F64, None, HYBRID),
    ("minimax", F32, None, AGAIN),
    ("recurrent_gemma", F64, None, NEITHER),
    ("rwkv", F64, None, NEITHER),
    ("gemma2", F64, "eager", APART),
    ("qwen2", F64, "eager", APART),
    ("bloom", F64, "eager", APART),
    ("mpt", F64, "eager", APART),
]
NAMES = [f"{name}-{str(dtype)[6:]}-{how or 'sdpa'}" for name, dtype, how, _ in CASES]


def pair_of(name: str, dtype: torch.dtype, attention: str | None = None) -> Any:
    return architectures.pair_of(architectures.architecture(name, 19, dtype, attention), WORDS)


def uneven(pair: Any, count: int = 4, length: int = 7) -> list[Problem]:
    """Problems with prompts of 1 to 4 tokens."""
    problems = tiny_problems(pair, count, max_new_tokens=length)
    return [replace(problems[0], prompt=problems[0].prompt[:1]), *problems[1:]]


@pytest.mark.parametrize(("name", "dtype", "attention", "wanted"), CASES, ids=NAMES)
def test_rows_of_a_batch_are_what_each_is_alone(
    name: str, dtype: torch.dtype, attention: str | None, wanted: Batching
) -> None:
    """Decoding against forward passes of one row, greedy and sampled; then gradients.

    Models of float64 keep some float32 inside, which rounds to 6e-8 of a state in each layer.
    """
    pair = pair_of(name, dtype, attention)
    assert batching(pair.policy.base) == wanted
    problems = uneven(pair)
    near = 1e-5 if dtype == F64 else 1e-3
    for temperature in (0.0, 1.2):
        asked = [
            Generate(p, p.key / "draft" / 0, Sampling(temperature=temperature)) for p in problems
        ]
        for problem, own in zip(problems, rollout(pair.policy, asked), strict=True):
            for i in range(len(own.tokens)):
                z = next_logits(pair, [*problem.prompt, *own.tokens[:i]])
                assert own.argmax[i] == int(z.argmax())
                ours = pair.policy.head(own.states[i])
                assert float((ours - z).norm() / z.norm()) < near
            if temperature == 0:
                assert own.tokens == own.argmax
    written = [(3, 4), (3, 4, 5), (6, 5, 4, 3)]
    sites = [
        Site(p.prompt, TemplateAffixes((), ()), w, 2)
        for p, w in zip(problems, written, strict=False)
    ]
    together = differentiate(pair, sites, Objective(nll_weight=1.0))
    for site, own in zip(sites, together, strict=True):
        (alone,) = differentiate(pair, [site], Objective(nll_weight=1.0))
        assert float(alone.policy.norm()) > 0
        for ours, theirs in ((own.policy, alone.policy), (own.hidden, alone.hidden)):
            assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm())


METHODS: dict[str, dict[str, Any]] = {
    "best_of_n": {"n": 3},
    "beam": {"step": "tokens", "step_tokens": 2},
    "nabla": {
        "n": 3, "steps": 2, "lr": 0.3, "nll_weight": 1.0, "entropy_threshold": 0.0,
        "gradient_threshold": 0.0, "lookahead": 2,
    },
}  # fmt: skip
ONE_OF_EACH = [
    ("falcon_h1", F64, None), ("mamba2", F64, None), ("rwkv", F64, None), ("mpt", F64, "eager"),
    ("lfm2", F64, None),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "dtype", "attention"), ONE_OF_EACH)
def test_methods_decide_as_the_plain_engine_does(
    name: str, dtype: torch.dtype, attention: str | None, method: str
) -> None:
    """Rows that leave, repeat and go on from prefixes."""
    pair = pair_of(name, dtype, attention)
    config = configure(method, METHODS[method], None)
    problems = uneven(pair, 3, 5)
    fast = drive_all([start(problem, config) for problem in problems], Executor(pair))
    for problem, outcome in zip(problems, fast, strict=True):
        (slow,) = drive_all([start(problem, config)], Plain(pair, keeps=False))
        assert outcome.tokens == slow.tokens
        assert outcome.reward == pytest.approx(slow.reward, abs=1e-8)
        assert [c.tokens for c in outcome.candidates] == [c.tokens for c in slow.candidates]


def test_flops_of_encoding_again_are_counted() -> None:
    """Without a cache a step costs as many token passes as the context is long."""
    policy = pair_of("rwkv", F64).policy
    (problem,) = tiny_problems(tiny_pair(vocabulary=19), 1, max_new_tokens=5)
    (own,) = rollout(policy, [Generate(problem, problem.key, Sampling())])
    passes = sum(len(problem.prompt) + i for i in range(len(own.tokens)))
    assert own.cost.flops == 2 * policy.parameters * passes


def test_one_line_says_what_is_slower(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nabla_eval"):
        pair_of("qwen2", F64)
        assert not caplog.records
        model = architectures.architecture("mpt", 19, F64, "eager")
        for _ in range(2):  # taken again, it would look as if padding did no harm
            assert batching(architectures.pair_of(model, WORDS).policy.base) == APART
        pair_of("rwkv", F64)
    first, second = (record.getMessage() for record in caplog.records)
    assert "run apart" in first and "encodes" not in first
    assert "run apart" in second and "each step encodes its context again" in second


class Leaky(torch.nn.Module):
    """A base whose rows see each other: the mean of the batch is added to every state."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, **inputs: Any) -> Any:
        output = self.base(**inputs)
        states = output.last_hidden_state
        output.last_hidden_state = states + states.mean(0, keepdim=True)
        return output


def test_a_model_whose_rows_change_each_other_is_refused() -> None:
    pair = tiny_pair()
    with pytest.raises(ModelError, match="leaky gives a row of a batch other results"):
        probe(Leaky(pair.policy.base), pair.policy.vocabulary, "leaky")


def test_the_probe_costs_a_few_passes_of_a_few_tokens() -> None:
    """Six at most where everything works: two rows alone, a batch, and three steps with a cache."""
    base = architectures.architecture("qwen2", 19, F32).base_model
    seen: list[int] = []
    hook = base.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    probe(base, 19, "qwen2")
    hook.remove()
    assert len(seen) <= 6 and sum(seen) <= 48


def test_padded_scores_of_a_reward_model_that_takes_no_padding() -> None:
    """In float64 with eager attention, positions that see nothing are nan in Qwen2."""
    pair = pair_of("qwen2", F64)
    config = build.tiny("process", WORDS).config
    judge = Qwen2ForTokenClassification._from_config(
        config, dtype=F64, attn_implementation="eager"
    ).eval()
    pair = replace(pair, reward=reward_from(judge, WORDS, pair.policy))
    assert batching(pair.judge.base) == APART
    problems = uneven(pair)
    drafts = rollout(pair.policy, [Generate(p, p.key / 0, Sampling()) for p in problems])
    asked = [Score(p, d) for p, d in zip(problems, drafts, strict=True)]
    together = [judged.reward for judged in score(pair.judge, asked)]
    alone = [score(pair.judge, [one])[0].reward for one in asked]
    assert together == pytest.approx(alone, abs=1e-9)


def saved(folder: Path, name: str) -> tuple[str, str]:
    """A policy of an architecture, and a reward model beside it."""
    policy, reward = folder / "p", build.save(folder / "r", "process", WORDS)
    architectures.architecture(name, 19, F32).save_pretrained(policy)
    WORDS.save_pretrained(policy)
    return str(policy), str(reward)


@pytest.mark.parametrize(("name", "verdict"), [("mamba2", "ok"), ("rwkv", "warning")])
def test_check_pair_says_how_batches_run(tmp_path: Path, name: str, verdict: str) -> None:
    """And finds the sizes of a config without attention heads."""
    report = check_pair(*saved(tmp_path, name), PairUse(length=64, load=True))
    assert report.ok and report.bytes > 0
    found = {finding.name: finding.verdict for finding in report.findings}
    assert found["batches of the policy"] == verdict
    assert found["batches of the reward model"] == "ok"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_cannot_run_is_refused_alike(tmp_path: Path) -> None:
    """Experts of this torch have no float64: in words, at load and in check-pair."""
    if architectures.MAJOR < 5:
        pytest.skip("experts run in float64 before transformers 5")
    pair = saved(tmp_path, "mixtral")
    with pytest.raises(ModelError, match="fails on a few tokens in float64: RuntimeError"):
        load_pair(*pair, dtype="float64")
    report = check_pair(*pair, PairUse(length=64, load=True, dtype="float64"))
    assert [f.name for f in report.findings if f.verdict == "failed"] == ["loading"]
