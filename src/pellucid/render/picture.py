"""Pictures as bytes, and bytes as something a page can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image

from pellucid.errors import BadInput

_KINDS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"<?xml", "image/svg+xml"),
    (b"<svg", "image/svg+xml"),
)


def png(image: Image.Image) -> bytes:
    """The picture without loss."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def jpeg(image: Image.Image, *, quality: int = 88) -> bytes:
    """The picture at about a quarter of the size, colours at full resolution: for pages that hold many."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return stream.getvalue()


def data_uri(data: bytes) -> str:
    """Picture bytes (PNG, JPEG, WebP, SVG) as an address that needs no file and no network."""
    for start, kind in _KINDS:
        if data.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    raise BadInput(
        "The picture is of no known kind.",
        why=f"It starts with {data[:8]!r}.",
        hint="Give PNG, JPEG, WebP or SVG bytes.",
    )
