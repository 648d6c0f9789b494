"""From an explanation to what is sent: every number as the Python object has it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pellucid import files, spatial
from pellucid.app.passes import Pass
from pellucid.app.schemas import (
    ContributionsInfo,
    Dtype,
    EveryClass,
    ExplanationAnswer,
    GeometryInfo,
    InputShown,
    LedgerLine,
    Map,
    Numbers,
    Prediction,
    TargetInfo,
    Texts,
    Window,
)
from pellucid.app.served import Served
from pellucid.app.service import Explained
from pellucid.app.uploads import Shown
from pellucid.explanation import Explanation
from pellucid.spatial import Geometry

REGIONS = 5  # in a ledger
_HALF = 60_000.0  # float16 holds no more


def numbers(values: Tensor, dtype: Dtype) -> Numbers:
    """An array as text; in float32 where float16 would overflow."""
    found = values.detach().cpu()
    wide = dtype == "float32" or (found.numel() > 0 and float(found.abs().max()) > _HALF)
    kind: Dtype = "float32" if wide else "float16"
    data = found.contiguous().numpy().astype("<f4" if wide else "<f2").tobytes()
    return Numbers(shape=list(found.shape), dtype=kind, data=base64.b64encode(data).decode())


def answer(
    explained: Explained, dtype: Dtype, *, every_class: bool = False, with_input: bool = True
) -> ExplanationAnswer:
    """The whole answer to `POST /v1/explain`."""
    e, served = explained.one, explained.served
    shown = numbers(e.map[0], dtype)
    return ExplanationAnswer(
        input_id=explained.input_id,
        model=served.id,
        method=e.method,
        layer=str(e.provenance.get("layer") or ""),
        target=target_info(e),
        prediction=prediction(served, e.logits),
        score=float(e.score[0]),
        map=Map(**shown.model_dump(), unit=_unit(e), complete=e.complete),
        geometry=geometry_info(e.geometry),
        receptive_field=None if e.geometry.receptive_field is None else list(e.geometry.receptive_field),
        contributions=_contributions(e),
        ledger=_ledger(e),
        text=Texts(short=e.text(), technical=_technical(e)),
        empty=not bool((e.map > 0).any()),
        every_class=_every_class(explained.found, dtype) if every_class else None,
        input=input_shown(explained.upload.sample.name, explained.shown, dtype) if with_input else None,
        notes=_notes(e),
        provenance=files.plain({k: v for k, v in e.provenance.items() if k != "preprocessing"}),
    )


def target_info(e: Explanation) -> TargetInfo:
    """The target in words, and the classes in it."""
    told = e.target.as_dict()
    first, second = {"contrast": ("a", "b"), "single_logit": ("positive", ""), "regression": ("index", "")}.get(
        told["kind"], ("classes", "")
    )
    return TargetInfo(
        text=e.target.describe(e.classes), index=_first(told.get(first)), against=_first(told.get(second))
    )


def _first(value: Any) -> int | None:
    found = value[0] if isinstance(value, list) else value
    return None if found is None else int(found)


def prediction(served: Served, logits: Tensor) -> Prediction:
    """The answer in probabilities as the network gives them, and calibrated where the temperature is known."""
    row = logits.reshape(1, -1).detach().double().cpu()
    temperature = served.calibrated.temperature
    calibrated = None if temperature is None else probabilities(served.task, row / temperature)
    own = probabilities(served.task, row)
    decided = served.task in ("multiclass", "binary") and own is not None
    return Prediction(
        classes=list(served.classes),
        logits=row[0].tolist(),
        probabilities=own,
        calibrated=calibrated,
        answer=int(np.argmax(own)) if decided and own is not None else None,
    )


def probabilities(task: str, row: Tensor) -> list[float] | None:
    """One per class; of a single logit for both answers. None for a regression."""
    if task == "regression":
        return None
    if task == "multiclass":
        found: list[float] = row.softmax(1)[0].tolist()
        return found
    yes = row.sigmoid()[0]
    if task == "binary" and len(yes) == 1:
        return [float(1 - yes[0]), float(yes[0])]
    several: list[float] = yes.tolist()
    return several


def _unit(e: Explanation) -> str:
    if not e.complete:
        return "arbitrary"
    return "logit" if e.in_logits else "output"


def geometry_info(geometry: Geometry) -> GeometryInfo:
    """Where the cells look."""
    return GeometryInfo(
        start=list(geometry.start),
        jump=list(geometry.jump),
        grid=list(geometry.grid),
        input_size=list(geometry.input_size),
        registered=geometry.registered,
    )


def _contributions(e: Explanation) -> ContributionsInfo | None:
    if not e.complete:
        return None
    parts = e.contributions()
    return ContributionsInfo(
        constant=float(parts.constant[0]), common=float(parts.common[0]), residual=float(parts.residual[0])
    )


def _ledger(e: Explanation) -> list[LedgerLine]:
    """The rows of `Explanation.ledger`, the regions with their boxes."""
    if not e.complete:
        return []
    found = spatial.regions(e.map[0], e.geometry)[:REGIONS]
    boxes = [[*reversed(r.low), *reversed(r.high)] for r in found]
    rows = e.ledger(REGIONS).rows
    return [
        LedgerLine(label=row.what, value=row.value, where=row.where, box=boxes[i] if i < len(boxes) else None)
        for i, row in enumerate(rows)
    ]


def _technical(e: Explanation) -> str:
    grid = " x ".join(map(str, e.geometry.grid))
    at = f" at layer {e.provenance['layer']}" if e.provenance.get("layer") else ""
    options = f" with {', '.join(f'{k}={v}' for k, v in e.options.items())}" if e.options else ""
    said = [f"{e.method}{at}{options}; {e.target.describe(e.classes)}, score {float(e.score[0]):+.6g}; {grid} values."]
    if e.complete:
        parts = e.contributions()
        said.append(
            f"Cells {float(e.map.double().sum()):+.6g}, common {float(parts.common[0]):+.6g}, constant {float(parts.constant[0]):+.6g}, "
            f"residual {float(parts.residual[0]):+.2g}."
        )
    if e.geometry.receptive_field is not None:
        said.append(f"A cell sees {' x '.join(f'{v:g}' for v in e.geometry.receptive_field)} samples.")
    return " ".join(said)


def _notes(e: Explanation) -> list[str]:
    notes = [e.remark()] if e.complete and e.remark() else []
    if not e.complete:
        notes.append("The map ranks places; its values do not add up to the score.")
    if not e.geometry.registered:
        notes.append("Where the cells look is not known; they are drawn as if they tiled the input.")
    return notes


def _every_class(found: Pass | None, dtype: Dtype) -> EveryClass | None:
    if found is None:
        return None
    return EveryClass(cells=numbers(found.maps[0] / found.positions, dtype), bias=found.bias[0].tolist())


def input_shown(name: str, shown: Shown, dtype: Dtype) -> InputShown:
    """The input as a person sees it."""
    size: Sequence[int] = shown.values.shape[1:]
    return InputShown(
        name=name,
        rank=len(size),
        size=list(size),
        values=numbers(shown.values, dtype),
        window=None if shown.window is None else Window(center=shown.window[0], width=shown.window[1]),
        spacing=None if shown.spacing is None else list(shown.spacing),
        unit=shown.unit,
        slices=shown.slices,
        slice=shown.slice,
        rate=shown.rate,
        rate_unit=shown.rate_unit,
    )


__all__ = ["answer", "geometry_info", "input_shown", "numbers", "prediction", "probabilities", "target_info"]
