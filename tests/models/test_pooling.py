"""Poolings against literal sums over cells, hand-computed cases and their own gradients."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import ConversionError, OptionError
from pellucid.models.convert import convert
from pellucid.models.pooling import POOLINGS, EvidenceHead, PoolingName
from pellucid.models.s8 import S8

NAMES: list[PoolingName] = list(POOLINGS)


def head_of(pooling: PoolingName, channels: int = 4, classes: int = 3, **options: Any) -> EvidenceHead:
    """A head with random parameters, those that start at zero included."""
    torch.manual_seed(0)
    head = EvidenceHead(channels, classes, pooling, **{"hidden": 5, **options}).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn_like(p))
    return head


def literal(head: EvidenceHead, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, cells `(batch, classes, places)` and constant of `z` (batch, channels, places), one number at a time."""
    W, b = head.evidence.weight.tolist(), head.evidence.bias.tolist()
    batch, channels, n = z.shape
    logits, constant = torch.zeros(batch, len(W)).double(), torch.zeros(batch, len(W)).double()
    cells = torch.zeros(batch, len(W), n).double()
    for i in range(batch):
        places = [[float(z[i, d, p]) for d in range(channels)] for p in range(n)]
        for c in range(len(W)):
            a = [sum(w * v for w, v in zip(W[c], place, strict=True)) for place in places]
            if head.pooling == "mean":
                weights, rest = [1 / n] * n, 0.0
                logits[i, c] = sum(v + b[c] for v in a) / n
            elif head.pooling == "lse":
                r = head.sharpness
                total = sum(exp(r * v) for v in a)
                weights = [exp(r * v) / total for v in a]
                rest = (-sum(w * log(w) for w in weights) - log(n)) / r
                logits[i, c] = log(sum(exp(r * (v + b[c])) for v in a) / n) / r
            elif head.pooling == "top_k":
                k = int(head.k) if head.k >= 1 else max(1, round(head.k * n))
                ranked = sorted(range(n), key=lambda p: -a[p])[:k]
                weights, rest = [1 / k if p in ranked else 0.0 for p in range(n)], 0.0
                logits[i, c] = sum(a[p] + b[c] for p in ranked) / k
            else:
                weights, rest = attention(head, places), 0.0
                pooled = [sum(g * place[d] for g, place in zip(weights, places, strict=True)) for d in range(channels)]
                logits[i, c] = sum(w * v for w, v in zip(W[c], pooled, strict=True)) + b[c]
            cells[i, c] = torch.tensor([w * v for w, v in zip(weights, a, strict=True)]).double()
            constant[i, c] = b[c] + rest
    return logits, cells, constant


def attention(head: EvidenceHead, places: list[list[float]]) -> list[float]:
    assert head.gate is not None
    V, U, w = (layer.weight.tolist() for layer in (head.gate.V, head.gate.U, head.gate.w))
    scores = []
    for z in places:
        inner = zip(w[0], V, U, strict=True)

        def dot(row: list[float], z: list[float] = z) -> float:
            return sum(a * b for a, b in zip(row, z, strict=True))

        def tanh(v: float) -> float:
            return (exp(v) - exp(-v)) / (exp(v) + exp(-v))

        scores.append(sum(q * tanh(dot(v)) / (1 + exp(-dot(u))) for q, v, u in inner))
    total = sum(exp(s) for s in scores)
    return [exp(s) / total for s in scores]


