"""The verb that audits a run: reads, measures, judges by a policy, and writes what was found.

OUT/  audit.html  audit.pdf (where Chromium is present)  audit.json  model-card.md
      decisions.jsonl   every decision, each record naming the digest of the one before
      policy.yaml       what it was held to, as it was given
      mended/           the run that was trained anew, where a zone was mended
      manifest.json     SHA-256 of these files, and the digest of the last record
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

import torch

import pellucid
from pellucid import __version__, files
from pellucid.audit import blocks, likeness, zones
from pellucid.audit.changes import read_earlier
from pellucid.audit.decisions import FILE, write_chain
from pellucid.audit.drawings import find_drawings
from pellucid.audit.limits import judged
from pellucid.audit.mending import NOTE, Conditions, Mended, anew, mend
from pellucid.audit.observe import Question, Reading, observe
from pellucid.audit.performance import performance
from pellucid.audit.pictures import of_drawings, of_errors
from pellucid.audit.policy import Policy
from pellucid.audit.regulations import CHECKED, REGULATIONS
from pellucid.audit.shortcuts import ZoneFinding, zone_findings
from pellucid.audit.subgroups import subgroup_rows
from pellucid.audit.subject import Subject, open_subject
from pellucid.errors import AuditFailed, BadInput, OptionError, nearest
from pellucid.models import storage
from pellucid.reporting.audit import AuditPage
from pellucid.reporting.audit_page import print_pdf, render_audit, render_model_card

KIND = "audit"

Tick = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is audited and how. source: data, where they are not the run's own folds; reading: how they are read.

    policy: what it is held to; lines: in which line of its file each limit stands; policy_text: that file. since: an
    earlier audit.json. mend: a zone in which the network is trained anew; how: "exchange" or "penalty". command: what
    repeats the audit.
    """

    run: Path
    out: Path
    source: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    lines: Mapping[str, int] = field(default_factory=dict)
    policy_text: str | None = None
    since: Path | None = None
    mend: str | None = None
    how: str = "exchange"
    batch_size: int = 32
    max_bad: float = 0.1
    seed: int = 0
    device: str = "cpu"
    command: str = ""


def audit(order: Order, *, tick: Tick | None = None, say: Say = lambda text: None) -> AuditPage:
    """Audit a run and write the report. A failed limit does not raise: see `AuditPage.failed` and `refuse_failed`.

    tick: called with (samples done, in all) while networks are asked. Raises what `open_subject` raises, and `OptionError`
    for what the policy names and the run does not have.
    """
    declared = {text: zones.zone(text) for text in (*order.policy.zones, *([order.mend] if order.mend else ()))}
    since = None if order.since is None else read_earlier(order.since)
    subject = open_subject(order.run, order.source, order.reading, device=torch.device(order.device))
    positive = _positive(order.policy, subject.classes)
    if order.mend is not None:
        anew(subject, order.how)  # refuses now what it would refuse when all else is done
    say("Reading the samples ...")
    seen, skipped = _seen(subject, order)
    drawings = find_drawings(subject.parts, seen, seed=order.seed) if order.policy.tags else []
    say("Asking the network ...")
    asked = [declared[text] for text in order.policy.zones]
    trainings = _readings(
        subject, Question(positive, asked, drawings, batch_size=order.batch_size, seed=order.seed), tick
    )
    readings = trainings[0]
    findings = zone_findings(trainings, least=order.policy.least_effect, seed=order.seed)
    mended = None
    if order.mend is not None:
        say(f"Training anew without {order.mend} ...")
        mended = _mended(order, subject, declared[order.mend], positive, findings)
    say("Comparing ...")
    cut = log(order.policy.threshold / (1 - order.policy.threshold))
    made = datetime.now(UTC).isoformat(timespec="seconds")
    files.remove(order.out / "manifest.json")  # of an earlier audit, which the new records would break
    head = write_chain(order.out / FILE, _records(subject, readings, made))
    found = blocks.Found(
        subject=subject, policy=order.policy, positive=positive, readings=readings, zones=findings, drawings=drawings,
        performance=performance(readings, cut=cut, prevalence=order.policy.prevalence, seed=order.seed),
        subgroups=subgroup_rows(readings, order.policy.subgroups, cut=cut, minimum=order.policy.minimum_n, seed=order.seed),
        **_alike(subject, seen), skipped=skipped, mended=mended, since=since,
        pictures=(*of_drawings(subject.parts, drawings), *of_errors(subject.parts, readings)), code=_code(), records=len(readings) + 1, head=head,
        seed=order.seed, command=order.command, out=order.out,
    )  # fmt: skip
    page = _page(found, order, made)
    _write(page, order, found, say)
    return page


def refuse_failed(page: AuditPage, policy: Path | None) -> None:
    """Raise `AuditFailed` where a limit was not met; it names the first line, and says how many there are."""
    if page.failed:
        first, more = page.failed[0], len(page.failed) - 1
        where = f"{policy or 'policy'}, line {first.line}: " if first.line else ""
        raise AuditFailed(
            f"{where}{first.key} {first.asked} is not met.",
            why=first.words
            + (f" {more} more limits are not met." if more > 1 else " One more limit is not met." if more else ""),
            hint="The report shows every limit; mend the network, or give more data where the interval is wide.",
            path=policy,
        )


# --- what is looked at ------------------------------------------------------------------------------------------------------


