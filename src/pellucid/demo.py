"""The whole road once, in under three minutes: data, two kinds of network, explanations, scores, a planted shortcut, a report.

A black box is trained on LesionLab fundus images and made into a SoftCAM, which is then tuned with a penalty on its evidence.
Beside them, small SoftCAMs are trained on images with a letter in a corner: for some it says nothing about the label
(rho = 0), for others it nearly gives it away (rho = 0.9), and they have every reason to read the letter instead of the
retina. Each is trained several times, since one network picks up some small effect of anything by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pellucid import evaluation, files, reports
from pellucid.audit.effects import EffectSummary, effects, of_trainings
from pellucid.data.lesionlab import LesionLab
from pellucid.errors import OptionError
from pellucid.record import Interval, Table
from pellucid.reporting.report import Shortcut as ShortcutBlock
from pellucid.reporting.report import ShortcutRow
from pellucid.workers import Job, work

Say = Callable[[str], None]

METHODS = ("evidence", "cam", "grad_cam", "saliency", "random_map")
CONTROLS = ("random_map", "another_map", "oracle_map")  # of all controls those that say most for their time
METRICS = ("pointing_game", "relevance_mass", "deletion", "insertion", "sparseness", "completeness_residual")
RHOS = (0.0, 0.9)
RUNS = ("black-box", "softcam")


@dataclass(frozen=True)
class Plan:
    """How much of everything. `tiny` is for checking an installation: it learns nothing worth reading."""

    images: int = 1500
    epochs: int = 8
    tuning_epochs: int = 2
    size: int = 128
    test_images: int = 200
    scored_images: int = 60
    letter_images: int = 600
    letter_epochs: int = 4
    trainings: int = 3
    effect_images: int = 60
    seed: int = 0

    @classmethod
    def tiny(cls, seed: int = 0) -> Plan:
        return cls(
            64,
            1,
            1,
            size=64,
            test_images=24,
            scored_images=8,
            letter_images=48,
            letter_epochs=1,
            trainings=2,
            effect_images=8,
            seed=seed,
        )

    def data(self, split: str, n_images: int) -> LesionLab:
        return LesionLab(n_images=n_images, size=self.size, seed=self.seed, split=split)

    def lettered(self, split: str, n_images: int, rho: float = 0.0, seed: int = 0) -> LesionLab:
        return LesionLab(
            n_images=n_images, size=self.size, seed=self.seed + seed, rho=rho, marker="letter", split=split
        )


@dataclass(frozen=True)
class Shortcut:
    """What the letter does to networks that were trained with it at strength rho. changes: the mean of each."""

    rho: float
    effect: EffectSummary
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Demo:
    """What a demo leaves: its folder, plan, figures and networks."""

    folder: Path
    plan: Plan
    table: Table
    shortcuts: tuple[Shortcut, ...]
    models: Mapping[str, Any]


def run(folder: str | Path = "runs/demo", plan: Plan | None = None, *, say: Say = print, processes: int = 2) -> Demo:
    """Train, explain, score and report into `folder`. What is finished there already is used, not made again."""
    folder, plan = Path(folder), plan or Plan()
    _same_plan(folder, plan)
    say(
        f"Training a black box and its SoftCAM on {plan.images} LesionLab images ({plan.size} px), and {len(RHOS) * plan.trainings} networks on a planted letter ..."
    )
    _train_all(folder, plan, processes)
    networks = {"black box": _load(folder / "black-box"), "SoftCAM": _load(folder / "softcam")}
    say("Scoring explanations on held-out patients ...")
    table = _evaluate(folder, plan, networks)
    say("Measuring what the planted letter does ...")
    shortcuts = _shortcuts(folder, plan)
    table.to_json(folder / "evaluate" / "scores.json")
    table.to_csv(folder / "evaluate" / "scores.csv")
    demo = Demo(folder, plan, table, shortcuts, networks)
    say(f"Wrote {_report(demo)}")
    return demo


def _same_plan(folder: Path, plan: Plan) -> None:
    """Networks of another plan in the folder would be mixed up with this one's."""
    path, described = folder / "plan.json", vars(plan)
    if path.exists() and files.read_json(path) != described:
        raise OptionError(
            f"{folder} holds another demo.",
            why="Its plan.json differs from what was asked for.",
            hint=f"Delete {folder}, or choose another with --out.",
            path=folder,
        )
    files.write_json(path, described)


def _train_all(folder: Path, plan: Plan, processes: int) -> None:
    """The longest job first; one thread each, so that runs repeat."""
    jobs: list[Job] = [(_train_plain, (folder, plan))]
    jobs += [(_train_lettered, (folder, plan, rho, k)) for rho in RHOS for k in range(plan.trainings)]
    work(jobs, processes)


def _train_plain(folder: Path, plan: Plan) -> None:
    import pellucid as pl

    data = plan.data("train", plan.images)
    flips = {"augment": ("hflip", "vflip", "transpose")}
    black_box = pl.train(
        _network(plan.seed, data),
        data,
        _recipe(plan.epochs, plan.seed, **flips),
        folder=folder / "black-box",
        progress=False,
    ).model
    softcam = pl.convert(black_box, data[0].input[None], classes=data.classes)
    tuning = _recipe(plan.tuning_epochs, plan.seed, lr=2e-3, penalty="l1", strength=0.1, **flips)
    pl.train(softcam, data, tuning, folder=folder / "softcam", progress=False)


def _lettered(folder: Path, rho: float, k: int) -> Path:
    return folder / "letter" / f"rho-{rho:g}-{k}"


