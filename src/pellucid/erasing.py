"""What the network answers when a region that its map shows is no longer there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import hooks, spatial
from pellucid.api import logits_of
from pellucid.call import Call, unwrapped, weights_device
from pellucid.errors import BadInput, OptionError
from pellucid.explanation import Explanation
from pellucid.metrics.imputation import impute
from pellucid.trials import Erased


def erase_regions(
    model: nn.Module | Sequence[nn.Module],
    explanation: Explanation,
    *,
    most: int = 1,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    input_name: str | None = None,
) -> Explanation:
    """The explanation, with what the network answers without each of the `most` strongest regions that speak for its target.

    A region is erased by itself: its samples become what their surroundings predict (`metrics.imputation`, without noise).
    `text()` sets the answer beside what the cells predict. The two differ where the rest of the input makes up for the
    region, where its evidence came from beyond its samples (a cell sees further than it is drawn), or where the filling
    means something itself.

    model: the network explained, or the several of `uncertainty`, whose scores and logits are averaged. args, kwargs,
    output, input_name: as for `explain`.

    Raises `OptionError` for several targets, `BadInput` for an explanation without its input (one that was loaded).
    """
    if explanation.several:
        raise OptionError("A region is erased for one target.", hint="Use e.of(k).")
    if explanation.input is None:
        raise BadInput(
            "The explanation does not hold its input.",
            why="A saved explanation has the numbers, not the picture.",
            hint="Explain the input again.",
        )
    found = [one.regions()[:most] for one in explanation]
    places = [(i, k) for i, regions in enumerate(found) for k in range(len(regions))]
    score = torch.full((len(found), max(map(len, found), default=0)), torch.nan, dtype=torch.float64)
    probability = score.clone()
    if places:
        of, k = torch.tensor(places).T
        gone = torch.stack([spatial.samples_of(found[i][j].cells, explanation.geometry) for i, j in places])
        x = impute(explanation.input[of], gone.to(explanation.input.device))
        calls = _calls(model, tuple(args), dict(kwargs or {}), output, input_name, len(explanation))
        answered = _answered(explanation.rows(of), [call.rows(of) for call in calls], x)
        known = answered.probabilities()
        score[of, k] = answered.score.double().cpu()
        if known is not None:
            probability[of, k] = known.double().cpu()
    return replace(explanation, erased=Erased(score, probability))


def _calls(model: nn.Module | Sequence[nn.Module], args: Any, kwargs: Any, output: Any, name: Any, batch: int) -> list[Call]:  # fmt: skip
    networks = [unwrapped(m) for m in ([model] if isinstance(model, nn.Module) else model)]
    return [Call(m, args, kwargs, logits_of(m) if output is None else output, name, batch) for m in networks]


def _answered(explanation: Explanation, calls: Sequence[Call], x: Tensor) -> Explanation:
    """The explanation with the score and the logits of other inputs: the means of the networks'."""
    outputs = []
    for call in calls:
        with torch.no_grad(), hooks.untouched(call.model):
            outputs.append(call(x.to(weights_device(call.model))))
    score = torch.stack([explanation.target(o) for o in outputs]).mean(0)
    logits = torch.stack(outputs).mean(0) if isinstance(outputs[0], Tensor) else outputs[0]
    return replace(explanation, score=score, logits=logits)
