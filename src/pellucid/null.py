"""An explanation beside what the same method gives where there is nothing to find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import targets
from pellucid.api import explain
from pellucid.call import Call
from pellucid.chance import FEWEST, SURROGATES, Null, sizes
from pellucid.errors import OptionError, nearest
from pellucid.explanation import Explanation
from pellucid.targets import SeveralTargets

_STREAM = 0x6E756C6C  # keeps the surrogates' chance apart from the method's


def against_null(
    model: nn.Module,
    x: Float[Tensor, "batch channels *spatial"],
    target: Any = None,
    *,
    draws: int = 99,
    kind: str = "phases",
    reference: Float[Tensor, "references channels *spatial"] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    **how: Any,
) -> Explanation:
    """`explain`, with the sizes of the maps of inputs that hold nothing: `draws` surrogates of each input, or `reference`.

    The explanation's `null` holds them (see `Null` for what its p-values mean and what not), `text()` tells them and
    `overlay()` draws as a grey band beside the colour bar what 95 % of them stay within.

    target: all are asked the same question. None asks each for its own prediction, which is the fair comparison for a
    predicted class: the class an input was picked for is always larger on that input.
    kind: a surrogate has the input's statistics but not its content: "phases" keeps the spectrum, "pixels" the values,
    "patches" whole patches of an eighth of each side; what fits into one patch is as large wherever the patch lies.
    reference: inputs of which it is known that nothing is to be found (of healthy people, say), for all of x and in place
    of surrogates. They are of the kind the network was made for, which surrogates are not.
    batch_size: how many inputs are explained at a time, which bounds the memory. All else as in `explain`.

    Costs `draws` + 1 explanations per input, or one per input and reference. The same seed gives the same surrogates,
    alone or in a batch.
    Raises `OptionError` for fewer than 19 draws or references (none could reach p = 0.05), an unknown kind, or several
    targets at once.
    """
    check_draws(draws if reference is None else len(reference))
    _check(target, kind)

    def sizes_of(x: Tensor, target: Any, call: Call) -> tuple[Explanation, dict[str, Tensor]]:
        e = explain(model, x, target, args=call.args, kwargs=call.kwargs, batch_size=batch_size, seed=seed, **how)
        return e, sizes(e.map)

    call = Call(model, tuple(args), dict(kwargs or {}), batch=len(x))
    e, seen = sizes_of(x, target, call)
    found = [{name: values[:, None] for name, values in seen.items()}]
    if reference is not None:
        kind = "reference"
        same = sizes_of(reference, target, call)[1]
        found.append({name: values.expand(len(x), -1) for name, values in same.items()})
    else:
        wanted = targets.parse(target, task=how.get("task") or getattr(model, "task", None), classes=e.classes)
        for surrogates, index in _surrogates(x.detach(), kind, draws, batch_size, seed):
            drawn = sizes_of(surrogates, wanted.rows(index), call.rows(index))[1]
            found.append({name: values.view(-1, len(x)).T for name, values in drawn.items()})
    return replace(e, null=Null(kind, **{name: torch.cat([part[name] for part in found], 1) for name in seen}))


def _surrogates(x: Tensor, kind: str, draws: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every input once per draw, as many draws together as fit; and which input each one is made of."""
    generator = torch.Generator().manual_seed(seed ^ _STREAM)
    most = max(batch_size // len(x), 1)
    for start in range(0, draws, most):
        count = min(most, draws - start)
        yield torch.cat([SURROGATES[kind](x, generator) for _ in range(count)]), torch.arange(len(x)).repeat(count)


def check_draws(draws: int) -> None:
    """Raise `OptionError` for fewer draws than could tell anything."""
    if draws < FEWEST:
        raise OptionError(
            f"{draws} draws are too few.",
            why="No p-value could reach 0.05.",
            hint=f"Give at least {FEWEST}; 99 is usual.",
        )


def _check(target: Any, kind: str) -> None:
    if kind not in SURROGATES:
        raise OptionError(f"There are no surrogates called '{kind}'.", hint=nearest(kind, SURROGATES))
    if isinstance(target, SeveralTargets):
        raise OptionError(
            "Several targets at once have no common null distribution.", hint="Ask for one target at a time."
        )