def _train_lettered(folder: Path, plan: Plan, rho: float, k: int) -> None:
    """No flips: they would move the letter about."""
    import pellucid as pl

    data = plan.lettered("train", plan.letter_images, rho, seed=k)
    softcam = pl.convert(_network(plan.seed + k, data), data[0].input[None], classes=data.classes)
    pl.train(
        softcam, data, _recipe(plan.letter_epochs, plan.seed + k), folder=_lettered(folder, rho, k), progress=False
    )


def _network(seed: int, data: LesionLab) -> Any:
    import torch

    from pellucid.models import zoo
    from pellucid.study import preprocessing_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = zoo.build("pellucid:s8", local=True)
    network.preprocessing = preprocessing_of(data)  # so that image files can be explained as well
    return network


def _recipe(epochs: int, seed: int, **more: Any) -> Any:
    from pellucid.training.config import TrainingConfig

    return TrainingConfig(
        **{
            "epochs": epochs,
            "batch_size": 32,
            "lr": 5e-3,
            "weight_decay": 1e-4,
            "schedule": "one_cycle",
            "seed": seed,
            **more,
        }
    )


def _run(folder: Path) -> Any:
    from pellucid.training.run import Run

    return Run.load(folder)


def _load(folder: Path) -> Any:
    return _run(folder).model.eval()


def _options(plan: Plan) -> dict[str, dict[str, Any]]:
    """The pointing game's usual 15 pixels at 512, and deletion by blur: grey squares are themselves a sight to the network."""
    return {"pointing_game": {"tolerance": 15 * plan.size / 512}, "deletion": {"baseline": "blur"}}


def _evaluate(folder: Path, plan: Plan, networks: Mapping[str, Any]) -> Table:
    """Predictions on the whole test set, explanation scores on its first images."""
    scored = evaluation.evaluate(
        networks, plan.data("test", plan.scored_images), methods=METHODS, metrics=METRICS, controls=CONTROLS, options=_options(plan), batch_size=20,
        seed=plan.seed, folder=folder / "evaluate" / "parts",
    )  # fmt: skip
    rest = evaluation.evaluate(
        networks, plan.data("test", plan.test_images), methods=(), metrics=(), batch_size=50, seed=plan.seed
    )
    return Table(scored.records, rest.predictions)


def _shortcuts(folder: Path, plan: Plan) -> tuple[Shortcut, ...]:
    """Every network on the same images, with the letter and without it."""
    images = plan.lettered("test", plan.effect_images)
    found = []
    for rho in RHOS:
        each = [effects(_load(_lettered(folder, rho, k)), images) for k in range(plan.trainings)]
        found.append(Shortcut(rho, of_trainings(each), tuple(mean(e.change for e in one) for one in each)))
    return tuple(found)


def _report(demo: Demo) -> Path:
    data = demo.plan.data("test", demo.plan.test_images)
    index = {data.facts(i).name: i for i in range(len(data))}
    softcam = demo.models["SoftCAM"]
    report = reports.build(
        demo.table,
        title="pellucid demo: a network that shows its evidence",
        subtitle="LesionLab fundus images: synthetic, with exact truth, and not realistic medicine",
        look_up=lambda name: (softcam, data[index[name]]),
        main="SoftCAM",
        classes=data.classes,
        data={"training images": demo.plan.images, "held-out images": demo.plan.test_images, "images with scored explanations": demo.plan.scored_images, "size": f"{demo.plan.size} px"},
        settings={"plan": vars(demo.plan), "metrics": _options(demo.plan), **{name: _run(demo.folder / name).config.model_dump(mode="json") for name in RUNS}},
        hashes={"test data": data.fingerprint, **{f"weights of {name}": files.sha256(demo.folder / name / "model.safetensors") for name in RUNS}},
        commands=("pellucid demo", f"pellucid verify {demo.folder}"),
        curves={name: _curves(demo.folder / name) for name in RUNS},
        shortcut=_shortcut_block(demo.shortcuts),
    )  # fmt: skip
    return reports.write(report, demo.folder / "report.html")


def _curves(folder: Path) -> dict[str, list[float]]:
    history = _run(folder).history
    return {
        name: [float(row[name]) for row in history]
        for name in ("loss",)
        if all(row.get(name) is not None for row in history)
    }


def _shortcut_block(shortcuts: tuple[Shortcut, ...]) -> ShortcutBlock:
    """The verdict rests on the measured effect of the letter; the evidence in its zone is shown beside it."""
    rows = tuple(
        ShortcutRow(f"{s.effect.change.n} SoftCAMs", s.rho, s.effect.change, s.effect.evidence_with, s.effect.evidence_without, s.effect.contrast, s.changes)
        for s in shortcuts
    )  # fmt: skip
    words = [
        f"Trained with the letter at rho = {s.rho:g}, networks {'rely on it' if _excludes_zero(s.effect.change) else 'are not shown to rely on it'}: "
        f"showing the letter changes the log-odds of a lesion by {s.effect.change}, and the evidence in its zone by {s.effect.contrast}."
        for s in shortcuts
    ]  # fmt: skip
    clean, planted = (s.effect.contrast for s in shortcuts)
    words.append(
        f"The evidence in the letter's zone, with against without it, is {abs(planted.mean / clean.mean):.0f} times as large where the letter was a shortcut."
        if _excludes_zero(clean) and _excludes_zero(planted)
        else "By how many times the evidence in the letter's zone grew cannot be told: an interval of it contains zero."
    )
    about = (
        "The same held-out images are rendered with and without the letter; nothing else differs. rho is the strength of the letter's link with the label in training. "
        "Intervals are over independent trainings (Student's t): any one network has picked up a small effect of the letter by chance. "
        "A few trainings are a weak test: an effect inside the interval is not excluded, it is only not shown."
    )
    return ShortcutBlock(" ".join(words), rows, about)


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0
