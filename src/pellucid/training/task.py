"""What the network is trained for: its logits, what a label means, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import BadInput, OptionError
from pellucid.hooks import untouched
from pellucid.sample import Dataset

Task = Literal["multiclass", "binary", "multilabel"]
TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")

# Weights of auxiliary classifiers: Inception-v3 has one (0.4), GoogLeNet two (0.3 each).
_AUXILIARY = {1: 0.4, 2: 0.3}


def parts(output: Any) -> tuple[Tensor, list[Tensor]]:
    """The logits and the auxiliary logits (training mode of Inception and GoogLeNet) of what a network returns."""
    if isinstance(output, Tensor):
        return output, []
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"], []
    if isinstance(getattr(output, "logits", None), Tensor):
        others = [v for k, v in zip(getattr(output, "_fields", ()), output, strict=False) if k != "logits"]
        return output.logits, [o for o in others if isinstance(o, Tensor)]
    raise OptionError(
        f"The network returns a {type(output).__name__}.",
        why="Training needs one tensor of logits, or an output with a part 'logits'.",
        hint="Wrap the network so that it returns its logits.",
    )


def resolve(
    model: nn.Module, x: Float[Tensor, "batch channels *spatial"], label: Any, classes: int, asked: str
) -> Task:
    """The task: as asked, else the network's `task`, else from the label and the number of logits.

    One pass in evaluation mode checks that the logits fit the classes. Raises `OptionError` where they do not.
    """
    with untouched(model), torch.no_grad():
        logits, _ = parts(model(x))
    width = logits.shape[1] if logits.ndim == 2 else 1 if logits.ndim == 1 else 0
    own = getattr(model, "task", None)
    if asked != "auto":
        task = asked
    elif isinstance(own, str):
        task = own
    elif isinstance(label, Tensor) and label.ndim == 1:
        task = "multilabel"
    else:
        task = "binary" if width == 1 else "multiclass"
    known = next((t for t in TASKS if t == task), None)
    if known is None:
        raise OptionError(
            f"A network for the task '{task}' cannot be trained here.", hint=f"Tasks: {', '.join(TASKS)}."
        )
    wanted = {"multiclass": max(classes, 2), "binary": 1, "multilabel": classes}[known]
    if width != wanted or (known == "binary" and classes not in (1, 2)):
        raise OptionError(
            f"The network's output {tuple(logits.shape)} does not fit {classes} classes.",
            why=f"A {known} task needs {wanted} logit(s) per input{' and two classes' if known == 'binary' else ''}.",
            hint="Give the network as many outputs as the data has classes, or set `task`.",
        )
    return known


def label_of(label: Any, classes: int, task: Task) -> Tensor:
    """A label as the loss wants it: a class index, or one 0/1 per class. Raises `BadInput` for what is neither."""
    if label is None:
        raise BadInput("There is no label.", hint="Label the sample or leave it out.")
    value = torch.as_tensor(label)
    if task == "multilabel":
        if value.shape != (classes,) or not bool(((value == 0) | (value == 1)).all()):
            raise BadInput(
                f"The label is {label}.", why=f"{classes} values of 0 or 1 are needed.", hint="Correct the label."
            )
        return value.float()
    if value.ndim or value != value.long() or not 0 <= int(value) < max(classes, 2):
        raise BadInput(
            f"The label is {label}.", why=f"A class index below {max(classes, 2)} is needed.", hint="Correct the label."
        )
    return value.long()


def weights_of(asked: Any, task: Task, dataset: Dataset) -> Tensor | None:
    """One weight per class. "balanced": n / (classes * count), so that every class weighs the same in the sum."""
    if asked is None:
        return None
    classes = _width(task, dataset)
    if asked != "balanced":
        if len(asked) != classes:
            raise OptionError(
                f"There are {len(asked)} class weights for {classes} classes.",
                hint=f"Give one for each of: {', '.join(dataset.classes)}.",
            )
        return torch.tensor(asked, dtype=torch.float32)
    _, counts = _labels(task, dataset)
    return counts.sum() / (classes * counts.float())


def chances_of(task: Task, dataset: Dataset) -> Tensor:
    """How likely each sample is to be drawn, so that every class is drawn equally often: 1 / count of its class."""
    labels, counts = _labels(task, dataset)
    return 1 / counts.double()[labels]


def _labels(task: Task, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The class of every sample, and how many each class has. Raises `OptionError` where that cannot be balanced."""
    labels = [dataset.facts(i).label for i in range(len(dataset))]
    if task == "multilabel" or any(label is None for label in labels):
        raise OptionError(
            "Balancing classes needs one known class per sample.", hint="Give class_weights as numbers instead."
        )
    known = torch.tensor([int(v) for v in labels if v is not None])
    counts = torch.bincount(known, minlength=_width(task, dataset))
    if int(counts.min()) == 0:
        raise OptionError(
            "A class has no sample, so the classes cannot be balanced.",
            why=f"Counts: {counts.tolist()}.",
            hint="Give class_weights as numbers.",
        )
    return known, counts


