"""Running only what follows a layer, again and again, with other feature maps in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks
from pellucid.call import Call
from pellucid.errors import LayerError, PellucidError

# What a network may answer with when the layer gives more rows than there are inputs.
_REFUSALS = (RuntimeError, ValueError, AssertionError, PellucidError)


class Tail:
    """The scores of one input when a layer gives other feature maps: `tail(maps)`, one score per map.

    The modules that were done before the layer answer with what they gave in a first pass, for a single row; the layer
    answers with all maps at once. Whether the network takes that (some join earlier, single-row features with the
    layer's) is tried with the layer's own map; one that does not gets whole passes over copies of the input.
    """

    def __init__(
        self, call: Call, x: Float[Tensor, "1 ..."], layer: nn.Module, score: Callable[[Any, int], Tensor]
    ) -> None:
        """call, x: bound to one input. score: what is explained of an output with the given number of rows."""
        self._call, self._x, self._layer, self._score = call, x, layer, score
        with torch.no_grad(), hooks.uncompiled(), _keeping(call.model, layer) as self._kept:
            true = score(call(x.clone()), 1)
        self.short = self._takes_many_rows(self._kept[layer], true)

    def __call__(self, maps: Float[Tensor, "copies channels *grid"]) -> Float[Tensor, "copies"]:
        return self._run(maps, self.short)

    def _run(self, maps: Tensor, short: bool) -> Tensor:
        rows = torch.zeros(1 if short else len(maps), dtype=torch.long)
        kept = self._kept if short else {}
        with torch.no_grad(), hooks.uncompiled(), _replayed(kept), _giving(self._layer, maps):
            output = self._call.rows(rows)(self._x[rows.to(self._x.device)])
        return self._score(output, len(maps))

    def _takes_many_rows(self, own: Tensor, true: Tensor) -> bool:
        try:
            found = self._run(own.repeat(2, *(1,) * (own.ndim - 1)), True)
        except _REFUSALS:
            return False
        return found.shape == (2,) and torch.allclose(found, true.expand(2), rtol=1e-2, atol=1e-6)


@contextmanager
def _keeping(model: nn.Module, layer: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """What the modules gave that were done when the layer was, the layer among them: the outermost, if they ran once."""
    kept: dict[nn.Module, Tensor] = {}
    runs: Counter[nn.Module] = Counter()
    reached = False

    def begin(module: nn.Module, args: Any) -> None:
        nonlocal reached
        reached = reached or module is layer

    def end(module: nn.Module, args: Any, output: Any) -> None:
        runs[module] += 1
        if (not reached or module is layer) and isinstance(output, Tensor) and not _compiled(module):
            for inner in module.modules():
                kept.pop(inner, None)
            kept[module] = output.clone()

    handles = [m.register_forward_hook(end) for m in model.modules()] + [layer.register_forward_pre_hook(begin)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
        for module in [m for m in kept if runs[m] > 1]:
            del kept[module]


def _compiled(module: nn.Module) -> bool:
    """Whether the module's own `forward` is out of reach."""
    return isinstance(module, torch.jit.ScriptModule)


@contextmanager
def _replayed(kept: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Let modules answer with a copy of what they gave before, without computing it."""
    own = {module: vars(module)["forward"] for module in kept if "forward" in vars(module)}

    def again(output: Tensor) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: output.clone()

    try:
        for module, output in kept.items():
            vars(module)["forward"] = again(output)
        yield
    finally:
        for module in kept:
            vars(module).pop("forward", None)
        for module, forward in own.items():
            vars(module)["forward"] = forward


@contextmanager
def _giving(layer: nn.Module, maps: Tensor) -> Iterator[None]:
    """Let the layer give `maps` instead of its own output. Raises `LayerError` unless it was asked once."""
    asked = 0

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return maps.to(output)

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if asked != 1:
        raise LayerError(
            f"The layer ran {asked} times in one pass.",
            why="Its feature map can only be replaced when it runs exactly once.",
            hint="Choose a layer that is used once, in a network that is not compiled.",
        )
