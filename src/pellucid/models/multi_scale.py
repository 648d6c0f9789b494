"""Evidence on several grids at once: a logit is the sum of what each scale says, and every scale is a map that adds up.

    y = sum over scales s of pool(W_s z_s) + b

Each named layer of a trunk gets a 1x1 evidence head of its own beside the classifier's. For one map the cells of coarser
scales are shared out among the cells of the finest one that they cover, so that totals are kept and every cell stays
where it looks. With no further layer this is the network with another pooling (`with_pooling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pellucid import hooks
from pellucid.call import Call
from pellucid.errors import BadInput, ConversionError, LayerError, OptionError
from pellucid.models import zoo
from pellucid.models.capture import CapturePoint, capture
from pellucid.models.certificate import Certificate
from pellucid.models.pooling import POOLINGS, EvidenceHead, PoolingName
from pellucid.models.softcam import Evidence, SoftCAM
from pellucid.spatial import Geometry
from pellucid.targets import Task

_SAME = 1e-4  # of the logits' spread: what conversion allows between a network and its evidence


@dataclass(frozen=True)
class Stage:
    """Where the feature map of one scale comes by, and where its cells look.

    channel_axis: of that map, 1 or -1. stride: where places stand in one row (tokens), the samples per cell that tell
    the grid. start, jump, receptive_field, in samples: None where not known. sized: they hold for inputs whose size
    differs from the example's by whole strides.
    """

    name: str
    capture: CapturePoint
    channels: int
    channel_axis: int = 1
    stride: tuple[int, ...] | None = None
    start: tuple[float, ...] | None = None
    jump: tuple[float, ...] | None = None
    receptive_field: tuple[float, ...] | None = None
    sized: bool = False

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Stage:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**{**plain, "capture": CapturePoint(**value["capture"])})

    def cells(self, features: Tensor, size: Sequence[int]) -> Float[Tensor, "batch channels *grid"]:
        """The map with channels first and places on a grid. A copy under autograd: an in-place operation may follow."""
        cells = features.movedim(self.channel_axis, 1)
        if self.stride is not None:
            grid = tuple(n // s for n, s in zip(size, self.stride, strict=True))
            if prod(grid) != cells.shape[2]:
                raise BadInput(
                    f"{cells.shape[2]} places do not form a grid on an input of {tuple(size)}.",
                    why=f"One cell per {self.stride} samples would be {grid}.",
                    hint="Use input sizes that are multiples of the stride.",
                )
            cells = cells.reshape(*cells.shape[:2], *grid)
        return cells.clone() if torch.is_grad_enabled() else cells

    def geometry(self, grid: Sequence[int], size: Sequence[int], example: Sequence[int]) -> Geometry:
        """Where the cells lie in an input of `size`; `example`: the size that the centres were found at."""
        start, jump = self.start, self.jump
        fits = jump is not None and all((n - m) % j == 0 for n, m, j in zip(size, example, jump, strict=True))
        if start is None or jump is None or (self.sized and not fits):
            return Geometry.unregistered(grid, size)
        return Geometry(tuple(grid), tuple(size), start, jump, registered=True, receptive_field=self.receptive_field)


@dataclass(frozen=True)
class Scale:
    """What one scale adds to the logits: cells + constant, in logits."""

    name: str
    cells: Float[Tensor, "batch classes *grid"]
    constant: Float[Tensor, "batch classes"]
    geometry: Geometry


class _Enough(Exception):
    """All stages were seen: the rest of the trunk has nothing to add."""


class MultiScale(nn.Module):
    """A trunk with an evidence head at each of several layers; called like the network, explained like a SoftCAM.

    Made by `multi_scale` or `with_pooling`, not by hand. model: the trunk, complete; what it does after the last stage
    is not used, and with `early`, where that is more than the classifier, not computed either. heads: one per stage. The logits are all that it returns: auxiliary outputs of the trunk
    are dropped. certificate: what was found when it was made; training changes the logits, not that cells add up.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        heads: Sequence[EvidenceHead],
        certificate: Certificate,
        *,
        task: Task | None = None,
        classes: Sequence[str] | None = None,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.early = early
        self.stages = tuple(stages)
        self.heads = nn.ModuleList(heads)
        self.certificate = certificate
        self.task: Task = task or ("binary" if certificate.classes == 1 else "multiclass")
        self.classes = None if classes is None else tuple(classes)
        self.output = None
        self.preprocessing = getattr(model, "preprocessing", None)
        self.training = model.training
        self._note_source()

    def _note_source(self) -> None:
        """Where the trunk has a name that rebuilds it, so does the whole (see `storage`)."""
        trunk = zoo.source_of(self.model)
        if trunk is not None:
            described = {
                "trunk": trunk, "stages": [asdict(s) for s in self.stages],
                "heads": [h.options() for h in self._heads()], "certificate": self.certificate.as_dict(),
                **({"early": True} if self.early else {}),
            }  # fmt: skip
            self.pellucid_source: Any = {"name": "pellucid:multi_scale", "options": described}

    @classmethod
    def rebuilt(
        cls,
        trunk: Mapping[str, Any],
        stages: Sequence[Mapping[str, Any]],
        heads: Sequence[Mapping[str, Any]],
        certificate: dict[str, Any],
        early: bool = False,
    ) -> MultiScale:
        """The same structure with random weights, from what a saved one notes of itself."""
        return cls(
            zoo.build(trunk["name"], **trunk["options"]),
            [Stage.from_dict(s) for s in stages],
            [EvidenceHead(**h) for h in heads],
            Certificate.from_dict(certificate),
            early=early,
        )

    def forward(self, *args: Any, return_evidence: bool = False, **kwargs: Any) -> Any:
        """The logits `(batch, classes)`; with `return_evidence`, `(logits, maps)` as `evidence_maps` gives them."""
        if return_evidence:
            found = self.evidence(*args, **kwargs)
            return found.logits, _with_bias(found.maps, found.bias)
        return sum(self._read(args, kwargs, lambda head, cells: head(cells)))

    def evidence_maps(self, *args: Any, **kwargs: Any) -> Float[Tensor, "batch classes *grid"]:
        """Evidence per class and cell of the finest grid, in logit units times the number of cells, constant included:
        its mean is the logit.
        """
        found = self.evidence(*args, **kwargs)
        return _with_bias(found.maps, found.bias)

    def evidence(self, *args: Any, **kwargs: Any) -> Evidence:
        """Everything one pass tells, all scales added up on the finest grid.

        `bias` is `(classes,)` where it is the same for every input (mean pooling), else `(batch, classes)`.
        Raises `LayerError` when a feature map did not come by, `BadInput` for an input without places.
        """
        logits, scales = self._pass(args, kwargs)
        fine = max(scales, key=lambda s: prod(s.geometry.grid)).geometry
        cells = sum(_onto(fine, s) for s in scales)
        assert isinstance(cells, Tensor)
        constant = torch.stack([s.constant for s in scales]).sum(0)
        exact = all(head.kind == "exact" for head in self._heads())
        place = replace(fine, receptive_field=_reach(fine, scales)) if fine.registered else fine
        positions = prod(fine.grid)
        return Evidence(logits, logits, cells * positions, constant[0] if exact else constant, positions, place)

    def scales(self, *args: Any, **kwargs: Any) -> tuple[Scale, ...]:
        """What each scale adds, on its own grid, in the order of the stages; all together add up to the logits."""
        return self._pass(args, kwargs)[1]

    def geometry(self, grid: tuple[int, ...], size: tuple[int, ...]) -> Geometry:
        """Where the cells of a map of this grid lie in an input of this size: those of the stage with such a spacing."""

        def misfit(known: Geometry) -> float:
            return sum(abs(g * j / n - 1) for g, j, n in zip(grid, known.jump, size, strict=True))

        seen = self.certificate.input_size
        known = [found for s in self.stages if (found := s.geometry(grid, size, seen)).registered]
        return min(known, key=misfit) if known else Geometry.unregistered(grid, size)

    def save(self, folder: str | Path) -> Path:
        """Write weights, description and manifest. `pellucid.load` rebuilds it where the trunk's name does; for a trunk
        of your own, give it a network made in the same way: `load(folder, model=multi_scale(...))`.
        """
        from pellucid.models.storage import save_model

        channels = next((p.shape[1] for p in self.model.parameters() if p.ndim == len(self._seen) + 2), None)
        shape = None if channels is None else (channels, *self._seen)
        return save_model(self, folder, classes=self.classes, task=self.task, input_shape=shape)

    def extra_repr(self) -> str:
        return f"kind={self.certificate.kind}, stages={', '.join(s.name for s in self.stages)}"

    @property
    def _seen(self) -> tuple[int, ...]:
        return self.certificate.input_size

    def _heads(self) -> list[EvidenceHead]:
        return [cast(EvidenceHead, head) for head in self.heads]

    def _pass(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Scale, ...]]:
        """One pass: the logits, and what each scale adds."""
        found = self._read(args, kwargs, lambda head, cells: (head(cells), *head.decompose(cells)))
        size = self._input_size(args, kwargs)
        places = self._places([tuple(cells.shape[2:]) for _, cells, _ in found], size)
        logits = torch.stack([part for part, _, _ in found]).sum(0)
        return logits, tuple(
            Scale(stage.name, cells, constant, place)
            for stage, (_, cells, constant), place in zip(self.stages, found, places, strict=True)
        )

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any], look: Callable[..., Any]) -> list[Any]:
        """`look(head, cells)` of every stage, taken while the trunk runs."""
        size, found = self._input_size(args, kwargs), dict[int, Any]()

        def take(i: int, features: Tensor) -> None:
            # What the heads compute must not be seen by taps on functions: those count the network's own calls.
            with torch._C.DisableTorchFunction():
                found[i] = look(self.heads[i], self.stages[i].cells(features, size))
            # What traces a graph drops the rest by itself, and cannot follow an exception.
            if self.early and len(found) == len(self.stages) and not torch.compiler.is_compiling():
                raise _Enough

        with ExitStack() as stack, suppress(_Enough):
            for i, stage in enumerate(self.stages):
                stack.enter_context(capture(self.model, stage.capture, partial(take, i)))
            self.model(*args, **kwargs)
        missing = [s.capture for i, s in enumerate(self.stages) if i not in found]
        if missing:
            raise LayerError(
                f"The feature map did not come by: {missing[0]}.",
                why="The network took another way than when its stages were chosen.",
                hint="Make it again with an example and a mode like this call's.",
            )
        return [found[i] for i in range(len(self.stages))]

    def _places(self, grids: Sequence[tuple[int, ...]], size: tuple[int, ...]) -> list[Geometry]:
        """Where the cells of every scale lie; where that is not known of one, all are taken to tile the input."""
        known = [s.geometry(grid, size, self._seen) for s, grid in zip(self.stages, grids, strict=True)]
        return known if all(k.registered for k in known) else [Geometry.unregistered(g, size) for g in grids]

    def _input_size(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
        axes = len(self._seen) + 2
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim == axes:
                return tuple(value.shape[2:])
        raise BadInput(
            "There is no input with places to show evidence on.",
            why=f"A tensor with {axes} axes, (batch, channels, *spatial), was looked for.",
            hint="Add the batch axis to a single input: x[None].",
        )


def _with_bias(maps: Tensor, bias: Tensor) -> Tensor:
    return maps + bias.view(*bias.shape, *(1,) * (maps.ndim - 2))


def _shares(fine: Geometry, coarse: Geometry) -> list[tuple[Float[Tensor, "fine coarse"], Tensor]]:
    """Per axis how a coarse cell is divided among fine ones, each column adding up to 1; and how far their centres lie apart.

    A cell stands for the stretch of one spacing around its centre, and fine cells share it by the length that they have
    in common with it: what is shared out stays centred where it was. A cell that no fine one meets goes to the nearest.
    """
    found = []
    for mine, theirs, small, large in zip(fine.centres(), coarse.centres(), fine.jump, coarse.jump, strict=True):
        away = (mine[:, None] - theirs).abs()
        common = ((small + large) / 2 - away).clamp(0, min(small, large))
        nearest = away.argmin(0)
        lost = common.sum(0) <= 1e-9 * large
        common[nearest[lost], lost] = 1
        found.append((common / common.sum(0), away))
    return found


def _onto(fine: Geometry, scale: Scale) -> Float[Tensor, "batch classes *fine"]:
    """The scale's cells, each shared out among the fine cells that it covers. Totals are kept."""
    cells = scale.cells
    if scale.geometry != fine:
        for axis, (shares, _) in enumerate(_shares(fine, scale.geometry), start=2):
            cells = torch.tensordot(cells, shares.to(cells), dims=([axis], [1])).movedim(-1, axis)
    return cells


def _reach(fine: Geometry, scales: Sequence[Scale]) -> tuple[float, ...] | None:
    """Samples per axis around a fine cell that can reach it, through whichever scale; None where not known."""
    sizes = []
    for scale in scales:
        if scale.geometry.receptive_field is None:
            return None
        pairs = _shares(fine, scale.geometry) if scale.geometry != fine else []
        off = [float((away * (shares > 0)).max()) for shares, away in pairs] or [0.0] * len(fine.grid)
        sizes.append([f + 2 * a for f, a in zip(scale.geometry.receptive_field, off, strict=True)])
    return tuple(max(values) for values in zip(*sizes, strict=True))


def multi_scale(
    model: nn.Module | str,
    example: Float[Tensor, "batch channels *spatial"],
    layers: str | Sequence[str] = (),
    *,
    instead: bool = False,
    pooling: PoolingName = "mean",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> MultiScale:
    """A copy of a network with an evidence head at each named layer beside the classifier's own; for training.

    model: a SoftCAM of kind "exact", or what `convert` makes one of. layers: dotted names of layers that give feature
    maps `(batch, channels, *grid)`, for example "layer2" and "layer3" of a ResNet; the classifier's is there besides.
    instead: the named layers take the classifier's place (an earlier tap: cells that see less, passes that end there).
    pooling and its options: of every head (see `EvidenceHead`). args, kwargs: the network's other inputs.

    The heads of the named layers start at zero and the classifier's with its weights, so that with pooling="mean" the
    logits are at first the network's own; with `instead` they are zero. Its certificate tells the kind: "exact", "exact_at_this_image", or "retrain"
    where the pooling changed the logits of the example. The old head's parameters are kept, and no longer train.

    Raises `ConversionError` where the network is not exact, `LayerError` for layers that give no feature map,
    `OptionError` for an unknown pooling, and for `instead` without a layer.
    """
    if isinstance(model, SoftCAM):
        softcam = deepcopy(model)
    else:
        from pellucid.models.convert import convert

        softcam = convert(model, example, kind="exact", task=task, classes=classes, args=args, kwargs=kwargs)
    _refuse_inexact(softcam)
    trunk, few = softcam.model, example[:2]
    call = Call(trunk, tuple(args), dict(kwargs or {}), softcam.output, batch=len(example))
    with torch.inference_mode(False), hooks.untouched(trunk):
        few = few.detach().clone().to(next(trunk.parameters()).device)
        call = call.rows(torch.arange(len(few)))
        stages = _laterals(call, few, (layers,) if isinstance(layers, str) else layers)
        if instead and not stages:
            raise OptionError(
                "There is nothing instead of the classifier's layer.", hint="Name one or more: layers=..."
            )
        stages += [] if instead else [_last(softcam, call, few)]
        heads = _first_heads(softcam, stages, pooling, options, new=instead)
        made = MultiScale(
            trunk, stages, heads, softcam.certificate, task=softcam.task, classes=softcam.classes, early=instead
        )
        made.preprocessing = getattr(softcam, "preprocessing", None) or made.preprocessing
        made.eval()
        made.certificate = _certificate(made, softcam, call, few, pooling)
        retired = _retired(made, softcam, call, few)
    made._note_source()
    for parameter in retired:
        parameter.requires_grad_(False)
    made.heads.train(trunk.training)
    made.training = trunk.training
    return made


def with_pooling(
    model: nn.Module | str, example: Float[Tensor, "batch channels *spatial"], pooling: PoolingName, **options: Any
) -> MultiScale:
    """A copy of a network with another pooling before its classifier, whose weights become the evidence layer's.

    pooling="mean" leaves the logits as they are, and so does "gated_attention" until it is trained; "lse" and "top_k"
    change them, and the network has to be trained on. Options and errors as in `multi_scale`.
    """
    return multi_scale(model, example, (), pooling=pooling, **options)


def _refuse_inexact(softcam: SoftCAM) -> None:
    if softcam.certificate.kind != "exact":
        raise ConversionError(
            f"The network's evidence is of kind '{softcam.certificate.kind}'.",
            why="Another pooling, or further scales, need a head that is linear after pooling.",
            hint="Use a network with average pooling and a linear classifier.",
        )
    if softcam.plan.pooling != "mean":
        raise ConversionError(
            "The network sums its cells.",
            why="How much a cell counts then depends on the size of the input; heads here take means.",
            hint="Use a network with average pooling.",
        )


def _last(softcam: SoftCAM, call: Call, x: Tensor) -> Stage:
    """The stage that the classifier reads."""
    plan, known, shapes = softcam.plan, softcam.certificate, list[torch.Size]()
    with torch.no_grad(), capture(call.model, plan.capture, lambda features: shapes.append(features.shape)):
        call(x)
    return Stage(
        str(plan.capture) if plan.capture.kind == "function" else plan.capture.name,
        plan.capture, shapes[-1][plan.channel_axis], plan.channel_axis, plan.stride,
        known.start, known.jump, known.receptive_field, known.sized,
    )  # fmt: skip


def _laterals(call: Call, x: Tensor, layers: Sequence[str]) -> list[Stage]:
    fields = _fields(call, x, layers) if layers else {}
    stages = []
    for name in layers:
        layer = hooks.spatial_layer(call.model, call, x, name)
        with hooks.tap(call.model, layer, gradient=False) as taken:
            call(x)
        features = taken.feature_map(x)
        if prod(features.shape[2:]) < 2:
            raise LayerError(
                f"Layer '{name}' gives a map with a single cell.", hint="Choose an earlier layer, or a larger example."
            )
        stages.append(Stage(name, CapturePoint("output", name), features.shape[1], **fields.get(name, {})))
    return stages


def _fields(call: Call, x: Tensor, layers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Where the cells of each layer look, of those for which it can be told."""
    from pellucid.models.receptive_field import receptive_field
    from pellucid.models.trace import Untraceable, trace

    others = tuple(v for v in tree_leaves((call.args, dict(call.kwargs))) if isinstance(v, Tensor))
    try:
        traced = trace(call.model, lambda: call.run(call.model, x), (x, *others), call.select)
    except Untraceable:
        return {}
    found = {}
    for name in layers:
        refs = [r for r, points in traced.points.items() if any(p.kind == "output" and p.name == name for p in points)]
        field = receptive_field(traced, refs[-1], x.ndim - 2) if refs else None
        if field is not None and field.axes == tuple(range(2, x.ndim)) and not field.rows:
            size = None if field.whole else field.size
            found[name] = {"start": field.start, "jump": field.jump, "receptive_field": size, "sized": field.sized}
    return found


def _first_heads(
    softcam: SoftCAM, stages: Sequence[Stage], pooling: PoolingName, options: Mapping[str, Any], *, new: bool
) -> list[EvidenceHead]:
    """Heads that say nothing, and the classifier's with its own weights unless all are new."""
    classes, like = softcam.certificate.classes, next(p for p in softcam.parameters() if p.is_floating_point())
    heads = [
        EvidenceHead(stage.channels, classes, pooling, **options, bias=stage is stages[-1]).to(like) for stage in stages
    ]
    own = softcam.fused if softcam.plan.layer is None else softcam.model.get_submodule(softcam.plan.layer)
    with torch.no_grad():
        for head in heads:
            head.evidence.weight.zero_()
        last = heads[-1].evidence
        last.bias.zero_()
        if new:
            return heads
        if own is None:
            nn.init.eye_(last.weight)
        else:
            last.weight.copy_(cast(Tensor, own.weight).flatten(1))
            if own.bias is not None:
                last.bias.copy_(cast(Tensor, own.bias))
    return heads


def _certificate(made: MultiScale, softcam: SoftCAM, call: Call, x: Tensor, pooling: PoolingName) -> Certificate:
    """What was measured on the example: that cells add up, and whether the logits are still the network's."""
    with torch.no_grad():
        told: Evidence = call.run(made.evidence, x)
        before = softcam.select(call.run(softcam, x)).reshape(told.logits.shape)
    summed = told.maps.flatten(2).mean(2) + told.bias
    spread = float(before.double().std()) or 1.0
    residual, change = float((summed - told.logits).abs().max()), float((told.logits - before).abs().max())
    same = change <= _SAME * spread
    flips = int((_answers(told.logits) != _answers(before)).sum())
    notes = list(softcam.certificate.notes)
    if not same:
        notes.append(
            f"pooling by {pooling} changed the logits by up to {change:.2g} on {len(x)} inputs, {change / spread:.1g} of their spread, and {flips} answers: train it"
        )
        notes.append("the evidence of the changed network adds up to its own logits, at each image")  # fmt: skip
    place, varies = told.geometry, POOLINGS[pooling] != "exact"
    shares = (
        [float(part.double().std()) / spread for part in (told.bias, summed - told.bias)] if varies else [None, None]
    )
    return replace(
        softcam.certificate, kind=POOLINGS[pooling] if same else "retrain", cut=", ".join(s.name for s in made.stages),
        head=f"{len(made.stages)} evidence heads, pooling {pooling}", images=len(x), parity=residual, parity_relative=residual / spread, flips=flips,
        grid=place.grid, stride=place.jump, start=place.start if place.registered else None, jump=place.jump if place.registered else None,
        receptive_field=place.receptive_field, sized=any(s.sized for s in made.stages), notes=tuple(notes),
        constant_share=shares[0], cells_share=shares[1],
    )  # fmt: skip


def _answers(logits: Tensor) -> Tensor:
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0


def _retired(made: MultiScale, softcam: SoftCAM, call: Call, x: Tensor) -> list[nn.Parameter]:
    """The old head's parameters: the network's logits depend on them, those of the new heads do not."""
    trainable = [p for p in made.model.parameters() if p.requires_grad]

    def reached(function: Callable[..., Any]) -> list[bool]:
        with torch.enable_grad():
            score = softcam.select(call.run(function, x)).sum()
            return [g is not None for g in torch.autograd.grad(score, trainable, allow_unused=True)]

    before, after = reached(softcam.model), reached(made)
    return [p for p, old, new in zip(trainable, before, after, strict=True) if old and not new]
