"""One HTTP exchange with a server that is not trusted, and its JSON.

An answer is bounded in bytes and in time. Redirects are not followed, and the proxies that the
environment names are not used: what is sent goes to the host of the address and nowhere else.
"""

from __future__ import annotations

import http.client
import io
import json
import math
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urljoin, urlsplit

_PIECE = 2**16  # bytes read at a time, and of the body of an error
_DIGITS = 20  # of an integer
_CONNECT = 10.0  # seconds at most until a server takes a connection, which nothing can interrupt


@dataclass(frozen=True)
class Reply:
    """A server's answer; of a status other than 200, `body` is no more than the beginning."""

    status: int
    headers: Message
    body: bytes


def exchange(
    url: str,
    path: str,
    body: Any,
    headers: Mapping[str, str],
    *,
    room: int,
    timeout: float,
    opened: Callable[[socket.socket], None] = lambda connection: None,
) -> Reply:
    """Return the answer of `url` to a GET of `path`, or to a POST of `body` as JSON if not None.

    `opened` is told of the connection, which another thread may shut down. `room` bounds the bytes
    of the whole answer, status line, headers and framing included. `timeout` are the seconds of
    silence that end the exchange; twice as many end it in any case.
    Raises `OSError` (`TimeoutError` among them) or `http.client.HTTPException`.
    """
    parts, deadline = urlsplit(url), time.monotonic() + 2 * timeout
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    # Without a port, `http.client` would look for one in an IPv6 address.
    port = parts.port or kind.default_port
    with closing(kind(str(parts.hostname), port, timeout=min(timeout, _CONNECT))) as connection:
        connection.connect()
        connection.sock.settimeout(timeout)
        opened(connection.sock)
        data = None if body is None else json.dumps(body).encode()
        sent = {**headers, "Content-Type": "application/json", "Connection": "close"}
        connection.request("GET" if data is None else "POST", parts.path + path, data, sent)
        wire = _Wire(connection.sock, room, timeout, deadline)
        response = http.client.HTTPResponse(wire)  # type: ignore[arg-type]
        try:
            return _read(response)
        except ValueError as error:  # a chunk of negative length, say
            raise http.client.HTTPException(str(error)) from error


def _read(response: http.client.HTTPResponse) -> Reply:
    response.begin()
    if response.status != 200:
        return Reply(response.status, response.headers, response.read(_PIECE))
    # By pieces: a length that the server only claims must reserve no memory.
    whole = b"".join(iter(lambda: response.read(_PIECE), b""))
    if response.length:
        raise http.client.IncompleteRead(whole, response.length)
    return Reply(response.status, response.headers, whole)


class _Wire(io.RawIOBase):
    """The bytes of one answer as `http.client` reads them, bounded in number and in time."""

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


def is_address(url: str) -> bool:
    """Return whether `exchange` takes an address: HTTP, in ASCII, a host, neither query nor
    fragment.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # a wrong port raises here only
        host.encode("idna")
    except ValueError:
        return False
    plain = not re.search(r"[^!-~]|[?#]", url)
    return plain and bool(host) and parts.scheme in ("http", "https")


def redirected_to(url: str, location: str) -> str:
    """The host that a redirect names; "" where it names none."""
    try:
        return urlsplit(urljoin(url, location)).hostname or ""
    except ValueError:
        return ""


def read_json(text: bytes) -> Any:
    """JSON by its standard, which Python's own reader is laxer than.

    UTF-8, finite numbers, no key twice in an object, integers of at most 20 digits.
    Raises `ValueError` or `RecursionError`.
    """
    return json.loads(
        text.decode(),
        object_pairs_hook=_object,
        parse_int=_integer,
        parse_float=_finite,
        parse_constant=_finite,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"a number that is {number}")
    return number
