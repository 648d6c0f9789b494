"""Activation consistency r+ and r-, as in the SoftCAM paper (Djoumessi and Berens 2025), on gauge-free maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import BadInput, TargetError
from pellucid.explanation import Explanation
from pellucid.sample import Sample
from pellucid.targets import ContrastTarget, OneVsRestTarget, SingleLogitTarget, Target


def sign_consistency(
    explanation: Explanation, samples: Sequence[Sample], *, healthy: int = 0
) -> dict[str, Float[Tensor, "batch"]]:
    """The share of cells whose sign agrees with the label: above zero for disease on diseased inputs ("positive", the
    paper's r+), below zero on healthy ones ("negative", its r-). 0 to 1, higher is better.

    "" is one or the other, as the label says; "positive" is nan for healthy inputs and "negative" for diseased ones.
    healthy: the label of healthy inputs. Needs labels, and a map whose sign means something: of the contrast of the
    healthy class with another, of the healthy class against the rest, or of a single logit whose negative answer is
    healthy. The paper takes the raw map of one softmax class, whose sign is left open by the loss: adding the same map to
    all classes changes no probability and both shares. Cells of exactly 0 agree with neither.

    A map that is nowhere negative whatever it explains (saliency, edges, rectified maps) scores 1 where the label is what is
    explained, as in `evaluate` by default: read it for signed methods only, beside the controls. r+ rewards maps that
    find disease everywhere; a few lesions on an otherwise healthy input make a right map's r+ small.

    Raises `TargetError` for a target without such a sign, `BadInput` where no sample has a label.
    """
    labels = [s.label if isinstance(s.label, int) else None for s in samples]
    if all(label is None for label in labels):
        raise BadInput(
            "No sample has a class label.", why="Signs are compared with it.", hint="Use data with a label per input."
        )
    sign = _towards_disease(explanation.target, healthy, len(samples)).to(explanation.map.device)
    signed = explanation.map.detach().double().flatten(1) * sign[:, None]
    nan = torch.full_like(signed[:, 0], torch.nan)
    diseased = torch.tensor([label is not None and label != healthy for label in labels], device=signed.device)
    well = torch.tensor([label == healthy for label in labels], device=signed.device)
    finite = signed.isfinite().all(1)
    positive = torch.where(diseased & finite, (signed > 0).double().mean(1), nan)
    negative = torch.where(well & finite, (signed < 0).double().mean(1), nan)
    return {"": torch.where(diseased, positive, negative), "positive": positive, "negative": negative}


def _towards_disease(target: Target, healthy: int, batch: int) -> Float[Tensor, "batch"]:
    """1 where the target's score speaks for disease, -1 where against it, nan where for neither."""
    if isinstance(target, SingleLogitTarget) and target.positive is not None and healthy in (0, 1):
        return torch.where(torch.as_tensor(target.positive) != bool(healthy), 1.0, -1.0).double().expand(batch)
    if isinstance(target, ContrastTarget):
        a, b = torch.as_tensor(target.a), torch.as_tensor(target.b)
        return torch.where(b == healthy, 1.0, torch.where(a == healthy, -1.0, torch.nan)).double().expand(batch)
    if isinstance(target, OneVsRestTarget) and target.classes is not None:
        return torch.where(torch.as_tensor(target.classes) == healthy, -1.0, torch.nan).double().expand(batch)
    raise TargetError(
        "The sign of this map says nothing about healthy or diseased.",
        why=f"It explains {target.describe()}; softmax leaves the sign of a single class's map open.",
        hint="Explain ContrastTarget(diseased, healthy), OneVsRestTarget(healthy) or a single logit.",
    )
