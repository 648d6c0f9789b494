"""`pellucid export`, and the example that runs its file without torch."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid as pl
from cli.kit import CLASSES, Run, picture
from pellucid.data.image_file import Preparation, read_picture
from pellucid.spatial import upsample

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_without_torch.py"
WITHOUT = """
import runpy, sys
for name in ("torch", "torchvision", "pellucid"):
    sys.modules[name] = None  # importing any of them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert sys.modules["torch"] is None
"""


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved network of three classes, whose pictures are 64 pixels wide, as ONNX."""
    path = tmp_path_factory.mktemp("onnx") / "fruit.onnx"
    pl.export(pl.load(model), path, any_size=False)
    return path


def test_a_saved_network_becomes_a_file_that_describes_itself(run: Run, model: Path, tmp_path: Path) -> None:
    ended = run("export", model, "--out", tmp_path / "fruit.onnx", "--fixed-size", "--json")
    assert ended.code == 0, ended.err
    told = ended.json["description"]
    assert (told["classes"], told["input"]["size"]) == (list(CLASSES), [64, 64])
    assert (ended.json["format"], ended.json["any_size"]) == ("onnx", False)
    assert ended.json["parity"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "fruit.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["pellucid"]) == told
    x = torch.randn(3, 3, 64, 64)
    logits, evidence = session.run(["logits", "evidence"], {"input": x.numpy()})
    softcam: Any = pl.load(model)
    with torch.no_grad():
        assert np.allclose(logits, softcam(x), atol=1e-4)
        assert np.allclose(evidence, softcam.evidence_maps(x), atol=1e-4)


def test_a_named_network_is_converted_first(run: Run, tmp_path: Path) -> None:
    ended = run("export", "pellucid:s8", "--out", tmp_path / "s8.pt2", "--size", 32, "--no-check")
    assert ended.code == 0, ended.err
    assert "at random" in ended.err
    assert "not checked" in ended.out
    assert "32 x 32 or any other" in ended.out
    logits, maps = torch.export.load(tmp_path / "s8.pt2").module()(torch.randn(2, 3, 40, 32))
    assert torch.allclose(maps.mean((2, 3)), logits, atol=1e-5)


def test_what_cannot_be_written_is_refused(refused: Run, model: Path, tmp_path: Path) -> None:
    refused(2, "export", model, "--out", tmp_path / "net.pth")
    refused(3, "export", tmp_path / "nothing", "--out", tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_the_example_needs_no_torch_and_places_the_map_as_explain_does(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    image = picture(tmp_path / "a.png", 4)
    out = tmp_path / "drawn" / "a.png"
    command = [sys.executable, "-W", "error", "-c", WITHOUT, EXAMPLE, exported, image, out, "pear"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr

    softcam: Any = pl.load(model)
    ready = read_picture(image, Preparation(size=64, crop="resize"))
    e = pl.explain(softcam, ready.input[None], "pear")
    logits, maps = (found[0].detach() for found in softcam(ready.input[None], return_evidence=True))
    centred = (maps - maps.mean(0))[1] / maps[0].numel()
    expected = upsample(centred, e.geometry)

    functions = runpy.run_path(str(EXAMPLE))
    told = json.loads(onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map["pellucid"])
    x, grey = functions["prepared"](str(image), told)
    assert np.allclose(x[0], ready.input, atol=1e-6)
    assert grey.shape == (64, 64)
    placed = functions["at_input_size"](centred.numpy(), told)
    assert np.allclose(placed, expected, atol=1e-5)
    score = float(logits[1] - logits.mean())
    assert f"pear: logit {score:+.4f}" in ended.stdout
    assert f"sum of {centred.numel()} cells {score:+.4f}" in ended.stdout

    drawn = np.asarray(Image.open(out).convert("RGB"), dtype=int)
    side = 7 * 64
    warmth = (drawn[24:, :side, 0] - drawn[24:, :side, 2]).reshape(64, 7, 64, 7).mean((1, 3))
    strong = np.abs(expected.numpy()) > 0.5 * float(expected.abs().max())
    assert strong.any()
    assert np.array_equal(np.sign(warmth[strong]), np.sign(expected.numpy()[strong]))  # orange for, blue against


def test_the_example_crops_the_middle_as_the_readers_do(tmp_path: Path) -> None:
    functions = runpy.run_path(str(EXAMPLE))
    told = {"preprocessing": None, "input": {"channels": 3, "size": [48, 64]}}
    x, _ = functions["prepared"](str(picture(tmp_path / "a.png", 2, side=90)), told)
    assert np.allclose(x[0], read_picture(tmp_path / "a.png", Preparation(size=(48, 64))).input, atol=1e-6)
