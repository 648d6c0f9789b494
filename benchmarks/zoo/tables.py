"""The verdicts as docs/models.csv, one row per name, and docs/models.md, one row per family."""

from __future__ import annotations

import csv
import io
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any

from benchmarks.zoo.records import EXACT_KINDS, FLOAT32, FLOAT64, LARGEST, Row, wrong

KINDS = (*EXACT_KINDS, "retrain", "refused", "not run")
COLUMNS = (
    "name", "family", "parameters", "kind", "by", "head_attached", "reason", "note", "float32", "float64", "constant_share",
    "cells_share", "input", "grid", "stride", "registered", "receptive_field", "cut", "head", "seconds", "message",
)  # fmt: skip


def as_csv(rows: Iterable[Row]) -> str:
    """The full list. Figures are those of the name's own run; assigned names have none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        facts = row.facts
        line = {
            "name": facts.name, "family": facts.family, "parameters": facts.parameters or "",
            "kind": row.kind, "by": row.by, "head_attached": "yes" if facts.attach else "", "reason": row.reason,
            "note": row.note, "message": " ".join(row.message.split()) if row.by == "run" else "",
        }  # fmt: skip
        writer.writerow(line | (_figures(row) if row.by == "run" else {}))
    return text.getvalue()


def _figures(row: Row) -> dict[str, Any]:
    record = row.record
    assert record is not None
    reach = "whole input" if record.whole_input else _axes(record.receptive_field or ())
    converted = record.outcome == "converted"
    return {
        "float32": _number(record.float32), "float64": _number(record.float64),
        "constant_share": _number(record.constant_share), "cells_share": _number(record.cells_share),
        "input": _axes(record.size[1:]), "grid": _axes(record.grid), "stride": _axes(record.stride),
        "registered": ("yes" if record.registered else "no") if converted else "",
        "receptive_field": reach or ("not known" if converted else ""), "cut": record.cut, "head": record.head,
        "seconds": record.seconds,
    }  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _axes(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else " x ".join(f"{v:g}" for v in values)


def as_markdown(rows: Sequence[Row], command: str, codes: Sequence[str], complete: bool = True) -> str:
    """The page. command: what wrote it; codes: digests of the compiler's source that the records come from."""
    parts = [
        "# Which networks convert",
        f"Every classification network of torchvision and timm through `pellucid.convert`. Written by `{command}`; do not edit by hand. "
        "The full list, one row per name, is in [models.csv](models.csv).",
        "Weights are random, with perturbed BatchNorm statistics, biases and layer scales: this speaks of algebra, not of the usefulness "
        "of maps of trained networks.",
    ]
    if not complete:
        parts.append("**The run behind this page was stopped before its end.**")
    parts += [
        "## Counts", _counts(rows), _provenance(rows), "## Targets", _targets(rows),
        "## Families", _FAMILIES, _pipes(_FAMILY_HEAD, [_family_row(*key, list(found)) for key, found in _by_family(rows)]),
        "## Refused", _refusals(rows), "## How it was made", _made(command, codes, rows),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in table)


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.1f} %)" if count else "0"


