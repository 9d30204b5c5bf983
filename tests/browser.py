"""Pages in a real browser, without a driver.

`browse` opens a page that is a file: a script of the test runs inside it and leaves its findings. `Tab` opens pages of
a server, whose policy allows no such script, by the browser's own protocol.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine; install it to look at the pages")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1400,1000",
]

_CATCH = """<script>window.found = {errors: []};
addEventListener("error", (e) => found.errors.push(String(e.message)));
addEventListener("unhandledrejection", (e) => found.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => found.errors.push("blocked " + e.blockedURI));</script>"""


class _Attribute(HTMLParser):
    found: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.found = dict(attrs).get("data-found")


def browse(page: Path, script: str, fragment: str = "") -> dict[str, Any]:
    """Open a copy of `page`, run `script` when it is loaded, and return what it put into `found`.

    `found.errors` holds what went wrong in the page; anything on the console fails the test here.
    """
    text = page.read_text(encoding="utf-8")
    leave = "document.documentElement.dataset.found = JSON.stringify(found);"
    copy = page.with_name("probe-" + page.name)
    text = text.replace("<head>", "<head>" + _CATCH, 1)
    copy.write_text(text.replace("</body>", f"<script>{{{script}\n}}{leave}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", copy.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    parser = _Attribute()
    parser.feed(done.stdout)
    assert parser.found is not None, "the script of the test did not come to its end"
    found: dict[str, Any] = json.loads(parser.found)
    return found


class Tab:
    """A page of a server in a real browser, driven over a pipe by Chromium's DevTools protocol.

    `errors` are exceptions of the page's scripts, what it wrote to its console, and what its policy blocked.
    """

    def __init__(self, folder: Path, width: int = 1400, height: int = 1000) -> None:
        commands, answers = os.pipe(), os.pipe()
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
        # The browser reads commands from descriptor 3, and writes to 4.
        reads, writes = (fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, 10) for d in (commands[0], answers[1]))
        actions = [(os.POSIX_SPAWN_OPEN, d, os.devnull, os.O_WRONLY, 0) for d in (1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, reads, 3), (os.POSIX_SPAWN_DUP2, writes, 4)]
        self._process = os.posix_spawn(CHROMIUM, [CHROMIUM, *flags], os.environ, file_actions=actions)
        for descriptor in (reads, writes, commands[0], answers[1]):
            os.close(descriptor)
        self._write, self._read = os.fdopen(commands[1], "wb"), os.fdopen(answers[0], "rb")
        self._rest, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        given = {"targetId": target["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **given)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *error: object) -> None:
        self.call("Browser.close")
        self._write.close()
        while os.read(self._read.fileno(), 1 << 20):
            pass
        self._read.close()
        os.waitpid(self._process, 0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], 120)[0], "the browser does not answer"
            more = os.read(self._read.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        name, parameters = found.get("method", ""), found.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"].get("exception", {}).get("description", "exception"))
        if name in ("Log.entryAdded", "Runtime.consoleAPICalled"):
            self.errors.append(parameters.get("entry", {}).get("text") or str(parameters.get("args")))
        return found

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """Give the page a size; a phone has a touch screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        origin = json.dumps("/".join(address.split("/")[:3]))
        self.until(f"location.origin === {origin} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Run an expression in the page, await it if it is a promise, and return its value."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        done = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}; {self.errors}"
            time.sleep(0.05)

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Give files to a file input, as its dialogue would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(f) for f in files])

    def drag(self, kind: str, files: Sequence[Path], x: float, y: float) -> None:
        """Move files over the page as from another window: "dragEnter", "dragOver", then "drop"."""
        data = {"items": [], "files": [str(f) for f in files], "dragOperationsMask": 1}
        self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, code: int = 0, shift: bool = False) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            given = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
            self.call("Input.dispatchKeyEvent", type=kind, **given, **(text if kind == "keyDown" else {}))

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Move the mouse, and perhaps click."""
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            given = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **given)

    def downloads(self, folder: Path) -> None:
        """Have downloads go to a folder."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, kind: str = "png", quality: int | None = None) -> bytes:
        """Return what is seen, as "png", or as "webp" or "jpeg" of a quality."""
        given = {} if quality is None else {"quality": quality}
        return base64.b64decode(self.call("Page.captureScreenshot", format=kind, **given)["data"])
