"""`python -m benchmarks.claim`: the paper's claim, "no loss of performance, better explanations", on one set after another.

Every cell (set, variant, seed) is a training of MobileNetV2 from ImageNet weights, on folds by patient where a set has
no test part, and an evaluation out of fold. Finished folds and evaluated parts are kept in --out, so the command goes on
where it was stopped, on this machine or on one with a GPU. Tables and JSON are made of whatever is finished.

The network without a penalty is black box and dense SoftCAM in one: conversion changes neither logits nor gradients.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_dilation
from torch import nn

import pellucid as pl
from pellucid import files
from pellucid.data import open_data
from pellucid.data.lesionlab import LesionLab
from pellucid.data.splits import folds
from pellucid.metrics import METRICS
from pellucid.models import zoo
from pellucid.models.multi_scale import multi_scale
from pellucid.record import Comparison, Interval, PerformanceComparison, Table, join, t_interval
from pellucid.render.curves import Mark, interval_plot
from pellucid.render.grid import grid
from pellucid.sample import Dataset, Sample, Subset
from pellucid.statistics import holm
from pellucid.training.probe import probe

DATA = Path(os.environ.get("PELLUCID_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "mobilenet_v2-b0353104.pth"
PAGE = Path(__file__).parents[1] / "docs" / "study.md"
IMAGES = PAGE.parent / "images"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
PLAIN, PAPER = "no penalty", "the paper's penalty"
RESNET = "ResNet-18, "
MARGIN = 0.01  # of AUC, set before anything was trained
TOLD = ("auc", "balanced_accuracy", "brier")
PRIMARY = {"relevance_mass": "over_area", "effect_agreement": ""}  # localisation, and attribution against effect
METHODS = ("evidence", "cam", "grad_cam", "grad_cam_plus_plus", "layer_cam", "saliency", "integrated_gradients", "guided_backprop")  # fmt: skip
COSTLY = ("score_cam",)
MEASURED = ("relevance_mass", "auprc", "pointing_game", "deletion", "insertion", "sparseness", "effect_agreement")
SHOWN = {
    "relevance_mass over_area": "relevance mass / area", "auprc over_area": "AUPRC / base rate", "pointing_game": "pointing game",
    "deletion log_odds": "deletion (log-odds, less is better)", "insertion log_odds": "insertion (log-odds)",
    "effect_agreement": "effect agreement", "sparseness": "Gini",
}  # fmt: skip
OPTIONS = {"integrated_gradients": {"steps": 16}, "pointing_game": {"tolerance": 8}}


# --- variants ----------------------------------------------------------------------------------------------------------------


def softcam(classes: int, x: torch.Tensor) -> nn.Module:
    return pl.convert(_mobilenet(classes), x)


def early(classes: int, x: torch.Tensor) -> nn.Module:
    """The trunk up to stride 16, where a cell sees less: an earlier tap of the same pretrained network."""
    trunk = _mobilenet(classes).features[:14]
    return pl.convert(nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes)), x)


def local(classes: int, x: torch.Tensor) -> nn.Module:
    """The same layers as `early`, 1 wide after stride 8: twice as many cells per axis, none of which sees beyond 59 samples."""
    trunk = _mobilenet(classes).features[:14]
    tapped = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))
    return pl.convert(pl.local_trunk(tapped, x, "0.6"), x)


def scales(classes: int, x: torch.Tensor) -> nn.Module:
    """Evidence at strides 16 and 32 at once, added up."""
    return multi_scale(softcam(classes, x), x, ("features.13",))


def resnet(classes: int, x: torch.Tensor) -> nn.Module:
    """From scratch, for the sets that are drawn."""
    return pl.convert(zoo.build("torchvision:resnet18", num_classes=classes), x)


def local_resnet(classes: int, x: torch.Tensor) -> nn.Module:
    """Up to its third stage, 1 wide after the second: stride 8, a field of 99 samples."""
    net = zoo.build("torchvision:resnet18", num_classes=classes)
    trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    tapped = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes))
    return pl.convert(pl.local_trunk(tapped, x, "0.5"), x)


def _mobilenet(classes: int) -> Any:
    return zoo.build("torchvision:mobilenet_v2", weights=WEIGHTS, num_classes=classes)


@dataclass(frozen=True)
class Variant:
    """How the network is made and what its training adds. frozen: only a linear probe is fitted. same: the variant whose
    trained network this is, with maps `finer` times as fine."""

    network: Callable[[int, torch.Tensor], nn.Module] = softcam
    recipe: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False
    same: str = ""
    finer: int = 1


PENALISED = {"penalty_warm_up": 0.3}
CONTRAST = {"penalty": "entropy", "strength": 0.05, "penalty_classes": "contrast", **PENALISED}
PUBLISHED = {"penalty": "l1", "strength": 0.0009, "compat": "paper-code"}
VARIANTS: Mapping[str, Variant] = {
    PLAIN: Variant(),
    "frozen, linear probe": Variant(frozen=True),
    PAPER: Variant(recipe=PUBLISHED),
    f"{PAPER}, maps 4 times finer": Variant(recipe=PUBLISHED, same=PAPER, finer=4),
    "L1 0.1, all images": Variant(recipe={"penalty": "l1", "strength": 0.1, **PENALISED}),
    "contrast entropy 0.05": Variant(recipe=CONTRAST),
    "log-sum 0.05": Variant(recipe={"penalty": "log_sum", "strength": 0.05, **PENALISED}),
    "early tap, stride 16": Variant(early),
    "strides 16 and 32": Variant(scales),
    "local trunk, stride 8": Variant(local),
    "local trunk, contrast entropy 0.05": Variant(local, CONTRAST),
    f"{RESNET}{PLAIN}": Variant(resnet),
    f"{RESNET}{PAPER}": Variant(resnet, PUBLISHED),
    f"{RESNET}local trunk, stride 8": Variant(local_resnet),
}  # fmt: skip


def alike(variant: str, name: str) -> str:
    """The variant `name` of the same network."""
    return f"{RESNET}{name}" if variant.startswith(RESNET) else name


# --- sets --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one network learns from, and what it is judged on."""

    train: Dataset
    test: Dataset