def _sources(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    return [(source, list(found)) for source, found in groupby(rows, key=lambda r: r.source)]


def _counts(rows: Sequence[Row]) -> str:
    lines = []
    for source, found in _sources(rows):
        kinds = Counter(r.kind for r in found)
        lines.append([source, len(found), *(_share(kinds[k], len(found)) for k in KINDS), sum(map(_is_wrong, found))])
    return _pipes(["", "names", *(k.replace("_", " ") for k in KINDS), "wrong"], lines)


def _provenance(rows: Sequence[Row]) -> str:
    lines = []
    for source, found in _sources(rows):
        notes = Counter(r.note for r in found if r.note)
        attached = sum(r.facts.attach for r in found)
        run, assigned = sum(r.by == "run" for r in found), sum(r.by.startswith("assigned") for r in found)
        told = "; ".join(f"{n} {note}" for note, n in sorted(notes.items())) or "none"
        lines.append([source, run, assigned, told, attached])
    table = _pipes(["", "run", "assigned", "not run because", "encoders with a classifier attached"], lines)
    return (
        "*Run*: converted and measured. *Assigned*: not run; the verdict is that of the names with the same layers after the trunk that were "
        "run, at least two wherever two could be, all in agreement (column `by` of the list). Encoders are shipped without a "
        f"classifier; they are counted with a linear one attached.\n\n{table}"
    )


def _is_wrong(row: Row) -> bool:
    return row.by == "run" and row.record is not None and bool(wrong(row.record, row.facts))


def wrongs(rows: Iterable[Row]) -> list[str]:
    """Names that are called exact, or exact at this image, and are not: with the reason."""
    return [f"{r.facts.name}: {wrong(r.record, r.facts)}" for r in rows if r.record is not None and _is_wrong(r)]


def _targets(rows: Sequence[Row]) -> str:
    def good(source: str) -> tuple[int, int]:
        found = [r for r in rows if r.source == source]
        return sum(r.kind in EXACT_KINDS for r in found), len(found)

    (vision, of_vision), (timm, of_timm) = good("torchvision"), good("timm")
    proved = [r for r in rows if r.by == "run" and r.kind in EXACT_KINDS and not _is_wrong(r)]
    families = {(r.source, r.facts.family) for r in proved}
    bad = len(wrongs(rows))
    lines = [
        ("torchvision: 82 of 89 exact or exact at this image", f"{vision} of {of_vision}", vision >= 82),
        ("timm: at least 80 % exact or exact at this image", f"{timm} of {of_timm}" + (f" ({100 * timm / of_timm:.1f} %)" if of_timm else ""), of_timm > 0 and timm >= 0.8 * of_timm),
        ("wrong conversions: 0", str(bad), bad == 0),
        (f"float64 parity at most {FLOAT64:g} on at least 60 networks of different families", f"{len(proved)} networks of {len(families)} families", len(families) >= 60),
    ]  # fmt: skip
    return _pipes(["target", "measured", ""], [(a, b, "met" if met else "missed") for a, b, met in lines])


def _by_family(rows: Iterable[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    return [(key, list(found)) for key, found in groupby(rows, key=lambda r: (r.source, r.facts.family))]


_FAMILIES = (
    "A family is a module of the library. Parity: the largest difference between cells plus constant and the original's logits, over the "
    "standard deviation of the logits, on inputs other than the one of the conversion. Constant: the spread (standard deviation) of the "
    "constant over that of the logits, where gates are held; empty where the constant is the same for every input. Stride and receptive field in input "
    "samples. Registered: networks of those run whose cell centres are known. Figures are from the names that were run, from the smallest to the largest."
)
_FAMILY_HEAD = (
    "family", "names", "run", "exact", "at this image", "retrain", "refused", "not run", "float32", "float64", "constant", "stride",
    "receptive field", "registered", "refused because",
)  # fmt: skip


def _family_row(source: str, family: str, rows: list[Row]) -> list[object]:
    kinds = Counter(r.kind for r in rows)
    run = [r.record for r in rows if r.by == "run" and r.record is not None and r.record.outcome == "converted"]
    fields = [r.receptive_field[0] for r in run if r.receptive_field and not r.whole_input]
    reach = [_span(fields, "{:g}")] * bool(fields) + ["whole input"] * any(r.whole_input for r in run)
    reach += ["not known"] * any(not r.whole_input and not r.receptive_field for r in run)
    reasons = Counter(r.reason for r in rows if r.kind == "refused")
    return [
        f"{source} {family}", len(rows), sum(r.by == "run" for r in rows), *(kinds[k] or "" for k in KINDS),
        _largest(r.float32 for r in run), _largest(r.float64 for r in run),
        _span([r.constant_share for r in run if r.constant_share is not None], "{:.2g}"),
        ", ".join(sorted({_axes(r.stride) for r in run}, key=lambda s: (len(s), s))), ", ".join(reach),
        f"{sum(r.registered for r in run)} of {len(run)}" if run else "", "; ".join(f"{why} ({n})" for why, n in reasons.most_common()),
    ]  # fmt: skip


def _largest(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{max(known):.1e}" if known else ""


def _span(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _refusals(rows: Sequence[Row]) -> str:
    refused = [r for r in rows if r.kind == "refused"]
    reasons = Counter((r.source, r.reason) for r in refused)
    summary = _pipes(["source", "reason", "names"], [(s, why, n) for (s, why), n in sorted(reasons.items())])
    key: Callable[[Row], tuple[str, str, str]] = lambda r: (r.source, r.facts.family, r.reason)  # noqa: E731
    lines = []
    for (source, family, why), found in groupby(sorted(refused, key=key), key=key):
        members = list(found)
        names = ", ".join(r.facts.name.partition(":")[2] for r in members[:3]) + (" ..." if len(members) > 3 else "")
        lines.append((f"{source} {family}", len(members), why, names, (members[0].message.splitlines() or [""])[0]))
    return f"{summary}\n\n{_pipes(['family', 'names', 'reason', 'such as', 'what convert says of the first'], lines)}"


def _made(command: str, codes: Sequence[str], rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    seconds = sum(r.record.seconds for r in rows if r.record is not None)
    return "\n".join([
        f"- Command: `{command}`; Python {platform.python_version()}, {versions}; CPU, one thread per network, {seconds / 3600:.1f} hours of single runs.",
        f"- Compiler: {len(codes)} version{'s' * (len(codes) != 1)} of `pellucid/models` (digest {', '.join(codes)}).",
        "- Inputs: 128 or 112 px where the network takes them (`img_size` where it is made for one size), else its own size; videos 16 frames. Two inputs to convert "
        "with, two others to compare on.",
        f"- torchvision: every name. timm: of each signature (the layers after the trunk without their sizes, the trunk's last block, tokens, pooling options) the smallest member "
        f"and one more; every member where two disagree (`--all`: every name). Networks over {LARGEST // 1_000_000} M parameters are not built.",
        f"- Wrong: called exact or exact at this image with float64 parity above {FLOAT64:g} or float32 parity above {FLOAT32:g}, or with a class token feeding the head. "
        "The command fails if there is one.",
        "- float64: the same conversion in double precision; where the head's layers were fused into new parameters, a second conversion of the network in double precision.",
    ])  # fmt: skip
