"""Deletion and insertion: one calculation, two directions."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.errors import BadInput, OptionError
from pellucid.metrics.deletion import deletion
from pellucid.metrics.insertion import insertion
from pellucid.metrics.removal import log_odds
from pellucid.spatial import blur
from pellucid.targets import ClassTarget, ContrastTarget, RegressionTarget, SingleLogitTarget, Target
from reference.nets import GapNet, Kept, Linear, inputs
from reference.untouched import unchanged

YES = SingleLogitTarget(True)


@pytest.mark.parametrize(
    ("values", "steps", "area"),
    [
        # what is left: 1, .5, .25, .1, 0 at quarters; trapezoids .3375; probability .1 + .8 of it
        ([0.5, 0.25, 0.15, 0.1], 4, 0.37),
        # three steps of four samples are two of two: 1, .25, 0 at halves; .375
        ([0.5, 0.25, 0.15, 0.1], 3, 0.4),
        # two steps of five samples are three and two: 1, .2, 0 at 0, .6, 1; .36 + .04
        ([0.4, 0.3, 0.1, 0.1, 0.1], 2, 0.42),
        # more steps than samples: one by one
        ([0.5, 0.25, 0.15, 0.1], 100, 0.37),
    ],
)
def test_areas_by_hand(values: list[float], steps: int, area: float) -> None:
    """The network's probability is linear in what is left, so insertion is the mirror image of deletion."""
    x = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    removed = deletion(Call(Kept()), x, YES, x[:, 0], "binary", steps=steps)
    shown = insertion(Call(Kept()), x, YES, x[:, 0], "binary", steps=steps, baseline=0.0)
    assert removed["probability"].tolist() == pytest.approx([area])
    assert shown["probability"].tolist() == pytest.approx([1 - area])


def test_points_are_those_of_the_curve() -> None:
    """The same network: probabilities .9, .5, .3, .18, .1 at quarters, named by the share that is gone."""
    x = torch.tensor([[[0.5, 0.25, 0.15, 0.1]]], dtype=torch.float64)
    found = deletion(Call(Kept()), x, YES, x[:, 0], "binary", steps=4, points=True)
    points = {part: values.item() for part, values in found.items() if part.startswith("probability_at_")}
    at = {
        f"probability_at_{share:g}": p
        for share, p in zip((0, 0.25, 0.5, 0.75, 1), (0.9, 0.5, 0.3, 0.18, 0.1), strict=True)
    }
    assert points == pytest.approx(at)
    assert found["log_odds_at_0.25"].item() == pytest.approx(0, abs=1e-12)
    assert insertion(Call(Kept()), x, YES, x[:, 0], "binary", steps=4, points=True, baseline=0.0)[
        "probability_at_0"
    ].item() == pytest.approx(0.1)


def test_log_odds_by_hand() -> None:
    x = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64)
    found = deletion(Call(Kept()), x, YES, x[:, 0], "binary", steps=2)
    odds = [math.log(p / (1 - p)) for p in (0.9, 0.3, 0.1)]
    assert found["log_odds"].tolist() == pytest.approx([(odds[0] / 2 + odds[1] + odds[2] / 2) / 2])
    other = deletion(Call(Kept()), x, SingleLogitTarget(False), x[:, 0], "binary", steps=2)
    assert other["log_odds"].tolist() == pytest.approx([-v for v in found["log_odds"].tolist()])
    assert other["probability"].tolist() == pytest.approx([1 - v for v in found["probability"].tolist()])


def test_the_right_order_beats_the_wrong_one(rank: int) -> None:
    x = torch.rand(2, 1, *(4,) * rank, generator=torch.Generator().manual_seed(0)).double()
    x = x / x.flatten(1).sum(1).view(-1, *(1,) * (rank + 1))
    right, wrong = x[:, 0], -x[:, 0]
    low, high = (deletion(Call(Kept()), x, YES, p, "binary")["probability"] for p in (right, wrong))
    assert bool((low < high).all())
    high, low = (insertion(Call(Kept()), x, YES, p, "binary", baseline=0.0)["probability"] for p in (right, wrong))
    assert bool((low < high).all())


def test_equal_values_go_in_the_order_of_the_array() -> None:
    x = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64)
    flat = deletion(Call(Kept()), x, YES, torch.zeros(1, 2), "binary", steps=2)
    ranked = deletion(Call(Kept()), x, YES, x[:, 0], "binary", steps=2)
    assert flat["probability"].tolist() == ranked["probability"].tolist()


