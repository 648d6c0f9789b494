"""Max-sensitivity and the local Lipschitz estimate: one set of perturbed inputs, two denominators."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import OptionError
from pellucid.explanation import Explanation
from pellucid.metrics.local_lipschitz import local_lipschitz
from pellucid.metrics.max_sensitivity import max_sensitivity
from pellucid.targets import SingleLogitTarget
from reference.again import case, score, shown
from reference.nets import GapNet, inputs
from reference.untouched import unchanged

BOTH = pytest.mark.parametrize("metric", [max_sensitivity, local_lipschitz])


def noises(x: Tensor, draws: int, radius: float) -> list[Tensor]:
    """The changes that a generator with seed 0 draws."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(x.shape[1:], generator=generator, dtype=torch.float64) for _ in range(draws)]
    return [((2 * d - 1) * radius).to(x) for d in drawn]


def linear(rank: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 4**rank, 3)).double().eval()


def test_equals_captum(rank: int) -> None:
    """Saliency of a network that bends, with the same changes for both."""
    metrics, attr = pytest.importorskip("captum.metrics"), pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4**rank, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = inputs(rank, side=4).double()
    given = noises(x, 5, 0.3)

    def changed(inputs: Tensor) -> Tensor:  # Captum repeats each input as often as there are draws
        return inputs + torch.stack(given).repeat(len(x), *(1,) * (x.ndim - 1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = metrics.sensitivity_max(
            attr.InputXGradient(model).attribute,
            x, perturb_func=changed, n_perturb_samples=5, max_examples_per_batch=15, target=torch.tensor([0, 2, 1]),
        )  # fmt: skip
    ours = score(max_sensitivity, kept_channels(model, x, torch.tensor([0, 2, 1])), radius=0.3, draws=5)
    assert ours[""].tolist() == pytest.approx(theirs.tolist(), abs=1e-12)


def kept_channels(model: nn.Module, x: Tensor, classes: Tensor) -> Any:
    """Input times gradient with every channel kept, as Captum gives it, as a map of its own rank."""
    from dataclasses import replace

    def explained(x: Tensor) -> Explanation:
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        picked = logits.gather(1, classes[:, None]).sum()
        return shown(torch.autograd.grad(picked, leaf)[0] * x, logits=logits.detach())

    def again(*, x: Tensor) -> Explanation:
        with torch.enable_grad():
            return explained(x)

    given = case(model, x, classes, "saliency")
    return replace(given, explanation=explained(x), again=again)


@BOTH
def test_the_gradient_of_a_linear_network_never_changes(metric: Any, rank: int) -> None:
    found = score(metric, case(linear(rank), inputs(rank, side=4).double(), 1, "saliency"))
    assert found[""].tolist() == found["same_answer"].tolist() == [0, 0, 0]


def test_exact_on_a_linear_network(rank: int) -> None:
    """Input times gradient is w x, so a change d of the input changes it by w d, whatever x is."""
    model, x = linear(rank), inputs(rank, side=4).double()
    given = case(model, x, 1, "input_x_gradient")
    w = model[1].weight[1].detach().view(1, *x.shape[1:])  # type: ignore[index,union-attr]
    drawn = noises(x, 4, 0.1)
    change = [float((w * d).sum(1).norm()) for d in drawn]
    steep = score(local_lipschitz, given, radius=0.1, draws=4)[""]
    expected = max(c / float(d.norm()) for c, d in zip(change, drawn, strict=True))
    assert steep.tolist() == pytest.approx([expected] * 3, abs=1e-12)
    size = (w * x).sum(1).flatten(1).norm(dim=1)
    found = score(max_sensitivity, given, radius=0.1, draws=4)[""]
    assert found.tolist() == pytest.approx((max(change) / size).tolist(), abs=1e-12)


@BOTH
def test_one_explanation_per_draw(metric: Any) -> None:
    x, calls = torch.ones(2, 1, 4), []

    def again(*, x: Tensor) -> Explanation:
        calls.append(len(x))
        return shown(x[:, 0])

    metric(shown(x[:, 0]), x, again, torch.Generator().manual_seed(0), draws=7)
    assert calls == [2] * 7


@BOTH
def test_changes_that_change_the_answer_can_be_left_out(metric: Any) -> None:
    """The second input's answer changes with every draw; the first's never."""
    x = torch.ones(2, 1, 4)
    steady, turned = torch.tensor([[2.0, 0, 1], [2, 0, 1]]), torch.tensor([[3.0, 0, 1], [0, 2, 1]])

    def again(*, x: Tensor) -> Explanation:
        return shown(x[:, 0], logits=turned)

    found = metric(shown(x[:, 0], logits=steady), x, again, torch.Generator().manual_seed(0))
    assert float(found["same_answer"][0]) == float(found[""][0]) > 0
    assert math.isnan(float(found["same_answer"][1]))
    assert float(found[""][1]) > 0
    labels = metric(shown(x[:, 0], logits=steady), x, again, torch.Generator().manual_seed(0), task="multilabel")
    assert math.isnan(float(labels["same_answer"][1]))  # 2 became 0, which is no longer a yes
    value = metric(shown(x[:, 0], logits=steady), x, again, torch.Generator().manual_seed(0), task="regression")
    assert torch.equal(value["same_answer"], value[""])


def test_the_sign_of_a_single_logit_is_its_answer() -> None:
    x = torch.ones(1, 1, 4)
    yes = SingleLogitTarget(torch.tensor([True]))

    def again(*, x: Tensor) -> Explanation:
        return shown(x[:, 0], logits=torch.tensor([[-1.0]]), target=yes)

    first = shown(x[:, 0], logits=torch.tensor([[1.0]]), target=yes)
    found = max_sensitivity(first, x, again, torch.Generator().manual_seed(0), "binary")  # type: ignore[arg-type]
    assert math.isnan(float(found["same_answer"]))


def test_zero_and_undefined_maps_have_no_value() -> None:
    x = torch.ones(3, 1, 4)
    first = torch.stack([torch.zeros(4), torch.ones(4), torch.tensor([1.0, math.nan, 1, 1])])

    def again(*, x: Tensor) -> Explanation:
        return shown(x[:, 0])

    found = max_sensitivity(shown(first), x, again, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    for values in found.values():
        assert [math.isnan(v) for v in values.tolist()] == [True, False, True]


@BOTH
def test_what_is_missing_or_impossible_is_said(metric: Any) -> None:
    e, x = shown(torch.ones(1, 4)), torch.ones(1, 1, 4)
    with pytest.raises(OptionError, match="explains anew"):
        metric(e, x, None, torch.Generator())
    for options in ({"radius": 0.0}, {"draws": 0}):
        with pytest.raises(OptionError, match="positive"):
            metric(e, x, lambda **_: e, torch.Generator(), **options)


@BOTH
def test_network_and_input_stay(metric: Any) -> None:
    net, x = GapNet(2).eval(), inputs(2)
    given, kept = case(net, x, 1, "grad_cam"), x.clone()
    with unchanged(net):
        score(metric, given, draws=2)
    assert torch.equal(x, kept)
