"""Do a policy and a reward model fit together? Everything that shows before weights are read.

Works on hub ids, checkpoints, and folders with only config and tokenizer. Each finding is one line
with a verdict; a pair cannot work where one of them failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from nabla_eval.errors import ModelError, NablaError
from nabla_eval.models import chat, memory, vocabulary
from nabla_eval.models.chat import AffixFinder, Template
from nabla_eval.models.checkpoint import (
    Checkpoint,
    Role,
    Trust,
    auto_class,
    parse_device,
    parse_dtype,
)
from nabla_eval.models.heads import check_labels, context_length
from nabla_eval.models.load import end_ids, policy_from, with_reward
from nabla_eval.models.prefix import batching
from nabla_eval.models.step_ends import checked_steps
from nabla_eval.models.tokenizers import encode
from nabla_eval.models.vocabulary import Mode, Overlap

Verdict = Literal["ok", "warning", "failed", "skipped"]
_KINDS = {
    "causal": "language model",
    "outcome": "outcome reward, one score per response",
    "process": "process reward, one score per token",
}


@dataclass(frozen=True, kw_only=True)
class PairUse:
    """The intended use of a pair."""

    length: int = 2048  # tokens of prompt and response
    batch: int = 1  # sequences differentiated at once
    dtype: str | None = None  # None: each checkpoint's own
    reward_dtype: str | None = None  # None: as `dtype`
    vocab: Mode = "align"
    step_delimiter: str | None = None
    template: Template = field(default_factory=Template)
    trust: Trust = field(default_factory=Trust)
    load: bool = False  # also load both models and put their parts to the test

    def dtype_of(self, found: Checkpoint) -> str | None:
        """Return what was asked for a model of the pair."""
        own = self.reward_dtype if found.role == "reward" else None
        return self.dtype if own is None else own


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class PairReport:
    """All findings about a pair; `overlap` and `memory` are None where they could not be had."""

    policy: str
    reward: str
    findings: tuple[Finding, ...]
    overlap: Overlap | None = None
    memory: tuple[tuple[str, memory.Memory], ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether nothing failed."""
        return all(finding.verdict != "failed" for finding in self.findings)

    @property
    def bytes(self) -> int:
        """Return what both take on one device: their weights, and the larger of their passes."""
        weights = [part.terms[0].bytes for _, part in self.memory]
        passes = [part.bytes - part.terms[0].bytes for _, part in self.memory]
        return sum(weights) + max(passes, default=0)


def check_pair(policy: str, reward: str, asked: PairUse = PairUse()) -> PairReport:
    """Return what is found of a pair; weights are read with `asked.load` only."""
    findings: list[Finding] = []

    def look(name: str, found: Iterable[Finding]) -> None:
        try:
            findings.extend(found)
        except NablaError as error:
            findings.append(Finding(name, "failed", str(error)))

    opened: dict[Role, Checkpoint] = {}
    names: dict[Role, str] = {"policy": policy, "reward": reward}
    for role, name in names.items():
        found = asked.trust.checkpoint(name, role)
        try:
            findings.append(Finding(found.who, "ok", _describe(found)))
        except ModelError as error:
            findings.append(Finding(found.who, "failed", str(error)))
            continue
        opened[role] = found
        look(f"weights of the {found.who}", _weights(found))
    actor, judge = opened.get("policy"), opened.get("reward")
    overlap, copied = None, False
    if actor is not None and judge is not None:
        overlap = vocabulary.compare(actor.tokenizer.get_vocab(), judge.tokenizer.get_vocab())
        look("vocabulary", _vocabulary(actor, judge, overlap, asked))
        copied = overlap.moved > 0
    if judge is not None:
        look("score", _score(judge, asked))
        look("template", _template(judge, asked))
    if actor is not None:
        look("end of response", _ends(actor))
        if asked.step_delimiter is not None:
            look("steps", _steps(actor, asked.step_delimiter))
    findings += [_context(found, asked.length) for found in opened.values()]
    sizes = tuple((found.who, _memory(found, asked, copied)) for found in opened.values())
    if asked.load and actor is not None and judge is not None:
        look("loading", _load(actor, judge, asked))
    return PairReport(policy, reward, tuple(findings), overlap, sizes)


def _describe(found: Checkpoint) -> str:
    kind, shape = _KINDS[found.kind], memory.Shape.of(found.config)
    return (
        f"{found.config.architectures[0]} ({kind}), {shape.layers} layers, hidden "
        f"size {shape.hidden:,}, {len(found.tokenizer):,} tokens in {shape.rows:,} rows"
    )


