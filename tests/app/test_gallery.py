"""The inputs of a data set, worst first."""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, client_of, of_rank, problem
from cli.kit import picture
from pellucid.app.served import Served, open_all
from pellucid.app.service import Settings
from pellucid.data import open_data
from pellucid.networks import reading_for


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of two of the network's classes in a table, some with a mask; one cannot be read."""
    folder = tmp_path_factory.mktemp("set")
    rows = ["path,label,mask"]
    for k in range(7):
        picture(folder / f"{k}.png", k)
        mask = np.zeros((88, 80), np.uint8)
        mask[:, : 10 * k + 5] = 255
        Image.fromarray(mask).save(folder / f"m{k}.png")
        rows.append(f"{k}.png,{('pear', 'plum')[k % 2]},{f'm{k}.png' if k < 5 else ''}")
    (folder / "6.png").write_bytes(b"\x89PNG broken")
    (folder / "set.csv").write_text("\n".join(rows))
    return folder / "set.csv"


@pytest.fixture(scope="module")
def room(models: dict[str, Served], source: Path) -> Iterator[TestClient]:
    with client_of(models, Settings(data=str(source))) as client:
        for _ in range(500):
            told = client.get("/v1/gallery").json()
            if told["looked_at"] == told["total"] == 7:
                break
            time.sleep(0.02)
        yield client


def page(client: TestClient, **asked: Any) -> Any:
    answer = client.get("/v1/gallery", params=asked)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


def test_losses_are_those_of_the_network(room: TestClient, models: dict[str, Served], source: Path) -> None:
    told = page(room)
    assert (told["total"], told["failed"], len(told["items"])) == (7, 1, 6)
    network = models["softcam"].network
    data = open_data(source, **reading_for(network, str(source), {}))
    losses = [item["loss"] for item in told["items"]]
    assert losses == sorted(losses, reverse=True)
    for item in told["items"]:
        sample = data[int(item["input_id"].removeprefix("data-"))]
        chances = network(sample.input[None]).detach().softmax(1)[0]
        label = ("apple", "pear", "plum").index(data.classes[sample.label])
        assert item["label"] == data.classes[sample.label]
        assert item["loss"] == pytest.approx(-math.log(float(chances[label])), abs=1e-5)
        assert item["prediction"] == ("apple", "pear", "plum")[int(chances.argmax())]
        assert item["name"] == sample.name


def test_evidence_outside_the_mask(room: TestClient, models: dict[str, Served], source: Path) -> None:
    items = page(room, sort="outside")["items"]
    known = [item["outside"] for item in items if item["outside"] is not None]
    assert known == sorted(known, reverse=True)
    assert len(known) == 5
    assert [item["outside"] for item in items[5:]] == [None]
    network = models["softcam"].network
    data = open_data(source, **reading_for(network, str(source), {}))
    for item in items[:5]:
        sample = data[int(item["input_id"].removeprefix("data-"))]
        e = pl.explain(network, sample.input[None])
        cells, geometry = e.map[0].abs(), e.geometry
        columns = ((torch.arange(64) - geometry.start[1]) / geometry.jump[1] + 0.5).floor().long().clamp(0, 7)
        inside = 0.0  # cell by cell: its value times the share of its columns that lie in the mask
        width = int(sample.mask[0].sum())
        for column in range(8):
            own = (columns == column).nonzero().flatten()
            inside += float(cells[:, column].sum()) * float((own < width).float().mean())
        assert item["outside"] == pytest.approx(1 - inside / float(cells.sum()), abs=1e-5)


def test_networks_that_disagree(room: TestClient, models: dict[str, Served], source: Path) -> None:
    """These two are one network, before and after conversion."""
    assert all(item["disagreement"] < 1e-5 for item in page(room, sort="disagreement")["items"])
    with client_of({"softcam": models["softcam"]}, Settings(data=str(source))) as client:
        problem(client.get("/v1/gallery", params={"sort": "disagreement"}), 422)


def test_pages(room: TestClient) -> None:
    whole = [item["input_id"] for item in page(room)["items"]]
    parts = [item["input_id"] for at in (0, 2, 4) for item in page(room, offset=at, limit=2)["items"]]
    assert parts == whole
    problem(room.get("/v1/gallery", params={"sort": "beauty"}), 422)
    problem(room.get("/v1/gallery", params={"model": "none"}), 404)


def test_items_are_inputs(room: TestClient, source: Path) -> None:
    item = next(i for i in page(room)["items"] if i["input_id"] == "data-2")
    told = room.post("/v1/explain", data={"input_id": "data-2", "model": "softcam"}).json()
    again = ask(room, source.parent / "2.png", model="softcam")
    assert told["score"] == pytest.approx(again["score"], abs=1e-5)
    assert told["input"]["name"] == item["name"] == "2.png"
    assert room.get("/v1/inputs/data-2").json()["name"] == "2.png"
    problem(room.post("/v1/explain", data={"input_id": "data-70"}), 404)
    problem(room.post("/v1/explain", data={"input_id": "data-x"}), 404)
    problem(room.post("/v1/explain", data={"input_id": "data-6"}), 422)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(item["thumbnail"].partition(",")[2])))
    assert max(thumbnail.size) <= 96


def test_without_data(client: TestClient) -> None:
    assert "--data" in problem(client.get("/v1/gallery"), 404)["hint"]
    problem(client.get("/v1/inputs/data-0"), 404)
    assert client.get("/v1/models").json()["gallery"] is False


@pytest.mark.parametrize("channels", [1, 6])
def test_networks_that_the_data_do_not_suit_are_left_out(
    models: dict[str, Served], source: Path, tmp_path: Path, channels: int
) -> None:
    """Whatever is asked of them, it is their question that is refused; the others are looked at."""
    of_rank(1, (channels, 96)).save(tmp_path / "ecg")
    other = open_all([str(tmp_path / "ecg")], device=torch.device("cpu"))
    with client_of({**other, "softcam": models["softcam"]}, Settings(data=str(source))) as client:
        rooms: Any = client.app.state.rooms  # type: ignore[attr-defined]
        for _ in range(500):
            if rooms.total and rooms.failed + len(rooms.items) == rooms.total:
                break
            time.sleep(0.02)
        assert page(client, model="softcam")["failed"] == 1
        assert "softcam" in problem(client.get("/v1/gallery", params={"model": "ecg"}), 422)["hint"]
        problem(client.get("/v1/gallery", params={"model": "softcam", "sort": "disagreement"}), 422)
        problem(client.post("/v1/explain", data={"input_id": "data-0", "model": "ecg"}), 422)
    for data in (str(source), "lesionlab:fundus"):
        with client_of(other, Settings(data=data)) as client:
            answer = client.get("/v1/gallery")
            assert answer.status_code == 422 or answer.json()["items"] == []
            problem(client.post("/v1/explain", data={"input_id": "data-0"}), 422)
