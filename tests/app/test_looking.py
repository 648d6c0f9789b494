"""Filters and channels as the views have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, numbers, problem
from pellucid.app.served import Served
from pellucid.data import open_data
from pellucid.networks import reading_for


def test_filters(client: TestClient, models: dict[str, Served]) -> None:
    told = client.get("/v1/models/softcam/filters", params={"k": 5}).json()
    found = pl.VIEWS["filters"](models["softcam"].network)
    assert told["channels"] == found.order[:5].tolist()
    np.testing.assert_array_equal(numbers(told["kernels"]), found.kernels[found.order[:5]].numpy())
    assert (told["total"], told["colour"]) == (8, True)


def test_filters_of_a_layer(client: TestClient) -> None:
    layers = client.get("/v1/models/softcam").json()["layers"]
    last = [layer["name"] for layer in layers if layer["convolution"]][-1]
    assert client.get("/v1/models/softcam/filters", params={"layer": last}).json()["layer"] == last
    told = problem(client.get("/v1/models/softcam/filters", params={"layer": "features.9"}), 422)
    assert "features" in told["hint"]
    problem(client.get("/v1/models/softcam/filters", params={"k": 0}), 422)
    problem(client.get("/v1/models/none/filters"), 404)


def test_channels_add_up_to_the_score(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    """All eight and the constant; fewer are the strongest on either side."""
    input_id = ask(client, photo)["input_id"]
    question = {"input_id": input_id, "model": "softcam", "target": "pear", "k": 256}
    told = client.post("/v1/feature-maps", json=question).json()
    assert told["complete"]
    parts = sum(c["contribution"] for c in told["channels"]) + told["constant"] + told["residual"]
    assert parts == pytest.approx(told["score"], abs=1e-5)
    network = models["softcam"].network
    x = open_data(photo, **reading_for(network, str(photo), {}))[0].input[None]
    found = pl.VIEWS["feature_maps"](network, x, "pear")
    order = found.order[0]
    assert [c["channel"] for c in told["channels"]] == order.tolist()
    np.testing.assert_allclose(numbers(told["maps"]), found.maps[0, order].numpy(), atol=1e-5)
    np.testing.assert_allclose(numbers(told["cells"]).sum((1, 2)), found.contributions[0, order].numpy(), atol=1e-4)
    few = client.post("/v1/feature-maps", json={**question, "k": 3}).json()
    assert [c["channel"] for c in few["channels"]] == [*order[:2].tolist(), int(order[-1])]


def test_channels_of_what_is_not_there(client: TestClient, photo: Path) -> None:
    input_id = ask(client, photo)["input_id"]
    problem(client.post("/v1/feature-maps", json={"input_id": "0"}), 404)
    problem(client.post("/v1/feature-maps", json={"input_id": input_id, "layer": "x"}), 422)
    problem(client.post("/v1/feature-maps", json={"input_id": input_id, "target": "x"}), 422)
    problem(client.post("/v1/feature-maps", json={"input_id": input_id, "colour": "x"}), 422)
    problem(client.post("/v1/feature-maps", content=b"{", headers={"content-type": "application/json"}), 422)