@dataclass(frozen=True)
class Given:
    """A set: its parts, and what its trainings have in common."""

    parts: Callable[[Path], Sequence[Part]]
    recipe: Mapping[str, Any]


def _folded(data: Dataset) -> list[Part]:
    parts = folds(data, 5, seed=0).parts
    seen = {name: tuple(i for other, rows in parts.items() if other != name for i in rows) for name in parts}
    return [Part(Subset(data, seen[name]), Subset(data, tuple(rows))) for name, rows in parts.items()]


def heimed(out: Path) -> list[Part]:
    options = {"path": "file", "mask_values": 1, "size": [192, 256], "crop": "resize"}
    return _folded(open_data(str(DATA / "fundus_heimed" / "index.csv"), **options))


def xray(out: Path) -> list[Part]:
    """The X-rays that carry an RSNA class, Lung Opacity against the rest, grouped by patient; boxes of that finding."""
    folder = DATA / "chest_xray_nih_rsna"
    boxes = defaultdict(list)
    for row in csv.DictReader((folder / "boxes_1024.csv").read_text(encoding="utf-8").splitlines()):
        if row["kind"] == "rsna_lung_opacity":
            x, y, w, h = (float(row[k]) / 4 for k in "xywh")  # of 1024 pixels; the files have 256
            boxes[row["file"]].append(f"{x:g} {y:g} {x + w:g} {y + h:g}")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "boxes", "group"])
    for row in csv.DictReader((folder / "index.csv").read_text(encoding="utf-8").splitlines()):
        if row["rsna_class"]:
            path = next(p for p in folder.rglob(row["file"]) if "512" not in p.parent.name)
            label = "opacity" if row["rsna_class"] == "Lung Opacity" else "other"
            writer.writerow([path.resolve(), label, "; ".join(boxes[row["file"]]), row["patient"]])
    index = files.write_text(out / "xray.csv", table.getvalue())
    return _folded(open_data(str(index), size=192, crop="resize", classes=["other", "opacity"]))


