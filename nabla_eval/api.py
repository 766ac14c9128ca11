"""The Python API, for notebooks and for checking us from outside (DESIGN 4)."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from nabla_eval import embedded
from nabla_eval.dto.objective import row_gradient, widen
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.gradient import Gradients, no_gradient
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.refine import optimise_rows, start_of
from nabla_eval.engine.teacher_force import teacher_force
from nabla_eval.errors import ConfigError, ContextError, Fault
from nabla_eval.methods.registry import configure, settle, start
from nabla_eval.models import load
from nabla_eval.models.chat import check_asked, render
from nabla_eval.models.pair import Messages, Pair
from nabla_eval.options import DTO, Sampling, build, coerce, flatten
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Problem, Refine, Score
from nabla_eval.randomness import Key
from nabla_eval.reporting.display import story
from nabla_eval.terminal import LOGGER
from nabla_eval.thought import opened
from nabla_eval.traces import Record, record
from nabla_eval.traces.observe import Observed
from nabla_eval.validation import Count, NotNegative, Positive, Scale, shown

_SURROGATE = re.compile("[\ud800-\udfff]")  # a lone one is no text: nothing could encode it

__all__ = ["Generation", "Refined", "generate", "load_pair", "refine"]


@dataclass(frozen=True)
class Generation:
    """Answer to one problem: `stats` holds counts and costs, `trace` every decision.

    A notebook shows it with the revised tokens marked, `print` as text. `record` is what a run
    would have written into its trace: `nabla_eval.story(out.record)` has the parts of that view.
    """

    text: str
    token_ids: tuple[int, ...]
    stats: Mapping[str, Any]
    trace: Outcome
    record: Record

    def __repr__(self) -> str:
        spent = f"{self.stats['model_calls']:.0f} model calls"
        return f"<Generation by {self.stats['method']}: {self.text!r}, {spent}>"

    def __str__(self) -> str:
        return str(story(self.record))

    def _repr_html_(self) -> str:
        return story(self.record)._repr_html_()


@dataclass(frozen=True)
class Refined:
    """A response's logits after DTO. L is the response's length, V the vocabulary."""

    logits: Tensor  # [L - committed, V] refined; rows that were not free are the policy's
    gradient: Tensor  # [L - committed, V] dL/dy before the first step
    passes: int  # gradient passes spent, the first one included
    reward: float  # r(y|x) of the response


def load_pair(
    policy: str | Path | None = None, reward: str | Path | None = None, *others: Any, **options: Any
) -> Pair:
    """Load a policy and a reward model, each a hub id or a folder; the embedded pair by default.

    `load_pair("countdown")` and `load_pair("words")` are the embedded pairs by their names.
    Further arguments (dtype, device, vocab, ...) and the errors are those of
    `nabla_eval.models.load.load_pair`.
    """
    if policy is None or (reward is None and embedded.meant(policy)):
        policy, own = embedded.paths("countdown" if policy is None else str(policy))
        reward = own if reward is None else reward
    return load.load_pair(policy, reward, *others, **options)


@overload
def generate(pair: Pair, problem: str, method: str = ..., **options: Any) -> Generation: ...
@overload
def generate(
    pair: Pair, problem: Sequence[str], method: str = ..., **options: Any
) -> list[Generation]: ...
def generate(
    pair: Pair,
    problem: str | Sequence[str],
    method: str = "nabla",
    *,
    seed: int = 0,
    preset: str | None = None,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    chat: bool | None = None,
    batch_size: int = 32,
    **options: Any,
) -> Generation | list[Generation]:
    """Answer a problem (or a list of them) with a test-time method.

    `options` are the method's own (`n=8, lr=0.1, ...`; `configure` lists them). `chat` renders the
    problem with the policy's chat template; by default it does when there is one. Responses are
    at most `max_new_tokens` long (1024, or what the context leaves) and end before a text of
    `stop`. A problem's answer depends on its text, the seed and the options, not on the list it
    came in.

    Raises `ConfigError` for options that do not exist or contradict each other, `ContextError`
    for a problem that does not fit.
    """
    config = settle(configure(method, options, preset), rewarded=pair.reward is not None)
    batch_size = coerce("batch_size", batch_size, Count, 32)
    if config.needs_chat:
        check_asked(pair.policy.tokenizer)
    if why := config.idle:
        LOGGER.warning("method=%s: %s.", method, why)
    texts = texts_of("problem", [problem] if isinstance(problem, str) else problem)
    problems = problems_of(pair, texts, seed, max_new_tokens, stop, chat)
    decode = partial(pair.policy.decode, special=True)
    began = time.perf_counter()
    answers: dict[int, Generation] = {}
    observed = [Observed() for _ in problems]
    methods = [o.watch(start(entry, config)) for o, entry in zip(observed, problems, strict=True)]
    for i, outcome in drive(methods, Executor(pair), width=batch_size):
        if isinstance(outcome, Fault):
            raise outcome.error
        seconds = time.perf_counter() - began
        stats = {**outcome.stats(), "seconds": seconds, "method": method, "config": flatten(config)}
        told = record(
            problems[i], method, config, outcome, seconds, lambda token: decode([token]), decode,
            observed=observed[i],
        )  # fmt: skip
        answers[i] = Generation(outcome.text, outcome.tokens, stats, outcome, told)
    return answers[0] if isinstance(problem, str) else [answers[i] for i in range(len(texts))]


def texts_of(name: str, texts: Iterable[str]) -> list[str]:
    """Return texts as a list. Raises `ConfigError` for one text, and for what is no text."""
    several = isinstance(texts, Iterable) and not isinstance(texts, str)
    listed = list(texts) if several else []
    odd = [own for own in listed if not isinstance(own, str) or _SURROGATE.search(own)]
    if odd or not several:
        raise ConfigError(
            f"{name} must be a list of texts, got {shown(odd[0] if odd else texts)}"
            f"{' in it' if odd else ''}. Try [str(each) for each in ...]."
        )
    return listed


def stops_of(stop: str | Sequence[str] | None) -> list[str]:
    """Return the texts that end a response: as lm-eval's `until`, one, several or none."""
    several = [stop] if isinstance(stop, str) else () if stop is None else stop
    return [own for own in texts_of("stop", several) if own]


