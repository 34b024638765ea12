"""A headless Chromium for tests: opens a page at a width, and tells what it made of it.

Speaks the browser's own protocol over a WebSocket (chromedevtools.github.io/devtools-protocol).
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 120  # s; on a busy machine
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--no-first-run",
)
_BAD = ("error", "warning", "assert")  # kinds of messages on the console
PHONE, DESKTOP = (375, 812), (1280, 900)


def program() -> str:
    """The browser's path; skips the test where there is none."""
    named = os.environ.get("IMGEMBED_TEST_BROWSER")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(_NAMES)}")
    return found


@dataclass
class Page:
    """An open page. complaints: errors on the console and of scripts; requests: addresses asked."""

    socket: ClientConnection
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        number = next(self._numbers)
        session = {"sessionId": self.session} if self.session else {}
        message = {"id": number, "method": method, "params": parameters, **session}
        self.socket.send(json.dumps(message))
        while True:
            got = self._receive()
            if got.get("id") == number:
                assert "error" not in got, (method, got["error"])
                return got["result"]

    def _receive(self) -> dict[str, Any]:
        got = json.loads(self.socket.recv(timeout=_PATIENCE))
        method, told = got.get("method"), got.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in _BAD:
            self.complaints.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in _BAD:
            self.complaints.append(str(told["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        return got

    def open(self, path: Path, size: tuple[int, int], *, dark: bool = False) -> None:
        """Loads a file at a size, as a phone does where it is narrow."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints, self.requests, self._loaded = [], [], False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def value(self, expression: str) -> Any:
        """What a script finds."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Moves the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def part(self, path: Path, top: int, height: int) -> None:
        """Writes a PNG of a stretch of the page."""
        width = self.value("document.documentElement.clientWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        found = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """Prints the page."""
        found = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A fresh browser with an empty page; its profile lies in `folder`."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [program(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(process, profile), max_size=None) as socket:
            opened = Page(socket)
            target = opened.call("Target.createTarget", url="about:blank")["targetId"]
            attached = opened.call("Target.attachToTarget", targetId=target, flatten=True)
            opened.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                opened.call(f"{domain}.enable")
            yield opened
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE)


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Where the browser listens, once it does."""
    port, until = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if port.exists() and (lines := port.read_text().splitlines()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/version") as answer:
                return str(json.load(answer)["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError("the browser did not start")
