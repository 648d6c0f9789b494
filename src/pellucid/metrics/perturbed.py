"""Explanations of inputs near to one, for the metrics that ask whether the map stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.contracts import Again
from pellucid.errors import OptionError
from pellucid.explanation import Explanation


@dataclass(frozen=True)
class Perturbed:
    """What small changes of the input do.

    changes: the Euclidean size of the change of the map. sizes: that of the change of the input, one per draw.
    stays: whether the network's answer is the same.
    """

    changes: Float[Tensor, "batch draws"]
    sizes: Float[Tensor, "draws"]
    stays: Bool[Tensor, "batch draws"]

    def largest(self, ratio: Float[Tensor, "batch draws"]) -> dict[str, Float[Tensor, "batch"]]:
        """The largest ratio of all draws, and of those that leave the answer as it was (nan if there are none)."""
        same = ratio.masked_fill(~self.stays & ~ratio.isnan(), -torch.inf).amax(1)
        return {"": ratio.amax(1), "same_answer": same.masked_fill(same == -torch.inf, torch.nan)}


def perturbed(
    explanation: Explanation,
    x: Float[Tensor, "batch channels *size"],
    again: Again | None,
    task: str,
    generator: torch.Generator,
    radius: float,
    draws: int,
) -> Perturbed:
    """One explanation per input and draw, of the same target: uniform noise of at most `radius` per value, the same for
    all inputs, so that an input's score does not depend on its neighbours in the batch.

    Raises `OptionError` where nothing can be explained anew, or for a radius or number of draws that is not positive.
    """
    again = needed(again)
    if radius <= 0 or draws < 1:
        raise OptionError(
            f"radius={radius} and draws={draws} leave nothing to compare with.", hint="Give positive numbers."
        )
    first, answer = _flat(explanation), _answer(explanation, task)
    changes, sizes, stays = [], [], []
    for _ in range(draws):
        noise = (2 * torch.rand(x.shape[1:], generator=generator, dtype=torch.float64) - 1).mul(radius).to(x)
        other = again(x=x + noise)
        changes.append((_flat(other) - first).norm(dim=1))
        sizes.append(noise.double().norm())
        stays.append(_answer(other, task) == answer)
    return Perturbed(torch.stack(changes, 1), torch.stack(sizes), torch.stack(stays, 1))


def needed(again: Again | None) -> Again:
    """What explains anew, for a metric that cannot do without. Raises `OptionError`."""
    if again is None:
        raise OptionError(
            "This metric explains other inputs, networks or targets too.",
            why="Nothing was given that explains anew (Case.again).",
            hint="Score with pellucid.evaluate, or give again=.",
        )
    return again


def _flat(explanation: Explanation) -> Float[Tensor, "batch cells"]:
    return explanation.map.detach().double().flatten(1)


def _answer(explanation: Explanation, task: str) -> Tensor:
    """The predicted class; of a single logit or a label, yes or no; a regression has no answer that could change."""
    logits = explanation.logits
    if task == "multiclass" and isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1:
        return logits.detach().argmax(1)
    yes: Tensor = explanation.score.detach() > 0
    return torch.zeros_like(yes) if task == "regression" else yes
