"""Copies of a network whose weights are made random, from the output downwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pellucid.call import Call, weights_device


def randomised(call: Call, x: Tensor, generator: torch.Generator, points: int) -> Iterator[nn.Module]:
    """One copy of the network, at each of `points` more of it random: first the topmost layer alone, at last all.

    Layers are the modules with parameters of their own, in the order in which they run; one that is used without being
    run (an evidence layer whose weights are read) has the place after the one it is listed behind. The layers below
    the topmost are dealt with in equal groups. A layer draws anew from its own initialisation (`reset_parameters`); one
    without has the values of each parameter shuffled. Whoever iterates must be done with a state before the next.
    """
    model = copy.deepcopy(call.model).eval()
    layers = _top_down(model, replace(call, model=model), x)
    below = torch.tensor_split(torch.arange(1, len(layers)), max(points - 1, 1))
    groups = [range(1), *(part.tolist() for part in below if len(part))] if points > 1 else [range(len(layers))]
    for group in groups:
        for i in group:
            _randomise(layers[i], int(torch.randint(2**62, (), generator=generator)))
        yield model


def _top_down(model: nn.Module, call: Call, x: Tensor) -> list[nn.Module]:
    finished: dict[nn.Module, int] = {}
    layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]

    def note(layer: nn.Module, *_: object) -> None:
        finished.setdefault(layer, len(finished))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            call.rows(torch.tensor([0]))(x[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    places, last = [], -1
    for i, layer in enumerate(layers):
        last = finished.get(layer, last)
        places.append((last, i, layer))
    return [layer for _, _, layer in sorted(places, key=lambda p: p[:2], reverse=True)]


def _randomise(layer: nn.Module, seed: int) -> None:
    device = weights_device(layer)
    with torch.no_grad(), torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in layer.parameters(recurse=False):
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel()).to(device)].view_as(parameter))
