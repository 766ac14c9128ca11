"""lm-eval's instances, read for a method: which sample each is, what it asks for, does it fit?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nabla_eval.errors import ConfigError, ContextError, suggest
from nabla_eval.harness.arguments import Arguments
from nabla_eval.models.pair import Pair
from nabla_eval.options import change, coerce, flatten, leaves
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key
from nabla_eval.terminal import LOGGER
from nabla_eval.thought import Messages, Thought, opened, opening
from nabla_eval.validation import Count

SAMPLING = {"temperature": float, "top_p": float, "top_k": int}
# As lm-eval's other models spell it.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What other libraries call these, by our name.
ELSEWHERE = {
    **dict.fromkeys(("stop", "stop_sequences", "stop_strings", "stop_words", "eos_token"), "until"),
    **dict.fromkeys(("max_length", "max_output_tokens", "num_predict"), "max_gen_toks"),
}
# Values at which an option of transformers' `generate` does nothing; no other is understood here.
IDLE: dict[str, Any] = {
    "num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "length_penalty": 1,
    "no_repeat_ngram_size": 0, "typical_p": 1, "min_p": 0, "presence_penalty": 0,
    "frequency_penalty": 0, "use_cache": True,
}  # fmt: skip


@dataclass
class SampleRequest:
    """One response to produce, and the places among lm-eval's requests that it answers."""

    request: Any  # lm_eval.api.instance.Instance
    repeat: int
    places: list[int] = field(default_factory=list)

    @property
    def id(self) -> str:
        """task/document/repeat, as traces name it."""
        return "/".join(map(str, (*self._document(), self.repeat)))

    def key(self, seed: int) -> Key:
        """The stream of this sample: seed / task / document / repeat (DESIGN 5)."""
        key = Key.root(seed)
        for part in (*self._document(), self.repeat):
            key = key / part
        return key

    def _document(self) -> tuple[str | int, ...]:
        """A request that belongs to no task, as in a notebook, is named by its prompt."""
        request = self.request
        if request.task_name is None or request.doc_id is None:
            return ("", str(request.args[0]))
        # A document with several requests needs them told apart; with one, idx is 0.
        part = (request.idx,) if request.idx else ()
        return (str(request.task_name), int(request.doc_id), *part)


def samples(requests: Sequence[Any], *, alike: bool = False) -> list[SampleRequest]:
    """The distinct samples that requests ask for, in order of first appearance.

    lm-eval asks for K repeats by handing over the same object K times. With several ranks it pads
    the shorter ones with further copies of the last request: occurrences beyond `repeats` start
    again at repeat 0, and are answered by the samples that exist. `alike`: the method draws
    nothing, so that one sample answers all repeats.
    """
    seen: Counter[int] = Counter()
    found: dict[tuple[int, int], SampleRequest] = {}
    for place, request in enumerate(requests):
        occurrence = seen[id(request)]
        seen[id(request)] += 1
        repeat = occurrence % request.repeats if request.repeats else occurrence
        repeat = 0 if alike else repeat
        sample = found.setdefault((id(request), repeat), SampleRequest(request, repeat))
        sample.places.append(place)
    return list(found.values())


def fit(problem: Problem, pair: Pair, *, asked: bool, served: int | None = None) -> Problem:
    """The problem, with `max_new_tokens` cut to what both models' contexts hold.

    `served` is the context of the server that rollouts come from, if any.

    Raises `ContextError` where nothing fits, or less than was `asked` for.
    """
    affixes, wanted = problem.affixes, problem.max_new_tokens
    limits = [("prompt", "policy", len(problem.prompt), pair.policy.context)]
    if pair.reward is not None:
        taken = len(affixes.before) + len(affixes.after)
        limits.append(("conversation", "reward model", taken, pair.reward.context))
    if served is not None:
        limits.append(("prompt", "vLLM server", len(problem.prompt), served))
    for what, model, taken, context in limits:
        left = context - taken
        if left < 1:
            raise ContextError(
                f"The {what} of {problem.id} takes {taken} tokens, and the {model}'s context holds "
                f"{context}. Use fewer few-shot examples, or a {model} with a longer context."
            )
        if asked and left < wanted:
            raise ContextError(
                f"The {what} of {problem.id} takes {taken} tokens and max_gen_toks={wanted} more "
                f"are to be generated, but the {model}'s context holds {context}. Try --gen_kwargs "
                f"max_gen_toks={left}, fewer few-shot examples, or a {model} with a longer context."
            )
    return replace(problem, max_new_tokens=min([wanted] + [c - t for _, _, t, c in limits]))


@dataclass(frozen=True)
class Thinking:
    """Splits responses into thought and answer, prompt by prompt."""

    thought: Thought | None  # of `think_end_token`
    own: Thought | None = None  # of the tags that the policy has tokens for

    @classmethod
    def of(
        cls,
        end: str | int | None,
        enabled: bool | None,
        decode: Callable[[list[int]], str],
        own: Thought | None = None,
    ) -> Thinking:
        """`end` is a text or a token id, whose text `decode` gives; "" for one that ends responses.

        Where nothing is known to open thoughts, responses open with one exactly if they were asked
        to (`enabled`). Raises `ConfigError` for a token that leaves no text.
        """
        if end is None:
            return cls(None, own)
        text = end if isinstance(end, str) else decode([end])
        if not text:
            raise ConfigError(
                f"think_end_token={end!r} leaves no trace in a response's text, so thoughts could "
                "not be told from answers. Give the text that ends them, such as </think>."
            )
        start = opening(text)
        return cls(Thought(text, start, opened=bool(enabled) and not start))

    def __call__(self, prompt: str, messages: Messages | None = None) -> Thought | None:
        """The thought of one prompt, which many chat templates open themselves.

        Without `think_end_token`, that of the known tags that the prompt opens, or of those that
        the policy has tokens for. `messages` are those that a chat template rendered.
        """
        thought = self.thought
        if thought is None:
            return opened(prompt, messages) or self.own
        return replace(thought, opened=thought.opened or thought.opened_by(prompt, messages))


