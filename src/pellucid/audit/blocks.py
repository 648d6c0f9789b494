"""The nine blocks of an audit, put together from what was found. Nothing is calculated here but counts."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from pellucid import __version__
from pellucid.audit.changes import changes
from pellucid.audit.likeness import Pair
from pellucid.audit.mending import Mended
from pellucid.audit.observe import Drawing, Reading
from pellucid.audit.policy import Policy
from pellucid.audit.shortcuts import ZoneFinding
from pellucid.audit.subgroups import PER_CLASS, SubgroupRow, subgroups
from pellucid.audit.subject import Subject, training_notes
from pellucid.controls import CONTROLS
from pellucid.methods import METHODS
from pellucid.metrics import METRICS
from pellucid.record import Interval, mean_interval
from pellucid.reporting.audit import Block, Cell, Figure, Sheet
from pellucid.reporting.report import Picture

SHOWN = 8  # rows of lists that could be long
LEVEL = 0.05
NOISE = "random_map"


@dataclass(frozen=True)
class Found:
    """Everything an audit found out. pairs: samples alike; shared: patients on both sides of training and judging.

    code: SHA-256 of pellucid's own sources. records, head: length and digest of the chain. since: figures of an earlier
    audit.
    """

    subject: Subject
    policy: Policy
    positive: int
    readings: Sequence[Reading]
    zones: Sequence[ZoneFinding]
    drawings: Sequence[Drawing]
    performance: Mapping[str, Interval]
    subgroups: Sequence[SubgroupRow]
    pairs: Sequence[Pair] | None
    shared: int | None
    skipped: Mapping[str, str]
    mended: Mended | None
    since: Mapping[str, Any] | None
    pictures: Sequence[tuple[Picture, ...]]
    code: str
    records: int
    head: str
    seed: int
    command: str
    out: Path

    @property
    def name(self) -> str:
        """Of the positive class."""
        return self.subject.classes[self.positive]

    @property
    def patients(self) -> int:
        return len({r.unit for r in self.readings})

    def counted(self, key: str, count: int, n: int | None = None) -> Figure:
        return Figure(
            key, Interval(count, count, count, len(self.readings) if n is None else n, self.patients), "counted"
        )

    def errors(self) -> list[Reading]:
        """Wrong answers, the most confident first."""
        wrong = [r for r in self.readings if r.answer != r.label]
        return sorted(wrong, key=lambda r: -max(r.probabilities))


def blocks(found: Found) -> tuple[Block, ...]:
    """All nine, in their order."""
    made = (_identity, _purpose, _data, _performance, _method, _quality, _failures, _decisions)
    eight = tuple(make(found) for make in made)
    return (*eight, _changes(found, eight))


def summary(found: Found) -> tuple[str, ...]:
    """What a reader who reads nothing else should know."""
    area = found.performance["auc"]
    relied = [z.zone for z in found.zones if z.verdict == "relied on"]
    apart = [row for row in found.subgroups if _apart(row)]
    told = [
        f"AUC {area} and sensitivity {found.performance['sensitivity']} for '{found.name}', on {area.n} samples of {area.groups} patients that were not trained on.",
        f"The network relies on: {', '.join(relied)}."
        if relied
        else "On no declared or found zone the network is shown to rely.",
    ]
    if found.policy.subgroups:
        told.append(
            f"{len(apart)} measures of subgroups differ from the other subgroups after correction." if apart else "No subgroup differs from the others after correction."
        )  # fmt: skip
    if found.pairs is None:
        told.append("What the network learnt from is not known here, so leakage could not be looked for.")
    return tuple(told)


def missing(found: Found) -> dict[str, str]:
    """The beginnings of the keys that limits may name and this audit could not measure, and why."""
    why = {
        _row_key(row): f"{_too_few(row, found.policy.minimum_n)}." for row in found.subgroups if row.interval is None
    }
    for zone in found.zones:
        why[_zone_key(zone)] = "there are too few samples, or no evidence."
    if found.pairs is None:
        why["data."] = "what the network learnt from is not known."
    if found.subject.scored is None:
        why["quality."] = f"run pellucid evaluate {found.subject.folder}, then audit again."
    if found.mended is None:
        why["mending."] = "nothing was mended (--mend)."
    why["evidence."] = "no sample has a mask, or the network has no evidence."
    why["method.residual"] = "the network has no evidence."
    return why


# --- 1 to 3: what it is, what it is for, what it was judged by ------------------------------------------------------------


def _identity(found: Found) -> Block:
    subject = found.subject
    facts = {
        "run": subject.folder.name, "pellucid": __version__, "pellucid's code (SHA-256)": found.code, "python, torch": f"{platform.python_version()}, {torch.__version__}",
        **{f"{name} (SHA-256)": digest for name, digest in subject.hashes.items()},
        "preprocessing": getattr(subject.network, "preprocessing", None), "training": training_notes(subject) or None, "seed of this audit": found.seed,
        "hardware": f"{platform.machine()}, {torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}",
        "deterministic algorithms only": "yes" if torch.are_deterministic_algorithms_enabled() else "no",
    }  # fmt: skip
    return Block(1, "Identity", "AI Act 13(3)(a), (e); SR 26-2 inventory", facts)


def _purpose(found: Found) -> Block:
    policy, purpose = found.policy, found.policy.purpose
    facts = {
        "intended use": purpose.intended_use, "intended user": purpose.intended_user, "out of scope": purpose.out_of_scope, "human oversight": purpose.oversight,
        "class that is looked for": found.name, "answer is yes from a probability of": f"{policy.threshold:g}",
        "share of positives where it is used": None if policy.prevalence is None else f"{policy.prevalence:g}",
    }  # fmt: skip
    return Block(2, "Purpose", "AI Act 13(3)(b)(i), 14; FDA transparency principles", facts)


def _data(found: Found) -> Block:
    subject, notes = found.subject, found.policy.data
    facts: dict[str, Any] = {
        "judged by": f"{subject.source}" + (", each fold by the network that did not see it" if subject.folds else ""),
        "sources": notes.sources, "licence": notes.licence, "exclusions": notes.exclusions,
        "samples": len(found.readings), "patients": found.patients if any(r.group for r in found.readings) else "not known: every sample counts as one",
        "could not be read": ", ".join(f"{name}: {why}" for name, why in list(found.skipped.items())[:SHOWN]) or "0",
        "learnt from": None if subject.learnt is None else "the other folds" if subject.folds else f"{len(subject.learnt)} samples",
    }  # fmt: skip
    return Block(
        3, "Data", "AI Act 10; good machine learning practice 3 to 5", facts, tuple(_likeness_words(found)), (_coverage(found), *_subgroup_coverage(found), *_likeness(found))
    )  # fmt: skip


def _coverage(found: Found) -> Sheet:
    parts = dict.fromkeys(r.part for r in found.readings)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (part, *_counts(found, [r for r in found.readings if r.part == part])) for part in parts
    )
    return Sheet("Samples", ("part", "samples", "patients", *found.subject.classes), rows, found.command)


def _counts(found: Found, own: Sequence[Reading]) -> tuple[int, ...]:
    """Samples, patients, and samples of each class."""
    labels = Counter(r.label for r in own)
    return len(own), len({r.unit for r in own}), *(labels[k] for k in range(len(found.subject.classes)))


def _subgroup_coverage(found: Found) -> Iterator[Sheet]:
    """How the classes fall on the subgroups: a class that is all in one of them may be told by it."""
    rows: list[tuple[Cell, ...]] = []
    for column in found.policy.subgroups:
        members: dict[str, list[Reading]] = {}
        for name, reading in zip(subgroups(found.readings, column), found.readings, strict=True):
            members.setdefault(name, []).append(reading)
        rows += [(column, name or "no entry", *_counts(found, members[name])) for name in sorted(members)]
    if rows:
        head = ("column", "subgroup", "samples", "patients", *found.subject.classes)
        yield Sheet("Subgroups and classes", head, tuple(rows), found.command)


def _likeness(found: Found) -> Iterator[Sheet]:
    if found.pairs is None or found.shared is None:
        return
    same, near = [p for p in found.pairs if p.same], [p for p in found.pairs if not p.same]
    rows: tuple[tuple[Cell, ...], ...] = (
        ("patients on both sides", found.counted("data.shared_patients", found.shared)),
        ("pairs of the same input", found.counted("data.same_inputs", len(same))),
        ("pairs of nearly the same input", found.counted("data.near_duplicates", len(near))),
    )
    yield Sheet(
        "Between what was learnt from and what judges", ("what", "count"), rows, found.command,
        "Nearly the same: correlation of at least 0.99 of what two pictures have beside the mean picture, at 32 pixels a side.",
    )  # fmt: skip


def _likeness_words(found: Found) -> Iterator[str]:
    if found.pairs is None:
        yield "What the network learnt from is not known here: leakage and near-duplicates could not be looked for."
    for pair in (found.pairs or ())[:SHOWN]:
        labels = ", under two labels" if pair.two_labels else ""
        kind = "the same" if pair.same else f"nearly the same ({pair.correlation:.4f})"
        yield f"{pair.first} and {pair.second} are {kind}{labels}{', of one patient' if pair.one_patient else ''}."


# --- 4: performance ---------------------------------------------------------------------------------------------------------


def _performance(found: Found) -> Block:
    rows = tuple(
        (name.replace("_", " "), Figure(f"performance.{name}", interval))
        for name, interval in found.performance.items()
    )
    whole = Sheet(
        "All samples", ("score", "value [95 % interval]"), rows, found.command,
        "AUC and accuracy over all classes; sensitivity, specificity and predictive values of the class that is looked for, at the threshold. Shares have Wilson's interval where each patient has one sample, all else is resampled over patients.",
    )  # fmt: skip
    facts = {
        "predictive values are those expected at": "the prevalence of these samples" if found.policy.prevalence is None else f"a prevalence of {found.policy.prevalence:g}",
        "sets from other devices, places or times": None,
    }  # fmt: skip
    sheets = (whole, _subgroups(found)) if found.policy.subgroups else (whole,)
    sentences = (
        ()
        if found.policy.subgroups
        else ("Subgroups: not provided. Name columns of the samples' notes with --subgroup.",)
    )
    return Block(
        4, "Performance", "AI Act 13(3)(b)(ii), (v), 15; FDA transparency principles", facts, sentences, sheets
    )


def _subgroups(found: Found) -> Sheet:
    rows: list[tuple[Cell, ...]] = []
    for row in found.subgroups:
        key = _row_key(row)
        value: Cell = (
            f"not told: {_too_few(row, found.policy.minimum_n)}" if row.interval is None else Figure(key, row.interval)
        )
        against: Cell = ""
        if row.against is not None:
            against = Figure(
                f"{key}.difference",
                row.against.interval,
                "patients",
                row.against.p_value,
                row.against.adjusted,
                sized=True,
            )
        rows.append((row.column, row.value, row.measure, value, against, "differs" if _apart(row) else ""))
    return Sheet(
        "Subgroups", ("column", "subgroup", "measure", "value [95 % interval]", "minus the other subgroups", "after correction"), tuple(rows), found.command,
        f"Subgroups of fewer than {found.policy.minimum_n} samples are not told; AUC, sensitivity and specificity need {PER_CLASS} of either class as well. Differences are tested by exchanging patients between subgroups within classes; p is corrected for all rows (Holm). Of two subgroups one difference says all.",
    )  # fmt: skip


def _too_few(row: SubgroupRow, minimum: int) -> str:
    return f"{row.n} samples" if row.n < minimum else "too few of a class"


def _row_key(row: SubgroupRow) -> str:
    return f"subgroup.{row.column}.{row.value}.{row.measure.replace(' ', '_')}"


def _apart(row: SubgroupRow) -> bool:
    return row.against is not None and row.against.adjusted < LEVEL


# --- 5 and 6: the explanation ---------------------------------------------------------------------------------------------


def _method(found: Found) -> Block:
    network = found.subject.network
    certificate = getattr(network, "certificate", None)
    facts: dict[str, Any] = dict(certificate.rows()) if certificate is not None else {"evidence": None}
    facts |= {
        "gauge": "log-odds of the class against the others: what is added to all classes cancels" if certificate is not None else None,
        "temperature": None,
    }  # fmt: skip
    residuals = [abs(r.decision["explanation"]["residual"]) for r in found.readings if r.decision.get("explanation")]
    sheets: tuple[Sheet, ...] = ()
    if residuals:
        largest = max(residuals)
        figure = Figure(
            "method.residual", Interval(largest, largest, largest, len(residuals), found.patients), "counted"
        )
        sheets = (Sheet("Completeness", ("what", "value"), (("largest difference between a score and its parts, log-odds", figure),), found.command),)  # fmt: skip
    return Block(5, "Explanation method", "AI Act 13(3)(b)(iv), (vii)", facts, found.subject.said, sheets)


def _quality(found: Found) -> Block:
    sheets = (*_scores(found), *_outside(found))
    sentences: tuple[str, ...] = ()
    if found.subject.scored is None:
        sentences = (
            f"Scores of the explanations: not evaluated. Run pellucid evaluate {found.subject.folder}, then audit again.",
        )
    return Block(6, "Explanation quality", "", {}, sentences, sheets)


def _scores(found: Found) -> Iterator[Sheet]:
    """The run's own scores of its explanations beside noise."""
    table = found.subject.scored
    if table is None or not any(r.method for r in table.records):
        return
    methods = [m for m in dict.fromkeys(r.method for r in table.records if r.method) if m not in CONTROLS]
    main = "evidence" if "evidence" in methods else methods[0]
    intervals = {(r.method, r.metric, r.part): r.interval for r in table.summary()}
    against = (
        {(c.metric, c.part): c for c in table.compare(main, NOISE)}
        if NOISE in {r.method for r in table.records}
        else {}
    )
    rows: list[tuple[Cell, ...]] = []
    for (method, metric, part), interval in intervals.items():
        if method != main or not interval.n:
            continue
        key = ".".join(("quality", metric, *([part] if part else ())))
        noise, apart = intervals.get((NOISE, metric, part)), against.get((metric, part))
        better = {True: "higher", False: "lower", None: "neither"}[METRICS[metric].higher_is_better]
        rows.append((
            f"{metric} {part}".strip(), better, Figure(key, interval), None if noise is None else Figure(f"{key}.{NOISE}", noise),
            None if apart is None else Figure(f"{key}.difference", apart.difference, "patients", apart.p_value, apart.adjusted),
        ))  # fmt: skip
    yield Sheet(
        f"Scores of {main}", ("metric", "better", f"{main} [95 % interval]", "noise", "minus noise"), tuple(rows), f"pellucid evaluate {found.subject.folder}",
        f"{METHODS[main].summary} Noise is a map that knows nothing of the decision; p is corrected for all rows (Holm).",
    )  # fmt: skip


