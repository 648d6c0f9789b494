"""A SoftCAM on fast backends, logits and the maps of all classes, against the plain eager forward pass of the network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import estimate
from benchmarks.study import PLAIN, Goal, Run, Setting, Study, Subject, installed, plain_forward, rows, times
from pellucid import backends

EAGER, ONNX, COMPILED = "SoftCAM in torch", "SoftCAM in ONNX Runtime", "SoftCAM in torch.compile"
LIMIT = 0.7


def _eager(model: nn.Module, x: Tensor) -> Run:
    softcam = pellucid.convert(model, x[:1])

    def run() -> Any:
        with torch.inference_mode():
            return softcam(x, return_evidence=True)

    return run


def _exported(model: nn.Module, x: Tensor, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        pellucid.export(pellucid.convert(model, x[:1]), path, x[:1], any_size=False, check=False)
        return path.read_bytes()


def _onnx(model: nn.Module, x: Tensor) -> Run:
    session, given = backends.session(_exported(model, x, "net.onnx")), {"input": x.numpy()}
    return lambda: tuple(map(torch.from_numpy, session.run(["logits", "evidence"], given)))


def _compiled(model: nn.Module, x: Tensor) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        path.write_bytes(_exported(model, x, "net.pt2"))
        graph = torch.export.load(path).module()
    compiled = torch.compile(graph, dynamic=False, options={"freezing": True})

    def run() -> Any:
        with torch.no_grad():
            return compiled(x)

    return run


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    EAGER: Subject(_eager),
    ONNX: Subject(_onnx, "onnxruntime"),
    COMPILED: Subject(_compiled),
}


def run(setting: Setting) -> Study:
    present = {name: s for name, s in installed(SUBJECTS).items() if setting.full or name != COMPILED}
    ratios, goals = {}, []
    for batch in setting.batches or (1,):
        some = {name: s for name, s in present.items() if batch == 1 or name != COMPILED}  # building takes a minute
        ratios[batch], runs = times(some, setting, batch, setting.fewer(2 if batch == 1 else 10))
        goals += _goals(batch, ratios[batch], runs)
    return Study(
        title=f"SoftCAM of {setting.network_name} on fast backends, {setting.side} px",
        about="Logits and the maps of all classes, from the exported file (`.onnx`; `.pt2` compiled with the weights as constants); the unit is the plain "
        "eager forward pass of the same batch.",
        rows=rows(SUBJECTS, ratios),
        goals=goals,
        ratios=ratios,
    )


def _goals(batch: int, found: dict[str, list[float]], runs: dict[str, Run]) -> list[Goal]:
    goals = []
    for name in (n for n in (ONNX, COMPILED) if n in runs):
        worst = _difference(runs[EAGER](), runs[name]())
        what = f"{name}: logits and evidence are those of torch, batch {batch} (difference over the largest logit at most 1e-4)."
        goals.append(Goal(what, f"{worst:.1g}", worst <= 1e-4))
    best = min((n for n in (ONNX, COMPILED) if n in runs), key=lambda n: estimate(found[n]).median, default=EAGER)
    time = estimate(found[best])
    what = (
        f"Prediction and all maps take at most {LIMIT} x the eager forward pass of the network, batch {batch} ({best})."
    )
    return [*goals, Goal(what, str(time), time.median <= LIMIT)]


def _difference(mine: Any, theirs: Any) -> float:
    scale = max(1.0, float(mine[0].abs().max()))
    return max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)) / scale