def _positive(policy: Policy, classes: Sequence[str]) -> int:
    if policy.positive is None:
        return len(classes) - 1
    if policy.positive not in classes:
        raise OptionError(
            f"There is no class '{policy.positive}'.", why=f"The policy follows it; the classes are {', '.join(classes)}.", hint=nearest(policy.positive, classes)
        )  # fmt: skip
    return classes.index(policy.positive)


def _seen(subject: Subject, order: Order) -> tuple[list[list[likeness.Seen]], dict[str, str]]:
    """What is kept of every sample of every part, and why some could not be read."""
    skipped: dict[str, str] = {}
    seen = [likeness.look_at(part.dataset, skipped=skipped) for part in subject.parts]
    _refuse_if_mostly_bad(skipped, sum(map(len, seen)), order)
    return seen, skipped


def _refuse_if_mostly_bad(skipped: Mapping[str, str], good: int, order: Order) -> None:
    if not good or len(skipped) > order.max_bad * (good + len(skipped)):
        shown = next(iter(skipped.items()), ("", ""))
        raise BadInput(
            f"{len(skipped)} of {good + len(skipped)} samples cannot be read.", why=": ".join(shown), hint="Mend them, or raise --max-bad."
        )  # fmt: skip


def _readings(subject: Subject, question: Question, tick: Tick | None) -> list[list[Reading]]:
    """What every training says; only the first, which is audited, is put on record."""
    total, done = sum(len(p.dataset) for parts in subject.trainings for p in parts), 0

    def advance(samples: int) -> None:
        nonlocal done
        done += samples
        if tick is not None:
            tick(done, total)

    return [
        [r for part in parts for r in observe(part, replace(question, record=k == 0), tick=advance)]
        for k, parts in enumerate(subject.trainings)
    ]


def _alike(subject: Subject, seen: Sequence[Sequence[likeness.Seen]]) -> dict[str, Any]:
    """Samples alike between what was learnt from and what judges, and patients on both sides; None: not known."""
    if subject.folds:
        fold = {one.name: k for k, own in enumerate(seen) for one in own}
        pairs = [p for p in likeness.alike([one for own in seen for one in own]) if fold[p.first] != fold[p.second]]
        groups = [{one.group for one in own} - {""} for own in seen]
        return {"pairs": pairs, "shared": sum(len(a & b) for k, a in enumerate(groups) for b in groups[:k])}
    if subject.learnt is None:
        return {"pairs": None, "shared": None}
    learnt, judges = likeness.look_at(subject.learnt), seen[0]
    shared = ({one.group for one in learnt} & {one.group for one in judges}) - {""}
    return {"pairs": likeness.alike(judges, learnt), "shared": len(shared)}


def _mended(order: Order, subject: Subject, zone: zones.Zone, positive: int, findings: Sequence[ZoneFinding]) -> Mended:
    shown = next((f.effect.mean for f in findings if f.zone == zone.name and f.how == "shown"), None)
    return mend(subject, Conditions(zone, positive, shown, order.seed), order.how, order.out / "mended")


# --- what is written ----------------------------------------------------------------------------------------------------------


def _records(subject: Subject, readings: Sequence[Reading], made: str) -> Iterator[dict[str, Any]]:
    """First what all decisions have in common, then one record for each. None: not provided."""
    yield {
        "record": 0,
        "made": made,
        "run": subject.folder.name,
        "pellucid": __version__,
        "classes": subject.classes,
        "hashes": dict(subject.hashes),
    }
    for number, r in enumerate(readings, start=1):
        yield {
            "record": number, "sample": r.sample, "patient": r.group or None, "network": r.part, "input_sha256": r.digest, "answer": subject.classes[r.answer],
            "probabilities": r.probabilities, "log_odds": r.score, "truth": subject.classes[r.label], **r.decision,
            "calibrated_probability": None, "conformal_set": None, "abstained": None, "uncertainty": None, "nearest": None, "reviewer_action": None,
        }  # fmt: skip


def _page(found: blocks.Found, order: Order, made: str) -> AuditPage:
    page = AuditPage(
        title=order.policy.title or f"Audit of {found.subject.folder.name}", made=made, summary=blocks.summary(found), blocks=blocks.blocks(found), limits=(),
        judged_by=order.policy.judged_by, regulations=[vars(r) for r in REGULATIONS], checked=CHECKED, commands=(order.command, f"pellucid verify {order.out}"),
    )  # fmt: skip
    figures = {key: figure for key, (figure, _) in page.figures().items()}
    return replace(page, limits=tuple(judged(order.policy, order.lines, figures, blocks.missing(found))))


def _write(page: AuditPage, order: Order, found: blocks.Found, say: Say) -> None:
    out = order.out
    html = files.write_text(out / "audit.html", render_audit(page))
    files.write_text(out / "model-card.md", render_model_card(page))
    files.write_json(out / "audit.json", {**page.as_dict(), "hashes": dict(found.subject.hashes)})
    names = ["audit.html", "model-card.md", "audit.json", FILE]
    if order.policy_text is not None:
        files.write_text(out / "policy.yaml", order.policy_text)
        names.append("policy.yaml")
    files.remove(out / "audit.pdf")
    if print_pdf(html, out / "audit.pdf"):
        names.append("audit.pdf")
    else:
        say("Chromium is not here: print audit.html for a PDF, its style is made for it.")
    if order.mend is not None:
        names += ["mended/manifest.json", f"mended/{NOTE}"]
    storage.write_manifest(out, sorted(names), kind=KIND, chain=found.head, records=found.records)


def _code() -> str:
    """SHA-256 of pellucid's own sources."""
    digest, root = sha256(), Path(pellucid.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}:{files.sha256(path)}\n".encode())
    return digest.hexdigest()