def _outside(found: Found) -> Iterator[Sheet]:
    """Evidence outside the masks, where there are masks and evidence."""
    known = [r for r in found.readings if isfinite(r.outside)]
    if not known:
        return
    units = [r.unit for r in known]
    removed = [r for r in known if isfinite(r.unmasked)]
    rows: list[tuple[Cell, ...]] = [
        ("share of the evidence outside the masks", Figure("evidence.outside", mean_interval([r.outside for r in known], units, seed=found.seed))),
        ("share of the input outside the masks", Figure("evidence.outside_area", mean_interval([r.outside_area for r in known], units, seed=found.seed))),
    ]  # fmt: skip
    if removed:
        fall = mean_interval([r.unmasked for r in removed], [r.unit for r in removed], seed=found.seed)
        rows.append(("fall of the log-odds when the masks' content is imputed", Figure("evidence.unmasked", fall)))
    yield Sheet(
        "Evidence outside the masks", ("what", "mean [95 % interval]"), tuple(rows), found.command,
        "Of samples with a mask of something. A cell sees beyond its own place, so evidence next to a mask may well be about what is in it.",
    )  # fmt: skip


# --- 7: known failures ------------------------------------------------------------------------------------------------------


def _failures(found: Found) -> Block:
    sentences = [*_zone_words(found), *_subgroup_words(found)]
    sheets = [*_zones(found), *_errors(found)]
    return Block(
        7,
        "Known failures, found automatically",
        "AI Act 13(3)(b)(iii)",
        {},
        tuple(sentences),
        tuple(sheets),
        tuple(found.pictures),
    )


