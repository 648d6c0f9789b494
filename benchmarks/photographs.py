"""Real weights on real photographs: every method ranked by deletion and insertion, and drawn (`--sheet`).

The photographs and what is drawn of them stay outside the repository (their licence); the page holds numbers only.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import pellucid as pl
from benchmarks import results
from pellucid import files
from pellucid.chance import DESCRIBED, SURROGATES
from pellucid.contracts import Attribution, Dataset, Explanation, Geometry, Subset
from pellucid.errors import OptionError
from pellucid.methods import METHODS
from pellucid.record import Interval, Table, join
from pellucid.registry import AdapterRow
from pellucid.spatial import cell_sums

if TYPE_CHECKING:
    from PIL.Image import Image

NETWORK = "mobilenet_v2"
METRICS = ("deletion", "insertion")
STEPS = 16
PART = 4  # photographs explained together: what is lost when the run is stopped
WIDTH = 224  # of a photograph on the sheet: the network's own pixels, since reduced ones average signs away
SHOWN = ("robin", "brown_bear", "bicycle-built-for-two", "acoustic_guitar", "cheeseburger")
CONTROLS = tuple(name for name, row in METHODS.items() if row.control)


@dataclass(frozen=True)
class Row:
    """One line of the ranking. photographs: how many of them, evenly spread; None for all.

    control: scored in place of the method, one that `evaluate` makes of its maps.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    photographs: int | None = None
    name: str = ""
    control: str = ""

    @property
    def label(self) -> str:
        return self.name or self.control or self.method


# The rows that take longest, from the quickest on; all others run before them.
COSTLY = (
    Row("smooth_grad_cam_plus_plus", {}, 50),
    Row("occlusion", {}, 100),
    Row("smooth_grad", {}, 50),
    Row("integrated_gradients", {}, 50),
    Row("rise", {"masks": 500}, 50),
    Row("score_cam", {}, 25),
)
ANOTHER = Row("cam", control="another_map")
# Those that run many passes and no gradient, so that a fast backend serves them.
FORWARD_ONLY = ("occlusion", "rise", "score_cam")
# The same maps at another scale: how much of a score is the scale.
FINE = Row("random_map", {"layer": "features.0"}, 50, "random_map, 2 px")
SCALED = (
    FINE,
    *(
        Row(f"coarse:{m}", {}, 50, f"{m}, 32 px")
        for m in ("saliency", "guided_backprop", "integrated_gradients", "edge_map")
    ),
)


def rows() -> list[Row]:
    """One row per method, the costly ones last, then the map of another photograph and the scaled ones."""
    costly = {row.method for row in COSTLY}
    return [Row(name) for name in METHODS if name not in costly] + [*COSTLY, ANOTHER, *SCALED]


def coarse(name: str) -> Callable[..., Attribution]:
    """The method `coarse:NAME`: another method's map, added up over squares of 32 samples."""
    inner = METHODS[name].load()

    def method(call: Any, x: Any, target: Any, *, side: int = 32, generator: Any = None) -> Attribution:
        fine: Attribution = inner(call, x, target)
        squares = Geometry.unregistered([ceil(n / side) for n in x.shape[2:]], x.shape[2:])
        return Attribution(cell_sums(fine.map, squares), squares, fine.output, fine.target)

    return method


@contextmanager
def coarse_methods() -> Iterator[None]:
    METHODS.adapters["coarse"] = AdapterRow("benchmarks.photographs:coarse", "another method's map, coarser")
    try:
        yield
    finally:
        del METHODS.adapters["coarse"]


