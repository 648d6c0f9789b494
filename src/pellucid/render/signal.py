"""A signal along its time axis: one lane per channel, and below them what every cell says, in the map's unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from pellucid.render import lettering
from pellucid.render.colour import diverging

RULE = (201, 206, 211)
CHANCE = 222  # grey of what chance stays within
_FINE = 3  # drawn large and reduced, for smooth lines
_LOW, _HIGH = 0.92, 0.08  # where the lowest and the highest value of a channel are drawn, as shares of its lane


@dataclass(frozen=True)
class Axes:
    """What is written around a signal.

    ranges: lowest and highest value of every lane. samples: how many lie on the time axis. rate: of them in one `unit` of
    time; None counts samples. cells: the map's value at every column of the picture.
    """

    ranges: tuple[tuple[float, float], ...]
    samples: int
    rate: float | None
    unit: str
    cells: Float[np.ndarray, "columns"]

    def time(self) -> str:
        return f"time ({self.unit})" if self.rate else "time (samples)"


@dataclass(frozen=True)
class Strip:
    """The scale of the values below the lanes: full colour and full height at `limit`, which some may exceed.

    band: what chance stays within, drawn in grey behind the values; 0 for no band.
    """

    limit: float
    unit: str
    exceeded: bool
    band: float = 0.0

    def labels(self) -> list[str]:
        """At the top, the middle and the bottom."""
        if self.limit <= 0:
            return ["", "0", ""]
        beyond = (">= ", "<= ") if self.exceeded else ("", "")
        return [f"{beyond[0]}{self.limit:+.2g}", "0", f"{beyond[1]}{-self.limit:+.2g}"]


def curves(channels: Float[np.ndarray, "channels time"], width: int, lane: int) -> UInt8[np.ndarray, "height width"]:
    """Every channel as a line in a lane of its own, spread over its own range: 0 paper to 255 ink."""
    sheet = Image.new("L", (width * _FINE, lane * max(len(channels), 1) * _FINE))
    pen = ImageDraw.Draw(sheet)
    for k, (curve, (low, high)) in enumerate(zip(np.nan_to_num(channels), ranges(channels), strict=True)):
        share = (curve - low) / (high - low) if high > low else np.full(len(curve), 0.5)
        x = (np.arange(len(curve)) + 0.5) * width * _FINE / len(curve)
        y = (k + _LOW + (_HIGH - _LOW) * share) * lane * _FINE
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255, width=4, joint="curve")
    return np.asarray(sheet.resize((width, lane * max(len(channels), 1)), Image.Resampling.BOX))


def ranges(channels: Float[np.ndarray, "channels time"]) -> tuple[tuple[float, float], ...]:
    """Lowest and highest value of every channel."""
    return tuple((float(c.min()), float(c.max())) for c in np.nan_to_num(channels))


def framed(picture: Image.Image, lines: Sequence[str], axes: Axes, strip: Strip | None) -> Image.Image:
    """The lanes with titles above, values at the left, the strip of cells and the time below. strip None: no cells."""
    size = min(max(picture.width // 40, 11), 18)
    step = round(size * 1.35)
    lane = picture.height // max(len(axes.ranges), 1)
    marks = [_lane_ticks(low, high, lane, size) for low, high in axes.ranges]
    left = _margin(marks, strip, size)
    top = step * len(lines) + (4 if lines else 0) + size // 2
    deep = 0 if strip is None else max(picture.width // 6, 4 * size)
    ground = top + picture.height + (step + deep if strip else 0)
    names = [f"channel {k}" for k in range(1, len(marks) + 1)] if len(marks) > 1 else [""]
    right = 8 + max(size, *(lettering.width(name, size) for name in names))
    paper = Image.new("RGB", (left + picture.width + right, ground + 2 * step + 6), (255, 255, 255))
    pen = ImageDraw.Draw(paper)
    for k, line in enumerate(lines):
        colour = lettering.INK if k == 0 else lettering.FAINT
        pen.text((0, k * step), lettering.fitted(line, size, paper.width), fill=colour, font=lettering.font(size))
    paper.paste(picture, (left, top))
    for k, (name, found) in enumerate(zip(names, marks, strict=False)):
        _draw_lane(pen, (left, top + k * lane, picture.width, lane), found, size, name)
    if strip is not None:
        _draw_strip(paper, pen, (left, top + picture.height + step, deep), axes.cells, strip, size)
    _draw_time(pen, (left, ground, picture.width), axes, size)
    return paper


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers from `low` to `high`, their step 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most, 1)
    power = 10.0 ** floor(log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    return [step * k for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


Marks = list[tuple[float, str]]  # where, in pixels from the lane's upper edge, and the words


def _lane_ticks(low: float, high: float, lane: int, size: int) -> Marks:
    if not high > low:
        return [(lane / 2, f"{low:.4g}")]
    found = (ticks(low, high, most) for most in range(min(lane // (2 * size), 4), 9))
    values = next(some for some in found if len(some) > 1)  # one number alone gives no scale
    return [((_LOW + (_HIGH - _LOW) * (v - low) / (high - low)) * lane, f"{v:.4g}") for v in values]


def _margin(marks: Sequence[Marks], strip: Strip | None, size: int) -> int:
    """Room for the words at the left; at least that of a usual scale, so that pictures line up with and without one."""
    words = [">= +0.00", *(text for found in marks for _, text in found), *(strip.labels() if strip else ())]
    return max(lettering.width(word, size) for word in words) + 8 + size


def _draw_lane(pen: ImageDraw.ImageDraw, place: tuple[int, int, int, int], marks: Marks, size: int, name: str) -> None:
    left, top, width, lane = place
    pen.rectangle((left - 1, top - 1, left + width, top + lane), outline=RULE)
    for y, text in marks:
        pen.line((left - 4, top + y, left - 1, top + y), fill=RULE)
        pen.text((left - 7, top + y), text, fill=lettering.INK, font=lettering.font(size), anchor="rm")
    pen.text((left + width + 6, top + lane / 2), name, fill=lettering.FAINT, font=lettering.font(size), anchor="lm")


def _draw_strip(
    paper: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int, int], cells: Float[np.ndarray, "columns"], strip: Strip, size: int
) -> None:  # fmt: skip
    """Every cell as a filled step from zero, orange upwards and blue downwards; the scale of colours at its left."""
    left, top, deep = place
    width, half = len(cells), deep / 2
    share = np.clip(np.nan_to_num(cells) / strip.limit, -1, 1) if strip.limit > 0 else np.zeros(width)
    heights = half - share * (half - 2)  # rows from the top
    rows = np.arange(deep)[:, None] + 0.5
    inside = (np.minimum(heights, half) <= rows) & (rows <= np.maximum(heights, half))
    colours = np.broadcast_to(diverging(share, 1.0), (deep, width, 3))
    chance = strip.band and np.abs(rows - half) <= strip.band / strip.limit * (half - 2)
    ground = np.where(chance, CHANCE, 255)[..., None]
    paper.paste(Image.fromarray(np.where(inside[..., None], colours, ground).astype(np.uint8)), (left, top))
    pen.text(
        (left, top - 2), lettering.drawable(strip.unit), fill=lettering.FAINT, font=lettering.font(size), anchor="lb"
    )
    pen.rectangle((left - 1, top, left + width, top + deep), outline=RULE)
    pen.line((left, top + half, left + width, top + half), fill=lettering.FAINT)
    edge = [(left + x + dx, top + y) for x, y in enumerate(heights.tolist()) for dx in (0, 1)]
    pen.line(edge, fill=lettering.FAINT)
    shades = diverging(np.linspace(1, -1, deep), 1.0)[:, None].repeat(size - 4, 1)
    paper.paste(Image.fromarray(shades), (left - size, top))
    for y, text in zip((0, half, deep), strip.labels(), strict=True):
        inner = min(max(y, size // 2), deep - size // 2)
        pen.text((left - size - 4, top + inner), text, fill=lettering.INK, font=lettering.font(size), anchor="rm")


def _draw_time(pen: ImageDraw.ImageDraw, place: tuple[int, int, int], axes: Axes, size: int) -> None:
    left, top, width = place
    rate = axes.rate or 1.0
    pen.line((left, top, left + width, top), fill=lettering.FAINT)
    for t in ticks(0.0, (axes.samples - 1) / rate, max(width // (7 * size), 2)):
        x = left + (t * rate + 0.5) * width / axes.samples
        pen.line((x, top, x, top + 4), fill=lettering.FAINT)
        pen.text((x, top + 5), f"{t:.6g}", fill=lettering.INK, font=lettering.font(size), anchor="ma")
    pen.text(
        (left + width / 2, top + 6 + round(size * 1.25)), lettering.drawable(axes.time()),
        fill=lettering.FAINT, font=lettering.font(size), anchor="ma",
    )  # fmt: skip
