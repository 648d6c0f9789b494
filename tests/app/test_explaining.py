"""The service says what the Python object says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import pellucid as pl
from app.kit import ask, numbers, problem
from pellucid.app.served import Served
from pellucid.data import open_data
from pellucid.networks import reading_for


def explained(served: Served, photo: Path, target: Any = None, **options: Any) -> pl.Explanation:
    """The same question in Python, from the file itself."""
    x = open_data(photo, **reading_for(served.network, str(photo), {}))[0].input[None]
    return pl.explain(served.network, x, target, **options)


@pytest.mark.parametrize("target", ["", "pear", "2", "pear against plum", "pear-plum", "apple against the rest"])
def test_numbers_are_those_of_explain(client: TestClient, models: dict[str, Served], photo: Path, target: str) -> None:
    told = ask(client, photo, model="softcam", target=target)
    e = explained(models["softcam"], photo, target.replace("pear-plum", "pear against plum") or None)
    np.testing.assert_allclose(numbers(told["map"]), e.map[0].numpy(), atol=1e-5)
    assert told["score"] == pytest.approx(float(e.score[0]), abs=1e-5)
    assert told["prediction"]["logits"] == pytest.approx(e.logits[0].tolist(), abs=1e-5)
    assert told["prediction"]["probabilities"] == pytest.approx(e.logits.softmax(1)[0].tolist(), abs=1e-5)
    assert told["prediction"]["answer"] == int(e.logits.argmax())
    rows = e.ledger(5).rows
    assert [(r["label"], r["where"]) for r in told["ledger"]] == [(r.what, r.where) for r in rows]
    assert [r["value"] for r in told["ledger"]] == pytest.approx([r.value for r in rows], abs=1e-5)
    assert told["target"]["text"] == e.target.describe(e.classes)
    assert told["text"]["short"] == e.text()


def test_the_ledger_and_the_cells_add_up(client: TestClient, photo: Path) -> None:
    told = ask(client, photo, target="plum")
    assert sum(row["value"] for row in told["ledger"]) == pytest.approx(told["score"], abs=1e-5)
    parts = told["contributions"]
    cells = float(numbers(told["map"]).astype(float).sum())
    assert cells + parts["constant"] + parts["common"] + parts["residual"] == pytest.approx(told["score"], abs=1e-5)
    boxes = [row["box"] for row in told["ledger"] if row["where"]]
    assert boxes
    for row in told["ledger"]:
        if row["where"]:
            x0, y0, x1, y1 = row["box"]
            assert row["where"] == f"x {x0} to {x1}, y {y0} to {y1}"


def test_cells_of_all_classes_make_every_answer(client: TestClient, photo: Path) -> None:
    """So that a page can change class without asking: cells and bias add up to each logit, differences to a contrast."""
    told = ask(client, photo, every_class="true", target="pear against plum")
    cells = numbers(told["every_class"]["cells"]).astype(float)
    made = cells.reshape(3, -1).sum(1) + told["every_class"]["bias"]
    np.testing.assert_allclose(made, told["prediction"]["logits"], atol=1e-5)
    np.testing.assert_allclose(cells[1] - cells[2], numbers(told["map"]), atol=1e-6)


def test_targets_are_told_by_number(client: TestClient, photo: Path) -> None:
    assert ask(client, photo, target="pear")["target"] == {"text": "pear", "index": 1, "against": None}
    both = ask(client, photo, target="pear against apple")["target"]
    assert (both["index"], both["against"]) == (1, 0)


@pytest.mark.parametrize("method", ["grad_cam", "saliency", "occlusion", "random_map"])
def test_other_methods_on_a_plain_network(
    client: TestClient, models: dict[str, Served], photo: Path, method: str
) -> None:
    told = ask(client, photo, model="plain", method=method, target="plum")
    e = explained(models["plain"], photo, "plum", method=method, classes=("apple", "pear", "plum"))
    np.testing.assert_allclose(numbers(told["map"]), e.map[0].numpy(), atol=1e-5)
    assert told["contributions"] is None
    assert told["ledger"] == []
    assert not told["map"]["complete"]


def test_half_precision_is_half(client: TestClient, photo: Path) -> None:
    whole, half = (ask(client, photo, dtype=dtype) for dtype in ("float32", "float16"))
    exact = numbers(whole["map"])
    np.testing.assert_array_equal(numbers(half["map"]), exact.astype(np.float16))
    assert half["score"] == whole["score"]


def test_what_is_too_large_for_half_precision_stays_whole(client: TestClient, photo: Path) -> None:
    from pellucid.app.answers import numbers as sent

    assert sent(torch.tensor([1e6]), "float16").dtype == "float32"


def test_an_input_is_sent_once(client: TestClient, photo: Path) -> None:
    first = ask(client, photo, target="pear")
    again = client.post("/v1/explain", data={"input_id": first["input_id"], "target": "plum", "with_input": "false"})
    assert again.status_code == 200
    assert again.json()["input"] is None
    assert again.json()["target"]["index"] == 2
    held = client.get(f"/v1/inputs/{first['input_id']}").json()
    assert held == {"input_id": first["input_id"], "name": "fruit.png", "bytes": photo.stat().st_size}
    problem(client.get("/v1/inputs/0000"), 404)


def test_a_name_is_told_to_its_sender_alone(client: TestClient, photo: Path) -> None:
    first, second = (ask(client, photo, name, target="pear") for name in ("first.png", "second.png"))
    assert (first["input"]["name"], second["input"]["name"]) == ("first.png", "second.png")
    assert first["input_id"] != second["input_id"]


def test_erasing_runs_the_network_again(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    """Inside the box the network is given a blurred copy, outside nothing changes."""
    from pellucid import spatial

    served = models["softcam"]
    told = ask(client, photo, target="pear", erase="[[8, 16, 40, 32]]")
    x = open_data(photo, **reading_for(served.network, str(photo), {}))[0].input[None]
    changed = x.clone()
    changed[:, :, 16:32, 8:40] = spatial.blur(x)[:, :, 16:32, 8:40]
    e = pl.explain(served.network, changed, "pear")
    assert told["score"] == pytest.approx(float(e.score[0]), abs=1e-5)
    shown, whole = numbers(told["input"]["values"]), numbers(ask(client, photo)["input"]["values"])
    assert np.array_equal(shown[:, :16], whole[:, :16])
    assert not np.array_equal(shown[:, 16:32, 8:40], whole[:, 16:32, 8:40])


def test_the_input_is_shown_as_it_was(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    told = ask(client, photo)["input"]
    sample = open_data(photo, **reading_for(models["softcam"].network, str(photo), {}))[0]
    np.testing.assert_allclose(numbers(told["values"]).transpose(1, 2, 0), sample.image / 255, atol=0.5 / 255 + 1e-6)
    assert (told["rank"], told["size"], told["window"]) == (2, [64, 64], None)


def test_the_field_of_a_cell(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    told = ask(client, photo)
    known: Any = models["softcam"].network.certificate
    assert told["receptive_field"] == list(known.receptive_field)
    assert told["geometry"]["start"] == list(known.start)
    assert told["geometry"]["jump"] == list(known.jump)


def test_options_of_a_method(client: TestClient, models: dict[str, Served], photo: Path) -> None:
    told = ask(client, photo, target="pear", options='{"gauge": "raw"}')
    e = explained(models["softcam"], photo, "pear", gauge="raw")
    np.testing.assert_allclose(numbers(told["map"]), e.map[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"model": "sofcam"}, 404, "softcam"),
        ({"method": "grad-cam"}, 422, "grad_cam"),
        ({"target": "peer"}, 422, "pear"),
        ({"target": "7"}, 422, "class 7"),
        ({"layer": "nowhere", "method": "grad_cam"}, 422, "nowhere"),
        ({"layer": "model.features"}, 422, "layer"),
        ({"options": '{"gauge": "loose"}'}, 422, "free, raw"),
        ({"options": '{"colour": 1}'}, 422, "gauge"),
        ({"options": "{"}, 422, "options"),
        ({"method": "rise", "options": '{"masks": 1000000}'}, 422, "4000"),
        ({"method": "rise", "options": '{"keep": true}'}, 422, "number"),
        ({"erase": "[[1, 2, 3]]"}, 422, "4 are needed"),
        ({"erase": "[[100, 100, 101, 101]]"}, 422, "no sample"),
        ({"colour": "red"}, 422, "colour"),
        ({"slice": "4"}, 422, "slice"),
        ({"window": "[100, 0]"}, 422, "wide"),
        ({"dtype": "float64"}, 422, "dtype"),
        ({"input_id": "0"}, 422, "file and input_id"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, photo: Path, fields: dict[str, str], status: int, word: str) -> None:
    answer = client.post("/v1/explain", files={"file": ("fruit.png", photo.read_bytes())}, data=fields)
    told = problem(answer, status)
    assert word in " ".join([told["title"], told["detail"], told["hint"]])


def test_without_an_input(client: TestClient) -> None:
    problem(client.post("/v1/explain", data={"target": "pear"}), 422)
    problem(client.post("/v1/explain", data={"input_id": "0123"}), 404)
    problem(client.post("/v1/explain", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    problem(client.get("/v1/explain"), 405)
    problem(client.get("/v2/explain"), 404)


def test_models_are_described(client: TestClient, models: dict[str, Served]) -> None:
    told = client.get("/v1/models").json()
    assert [m["id"] for m in told["models"]] == ["softcam", "plain", "signals", "volumes"]
    softcam, plain, signals, _ = told["models"]
    assert softcam["classes"] == ["apple", "pear", "plum"]
    assert softcam["input"] == {"channels": 3, "size": [64, 64], "rank": 2}
    assert softcam["certificate"]["kind"] == "exact"
    assert (softcam["kind"], plain["kind"]) == ("softcam", "network")
    assert softcam["methods"][0]["name"] == softcam["default_method"] == "evidence"
    assert plain["default_method"] == "grad_cam"
    assert "evidence" not in [m["name"] for m in plain["methods"]]
    assert {m["name"] for m in softcam["methods"]} == set(pl.METHODS)
    assert signals["input"] == {"channels": 1, "size": [96], "rank": 1}
    assert softcam["temperature"] is None
    assert "not calibrated" in softcam["calibration"]
    assert client.get("/v1/models/plain").json() == plain
    problem(client.get("/v1/models/none"), 404)
    convolutions = [layer for layer in softcam["layers"] if layer["convolution"]]
    assert convolutions[0] == {"name": "model.features.0.0", "channels": 8, "grid": [32, 32], "convolution": True}


@pytest.mark.parametrize("method", sorted(set(pl.METHODS) - {"rise", "score_cam", "ablation_cam", "occlusion"}))
def test_every_method_answers(client: TestClient, photo: Path, method: str) -> None:
    """Also with the hook that lets a client go away in the middle."""
    told = ask(client, photo, method=method, target="pear", with_input="false")
    assert np.isfinite(numbers(told["map"])).all()
    assert json.dumps(told, allow_nan=False)
