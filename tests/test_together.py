"""Several targets and several layers in one call are what each of them gives alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.errors import LayerError, OptionError, TargetError
from pellucid.methods import METHODS
from pellucid.spatial import upsample
from pellucid.targets import (
    ClassTarget,
    ContrastTarget,
    OneVsRestTarget,
    SeveralTargets,
    SimilarityTarget,
    SingleLogitTarget,
    from_dict,
)
from reference.cam import error
from reference.nets import GapNet, SelfExplaining, inputs
from reference.untouched import unchanged

MEMBERS: tuple[Any, ...] = (0, ContrastTarget(2, 1), ClassTarget(torch.tensor([2, 0, 1])), OneVsRestTarget(1))


def network(name: str, rank: int) -> nn.Module:
    net = GapNet(rank).eval()
    return SelfExplaining(net).eval() if "evidence" in METHODS[name].needs else net


@pytest.mark.parametrize("name", METHODS)
def test_each_of_several_targets_gets_the_map_it_gets_alone(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    with unchanged(model):
        both = pl.explain(model, x, SeveralTargets(MEMBERS), method=name, seed=3)
    assert both.several
    for k, member in enumerate(MEMBERS):
        alone = pl.explain(model, x, member, method=name, seed=3)
        one = both.of(k)
        assert error(one.map, alone.map) < 1e-5
        torch.testing.assert_close(one.score, alone.score)
        assert one.target.describe(None, 1) == alone.target.describe(None, 1)
        assert one.complete == alone.complete
        if one.complete:
            ours, theirs = one.contributions(), alone.contributions()
            torch.testing.assert_close(ours.constant, theirs.constant)
            torch.testing.assert_close(ours.common, theirs.common)
            assert float(ours.residual.abs().max()) < 1e-5


def test_several_for_signals_and_volumes(rank: int) -> None:
    model, x = GapNet(rank).eval(), inputs(rank)
    both = pl.explain(model, x, SeveralTargets((2, 0)), method="layer_cam")
    assert both.map.shape == (3, 2, *(4,) * rank)
    assert both.at_input_size().shape == (3, 2, *x.shape[2:])
    assert error(both.of(-1).map, pl.explain(model, x, 0, method="layer_cam").map) < 1e-5


@pytest.mark.parametrize("name", ["evidence", "cam", "grad_cam", "grad_cam_plus_plus", "saliency"])
def test_no_members_are_every_class(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    every = pl.explain(model, x, SeveralTargets(), method=name, batch_size=2)
    assert torch.equal(every.score, model(x).detach())
    for k in range(3):
        assert error(every.of(k).map, pl.explain(model, x, k, method=name).map) < 1e-5


def test_what_a_single_logit_and_a_regression_have() -> None:
    net = GapNet(2, classes=1).eval()
    x = inputs(2)
    asked = pl.explain(net, x, SeveralTargets())
    assert isinstance(asked.of(0).target, SingleLogitTarget)
    assert torch.equal(asked.score, net(x).detach().abs())
    values = pl.explain(GapNet(2).eval(), x, SeveralTargets(), task="regression")
    assert [m.index for m in values.target.each()] == [0, 1, 2]  # type: ignore[attr-defined]


class Counting(GapNet):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.several and "evidence" not in row.needs])
def test_several_targets_cost_one_pass(name: str) -> None:
    net = Counting(2).eval()
    x = inputs(2)
    pl.explain(net, x, 0, method=name)  # finds the layer
    net.passes = 0
    pl.explain(net, x, SeveralTargets((0, 1, 2)), method=name)
    assert net.passes == 1


def test_many_classes_go_in_groups() -> None:
    torch.manual_seed(0)
    net = GapNet(2, classes=150).eval()
    x = inputs(2)[:2]
    every = pl.explain(net, x, SeveralTargets(), method="grad_cam")
    assert every.map.shape[:2] == (2, 150)
    for k in (0, 63, 64, 149):
        assert error(every.of(k).map, pl.explain(net, x, k, method="grad_cam").map) < 1e-5


class _Stubborn(torch.autograd.Function):
    """A function of one's own without a batched backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return torch.from_numpy(grad[0].numpy() * 3)


