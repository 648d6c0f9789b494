"""Parts of the input that a network may have no business with, declared in a few words.

corners[:SHARE]    squares in all corners, sides SHARE of the input's (0.2)
border[:SHARE]     a frame as wide as SHARE of the input's sides (0.06)
box:X0,Y0,X1,Y1    a box, in shares of the sides from the upper left (a signal's: box:START,END)
sample:NAME        the zone of that name that the samples bring along (LesionLab's "marker")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from pellucid import spatial
from pellucid.errors import OptionError, nearest
from pellucid.sample import Sample

Mask = Bool[Tensor, "*spatial"]
KINDS = ("corners", "border", "box", "sample")


@dataclass(frozen=True)
class Zone:
    """name: as declared. of: the zone of a sample as a mask, None where the sample has none."""

    name: str
    of: Callable[[Sample], Mask | None] = field(repr=False)

    @property
    def thing(self) -> str:
        """What can be shown and left out in this zone, where the samples are rendered."""
        return self.name.partition(":")[2] if self.name.startswith("sample:") else ""


def zone(text: str) -> Zone:
    """The zone that a declaration means. Raises `OptionError` for one that means nothing."""
    kind, _, argument = text.strip().partition(":")
    if kind not in KINDS:
        raise OptionError(f"There is no zone '{text}'.", why=_FORMS, hint=nearest(kind, KINDS))
    if kind == "sample" and argument:
        return Zone(text, lambda sample: sample.zones.get(argument))
    if kind == "box":
        return _fixed(text, _box(text, argument))
    if kind in _WIDTHS:
        return _fixed(text, _near_ends(text, argument, _WIDTHS[kind], every_axis=kind == "corners"))
    raise OptionError(f"The zone '{text}' is not understood.", why=_FORMS, hint=f"For example {_EXAMPLES[kind]}.")


_WIDTHS = {"corners": 0.2, "border": 0.06}
_EXAMPLES = {"sample": "sample:marker", "box": "box:0,0,0.2,0.2", "corners": "corners:0.2", "border": "border:0.06"}
_FORMS = "Zones are corners:SHARE, border:SHARE, box:X0,Y0,X1,Y1 and sample:NAME."


def fixed(name: str, mask: Mask) -> Zone:
    """The same place in every sample."""
    return Zone(name, lambda sample: mask)


def box_around(mask: Mask) -> str:
    """The declaration of the smallest box around a mask."""
    inside, size = torch.nonzero(mask), torch.tensor(mask.shape)
    low, high = (inside.min(0).values / size).flip(0), ((inside.max(0).values + 1) / size).flip(0)
    return "box:" + ",".join(f"{share:.3g}" for share in (*low.tolist(), *high.tolist()))


def _fixed(text: str, draw: Callable[[Sequence[int]], Mask]) -> Zone:
    return Zone(text, lambda sample: draw(tuple(sample.input.shape[1:])))


def _near_ends(text: str, argument: str, usual: float, *, every_axis: bool) -> Callable[[Sequence[int]], Mask]:
    """Samples near an end of every axis (corners) or of any (border)."""
    (share,) = _numbers(text, argument or str(usual), (1,))
    if not 0 < share < 0.5:
        raise OptionError(f"The zone '{text}' is {share:g} wide.", why="A share of the side between 0 and 0.5 is needed.", hint=f"For example {_EXAMPLES[text.partition(':')[0]]}.")  # fmt: skip

    def draw(size: Sequence[int]) -> Mask:
        near = torch.full(tuple(size), every_axis)
        for along in _near(size, share):
            near = near & along if every_axis else near | along
        return near

    return draw


def _near(size: Sequence[int], share: float) -> Iterator[Mask]:
    """For each axis the samples near its ends, shaped to be broadcast."""
    for axis, n in enumerate(size):
        width = max(1, round(share * n))
        ends = torch.zeros(n, dtype=torch.bool)
        ends[:width] = ends[n - width :] = True
        yield ends.view(-1, *(1,) * (len(size) - 1 - axis))


def _box(text: str, argument: str) -> Callable[[Sequence[int]], Mask]:
    shares = _numbers(text, argument, (2, 4, 6))
    rank = len(shares) // 2
    if not all(0 <= low < high <= 1 for low, high in zip(shares[:rank], shares[rank:], strict=True)):
        raise OptionError(
            f"The zone '{text}' is no box.", why="Its corners are shares of the sides, the low corner first.", hint=f"For example {_EXAMPLES['box']}."
        )  # fmt: skip

    def draw(size: Sequence[int]) -> Mask:
        if rank != len(size):
            raise OptionError(
                f"The zone '{text}' has {rank} axes.", why=f"The inputs have {len(size)}.", hint=f"Give {2 * len(size)} numbers."
            )  # fmt: skip
        sides = tuple(reversed(size))
        return spatial.boxes_to_mask([[share * n for share, n in zip(shares, (*sides, *sides), strict=True)]], size)

    return draw


def _numbers(text: str, argument: str, counts: Sequence[int]) -> list[float]:
    try:
        found = [float(part) for part in argument.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts:
        raise OptionError(
            f"The zone '{text}' is not understood.", why=_FORMS, hint=f"For example {_EXAMPLES[text.partition(':')[0]]}."
        )  # fmt: skip
    return found
