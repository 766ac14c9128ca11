"""Drawn programs for the engine: methods, options, problems and pairs, small and full of edges.

They run side by side (`run_together`), and nothing of them may be left (`nothing_left`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
)

from nabla_eval.engine.batch_cache import PaddedCache
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor, Session
from nabla_eval.engine.prefix_cache import CachedPrefix
from nabla_eval.engine.response import Response
from nabla_eval.engine.rollout import Decoder
from nabla_eval.harness.instances import fit
from nabla_eval.methods.registry import METHODS, configure, start
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import RowCache
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Method, Problem, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.testing import chat_tokenizer, tiny_tokenizer

CONTEXT = 24
CHAT_CONTEXT = 420  # the shortest prompts of the package fit, the longest do not
KINDS = ("process", "outcome", "gaps", "chat")


@cache
def pair(kind: str) -> Pair:
    """A one-layer pair. "gaps": the reward model lacks tokens, and both tables are padded."""
    if kind == "chat":
        words = judged = chat_tokenizer()
    else:
        words, judged = tiny_tokenizer(9), tiny_tokenizer(7 if kind == "gaps" else 9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Qwen2ForCausalLM(_config(words, 8, kind, tie_word_embeddings=True))
        head = Qwen2ForSequenceClassification if kind == "outcome" else Qwen2ForTokenClassification
        judge = head(_config(judged, 8, kind, num_labels=1))
    for network in (model, judge):
        torch.nn.Module.to(network, torch.float64)
    policy = policy_from(model.eval(), words)
    if kind == "gaps":  # and a second token ends responses
        policy = replace(policy, end_ids=(*policy.end_ids, 4))
    vocab = "force" if kind == "gaps" else "align"
    return Pair(policy, reward_from(judge.eval(), judged, policy, vocab=vocab))


def _config(tokenizer: Any, hidden: int, kind: str, **options: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer) + 2 * (kind == "gaps"),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CHAT_CONTEXT if kind == "chat" else CONTEXT,
        initializer_range=0.6,
        pad_token_id=0,
        eos_token_id=1,
        **options,
    )


@dataclass(frozen=True)
class Program:
    """A method with its options, and the problem that it is put to."""

    method: str
    config: Any
    problem: Problem

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In hypothesis' reports, which are long enough."""
        printer.text(f"{self.method} of {self.problem.id}")


def _of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


SAMPLING = {"temperature": _of(0.5, 1.0, 1.5), "top_p": _of(1.0, 0.9), "top_k": _of(0, 4)}
STEPS = {
    "step": _of("regex", "tokens"), "step_tokens": _of(1, 2, 4), "depth": _of(1, 2, 3),
    "step_score": _of("last", "min", "mean", "prod", "sum"),
}  # fmt: skip
JUDGED = {"evaluator": _of("reward", "self_certainty", "likelihood")}
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "greedy": {},
    "self_consistency": {"n": _of(1, 3), **SAMPLING},
    "best_of_n": {
        "n": _of(1, 2, 4), "evaluator": _of("reward", "self_certainty", "majority"), **SAMPLING,
    },
    "weighted_best_of_n": {
        "n": _of(1, 4), "weighting": _of("sigmoid", "softmax", "borda"),
        "evaluator": _of("reward", "self_certainty"), **SAMPLING,
    },
    "beam": {"beams": _of(1, 2), "width": _of(1, 3), **JUDGED, **SAMPLING, **STEPS},
    "dvts": {"subtrees": _of(1, 2), "width": _of(1, 3), **JUDGED, **SAMPLING, **STEPS},
    "particle_filtering": {
        "particles": _of(1, 3), "resampling": _of("multinomial", "systematic"),
        "ess_threshold": _of(0.5, 1.0), "answer": _of("best", "sample"),
        **JUDGED, **SAMPLING, **STEPS,
    },
    "tree_of_thought": {
        "breadth": _of(1, 2), "proposals": _of(1, 2), "evaluator": _of("reward", "self"),
        "evaluation": _of("value", "vote"), "evaluations": _of(1, 2), "reply_tokens": _of(1, 4),
        **SAMPLING, **STEPS,
    },
    "rap": {
        "iterations": _of(1, 3), "branching": _of(1, 2), "commit": st.booleans(),
        "evaluator": _of("reward", "likelihood", "self"), "answer": _of("best", "vote"),
        "backup": _of("max", "mean"), **SAMPLING, **STEPS,
    },
    "tpo": {"samples": _of(1, 2), "iterations": _of(0, 1), "reply_tokens": _of(1, 4), **SAMPLING},
    "nabla": {
        "n": _of(1, 3, 4), "passes": _of(1, 3), "acceptance": _of("strict", "released"),
        "lookahead": _of(1, 3, "auto"), "stop_reward": _of(None, None, -0.5, 1.0),
        **SAMPLING, "temperature": _of(1.0, 1.5), "entropy_threshold": _of(0.0, 0.25),
        "resample_temperature": _of(None, 0.0, 1.5), "min_probability": _of(0.0, 0.05),
        "uncertainty": _of("entropy", "top_probability"), "gradient_threshold": _of(0.0, 0.0, 0.2),
        "gradient_norm": _of("logits", "onehot"), "steps": _of(0, 2, 4), "lr": _of(0.01, 1.0),
        "update": _of("first", "all"), "anchor": _of("argmax", "sampled"),
        "parameterisation": _of("logits", "latents"),
        "schedule": _of("cosine", "clipped_cosine"), "optimizer": _of("adamw", "sgd"),
        "end_token": _of("template", "kept"),
        "relaxation_temperature": _of(None, 1.0), "threshold_inclusive": st.booleans(),
        "grad_cache": st.booleans(), "lam": _of(1.0, -1.0, 0.0), "nll_weight": _of(1.0, 0.0),
    },
}  # fmt: skip


