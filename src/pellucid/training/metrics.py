"""How well a network predicts: scores with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.call import weights_device
from pellucid.errors import BadInput
from pellucid.hooks import untouched
from pellucid.performance import auc, balanced_accuracy
from pellucid.record import RESAMPLES, Interval, bootstrap
from pellucid.sample import Dataset
from pellucid.training import task as tasks
from pellucid.training.data import Batch, Source, first_sample, in_turn
from pellucid.training.ranks import Ranks
from pellucid.training.task import Task

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """What a network says about a data set, in its order.

    logits `(n, outputs)`; labels `(n,)` class indices or `(n, classes)` of 0/1; groups: the patient, else the sample.
    skipped: name -> why, of the samples that could not be used.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Tensor
    logits: Float[Tensor, "samples outputs"]
    classes: tuple[str, ...]
    task: Task
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def probabilities(self) -> Float[Tensor, "samples outputs"]:
        return self.logits.softmax(1) if self.task == "multiclass" else self.logits.sigmoid()

    @property
    def predicted(self) -> Tensor:
        """The predicted class, or 0/1 per label."""
        if self.task == "multiclass":
            return self.logits.argmax(1)
        return (self.logits > 0).long() if self.task == "multilabel" else (self.logits[:, 0] > 0).long()

    def auc(self, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Area under the ROC curve (several classes: each against the rest, averaged), resampled by group."""
        scores, labels = self._scores(), self.labels.numpy()
        return bootstrap(lambda rows: auc(scores[rows], labels[rows]), self.groups, seed=seed, resamples=resamples)

    def balanced_accuracy(self, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Mean recall over classes, resampled by group."""
        predicted, labels = self.predicted.numpy(), self.labels.numpy()
        return bootstrap(
            lambda rows: balanced_accuracy(predicted[rows], labels[rows]), self.groups, seed=seed, resamples=resamples
        )

    def accuracy(self, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Share of right predictions, resampled by group."""
        right = tasks.correct(self.task, self.logits, self.labels).double().numpy()
        return bootstrap(lambda rows: float(right[rows].mean()), self.groups, seed=seed, resamples=resamples)

    def scores(self) -> dict[str, float]:
        """Loss, accuracy, balanced accuracy and AUC as plain numbers."""
        return {
            "loss": float(tasks.loss(self.task, self.logits.double(), self.labels)),
            "accuracy": float(tasks.correct(self.task, self.logits, self.labels).mean()),
            "balanced_accuracy": balanced_accuracy(self.predicted.numpy(), self.labels.numpy()),
            "auc": auc(self._scores(), self.labels.numpy()),
        }

    def _scores(self) -> Array:
        """What orders the inputs for each class: log-odds, so that nothing saturates."""
        logits = self.logits.double()
        if self.task != "multiclass":
            return logits.numpy() if self.task == "multilabel" else logits[:, 0].numpy()
        if logits.shape[1] == 2:
            return (logits[:, 1] - logits[:, 0]).numpy()
        others = torch.stack(
            [torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1) for k in range(logits.shape[1])], 1
        )
        return (logits - others).numpy()


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    task: str = "auto",
    max_bad: float = 0.1,
    workers: int = 0,
) -> Predictions:
    """Run the network over a labelled data set in evaluation mode; it is left as it was.

    task: "multiclass", "binary" (one logit), "multilabel", or "auto": the network's own `task`, else by its output.
    Raises `BadInput` when more than the share `max_bad` of the samples cannot be used, `OptionError` when the output
    does not fit the classes.
    """
    device, dtype = weights_device(model), weights_dtype(model)
    sample = first_sample(dataset, max_bad)
    known = tasks.resolve(model, sample.input.unsqueeze(0).to(device, dtype), sample.label, len(dataset.classes), task)
    source = Source(dataset, batch_size, known, max_bad=max_bad, cache_mib=0, workers=workers)
    with untouched(model), torch.no_grad():
        return collect(lambda batch: model(batch.inputs(device, dtype)), source, known)


def collect(forward: Callable[[Batch], Any], source: Source, task: Task, ranks: Ranks | None = None) -> Predictions:
    """Predictions over everything the source holds; `forward` gives the network's output for a batch.

    ranks: processes that take some of the batches each, and all get the predictions of all.
    """
    ranks = ranks or Ranks()
    order = in_turn(len(source.dataset), source.batch_size)
    mine = source.batches([order[i] for i in ranks.share(order)])
    told = ranks.together(lambda: (list(_forwarded(forward, mine)), source.news()))
    for _, skipped in told:
        source.hear(skipped)
    batches = [found for part, _ in told for found in part]
    if not batches:
        raise BadInput("No sample of the data set can be used.", hint="Check the files and labels.")
    return Predictions(
        names=tuple(n for b, _ in batches for n in b.names),
        groups=tuple(g for b, _ in batches for g in b.groups),
        labels=torch.cat([b.labels for b, _ in batches]),
        logits=torch.cat([logits for _, logits in batches]),
        classes=source.dataset.classes,
        task=task,
        skipped=dict(source.skipped),
    )


def _forwarded(forward: Callable[[Batch], Any], batches: Iterable[Batch | None]) -> Iterator[tuple[Batch, Tensor]]:
    for batch in batches:
        if batch is None:
            continue
        logits, _ = tasks.parts(forward(batch))
        yield batch.without_inputs(), logits.detach().float().cpu().view(len(batch.names), -1)


def weights_dtype(model: nn.Module) -> torch.dtype:
    """The number type of the network's weights, float32 where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


__all__ = ["Predictions", "auc", "balanced_accuracy", "collect", "predict", "weights_dtype"]
