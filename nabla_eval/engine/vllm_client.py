"""A client of a vLLM server's completions API, with token ids in and out.

It knows neither models nor methods, and imports nothing heavy. The server is not trusted: an answer
is bounded in bytes and in time, and its fields must have their types. Redirects are not followed,
and the proxies that the environment names are not used: prompts and key go to the host of
`vllm_url` and nowhere else.
"""

from __future__ import annotations

import difflib
import http.client
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from nabla_eval.errors import ConfigError, ServerAwayError, ServerError
from nabla_eval.options import Options, require
from nabla_eval.terminal import LOGGER, printable
from nabla_eval.validation import Count

KEY_VARIABLE = "VLLM_API_KEY"  # where a server was started with --api-key
_PASSING = frozenset({429, 502, 503, 504})  # too many requests, or a server that is starting
_LONGEST_WAIT = 30.0  # seconds between two attempts
_LONGEST_TIMEOUT = 1e6  # seconds; sockets take no more than some 1e9
_CONNECT = 10.0  # seconds at most until a server takes a connection, which nothing can interrupt
_EXCERPT = 300  # characters of a server's answer that a message quotes
_LISTED = 20  # models that a message names
_HEAD = 2**20  # bytes that an answer may take besides its tokens
_PER_TOKEN = 2**10  # bytes for each token of prompt and response, as number and as text
_PIECE = 2**16  # bytes read at a time, and of the body of an error


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """Where a vLLM server is and how it is asked."""

    vllm_url: str
    vllm_model: str | None = None  # as the server calls it; None: the only one it offers
    vllm_concurrency: Count = 64  # requests that are under way at once
    vllm_attempts: Count = 6  # tries of one request, with 0.5, 1, 2, 4, 8 seconds between them
    # Seconds without a byte that end a request; a whole one may take twice as many.
    vllm_timeout: Annotated[float, msgspec.Meta(gt=0, le=_LONGEST_TIMEOUT)] = 600.0

    def __post_init__(self) -> None:
        wanted = "an address like http://127.0.0.1:8000"
        if "@" in self.vllm_url:  # not quoted: it may hold a password
            raise ConfigError(
                f"vllm_url takes no user or password. Try {wanted}; a server's --api-key goes into "
                f"the environment variable {KEY_VARIABLE}."
            )
        require(_is_address(self.vllm_url), "vllm_url", self.vllm_url, wanted)
        super().__post_init__()


def _is_address(url: str) -> bool:
    """Return whether an address is HTTP, in ASCII, with a host, without query and fragment."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # a wrong port raises here only
        host.encode("idna")
    except ValueError:
        return False
    plain = not re.search(r"[^!-~]|[?#]", url)
    return plain and bool(host) and parts.scheme in ("http", "https")


@dataclass(frozen=True)
class Completion:
    """A server's text after a prompt; `tokens` includes a token or string that stopped it."""

    tokens: tuple[int, ...]
    finish: str  # "stop" or "length"


class _Model(msgspec.Struct):
    id: str
    max_model_len: Any = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Choice(msgspec.Struct):
    index: int = 0
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice]


_Answer = TypeVar("_Answer", _Models, _Choices)


