"""`train`: a network, a data set and settings in; a `Run` out. Resumes exactly where it was stopped."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid import files
from pellucid.call import weights_device
from pellucid.data.splits import Split, split
from pellucid.errors import OptionError, ResourceError, nearest
from pellucid.hooks import untouched
from pellucid.models import storage
from pellucid.rings import note_on_rings
from pellucid.sample import Dataset
from pellucid.training import checkpoint, run_folder
from pellucid.training import task as tasks
from pellucid.training.augment import check as check_augmentation
from pellucid.training.augment import colours_of, laterality_note, sides_matter
from pellucid.training.config import TrainingConfig
from pellucid.training.data import Source, first_sample, memory_format, some
from pellucid.training.metrics import weights_dtype
from pellucid.training.progress import Progress
from pellucid.training.ranks import Ranks
from pellucid.training.run import Run
from pellucid.training.session import Session, TrainingInterrupted, frozen, optimiser_of
from pellucid.training.task import Task

FORMAT = 1
Precision = Literal["32-true", "bf16-mixed"]


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    validation: Dataset | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Run:
    """Train a copy of `model`; the given network is not changed.

    model: any network from `(batch, channels, *spatial)` to logits. A penalty on evidence needs a `SoftCAM`.
    folder: where the run is written; with `resume`, a run that was stopped there goes on and gives the same weights
    (on the CPU: bit for bit) as one that was not, and a finished one is only read. resume=False starts again.
    progress: tell on stderr how far it is. In a process group of torch.distributed all its processes call this together;
    they see the same folder, in which the first one writes, and each returns the run.
    Raises `OptionError` for settings that do not fit network, data or an existing folder, `BadInput` for unusable data,
    `ResourceError` for memory, disk, a missing package or a folder in use, `TrainingInterrupted` after Ctrl-C.
    """
    config, ranks = config or TrainingConfig(), Ranks.here()
    place = None if folder is None else Path(folder)
    with ExitStack() as held, _memory_said(config):
        if place is not None:
            ranks.once(lambda: held.enter_context(run_folder.claimed(place)))
        return _train(model, dataset, config, validation, place, resume, progress, ranks)


def _train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    validation: Dataset | None,
    folder: Path | None,
    resume: bool,
    progress: bool,
    ranks: Ranks,
) -> Run:
    data, held = _parts(dataset, validation, config)
    copy = _pooled(deepcopy(model), data, config)
    task = _checked(copy, data, held, config, ranks)
    device = _device(config)
    plan = _plan(copy, data, held, config, task, device, ranks)
    plan["held_out"] = (
        [] if held is None or validation is not None else [held.facts(i).name or str(i) for i in range(len(held))]
    )
    plan = _shared(plan, ranks)
    if folder is not None:
        plan, finished = ranks.once(lambda: _opened(folder, plan, config, resume))
        if finished:
            return Run.load(folder, copy)
    home = weights_device(copy)
    shape = first_sample(data, config.max_bad).input.shape
    copy.to(device).to(memory_format=memory_format(torch.empty(1, *shape)))
    with (
        untouched(copy, training=True),
        _threads(config.threads),
        _breaks_untold() if config.compile else nullcontext(),
    ):
        session = _session(copy, data, held, config, task, plan, folder, device, ranks)
        session.begin()
        with Progress(config.epochs, len(data), shown=progress and ranks.first, done=session.epoch) as bar:
            for note in plan["notes"]:
                bar.say(note)
            session.run(bar)
        ranks.even_out(copy)
        best = session.take_best()
    skipped = {**session.source.skipped, **(session.held.skipped if session.held else {})}
    trained = copy.to(home).to(memory_format=torch.contiguous_format).eval()
    ring = note_on_rings(trained, data if held is None else held)
    if ring is not None and progress and ranks.first:
        print(ring, file=sys.stderr, flush=True)
    run = Run(
        model=trained, config=config, history=tuple(session.history), best_epoch=best, task=task, classes=tuple(dataset.classes), data=plan["data"],
        validation=plan["validation"], held_out=tuple(plan["held_out"]), skipped=dict(sorted(skipped.items())), notes=(*plan["notes"], *([ring] if ring else [])), folder=folder,
    )  # fmt: skip
    if folder is not None:
        ranks.once(lambda: _write(run, folder, tuple(shape)))
    return run


def _pooled(model: nn.Module, data: Dataset, config: TrainingConfig) -> nn.Module:
    """The network with the pooling that is asked for."""
    if config.pooling == "keep":
        return model
    from pellucid.models.multi_scale import MultiScale, with_pooling

    if isinstance(model, MultiScale):
        raise OptionError(
            "The network has evidence heads of its own.",
            why=f"pooling='{config.pooling}' would replace them.",
            hint="Choose the pooling when it is made, and leave pooling='keep'.",
        )
    sample = first_sample(data, config.max_bad)
    x = sample.input.unsqueeze(0).to(weights_device(model), weights_dtype(model))
    task = tasks.resolve(model, x, sample.label, len(data.classes), config.task)
    options = {"sharpness": config.pooling_sharpness, "k": config.pooling_k, "hidden": config.pooling_hidden}
    return with_pooling(model, x, config.pooling, task=task, classes=data.classes, **options)


def _parts(dataset: Dataset, validation: Dataset | None, config: TrainingConfig) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what judges it."""
    if len(dataset) == 0:
        raise OptionError("The data set is empty.", hint="Check the source and its filters.")
    held = validation
    if held is None and config.val_fraction > 0:
        made = held_out_split(dataset, config)
        dataset, held = made.subset(dataset, "train"), made.subset(dataset, "val")
    if held is None and (config.keep_best != "last" or config.patience is not None):
        raise OptionError(
            "Choosing weights needs validation data.",
            why=f"keep_best is '{config.keep_best}', patience {config.patience}.",
            hint="Give validation=, or set val_fraction.",
        )
    if held is not None and tuple(held.classes) != tuple(dataset.classes):
        raise OptionError(
            "Training and validation data have different classes.",
            why=f"{tuple(dataset.classes)} and {tuple(held.classes)}.",
            hint="Read both with the same classes.",
        )
    return some(dataset, config.max_images, config.seed), held