def tokens_of(pair: Pair, name: str, ids: Iterable[int]) -> list[int]:
    """Return token ids as a list. Raises `ConfigError` for what the policy has no token for."""
    found = []
    for token in ids if isinstance(ids, Iterable) else [ids]:
        own = index(token) if hasattr(token, "__index__") else -1
        if not 0 <= own < pair.policy.vocabulary:
            raise ConfigError(
                f"{name} must be token ids below {pair.policy.vocabulary}, got {shown(token)}. Try "
                "pair.policy.encode(text)."
            )
        found.append(own)
    return found


def problems_of(
    pair: Pair,
    texts: Sequence[str],
    seed: int,
    max_new_tokens: int | None,
    stop: Sequence[str],
    chat: bool | None,
) -> list[Problem]:
    """Return problems given as texts; one that is given again has a key of its own."""
    seed = coerce("seed", seed, int, 0)
    max_new_tokens = coerce("max_new_tokens", max_new_tokens, int | None, 1024)
    stop = stops_of(stop)
    seen: Counter[str] = Counter()
    problems = []
    for text in texts:
        key = Key.root(seed) / "api" / text / seen[text]
        seen[text] += 1
        problems.append(_problem(pair, text, key, max_new_tokens, stop, chat))
    return problems


def _problem(
    pair: Pair,
    text: str,
    key: Key,
    max_new_tokens: int | None,
    stop: Sequence[str],
    chat: bool | None,
) -> Problem:
    """Return a problem given as text, as `generate` reads it."""
    messages = [{"role": "user", "content": text}]
    tokenizer = pair.policy.tokenizer
    templated = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
    rendered = render(tokenizer, messages) if templated else text
    ids = pair.policy.encode(rendered, special=not templated)
    if not ids:
        raise ConfigError("A problem is empty, so there is nothing to go on from. Give it a text.")
    room = pair.policy.context - len(ids)
    length = min(1024, room) if max_new_tokens is None else max_new_tokens
    if not 1 <= length <= room:
        raise ContextError(
            f"A prompt of {len(ids)} tokens and {length} new ones do not fit the context of "
            f"{pair.policy.context} of {pair.policy.name}. Try max_new_tokens={max(room, 0)}, or a "
            "shorter problem."
        )
    problem = pair.problem(ids, key, messages=messages, max_new_tokens=length, stop=stop)
    thought = opened(rendered, messages if templated else None) or pair.policy.thought
    return replace(problem, thought=thought)


