"""Run a file written by `pellucid export` with ONNX Runtime, NumPy and Pillow alone, and draw the evidence where it lies.

    python examples/onnx_without_torch.py MODEL.onnx IMAGE OUT.png [CLASS]

The file tells how pictures become inputs, what the classes are called, and where in the input each cell of the map looks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

AGAINST, FOR = np.array([68, 137, 212.0]), np.array([213, 103, 6.0])  # blue, orange; white says nothing
USUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of ImageNet, where the file tells nothing


def prepared(path: str, told: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The input (1, channels, height, width), and the same pixels in grey."""
    given = told["preprocessing"] or {}
    height, width = told["input"]["size"]
    picture = Image.open(path).convert("L" if told["input"]["channels"] == 1 else "RGB")
    if given.get("crop") != "resize":  # scale the shorter side, then take the middle
        shorter = given.get("shorter_side") or round(max(height, width) * 8 / 7)
        sides = [shorter if n == min(picture.size) else int(shorter * n / min(picture.size)) for n in picture.size]
        left, top = (round((n - m) / 2) for n, m in zip(sides, (width, height), strict=True))
        scaled = picture.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        picture = scaled.crop((left, top, left + width, top + height))
    else:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(picture, np.float32).reshape(height, width, -1) / 255
    mean, std = (np.asarray(given.get(k) or USUAL[k], np.float32)[: values.shape[2]] for k in ("mean", "std"))
    return ((values - mean) / std).transpose(2, 0, 1)[None], np.asarray(picture.convert("L"), float)


def at_input_size(cells: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    """Linear interpolation between the centres of the cells, one axis after the other; constant beyond the outermost."""
    for axis, centres in enumerate(told["geometry"]["centres"]):
        samples = np.arange(told["input"]["size"][axis])
        cells = np.apply_along_axis(lambda line, s=samples, c=centres: np.interp(s, c, line), axis, cells)
    return cells


def drawn(grey: np.ndarray, values: np.ndarray, limit: float, title: str) -> Image.Image:
    """The picture in grey under the map: no colour at zero, full blue at -limit, full orange at +limit; a bar tells both."""
    scale = max(round(448 / grey.shape[1]), 1)
    bar = np.linspace(limit, -limit, grey.shape[0])[:, None].repeat(grey.shape[1] // 16, 1)
    gap = np.full((grey.shape[0], bar.shape[1] // 2), 255.0)
    ground = np.concatenate([36 + grey * 0.8, gap, np.full(bar.shape, 255.0)], 1)
    share = np.clip(np.concatenate([values, np.zeros_like(gap), bar], 1) / (limit or 1), -1, 1)[..., None]
    alpha = np.abs(share) * np.where(np.arange(share.shape[1]) < grey.shape[1], 0.85, 1)[None, :, None]
    mixed = ground[..., None] * (1 - alpha) + np.where(share > 0, FOR, AGAINST) * alpha
    map_ = Image.fromarray(mixed.round().astype(np.uint8)).resize((share.shape[1] * scale, share.shape[0] * scale))
    paper = Image.new("RGB", (map_.width + 70, map_.height + 24), "white")
    paper.paste(map_, (0, 24))
    pen = ImageDraw.Draw(paper)
    pen.text((2, 5), title, fill="black")
    for where, label in ((0, f"{limit:+.2g}"), (0.5, "0"), (1, f"{-limit:+.2g}")):
        pen.text((map_.width + 6, 24 + where * (map_.height - 12)), label, fill="black")
    return paper


def main(model: str, image: str, out: str, wanted: str | None = None) -> None:
    """Print the answer and its map's sum, and write the picture."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["pellucid"])
    x, grey = prepared(image, told)
    logits, evidence = (found[0] for found in session.run(["logits", "evidence"], {"input": x}))
    names = (
        told["classes"]
        if told["classes"] and len(told["classes"]) == len(logits)
        else [f"class {i}" for i in range(len(logits))]
    )
    chosen = int(logits.argmax()) if wanted is None else names.index(wanted)
    cells = evidence / evidence[0].size  # what each place adds to the logit, constant included
    if told["task"] == "multiclass":  # softmax ignores what is common to all classes
        cells, logits = cells - cells.mean(0), logits - logits.mean()
    print(f"{names[chosen]}: logit {logits[chosen]:+.4f}, sum of {cells[chosen].size} cells {cells[chosen].sum():+.4f}")
    values = at_input_size(cells[chosen], told)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    drawn(grey, values, float(np.abs(values).max()), f"{names[chosen]}: {logits[chosen]:+.2f}").save(out)


if __name__ == "__main__":
    main(*sys.argv[1:5])
