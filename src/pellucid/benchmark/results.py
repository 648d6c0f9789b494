"""What the tables say: which scores may be believed, which networks cannot be explained, and what each remedy is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Literal, TypeAlias

from pellucid.benchmark.plan import CANDIDATES, DIAMETERS, GRADED, OWN, REMEDIED, Plan
from pellucid.benchmark.scoring import BLANK, GAUGES, MAPS, NETWORKS
from pellucid.controls import CONTROLS
from pellucid.metrics import METRICS, SUMMARIES
from pellucid.metrics.tag_calibration import reliances
from pellucid.ranking import RankedMethods, rank_methods
from pellucid.record import Finding, Interval, PerformanceRow, SummaryRow, Table, crossed_interval, t_interval

Effect: TypeAlias = Literal["helps", "harms", "no difference shown"]
Key: TypeAlias = tuple[str, int]  # a sample, and the training whose network explained it

NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
NOISE, EDGES, TRUTH = "random_map", "edge_map", "oracle_map"
PRIMARY = (("auprc", "cells"), ("exact_comprehensiveness", "log_odds"))  # one of each property, set beforehand
RANDOM_IS_ONE = (("relevance_mass", "over_area"), ("auprc", "over_area"))


@dataclass(frozen=True)
class Score:
    """A metric and one of its parts."""

    metric: str
    part: str

    @property
    def higher(self) -> bool:
        return bool(METRICS[self.metric].higher_is_better)

    def __str__(self) -> str:
        return f"{self.metric}, {self.part.replace('_', ' ')}" if self.part else self.metric


class Values:
    """The numbers of a table, by network, method and score; and intervals over other patients and other trainings."""

    def __init__(self, table: Table) -> None:
        self.found: dict[tuple[str, str, Score], dict[Key, float]] = defaultdict(dict)
        self.groups: dict[str, str] = {}
        for r in table.records:
            self.groups[r.sample] = r.group or r.sample
            if r.value is not None:
                self.found[r.model, r.method, Score(r.metric, r.part)][r.sample, r.seed] = r.value

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Without the controls."""
        return tuple(dict.fromkeys(method for _, method, _ in self.found if method not in CONTROLS))

    def interval(self, model: str, method: str, score: Score) -> Interval:
        return self._interval(self.found.get((model, method, score), {}))

    def better(self, score: Score, first: tuple[str, str], second: tuple[str, str]) -> Interval:
        """How much better one network's map by one method is than another's on the same pictures; above 0 is better."""
        one, other = (self.found.get((*which, score), {}) for which in (first, second))
        sign = 1 if score.higher else -1
        return self._interval({key: sign * (one[key] - other[key]) for key in one if key in other})

    def _interval(self, values: Mapping[Key, float]) -> Interval:
        if not values:
            return NOTHING
        return crossed_interval(
            list(values.values()), [self.groups[s] for s, _ in values], [seed for _, seed in values]
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a score puts the mask above every method, every method above noise, and the best above all that is blind.

    controls: mean and interval of each. methods: likewise. not_above_noise: methods that are not shown to be better than
    the random map; not_below_truth: methods that the mask itself is not shown to be better than; not_below_best: controls
    without truth, such as edges, that the best method is not shown to be better than. stability: Kendall's W of the methods'
    order over trainings, without controls.
    """

    model: str
    score: Score
    methods: Mapping[str, Interval]
    controls: Mapping[str, Interval]
    not_above_noise: tuple[str, ...]
    not_below_truth: tuple[str, ...]
    not_below_best: tuple[str, ...]
    stability: float | None

    @property
    def holds(self) -> bool:
        return not (self.not_above_noise or self.not_below_truth or self.not_below_best)

    @property
    def order(self) -> list[str]:
        return ordered(self.methods, self.score)


@dataclass(frozen=True)
class Offence:
    """A score of a network that has learnt nothing, whose interval lies above that of the edge map."""

    model: str
    method: str
    score: Score
    interval: Interval
    edges: Interval


@dataclass(frozen=True)
class Remedy:
    """A score with a remedy and without it on the same networks and pictures, at one position of the remedy's knob."""

    remedy: str
    knob: str
    score: Score
    without: Interval
    with_it: Interval
    gain: Interval

    @property
    def effect(self) -> Effect:
        return "helps" if self.gain.low > 0 else "harms" if self.gain.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Rung:
    """One strength of the letter in training: what networks make of the letter, and what the maps show of it.

    effect: what the letter adds to the log-odds of a lesion. reliance: its share of the measured effects of letter and lesions.
    shares: of each map on the letter. Student's t over trainings.
    """

    rho: float
    effect: Interval
    reliance: Interval
    shares: Mapping[str, Interval]


@dataclass(frozen=True)
class Kind:
    """All that was found on one kind of pictures.

    sensitivity: of the coarse network to lesions of each diameter.
    """

    kind: str
    performance: tuple[PerformanceRow, ...]
    verdicts: tuple[Verdict, ...]
    own_cells: tuple[Verdict, ...]
    ranks: tuple[RankedMethods, ...]
    offences: tuple[Offence, ...]
    base_rates: Mapping[Score, Interval]
    agreement: tuple[Finding, ...]
    remedies: tuple[Remedy, ...]
    sensitivity: Mapping[float, Interval]
    ladder: tuple[Rung, ...]
    calibration: tuple[Finding, ...]
    false_alarms: tuple[Finding, ...]
    curves: tuple[SummaryRow, ...]

    @property
    def headline(self) -> tuple[Score, ...]:
        """The scores that hold on every network that learnt something, and that no network scores on that did not."""
        failed = {v.score for v in self.verdicts if not v.holds} | {o.score for o in self.offences}
        return tuple(score for score in dict.fromkeys(v.score for v in self.verdicts) if score not in failed)


@dataclass(frozen=True)
class Results:
    """What the benchmark found, per kind of pictures. gauges: the remedy for several classes, on the kind that has them;
    several_classes: the share of its pictures that the network gets right.
    """

    plan: Plan
    kinds: tuple[Kind, ...]
    gauges: tuple[Remedy, ...]
    several_classes: Interval


def judged(plan: Plan, tables: Mapping[str, Mapping[str, Table]]) -> Results:
    """Judge the tables of every kind and study."""
    kinds = tuple(_kind(plan, kind, tables[kind]) for kind in plan.kinds)
    gauges = tables[GRADED]["gauges"]
    return Results(plan, kinds, tuple(_gauges(Values(gauges))), _recognised(gauges, next(iter(GAUGES))))


def _kind(plan: Plan, kind: str, tables: Mapping[str, Table]) -> Kind:
    factorial, letters = tables["factorial"], tables["letters"]
    values = Values(factorial)
    clean = letters.where(model=f"rho-{plan.rhos[0]:g}")
    return Kind(
        kind=kind,
        performance=tuple(tables["predictions"].performance()),
        verdicts=tuple(_verdicts(factorial, CANDIDATES)),
        own_cells=tuple(_verdicts(tables["own-cells"], OWN)),
        ranks=tuple(_ranks(factorial)),
        offences=tuple(_offences(Values(tables["blank"]))),
        base_rates={Score(*s): values.interval(NETWORKS[0], NOISE, Score(*s)) for s in RANDOM_IS_ONE},
        agreement=tuple(SUMMARIES["attribution_effect_agreement"](tables["own-cells"])),
        remedies=tuple(_maps(Values(tables["diameters"]))),
        sensitivity={d: _recognised(tables["diameters"], f"registered, {d:g}") for d in DIAMETERS},
        ladder=tuple(_ladder(plan, letters)),
        calibration=tuple(SUMMARIES["tag_calibration"](letters)),
        false_alarms=tuple(SUMMARIES["false_alarm_rate"](clean)),
        curves=tuple(tables["curves"].summary()),
    )


def _ranks(table: Table) -> Iterator[RankedMethods]:
    for model in NETWORKS:
        for score in (Score(*names) for names in PRIMARY):
            found = rank_methods(table, model, score.metric, score.part, higher=score.higher)
            if found is not None:
                yield found


def _verdicts(table: Table, scores: Sequence[tuple[str, str]]) -> Iterator[Verdict]:
    values = Values(table)
    stability = {
        (f.model, Score(f.metric, f.part)): f.value for f in SUMMARIES["rank_stability"](table, without=tuple(CONTROLS))
    }
    for model in NETWORKS:
        for score in (Score(*names) for names in scores):
            yield _verdict(values, model, score, stability.get((model, score)))


def _verdict(values: Values, model: str, score: Score, stability: float | None) -> Verdict:
    methods = {m: values.interval(model, m, score) for m in values.methods}
    best = ordered(methods, score)[0]

    def shown(better: str, worse: str) -> bool:
        return values.better(score, (model, better), (model, worse)).low > 0

    return Verdict(
        model,
        score,
        methods,
        {c: values.interval(model, c, score) for c in CONTROLS},
        not_above_noise=tuple(m for m in methods if not shown(m, NOISE)),
        not_below_truth=tuple(m for m in methods if not shown(TRUTH, m)),
        not_below_best=tuple(c for c in CONTROLS if c != TRUTH and not shown(best, c)),
        stability=stability,
    )


def ordered(methods: Mapping[str, Interval], score: Score) -> list[str]:
    """Methods, the best first; those without a value last."""
    sign = -1 if score.higher else 1
    return sorted(methods, key=lambda m: (not isfinite(methods[m].mean), sign * methods[m].mean))


def _offences(values: Values) -> Iterator[Offence]:
    for model in BLANK:
        for score in (Score(*names) for names in CANDIDATES):
            edges = values.interval(model, EDGES, score)
            for method in values.methods:
                found = values.interval(model, method, score)
                if found.low > edges.high if score.higher else found.high < edges.low:
                    yield Offence(model, method, score, found, edges)


def _maps(values: Values) -> Iterator[Remedy]:
    """Registration against plain resizing; finer maps against the network's own, both registered."""
    pairs = (("registration", "plain resize", "registered"), *((f"{name} times", "registered", name) for name in MAPS if name.startswith("finer")))  # fmt: skip
    for remedy, without, with_it in pairs:
        for diameter in DIAMETERS:
            knob = f"lesion diameter {diameter:g} of the stride"
            yield from _compared(values, remedy, knob, f"{without}, {diameter:g}", f"{with_it}, {diameter:g}")


def _recognised(table: Table, model: str) -> Interval:
    """The share of the pictures, all of which show lesions, that are given the right class."""
    mine = [p for p in table.predictions if p.model == model]
    right = [float(max(range(len(p.probabilities)), key=p.probabilities.__getitem__) == p.label) for p in mine]
    return crossed_interval(right, [p.group or p.sample for p in mine], [p.seed for p in mine])


def _gauges(values: Values) -> Iterator[Remedy]:
    without, with_it = GAUGES
    return _compared(values, "contrast map", "four classes", without, with_it)


def _compared(values: Values, remedy: str, knob: str, without: str, with_it: str) -> Iterator[Remedy]:
    for score in (Score(*names) for names in REMEDIED):
        before, after = (values.interval(model, "evidence", score) for model in (without, with_it))
        gain = values.better(score, (with_it, "evidence"), (without, "evidence"))
        yield Remedy(remedy, knob, score, before, after, gain)


def _ladder(plan: Plan, table: Table) -> Iterator[Rung]:
    seen = reliances(table)
    for rho in plan.rhos:
        own = {method: [n for n in many if n.model == f"rho-{rho:g}"] for method, many in seen.items()}
        any_map = next(iter(own.values()))  # what the letter does is the same for all
        effect, reliance = (t_interval([getattr(n, name) for n in any_map]) for name in ("effect", "reliance"))
        yield Rung(rho, effect, reliance, {method: t_interval([n.share for n in many]) for method, many in own.items()})
