"""Opens written pages in headless Chromium and says what a reader would see of them."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HERE = "127.0.0.1"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

PROBE = """<!doctype html>
<iframe id="page" src="/PAGE" width="WIDTH" height="900"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").onload = () => setTimeout(() => {
  const page = document.getElementById("page").contentDocument;
  const images = [...page.images];
  document.getElementById("found").textContent = JSON.stringify({
    width: page.scrollingElement.scrollWidth,
    broken: images.filter(each => each.complete && !each.naturalWidth).map(each => each.src),
    unnamed: images.filter(each => !each.alt).map(each => each.src.slice(0, 80)),
    background: getComputedStyle(page.body).backgroundColor,
    colour: getComputedStyle(page.body).color,
    asked: page.defaultView.performance.getEntriesByType("resource").map(each => each.name),
    words: page.body.innerText.split(/\\s+/).length,
  });
}, 1000);
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a page is in a window.

    Attributes:
        width: what it takes, in CSS pixels; more than the window means scrolling sideways.
        broken, unnamed: pictures that did not load, and those without an alternative text.
        background, colour: of the page and of its text, as `rgb(...)`.
        words: that can be read.
        asked: addresses that the page asked for anything, but this machine.
    """

    width: int
    broken: list[str]
    unnamed: list[str]
    background: str
    colour: str
    words: int
    asked: list[str]


def look(folder: Path, page: str, scratch: Path, *, width: int, dark: bool = False) -> Seen:
    """Open a page of a folder in a window of a width.

    Args:
        scratch: an empty folder for what the browser leaves.
    """
    assert CHROMIUM is not None
    with served(folder, page, width) as address:
        command = [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ),
            *("--no-first-run", f"--user-data-dir={scratch / 'profile'}", "--hide-scrollbars"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # its own calls, too
            *("--virtual-time-budget=20000", f"--window-size={width + 100},1000", "--dump-dom"),
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            f"{address}/__probe__",
        ]
        dom = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True
        ).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found and found[1], dom[-500:]
    seen = Seen(**json.loads(html.unescape(found[1])))
    seen.asked[:] = [each for each in seen.asked if urlsplit(each).hostname not in (None, HERE)]
    return seen


@contextmanager
def served(folder: Path, page: str = "", width: int = 0) -> Iterator[str]:
    """The address of a folder on a free port of this machine, with a probe of one of its pages."""
    probe = PROBE.replace("PAGE", page).replace("WIDTH", str(width)).encode()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/__probe__":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(probe)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HERE, 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HERE}:{server.server_address[1]}"
        finally:
            server.shutdown()


def brightness(colour: str) -> float:
    """Of `rgb(r, g, b)` or `rgba(r, g, b, a)`."""
    return sum(float(each) for each in colour.partition("(")[2].rstrip(")").split(",")[:3])
