"""A self-explaining network as one file that gives logits and evidence without pellucid: ONNX or torch.export.

softcam ── torch.export ──> a graph with outputs (logits, evidence) ──> .onnx or .pt2, in memory
                                                                         │ compared with the network itself
                                                                         └──> written whole, with its description
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import thread_time
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid import __version__, backends, files, hooks
from pellucid.backends import first_line, quiet
from pellucid.call import has_evidence, weights_device
from pellucid.errors import BadInput, ConversionError, OptionError, PellucidError
from pellucid.models.certificate import Certificate
from pellucid.models.softcam import SoftCAM
from pellucid.models.trace import as_logits

Format = Literal["onnx", "pt2"]
Run = Callable[[Tensor], tuple[Tensor, Tensor]]

FORMAT = 1
OUTPUTS = ("logits", "evidence")
BATCHES = (1, 2, 5)  # on which the file is compared with the network
PATIENCE = 60.0  # seconds of computing for the trace with a free size
_TRY_OTHER = "Nothing was written. Try the other format (.onnx, .pt2)."
_ADDS_UP = 1e-3  # as far as the mean of the evidence may be from the logit, over its scale
_LARGEST = 2**31 - 2**20  # bytes: one ONNX file holds no more


@dataclass(frozen=True)
class Exported:
    """What was written. Printed as a small table; `as_dict` gives plain values.

    format: "onnx" or "pt2". any_size: whether inputs of other sizes are taken too. parity: the largest difference
    between the file's logits or evidence and the network's, over the largest logit (over 1 or the largest evidence,
    whichever is smaller, where logits are below 1); None where it was not checked. description: what the file tells of
    itself (`describe`).
    """

    path: Path
    format: Format
    any_size: bool
    parity: float | None
    description: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path), "description": dict(self.description)}

    def __str__(self) -> str:
        shape = self.description["input"]
        size = " x ".join(map(str, shape["size"])) + (" or any other" if self.any_size else " only")
        parity = "not checked" if self.parity is None else f"differ by {self.parity:.1g} of the largest logit"
        rows = [
            ("file", str(self.path)),
            ("kind", self.description["kind"]),
            ("input", f"any batch, {shape['channels']} channels, {size}"),
            ("outputs", f"{', '.join(OUTPUTS)}: {parity}"),
            *(("note", note) for note in self.description["notes"]),
        ]
        return "\n".join(f"{name:<7}  {value}" for name, value in rows)


def export(
    softcam: nn.Module,
    path: str | Path,
    example: Float[Tensor, "batch channels *spatial"] | None = None,
    *,
    any_size: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
    preprocessing: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a converted network as `path`: `.onnx` for ONNX Runtime, `.pt2` for `torch.export.load`.

    The input is called `input` `(batch, channels, *spatial)`; the outputs are `logits` `(batch, classes)` and `evidence`
    `(batch, classes, *grid)`, the constant included: the mean of its cells is the logit. The batch size is free.

    example: sets the size (default: noise at the size of conversion). any_size: leave the spatial size free as well where
    the network allows it; else the file takes the example's size only, and its notes say why. check: compare the file
    with the network on random inputs at batches of 1, 2 and 5 and at other sizes; `tolerance` is the largest `parity`
    allowed (see `Exported`). preprocessing: how inputs are made (mean, std, size, ...), kept in the file; default: what the network
    remembers. The file also describes itself (`describe`), so that a program without torch can draw the maps.

    Nothing is written unless all went well. Raises `OptionError` for what is no SoftCAM, another ending or a missing
    package, `BadInput` for an unusable example, `ConversionError` where the network cannot be exported or the file
    computes something else.
    """
    path = Path(path)
    kind = _format(path, check)
    _check_network(softcam, kind)
    example = drawn_example(softcam) if example is None else example
    with torch.inference_mode(False), torch.no_grad(), hooks.untouched(softcam), quiet():
        example = example.detach().to(weights_device(softcam)).clone()
        outputs = _Outputs(softcam)
        grid = _check_example(outputs, example)
        told = describe(softcam, grid, example, preprocessing)
        maker = _Maker(outputs, example, kind, tolerance if check else None, told)
        data, parity = maker.made(any_size)
    files.write_bytes(path, data)
    return Exported(path, kind, bool(told["input"]["any_size"]), parity, told)


