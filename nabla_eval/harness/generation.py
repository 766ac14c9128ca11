"""A task's generation arguments (`generation_kwargs`, `--gen_kwargs`), read for a method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nabla_eval.errors import ConfigError, suggest
from nabla_eval.harness.arguments import Arguments
from nabla_eval.options import change, coerce, flatten, leaves
from nabla_eval.terminal import LOGGER
from nabla_eval.validation import Count

SAMPLING = {"temperature": float, "top_p": float, "top_k": int}
# As lm-eval's other models spell it.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What other libraries call these, by our name.
_ELSEWHERE = {
    "until": """
        stop stops stop_sequence stop_sequences stop_string stop_strings stop_word stop_words
        stop_token stop_tokens stop_token_ids stopping_criteria terminators eos eos_token
        eos_string eos_token_id
    """,
    "max_gen_toks": """
        max_length max_len max_gen_tokens max_output_tokens max_tokens_to_sample num_predict
        n_predict
    """,
    "temperature": "temp t",
    "top_p": "topp p nucleus",
    "top_k": "topk k",
}
ELSEWHERE = {name: ours for ours, names in _ELSEWHERE.items() for name in names.split()}
# Values at which an option of transformers' `generate` does nothing; no other is understood here.
NEUTRAL: dict[str, Any] = {
    "num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "length_penalty": 1,
    "no_repeat_ngram_size": 0, "typical_p": 1, "min_p": 0, "presence_penalty": 0,
    "frequency_penalty": 0, "use_cache": True,
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One set of generation arguments, understood: the method's options, and when to stop."""

    config: Any
    stop: tuple[str, ...]
    max_new_tokens: int | None  # None: nobody asked


class Reader:
    """Reads generation arguments for one method; remembers them, and warns once of each kind.

    Precedence for temperature, top_p and top_k: `--model_args`, then the generation arguments, then
    the preset and the defaults. Of several spellings of the length the last one counts: lm-eval
    adds `--gen_kwargs` behind what the task says.
    """

    def __init__(self, arguments: Arguments, end: str = "") -> None:
        self.arguments = arguments
        self.end = end  # the end-of-text token as text, which tasks may list among stop strings
        self._read: dict[str, Asked] = {}
        self._warned: set[str] = set()

    def __call__(self, options: Mapping[str, Any]) -> Asked:
        """Read arguments. Raises `ConfigError` for an unknown one, or a value that is not taken."""
        name = json.dumps(options, default=str)  # in their order, on which the length depends
        if name not in self._read:
            self._read[name] = self._understand(dict(options))
        return self._read[name]

    def _understand(self, options: dict[str, Any]) -> Asked:
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
        return Asked(config, stop, length)

    def _length(self, options: dict[str, Any]) -> int | None:
        """The length that is asked for; takes its spellings out of the options."""
        given = {name: options.pop(name) for name in list(options) if name in LENGTHS}
        lengths = {n: coerce(n, value, Count) for n, value in given.items() if value is not None}
        if len(set(lengths.values())) > 1:
            named = [f"{name}={value}" for name, value in lengths.items()]
            self._warn(
                "length", "The task and --gen_kwargs name several lengths, %s: %s counts, the last "
                "one, as --gen_kwargs come after the task's own.", ", ".join(named), named[-1],
            )  # fmt: skip
        return next(reversed(lengths.values()), None)

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
    if not isinstance(strings, (list, tuple)) or not all(isinstance(s, str) for s in strings):
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
    if name not in NEUTRAL:
        known = ("until", "do_sample", *SAMPLING, *LENGTHS)
        raise ConfigError(
            f"--model nabla does not know the generation argument {name}={value!r}. "
            f"{suggest(name, known)} Options of a method belong into --model_args."
        )
    if value is not None and value != NEUTRAL[name]:
        raise ConfigError(
            f"The generation argument {name}={value!r} has no counterpart in --model nabla: "
            f"leave it out, or set it to {NEUTRAL[name]}."
        )
