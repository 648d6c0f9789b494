"""A network bound to everything but the input that is explained, so that `call(x)` is all a method has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.errors import OptionError, nearest
from pellucid.spatial import Geometry

Selector = Callable[[Any], Any]


@dataclass(frozen=True)
class Call:
    """`call(x)` runs the network and picks the output to explain.

    args, kwargs: the network's other inputs. Tensors among them whose first axis equals `batch` belong to the inputs
    one by one and follow them when a method repeats or picks inputs (`rows`).
    output: which part of a tuple or dict to explain (index, key or a function); None takes the output as it is.
    input_name: the keyword under which x is passed; None passes it first.
    """

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: int | str | Selector | None = None
    input_name: str | None = None
    batch: int | None = None

    @classmethod
    def of(cls, model: nn.Module | Call) -> Call:
        """A network without other inputs, bound; a call stays what it is. A SoftCAM knows which output its logits are."""
        if isinstance(model, Call):
            return model
        network = unwrapped(model)
        return cls(network, output=getattr(network, "output", None) if has_evidence(network) else None)

    def __call__(self, x: Tensor) -> Any:
        return self.select(self.run(self.model, x))

    def run(self, function: Callable[..., Any], x: Tensor, **more: Any) -> Any:
        """Call `function` (the network, or one of its methods) with the bound inputs; nothing is selected."""
        kwargs = {**self.kwargs, **more}
        if self.input_name is None:
            return function(x, *self.args, **kwargs)
        return function(*self.args, **{**kwargs, self.input_name: x})

    def evidence(self, x: Tensor) -> Any:
        """What a self-explaining network tells about one pass (see `contracts.Evidence`).

        Raises `OptionError` for a network that has none.
        """
        if not has_evidence(self.model):
            raise OptionError(
                f"{type(self.model).__name__} has no evidence to show.",
                why="Only a SoftCAM can tell what its logits are made of.",
                hint="Convert it first: pellucid.convert(model, example).",
            )
        function: Any = self.model.evidence
        return self.run(function, x)

    def geometry(self, grid: Sequence[int], size: Sequence[int]) -> Geometry:
        """Where the cells of the last feature map lie: what a self-explaining network knows of them, else unregistered.

        A network that knows has a method `geometry(grid, size)`; it is not believed about a grid of another spacing.
        """
        known: Any = getattr(self.model, "geometry", None)
        if has_evidence(self.model) and callable(known):
            found: Geometry = known(tuple(grid), tuple(size))
            if all(abs(g * j / n - 1) < 0.5 for g, j, n in zip(grid, found.jump, size, strict=True)):
                return found
        return Geometry.unregistered(grid, size)

    def select(self, output: Any) -> Any:
        """The part of the network's output that is explained."""
        if self.output is None:
            return self._whole(output)
        if callable(self.output):
            return self.output(output)
        try:
            if isinstance(self.output, str) and not isinstance(output, Mapping):
                return getattr(output, self.output)
            return output[self.output]
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            known = list(output) if isinstance(output, Mapping) else getattr(output, "_fields", range(_length(output)))
            raise OptionError(
                f"The network's output has no part {self.output!r}.",
                why=f"It is a {type(output).__name__}.",
                hint=nearest(str(self.output), map(str, known)),
            ) from error

    @staticmethod
    def _whole(output: Any) -> Any:
        """Tensors pass, and so do lists of dicts (detectors, one per image); a choice between tensors is the user's."""
        if isinstance(output, Tensor) or (isinstance(output, list) and all(isinstance(o, Mapping) for o in output)):
            return output
        names = list(output) if isinstance(output, Mapping) else list(range(_length(output)))
        raise OptionError(
            f"The network returns a {type(output).__name__} of {len(names)} parts.",
            why="One tensor of logits is needed.",
            hint=f"Say which part to explain, for example output={names[0]!r} (there are {names})."
            if names
            else "Pass output=, a function that picks the logits.",
        )

    def rows(self, index: Tensor) -> Call:
        """The same call for other rows: input i of the new batch is input `index[i]` of the bound one."""

        def pick(value: Any) -> Any:
            follows = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == self.batch
            return value[index.to(value.device)] if follows else value

        if self.batch is None or not (self.args or self.kwargs):
            return self
        kwargs = {k: pick(v) for k, v in self.kwargs.items()}
        return replace(self, args=tuple(pick(a) for a in self.args), kwargs=kwargs, batch=len(index))


def _length(output: Any) -> int:
    return len(output) if hasattr(output, "__len__") else 0


def has_evidence(model: nn.Module) -> bool:
    """Whether the network can tell what its logits are made of."""
    return callable(getattr(model, "evidence", None))


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, where it stands behind DataParallel or DistributedDataParallel.

    Explaining looks into one network in one thread; its copies on other devices are out of reach.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def weights_device(model: nn.Module) -> torch.device:
    """Where the network lives: the device of its first parameter or buffer, else the CPU."""
    for tensor in chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")
