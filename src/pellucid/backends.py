"""A network's forward pass run faster than eager PyTorch runs it, for methods that take many passes and no gradient.

call ── traced for a fixed number of rows ──> torch.compile or ONNX Runtime ──> a call that gives the same
                                                  │ compared with the network on the input at hand
                                                  └──> kept until the network changes
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from importlib import util
from itertools import chain
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pellucid.call import Call, unwrapped, weights_device
from pellucid.errors import OptionError, nearest

Backend: TypeAlias = Literal["compile", "onnxruntime"]
Precision: TypeAlias = Literal["bf16"]
Run: TypeAlias = Callable[..., Tensor]

# The largest difference from the network itself, over its largest output, that is let pass.
TOLERANCE = {None: 1e-3, "bf16": 5e-2}
_KEPT = 4  # graphs per network: each holds the weights once more
_LOUD = (
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx",
    "onnxscript",
    "onnx_ir",
    "torch.utils.cpp_extension",
    "torch._inductor",
)


@dataclass(frozen=True)
class Fast:
    """A call that gives what the network's own call gives, for as many inputs at a time as it was made for.

    notes: what the provenance tells of it (backend, precision, largest difference over the largest output).
    """

    call: Call
    notes: Mapping[str, Any] = field(default_factory=dict)


def fast(
    call: Call, x: Tensor, output: Any, rows: int, backend: Backend | None = None, precision: Precision | None = None
) -> Fast:
    """The call to use for many forward passes of at most `rows` inputs like `x`; without options the call itself.

    output: what the network itself gives for `x`, selected; the fast call is compared with it and refused where it
    differs by more than `TOLERANCE` of the largest value.

    backend: "compile" (`torch.compile`, needs a C++ compiler; on a CPU with the weights as constants) or "onnxruntime"
    (on a CPU in float32, extra `export`). A graph takes seconds to a minute to build, runs on exactly `rows` inputs
    (missing ones are made up and dropped), and answers later calls too, until a weight, buffer, mode, hook or plain
    setting of the network is different: every weight is compared with a copy. The network itself is not touched.
    precision: "bf16" runs the passes under `torch.autocast`, which pays where the processor computes in it; outputs are
    float32 again. A score then has two to three digits, and smaller changes of it are lost. Without a backend the
    difference is measured on this very `x`.

    Raises `OptionError` for an unknown word, a missing package or compiler, a network that cannot be traced, and a
    result that differs.
    """
    _check(call, x, output, backend, precision)
    if backend is None and precision is None:
        return Fast(call)
    if backend is None:
        quick = replace(call, model=_Selected(call, call.model, precision), output=None)
        difference = _near(quick, x, output, "autocast", precision)
    else:
        graph = _graph(call, x, output, rows, backend, precision)
        quick, difference = replace(call, model=graph, output=None), graph.difference
    told = {"backend": backend or "eager", "precision": precision, "difference": difference}
    return Fast(quick, {name: value for name, value in told.items() if value is not None})


def _check(call: Call, x: Tensor, output: Any, backend: str | None, precision: str | None) -> None:
    if backend not in (None, *_BUILDERS):
        raise OptionError(f"There is no backend '{backend}'.", hint=nearest(str(backend), _BUILDERS))
    if precision not in TOLERANCE:
        raise OptionError(f"There is no precision '{precision}'.", hint="Choose 'bf16', or leave it out.")
    if (backend or precision) and not isinstance(output, Tensor):
        raise OptionError(
            f"backend and precision need an output of one tensor; it is a {type(output).__name__}.",
            hint="Leave them out, or pass output= to pick a tensor.",
        )
    if backend == "onnxruntime":
        _check_onnx(call.model, x, precision)


def _check_onnx(model: nn.Module, x: Tensor, precision: str | None) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "for backend='onnxruntime'")
    if precision is not None:
        raise OptionError("backend='onnxruntime' computes in float32.", hint="Leave out precision, or use 'compile'.")
    if weights_device(model).type != "cpu":
        raise OptionError(
            f"The network is on {weights_device(model)}; backend='onnxruntime' runs on the CPU.",
            hint="Use backend='compile', or move the network: model.cpu().",
        )
    dtypes = {t.dtype for t in (x, *model.parameters()) if t.is_floating_point()}
    if dtypes != {torch.float32}:
        names = " and ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise OptionError(f"backend='onnxruntime' computes in float32; this is {names}.", hint="Leave out backend.")


def _near(call: Call, x: Tensor, output: Tensor, what: str, precision: str | None) -> float:
    """The largest difference from `output`, the network's own, over its largest value; refused above `TOLERANCE`."""
    with torch.no_grad():
        found = call(x.clone())
    scale = float(output.abs().max()) or 1.0
    difference = float((found.to(output) - output).abs().max()) / scale
    if not difference <= TOLERANCE[precision]:
        raise OptionError(
            f"The network run by {what} gives something else: {difference:.2g} of the largest output away.",
            why=f"At most {TOLERANCE[precision]:g} is allowed.",
            hint="Leave out precision."
            if precision
            else "Leave out backend, and torch.autocast around the call if there is any.",
        )
    return difference