@dataclass(frozen=True)
class Ranking:
    """One evaluation: the network, its SoftCAM (for `evidence`), the photographs, and where the records are kept."""

    model: nn.Module
    softcam: nn.Module
    photographs: Dataset
    folder: Path
    steps: int = STEPS
    backend: str | None = None

    def explained(self, method: str) -> nn.Module:
        return self.softcam if method == "evidence" else self.model

    def run(self, row: Row) -> Table:
        """The records of one row; what an earlier run has done is read, not done again."""
        stopwatch = Stopwatch(self._seconds(row))

        def tell(done: int, parts: int) -> None:
            print(f"{row.label}: {done} of {parts} parts, {stopwatch.lap():.0f} s", flush=True)

        fast = {} if self.backend is None else {"backend": self.backend}
        options = {metric: {"steps": self.steps, "batch_size": self.steps + 1, **fast} for metric in METRICS}
        if row.options or row.method in FORWARD_ONLY:
            options[row.method] = {**row.options, **(fast if row.method in FORWARD_ONLY else {})}
        with coarse_methods():
            return pl.evaluate(
                {NETWORK: self.explained(row.method)}, spread(self.photographs, row.photographs), methods=[row.method],
                metrics=METRICS, controls=[row.control] if row.control else [], target="predicted", options=options, batch_size=PART,
                folder=self.folder / row.label, progress=tell,
            )  # fmt: skip

    def seconds(self, row: Row) -> float:
        """Processor time that the row has taken so far, over all runs."""
        return Stopwatch(self._seconds(row)).seconds

    def _seconds(self, row: Row) -> Path:
        return self.folder / f"{row.label}.seconds.json"


class Stopwatch:
    """Processor time, kept in a file so that it survives an interruption."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: float = files.read_json(path) if path.exists() else 0.0
        self._last = time.process_time()

    def lap(self) -> float:
        now = time.process_time()
        self.seconds, self._last = self.seconds + now - self._last, now
        files.write_json(self.path, round(self.seconds, 2))
        return self.seconds


def spread(dataset: Dataset, count: int | None) -> Dataset:
    """`count` samples evenly spread; the first ones of a set sorted by class would all be animals."""
    if count is None or count >= len(dataset):
        return dataset
    return Subset(dataset, tuple(i * len(dataset) // count for i in range(count)))


def named(table: Table, row: Row) -> Table:
    """The records of the row, under its own name."""
    return Table(tuple(replace(r, method=row.label) for r in table.records if r.method == (row.control or row.method)))


# --- the sheet --------------------------------------------------------------------------------------------------------


def explained(ranking: Ranking, row: Row, x: torch.Tensor, classes: Sequence[str]) -> Explanation:
    return pl.explain(ranking.explained(row.method), x, method=row.method, classes=classes, **row.options)


def sheet(ranking: Ranking, shown: Sequence[int], classes: Sequence[str], width: int = WIDTH) -> Image:
    """One line per photograph, one column per method, each map at its own scale; what is explained stands under the photograph."""
    from pellucid.render.grid import grid
    from pellucid.render.overlay import overlay, plain

    columns = [row for row in rows() if row not in (ANOTHER, *SCALED)]
    lines = []
    for i in shown:
        sample = ranking.photographs[i]
        maps = [explained(ranking, row, sample.input[None], classes) for row in columns]
        first = maps[0]
        answer = f"{first.target.describe(classes, 0)} {float(first.score[0]):+.1f}"
        photograph = captioned(plain(first, sample.image, width=width), answer)
        lines.append([photograph, *(overlay(e, sample.image, width=width, title="", bar=False) for e in maps)])
        print(f"drawn: {sample.name}, {answer}", flush=True)
    return grid(lines, ["", *(row.label for row in columns)], size=12)


def captioned(picture: Image, text: str, size: int = 13) -> Image:
    """A picture with a line of words below."""
    from PIL import Image as Images
    from PIL import ImageDraw

    from pellucid.render import lettering

    paper = Images.new("RGB", (picture.width, picture.height + round(size * 1.5)), (255, 255, 255))
    paper.paste(picture, (0, 0))
    words = lettering.fitted(text, size, picture.width)
    ImageDraw.Draw(paper).text((0, picture.height + 2), words, fill=lettering.INK, font=lettering.font(size))
    return paper


def find(photographs: Dataset, words: str) -> int:
    for i in range(len(photographs)):
        if words in photographs.facts(i).name:
            return i
    raise OptionError(f"There is no photograph of '{words}'.", hint="Give a part of a file's name.")


# --- chance -----------------------------------------------------------------------------------------------------------


def by_chance(ranking: Ranking, photographs: int = 50, draws: int = 99) -> list[list[str]]:
    """The strongest cell and the positive evidence of photographs beside those of their surrogates (`pl.against_null`)."""
    kept = ranking.folder / f"null-{photographs}-{draws}.json"
    if not kept.exists():
        files.write_json(kept, [_compared(ranking, kind, photographs, draws) for kind in SURROGATES])
    head = ["surrogates", "", "photograph, median", "surrogates' 95 % limit, median", "p <= 0.05"]
    return [head, *(line for kind in files.read_json(kept) for line in kind)]


def _compared(ranking: Ranking, kind: str, photographs: int, draws: int) -> list[list[str]]:
    chosen = spread(ranking.photographs, photographs)
    nulls = []
    for i in range(len(chosen)):
        null = pl.against_null(ranking.softcam, chosen[i].input[None], kind=kind, draws=draws).null
        assert null is not None
        nulls.append(null)
        print(f"null, {kind}: {i + 1} of {len(chosen)}", flush=True)
    lines = []
    for name, words in (("strongest", "strongest cell"), ("positive", "positive cells together")):
        seen = torch.cat([getattr(null, name)[:, 0] for null in nulls])
        limit = torch.cat([null.limits()[name] for null in nulls])
        p = torch.cat([null.p_values()[name] for null in nulls])
        lines.append([
            DESCRIBED[kind], words, f"{float(seen.median()):.2f}", f"{float(limit.median()):.2f}", f"{int((p <= 0.05).sum())} of {len(p)}",
        ])  # fmt: skip
    return lines


# --- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Photographs: which map names what the answer rests on

All methods on torchvision's MobileNetV2 (weights IMAGENET1K_V1) and photographs of `$PELLUCID_TEST_DATA/photographs_imagenet`,
one per class, at 224 px. Explained is the class that the network predicts. `evidence` runs on `pl.convert(network)`, all others on the network itself.

Deletion sets places to the mean colour, those highest in the map first; insertion shows them on a blurred copy. The number is the
area under the curve of the answer, as probability and as log-odds against all other classes. **Low deletion and high insertion**
say that the map names what the answer rests on. Intervals: 95 %, bootstrap over photographs."""
READING = "## Reading"
PARTS = (("deletion", "log_odds"), ("insertion", "log_odds"), ("deletion", "probability"), ("insertion", "probability"))


