"""The verb `explain`: what it refuses, that parts make the whole, and that models stay as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pellucid as pl
from pellucid import api
from pellucid.errors import BadInput, LayerError, OptionError, TargetError
from pellucid.methods import METHODS
from reference.nets import GapNet, SelfExplaining, Squeezed, inputs
from reference.samples import Breaks, two, used
from reference.untouched import unchanged


def test_the_method_follows_from_the_network() -> None:
    assert pl.explain(two(), inputs(2)).method == "evidence"
    assert pl.explain(GapNet(2).eval(), inputs(2)).method == "grad_cam"


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_refused_by_name(method: str) -> None:
    with pytest.raises(OptionError, match=f"'{method}' has no option 'colour'"):
        pl.explain(two(), inputs(2), method=method, colour="red")
    with pytest.raises(OptionError, match="has no option 'generator'"):
        pl.explain(two(), inputs(2), method=method, generator=torch.Generator())


def test_unknown_names_suggest_the_nearest() -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"method": "gradcam"}, OptionError, "grad_cam"),
        ({"method": "grad_cam", "layer": "feature"}, LayerError, "model.features"),
        ({"method": "grad_cam", "rectfy": True}, OptionError, "rectify"),
        ({"target": "yess", "classes": ("no", "yes")}, TargetError, "yes"),
    ]
    for options, kind, meant in cases:
        with pytest.raises(kind) as error:
            pl.explain(two(), inputs(2), **options)
        assert error.value.hint == f"Did you mean '{meant}'?"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "target",
    [
        [0, 1, 0],
        torch.tensor([0, 1]),
        ["no", "yes"],
        pl.ClassTarget(torch.tensor([1, 0])),
        pl.ContrastTarget(torch.tensor([1, 0]), 0),
    ],
)
def test_the_number_of_targets_has_to_fit(target: Any) -> None:
    with pytest.raises(TargetError, match=r"There are \d targets for 4 inputs"):
        pl.explain(two(), inputs(2, 4), target, classes=("no", "yes"))


def test_classes_that_are_not_there() -> None:
    for target in (2, -1, [0, 1, 5]):
        with pytest.raises(TargetError, match="There is no class"):
            pl.explain(two(), inputs(2), target)


@pytest.mark.parametrize(
    ("x", "what"),
    [
        ([[1.0]], "is a list"),
        (torch.zeros(4), "has shape"),
        (torch.zeros(0, 2, 8, 8), "has shape"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.long), "holds torch.int64 values"),
        (torch.full((1, 2, 8, 8), float("nan")), "not finite"),
        (torch.full((1, 2, 8, 8), -float("inf")), "not finite"),
    ],
)
def test_inputs_that_cannot_be_explained(x: Any, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        pl.explain(two(), x)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("random_map", "blurred_random_map")])
@pytest.mark.parametrize("target", [None, 1, [0, 1, 1, 0, 1], ["yes", "no", "no", "no", "yes"]])
def test_parts_make_the_whole(method: str, target: Any) -> None:
    x = inputs(2, 5)
    whole = pl.explain(two(), x, target, method=method, classes=("no", "yes"))
    parts = pl.explain(two(), x, target, method=method, classes=("no", "yes"), batch_size=2)
    for name in ("map", "score", "logits", "constant", "common"):
        mine, theirs = getattr(parts, name), getattr(whole, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert parts.target.as_dict() == whole.target.as_dict()
    assert (parts.method, parts.options, parts.geometry) == (whole.method, whole.options, whole.geometry)
    one = pl.explain(
        two(),
        x[3:4],
        None if target is None else [target[3]] if isinstance(target, list) else target,
        method=method,
        classes=("no", "yes"),
    )
    torch.testing.assert_close(one.map[0], whole.map[3], rtol=1e-5, atol=1e-6)


def test_a_single_logit_in_parts() -> None:
    net = Squeezed(GapNet(2)).eval()
    x = inputs(2, 5)
    whole, parts = (pl.explain(net, x, batch_size=size) for size in (None, 2))
    torch.testing.assert_close(parts.score, whole.score)
    torch.testing.assert_close(parts.score, net(x).abs().detach())  # what the network says, said for itself


def test_chance_follows_the_seed() -> None:
    first, again, other = (pl.explain(two(), inputs(2), method="random_map", seed=s).map for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_provenance_says_how_to_repeat_it() -> None:
    net = two()
    net.preprocessing = {"size": 16}
    e = pl.explain(net, inputs(2), method="grad_cam", layer="model.features", seed=3)
    assert e.options == {"layer": "model.features"}
    known = {k: e.provenance[k] for k in ("seed", "layer", "network", "preprocessing", "task", "device", "dtype")}
    assert known == {
        "seed": 3, "layer": "model.features", "network": "SelfExplaining", "preprocessing": {"size": 16}, "task": "multiclass", "device": "cpu", "dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_explain_leaves_the_network_alone(method: str) -> None:
    net = used(two())
    with unchanged(net):
        pl.explain(net, inputs(2), method=method)
    with unchanged(net), torch.inference_mode():
        pl.explain(net, inputs(2), method=method)
    with unchanged(net), pytest.raises(TargetError):
        pl.explain(net, inputs(2), 9, method=method)


@pytest.mark.parametrize("method", ["grad_cam", "saliency"])
def test_an_error_half_way_leaves_the_network_alone(method: str) -> None:
    net = used(Breaks())
    with unchanged(net):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="half way"):
                pl.explain(net, inputs(2, 4), 1, method=method, batch_size=1)
    assert net.passes >= 2  # type: ignore[operator]


def test_the_digest_follows_weights_names_and_types() -> None:
    nets = [GapNet(2), GapNet(2, seed=1), GapNet(2).double(), SelfExplaining(GapNet(2))]
    assert len({api.weights_digest(net) for net in nets}) == 4
    assert api.weights_digest(GapNet(2)) == api.weights_digest(nets[0])
