"""What the benchmarks share: subjects, the setting they run in, and the rows and targets that come out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import memory, protocol
from benchmarks.protocol import Ratio, estimate
from pellucid.explanation import Explanation

Run = Callable[[], Any]
CLASS = 5  # of 1000; one whose Grad-CAM, with these random weights, has a positive part in all networks


@dataclass(frozen=True)
class Setting:
    """The network (of torchvision, random weights, evaluation mode), the input's side and the batches whose memory is measured.

    others: further networks, for the studies that compare several. pairs: for cheap subjects; `fewer` for others.
    """

    network_name: str = "resnet50"
    side: int = 224
    pairs: int = protocol.PAIRS
    batches: tuple[int, ...] = (1, 8)
    others: tuple[str, ...] = ("vgg16",)

    @property
    def full(self) -> bool:
        """Whether the figures are meant to be read; else this is a smoke test."""
        return self.side >= 224

    def fewer(self, cost: int) -> int:
        """Pairs for subjects that cost so many times more."""
        return max(2, self.pairs // cost)

    def each(self) -> list[Setting]:
        """The same for each network."""
        return [replace(self, network_name=name) for name in (self.network_name, *self.others)]

    def network(self) -> nn.Module:
        from torchvision import models

        torch.manual_seed(0)
        model: nn.Module = getattr(models, self.network_name)(weights=None)
        return model.eval()

    def inputs(self, batch: int) -> Tensor:
        return torch.randn(batch, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """Something to be measured. `prepare(model, x)` does what is done once and gives what is measured.

    distribution: the package that has to be installed; empty for our own.
    """

    prepare: Callable[[nn.Module, Tensor], Run]
    distribution: str = ""

    def version(self) -> str | None:
        """The installed version, None where it is absent."""
        if not self.distribution:
            from pellucid import __version__

            return f"pellucid {__version__}"
        try:
            return f"{self.distribution} {metadata.version(self.distribution)}"
        except metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Row:
    """One subject's figures; a subject that is not installed has none. times, memory: batch size -> ratio, MiB."""

    subject: str
    version: str | None
    times: Mapping[int, Ratio] = field(default_factory=dict)
    memory: Mapping[int, float | None] = field(default_factory=dict)
    difference: float | None = None


@dataclass(frozen=True)
class Goal:
    """A target and what was measured."""

    what: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Study:
    """All that one benchmark found. ratios: batch size -> the single ratios of every subject, in the order of the rounds."""

    title: str
    about: str
    rows: Sequence[Row]
    goals: Sequence[Goal]
    ratios: Mapping[int, Mapping[str, Sequence[float]]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


PLAIN = "plain forward"


def plain_forward(model: nn.Module, x: Tensor) -> Run:
    """The network alone, under inference mode: the unit of all times."""

    def run() -> Any:
        with torch.inference_mode():
            return model(x)

    return run


def installed(subjects: Mapping[str, Subject]) -> dict[str, Subject]:
    return {name: subject for name, subject in subjects.items() if subject.version() is not None}


def times(
    subjects: Mapping[str, Subject], setting: Setting, batch: int = 1, pairs: int | None = None, warm: int = 2
) -> tuple[dict[str, list[float]], dict[str, Run]]:
    """The ratios of every subject, and what was run. Each works on a copy of the network of its own."""
    model, x = setting.network(), setting.inputs(batch)
    runs = {name: subject.prepare(copy.deepcopy(model), x) for name, subject in subjects.items()}
    return protocol.alternate(plain_forward(model, x), runs, pairs or setting.pairs, warm=warm), runs


def memories(study: str, subjects: Mapping[str, Subject], setting: Setting) -> dict[str, dict[int, float | None]]:
    return {name: memory.peaks(study, name, setting.as_dict(), setting.batches) for name in subjects}


def rows(
    subjects: Mapping[str, Subject],
    ratios: Mapping[int, Mapping[str, Sequence[float]]],
    memory: Mapping[str, Mapping[int, float | None]] | None = None,
    differences: Mapping[str, float] | None = None,
) -> list[Row]:
    """One row per subject, also for those that are not installed."""
    return [
        Row(
            name,
            f"torch {torch.__version__}" if subject.prepare is plain_forward else subject.version(),
            {batch: estimate(found[name]) for batch, found in ratios.items() if name in found},
            (memory or {}).get(name, {}),
            (differences or {}).get(name),
        )
        for name, subject in subjects.items()
    ]


def fastest(ratios: Mapping[str, Sequence[float]], among: Iterable[str]) -> str | None:
    """Which of the subjects that were measured takes the least time."""
    return min((n for n in among if n in ratios), key=lambda n: estimate(ratios[n]).median, default=None)


def unit(maps: Tensor) -> Tensor:
    """Each map moved and scaled to 0 to 1, as pytorch-grad-cam hands it out."""
    flat = maps.detach().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return (flat - low) / (high - low)


def rectified(explanation: Explanation) -> Tensor:
    """What is positive of a map, at the input's size: what peers hand out before they scale it."""
    return replace(explanation, map=explanation.map.relu()).at_input_size()


def resized(cells: Tensor, x: Tensor) -> Tensor:
    """A peer's map (batch, height, width) at the input's size."""
    return F.interpolate(cells[:, None], size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def layer_of(model: nn.Module) -> str:
    """The layer whose maps are compared: the one that `pellucid.explain` chooses."""
    return "layer4" if hasattr(model, "layer4") else "features"
