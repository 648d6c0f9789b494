"""What every method in the registry owes to everyone, on signals, images and volumes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import PellucidError, TargetError
from pellucid.explanation import Attribution
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget
from reference.cam import error
from reference.nets import GapNet, SelfExplaining, inputs
from reference.untouched import unchanged

CLASSES = torch.tensor([0, 2, 1])


def network(name: str, rank: int, **changes: Any) -> nn.Module:
    net = GapNet(rank, **changes).eval()
    return SelfExplaining(net).eval() if "evidence" in METHODS[name].needs else net


@pytest.fixture(params=list(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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
    found: Attribution = METHODS[name](Call(model), x, ClassTarget())
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
    found = METHODS[name](Call(model), x, ClassTarget(CLASSES))
    parts = found.map.double().flatten(1).sum(1)
    parts = parts + sum(part for part in (found.constant, found.common) if part is not None)
    assert torch.allclose(parts, found.target(found.output), rtol=1e-10) is METHODS[name].complete


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.control])
def test_a_batch_is_its_inputs_one_by_one_in_any_order(name: str, rank: int) -> None:
    model, x = network(name, rank), inputs(rank)
    method, call = METHODS[name], Call(model)
    whole = method(call, x, ClassTarget(CLASSES)).map
    single = torch.cat([method(call, x[i : i + 1], ClassTarget(int(CLASSES[i]))).map for i in range(3)])
    assert error(single, whole) < 1e-5
    order = torch.tensor([2, 0, 1])
    assert error(method(call, x[order], ClassTarget(CLASSES[order])).map, whole[order]) < 1e-5
    other = torch.cat([x[:1], inputs(rank, seed=8)[:2] * 100])
    assert error(method(call, other, ClassTarget(CLASSES)).map[:1], whole[:1]) < 1e-5


def test_one_class_for_all_is_that_class_for_each(name: str) -> None:
    model, x = network(name, 2), inputs(2)
    one = METHODS[name](Call(model), x, ClassTarget(1)).map
    each = METHODS[name](Call(model), x, ClassTarget(torch.tensor([1, 1, 1]))).map
    assert torch.equal(one, each)


def test_ranks_agree_on_a_padded_axis(name: str) -> None:
    """A signal written as an image one sample high: the same numbers, one axis more."""
    flat, thick = GapNet(1).eval(), GapNet(2).eval()
    for low, high in zip(flat.parameters(), thick.parameters(), strict=True):
        if low.ndim == 3:  # the middle row of the larger kernel, and nothing in the others
            high.data.zero_()
            high.data[:, :, 1] = low.data
        else:
            high.data.copy_(low.data)
    x = inputs(1)
    models = [SelfExplaining(n) if "evidence" in METHODS[name].needs else n for n in (flat, thick)]
    first = METHODS[name](Call(models[0]), x, ClassTarget(CLASSES)).map
    second = METHODS[name](Call(models[1]), x[:, :, None], ClassTarget(CLASSES)).map
    assert error(second[:, 0], first) < 1e-5


@pytest.mark.parametrize("failing", [False, True])
def test_the_users_network_is_untouched(name: str, rank: int, failing: bool) -> None:
    model, x = network(name, rank), inputs(rank)
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.ReLU)).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn_like(parameter) if i % 2 else None
        parameter.requires_grad_(i != 1)
    given = x.clone()
    with unchanged(model):
        if failing:
            with pytest.raises(TargetError):
                METHODS[name](Call(model), x, ClassTarget(99))
        else:
            METHODS[name](Call(model), x, ClassTarget(1))
    assert torch.equal(x, given)


def test_a_network_that_fails_half_way_is_untouched(name: str) -> None:
    class Fragile(GapNet):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            if self.broken:
                raise ArithmeticError("half way")
            return self.fc(features.flatten(2).mean(2))

    net = Fragile(2).eval()
    model = SelfExplaining(net) if "evidence" in METHODS[name].needs else net
    net.broken = True
    with unchanged(model), pytest.raises(ArithmeticError, match="half way"):
        METHODS[name](Call(model), inputs(2), ClassTarget(0))


@pytest.mark.parametrize("name", ["grad_cam", "saliency", "random_map"])
def test_other_inputs_and_outputs_are_bound_once(name: str) -> None:
    """A network with a second input per image, passed by name, and a dict of outputs."""

    class Two(GapNet):
        def forward(self, scale: Tensor, image: Tensor) -> dict[str, Tensor]:
            return {"other": scale, "logits": super().forward(image) * scale[:, None]}

    net, x, scale = Two(2).eval(), inputs(2), torch.tensor([1.0, -2.0, 3.0])
    call = Call(net, args=(scale,), output="logits", input_name="image", batch=3)
    found = METHODS[name](call, x, ClassTarget(CLASSES))
    torch.testing.assert_close(found.output, net(scale, x)["logits"].detach())
    rows = torch.tensor([2, 1])
    part = METHODS[name](call.rows(rows), x[rows], ClassTarget(CLASSES[rows]))
    torch.testing.assert_close(part.output, found.output[rows])
    if not METHODS[name].control:
        assert error(part.map, found.map[rows]) < 1e-5


def test_an_output_of_unknown_kind_is_refused(name: str) -> None:
    class Odd(GapNet):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    net = Odd(2).eval()
    model = SelfExplaining(net) if "evidence" in METHODS[name].needs else net  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match="tuple of 2 parts"):
        METHODS[name](Call(model), inputs(2), ClassTarget(0))