def held_out_split(dataset: Dataset, config: TrainingConfig) -> Split:
    """What `val_fraction` trains on ("train") and holds out ("val"); groups stay whole."""
    shares = {"train": 1 - config.val_fraction, "val": config.val_fraction}
    return split(dataset, shares, seed=config.seed if config.split_seed is None else config.split_seed)


def _checked(
    model: nn.Module, data: Dataset, held: Dataset | None, config: TrainingConfig, ranks: Ranks
) -> Task:  # fmt: skip
    """The task, after the settings were found to fit network and data."""
    if ranks.count > 1 and config.compat == "paper-code":
        raise OptionError(
            "compat='paper-code' takes a batch in one piece.",
            why=f"Its penalty is that of the batch's first input; {ranks.count} processes share the batch.",
            hint="Train in one process, or leave compat out.",
        )
    sample = first_sample(data, config.max_bad)
    check_augmentation(config.augment, sample.input.shape[1:], len(sample.input), colours_of(data))
    if config.penalty != "none" and not hasattr(model, "evidence"):
        raise OptionError(
            f"The penalty '{config.penalty}' needs evidence maps, which this {type(model).__name__} does not give.",
            hint="Convert it first: pl.train(pl.convert(model, example), ...), or use penalty='none'.",
        )
    names = [name for name, _ in model.named_modules() if name]
    for prefix in config.freeze:
        if prefix not in names:
            raise OptionError(f"There is no module '{prefix}' to freeze.", hint=nearest(prefix, names))
    x = sample.input.unsqueeze(0).to(weights_device(model), weights_dtype(model))
    task = tasks.resolve(model, x, sample.label, len(data.classes), config.task)
    if task != "multiclass" and config.penalty_classes == "contrast":
        raise OptionError(
            f"There is no contrast between classes in a {task} task.", hint="Use penalty_classes='target' or 'all'."
        )
    return task


