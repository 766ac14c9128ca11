"""Answers that are none of vLLM's: refused at once and in words, and never taken for absence."""

from __future__ import annotations

import pytest
from scripted_server import Script, answering, choice, connect, refusal, serving

from nabla_eval.errors import ConfigError, ServerError

BODIES = {
    "a page": (b"<html>\x1b]0;t\x07\xe2\x80\xaeello</html>", r"<html>\x1b]0;t\x07\u202eello"),
    "nothing": (b"", "(nothing)"),
    "deep lists": (b"[" * 100_000, "recursion"),
    "deep objects": (b'{"data":' * 100_000, "recursion"),
    "deep where nobody looks": (b'{"data": [], "x": ' + b"[" * 10**5, "recursion"),
    "NaN": (b'{"data": [{"id": "served", "created": NaN}]}', "nan"),
    "Infinity": (b'{"data": [{"id": "served", "created": -Infinity}]}', "inf"),
    "a float without bounds": (b'{"data": [{"id": "served", "created": 1e999}]}', "inf"),
    "a long integer": (b'{"data": [], "x": ' + b"9" * 4000 + b"}", "4000 digits"),
    "a longer one": (b'{"data": [], "x": ' + b"9" * 500_000 + b"}", "500000 digits"),
    "a key twice": (b'{"data": [], "data": [{"id": "served"}]}', "key twice"),
    "another encoding": ('{"data": [{"id": "served"}]}'.encode("utf-16"), "utf-8"),
    "Latin-1": (b'{"data": [{"id": "\xe9"}]}', "utf-8"),
    "a text": (b'"data"', "must be a mapping"),
    "null": (b"null", "must be a mapping"),
    "a list": (b"[]", "must be a mapping, got a list"),
    "no models": (b"{}", "lacks data"),
    "models of another type": (b'{"data": {}}', "data must be a list, got a mapping"),
    "a model of another type": (b'{"data": ["served"]}', "data[0]"),
    "a model without name": (b'{"data": [{}]}', "data[0] lacks id"),
    "a name of another type": (b'{"data": [{"id": 7}]}', "data[0].id must be a string, got 7"),
    "an empty name": (b'{"data": [{"id": ""}]}', "empty"),
    "a name with an escape": (b'{"data": [{"id": "a\\u001b[2J"}]}', "cannot be shown"),
    "half a character": (b'{"data": [{"id": "\\ud800"}]}', "cannot be shown"),
    "a model twice": (b'{"data": [{"id": "a"}, {"id": "a"}]}', "twice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_that_is_none_is_no_server_that_is_away(kind: str) -> None:
    body, words = BODIES[kind]
    waits: list[float] = []
    told = refusal(answering(body), vllm_attempts=6, sleep=waits.append)
    assert words in told and "none of vLLM's" in told
    assert told.isprintable() and len(told) < 1000
    assert waits == [], "tried once"


@pytest.mark.parametrize(
    "answer",
    [b"", b"hello", b"SSH-2.0-x\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
     b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello"],
)  # fmt: skip
def test_what_is_no_http_is_said_to_be(answer: bytes) -> None:
    told = refusal(answer or b"\r\n")
    assert "none of vLLM's" in told and told.isprintable()


CHOICES = {
    "none": ([], "0 choices"),
    "two": ([{"token_ids": [1]}, {"token_ids": [2]}], "2 choices"),
    "one twice": ([{"index": 0, "token_ids": [1]}] * 2, "2 choices"),
    "another than the first": ([{"index": 1, "token_ids": [1]}], "index 0"),
    "an index of another type": ([{"index": "0", "token_ids": [1]}], "choices[0].index"),
    "no object": ([[1]], "choices[0] must be a mapping, got a list"),
    "no list": ({"0": {"token_ids": [1]}}, "choices must be a list, got a mapping"),
    "a boolean": ([{"token_ids": [1, True]}], "choices[0].token_ids"),
    "a float": ([{"token_ids": [1.0]}], "token_ids"),
    "a text": ([{"token_ids": ["1"]}], "token_ids"),
    "null": ([{"token_ids": [None]}], "token_ids"),
    "a list": ([{"token_ids": [[1]]}], "token_ids"),
    "tokens as a text": ([{"token_ids": "12"}], "token_ids must be a list or null, got '12'"),
    "a reason of another type": (
        [{"token_ids": [1], "finish_reason": 3}],
        "finish_reason must be a string or null",
    ),
    "logprobs of another type": (
        [{"token_ids": [1], "logprobs": [1]}],
        "logprobs must be a mapping or null",
    ),
    "fewer logprobs than tokens": (
        [{"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1.0]}}],
        "1 logprobs of 2 tokens",
    ),
    "a logprob above 0": (
        [{"token_ids": [1], "logprobs": {"token_logprobs": [0.5]}}],
        "a logprob above 0",
    ),
    "a logprob that is none": (
        [{"token_ids": [1], "logprobs": {"token_logprobs": ["-1"]}}],
        "token_logprobs[0]",
    ),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_choices_that_nobody_asked_for_are_refused(kind: str) -> None:
    choices, words = CHOICES[kind]
    with serving(Script(lambda body: (200, {"choices": choices}))) as script:
        with pytest.raises(ServerError) as error:
            connect(script.url)
        assert len(script.asked) == 1
    assert words in str(error.value)


def test_logprobs_that_fit_do_no_harm() -> None:
    logprobs = {"token_logprobs": [None, -1.5, 0], "tokens": ["a", "b", "c"]}
    answer = {"choices": [{"token_ids": [1, 2, 3], "logprobs": logprobs, "finish_reason": None}]}
    with serving(Script(lambda body: (200, answer))) as script:
        assert connect(script.url).complete({"prompt": [1]}).tokens == (1, 2, 3)


def test_many_long_names_make_no_long_message() -> None:
    names = [{"id": f"{i}-" + "x" * 500} for i in range(1000)]
    told = pytest.raises(ConfigError, match="and 980 more; not 'y'")
    with serving(Script(lambda _: choice([1]), (200, {"data": names}))) as script, told as error:
        connect(script.url, vllm_model="y")
    assert len(str(error.value)) < 8000


def test_an_ipv6_address_needs_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def connection(address: tuple[str, int], *rest: object, **options: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", connection)
    for url in ("http://[fe80::abcd]", "http://[::1]:8000/v1"):
        with pytest.raises(ServerError):
            connect(url, vllm_attempts=1)
    assert asked == [("fe80::abcd", 80), ("::1", 8000)]
