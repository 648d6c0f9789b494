"""`python -m benchmarks.audit STUDY --out FOLDER`: does the audit find what was planted, and nothing else? Does mending help?

    python -m benchmarks.audit ladder --out runs/audit-study       shortcuts of rising strength, and none
    python -m benchmarks.audit mending --out runs/audit-study      networks of the ladder trained anew without the shortcut
    python -m benchmarks.audit subgroups --out runs/audit-study    a subgroup with fainter lesions, and one without
    PELLUCID_TEST_DATA=... python -m benchmarks.audit chest --out runs/audit-study     chest X-rays with the label of the NIH
    python -m benchmarks.audit write --out runs/audit-study        the figures into docs/audit.md

The first three train small networks (pellucid:s8, 128 px) on LesionLab images of an eye, a letter in the upper left corner the
marker. What is finished in FOLDER is used, not made again, so a study that was stopped goes on where it was; `write` takes
what is there. Intervals of rates are Wilson's over networks, all others Student's t over independent trainings.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pellucid as pl
from benchmarks.results import pipes
from pellucid import files, study
from pellucid.audit import likeness
from pellucid.audit.audit import Order, audit
from pellucid.audit.drawings import find_drawings
from pellucid.audit.mending import AGREES, AS_IS, CONTRADICTS, STRENGTH, Conditions, ExchangedZone, PricedZone, compared
from pellucid.audit.observe import Part, Question, observe
from pellucid.audit.performance import performance
from pellucid.audit.policy import Policy
from pellucid.audit.shortcuts import zone_findings
from pellucid.audit.subgroups import subgroup_rows
from pellucid.audit.zones import zone
from pellucid.data.lesionlab import LesionLab
from pellucid.models import zoo
from pellucid.record import Interval, t_interval
from pellucid.sample import Dataset, Facts, Sample, collate
from pellucid.statistics import wilson_interval

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"
RHOS = (0.0, 0.3, 0.5, 0.7, 0.9)
TRAIN, TEST, SITE = 600, 150, 100  # images; SITE: of each subgroup
EPOCHS, SIDE = 4, 128
MARKER = "sample:marker"
FAINT = 0.5  # contrast of the lesions in the planted subgroup
LEVEL = 0.05
NETWORKS = 4  # without shortcut, that judge the subgroups in turn
CHEST_SIDE, CHEST_FOLDS = 128, 3
CHEST_SHOWN = ("performance.auc", "performance.sensitivity", "performance.specificity", "evidence.outside", "evidence.outside_area", "evidence.unmasked")  # fmt: skip
WAYS = {"exchange": ExchangedZone, "penalty": PricedZone}


@dataclass(frozen=True)
class Asked:
    """folder: where networks and figures are kept. seeds: trainings at every rho, test sets of the subgroups."""

    folder: Path
    seeds: int

    def kept(self, kind: str, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The figures of one network, made if they are not there yet."""
        path = self.folder / kind / f"{name}.json"
        if not path.exists():
            started = time.process_time()
            made = make()
            files.write_json(path, {**made, "seconds": time.process_time() - started})
            print(f"{kind} {name}: {time.process_time() - started:.0f} s", flush=True)
        found: Mapping[str, Any] = files.read_json(path)
        return found


def images(split: str, n: int, rho: float, seed: int, **knobs: Any) -> LesionLab:
    return LesionLab(n_images=n, size=SIDE, seed=seed, rho=rho, marker="letter", split=split, knobs=knobs or None)