class _Selected(nn.Module):
    """The network's selected output in float32 at least, computed under autocast where that is asked for."""

    def __init__(self, call: Call, model: nn.Module, precision: Precision | None) -> None:
        super().__init__()
        self.model, self.select, self.precision = model, call.select, precision
        self.device_type = weights_device(model).type
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        low = torch.autocast(self.device_type, torch.bfloat16) if self.precision else nullcontext()
        with low:
            found: Tensor = self.select(self.model(*args, **kwargs))
        return found.to(torch.promote_types(found.dtype, torch.float32))


class _Graph(nn.Module):
    """A built forward pass of a fixed number of rows; missing rows are filled up. difference: see `Fast`."""

    def __init__(self, run: Run, like: Sequence[Any], input_name: str | None, device_type: str) -> None:
        super().__init__()
        self.run, self.input_name, self.device_type = run, input_name, device_type
        self.sizes = [len(v) if isinstance(v, Tensor) and v.ndim else None for v in like]
        self.difference = 0.0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        count = len(args[0] if self.input_name is None else kwargs[self.input_name])
        leaves, spec = pytree.tree_flatten((args, kwargs))
        filled = [v if n is None else _filled(v, n) for v, n in zip(leaves, self.sizes, strict=True)]
        args, kwargs = pytree.tree_unflatten(filled, spec)
        with torch.no_grad(), torch.autocast(self.device_type, enabled=False):
            return self.run(*args, **kwargs)[:count]


def _filled(values: Tensor, rows: int) -> Tensor:
    """The values with the last row repeated until there are as many rows."""
    missing = rows - len(values)
    return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])]) if missing else values


@dataclass
class _Built:
    """The graphs of a network, and what they hold for: its plain settings and every weight and buffer, as a copy."""

    settings: Any
    weights: Mapping[str, Tensor]
    graphs: dict[Any, _Graph] = field(default_factory=dict)

    def still_holds(self, model: nn.Module) -> bool:
        """Whether the network is the same, to the last bit; its version counters miss what is done to `.data`."""
        now = _weights(model)
        return (
            _settings(model) == self.settings
            and now.keys() == self.weights.keys()
            and all(_same(value, self.weights[name]) for name, value in now.items())
        )


_BUILT: WeakKeyDictionary[nn.Module, _Built] = WeakKeyDictionary()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in chain(model.named_parameters(), model.named_buffers())}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and a.shape == b.shape and torch.equal(a, b)


def _settings(model: nn.Module) -> list[Any]:
    """Types, modes, hooks, plain values and replaced functions of all modules."""
    return [
        (name, type(m), {k: v if _plain(v) else id(v) for k, v in vars(m).items() if _plain(v) or callable(v)},
         [*m._forward_hooks, *m._forward_pre_hooks])
        for name, m in model.named_modules()
    ]  # fmt: skip


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | None) or (isinstance(value, tuple) and all(map(_plain, value)))


