"""Mending: what training gets to see, what the conditions show, and a shortcut that is really gone afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import pellucid as pl
from audit.kit import MeanNet, sample
from pellucid.audit.mending import AGREES, AS_IS, CONTRADICTS, Conditions, ExchangedZone, PricedZone, compared
from pellucid.audit.observe import Part
from pellucid.audit.zones import fixed, zone
from pellucid.sample import Sample, collate
from reference.samples import Held

SIDE = 8
CORNER = zone("box:0,0,0.25,0.25")  # two pixels wide, two high


def marked(index: int) -> Sample:
    """The corner says the class in red; the centre says it as well, more faintly, in blue."""
    label = index % 2
    x = 0.3 * torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
    x[1, 3:6, 3:6] += 0.6 if label else -0.6
    x[0, :2, :2] = 5.0 if label else -5.0
    return sample(index, x, label)


def corner_of(s: Sample) -> float:
    return float(s.input[0, :2, :2].mean())


def held(n: int = 60, start: int = 0) -> Held:
    return Held([marked(start + k) for k in range(n)])


def test_exchanged_zones_go_with_no_class_and_the_rest_stays() -> None:
    data = held(200)
    changed = ExchangedZone(data, tuple(range(200)), CORNER)
    agree = Counter((corner_of(changed[k]) > 0) == bool(data[k].label) for k in range(200))
    assert 70 < agree[True] < 130  # half of them, as chance has it
    for k in range(5):
        assert torch.equal(changed[k].input[:, 2:], data[k].input[:, 2:])
        assert changed[k].label == data[k].label
    assert torch.equal(changed[7].input, changed[7].input)  # the same at every reading
    other = ExchangedZone(data, tuple(range(200)), CORNER, seed=1)
    assert any(corner_of(changed[k]) != corner_of(other[k]) for k in range(20))
    assert len({changed.fingerprint, other.fingerprint, data.fingerprint}) == 3


def test_a_price_on_a_zone_is_a_mask_of_everything_else() -> None:
    changed = PricedZone(held(4), (0, 2), CORNER)
    mask = changed[1].mask
    assert mask is not None
    assert int(mask.sum()) == SIDE * SIDE - 4
    assert not bool(mask[:2, :2].any())
    assert torch.equal(changed[1].input, held()[2].input)
    assert PricedZone(held(1), (0,), zone("sample:none"))[0].mask is None


@pytest.mark.parametrize(("condition", "agrees"), [(AGREES, True), (CONTRADICTS, False)])
def test_zones_from_samples_of_the_same_class_or_of_another(condition: str, agrees: bool) -> None:
    data = held()
    for samples, x in Conditions(CORNER, 1, None).batches(data, condition):
        assert len(samples) == 60
        for s, one in zip(samples, x, strict=True):
            assert (float(one[0, :2, :2].mean()) > 0) == (bool(s.label) == agrees)
            assert torch.equal(one[:, 2:], s.input[:, 2:])


@dataclass(frozen=True)
class Shown:
    index: int
    there: bool

    def __call__(self) -> Sample:
        x = marked(self.index).input.clone()
        x[:, :2, :2] = 5.0 if self.there else 0.0
        return sample(self.index, x)


@pytest.mark.parametrize("effect", [1.0, -1.0])
@pytest.mark.parametrize(("condition", "agrees"), [(AGREES, True), (CONTRADICTS, False)])
def test_rendered_with_the_thing_as_goes_with_the_class(effect: float, condition: str, agrees: bool) -> None:
    recipes = [{"with thing": Shown(k, True), "without thing": Shown(k, False)} for k in range(6)]
    data = Held([sample(k, zones={}, alternatives=recipes[k]) for k in range(6)])
    for samples, x in Conditions(zone("sample:thing"), 1, effect).batches(data, condition):
        for s, one in zip(samples, x, strict=True):
            there = float(one[0, 0, 0]) == 5.0
            assert there == ((s.label == 1) == ((effect > 0) == agrees))


def test_as_they_are_nothing_is_changed() -> None:
    for samples, x in Conditions(CORNER, 1, None).batches(held(), AS_IS):
        assert torch.equal(x, collate(samples))


def test_two_networks_are_compared_on_the_same_samples() -> None:
    """One answers by the mean, one says the opposite."""

    class Opposite(MeanNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1)

    data = held()
    parts = [[Part("p", net, data)] for net in (MeanNet(), Opposite())]
    labels, scores = [s.label for s in data.samples], [float(s.input.mean()) for s in data.samples]
    rows = {row.metric: row for row in compared(*parts, Conditions(CORNER, 1, None), AS_IS)}
    right = [bool(MeanNet()(data[k].input[None])[0].argmax() == data[k].label) for k in range(60)]
    assert rows["accuracy"].before.mean == pytest.approx(sum(right) / 60)
    assert rows["accuracy"].after.mean == pytest.approx(1 - sum(right) / 60)
    assert rows["accuracy"].difference.mean == pytest.approx(1 - 2 * sum(right) / 60)
    assert rows["auc"].before.mean == pytest.approx(roc_auc_score(labels, scores))
    assert rows["auc"].after.mean == pytest.approx(1 - rows["auc"].before.mean)
    assert rows["accuracy"].key == "as_they_are.accuracy"


def small() -> nn.Module:
    """It sees single pixels: a price on the corner's cells is a price on all that is known of the corner."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU())
        return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize("how", ["exchange", "penalty"])
def test_a_tiny_network_unlearns_the_corner(how: str) -> None:
    """Before, it answers by the corner when the corner lies. After, it reads the centre."""
    data, rows = held(80), tuple(range(80))
    changed = ExchangedZone(data, rows, CORNER) if how == "exchange" else PricedZone(data, rows, CORNER)
    price = {"penalty": "mask", "strength": 30.0} if how == "penalty" else {}

    def train(on: object, **more: object) -> Part:
        softcam = pl.convert(small(), collate([data[0]]), classes=data.classes)
        recipe = pl.TrainingConfig(epochs=10, batch_size=16, lr=0.05, seed=0, **more)
        return Part("p", pl.train(softcam, on, recipe, progress=False).model.eval(), held(60, 1000))

    before, after = train(data), train(changed, **price)
    conditions = Conditions(fixed("corner", CORNER.of(data[0])), 1, None)  # type: ignore[arg-type]
    found = {c: next(r for r in compared([before], [after], conditions, c) if r.metric == "accuracy") for c in (AGREES, CONTRADICTS)}  # fmt: skip
    assert found[AGREES].before.mean > 0.95
    assert found[CONTRADICTS].before.mean < 0.3
    assert found[CONTRADICTS].after.mean > 0.8
    assert found[CONTRADICTS].difference.low > 0.3