def methods(kind: str) -> list[str]:
    """Names of the core's methods that a pair of this kind can run."""
    core = [name for name in METHODS if "experimental" not in METHODS[name].run.__module__]
    return sorted(n for n in core if kind == "chat" or not configure(n, {}).needs_chat)


def drawn_of(method: str) -> dict[str, st.SearchStrategy[Any]]:
    """Return what to draw a method's options from: words and switches where no table says it."""
    if method in OPTIONS:
        return OPTIONS[method]
    kinds = get_type_hints(METHODS[method].config, include_extras=True)
    words = {
        name: _of(*get_args(kind)) for name, kind in kinds.items() if get_origin(kind) is Literal
    }
    switches = {name: st.booleans() for name, kind in kinds.items() if kind is bool}
    return {**SAMPLING, **words, **switches}


def together(kind: str, size: int) -> st.SearchStrategy[tuple[Program, ...]]:
    """Programs to be run side by side."""
    return st.tuples(*(programs(kind, number) for number in range(size)))


@st.composite
def programs(draw: Any, kind: str, number: int) -> Program:
    """A program for a pair of this kind; programs of other numbers share no random stream."""
    asks = kind == "chat"
    method = draw(_of(*methods(kind), "nabla", "nabla"))  # which has the most to go wrong
    chosen = draw(st.fixed_dictionaries(drawn_of(method)))
    if not asks and chosen.get("evaluator") == "self":
        chosen["evaluator"] = "reward"
    if chosen.get("step") == "regex":
        chosen["step_regex"] = draw(_of("a", "[b-d]", "."))
    if chosen.get("optimizer") == "adamw":
        chosen["logits_dtype"] = draw(_of("float32", "float32", "bfloat16"))
    chosen["max_calls"] = draw(_of(*[None] * 7, 1, 9, 30))
    if kind == "process" and method == "nabla":
        chosen["reward_gradient"] = draw(_of("final", "process"))
    config = configure(method, chosen)
    return Program(method, config, draw(problems(kind, number)))


@st.composite
def problems(draw: Any, kind: str, number: int) -> Problem:
    """A short prompt, or one that leaves a few tokens of the context or a single one."""
    own = pair(kind)
    room = draw(_of(None, None, None, 1, 4))
    length = draw(st.integers(1, 5)) if room is None else own.policy.context - room
    words = draw(st.lists(st.integers(2, 7), min_size=5, max_size=5))
    problem = own.problem(
        (words * (1 + length // 5))[:length],
        Key.root(draw(st.integers(0, 2**32))) / number,
        # Without a message of its own the reward model would be shown as long a conversation.
        messages=[{"role": "user", "content": "ab"}],
        max_new_tokens=draw(_of(1, 2, 5, 8)),
        stop=draw(_of((), (), ("a",), ("bc", "f"), ("eee",))),
        id=f"drawn/{number}/0",
    )
    return fit(problem, own, asked=False)


# --- running them ---------------------------------------------------------------------------------

SIZE = 40
UNBOUNDED = 10**9
ENGINE = (
    Session,
    Decoder,
    PaddedCache,
    RowCache,
    CachedPrefix,
    Response,
    Trajectory,
    torch.Tensor,
)

plain = settings(phases=[Phase.generate])
machines = st.fixed_dictionaries(
    {
        "width": st.sampled_from([2, SIZE, SIZE, SIZE]),
        "budget": st.sampled_from([1, 40, UNBOUNDED, UNBOUNDED, UNBOUNDED]),
        "past": st.sampled_from([0, 30, UNBOUNDED, UNBOUNDED]),
    }
)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where a block leaves tensors, rows or caches behind."""
    gc.collect()
    gc.freeze()
    yield
    gc.collect()
    gc.collect()  # what finalisers of the first round let go of
    left = [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, ENGINE)]
    assert left == []


def engine(own: Pair, machine: dict[str, int]) -> Executor:
    budget, past = machine["budget"], machine["past"]
    return Executor(own, max_batch_tokens=budget, max_cached_tokens=past)


def methods_of(programs: Sequence[Program]) -> Iterator[Method]:
    return (start(program.problem, program.config) for program in programs)


def run_together(
    programs: Sequence[Program], own: Pair, machine: dict[str, int]
) -> tuple[list[Outcome], int]:
    """Outcomes, and the most tokens of prefixes that were cached."""
    executor, held, outcomes = engine(own, machine), [0], {}
    for index, end in drive(methods_of(programs), executor, machine["width"]):
        held.append(executor.caches.policy.tokens)
        assert isinstance(end, Outcome), end
        outcomes[index] = end
    return [outcomes[index] for index in range(len(programs))], max(held)
