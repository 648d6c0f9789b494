"""A signed map over the grey picture of its input, with a colour bar in the map's own unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pellucid.errors import BadInput, OptionError
from pellucid.explanation import LEAST
from pellucid.render import lettering, signal
from pellucid.render.colour import diverging

if TYPE_CHECKING:
    from pellucid.explanation import Explanation

PERCENTILE = 99.5
LANES = 12  # channels of a signal that are drawn
_BLANK = 255  # ground where there is no picture
_BAND, _CHANCE = 7, (150, 156, 162)  # width and colour of the band that chance stays within


def unit(explanation: Explanation) -> str:
    """What the map's numbers are: logits for a complete method, otherwise the method's own measure."""
    if not explanation.complete:
        return f"{explanation.method} units"
    return "output" if explanation.provenance.get("task") == "regression" else "logit"


def scales(explanations: Iterable[Explanation]) -> dict[str, float]:
    """For every unit the value at which its colours are full: the 99.5th percentile of |map| over all maps given.

    One number for all images of a figure keeps their colours comparable. 0 where all maps of a unit are zero; where
    more than 99.5 % of the values are zero, the largest one. Maps in logits whose cells together hold less than 0.01
    logit are not stretched to full colour.
    """
    values: dict[str, list[NDArray[Any]]] = {}
    least: dict[str, float] = {}
    for explanation in explanations:
        name = unit(explanation)
        values.setdefault(name, []).append(np.abs(_numbers(explanation.map)).ravel())
        least[name] = LEAST / max(explanation.map[0].numel(), 1) if explanation.in_logits else 0.0
    limits = {name: _limit(np.concatenate(found)) for name, found in values.items()}
    return {name: max(limit, least[name]) if limit else 0.0 for name, limit in limits.items()}


def scale(explanations: Iterable[Explanation]) -> float:
    """The one limit of maps that share a unit (see `scales`). Raises `OptionError` where they do not."""
    found = scales(explanations)
    if len(found) != 1:
        raise OptionError(
            "These maps have no common scale.",
            why=f"Their units are: {', '.join(found) or 'none'}.",
            hint="Use scales(), which gives one limit per unit.",
        )
    return next(iter(found.values()))


def overlay(
    explanation: Explanation,
    image: Any = None,
    *,
    limit: float | None = None,
    opacity: float = 0.85,
    width: int | None = None,
    title: str | None = None,
    bar: bool = True,
) -> Image.Image:
    """Draw one input in grey with its signed map over it; a signal as curves, with the map along its time axis.

    image: what the network saw, as a PIL image or a uint8 array `(height, width)` or `(height, width, 3)`, of any size
    in the input's proportions (for volumes and signals an array of the input's size); None draws
    `explanation.input`, un-normalised by `provenance["preprocessing"]` or, without it, by percentiles.
    limit: the value at which colours are full (default: this map's own `scale`, and no less than the limit of its null
    distribution, where it has one: a map within chance reaches no full colour). A grey band beside the colour bar is what
    95 % of the null distribution's inputs stay within. With a spread only settled cells are coloured
    (`Explanation.settled`). The map's opacity grows evenly from 0
    at zero evidence to `opacity` at the limit. width: of the picture, in pixels (default: `usual_width`). title: None
    writes the target, its score and the method; "" nothing. bar: draw the colour bar; of a signal the values of the cells
    and the axes, the time in `provenance["preprocessing"]`'s `unit` at its `rate`, or else in samples.
    Raises `OptionError` for more than one input, `BadInput` for a picture of other proportions.
    """
    if len(explanation) != 1:
        raise OptionError(f"An overlay shows one input; there are {len(explanation)}.", hint="Use overlay(e[i]).")
    band = 0.0 if explanation.null is None else float(explanation.null.limits()["strongest"][0])
    full = max(scale([explanation]), band) if limit is None else float(limit)
    settled = explanation.settled()
    shown = explanation if settled is None else replace(explanation, map=explanation.map.where(settled, 0))
    drawing = _drawn(shown, image, width)
    picture = Image.fromarray(blend(drawing, full, opacity))
    largest = float(np.nanmax(np.abs(_numbers(shown.map)), initial=0.0))
    if largest == 0:
        _stamp(picture, explanation.remark() or "No cell is settled.")
    lines = _titles(explanation, title, drawing.note)
    scaled = (full, unit(explanation) if explanation.complete else "own unit", largest > full * (1 + 1e-6))
    if drawing.axes is not None and bar:
        return signal.framed(picture, lines, drawing.axes, signal.Strip(*scaled, band))
    return _framed(picture, lines, _Bar(*scaled, band) if bar and full > 0 else None)


def plain(explanation: Explanation, image: Any = None, *, width: int | None = None) -> Image.Image:
    """The input alone, cut and sized as `overlay` shows it, in colour where it is a colour picture."""
    size = explanation.geometry.input_size
    if len(size) == 2:
        width = width or usual_width(explanation)
        shown = _picture(explanation, image).convert("RGB")
        return shown.resize((width, max(round(width * size[0] / size[1]), 1)), Image.Resampling.BICUBIC)
    drawing = _drawn(explanation, image, width)
    picture = Image.fromarray(blend(drawing, 0.0, 0.0))
    return picture if drawing.axes is None else signal.framed(picture, (), drawing.axes, None)


def usual_width(explanation: Explanation, share: float = 1.0) -> int:
    """How wide an input is drawn, in pixels, unless told otherwise: signals are wider than pictures."""
    return round(share * (640 if len(explanation.geometry.input_size) == 1 else 360))


@dataclass(frozen=True)
class Drawing:
    """One input at the size it is shown: grey picture, map, lines to draw on top (0 none to 255), and a signal's axes."""

    ground: UInt8[np.ndarray, "height width"]
    values: Float[np.ndarray, "height width"]
    lines: UInt8[np.ndarray, "height width"] | None = None
    note: str = ""
    axes: signal.Axes | None = None


