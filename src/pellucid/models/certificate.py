"""What a conversion vouches for, with the numbers it was checked by."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Convolutions of the same numbers with other neighbours round differently; global context weighs orders of magnitude more.
ROUNDING = 1e-4


KINDS = {
    "exact": "the cells of every input add up to the network's own logits",
    "exact_at_this_image": "the cells add up at each input, with the head's gates held as that input sets them",
    "retrain": "the head was replaced, so the network's function changed; cells add up to the new logits",
}


@dataclass(frozen=True)
class EffectiveField:
    """How far from its centre a cell's evidence really depends on the input, in input samples (`effective_field`).

    side, core: of the smallest box around the cell's centre that holds 95 % and 50 % of the absolute gradient.
    images, cells: how many were averaged over. input_size: of these images; a field that is cut off by the border of
    small images is larger in large ones.
    """

    side: float
    core: float
    images: int
    cells: int
    input_size: tuple[int, ...]


@dataclass(frozen=True)
class Leakage:
    """How much a cell's evidence changes with what lies outside a box around it (`leakage`), over its change when everything
    changes: 0: not at all, 1: as much. The seam around a small box may change it even more.

    box: the receptive field of the convolutions and poolings; 0 within rounding confirms it, more shows global context.
    None: it is not known, or no cell has anything outside its box at this size. box_cells: cells times images tried.
    footprint: outside one stride, the patch that a cell of the map is drawn on. effective: outside the box with 95 % of
    the gradient; None: not measured. cells, images: per ratio. input_size: of these images.
    """

    box: float | None
    box_cells: int
    footprint: float
    effective: float | None
    images: int
    cells: int
    input_size: tuple[int, ...]


@dataclass(frozen=True)
class Certificate:
    """Printed as a small table; `as_dict` gives plain values.

    kind: "exact" (the evidence of every input adds up to the network's own logits), "exact_at_this_image" (it adds up with
    the head's gates held as the input sets them) or "retrain" (the network's function changed). cut: where the feature map is
    read. head: the layer whose weights give the evidence. classes: number of logits.
    images: how many inputs the two were compared on, in the network's own precision. parity: the largest difference
    between a logit and its evidence plus bias; parity_relative: over the logits' spread. flips: changed top answers.
    affinity: departure of the head from a straight line, head_error: difference between the head and the evidence
    layer, both on large sign-changing random features in double precision, over the logits' spread.
    grid: cells per axis at input_size; stride: input samples between cells. start, jump: where the cells look, when
    that is known (registered). receptive_field: input samples per axis that reach a cell; None: unknown or, with
    whole_input, all of them. sized: the centres hold for inputs whose size differs from input_size by whole strides.
    constant_share, cells_share: standard deviation of the constant and of the summed cells over that of the logits, where
    the constant varies. agreement: share of inputs with the original's answer, before and (if done) after distillation (retrain).

    What `inspect` adds. p99: the 99th percentile of the difference behind `parity`. kl: the largest divergence, in nats,
    between the network's probabilities and those of the summed evidence. global_context: layers before the map that
    mix the whole input into every cell. effective_field, leakage: measured; None: not yet.
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
    constant_share: float | None = None
    cells_share: float | None = None
    agreement: tuple[float, ...] | None = None
    p99: float | None = None
    kl: float | None = None
    global_context: tuple[str, ...] = ()
    effective_field: EffectiveField | None = None
    leakage: Leakage | None = None

    def rows(self) -> list[tuple[str, str]]:
        """What the table shows, as pairs of words."""
        places = (
            f"first cell at {_axes(self.start)}"
            if self.start is not None
            else "not known; cells are taken to tile the input"
        )
        return [
            ("kind", f"{self.kind}: {KINDS[self.kind]}" if self.kind in KINDS else self.kind),
            ("feature map", self.cut),
            ("head", self.head),
            ("classes", str(self.classes)),
            ("logits differ by", self._difference()),
            ("head alone differs by", f"{self.head_error:.1g} of the spread (random features, double precision)"),
            *self._shares(),
            ("map", f"{_axes(self.grid)} cells for an input of {_axes(self.input_size)}, stride {_axes(self.stride)}"),
            ("cell centres", places),
            ("receptive field", self._reach()),
            *self._measured(),
            *(("note", note) for note in self.notes),
        ]

    def _difference(self) -> str:
        most = "" if self.p99 is None else f", 99 % of them by at most {self.p99:.2g}"
        divergence = "" if self.kl is None else f"; KL {self.kl:.1g} nats at most"
        answers = f"{self.flips} of {self.images} answers changed"
        return f"{self.parity:.2g} at most ({self.parity_relative:.1g} of their spread){most}{divergence}; {answers}"

    def _shares(self) -> Iterator[tuple[str, str]]:
        if self.constant_share is not None and self.cells_share is not None:
            yield (
                "spread over the logits'",
                f"cells {self.cells_share:.2g}, constant {self.constant_share:.2g} (the constant has no place)",
            )
        if self.agreement is not None:
            before, *after = self.agreement
            yield (
                "answers like the original",
                f"{before:.1%} before distillation, {after[0]:.1%} after" if after else f"{before:.1%}; not distilled",
            )

    def _reach(self) -> str:
        if self.whole_input:
            return "whole input"
        return "not known" if self.receptive_field is None else f"{_axes(self.receptive_field)} samples"

    def _measured(self) -> Iterator[tuple[str, str]]:
        """What `inspect` found, and what it warns of."""
        found, leak = self.effective_field, self.leakage
        if found is not None:
            over = "; larger than they are, so cut off" if found.side >= min(found.input_size) else ""
            yield (
                "effective field",
                f"{found.side:g} samples hold 95 % of the gradient, {found.core:g} hold 50 % "
                f"({found.cells} central cells, {found.images} images of {_axes(found.input_size)}{over})",
            )
        if leak is not None:
            yield "outside the receptive field", _leak_of_box(leak)
            rest = "" if leak.effective is None else f", {leak.effective:.2g} outside the effective field"
            yield "leakage", f"{leak.footprint:.2g} outside one stride{rest} (1: as much as changing everything)"
        if self.kind == "exact_at_this_image":
            yield "warning", "the head's gates, and with them what a cell adds, are set by the whole input"
        if self.global_context:
            shown, more = ", ".join(self.global_context[:3]), len(self.global_context) - 3
            tail = f" and {more} more" if more > 0 else ""
            yield "warning", f"every cell sees the whole input, through {shown}{tail}"

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
    def from_dict(cls, value: Mapping[str, Any]) -> Certificate:
        """What `as_dict` gave, also after JSON; fields that an older version did not know are as by default."""
        plain: dict[str, Any] = {k: _tuples(v) for k, v in value.items()}
        for name, made in _NESTED.items():
            if plain.get(name) is not None:
                plain[name] = made(**{k: _tuples(v) for k, v in plain[name].items()})
        return cls(**plain)


_NESTED: dict[str, Callable[..., Any]] = {"effective_field": EffectiveField, "leakage": Leakage}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _leak_of_box(leak: Leakage) -> str:
    """The receptive field's own test in words."""
    if leak.box is None:
        return f"not tested: at {_axes(leak.input_size)} no cell is known to leave anything outside"
    if leak.box <= ROUNDING:
        return f"nothing changes a cell ({leak.box_cells} tried)"
    return (
        f"{leak.box:.2g} of a cell's change comes from there: it sees beyond its convolutions ({leak.box_cells} tried)"
    )


def _axes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)
