"""Rollouts from a server that serves the local policy: what comes back is the local rollout's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Lock
from typing import Any

import pytest
import torch
from scripted_server import Answer, Script, choice, serving

from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.sampler import Filter
from nabla_eval.engine.vllm import VLLMRollout, seed_of
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import Fault, ModelError, ServerError
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair, Policy
from nabla_eval.options import Sampling, Steps
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate
from nabla_eval.randomness import Key
from nabla_eval.testing import letter, tiny_pair, tiny_problems
from nabla_eval.thought import Thought

GREEDY = Sampling(temperature=0)


def served(policy: Policy) -> Callable[[dict[str, Any]], Answer]:
    """The policy behind a completions API, with a generator of its own for each request."""
    lock = Lock()

    @torch.no_grad()
    def complete(body: dict[str, Any]) -> Answer:
        asked = Sampling(
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            top_k=max(0, body.get("top_k", 0)),
        )
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        tokens: list[int] = []
        while len(tokens) < body["max_tokens"]:
            with lock:
                ids = torch.tensor([[*body["prompt"], *tokens]])
                logits = policy.head(policy.base(input_ids=ids).last_hidden_state[:, -1])
                distribution = Filter([asked], policy.device).distribution(logits)
            tokens.append(int(torch.multinomial(distribution[0], 1, generator=generator)))
            text = policy.decode(tokens)
            if tokens[-1] in body.get("stop_token_ids", []):
                return choice(tokens)
            if any(stop in text for stop in body.get("stop", [])):
                return choice(tokens)
        return choice(tokens, "length")

    return complete


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair(seed=3)


@pytest.fixture
def script(pair: Pair) -> Iterator[Script]:
    with serving(Script(served(pair.policy))) as script:
        yield script


@pytest.fixture
def remote(pair: Pair, script: Script) -> VLLMRollout:
    rollouts = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
    script.asked.clear()
    return rollouts


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal up to float64 sums in another order: some 100 terms of size 1."""
    for name in ("tokens", "text", "scored", "stop", "argmax", "key"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("entropy", "top_probability", "log_probability", "certainty"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-12), name
    torch.testing.assert_close(ours.states, theirs.states, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop", [(), ("d",), ("ab", "i")])
@pytest.mark.parametrize("budget", [1, 2**17])
def test_greedy_rollouts_are_the_local_ones(
    pair: Pair, script: Script, stop: tuple[str, ...], budget: int
) -> None:
    remote = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)), budget)
    problems = tiny_problems(pair, 9, stop=stop)
    requests = [Generate(problem, problem.key, GREEDY) for problem in problems]
    found, expected = remote(requests), rollout(pair.policy, requests)
    assert len({trajectory.stop for trajectory in expected}) > 1, "rows end in several ways"
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
        assert ours.cost.generated_tokens == theirs.cost.generated_tokens
        read = len(ours.tokens) + theirs.cost.prefill_tokens - 1
        assert ours.cost.prefill_tokens == theirs.cost.prefill_tokens + read
        assert ours.cost.prefills == 2
        assert ours.cost.flops == pytest.approx(2 * theirs.cost.flops, rel=1e-12)


@pytest.mark.parametrize(
    "until", [Steps(step="tokens", step_tokens=3), Steps(step="regex", step_regex="[a-d][e-k]")]
)
def test_a_step_ends_where_the_local_rollouts_does(
    pair: Pair, remote: VLLMRollout, script: Script, until: Steps
) -> None:
    problems = tiny_problems(pair, 6)
    first = [Generate(p, p.key / "first", GREEDY, until=until) for p in problems]
    found, expected = remote(first), rollout(pair.policy, first)
    going_on = [
        Generate(p, p.key / "next", GREEDY, step, keep=len(step.tokens), until=until)
        for p, step in zip(problems, expected, strict=True)
        if step.stop == "step"
    ]
    assert going_on
    found += remote(going_on)
    expected += rollout(pair.policy, going_on)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_a_rollout_from_a_prefix_asks_for_the_rest_and_reuses_what_is_known(
    pair: Pair, remote: VLLMRollout, script: Script
) -> None:
    (problem,) = tiny_problems(pair, 1, max_new_tokens=10)
    (whole,) = rollout(pair.policy, [Generate(problem, problem.key, GREEDY)])
    known = replace(whole, entropy=tuple(100.0 + i for i in range(len(whole.tokens))))
    token = (whole.tokens[2] - 2 + 1) % 9 + 2
    request = Generate(problem, problem.key / "again", GREEDY, known, keep=2, token=token)
    (ours,), (theirs,) = remote([request]), rollout(pair.policy, [request])
    assert_same(ours, theirs)
    assert ours.entropy[:3] == (100.0, 101.0, 102.0)
    (asked,) = script.asked
    assert asked["prompt"] == [*problem.prompt, *whole.tokens[:2], token]
    assert asked["max_tokens"] == 10 - 3
    # What ends with its prefix is not asked for.
    ended = Generate(problem, problem.key, GREEDY, whole, keep=1, token=pair.policy.end_ids[0])
    (ours,), (theirs,) = remote([ended]), rollout(pair.policy, [ended])
    assert_same(ours, theirs)
    assert script.asked == [asked] and ours.cost == theirs.cost