class Server:
    """One model on a vLLM server.

    Making it asks the server which models it has, and for one token, so that a server that is
    away, a wrong name and a server without token ids are noticed before any model is loaded.
    Raises `ServerError` or `ConfigError`.
    """

    def __init__(
        self, options: ServerOptions, sleep: Callable[[float], object] | None = None
    ) -> None:
        self.options = options
        self._live: set[socket.socket] = set()  # connections of requests that are under way
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._sleep = sleep or self._stopped.wait
        self._warned = False
        offered = {model.id: model for model in self._request("/v1/models", _Models).data}
        self.model = _chosen(options, list(offered))
        length = offered[self.model].max_model_len
        # Tokens that prompt and response may have together; None where the server does not say.
        self.context = length if type(length) is int and length > 0 else None
        self.complete({"prompt": [1], "max_tokens": 1, "temperature": 0})

    def __repr__(self) -> str:
        return f"Server({self.options.vllm_url}, {_quoted(self.model)})"

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """Return one completion; `body` are the API's own arguments without the model.

        Raises `ServerError` for a server that is away or busy at every attempt, refuses the
        request, takes too long, or answers with anything but one completion with its token ids.
        """
        asked = {**body, "model": self.model, "return_token_ids": True, "stream": False}
        choices = self._request("/v1/completions", _Choices, asked).choices
        if [choice.index for choice in choices] != [0]:
            raise self._strange(f"{len(choices)} choices, where one of index 0 was asked for")
        if choices[0].token_ids is None:
            raise ServerError(
                f"The server at {self.options.vllm_url} answers without token ids, which "
                "return_token_ids=true asked for. It needs vLLM 0.10.2 or later."
            )
        return Completion(tuple(choices[0].token_ids), str(choices[0].finish_reason))

    def submit(self, body: Mapping[str, Any]) -> Future[Completion]:
        """Ask in another thread; at most `vllm_concurrency` requests are under way at once."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.options.vllm_concurrency)
        return self._pool.submit(self.complete, body)

    def hang_up(self) -> None:
        """End the requests that are under way: a stalled server would be waited for otherwise."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.shutdown(wait=False, cancel_futures=True)
        self._stopped.set()
        for connection in list(self._live):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        pool.shutdown()
        self._stopped.clear()

    def _request(
        self, path: str, kind: type[_Answer], body: Mapping[str, Any] | None = None
    ) -> _Answer:
        """Return what a path answers to a GET, or to a POST of `body` as JSON.

        Only what can pass is tried again: a connection that is refused, reset or cut off, and a
        server that is busy or starting.
        """
        wait = 0.5
        for attempt in range(1, self.options.vllm_attempts + 1):
            last = attempt == self.options.vllm_attempts
            try:
                reply = self._exchange(path, body)
            except (ConnectionError, http.client.IncompleteRead) as error:
                if last or self._stopped.is_set():
                    raise self._away(error, attempt) from error
                reason = _reason(error)
            except OSError as error:  # time-outs, unknown hosts, certificates
                raise self._away(error, attempt) from error
            except http.client.HTTPException as error:
                raise self._strange(f"{type(error).__name__}: {_reason(error)}") from error
            else:
                if last or reply.status not in _PASSING:
                    return self._read(path, kind, reply)
                reason = f"status {reply.status}"
            if not self._warned:
                self._warned = True
                away = "The vLLM server at %s is away or busy (%s): trying again."
                LOGGER.warning(away, self.options.vllm_url, reason)
            self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _exchange(self, path: str, body: Mapping[str, Any] | None) -> _Reply:
        """Exchange one request; raise `OSError` (`TimeoutError`, ...) or `HTTPException`."""
        parts = urlsplit(self.options.vllm_url.rstrip("/").removesuffix("/v1"))
        timeout, data = self.options.vllm_timeout, None
        room, deadline = _HEAD, time.monotonic() + 2 * timeout
        if body is not None:
            data = json.dumps(body).encode()
            room += _PER_TOKEN * (len(body["prompt"]) + body.get("max_tokens", 0))
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        # Without a port, `http.client` would look for one in an IPv6 address.
        port = parts.port or kind.default_port
        headers = {"Content-Type": "application/json", "Connection": "close", **_authorisation()}
        with closing(kind(str(parts.hostname), port, timeout=min(timeout, _CONNECT))) as connection:
            connection.connect()
            own = connection.sock
            self._live.add(own)
            try:
                if self._stopped.is_set():
                    raise ConnectionAbortedError("another request failed")
                own.settimeout(timeout)
                connection.request("POST" if data else "GET", parts.path + path, data, headers)
                return _received(_Wire(own, room, timeout, deadline))
            finally:
                self._live.discard(own)

    def _read(self, path: str, kind: type[_Answer], reply: _Reply) -> _Answer:
        if 300 <= reply.status < 400:
            raise ServerError(
                f"The server at {self.options.vllm_url} redirects {path} with status "
                f"{reply.status} to {_quoted(reply.headers.get('Location', '')) or '(nowhere)'}. "
                "That is not followed, since prompts and key are for the host of vllm_url. Pass "
                "the server's own address as vllm_url."
            )
        if reply.status != 200:
            raise self._refused(path, reply)
        try:
            answer = msgspec.json.decode(reply.body, type=kind)
        except (ValueError, RecursionError) as error:
            raise self._strange(_reason(error), reply.body) from None
        names = [model.id for model in answer.data] if isinstance(answer, _Models) else []
        if not all(name and name.isprintable() for name in names):
            fault = "a model's name is empty or holds characters that cannot be shown"
            raise self._strange(fault, reply.body)
        return answer

    def _away(self, error: Exception, attempts: int) -> ServerError:
        return ServerAwayError(
            f"No answer from the vLLM server at {self.options.vllm_url} after {attempts} attempts "
            f"({_reason(error)}). Start one with `vllm serve MODEL`, or correct vllm_url; a slow "
            "one needs a longer vllm_timeout."
        )

    def _refused(self, path: str, reply: _Reply) -> ServerError:
        advice = "Look at the server's log."
        if reply.status in (401, 403):
            advice = f"Put the server's --api-key into the environment variable {KEY_VARIABLE}."
        elif reply.status == 404:
            advice = "Is vllm_url the address of a vLLM server, without a path?"
        said = reply.body.decode(errors="replace")
        with suppress(ValueError, AttributeError, KeyError, TypeError, RecursionError):
            answer = json.loads(said)  # in vLLM's form, or in any other
            said = str(answer.get("error", answer)["message"])
        said = _quoted(said) or "(no reason given)"
        return ServerError(
            f"The server at {self.options.vllm_url} refused {path} with status {reply.status}: "
            f"{said.rstrip('.')}. {advice}"
        )

    def _strange(self, fault: str, body: bytes | None = None) -> ServerError:
        start = "" if body is None else f": {_quoted(body.decode(errors='replace')) or '(nothing)'}"
        return ServerError(
            f"The server at {self.options.vllm_url} gave an answer that is none of vLLM's "
            f"({fault}){start}. Is vllm_url right?"
        )