def _width(task: Task, dataset: Dataset) -> int:
    return len(dataset.classes) if task == "multilabel" else max(len(dataset.classes), 2)


def loss(
    task: Task,
    output: Any,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    smoothing: float = 0.0,
    focusing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy (natural log), averaged over the batch; auxiliary classifiers count 0.4 (one) or 0.3 (two).

    smoothing: share of the label that is spread evenly over the classes (a sigmoid's two answers). focusing: gamma of
    the focal loss (1 - p)^gamma * -log p of the right answer (Lin and others 2017).
    """
    logits, auxiliary = parts(output)
    extra = [_loss(task, a, labels, weights, smoothing, focusing) for a in auxiliary]
    total = _loss(task, logits, labels, weights, smoothing, focusing)
    return total + _AUXILIARY.get(len(extra), 0.3) * sum(extra) if extra else total


def mass(task: Task, labels: Tensor, weights: Tensor | None = None) -> float:
    """What the mean that `loss` takes is divided by, up to a constant: the loss of a batch is that of its pieces,
    weighed by this.
    """
    if weights is None or task == "multilabel":
        return float(len(labels))
    return float(weights[labels.long()].sum())


def _loss(
    task: Task, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float, focusing: float
) -> Tensor:
    weights = None if weights is None else weights.to(logits)
    if task == "multiclass" and not focusing:
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    if task == "multiclass":
        rows = F.cross_entropy(logits, labels, reduction="none")
        return _mean(_focused(rows, focusing), None if weights is None else weights[labels])
    if task == "multilabel":
        truth, rows = labels.to(logits), _sigmoid_rows(logits, labels.to(logits), weights, smoothing)
        if focusing:
            rows = rows * (1 - (logits.sigmoid() * truth + (-logits).sigmoid() * (1 - truth))) ** focusing
        return rows.mean()
    rows = _focused(_sigmoid_rows(logits.flatten(), labels.to(logits), None, smoothing), focusing)
    return _mean(rows, None if weights is None else weights[labels.long()])


def _sigmoid_rows(logits: Tensor, truth: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    truth = truth * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights, reduction="none")


def _focused(rows: Tensor, focusing: float) -> Tensor:
    """Cross-entropies weighed by how wrong the answer is: 1 - p = 1 - exp(-loss)."""
    return rows * (-torch.expm1(-rows)).clamp_min(torch.finfo(rows.dtype).tiny) ** focusing if focusing else rows


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.mean() if weights is None else (weights * rows).sum() / weights.sum()


def correct(task: Task, logits: Tensor, labels: Tensor) -> Float[Tensor, " batch"]:
    """1 where the prediction is right; for several labels the share of labels that are right."""
    if task == "multiclass":
        return (logits.argmax(1) == labels).float()
    right = (
        (logits.flatten(1) > 0) == (labels.view(len(labels), -1) > 0.5)
        if logits.ndim > 1
        else ((logits > 0) == (labels > 0.5)).unsqueeze(1)
    )
    return right.float().mean(1)


__all__ = ["TASKS", "Task", "chances_of", "correct", "label_of", "loss", "mass", "parts", "resolve", "weights_of"]
