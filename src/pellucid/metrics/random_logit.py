"""Random logit test (Sixt et al. 2020, section 5)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.contracts import Again
from pellucid.errors import TargetError
from pellucid.explanation import Explanation
from pellucid.metrics.perturbed import needed
from pellucid.metrics.ranking import spearman
from pellucid.targets import ClassTarget, OneVsRestTarget


def random_logit(
    explanation: Explanation, again: Again, generator: torch.Generator
) -> dict[str, Float[Tensor, "batch"]]:
    """Rank correlation of the map with that of another class, drawn at random. -1 to 1, lower is better: a map that is the
    same for every class does not tell why it is this one.

    "absolute": the same of sizes, without signs. One draw for all inputs: the same number of classes further on. Needs
    a class target and an output of several classes; the contrast of two classes has no other class, since its map turned
    round is its own opposite. Softmax leaves open what is added to all classes, which raises the likeness of raw maps:
    prefer gauge-free ones. Classes that share their places (two diseases of one organ) are alike for good reason. nan
    where a map is flat.

    Raises `TargetError` for any other target.
    """
    again, target, logits = needed(again), explanation.target, explanation.logits
    classes = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else 0
    if not isinstance(target, ClassTarget | OneVsRestTarget) or classes < 2:
        raise TargetError(
            "There is no other class to draw.",
            why=f"The target is {target.describe()}; a class among several is needed.",
            hint="Explain a class of a network with three classes or more.",
        )
    own = ClassTarget(target.classes).index(logits)
    step = 1 + int(torch.randint(classes - 1, (), generator=generator))
    other = again(target=replace(target, classes=((own + step) % classes).cpu())).map
    return {"": spearman(explanation.map, other), "absolute": spearman(explanation.map.abs(), other.abs())}
