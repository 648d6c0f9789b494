from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from pellucid.render.ledger import printed, signed


def ledger(values: list[float], score: float) -> dict[str, Any]:
    return {
        "target": "diseased",
        "score": score,
        "rows": [{"what": f"row {k}", "value": v, "where": "x 0 to 8"} for k, v in enumerate(values)],
    }


@pytest.mark.parametrize("seed", range(20))
def test_printed_rows_add_up_to_the_printed_sum(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, 3, 9).tolist()
    shown = printed(ledger(values, float(np.sum(values))))
    assert sum(Decimal(r.value) for r in shown.rows) == Decimal(shown.total)
    assert abs(Decimal(shown.total) - Decimal(shown.score)) <= Decimal("0.0005")


def test_small_values_are_told_beside_the_row() -> None:
    shown = printed(ledger([1.0, -3.1e-7], 1.0))
    assert [r.value for r in shown.rows] == ["+1.0000", "+0.0000"]
    assert shown.rows[1].where == "x 0 to 8 (-3.1e-07)"
    assert shown.total == "+1.0000"


def test_what_is_no_number_is_not_added() -> None:
    shown = printed(ledger([1.0, float("nan")], float("nan")))
    assert shown.total == shown.score == "not defined"


def test_signs() -> None:
    assert [signed(v) for v in (0.0, -0.0, -1e-9, 2.5, -2.50004, None)] == [
        "+0.0000",
        "+0.0000",
        "+0.0000",
        "+2.5000",
        "-2.5000",
        "not defined",
    ]