def _lesionlab(kind: str) -> Callable[[Path], list[Part]]:
    def parts(out: Path) -> list[Part]:
        def data(split: str, count: int) -> LesionLab:
            return LesionLab(kind, n_images=count, size=128, preset="medium", split=split)  # type: ignore[arg-type]

        return [Part(data("train", 1500), data("test", 2000))]

    return parts


REAL = {"epochs": 10, "batch_size": 8, "lr": 5e-4, "class_weights": "balanced"}
DRAWN = {"epochs": 8, "batch_size": 32, "lr": 1e-3}
SETS: Mapping[str, Given] = {
    "heimed": Given(heimed, {**REAL, "augment": ("hflip", "vflip")}),
    "xray": Given(xray, {**REAL, "epochs": 6, "augment": ("translation", "rotation")}),
    "fundus": Given(_lesionlab("fundus"), {**DRAWN, "augment": ("hflip", "vflip")}),
    "oct": Given(_lesionlab("oct"), {**DRAWN, "augment": ("hflip",)}),
    "lung": Given(_lesionlab("xray"), DRAWN),
}


# --- cells -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One variant on one set with one seed."""

    given: str
    variant: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / self.given / self.variant.replace(" ", "-").replace(",", "") / f"seed-{self.seed}"


def work(cell: Cell, out: Path, limit: int | None, compared: int | None, costly: bool) -> None:
    """Train and evaluate every fold that is not finished. A cell that has its scores stays as it is."""
    if (cell.folder(out) / "scores.json").exists():
        return
    folder, tables = cell.folder(out), []
    for k, part in enumerate(SETS[cell.given].parts(out)):
        model = _trained(cell, part, out, k)
        whole, count = cell.variant == alike(cell.variant, PLAIN), len(part.test)
        few = _spread(range(count), limit)
        scored = part.test if len(few) == count else Subset(part.test, few)
        found = pl.evaluate(
            {cell.variant: model}, scored, methods=(*METHODS, *COSTLY) if whole and costly else METHODS if whole else ("evidence",),
            metrics=[m for m in MEASURED if m in METRICS], options=OPTIONS, controls=None if whole else ["random_map"], seed=cell.seed, fold=k, batch_size=8,
            folder=folder / f"scores-{k}",
        )  # fmt: skip
        rest = sorted(set(range(count)) - set(few))
        also = () if whole else _spread(rest, None if compared is None else max(0, compared - len(few)))
        only = {"evidence": also, "": sorted(set(rest) - set(also))}
        for method, rows in only.items():  # the primary scores of what is compared; of all others the prediction
            if rows:
                asked: dict[str, Any] = {"methods": (method,), "metrics": list(PRIMARY)} if method else {"methods": ()}
                subset = Subset(part.test, tuple(rows))
                more = pl.evaluate({cell.variant: model}, subset, **asked, controls=(), seed=cell.seed, fold=k)
                found = join([found, more])
        tables.append(found)
        print(f"{cell.given}  {cell.variant}  seed {cell.seed}  fold {k}", flush=True)
    join(tables).to_json(folder / "scores.json")


