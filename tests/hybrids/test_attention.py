"""Weights are those of the published formula, and weight times evidence is what each cell adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import LayerError
from pellucid.hybrids.attention import attention
from pellucid.models.multi_scale import multi_scale, with_pooling
from pellucid.models.zoo import build


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def gated() -> nn.Module:
    torch.manual_seed(0)
    net = build("pellucid:s8", channels=(8, 8), strides=(2, 2), pooling="gated_attention", hidden=5).eval()
    with torch.no_grad():
        net.head.gate.w.weight.normal_(0, 8)
        net.head.evidence.bias.normal_()
    return net


@pytest.mark.parametrize("how", ["converted", "with_pooling"])
def test_weight_times_evidence_adds_up(how: str) -> None:
    net, x = gated(), noise()
    if how == "converted":
        model = pl.convert(net, x)
    else:
        model = with_pooling(build("pellucid:s8", channels=(8, 8), strides=(2, 2)).eval(), x, "gated_attention")
        with torch.no_grad():
            model.heads[0].gate.w.weight.normal_(0, 8)
            model.heads[0].evidence.bias.normal_()
    found = attention(model, x, 1)
    assert found.weights.flatten(1).sum(1).tolist() == pytest.approx([1, 1])
    assert float(found.weights.flatten(1).amax(1).min()) > 2 / 64  # not even
    parts = found.explanation.contributions()
    torch.testing.assert_close(found.weights * found.evidence, parts.cells)
    total = (found.weights * found.evidence).flatten(1).sum(1) + parts.constant + parts.common
    torch.testing.assert_close(total, found.explanation.score, atol=1e-5, rtol=1e-5)


def test_weights_and_evidence_are_those_of_the_formula() -> None:
    """Ilse, Tomczak and Welling 2018, equation 9, written out."""
    net, x = gated(), noise(1)
    found = attention(pl.convert(net, x), x, 1)
    with torch.no_grad():
        z = net.features(x)[0].flatten(1).T  # (cells, channels)
        gate, head = net.head.gate, net.head.evidence
        scores = [
            float(gate.w.weight[0] @ (torch.tanh(gate.V.weight @ c) * torch.sigmoid(gate.U.weight @ c))) for c in z
        ]
        weights = torch.tensor(scores).softmax(0)
        contrast = z @ (head.weight[1] - head.weight[0])
    torch.testing.assert_close(found.weights.flatten(), weights, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.evidence.flatten(), contrast, atol=1e-4, rtol=1e-4)


def test_the_picture_has_three_maps() -> None:
    net, x = gated(), noise(1)
    shown = attention(pl.convert(net, x), x, 1).picture()
    assert shown.width > 3 * 360


def test_networks_without_one_gate_are_refused() -> None:
    x = noise()
    plain = build("pellucid:s8", channels=(8, 8), strides=(2, 2)).eval()
    with pytest.raises(LayerError, match="0 heads"):
        attention(pl.convert(plain, x), x)
    with pytest.raises(LayerError, match="2 heads"):
        attention(multi_scale(plain, x, ("features.0",), pooling="gated_attention"), x)
