"""Words in pictures, in the one font that Pillow brings along."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont
from PIL.ImageFont import ImageFont as BitmapFont

INK = (33, 37, 41)
FAINT = (90, 98, 106)

_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "→": "->", "×": "x", "ß": "ss", "’": "'"})


@lru_cache(maxsize=16)
def font(size: int) -> FreeTypeFont | BitmapFont:
    """Pillow's own font; size in pixels."""
    return ImageFont.load_default(size=size)


def drawable(text: str) -> str:
    """The text in letters that the font has: accents dropped, anything else unknown as a question mark."""
    plain = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" or c in "±…·" else "?" for c in letters)


def width(text: str, size: int) -> int:
    """How wide the text is drawn, in pixels."""
    return round(font(size).getlength(drawable(text)))


def fitted(text: str, size: int, room: int) -> str:
    """The text, shortened with an ellipsis where it is wider than `room` pixels."""
    text = drawable(text)
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"
