"""What is asked of the networks: every table of the benchmark, one kind of pictures and one training at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pellucid import evaluation, files
from pellucid.benchmark import networks
from pellucid.benchmark.plan import CANDIDATES, DIAMETERS, OWN, REMEDIED, Plan, of_diameter
from pellucid.models.softcam import SoftCAM
from pellucid.record import Table, join
from pellucid.sample import Dataset
from pellucid.shards import Shards

BATCH = 8
NETWORKS = ("converted", "sparse")  # whose explanations are compared
BLANK = ("untrained", "shuffled")  # which no method can explain
DRAWN = ("evidence", "saliency", "integrated_gradients")  # the methods whose curves are drawn
MAPS = {"plain resize": 1, "registered": 1, "finer 2": 2, "finer 4": 4}  # of the coarse network, and how much finer
GAUGES = {"raw map": "raw", "contrast map": "free"}


def _metrics(scores: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(metric for metric, _ in scores))


@dataclass(frozen=True)
class Unit:
    """One kind of pictures and one training, which are scored by themselves. device: where the networks run."""

    out: Path
    plan: Plan
    kind: str
    training: int
    device: str

    def network(self, name: str) -> nn.Module:
        return networks.load(self.out, self.plan, self.kind, self.training, name).to(self.device)

    @property
    def parts(self) -> Path:
        return self.out / "parts" / f"{self.kind}-{self.training}"

    def stored(self, study: str) -> Table:
        """The finished parts of a study, in their order."""
        folders = [path.parent for path in sorted(self.parts.glob(f"{study}*/plan.json"))]
        plans = [files.read_json(folder / "plan.json") for folder in folders]
        opened = [
            Shards(folder, plan["plan"], tuple(plan["parts"])) for folder, plan in zip(folders, plans, strict=True)
        ]
        return join(Table.from_parts(shards.read(part)) for shards in opened for part in shards.parts)

    def evaluate(self, study: str, models: Mapping[str, nn.Module], data: Dataset, **chosen: Any) -> Table:
        options = {**self.plan.options(), **chosen.pop("options", {})}
        used = {name: options[name] for name in (*chosen["methods"], *chosen["metrics"]) if name in options}
        return evaluation.evaluate(
            models,
            data,
            options=used,
            batch_size=BATCH,
            seed=self.plan.seed + self.training,
            folder=self.parts / study,
            **chosen,
        )


def predictions(unit: Unit) -> Table:
    """How well the networks tell ill from healthy."""
    data = unit.plan.data(unit.kind, "test", unit.plan.tested_images)
    models = {name: unit.network(name) for name in NETWORKS}
    return unit.evaluate("predictions", models, data, methods=(), metrics=())


def factorial(unit: Unit) -> Table:
    """Every network, method, control and metric, on pictures with lesions; all maps on the network's cells."""
    models = {name: unit.network(name) for name in NETWORKS}
    return unit.evaluate(
        "factorial",
        models,
        unit.plan.ill(unit.kind),
        methods=unit.plan.methods,
        metrics=_metrics(CANDIDATES),
        grid="cells",
    )


def own_cells(unit: Unit) -> Table:
    """Some of the scores again, with every map on the cells that it has by itself."""
    models = {name: unit.network(name) for name in NETWORKS}
    return unit.evaluate(
        "own-cells", models, unit.plan.ill(unit.kind), methods=unit.plan.methods, metrics=_metrics(OWN)
    )


def curves(unit: Unit) -> Table:
    """The points of the deletion and insertion curves of a few methods."""
    options = {name: {**unit.plan.options().get(name, {}), "points": True} for name in ("deletion", "insertion")}
    return unit.evaluate(
        "curves", {"converted": unit.network("converted")}, unit.plan.ill(unit.kind), methods=DRAWN, metrics=("deletion", "insertion"),
        controls=("random_map", "edge_map", "oracle_map"), options=options, grid="cells",
    )  # fmt: skip


def blank(unit: Unit) -> Table:
    """The scores of the factorial for networks that have learnt nothing, beside the control that looks at edges."""
    models = {name: unit.network(name) for name in BLANK}
    return unit.evaluate(
        "blank", models, unit.plan.ill(unit.kind), methods=unit.plan.methods, metrics=_metrics(CANDIDATES), controls=("edge_map",),
        grid="cells",
    )  # fmt: skip


def diameters(unit: Unit) -> Table:
    """One network with cells of 16 pixels, its map drawn in several ways, on lesions of one size after the other."""
    coarse = unit.network("coarse")
    assert isinstance(coarse, SoftCAM)
    drawn: dict[str, nn.Module] = {"plain resize": networks.plainly(coarse)}
    drawn |= {
        name: coarse if factor == 1 else coarse.finer(factor) for name, factor in MAPS.items() if name not in drawn
    }
    tables = []
    for diameter in DIAMETERS:
        data = unit.plan.ill(unit.kind, knobs=of_diameter(diameter))
        models = {f"{name}, {diameter:g}": model for name, model in drawn.items()}
        controls = ("random_map", "oracle_map")
        tables.append(
            unit.evaluate(
                f"diameters-{diameter:g}",
                models,
                data,
                methods=("evidence",),
                metrics=_metrics(REMEDIED),
                controls=controls,
            )
        )
    return join(tables)


def gauges(unit: Unit) -> Table:
    """A network of several classes, each with lesions of its own: the class's raw map, and the map free of the gauge."""
    data, network = unit.plan.ill(unit.kind, labels="graded"), unit.network("graded")
    return join(
        unit.evaluate(
            f"gauges-{gauge}", {name: network}, data, methods=("evidence",), metrics=_metrics(REMEDIED), controls=("random_map", "oracle_map"),
            options={"evidence": {"gauge": gauge}},
        )
        for name, gauge in GAUGES.items()
    )  # fmt: skip


def letters(unit: Unit) -> Table:
    """How much of every map lies on the letter and what the letter does, for networks that had more and less reason to read it.

    All pictures show lesions and the letter.
    """
    data = unit.plan.ill(unit.kind, marker="letter", rho=1.0)
    models = {networks.letter_name(rho): unit.network(networks.letter_name(rho)) for rho in unit.plan.rhos}
    return unit.evaluate("letters", models, data, methods=unit.plan.methods, metrics=("tag_share",))


# In every training, and in those with a ladder only.
REPEATED, LADDER = ("predictions", "factorial", "own-cells"), ("curves", "blank", "diameters", "letters")
STUDIES: Mapping[str, Callable[[Unit], Table]] = {
    "predictions": predictions, "factorial": factorial, "own-cells": own_cells, "curves": curves, "blank": blank,
    "diameters": diameters, "letters": letters, "gauges": gauges,
}  # fmt: skip
