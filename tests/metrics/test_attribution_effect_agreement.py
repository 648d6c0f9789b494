from __future__ import annotations

import numpy as np
import pytest

from pellucid.errors import OptionError
from pellucid.metrics.attribution_effect_agreement import attribution_effect_agreement
from pellucid.record import Finding, Record, Table

Pairs = list[tuple[float, float]]  # of one input: the map's sum in a region, and the region's effect


def table(patients: dict[str, list[Pairs]], correlation: float | None = 0.5) -> Table:
    rows = []
    for patient, inputs in patients.items():
        for k, pairs in enumerate(inputs):
            x, y = np.array(pairs).T
            parts = {"": correlation, "regions": len(x), "attributed": x.mean(), "measured": y.mean(), "attributed_squared": (x**2).mean(), "product": (x * y).mean()}  # fmt: skip
            rows += [Record(f"{patient}-{k}", patient, "net", "cam", "effect_agreement", p, value=v, status="ok" if v is not None else "undefined") for p, v in parts.items()]  # fmt: skip
    return Table(tuple(rows))


def slope(found: list[Finding]) -> Finding:
    return next(f for f in found if f.part == "slope")


def test_slope_is_that_of_the_line_through_all_regions() -> None:
    generator = np.random.default_rng(0)
    patients = {
        f"p{k}": [
            [(float(x), float(0.7 * x + 0.2 + generator.normal() / 4)) for x in generator.normal(size=n)]
            for n in (3, 5)
        ]
        for k in range(6)
    }
    found = slope(attribution_effect_agreement(table(patients)))
    every = np.array([pair for inputs in patients.values() for pairs in inputs for pair in pairs])
    assert found.value == pytest.approx(np.polyfit(every[:, 0], every[:, 1], 1)[0])
    assert (found.n, found.basis) == (48, "48 regions of 6 groups")


def test_interval_resamples_patients() -> None:
    """Every patient has a slope of its own, exact on all of its images; one at a time is drawn out of two."""
    patients = {name: [[(x, s * x) for x in (-1.0, 0.0, 1.0)]] * 4 for name, s in (("p", 1.0), ("q", 3.0))}
    found = slope(attribution_effect_agreement(table(patients)))
    assert (found.value, found.low, found.high) == (pytest.approx(2), pytest.approx(1), pytest.approx(3))


def test_mean_of_correlations() -> None:
    flat = table({"p": [[(1, 1), (2, 2), (3, 3)]], "q": [[(1, 1), (2, 2), (3, 3)]]})
    found = attribution_effect_agreement(flat)[0]
    assert (found.part, found.value, found.low, found.high, found.n) == ("rank_correlation", 0.5, 0.5, 0.5, 2)


def test_what_cannot_be_said_is_said() -> None:
    with pytest.raises(OptionError, match="no 'effect_agreement'"):
        attribution_effect_agreement(Table(()))
    constant, line = attribution_effect_agreement(table({"p": [[(1, 1), (1, 2)]]}, correlation=None))
    assert (constant.value, constant.status) == (None, "no input has three regions")
    assert (line.value, line.status) == (None, "the map is the same in all regions")