def describe(
    softcam: nn.Module,
    grid: Sequence[int],
    example: Float[Tensor, "batch channels *spatial"],
    preprocessing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What an exported file tells of itself, as plain values: JSON under "pellucid" in an ONNX file's metadata, and the
    extra file "pellucid.json" of a `.pt2`.

    geometry holds where the cells of the example's map look: `centres` has a list per axis, in samples of the input, and
    `start + jump * i` is the same where the spacing is even. sized: start and jump hold for another size too when it
    differs by whole jumps. An unregistered geometry tiles the input evenly.
    """
    size, known = tuple(example.shape[2:]), _certificate(softcam)
    geometry = getattr(softcam, "geometry")(tuple(grid), size)  # noqa: B009 - any self-explaining network has one
    place = {**geometry.as_dict(), "centres": [c.tolist() for c in geometry.centres()], "sized": known.sized}
    inner = getattr(softcam, "model", None)
    found = preprocessing or getattr(softcam, "preprocessing", None) or getattr(inner, "preprocessing", None)
    classes = getattr(softcam, "classes", None)
    told = {
        "format": FORMAT, "pellucid": __version__, "kind": known.kind, "task": getattr(softcam, "task", None),
        "classes": None if classes is None else list(classes), "geometry": place, "preprocessing": found,
        "input": {"channels": example.shape[1], "size": size, "any_size": False}, "certificate": known.as_dict(),
        "notes": [],
    }  # fmt: skip
    plain: dict[str, Any] = files.plain(told)
    return plain


class _Outputs(nn.Module):
    """The network as the exporters want it: one tensor in, logits and evidence out."""

    def __init__(self, softcam: nn.Module) -> None:
        super().__init__()
        self.softcam = softcam
        self.training = softcam.training

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        output, maps = self.softcam(input, return_evidence=True)
        if isinstance(self.softcam, SoftCAM) and not (self.softcam.fused is not None and isinstance(output, Tensor)):
            output = self.softcam.select(output)
        return as_logits(output), maps


class _Patience(TorchFunctionMode):
    """Ends a trace whose formulas for sizes grow without end (padding that depends on the size, layer after layer)."""

    def __init__(self) -> None:
        super().__init__()
        self.until = thread_time() + PATIENCE

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if thread_time() > self.until:
            raise ConversionError(f"Tracing with a free size took longer than {PATIENCE:g} s.")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Maker:
    """One network on its way into a file. tolerance: None leaves out the comparison. told: the file's description."""

    outputs: _Outputs
    example: Tensor
    kind: Format
    tolerance: float | None
    told: dict[str, Any]

    def made(self, any_size: bool) -> tuple[bytes, float | None]:
        """The file's bytes and the largest difference; with a free size where that is asked for and works."""
        fixed = self._program(False)
        if any_size:
            try:
                if _attends(fixed):
                    raise ConversionError("Attention was laid out for one size.")
                free = self._program(True)
                self.told["input"]["any_size"] = True
                return self._checked(free, True)
            except Exception as error:  # whatever the reason, the file for one size is still to be had; it is told
                self.told["input"]["any_size"] = False
                self.told["notes"].append(f"takes this input size only: {_reason(error)}")
        return self._checked(fixed, False)

    def _program(self, any_size: bool) -> Any:
        """The traced graph. A batch of two: tracers take 1 for a constant."""
        x = self.example[:1].expand(2, *self.example.shape[1:]).clone()
        free = (0, *range(2, x.ndim)) if any_size else (0,)
        try:
            with _Patience() if any_size else nullcontext():
                shapes = {"input": dict.fromkeys(free, torch.export.Dim.DYNAMIC)}
                made = backends.traced(self.outputs, (x,), dynamic_shapes=shapes)
        except PellucidError:
            raise
        except Exception as error:
            raise _untraceable(self.told["kind"], error) from error
        for part in made.graph_module.modules():
            for node in getattr(part, "graph", made.graph).nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine, which would be in the file
        return made

    def _checked(self, program: Any, any_size: bool) -> tuple[bytes, float | None]:
        data = _as_onnx(program, self.told) if self.kind == "onnx" else _as_pt2(program, self.told)
        if self.tolerance is None:
            return data, None
        run = _onnx_run(data) if self.kind == "onnx" else _pt2_run(data)
        size = tuple(self.example.shape[2:])
        worst = max(self._difference(run, batch, size) for batch in BATCHES)
        if any_size:
            worst = max(worst, self._at_other_sizes(run, size))
        return data, worst

    def _at_other_sizes(self, run: Run, size: tuple[int, ...]) -> float:
        """The largest difference at a size larger by whole cells, and at one that is not."""
        cell = [ceil(j) for j in self.told["geometry"]["jump"]]
        whole = tuple(n + j * (1 + i % 2) for i, (n, j) in enumerate(zip(size, cell, strict=True)))
        odd = tuple(n + 1 + i % 2 for i, n in enumerate(whole))
        found = [self._difference(run, 2, other) for other in (whole, odd) if self._takes(other)]
        if not found:
            raise ConversionError("The network takes no other size.")
        return max(found)

    def _takes(self, size: tuple[int, ...]) -> bool:
        try:
            self.outputs(self._noise(1, size))
        except Exception:  # the question is whether it can
            return False
        return True

    def _difference(self, run: Run, batch: int, size: tuple[int, ...]) -> float:
        """The largest difference of logits and evidence between file and network, over their scale. Raises
        `ConversionError` above what is allowed.
        """
        x = self._noise(batch, size)
        expected = self.outputs(x)
        try:
            found = run(x)
        except Exception as error:
            raise ConversionError(
                f"The exported file does not run on inputs {tuple(x.shape)}.", why=first_line(error), hint=_TRY_OTHER
            ) from error
        scale, worst = _scale(*expected), 0.0
        for name, mine, theirs in zip(OUTPUTS, expected, found, strict=True):
            away = float((mine - theirs.to(mine)).abs().max()) if mine.shape == theirs.shape else float("inf")
            worst = max(worst, away / scale if away == away else float("inf"))
            if worst > (self.tolerance or 0.0):
                raise ConversionError(
                    f"The exported file computes other {name}: {away:.2g} away on inputs {tuple(x.shape)}.",
                    why=f"At most {(self.tolerance or 0.0) * scale:.1g} is allowed.",
                    hint=_TRY_OTHER,
                )
        return worst

    def _noise(self, batch: int, size: tuple[int, ...]) -> Tensor:
        """Noise like the example, seeded."""
        like = self.example
        noise = torch.randn(batch, like.shape[1], *size, generator=torch.Generator().manual_seed(batch)).to(like)
        return noise * (float(like.std()) or 1.0) + like.mean()


def _scale(logits: Tensor, maps: Tensor) -> float:
    """What differences are measured by: the largest logit; below 1, 1 or the largest evidence, whichever is smaller."""
    strongest = float(maps.abs().max())
    return min(max(1.0, float(logits.abs().max())), strongest) or 1.0


def _format(path: Path, check: bool) -> Format:
    kinds: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
    if path.suffix not in kinds:
        raise OptionError(
            f"{path.name} has no known ending.",
            why="It tells what is written.",
            hint="Use .onnx (ONNX Runtime) or .pt2 (torch.export).",
        )
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript"):
            backends.require(package, "to write ONNX files")
        if check:
            without = ", or leave the check out: check=False (--no-check)."
            backends.require("onnxruntime", "to check ONNX files", without)
    return kinds[path.suffix]


def _certificate(softcam: nn.Module) -> Certificate:
    known = getattr(softcam, "certificate", None)
    if not has_evidence(softcam) or not isinstance(known, Certificate):
        raise OptionError(
            f"{type(softcam).__name__} has no evidence to export.",
            why="Only a converted network can give logits and evidence.",
            hint="Convert it first: pellucid.convert(model, example).",
        )
    return known


def _check_network(softcam: nn.Module, kind: Format) -> None:
    _certificate(softcam)
    wide = sorted({str(p.dtype).removeprefix("torch.") for p in softcam.parameters() if p.is_floating_point()})
    if kind == "onnx" and wide not in ([], ["float32"]):
        raise OptionError(
            f"The network's weights are {' and '.join(wide)}.",
            why="ONNX files are written in float32.",
            hint="Export a copy: copy.deepcopy(softcam).float().",
        )
    size = sum(t.numel() * t.element_size() for t in softcam.state_dict().values())
    if kind == "onnx" and size > _LARGEST:
        raise OptionError(
            f"The network has {size / 2**30:.1f} GiB of weights.",
            why="One ONNX file holds at most 2 GiB.",
            hint="Write a .pt2 file.",
        )


def drawn_example(softcam: nn.Module, side: int | None = None) -> Float[Tensor, "2 channels *spatial"]:
    """Noise with the channels of the first convolution, at the size of conversion or, with `side`, of that many samples
    per axis. Raises `OptionError` for a network without convolutions.
    """
    size = _certificate(softcam).input_size
    size = size if side is None else (side,) * len(size)
    first = next((p for p in softcam.parameters() if p.ndim == len(size) + 2), None)
    if first is None:
        raise OptionError(
            "The number of channels is not known.",
            why="The network has no convolution.",
            hint="Give an example: export(softcam, path, example).",
        )
    return torch.randn(2, first.shape[1], *size, generator=torch.Generator().manual_seed(0))


def _check_example(outputs: _Outputs, example: Tensor) -> tuple[int, ...]:
    """The grid of the example's map."""
    rank = len(_certificate(outputs.softcam).input_size)
    if example.ndim != rank + 2 or not len(example):
        raise BadInput(
            f"The example is {tuple(example.shape)}.",
            why=f"A tensor (batch, channels, *spatial) with {rank + 2} axes is needed.",
            hint="Give an input as at conversion.",
        )
    try:
        logits, maps = outputs(example[:1])
    except PellucidError:
        raise
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConversionError(
            "A network with several inputs cannot be exported.",
            why=f"The file has one input, and {first_line(error)}",
            hint="Put it into a module that takes one tensor and holds the others, and convert that.",
        ) from error
    except Exception as error:
        raise BadInput(
            f"The network fails on the example {tuple(example.shape)}.",
            why=first_line(error),
            hint="Give an input as at conversion.",
        ) from error
    away = float((maps.flatten(2).mean(2) - logits).abs().max())
    if not away <= _ADDS_UP * _scale(logits, maps):
        raise ConversionError(
            f"The mean of the {type(outputs.softcam).__name__}'s evidence is not the logit: {away:.2g} away.",
            why="Who reads the file has to be able to rely on that. Finer maps have cells that no logit reads.",
            hint="Export the SoftCAM itself.",
        )
    return tuple(maps.shape[2:])


def _untraceable(kind: str, error: Exception) -> ConversionError:
    text = str(error)
    if ".size()[0] as dynamic but your code specialized it" in text:
        return ConversionError(
            "The network's code fixes the batch size.",
            why="It turns the number of inputs into a constant, for example by len(x).",
            hint="Use x.shape[0] there, and convert again.",
        )
    return ConversionError(
        f"This network of kind '{kind}' cannot be exported.",
        why=f"torch.export says: {first_line(error)}",
        hint="Its code depends on values in a way that no graph can hold. Keep it in torch: softcam.save(folder).",
    )


def _attends(program: Any) -> bool:
    """Whether there is attention, whose windows and position tables are laid out for one size."""
    names = " ".join(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    products = any(word in names for word in ("matmul", "bmm", "einsum"))
    return "attention" in names or ("softmax" in names and products)


def _as_onnx(program: Any, told: Mapping[str, Any]) -> bytes:
    """The graph in ONNX, its free axes named `batch`, `size_0`, ..., its description under the key "pellucid"."""
    try:
        proto = backends.onnx_proto(program, ["input"], OUTPUTS)
    except Exception as error:
        raise ConversionError(
            "The network cannot be written as ONNX.",
            why=first_line(error.__cause__ or error),
            hint="Write a .pt2 file (torch.export) instead.",
        ) from error
    given = next(n for n in program.graph.nodes if n.name == program.graph_signature.user_inputs[0])
    names = ["batch", "channels", *(f"size_{i}" for i in range(len(given.meta["val"].shape) - 2))]
    free = {str(n): name for n, name in zip(given.meta["val"].shape, names, strict=True) if not isinstance(n, int)}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(r"\w+", lambda word: free.get(word[0], word[0]), axis.dim_param)
    for part in (proto.graph, *proto.graph.node):  # what the exporter noted for itself
        del part.metadata_props[:]
    proto.producer_name, proto.producer_version = "pellucid", __version__
    entry = proto.metadata_props.add()
    entry.key, entry.value = "pellucid", json.dumps(told, sort_keys=True)
    data: bytes = proto.SerializeToString()
    return data


def _as_pt2(program: Any, told: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"pellucid.json": json.dumps(told, sort_keys=True)})
    return stream.getvalue()


def _onnx_run(data: bytes) -> Run:
    session = backends.session(data)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        logits, maps = session.run(list(OUTPUTS), {"input": x.cpu().numpy()})
        return torch.from_numpy(logits), torch.from_numpy(maps)

    return run


def _pt2_run(data: bytes) -> Run:
    module = torch.export.load(io.BytesIO(data)).module()
    run: Run = module
    return run


def _reason(error: Exception) -> str:
    return f"{error.message} {error.why}".strip() if isinstance(error, PellucidError) else first_line(error)
