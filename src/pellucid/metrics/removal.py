"""What faithfulness metrics share: changed copies of the inputs, run in batches, and the network's answer on them.

map ── order ──> ranks ── rank < count ──> what is removed or shown ── answers ──> the answer on every copy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid import backends, inputs, spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget, ContrastTarget, OneVsRestTarget, SingleLogitTarget, Target

Baseline: TypeAlias = inputs.Baseline
# change(rows, part): versions `part` of the inputs `rows`, (part, rows, channels, *size).
Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# cover(part): where the versions `part` of every input are changed, (part, *size).
Cover: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Answer:
    """What the network says of the target, in float64. score: the target's own number. log_odds: see `log_odds`."""

    score: Float[Tensor, "batch *copies"]
    log_odds: Float[Tensor, "batch *copies"]

    @property
    def probability(self) -> Float[Tensor, "batch *copies"]:
        return self.log_odds.sigmoid()

    def of(self, name: str) -> Float[Tensor, "batch *copies"]:
        found: Tensor = getattr(self, name)
        return found


def answers(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    task: str,
    change: Change,
    copies: int,
    *,
    batch_size: int | None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
) -> tuple[Answer, Answer]:
    """The answer on the inputs, `(batch,)`, and on `copies` changed versions of each, `(batch, copies)`.

    What is followed is the target's answer on the whole input, decided once. At most `batch_size` changed inputs exist
    at a time.
    """
    size = inputs.pass_size(x, batch_size)
    seen = inputs.observe(call, x, target)
    fast = backends.fast(call, x, seen.output, min(size, copies * len(x)), backend, precision)
    found = torch.empty(2, len(x), copies, dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for rows, parts in inputs.passes(copies, len(x), size):
            for part in parts:
                index = rows.repeat(len(part))
                output = fast.call.rows(index)(change(rows, part).flatten(0, 1))
                both = torch.stack(_answer(seen.target.rows(index), output, task))
                found[:, rows[:, None], part] = both.to(found).view(2, len(part), len(rows)).transpose(1, 2)
    return Answer(*_answer(seen.target, seen.output, task)), Answer(*found)


def _answer(target: Target, output: Any, task: str) -> tuple[Tensor, Tensor]:
    return target(output).detach().double(), log_odds(target, output, task).detach()


def log_odds(target: Target, output: Tensor, task: str) -> Float[Tensor, "batch"]:
    """The log-odds of the answer that the target speaks of; its sigmoid is the answer's probability.

    One of several classes, or one against the rest: against all others together (softmax). A contrast: class a, given that it is a or b.
    A single logit or one of several labels: the logit itself, with the sign of the answer. Other targets have no
    probability: nan.
    """
    score = target(output).double()
    if isinstance(target, ClassTarget) and task != "multilabel":
        chosen = target.weights(output).bool()
        return score - output.double().masked_fill(chosen, -torch.inf).logsumexp(1)
    known = isinstance(target, ClassTarget | ContrastTarget | OneVsRestTarget | SingleLogitTarget)
    return score if known else torch.full_like(score, torch.nan)


def ranks(pixels: Float[Tensor, "batch *size"], generator: torch.Generator | None = None) -> Int[Tensor, "batch *size"]:
    """0 for the highest value of each map, 1 for the next.

    Equal values come in an order drawn from `generator`, the same for all maps; without one in the order of the array.
    """
    values = pixels.flatten(1)
    n = values.shape[1]
    drawn = torch.arange(n) if generator is None else _permutation(n, generator)
    drawn = drawn.to(values.device)
    order = drawn[values[:, drawn].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(n, device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(pixels.shape)


def _permutation(n: int, generator: torch.Generator) -> Int[Tensor, "n"]:
    return torch.randperm(n, generator=copied(generator), device=generator.device)


def copied(generator: torch.Generator | None) -> torch.Generator:
    """A generator that draws the same and leaves the given one where it is, so that every batch meets the same chance."""
    return torch.Generator().manual_seed(0) if generator is None else generator.clone_state()


@dataclass(frozen=True)
class Curve:
    """The answer while places are dealt with. share (points,): of the places; answer: at each point, (batch, points)."""

    share: Float[Tensor, "points"]
    answer: Answer

    def areas(self) -> dict[str, Float[Tensor, "batch"]]:
        """By the trapezoid rule over the actual shares, so steps that do not divide the samples are no distortion."""
        share = self.share.to(self.answer.score)
        return {name: torch.trapezoid(self.answer.of(name), share, dim=1) for name in ("probability", "log_odds")}

    def points(self) -> dict[str, Float[Tensor, "batch"]]:
        """The answer at each share, by a name that says which: "probability_at_0.1"."""
        return {
            f"{name}_at_{share:.4g}": self.answer.of(name)[:, k]
            for name in ("probability", "log_odds")
            for k, share in enumerate(self.share.tolist())
        }


def curve(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    task: str,
    order: Int[Tensor, "batch *size"],
    counts: Int[Tensor, "points"],
    *,
    reveal: bool,
    baseline: Baseline,
    batch_size: int | None,
    backend: backends.Backend | None = None,
    precision: backends.Precision | None = None,
) -> Curve:
    """The answer while the places of the lowest numbers in `order` are removed, or shown on the baseline (`reveal`).

    counts: how far each point has gone in the order, rising. The whole input is one of the points and takes no pass of
    its own: the first (0) where places are removed, the last (all) where they are shown.
    """
    changed = (counts[:-1] if reveal else counts[1:]).to(x.device)
    kept, put = inputs.baseline(x, baseline), x
    if not reveal:
        kept, put = put, kept

    def change(rows: Tensor, part: Tensor) -> Tensor:
        dealt = order[rows] < changed[part].view(-1, *(1,) * order.ndim)
        return torch.where(dealt[:, :, None], put[rows], kept[rows])

    whole, found = answers(
        call, x, target, task, change, len(changed), batch_size=batch_size, backend=backend, precision=precision
    )
    joined = [
        torch.cat([f, w[:, None]] if reveal else [w[:, None], f], 1)
        for w, f in ((whole.score, found.score), (whole.log_odds, found.log_odds))
    ]
    return Curve(counts.double() / (int(order.max()) + 1), Answer(*joined))


def areas(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str,
    *,
    reveal: bool,
    steps: int,
    points: bool,
    baseline: Baseline,
    batch_size: int | None,
    backend: backends.Backend | None,
    precision: backends.Precision | None,
    generator: torch.Generator | None,
) -> dict[str, Float[Tensor, "batch"]]:
    """What deletion and insertion are: areas under the curve from none of the samples to all of them, and its points."""
    inputs.check_counts(steps=steps)
    spatial.check_same_size(pixels, x[:, 0], "input")
    n = pixels[0].numel()
    counts = torch.tensor([*range(0, n, -(-n // steps)), n])
    found = curve(
        call, x, target, task, ranks(pixels, generator), counts,
        reveal=reveal, baseline=baseline, batch_size=batch_size, backend=backend, precision=precision,
    )  # fmt: skip
    return where_defined({**found.areas(), **(found.points() if points else {})}, pixels)


def fall(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str,
    *,
    reveal: bool,
    shares: Sequence[float],
    baseline: Baseline,
    batch_size: int | None,
    generator: torch.Generator | None,
) -> dict[str, Float[Tensor, "batch"]]:
    """The mean over `shares` of how far the answer falls where that share of the highest samples is removed, or alone shown."""
    check_shares(shares)
    spatial.check_same_size(pixels, x[:, 0], "input")
    n = pixels[0].numel()
    some = sorted(max(1, round(share * n)) for share in shares)
    counts = torch.tensor([*some, n] if reveal else [0, *some])
    found = curve(
        call, x, target, task, ranks(pixels, generator), counts, reveal=reveal, baseline=baseline, batch_size=batch_size
    ).answer
    whole, rest = (-1, slice(0, -1)) if reveal else (0, slice(1, None))
    both = {name: found.of(name) for name in ("probability", "log_odds")}
    return where_defined({name: y[:, whole] - y[:, rest].mean(1) for name, y in both.items()}, pixels)


def check_shares(shares: Sequence[float]) -> None:
    """Raise `OptionError` unless there are shares and all lie between 0 and 1."""
    if not shares or not all(0 < share < 1 for share in shares):
        raise OptionError(
            f"shares={tuple(shares)} is not possible.", hint="Give numbers between 0 and 1, such as (0.1, 0.2, 0.5)."
        )


def where_defined(parts: dict[str, Float[Tensor, "batch"]], map: Tensor) -> dict[str, Float[Tensor, "batch"]]:
    """The values, nan for inputs whose map is not finite everywhere."""
    undefined = ~map.flatten(1).isfinite().all(1)
    return {name: values.masked_fill(undefined, torch.nan) for name, values in parts.items()}


def contributions(
    map: Float[Tensor, "batch *grid"], geometry: Geometry, x: Float[Tensor, "batch channels *size"]
) -> Float[Tensor, "batch *size"]:
    """What each sample of the input adds to the score, as the map tells it, in float64.

    A cell's value is shared evenly among its own samples, so totals stay: of a complete map, parts of the score. The
    channels of a map that has them are added up.
    """
    values = map.detach().double()
    values = values if geometry.grid == geometry.input_size else spatial.spread(values, geometry)
    values = values.sum(1) if values.shape == x.shape else values
    spatial.check_same_size(values, x[:, 0], "input")
    return values


def effects(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    task: str,
    values: Float[Tensor, "batch *size"],
    cover: Cover,
    copies: int,
    *,
    baseline: Baseline,
    batch_size: int | None,
) -> tuple[Float[Tensor, "batch copies"], Answer, Answer]:
    """For `copies` regions: the map's sum over each, the answer on the inputs and that with the region covered."""
    size, covering = inputs.pass_size(x, batch_size), inputs.baseline(x, baseline)

    def change(rows: Tensor, part: Tensor) -> Tensor:
        return torch.where(cover(part).to(x.device)[:, None, None], covering[rows], x[rows])

    flat = values.flatten(1)
    told = [flat @ cover(part).to(flat).flatten(1).T for part in torch.split(torch.arange(copies), size)]
    return torch.cat(told, 1), *answers(call, x, target, task, change, copies, batch_size=size)


def unit(pixels: Float[Tensor, "batch *size"]) -> Float[Tensor, "batch *size"]:
    """The positive part of each map over its largest value, 0 to 1; zero where nothing is positive."""
    positive = pixels.detach().double().clamp_min(0)
    largest = spatial.expand(positive.flatten(1).amax(1), positive)
    return torch.where(largest > 0, positive / largest, 0.0)


def seen_through(
    x: Float[Tensor, "batch channels *size"], pixels: Float[Tensor, "batch *size"], baseline: Baseline
) -> Float[Tensor, "batch channels *size"]:
    """The inputs where the map is at its highest, the baseline where it is not positive, blended between."""
    spatial.check_same_size(pixels, x[:, 0], "input")
    return torch.lerp(inputs.baseline(x, baseline), x, unit(pixels).to(x)[:, None].expand_as(x))


def confidence(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str,
    *,
    baseline: Baseline,
    batch_size: int | None,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """The answer's probability on the input, and on the input seen through the map; nan where the map is not finite."""
    seen = seen_through(x, pixels, baseline)
    whole, part = answers(call, x, target, task, lambda rows, _: seen[rows][None], 1, batch_size=batch_size)
    found = where_defined({"whole": whole.probability, "part": part.probability[:, 0]}, pixels)
    return found["whole"], found["part"]


def pearson(a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    """The correlation of each pair of rows, -1 to 1; nan where one of them is flat."""
    flat = (a == a[:, :1]).all(1) | (b == b[:, :1]).all(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    size = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / size).clamp(-1, 1).masked_fill(flat, torch.nan)
