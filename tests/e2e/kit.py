"""A visit to the page that notes what the page does, and small networks to be visited."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy import ndarray as Array
from PIL import Image

from app import kit
from pellucid.models import zoo
from pellucid.models.convert import convert

SIDE = 64
PATIENCE = 120_000  # milliseconds that a busy machine may take for one step
QUIET = 150  # milliseconds without a question after which the page has none left


class Visit:
    """A page with everything that it asked for and complained of.

    requests: (method, path) in order. responses: by path, in order. errors: console errors, exceptions and
    violations of the content security policy; a test that expects some takes them away.
    """

    def __init__(self, page: Any, site: str) -> None:
        self.page, self.site = page, site
        self.requests: list[tuple[str, str]] = []
        self.responses: list[tuple[str, Any]] = []
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.waiting: set[Any] = set()
        page.set_default_timeout(PATIENCE)
        page.on("request", self._asked)
        page.on("response", self._answered)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective))"
        )

    def _asked(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https"):
            self.hosts.add(parts.netloc)
            self.waiting.add(request)
            if not parts.path.endswith("/icon.svg"):  # which the browser asks for when it likes
                self.requests.append((request.method, parts.path))

    def _ended(self, request: Any) -> None:
        self.waiting.discard(request)

    def _answered(self, response: Any) -> None:
        self.responses.append((urlsplit(response.url).path, response))

    def told(self, path: str) -> list[Any]:
        """The JSON of all answers of a path so far, the last one last."""
        return [response.json() for where, response in self.responses if where == path]

    def explained(self, target: str) -> Any:
        """The last answer that the page got for a target."""
        return next(told for told in reversed(self.told("/v1/explain")) if told["target"]["text"] == target)

    def go(self, address: str = "") -> Visit:
        self.page.goto(f"{self.site}/{address}")
        self.page.wait_for_selector("#model option", state="attached")
        return self

    def open(self, *files: Path, model: str = "") -> Any:
        """Upload, and give the answer that the page got."""
        if model:
            self.page.select_option("#model", model)
        return self.asking("/v1/explain", lambda: self.page.set_input_files("#files", list(files)))

    def asking(self, path: str, act: Callable[[], Any]) -> Any:
        """Do what makes the page ask, and give the answer once the page has drawn it."""
        with self.page.expect_response(lambda response: urlsplit(response.url).path == path) as answered:
            act()
        self.settle()
        return answered.value.json()

    def silently(self, act: Callable[[], Any]) -> None:
        """Do what must not make the page ask anything."""
        before = len(self.requests)
        act()
        self.settle()
        assert not self.requests[before:], self.requests[before:]

    def forgive(self, *statuses: int) -> None:
        """Take away the browser's own words about answers of these statuses, which the page tells people in its own."""
        self.page.wait_for_timeout(100)
        self.errors = [e for e in self.errors if not any(f"status of {status} " in e for status in statuses)]

    def settle(self) -> None:
        """Until nothing is on its way, also nothing that the page asks ahead, and the last frame is painted."""
        self.page.wait_for_selector("#progress", state="hidden")
        since = time.monotonic()
        while time.monotonic() - since < QUIET / 1000:
            self.page.wait_for_timeout(20)
            since = time.monotonic() if self.waiting else since
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def pixels(self, canvas: str = "#evidence-pane") -> Array:
        """What is drawn on a canvas, as RGBA."""
        address = self.page.eval_on_selector(canvas, "(canvas) => canvas.toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))

    def text(self, selector: str) -> str:
        found: str = self.page.inner_text(selector)
        return found

    def slide(self, name: str, value: float) -> None:
        """Move a slider as a hand does."""
        self.page.eval_on_selector(
            f"#{name}",
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
            value,
        )

    def click_at(self, x: float, y: float, canvas: str = "#evidence-pane") -> None:
        """Click a place, as shares of a canvas."""
        box = self.page.locator(canvas).bounding_box()
        self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def drag(self, start: tuple[float, float], end: tuple[float, float], canvas: str = "#evidence-pane") -> None:
        self.page.locator(canvas).scroll_into_view_if_needed()
        box = self.page.locator(canvas).bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        self.page.mouse.move(*places[1], steps=5)
        self.page.mouse.up()


def number(text: str) -> float:
    """A number as the page prints it."""
    return float(text.replace("\N{MINUS SIGN}", "-").split()[0])


def numbers(told: Any) -> Array:
    """An array as the server sends it, in float64."""
    return kit.numbers(told).astype(np.float64)


# --- networks --------------------------------------------------------------------------------------------------------


def softcam(rank: int, side: int, channels: int, classes: Sequence[str], seed: int = 0, **facts: Any) -> Any:
    """A network that was not trained, with weights large enough for an opinion."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = zoo.build("pellucid:s8", num_classes=len(classes), channels=(8, 8, 8), strides=(2, 2, 2), in_channels=channels, rank=rank)  # fmt: skip
        network.head.weight.data.normal_(0, 4)
        made = convert(network.eval(), torch.randn(2, channels, *(side,) * rank), classes=classes)
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def against_itself() -> Any:
    """A network in which no place ever speaks for "second" rather than "first"."""
    made = softcam(2, SIDE, 3, ("first", "second"), preprocessing={"size": SIDE, "crop": "resize"})
    head = made.model.head.weight.data
    head.copy_(torch.stack([head[0].abs(), -head[0].abs()]))
    return made


# --- a server ----------------------------------------------------------------------------------------------------


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address at which an application answers."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
