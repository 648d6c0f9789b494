"""`python -m benchmarks.registration`: where cells look, how far off plain resizing draws them, and what that costs.

Writes docs/registration.md. Trained networks are kept in --folder and used again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid import api, files, spatial
from pellucid.data.lesionlab import LesionLab
from pellucid.metrics.pointing_game import pointing_game
from pellucid.metrics.relevance_mass import relevance_mass
from pellucid.models import zoo
from pellucid.models.receptive_field import by_recurrence, centre_interval, receptive_field
from pellucid.models.trace import Ref, Trace, trace
from pellucid.record import Interval, Prediction, Record, Table, mean_interval, t_interval
from pellucid.sample import Sample, collate
from pellucid.spatial import Geometry
from pellucid.training.config import TrainingConfig

SIDES = (224, 512)
# Networks, and the layer whose output is the last feature map with places.
LAYERS = {
    "torchvision:resnet18": "layer4",
    "torchvision:resnet50": "layer4",
    "torchvision:mobilenet_v2": "features",
    "torchvision:efficientnet_v2_s": "features",
    "torchvision:regnet_y_400mf": "trunk_output",
    "torchvision:densenet121": "features",
    "torchvision:vgg16": "features",
    "torchvision:convnext_tiny": "features",
    "timm:tf_efficientnet_b0": "bn2",
    "torchvision:inception_v3": "Mixed_7c",
    "torchvision:googlenet": "inception5b",
    "torchvision:squeezenet1_1": "features",
    "torchvision:alexnet": "features",
    "timm:vovnet39a": "stages",
    "timm:poolformer_s12": "stages",
    "timm:selecsls42": "head",
    "torchvision:swin_t": "permute",
    "timm:pvt_v2_b0": "stages",
    "timm:davit_tiny": "stages",
}
# Networks for which no centre is given, and why.
UNKNOWN = {
    "timm:resnet50d": ("layer4", "shortcuts average 2 x 2 places, beside 3 x 3 convolutions of stride 2"),
    "timm:resnest14d": ("layer4", "as resnet50d"),
    "timm:nf_resnet26": ("stages", "as resnet50d"),
    "timm:dla34": ("level5", "2 x 2 pooling beside 3 x 3 convolutions of stride 2"),
    "timm:tresnet_m": ("body", "patches moved into channels, then shortcuts as in resnet50d"),
    "timm:hgnetv2_b0": ("stages", "2 x 2 pooling beside two 2 x 2 convolutions in the stem"),
    "timm:nasnetalarge": ("act", "branches with windows of many sizes"),
    "timm:hrnet_w18_small": ("final_layer", "maps are enlarged inside the network"),
    "timm:levit_128s": ("stages", "where cells are thinned out, only attention leads from one stage to the next"),
    "timm:efficientformerv2_s0": ("stages", "maps are enlarged inside the network"),
    "timm:gcvit_xxtiny": ("stages", "attention whose queries are pooled from the whole image"),
}


# --- where cells look ----------------------------------------------------------------------------------------------------


@cache
def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return zoo.build(name, num_classes=2).eval()


def traced(model: nn.Module, layer: str, side: int) -> tuple[Trace, Ref]:
    """One run on an input of that side, and the layer's output in it."""
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = trace(model, lambda: model(x), (x,), lambda output: output)
    refs = [ref for ref, points in found.points.items() if any(p.kind == "output" and p.name == layer for p in points)]
    return found, refs[-1]


@dataclass(frozen=True)
class Look:
    """A network's cells on an input of one side. how: what told their centres."""

    geometry: Geometry
    how: str
    whole: bool


def look(name: str, layer: str, side: int) -> Look:
    found, cut = traced(build(name), layer, side)
    field = receptive_field(found, cut, 2)
    assert field is not None, f"the cells of {name} have no centre"
    grid = tuple(found.shape(cut)[a] for a in field.axes)
    how = "ramp" if by_recurrence(found, cut, 2) is None else "recurrence"
    return Look(Geometry(grid, (side, side), field.start, field.jump, True, field.size), how, field.whole)


def plainly(geometry: Geometry) -> Geometry:
    """The same cells where plain resizing takes them to be."""
    return Geometry.unregistered(geometry.grid, geometry.input_size)


def peak(geometry: Geometry, cell: Sequence[int]) -> tuple[float, ...]:
    """Where upsampling puts the highest value of a map that is one at one cell and zero elsewhere."""
    cells = torch.zeros(geometry.grid, dtype=torch.float64)
    cells[tuple(cell)] = 1
    pixels = spatial.upsample(cells, geometry)
    return tuple(((pixels >= pixels.max() - 1e-9).nonzero().double().mean(0)).tolist())