@dataclass(frozen=True)
class GenerationArguments:
    """One set of generation arguments, understood: the method's options, and when to stop."""

    config: Any
    stop: tuple[str, ...]
    max_new_tokens: int | None  # None: nobody asked


class GenerationReader:
    """Reads generation arguments for one method; remembers them, and warns once of each kind.

    Precedence for temperature, top_p and top_k: `--model_args`, then the generation arguments, then
    the preset and the defaults. Of several spellings of the length the last one counts: lm-eval
    adds `--gen_kwargs` behind what the task says.
    """

    def __init__(self, arguments: Arguments, end: str = "") -> None:
        self.arguments = arguments
        self.end = end  # the end-of-text token as text, which tasks may list among stop strings
        self._read: dict[str, GenerationArguments] = {}
        self._warned: set[str] = set()

    def __call__(self, options: Mapping[str, Any]) -> GenerationArguments:
        """Read arguments. Raises `ConfigError` for an unknown one, or a value that is not taken."""
        name = json.dumps(options, default=str)  # in their order, on which the length depends
        if name not in self._read:
            self._read[name] = self._understand(dict(options))
        return self._read[name]

    def _understand(self, options: dict[str, Any]) -> GenerationArguments:
        stop = _stop_strings(options.pop("until", None), self.end)
        length = self._length(options)
        sample = coerce("do_sample", options.pop("do_sample", None), bool | None)
        given = {name: options.pop(name, None) for name in SAMPLING}
        sampling = {n: coerce(n, v, SAMPLING[n]) for n, v in given.items() if v is not None}
        for name, value in options.items():
            _refuse(name, value)
        config = self._config(sample, sampling)
        if why := config.idle:
            self._warn("idle", "method=%s: %s.", self.arguments.method, why)
        return GenerationArguments(config, stop, length)

    def _length(self, options: dict[str, Any]) -> int | None:
        """Take the spellings of the length out of the options; return the last one's value."""
        named = [name for name in options if name in LENGTHS]
        given = [coerce(name, options.pop(name), Count | None) for name in named]
        return next((length for length in reversed(given) if length is not None), None)

    def _config(self, sample: bool | None, sampling: dict[str, Any]) -> Any:
        """The method's options with what the task asks for, where the method can follow."""
        method, config = self.arguments.method, self.arguments.config
        greedy = sample is False or sampling.get("temperature") == 0
        if not self.arguments.spec.samples:
            if not greedy and (sample or sampling):
                self._warn("greedy", "method=%s never samples: the task's %s is not used.", method,
                           sampling or "do_sample=True")  # fmt: skip
            return config
        if greedy:
            asked = "do_sample=False" if sample is False else "temperature=0"
            values = flatten(config)
            own = ", ".join(f"{name}={values[name]}" for name in SAMPLING if name in values)
            self._warn(
                "sampling", "The task asks for greedy decoding (%s), which method=%s cannot do: it "
                "keeps its own sampling, %s. Use method=greedy for greedy decoding.", asked, method,
                own,
            )  # fmt: skip
            return config
        known = leaves(type(config))
        wanted = {n: v for n, v in sampling.items() if n in known and n not in self.arguments.given}
        return change(config, **wanted) if wanted else config

    def _warn(self, kind: str, message: str, *details: Any) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            LOGGER.warning(message, *details)


def _stop_strings(until: Any, end: str) -> tuple[str, ...]:
    if until is None:
        return ()
    strings = [until] if isinstance(until, str) else until
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) for s in strings):
        raise ConfigError(
            f"until={until!r} is neither a string nor a list of strings. Try until=['Q:']."
        )
    return tuple(dict.fromkeys(string for string in strings if string and string != end))


def _refuse(name: str, value: Any) -> None:
    """Raise `ConfigError` for an argument that is not understood, unless it does nothing."""
    if ours := ELSEWHERE.get(name.lower()):
        also = ", which counts the tokens of the response alone" * (ours in LENGTHS)
        raise ConfigError(
            f"--model nabla does not know the generation argument {name}={value!r}. lm-eval's "
            f"name is {ours}{also}. Try {ours}={value!r}."
        )
    if name not in IDLE:
        known = ("until", "do_sample", *SAMPLING, *LENGTHS)
        raise ConfigError(
            f"--model nabla does not know the generation argument {name}={value!r}. "
            f"{suggest(name, known)} Options of a method belong into --model_args."
        )
    if value is not None and value != IDLE[name]:
        raise ConfigError(
            f"The generation argument {name}={value!r} has no counterpart in --model nabla: "
            f"leave it out, or set it to {IDLE[name]}."
        )
