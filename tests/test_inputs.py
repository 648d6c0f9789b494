from __future__ import annotations

from typing import Any

import pytest
import torch

import pellucid as pl
from pellucid import inputs
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget
from reference.nets import GapNet
from reference.nets import inputs as noise


@pytest.mark.parametrize(("copies", "batch", "size"), [(5, 3, 4), (5, 3, 100), (5, 3, 1), (1, 7, 3), (4, 2, 4)])
def test_passes_meet_every_copy_of_every_input_once_within_the_bound(copies: int, batch: int, size: int) -> None:
    met = []
    for rows, parts in inputs.passes(copies, batch, size):
        for part in parts:
            assert len(rows) * len(part) <= size
            met += [(int(i), int(k)) for i in rows for k in part]
    assert sorted(met) == [(i, k) for i in range(batch) for k in range(copies)]


def test_passes_are_a_few_megabytes_unless_told_otherwise() -> None:
    sizes = {
        shape: inputs.pass_size(torch.empty(1, *shape), None) for shape in ((3, 224, 224), (3, 2000, 2000), (1, 99))
    }
    assert list(sizes.values()) == [4, 1, 32]
    assert inputs.pass_size(torch.empty(1, 3, 224, 224), 50) == 50
    assert inputs.pass_size(torch.empty(1, 3, 224, 224, device="meta"), None) == 64
    with pytest.raises(OptionError, match="batch_size=0"):
        inputs.pass_size(torch.empty(1, 3, 8, 8), 0)


def test_changed_inputs_keep_their_own_targets_and_arguments() -> None:
    class Scaled(GapNet):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None]

    net, x, scale = Scaled(2).eval(), noise(2), torch.tensor([1.0, -2.0, 3.0])
    call, target, rows = Call(net, args=(scale,), batch=3), ClassTarget(torch.tensor([0, 2, 1])), torch.tensor([2, 1])
    changed = torch.stack([x[rows], x[rows] * 2])
    found = inputs.scores(call, changed, target, rows)
    for k in range(2):
        for j, (i, c) in enumerate([(2, 1), (1, 2)]):
            by_hand = net(changed[k, j : j + 1], scale[i : i + 1]).detach()[0, c]
            torch.testing.assert_close(found[k, j], by_hand)
    assert inputs.slopes(call, changed, target, rows).shape == changed.shape


def test_baselines(rank: int) -> None:
    x = noise(rank)
    size = x.shape[2:]
    assert not inputs.baseline(x, "zero").any()
    assert inputs.baseline(x, "mean")[1, 0].flatten().tolist() == pytest.approx([float(x[1, 0].mean())] * size.numel())
    blurred = inputs.baseline(x, "blur")
    assert float(blurred.var()) < 0.8 * float(x.var())
    assert torch.equal(inputs.baseline(x, 0.5), torch.full_like(x, 0.5))
    per_channel = inputs.baseline(x, torch.tensor([1.0, 2.0]))
    assert bool((per_channel[:, 0] == 1).all())
    assert bool((per_channel[:, 1] == 2).all())
    assert torch.equal(inputs.baseline(x, x[0]), x[:1].expand_as(x))


def test_refusals() -> None:
    x = noise(2)
    with pytest.raises(OptionError, match="Did you mean 'blur'"):
        inputs.baseline(x, "blurr")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"shape \(5,\)"):
        inputs.baseline(x, torch.zeros(5))
    with pytest.raises(OptionError, match="batch_size=0"):
        next(inputs.passes(3, 3, 0))
    with pytest.raises(OptionError, match=r"steps=2\.5"):
        inputs.check_counts(steps=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["integrated_gradients", "smooth_grad", "occlusion", "rise"])
@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_no_more_than_asked_go_through_the_network_at_a_time(name: str, batch_size: int) -> None:
    class Counting(GapNet):
        most = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.most = max(self.most, len(x))
            return super().forward(x)

    net, x = Counting(1), noise(1)
    options: dict[str, Any] = {"masks": 40} if name == "rise" else {}
    found = pl.explain(net, x, [0, 2, 1], method=name, batch_size=batch_size, **options)
    assert net.most == batch_size
    whole = pl.explain(net, x, [0, 2, 1], method=name, **options)
    torch.testing.assert_close(found.map, whole.map, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "input_x_gradient", "integrated_gradients", "smooth_grad", "occlusion", "rise",
        "guided_backprop", "deconvnet", "guided_grad_cam", "lrp",
    ],
)  # fmt: skip
def test_frozen_parameters_no_grad_and_inference_mode_change_nothing(name: str) -> None:
    net, x, target = GapNet(2).eval(), noise(2), ClassTarget(torch.tensor([0, 2, 1]))
    expected = METHODS[name](Call(net), x, target).map
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(METHODS[name](Call(net), x, target).map, expected)
    with torch.inference_mode():
        assert torch.equal(METHODS[name](Call(net), x * 1, target).map, expected)
    assert not METHODS[name](Call(net), x, target).map.requires_grad