def shifts(drawn: Geometry, true: Geometry) -> list[float]:
    """Centre minus peak for the cells of the diagonal but the outermost, whose values are held up to the border."""
    centres = true.centres()[0]
    return [float(centres[i]) - peak(drawn, (i, i))[0] for i in range(1, true.grid[0] - 1)]


def shift_rows(networks: Iterable[str] = LAYERS, sides: Sequence[int] = SIDES) -> Iterator[list[str]]:
    yield ["network", "stride", "receptive field", "first cell at", "told by",
           *(f"plain resize, {n} px" for n in sides), "registered (largest of both)"]  # fmt: skip
    for name in networks:
        looks = [look(name, LAYERS[name], side) for side in sides]
        first, kept = looks[0], [s for one in looks for s in shifts(one.geometry, one.geometry)]
        size = first.geometry.receptive_field
        yield [
            name,
            f"{first.geometry.jump[0]:g}",
            "whole input" if first.whole else "not known" if size is None else f"{size[0]:g}",
            " / ".join(dict.fromkeys(f"{one.geometry.start[0]:g}" for one in looks)),
            first.how,
            *(_span(shifts(plainly(one.geometry), one.geometry)) for one in looks),
            f"{max(map(abs, kept)):.1f}",
        ]


def _span(values: Sequence[float]) -> str:
    """One number, or the first and the last."""
    ends = [f"{v:+.1f}" if v else "0" for v in (values[0], values[-1])]
    return ends[0] if max(values) - min(values) < 0.5 else f"{ends[0]} to {ends[1]}"


def cell_rows(name: str, side: int) -> Iterator[list[str]]:
    """Every cell of one axis: where it looks, and where plain resizing draws it."""
    geometry = look(name, LAYERS[name], side).geometry
    drawn, true = plainly(geometry).centres()[0], geometry.centres()[0]
    yield ["cell", *map(str, range(geometry.grid[0]))]
    yield ["centre", *(f"{v:g}" for v in true.tolist())]
    yield ["drawn by plain resize", *(f"{v:.1f}" for v in drawn.tolist())]
    yield ["centre minus drawn", *(f"{v:+.1f}" for v in geometry.shift()[0].tolist())]


def unknown_rows(networks: Iterable[str] = UNKNOWN) -> Iterator[list[str]]:
    yield ["network", "first cell at", "why"]
    for name in networks:
        layer, why = UNKNOWN[name]
        model = build(name)
        found, cut = traced(
            model, layer, int(getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1])
        )
        assert receptive_field(found, cut, 2) is None, f"the cells of {name} have a centre"
        interval = centre_interval(found, cut, 2)
        yield [name, "not known" if interval is None else f"{interval[0][0]:g} to {interval[0][1]:g}", why]