class _Custom(GapNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(_Stubborn.apply(self.features(x)).flatten(2).mean(2))


def test_a_layer_without_a_batched_backward_pass_is_right_all_the_same() -> None:
    net, x = _Custom(2).eval(), inputs(2)
    both = pl.explain(net, x, SeveralTargets((0, 2)), method="hires_cam")
    for k, c in enumerate((0, 2)):
        assert error(both.of(k).map, pl.explain(net, x, c, method="hires_cam").map) < 1e-6


def test_names_and_two_softmax_classes() -> None:
    model, x = SelfExplaining(GapNet(2, classes=2).eval()).eval(), inputs(2)
    both = pl.explain(model, x, SeveralTargets(("sick", "well")), classes=["well", "sick"])
    assert both.of(0)[1].target.describe(both.classes) == "sick against well"
    assert torch.allclose(both.of(0).map, -both.of(1).map)


def test_what_speaks_of_one_target_says_so_and_saving_keeps_all(tmp_path: Path) -> None:
    model, x = GapNet(2).eval(), inputs(2)
    both = pl.explain(model, x, SeveralTargets((2, 0)), method="cam")
    for speak in (both[0].ledger, both[0].text, both[0].overlay):
        with pytest.raises(OptionError, match="one target; here every input has 2"):
            speak()
    assert both[1].of(1).ledger().score == pytest.approx(float(both.score[1, 1]))
    assert "class 0" in both._repr_html_()
    again = pl.Explanation.load(both.save(tmp_path))
    assert torch.equal(again.map, both.map)
    assert again.of(1).target.describe(None, 2) == "class 0"
    with pytest.raises(IndexError, match="2 targets"):
        both.of(2)
    assert pl.explain(model, x, 1).of(0).map.shape == (3, 4, 4)


def test_several_targets_that_do_not_fit() -> None:
    model, x = GapNet(2).eval(), inputs(2)
    with pytest.raises(TargetError, match="no target among several"):
        SeveralTargets(())
    with pytest.raises(TargetError, match="2 targets for 3 inputs"):
        pl.explain(model, x, SeveralTargets((0, [1, 2])))
    with pytest.raises(TargetError, match="no class 7"):
        pl.explain(model, x, SeveralTargets((0, 7)))
    with pytest.raises(TargetError, match="no rest to be against"):
        pl.explain(model, x, SeveralTargets((OneVsRestTarget(0),)), task="multilabel")


# --- several layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grad_cam", "eigen_cam", "smooth_grad_cam_plus_plus"])
def test_several_layers_are_the_mean_of_their_scaled_maps(name: str, rank: int) -> None:
    model, x = GapNet(rank).eval(), inputs(rank)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)][:2]
    apart = [pl.explain(model, x, 1, method=name, layer=layer) for layer in layers]
    by_hand = torch.zeros(3, *x.shape[2:])
    for i in range(3):
        for e in apart:
            by_hand[i] += upsample(e.map[i] / e.map[i].abs().max(), e.geometry) / 2
    for order in (layers, layers[::-1]):
        found = pl.explain(model, x, 1, method=name, layer=order)
        assert error(found.map, by_hand) < 1e-5
        assert found.provenance["layer"] == ", ".join(order)
        assert not found.complete


def test_half_frozen_networks_pair_layers_rightly() -> None:
    """pytorch-grad-cam keeps gradients in the order of the backward pass and pairs those of frozen layers wrongly."""
    model, x = GapNet(2).eval(), inputs(2)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)][:2]
    free = pl.explain(model, x, 1, layer=layers).map
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    assert error(pl.explain(model, x, 1, layer=layers).map, free) < 1e-6


