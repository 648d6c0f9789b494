"""Rows of numbers, and what may be said of them: means with intervals over patients, and paired comparisons.

Every figure that leaves pellucid (terminal, JSON, report, web page) is read from one table of these rows.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from sys import intern
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid import files
from pellucid.errors import OptionError, nearest
from pellucid.statistics import NonInferiority, Paired, benjamini_hochberg, holm, non_inferiority, wilcoxon

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Record:
    """One number about one sample. status: "ok", or why there is no value ("no mask", "undefined", "failed: ...")."""

    sample: str
    group: str
    model: str
    method: str
    metric: str
    part: str = ""
    target: str = ""
    value: float | None = None
    status: str = "ok"
    seed: int = 0
    fold: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network answered about one sample: the numbers that performance is computed from."""

    sample: str
    group: str
    model: str
    label: int
    probabilities: tuple[float, ...]
    seed: int = 0
    fold: int | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval over resampled groups. n: values; groups: what was resampled."""

    mean: float
    low: float
    high: float
    n: int
    groups: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class SummaryRow:
    """Mean of a metric of a method on a network; `undefined`: how many samples had no value."""

    model: str
    method: str
    metric: str
    part: str
    interval: Interval
    undefined: int

    def as_dict(self) -> dict[str, Any]:
        own = {
            "model": self.model,
            "method": self.method,
            "metric": self.metric,
            "part": self.part,
            "undefined": self.undefined,
        }
        return {**own, **asdict(self.interval)}


@dataclass(frozen=True)
class Finding:
    """One number about a whole table: what a summary gives.

    model, method, metric, part: what it speaks of; empty where it speaks of all. value: None where there is none, and
    `status` says why. low, high: its interval, where it has one. n: how many values it rests on; basis: in words.
    """

    summary: str
    model: str = ""
    method: str = ""
    metric: str = ""
    part: str = ""
    value: float | None = None
    status: str = "ok"
    low: float | None = None
    high: float | None = None
    n: int = 0
    basis: str = ""


@dataclass(frozen=True)
class PerformanceRow:
    """How well a network predicts, by one score."""

    model: str
    metric: str
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        return {"model": self.model, "metric": self.metric, **asdict(self.interval)}


@dataclass(frozen=True)
class Comparison:
    """The paired difference first minus second on the same samples, with its interval and a sign-flip p-value.

    ranks: the same by ranks over groups (Hodges-Lehmann shift, rank-biserial effect, Wilcoxon's test). adjusted: the
    p-value corrected for the number of rows that `compare` gave.
    """

    first: str
    second: str
    model: str
    metric: str
    part: str
    difference: Interval
    p_value: float
    ranks: Paired
    adjusted: float = float("nan")


@dataclass(frozen=True)
class PerformanceComparison:
    """The paired difference of a score of two networks, new minus old; more is better. verdict: with a margin only."""

    new: str
    old: str
    metric: str
    difference: Interval
    verdict: NonInferiority | None = None


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """A percentile interval of `statistic(rows)` over whole groups drawn with replacement.

    groups: the group of each row (patient), so that images of one patient stay together (cluster bootstrap). Resamples
    on which the statistic is not defined (nan) are left out.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(member, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(member))[:-1])
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picked = generator.integers(len(names), size=len(names))
        drawn.append(statistic(np.concatenate([rows[i] for i in picked])))
    values = np.asarray(drawn, dtype=float)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else (np.nan, np.nan)
    return Interval(float(statistic(np.arange(len(member)))), float(low), float(high), len(member), len(names))


def mean_interval(
    values: Sequence[float], groups: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The mean with its cluster-bootstrap interval. Vectorised over resamples: sums and counts per group suffice."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=float))
    counts = np.bincount(member)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(values)), float(low), float(high), len(member), len(names))


