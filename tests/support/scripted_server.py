"""A vLLM server of a few lines: what it answers is a function that a test gives."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import ServerError

Answer = tuple[int, Any]  # status and body
OK = b"HTTP/1.1 200 OK\r\n"
Say = Callable[[socket.socket], None]  # what sends bytes


@dataclass
class Script:
    """What the server says, and what it was asked."""

    complete: Callable[[dict[str, Any]], Answer]
    models: Answer = (200, {"data": [{"id": "served", "max_model_len": 64}]})
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)
    url: str = ""


def choice(tokens: list[int] | None, finish: str = "stop") -> Answer:
    return 200, {"choices": [{"index": 0, "token_ids": tokens, "finish_reason": finish}]}


@contextmanager
def serving(script: Script) -> Iterator[Script]:
    """Serve a script on a free port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: a test's output is read by people."""

        def do_GET(self) -> None:
            self.reply(*(script.models if self.path == "/v1/models" else (404, {"detail": "no"})))

        def do_POST(self) -> None:
            assert self.path == "/v1/completions", self.path
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.asked.append(body)
                script.headers.append(dict(self.headers))
                script.at_once += 1
                script.most_at_once = max(script.most_at_once, script.at_once)
            try:
                answer = script.complete(body)
            finally:
                with script.lock:
                    script.at_once -= 1
            self.reply(*answer)

        def reply(self, status: int, body: Any) -> None:
            if status == 0:  # hang up
                self.close_connection = True
                return
            text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            with suppress(ConnectionError):  # a client that has given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Wire:
    """A server of bytes: where it listens, and the requests that it has read."""

    url: str
    asked: list[bytes] = field(default_factory=list)


@contextmanager
def talking(say: Say | bytes) -> Iterator[Wire]:
    """Answer each connection on a free port, whatever HTTP thinks of it, while the block runs.

    `say` is sent, or called in a thread of its own once a request has come; it may send for ever,
    since what it sends fails when the client has gone.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            wire.asked.append(_request(connection))
            if callable(say):
                say(connection)
            else:
                connection.sendall(say)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _request(connection: socket.socket) -> bytes:
    """Head and body of one request."""
    with connection.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n"))
        length = next(
            (line for line in head.lower().split(b"\r\n") if b"content-length" in line), b":0"
        )
        return head + stream.read(int(length.partition(b":")[2]))


def connect(url: str, **options: Any) -> Server:
    waited = options.pop("sleep", lambda seconds: None)
    return Server(ServerOptions(**{"vllm_url": url, "vllm_attempts": 1, **options}), waited)


def refusal(say: Say | bytes, **options: Any) -> str:
    """The error that a server's bytes lead to, in its first answer."""
    with talking(say) as wire, pytest.raises(ServerError) as error:
        connect(wire.url, **options)
    return str(error.value)


def answering(body: bytes, head: bytes = b"") -> bytes:
    return OK + head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