def test_several_layers_and_several_targets() -> None:
    model, x = GapNet(2).eval(), inputs(2)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)][:2]
    both = pl.explain(model, x, SeveralTargets((0, 1)), layer=layers)
    assert error(both.of(1).map, pl.explain(model, x, 1, layer=layers).map) < 1e-5
    with pytest.raises(OptionError, match="list of layers is empty"):
        pl.explain(model, x, 0, layer=[])
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        pl.explain(model, x, 0, layer=[layers[0], "nowhere"])


# --- similarity ------------------------------------------------------------------------------------------------------


def test_similarity_of_embeddings() -> None:
    model, x = GapNet(2, classes=5).eval(), inputs(2)
    embedding = model(x).detach()
    target = SimilarityTarget(embedding[2])
    e = pl.explain(model, x, target)
    expected = [float(embedding[i] @ embedding[2] / embedding[i].norm() / embedding[2].norm()) for i in range(3)]
    assert e.score.tolist() == pytest.approx(expected, rel=1e-5)
    leaf = x.clone().requires_grad_()
    score = nn.functional.normalize(model(leaf), dim=1) @ nn.functional.normalize(embedding[2], dim=0)
    slope = torch.autograd.grad(score.sum(), leaf)[0]
    assert error(pl.explain(model, x, target, method="saliency", reduce="none").map, slope) < 1e-5
    told = from_dict(json.loads(json.dumps(e.target.as_dict())))
    torch.testing.assert_close(told(embedding), e.score)
    turned = SimilarityTarget(embedding).rows(torch.tensor([1, 0]))
    assert turned(embedding[[1, 0]]).tolist() == pytest.approx([1, 1])


def test_dot_products_add_up_as_evidence() -> None:
    model, x = SelfExplaining(GapNet(2, classes=5).eval()).eval(), inputs(2)
    reference = torch.tensor([0.5, -1, 2, 0, 1])
    e = pl.explain(model, x, SimilarityTarget(reference, "dot"))
    assert torch.allclose(e.score, model(x).detach() @ reference, atol=1e-5)
    assert float(e.contributions().residual.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (SimilarityTarget(torch.ones(4)), "reference has shape"),
        (SimilarityTarget(torch.ones(5), "euclid"), "no measure"),  # type: ignore[arg-type]
    ],
)
def test_similarities_that_do_not_fit(target: SimilarityTarget, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        pl.explain(GapNet(2, classes=5).eval(), inputs(2), target)
    with pytest.raises(TargetError, match="cosine"):
        pl.explain(SelfExplaining(GapNet(2, classes=5).eval()).eval(), inputs(2), SimilarityTarget(torch.ones(5)))


# --- layers that return more than one tensor -------------------------------------------------------------------------


class _Pair(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "tuple":
            return x * 2, x.flatten(2).mean(2)
        return {"map": x * 2, "maps": [x]} if self.kind == "dict" else (x * 2, x * 3)


class _Tupled(GapNet):
    def __init__(self, kind: str) -> None:
        super().__init__(2)
        self.pair = _Pair(kind)

    def forward(self, x: Tensor) -> Tensor:
        found = self.pair(self.features(x))
        return self.fc((found["map"] if isinstance(found, dict) else found[0]).flatten(2).mean(2))


@pytest.mark.parametrize("kind", ["tuple", "dict"])
@pytest.mark.parametrize("name", ["grad_cam", "eigen_cam", "hires_cam"])
def test_a_layer_with_one_map_among_its_outputs(kind: str, name: str) -> None:
    net, x = _Tupled(kind).eval(), inputs(2)
    found = pl.explain(net, x, 1, method=name, layer="pair")
    plain = pl.explain(net, x, 1, method=name, layer="features")  # the map before it is doubled
    assert error(found.map, plain.map * (2 if name == "eigen_cam" else 1)) < 1e-5


def test_a_layer_with_two_maps_is_refused() -> None:
    with pytest.raises(LayerError, match="tuple with 2 feature maps"):
        pl.explain(_Tupled("two").eval(), inputs(2), 1, layer="pair")