def blend(drawing: Drawing, limit: float, opacity: float) -> UInt8[np.ndarray, "height width 3"]:
    """Colours over grey: no colour at zero, `opacity` at the limit, in proportion between."""
    share = np.zeros_like(drawing.values) if limit <= 0 else np.clip(np.nan_to_num(drawing.values) / limit, -1, 1)
    alpha = (opacity * np.abs(share))[..., None]
    # The full colour of the sign, let through in proportion: over white paper this is the colour map itself, and over
    # a dark picture weak evidence leaves no white haze.
    mixed = drawing.ground[..., None] * (1 - alpha) + diverging(np.sign(share), 1.0) * alpha
    if drawing.lines is not None:
        ink = drawing.lines[..., None] / 255
        mixed = mixed * (1 - ink) + np.asarray(lettering.INK) * ink
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _titles(explanation: Explanation, title: str | None, note: str) -> list[str]:
    if title is not None:
        return [line for line in (*title.split("\n"), note) if line]
    name = explanation.target.describe(explanation.classes, 0)
    lines = [
        f"{name}: {float(explanation.score[0]):+.2f}",
        f"{explanation.method} · {note}" if note else explanation.method,
        explanation.remark(),
        "" if explanation.null is None else explanation.null.caption(),
        "" if explanation.spread is None else explanation.spread.caption(),
    ]
    return [line for line in lines if line]


def _numbers(tensor: Any) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().double().cpu().numpy()
    return values


def _limit(magnitudes: NDArray[Any]) -> float:
    finite = magnitudes[np.isfinite(magnitudes)]
    if not finite.size:
        return 0.0
    # "higher": the largest value itself where a figure has few cells, so that nothing is cut off there.
    return float(np.percentile(finite, PERCENTILE, method="higher")) or float(finite.max())


# --- what lies under the map, by the input's number of axes -----------------------------------------------------------


def _drawn(explanation: Explanation, image: Any, width: int | None) -> Drawing:
    drawing = _DRAWINGS[len(explanation.geometry.input_size)]
    return drawing(explanation, image, width or usual_width(explanation))


