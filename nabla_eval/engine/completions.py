"""A client of a vLLM server's completions API, with token ids in and out.

It knows neither models nor methods, and imports nothing heavy. The server is not trusted:
`transport` bounds its answers and sends the key to no other host, and the fields of answers are
held against their types here.
"""

from __future__ import annotations

import difflib
import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from nabla_eval.engine.transport import Reply, exchange, is_address, read_json, redirected_to
from nabla_eval.errors import ConfigError, ServerError
from nabla_eval.options import Options, require
from nabla_eval.terminal import LOGGER, printable
from nabla_eval.validation import Count, mismatch

KEY_VARIABLE = "VLLM_API_KEY"  # where a server was started with --api-key
_PASSING = frozenset({429, 502, 503, 504})  # too many requests, or a server that is starting
_LONGEST_WAIT = 30.0  # seconds between two attempts, whatever Retry-After says
_LONGEST_TIMEOUT = 1e6  # seconds; sockets take no more than some 1e9
_EXCERPT = 300  # characters of a server's answer that a message quotes
_LISTED = 20  # models that a message names
_HEAD = 2**20  # bytes that an answer may take besides its tokens
_PER_TOKEN = 2**10  # bytes for each token of prompt and response, as number and as text


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """Where a vLLM server is and how it is asked."""

    vllm_url: str
    vllm_model: str | None = None  # as the server calls it; None: the only one it offers
    vllm_concurrency: Count = 64  # requests that are under way at once
    vllm_attempts: Count = 6  # tries of one request, with 0.5, 1, 2, 4, 8 seconds between them
    # Seconds without a byte that end a request; a whole one may take twice as many.
    vllm_timeout: Annotated[float, Meta(gt=0, le=_LONGEST_TIMEOUT)] = 600.0

    def __post_init__(self) -> None:
        wanted = "an address like http://127.0.0.1:8000"
        if "@" in self.vllm_url:  # not quoted: it may hold a password
            raise ConfigError(
                f"vllm_url takes no user or password. Try {wanted}; a server's --api-key goes into "
                f"the environment variable {KEY_VARIABLE}."
            )
        require(is_address(self.vllm_url), "vllm_url", self.vllm_url, wanted)
        super().__post_init__()


@dataclass(frozen=True)
class Completion:
    """A server's text after a prompt; `tokens` includes a token or string that stopped it."""

    tokens: tuple[int, ...]
    finish: str  # "stop" or "length"


class _Model(TypedDict):
    id: str


class _Models(TypedDict):
    data: list[_Model]


class _Logprobs(TypedDict, total=False):
    token_logprobs: list[float | None] | None


class _Choice(TypedDict, total=False):
    index: int
    token_ids: list[int] | None
    finish_reason: str | None
    logprobs: _Logprobs | None


