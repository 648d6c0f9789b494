"""Small networks behind the service, in this process and on a port of this machine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi")

import uvicorn
from starlette.testclient import TestClient

from app.kit import Live, client_of, signals, small_softcam, volumes
from cli.kit import CLASSES, picture, small
from pellucid.app.served import Served, open_all
from pellucid.app.server import create_app
from pellucid.app.service import Settings
from pellucid.models.storage import save_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a SoftCAM and a black box of three classes that want pictures of 64 pixels."""
    run = tmp_path_factory.mktemp("runs") / "fruit"
    small_softcam().save(run / "softcam")
    network = small()
    network.preprocessing = {"size": 64, "crop": "resize"}  # type: ignore[assignment]
    save_model(network, run / "plain", classes=CLASSES, input_shape=(3, 64, 64))
    return run


@pytest.fixture(scope="session")
def models(folder: Path) -> dict[str, Served]:
    return open_all([str(folder)], device=torch.device("cpu"), convert=False)


@pytest.fixture(scope="session")
def all_ranks(models: dict[str, Served], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """The networks of pictures, one of signals and one of volumes."""
    place = tmp_path_factory.mktemp("ranks")
    signals().save(place / "signals")
    volumes().save(place / "volumes")
    return {**models, **open_all([str(place / "signals"), str(place / "volumes")], device=torch.device("cpu"))}


@pytest.fixture(scope="session")
def client(all_ranks: dict[str, Served]) -> Iterator[TestClient]:
    with client_of(all_ranks) as ready:
        yield ready


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture(tmp_path_factory.mktemp("photos") / "fruit.png", 3)


@pytest.fixture
def live(models: dict[str, Served]) -> Iterator[Live]:
    """`live(settings)`: a server on a free port of this machine, until the test ends."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(settings: Settings | None = None) -> int:
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        server = uvicorn.Server(uvicorn.Config(create_app(models, settings), log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return int(listening.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=10)
