"""Sheets of small pictures: kernels, responses, and inputs that excite. Each carries its number and its figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from pellucid.render import lettering, signal
from pellucid.render.colour import diverging
from pellucid.render.grid import GAP, grid
from pellucid.render.overlay import PERCENTILE, overlay, plain, scale
from pellucid.view import FeatureMaps, Filters, Maximised

SIZE = 12  # of the letters, in pixels
_STEP = round(SIZE * 1.35)
_WHITE = (255, 255, 255)
_RULE = (201, 206, 211)

Scale = tuple[str, float]  # what the colours stand for, and where they are full


# --- filters ----------------------------------------------------------------------------------------------------------


def of_filters(view: Filters, *, count: int = 64, columns: int = 8, side: int = 64) -> Image.Image:
    """The filters with the longest kernels, longest first, in at most `count` pictures.

    In colour where the inputs are red, green and blue: grey is zero, each filter at its own contrast. One picture each
    where a filter sees one channel; otherwise a row each, with the `columns` channels that it weighs most. A layer
    without space in its kernels is a matrix: filters down, channels across. All but the first share one scale of colours.
    side: of a kernel, in pixels.
    """
    kernels, chosen = _numbers(view.kernels), view.order[:count].tolist()
    if view.pointwise:
        return _of_matrix(view, kernels)
    if view.colour:
        tiles = [_captioned(_in_colour(kernels[k], side), [_filter_name(view, k)]) for k in chosen]
        what = "red, green and blue weights, grey is 0; each at its own contrast. Below: number, length"
        return _sheet(_rows(tiles, columns), [_filters_head(view, chosen), what])
    if kernels.shape[1] == 1:
        limit = _limit(kernels[chosen])
        tiles = [_captioned(_signed(kernels[k, 0], limit, side), [_filter_name(view, k)]) for k in chosen]
        what = "each sees one channel. Below: number, length"
        return _sheet(_rows(tiles, columns), [_filters_head(view, chosen), what], [("weight", limit)])
    return _by_channel(view, kernels, chosen[: max(count // columns, 1)], columns, side)


def _filters_head(view: Filters, chosen: Sequence[int]) -> str:
    return f"{view.layer}: {len(chosen)} of {len(view.kernels)} filters, longest first"


def _filter_name(view: Filters, k: int) -> str:
    return f"{k}, {float(view.norms[k]):.2f}"


def _by_channel(view: Filters, kernels: NDArray[Any], chosen: list[int], columns: int, side: int) -> Image.Image:
    """A row per filter, of the channels that it weighs most."""
    limit = _limit(kernels[chosen])
    rows = []
    for k in chosen:
        heaviest = np.argsort(-np.sqrt((kernels[k].reshape(len(kernels[k]), -1) ** 2).sum(1)), kind="stable")[:columns]
        tiles = [_captioned(_signed(kernels[k, c], limit, side), [f"of {view.seen(k)[c]}"]) for c in heaviest]
        rows.append([_words([f"filter {k}", f"length {float(view.norms[k]):.2f}"], side), *tiles])
    inputs = kernels.shape[1]
    shown = f"of each the {min(columns, inputs)} of {inputs} channels that it weighs most"
    return _sheet(rows, [_filters_head(view, chosen), shown], [("weight", limit)])


def _of_matrix(view: Filters, kernels: NDArray[Any], filters: int = 32, inputs: int = 64) -> Image.Image:
    """Kernels of one place: which channels a filter mixes, and with which sign."""
    weights = kernels.reshape(len(kernels), -1)
    down = view.order[:filters].tolist()
    across = np.argsort(-np.square(weights[down]).sum(0), kind="stable")[:inputs]
    limit = _limit(weights[down])
    matrix = _labelled(diverging(weights[down][:, across], limit), [str(k) for k in down])
    channels = "channels of each one's group" if view.groups > 1 else "channels"
    what = f"a kernel covers one place, so there is no picture of space; down: filters; across: the {len(across)} of {weights.shape[1]} {channels} that they weigh most"
    return _sheet([[matrix]], [_filters_head(view, down), what], [("weight", limit)])


def _labelled(shades: NDArray[Any], names: Sequence[str], cell: int = 9) -> Image.Image:
    """A matrix of colours as squares, with a name before every row."""
    size = cell + 1
    left = max(lettering.width(name, size) for name in names) + 8
    squares = Image.fromarray(shades.repeat(cell, 0).repeat(cell, 1))
    paper = Image.new("RGB", (left + squares.width + 1, squares.height + 1), _WHITE)
    paper.paste(squares, (left, 0))
    pen = ImageDraw.Draw(paper)
    pen.rectangle((left - 1, 0, paper.width - 1, paper.height - 1), outline=_RULE)
    for i, name in enumerate(names):
        pen.text((left - 5, (i + 0.5) * cell), name, fill=lettering.INK, font=lettering.font(size), anchor="rm")
    return paper


# --- feature maps -----------------------------------------------------------------------------------------------------


def of_feature_maps(
    view: FeatureMaps,
    image: Any = None,
    *,
    row: int = 0,
    most: int = 11,
    least: int = 4,
    columns: int = 8,
    side: int = 128,
) -> Image.Image:
    """The channels that speak most for the target and those that speak most against it, for one of the inputs.

    Of each the response, and below it, over the input, what every place adds to the score; both kinds at one scale for all
    channels. image: what the network saw, as for `overlay`. row: which input. side: width of a picture, in pixels.
    """
    order = view.order[row].tolist()
    shown = order if len(order) <= most + least else [*order[:most], *order[-least:]]
    added = [view.contribution(k, row) for k in shown]
    full, limit = _limit(_numbers(view.maps[row, shown])), scale(added)
    tiles = [_captioned(plain(added[0], image, width=side), ["the input"])]
    for k, cells in zip(shown, added, strict=True):
        response = _response(_numbers(view.maps[row, k]), full, side)
        places = overlay(cells, image, limit=limit, width=side, title="", bar=False)
        tiles.append(
            _captioned(
                _joined([response, places], down=True), [f"channel {k}", f"{float(view.contributions[row, k]):+.3f}"]
            )
        )
    return _sheet(
        _rows(tiles, columns),
        _feature_maps_head(view, row, len(shown)),
        [("response", full), ("adds to the score", limit)],
    )


def _feature_maps_head(view: FeatureMaps, row: int, shown: int) -> list[str]:
    name, score = view.target.describe(view.classes, row), float(view.score[row])
    sums = (
        "numbers and a constant add up to the score"
        if view.complete
        else "first order only: the numbers do not add up to the score"
    )
    return [
        f"{name}: {score:+.2f}. {shown} of the {view.maps.shape[1]} channels of {view.layer}, from most for it to most against it",
        f"above: the response; below: slope x response, what each place adds to the score, with their sum. {sums[0].upper()}{sums[1:]}",
    ]


def _response(values: NDArray[Any], limit: float, width: int) -> Image.Image:
    """One channel's answer, cell by cell; of a volume the slice that answers most."""
    if values.ndim == 1:
        return _curve(values, limit, width, width * 2 // 5)
    if values.ndim == 3:
        return _response(values[np.abs(values).sum((1, 2)).argmax()], limit, width)
    height = max(round(width * values.shape[0] / values.shape[1]), 1)
    # Few cells are shown as they are; many would come out unevenly wide.
    way = Image.Resampling.NEAREST if width >= 8 * values.shape[1] else Image.Resampling.BILINEAR
    picture = Image.fromarray(diverging(values, limit)).resize((width, height), way)
    ImageDraw.Draw(picture).rectangle((0, 0, width - 1, height - 1), outline=_RULE)
    return picture


# --- activation maximisation ------------------------------------------------------------------------------------------


def of_maximised(view: Maximised, *, columns: int = 4, side: int = 224) -> Image.Image:
    """Each input with the name of what it excites, the figure reached, and those of the start and of noise."""
    draw = _INPUTS[view.inputs.ndim]
    figures = zip(view.names, view.inputs, view.reached.tolist(), view.start.tolist(), view.noise.tolist(), strict=True)
    tiles = [
        _captioned(draw(_visible(x, view), side), [f"{name}: {r:+.3g}", f"start {s:+.3g}, noise {n:+.3g}"])
        for name, x, r, s, n in figures
    ]
    where = f"channels of {view.layer}, mean response" if view.layer else "the network's output"
    return _sheet(_rows(tiles, columns), [f"inputs made to excite: {where}"])


def _visible(x: Tensor, view: Maximised) -> Float[np.ndarray, "channels *size"]:
    """The input between 0 and 1: in its bounds, or without them between its 1st and 99th percentile."""
    values = _numbers(x)
    if view.bounds is None:
        low, high = np.percentile(values, [1, 99])
    else:
        low, high = (_numbers(bound).reshape(-1, *(1,) * (values.ndim - 1)) for bound in view.bounds)
    return np.asarray(np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1))