def trained(data: Dataset, folder: Path, seed: int, **more: Any) -> nn.Module:
    """A small SoftCAM, the same one for the same seed; taken from its folder where it is finished. No flips: they would
    move the letter about.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = zoo.build("pellucid:s8", local=True)
    softcam = pl.convert(network, collate([data[0]]), classes=data.classes)
    recipe = pl.TrainingConfig(epochs=EPOCHS, batch_size=32, lr=5e-3, weight_decay=1e-4, schedule="one_cycle", seed=seed, **more)  # fmt: skip
    return pl.train(softcam, data, recipe, folder=folder, progress=False).model.eval()


def of_ladder(asked: Asked, rho: float, seed: int) -> nn.Module:
    return trained(images("train", TRAIN, rho, seed), asked.folder / "networks" / f"rho-{rho:g}-{seed}", seed)


# --- a shortcut of rising strength --------------------------------------------------------------------------------------------


def ladder(asked: Asked) -> None:
    """All strengths for one seed, then for the next."""
    for seed in range(asked.seeds):
        for rho in RHOS:
            asked.kept("ladder", f"rho-{rho:g}-{seed}", lambda rho=rho, seed=seed: audited(asked, rho, seed))  # type: ignore[misc]


def audited(asked: Asked, rho: float, seed: int) -> Mapping[str, Any]:
    """What the audit says of a network, on new patients with the shortcut as in training."""
    part = Part("ladder", of_ladder(asked, rho, seed), images("test", TEST, rho, seed))
    drawings = find_drawings([part], [likeness.look_at(part.dataset)], seed=seed)
    readings = observe(part, Question(1, [zone(MARKER), zone("corners"), zone("border")], drawings, seed=seed))
    found = zone_findings([readings], seed=seed)
    return {
        "rho": rho, "seed": seed, "auc": performance(readings, seed=seed)["auc"].mean,
        "zones": {f.zone: {"verdict": f.verdict, "effect": f.effect.mean, "mass": f.mass.mean} for f in found},
    }  # fmt: skip


def relied(found: Mapping[str, Any], kind: str) -> bool:
    """Whether the audit says that the network relies on a zone of this kind."""
    return any(z["verdict"] == "relied on" for name, z in found["zones"].items() if name.startswith(kind))


KINDS = {"rendered": MARKER, "corners": "corners", "drawing": "drawing", "border": "border"}


def ladder_words(found: Sequence[Mapping[str, Any]]) -> str:
    head = ["rho", "networks", "AUC", "what the letter does, log-odds", "letter rendered", "corners given to strangers", "drawing found and painted", "border (covers half of the letter)"]  # fmt: skip
    table = [head]
    for rho in RHOS:
        own = [f for f in found if f["rho"] == rho]
        if own:
            effect = t_interval([f["zones"][MARKER]["effect"] for f in own])
            rates = [rate(sum(relied(f, kind) for f in own), len(own)) for kind in KINDS.values()]
            table.append([f"{rho:g}", str(len(own)), within_one([f["auc"] for f in own]), str(effect), *rates])
    return pipes(table)


def within_one(shares: Sequence[float]) -> str:
    """Student's t interval, cut where a share ends."""
    found = t_interval(shares)
    return str(replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)))


def rate(hits: int, n: int) -> str:
    interval = wilson_interval(hits, n)
    return f"{hits} of {n} [{interval.low:.2f}, {interval.high:.2f}]"


# --- mending ----------------------------------------------------------------------------------------------------------------


def mending(asked: Asked) -> None:
    for how in WAYS:
        for seed in range(asked.seeds):
            asked.kept("mending", f"{how}-{seed}", lambda how=how, seed=seed: mended(asked, how, seed))  # type: ignore[misc]


def mended(asked: Asked, how: str, seed: int) -> Mapping[str, Any]:
    """A network of the strongest shortcut beside the one trained anew, on new patients."""
    data, place = images("train", TRAIN, RHOS[-1], seed), zone(MARKER)
    before = Part("before", of_ladder(asked, RHOS[-1], seed), images("test", TEST, RHOS[-1], seed))
    changed = WAYS[how](data, tuple(range(len(data))), place)
    price = {"penalty": "mask", "strength": STRENGTH} if how == "penalty" else {}
    after = Part("after", trained(changed, asked.folder / "networks" / f"{how}-{seed}", seed, **price), before.dataset)
    conditions = Conditions(place, 1, effect=1.0, seed=seed)
    rows = [row for c in (AS_IS, AGREES, CONTRADICTS) for row in compared([before], [after], conditions, c)]
    return {
        "how": how, "seed": seed,
        "scores": {row.condition: {"before": row.before.mean, "after": row.after.mean} for row in rows if row.metric == "accuracy"},
    }  # fmt: skip