def _of_signal(explanation: Explanation, image: Any, width: int) -> Drawing:
    """Curves, one lane per channel, over the map as a coloured background."""
    size = explanation.geometry.input_size
    curves = _channels(explanation) if image is None else np.asarray(image, dtype=float).reshape(-1, size[0])
    shown = curves[:LANES]
    lane = max(width * 2 // 5, 1) if len(shown) < 2 else max(width // 7, 24)
    height = lane * max(len(shown), 1)
    # Every column shows the value of its cell, here as below the lanes: nothing is interpolated.
    owner = explanation.geometry.nearest_cell()[0][np.arange(width) * size[0] // width]
    cells = _numbers(explanation.map)[0][owner.numpy()]
    note = f"{LANES} of {len(curves)} channels" if len(curves) > LANES else ""
    rate, unit_of_time = _clock(explanation)
    return Drawing(
        np.full((height, width), 255, np.uint8), cells[None].repeat(height, 0), signal.curves(shown, width, lane), note,
        signal.Axes(signal.ranges(shown), size[0], rate, unit_of_time, cells),
    )  # fmt: skip


def _clock(explanation: Explanation) -> tuple[float | None, str]:
    """Samples per unit of time, where the provenance tells, and the unit."""
    known = explanation.provenance.get("preprocessing")
    if not isinstance(known, Mapping) or known.get("rate") is None:
        return None, ""
    return float(known["rate"]), str(known.get("unit", "s"))


def _of_picture(explanation: Explanation, image: Any, width: int) -> Drawing:
    return _flat(_picture(explanation, image).convert("L"), _numbers(explanation.at_input_size())[0], width)


def _of_volume(explanation: Explanation, image: Any, width: int) -> Drawing:
    """The slice along the first axis that holds most of the map, or the middle one where the map is zero."""
    values = _numbers(explanation.at_input_size())[0]
    weights = np.abs(np.nan_to_num(values)).reshape(len(values), -1).sum(1)
    chosen = int(weights.argmax()) if weights.any() else len(values) // 2
    note = f"slice {chosen + 1} of {len(values)} ({'most evidence' if weights.any() else 'the middle'})"
    volume = _volume(explanation, image)
    return _flat(Image.fromarray(volume[chosen]), values[chosen], width, note)


_DRAWINGS: dict[int, Callable[[Any, Any, int], Drawing]] = {1: _of_signal, 2: _of_picture, 3: _of_volume}


def _flat(ground: Image.Image, values: NDArray[Any], width: int, note: str = "") -> Drawing:
    height = max(round(width * values.shape[0] / values.shape[1]), 1)
    grey = np.asarray(ground.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    # Lifted blacks and lowered whites leave room for both colours to be seen.
    return Drawing(np.rint(36 + grey * 0.8).astype(np.uint8), _resized(values, width, height), note=note)


def _resized(values: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    image = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=float)


def _picture(explanation: Explanation, image: Any) -> Image.Image:
    """The picture under the map, in its own colours."""
    height, width = explanation.geometry.input_size
    if image is None:
        return Image.fromarray(_shown(explanation))
    picture = image if isinstance(image, Image.Image) else _from_array(image)
    if abs(picture.width * height / (picture.height * width) - 1) > 0.02:
        raise BadInput(
            "The picture and what the network saw differ in proportions.",
            why=f"The picture is {picture.width} x {picture.height}, the network's input {width} x {height} (width x height).",
            hint="Give the picture as it was cut for the network, or None to draw the network's own input.",
        )
    return picture


def _from_array(image: Any) -> Image.Image:
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise BadInput(
            "The picture cannot be drawn.",
            why=f"It is {array.dtype} of shape {array.shape}; uint8 (height, width) or (height, width, 3) is needed.",
            hint="Convert it, or give None to draw the network's own input.",
        )
    return Image.fromarray(array)


def _volume(explanation: Explanation, image: Any) -> UInt8[np.ndarray, "depth height width"]:
    size = explanation.geometry.input_size
    if image is None:
        return _grey(explanation)
    array: NDArray[np.uint8] = np.asarray(image)
    if array.shape != tuple(size) or array.dtype != np.uint8:
        raise BadInput(
            "The volume cannot be drawn.",
            why=f"It is {array.dtype} of shape {array.shape}; uint8 of shape {tuple(size)} is needed.",
            hint="Give what the network saw, or None to draw the network's own input.",
        )
    return array


def _channels(explanation: Explanation) -> NDArray[Any]:
    """The network's input `(channels, *size)`, un-normalised where it is known how. No channels: no input is kept."""
    size = explanation.geometry.input_size
    if explanation.input is None:
        return np.zeros((0, *size))
    values = _numbers(explanation.input)[0]
    known = _normalisation(explanation, len(values))
    if known is None:
        return np.asarray(values)
    mean, std = (v.reshape((-1,) + (1,) * len(size)) for v in known)
    return np.asarray(values * std + mean)


def _normalisation(explanation: Explanation, channels: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Mean and standard deviation per channel, where the provenance tells both."""
    known = explanation.provenance.get("preprocessing")
    if not isinstance(known, Mapping):
        return None
    mean, std = (np.atleast_1d(np.asarray(known.get(k, ()), dtype=float)) for k in ("mean", "std"))
    return (mean, std) if len(mean) == len(std) == channels else None


def _shown(explanation: Explanation) -> UInt8[np.ndarray, "*shape"]:
    """The input in 8 bits, by known normalisation or else between its 1st and 99th percentile.

    Three channels stay, as the last axis; any other number becomes their mean.
    """
    channels = np.nan_to_num(_channels(explanation))
    if not len(channels):
        return np.full(explanation.geometry.input_size, _BLANK, np.uint8)
    values = np.moveaxis(channels, 0, -1) if len(channels) == 3 else channels.mean(0)
    low, high = (0.0, 1.0) if _normalisation(explanation, len(channels)) else np.percentile(values, [1, 99])
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)
    return np.asarray(np.rint(share * 255), dtype=np.uint8)


def _grey(explanation: Explanation) -> UInt8[np.ndarray, "*size"]:
    """The input in 8 bits without colour."""
    shown = _shown(explanation)
    coloured = shown.ndim > len(explanation.geometry.input_size)
    return np.asarray(np.rint(shown @ np.array([0.299, 0.587, 0.114])), dtype=np.uint8) if coloured else shown


# --- frame ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bar:
    limit: float
    unit: str
    exceeded: bool  # some values lie beyond the limit and are drawn as if on it
    band: float = 0.0  # what chance stays within; 0 for no band

    def labels(self) -> list[str]:
        values = (self.limit, self.limit / 2, 0.0, -self.limit / 2, -self.limit)
        found = [f"{v:+.2g}" if v else "0" for v in values]
        if self.exceeded:
            found[0], found[-1] = f">= {found[0]}", f"<= {found[-1]}"
        return found

    def room(self, size: int) -> int:
        """Width of bar and words, the same whether or not the limit is exceeded, so that pictures line up."""
        words = [*replace(self, exceeded=True).labels(), self.unit]
        return size + 10 + _BAND * bool(self.band) + max(lettering.width(t, size) for t in words)


def _framed(picture: Image.Image, lines: list[str], bar: _Bar | None) -> Image.Image:
    """White paper with title lines above the picture and the colour bar at its right."""
    size = _letters(picture)
    step = round(size * 1.35)
    side = 0 if bar is None else bar.room(size)
    top = step * len(lines) + (4 if lines else 0)
    height = max(picture.height, 0 if bar is None else 8 * step)
    paper = Image.new("RGB", (picture.width + side, top + height), (255, 255, 255))
    pen = ImageDraw.Draw(paper)
    for k, line in enumerate(lines):
        colour = lettering.INK if k == 0 else lettering.FAINT
        pen.text((0, k * step), lettering.fitted(line, size, paper.width), fill=colour, font=lettering.font(size))
    paper.paste(picture, (0, top))
    if bar is not None:
        _draw_bar(paper, pen, bar, (picture.width + 6, top, height), size)
    return paper


def _letters(picture: Image.Image) -> int:
    return min(max(picture.width // 22, 11), 22)


def _stamp(picture: Image.Image, text: str) -> None:
    """Words on a white strip along the lower edge."""
    size = _letters(picture)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, picture.height - round(size * 1.6), picture.width, picture.height), fill=(255, 255, 255))
    pen.text(
        (4, picture.height - round(size * 1.45)),
        lettering.fitted(text, size, picture.width - 8),
        fill=lettering.INK,
        font=lettering.font(size),
    )


def _draw_bar(paper: Image.Image, pen: ImageDraw.ImageDraw, bar: _Bar, place: tuple[int, int, int], size: int) -> None:
    left, top, height = place
    first, last = top + round(size * 1.9), top + height - size
    wide = max(size - 2, 8)
    shades = diverging(np.linspace(bar.limit, -bar.limit, last - first), bar.limit)
    paper.paste(Image.fromarray(shades[:, None].repeat(wide, 1)), (left, first))
    pen.rectangle((left, first, left + wide, last), outline=(150, 156, 162))
    pen.text((left, top), lettering.drawable(bar.unit), fill=lettering.FAINT, font=lettering.font(size))
    if bar.band:
        middle, half = (first + last) / 2, (last - first) / 2 * min(bar.band / bar.limit, 1)
        pen.rectangle((left + wide + 2, middle - half, left + wide + _BAND, middle + half), fill=_CHANCE)
        wide += _BAND
    for k, label in enumerate(bar.labels()):
        y = first + (last - first) * k / 4
        pen.line((left + wide, y, left + wide + 3, y), fill=(150, 156, 162))
        pen.text((left + wide + 6, y), label, fill=lettering.INK, font=lettering.font(size), anchor="lm")
