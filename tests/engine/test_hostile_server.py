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

from nabla_eval.engine.completions import ServerOptions
from nabla_eval.errors import ConfigError, ServerError

MODELS = b'{"data": [{"id": "served"}]}'


# --- redirects and proxies ----------------------------------------------------------------------


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
    assert f"redirects /v1/models with status {status}" in told and "host 127.0.0.1." in told
    assert "secret" not in told


def test_no_redirect_of_a_completion_is_followed(elsewhere: Any) -> None:
    def say(connection: socket.socket) -> None:
        answer = answering(MODELS)
        if len(wire.asked) > 1:
            answer = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere.url}/v1/completions\r\n\r\n".encode()
        connection.sendall(answer)

    with talking(say) as wire, pytest.raises(ServerError, match="redirects /v1/completions"):
        connect(wire.url)
    assert len(wire.asked) == 2 and b"Authorization: Bearer secret" in wire.asked[1]


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("//other.example/x", "other.example"),
        ("http://good.example@evil.example/", "evil.example"),
        ("/v2/models", "127.0.0.1"),
        ("http://[", "(none named)"),
        ("ftp:", "(none named)"),
        ("http://\x1b[2Jevil.example/", "(none named)"),
        ("https://a\xadb.example/", "a\\u00adb.example"),
        ("http://" + "a" * 9999 + "/", "aaa"),
    ],
)
def test_the_target_of_a_redirect_is_named_whatever_it_is(location: str, host: str) -> None:
    told = refusal(b"HTTP/1.1 302 Go\r\nLocation: " + location.encode("latin-1") + b"\r\n\r\n")
    assert f"host {host}" in told
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


@pytest.mark.parametrize("key", ["two words", "line\n", "clé", "a\x00", "X\r\nHost: evil"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\x00" in key:
        monkeypatch.setattr("os.environ", {"VLLM_API_KEY": key})
    else:
        monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(ConfigError, match="VLLM_API_KEY holds") as error:
        connect("http://127.0.0.1:9")
    assert key not in str(error.value)


# --- bytes without end --------------------------------------------------------------------------

ENDLESS = {
    "a length that is claimed": (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536),
    "no length": (OK + b"\r\n", b" " * 65536),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "one chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", b"x" * 65536),
    "a negative chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 65536),
    "extensions of chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 9999),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 999),
    "the body of an error": (b"HTTP/1.1 400 No\r\n\r\n", b"x" * 65536),
    "an error in chunks": (
        b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"x" * 4096 + b"\r\n",
    ),
    "headers": (OK, b"a: b\r\n" * 999),
    "one header": (OK, b"x" * 65536),
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


def test_packed_answers_are_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    told = refusal(answering(bomb, b"Content-Encoding: gzip\r\n"))
    assert "no JSON" in told and told.isprintable()


def test_an_answer_that_is_cut_off_is_tried_again_and_then_given_up() -> None:
    waits: list[float] = []
    for cut in (
        OK + b'Content-Length: 99\r\n\r\n{"data',
        OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nab",
    ):
        told = refusal(cut, vllm_attempts=2, sleep=waits.append)
        assert "No answer" in told and "2 attempts" in told
    assert waits == [0.5, 0.5]


# --- time without end ---------------------------------------------------------------------------

DRIPS = {
    "a status line": b"HTTP/1.1 200 " + b"O" * 400,
    "headers": OK + b"a: b\r\n" * 60,
    "a body": answering(b" " * 400),
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 60,
    "the body of an error": b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 400,
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_request_has_an_end_whatever_drips(kind: str) -> None:
    """A byte each 0.05 s keeps within the time of silence, 0.4 s; the whole has 0.8 s."""

    def say(connection: socket.socket) -> None:
        for place in range(len(DRIPS[kind])):
            connection.sendall(DRIPS[kind][place : place + 1])
            time.sleep(0.05)

    began = time.monotonic()
    told = refusal(say, vllm_timeout=0.4, vllm_attempts=6)
    assert time.monotonic() - began < 5
    assert "timed out" in told and "after 1 attempts" in told


def test_silence_is_waited_for_once() -> None:
    told = refusal(lambda connection: time.sleep(2), vllm_timeout=0.2, vllm_attempts=6)
    assert "timed out" in told and "longer vllm_timeout" in told


# --- what is tried again ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [400, 401, 404, 408, 413, 422, 425, 500, 501, 505, 599, 201, 204]
)
def test_what_does_not_pass_is_asked_for_once(status: int) -> None:
    waits: list[float] = []
    told = refusal(
        f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode(),
        vllm_attempts=6, sleep=waits.append,
    )  # fmt: skip
    assert f"refused /v1/models with status {status}" in told
    assert waits == []


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("7", [7.0, 7.0]), ("0", [0.5, 1.0]), ("1", [1.0, 1.0]), ("999999999", [30.0, 30.0]),
        ("9" * 5000, [0.5, 1.0]), ("-5", [0.5, 1.0]), ("nan", [0.5, 1.0]), ("\xb2", [0.5, 1.0]),
        ("Wed, 21 Oct 2099 07:28:00 GMT", [0.5, 1.0]), ("", [0.5, 1.0]),
    ],
)  # fmt: skip
def test_a_busy_server_says_how_long_to_wait_up_to_a_bound(asked: str, waits: list[float]) -> None:
    found: list[float] = []
    head = f"HTTP/1.1 429 Busy\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
    told = refusal(head.encode("latin-1"), vllm_attempts=3, sleep=found.append)
    assert "status 429" in told
    assert found == waits


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://[", "http://h:99999", "http://h:x", "http://a..b", "http://" + "a" * 70 + ".x",
        "http://h/ x", "http://h\n.x/", "http://h/é", "http://h?x=1", "http://h#x", "http://h\x1b[2J",
    ],
)  # fmt: skip
def test_addresses_that_no_request_can_have_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="vllm_url"):
        ServerOptions(vllm_url=url)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"no user or password.*VLLM_API_KEY") as error:
        ServerOptions(vllm_url="http://me:secret@host:8000")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e300, -1.0])
def test_times_that_no_socket_takes_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="vllm_timeout"):
        ServerOptions(vllm_url="http://127.0.0.1:8000", vllm_timeout=seconds)
