"""What a zone does to a network whose answers can be computed by hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from math import isnan

import pytest
import torch
from torch import Tensor, nn

from audit.kit import BIAS, OFFSET, SIDE, SLOPE, MeanNet, Plain, noise, sample, score
from pellucid.audit.observe import Drawing, Part, Question, Reading, observe
from pellucid.audit.zones import fixed, zone
from pellucid.errors import BadInput, OptionError
from pellucid.sample import Sample
from reference.samples import Held

AREA = SIDE * SIDE


def of(samples: list[Sample], network: nn.Module | None = None, **asked: object) -> list[Reading]:
    return observe(Part("p", network or MeanNet(), Held(samples)), Question(1, **asked))  # type: ignore[arg-type]


def corner() -> Tensor:
    """Three pixels wide, two high: one whole cell and half of the next."""
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[:2, :3] = True
    return inside


def grey(level: float, inside: float) -> Tensor:
    x = torch.full((1, SIDE, SIDE), level)
    return torch.where(corner(), inside, x)


def test_answers_scores_and_digests_in_the_samples_order() -> None:
    samples = [sample(k) for k in range(7)]
    found = of(samples, batch_size=3)  # the last of seven joins the batch before it
    assert [r.sample for r in found] == [f"s{k}" for k in range(7)]
    for r, s in zip(found, samples, strict=True):
        assert r.score == pytest.approx(score(s.input), abs=1e-6)
        logits = s.input.double().mean() * torch.tensor([0.5, 2.0], dtype=torch.double) + BIAS.double()
        assert r.probabilities == pytest.approx(logits.softmax(0).tolist(), abs=1e-6)
        assert (r.label, r.positive) == (s.label, s.label == 1)
        assert r.digest == sha256(s.input.numpy().tobytes()).hexdigest()
        cells = nn.functional.avg_pool2d(s.input, 2) * SLOPE / (AREA / 4)
        assert r.size == pytest.approx(float(cells.abs().sum()), abs=1e-5)


def test_the_other_class_has_the_opposite_score() -> None:
    samples = [sample(k) for k in range(3)]
    one, other = (observe(Part("p", MeanNet(), Held(samples)), Question(c)) for c in (1, 0))
    assert [r.score for r in one] == pytest.approx([-r.score for r in other])
    assert [r.positive for r in one] == [not r.positive for r in other]


def test_a_zone_given_to_the_only_stranger() -> None:
    """With two samples each is the other's stranger, every time."""
    samples = [sample(0), sample(1)]
    inside = corner()
    found = of(samples, zones=[fixed("z", inside)])
    zone_of = [float(s.input[0][inside].sum()) for s in samples]
    for k in (0, 1):
        reading = found[k].zones["z"]
        assert reading.given == pytest.approx(SLOPE * (zone_of[k] - zone_of[1 - k]) / AREA, abs=1e-6)
        assert reading.area == 6 / AREA


def test_evidence_in_a_zone_counts_cells_by_their_share() -> None:
    s = sample(0)
    (found, _) = of([s, sample(1)], zones=[fixed("z", corner())])
    share = torch.zeros(SIDE, SIDE)
    share[:2, :2], share[:2, 2:4] = 1, 0.5  # half of the second cell lies in the zone
    cells = nn.functional.avg_pool2d(s.input[0][None], 2)[0].repeat_interleave(2, 0).repeat_interleave(2, 1) / AREA
    assert found.zones["z"].evidence == pytest.approx(SLOPE * float((cells * share).sum()), abs=1e-6)
    whole = float(cells.abs().sum())
    assert found.zones["z"].mass == pytest.approx(float((cells.abs() * share).sum()) / whole, abs=1e-6)


def test_a_zone_removed_becomes_its_surroundings() -> None:
    """On a plain grey there is one thing that the surroundings predict."""
    samples = [sample(0, grey(1.0, 4.0)), sample(1, grey(-2.0, -2.0))]
    changed, same = of(samples, zones=[fixed("z", corner())])
    assert changed.zones["z"].removed == pytest.approx(SLOPE * 3 * 6 / AREA, abs=1e-6)
    assert same.zones["z"].removed == pytest.approx(0, abs=1e-6)


def test_of_a_zone_too_large_nothing_is_imputed() -> None:
    (found, _) = of([sample(0), sample(1)], zones=[zone("box:0,0,1,0.6")])
    assert isnan(found.zones["box:0,0,1,0.6"].removed)
    assert not isnan(found.zones["box:0,0,1,0.6"].given)


@dataclass(frozen=True)
class Rendered:
    index: int
    there: bool

    def __call__(self) -> Sample:
        x = noise(self.index)
        return sample(self.index, torch.where(corner(), x + 3, x) if self.there else x, zones={"thing": corner()})


