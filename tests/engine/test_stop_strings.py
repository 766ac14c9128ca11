"""Stop strings end an answer wherever they are written: in text, in special tokens, across both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import model_builders as build
import pytest
from scripted_policy import logits_of, scripted_pair, served, tokenizer_with
from scripted_server import Script, serving

from nabla_eval.engine import naive
from nabla_eval.engine.naive import ended
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling, Steps
from nabla_eval.protocol import Generate, Problem, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.thought import Thought

GREEDY = Sampling(temperature=0)
PROMPT = "1+2="
END, THOUGHT = "<|im_end|>", Thought("[/THINK]", "[THINK]")
WORDS = [*build.WORDS, ");", ";c", "∇"]


def tokenizer() -> Any:
    return tokenizer_with(END, "<|eot_id|>", "[THINK]", "[/THINK]", plain=["<tool>"], words=WORDS)


def tokens_of(parts: Sequence[str], own: Any) -> list[int]:
    vocabulary = own.get_vocab()
    return [vocabulary[part] for part in parts]


def write(
    parts: Sequence[str], stop: Sequence[str], thought: Thought | None = None, **options: Any
) -> tuple[Pair, Problem, Trajectory]:
    """What the engine returns of a policy that writes these tokens."""
    own = tokenizer()
    begin = len(own(PROMPT)["input_ids"])
    pair = scripted_pair(own, logits_of(tokens_of(parts, own), len(own), begin))
    problem = pair.problem(PROMPT, Key.root(0), max_new_tokens=len(parts), stop=stop)
    problem = replace(problem, thought=thought)
    (found,) = rollout(pair.policy, [Generate(problem, problem.key, GREEDY, **options)])
    return pair, problem, found


CASES = {
    "a special token": (["c", END, "1"], [END], "c", 1),
    "the first of several": (["c", "<|eot_id|>", END], [END, "<|eot_id|>"], "c", 1),
    "special tokens before it": (["c", "<|eot_id|>", "e", END], [END], "ce", 3),
    "an added token that is not special": (["c", "<tool>", "1"], ["<tool>"], "c", 1),
    "ordinary and special tokens": (["c", "e", END, "1"], ["e" + END], "c", 1),
    "special and ordinary tokens": (["c", END, "e", "1"], [END + "e"], "c", 1),
    "two special tokens": (["c", END, "<|eot_id|>"], [END + "<|eot_id|>"], "c", 1),
    "the first piece of a token": (["c", ";c", "1"], [";"], "c", 1),
    "the last piece of a token": (["c", ");", "1"], [";"], "c)", 2),
    "a piece of a special token": (["c", END, "1"], ["im_end"], "c", 1),
    "several ordinary tokens": (["c", "e", "d", "1"], ["ed"], "c", 1),
    "a token and a half": (["c", "e", ";c", "1"], ["e;"], "c", 1),
    "one token of several bytes": (["c", "∇", "1"], ["∇"], "c", 1),
    "at the first token": ([END, "1"], [END], "", 0),
    "at the last token that fits": (["c", END], [END], "c", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stop_string_ends_the_answer_and_is_not_scored(case: str) -> None:
    parts, stop, text, scored = CASES[case]
    pair, problem, found = write(parts, stop)
    assert (found.stop, found.text, found.scored) == ("stop", text, scored)
    assert len(found.tokens) < len(parts) or parts[-1] in stop[0]
    assert ended(pair, problem, list(found.tokens)) == ("stop", scored, text)
    written = naive.rollout(pair, problem, GREEDY, problem.key)
    assert (written.stop, written.text, written.scored) == ("stop", text, written.y[:scored])
    assert tuple(written.y) == found.tokens


@pytest.mark.parametrize(
    ("parts", "stop", "ended"),
    [
        (["c", END, "e"], "<|eot_id|>", ("length", "ce", 3)),
        # The stop string is one of the text, in which the token stands: it has not been written.
        (["c", END, "e"], "ce", ("length", "ce", 3)),
        (["c", "<eos>", "1"], "<eos>", ("eos", "c", 1)),
    ],
)
def test_what_is_no_stop_string_ends_as_it_would(
    parts: list[str], stop: str, ended: tuple[str, str, int]
) -> None:
    _, _, found = write(parts, [stop])
    assert (found.stop, found.text, found.scored) == ended


def test_stop_strings_do_not_count_in_thoughts_of_special_tokens() -> None:
    parts = ["[THINK]", "1", END, "2", "[/THINK]", "c", END, "e"]
    pair, problem, found = write(parts, [END], THOUGHT)
    assert (found.stop, found.text, found.scored) == ("stop", "[THINK]12[/THINK]c", 6)
    assert THOUGHT.answer(found.text) == "c"
    assert ended(pair, problem, list(found.tokens)) == ("stop", 6, "[THINK]12[/THINK]c")
    _, _, cut = write(parts[:4], [END], THOUGHT)
    assert (cut.stop, THOUGHT.answer(cut.text)) == ("length", "")


@pytest.mark.parametrize("until", [Steps(step="semicolon"), Steps(step="tokens", step_tokens=2)])
def test_a_stop_string_inside_a_step_ends_the_answer(until: Steps) -> None:
    _, _, found = write(["c", END, ";", "1"], [END], until=until)
    assert (found.stop, found.text) == ("stop", "c")
    _, _, step = write(["c", ";", END, "1"], [END], until=until)
    assert (step.stop, step.text) == ("step", "c;")


def test_a_prefix_that_a_stop_token_ends() -> None:
    """A token that a method puts there ends the response without a call of the model."""
    pair, problem, whole = write(["c", "e", "d"], [END])
    (stop,) = tokens_of([END], pair.policy.tokenizer)
    request = Generate(problem, problem.key, GREEDY, whole, keep=2, token=stop)
    (found,) = rollout(pair.policy, [request])
    assert (found.stop, found.text, found.scored) == ("stop", "ce", 2)
    assert found.cost.generated_tokens == 0


def asked_of_a_server(pair: Pair, problem: Problem) -> tuple[Trajectory, list[dict[str, Any]]]:
    with serving(Script(served(pair))) as script:
        remote = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
        script.asked.clear()
        (found,) = remote([Generate(problem, problem.key, GREEDY)])
    return found, script.asked


@pytest.mark.parametrize("case", CASES)
def test_a_server_is_told_what_it_needs_to_stop_there(case: str) -> None:
    parts, stop, text, scored = CASES[case]
    pair, problem, local = write(parts, stop)
    found, (asked,) = asked_of_a_server(pair, problem)
    assert (found.tokens, found.text, found.scored) == (local.tokens, text, scored)
    assert asked["skip_special_tokens"] is False
    single = {pair.policy.token_of(string) for string in stop} - {None}
    assert single | {*pair.policy.end_ids} == {*asked["stop_token_ids"]}
