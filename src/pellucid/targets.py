"""What is being explained. A target turns the network's output into one number per input: the score.

Linear targets also say with which weights the classes enter the score, so that evidence maps, which exist for every
class, can be combined in the same way and add up to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import TargetError, nearest

Task: TypeAlias = Literal["multiclass", "multilabel", "binary", "regression"]
TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "binary", "regression")
_AGAINST = " against "
_REST = ("the rest", "rest")


@runtime_checkable
class Target(Protocol):
    """One scalar per input. Frozen; knows how to follow the inputs (`rows`) and how to say what it is."""

    def resolve(self, output: Any) -> Target:
        """The same target with everything decided that waited for the output (the predicted class)."""

    def __call__(self, output: Any) -> Float[Tensor, "batch"]: ...

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        """With which weights the outputs enter the score; `TargetError` where the score is not linear in them."""

    def rows(self, index: Tensor) -> Target: ...

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str: ...

    def as_dict(self) -> dict[str, Any]: ...


def _two_axes(output: Any) -> Float[Tensor, "batch classes"]:
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TargetError(
            f"The network's output is {shape}; classes need (batch, classes).",
            why="A class target picks one column of logits.",
            hint="Use RegionTarget for maps of logits, BoxTarget for detections, or pass output= to pick the logits.",
        )
    return output


@dataclass(frozen=True)
class ClassTarget:
    """The logit of a class per input. `classes`: one for all, one per input, or None for the predicted one."""

    classes: int | Int[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> ClassTarget:
        logits = _two_axes(output)
        if self.classes is None:
            return ClassTarget(logits.detach().argmax(1).cpu())
        index = torch.as_tensor(self.classes).cpu().long()
        if index.ndim == 0:
            index = index.repeat(len(logits))
        if len(index) != len(logits):
            raise TargetError(
                f"There are {len(index)} targets for {len(logits)} inputs.",
                why="One target for all inputs or one for each is needed.",
                hint="Give a single class, or as many as there are inputs.",
            )
        wrong = index[(index < 0) | (index >= logits.shape[1])]
        if len(wrong):
            raise TargetError(
                f"There is no class {int(wrong[0])}.",
                why=f"The network has {logits.shape[1]} classes.",
                hint=f"Choose 0 to {logits.shape[1] - 1}.",
            )
        return ClassTarget(index)

    def index(self, output: Any) -> Int[Tensor, "batch"]:
        resolved = self.resolve(output).classes
        assert isinstance(resolved, Tensor)
        return resolved.to(output.device)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return _two_axes(output).gather(1, self.index(output)[:, None])[:, 0]

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return torch.nn.functional.one_hot(self.index(output), _two_axes(output).shape[1]).to(output)

    def rows(self, index: Tensor) -> ClassTarget:
        return ClassTarget(_pick(self.classes, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return "predicted class" if self.classes is None else _name(self.classes, classes, row)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "class", "classes": _plain(self.classes)}


@dataclass(frozen=True)
class ContrastTarget:
    """The log-odds of class a against class b: logit a minus logit b. For two softmax classes, log(p_a / p_b)."""

    a: int | Int[Tensor, "batch"]
    b: int | Int[Tensor, "batch"]

    def resolve(self, output: Any) -> ContrastTarget:
        a, b = ClassTarget(self.a).resolve(output).classes, ClassTarget(self.b).resolve(output).classes
        assert a is not None
        assert b is not None
        return ContrastTarget(a, b)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return ClassTarget(self.a)(output) - ClassTarget(self.b)(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return ClassTarget(self.a).weights(output) - ClassTarget(self.b).weights(output)

    def rows(self, index: Tensor) -> ContrastTarget:
        return ContrastTarget(_pick(self.a, index), _pick(self.b, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{_name(self.a, classes, row)}{_AGAINST}{_name(self.b, classes, row)}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "contrast", "a": _plain(self.a), "b": _plain(self.b)}


@dataclass(frozen=True)
class OneVsRestTarget:
    """The log-odds of a class against all others together: log(p / (1 - p)) of its softmax probability p.

    With logits y and pi the softmax over the other classes alone, exactly

        log(p_c / (1 - p_c)) = y_c - sum_{k != c} pi_k y_k - H(pi)

    so the others enter with the weights pi, and `offset` is -H(pi), minus their entropy in nats. pi and H(pi) are those
    of the output at hand: as a statement on maps the score is linear at this input only. With two classes pi is 1 and
    the entropy 0: the contrast of the two. `classes`: one for all, one per input, or None for the predicted one.
    """

    classes: int | Int[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> OneVsRestTarget:
        if _two_axes(output).shape[1] < 2:
            raise TargetError(
                "One class against the rest needs at least two classes.",
                why="The network has a single logit, which is a log-odds already.",
                hint="Use SingleLogitTarget.",
            )
        return OneVsRestTarget(ClassTarget(self.classes).resolve(output).classes)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        own, others = self._parted(output)
        return own - others.logsumexp(1)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        weights: Tensor = ClassTarget(self.classes).weights(output) - self._parted(output)[1].softmax(1)
        return weights

    def offset(self, output: Tensor) -> Float[Tensor, "batch"]:
        """-H(pi) in nats."""
        rest = self._parted(output)[1].softmax(1)
        entropy: Tensor = -torch.special.xlogy(rest, rest).sum(1)
        return -entropy

    def _parted(self, output: Any) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]:
        """The class's logit, and the logits with minus infinity in its place; in float32 at least."""
        chosen = ClassTarget(self.resolve(output).classes)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return chosen(output), output.masked_fill(chosen.weights(output).bool(), -torch.inf)

    def rows(self, index: Tensor) -> OneVsRestTarget:
        return OneVsRestTarget(_pick(self.classes, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        name = "predicted class" if self.classes is None else _name(self.classes, classes, row)
        return f"{name}{_AGAINST}the rest"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "one_vs_rest", "classes": _plain(self.classes)}


@dataclass(frozen=True)
class SingleLogitTarget:
    """The one output of a sigmoid head, as log-odds of what it decided.

    positive: True explains the positive answer, False the negative one (score = -logit), None what the network says,
    so that a confident "no" is explained as "no". One answer for all inputs, or one per input.
    """

    positive: bool | Bool[Tensor, "batch"] | None = None

    def resolve(self, output: Any) -> SingleLogitTarget:
        logits = _single(output)
        if self.positive is None:
            return SingleLogitTarget((logits.detach() >= 0).cpu())
        positive = torch.as_tensor(self.positive).cpu()
        if positive.ndim == 0:
            positive = positive.repeat(len(logits))
        if len(positive) != len(logits):
            raise TargetError(
                f"There are {len(positive)} targets for {len(logits)} inputs.",
                hint="Give one for all, or one for each.",
            )
        return SingleLogitTarget(positive.bool())

    def _sign(self, output: Any) -> Float[Tensor, "batch"]:
        positive = self.resolve(output).positive
        assert isinstance(positive, Tensor)
        return positive.to(output) * 2 - 1

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return _single(output) * self._sign(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        weights: Tensor = self._sign(output)[:, None]
        return weights

    def rows(self, index: Tensor) -> SingleLogitTarget:
        return SingleLogitTarget(_pick(self.positive, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        if self.positive is None:
            return "the network's answer"
        positive = bool(torch.as_tensor(self.positive).reshape(-1)[row if isinstance(self.positive, Tensor) else 0])
        if classes is not None and len(classes) == 2:
            return classes[int(positive)]
        name = classes[0] if classes else "positive"
        return name if positive else f"not {name}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "single_logit", "positive": _plain(self.positive)}


@dataclass(frozen=True)
class RegressionTarget:
    """One output value of a regression, in its own unit."""

    index: int = 0

    def resolve(self, output: Any) -> RegressionTarget:
        columns = 1 if output.ndim == 1 else _two_axes(output).shape[1]
        if not 0 <= self.index < columns:
            raise TargetError(
                f"There is no output {self.index}.",
                why=f"The network has {columns}.",
                hint=f"Choose 0 to {columns - 1}.",
            )
        return self

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        self.resolve(output)
        column: Tensor = output if output.ndim == 1 else output[:, self.index]
        return column

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        columns = output[:, None] if output.ndim == 1 else output
        weights = torch.zeros_like(columns)
        weights[:, self.index] = 1
        return weights

    def rows(self, index: Tensor) -> RegressionTarget:
        return self

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return classes[self.index] if classes else f"output {self.index}"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "regression", "index": self.index}


@dataclass(frozen=True)
class RegionTarget:
    """The mean logit of a class inside a region of a map of logits (batch, classes, *spatial): segmentation.

    region: `(*spatial)` for all inputs or `(batch, *spatial)`; None takes where the class is predicted.
    picked: which inputs of the region's batch are meant, noted by `rows` until the output's axes tell whether it has one.
    """

    index: int
    region: Bool[Tensor, "..."] | None = None
    picked: Int[Tensor, "rows"] | None = None

    def resolve(self, output: Any) -> RegionTarget:
        if not isinstance(output, Tensor) or output.ndim < 3:
            raise TargetError(
                "RegionTarget needs a map of logits (batch, classes, *spatial).",
                hint="Use ClassTarget for (batch, classes).",
            )
        if not 0 <= self.index < output.shape[1]:
            raise TargetError(
                f"There is no class {self.index}.",
                why=f"The network has {output.shape[1]}.",
                hint=f"Choose 0 to {output.shape[1] - 1}.",
            )
        region = output.detach().argmax(1) == self.index if self.region is None else self.region.to(output.device)
        if region.shape == output.shape[2:]:
            region = region.expand(len(output), *region.shape)
        elif self.picked is not None and self.region is not None:
            region = region[self.picked.to(region.device)]
        if region.shape != (len(output), *output.shape[2:]):
            raise TargetError(
                f"The region has shape {tuple(region.shape)}.",
                why=f"The map of logits has positions {tuple(output.shape[2:])}.",
                hint="Give a mask of the output's size.",
            )
        if not bool(region.flatten(1).any(1).all()):
            raise TargetError(
                "The region is empty for at least one input.",
                hint="Give a region that contains something, or another class.",
            )
        return RegionTarget(self.index, region)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        region = self.resolve(output).region
        assert region is not None
        inside = region.flatten(1).to(output)
        mean: Tensor = (output[:, self.index].flatten(1) * inside).sum(1) / inside.sum(1)
        return mean

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        raise _not_linear("the mean over a region")

    def rows(self, index: Tensor) -> RegionTarget:
        if self.region is None:
            return self
        return replace(self, picked=index if self.picked is None else self.picked[index.to(self.picked.device)])

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{_name(self.index, classes, row)} in a region"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "region", "index": self.index}


@dataclass(frozen=True)
class BoxTarget:
    """The class score of the detection that lies best on a box, found again on every call.

    The output is a list with one dict per image: `boxes` (n, 4), `scores` (n,) or `logits` (n, classes), and `labels`
    (n,) with `scores`, as torchvision's detectors give it. Only detections of the wanted class count where scores are
    given. A box that no detection overlaps scores 0. boxes: (4,) for all inputs or (batch, 4), as x0, y0, x1, y1.
    """

    boxes: Float[Tensor, "..."]
    index: int

    def resolve(self, output: Any) -> BoxTarget:
        if not isinstance(output, Sequence) or not all(isinstance(o, Mapping) and "boxes" in o for o in output):
            raise TargetError(
                "BoxTarget needs one dict with 'boxes' per image.",
                why=f"The output is a {type(output).__name__}.",
                hint="Pass output= to pick the detections.",
            )
        boxes = self.boxes.expand(len(output), 4) if self.boxes.ndim == 1 else self.boxes
        if boxes.shape != (len(output), 4):
            raise TargetError(
                f"There are {len(boxes)} boxes for {len(output)} inputs.", hint="Give one box for all, or one for each."
            )
        return BoxTarget(boxes, self.index)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        boxes = self.resolve(output).boxes
        return torch.stack([self._score(found, box) for found, box in zip(output, boxes, strict=True)])

    def _score(self, found: Mapping[str, Tensor], box: Tensor) -> Tensor:
        overlap = _iou(found["boxes"].detach(), box.to(found["boxes"]))
        scores = found["logits"][:, self.index] if "logits" in found else found["scores"]
        if "logits" not in found and "labels" in found:
            overlap = torch.where(found["labels"] == self.index, overlap, torch.zeros_like(overlap))
        if len(overlap) == 0 or float(overlap.max()) == 0:
            return scores.sum() * 0
        return scores[overlap.argmax()]

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        raise _not_linear("the score of a box")

    def rows(self, index: Tensor) -> BoxTarget:
        return self if self.boxes.ndim == 1 else replace(self, boxes=self.boxes[index.to(self.boxes.device)])

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return f"{_name(self.index, classes, row)} in a box"

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "box", "index": self.index, "boxes": self.boxes.tolist()}


def _iou(boxes: Float[Tensor, "n 4"], box: Float[Tensor, "4"]) -> Float[Tensor, "n"]:
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    shared = (high - low).clamp_min(0).prod(1)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared).clamp_min(1e-12)


def _not_linear(what: str) -> TargetError:
    return TargetError(
        f"Evidence maps cannot be combined into {what}.",
        why="It is not a weighted sum of class logits.",
        hint="Use a method that needs no linear target, such as grad_cam.",
    )


def _single(output: Any) -> Float[Tensor, "batch"]:
    if isinstance(output, Tensor) and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        return output.reshape(-1)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        "A single-logit target needs one output per input.",
        why=f"The output is {shape}.",
        hint="Use ClassTarget, or pass output=.",
    )


