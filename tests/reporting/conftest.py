"""A report as a real run would fill it in: two networks, five methods, six metrics, six cases, a shortcut test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.explanation import Explanation
from pellucid.record import Comparison, Interval, SummaryRow
from pellucid.render.overlay import overlay, scales, unit
from pellucid.render.picture import jpeg
from pellucid.reporting import Case, PerformanceRow, Picture, Report, Shortcut, ShortcutRow
from pellucid.spatial import Geometry
from pellucid.statistics import Paired
from pellucid.targets import ClassTarget

HOSTILE = "<script>alert('exudate')</script>"
CLASSES = ("healthy", "diseased")
METHODS = ("evidence", "cam", "grad_cam", "saliency", "random_map")
METRICS: dict[str, tuple[bool | None, str, float]] = {
    "pointing_game": (True, "Share of inputs whose strongest place lies in a lesion.", 0.82),
    "relevance_mass": (True, "Share of the positive map that lies in lesions.", 0.41),
    "deletion": (False, "Log-odds left while the most relevant places are blurred first.", 0.9),
    "insertion": (True, "Log-odds while the most relevant places appear first.", 2.6),
    "sparseness": (None, "Gini index of |map|.", 0.61),
    "completeness_residual": (False, "|score - sum of cells - constant|.", 3.1e-7),
}


def photograph(size: int, lesions: list[tuple[int, int]]) -> np.ndarray:
    """A disc on black with bright spots at the lesions."""
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(y - size / 2, x - size / 2) < 0.47 * size
    texture = np.random.default_rng(3).normal(0, 6, (size, size, 1))
    picture = inside[..., None] * (np.array([180.0, 90, 40]) + texture)
    for cy, cx in lesions:
        picture += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 40)[..., None] * np.array([60.0, 120, 60])
    return np.clip(picture, 0, 255).astype(np.uint8)


def explained(size: int, lesions: list[tuple[int, int]], method: str, seed: int) -> Explanation:
    generator = torch.Generator().manual_seed(seed)
    side = size if method == "saliency" else 8
    cells = torch.randn(1, side, side, generator=generator) * 0.03
    if method != "random_map":
        for cy, cx in lesions:
            cells[0, cy * side // size, cx * side // size] += 0.7
    score = cells.sum().reshape(1) - 0.25
    geometry = Geometry.of_samples((size, size)) if side == size else Geometry.unregistered((8, 8), (size, size))
    complete = method in ("evidence", "cam")
    logits = torch.stack([torch.zeros(1), score], 1)
    return Explanation(
        cells,
        geometry,
        ClassTarget(torch.tensor([1])),
        score,
        logits,
        method,
        complete=complete,
        constant=torch.tensor([-0.25]),
        classes=CLASSES,
    )


def lesions_of(k: int) -> list[tuple[int, int]]:
    return [(30 + 17 * k, 60 + 9 * k), (110 - 8 * k, 40 + 14 * k)][: 1 + k % 2]


def cases(count: int, size: int = 160) -> tuple[Case, ...]:
    maps = [[explained(size, lesions_of(k), m, k) for m in METHODS] for k in range(count)]
    limits = scales(e for row in maps for e in row)
    return tuple(case(k, row, limits, size) for k, row in enumerate(maps))


def case(k: int, maps: list[Explanation], limits: dict[str, float], size: int) -> Case:
    lesions = lesions_of(k)
    image = photograph(size, lesions)
    pictures = [Picture("input", jpeg(Image.fromarray(image).resize((220, 220))), "The input picture.")]
    pictures += [Picture(e.method, jpeg(overlay(e, image, limit=limits[unit(e)], width=220, title=""))) for e in maps]
    return Case(
        f"lesionlab-{k:04d}", "worst" if k < 3 else "typical", truth="diseased" if k != 4 else None, prediction=HOSTILE if k == 0 else "diseased",
        probability=0.51 + 0.07 * k, model="SoftCAM", pictures=tuple(pictures), ledger=maps[0].ledger().as_dict(), text=maps[0].text(),
    )  # fmt: skip


def score(model: str, method: str, metric: str, level: float) -> SummaryRow:
    skill = {"evidence": 1.0, "cam": 0.98, "grad_cam": 0.97, "saliency": 0.6, "random_map": 0.2}[method] * (
        1.0 if model == "SoftCAM" else 0.93
    )
    if metric in ("deletion", "completeness_residual"):
        skill = 1.6 - skill
    if metric == "completeness_residual" and method not in ("evidence", "cam"):
        return SummaryRow(model, method, metric, "", Interval(float("nan"), float("nan"), float("nan"), 0, 0), 64)
    mean = level * skill
    return SummaryRow(model, method, metric, "", Interval(mean, mean * 0.9, mean * 1.08, 61, 24), 3)


def build() -> Report:
    models = ("black box", "SoftCAM")
    methods = {"black box": METHODS[1:], "SoftCAM": METHODS}
    return Report(
        title="Fundus demo: black box and SoftCAM",
        subtitle="LesionLab fundus, 128 px, planted marker",
        summary=(
            "Both networks find the disease in held-out patients: balanced accuracy 0.950 [0.912, 0.984] (black box) and 0.958 [0.921, 0.989] (SoftCAM).",
            "The SoftCAM's evidence lies in lesions far more often than a random map: 0.820 against 0.164, and the intervals are disjoint.",
            "Trained with the marker, the network relies on it: taking it away lowers the score by 2.100 [1.870, 2.310].",
        ),
        data={"images": 64, "patients": 24, "classes": list(CLASSES), "masks": "exact, from the renderer", "licence": ""},
        performance=tuple(
            PerformanceRow(m, metric, Interval(v, v - 0.04, min(v + 0.03, 1.0), 64, 24), "held-out patients")
            for m, shift in (("black box", 0.0), ("SoftCAM", 0.008))
            for metric, v in (("balanced accuracy", 0.95 + shift), ("AUC", 0.981 + shift), ("Brier score", 0.048))
        ),
        curves={m: {"training loss": [0.69 * 0.6**k for k in range(8)], "validation loss": [0.70 * 0.66**k + 0.05 for k in range(8)]} for m in models},
        scores=tuple(score(m, method, metric, level) for metric, (_, _, level) in METRICS.items() for m in models for method in methods[m]),
        controls=frozenset({"random_map"}),
        directions={k: v[0] for k, v in METRICS.items()},
        about={k: v[1] for k, v in METRICS.items()},
        comparisons=(
            Comparison("evidence", "random_map", "SoftCAM", "pointing_game", "", Interval(0.656, 0.55, 0.742, 61, 24), 0.0001, Paired(0.64, 0.93, 0.0002, 24), 0.0003),
            Comparison("evidence", "grad_cam", "SoftCAM", "pointing_game", "", Interval(0.025, -0.012, 0.06, 61, 24), 0.213, Paired(0.02, 0.21, 0.25, 24), 0.426),
        ),
        shortcut=Shortcut(
            "The SoftCAM trained with the marker uses it; the one trained without does not.",
            (
                ShortcutRow("SoftCAM", 0.95, Interval(-2.1, -2.31, -1.87, 40, 18), Interval(0.92, 0.8, 1.03, 40, 18), Interval(0.11, 0.07, 0.15, 40, 18), 8.4, tuple(-2.1 + 0.3 * np.sin(np.arange(40)))),
                ShortcutRow("SoftCAM", 0.0, Interval(0.02, -0.05, 0.09, 40, 18), Interval(0.1, 0.06, 0.14, 40, 18), None, None, tuple(0.02 + 0.2 * np.cos(np.arange(40)))),
            ),
            about="The same pictures were rendered again without the marker; nothing else changed.",
        ),
        cases=cases(6),
        settings={"seed": 0, "train": {"epochs": 8, "penalty": "l1", "strength": 1e-3, "optimiser": "AdamW"}, "versions": {"pellucid": "0.1.0", "torch": "2.6.0"}, "intended use": None},
        hashes={"weights of SoftCAM": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "data": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"},
        commands=("pellucid demo --seed 0", "pellucid report runs/demo"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def report() -> Report:
    return build()