def _zones(found: Found) -> Iterator[Sheet]:
    rows: list[tuple[Cell, ...]] = []
    for z in found.zones:
        unit = "trainings" if z.trainings > 1 else "patients"
        key = _zone_key(z)
        rows.append((
            z.zone, z.verdict, _HOW[z.how], _known(Figure(f"{key}.effect", z.effect, unit, z.p_value, z.adjusted, sized=True)),
            _known(Figure(f"{key}.contrast", z.contrast, unit, sized=True)), _known(Figure(f"{key}.change", z.removed)),
            _known(Figure(f"{key}.mass", z.mass)), f"{z.area:.1%}",
        ))  # fmt: skip
    yield Sheet(
        "Zones with no business in the decision", ("zone", "verdict", "measured by", "effect", "contrast of the evidence", "size of the change", "share of the evidence", "share of the input"),
        tuple(rows), found.command, _ABOUT_ZONES.format(least=found.policy.least_effect, name=found.name),
    )  # fmt: skip


def _zone_key(finding: ZoneFinding) -> str:
    return f"shortcut.{finding.zone.replace(' ', '_')}"


_HOW = {"shown": "shown against not shown", "given": "given to strangers"}
_ABOUT_ZONES = (
    "Effect, in log-odds of '{name}'. Shown against not shown: the same sample rendered or painted with the thing and without it. Given to strangers: how far zones of '{name}' move the scores of "
    "other samples, minus how far zones of the other classes do; 0 where the zone tells the network nothing of the class. The verdict rests on the effect, corrected for all zones: relied on, "
    "if it is at least {least:g} and not chance; not relied on, if the whole interval is smaller than that. The contrast is the same of the evidence in the zone. Change: mean size of the change when "
    "the zone is emptied, or the thing taken away. Shares of evidence decide nothing: a shortcut can be read from an empty corner."
)