def mending_words(found: Sequence[Mapping[str, Any]]) -> str:
    table = [["how", "images", "networks", "accuracy before", "after", "after minus before"]]
    for how in WAYS:
        own = [f["scores"] for f in found if f["how"] == how]
        for condition in (AS_IS, AGREES, CONTRADICTS) if own else ():
            before, after = ([f[condition][side] for f in own] for side in ("before", "after"))
            change = t_interval([b - a for a, b in zip(before, after, strict=True)])
            table.append([how, condition, str(len(own)), within_one(before), within_one(after), str(change)])
    return pipes(table)


# --- subgroups ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoSites:
    """Images of two sites, noted with each; the second site's lesions are of another contrast."""

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def facts(self, index: int) -> Facts:
        s = self.samples[index]
        return Facts(s.name, s.label if isinstance(s.label, int) else None, s.group)


def two_sites(seed: int, contrast: float) -> TwoSites:
    """No patient is in both: the sites have seeds of their own."""
    sites = {
        "A": images("test", SITE, 0.0, 1000 + 2 * seed),
        "B": images("test", SITE, 0.0, 1001 + 2 * seed, contrast=contrast),
    }
    samples = [
        s.changed(name=f"{site}-{s.name}", group=f"{site}-{s.group}", meta={"site": site})
        for site, data in sites.items()
        for s in (data[i] for i in range(len(data)))
    ]
    return TwoSites(tuple(samples), sites["A"].classes)


def subgroups(asked: Asked) -> None:
    """Every test set is judged by a network of the ladder without shortcut, in turn."""
    for seed in range(asked.seeds):
        for name, contrast in (("planted", FAINT), ("none", 1.0)):
            asked.kept("subgroups", f"{name}-{seed}", lambda c=contrast, s=seed, n=name: compared_sites(asked, n, c, s))  # type: ignore[misc]


def compared_sites(asked: Asked, name: str, contrast: float, seed: int) -> Mapping[str, Any]:
    network = of_ladder(asked, 0.0, seed % NETWORKS)
    readings = observe(Part("sites", network, two_sites(seed, contrast)), Question(1, seed=seed))
    tested = [row for row in subgroup_rows(readings, ["site"], seed=seed) if row.against is not None]
    return {
        "name": name, "seed": seed, "network": seed % NETWORKS,
        "measures": {row.measure: {"difference": row.against.interval.mean, "adjusted": row.against.adjusted} for row in tested if row.against is not None},
    }  # fmt: skip


def subgroup_words(found: Sequence[Mapping[str, Any]]) -> str:
    sides = [[f["measures"] for f in found if f["name"] == name] for name in ("planted", "none")]
    head = ["measure", f"found where site B's lesions have {FAINT:g} the contrast", "A minus B", "found where both are alike", "A minus B"]  # fmt: skip
    table = [head, ["any of them"]]
    for own in sides:
        table[1] += [rate(sum(any(m["adjusted"] < LEVEL for m in one.values()) for one in own), len(own)), ""]
    for measure in sides[0][0]:
        table.append([measure])
        for own in sides:
            hits = sum(one[measure]["adjusted"] < LEVEL for one in own)
            table[-1] += [f"{hits} of {len(own)}", str(t_interval([one[measure]["difference"] for one in own]))]
    return pipes(table)


# --- chest X-rays -------------------------------------------------------------------------------------------------------------

POLICY = Policy(
    title="Audit of a network for the NIH's label pneumonia", zones=("corners", "border"), subgroups=("number", "rsna")
)


def chest(asked: Asked) -> None:
    """A linear probe on frozen MobileNetV2 features for the label mined from reports, audited out of fold."""
    asked.kept("chest", "audit", lambda: audited_chest(asked))


