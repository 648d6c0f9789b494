"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from pellucid.render import lettering
from pellucid.render.overlay import overlay, scales, unit

if TYPE_CHECKING:
    from pellucid.explanation import Explanation

GAP = 14


def grid(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), *, size: int = 15) -> Image.Image:
    """Rows of pictures on white paper, in columns as wide as their widest picture; `titles` stand over the columns.

    Rows may differ in length. size: of the letters, in pixels.
    """
    columns = max((len(row) for row in rows), default=0)
    wide = [max((row[k].width for row in rows if k < len(row)), default=0) for k in range(columns)]
    high = [max((picture.height for picture in row), default=0) for row in rows]
    head = round(size * 1.6) if titles else 0
    paper = Image.new(
        "RGB", (sum(wide) + GAP * (columns + 1), head + sum(high) + GAP * (len(rows) + 1)), (255, 255, 255)
    )
    pen = ImageDraw.Draw(paper)
    lefts = [GAP * (k + 1) + sum(wide[:k]) for k in range(columns)]
    for title, left, room in zip(titles, lefts, wide, strict=False):
        pen.text((left, GAP // 2), lettering.fitted(title, size, room), fill=lettering.INK, font=lettering.font(size))
    top = head + GAP
    for row, height in zip(rows, high, strict=True):
        for picture, left in zip(row, lefts, strict=False):
            paper.paste(picture, (left, top))
        top += height + GAP
    return paper


def side_by_side(explanations: Sequence[Explanation], image: Any = None, **options: Any) -> Image.Image:
    """Several explanations of one input in a row, at one colour scale per unit. Options are those of `overlay`."""
    limits = scales(explanations)
    return grid([[overlay(e, image, limit=limits[unit(e)], **options) for e in explanations]])
