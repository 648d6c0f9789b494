from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import PellucidError
from pellucid.metrics.adcc import adcc
from pellucid.metrics.average_drop import average_drop
from pellucid.targets import ClassTarget
from reference.nets import GapNet, inputs

CLASSES = [0, 2, 1]


def scaled(maps: Tensor) -> Tensor:
    maps = maps.clamp_min(0)
    return maps / maps.flatten(1).amax(1).view(-1, *(1,) * (maps.ndim - 1))


def scene(rank: int) -> tuple[GapNet, Tensor, pl.Explanation, Any]:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()

    def again(x: Tensor = x) -> pl.Explanation:
        return pl.explain(net, x, CLASSES, method="occlusion")

    return net, x, again(), again


def test_the_parts_are_those_of_pytorch_grad_cam_and_make_the_whole() -> None:
    net, x, e, again = scene(2)
    pixels = e.at_input_size()
    found = adcc(Call(net), x, ClassTarget(torch.tensor(CLASSES)), pixels, again)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arcc = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    unit = scaled(pixels)

    def explain(input_tensor: Tensor, targets: Any) -> Any:
        return scaled(again(x=input_tensor).at_input_size()).numpy()

    coherency = arcc.Coherency()(x, unit.numpy(), None, net, explain)
    assert found["coherency"].tolist() == pytest.approx(coherency.tolist(), abs=1e-6)
    assert found["complexity"].tolist() == pytest.approx(arcc.Complexity()(unit.numpy()).tolist(), abs=1e-9)
    drop = average_drop(Call(net), x, ClassTarget(torch.tensor(CLASSES)), pixels)
    assert found["average_drop"].tolist() == drop.tolist()
    for whole, c, k, d in zip(
        *(found[p].tolist() for p in ("", "coherency", "complexity", "average_drop")), strict=True
    ):
        assert whole == pytest.approx(3 / (1 / c + 1 / (1 - k) + 1 / (1 - d)))
        assert whole <= (c + (1 - k) + (1 - d)) / 3


def test_extremes() -> None:
    net, x, e, again = scene(2)
    nothing = torch.zeros_like(e.at_input_size())
    found = adcc(Call(net), x, ClassTarget(torch.tensor(CLASSES)), nothing, again)
    assert found["complexity"].tolist() == [0, 0, 0]
    assert found["coherency"].tolist() == [0.5, 0.5, 0.5]  # a flat map is like no other
    everything = adcc(Call(net), x, ClassTarget(0), nothing + 2, again)
    assert everything["complexity"].tolist() == [1, 1, 1]
    assert everything["average_drop"].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert everything[""].tolist() == [0, 0, 0]
    same = adcc(Call(net), x, ClassTarget(0), e.at_input_size(), lambda x: e)  # type: ignore[arg-type]
    assert same["coherency"].tolist() == pytest.approx([1, 1, 1])
    undefined = adcc(Call(net), x, ClassTarget(0), nothing + torch.nan, again)
    assert bool(undefined[""].isnan().all())


def test_it_says_what_it_needs() -> None:
    net, x, e, _ = scene(2)
    with pytest.raises(PellucidError, match="needs `again`"):
        adcc(Call(net), x, ClassTarget(0), e.at_input_size(), None)