def _pick(value: Any, index: Tensor) -> Any:
    if isinstance(value, list | tuple):
        return [value[i] for i in index.tolist()]
    return value[index.to(value.device)] if isinstance(value, Tensor) and value.ndim else value


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _name(index: int | Tensor, classes: Sequence[str] | None, row: int) -> str:
    number = int(index.reshape(-1)[row if index.ndim else 0]) if isinstance(index, Tensor) else index
    return classes[number] if classes is not None and number < len(classes) else f"class {number}"


_KINDS: dict[str, Any] = {
    "class": ClassTarget,
    "contrast": ContrastTarget,
    "one_vs_rest": OneVsRestTarget,
    "single_logit": SingleLogitTarget,
    "regression": RegressionTarget,
    "region": RegionTarget,
    "box": BoxTarget,
}


def from_dict(value: Mapping[str, Any]) -> Target:
    """The target that `as_dict` described (the mask of a region is not kept)."""
    fields = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in value.items() if k != "kind"}
    target: Target = _KINDS[value["kind"]](**fields)
    return target


def default_task(output: Any) -> Task:
    """One output column is a single logit, more are classes that exclude each other. Anything else must be said."""
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1:
        return "multiclass"
    if isinstance(output, Tensor) and (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        return "binary"
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise TargetError(
        f"It is not clear what to explain in an output of {shape}.",
        why="Logits (batch, classes) or one value per input explain themselves; this does not.",
        hint="Pass target=RegionTarget(...) for maps of logits, BoxTarget(...) for detections, or output= to pick the logits.",
    )


def default_task_or_none(output: Any) -> Task | None:
    try:
        return default_task(output)
    except TargetError:
        return None


def offset(target: Target, output: Tensor) -> Float[Tensor, "batch"]:
    """What a target adds to the weighted outputs, in the score's units: sum_c weights_c output_c + offset = score.

    Zero for a target that is linear in the outputs; one against the rest has minus the entropy of the rest.
    """
    own = getattr(target, "offset", None)
    found: Tensor = output.new_zeros(len(output)) if own is None else own(output)
    return found


def parse(target: Any, *, task: Task | None = None, classes: Sequence[str] | None = None) -> PendingTarget | Target:
    """What the user means by a class number, a class name, a list of them, a Target, or nothing.

    "A against B" is the contrast of two classes, "A against the rest" one of them against all others; A and B are
    names or numbers. A class whose own name reads like that is that class.
    """
    if isinstance(target, OneVsRestTarget) and task in ("multilabel", "regression"):
        raise _no_rest(task)
    if hasattr(target, "resolve"):
        return target  # type: ignore[no-any-return]
    return PendingTarget(target, task, tuple(classes) if classes is not None else None)


@dataclass(frozen=True)
class PendingTarget:
    """A class, name or nothing, to be understood once the output's shape is known."""

    wanted: Any = None
    task: Task | None = None
    names: tuple[str, ...] | None = None

    def resolve(self, output: Any) -> Target:
        task = self.task or default_task(output)
        if task not in TASKS:
            raise TargetError(f"There is no task '{task}'.", hint=nearest(task, TASKS))
        against = self._against(task)
        if against is not None:
            return against.resolve(output)
        if task == "regression":
            return RegressionTarget(int(self._index(self.wanted) or 0)).resolve(output)
        if task == "binary" and not (isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1):
            return SingleLogitTarget(self._positive()).resolve(output)
        return ClassTarget(self._index(self.wanted)).resolve(output)

    def _against(self, task: Task) -> ContrastTarget | OneVsRestTarget | None:
        """The two sides of "A against B" or "A against the rest"; None for a target in other words."""
        names = self.names or ()
        if not isinstance(self.wanted, str) or _AGAINST not in self.wanted or self.wanted in names:
            return None
        a, b = self._sides(self.wanted)
        if b in _REST and b not in names:
            if task in ("multilabel", "regression"):
                raise _no_rest(task)
            return OneVsRestTarget(self._by_name(a))
        return ContrastTarget(self._by_name(a), self._by_name(b))

    def _sides(self, wanted: str) -> tuple[str, str]:
        """Where the words part; a class's name may hold the word between them itself."""
        pieces = wanted.split(_AGAINST)
        ways = [(_AGAINST.join(pieces[:k]), _AGAINST.join(pieces[k:])) for k in range(1, len(pieces))]
        known = {*(self.names or ()), *_REST}
        return max(ways, key=lambda sides: sum(side in known for side in sides))

    def _index(self, wanted: Any) -> Any:
        if wanted is None or isinstance(wanted, Tensor):
            return wanted
        if isinstance(wanted, Integral):
            return int(wanted)
        if isinstance(wanted, str):
            return self._by_name(wanted)
        return torch.tensor([self._by_name(w) if isinstance(w, str) else int(w) for w in wanted])

    def _positive(self) -> Any:
        """For a single logit, 1 or the second (or only) name is the positive answer and 0 or the first the negative."""
        if isinstance(self.wanted, str) and self.names is not None and len(self.names) == 1:
            return self._by_name(self.wanted) == 0
        index = self._index(self.wanted)
        if index is None:
            return None
        wrong = torch.as_tensor(index).reshape(-1)
        if bool(((wrong != 0) & (wrong != 1)).any()):
            raise TargetError(
                f"There is no class {self.wanted}.",
                why="The network has a single logit.",
                hint="1 is its positive answer, 0 its negative one.",
            )
        return torch.as_tensor(index).bool() if isinstance(index, Tensor) and index.ndim else bool(index)

    def _by_name(self, name: str) -> int:
        if name.lstrip("-").isdecimal() and (self.names is None or name not in self.names):
            return int(name)
        if self.names is None:
            raise TargetError(
                f"The class '{name}' cannot be found.",
                why="The network's class names are not known.",
                hint="Pass classes=[...], or the class number.",
            )
        if name not in self.names:
            raise TargetError(f"There is no class '{name}'.", hint=nearest(name, self.names))
        return self.names.index(name)

    def __call__(self, output: Any) -> Float[Tensor, "batch"]:
        return self.resolve(output)(output)

    def weights(self, output: Tensor) -> Float[Tensor, "batch classes"]:
        return self.resolve(output).weights(output)

    def rows(self, index: Tensor) -> PendingTarget:
        if isinstance(self.wanted, list | tuple):
            return replace(self, wanted=[self.wanted[int(i)] for i in index])
        return replace(self, wanted=_pick(self.wanted, index))

    def describe(self, classes: Sequence[str] | None = None, row: int = 0) -> str:
        return "predicted class" if self.wanted is None else str(self.wanted)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "pending", "wanted": _plain(self.wanted)}