def test_equal_values_go_in_any_order_where_chance_is_given() -> None:
    """Over many draws the areas of all orders of equal samples come up as often; the highest sample goes first always."""
    x = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]], dtype=torch.float64)
    pixels = torch.tensor([[1.0, 2, 1, 1]])
    found = []
    for seed in range(300):
        chance = torch.Generator().manual_seed(seed)
        found.append(float(deletion(Call(Kept()), x, YES, pixels, "binary", generator=chance)["probability"]))
    for order in itertools.permutations((0.4, 0.2, 0.1)):
        left = torch.tensor([1.0, 0.7, *(0.7 - v for v in itertools.accumulate(order))], dtype=torch.float64)
        area = float(torch.trapezoid(0.1 + 0.8 * left, dx=0.25))
        assert sum(abs(v - area) < 1e-9 for v in found) > 30  # 50 expected, sixth of the draws each


def test_a_flat_map_scores_as_a_random_one() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    generator = torch.Generator().manual_seed(2)
    flat = deletion(Call(net), x, ClassTarget(0), torch.zeros(3, 16, 16), generator=generator)["log_odds"]
    places = torch.empty(256).index_copy_(0, torch.randperm(256, generator=generator), -torch.arange(256.0))
    drawn = deletion(Call(net), x, ClassTarget(0), places.view(1, 16, 16).expand(3, -1, -1))["log_odds"]
    assert torch.equal(flat, drawn)


