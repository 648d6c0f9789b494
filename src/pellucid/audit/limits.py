"""The limits of a policy beside the figures of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

from pellucid.audit.policy import Limit, Policy
from pellucid.errors import OptionError, nearest
from pellucid.reporting.audit import Figure, LimitLine


def judged(
    policy: Policy, lines: Mapping[str, int], figures: Mapping[str, Figure], missing: Mapping[str, str]
) -> Iterator[LimitLine]:
    """Every limit of the policy, compared with its figure. What was not measured is not met.

    lines: in which line of the policy's file each limit stands. missing: the beginnings of the keys that this audit could
    not measure, and why. Raises `OptionError` for a limit on what no audit measures.
    """
    for key, limit in policy.limits.items():
        why = next((why for beginning, why in missing.items() if key.startswith(beginning)), None)
        if key in figures:
            met, words = within(figures[key], limit, policy.judged_by), f"Measured {figures[key]}."
        elif why is not None:
            met, words = False, f"Not measured: {why}"
        else:
            where = f"Line {lines[key]} of the policy: it" if key in lines else "It"
            raise OptionError(
                f"The policy limits '{key}', which this audit does not measure.", why=f"{where} is no figure of the report.", hint=nearest(key, figures)
            )  # fmt: skip
        yield LimitLine(key, str(limit), met, words, lines.get(key, 0))


def within(figure: Figure, limit: Limit, judged_by: str) -> bool:
    """Whether the figure lies within the limit: its whole interval, or the estimate. What has no number does not.

    An effect is judged by its size, whatever its sign.
    """
    interval = figure.interval
    low, high = (interval.low, interval.high) if judged_by == "interval" else (interval.mean, interval.mean)
    if figure.sized:
        low, high = (0.0 if low < 0 < high else min(abs(low), abs(high))), max(abs(low), abs(high))
    if not (isfinite(low) and isfinite(high)):
        return False
    return (limit.at_least is None or low >= limit.at_least) and (limit.at_most is None or high <= limit.at_most)
