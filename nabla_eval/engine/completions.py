"""A client of a vLLM server's completions API, with token ids in and out.

No more than HTTP and JSON: it knows neither models nor methods, and imports nothing heavy.
"""

from __future__ import annotations

import difflib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nabla_eval.config import require
from nabla_eval.errors import ConfigError, ServerError
from nabla_eval.terminal import LOGGER

KEY_VARIABLE = "VLLM_API_KEY"  # where a server was started with --api-key
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth trying again
_LONGEST_WAIT = 30.0  # seconds between two attempts
_EXCERPT = 300  # characters of a server's answer that a message quotes


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where a vLLM server is and how it is asked."""

    vllm_url: str
    vllm_model: str | None = None  # as the server calls it; None: the only one it offers
    vllm_concurrency: int = 64  # requests that are under way at once
    vllm_attempts: int = 6  # tries of one request, with 0.5, 1, 2, 4, 8 seconds between them
    vllm_timeout: float = 600.0  # seconds without a byte after which a try has failed

    def __post_init__(self) -> None:
        parts = urlsplit(self.vllm_url)
        wanted = "an address like http://127.0.0.1:8000"
        require(parts.scheme in ("http", "https"), "vllm_url", self.vllm_url, wanted)
        require(bool(parts.hostname), "vllm_url", self.vllm_url, wanted)
        require(self.vllm_concurrency >= 1, "vllm_concurrency", self.vllm_concurrency, "at least 1")
        require(self.vllm_attempts >= 1, "vllm_attempts", self.vllm_attempts, "at least 1")
        require(self.vllm_timeout > 0, "vllm_timeout", self.vllm_timeout, "seconds > 0")


@dataclass(frozen=True)
class Completion:
    """What a server wrote after a prompt; `tokens` includes a token or string that stopped it."""

    tokens: tuple[int, ...]
    finish: str  # "stop" or "length"


class Server:
    """One model on a vLLM server.

    Making it asks the server which models it has, and for one token, so that a server that is
    away, a wrong name and a server without token ids are noticed before any model is loaded.
    Raises `ServerError` or `ConfigError`.
    """

    def __init__(self, options: ServerOptions, sleep: Callable[[float], None] = time.sleep) -> None:
        self.options = options
        self._sleep = sleep
        self._warned = False
        # No proxies: a server of one's own is reached directly, and loopback always is.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        offered = self._offered()
        self.model = _chosen(options, list(offered))
        self.context = _length(offered[self.model])
        self.complete({"prompt": [1], "max_tokens": 1, "temperature": 0})

    def __repr__(self) -> str:
        return f"Server({self.options.vllm_url}, {self.model})"

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """One completion; `body` are the API's own arguments without the model.

        Tried again while the server is away or busy. Raises `ServerError` when it stays so, refuses
        the request, or answers without token ids.
        """
        asked = {**body, "model": self.model, "return_token_ids": True, "stream": False}
        answer = self._request("/v1/completions", asked)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict):
            raise self._strange(answer)
        tokens = choice.get("token_ids")
        if tokens is None:
            raise ServerError(
                f"The server at {self.options.vllm_url} answers without token ids, which "
                "return_token_ids=true asked for. It needs vLLM 0.10.2 or later."
            )
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise self._strange(answer)
        return Completion(tuple(tokens), str(choice.get("finish_reason")))

    def complete_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion]:
        """Completions in the order of `bodies`, `vllm_concurrency` of them under way at once.

        The first error ends the rest that have not begun.
        """
        with ThreadPoolExecutor(min(self.options.vllm_concurrency, max(1, len(bodies)))) as pool:
            futures = [pool.submit(self.complete, body) for body in bodies]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _offered(self) -> dict[str, Any]:
        """The server's models by name."""
        answer = self._request("/v1/models")
        try:
            return {str(model["id"]): model for model in answer["data"]}
        except (KeyError, TypeError):
            raise self._strange(answer) from None

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a path answers with, after as many attempts as the options allow."""
        wait = 0.5
        for left in reversed(range(self.options.vllm_attempts)):
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or not left:
                    raise self._refused(path, error) from error
                reason = f"status {error.code}"
                error.close()
            except (OSError, http.client.HTTPException) as error:
                # Connections that are refused, reset or cut off, and time-outs.
                if not left:
                    raise self._away(error) from error
                reason = _reason(error)
            self._warn(reason)
            self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if KEY_VARIABLE in os.environ:
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        data = None if body is None else json.dumps(body).encode()
        address = self.options.vllm_url.rstrip("/").removesuffix("/v1") + path
        request = urllib.request.Request(address, data, headers)
        with self._open(request, timeout=self.options.vllm_timeout) as response:
            text = response.read()
        try:
            return json.loads(text)
        except ValueError:
            raise self._strange(text.decode(errors="replace")) from None

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            LOGGER.warning(
                "The vLLM server at %s is away or busy (%s): trying again.",
                self.options.vllm_url, reason,
            )  # fmt: skip

    def _away(self, error: Exception) -> ServerError:
        return ServerError(
            f"No answer from the vLLM server at {self.options.vllm_url} after "
            f"{self.options.vllm_attempts} attempts ({_reason(error)}). Start one with `vllm serve "
            "MODEL`, or correct vllm_url; a slow one needs a longer vllm_timeout."
        )

    def _refused(self, path: str, error: urllib.error.HTTPError) -> ServerError:
        with error:
            said = _message(error.read())
        advice = "Look at the server's log."
        if error.code in (401, 403):
            advice = f"Put the server's --api-key into the environment variable {KEY_VARIABLE}."
        elif error.code == 404:
            advice = "Is vllm_url the address of a vLLM server, without a path?"
        return ServerError(
            f"The server at {self.options.vllm_url} refused {path} with status {error.code}: "
            f"{said.rstrip('.')}. {advice}"
        )

    def _strange(self, answer: Any) -> ServerError:
        return ServerError(
            f"The server at {self.options.vllm_url} gave an answer that is none of vLLM's: "
            f"{json.dumps(answer)!s:.{_EXCERPT}}. Is vllm_url right?"
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)[:_EXCERPT]


def _chosen(options: ServerOptions, names: list[str]) -> str:
    if options.vllm_model is None and len(names) == 1:
        return names[0]
    if options.vllm_model in names:
        return str(options.vllm_model)
    asked = "none was asked for" if options.vllm_model is None else f"not {options.vllm_model!r}"
    close = difflib.get_close_matches(options.vllm_model or "", names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"The vLLM server at {options.vllm_url} offers {', '.join(names) or 'no model'}; {asked}. "
        f"Pass one of its names as vllm_model. {hint}".rstrip()
    )


def _length(model: Any) -> int | None:
    """Tokens that prompt and response may have together; None where the server does not say."""
    length = model.get("max_model_len") if isinstance(model, dict) else None
    return length if type(length) is int else None


def _message(body: bytes) -> str:
    """What an error's body says, in vLLM's form or in any other."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
        inner = answer.get("error", answer)
        text = str(inner["message"])
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    return text[:_EXCERPT] or "(no reason given)."
