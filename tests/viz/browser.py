"""A headless Chromium driven over its debugging pipe, with the standard library only."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
# Chromium reads commands from descriptor 3 and answers on 4; both are moved out of the way first.
_EXEC = (
    "import os, sys, fcntl; r, w = (fcntl.fcntl(int(x), fcntl.F_DUPFD, 50) for x in sys.argv[1:3]);"
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab: `evaluate` runs an expression in it.

    `problems` holds what its console complained about, `requests` every address it asked for but data: ones.
    """

    def __init__(self, write: int, read: int):
        self._write, self._read, self._buffer, self._last = write, read, b"", 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, patience: float = 120) -> dict:
        end = time.monotonic() + patience
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("chromium does not answer")
            piece = os.read(self._read, 1 << 16)
            if not piece:
                raise RuntimeError("chromium has gone away")
            self._buffer += piece
        first, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(first)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(
                str(params["exceptionDetails"].get("exception", {}).get("description", params))
            )
        elif message.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests += [url] * (not url.startswith("data:"))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))
        return message

    def open(self, path: pathlib.Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 700)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")

    def wait(self, expression: str, patience: float = 60) -> None:
        end = time.monotonic() + patience
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; console: {self.problems}")
            time.sleep(0.05)

    def evaluate(self, expression: str):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def point(self, selector: str, kind: str = "mouseMoved", at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Moves the mouse onto the first match, clicks or taps there; `at`: where, as shares of its sides."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.evaluate(
            f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())"
        )
        x, y = left + width * at[0], top + height * at[1]
        if kind == "tap":
            self._touch([(x, y)], until="click")
            return
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if kind == "click":
            for step in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=step, x=x, y=y, button="left", clickCount=1)

    def swipe(self, selector: str, by: float) -> None:
        """Moves a finger sideways, from the middle of the first match; `by`: pixels, to the right."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})")
        self._touch([(x, y), (x + by / 2, y), (x + by, y)], until="touchend")

    def _touch(self, path: list[tuple[float, float]], until: str) -> None:
        """Moves a finger along `path`, and waits for the page to hear `until`: chromium answers before."""
        hear = "() => setTimeout(() => { heard = true; })"
        once = "{ once: true, capture: true }"
        self.evaluate(f"window.heard = false; addEventListener('{until}', {hear}, {once})")
        for i, (x, y) in enumerate(path):
            kind = "touchMove" if i else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.wait("heard")

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key)
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def screenshot(self, path: pathlib.Path, *, whole: bool = False) -> None:
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **clip)["data"]))


@contextlib.contextmanager
def chromium(profile: pathlib.Path) -> Iterator[Page]:
    """Starts a browser with an empty profile in `profile` and closes it afterwards."""
    command = find()
    assert command is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _EXEC,
            str(to_read),
            str(from_write),
            command,
            *_FLAGS,
            f"--user-data-dir={profile}",
        ],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        with contextlib.suppress(OSError):
            os.write(to_write, b'{"id":0,"method":"Browser.close"}\0')
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_write)
        os.close(from_read)
