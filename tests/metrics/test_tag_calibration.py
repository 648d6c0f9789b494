from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pellucid.errors import OptionError
from pellucid.metrics.tag_calibration import tag_calibration
from pellucid.record import Finding, Record, Table

Network = tuple[float, float, float, float]  # map on the tag, on the lesions; effect of the tag, of the lesions


def table(networks: list[Network], method: str = "evidence", spread: float = 0.125) -> Table:
    """Two inputs per network, around the means; a third that does not show both."""
    parts = ("tag", "lesions", "tag_effect", "lesions_effect")
    rows = [
        Record(f"s{i}", "", f"rho {k}", method, "tag_share", part, value=value + side * spread, seed=k % 2)
        for k, network in enumerate(networks)
        for part, value in zip(parts, network, strict=True)
        for i, side in enumerate((-1, 1))
    ]
    blind = [Record("s2", "", f"rho {k}", method, "tag_share", "tag", status="undefined") for k in range(len(networks))]
    return Table((*rows, *blind))


def by_part(found: list[Finding]) -> dict[str, Finding]:
    return {f.part: f for f in found}


def test_a_map_that_shares_as_the_network_relies() -> None:
    """Effects of -1 against 3 and of 1 against 3 are both a reliance of a quarter."""
    found = by_part(tag_calibration(table([(1, 3, -1, 3), (2, 2, 5, 5), (3, 1, 9, -3), (4, 0, 7, 0)])))
    assert found["slope"].value == pytest.approx(1)
    assert found["intercept"].value == pytest.approx(0, abs=1e-12)
    assert found["auroc"].value == 1
    assert found["slope"].n == 4
    assert found["slope"].basis == "4 networks, reliance 0.25 to 1.00"


def test_line_and_intervals_against_the_normal_equations() -> None:
    generator = np.random.default_rng(3)
    reliance, share = generator.uniform(0.1, 0.9, (2, 7))
    found = by_part(tag_calibration(table([(s, 1 - s, t, 1 - t) for t, s in zip(reliance, share, strict=True)])))
    design = np.stack([np.ones(7), reliance], 1)
    line, squares = np.linalg.lstsq(design, share, rcond=None)[:2]
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * squares[0] / 5)
    for part, value, error in zip(("intercept", "slope"), line, errors, strict=True):
        f = found[part]
        assert f.value == pytest.approx(value)
        assert (f.low, f.high) == pytest.approx(stats.t.interval(0.95, 5, value, error))
    area = stats.mannwhitneyu(share[reliance > 0.5], share[reliance <= 0.5]).statistic
    count = int((reliance > 0.5).sum())
    assert found["auroc"].value == pytest.approx(area / (count * (7 - count)))


def test_every_method_by_itself() -> None:
    ladder: list[Network] = [(1, 3, 1, 3), (2, 2, 2, 2), (3, 1, 3, 1)]
    blind: list[Network] = [(1, 1, t, 4 - t) for t in (1, 2, 3)]
    found = tag_calibration(Table((*table(ladder).records, *table(blind, "random_map").records)))
    assert {f.method: f.value for f in found if f.part == "slope"} == {"evidence": pytest.approx(1), "random_map": pytest.approx(0)}  # fmt: skip


def test_what_cannot_be_said_is_said() -> None:
    with pytest.raises(OptionError, match="no 'tag_share'"):
        tag_calibration(Table(()))
    few = by_part(tag_calibration(table([(1, 3, 1, 3), (1, 1, 1, 3)])))
    assert {f.value for f in few.values()} == {None}
    assert few["slope"].status == "needs three networks of different reliance"
    assert few["auroc"].status == "no network's reliance is above 0.5"
    empty = by_part(tag_calibration(table([(0, 0, 1, 3), (1, 1, 2, 3), (1, 2, 5, 3)], spread=0)))
    assert {f.status for f in empty.values()} == {"a map is zero on tag and lesions"}
