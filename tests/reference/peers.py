"""Raw, signed maps of the libraries, before they rectify, stretch and resize them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn


def pytorch_grad_cam(name: str, model: nn.Module, layer: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """The map that a method of pytorch-grad-cam makes at a layer. Skips the test where it is not installed."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(c) for c in classes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with getattr(library, name)(model=model, target_layers=[layer]) as cam:
            cam(input_tensor=x, targets=targets)
            seen = cam.activations_and_grads
            slopes = seen.gradients[0].numpy() if seen.gradients else None
            found = cam.get_cam_image(x, layer, targets, seen.activations[0].detach().numpy(), slopes, False)
    model.zero_grad()
    return torch.as_tensor(found)


def torch_cam(name: str, model: nn.Module, layer: str, x: Tensor, classes: Sequence[int], **options: object) -> Tensor:
    """The rectified map that a method of torch-cam makes at a layer. Skips the test where it is not installed."""
    library = pytest.importorskip("torchcam.methods")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with getattr(library, name)(model, layer, **options) as extractor:
            found: Tensor = extractor(list(classes), model(x), normalized=False)[0]
    return found