def _trained(cell: Cell, part: Part, out: Path, k: int) -> nn.Module:
    """The network of a fold; a training that is finished is only read."""
    variant, example = VARIANTS[cell.variant], torch.stack([part.train[i].input for i in range(2)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        network = variant.network(len(part.train.classes), example)
    if variant.frozen:
        model = probe(network, part.train, seed=cell.seed)
    else:
        recipe = pl.TrainingConfig(**{**SETS[cell.given].recipe, **variant.recipe, "seed": cell.seed})
        home = replace(cell, variant=variant.same or cell.variant).folder(out) / f"fold-{k}"
        model = pl.train(network, part.train, recipe, folder=home, progress=False).model
    if variant.finer > 1:
        model = model.finer(variant.finer, example)
    return model.cuda() if torch.cuda.is_available() else model


def predict_more(cell: Cell, out: Path, count: int) -> None:
    """Further pictures of a set that is drawn, predicted by what was trained: they narrow the difference of AUCs."""
    folder = cell.folder(out)
    if (folder / "more.json").exists() or not (folder / "scores.json").exists():
        return
    (part,) = SETS[cell.given].parts(out)
    further = LesionLab(part.test.kind, n_images=count, size=128, preset="medium", split="test", seed=1)  # type: ignore[attr-defined]
    model = _trained(cell, part, out, 0)
    found = pl.evaluate({cell.variant: model}, further, methods=(), controls=(), seed=cell.seed, fold=0)
    found.to_json(folder / "more.json")
    print(f"{cell.given}  {cell.variant}  seed {cell.seed}  {count} more", flush=True)


def _spread(rows: Sequence[int], count: int | None) -> tuple[int, ...]:
    """So many of them, evenly spread; all by default."""
    if count is None or count >= len(rows):
        return tuple(rows)
    return tuple(rows[i * len(rows) // count] for i in range(count))


def finished(out: Path, given: str) -> dict[str, dict[int, Table]]:
    """By variant and seed, what is there of a set."""
    found: dict[str, dict[int, Table]] = {}
    for variant in VARIANTS:
        for path in sorted(Cell(given, variant, 0).folder(out).parent.glob("seed-*/scores.json")):
            tables = [Table.from_json(p) for p in (path, path.with_name("more.json")) if p.exists()]
            found.setdefault(variant, {})[int(path.parent.name.removeprefix("seed-"))] = join(tables)
    return found


# --- tables ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What is told of a set. trainings: by variant. performance: by variant and score. difference: of the AUC from the
    network without a penalty. scores: by variant, map and column of `SHOWN`."""

    trainings: Mapping[str, int]
    performance: Mapping[str, Mapping[str, Interval]]
    difference: Mapping[str, PerformanceComparison]
    scores: Mapping[tuple[str, str], Mapping[str, Interval]]
    compared: Sequence[Comparison]
    each: Mapping[tuple[str, str], Sequence[float]]  # difference by variant and metric, of every training


def measured(by_seed: Mapping[str, Mapping[int, Table]]) -> Measured:
    """by_seed: variant -> seed -> table."""
    found = {variant: join(list(tables.values())) for variant, tables in by_seed.items()}
    difference, scores = {}, defaultdict(dict)  # type: ignore[var-annotated]
    for variant, table in found.items():
        if variant != (plain := alike(variant, PLAIN)) and plain in found:
            both = join([table, found[plain]])
            (difference[variant],) = both.compare_performance(variant, plain, scores=["auc"], margin=MARGIN)
        for row in table.summary():
            column = f"{row.metric} {row.part}".strip()
            if row.interval.n and column in SHOWN:
                scores[row.model, row.method][column] = row.interval
    compared = against_the_paper(found)
    each: dict[tuple[str, str], list[float]] = defaultdict(list)
    for variant in found:
        plain = alike(variant, PLAIN)
        for seed in sorted(set(by_seed[variant]) & set(by_seed.get(plain, ())) if variant in difference else ()):
            both = join([by_seed[variant][seed], by_seed[plain][seed]])
            (area,) = both.compare_performance(variant, plain, scores=["auc"])
            each[variant, "auc"].append(area.difference.mean)
        for seed in sorted(set(by_seed[variant]) & set(by_seed.get(alike(variant, PAPER), ()))):
            alone = {v: by_seed[v][seed] for v in (variant, alike(variant, PAPER))}
            for c in against_the_paper(alone):
                each[variant, c.metric].append(c.difference.mean)
    return Measured(
        {variant: len(tables) for variant, tables in by_seed.items()},
        {variant: {r.metric: r.interval for r in table.performance(scores=TOLD)} for variant, table in found.items()},
        difference, scores, compared, each,
    )  # fmt: skip


def performance(found: Measured) -> list[str]:
    lines = ["| variant | AUC | balanced accuracy | Brier | AUC against no penalty | |", "|---|---|---|---|---|---|"]
    for variant, rows in found.performance.items():
        if not rows:
            continue
        told = ["-", ""]
        if (area := found.difference.get(variant)) is not None:
            assert area.verdict is not None
            told = [str(area.difference), f"{area.verdict.verdict} (n {area.verdict.n}, half-width {area.verdict.half_width:.3f})"]  # fmt: skip
            each = found.each[variant, "auc"]
            if len(each) > 1:
                told[1] += f"{_alone(each)}, mean {t_interval(each)}"
        lines.append(f"| {variant} | {rows['auc']} | {rows['balanced_accuracy']} | {rows['brier']} | {' | '.join(told)} |")  # fmt: skip
    return lines


def explanations(found: Measured) -> list[str]:
    """The evidence of every variant, and the methods and controls on the network without a penalty; all else is in scores.json."""
    shown = [c for c in SHOWN if any(c in row for row in found.scores.values())]
    lines = [f"| network | map | n | {' | '.join(SHOWN[c] for c in shown)} |", "|---" * (len(shown) + 3) + "|"]
    for (model, method), row in found.scores.items():
        n = " and ".join(map(str, sorted({interval.n for interval in row.values()})))  # with a mask, and all
        lines.append(f"| {model} | {method} | {n} | {' | '.join(str(row.get(c, '-')) for c in shown)} |")
    return lines


def against_the_paper(found: Mapping[str, Table]) -> list[Comparison]:
    """Evidence of our variants against that of the paper's penalty on the primary scores, corrected by Holm."""
    made = []
    for variant, table in found.items():
        plain, paper = alike(variant, PLAIN), alike(variant, PAPER)
        if variant in (plain, paper) or VARIANTS[variant].frozen or paper not in found:
            continue
        rows = [
            replace(r, model=r.method, method=r.model)
            for r in (*table.records, *found[paper].records)
            if r.method == "evidence" and PRIMARY.get(r.metric) == r.part
        ]
        made += Table(tuple(rows)).compare(variant, paper)
    return [replace(c, adjusted=p) for c, p in zip(made, holm([c.p_value for c in made]), strict=True)]


def comparisons(found: Measured) -> list[str]:
    lines = []
    for c in found.compared:
        name, alone = f"{c.metric} {c.part}".strip(), _alone(found.each[c.first, c.metric])
        lines.append(f"- {c.first}, {name}: evidence minus that of {c.second} {c.difference}, corrected p {c.adjusted:.3g}{alone}")  # fmt: skip
    return lines


def _alone(each: Sequence[float]) -> str:
    return f"; by training {', '.join(f'{d:.3f}' for d in each)}" if len(each) > 1 else ""


def page(found: Mapping[str, Measured]) -> str:
    lines: list[str] = []
    for given, one in found.items():
        counted = "; ".join(f"{v}: {n}" for v, n in one.trainings.items())
        lines += [f"### {given}", "", f"Trainings: {counted}.", "", *performance(one), "", *explanations(one), "", *comparisons(one), ""]  # fmt: skip
    return "\n".join(lines)


# --- figures -----------------------------------------------------------------------------------------------------------------

DRAWN_AGAINST = {
    "auc": "AUC minus that without a penalty",
    "relevance_mass over_area": "relevance mass of the evidence, over area",
    "effect_agreement": "evidence against effect, rank correlation",
}


def figures(found: Mapping[str, Measured]) -> dict[str, bytes]:
    """SVG by name: what a variant costs in AUC, and where its evidence lies, set by set."""
    drawn = {}
    for column, label in DRAWN_AGAINST.items():
        groups: dict[str, list[Mark]] = {}
        for given, one in found.items():
            for variant in one.trainings:
                change = one.difference.get(variant)
                value = (change and change.difference) if column == "auc" else one.scores.get((variant, "evidence"), {}).get(column)  # fmt: skip
                if value is not None:
                    groups.setdefault(given, []).append(Mark(variant, value))
            control = one.scores.get((PLAIN, "random_map"), {}).get(column)
            if control is not None:
                groups.setdefault(given, []).append(Mark("random map", control, muted=True))
        if groups:
            drawn[f"study-{column.split()[0].replace('_', '-')}"] = interval_plot(groups, label=label, zero=column != "relevance_mass over_area")  # fmt: skip
    return drawn


def pictures(out: Path, sets: Sequence[str], variants: Sequence[str], count: int = 1) -> Image.Image | None:
    """Test images with a lesion, and the evidence of each variant for it; first trainings."""
    rows = []
    for name in sets:
        part = next(iter(SETS[name].parts(out)))
        networks = [_saved(Cell(name, variant, 0).folder(out) / "fold-0", variant, part) for variant in variants]
        if any(network is None for network in networks):
            continue
        with_lesion = (part.test[i] for i in range(len(part.test)))
        chosen = islice((s for s in with_lesion if s.mask is not None and bool(s.mask.any())), count)
        for sample in chosen:
            row = [outlined(sample, 192)]
            for network in networks:
                made = pl.explain(network, sample.input[None], pl.ContrastTarget(1, 0))
                row.append(made.overlay(sample.image, width=192, bar=False))
            rows.append(row)
    return grid(rows, ["lesion", *variants]) if rows else None


def outlined(sample: Sample, side: int) -> Image.Image:
    """The picture with its mask's outline, two pixels wide."""
    assert sample.image is not None
    assert sample.mask is not None
    size = (side, side * sample.image.shape[0] // sample.image.shape[1])
    shown = np.array(Image.fromarray(np.asarray(sample.image)).convert("RGB").resize(size))
    inside = np.array(Image.fromarray(sample.mask.numpy()).resize(size, Image.Resampling.NEAREST))
    shown[binary_dilation(inside, iterations=4) & ~binary_dilation(inside, iterations=2)] = (255, 140, 0)
    return Image.fromarray(shown)


def _saved(folder: Path, variant: str, part: Part) -> nn.Module | None:
    if not (folder / "manifest.json").exists():
        return None
    example = torch.stack([part.train[i].input for i in range(2)])
    return pl.load(folder, model=VARIANTS[variant].network(len(part.train.classes), example))


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claim", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/claim"), help="where everything is kept")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--limit", type=int, help="explain that many test images of a part, evenly spread; all are predicted"
    )
    parser.add_argument(
        "--compared", type=int, help="evidence to score by the primary scores in a part; by default of every test image"
    )
    parser.add_argument(
        "--more", type=int, help="further pictures of the drawn sets to predict, for narrower differences of AUC"
    )
    parser.add_argument("--costly", action="store_true", help="Score-CAM too: 1,280 passes an image")
    parser.add_argument(
        "--tables", action="store_true", help="make tables and figures of what is finished, train nothing"
    )
    parser.add_argument(
        "--write", action="store_true", help="the same, and put them into docs/study.md and docs/images"
    )
    asked = parser.parse_args(given)
    if not WEIGHTS.exists():
        print(f"MobileNetV2's weights are not at {WEIGHTS}. Set PELLUCID_TEST_DATA.", file=sys.stderr)
        return 3
    torch.set_num_threads(1)
    for seed in range(0 if asked.tables or asked.write else asked.seeds):
        for name in asked.sets:
            for variant in asked.variants:
                cell = Cell(name, variant, seed)
                work(cell, asked.out, asked.limit, asked.compared, asked.costly)
                if asked.more and name in ("fundus", "oct", "lung"):
                    predict_more(cell, asked.out, asked.more)
    if not (asked.tables or asked.write):
        return 0
    by_set = {name: finished(asked.out, name) for name in SETS}
    found = {name: measured(tables) for name, tables in by_set.items() if tables}
    text, drawn = page(found), figures(found)
    files.write_text(asked.out / "tables.md", text)
    shown = pictures(asked.out, ("fundus", "oct", "lung"), (PLAIN, PAPER, "local trunk, stride 8"))
    for folder in (asked.out, *([IMAGES] if asked.write else [])):
        for name, content in drawn.items():
            files.write_bytes(folder / f"{name}.svg", content)
        if shown is not None:
            shown.quantize(160).save(folder / "study-maps.png", optimize=True)
    if asked.write:
        words = PAGE.read_text(encoding="utf-8")
        files.write_text(PAGE, f"{words.split(BEGIN)[0]}{BEGIN}\n{text.strip()}\n{END}{words.split(END)[1]}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