def test_sampling_options_and_seeds_are_in_the_request(
    pair: Pair, remote: VLLMRollout, script: Script
) -> None:
    (problem,) = tiny_problems(pair, 1, stop=("zz",))
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3)
    until = Steps(step="blank_line", step_tokens=2)
    remote([Generate(problem, problem.key, own, until=until) for own in (sampling, GREEDY)])
    # They may arrive in either order.
    greedy, asked = sorted(script.asked, key=lambda body: float(body["temperature"]))
    assert greedy["top_k"] == -1
    expected = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.0}
    assert expected.items() <= asked.items()
    penalties = [asked[f"{name}_penalty"] for name in ("repetition", "presence", "frequency")]
    assert penalties == [1.0, 0.0, 0.0], "generation_config.json may say otherwise"
    assert (asked["stop"], asked["max_tokens"]) == (["zz", "\n\n"], 2)
    assert asked["stop_token_ids"] == list(pair.policy.end_ids) and asked["ignore_eos"]
    assert asked["seed"] == seed_of(problem.key, 0)


def test_seeds_fit_the_api_and_differ_by_key_and_position() -> None:
    seeds = [seed_of(Key.root(0) / i, position) for i in range(50) for position in range(20)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("method", "options"), [("best_of_n", {"n": 3}), ("nabla", {"n": 4, "steps": 2, "lr": 0.1})]
)
def test_a_method_gives_the_same_whatever_runs_beside_it(
    pair: Pair, remote: VLLMRollout, method: str, options: dict[str, Any]
) -> None:
    problems = tiny_problems(pair, 4, max_new_tokens=6)
    config = configure(method, options)

    def run(width: int) -> list[Any]:
        executor = Executor(pair, rollout=remote)
        return drive_all([start(problem, config) for problem in problems], executor, width=width)

    one, all_ = run(1), run(4)
    for ours, theirs in zip(one, all_, strict=True):
        assert ours.tokens == theirs.tokens
        assert [d.tokens for d in ours.drafts] == [d.tokens for d in theirs.drafts]
        assert [c.tokens for c in ours.candidates] == [c.tokens for c in theirs.candidates]
        assert ours.ledger.generated_tokens == theirs.ledger.generated_tokens > 0
        assert ours.ledger.model_calls == theirs.ledger.model_calls


def test_what_a_server_writes_beyond_the_end_is_cut_and_paid(
    pair: Pair, remote: VLLMRollout, script: Script
) -> None:
    problem = tiny_problems(pair, 1, max_new_tokens=6, stop=("c",))[0]
    script.complete = lambda body: choice([2, 4, 5, 6], "stop")  # a c d e
    (found,) = remote([Generate(problem, problem.key, GREEDY)])
    assert (found.tokens, found.text, found.stop) == ((2, 4), "a", "stop")
    assert found.cost.generated_tokens == 4