def _plan(
    model: nn.Module, data: Dataset, held: Dataset | None, config: TrainingConfig, task: Task, device: torch.device, ranks: Ranks,
) -> dict[str, Any]:  # fmt: skip
    """All that decides the result: a folder only takes up the training it was made for."""
    shapes = [
        (name, str(value.dtype), list(value.shape))
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    ]
    matters = config.laterality or sides_matter(data)
    notes = [laterality_note(config.augment, matters=matters, degrees=config.rotation_degrees)]
    parts = ranks.count if _has_batch_statistics(model, config.freeze) else 1
    if parts > 1:
        notes.append(f"Batch statistics are those of the part of a batch that a process has: 1 of {parts}.")
    return {
        "format": FORMAT, "config": config.decides(), "task": task, "classes": list(data.classes), "samples": len(data), "data": data.fingerprint,
        "validation": None if held is None else held.fingerprint, "network": type(model).__name__, "weights": checkpoint.digest(shapes), "parts": parts,
        "precision": _precision(config, device, weights_dtype(model)), "notes": [note for note in notes if note],
    }  # fmt: skip


def _has_batch_statistics(model: nn.Module, freeze: tuple[str, ...]) -> bool:
    """Whether a layer normalises by the statistics of the batch it is given."""
    still = {id(module) for _, module in frozen(model, freeze)}
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and id(m) not in still for m in model.modules())


