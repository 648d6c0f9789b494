"""Where a tensor comes by while a network runs, and how to take it there without changing the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from itertools import takewhile
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

Kind = Literal["output", "input", "function"]


@dataclass(frozen=True)
class CapturePoint:
    """A place in the run of a network where one tensor can be read.

    kind: a layer's output, a layer's input, or a call of a torch function (for what the network does outside layers).
    name: the layer's dotted name or the function's. call: which of its calls, from 0. argument: position or keyword of
    the argument; None for the result. calls: how many calls one pass made.
    """

    kind: Kind
    name: str
    call: int = 0
    argument: int | str | None = None
    calls: int = 1

    def __str__(self) -> str:
        where = {"output": f"the output of '{self.name}'", "input": f"the input of '{self.name}'"}
        if self.kind == "function":
            return f"the {'result' if self.argument is None else 'input'} of {self.name.removeprefix('torch.nn.functional.')}()"
        return where[self.kind] + (f", call {self.call + 1} of {self.calls}" if self.calls > 1 else "")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@cache
def function_name(function: Any) -> str:
    """The dotted name of a torch function, the same in every process."""
    name = resolve_name(function)
    return name if name else f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"


Take = Callable[[Tensor], Tensor | None]


@contextmanager
def capture(model: nn.Module, point: CapturePoint, take: Take) -> Iterator[None]:
    """While open, `take(tensor)` is called whenever this thread's run of `model` comes by `point`.

    The tensor is handed over at that moment, above autograd: what `take` computes from it carries gradients, and an
    in-place operation that follows cannot have changed it yet. Where `take` gives a tensor, the network goes on with
    that one. Nothing is left behind, also after an error.
    """
    if point.kind == "function":
        with _FunctionTap(point, take):
            yield
        return
    thread, count = threading.get_ident(), 0

    def visit(value: Any) -> Tensor | None:
        nonlocal count
        if threading.get_ident() != thread:
            return None
        count += 1
        return take(value) if count - 1 == point.call else None

    def visit_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        position = int(point.argument or 0)
        given = visit(args[position])
        return None if given is None else (*args[:position], given, *args[position + 1 :])

    layer = model.get_submodule(point.name)
    if point.kind == "output":
        handle = layer.register_forward_hook(lambda module, args, output: visit(output))
    else:
        handle = layer.register_forward_pre_hook(visit_input)
    try:
        yield
    finally:
        handle.remove()


class _FunctionTap(TorchFunctionMode):
    """Sees the calls of one torch function, counted from 0."""

    def __init__(self, point: CapturePoint, take: Take) -> None:
        super().__init__()
        self.point, self.take, self.count = point, take, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function_name(func) != self.point.name:
            return func(*args, **kwargs)
        mine, argument = self.count == self.point.call, self.point.argument
        self.count += 1
        if mine and argument is not None:
            given = self.take(args[argument] if isinstance(argument, int) else kwargs[argument])
            if given is not None and isinstance(argument, int):
                args = (*args[:argument], given, *args[argument + 1 :])
            elif given is not None:
                kwargs = {**kwargs, argument: given}
        result = func(*args, **kwargs)
        given = self.take(result) if mine and argument is None else None
        return result if given is None else given


@contextmanager
def substituted(model: nn.Module, layer: str, value: Tensor) -> Iterator[None]:
    """While open, `layer` gives `value`, whatever it computes."""
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: value.clone())
    try:
        yield
    finally:
        handle.remove()


class Sightings(TorchFunctionMode):
    """Notes, during one run, every point at which each tensor of interest can be captured.

    identify: gives a key for a tensor (or None where it is of no interest); `points[key]` lists its capture points in
    the order in which the run came by them.
    """

    def __init__(self, model: nn.Module, identify: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.identify = model, identify
        self.stack: list[str] = []
        self.counts: dict[tuple[str, str], int] = {}
        self._found: list[tuple[Any, CapturePoint]] = []
        self._handles: list[Any] = []

    @property
    def layer(self) -> str:
        """The dotted name of the layer that is running, empty for the network itself."""
        return self.stack[-1] if self.stack else ""

    @property
    def points(self) -> dict[Any, list[CapturePoint]]:
        listed: dict[Any, list[CapturePoint]] = {}
        for key, p in self._found:
            calls = self.counts["function" if p.kind == "function" else "layer", p.name]
            listed.setdefault(key, []).append(CapturePoint(p.kind, p.name, p.call, p.argument, calls))
        return listed

    def __enter__(self) -> Sightings:
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._entered(name)))
            self._handles.append(module.register_forward_hook(self._left(name), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _entered(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.stack.append(name)
            call = self._count("layer", name)
            for i, value in enumerate(args):
                self._note(value, CapturePoint("input", name, call, i))

        return hook

    def _left(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Calls that nest (a layer inside itself) are not told apart; the last to start is the last to be counted.
            self._note(output, CapturePoint("output", name, self.counts["layer", name] - 1))
            while self.stack and self.stack.pop() != name:
                pass

        return hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if name.endswith("__get__"):
            return func(*args, **kwargs)
        call = self._count("function", name)
        given = [(k, self.identify(v)) for k, v in (*enumerate(args), *kwargs.items()) if isinstance(v, Tensor)]
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):  # questions about shape and type are no places to read a tensor at
            self._found += [(key, CapturePoint("function", name, call, k)) for k, key in given if key is not None]
            self._note(result, CapturePoint("function", name, call))
        return result

    def _count(self, kind: str, name: str) -> int:
        call = self.counts.get((kind, name), 0)
        self.counts[kind, name] = call + 1
        return call

    def _note(self, value: Any, point: CapturePoint) -> None:
        if point.name and isinstance(value, Tensor) and (key := self.identify(value)) is not None:
            self._found.append((key, point))


def best(points: list[CapturePoint]) -> CapturePoint | None:
    """The most robust of several points for one tensor.

    A layer's output, at best the last (the outermost block, or the dropout that only acts in training); else a layer's
    input; else a function, at best one that is called once in a pass.
    """
    outputs = [p for p in points if p.kind == "output"]
    inputs = [p for p in points if p.kind == "input"]
    functions = sorted((p for p in points if p.kind == "function"), key=lambda p: p.calls)
    if outputs:
        return outputs[-1]
    return next(iter(inputs or functions), None)


def earliest(points: list[CapturePoint]) -> CapturePoint | None:
    """Where a tensor comes by before anything is made of it: the last of the layers that give it first, the function that
    gives it, or its first use.
    """
    given = list(takewhile(lambda p: p.kind == "output" or (p.kind == "function" and p.argument is None), points))
    outputs = [p for p in given if p.kind == "output"]
    return next(iter(outputs[-1:] or given[-1:] or points), None)
