"""What a method gives (`Attribution`) and what a user gets (`Explanation`): signed, unnormalised, with where it came from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import files, spatial, targets
from pellucid.chance import Null
from pellucid.errors import BadInput, IntegrityError, OptionError
from pellucid.spatial import Geometry
from pellucid.targets import SeveralTargets, Target
from pellucid.trials import Erased, Spread

if TYPE_CHECKING:
    from PIL.Image import Image

    from pellucid.render.words import Audience, Language

FORMAT = 1
LEAST = 0.01  # logit: a map that holds less in all changes no probability by more than 0.25 percentage points


@dataclass(frozen=True)
class Attribution:
    """A signed map per input, `(batch, *grid)`; for several targets at once `(batch, targets, *grid)`.

    complete: the cells, `constant` and `common` add up to the score, in its units (logits).
    constant: the part of the score that belongs to no place (the bias; for one class against the rest also minus the
    entropy of the rest). common: the part that is the same for all
    classes and therefore says nothing about which one. Both of the score's shape, `(batch,)` or `(batch, targets)`; None
    counts as zero.
    output, target: what the network gave and what was explained of it, so that nobody has to run the network again.
    layer: the name of the layer whose cells these are, where there is one.
    notes: what else it takes to repeat this (a fast backend and how far it is from the network itself).
    """

    map: Float[Tensor, "batch *grid"]
    geometry: Geometry
    output: Any = None
    target: Target | None = None
    complete: bool = False
    constant: Float[Tensor, "batch"] | None = None
    common: Float[Tensor, "batch"] | None = None
    layer: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contributions:
    """Cells in the score's own units. `cells` + `constant` + `common` + `residual` = `score`, for every input.

    The residual is measured: the score comes from the network's own forward pass, the rest from the evidence.
    """

    cells: Float[Tensor, "batch *grid"]
    constant: Float[Tensor, "batch"]
    common: Float[Tensor, "batch"]
    residual: Float[Tensor, "batch"]
    score: Float[Tensor, "batch"]


@dataclass(frozen=True)
class LedgerRow:
    """One part of a score: what it is, how much, and where in the input."""

    what: str
    value: float
    where: str = ""


@dataclass(frozen=True)
class Ledger:
    """Rows that add up to the score."""

    target: str
    score: float
    rows: tuple[LedgerRow, ...]

    def __str__(self) -> str:
        width = max(len(r.what) for r in self.rows)
        lines = [f"{r.what:<{width}}  {r.value:+9.4f}  {r.where}".rstrip() for r in self.rows]
        total = sum(r.value for r in self.rows)
        return "\n".join(
            [
                f"evidence for {self.target}",
                *lines,
                f"{'sum':<{width}}  {total:+9.4f}",
                f"{'score':<{width}}  {self.score:+9.4f}",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "score": self.score,
            "rows": [{"what": r.what, "value": r.value, "where": r.where} for r in self.rows],
        }


@dataclass(frozen=True)
class Explanation:
    """A batch of explained decisions. `e[i]` is one of them; `ledger`, `text` and `overlay` speak of one.

    map: signed and unnormalised, `(batch, *grid)`. score: what was explained, `(batch,)`. logits: the network's output.
    Several targets at once: `(batch, targets, *grid)` and `(batch, targets)`; `e.of(k)` is the explanation of one target.
    classes: class names, where known. options: the method's. provenance: what it takes to repeat this.
    input: what the network saw, kept for drawing only. null: how large such maps are without this content
    (see `against_null`). spread: the maps of further views or networks (see `uncertainty`). erased: what the network
    answers without the strongest regions (see `erase_regions`).
    """

    map: Float[Tensor, "batch *grid"]
    geometry: Geometry
    target: Target
    score: Float[Tensor, "batch"]
    logits: Any
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False
    constant: Float[Tensor, "batch"] | None = None
    common: Float[Tensor, "batch"] | None = None
    classes: tuple[str, ...] | None = None
    input: Tensor | None = None
    null: Null | None = None
    spread: Spread | None = None
    erased: Erased | None = None

    def __len__(self) -> int:
        return len(self.map)

    def __getitem__(self, index: int) -> Explanation:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} explanations; {index} is out of range.")
        rows = torch.tensor([index % len(self)])
        return self.rows(rows)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def rows(self, index: Tensor) -> Explanation:
        """The explanations of some of the inputs."""

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and len(value) == len(self):
                return value[index.to(value.device)]
            return [value[int(i)] for i in index] if isinstance(value, list) else value

        return replace(
            self,
            map=pick(self.map), target=self.target.rows(index), score=pick(self.score), logits=pick(self.logits),
            constant=pick(self.constant), common=pick(self.common), input=pick(self.input),
            null=None if self.null is None else self.null.rows(index),
            spread=None if self.spread is None else self.spread.rows(index),
            erased=None if self.erased is None else self.erased.rows(index),
        )  # fmt: skip

    @property
    def several(self) -> bool:
        """Whether every input has several targets."""
        return isinstance(self.target, SeveralTargets)

    def of(self, target: int) -> Explanation:
        """The explanation of one of several targets, by its place among them."""
        members = self.target.each() if isinstance(self.target, SeveralTargets) else (self.target,)
        if not -len(members) <= target < len(members):
            raise IndexError(f"There are {len(members)} targets; {target} is out of range.")
        if not self.several:
            return self

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[:, target]

        return replace(
            self,
            map=self.map[:, target], target=members[target], score=self.score[:, target],
            constant=pick(self.constant), common=pick(self.common),
        )  # fmt: skip

    def contributions(self) -> Contributions:
        """What each cell adds to the score, in the score's units.

        Raises `OptionError` for a method whose map is not complete: its numbers rank places, they do not add up.
        """
        if not self.complete:
            raise OptionError(
                f"The map of '{self.method}' does not add up to the score.",
                why="Only complete methods have contributions; this one ranks places.",
                hint="Use method='evidence' on a SoftCAM, or read e.map.",
            )
        zero = torch.zeros_like(self.score)
        constant = zero if self.constant is None else self.constant
        common = zero if self.common is None else self.common
        # In double precision, so that the sum of many cells is not what makes a residual.
        parts = self.map.double().flatten(-len(self.geometry.grid)).sum(-1) + constant.double() + common.double()
        return Contributions(self.map, constant, common, (self.score.double() - parts).to(self.score), self.score)

    def ledger(self, k: int = 5) -> Ledger:
        """The score of one input, row by row: the k strongest regions, all other cells, and what has no place.

        A region is a group of neighbouring cells of one sign that each reach a fifth of the strongest cell.
        """
        one = self._only("ledger").contributions()
        cells = one.cells[0].detach().double().cpu()
        found = spatial.regions(cells, self.geometry)[:k]
        rows = [LedgerRow(r.name, r.value, _bounds(r)) for r in found]
        rest = float(cells.sum()) - sum(r.value for r in found)
        rows.append(LedgerRow("all other cells", rest))
        if self.common is not None:
            rows.append(LedgerRow("common to all classes", float(one.common[0])))
        entropy = self._entropy()
        rows.append(LedgerRow("constant", float(one.constant[0]) + (entropy or 0.0)))
        if entropy is not None:
            rows.append(LedgerRow("entropy of the rest (-H, nats)", -entropy))
        rows.append(LedgerRow("residual (rounding)", float(one.residual[0])))
        return Ledger(self.target.describe(self.classes, 0), float(one.score[0]), tuple(rows))

    def _entropy(self) -> float | None:
        """The entropy H of the other classes that the constant of one against the rest holds, in nats."""
        if not isinstance(self.target, targets.OneVsRestTarget) or not isinstance(self.logits, Tensor):
            return None
        return -float(targets.offset(self.target, self.logits.double())[0])

    def at_input_size(self) -> Float[Tensor, "batch *size"]:
        """The map interpolated to the input's size, each cell where it looks; values stay in the map's units."""
        if self.map.shape[-len(self.geometry.grid) :] == self.geometry.input_size:
            return self.map
        return spatial.upsample(self.map, self.geometry)

    def text(self, audience: Audience = "technical", language: Language = "en") -> str:
        """The decision in plain words; every number comes from this explanation (see `render.words`).

        audience: "technical" for whoever knows the method, "professional" for whoever acts on the decision (a clinician, a
        clerk), "short" for whom it concerns (a patient, a customer). language: "en" or "de".
        """
        from pellucid.render.words import text

        return text(self._only("text"), audience, language)

    def remark(self) -> str:
        """What has to be said of the map of one input that shows nothing for the target; empty where it shows something."""
        from pellucid.render.words import remark

        return remark(self._only("remark"))

    @property
    def in_logits(self) -> bool:
        """Whether the cells' values are parts of a logit."""
        return self.complete and self.provenance.get("task") != "regression"

    @property
    def in_log_odds(self) -> bool:
        """Whether the score is a log-odds, so that its sigmoid is the target's probability."""
        if self.provenance.get("task") == "regression" or not isinstance(self.logits, Tensor) or self.logits.ndim > 2:
            return False
        if isinstance(self.target, targets.ClassTarget):
            return self.provenance.get("task") == "multilabel"
        if isinstance(self.target, targets.ContrastTarget):
            return self.logits.ndim == 2 and self.logits.shape[1] == 2
        return isinstance(self.target, targets.SingleLogitTarget | targets.OneVsRestTarget)

    def probabilities(self) -> Float[Tensor, "batch"] | None:
        """The target's probability, where the network gives one."""
        if self.in_log_odds:
            return self.score.sigmoid()
        task, logits = self.provenance.get("task"), self.logits
        one_of_many = isinstance(self.target, targets.ClassTarget) and isinstance(logits, Tensor) and logits.ndim == 2
        if task in ("regression", "multilabel") or not one_of_many:
            return None
        return self.target(logits.softmax(1))

    def regions(self) -> list[spatial.Region]:
        """The regions of one input that speak for the target, strongest first; of settled cells, where that is known."""
        one, settled = self._only("regions"), self.settled()
        cells = one.map if settled is None else one.map.where(settled, 0)
        return [r for r in spatial.regions(cells[0].detach().cpu(), one.geometry) if r.value > 0]

    def settled(self) -> Bool[Tensor, "batch *grid"] | None:
        """The cells that may be coloured: nine of ten members of the spread share their sign, and they are larger than what
        chance gives where `null` is known. None without a spread.
        """
        if self.spread is None:
            return None
        agreed = self.spread.agreed(self.map)
        if self.null is None:
            return agreed
        limit = self.null.limits()["strongest"].to(self.map)
        return agreed & (self.map.abs() > spatial.expand(limit, self.map))

    def overlay(self, image: Any = None, **options: Any) -> Image:
        """One input with its signed map over it, a colour bar and the scale in the map's units (see `render.overlay`)."""
        from pellucid.render.overlay import overlay

        return overlay(self._only("overlay"), image, **options)

    def _repr_html_(self) -> str:
        from pellucid.render.card import card

        return card(self)

    def _only(self, what: str) -> Explanation:
        if self.several:
            raise OptionError(
                f"{what}() speaks of one target; here every input has {self.map.shape[1]}.",
                hint=f"Use e.of(k)[i].{what}().",
            )
        if len(self) != 1:
            raise OptionError(f"{what}() speaks of one input; there are {len(self)}.", hint=f"Use e[i].{what}().")
        return self

    def save(self, folder: str | Path) -> Path:
        """Write `explanation.npz` (numbers) and `explanation.json` (everything else, with the SHA-256 of the first)."""
        folder = Path(folder)
        arrays = {
            "map": self.map,
            "score": self.score,
            "logits": self.logits,
            "constant": self.constant,
            "common": self.common,
            "null_strongest": None if self.null is None else self.null.strongest,
            "null_positive": None if self.null is None else self.null.positive,
            **_prefixed("spread", self.spread, ("maps", "scores", "probabilities")),
            **_prefixed("erased", self.erased, ("score", "probability")),
        }
        stream = io.BytesIO()
        kept = {k: v.detach().cpu().float().numpy() for k, v in arrays.items() if isinstance(v, Tensor)}
        np.savez_compressed(stream, **kept)  # type: ignore[arg-type]
        path = files.write_bytes(folder / "explanation.npz", stream.getvalue())
        described = {
            "format": FORMAT, "sha256": files.sha256(path), "method": self.method, "options": _jsonable(self.options), "provenance": _jsonable(self.provenance),
            "target": self.target.as_dict(), "geometry": self.geometry.as_dict(), "complete": self.complete, "classes": self.classes,
            "null": None if self.null is None else self.null.kind,
            "spread": None if self.spread is None else {"kind": self.spread.kind, "names": self.spread.names},
        }  # fmt: skip
        files.write_json(folder / "explanation.json", described)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote. Raises `IntegrityError` when the numbers are not the ones that were written."""
        folder = Path(folder)
        described = files.read_json(folder / "explanation.json")
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise BadInput(
                f"{folder} holds no explanation of format {FORMAT}.",
                hint="Save it again with this version.",
                path=folder,
            )
        path = folder / "explanation.npz"
        if not path.exists() or files.sha256(path) != described["sha256"]:
            raise IntegrityError(
                f"{path} is damaged.",
                why="Its SHA-256 differs from the one noted when it was written.",
                hint="Make the explanation again.",
                path=path,
            )
        with np.load(path, allow_pickle=False) as stored:
            arrays = {k: torch.from_numpy(stored[k]) for k in stored.files}
        classes, kind, spread = described["classes"], described.get("null"), described.get("spread")
        return cls(
            map=arrays["map"], geometry=Geometry.from_dict(described["geometry"]), target=targets.from_dict(described["target"]), score=arrays["score"],
            logits=arrays.get("logits"), method=described["method"], options=described["options"], provenance=described["provenance"],
            complete=described["complete"], constant=arrays.get("constant"), common=arrays.get("common"), classes=tuple(classes) if classes else None,
            null=Null(kind, arrays["null_strongest"], arrays["null_positive"]) if kind else None,
            spread=Spread(spread["kind"], tuple(spread["names"]), *_parts(arrays, "spread", ("maps", "scores", "probabilities"))) if spread else None,
            erased=Erased(*_parts(arrays, "erased", ("score", "probability"))) if "erased_score" in arrays else None,
        )  # fmt: skip


def _prefixed(prefix: str, value: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of what is held beside the map, by the names they are stored under."""
    return {} if value is None else {f"{prefix}_{name}": getattr(value, name) for name in names}


def _parts(arrays: Mapping[str, Tensor], prefix: str, names: tuple[str, ...]) -> list[Tensor]:
    return [arrays[f"{prefix}_{name}"] for name in names]


def _bounds(region: spatial.Region) -> str:
    axes = ("samples",) if len(region.low) == 1 else ("x", "y", "z")
    spans = zip(reversed(region.low), reversed(region.high), strict=True)
    return ", ".join(f"{axes[i]} {low} to {high}" for i, (low, high) in enumerate(spans))


def _jsonable(value: Any) -> Any:
    """Plain values stay; anything else is written as its name, since options may hold modules and functions."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= 64 else f"tensor {tuple(value.shape)}"
    return (
        value
        if isinstance(value, str | int | float | bool | None)
        else getattr(value, "__name__", type(value).__name__)
    )
