"""A served network: what it is, what it takes, and by which methods it can be explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import api, files, hooks, targets
from pellucid.app.calibration import Calibration, calibration
from pellucid.app.menu import layers_of, method_info
from pellucid.app.passes import Passes
from pellucid.app.schemas import InputInfo, LayerInfo, MethodInfo, ModelInfo
from pellucid.call import Call, has_evidence
from pellucid.data import open_data
from pellucid.errors import BadInput, OptionError
from pellucid.methods import COMPARED, METHODS
from pellucid.models import storage
from pellucid.networks import (
    class_names,
    made_explainable,
    open_network,
    preprocessing,
    random_weights,
    reading_for,
)
from pellucid.sample import Dataset

_UNKNOWN = Calibration(None, "not calibrated: it is no run's")


@dataclass(frozen=True)
class Served:
    """A network in evaluation mode with what a page has to know of it.

    shape: (channels, *spatial) of its inputs. output: for an input of noise. layers: those with positions. passes: its
    evidence, where it has some. folder: where it was saved, None for one by name. names: of the classes, where known.
    """

    id: str
    title: str
    network: nn.Module
    shape: tuple[int, ...]
    output: Tensor
    layers: list[LayerInfo]
    passes: Passes | None = None
    folder: Path | None = None
    calibrated: Calibration = _UNKNOWN
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.shape) - 1

    @property
    def explains_itself(self) -> bool:
        return self.passes is not None

    @cached_property
    def task(self) -> targets.Task:
        known: targets.Task | None = getattr(self.network, "task", None)
        return known or targets.default_task(self.output)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """A name per class; a single logit has two, negative and positive."""
        width = self.output.reshape(1, -1).shape[1]
        if self.task != "binary" or width > 1:
            return self.names or tuple(f"class {k}" for k in range(width))
        if self.names is None:
            return "negative", "positive"
        return self.names if len(self.names) == 2 else (f"not {self.names[0]}", self.names[0])

    @property
    def default_method(self) -> str:
        return api.default_method(self.network)

    @cached_property
    def methods(self) -> Mapping[str, MethodInfo]:
        """Those that suit the network, by name; the one that is taken when none is named first."""
        fit = [
            name
            for name, row in METHODS.items()
            if self.rank in row.ranks and ("evidence" not in row.needs or self.explains_itself)
        ]
        return {name: method_info(name) for name in sorted(fit, key=lambda name: name != self.default_method)}

    @property
    def compared(self) -> list[str]:
        """Methods that cost a pass or two."""
        return [name for name in COMPARED if name in self.methods and not self.methods[name].control]

    def dataset(self, source: str) -> Dataset:
        """A data source, read as the network wants its inputs."""
        return open_data(source, **reading_for(self.network, source, {}))

    def info(self) -> ModelInfo:
        certificate = getattr(self.network, "certificate", None)
        return ModelInfo(
            id=self.id,
            title=self.title,
            kind="softcam" if self.explains_itself else "network",
            network=type(getattr(self.network, "model", self.network)).__name__,
            task=self.task,
            classes=list(self.classes),
            input=InputInfo(channels=self.shape[0], size=list(self.shape[1:]), rank=self.rank),
            certificate=None if certificate is None else files.plain(certificate.as_dict()),
            temperature=self.calibrated.temperature,
            calibration=self.calibrated.note,
            methods=list(self.methods.values()),
            default_method=self.default_method,
            layers=self.layers,
            notes=list(self.notes),
        )

    @contextmanager
    def interruptible(self, over: Callable[[], bool]) -> Iterator[None]:
        """Between two forward passes look whether anybody still waits for the result, and raise `Stopped` if not."""

        def look(module: nn.Module, args: Any) -> None:
            if over():
                raise Stopped

        handle = getattr(self.network, "model", self.network).register_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()


class Stopped(Exception):
    """Nobody waits for the result any more."""


# --- opening ---------------------------------------------------------------------------------------------------------


def open_all(
    names: Sequence[str],
    *,
    weights: Path | None = None,
    device: torch.device,
    convert: bool = True,
    backend: str | None = None,
) -> dict[str, Served]:
    """The networks of runs and folders, and those by name, under ids that are unique.

    weights: a checkpoint for a network by name. convert: whether plain networks become self-explaining where that is
    exact. backend: runs their evidence (see `Passes.fast`). Raises `BadInput` for a folder without networks,
    `OptionError` for a wrong name or backend.
    """
    found = [(run, place) for name in names for run, place in _networks_in(name)]
    served: dict[str, Served] = {}
    for run, place in found:
        alone = len({r for r, _ in found}) == 1
        id = _unique(_id(run, place, alone), served)
        opened = _open(id, place, None if Path(place).exists() else weights, device, convert)
        served[id] = opened if backend is None else _quick(opened, backend)
    return served


def _networks_in(name: str) -> Iterator[tuple[str, str]]:
    """(run, network) for a run's networks, a single folder or a name."""
    folder = Path(name)
    inside = sorted(p.parent for p in folder.glob("*/model.json"))
    if (folder / "model.json").exists() or not folder.is_dir():
        yield "", name
    elif inside:
        # Networks that explain themselves first: the page opens with the first one.
        order = {p: storage.read_description(p)["kind"] != "softcam" for p in inside}
        yield from ((folder.resolve().name, str(p)) for p in sorted(inside, key=lambda p: order[p]))
    else:
        raise BadInput(
            f"{name} holds no network.",
            why="Neither it nor a folder in it has a model.json.",
            hint="Name a run, a saved model's folder, or a network such as torchvision:resnet50.",
            path=name,
        )