def ranked(table: Table, labels: Sequence[str]) -> list[list[str]]:
    """Means with intervals, sorted by insertion of log-odds."""
    found = {(r.method, r.metric, r.part): r.interval for r in table.summary()}
    head = ["", "photographs", *(f"{metric}, {part.replace('_', '-')}" for metric, part in PARTS)]
    labels = sorted(labels, key=lambda label: -found[label, "insertion", "log_odds"].mean)
    body = [[label, str(found[label, *PARTS[0]].n), *(_cell(found[label, *p]) for p in PARTS)] for label in labels]
    return [head, *body]


def against(table: Table, labels: Sequence[str], others: Sequence[str], metric: str) -> list[list[str]]:
    """Paired differences of log-odds on the photographs that both have; bold where the interval leaves out zero."""
    lines = [["", *others]]
    for label in labels:
        found = [
            c.difference
            for other in others
            for c in table.compare(label, other)
            if (c.metric, c.part) == (metric, "log_odds")
        ]
        lines.append([label, *map(_difference, found)])
    return lines


def _cell(interval: Interval) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _difference(interval: Interval) -> str:
    text = f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def page(
    table: Table, ranking: Ranking, used: Sequence[Row], chance: list[list[str]], command: str, reading: str
) -> str:
    """docs/photographs.md. reading: the part written by hand, kept as it was."""
    scaled = [row.label for row in SCALED if row in used]
    labels = [row.label for row in used if row.label not in scaled]
    others = [row.label for row in used if row.label in (*CONTROLS, ANOTHER.label, FINE.label, "grad_cam")]
    hours = sum(ranking.seconds(row) for row in used) / 3600
    facts = {**results.environment(), "processor time": f"{hours:.1f} h"}
    own = {row.method: dict(row.options) for row in used if row.options and row.label not in scaled}
    parts = [
        INTRODUCTION,
        f"Measured by this command (the last part, Reading, is written by hand):\n\n```\n{command}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        f"Settings: {ranking.steps} steps; forward passes by {ranking.backend or 'PyTorch'}; options besides the defaults: {own}. Methods with fewer photographs have "
        "them evenly spread over the classes; compare these in pairs (below), not by their means.",
        "## Means",
        results.pipes(ranked(table, labels)),
        "## In pairs",
        "Differences of the log-odds on the same photographs, row minus column; bold where the 95 % interval leaves out zero. "
        "Good is negative for deletion and positive for insertion. The intervals are not corrected for their number.",
        *(f"{metric.capitalize()}:\n\n{results.pipes(against(table, labels, others, metric))}" for metric in METRICS),
    ]
    if scaled:
        pairs = dict.fromkeys(label.partition(",")[0] for label in scaled)
        both = [name for pair in pairs for name in (pair, *(s for s in scaled if s.startswith(f"{pair},")))]
        parts += [
            "## The same map at another scale",
            "`32 px`: the map added up over squares of 32 px. `2 px`: noise at the size of the first layer.",
            results.pipes(ranked(table, both)),
        ]
    if chance:
        parts += [
            "## How large evidence is by chance",
            "`pl.against_null`: the same network and method on surrogates of each photograph, each asked for its own prediction. Logits.",
            results.pipes(chance),
        ]
    return "\n\n".join([*parts, reading]).rstrip() + "\n"