def rendered(index: int) -> Sample:
    recipes = {"with thing": Rendered(index, True), "without thing": Rendered(index, False)}
    return Rendered(index, index % 2 == 0)().changed(alternatives=recipes)


def test_a_thing_is_shown_and_left_out() -> None:
    effect = SLOPE * 3 * 6 / AREA
    for k, r in enumerate(of([rendered(k) for k in range(4)], zones=[zone("sample:thing")])):
        reading = r.zones["sample:thing"]
        assert reading.shown == pytest.approx(effect, abs=1e-6)
        assert reading.removed == pytest.approx(effect if k % 2 == 0 else 0, abs=1e-6)
        # Of the evidence in the zone's cells, one whole and one half: 4 and 2 x 1/2 of the six pixels' worth.
        assert reading.with_it - reading.without == pytest.approx(SLOPE * 3 * (4 + 2 / 2) / AREA, abs=1e-6)


def test_a_drawing_is_painted_where_it_is_not_and_imputed_where_it_is() -> None:
    samples = [sample(0, grey(1.0, 5.0)), sample(1, grey(1.0, 1.0)), sample(2, grey(-2.0, 5.0))]
    drawing = Drawing(fixed("drawing 1", corner()), torch.full((1, SIDE, SIDE), 5.0), frozenset({"s0", "s2"}), "box")
    found = [r.zones["drawing 1"] for r in of(samples, drawings=[drawing])]
    assert [z.shown for z in found] == pytest.approx([SLOPE * rise * 6 / AREA for rise in (4, 4, 7)], abs=1e-6)


def test_evidence_outside_the_mask_and_what_the_mask_holds() -> None:
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[2:4, 2:6] = True  # two cells
    x = torch.where(inside, 3.0, torch.ones(1, SIDE, SIDE))
    found, without = of([sample(0, x, mask=inside), sample(1)])
    assert found.outside == pytest.approx((AREA - 8) / (AREA - 8 + 8 * 3), abs=1e-6)
    assert found.outside_area == (AREA - 8) / AREA
    assert found.unmasked == pytest.approx(SLOPE * 2 * 8 / AREA, abs=1e-6)
    assert isnan(without.outside)
    assert isnan(without.unmasked)


def test_a_network_without_evidence_still_tells_what_a_zone_does() -> None:
    samples = [sample(0), sample(1)]
    plain, softcam = (of(samples, net, zones=[fixed("z", corner())]) for net in (Plain(), MeanNet()))
    for one, other in zip(plain, softcam, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
        assert one.zones["z"].given == pytest.approx(other.zones["z"].given, abs=1e-6)
        assert isnan(one.zones["z"].mass)
        assert isnan(one.size)


class Yes(Plain):
    """One logit: the log-odds themselves."""

    task = "binary"

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits[:, 1:] - logits[:, :1]


def test_a_single_logit_is_the_log_odds() -> None:
    samples = [sample(k) for k in range(3)]
    for one, two in zip(of(samples, Yes()), of(samples, Plain()), strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-6)
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-6)


class Three(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), 0.3 * x.mean((1, 2, 3))[:, None]], 1)


def test_of_three_classes_one_is_weighed_against_the_rest() -> None:
    x = noise(0)
    (found, _) = of([sample(0, x), sample(1)], Three())
    p = Three()(x[None]).detach().double().softmax(1)[0]
    assert found.score == pytest.approx(float((p[1] / (1 - p[1])).log()), abs=1e-6)


class Several(Plain):
    task = "multilabel"


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(OptionError, match="multilabel network cannot be audited"):
        of([sample(0), sample(1)], Several())
    with pytest.raises(OptionError, match="has no class"):
        of([sample(0).changed(label=None)])


def test_what_cannot_be_read_is_left_out_and_noted() -> None:
    class Broken(Held):
        def __getitem__(self, index: int) -> Sample:
            if index == 1:
                raise BadInput("It is cut off.")
            return super().__getitem__(index)

    skipped: dict[str, str] = {}
    ticks: list[int] = []
    part = Part("p", MeanNet(), Broken([sample(k) for k in range(4)]))
    found = observe(part, Question(1, batch_size=2), skipped=skipped, tick=ticks.append)
    assert [r.sample for r in found] == ["s0", "s2", "s3"]
    assert skipped == {"s1": "It is cut off."}
    assert sum(ticks) == 4


def test_equal_seeds_give_equal_readings_and_the_network_stays_what_it_was() -> None:
    network = MeanNet().train()
    samples = [sample(k) for k in range(6)]
    first, again = (of(samples, network, zones=[zone("corners")], seed=3) for _ in range(2))
    told, told_again = ([str(asdict(r)) for r in readings] for readings in (first, again))
    assert told == told_again  # as words: what is not known is NaN, unequal to itself
    assert network.training
    assert network.scale.grad is None
    assert pytest.approx(-0.3) == OFFSET
