"""From lm-eval's requests to problems: which sample is which, does it fit, where are thoughts?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nabla_eval.errors import ConfigError, ContextError
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key
from nabla_eval.thought import Messages, Thought, opened, opening


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
