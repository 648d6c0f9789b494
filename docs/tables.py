"""Write docs/reference.md and docs/methods.md: `make docs`. A test checks that the files are fresh.

The first is made of the registries; the second of the registry of methods, of the marks on the tests, and of passes
counted while it is written.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pellucid as pl
from pellucid.cli import VERBS
from pellucid.data.lesionlab import PRESETS, Knobs
from pellucid.errors import LayerError

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"


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


def named(name: str, aliases: Sequence[str]) -> str:
    """A name, with its other names."""
    return f"`{name}`" + (f" (also {', '.join(f'`{a}`' for a in aliases)})" if aliases else "")


def reference() -> str:
    """All registries."""
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
    views = table(
        ("view", "what it shows", "options", "source"),
        [
            (f"`{n}`", r.summary, options(r.load(), hidden=("generator", "progress")), r.paper)
            for n, r in pl.VIEWS.items()
        ],
    )
    metrics = table(
        ("metric", "property", "what it measures", "better", "options", "source"),
        [
            (
                named(n, r.aliases),
                r.property,
                r.summary,
                direction(r.higher_is_better),
                options(r.load()),
                r.paper or "own",
            )
            for n, r in pl.METRICS.items()
        ],
    )
    summaries = table(
        ("summary", "what it says of a whole table", "better", "options", "source"),
        [
            (f"`{n}`", r.summary, direction(r.higher_is_better), options(r.load()), r.paper or "own")
            for n, r in pl.SUMMARIES.items()
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
    knobs = table(
        ("knob", *PRESETS, "what it turns", "what it tests"),
        [
            (
                f"`{f.name}`",
                *(f"`{getattr(p, f.name)!r}`" for p in PRESETS.values()),
                f.metadata["about"],
                f.metadata["tests"],
            )
            for f in fields(Knobs)
        ],
    )
    commands = table(("command", "what it does"), [(f"`pellucid {m.NAME}`", m.HELP) for m in VERBS])
    return "\n\n".join([
        "# Reference", "Generated from the registries by `make docs`; do not edit.",
        "## Methods (`pl.METHODS`)", methods, "Methods of other libraries, by their names there, with their options there:", adapters,
        "## Views (`pl.VIEWS`)", "Of the network itself; how to use them: [looking inside](look.md).", views,
        "## Metrics (`pl.METRICS`)", metrics, "## Summaries (`pl.SUMMARIES`)", summaries, "## Penalties (`pl.PENALTIES`)", "A is the evidence of a batch, (batch, classes, *grid).", penalties,
        "## Readers (`pl.READERS`)", readers, "## LesionLab's knobs", "By preset; what they draw: [LesionLab](lesionlab.md).", knobs,
        "## Training settings (`pl.TrainingConfig`)", settings, "## Commands", commands,
    ]) + "\n"  # fmt: skip


def marks(name: str) -> Iterator[tuple[ast.Call, str]]:
    """Every `pytest.mark.NAME(...)` on a test, and the test's file."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{name}":
                    yield mark, path.relative_to(TESTS.parent).as_posix()


def checks() -> dict[str, dict[str, float]]:
    """Method -> what it is compared with -> the largest difference that passes, as a share of the largest value."""
    found: dict[str, dict[str, float]] = {}
    for mark, _ in marks("checks"):
        (method,) = (ast.literal_eval(a) for a in mark.args)
        given = {str(k.arg): ast.literal_eval(k.value) for k in mark.keywords}
        sources = found.setdefault(method, {})
        sources[given["against"]] = max(given["tolerance"], sources.get(given["against"], 0.0))
    return found


def tested_mistakes() -> dict[str, list[str]]:
    """The number of a mistake -> the files with tests that fail on it."""
    found: dict[str, list[str]] = {}
    for mark, path in marks("bug"):
        files = found.setdefault(ast.literal_eval(mark.args[0]), [])
        if path not in files:
            files.append(path)
    return found


class Convolutional(nn.Module):
    """Two convolutions up to the layer `trunk`, and behind it a mean and a linear layer, or a further convolution first."""

    def __init__(self, channels: int, bent: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(2, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3), nn.ReLU())
        self.tail = nn.Sequential(nn.Conv2d(channels, 5, 3), nn.ReLU()) if bent else nn.Identity()
        self.fc = nn.Linear(5 if bent else channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tail(self.trunk(x)).flatten(2).mean(2))


