"""The processes that train one network together, and what they tell each other; alone, one process is all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from pellucid.errors import PellucidError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """rank: the place of this process, from 0. count: how many there are. group: what carries their words, on the CPU."""

    rank: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def here(cls) -> Ranks:
        """Those of the process group that this process is in."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        group = None if "gloo" in dist.get_backend_config() else dist.new_group(backend="gloo")
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> range:
        """The places of the items that are this process's: in order, the first processes have the more."""
        least, more = divmod(len(items), self.count)
        start = self.rank * least + min(self.rank, more)
        return range(start, start + least + (self.rank < more))

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in every process, in their order. An error of ours in one of them is raised in all."""
        if self.count == 1:
            return [work()]
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, _outcome(work), group=self.group)
        return [_raised(found) for found in told]

    def once(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, which alone does it; an error of ours in it is raised in all."""
        if self.count == 1:
            return work()
        told: list[Any] = [_outcome(work) if self.first else None]
        dist.broadcast_object_list(told, src=0, group=self.group)
        return _raised(told[0])  # type: ignore[no-any-return]

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""
        return any(self.together(lambda: flag))

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums over the processes."""
        return [sum(column) for column in zip(*self.together(lambda: list(numbers)), strict=True)]

    def joined(self, model: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the processes; their weights become the first one's."""
        if self.count == 1:
            return model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name in newer versions
            # A pass may leave parameters unused. Buffers are made equal where they count: `even_out`.
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def even_out(self, model: nn.Module) -> None:
        """Give every process the first one's buffers, such as the running statistics of batches."""
        for buffer in model.buffers() if self.count > 1 else ():
            dist.broadcast(buffer, src=0)


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except PellucidError as error:
        return error


def _raised(found: Any) -> Any:
    if isinstance(found, PellucidError):
        raise found
    return found


__all__ = ["Ranks"]