def audited_chest(asked: Asked) -> Mapping[str, Any]:
    root, run = Path(os.environ.get("PELLUCID_TEST_DATA", "../shared/data")), asked.folder / "chest-run"
    recipe = pl.TrainingConfig()
    reading = {"size": CHEST_SIDE, "crop": "resize"}
    weights = str(root / "weights" / "mobilenet_v2-b0353104.pth")
    made = study.Study(
        str(chest_table(root, asked.folder)),
        reading,
        "torchvision:mobilenet_v2",
        weights,
        CHEST_FOLDS,
        True,
        False,
        recipe,
    )
    study.train_study(made, run, progress=False)
    page = audit(
        Order(run, run / "audit", policy=POLICY, command=f"pellucid audit {run} --subgroup number --subgroup rsna"),
        say=print,
    )
    return {"figures": {key: f.as_dict() for key, (f, _) in page.figures().items()}, "said": page.blocks[6].sentences}  # fmt: skip


def chest_table(root: Path, folder: Path) -> Path:
    """The images of the set as `pellucid train` reads them: the label from the reports, boxes of whatever kind, and notes."""
    place, boxes = root / "chest_xray_nih_rsna", defaultdict(list)
    for row in csv.DictReader((place / "boxes_1024.csv").open()):
        x, y, w, h = (float(row[k]) / 4 for k in "xywh")  # from 1024 to 256 pixels
        boxes[row["file"]].append(f"{x} {y} {x + w} {y + h}")
    lines = ["path,label,group,boxes,name,number,rsna"]
    lines += [
        f"{(place / 'images_256' / r['file']).resolve()},{r['nih_label']},{r['patient']},{';'.join(boxes[r['file']])},{r['file']},{int(r['patient'])},{r['rsna_class']}"
        for r in csv.DictReader((place / "index.csv").open())
    ]
    return files.write_text(folder / "chest.csv", "\n".join(lines) + "\n")


def chest_words(found: Sequence[Mapping[str, Any]]) -> str:
    (only,) = found
    table = [["figure", "value", "n", "p, corrected"]]
    for key, f in only["figures"].items():
        if key in CHEST_SHOWN or key.startswith(("shortcut.", "data.")) or (f["adjusted"] or 1) < LEVEL:
            interval = Interval(f["mean"], f["low"], f["high"], f["n"], f["groups"])
            shown = f"{f['mean']:.0f}" if f["unit"] == "counted" else str(interval)
            table.append([f"`{key}`", shown, str(f["n"]), "" if f["adjusted"] is None else f"{f['adjusted']:.4f}"])
    return f"{pipes(table)}\n\nKnown failures, in the words of the report:\n\n" + "\n".join(
        f"- {sentence}" for sentence in only["said"]
    )


# --- the page -----------------------------------------------------------------------------------------------------------------

STUDIES = {
    "ladder": (ladder, ladder_words),
    "mending": (mending, mending_words),
    "subgroups": (subgroups, subgroup_words),
    "chest": (chest, chest_words),
}


def write(asked: Asked) -> None:
    """Put the figures of every study that has some between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, (_, words) in STUDIES.items():
        found = [files.read_json(path) for path in sorted((asked.folder / name).glob("*.json"))]
        if found:
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            seeds = max(f.get("seed", -1) for f in found) + 1
            command = f"python -m benchmarks.audit {name}" + (f" --seeds {seeds}" if seeds else "")
            note = f"Written by `{command} --out FOLDER`; {sum(f['seconds'] for f in found):.0f} s of one core in all."
            text = f"{text.split(begin)[0]}{begin}\n{words(found)}\n\n{note}\n{end}{text.split(end)[1]}"
    files.write_text(PAGE, text)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", choices=(*STUDIES, "write"))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where networks and figures are kept")
    parser.add_argument("--seeds", type=int, default=5, help="trainings at every rho; test sets of the subgroups")
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    asked = Asked(chosen.out, chosen.seeds)
    write(asked) if chosen.study == "write" else STUDIES[chosen.study][0](asked)


if __name__ == "__main__":
    main()
