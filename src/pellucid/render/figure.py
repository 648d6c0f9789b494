"""What all figures share: paper, ink, and bytes that are equal for equal numbers.

Figures are made without pyplot, so nothing of the user's own plotting is touched; Matplotlib loads on first use.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format: TypeAlias = Literal["svg", "png"]

INK, FAINT, RULE = "#212529", "#5a626a", "#c9ced3"
SERIES = ("#0b5cad", "#b34700", "#3d7a3d", "#7b4fa3", "#5a626a", "#9a7400")  # each at least 4.5:1 on white
DASHES = ("-", "--", "-.", ":")  # so that colour is not needed

_STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.edgecolor": RULE, "axes.labelcolor": FAINT,
    "text.color": INK, "xtick.color": FAINT, "ytick.color": INK, "axes.linewidth": 0.8, "svg.hashsalt": "pellucid", "svg.fonttype": "path",
}  # fmt: skip


def safe(text: str) -> str:
    """Matplotlib reads text between dollar signs as mathematics; names are names."""
    return text.replace("$", r"\$")


@contextmanager
def canvas(width: float, height: float, format: Format) -> Iterator[tuple[Figure, Axes, io.BytesIO]]:
    """An empty figure, `width` by `height` inches; what was drawn by the end of the block is written to the buffer."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_axisbelow(True)
        yield figure, axes, out
        stamp: dict[str, Any] = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(out, format=format, dpi=144, metadata=stamp)


@contextmanager
def paper(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """An empty sheet, `width` by `height` inches; what was put on it by the end of the block is written as PDF."""
    import matplotlib
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "pdf.fonttype": 42}):  # letters that can be searched and copied
        figure = Figure(figsize=(width, height))
        FigureCanvasPdf(figure)
        yield figure, out
        figure.savefig(out, format="pdf", metadata={"CreationDate": None, "Producer": None})


def printable(text: str) -> str:
    """The text with a box for every letter that the font lacks, and no mathematics."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans"))
    return safe("".join(c if known.get_char_index(ord(c)) else "□" for c in text))
