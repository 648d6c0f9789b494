"""What every method in the registry owes to everyone, on signals, images and volumes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as pl
from pellucid.call import Call
from pellucid.errors import PellucidError, TargetError
from pellucid.methods import METHODS
from pellucid.models.convert import convert
from pellucid.spatial import expand
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.methods import CLASSES, QUICK, ask, fitting, network
from reference.nets import GapNet, TwoLayers, inputs
from reference.untouched import unchanged

CHANCE = [name for name, row in METHODS.items() if "generator" in inspect.signature(row.load()).parameters]


@pytest.fixture(params=list(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Precision:
    """What a network computes in, and how far two ways to the same map may be apart."""

    dtype: torch.dtype
    autocast: bool
    tolerance: float

    @property
    def map_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def on(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()


PRECISIONS = {
    "float32": Precision(torch.float32, False, 1e-5),
    "float64": Precision(torch.float64, False, 1e-12),
    "autocast": Precision(torch.float32, True, 0.1),
}

# How near maps of bfloat16 come to those of float64; at the pixels, differences of rounded scores and gates count most.
HALF = {"cells": 0.02, "pixels": 0.5}


@pytest.fixture(params=list(PRECISIONS))
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


def test_row_names_the_leaf(name: str) -> None:
    row = METHODS[name]
    function = row.load()
    assert row.path == f"pellucid.methods.{name}:{name}"
    assert function.__doc__
    assert row.summary
    parameters = list(inspect.signature(function).parameters.values())
    assert [p.name for p in parameters[:3]] == ["call", "x", "target"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[3:])


def test_output_target_and_places(name: str, rank: int) -> None:
    model, x = network(name, rank), inputs(rank)
    found = ask(name, model, x, ClassTarget())
    torch.testing.assert_close(found.output, model(x).detach())
    assert isinstance(found.target, ClassTarget)
    assert torch.equal(torch.as_tensor(found.target.classes), model(x).argmax(1))
    assert found.map.shape == (3, *found.geometry.grid)
    assert found.geometry.input_size == x.shape[2:]
    assert found.geometry.grid == ((16,) * rank if METHODS[name].space == "pixels" else (4,) * rank)
    assert bool(found.map.isfinite().all())
    assert float(found.map.abs().max()) > 0
    assert found.complete is METHODS[name].complete


def test_complete_means_that_the_parts_add_up(name: str, rank: int) -> None:
    model, x = network(name, rank).double(), inputs(rank).double()
    found = ask(name, model, x)
    parts = found.map.double().flatten(1).sum(1)
    parts = parts + sum(part for part in (found.constant, found.common) if part is not None)
    assert torch.allclose(parts, found.target(found.output), rtol=1e-10) is METHODS[name].complete  # type: ignore[misc]


def test_maps_come_in_float32_or_more_and_near_those_of_float64(name: str, rank: int, precision: Precision) -> None:
    expected = ask(name, network(name, rank).double(), inputs(rank).double()).map
    with precision.on():
        found = ask(name, network(name, rank).to(precision.dtype), inputs(rank).to(precision.dtype)).map
    assert found.dtype == precision.map_dtype or METHODS[name].control
    assert torch.promote_types(found.dtype, torch.float32) == found.dtype
    assert error(found, expected) < (HALF[METHODS[name].space] if precision.autocast else 10 * precision.tolerance)


def test_a_network_in_half_precision_has_its_maps_in_float32(name: str, rank: int) -> None:
    expected = ask(name, network(name, rank), inputs(rank)).map
    found = ask(name, network(name, rank).bfloat16(), inputs(rank).bfloat16()).map
    assert found.dtype == torch.float32
    assert error(found, expected) < HALF[METHODS[name].space]


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.control])
def test_a_batch_is_its_inputs_one_by_one_in_any_order(name: str, rank: int, precision: Precision) -> None:
    model, x = network(name, rank).to(precision.dtype), inputs(rank).to(precision.dtype)

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        with precision.on():
            return ask(name, model, x, ClassTarget(classes)).map

    whole = maps(x, CLASSES)
    single = torch.cat([maps(x[i : i + 1], CLASSES[i : i + 1]) for i in range(3)])
    assert error(single, whole) < precision.tolerance
    order = torch.tensor([2, 0, 1])
    assert error(maps(x[order], CLASSES[order]), whole[order]) < precision.tolerance
    other = torch.cat([x[:1], inputs(rank, seed=8)[:2].to(x) * 100])
    assert error(maps(other, CLASSES)[:1], whole[:1]) < precision.tolerance


def test_one_seed_gives_one_map(name: str, rank: int, precision: Precision) -> None:
    """Whatever was drawn before; and another seed another map where chance has a part in it."""
    model, x = network(name, rank).to(precision.dtype), inputs(rank, side=8).to(precision.dtype)
    if name in CHANCE:
        model = TwoLayers(rank).to(precision.dtype).eval()  # noise does not change the gradient of a linear head

    def map(seed: int) -> Tensor:
        with precision.on():
            return pl.explain(model, x, CLASSES.tolist(), method=name, seed=seed, **QUICK.get(name, {})).map

    first = map(1)
    torch.rand(3)
    assert torch.equal(map(1), first)
    assert torch.equal(map(2), first) is (name not in CHANCE)


def test_one_class_for_all_is_that_class_for_each(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    one = ask(name, model, x, ClassTarget(1)).map
    assert torch.equal(one, ask(name, model, x, ClassTarget(torch.tensor([1, 1, 1]))).map)


def test_ranks_agree_on_a_padded_axis(name: str) -> None:
    """A signal written as an image one sample high: the same numbers, one axis more."""
    flat, thick = GapNet(1).eval(), GapNet(2).eval()
    for low, high in zip(flat.parameters(), thick.parameters(), strict=True):
        if low.ndim == 3:  # the middle row of the larger kernel, and nothing in the others
            high.data.zero_()
            high.data[:, :, 1] = low.data
        else:
            high.data.copy_(low.data)
    x, options = inputs(1), {"window": None} if name == "occlusion" else QUICK.get(name, {})
    maps = [
        METHODS[name](Call(fitting(name, net)), given, ClassTarget(CLASSES), **options).map
        for net, given in ((flat, x), (thick, x[:, :, None]))
    ]
    assert error(maps[1][:, 0], maps[0]) < 1e-5


@pytest.mark.bug("B2")
@pytest.mark.parametrize("failing", [False, True])
def test_the_users_network_is_untouched(name: str, rank: int, precision: Precision, failing: bool) -> None:
    model, x = network(name, rank).to(precision.dtype), inputs(rank).to(precision.dtype)
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.ReLU)).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn_like(parameter) if i % 2 else None
        parameter.requires_grad_(i != 1)
    given = x.clone()
    with unchanged(model), precision.on():
        if failing:
            with pytest.raises(TargetError):
                ask(name, model, x, ClassTarget(99))
        else:
            ask(name, model, x)
    assert torch.equal(x, given)


class Fragile(GapNet):
    """Fails after a number of passes, in the middle of one."""

    left = 10**9

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError("half way")
        return self.fc(features.flatten(2).mean(2))


def test_a_network_that_fails_half_way_is_untouched(name: str) -> None:
    """In the first pass, the second, and so on until there is no further one; and the network still works."""
    net, x = Fragile(2).train(), inputs(2)
    model, passes = fitting(name, net).train(), 0
    expected = pl.explain(model, x, CLASSES.tolist(), method=name, **QUICK.get(name, {})).map
    failed = True
    while failed:
        net.left, failed = passes, False
        with unchanged(model):
            try:
                pl.explain(model, x, CLASSES.tolist(), method=name, **QUICK.get(name, {}))
            except ArithmeticError:
                failed = True
        passes += 1
    assert passes > 1
    net.left = 10**9
    assert torch.equal(pl.explain(model, x, CLASSES.tolist(), method=name, **QUICK.get(name, {})).map, expected)


def test_frozen_parameters_and_gradient_modes_change_nothing(name: str, rank: int) -> None:
    model, x = network(name, rank), inputs(rank)
    expected = ask(name, model, x).map
    model.requires_grad_(False)
    assert torch.equal(ask(name, model, x).map, expected)
    with torch.no_grad():
        assert torch.equal(ask(name, model, x).map, expected)
    with torch.inference_mode():
        made = inputs(rank)
        assert torch.equal(ask(name, model, made).map, expected)
        assert torch.equal(pl.explain(model, made, CLASSES.tolist(), method=name, **QUICK.get(name, {})).map, expected)


def test_an_input_with_a_gradient_keeps_it_and_changes_nothing(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    expected = ask(name, model, x).map
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    found = ask(name, model, x)
    assert torch.equal(found.map, expected)
    assert not found.map.requires_grad
    assert torch.equal(x.grad, torch.ones_like(x))
    leaf = x * 1  # in a graph of its own
    assert torch.equal(ask(name, model, leaf).map, expected)


@pytest.fixture(scope="module")
def compiled() -> Iterator[tuple[GapNet, nn.Module]]:
    """A network and the same compiled, which has run before: compiled code asks for no hook that comes later."""
    with torch._dynamo.config.patch(recompile_limit=100):
        net = GapNet(2).eval()
        same = torch.compile(net, backend="aot_eager")
        with torch.no_grad():
            same(inputs(2))
        yield net, same  # type: ignore[misc]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch's own, compiling
def test_a_compiled_network_has_the_same_maps(name: str, compiled: tuple[GapNet, nn.Module]) -> None:
    net, same = compiled
    x = inputs(2)
    expected = ask(name, fitting(name, net), x).map
    with unchanged(net):
        assert error(ask(name, fitting(name, same), x).map, expected) < 1e-6
    with torch.no_grad():
        assert torch.equal(same(x), net(x))


def test_a_network_behind_data_parallel_is_the_network(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    options = {"method": name, **QUICK.get(name, {})}
    expected = pl.explain(model, x, CLASSES.tolist(), **options)
    wrapped = nn.DataParallel(model)
    with unchanged(wrapped):
        found = pl.explain(wrapped, x, CLASSES.tolist(), **options)
    assert torch.equal(found.map, expected.map)
    assert found.provenance == expected.provenance
    assert pl.explain(wrapped, x).method == pl.explain(model, x).method


class Two(GapNet):
    """A second input for each image, and the logits among other outputs."""

    def forward(self, image: Tensor, shift: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"other": shift, "logits": super().forward(image + expand(shift, image))}


def test_other_inputs_and_outputs_follow_their_image(name: str) -> None:
    net, x, shift = Two(2).double().eval(), inputs(2).double(), torch.tensor([1.0, -2.0, 3.0]).double()
    model: nn.Module = net
    if "evidence" in METHODS[name].needs:
        model = convert(net, x, args=(shift,), output="logits")
    options = {"output": "logits", **QUICK.get(name, {})}
    found = pl.explain(model, x, CLASSES.tolist(), method=name, args=(shift,), **options)
    torch.testing.assert_close(found.logits, net(x, shift)["logits"].detach())
    for i in range(3):
        one = slice(i, i + 1)
        alone = pl.explain(model, x[one], int(CLASSES[i]), method=name, args=(shift[one],), **options)
        torch.testing.assert_close(alone.logits, found.logits[one])
        if not METHODS[name].control:
            assert error(alone.map, found.map[one]) < 1e-9


@pytest.mark.parametrize("name", ["grad_cam", "saliency", "random_map"])
def test_other_inputs_are_bound_by_name(name: str) -> None:
    class Named(Two):
        def forward(self, shift: Tensor, image: Tensor) -> dict[str, Tensor]:
            return super().forward(image, shift)

    net, x, shift = Named(2).eval(), inputs(2), torch.tensor([1.0, -2.0, 3.0])
    call = Call(net, args=(shift,), output="logits", input_name="image", batch=3)
    found = METHODS[name](call, x, ClassTarget(CLASSES))
    torch.testing.assert_close(found.output, net(shift, x)["logits"].detach())
    rows = torch.tensor([2, 1])
    part = METHODS[name](call.rows(rows), x[rows], ClassTarget(CLASSES[rows]))
    torch.testing.assert_close(part.output, found.output[rows])


def test_an_output_of_unknown_kind_is_refused(name: str) -> None:
    class Odd(GapNet):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    model = fitting(name, Odd(2).eval())
    with unchanged(model), pytest.raises(PellucidError, match="tuple of 2 parts"):
        ask(name, model, inputs(2), ClassTarget(0))


@pytest.mark.parametrize("wrong", [99, -4, [0, 1], [0, 1, 7], "nothing"])
def test_a_target_that_is_not_there_is_refused(name: str, rank: int, wrong: Any) -> None:
    model = network(name, rank)
    with unchanged(model), pytest.raises(TargetError):
        pl.explain(model, inputs(rank), wrong, method=name, **QUICK.get(name, {}))
