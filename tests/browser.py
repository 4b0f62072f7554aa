"""A headless Chromium that stays open and is asked questions, by the DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from conftest import until
from websockets.sync.client import connect
from websockets.sync.connection import Connection

MISSING = None if shutil.which("chromium") else "chromium is not installed"


class PageLeft(Exception):
    """The page was left while it was asked something."""


class Tab:
    """One page. `says` collects what the page writes to its console, and what its policy refused."""

    def __init__(self, socket: Connection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.says: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                if answer.get("error", {}).get("message") == "Inspected target navigated or closed":
                    raise PageLeft
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.says.append(json.dumps(answer["params"]))

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait_for('document.readyState === "complete"')

    def ask(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 60) -> Any:
        """Ask until the answer is true, also of the next page where this one is left meanwhile."""

        def asked() -> Any:
            with suppress(PageLeft):
                return self.ask(expression)

        return until(asked, timeout, expression)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, as a person does."""
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        name = " " if key == "Space" else key
        codes = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            "Space": 32,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Home": 36,
        }
        common: dict[str, Any] = {
            "key": name, "code": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": 8 if shift else 0
        }  # fmt: skip
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, element: str) -> None:
        """Click where a person sees an element, given by an expression, once it is there."""
        at = self.wait_for(f"""(() => {{
            const element = {element};
            if (!element) return null;
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
            const top = document.elementFromPoint(x, y);
            return top && (element.contains(top) || top.contains(element)) && [x, y];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            x, y = at
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def shot(self, file: Path, *, width: int = 1200, dark: bool = False) -> None:
        """The whole page as a picture."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        size["height"] = max(600, min(int(self.ask("document.documentElement.scrollHeight")), 4000))
        self.call("Emulation.setDeviceMetricsOverride", **size)
        picture = self.call("Page.captureScreenshot")
        file.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A browser with a profile of its own in `folder`."""
    profile = folder / "browser"
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
        "--disable-quic", "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(["chromium", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        file = profile / "DevToolsActivePort"
        until(lambda: file.exists() and "\n" in file.read_text(), 60, "the browser")
        port = file.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(60)
