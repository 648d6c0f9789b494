from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pellucid.call import Call
from pellucid.errors import LayerError
from pellucid.watch import watched
from reference.nets import GapNet, inputs


class Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def seen(model: nn.Module) -> list[str]:
    names = Names()
    with watched(Call(model), names) as call:
        call(inputs(2))
    return [name for name in names.seen if name in ("conv2d", "relu", "linear")]


def test_compiled_and_wrapped_networks_are_seen_like_plain_ones() -> None:
    plain = ["conv2d", "relu", "conv2d", "relu", "linear"]
    net = GapNet(2).eval()
    assert seen(net) == plain
    assert seen(nn.DataParallel(net)) == plain
    compiled: Any = torch.compile(net, backend="eager")
    assert seen(compiled) == plain
    part = GapNet(2).eval()
    part.features.compile(backend="eager")
    assert seen(part) == plain


def test_torchscript_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part: Any = torch.jit.trace(nn.Sequential(nn.ReLU()), torch.zeros(1))
    net = nn.Sequential(nn.Conv2d(2, 2, 1), part)
    with pytest.raises(LayerError, match="Layer '1' is TorchScript"):
        seen(net)


def test_nothing_is_seen_afterwards_also_after_an_error() -> None:
    names = Names()
    with pytest.raises(ArithmeticError), watched(Call(GapNet(2)), names):
        raise ArithmeticError
    F.relu(torch.zeros(1))
    assert not names.seen
