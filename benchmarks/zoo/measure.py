"""Convert one network and compare its evidence with the original's own logits."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pellucid.models
from benchmarks.zoo import networks, records
from benchmarks.zoo.records import Record
from benchmarks.zoo.survey import Facts
from pellucid.errors import ConversionError
from pellucid.models.convert import convert
from pellucid.models.softcam import SoftCAM
from pellucid.models.trace import as_logits


def measure(facts: Facts) -> Record:
    """Everything about one name: its conversion in single precision, as users do it, and parity in both precisions."""
    start = time.process_time()
    best = Record(facts.name, "failed", code_digest())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for record in _attempts(facts):
            best = record if record.outcome != "failed" or best.outcome == "failed" else best
            if not _too_small(record):
                break
    return replace(best, seconds=round(time.process_time() - start, 2))


def _too_small(record: Record) -> bool:
    """Whether a larger input may change the verdict."""
    small = "larger example" in record.message.lower() and record.reason not in (records.TOKEN, records.HEADS)
    return record.outcome == "failed" or (record.outcome == "refused" and small)


def code_digest() -> str:
    """Tells versions of the compiler apart: of the modules of `pellucid.models` that decide about a conversion."""
    content = hashlib.sha256()
    for name in ("analysis", "capture", "convert", "frozen", "head", "reasons", "softcam", "trace"):
        content.update((Path(pellucid.models.__path__[0]) / f"{name}.py").read_bytes())
    return content.hexdigest()[:12]


def _attempts(facts: Facts) -> Iterator[Record]:
    """One record per input size, small sizes first."""
    seed = networks.seed_of(facts.name)
    for size, options in networks.inputs(facts.size, facts.fixed):
        record = Record(facts.name, "failed", code_digest(), size=size)
        try:
            model = networks.perturb(networks.build(facts.name, facts.attach, **options), seed)
            with torch.no_grad():
                model(networks.example(size, seed))
        except Exception as error:
            yield replace(record, message=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        try:
            yield _converted(record, model, seed)
        except ConversionError as error:
            yield records.refused(record, str(error), facts)


def _converted(record: Record, model: nn.Module, seed: int) -> Record:
    first, fresh = networks.example(record.size, seed), networks.example(record.size, seed + 1)
    softcam = convert(model, first)
    known = softcam.certificate
    record = replace(
        record, outcome="converted", kind=known.kind, grid=known.grid, stride=known.stride,
        registered=known.start is not None, receptive_field=known.receptive_field, whole_input=known.whole_input,
        cut=known.cut, head=known.head, constant_share=getattr(known, "constant_share", None),
        cells_share=getattr(known, "cells_share", None), float32=max(known.parity_relative, parity(model, softcam, fresh)),
    )  # fmt: skip
    return replace(record, **_in_double(model, softcam, fresh, first))


def _in_double(model: nn.Module, softcam: SoftCAM, x: Tensor, first: Tensor) -> dict[str, Any]:
    """Parity of the same conversion in double precision.

    Parameters that the conversion computed were rounded to single precision; then the network is converted again.
    """
    with double_precision():
        model, x = model.double(), x.double()
        if softcam.fused is None:
            try:
                found = parity(model, softcam.double(), x)
            except RuntimeError:  # an operation with a type of its own
                found = float("nan")
            if found <= records.FLOAT64:
                return {"float64": found, "float64_by": "the same conversion"}
        again = convert(model, first.double())
        return {"float64": parity(model, again, x), "float64_by": "a second conversion"}


@contextmanager
def double_precision() -> Iterator[None]:
    """Tensors that a network makes on its way are double as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def parity(original: nn.Module, softcam: SoftCAM, x: Tensor) -> float:
    """The largest |mean of the cells + constant - logit of the original| over the standard deviation of its logits."""
    with torch.no_grad():
        logits = as_logits(original(x))
        seen = softcam.evidence(x)
        made = seen.maps.flatten(2).mean(2) + seen.bias
    return float((made - logits).abs().max() / logits.std())
