"""The evidence of a batch from one forward pass, kept apart from what is asked of it: another class runs nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import backends, hooks
from pellucid.backends import Backend, Fast
from pellucid.call import Call, weights_device
from pellucid.spatial import Geometry
from pellucid.targets import Task

AT_A_TIME = (1, 4)  # inputs per pass of a fast backend, whose graphs have a fixed size


@dataclass(frozen=True)
class Pass:
    """What one forward pass told of one input; as `contracts.Evidence`, on the CPU."""

    output: Tensor
    logits: Float[Tensor, "1 classes"]
    maps: Float[Tensor, "1 classes *grid"]
    bias: Tensor
    positions: int
    geometry: Geometry
    complete: bool

    @property
    def bytes(self) -> int:
        return 4 * self.maps.numel()


@dataclass(frozen=True)
class Passes:
    """A network's evidence for a batch. runs: number of inputs of this shape -> what runs so many faster; like: a pass."""

    network: nn.Module
    shape: tuple[int, ...]
    runs: Mapping[int, Fast] = field(default_factory=dict)
    like: Pass | None = None

    @classmethod
    def fast(cls, network: nn.Module, shape: tuple[int, ...], backend: Backend) -> Passes:
        """Run by a backend of `pellucid.backends`, each graph compared with the network itself.

        Raises `OptionError` for a network or machine on which that does not run.
        """
        call = Call(_Packed(network).eval())
        x = torch.randn(max(AT_A_TIME), *shape, generator=torch.Generator().manual_seed(0)).to(weights_device(network))
        with torch.no_grad(), hooks.untouched(network):
            own = call(x)
        runs = {n: backends.fast(call, x[:n], own[:n], n, backend) for n in AT_A_TIME}
        return cls(network, shape, runs, cls(network, shape)(x[:1])[0])

    @property
    def difference(self) -> float:
        """The largest from the network itself, over its largest value; 0 without a fast backend."""
        return max((float(run.notes["difference"]) for run in self.runs.values()), default=0.0)

    def __call__(self, x: Float[Tensor, "batch channels *spatial"]) -> list[Pass]:
        x = x.to(weights_device(self.network))
        if not self.runs or tuple(x.shape[1:]) != self.shape:
            return self._eager(x)
        size = max(n for n in self.runs if n <= len(x))
        made = [self._unpacked(row) for row in self.runs[size].call(x[:size]).cpu()]
        return made if size == len(x) else [*made, *self(x[size:])]

    def _eager(self, x: Tensor) -> list[Pass]:
        network: Any = self.network
        with torch.no_grad():
            found = network.evidence(x)
        maps, logits = found.maps.cpu(), found.logits.cpu()
        bias = found.bias.cpu().expand(len(x), -1)
        return [
            Pass(logits[i : i + 1], logits[i : i + 1], maps[i : i + 1], bias[i : i + 1], found.positions, found.geometry, found.complete)
            for i in range(len(x))
        ]  # fmt: skip

    def _unpacked(self, row: Float[Tensor, "classes values"]) -> Pass:
        assert self.like is not None
        logits, bias = row[None, :, 0], row[None, :, 1]
        maps = row[None, :, 2:].reshape(self.like.maps.shape)
        return Pass(logits, logits, maps, bias, self.like.positions, self.like.geometry, self.like.complete)


class _Packed(nn.Module):
    """Logits, bias and maps of a pass as one tensor (batch, classes, 2 + cells), as the backends have it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        network: Any = self.network
        found = network.evidence(x)
        bias = found.bias.expand_as(found.logits)
        return torch.cat([found.logits[..., None], bias[..., None], found.maps.flatten(2)], 2)


class Replayed(nn.Module):
    """A network that has made its pass: explaining it with another target runs nothing again."""

    def __init__(self, network: nn.Module, found: Pass, task: Task, classes: Sequence[str] | None) -> None:
        super().__init__()
        self.found, self.task, self.classes, self.output = found, task, classes, None
        self.preprocessing = getattr(network, "preprocessing", None)

    def evidence(self, x: Tensor) -> Pass:
        return self.found