def refine(
    pair: Pair,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    committed: int = 0,
    *,
    messages: Messages | None = None,
    temperature: float = 1.0,
    end_token: Literal["template", "kept"] = "template",
    seed: int = 0,
    **options: Any,
) -> Refined:
    """Run DTO (Alg. 2 and 4) once on a given response, with its first `committed` tokens fixed.

    The reward model is shown its chat template around the user message (the decoded prompt, or
    `messages`) and the response, without its end-of-turn token unless end_token="kept".
    `temperature` is the tau of the straight-through softmax. `options` are those of
    `nabla_eval.options.DTO` (`steps=20, lr=0.1, lam=1.0, update="all", ...`). With anchor="argmax",
    which is the default here, L is differentiated at the committed tokens followed by the argmax of
    each row, with anchor="sampled" at the response itself. `min_lr` is `lr` at most.

    Raises `ConfigError` for options and token ids out of range, `ContextError` for a response that
    is too long,
    `PolicyError` where logits or gradients are not finite.
    """
    given = {"lr": DTO.lr, "min_lr": DTO.min_lr, "anchor": "argmax", **options}
    lr = coerce("lr", given["lr"], Positive, DTO.lr)
    min_lr = coerce("min_lr", given["min_lr"], NotNegative, DTO.min_lr)
    dto = build(DTO, {**given, "min_lr": min(min_lr, lr)})
    prompt_ids = tokens_of(pair, "prompt_ids", prompt_ids)
    response_ids = tokens_of(pair, "response_ids", response_ids)
    committed = coerce("committed", committed, int, 0)
    seed = coerce("seed", seed, int, 0)
    temperature = coerce("temperature", temperature, Scale, 1.0)
    end_token = coerce("end_token", end_token, Literal["template", "kept"])
    if not 0 <= committed < len(response_ids):
        raise ConfigError(
            f"committed must be 0 to {len(response_ids) - 1}, to leave some of the response's "
            f"{len(response_ids)} tokens to refine, got {committed}."
        )
    problem = pair.problem(
        prompt_ids, Key.root(seed) / "refine", messages=messages,
        max_new_tokens=len(response_ids),
    )  # fmt: skip
    (trajectory,) = teacher_force(pair.policy, [(problem, tuple(response_ids))])
    if end_token == "kept":
        trajectory = replace(trajectory, scored=len(trajectory.tokens))
    request = Refine(
        problem, trajectory, committed, (problem.key,), Sampling(), dto, relaxation=temperature
    )
    begun, caches, gradients = start_of(request), PrefixCaches(), Gradients()
    (gradient,), _ = gradients.take(pair, [begun], dto.objective, caches)
    raw = row_gradient(pair, gradient, range(committed, len(begun.hard)), dto.objective)
    (score,) = Executor(pair)([Score(problem, trajectory)])
    with torch.no_grad():
        logits = widen(pair.policy.head(trajectory.states[committed:]))
        solution = optimise_rows(pair, [request], caches, gradients)
    if any(solution.broken):
        raise no_gradient(pair, problem, len(begun.hard))
    refined = torch.cat([solution.logits, logits[len(solution.logits) :]])
    return Refined(refined, raw, 1 + solution.passes[0], score.reward)
