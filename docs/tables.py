"""Write docs/reference.md from the registries: `make docs`. A test checks that the file is fresh."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pellucid as pl
from pellucid.cli import VERBS

TARGET = Path(__file__).parent / "reference.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def options(leaf: Callable[..., Any], hidden: Sequence[str] = ("generator",)) -> str:
    """Keyword-only arguments with their defaults."""
    parameters = inspect.signature(leaf).parameters.values()
    shown = [f"`{p.name}={p.default!r}`" for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in hidden]
    return ", ".join(shown) or "none"


def direction(better: bool | None) -> str:
    """Which way a metric is better."""
    return {True: "higher", False: "lower", None: "neither"}[better]


def rendered() -> str:
    """The whole page."""
    methods = table(
        ("method", "what it shows", "adds up", "options", "source"),
        [
            (
                f"`{n}`" + (" (control)" if r.control else ""),
                r.summary,
                "yes" if r.complete else "no",
                options(r.load()),
                r.paper or "own",
            )
            for n, r in pl.METHODS.items()
        ],
    )
    adapters = table(
        ("method", "what it shows", "source"),
        [(f"`{library}:NAME`", r.summary, r.paper) for library, r in pl.METHODS.adapters.items()],
    )
    metrics = table(
        ("metric", "property", "what it measures", "better", "options", "source"),
        [
            (f"`{n}`", r.property, r.summary, direction(r.higher_is_better), options(r.load()), r.paper or "own")
            for n, r in pl.METRICS.items()
        ],
    )
    penalties = table(
        ("penalty", "formula", "source"), [(f"`{n}`", f"`{r.formula}`", r.paper) for n, r in pl.PENALTIES.items()]
    )
    readers = table(
        ("reader", "sources", "what it reads"), [(f"`{n}`", r.sources, r.summary) for n, r in pl.READERS.items()]
    )
    settings = table(
        ("setting", "default"), [(f"`{n}`", f"`{f.default!r}`") for n, f in pl.TrainingConfig.model_fields.items()]
    )
    commands = table(("command", "what it does"), [(f"`pellucid {m.NAME}`", m.HELP) for m in VERBS])
    return "\n\n".join([
        "# Reference", "Generated from the registries by `make docs`; do not edit.",
        "## Methods (`pl.METHODS`)", methods, "Methods of other libraries, by their names there, with their options there:", adapters,
        "## Metrics (`pl.METRICS`)", metrics, "## Penalties (`pl.PENALTIES`)", "A is the evidence of a batch, (batch, classes, *grid).", penalties,
        "## Readers (`pl.READERS`)", readers, "## Training settings (`pl.TrainingConfig`)", settings, "## Commands", commands,
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
    print(f"Wrote {TARGET}")