def reading_of(path: Path | None) -> str:
    """The hand-written end of a page that is already there."""
    old = path.read_text() if path is not None and path.exists() else ""
    return old[old.index(READING) :] if READING in old else ""


# --- the command ------------------------------------------------------------------------------------------------------


def network(weights: Path) -> nn.Module:
    from torchvision import models

    model: nn.Module = models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def class_names() -> tuple[str, ...]:
    from torchvision.models import MobileNet_V2_Weights

    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photographs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = os.environ.get("PELLUCID_TEST_DATA")
    parser.add_argument(
        "--data", type=Path, default=data, required=data is None, help="the test data (default $PELLUCID_TEST_DATA)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/photographs"),
        help="where records are kept; the same command goes on from there (default runs/photographs)",
    )
    parser.add_argument("--rows", help="only these rows, comma-separated (rise,score_cam)")
    parser.add_argument("--limit", type=int, help="only this many photographs, evenly spread; not for the sheet")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw five photographs (PNG) and rank nothing")
    parser.add_argument("--backend", choices=("compile", "onnxruntime"), help="what runs the many forward passes")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page (docs/photographs.md)")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    asked = _arguments().parse_args(given)
    torch.set_num_threads(1)
    model = network(asked.data / "weights" / "mobilenet_v2-b0353104.pth")
    photographs = pl.open_data(asked.data / "photographs_imagenet")
    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ranking = Ranking(
        model, pl.convert(model, example), spread(photographs, asked.limit), asked.folder, STEPS, asked.backend
    )
    if asked.sheet:
        from pellucid.render.picture import png

        whole = Ranking(model, ranking.softcam, photographs, asked.folder)
        picture = sheet(whole, [find(photographs, words) for words in SHOWN], class_names())
        files.write_bytes(asked.sheet, png(picture))
        return 0
    used = [row for row in rows() if asked.rows is None or row.label in asked.rows.split(",")]
    table = join([named(ranking.run(row), row) for row in used])
    command = " ".join(["python -m benchmarks.photographs", *(given if given is not None else sys.argv[1:])])
    chance = by_chance(ranking) if asked.rows is None else []
    text = page(table, ranking, used, chance, command, reading_of(asked.write))
    if asked.write:
        files.write_text(asked.write, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
