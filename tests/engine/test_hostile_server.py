"""A server that means harm, or is none: our own error, soon, and nothing goes elsewhere."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import OK, Script, answering, choice, connect, refusal, serving, talking

from nabla_eval.errors import ServerError

MODELS = b'{"data": [{"id": "served"}]}'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Another server, which would be content with anything; no request may reach it."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with talking(lambda connection: connection.sendall(answering(MODELS))) as other:
        yield other
    assert other.asked == []


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
def test_no_redirect_is_followed(elsewhere: Any, status: int) -> None:
    head = f"HTTP/1.1 {status} Go\r\nLocation: {elsewhere.url}/v1/models\r\n"
    told = refusal(head.encode() + b"Content-Length: 0\r\n\r\n")
    assert f"redirects /v1/models with status {status} to {elsewhere.url}/v1/models." in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("//good.example@evil.example/", "//good.example@evil.example/"),
        ("http://\x1b[2Jevil.example/", "http://\\x1b[2Jevil.example/"),
        ("https://a\xadb.example/", "https://a\\u00adb.example/"),
        ("http://" + "a" * 9999 + "/", "http://aaa"),
    ],
)
def test_the_target_of_a_redirect_is_shown_whatever_it_is(location: str, shown: str) -> None:
    told = refusal(b"HTTP/1.1 302 Go\r\nLocation: " + location.encode("latin-1") + b"\r\n\r\n")
    assert f"to {shown}" in told
    assert told.isprintable() and len(told) < 1200


def test_proxies_of_the_environment_are_not_used(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, elsewhere.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(Script(lambda body: choice([1]))) as script:
        assert connect(script.url).model == "served"


ENDLESS = {
    "a length that is claimed": (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536),
    "no length": (OK + b"\r\n", b" " * 65536),
    "one chunk": (CHUNKED + b"fffffffffffffff\r\n", b"x" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 999),
    "the body of an error": (b"HTTP/1.1 400 No\r\n\r\n", b"x" * 65536),
    "an error in chunks": (
        b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"x" * 4096 + b"\r\n",
    ),
    "a status line": (b"HTTP/1.1 200 ", b"O" * 65536),
    "provisional answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_end_is_given_up(kind: str) -> None:
    head, more = ENDLESS[kind]
    sent = 0

    def say(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(head)
        for _ in range(2**26 // len(more)):
            connection.sendall(more)
            sent += len(more)

    told = refusal(say, vllm_timeout=30.0)
    assert sent < 2**25, "some megabytes, besides what the system's own buffers take"
    assert "none of vLLM's" in told or "refused /v1/models with status 400" in told
    assert len(told) < 1000


def test_room_grows_with_the_tokens_that_are_asked_for() -> None:
    """A long answer whose every token is written as twelve characters is no attack."""
    tokens = [150_000] * 20_000
    text = "\\ud83d\\ude00" * len(tokens)

    def answer(body: dict[str, Any]) -> Any:
        taken = tokens[: body["max_tokens"]]
        said = {"choices": [{"token_ids": taken, "finish_reason": "length", "text": text}]}
        return 200, json.dumps({**said, "prompt_token_ids": body["prompt"]})

    with serving(Script(answer)) as script:
        server = connect(script.url)
        long = {"prompt": tokens, "max_tokens": len(tokens)}
        assert len(server.complete(long).tokens) == len(tokens)
        script.complete = lambda body: (200, " " * 2**21)
        with pytest.raises(ServerError, match="more than 1050624 bytes"):
            server.complete({"prompt": [1], "max_tokens": 1})


@pytest.mark.parametrize(
    "cut", [OK + b'Content-Length: 99\r\n\r\n{"data', CHUNKED + b"9\r\nab"], ids=["body", "chunk"]
)
def test_an_answer_that_is_cut_off_is_tried_again_and_then_given_up(cut: bytes) -> None:
    waits: list[float] = []
    told = refusal(cut, vllm_attempts=2, sleep=waits.append)
    assert "No answer" in told and "2 attempts" in told
    assert waits == [0.5]


DRIPS = {
    "chunks": CHUNKED + b"1\r\n \r\n" * 60,
    "the body of an error": b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 400,
    "silence": b"",
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_request_has_an_end_whatever_drips(kind: str) -> None:
    """A byte each 0.05 s keeps within the time of silence, 0.4 s; the whole has 0.8 s."""

    def say(connection: socket.socket) -> None:
        for place in range(len(DRIPS[kind])):
            connection.sendall(DRIPS[kind][place : place + 1])
            time.sleep(0.05)
        time.sleep(2)

    began = time.monotonic()
    told = refusal(say, vllm_timeout=0.4, vllm_attempts=6)
    assert time.monotonic() - began < 5
    assert "timed out" in told and "after 1 attempts" in told and "longer vllm_timeout" in told


@pytest.mark.parametrize(
    "status", [400, 401, 404, 408, 413, 422, 425, 500, 501, 505, 599, 201, 204]
)
def test_what_does_not_pass_is_asked_for_once(status: int) -> None:
    waits: list[float] = []
    said = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    told = refusal(said, vllm_attempts=6, sleep=waits.append)
    assert f"refused /v1/models with status {status}" in told
    assert waits == []


BODIES = {
    "a page": (b"<html>\x1b]0;t\x07\xe2\x80\xaeello</html>", r"<html>\x1b]0;t\x07\u202eello"),
    "nothing": (b"", "(nothing)"),
    "deep lists": (b'{"data": ' + b"[" * 100_000, "Expected `object`"),
    "NaN": (b'{"data": [{"id": "served", "created": NaN}]}', "malformed"),
    "a float without bounds": (b'{"data": [{"id": "a", "max_model_len": 1e999}]}', "out of range"),
    "another encoding": ('{"data": [{"id": "served"}]}'.encode("utf-16"), "malformed"),
    "a text": (b'"data"', "Expected `object`, got `str`"),
    "a model of another type": (b'{"data": ["served"]}', "got `str` - at `$.data[0]`"),
    "a model without name": (b'{"data": [{}]}', "field `id` - at `$.data[0]`"),
    "a name with an escape": (b'{"data": [{"id": "a\\u001b[2J"}]}', "cannot be shown"),
    "half a character": (b'{"data": [{"id": "\\ud800"}]}', "none of vLLM's"),
    "a packed answer": (gzip.compress(b" " * 10_000_000), "malformed"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_that_is_none_is_no_server_that_is_away(kind: str) -> None:
    body, words = BODIES[kind]
    waits: list[float] = []
    head = b"Content-Encoding: gzip\r\n" if kind == "a packed answer" else b""
    told = refusal(answering(body, head), vllm_attempts=6, sleep=waits.append)
    assert words in told and "none of vLLM's" in told
    assert told.isprintable() and len(told) < 1400
    assert waits == [], "tried once"


@pytest.mark.parametrize(
    "answer",
    [b"\r\n", b"hello", b"SSH-2.0-x\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n",
     CHUNKED + b"-5\r\nhello",
     b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello"],
)  # fmt: skip
def test_what_is_no_http_is_said_to_be(answer: bytes) -> None:
    told = refusal(answer)
    assert "none of vLLM's" in told and told.isprintable()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "required field `choices`"),
        ({"choices": []}, "0 choices"),
        ({"choices": [{"token_ids": [1]}, {"token_ids": [2]}]}, "2 choices"),
        ({"choices": [{"index": 1, "token_ids": [1]}]}, "index 0"),
        ({"choices": [{"token_ids": [1, True]}]}, "Expected `int`, got `bool`"),
        ({"choices": [{"token_ids": "12"}]}, "Expected `array | null`, got `str`"),
        ({"choices": [{"token_ids": [1], "finish_reason": 3}]}, "Expected `str | null`"),
        ({"choices": [{"token_ids": None}]}, "without token ids"),
        ({"choices": [{"text": "hello"}]}, "It needs vLLM 0.10.2 or later"),
    ],
)
def test_completions_that_nobody_asked_for_are_refused(body: Any, words: str) -> None:
    with serving(Script(lambda _: (200, body))) as script:
        with pytest.raises(ServerError) as error:
            connect(script.url)
        assert len(script.asked) == 1
    assert words in str(error.value)
