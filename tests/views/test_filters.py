from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import pellucid as pl
from pellucid.errors import LayerError
from pellucid.models.convert import convert
from pellucid.views.filters import filters
from reference.nets import CONV, GapNet, inputs
from reference.untouched import unchanged

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernels_are_the_weights_and_each_sees_its_group(rank: int, groups: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Identity(), CONV[rank](4, 8, 3, groups=groups, bias=False)).requires_grad_(False)
    found = filters(net)
    assert (found.layer, found.groups, found.transposed) == ("1", groups, False)
    assert [[k.tolist() for k in f] for f in found.kernels] == net[1].weight.tolist()
    x = torch.randn(1, 4, *(3,) * rank)
    for k in range(8):
        alone = sum((found.kernels[k, i] * x[0, c]).sum() for i, c in enumerate(found.seen(k)))
        assert float(net(x)[0, k].sum()) == pytest.approx(float(alone), abs=1e-5)  # one place, so no more is summed


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_kernel_is_what_one_value_paints(rank: int, groups: int) -> None:
    torch.manual_seed(0)
    net = TRANSPOSED[rank](4, 6, 3, stride=3, groups=groups, bias=False)
    found = filters(net)
    assert found.transposed
    for k in range(6):
        for i, channel in enumerate(found.seen(k)):
            impulse = torch.zeros(1, 4, *(1,) * rank)
            impulse[0, channel] = 1
            assert torch.equal(net(impulse)[0, k], found.kernels[k, i])


def test_order_is_by_length(rank: int) -> None:
    found = filters(GapNet(rank), layer="features.2")
    lengths = [sum(w**2 for w in kernel.flatten().tolist()) ** 0.5 for kernel in found.kernels]
    assert found.order.tolist() == sorted(range(len(lengths)), key=lambda k: -lengths[k])
    assert found.norms.tolist() == pytest.approx(lengths)
    assert found.as_dict()["norms"] == found.norms.tolist()


def test_only_a_first_picture_layer_with_three_channels_is_in_colour() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 1))
    assert [filters(net, layer=k).colour for k in ("0", "1")] == [True, False]
    assert [filters(net, layer=k).pointwise for k in ("0", "1")] == [False, True]
    assert "no picture of space" in str(filters(net, layer="1"))
    assert "red, green, blue" in str(filters(net))
    assert filters(nn.Conv2d(1, 2, 3)).layer == "Conv2d"  # the network itself has no name
    for other in (nn.Conv1d(3, 2, 3), nn.Conv3d(3, 2, 3), nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(1, 2, 3)):
        assert not filters(nn.Sequential(other)).colour


def test_the_first_of_all_and_the_only_one_of_a_block_need_no_name() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU()), nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 1))
    )
    assert filters(net).layer == filters(net, layer="0").layer == "0.0"
    assert filters(net, layer=net[1][1]).layer == "1.1"
    with pytest.raises(LayerError, match="holds 2 convolutions") as refused:
        filters(net, layer="1")
    assert "'1.0'" in refused.value.hint


def test_what_is_no_convolution_is_refused_with_the_way_out() -> None:
    net = GapNet(2)
    with pytest.raises(LayerError, match="is a Linear") as refused:
        filters(net, layer="fc")
    assert "features.0" in refused.value.hint
    with pytest.raises(LayerError, match=r"no layer 'features\.9'") as refused:
        filters(net, layer="features.9")
    assert "features" in refused.value.hint
    with pytest.raises(LayerError, match="no convolution"):
        filters(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch warn of such layers
        unseen = nn.Sequential(nn.LazyConv2d(3, 3))
    with pytest.raises(LayerError, match="Layer '0' has no weights yet"):
        filters(unseen)


def test_what_was_seen_stays_when_the_network_changes() -> None:
    net = GapNet(2).half()
    with unchanged(net):
        found = filters(net)
    before = found.kernels.clone()
    net.features[0].weight.data.zero_()
    assert found.kernels.dtype == torch.float32
    assert torch.equal(found.kernels, before)
    assert float(before.abs().sum()) > 0


def test_a_softcam_shows_the_filters_of_its_network() -> None:
    net = GapNet(2).eval()
    softcam = convert(net, inputs(2))
    found = pl.VIEWS["filters"](softcam)
    assert found.layer == "model.features.0"
    assert torch.equal(found.kernels, net.features[0].weight)