def _id(run: str, place: str, alone: bool) -> str:
    own = Path(place).resolve().name if Path(place).exists() else place.replace(":", "-")
    return own if alone or not run else f"{run}-{own}"


def _unique(id: str, taken: Mapping[str, Any]) -> str:
    copies = (id if k == 1 else f"{id}-{k}" for k in range(1, len(taken) + 2))
    return next(c for c in copies if c not in taken)


def _open(id: str, place: str, weights: Path | None, device: torch.device, convert: bool) -> Served:
    network = open_network(place, weights=weights, device=device)
    notes = [note for note in (random_weights(place, weights),) if note]
    saved = Path(place) if Path(place).exists() else None
    shape = _shape(network, saved)
    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    names = class_names(network, place, None)
    usual = {"size": list(shape[1:]), **({"grey": True} if shape[0] == 1 else {})}
    network.preprocessing = {**usual, **preprocessing(network)}  # type: ignore[assignment]
    network, told = made_explainable(network, example, id, keep="" if convert else "--no-convert")
    with torch.no_grad(), hooks.untouched(network):
        output = Call(network, output=api.logits_of(network))(example)
    if not isinstance(output, Tensor) or output.ndim > 2:
        raise OptionError(
            f"{place} cannot be served.",
            why="Its output is not one row of numbers per input.",
            hint="Serve a classifier or a regression.",
        )
    passes = Passes(network, shape) if has_evidence(network) else None
    if passes is not None:
        api.explain(network, example).text()  # loads what the first client would wait for
    return Served(
        id,
        id.replace("-", " ").replace("_", " "),
        network,
        shape,
        output.cpu(),
        layers_of(network, shape),
        passes,
        saved,
        _UNKNOWN if saved is None else calibration(saved.resolve()),
        names,
        (*notes, told),
    )


def _quick(served: Served, backend: Any) -> Served:
    """The same with its evidence, where it has some, run by a fast backend."""
    if served.passes is None:
        return served
    passes = Passes.fast(served.network, served.shape, backend)
    note = f"Its evidence is run by {backend}, at most {passes.difference:.1g} of the largest value away."
    return replace(served, passes=passes, notes=(*served.notes, note))


def _shape(network: nn.Module, folder: Path | None) -> tuple[int, ...]:
    """(channels, *spatial) of the inputs: as saved, else by the preparation, else 224 samples."""
    described = {} if folder is None else storage.read_description(folder)
    probe = described.get("probe")
    if probe:
        return tuple(probe["shape"])
    certificate = getattr(network, "certificate", None)
    first = next((m for m in network.modules() if hasattr(m, "in_channels") and hasattr(m, "kernel_size")), None)
    channels, rank = (3, 2) if first is None else (int(first.in_channels), len(first.kernel_size))  # type: ignore[arg-type]
    size: Any = getattr(certificate, "input_size", None) or preprocessing(network).get("size", 224)
    return channels, *((size,) * rank if isinstance(size, int) else tuple(size))
