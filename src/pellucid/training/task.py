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
    classes = max(len(dataset.classes), 2) if task != "multilabel" else len(dataset.classes)
    if asked != "balanced":
        if len(asked) != classes:
            raise OptionError(
                f"There are {len(asked)} class weights for {classes} classes.",
                hint=f"Give one for each of: {', '.join(dataset.classes)}.",
            )
        return torch.tensor(asked, dtype=torch.float32)
    labels = [dataset.facts(i).label for i in range(len(dataset))]
    if task == "multilabel" or any(label is None for label in labels):
        raise OptionError(
            "Balanced class weights need one known class per sample.", hint="Give class_weights as numbers."
        )
    counts = torch.bincount(torch.tensor([int(v) for v in labels if v is not None]), minlength=classes)
    if int(counts.min()) == 0:
        raise OptionError(
            "A class has no sample, so the classes cannot be balanced.",
            why=f"Counts: {counts.tolist()}.",
            hint="Give class_weights as numbers.",
        )
    return counts.sum() / (classes * counts.float())


def loss(task: Task, output: Any, labels: Tensor, weights: Tensor | None = None) -> Float[Tensor, ""]:
    """Cross-entropy (natural log), averaged over the batch; auxiliary classifiers count 0.4 (one) or 0.3 (two)."""
    logits, auxiliary = parts(output)
    extra = [_loss(task, a, labels, weights) for a in auxiliary]
    total = _loss(task, logits, labels, weights)
    return total + _AUXILIARY.get(len(extra), 0.3) * sum(extra) if extra else total


def _loss(task: Task, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    if task == "multiclass":
        return F.cross_entropy(logits, labels, weight=None if weights is None else weights.to(logits))
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(
            logits, labels.to(logits), pos_weight=None if weights is None else weights.to(logits)
        )
    rows = F.binary_cross_entropy_with_logits(logits.flatten(), labels.to(logits), reduction="none")
    if weights is None:
        return rows.mean()
    own = weights.to(logits)[labels.long()]
    return (own * rows).sum() / own.sum()


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


__all__ = ["TASKS", "Task", "correct", "label_of", "loss", "parts", "resolve", "weights_of"]