def _known(figure: Figure) -> Figure | None:
    return figure if isfinite(figure.interval.mean) else None


def _zone_words(found: Found) -> Iterator[str]:
    for z in found.zones:
        if z.verdict == "relied on":
            yield f"The network relies on {z.zone}: effect {z.effect} log-odds, corrected p {_p(z.adjusted)}."
        elif z.verdict == "not settled":
            yield f"Whether the network relies on {z.zone} is not settled: effect {z.effect} log-odds, corrected p {_p(z.adjusted)}. More samples may decide."
    for drawing in found.drawings:
        yield f"{drawing.zone.name}: a drawing that comes back unchanged in {len(drawing.shown_in)} of {len(found.readings)} samples was found. It lies in {drawing.box}."
    if found.policy.tags and not found.drawings:
        yield "No drawing that comes back unchanged at one place was found."
    if found.zones and found.zones[0].trainings == 1:
        yield "One training was judged. A network has picked up some small effect of everything by chance; whether data of this kind teach it shows over several trainings (pellucid train --seeds)."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _subgroup_words(found: Found) -> Iterator[str]:
    for row in found.subgroups:
        if _apart(row) and row.against is not None:
            yield f"{row.column} {row.value}: {row.measure} {row.interval}, {row.against.interval.mean:+.3f} against the others (corrected p {_p(row.against.adjusted)})."


