"""The client of a completions API against a scripted server: protocol, order, retries, errors."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import Answer, Script, choice, connect, serving

from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import ConfigError, ServerError


def echo(body: dict[str, Any]) -> Answer:
    return choice([*body["prompt"], 7])


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script(echo)) as script:
        yield script


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_token_ids_go_in_and_out(script: Script, ending: str) -> None:
    server = connect(script.url + ending)
    assert (server.model, server.context) == ("served", 64)
    found = server.complete({"prompt": [3, 4], "max_tokens": 9, "seed": 5})
    assert (found.tokens, found.finish) == ((3, 4, 7), "stop")
    assert script.asked[-1] == {
        "model": "served", "prompt": [3, 4], "max_tokens": 9, "seed": 5,
        "return_token_ids": True, "stream": False,
    }  # fmt: skip


def test_requests_run_side_by_side_and_each_has_its_own_answer(script: Script) -> None:
    server = connect(script.url, vllm_concurrency=3)

    def slow_first(body: dict[str, Any]) -> Answer:
        time.sleep(0.1 if body["prompt"] == [0] else 0.02)
        return echo(body)

    script.complete = slow_first
    asked = [server.submit({"prompt": [i]}) for i in range(9)]
    assert [future.result().tokens[0] for future in asked] == list(range(9))
    assert 1 < script.most_at_once <= 3
    server.hang_up()
    server.hang_up()


@pytest.mark.parametrize("trouble", [(503, "busy"), (429, {}), (502, "x"), (504, ""), (0, None)])
def test_trouble_that_passes_is_waited_for(script: Script, trouble: Answer) -> None:
    waits: list[float] = []
    server = connect(script.url, sleep=waits.append, vllm_attempts=6)
    answers = iter([trouble, trouble, trouble, choice([1])])
    script.complete = lambda body: next(answers)
    assert server.complete({"prompt": [2]}).tokens == (1,)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "attempts", "words"),
    [
        ((503, {"error": {"message": "still loading"}}), 9, "503: still loading"),
        ((400, {"error": {"message": "max_tokens is too large"}}), 1, "400: max_tokens is too la"),
    ],
)
def test_attempts_and_waits_are_bounded(
    script: Script, answer: Answer, attempts: int, words: str
) -> None:
    waits: list[float] = []
    server = connect(script.url, sleep=waits.append, vllm_attempts=9)
    script.complete = lambda body: answer
    before = len(script.asked)
    with pytest.raises(ServerError, match=words):
        server.complete({"prompt": [2]})
    assert len(script.asked) - before == attempts
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30][: attempts - 1]


def test_a_server_that_is_away_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    waits: list[float] = []
    with pytest.raises(ServerError, match=r"No answer .* after 2 attempts .*refused.*vllm serve"):
        connect(url, sleep=waits.append, vllm_attempts=2)
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
            asked = [server.submit({"prompt": [i]}) for i in range(200)]
            asked[0].result()
        server.hang_up()
    finally:
        over.set()
    assert time.monotonic() - began < 8
    script.complete = echo
    assert server.submit({"prompt": [5]}).result().tokens == (5, 7)
    server.hang_up()


NAMES = [{"id": f"{i}-" + "x" * 500} for i in range(1000)]


@pytest.mark.parametrize(
    ("offered", "asked", "words"),
    [
        ([{"id": "qwen-7b"}, {"id": "lora"}], "qwen-7", "offers qwen-7b, lora; not 'qwen-7'"),
        ([{"id": "qwen-7b"}, {"id": "lora"}], "qwen-7", "Did you mean qwen-7b?"),
        ([{"id": "a"}, {"id": "b"}], None, "offers a, b; none was asked for. Pass one of its"),
        ([], "a", "offers no model"),
        (NAMES, "y", "and 980 more; not 'y'"),
    ],
)
def test_a_wrong_model_name_is_answered_with_the_names_there_are(
    script: Script, offered: list[Any], asked: str | None, words: str
) -> None:
    script.models = (200, {"data": offered})
    with pytest.raises(ConfigError) as error:
        connect(script.url, vllm_model=asked)
    assert words in str(error.value) and len(str(error.value)) < 8000
    assert script.asked == [], "nothing is generated before the name is right"


def test_a_key_is_sent_where_there_is_one(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(script.url)
    assert "Authorization" not in script.headers[-1]
    monkeypatch.setenv("VLLM_API_KEY", "word")
    connect(script.url)
    assert script.headers[-1]["Authorization"] == "Bearer word"


@pytest.mark.parametrize("key", ["two words", "line\n", "clé", "a\x00", "X\r\nHost: evil"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.setattr("os.environ", {"VLLM_API_KEY": key})
    with pytest.raises(ConfigError, match="VLLM_API_KEY holds") as error:
        connect(script.url)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("vllm_url", url) for url in (
            "127.0.0.1:8000", "file:///etc/passwd", "http://", "http://[", "http://h:99999",
            "http://h:x", "http://a..b", "http://" + "a" * 70 + ".x", "http://h/ x", "http://h\n.x/",
            "http://h/é", "http://h?x=1", "http://h#x", "http://h\x1b[2J",
        )),
        ("vllm_concurrency", 0),
        ("vllm_attempts", 0),
        *(("vllm_timeout", seconds) for seconds in (0.0, float("inf"), float("nan"), 1e300, -1.0)),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        ServerOptions(**{"vllm_url": "http://127.0.0.1:8000", option: value})


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"no user or password.*VLLM_API_KEY") as error:
        ServerOptions(vllm_url="http://me:secret@host:8000")
    assert "secret" not in str(error.value)