def _signal_input(values: NDArray[Any], side: int) -> Image.Image:
    lane = max(side // 3, 48) if len(values) < 3 else 40
    return Image.fromarray(255 - signal.curves(values, side, lane)).convert("RGB")


def _picture_input(values: NDArray[Any], side: int) -> Image.Image:
    shown = np.moveaxis(values, 0, -1) if len(values) == 3 else values.mean(0)
    picture = Image.fromarray(np.rint(shown * 255).astype(np.uint8)).convert("RGB")
    return picture.resize((side, max(round(side * picture.height / picture.width), 1)), Image.Resampling.BICUBIC)


def _volume_input(values: NDArray[Any], side: int) -> Image.Image:
    """Three slices along the first axis: a quarter, half and three quarters of the way."""
    at = [values.shape[1] * k // 4 for k in (1, 2, 3)]
    slices = [_picture_input(values[:, i].mean(0, keepdims=True), max(side // 2, 1)) for i in at]
    return _joined([_captioned(s, [f"slice {i + 1}"]) for s, i in zip(slices, at, strict=True)])


# Inputs (channels, *size) by the axes of a batch of them.
_INPUTS: dict[int, Callable[[NDArray[Any], int], Image.Image]] = {3: _signal_input, 4: _picture_input, 5: _volume_input}


# --- one kernel -------------------------------------------------------------------------------------------------------


def _signed(values: NDArray[Any], limit: float, side: int) -> Image.Image:
    """One kernel: a curve about zero, a picture, or its slices along the first axis beside each other."""
    if values.ndim == 1:
        return _curve(values, limit, round(side * 1.5), side)
    if values.ndim == 3:
        return _joined([_signed(part, limit, max(side // 2, 1)) for part in values])
    return _enlarged(diverging(values, limit), side)


def _in_colour(kernel: NDArray[Any], side: int) -> Image.Image:
    """(3, height, width) about a middle grey."""
    strength = float(np.abs(kernel).max()) or 1.0
    shades = np.rint((np.moveaxis(kernel, 0, -1) / strength + 1) * 127.5).astype(np.uint8)
    return _enlarged(shades, side)


def _enlarged(shades: NDArray[Any], side: int) -> Image.Image:
    """Weights as even squares, framed."""
    cell = max(side // max(shades.shape[:2]), 1)
    picture = Image.fromarray(shades.repeat(cell, 0).repeat(cell, 1))
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_RULE)
    return picture


def _curve(values: NDArray[Any], limit: float, width: int, height: int) -> Image.Image:
    """Values along the axis: bars from zero in the colour of their sign, joined by a line."""
    middle, fine = height / 2, 3  # drawn large and reduced, for smooth lines
    paper = Image.new("RGB", (width * fine, height * fine), _WHITE)
    pen = ImageDraw.Draw(paper)
    heights = middle - np.clip(values / (limit or 1.0), -1, 1) * height * 0.45
    places = (np.arange(len(values)) + 0.5) * width / len(values)
    half = 0.4 * width / len(values)
    for x, y, colour in zip(places, heights, diverging(np.sign(values), 1.0), strict=True):
        box = (x - half, min(y, middle), x + half, max(y, middle))
        pen.rectangle([v * fine for v in box], fill=tuple(int(c) for c in colour))
    pen.line([(0, middle * fine), (width * fine, middle * fine)], fill=_RULE, width=fine)
    line = [(float(x * fine), float(y * fine)) for x, y in zip(places, heights, strict=True)]
    pen.line(line, fill=lettering.INK, width=fine, joint="curve")
    pen.rectangle((0, 0, paper.width - 1, paper.height - 1), outline=_RULE, width=fine)
    return paper.resize((width, height), Image.Resampling.BOX)


# --- paper ------------------------------------------------------------------------------------------------------------


def _numbers(tensor: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().double().cpu().numpy()
    return values


def _limit(values: NDArray[Any]) -> float:
    return float(np.percentile(np.abs(values), PERCENTILE, method="higher"))


def _rows(tiles: Sequence[Image.Image], columns: int) -> list[list[Image.Image]]:
    return [list(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]


def _captioned(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Words under a picture, shortened to its width."""
    paper = Image.new("RGB", (picture.width, picture.height + 3 + _STEP * len(lines)), _WHITE)
    paper.paste(picture, (0, 0))
    _write(paper, lines, picture.height + 3, paper.width)
    return paper


def _words(lines: Sequence[str], height: int) -> Image.Image:
    """Words instead of a picture, at half its height."""
    width = max(lettering.width(line, SIZE) for line in lines) + 4
    paper = Image.new("RGB", (width, height), _WHITE)
    _write(paper, lines, max((height - _STEP * len(lines)) // 2, 0), width)
    return paper


def _write(paper: Image.Image, lines: Sequence[str], top: int, room: int, left: int = 0) -> None:
    pen = ImageDraw.Draw(paper)
    for k, line in enumerate(lines):
        colour = lettering.INK if k == 0 else lettering.FAINT
        pen.text((left, top + k * _STEP), lettering.fitted(line, SIZE, room), fill=colour, font=lettering.font(SIZE))


def _joined(pictures: Sequence[Image.Image], *, down: bool = False, gap: int = 3) -> Image.Image:
    """Pictures close together, side by side or one below the other."""
    along, across = (1, 0) if down else (0, 1)
    size = [0, 0]
    size[along] = sum(p.size[along] + gap for p in pictures) - gap
    size[across] = max(p.size[across] for p in pictures)
    paper = Image.new("RGB", (size[0], size[1]), _WHITE)
    place = [0, 0]
    for picture in pictures:
        paper.paste(picture, (place[0], place[1]))
        place[along] += picture.size[along] + gap
    return paper


def _wrapped(text: str, room: int) -> list[str]:
    """The text in lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if lettering.width(longer, SIZE) <= room else [*lines, word]
    return lines


def _sheet(rows: Sequence[Sequence[Image.Image]], lines: Sequence[str], scales: Sequence[Scale] = ()) -> Image.Image:
    """Rows of tiles under their title lines and the scales of their colours."""
    body = grid(rows)
    lines = [part for line in lines for part in _wrapped(line, body.width - 2 * GAP)]
    bars = [_bar(*one) for one in scales if one[1] > 0]
    head = GAP + _STEP * len(lines) + sum(bar.height + 4 for bar in bars)
    paper = Image.new("RGB", (body.width, head + body.height), _WHITE)
    _write(paper, lines, GAP, body.width - 2 * GAP, GAP)
    top = GAP + _STEP * len(lines) + 4
    for bar in bars:
        paper.paste(bar, (GAP, top))
        top += bar.height + 4
    paper.paste(body, (0, head))
    return paper


def _bar(name: str, limit: float, wide: int = 120) -> Image.Image:
    """A scale lying down, with its ends and zero written beside and on it."""
    low, high = f"{-limit:.2g}", f"{limit:+.2g}"
    left = lettering.width(low, SIZE) + 5
    paper = Image.new("RGB", (left + wide + 10 + lettering.width(f"{high}  {name}", SIZE), _STEP), _WHITE)
    pen = ImageDraw.Draw(paper)
    shades = diverging(np.linspace(-limit, limit, wide), limit)
    paper.paste(Image.fromarray(shades[None].repeat(_STEP - 5, 0)), (left, 2))
    pen.rectangle((left, 2, left + wide, _STEP - 4), outline=_RULE)
    pen.text((0, 0), low, fill=lettering.INK, font=lettering.font(SIZE))
    pen.text((left + wide + 5, 0), f"{high}  {name}", fill=lettering.INK, font=lettering.font(SIZE))
    return paper