def _no_rest(task: str) -> TargetError:
    return TargetError(
        f"A {task} output has no rest to be against.",
        why="Its outputs do not share one probability: labels answer one by one, values are no classes.",
        hint="Explain the output itself: its number or name.",
    )


def check_count(target: Target, count: int) -> None:
    """Raise `TargetError` for a target that is given per input, but for another number of inputs."""
    for name, value in vars(target).items():
        given = (
            len(value) if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim > 0) else count
        )
        if name in ("wanted", "classes", "a", "b", "positive") and given != count:
            raise TargetError(
                f"There are {given} targets for {count} inputs.",
                why="One target for all inputs or one for each is needed.",
                hint="Give a single target, or as many as there are inputs.",
            )


def join(parts: Sequence[Target]) -> Target:
    """One target for the inputs of several, in order. The parts are resolved and of one kind."""
    first = parts[0]
    if len(parts) == 1:
        return first
    joined = {
        name: torch.cat([getattr(p, name) for p in parts])
        for name, value in vars(first).items()
        if isinstance(value, Tensor) and value.ndim > 0
    }
    return replace(first, **joined)  # type: ignore[type-var]


def gauge_free(target: Target, output: Any, task: Task | None = None) -> Target:
    """For one of two softmax classes the contrast with the other: the one question that a softmax head answers.

    Softmax ignores whatever is added to all classes, so the sign of one class's raw map means nothing; with two
    classes only the difference is seen by the network. All other targets stay as they are.
    """
    two = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == 2
    if two and isinstance(target, ClassTarget) and (task or "multiclass") in ("multiclass", "binary"):
        index = target.resolve(output).classes
        assert isinstance(index, Tensor)
        return ContrastTarget(index, 1 - index)
    return target
