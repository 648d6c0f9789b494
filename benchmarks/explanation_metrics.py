"""Metrics of explanations beside Quantus and Captum: the pointing game, sparseness and max-sensitivity.

Pointing game and sparseness score one given map at the input's size. Max-sensitivity of saliency maps (channels kept, as
Captum gives them) takes four changed inputs, the same ones for all; its floor is one explanation of each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.protocol import compare
from benchmarks.study import CLASS, PLAIN, Goal, Run, Setting, Study, Subject, installed, plain_forward, rows, times
from pellucid.explanation import Explanation
from pellucid.metrics.max_sensitivity import max_sensitivity
from pellucid.metrics.pointing_game import pointing_game
from pellucid.metrics.sparseness import sparseness
from pellucid.spatial import Geometry
from pellucid.targets import ClassTarget

FASTER = 5
DRAWS, RADIUS = 4, 0.02
FLOOR = f"{DRAWS} explanations, the floor"
SCORES = ("pointing game", "sparseness", "max-sensitivity")


def _scene(x: Tensor) -> tuple[Tensor, Tensor]:
    """A map without ties and a mask."""
    pixels = torch.rand(x[:, 0].shape, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(pixels.shape, dtype=torch.bool)
    mask[(slice(None), *(slice(n // 4, n // 2) for n in mask.shape[1:]))] = True
    return pixels, mask


def _pointing_game(model: nn.Module, x: Tensor) -> Run:
    pixels, mask = _scene(x)
    geometry = Geometry.of_samples(pixels.shape[1:])
    return lambda: pointing_game(pixels, mask, pixels, geometry, tolerance=0)[""]


def _sparseness(model: nn.Module, x: Tensor) -> Run:
    pixels, _ = _scene(x)
    return lambda: sparseness(pixels)


def _quantus(name: str) -> Callable[[nn.Module, Tensor], Run]:
    def prepare(model: nn.Module, x: Tensor) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import quantus
        pixels, mask = _scene(x)
        metric = getattr(quantus, name)(normalise=False, disable_warnings=True, display_progressbar=False)
        given = {
            "x_batch": x.numpy(), "y_batch": [CLASS] * len(x), "a_batch": pixels[:, None].numpy(),
            "s_batch": mask[:, None].float().numpy(), "device": "cpu", "softmax": False, "batch_size": len(x),
        }  # fmt: skip
        return lambda: torch.tensor([float(v) for v in metric(model=model, **given)])

    return prepare


def _saliency(model: nn.Module, x: Tensor) -> Explanation:
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        slopes = torch.autograd.grad(logits[:, CLASS].sum(), leaf)[0]
    target = ClassTarget(torch.full((len(x),), CLASS))
    score = logits[:, CLASS].detach()
    return Explanation(slopes, Geometry.of_samples(x.shape[1:]), target, score, logits.detach(), "saliency")


def _changes(x: Tensor) -> list[Tensor]:
    """The changes that our metric draws with seed 0."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.rand(x.shape[1:], generator=generator, dtype=torch.float64) for _ in range(DRAWS)]
    return [((2 * d - 1) * RADIUS).to(x) for d in drawn]


def _floor(model: nn.Module, x: Tensor) -> Run:
    given = _changes(x)
    return lambda: [_saliency(model, x + change) for change in given]


def _max_sensitivity(model: nn.Module, x: Tensor) -> Run:
    first = _saliency(model, x)

    def run() -> Tensor:
        chance = torch.Generator().manual_seed(0)
        again: Any = lambda *, x: _saliency(model, x)  # noqa: E731
        return max_sensitivity(first, x, again, chance, radius=RADIUS, draws=DRAWS)[""]

    return run


def _captum(model: nn.Module, x: Tensor) -> Run:
    from captum.attr import Saliency
    from captum.metrics import sensitivity_max

    given = torch.stack(_changes(x))
    method = Saliency(model)

    def run() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for gradients of the input and says so
            found: Tensor = sensitivity_max(
                method.attribute, x, perturb_func=lambda v: v + given.repeat(len(x), *(1,) * (x.ndim - 1)),
                n_perturb_samples=DRAWS, target=CLASS, abs=False,
            )  # fmt: skip
        return found

    return run


SUBJECTS = {
    PLAIN: Subject(plain_forward),
    "pointing game": Subject(_pointing_game),
    "pointing game, Quantus": Subject(_quantus("PointingGame"), "quantus"),
    "sparseness": Subject(_sparseness),
    "sparseness, Quantus": Subject(_quantus("Sparseness"), "quantus"),
    FLOOR: Subject(_floor),
    "max-sensitivity": Subject(_max_sensitivity),
    "max-sensitivity, Captum": Subject(_captum, "captum"),
}


def run(setting: Setting) -> Study:
    found, runs = times(installed(SUBJECTS), setting, pairs=setting.fewer(3))
    differences: dict[str, float] = {}
    for score in SCORES:
        own = runs[score]().double()
        for name in (n for n in runs if n.startswith(f"{score}, ")):
            differences[name] = float((runs[name]().double() - own).abs().max())
    return Study(
        title=f"Metrics of explanations, {setting.side} px",
        about=f"One input; the unit is a plain forward pass of {setting.network_name}. Difference: from our value. Quantus adds 1e-7 to "
        f"every value before its sparseness. Max-sensitivity: saliency, {DRAWS} changed inputs.",
        rows=rows(SUBJECTS, {1: found}, differences=differences),
        goals=_goals(found, differences),
        ratios={1: found},
    )


def _goals(found: dict[str, list[float]], differences: dict[str, float]) -> list[Goal]:
    goals = []
    for score in ("pointing game", "sparseness"):
        peer = f"{score}, Quantus"
        if peer in found:
            times = compare(found[peer], found[score])
            told = f"The {score} at least {FASTER} times as fast as Quantus, at equal values (1e-6)."
            goals.append(Goal(told, f"{times} times", times.low >= FASTER and differences[peer] < 1e-6))
    floor = compare(found["max-sensitivity"], found[FLOOR])
    told = f"Max-sensitivity at most 1.1 of {DRAWS} explanations."
    goals.append(Goal(told, str(floor), floor.median <= 1.1))
    return goals
