"""Walks through written pages with the Tab key in headless Chromium, over its debugging pipe."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.browser import CHROMIUM

# Chromium reads its commands from file descriptor 3 and answers on 4.
START = "import os, sys; os.dup2({0}, 3); os.dup2({1}, 4); os.execv(sys.argv[1], sys.argv[1:])"
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), "ArrowDown": (40, "")}
PATIENCE = 20
"""Presses of Tab that may stay on one element, such as on the parts of a video's controls."""

WHERE = """(() => {
  const here = document.activeElement;
  if (!here || here === document.body || here === document.documentElement) return null;
  window.stops ??= new Map();
  if (!window.stops.has(here)) window.stops.set(here, window.stops.size);
  // A hidden radio button is shown, and marked, by its label.
  const shown = here.matches("[type=radio], [type=checkbox]") && here.nextElementSibling || here;
  const middle = (low, high, end) => (Math.max(low, 0) + Math.min(high, end)) / 2;
  const style = getComputedStyle(shown);
  const parts = [shown, ...shown.querySelectorAll("*")].flatMap(each => [...each.getClientRects()]);
  const seen = parts.some(box => {
    const top = box.width > 1 && box.height > 1 && document.elementFromPoint(
      middle(box.left, box.right, innerWidth), middle(box.top, box.bottom, innerHeight));
    return top && (shown.contains(top) || style.pointerEvents === "none" && top.contains(shown));
  });
  return {
    index: window.stops.get(here),
    element: here.outerHTML.slice(0, 160),
    name: here.ariaLabel || here.title || here.innerText.trim(),
    visible: seen && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
  };
})()"""
"""The element that has the focus; nothing where it is nowhere on the page."""

MISSED = """[...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, video[controls], [tabindex]")]
  .filter(each => each.tabIndex >= 0 && !each.disabled && each.checkVisibility(
    {visibilityProperty: true, opacityProperty: false}) && each.getClientRects().length
    && !(each.type === "radio" && !each.checked) && !window.stops?.has(each))
  .map(each => each.outerHTML.slice(0, 160))"""

SCROLLING = """[...document.querySelectorAll("body *")]
  .filter(each => /auto|scroll/.test(getComputedStyle(each).overflowX) && each.clientWidth
    && each.scrollWidth > each.clientWidth + 1 && each.checkVisibility()
    && !(each.tabIndex === 0 && each.ariaLabel))
  .map(each => each.outerHTML.slice(0, 160))"""
"""Areas that scroll sideways and are out of the keyboard's reach, or have no name."""


@dataclass(frozen=True)
class Stop:
    """Where the focus was after a press of Tab.

    Attributes:
        index: number of the element, in the order in which they were met.
        element, name: its HTML, shortened, and what a screen reader would call it.
        visible: whether a part of it lies in the window, under nothing else, and an outline marks
            it.
    """

    index: int
    element: str
    name: str
    visible: bool


@dataclass(frozen=True)
class Walk:
    """A way through a page by Tab, from its top until the focus leaves it.

    Attributes:
        stops: one a press.
        trapped: whether the focus stayed on one element, or never left the page.
        missed: visible elements that can have the focus, and never had it.
        unreachable: areas that scroll sideways without a place in the order of Tab and a name.
    """

    stops: list[Stop]
    trapped: bool
    missed: list[str]
    unreachable: list[str]


class Browser:
    """A page in headless Chromium, asked by the DevTools protocol."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", 0)
        self.asked, self.rest, self.session = 0, b"", None

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer; events in between are dropped."""
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.asked:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def value(self, script: str) -> Any:
        """What JavaScript gives."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, down and up."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, **pressed)

    def write_text(self, text: str) -> None:
        """A word at once, so that a page which looks for what is typed looks for all of it only."""
        self.ask("Input.insertText", text=text[:-1])
        self.press(text[-1])

    def wait(self, script: str) -> None:
        """Until JavaScript gives something true.

        Raises:
            AssertionError: it never does.
        """
        for _ in range(1200):  # a busy machine takes its time
            if self.value(f"!!({script})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def open(self, address: str) -> None:
        """Go there and wait until all of it is loaded."""
        self.ask("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    def tab(self) -> Stop | None:
        """Press Tab; where the focus is then, None where it is nowhere on the page."""
        self.press("Tab")
        for _ in range(20):
            found = self.value(WHERE)
            if found is None or found["visible"]:
                break
            time.sleep(0.05)  # what opens or closes with the focus takes a moment
        return found and Stop(**found)

    def walk(self, most: int = 1000) -> Walk:
        """Press Tab from the top of the page until the focus leaves it."""
        stops: list[Stop] = []
        trapped = True
        for _ in range(most):
            stop = self.tab()
            if stop is None:
                trapped = False
                break
            stops.append(stop)
            if len(stops) > PATIENCE and len({each.index for each in stops[-PATIENCE:]}) == 1:
                break
        return Walk(stops, trapped, self.value(MISSED), self.value(SCROLLING))

    def _next(self) -> Any:
        while b"\0" not in self.rest:
            part = self.read.read(1 << 16)
            assert part, "Chromium has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(
    scratch: Path, *, width: int, height: int = 900, dark: bool = False
) -> Iterator[Browser]:
    """An empty page in a window of a size.

    Args:
        scratch: an empty folder for what the browser leaves.
    """
    assert CHROMIUM is not None
    theirs, ours = zip(os.pipe(), reversed(os.pipe()), strict=True)
    passed = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in theirs]
    for each in theirs:
        os.close(each)
    command = [
        *(sys.executable, "-c", START.format(*passed)),
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        *("--disable-background-networking", "--no-first-run", "--hide-scrollbars"),
        f"--user-data-dir={scratch / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    process = subprocess.Popen(command, pass_fds=passed, stderr=subprocess.DEVNULL)
    for each in passed:
        os.close(each)
    page = Browser(ours[1], ours[0])
    try:
        target = page.ask("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        page.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", features=[scheme])
        yield page
    finally:
        process.terminate()
        process.wait()
        page.read.close()
        page.write.close()