def _errors(found: Found) -> Iterator[Sheet]:
    wrong, names = found.errors(), found.subject.classes
    rows: tuple[tuple[Cell, ...], ...] = (
        ("wrong answers", found.counted("failures.errors", len(wrong))),
        (
            "wrong answers with a probability of 0.9 or more",
            found.counted("failures.confident_errors", sum(max(r.probabilities) >= 0.9 for r in wrong)),
        ),
    )
    yield Sheet("Errors", ("what", "count"), rows, found.command)
    if wrong:
        worst: tuple[tuple[Cell, ...], ...] = tuple(
            (r.sample, r.group, names[r.label], names[r.answer], f"{max(r.probabilities):.3f}") for r in wrong[:SHOWN]
        )
        yield Sheet(
            "The most confident errors", ("sample", "patient", "truth", "answer", "probability"), worst, found.command
        )


# --- 8 and 9: decisions, changes --------------------------------------------------------------------------------------------


def _decisions(found: Found) -> Block:
    facts = {
        "file": "decisions.jsonl", "records": found.records, "digest of the last record (SHA-256)": found.head,
        "in every record": "digest of the input, answer, probabilities, log-odds, the strongest regions with what they add, constant, residual, digest of the map, the decision in words, digest of the record before",
        "calibrated probability": None, "conformal set": None, "abstention": None, "uncertainty": None, "nearest training cells": None, "reviewer's action": None,
        "check it": f"pellucid verify {found.out}",
    }  # fmt: skip
    return Block(8, "Decisions on record", "AI Act 12, 86 (Annex III only); 12 CFR 1002.9", facts)


def _changes(found: Found, others: Sequence[Block]) -> Block:
    plans = found.policy.plans
    facts = {"monitoring": plans.monitoring, "what calls for a new review": plans.review_triggers}
    sentences = [] if found.since is not None else ["Earlier audit: not provided. Name one with --since audit.json."]
    sheets = [*_since(found, others), *_mending(found)]
    if found.mended is not None:
        sentences += found.mended.words()
    return Block(9, "Change log", "AI Act 13(3)(c); SR 26-2", facts, tuple(sentences), tuple(sheets))


def _since(found: Found, others: Sequence[Block]) -> Iterator[Sheet]:
    if found.since is None:
        return
    figures = {figure.key: figure for block in others for figure, _ in block.figures()}
    yield Sheet(
        f"Since {found.since['made']}",
        ("what", "then", "now", "change"),
        tuple(changes(found.since, found.subject.hashes, figures)),
        found.command,
        "What is the same to the digits shown is left out.",
    )


def _mending(found: Found) -> Iterator[Sheet]:
    if found.mended is None:
        return
    rows: list[tuple[Cell, ...]] = [
        (row.condition, row.metric.replace("_", " "), *(Figure(f"mending.{row.key}.{side}", getattr(row, side)) for side in ("before", "after", "difference")))
        for row in found.mended.rows
    ]  # fmt: skip
    yield Sheet(
        f"Before and after mending {found.mended.zone}", ("samples", "score", "before", "after", "after minus before"), tuple(rows), found.command, found.mended.about
    )  # fmt: skip