def _graph(call: Call, x: Tensor, output: Tensor, rows: int, backend: str, precision: Precision | None) -> _Graph:
    """The graph for these options and inputs of these shapes, built unless there is one that still holds."""
    model = _bare(call.model)
    built = _BUILT.get(model)
    if built is None or not built.still_holds(model):
        weights = {name: t.clone() for name, t in _weights(model).items()}
        built = _BUILT[model] = _Built(_settings(model), weights)
    index = torch.arange(rows) % len(x)
    args, kwargs = call.rows(index).run(lambda *args, **kwargs: (args, kwargs), x[index.to(x.device)])
    leaves, spec = pytree.tree_flatten((args, kwargs))
    shapes = [(v.shape, v.dtype, v.device) if isinstance(v, Tensor) else v for v in leaves]
    key = (backend, precision, call.output, torch.get_num_threads(), str(spec), str(shapes))
    if key not in built.graphs:
        selected = _Selected(call, model, precision)
        graph = _Graph(_run(backend, selected, args, kwargs), leaves, call.input_name, x.device.type)
        few = torch.arange(min(rows, len(x)))
        own = replace(call.rows(few), model=graph, output=None)
        graph.difference = _near(own, x[: len(few)], output[: len(few)], backend, precision)
        if len(built.graphs) == _KEPT:
            del built.graphs[next(iter(built.graphs))]
        built.graphs[key] = graph
    return built.graphs[key]


def _bare(model: nn.Module) -> nn.Module:
    """The network inside DataParallel and `torch.compile`."""
    model = unwrapped(model)
    return getattr(model, "_orig_mod", model)


def _run(backend: str, module: _Selected, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
    own = torch.autocast(module.device_type, enabled=False)
    try:
        with quiet(), torch.inference_mode(False), torch.no_grad(), own:
            return _BUILDERS[backend](traced(module, args, kwargs), args, kwargs)
    except Exception as error:
        if "C++ compiler" in str(error):
            raise OptionError(
                "backend='compile' found no working C++ compiler.",
                why=first_line(error),
                hint="Install g++ (or name a compiler: CXX=...), or use backend='onnxruntime'.",
            ) from error
        raise OptionError(
            f"This network cannot run with backend='{backend}'.",
            why=first_line(error),
            hint="Leave out backend: every network runs without.",
        ) from error


def _compiled(program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
    tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    constant_weights = all(v.device.type == "cpu" for v in tensors)
    run: Run = torch.compile(program.module(), dynamic=False, options={"freezing": True} if constant_weights else None)
    run(*args, **kwargs)  # what cannot be compiled fails here
    return run


def _in_onnx_runtime(program: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
    graph = session(onnx_proto(program).SerializeToString())
    names = [value.name for value in graph.get_inputs()]

    def run(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        (found,) = graph.run(None, {name: v.detach().numpy() for name, v in zip(names, tensors, strict=True)})
        return torch.from_numpy(found)

    return run


_BUILDERS: dict[str, Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Run]] = {
    "compile": _compiled,
    "onnxruntime": _in_onnx_runtime,
}


def traced(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str, Any] | None = None,
) -> Any:
    """The module's run on these inputs as a graph (`torch.export.ExportedProgram`). Raises what `torch.export` raises."""
    with redirect_stderr(io.StringIO()):  # what fails prints half a graph on the way out
        return torch.export.export(module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False)


def onnx_proto(program: Any, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> Any:
    """A traced graph as an ONNX model in memory (`onnx.ModelProto`), its inputs and outputs named."""
    made = torch.onnx.export(program, dynamo=True, input_names=list(inputs), output_names=list(outputs), verbose=False)
    assert made is not None
    return made.model_proto


def session(data: bytes) -> Any:
    """ONNX Runtime on the CPU with as many threads as torch has (`onnxruntime.InferenceSession`)."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what fails is raised
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])


def require(package: str, purpose: str, otherwise: str = "") -> None:
    """Raise `OptionError` that says how to install it where a package of the extra `export` is missing."""
    if util.find_spec(package) is None:
        raise OptionError(
            f"{package} is needed {purpose}.",
            why="It is not installed.",
            hint="Install it: pip install 'pellucid[export]'" + (otherwise or "."),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Tracers and compilers log what they try on the way; what matters is raised."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """What an error of another library says first, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
