from __future__ import annotations

import pytest

from pellucid.errors import OptionError
from pellucid.metrics.false_alarm_rate import false_alarm_rate
from pellucid.record import Record, Table


def table(shares: list[float | None], model: str = "rho 0") -> tuple[Record, ...]:
    return tuple(
        Record(
            f"s{i}",
            f"p{i // 2}",
            model,
            "evidence",
            "tag_share",
            value=v,
            status="ok" if v is not None else "undefined",
        )
        for i, v in enumerate(shares)
    )


def test_counts_inputs_above_the_alarm() -> None:
    rows = (*table([0.1, 0.6, 0.5, None, 0.9]), *table([0.4, 0.4], "rho 1"))
    sums = Record("s0", "p0", "rho 0", "evidence", "tag_share", "tag", value=7.0)
    clean, other = false_alarm_rate(Table((*rows, sums)))
    assert (clean.model, clean.value, clean.n, clean.basis) == ("rho 0", 0.5, 4, "4 inputs of 3 groups")
    assert (clean.low, clean.high) == (0.0, 1.0)
    assert (other.model, other.value) == ("rho 1", 0.0)
    assert false_alarm_rate(Table(rows), alarm=0.3)[1].value == 1.0


def test_needs_shares() -> None:
    with pytest.raises(OptionError, match="no 'tag_share'"):
        false_alarm_rate(Table(()))