@pytest.mark.parametrize("pooling", NAMES)
def test_logits_cells_and_constant_are_those_of_literal_sums(pooling: PoolingName, rank: int) -> None:
    head = head_of(pooling)
    z = torch.randn(2, 4, *(3, 4, 2)[:rank]).double()
    logits, cells, constant = literal(head, z.flatten(2))
    told, rest = head.decompose(z)
    assert told.shape == (2, 3, *z.shape[2:])
    assert torch.allclose(head(z), logits, atol=1e-12)
    assert torch.allclose(told.flatten(2), cells, atol=1e-12)
    assert torch.allclose(rest, constant, atol=1e-12)
    assert torch.allclose(told.flatten(2).sum(2) + rest, head(z), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "cells", "constant", "logit"),
    [
        ({"pooling": "mean"}, (0.0, 0.25, 0.5, 0.75), 10.0, 11.5),
        ({"pooling": "top_k", "k": 2}, (0.0, 0.0, 1.0, 1.5), 10.0, 12.5),
        ({"pooling": "top_k", "k": 0.25}, (0.0, 0.0, 0.0, 3.0), 10.0, 13.0),
        ({"pooling": "top_k", "k": 99}, (0.0, 0.25, 0.5, 0.75), 10.0, 11.5),
    ],
)
def test_worked_cases(options: Any, cells: tuple[float, ...], constant: float, logit: float) -> None:
    """Evidence 0, 1, 2, 3 and a bias of 10."""
    head, z = EvidenceHead(1, 1, **options).double(), torch.arange(4.0).double().view(1, 1, 4)
    with torch.no_grad():
        head.evidence.weight.fill_(1)
        head.evidence.bias.fill_(10)
    told, rest = head.decompose(z)
    assert told.flatten().tolist() == list(cells)
    assert rest.item() == constant
    assert head(z).item() == logit


def test_log_sum_exp_of_two_places_by_hand() -> None:
    """a = (0, ln 3), r = 1: mean(exp) = 2; weights 1/4, 3/4; the rest is the entropy of these minus ln 2."""
    head, z = (
        EvidenceHead(1, 1, "lse", sharpness=1, bias=False).double(),
        torch.tensor([[[0.0, log(3.0)]]], dtype=torch.float64),
    )
    nn.init.ones_(head.evidence.weight)
    cells, rest = head.decompose(z)
    assert head(z).item() == pytest.approx(log(2), abs=1e-12)
    assert cells.flatten().tolist() == pytest.approx([0.0, 0.75 * log(3)], abs=1e-12)
    assert rest.item() == pytest.approx(-0.25 * log(0.25) - 0.75 * log(0.75) - log(2), abs=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "lse", "top_k"])
def test_cells_are_the_first_order_part_of_the_logit(pooling: PoolingName) -> None:
    """A cell is its evidence times the logit's own slope in it. (Attention's weights are held fixed, not followed.)"""
    head, z = head_of(pooling), torch.randn(1, 4, 6).double()
    a = torch.einsum("cd,bdp->bcp", head.evidence.weight, z).detach().requires_grad_()
    same = EvidenceHead(3, 3, pooling, bias=False).double()
    nn.init.eye_(same.evidence.weight)
    slope = torch.stack([torch.autograd.grad(same(a)[0, c], a)[0][0, c] for c in range(3)])
    assert torch.allclose(slope * a[0], head.decompose(z)[0][0], atol=1e-12)


def test_the_limits_of_sharpness_are_mean_and_maximum() -> None:
    z = torch.randn(2, 4, 5, 5).double()
    mean, most = head_of("mean")(z), head_of("top_k", k=1)(z)
    assert torch.allclose(head_of("lse", sharpness=1e-6)(z), mean, atol=1e-4)
    assert torch.allclose(head_of("lse", sharpness=1e4)(z), most, atol=1e-3)
    assert bool((head_of("lse")(z) > mean).all())
    assert bool((head_of("lse")(z) < most).all())


def test_log_sum_exp_keeps_its_constant_below_the_bias_and_stands_large_evidence() -> None:
    head, z = head_of("lse").float(), 1e4 * torch.randn(3, 4, 7, 7)
    cells, constant = head.decompose(z)
    assert bool((constant <= head.evidence.bias + 1e-6).all())
    assert torch.allclose(cells.flatten(2).sum(2) + constant, head(z), rtol=1e-5)
    even = head.decompose(torch.ones(1, 4, 3, 3))[1]
    assert torch.allclose(even, head.evidence.bias, atol=1e-6)