class Passes(TorchDispatchMode):
    """Counts how often an input goes through the convolutions with weights of a given shape, forward or back."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[torch.Size] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.counted[args[1].shape] += len(args[0])
        elif func is torch.ops.aten.convolution_backward.default:
            to_input, to_weight, _ = args[-1]
            self.counted[args[2].shape] += len(args[0]) * (to_input + to_weight)
        return func(*args, **(kwargs or {}))


def passes(name: str, channels: int, bent: bool) -> tuple[int, int]:
    """Passes that a method with its default options takes for one image: before the layer, and behind it."""
    net, x = Convolutional(channels, bent).eval(), torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    model = pl.convert(net, x) if "evidence" in pl.METHODS[name].needs else net
    named = {"layer": "trunk"} if "layer" in inspect.signature(pl.METHODS[name].load()).parameters else {}
    pl.explain(model, x, 0, method=name, **named)  # which layers there are is found out once
    with Passes() as seen:
        pl.explain(model, x, 0, method=name, **named)
    return seen.counted[net.trunk[2].weight.shape], seen.counted[torch.Size((5, channels, 3, 3))]


def cost(name: str, bent: bool) -> tuple[str, str]:
    """The number of passes before and behind the layer, in words where it depends on the layer's channels."""
    few, many = 6, 12
    try:
        pairs = zip(passes(name, few, bent), passes(name, many, bent), strict=True)
    except LayerError:
        return "refused", "refused"
    before, behind = ((low, (high - low) / (many - few)) for low, high in pairs)
    return told(*before, few), told(*behind, few)


def told(low: int, slope: float, channels: int) -> str:
    """A count that grows evenly with the channels."""
    fixed = f"{low - slope * channels:g}"
    return fixed if slope == 0 else f"{fixed} + {'' if slope == 1 else f'{slope:g} x '}channels"


def methods() -> str:
    """What speaks for each method, and what it costs."""
    known = checks()

    def against(name: str) -> str:
        return "; ".join(f"{source} ({tolerance:.0e})" for source, tolerance in known[name].items()).replace(
            "e-0", "e-"
        )

    def source(row: Any) -> str:
        return ", ".join(part for part in (row.paper or "own", row.equation) if part)

    rows = [
        (
            f"`{name}`", source(row), ", ".join(map(str, row.ranks)), ", ".join(sorted(row.needs)) or "nothing",
            cost(name, False)[0], *cost(name, True), against(name),
        )
        for name, row in pl.METHODS.items()
    ]  # fmt: skip
    adapted = [
        (f"`{library}:NAME`", source(row), ", ".join(map(str, row.ranks)), against(library))
        for library, row in pl.METHODS.adapters.items()
    ]
    tests = tested_mistakes()
    mistakes = [(n, what, ", ".join(f"`{path}`" for path in tests[n])) for n, what in known_mistakes().items()]
    return METHODS_PAGE.format(
        methods=table(
            ("method", "source", "ranks", "needs", "linear head", "before the layer", "behind it", "checked against"),
            rows,
        ),
        adapters=table(("method", "source", "ranks", "checked against"), adapted),
        mistakes=table(("", "mistake", "tests"), mistakes),
    )


def known_mistakes() -> dict[str, str]:
    """The table in tests/reference/mistakes.py."""
    for node in ast.parse((TESTS / "reference" / "mistakes.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MISTAKES":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise LookupError("tests/reference/mistakes.py has no table MISTAKES")


METHODS_PAGE = """# Methods: where they come from, what they cost, what they were checked against

Generated by `make docs` from the registry, from the marks `checks` and `bug` on the tests, and by counting passes; do
not edit.

**Needs.** `layer`: a layer with positions, found by itself or named. `gradient`: of the score. `gates`: ReLUs or rules
that are met as the network calls them, so no TorchScript. `evidence`: a SoftCAM. Ranks: 1 for signals, 2 for images, 3
for volumes.

**Cost.** In passes of one image through the network with the default options, counted on a small network; a pass back
counts like a pass forward, which is what it costs as long as no gradient of weights is asked for (none is). *Linear
head*: the mean over places and one linear layer follow the layer, as in most classifiers. With any other head, what
comes *before the layer* and what comes *behind it* run a different number of times. `channels` are those of the layer.

**Checked against.** In brackets the largest difference that passes, as a share of the map's largest value; the test
takes it from its own mark. Figures below 1e-6 are from float64. The libraries are those of `requirements/test.txt`;
Zennit is compared with where it is installed. A literal version does the paper's sums one channel, one image or one
pass at a time (`tests/reference/`).

{methods}

Methods of other libraries run on a copy of the network that works nowhere in place, at the cost they have there:

{adapters}

Where papers and libraries disagree the paper is followed, and the method's docstring says so. Not compared with
libraries are Score-CAM (they normalise the weights in different ways) and Grad-CAM++ (three formulas are in use).

Besides, for every method, with signals, images and volumes, in float32, float64 and under bfloat16 autocast
(`tests/methods/test_every_method.py`): a batch is its inputs one by one in any order; one seed gives one map; modes,
hooks, gradients, weights and random states are as before, also after an error in any of the passes; frozen networks,
`torch.no_grad`, `torch.inference_mode`, compiled networks and networks behind DataParallel have the same maps. Memory
does not grow (`tests/test_memory.py`). That a GPU gives what the CPU gives is asked in `tests/methods/test_gpu.py`,
which is skipped where there is none.

## Mistakes of other libraries that the tests know

The tests fail on each, and show the library's own answer where it is installed, in the versions named in
`tests/reference/mistakes.py`; what MONAI does is written out by hand.

{mistakes}
"""

PAGES: dict[str, Callable[[], str]] = {"reference.md": reference, "methods.md": methods}


if __name__ == "__main__":
    for name, rendered in PAGES.items():
        (HERE / name).write_text(rendered(), encoding="utf-8")
        print(f"Wrote {HERE / name}")