def test_stop_strings_in_a_thought_do_not_count(
    pair: Pair, remote: VLLMRollout, script: Script
) -> None:
    """Prompt opens a thought that `]` (here g) ends; h is the task's stop string."""
    (problem,) = tiny_problems(pair, 1, max_new_tokens=9, stop=("h",))
    problem = replace(problem, thought=Thought("g", "f", opened=True))
    a, f, g, h = (ord(x) - ord("a") + 2 for x in "afgh")
    answers = iter([[a, h, g], [a, f], [h, g], [a, h]])
    script.complete = lambda body: choice(next(answers))
    (found,) = remote([Generate(problem, problem.key, GREEDY)])
    assert "".join(map(letter, found.tokens)) == "ahgafhgah"
    assert (found.text, found.stop) == ("ahgafhga", "stop")
    assert [asked["stop"] for asked in script.asked] == [["g"], ["h", "f"], ["g"], ["h", "f"]]
    assert [len(asked["prompt"]) for asked in script.asked] == [2, 5, 7, 9]
    assert len({asked["seed"] for asked in script.asked}) == 4
    assert found.cost.prefills == 4 + 1
    assert found.cost.prefill_tokens == (2 + 5 + 7 + 9) + (2 + 9 - 1)
    assert found.cost.generated_tokens == 9


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (choice([2, 3], "length"), ServerError, "2 of 8 tokens.*--max-model-len"),
        (choice([], "stop"), ServerError, "0 of 8 tokens"),
        (choice([2] * 9, "stop"), ServerError, "9 of 8 tokens"),
        (choice([2] * 9, "length"), ServerError, "9 of 8 tokens"),
        (choice([2] * 8, "abort"), ServerError, "ended with 'abort'"),
        (choice([2, 3], None), ServerError, "ended with 'None'"),  # type: ignore[arg-type]
        (choice([2, 11], "stop"), ModelError, "token 11.*11 tokens"),
        (choice([-1], "stop"), ModelError, "token -1"),
        (choice([2, 10**18], "stop"), ModelError, "token 1000000000000000000"),
        (choice([2, 10**40], "stop"), ModelError, "token 1000000000"),
        (choice([2, True], "stop"), ServerError, "token_ids"),
    ],
)
def test_answers_that_no_server_of_the_policy_gives_are_refused(
    pair: Pair, remote: VLLMRollout, script: Script, answer: Answer, error: Any, words: str
) -> None:
    (problem,) = tiny_problems(pair, 1)
    script.complete = lambda body: answer
    with pytest.raises(error, match=words):
        remote([Generate(problem, problem.key, GREEDY)])


def test_a_server_of_another_model_is_refused(pair: Pair, script: Script) -> None:
    server = Server(ServerOptions(vllm_url=script.url))
    VLLMRollout(pair.policy, server)
    for tokens, error, words in (
        (list(range(2, 10)), ModelError, "another model"),
        ([2, 3, 999], ModelError, "Serve the policy itself"),
        ([2] * 9, ServerError, "gave 9 of 8 tokens"),
    ):
        answer = choice(tokens)
        script.complete = lambda body, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(error, match=words):
            VLLMRollout(pair.policy, server)


def test_models_run_here_while_the_server_writes(pair: Pair, script: Script) -> None:
    """One response stalls until the method of another has had its scores: none waits for it."""
    complete, scored = script.complete, Event()
    problems = tiny_problems(pair, 4, max_new_tokens=6)

    def stalled(body: dict[str, Any]) -> Answer:
        if body["prompt"][: len(problems[0].prompt)] == [*problems[0].prompt]:
            assert scored.wait(60), "the others wait for this one"
        return complete(body)

    remote = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
    script.complete = stalled
    config, ends = configure("best_of_n", {"n": 2}), []
    methods = [start(problem, config) for problem in problems]
    for index, end in drive(methods, Executor(pair, rollout=remote)):
        assert isinstance(end, Outcome)
        ends.append(index)
        if len(ends) == 3:
            scored.set()
    assert ends[-1] == 0 and sorted(ends) == [0, 1, 2, 3]


def test_what_a_server_cannot_answer_fails_its_own_problem_and_its_absence_all(
    pair: Pair, script: Script
) -> None:
    problems = tiny_problems(pair, 3, max_new_tokens=6)
    server = Server(ServerOptions(vllm_url=script.url, vllm_attempts=1))
    remote, complete = VLLMRollout(pair.policy, server), script.complete

    def failed(refusal: Answer) -> list[bool]:
        wrong = [*problems[1].prompt]
        script.complete = lambda body: refusal if body["prompt"] == wrong else complete(body)
        methods = [start(problem, configure("greedy", {})) for problem in problems]
        ends = dict(drive(methods, Executor(pair, rollout=remote)))
        return [isinstance(ends[i], Fault) for i in range(3)]

    assert failed((400, {"message": "too long"})) == [False, True, False]
    script.complete = lambda body: (0, None)  # hangs up
    methods = [start(problem, configure("greedy", {})) for problem in problems]
    assert all(isinstance(end, Fault) for _, end in drive(methods, Executor(pair, rollout=remote)))
    assert failed((400, {"message": "too long"})) == [False, True, False]
