"""What the benchmarks share: subjects, the setting they run in, and the rows and targets that come out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import memory, protocol
from benchmarks.protocol import Ratio

Run = Callable[[], Any]
CLASS = 281  # of ImageNet's 1000; any would do


@dataclass(frozen=True)
class Setting:
    """The network (of torchvision, random weights, evaluation mode), the input's side and the batches whose memory is measured."""

    network_name: str = "resnet50"
    side: int = 224
    pairs: int = protocol.PAIRS
    batches: tuple[int, ...] = (1, 8)

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
    """One subject's figures; a subject that is not installed has none. memory: batch size -> MiB."""

    subject: str
    version: str | None
    time: Ratio | None = None
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
    """All that one benchmark found. ratios: the single ratios of every subject, in the order of the rounds."""

    title: str
    about: str
    rows: Sequence[Row]
    goals: Sequence[Goal]
    ratios: Mapping[str, Sequence[float]]

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


def times(subjects: Mapping[str, Subject], setting: Setting) -> tuple[dict[str, list[float]], dict[str, Run]]:
    """The ratios of every subject at batch 1, and what was run. Each works on a copy of the network of its own."""
    model, x = setting.network(), setting.inputs(1)
    runs = {name: subject.prepare(copy.deepcopy(model), x) for name, subject in subjects.items()}
    return protocol.alternate(plain_forward(model, x), runs, setting.pairs), runs


def memories(study: str, subjects: Mapping[str, Subject], setting: Setting) -> dict[str, dict[int, float | None]]:
    return {
        name: {batch: memory.peak(study, name, setting.as_dict(), batch) for batch in setting.batches}
        for name in subjects
    }