class _Choices(TypedDict):
    choices: list[_Choice]


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
        self._sleep = sleep or self._stopped.wait
        self._warned = False
        answer = self._request("/v1/models", _wrong_models)
        offered = {model["id"]: model for model in answer["data"]}
        self.model = _chosen(options, list(offered))
        self.context = _length(offered[self.model])
        self.complete({"prompt": [1], "max_tokens": 1, "temperature": 0})

    def __repr__(self) -> str:
        return f"Server({self.options.vllm_url}, {self.model})"

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """One completion; `body` are the API's own arguments without the model.

        Raises `ServerError` for a server that is away or busy at every attempt, refuses the
        request, takes too long, or answers with anything but one completion with its token ids.
        """
        asked = {**body, "model": self.model, "return_token_ids": True, "stream": False}
        (choice,) = self._request("/v1/completions", _wrong_choices, asked)["choices"]
        tokens = choice.get("token_ids")
        if tokens is None:
            raise ServerError(
                f"The server at {self.options.vllm_url} answers without token ids, which "
                "return_token_ids=true asked for. It needs vLLM 0.10.2 or later."
            )
        return Completion(tuple(tokens), str(choice.get("finish_reason")))

    def complete_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion]:
        """Completions in the order of `bodies`, `vllm_concurrency` of them under way at once.

        The first error, or Ctrl-C, ends the others: those under way are hung up on, since a
        stalled server would be waited for otherwise.
        """
        try:
            width = min(self.options.vllm_concurrency, max(1, len(bodies)))
            with ThreadPoolExecutor(width) as pool:
                try:
                    futures = [pool.submit(self.complete, body) for body in bodies]
                    return [future.result() for future in futures]
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._hang_up()
                    raise
        finally:
            self._stopped.clear()

    def _hang_up(self) -> None:
        self._stopped.set()
        for connection in list(self._live):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _request(
        self, path: str, wrong: Callable[[Any], str | None], body: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON that a path answers with, in which `wrong` finds no fault.

        Only what can pass is tried again: a connection that is refused, reset or cut off, and a
        server that is busy or starting.
        """
        wait = 0.5
        for attempt in range(1, self.options.vllm_attempts + 1):
            last, pause = attempt == self.options.vllm_attempts, wait
            try:
                reply = self._once(path, body)
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
                    return self._read(path, reply, wrong)
                reason, pause = f"status {reply.status}", _pause(reply, wait)
            self._warn(reason)
            self._sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, path: str, body: Mapping[str, Any] | None) -> Reply:
        tokens = len(body["prompt"]) + body.get("max_tokens", 0) if body else 0
        own: set[socket.socket] = set()

        def opened(connection: socket.socket) -> None:
            own.add(connection)
            self._live.add(connection)
            if self._stopped.is_set():
                raise ConnectionAbortedError("another request failed")

        try:
            return exchange(
                self.options.vllm_url.rstrip("/").removesuffix("/v1"),
                path,
                body,
                _authorisation(),
                room=_HEAD + _PER_TOKEN * tokens,
                timeout=self.options.vllm_timeout,
                opened=opened,
            )
        finally:
            self._live.difference_update(own)

    def _read(self, path: str, reply: Reply, wrong: Callable[[Any], str | None]) -> Any:
        if 300 <= reply.status < 400:
            raise self._redirected(path, reply)
        if reply.status != 200:
            raise self._refused(path, reply)
        try:
            answer = read_json(reply.body)
        except (ValueError, RecursionError) as error:
            raise self._strange(f"it is no JSON: {_reason(error)}", reply.body) from None
        if (fault := wrong(answer)) is not None:
            raise self._strange(fault, reply.body)
        return answer

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            LOGGER.warning(
                "The vLLM server at %s is away or busy (%s): trying again.",
                self.options.vllm_url, reason,
            )  # fmt: skip

    def _away(self, error: Exception, attempts: int) -> ServerError:
        return ServerError(
            f"No answer from the vLLM server at {self.options.vllm_url} after {attempts} attempts "
            f"({_reason(error)}). Start one with `vllm serve MODEL`, or correct vllm_url; a slow "
            "one needs a longer vllm_timeout."
        )

    def _redirected(self, path: str, reply: Reply) -> ServerError:
        location = reply.headers.get("Location", "")
        host = redirected_to(self.options.vllm_url, location) or "(none named)"
        return ServerError(
            f"The server at {self.options.vllm_url} redirects {path} with status {reply.status} to "
            f"{_quoted(location)}, host {_quoted(host)}. That is not followed, since prompts and "
            "key are for the host of vllm_url. Pass the server's own address as vllm_url."
        )

    def _refused(self, path: str, reply: Reply) -> ServerError:
        advice = "Look at the server's log."
        if reply.status in (401, 403):
            advice = f"Put the server's --api-key into the environment variable {KEY_VARIABLE}."
        elif reply.status == 404:
            advice = "Is vllm_url the address of a vLLM server, without a path?"
        return ServerError(
            f"The server at {self.options.vllm_url} refused {path} with status {reply.status}: "
            f"{_message(reply.body).rstrip('.')}. {advice}"
        )

    def _strange(self, fault: str, body: bytes | None = None) -> ServerError:
        start = "" if body is None else f": {_quoted(body.decode(errors='replace')) or '(nothing)'}"
        return ServerError(
            f"The server at {self.options.vllm_url} gave an answer that is none of vLLM's "
            f"({fault}){start}. Is vllm_url right?"
        )


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


def _pause(reply: Reply, wait: float) -> float:
    """Seconds until the next attempt: what Retry-After says where it is longer, up to a bound.

    A date in its place is not read: the two clocks may differ.
    """
    asked = reply.headers.get("Retry-After", "").strip()
    seconds = float(asked) if re.fullmatch("[0-9]{1,9}", asked) else 0.0
    return min(max(wait, seconds), _LONGEST_WAIT)


def _wrong_models(answer: Any) -> str | None:
    if fault := mismatch(answer, _Models):
        return fault
    names = [model["id"] for model in answer["data"]]
    if len(set(names)) < len(names):
        return "a model is listed twice"
    if not all(name and name.isprintable() for name in names):
        return "a model's name is empty or holds characters that cannot be shown"
    return None


def _wrong_choices(answer: Any) -> str | None:
    if fault := mismatch(answer, _Choices):
        return fault
    choices = answer["choices"]
    if [choice.get("index", 0) for choice in choices] != [0]:
        return f"{len(choices)} choices, where one of index 0 was asked for"
    tokens = choices[0].get("token_ids")
    logprobs = (choices[0].get("logprobs") or {}).get("token_logprobs")  # nobody asked for them
    if tokens is None or logprobs is None:
        return None
    if len(logprobs) != len(tokens):
        return f"{len(logprobs)} logprobs of {len(tokens)} tokens"
    if any(number is not None and number > 0 for number in logprobs):
        return "a logprob above 0"
    return None


def _quoted(text: str) -> str:
    """The beginning of what a server said, with every character visible."""
    return printable(text[:_EXCERPT])


def _reason(error: Exception) -> str:
    return _quoted(str(error) or type(error).__name__)


def _chosen(options: ServerOptions, names: list[str]) -> str:
    if options.vllm_model is None and len(names) == 1:
        return names[0]
    if options.vllm_model in names:
        return str(options.vllm_model)
    listed = [_quoted(name) for name in names[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    asked = "none was asked for" if options.vllm_model is None else f"not {options.vllm_model!r}"
    close = difflib.get_close_matches(options.vllm_model or "", listed, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"The vLLM server at {options.vllm_url} offers {', '.join(listed) or 'no model'}{more}; "
        f"{asked}. Pass one of its names as vllm_model. {hint}".rstrip()
    )


def _length(model: Mapping[str, Any]) -> int | None:
    """Tokens that prompt and response may have together; None where the server does not say."""
    length = model.get("max_model_len")
    return length if type(length) is int and length > 0 else None


def _message(body: bytes) -> str:
    """Return what an error's body says, in vLLM's form or in any other."""
    said = body.decode(errors="replace")
    with suppress(ValueError, AttributeError, KeyError, TypeError, RecursionError):
        answer = json.loads(said)
        said = str(answer.get("error", answer)["message"])
    return _quoted(said) or "(no reason given)."
