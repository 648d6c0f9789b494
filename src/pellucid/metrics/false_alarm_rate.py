"""How often a map puts more on a tag than on the lesions, for networks that have no reason to."""

from __future__ import annotations

from collections import defaultdict

from pellucid.metrics.tag_calibration import tagged
from pellucid.record import Finding, Record, Table, mean_interval


def false_alarm_rate(table: Table, *, alarm: float = 0.5, seed: int = 0) -> list[Finding]:
    """Per network and method the share of inputs whose map has more than `alarm` of tag and lesions on the tag.

    Out of the records of the metric `tag_share`, of networks trained where the tag says nothing of the label (rho = 0): there
    an alarm is false. Of other networks the same number is how often the map raises the alarm. Intervals over groups.

    Raises `OptionError` where the table has no such records.
    """
    rows: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for r in tagged(table):
        if r.part == "" and r.value is not None:
            rows[r.model, r.method].append(r)
    found = []
    for (model, method), records in rows.items():
        alarms = [float(r.value > alarm) for r in records if r.value is not None]
        rate = mean_interval(alarms, [r.group or r.sample for r in records], seed=seed)
        found.append(
            Finding(
                "false_alarm_rate",
                model,
                method,
                "tag_share",
                value=rate.mean,
                low=rate.low,
                high=rate.high,
                n=rate.n,
                basis=f"{rate.n} inputs of {rate.groups} groups",
            )
        )
    return found
