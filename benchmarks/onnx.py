"""ONNX Runtime running an exported SoftCAM, logits and all maps, against the plain eager forward pass of the network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pellucid
from benchmarks.protocol import alternate, compare, estimate
from benchmarks.study import PLAIN, Goal, Row, Run, Setting, Study, Subject, installed, plain_forward

EAGER = "SoftCAM in torch"
ONNX = "SoftCAM in ONNX Runtime"


def _eager(model: nn.Module, x: Tensor) -> Run:
    softcam = pellucid.convert(model, x[:1])

    def run() -> Any:
        with torch.inference_mode():
            return softcam(x, return_evidence=True)

    return run


def _onnx(model: nn.Module, x: Tensor) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        pellucid.export(pellucid.convert(model, x[:1]), path, x[:1], any_size=False, check=False)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    given = {"input": x.numpy()}
    return lambda: tuple(map(torch.from_numpy, session.run(["logits", "evidence"], given)))


SUBJECTS = {PLAIN: Subject(plain_forward), EAGER: Subject(_eager), ONNX: Subject(_onnx, "onnxruntime")}


def run(setting: Setting) -> Study:
    present = installed(SUBJECTS)
    rows: list[Row] = []
    goals: list[Goal] = []
    ratios: dict[str, list[float]] = {}
    for batch in setting.batches or (1,):
        model, x = setting.network(), setting.inputs(batch)
        runs = {name: subject.prepare(setting.network(), x) for name, subject in present.items()}
        found = alternate(plain_forward(model, x), runs, setting.pairs)
        for name, subject in SUBJECTS.items():
            version = subject.version() if name != PLAIN else f"torch {torch.__version__}"
            rows.append(Row(f"{name}, batch {batch}", version, estimate(found[name]) if name in found else None))
        ratios |= {f"{name}, batch {batch}": values for name, values in found.items()}
        if ONNX in present:
            goals += _goals(batch, found, runs)
    return Study(
        title=f"Exported SoftCAM of {setting.network_name}, {setting.side} px",
        about="Logits and the maps of all classes on one thread; the unit is the plain eager forward pass of the same batch.",
        rows=rows,
        goals=goals,
        ratios=ratios,
    )


def _goals(batch: int, found: dict[str, list[float]], runs: dict[str, Run]) -> list[Goal]:
    (logits, maps), theirs = runs[EAGER](), runs[ONNX]()
    largest = float(logits.abs().max())
    worst = max(float((a - b).abs().max()) for a, b in zip((logits, maps), theirs, strict=True))
    against = compare(found[ONNX], found[EAGER])
    return [
        Goal(
            f"Logits and evidence are those of torch, batch {batch} (largest difference over the largest logit at most 1e-4).",
            f"{worst / max(1.0, largest):.1g}, in {against} x the time of SoftCAM in torch",
            worst <= 1e-4 * max(1.0, largest),
        )
    ]
