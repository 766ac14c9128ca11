"""The client of a completions API against a scripted server: protocol, order, retries, errors."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_server import Answer, Script, choice, serving

from nabla_eval.engine.completions import Server, ServerOptions
from nabla_eval.errors import ConfigError, ServerError


def echo(body: dict[str, Any]) -> Answer:
    return choice([*body["prompt"], 7])


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script(echo)) as script:
        yield script


def connect(script: Script, waits: list[float] | None = None, **options: Any) -> Server:
    sleep = (lambda seconds: None) if waits is None else waits.append
    return Server(ServerOptions(**{"vllm_url": script.url, **options}), sleep)


def test_token_ids_go_in_and_out(script: Script) -> None:
    server = connect(script)
    assert (server.model, server.context) == ("served", 64)
    found = server.complete({"prompt": [3, 4], "max_tokens": 9, "seed": 5})
    assert (found.tokens, found.finish) == ((3, 4, 7), "stop")
    assert script.asked[-1] == {
        "model": "served", "prompt": [3, 4], "max_tokens": 9, "seed": 5,
        "return_token_ids": True, "stream": False,
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["/", "/v1", "/v1/"])
def test_an_address_may_end_as_people_write_it(script: Script, ending: str) -> None:
    assert connect(script, vllm_url=script.url + ending).model == "served"


def test_requests_run_side_by_side_and_answers_keep_their_order(script: Script) -> None:
    server = connect(script, vllm_concurrency=3)

    def slow_first(body: dict[str, Any]) -> Answer:
        time.sleep(0.1 if body["prompt"] == [0] else 0.02)
        return echo(body)

    script.complete = slow_first
    found = server.complete_all([{"prompt": [i]} for i in range(9)])
    assert [completion.tokens[0] for completion in found] == list(range(9))
    assert 1 < script.most_at_once <= 3
    assert server.complete_all([]) == []


@pytest.mark.parametrize("trouble", [(503, "busy"), (429, {}), (502, "x"), (504, ""), (0, None)])
def test_trouble_that_passes_is_waited_for(script: Script, trouble: Answer) -> None:
    waits: list[float] = []
    server = connect(script, waits)
    answers = iter([trouble, trouble, trouble, choice([1])])
    script.complete = lambda body: next(answers)
    assert server.complete({"prompt": [2]}).tokens == (1,)
    assert waits == [0.5, 1.0, 2.0]


def test_attempts_and_waits_are_bounded(script: Script) -> None:
    waits: list[float] = []
    server = connect(script, waits, vllm_attempts=9)
    script.complete = lambda body: (503, {"error": {"message": "still loading"}})
    before = len(script.asked)
    with pytest.raises(ServerError, match=r"503: still loading"):
        server.complete({"prompt": [2]})
    assert len(script.asked) - before == 9
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_refusal_is_not_tried_again(script: Script) -> None:
    waits: list[float] = []
    server = connect(script, waits)
    script.complete = lambda body: (400, {"error": {"message": "max_tokens is too large"}})
    with pytest.raises(ServerError, match=r"400: max_tokens is too large"):
        server.complete_all([{"prompt": [2]}, {"prompt": [3]}])
    assert waits == []


def test_a_server_that_is_away_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    waits: list[float] = []
    with pytest.raises(ServerError, match=r"No answer .* after 2 attempts .*refused.*vllm serve"):
        Server(ServerOptions(vllm_url=url, vllm_attempts=2), waits.append)
    assert waits == [0.5]
    assert caplog.text.count("trying again") == 1


@pytest.mark.parametrize("waiting", ["for an answer", "between attempts"])
def test_ctrl_c_does_not_wait_for_a_stalled_server(
    script: Script, waiting: str, usual_signals: None
) -> None:
    """The client hangs up: nothing is left under way, and it can be asked again."""
    server = Server(ServerOptions(vllm_url=script.url, vllm_timeout=300.0))
    over = threading.Event()

    def stalled(body: dict[str, Any]) -> Answer:
        if waiting == "for an answer":
            over.wait(60)
            return 0, None
        return 503, "busy"

    script.complete = stalled
    began = time.monotonic()
    threading.Timer(1.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            server.complete_all([{"prompt": [i]} for i in range(200)])
    finally:
        over.set()
    assert time.monotonic() - began < 8
    script.complete = echo
    assert [found.tokens for found in server.complete_all([{"prompt": [5]}])] == [(5, 7)]


def test_a_server_that_says_nothing_is_given_up(script: Script) -> None:
    server = connect(script, vllm_timeout=0.05, vllm_attempts=2)
    script.complete = lambda body: time.sleep(0.3) or echo(body)  # type: ignore[func-returns-value]
    with pytest.raises(ServerError, match=r"timed out.*vllm_timeout"):
        server.complete({"prompt": [2]})


@pytest.mark.parametrize(
    ("offered", "asked", "words"),
    [
        (["qwen-7b", "lora"], "qwen-7", ["offers qwen-7b, lora; not 'qwen-7'", "mean qwen-7b?"]),
        (["a", "b"], None, ["offers a, b; none was asked for", "vllm_model"]),
        ([], "a", ["offers no model"]),
    ],
)
def test_a_wrong_model_name_is_answered_with_the_names_there_are(
    script: Script, offered: list[str], asked: str | None, words: list[str]
) -> None:
    script.models = (200, {"data": [{"id": name} for name in offered]})
    with pytest.raises(ConfigError) as error:
        connect(script, vllm_model=asked)
    for word in words:
        assert word in str(error.value)
    assert script.asked == [], "nothing is generated before the name is right"


def test_one_of_several_models_can_be_named(script: Script) -> None:
    script.models = (200, {"data": [{"id": "a"}, {"id": "b", "max_model_len": "?"}]})
    server = connect(script, vllm_model="b")
    assert (server.model, server.context) == ("b", None)


@pytest.mark.parametrize("answer", [choice(None), (200, {"choices": [{"text": "hello"}]})])
def test_a_server_without_token_ids_is_refused_at_once(script: Script, answer: Answer) -> None:
    script.complete = lambda body: answer
    with pytest.raises(ServerError, match=r"without token ids.*0\.10\.2"):
        connect(script)


@pytest.mark.parametrize(
    "answer",
    [
        (200, "<html>hello</html>"),
        (200, "[1"),
        (200, {}),
        (200, {"choices": []}),
        (200, {"choices": "no"}),
        choice([1, "2"]),  # type: ignore[list-item]
        choice([True]),
    ],
)
def test_an_answer_of_another_kind_is_refused(script: Script, answer: Answer) -> None:
    script.complete = lambda body: answer
    with pytest.raises(ServerError, match="none of vLLM's"):
        connect(script)


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "VLLM_API_KEY"), (404, "without a path"), (418, "log")]
)
def test_a_server_that_refuses_to_list_models_is_explained(
    script: Script, status: int, advice: str
) -> None:
    script.models = (status, "no")
    with pytest.raises(ServerError, match=advice):
        connect(script)


def test_a_key_is_sent_where_there_is_one(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(script)
    assert "Authorization" not in script.headers[-1]
    monkeypatch.setenv("VLLM_API_KEY", "word")
    connect(script)
    assert script.headers[-1]["Authorization"] == "Bearer word"


@pytest.mark.parametrize(
    "options",
    [
        {"vllm_url": "127.0.0.1:8000"},
        {"vllm_url": "file:///etc/passwd"},
        {"vllm_url": "http://"},
        {"vllm_concurrency": 0},
        {"vllm_attempts": 0},
        {"vllm_timeout": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    make: Callable[..., Any] = ServerOptions
    with pytest.raises(ConfigError, match=next(iter(options))):
        make(**{"vllm_url": "http://127.0.0.1:8000", **options})
