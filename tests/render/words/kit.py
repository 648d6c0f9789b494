"""Which numbers a text may hold: those of its explanation, written out from its parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pellucid import spatial
from pellucid.explanation import Explanation


def held(e: Explanation) -> Iterator[float]:
    """Every number that an explanation of one input holds, written out from its parts."""
    score, cells = float(e.score[0]), e.map[0].double()
    yield from (score, abs(score))
    probabilities = e.probabilities()
    if probabilities is not None:
        yield float(probabilities[0])
    shown = cells if e.spread is None else cells * settled_by_hand(e)
    found = [r for r in spatial.regions(shown, e.geometry) if r.value > 0][:3]
    positive, negative = float(cells[cells > 0].sum()), float(-cells[cells < 0].sum())
    yield from (positive, negative, positive + negative)
    for k, r in enumerate(found):
        inside = [float(cells[f.cells & (cells > 0)].sum()) for f in found[: k + 1]]
        yield from (k + 1, r.value, sum(inside) / positive, int(r.cells.sum()) / r.cells.numel())
    if found:
        yield from (score - found[0].value, 1 / (1 + math.exp(found[0].value - score)))
    if e.erased is not None:
        yield from (*e.erased.score[0].tolist(), *e.erased.probability[0].tolist())
    if e.null is not None:
        drawn = e.null.strongest[0, 1:]
        yield from (len(drawn), 0.95, chance_by_hand(drawn))
        for columns in (e.null.strongest[0], e.null.positive[0]):
            yield float((columns >= columns[0]).double().mean())
    if e.spread is not None:
        agreed = agreed_by_hand(e)
        yield from (len(e.spread.names), math.ceil(0.9 * len(e.spread.names)))
        yield float(cells.abs()[agreed].sum() / cells.abs().sum()) if cells.any() else 0.0
        for values in (e.spread.scores[0], e.spread.probabilities[0]):
            yield from (float(values.min()), float(values.max()))


def agreed_by_hand(e: Explanation) -> Tensor:
    assert e.spread is not None
    members, cells = e.spread.maps[0], e.map[0]
    seen = [[m for m in column if not math.isnan(m)] for column in members.flatten(1).T.tolist()]
    same = [
        sum((m > 0) == (own > 0) and (m < 0) == (own < 0) for m in column) >= 0.9 * len(column)
        for own, column in zip(cells.flatten().tolist(), seen, strict=True)
    ]
    return torch.tensor(same).view(cells.shape)


def settled_by_hand(e: Explanation) -> Tensor:
    agreed = agreed_by_hand(e)
    return agreed if e.null is None else agreed & (e.map[0].abs() > chance_by_hand(e.null.strongest[0, 1:]))


def chance_by_hand(drawn: Tensor) -> float:
    """What 95 % of n surrogates and the input itself stay within, were it one of them; of nineteen the largest."""
    return sorted(drawn.tolist())[math.ceil(0.95 * (len(drawn) + 1)) - 1]


NUMBER = re.compile(r"(more than |less than |mehr als |weniger als )?([+-]?)(\d+)(?:[.,](\d+))?(?:e([+-]\d+))?(\s?%)?")


def printed(text: str, names: Sequence[str]) -> list[tuple[float, float, str]]:
    """Every number of a text: its value, half of its last digit, and the words that make it a limit."""
    for name in names:
        text = text.replace(name, "")
    found = []
    for limit, sign, whole, decimals, exponent, percent in NUMBER.findall(text):
        scale = 10.0 ** (int(exponent or 0) - 2 * bool(percent))
        value = float(f"{sign}{whole}.{decimals or 0}") * scale
        found.append((value, 0.5 * 10.0 ** -len(decimals) * scale, limit))
    return found


def unheld(text: str, known: Sequence[float], names: Sequence[str]) -> list[float]:
    """The numbers of a text that are not among the known ones at the printed rounding. names: of classes, which may hold digits."""

    def there(value: float, half: float, limit: str) -> bool:
        if limit:
            more = limit.startswith(("more", "mehr"))
            return any((value < v < 1) if more else (0 < v < value) for v in known)
        return any(abs(value - v) <= half * (1 + 1e-6) + 1e-6 * abs(v) for v in known)

    return [value for value, half, limit in printed(text, names) if not there(value, half, limit)]
