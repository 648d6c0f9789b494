"""What the tests of the service share."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from starlette.testclient import TestClient

from cli.kit import CLASSES, small
from pellucid.app.served import Served
from pellucid.app.server import create_app
from pellucid.app.service import Settings
from pellucid.models import zoo
from pellucid.models.convert import convert
from pellucid.models.softcam import SoftCAM

Live = Callable[..., int]


def client_of(models: Mapping[str, Served], settings: Settings | None = None) -> TestClient:
    return TestClient(create_app(models, settings), base_url="http://localhost", raise_server_exceptions=False)


def numbers(told: Mapping[str, Any]) -> Array:
    """The array that a client makes of what was sent."""
    kind = {"float16": "<f2", "float32": "<f4"}[told["dtype"]]
    return np.frombuffer(base64.b64decode(told["data"]), kind).reshape(told["shape"])


def ask(client: TestClient, file: Path | bytes, name: str = "fruit.png", **fields: str) -> Any:
    """The answer to `POST /v1/explain`, which has to be 200."""
    data = file if isinstance(file, bytes) else file.read_bytes()
    answer = client.post("/v1/explain", files={"file": (name, data)}, data=fields)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


def problem(answer: Any, status: int) -> Any:
    """The problem that was answered, which has to be of this status and well-formed."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "hint"}
    assert told["status"] == status
    assert told["title"]
    return told


def form(data: bytes, *, part: str = "file", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body with a file, and its headers."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = f'--x\r\nContent-Disposition: form-data; name="{part}"; filename="a.png"\r\n\r\n'.encode()
    body = b"".join([*parts, head, data, b"\r\n--x--\r\n"])
    return body, {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(len(body))}


def small_softcam() -> SoftCAM:
    softcam = convert(small(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), classes=CLASSES)
    softcam.preprocessing = {"size": 64, "crop": "resize"}  # type: ignore[assignment]
    return softcam


def signals() -> SoftCAM:
    """Two classes, series of one channel and 96 samples."""
    return of_rank(1, (1, 96))


def volumes() -> SoftCAM:
    """Two classes, volumes of 16 voxels a side."""
    softcam = of_rank(3, (1, 16, 16, 16))
    softcam.preprocessing = {"size": 16}  # type: ignore[assignment]
    return softcam


def of_rank(rank: int, shape: tuple[int, ...]) -> SoftCAM:
    """A network of two classes for inputs of this shape (channels, *spatial)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network: Any = zoo.build("pellucid:s8", num_classes=2, channels=(4, 4, 4), strides=(2, 2, 1), in_channels=shape[0], rank=rank)  # fmt: skip
        network.head.weight.data.normal_(0, 3)
    return convert(network.eval(), torch.randn(2, *shape), classes=("no", "yes"))


def series(path: Path, count: int = 3, length: int = 96) -> Path:
    """A file of the UCR archive's form: the label, then the values."""
    waves = [np.sin(np.linspace(0, 9 + k, length)) for k in range(count)]
    path.write_text("\n".join(f"{k % 2}," + ",".join(f"{v:.6f}" for v in wave) for k, wave in enumerate(waves)))
    return path