def test_no_order_beats_that_of_what_a_linear_network_adds_up() -> None:
    """All 120 orders of five samples: the map of weight x input has the lowest area, its negative the highest."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 1)).double()
    x = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0)).double()
    net[1].weight.data = torch.randn(1, 5, generator=torch.Generator().manual_seed(1)).double()
    orders = torch.tensor(list(itertools.permutations(range(5)))).double()
    many = x.expand(120, -1, -1)
    right = net[1].weight.detach() * x[:, 0]
    for metric, sign in ((deletion, 1), (insertion, -1)):
        all_orders = metric(Call(net), many, YES, orders, "binary", baseline=0.0)
        best, worst = (metric(Call(net), x, YES, m, "binary", baseline=0.0) for m in (right, -right))
        for name, values in all_orders.items():
            assert float((sign * values).min()) == pytest.approx(float(sign * best[name]), abs=1e-12)
            assert float((sign * values).max()) == pytest.approx(float(sign * worst[name]), abs=1e-12)


@pytest.mark.parametrize("metric", [deletion, insertion])
def test_one_pass_per_step_and_never_more_at_a_time_than_asked(metric: object) -> None:
    net, x = Linear((2, 8, 8)), inputs(2, side=8).double()
    metric(Call(net), x, ClassTarget(0), x[:, 0], steps=10, batch_size=3)  # type: ignore[operator]
    sizes = [len(seen) for seen in net.seen]
    assert sum(sizes) == 3 * (1 + 10)
    assert max(sizes) == 3
    shown = torch.cat(net.seen[1:])
    assert not any(torch.equal(copy, whole) for copy in shown for whole in x)  # the whole input took no second pass


def test_a_fast_backend_gives_the_same_curve() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = GapNet(2).eval(), inputs(2)
    plain, fast = (
        deletion(Call(net), x, ClassTarget(1), x[:, 0], backend=backend)["log_odds"]
        for backend in (None, "onnxruntime")
    )
    assert fast.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    with pytest.raises(OptionError, match="no backend 'onnx'"):
        deletion(Call(net), x, ClassTarget(1), x[:, 0], backend="onnx")  # type: ignore[arg-type]


@pytest.mark.bug("B16")
def test_equals_torch_cam() -> None:
    """Their metric explains the softmax and scores it: 64 px, ten steps, baseline 0."""
    torchvision = pytest.importorskip("torchvision")
    torchcam = pytest.importorskip("torchcam.methods")
    metrics = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def softmax(y: Tensor) -> Tensor:
        return y.softmax(-1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torchcam.GradCAM(model, "layer4") as extractor:
            theirs = metrics.DeletionInsertionMetric(extractor, softmax, steps=10)
            theirs.update(x, class_idx=[3, 7])
            summary = theirs.summary()
        with torchcam.GradCAM(model, "layer4") as extractor:
            cells = extractor([3, 7], softmax(model(x)))[0]
    # Interpolated as they do, since rounding decides the order of nearly equal samples.
    pixels = torch.nn.functional.interpolate(cells[:, None], size=(64, 64), mode="bilinear")[:, 0]
    target = ClassTarget(torch.tensor([3, 7]))
    removed = float(deletion(Call(model), x, target, pixels, steps=10)["probability"].mean())
    shown = float(insertion(Call(model), x, target, pixels, steps=10, baseline=0.0)["probability"].mean())
    assert removed == pytest.approx(summary["deletion_auc"], abs=1e-8)
    assert shown == pytest.approx(summary["insertion_auc"], abs=1e-8)
    # Noted once on another machine, where rounding orders a few samples differently.
    assert removed == pytest.approx(0.0010988, abs=1e-6)
    assert shown == pytest.approx(0.0010261, abs=1e-6)


def test_what_is_explained_and_what_is_scored_are_apart() -> None:
    """The same order of samples scored for two classes gives two areas."""
    net, x = GapNet(2).eval(), inputs(2)
    pixels = x[:, 0]
    one, other = (deletion(Call(net), x, ClassTarget(c), pixels)["log_odds"] for c in (0, 1))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("metric", [deletion, insertion])
def test_batches_change_nothing(rank: int, metric: object) -> None:
    net, x = GapNet(rank).double().eval(), inputs(rank).double()
    classes = torch.tensor([0, 2, 1])
    whole = metric(Call(net), x, ClassTarget(classes), x[:, 0])  # type: ignore[operator]
    for size in (1, 7, 1000):
        again = metric(Call(net), x, ClassTarget(classes), x[:, 0], batch_size=size)  # type: ignore[operator]
        torch.testing.assert_close(again, whole)
    for i in range(3):
        one = metric(Call(net), x[i : i + 1], ClassTarget(int(classes[i])), x[i : i + 1, 0])  # type: ignore[operator]
        assert one["log_odds"].tolist() == pytest.approx(whole["log_odds"][i : i + 1].tolist())


def test_other_inputs_follow_their_image() -> None:
    class Scaled(GapNet):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale[:, None]

    net, x, scale = Scaled(2).double().eval(), inputs(2).double(), torch.tensor([1.0, -2.0, 3.0])
    whole = deletion(Call(net, args=(scale,), batch=3), x, ClassTarget(0), x[:, 0], batch_size=4)["log_odds"]
    single = [
        float(
            deletion(Call(net, args=(scale[i : i + 1],), batch=1), x[i : i + 1], ClassTarget(0), x[i : i + 1, 0])[
                "log_odds"
            ]
        )
        for i in range(3)
    ]
    assert whole.tolist() == pytest.approx(single)


def test_the_predicted_class_is_decided_once_on_the_whole_input() -> None:
    net, x = GapNet(2).eval(), inputs(2)
    predicted = net(x).argmax(1)
    found = deletion(Call(net), x, ClassTarget(), x[:, 0])
    assert torch.equal(found["log_odds"], deletion(Call(net), x, ClassTarget(predicted), x[:, 0])["log_odds"])


def test_log_odds_of_each_kind_of_target() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    p = logits.softmax(1)[0]

    def odds(target: Target, task: str = "multiclass", output: Tensor = logits) -> float:
        return float(log_odds(target, output, task))

    assert odds(ClassTarget(0)) == pytest.approx(float((p[0] / (1 - p[0])).log()))
    assert odds(ClassTarget(0), "multilabel") == 2
    assert odds(ContrastTarget(2, 0)) == pytest.approx(float((p[2] / p[0]).log()))
    two = logits[:, :2]
    assert odds(ClassTarget(1), output=two) == pytest.approx(odds(ContrastTarget(1, 0), output=two))
    assert odds(SingleLogitTarget(False), "binary", logits[:, :1]) == -2
    assert math.isnan(odds(RegressionTarget(0), "regression"))


def test_baselines() -> None:
    x = torch.tensor([[[0.75, 0.25, 0.0, 0.0]]], dtype=torch.float64)
    one = insertion(Call(Kept()), x, YES, x[:, 0], "binary", steps=1, baseline=0.1)
    assert one["probability"].tolist() == pytest.approx([(0.1 + 0.8 * 0.4 + 0.9) / 2])
    soft = insertion(Call(Kept()), x, YES, x[:, 0], "binary", steps=1)
    expected = (0.1 + 0.8 * float(blur(x).sum()) + 0.9) / 2
    assert soft["probability"].tolist() == pytest.approx([expected])
    with pytest.raises(OptionError, match="no baseline 'grey'"):
        deletion(Call(Kept()), x, YES, x[:, 0], "binary", baseline="grey")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="from 1 up"):
        deletion(Call(Kept()), x, YES, x[:, 0], "binary", steps=0)
    with pytest.raises(BadInput, match="Reduce the channels"):
        deletion(Call(Kept()), x, YES, x, "binary")


def test_undefined_maps_have_no_value_and_others_keep_theirs() -> None:
    x = torch.tensor([[[0.75, 0.25]], [[0.75, 0.25]]], dtype=torch.float64)
    pixels = x[:, 0].clone()
    pixels[0, 1] = torch.nan
    first, second = deletion(Call(Kept()), x, YES, pixels, "binary", steps=2)["probability"].tolist()
    assert math.isnan(first)
    assert second == pytest.approx(
        float(deletion(Call(Kept()), x[:1], YES, x[:1, 0], "binary", steps=2)["probability"])
    )


def test_the_network_and_the_input_are_untouched() -> None:
    net: nn.Module = GapNet(2)
    x = inputs(2)
    given = x.clone()
    with unchanged(net):
        deletion(Call(net), x, ClassTarget(), x[:, 0])
        insertion(Call(net), x, ClassTarget(), x[:, 0])
    assert torch.equal(x, given)