# --- what it costs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The study: LesionLab fundus images with lesions made smaller, and residual networks trained on them.

    networks: the number of stages and the side of the images, larger where cells are.
    """

    images: int = 1000
    test_images: int = 240
    diameter: float = 0.7
    epochs: int = 8
    seeds: int = 3
    networks: tuple[tuple[int, int], ...] = ((2, 128), (3, 128), (4, 256))

    def data(self, split: str, images: int, side: int) -> LesionLab:
        return LesionLab(n_images=images, size=side, split=split, knobs={"diameter": self.diameter})

    def recipe(self, seed: int) -> TrainingConfig:
        flips = ("hflip", "vflip", "transpose")
        return TrainingConfig(epochs=self.epochs, lr=5e-3, augment=flips, seed=seed, precision="32")


def narrow_resnet(stages: int, seed: int) -> nn.Module:
    """ResNet-18 (torchvision's blocks) a quarter as wide, with the first `stages` of its four, random weights."""
    from torchvision.models.resnet import BasicBlock

    def stage(before: int, width: int, stride: int) -> nn.Module:
        same = before == width
        shortcut = (
            None if same else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        return nn.Sequential(BasicBlock(before, width, stride, shortcut), BasicBlock(width, width))

    widths = [16, 16, 32, 64, 128][: stages + 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            *(stage(widths[k], widths[k + 1], 1 + (k > 0)) for k in range(stages)),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 2),
        )  # fmt: skip


def trained(plan: Plan, stages: int, side: int, seed: int, folder: Path) -> pl.SoftCAM:
    data = plan.data("train", plan.images, side)
    place = folder / f"{stages}-stages-{side}-{seed}"
    run = pl.train(narrow_resnet(stages, seed), data, plan.recipe(seed), folder=place, progress=False)
    return pl.convert(run.model.eval(), data[0].input[None], classes=data.classes).eval()


PLAIN, REGISTERED = "plain resize", "registered"


def scored(softcam: pl.SoftCAM, samples: Sequence[Sample], model: str, seed: int) -> Table:
    """Predictions on all samples; maps of the log-odds of "lesion" on those with lesions, drawn both ways."""
    x = collate(samples)
    with torch.inference_mode():
        likely = torch.cat([softcam(part) for part in x.split(40)]).softmax(1)
    told = tuple(
        Prediction(s.name, s.group, model, int(s.label or 0), tuple(p), seed)
        for s, p in zip(samples, likely.double().tolist(), strict=True)
    )
    ill = [i for i, s in enumerate(samples) if s.label == 1]
    masks = torch.stack([m for m in (samples[i].mask for i in ill) if m is not None])
    e = api.explain(softcam, x[ill], 1, method="evidence", batch_size=40)
    records = []
    for method, geometry in ((REGISTERED, e.geometry), (PLAIN, plainly(e.geometry))):
        for metric, values in _localisation(spatial.upsample(e.map, geometry), masks):
            for i, value in zip(ill, values.tolist(), strict=True):
                records.append(Record(samples[i].name, samples[i].group, model, method, metric, value=value, seed=seed))
    return Table(tuple(records), told)


def tolerance(side: int) -> float:
    """Of the pointing game: 15 pixels at 512."""
    return 15 * side / 512


def _localisation(pixels: Tensor, masks: Tensor) -> Iterator[tuple[str, Tensor]]:
    cells = pixels, Geometry.of_samples(pixels.shape[1:])
    yield "pointing game", pointing_game(pixels, masks, *cells, tolerance=tolerance(masks.shape[-1]))[""]
    mass = relevance_mass(pixels, masks, *cells)
    yield "relevance mass", mass[""]
    yield "mass over area", mass["over_area"]


@dataclass(frozen=True)
class Lesion:
    """One lesion that can be taken away: the patient, the image with it and without it, and its centre."""

    group: str
    shown: Tensor
    hidden: Tensor
    centre: tuple[float, float]


def lesions(samples: Iterable[Sample]) -> list[Lesion]:
    """Lesions of 8 pixels or more whose centre is a quarter of the side or more from every border."""
    found = []
    for sample in samples:
        for name in (z for z in sample.zones if z.startswith("lesion:")):
            places = sample.zones[name].nonzero().double()
            side, centre = sample.input.shape[-1], places.mean(0)
            if len(places) >= 8 and bool(((centre > side / 4) & (centre < 3 * side / 4)).all()):
                hidden = sample.alternatives[f"without {name}"]().input
                found.append(Lesion(sample.group, sample.input, hidden, (float(centre[0]), float(centre[1]))))
    return found


@dataclass(frozen=True)
class Effect:
    """Where the evidence of single lesions peaks in one network: peak minus centre of the lesion, down and right."""

    model: str
    seed: int
    groups: tuple[str, ...]
    offsets: Mapping[str, Tensor]  # drawn how -> (lesions, 2)


def effect(softcam: pl.SoftCAM, found: Sequence[Lesion], model: str, seed: int) -> Effect:
    """The peak of what a lesion adds to the evidence, drawn both ways."""
    shown, hidden = (
        api.explain(softcam, torch.stack([getattr(f, name) for f in found]), 1, method="evidence", batch_size=40)
        for name in ("shown", "hidden")
    )
    peaks = (shown.map - hidden.map).flatten(1).argmax(1)
    rows, columns = peaks // shown.geometry.grid[1], peaks % shown.geometry.grid[1]
    truth = torch.tensor([f.centre for f in found], dtype=torch.float64)
    offsets = {}
    for method, geometry in ((PLAIN, plainly(shown.geometry)), (REGISTERED, shown.geometry)):
        down, right = geometry.centres()
        offsets[method] = torch.stack([down[rows], right[columns]], 1) - truth
    return Effect(model, seed, tuple(f.group for f in found), offsets)


@dataclass(frozen=True)
class Found:
    """All that the study measured. looks: of each network's cells."""

    table: Table
    effects: tuple[Effect, ...]
    looks: Mapping[str, Geometry]


def study(plan: Plan, folder: Path) -> Found:
    tables, effects, looks = [], [], {}
    for stages, side in plan.networks:
        data = plan.data("test", plan.test_images, side)
        samples = [data[i] for i in range(len(data))]
        single = lesions(samples[: plan.test_images // 2])
        for seed in range(plan.seeds):
            softcam = trained(plan, stages, side, seed, folder)
            geometry = softcam.evidence(samples[0].input[None]).geometry
            model = f"{stages} stages, stride {geometry.jump[0]:g}, {side} px"
            looks[model] = geometry
            tables.append(scored(softcam, samples, model, seed))
            effects.append(effect(softcam, single, model, seed))
            print(f"{model}, seed {seed}: done", file=sys.stderr, flush=True)
    records, told = ([r for t in tables for r in getattr(t, kind)] for kind in ("records", "predictions"))
    return Found(Table(tuple(records), tuple(told)), tuple(effects), looks)


def effect_rows(effects: Iterable[Effect]) -> Iterator[list[str]]:
    yield [
        "network",
        "training",
        "lesions",
        *(f"{m}: {a}" for m in (PLAIN, REGISTERED) for a in ("down", "right", "distance")),
    ]
    for e in effects:
        cells = []
        for method in (PLAIN, REGISTERED):
            offsets = e.offsets[method]
            cells += [_signed(mean_interval(offsets[:, axis].tolist(), e.groups), 1) for axis in (0, 1)]
            cells.append(f"{float(offsets.norm(dim=1).median()):.1f}")
        yield [e.model, str(e.seed), str(len(e.groups)), *cells]


def effect_means(effects: Sequence[Effect]) -> Iterator[list[str]]:
    """The mean over trainings of each network's mean offset."""
    yield ["network", *(f"{m}: {a}" for m in (PLAIN, REGISTERED) for a in ("down", "right"))]
    for model in dict.fromkeys(e.model for e in effects):
        each = {
            m: torch.stack([e.offsets[m].mean(0) for e in effects if e.model == model]) for m in (PLAIN, REGISTERED)
        }
        yield [model, *(f"{v:+.1f}" for m in (PLAIN, REGISTERED) for v in each[m].mean(0).tolist())]


def study_rows(table: Table) -> Iterator[list[str]]:
    yield [
        "network",
        "score",
        PLAIN,
        REGISTERED,
        "difference, over patients",
        "p",
        "difference, over trainings",
        "each training",
    ]
    values = {(row.model, row.metric, row.method): row.interval.mean for row in table.summary()}
    for found in table.compare(REGISTERED, PLAIN):
        key = (found.model, found.metric)
        each = _by_seed(table, found.model, found.metric)
        yield [
            found.model, found.metric, *(f"{values[(*key, m)]:.3f}" for m in (PLAIN, REGISTERED)),
            _signed(found.difference), f"{found.p_value:.4f}", _signed(t_interval(each)), ", ".join(f"{v:+.3f}" for v in each),
        ]  # fmt: skip


def _signed(interval: Interval, digits: int = 3) -> str:
    return "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(interval.mean, interval.low, interval.high, d=digits)


def _by_seed(table: Table, model: str, metric: str) -> list[float]:
    """The mean difference of every training."""
    mine = table.where(model=model, metric=metric)
    seeds = sorted({r.seed for r in mine.records if r.seed is not None})
    return [_mean(mine, REGISTERED, seed) - _mean(mine, PLAIN, seed) for seed in seeds]


def _mean(table: Table, method: str, seed: int) -> float:
    return mean(r.value for r in table.where(method=method, seed=seed).records if r.value is not None)


# --- the document --------------------------------------------------------------------------------------------------------


def as_table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(plan: Plan, folder: Path, command: str) -> str:
    found = study(plan, folder)
    table = found.table
    ill = len({r.sample for r in table.records})
    patients = len({r.group for r in table.records})
    accuracy = {row.model: row.interval.mean for row in table.performance() if row.metric == "accuracy"}
    known = "\n".join(
        f"- {name}: map {g.grid[0]} x {g.grid[1]}, receptive field {(g.receptive_field or (0,))[0]:g} px, accuracy {accuracy[name]:.3f}"
        for name, g in found.looks.items()
    )
    return TEXT.format(
        command=command,
        shifts=as_table(shift_rows()),
        inception=as_table(cell_rows("torchvision:inception_v3", 299)),
        unknown=as_table(unknown_rows()),
        images=plan.images, diameter=plan.diameter, epochs=plan.epochs, seeds=plan.seeds, known=known, ill=ill, patients=patients,
        test=plan.test_images, half=plan.test_images // 2, study=as_table(study_rows(table)), effects=as_table(effect_rows(found.effects)), means=as_table(effect_means(found.effects)),
    )  # fmt: skip


TEXT = """\
# Where a cell looks

Written by `{command}`; nothing here is edited by hand. Positions are in pixels of the network's input, the centre of the
first pixel at 0.

A feature map is usually laid over the picture by resizing it, as if its cells tiled the input evenly. Layers of stride 2
with odd kernels and equal padding on both sides do not do that: the first cell of a ResNet looks at pixel 0, not at 15.5,
so a resized map is drawn 15.5 pixels too far down and right, half a cell. pellucid keeps start and spacing of the cells
with every map (`explanation.geometry`), draws by them, and says `registered=False` where it does not know them.

Centres come from the recurrence over the traced convolutions and poolings (Araujo, Norris and Sim 2019). Where an
operation is not known to it, a ramp does: every value of the input is replaced by its own position and sent through the
trace, windows handing on what is at their middle. Where ways of different centres meet, the ramp keeps the lowest and the
highest, and no centre is claimed. The tests hold both against each other, and against the support of the gradient of
networks with positive weights and no gates, on inputs larger than the field.

## The shift, before and after

Centre of a cell minus the peak of its drawn map (a map that is one at that cell and zero elsewhere, enlarged), for all
cells of the diagonal but the outermost; two numbers are the first and the last of these cells. Peaks fall on whole pixels,
which accounts for up to half a pixel. The outermost cells are left out since their values are held up to the border.
"Whole input": a gate or attention on the way draws on everything, and the centre is that of the way around it.

{shifts}

VGG-16 is cut before its adaptive pooling. timm's `tf_` networks pad as TensorFlow does, which moves the same architecture
by 31 pixels; how much depends on the input's size, so centres found at one size are used for sizes that differ from it by
whole strides, and others are not registered.

## Where plain resizing is off by another amount at each cell

Networks without padding in their first layers have fewer cells than the input has strides. Inception-v3 at 299 pixels, per
axis (`geometry.centres()`, `geometry.shift()`):

{inception}

## Not known

No centre is given for these. Where an interval stands, every way through the network gives the first cell a centre inside it, and
the weights decide where. Attention alone does not place a cell; it takes a way around it.

{unknown}

## What it is worth on small lesions

LesionLab fundus images with lesions {diameter} times the usual diameter. ResNet-18 a quarter as wide, ending after two, three
or all four of its stages (on larger pictures where cells are larger), trained on {images} images for {epochs} epochs from
{seeds} random starts:

{known}

Evidence for "lesion" against "healthy" on the images with lesions of {test} held-out ones ({ill} images, {patients} patients),
the same maps drawn both ways. Pointing game: the highest point lies within 15/512 of the
side from a lesion. Relevance mass: share of the positive map inside the lesions; over area: divided by their share of the
picture, 1 is chance. Brackets hold 95 % intervals over patients (bootstrap, all trainings pooled; p by flipping the
sign of each patient's difference) and over trainings (Student's t).

{study}

Where the evidence of one lesion peaks: the map with it minus the map without it (exact counterfactuals; lesions of at least
8 pixels, a quarter of the side or more from every border, of the first {half} images), peak minus centre of the lesion in
pixels, mean with 95 % interval over patients, and the median distance:

{effects}

The means over the trainings:

{means}

What this says. The maps are the same numbers; only where they are drawn differs. Drawn by plain resizing, evidence lies too far
down and right in the mean of all three networks, though by less than the 3.5, 7.5 and 15.5 pixels that the centres differ by;
drawn registered, it lies off to the other side in most, and the mean error is smaller in four of the six numbers. At stride 8 the
pointing game gains in the mean and no training loses. At strides 16 and 32 no difference is shown: it goes up for some
trainings and down for others. Three trainings are few, and the intervals over trainings include 0 throughout; those over
patients speak of these very networks.

What it does not say. The centre is that of the field, known without the weights. Where the evidence of a trained network peaks
differs from it by several pixels, another way in each training, and by up to half a cell in one of them. That its kernels lean
on some taps more than on others, and that the border cuts every field here, may both play a part; neither was measured apart.
One generator, one family of small networks. The deepest network was first tried at 128 pixels (a map of 4 x 4): there the pointing game
fell from .102 to .080 and mass over area by .189 [.123, .258] over patients; it was replaced by 256 pixels, after this was seen.
"""


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/registration"), help="where trained networks are kept"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", default=Path("docs/registration.md"))
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    files.write_text(asked.write, document(Plan(), asked.folder, "python -m benchmarks.registration"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
