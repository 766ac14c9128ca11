"""A headless Chromium over its own debugging pipe: no driver, no package, no port.

Chromium reads commands as JSON from file descriptor 3 and answers on 4, each message ended by NUL
(`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60  # seconds for one answer, on a busy machine
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--remote-debugging-pipe",
)  # fmt: skip


def executable() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a running browser, and everything that it logged or asked the network for."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write
        self.number = 0
        self.left = b""
        self.session: str | None = None
        self.requests: list[str] = []
        self.messages: list[str] = []  # of the console, exceptions, policy violations
        self.loaded = 0

    def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        if self.session is None:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        before = self.loaded
        self.ask("Page.navigate", url=url)
        while self.loaded == before:
            self._hear()

    def run(self, script: str) -> Any:
        """The value of a script's last expression."""
        result = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """One key, as a person would press it."""
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9,
                 "Enter": 13}  # fmt: skip
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=codes[key], **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def screenshot(self, path: Path, *, scheme: str, width: int = 1280, height: int = 900) -> None:
        """A picture in the light or dark scheme."""
        self.ask("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session is not None and not method.startswith("Target."):
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _hear(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.read, selectors.EVENT_READ)
            while b"\0" not in self.left:
                assert selector.select(max(0, deadline - time.monotonic())), "no answer"
                part = os.read(self.read, 1 << 20)
                assert part, "the browser has ended"
                self.left += part
        raw, _, self.left = self.left.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(f"console.{params['type']}: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {params['exceptionDetails']}")
        elif method == "Log.entryAdded":
            self.messages.append(f"log: {params['entry']['level']}: {params['entry']['text']}")


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile folder of its own, ended with the block."""
    path = executable()
    assert path is not None
    down_read, down_write = os.pipe()  # to the browser
    up_read, up_write = os.pipe()
    # The child gets its ends as 3 and 4, whatever their numbers are here.
    shell = f'exec "$0" "$@" 3<&{down_read} 4>&{up_write}'
    process = subprocess.Popen(
        ["bash", "-c", shell, path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(down_read, up_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(down_read)
    os.close(up_write)
    try:
        yield Browser(up_read, down_write)
    finally:
        os.close(down_write)
        os.close(up_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