def _weights(found: Checkpoint) -> Iterator[Finding]:
    name, files = f"weights of the {found.who}", found.weight_files
    if files == []:
        text = "none in this folder: only config and tokenizer were read"
        yield Finding(name, "skipped", text)
        return
    found.check_weights()
    yield Finding(name, "ok", "safetensors" if files else "on the hub")


def _vocabulary(
    actor: Checkpoint, judge: Checkpoint, overlap: Overlap, asked: PairUse
) -> Iterator[Finding]:
    vocabulary.check_overlap(overlap, asked.vocab)
    worst: Verdict = "warning" if overlap.share < vocabulary.LEAST_OVERLAP else "ok"
    table = "re-indexed copy" if overlap.moved else "shared table, no copy"
    yield Finding("vocabulary", worst, f"{overlap.describe()} ({table})")
    for text in chat.probes(actor.tokenizer):
        ours, theirs = (
            found.tokenizer.convert_ids_to_tokens(list(encode(found.tokenizer, text)))
            for found in (actor, judge)
        )
        if ours != theirs:
            told = f"the reward model would split {text!r} otherwise than the policy writes it: "
            yield Finding("tokenisation", "warning", f"{told}{theirs} instead of {ours}")
            return
    yield Finding("tokenisation", "ok", "both split probe texts alike")


def _score(judge: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    process, labels = judge.kind == "process", int(judge.config.num_labels)
    check_labels(judge.name, labels, process)
    where = "every token" if process else "the last token"
    if asked.step_delimiter is not None and process:
        where = f"the ends of steps ({asked.step_delimiter!r})"
    yield Finding("score", "ok", f"{labels} label{'s' if labels > 1 else ''}, read at {where}")


def _template(judge: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    finder = AffixFinder(judge.tokenizer, asked.template)
    found = chat.check_template(finder)
    affixes, kept = finder(chat.QUESTION), [not reason for reason in found.values()]
    shown = "plain text, no chat template" if finder.plain else "its own chat template"
    if asked.template.chat_template is not None and not finder.plain:
        shown = "the chat template that was given"
    yield Finding(
        "template",
        "ok" if found else "skipped",
        f"{shown}: {len(affixes.before)} tokens before and {len(affixes.after)} after the "
        f"response; {sum(kept)} of {len(kept)} probe responses are kept as they are",
    )
    for response, reason in found.items():
        if reason:
            yield Finding("template", "warning", f"{response!r}: {reason}")


def _ends(actor: Checkpoint) -> Iterator[Finding]:
    ends = end_ids(actor.generation_config, actor.config, actor.tokenizer)
    if not ends:
        raise ModelError("no end-of-text token: no response would end")
    tokens = (f"{actor.tokenizer.convert_ids_to_tokens(i)} {i}" for i in ends)
    yield Finding("end of response", "ok", ", ".join(tokens))


def _steps(actor: Checkpoint, delimiter: str) -> Iterator[Finding]:
    checked_steps(actor.tokenizer, delimiter)
    yield Finding("steps", "ok", f"the policy can write {delimiter!r}")


def _context(found: Checkpoint, length: int) -> Finding:
    context = context_length(found.config.get_text_config())
    name, text = f"context of the {found.who}", f"{context:,} tokens, {length:,} asked for"
    if length > context:
        return Finding(name, "failed", f"{text}: use a shorter length")
    return Finding(name, "ok", text)


def _memory(found: Checkpoint, asked: PairUse, copied: bool) -> memory.Memory:
    shape = memory.Shape.of(found.config)
    parameters = memory.parameter_count(found.config, auto_class(found.kind))
    use = memory.Use(asked.length, asked.batch, found.dtype(asked.dtype_of(found)).itemsize)
    if found.role == "policy":
        return memory.of_policy(shape, parameters, use)
    return memory.of_reward(shape, parameters, use, copied)


def _load(actor: Checkpoint, judge: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    device = parse_device(None)
    pair = with_reward(
        policy_from(actor.load(parse_dtype(asked.dtype), device), actor.tokenizer),
        judge,
        parse_dtype(asked.dtype_of(judge)),
        device,
        vocab=asked.vocab,
        step_delimiter=asked.step_delimiter,
        template=asked.template,
    )
    yield Finding("loading", "ok", "base and head add up to each model on a few tokens")
    for found, base in ((actor, pair.policy.base), (judge, pair.judge.base)):
        slower = batching(base).describe()
        text = slower or "rows of a padded batch give what each gives alone"
        name = f"batches of the {found.who}"
        yield Finding(name, "warning" if slower else "ok", text)