def test_attention_starts_as_the_mean() -> None:
    torch.manual_seed(0)
    gated = EvidenceHead(4, 3, "gated_attention").double()
    mean = EvidenceHead(4, 3).double()
    mean.evidence.load_state_dict(gated.evidence.state_dict())
    z = torch.randn(2, 4, 5).double()
    assert torch.allclose(gated(z), mean(z), atol=1e-12)
    assert torch.allclose(gated.decompose(z)[0], mean.decompose(z)[0], atol=1e-12)


@pytest.mark.parametrize("pooling", NAMES)
def test_gradients_flow_through_logits_and_cells(pooling: PoolingName) -> None:
    head = head_of(pooling, 2, 2)
    z = torch.randn(1, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(head, (z,))
    assert torch.autograd.gradcheck(lambda v: head.decompose(v)[0], (z,))
    head.zero_grad()
    head(z).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in head.parameters())


@pytest.mark.parametrize("pooling", NAMES)
def test_low_precision_runs_decompose_in_float32(pooling: PoolingName) -> None:
    head, z = head_of(pooling).float(), torch.randn(2, 4, 6, 6)
    exact, rest = head.decompose(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cells, constant = head.decompose(z)
    assert cells.dtype is constant.dtype is torch.float32
    assert torch.equal(cells, exact)
    assert torch.equal(constant, rest)
    half = head_of(pooling).bfloat16()
    assert half.decompose(z.bfloat16())[0].dtype is torch.float32


@pytest.mark.parametrize(
    "options",
    [{"pooling": "max"}, {"pooling": "lse", "sharpness": 0}, {"pooling": "top_k", "k": 0}, {"pooling": "top_k", "k": 2.5}, {"hidden": 0}],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        EvidenceHead(2, 2, **options)


def test_a_head_says_what_its_constant_is_and_makes_one_like_itself() -> None:
    head = head_of("lse", sharpness=2.5)
    assert head.constant_is().startswith("the bias minus the divergence")
    assert EvidenceHead(2, 2, "top_k", bias=False).constant_is() == "zero"
    again = EvidenceHead(**head.options()).double()
    again.load_state_dict(head.state_dict())
    z = torch.randn(1, 4, 5).double()
    assert torch.equal(again(z), head(z))


@pytest.mark.parametrize("pooling", NAMES)
def test_s8_takes_every_pooling(pooling: PoolingName) -> None:
    torch.manual_seed(0)
    net = S8(2, 3, 2, channels=(4, 6), strides=(2, 1), pooling=pooling, k=3, sharpness=5).eval()
    x = torch.randn(2, 2, 12, 12)
    features = net.features(x)
    own = torch.einsum(
        "cd,bdhw->bchw",
        dict(net.head.named_parameters())["weight" if pooling == "mean" else "evidence.weight"],
        features,
    )
    ways = {
        "mean": own.mean((2, 3)), "gated_attention": own.mean((2, 3)), "top_k": own.flatten(2).sort(2).values[..., -3:].mean(2),
        "lse": (5 * own).exp().mean((2, 3)).log() / 5,
    }  # fmt: skip
    bias = net.head.bias if pooling == "mean" else net.head.evidence.bias
    assert torch.allclose(net(x), ways[pooling] + bias, atol=1e-5)


@pytest.mark.parametrize("pooling", NAMES)
def test_converted_with_its_gates_held_a_head_tells_the_same_as_by_itself(pooling: PoolingName, rank: int) -> None:
    """Two derivations: `decompose` here, and the compiler that follows shares through the operations of `forward`."""
    torch.manual_seed(0)
    net = S8(2, 3, rank, channels=(4, 6), strides=(2, 1), pooling=pooling, k=3).eval()
    with torch.no_grad():
        for p in net.head.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(2, 2, *(12, 8, 8)[:rank])
    softcam = convert(net, x)
    assert softcam.certificate.kind == POOLINGS[pooling]
    if pooling == "mean":
        return
    told = softcam.evidence(x)
    cells, constant = net.head.decompose(net.features(x))
    assert told.geometry.registered
    assert torch.allclose(told.maps / told.positions, cells, atol=1e-5)
    assert torch.allclose(told.bias, constant, atol=1e-5)
    with pytest.raises(ConversionError):
        convert(net, x, kind="exact")
