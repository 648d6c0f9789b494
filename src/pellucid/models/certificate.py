"""What a conversion vouches for, with the numbers it was checked by."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Certificate:
    """Printed as a small table; `as_dict` gives plain values.

    kind: "exact" (the evidence of every input adds up to the network's own logits). cut: where the feature map is
    read. head: the layer whose weights give the evidence. classes: number of logits.
    images: how many inputs the two were compared on, in the network's own precision. parity: the largest difference
    between a logit and its evidence plus bias; parity_relative: over the logits' spread. flips: changed top answers.
    affinity: departure of the head from a straight line, head_error: difference between the head and the evidence
    layer, both on large sign-changing random features in double precision, over the logits' spread.
    grid: cells per axis at input_size; stride: input samples between cells. start, jump: where the cells look, when
    that is known (registered). receptive_field: input samples per axis that reach a cell; None: unknown or, with
    whole_input, all of them. sized: the centres hold for inputs whose size differs from input_size by whole strides.
    """

    kind: str
    cut: str
    head: str
    classes: int
    images: int
    parity: float
    parity_relative: float
    flips: int
    affinity: float
    head_error: float
    grid: tuple[int, ...]
    input_size: tuple[int, ...]
    stride: tuple[float, ...]
    start: tuple[float, ...] | None = None
    jump: tuple[float, ...] | None = None
    receptive_field: tuple[float, ...] | None = None
    whole_input: bool = False
    sized: bool = False
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[tuple[str, str]]:
        """What the table shows, as pairs of words."""
        reach = (
            "whole input" if self.whole_input else _axes(self.receptive_field) if self.receptive_field else "not known"
        )
        places = (
            f"first cell at {_axes(self.start)}"
            if self.start is not None
            else "not known; cells are taken to tile the input"
        )
        return [
            ("kind", self.kind),
            ("feature map", self.cut),
            ("head", self.head),
            ("classes", str(self.classes)),
            (
                "logits differ by",
                f"{self.parity:.2g} ({self.parity_relative:.1g} of their spread; {self.flips} of {self.images} answers changed)",
            ),
            ("head alone differs by", f"{self.head_error:.1g} of the spread (random features, double precision)"),
            ("map", f"{_axes(self.grid)} cells for an input of {_axes(self.input_size)}, stride {_axes(self.stride)}"),
            ("cell centres", places),
            ("receptive field", reach),
            *(("note", note) for note in self.notes),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self.rows())
        return f"<table>{cells}</table>"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Certificate:
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**plain)


def _axes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)
