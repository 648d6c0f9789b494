"""Bring a network whose head was replaced back to what the original answers, on images without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.call import weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.hooks import untouched
from pellucid.models.retrain import Retrained
from pellucid.models.softcam import SoftCAM
from pellucid.sample import Dataset, collate

_LEAST = 4  # images


@dataclass(frozen=True)
class Agreement:
    """Of answers on images that were not trained on. top: share of equal top answers (of equal signs, where labels do
    not exclude each other). divergence: mean KL divergence of probabilities in nats; mean square for regressions.
    """

    top: float
    divergence: float
    images: int


def distil(
    softcam: SoftCAM,
    original: nn.Module,
    dataset: Dataset,
    *,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    held_out: float = 0.2,
    trunk: bool = False,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> SoftCAM:
    """A copy of a SoftCAM of kind `retrain` whose logits follow those of `original` (Hinton, Vinyals and Dean 2015).

    dataset: images as the network is used on; labels are not looked at. held_out: share of them that only measures:
    `certificate.agreement` tells equal answers before and after on these. trunk: whether the trunk is trained too
    (slower: features are computed anew in every epoch). progress: called with epoch and training loss.

    Dropout and batch statistics are off, so that the copy learns the function that is used. Raises `OptionError` for
    another kind of network, `BadInput` for fewer than four images.
    """
    if not isinstance(softcam, SoftCAM) or not isinstance(softcam.model, Retrained):
        raise OptionError(
            "Only a network whose head was replaced can be distilled.",
            why="Other conversions give the original's logits already.",
            hint="Convert it with kind='retrain'.",
        )
    if len(dataset) < _LEAST:
        raise BadInput(
            f"There are {len(dataset)} images.", why=f"At least {_LEAST} are needed.", hint="Give more images."
        )
    student = copy.deepcopy(softcam).eval()
    network = cast(Retrained, student.model)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    count = max(1, round(held_out * len(order)))
    tested, trained = order[:count], order[count:]
    wanted = _answers_of(original, softcam, dataset, batch_size)
    before = _agreement(student, dataset, tested, wanted, batch_size)
    parameters = list(network.parameters() if trunk else network.head.parameters())
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, epochs * -(-len(trained) // batch_size)))
    given = _Inputs(network, dataset, cached=not trunk, batch_size=batch_size)
    with torch.enable_grad():
        for epoch in range(epochs):
            total = 0.0
            for rows in _batches(trained, batch_size, generator):
                x = given(rows)
                logits = network(x) if trunk else network.head(x).flatten(2).mean(2)
                loss = _loss(logits, wanted[rows].to(logits), student.task)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
            if progress is not None:
                progress(epoch, total / len(trained))
    for parameter in network.parameters():
        parameter.grad = None
    after = _agreement(student, dataset, tested, wanted, batch_size)
    student.certificate = _certified(student, before, after, len(trained))
    return student.train(softcam.training)


def _certified(student: SoftCAM, before: Agreement, after: Agreement, trained: int) -> Any:
    note = (
        f"distilled on {trained} images without labels; on {after.images} others the divergence from the original fell "
        f"from {before.divergence:.2g} to {after.divergence:.2g}"
    )
    known = student.certificate
    return replace(known, agreement=(before.top, after.top), notes=(*known.notes, note))


class _Inputs:
    """What the trained part is given for rows of the data set: images, or the trunk's feature maps, kept on the CPU."""

    def __init__(self, network: Retrained, dataset: Dataset, *, cached: bool, batch_size: int) -> None:
        self.network, self.dataset, self.cached = network, dataset, cached
        self.device = weights_device(network)
        self._maps: dict[int, Tensor] = {}
        self.batch_size = batch_size

    def __call__(self, rows: list[int]) -> Tensor:
        if not self.cached:
            return _images(self.dataset, rows, self.device)
        missing = [r for r in rows if r not in self._maps]
        if missing:
            with torch.no_grad():
                maps = self.network.features(_images(self.dataset, missing, self.device)).cpu()
            self._maps.update(zip(missing, maps.unbind(), strict=True))
        return torch.stack([self._maps[r] for r in rows]).to(self.device)


def _images(dataset: Dataset, rows: list[int], device: torch.device) -> Tensor:
    return collate([dataset[i] for i in rows]).to(device)


def _batches(rows: list[int], size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [rows[i] for i in order[start : start + size]]


def _answers_of(original: nn.Module, softcam: SoftCAM, dataset: Dataset, batch_size: int) -> Tensor:
    """The original's logits on all images, `(images, classes)`."""
    device, found = weights_device(original), []
    with torch.no_grad(), untouched(original):
        for start in range(0, len(dataset), batch_size):
            rows = list(range(start, min(start + batch_size, len(dataset))))
            found.append(softcam.select(original(_images(dataset, rows, device))).float().cpu())
    return torch.cat(found)


def _loss(logits: Tensor, wanted: Tensor, task: str) -> Tensor:
    if task == "regression":
        return F.mse_loss(logits, wanted)
    if task == "multiclass":
        return F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
    entropy = F.binary_cross_entropy_with_logits(wanted, wanted.sigmoid())  # so that 0 is reached
    return F.binary_cross_entropy_with_logits(logits, wanted.sigmoid()) - entropy


def _agreement(student: SoftCAM, dataset: Dataset, rows: list[int], wanted: Tensor, batch_size: int) -> Agreement:
    device, equal, divergence = weights_device(student), 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            logits = student(_images(dataset, part, device)).float().cpu()
            right = wanted[part]
            same = logits.argmax(1) == right.argmax(1) if student.task == "multiclass" else (logits > 0) == (right > 0)
            equal += float(same.float().mean()) * len(part)
            divergence += float(_loss(logits, right, student.task)) * len(part)
    return Agreement(equal / len(rows), divergence / len(rows), len(rows))