@dataclass(frozen=True)
class _Reply:
    """A server's answer; of a status other than 200, `body` is no more than the beginning."""

    status: int
    headers: Message
    body: bytes


class _Wire(io.RawIOBase):
    """The bytes of one answer as `http.client` reads them, bounded in number and in time.

    Status line, headers and framing count too.
    """

    def __init__(self, sock: socket.socket, room: int, timeout: float, deadline: float) -> None:
        self.sock, self.room, self.timeout, self.deadline = sock, room, timeout, deadline
        self.count = 0

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what `http.client` asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out before the answer was whole")
        self.sock.settimeout(min(self.timeout, left))
        count = self.sock.recv_into(buffer)
        self.count += count
        if self.count > self.room:
            raise http.client.HTTPException(f"more than {self.room} bytes")
        return count


def _received(wire: _Wire) -> _Reply:
    response = http.client.HTTPResponse(wire)  # type: ignore[arg-type]
    try:
        response.begin()
        if response.status != 200:
            return _Reply(response.status, response.headers, response.read(_PIECE))
        # By pieces: a length that the server only claims must reserve no memory.
        whole = b"".join(iter(lambda: response.read(_PIECE), b""))
    except ValueError as error:  # a chunk of negative length, say
        raise http.client.HTTPException(str(error)) from error
    if response.length:
        raise http.client.IncompleteRead(whole, response.length)
    return _Reply(response.status, response.headers, whole)


def _authorisation() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        return {}
    if re.search("[^!-~]", key):
        raise ConfigError(
            f"The environment variable {KEY_VARIABLE} holds a space, a line break or a character "
            "outside of ASCII, and HTTP takes none of them. Set it to the server's --api-key alone."
        )
    return {"Authorization": f"Bearer {key}"}


def _quoted(text: str) -> str:
    """Return the beginning of what a server said, with every character visible."""
    return printable(text[:_EXCERPT])


def _reason(error: Exception) -> str:
    return _quoted(str(error) or type(error).__name__)


def _chosen(options: ServerOptions, names: list[str]) -> str:
    """Return the model that was asked for, or the only one."""
    asked = options.vllm_model
    if asked in names or (asked is None and len(names) == 1):
        return asked or names[0]
    listed = [_quoted(name) for name in names[:_LISTED]]
    close = difflib.get_close_matches(asked or "", listed, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]}?" if close else ""
    if len(names) > _LISTED:
        listed.append(f"and {len(names) - _LISTED} more")
    wanted = "none was asked for" if asked is None else f"not {asked!r}"
    raise ConfigError(
        f"The vLLM server at {options.vllm_url} offers {', '.join(listed) or 'no model'}; "
        f"{wanted}. Pass one of its names as vllm_model.{hint}"
    )