def t_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of independent repetitions (trainings) with Student's t interval; not a number with fewer than two."""
    from scipy import stats

    numbers = np.asarray(values, dtype=float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Interval(mean, float("nan"), float("nan"), len(numbers), len(numbers))
    half = float(stats.t.ppf((1 + level) / 2, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return Interval(mean, mean - half, mean + half, len(numbers), len(numbers))


def crossed_interval(
    values: Sequence[float],
    groups: Sequence[str],
    trainings: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The mean over groups (patients) and trainings, both drawn with replacement (Owen 2007, pigeonhole bootstrap).

    For the same groups scored with networks of several trainings: the interval covers other patients and other trainings.
    With one training it is `mean_interval`. A few trainings say little about all; the interval is then rough.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    runs, run = np.unique(np.asarray(trainings), return_inverse=True)
    sums, counts = np.zeros((len(runs), len(names))), np.zeros((len(runs), len(names)))
    np.add.at(sums, (run, member), np.asarray(values, dtype=float))
    np.add.at(counts, (run, member), 1)
    generator = np.random.default_rng(seed)
    drawn, again = (generator.multinomial(n, np.full(n, 1 / n), size=resamples) for n in (len(names), len(runs)))
    size = ((again @ counts) * drawn).sum(1)
    means = ((again @ sums) * drawn).sum(1)[size > 0] / size[size > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(values)), float(low), float(high), len(member), len(names))


def sign_flip_p(
    differences: Sequence[float], groups: Sequence[str], *, seed: int = 0, resamples: int = 10_000
) -> float:
    """Two-sided p-value of a mean difference: the sign of each group's sum is flipped at random."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(differences, dtype=float))
    signs = np.random.default_rng(seed).integers(0, 2, size=(resamples, len(names))) * 2 - 1
    as_large = np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-12)
    return float((as_large.sum() + 1) / (resamples + 1))


def _chosen(names: Sequence[str] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the known that are named; all where no names are given."""
    for name in names or ():
        if name not in known:
            raise OptionError(f"There is no score '{name}'.", hint=nearest(name, known))
    return {name: known[name] for name in known if names is None or name in names}


def _on_rows(
    score: Callable[..., float], probabilities: NDArray[Any], labels: NDArray[Any], rows: NDArray[np.intp]
) -> float:
    return score(probabilities[rows], labels[rows])


def _difference_on_rows(
    score: Callable[..., float],
    sign: int,
    first: NDArray[Any],
    second: NDArray[Any],
    labels: NDArray[Any],
    rows: NDArray[np.intp],
) -> float:
    return sign * (score(first[rows], labels[rows]) - score(second[rows], labels[rows]))


@dataclass(frozen=True)
class Table:
    """Records of explanations, predictions of the networks, and what follows from them."""

    records: tuple[Record, ...]
    predictions: tuple[Prediction, ...] = ()

    def where(self, **facts: Any) -> Table:
        """The records whose fields have the given values."""
        return Table(
            tuple(r for r in self.records if all(getattr(r, k) == v for k, v in facts.items())), self.predictions
        )

    def failures(self) -> list[Record]:
        """Samples that could not be read and explanations that failed, each with its reason."""
        return [r for r in self.records if r.status.startswith("failed")]

    def performance(
        self, *, scores: Sequence[str] | None = None, seed: int = 0, resamples: int = RESAMPLES
    ) -> list[PerformanceRow]:
        """How well each network predicts. scores: names in `performance.SCORES`, by default all."""
        from pellucid.performance import SCORES

        rows = []
        for model in dict.fromkeys(p.model for p in self.predictions):
            mine = [p for p in self.predictions if p.model == model]
            labels, probabilities = np.array([p.label for p in mine]), np.array([p.probabilities for p in mine])
            groups = [p.group or p.sample for p in mine]
            for metric, score in _chosen(scores, SCORES).items():
                statistic = partial(_on_rows, score, probabilities, labels)
                rows.append(PerformanceRow(model, metric, bootstrap(statistic, groups, seed=seed, resamples=resamples)))
        return rows

    def summary(self, *, seed: int = 0, resamples: int = RESAMPLES) -> list[SummaryRow]:
        """Mean and interval over groups for every model, method, metric and part; undefined cases are counted."""
        cells: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
        for record in self.records:
            if not record.metric:
                continue  # a sample or a method that failed as a whole; see failures()
            cells[record.model, record.method, record.metric, record.part].append(record)
        rows = []
        for (model, method, metric, part), found in cells.items():
            good = [r for r in found if r.value is not None]
            if good:
                interval = mean_interval(
                    [r.value for r in good if r.value is not None],
                    [r.group or r.sample for r in good],
                    seed=seed,
                    resamples=resamples,
                )
            else:
                interval = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
            rows.append(SummaryRow(model, method, metric, part, interval, len(found) - len(good)))
        return rows

    def compare(
        self, first: str, second: str, *, seed: int = 0, adjust: Literal["holm", "benjamini_hochberg"] = "holm"
    ) -> list[Comparison]:
        """Method `first` against `second` on the samples that both have, per model, metric and part.

        adjust: how p-values are corrected for the number of rows: "holm" for what was declared beforehand,
        "benjamini_hochberg" for what is explored.
        """
        known = {r.method for r in self.records}
        for name in (first, second):
            if name not in known:
                raise OptionError(f"The table has no method '{name}'.", hint=nearest(name, sorted(known)))
        values: dict[tuple[str, str, str], dict[str, dict[str, tuple[float, str]]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for r in self.records:
            if r.value is not None and r.method in (first, second):
                values[r.model, r.metric, r.part][r.method][f"{r.sample}\0{r.seed}\0{r.fold}"] = (
                    r.value,
                    r.group or r.sample,
                )
        found = []
        for (model, metric, part), methods in values.items():
            shared = sorted(set(methods[first]) & set(methods[second]))
            if not shared:
                continue
            differences = [methods[first][s][0] - methods[second][s][0] for s in shared]
            groups = [methods[first][s][1] for s in shared]
            found.append(
                Comparison(
                    first,
                    second,
                    model,
                    metric,
                    part,
                    mean_interval(differences, groups, seed=seed),
                    sign_flip_p(differences, groups, seed=seed),
                    wilcoxon(differences, groups),
                )
            )
        corrected = (holm if adjust == "holm" else benjamini_hochberg)([c.p_value for c in found])
        return [replace(c, adjusted=p) for c, p in zip(found, corrected, strict=True)]

    def compare_performance(
        self,
        new: str,
        old: str,
        *,
        scores: Sequence[str] | None = None,
        margin: float | None = None,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> list[PerformanceComparison]:
        """How well network `new` predicts against `old` on the samples that both have, with patients resampled together.

        scores: names in `performance.SCORES`, by default all.
        margin: the loss of a score that would still be accepted, declared beforehand and in the score's unit; with it
        each row has a verdict of non-inferiority. Scores where less is better are turned, so that more is better.
        """
        from pellucid.performance import LESS_IS_BETTER, SCORES

        mine, theirs = ({(p.sample, p.seed, p.fold): p for p in self.predictions if p.model == m} for m in (new, old))
        for name, known in ((new, mine), (old, theirs)):
            if not known:
                raise OptionError(
                    f"The table has no predictions of '{name}'.",
                    hint=nearest(name, sorted({p.model for p in self.predictions})),
                )
        shared = sorted(set(mine) & set(theirs), key=str)
        labels = np.array([mine[k].label for k in shared])
        first, second = (np.array([side[k].probabilities for k in shared]) for side in (mine, theirs))
        groups = [mine[k].group or mine[k].sample for k in shared]
        found = []
        for metric, score in _chosen(scores, SCORES).items():
            sign = -1 if metric in LESS_IS_BETTER else 1
            statistic = partial(_difference_on_rows, score, sign, first, second, labels)
            interval = bootstrap(statistic, groups, seed=seed, resamples=resamples)
            verdict = None
            if margin is not None:
                verdict = non_inferiority(interval.mean, interval.low, interval.high, interval.n, margin=margin)
            found.append(PerformanceComparison(new, old, metric, interval, verdict))
        return found

    def to_json(self, path: str | Path) -> Path:
        """Records and summary; no times in it, so equal runs give equal bytes."""
        whole = {
            "format": 1, **self.as_parts(),
            "summary": [r.as_dict() for r in self.summary()], "performance": [r.as_dict() for r in self.performance()],
        }  # fmt: skip
        return files.write_json(path, whole)

    def to_csv(self, path: str | Path) -> Path:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, [f.name for f in fields(Record)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in self.records)
        return files.write_text(path, stream.getvalue())

    @classmethod
    def from_json(cls, path: str | Path) -> Table:
        return cls.from_parts(files.read_json(path))

    def as_parts(self) -> dict[str, Any]:
        """Plain rows, as `from_parts` takes them back."""
        return {"records": [asdict(r) for r in self.records], "predictions": [asdict(p) for p in self.predictions]}

    @classmethod
    def from_parts(cls, stored: dict[str, Any]) -> Table:
        predictions = tuple(
            Prediction(**_shared({**p, "probabilities": tuple(p["probabilities"])})) for p in stored["predictions"]
        )
        return cls(tuple(Record(**_shared(r)) for r in stored["records"]), predictions)

    def __str__(self) -> str:
        rows = [
            (
                r.model,
                r.method,
                f"{r.metric} {r.part}".strip(),
                str(r.interval) if r.interval.n else "-",
                str(r.interval.n),
            )
            for r in self.summary()
        ]
        head = ("model", "method", "metric", "mean [95 % interval]", "n")
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        )


def join(tables: Iterable[Table]) -> Table:
    """The rows of several tables in one."""
    records: list[Record] = []
    predictions: list[Prediction] = []
    for table in tables:
        records += table.records
        predictions += table.predictions
    return Table(tuple(records), tuple(predictions))


def _shared(row: dict[str, Any]) -> dict[str, Any]:
    """The row with one copy of each text: a long table repeats the same few names, and JSON makes each anew."""
    return {key: intern(value) if isinstance(value, str) else value for key, value in row.items()}
