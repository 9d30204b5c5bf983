"""A page in a real browser, without a driver: a script of the test runs inside the page and leaves its findings."""

from __future__ import annotations

import json
import shutil
import subprocess
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
