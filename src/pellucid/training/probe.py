"""A linear probe: the network's features stay as they are, only a linear classifier is fitted to them.

The floor that fine-tuning has to beat. Fitted by scikit-learn (L2-regularised logistic regression on standardised
features), then written into the network's own head, so that the probe is a SoftCAM like any other.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.errors import BadInput, OptionError
from pellucid.hooks import untouched
from pellucid.sample import Dataset, collate, readable


def probe(
    softcam: nn.Module, dataset: Dataset, *, strength: float = 1.0, seed: int = 0, batch_size: int = 16
) -> nn.Module:
    """A copy of the SoftCAM whose head is a logistic regression on its pooled features.

    strength: scikit-learn's C. Two classes give logits that differ by the log-odds; more are multinomial. Raises
    `OptionError` for a network without a linear head of its own. Samples that cannot be read are left out; raises `BadInput`
    where none can.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    copy: Any = deepcopy(softcam)
    head = _head(copy)
    features, labels = _features(copy, head, dataset, batch_size)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000, random_state=seed)).fit(
        features, labels
    )
    scale, regression = fitted[0], fitted[1]
    weight = regression.coef_ / scale.scale_
    bias = regression.intercept_ - weight @ scale.mean_
    if len(weight) == 1:  # two classes: half the log-odds each way, so that softmax gives the regression's probability
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight).view_as(head.weight))
        head.bias.copy_(torch.from_numpy(bias))
    return copy.eval()  # type: ignore[no-any-return]


def _head(softcam: Any) -> Any:
    name = getattr(getattr(softcam, "plan", None), "layer", None)
    if not name:
        raise OptionError(
            "The network has no linear head to fit.",
            why="A probe fits the one linear layer of a SoftCAM.",
            hint="Convert it first: pl.convert(model, example).",
        )
    return softcam.model.get_submodule(name)


def _features(softcam: nn.Module, head: nn.Module, dataset: Dataset, batch_size: int) -> tuple[Any, Any]:
    """What the head is given, `(samples, features)`, and the labels."""
    found: list[Tensor] = []
    labels: list[Any] = []
    unread: dict[str, str] = {}
    handle = head.register_forward_pre_hook(
        lambda module, args: found.append(args[0].detach().flatten(1).double().cpu())
    )
    try:
        with torch.no_grad(), untouched(softcam):
            for start in range(0, len(dataset), batch_size):
                rows = range(start, min(start + batch_size, len(dataset)))
                samples = [sample for _, sample in readable(dataset, rows, unread)]
                if samples:
                    softcam(collate(samples))
                    labels += [s.label for s in samples]
    finally:
        handle.remove()
    if not found:
        raise BadInput("No sample can be read.", why=next(iter(unread.values()), ""), hint="Check the data source.")
    return torch.cat(found).numpy(), np.asarray(labels)