def _shared(plan: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The first process's plan, after all were found to have the same."""
    plans = ranks.together(lambda: plan)
    differ = sorted({k for other in plans for k in plan if k not in _NOT_COMPARED and other[k] != plans[0][k]})
    if differ:
        raise OptionError(
            "The processes were given different trainings.",
            why=f"Different: {', '.join(differ)}.",
            hint="Give all machines the same data, settings and network.",
        )
    return plans[0]


def _opened(
    folder: Path, plan: dict[str, Any], config: TrainingConfig, resume: bool
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """The plan the folder was made for, after it was found to be this one; a new folder is made for it. Whether it is done.

    The precision is the recorded one: "auto" must not change on another machine half way.
    """
    path = folder / "plan.json"
    if path.exists() and resume:
        found, finished = files.read_json(path), run_folder.finished(folder)
        then = _as_of_now(found)
        only_read = ("parts",) if finished else ()
        differ = sorted(k for k in plan if k not in (*_NOT_COMPARED, *only_read) and then.get(k) != plan[k])
        if differ:
            raise OptionError(
                f"{folder} holds another training.",
                why=_difference(differ, then, plan),
                hint="Choose another folder, or start again with resume=False.",
                path=folder,
            )
        return _as_written(found, plan), finished
    if not resume:
        run_folder.forget(folder)
    config.to_yaml(folder / "config.yaml")
    files.write_json(path, plan)
    return plan, run_folder.finished(folder)


_NOT_COMPARED = ("precision", "notes")  # what the first machine chose; what follows from the rest


def _as_of_now(found: Any) -> dict[str, Any]:
    """A plan on disk with the defaults of the settings that came later, which is what was done without them."""
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        return {}
    try:
        return {"parts": 1, **found, "config": TrainingConfig(**found["config"]).decides()}
    except OptionError:
        return found


def _as_written(found: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """The plan as it is on disk, in the order it had when the digest in the saved state was taken of it."""
    config = {k: found["config"][k] for k in plan["config"] if k in found["config"]}
    return {**{k: found[k] for k in plan if k in found}, "config": config}


def _difference(differ: list[str], found: dict[str, Any], plan: dict[str, Any]) -> str:
    if differ == ["config"]:
        old, new = found["config"], plan["config"]
        return "; ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in new if old.get(k) != new.get(k)) + "."
    if differ == ["parts"]:
        return f"Its batch statistics are those of {found['parts']} parts of each batch, one per process, now {plan['parts']}."
    return f"Different: {', '.join(differ)}."


def _session(
    model: nn.Module,
    data: Dataset,
    held: Dataset | None,
    config: TrainingConfig,
    task: Task,
    plan: dict[str, Any],
    folder: Path | None,
    device: torch.device,
    ranks: Ranks,
) -> Session:
    for _, module in frozen(model, config.freeze):
        module.requires_grad_(False)
    optimiser = optimiser_of(model, config)
    fabric, joined = _fabric(device, plan["precision"]), ranks.joined(model)
    forward, wrapped = fabric.setup(torch.compile(joined) if config.compile else joined, optimiser)

    def source(of: Dataset, masks: bool = False) -> Source:
        return Source(
            of, config.batch_size, task, max_bad=config.max_bad, cache_mib=config.cache_mib, workers=config.workers, masks=masks,
        )  # fmt: skip

    return Session(
        model=model, forward=forward, optimiser=wrapped, backward=fabric.backward, config=config, task=task, source=source(data, config.penalty == "mask"), held=None if held is None else source(held),
        weights=tasks.weights_of(config.class_weights, task, data), plan=checkpoint.digest(plan), device=device, folder=folder,
        chances=tasks.chances_of(task, data) if config.sampling == "balanced" else None, colours=colours_of(data), ranks=ranks, apart=getattr(joined, "no_sync", nullcontext) if ranks.count > 1 else nullcontext,
    )  # fmt: skip


def _fabric(device: torch.device, precision: Precision) -> Any:
    """Lightning Fabric for this process's device."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ResourceError(
            "Training needs Lightning Fabric.",
            why="The package lightning-fabric is not installed.",
            hint='Install it: pip install "pellucid[train]".',
        ) from error
    return Fabric(
        accelerator=device.type, devices=1 if device.type == "cpu" else [device.index or 0], precision=precision
    )


def _device(config: TrainingConfig) -> torch.device:
    if config.device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if config.device == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise OptionError(f"There is no device '{config.device}'.", hint="Use auto, cpu, cuda or cuda:0.") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"Training does not run on '{device.type}'.", hint="Use auto, cpu, cuda or cuda:0.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"The device '{config.device}' is not there.",
            why=f"{torch.cuda.device_count()} CUDA devices were found.",
            hint="Use device='auto' or 'cpu'.",
        )
    return device


def _precision(config: TrainingConfig, device: torch.device, dtype: torch.dtype) -> Precision:
    fits = dtype == torch.float32 and (
        config.precision == "bf16" or (config.precision == "auto" and _fast_bf16(device))
    )
    return "bf16-mixed" if fits else "32-true"


def _fast_bf16(device: torch.device) -> bool:
    """Does the hardware multiply in bf16? Elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(supported()) for supported in asked if supported is not None)


_OF_THE_COMPILER = (
    "Dynamo does not know how to trace the builtin `_thread.get_ident",
    "The .grad attribute of a Tensor",
)


@contextmanager
def _breaks_untold() -> Iterator[None]:
    """No warning where a compiled graph ends at the hook that reads the evidence: it is so in every SoftCAM."""
    with warnings.catch_warnings():
        for message in _OF_THE_COMPILER:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_said(config: TrainingConfig) -> Iterator[None]:
    """Running out of memory as a `ResourceError` that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        hint = "Lower batch_size." if config.batch_size > 1 else "Use smaller inputs or a smaller network."
        raise ResourceError(
            f"There is not enough memory for batches of {config.batch_size}.", why=str(error).splitlines()[0], hint=hint
        ) from error


def _write(run: Run, folder: Path, shape: tuple[int, ...]) -> None:
    """The results of a finished run; the manifest last, since it says that the run is finished."""
    storage.save_model(run.model, folder, classes=run.classes, task=run.task, input_shape=shape)
    run_folder.log(folder, "finished", epochs=len(run.history), best_epoch=run.best_epoch, skipped=len(run.skipped))
    run_folder.write_manifest(folder, {"seed": run.config.seed, **run.facts()})


__all__ = ["Run", "TrainingInterrupted", "held_out_split", "train"]
