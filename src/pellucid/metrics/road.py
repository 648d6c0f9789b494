"""ROAD: remove and debias (Rong et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid import spatial
from pellucid.call import Call
from pellucid.errors import OptionError
from pellucid.metrics.imputation import impute
from pellucid.metrics.removal import answers, check_shares, copied, where_defined
from pellucid.targets import Target


def road(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    target: Target,
    pixels: Float[Tensor, "batch *size"],
    task: str = "multiclass",
    *,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "batch"]]:
    """(LeRF - MoRF) / 2: the answer without the least relevant samples minus that without the most relevant ones.

    Both are means over `shares`, the shares of the samples that are removed. "probability", from -0.5 to 0.5, and
    "log_odds" (nan where the target has no probability) are the combined values, higher is better; "lerf_..." (higher
    is better) and "morf_..." (lower is better) are what they are made of. A map that knows nothing is near 0.

    What is removed is replaced by noisy linear imputation (see `imputation.impute`), which tells the network less of the
    mask's shape than a constant would, but not nothing; it favours blurred maps (arXiv:2304.13836), so compare with the
    blurred random control. noise: standard deviation of what is added to imputed samples, in the network's normalised
    input; one field of it for all inputs. generator: draws it, by default with seed 0; it is read but not moved on.

    Equal samples go together: of a group that does not fit into a share nothing is removed, so a map of 9 equal
    places above a flat ground has these 9 removed, whatever the share, and a flat map nothing: 0. A map of few levels
    therefore keeps its ground longer than a fine one. pytorch-grad-cam removes the whole image where more than the
    threshold's share is equal, and with percentile="auto" the least relevant part.

    Takes 2 passes and 2 imputations per share and input: at 224 x 224 about 2 s of one core for the 18 imputations,
    most of it for the large shares. batch_size: changed inputs per pass.
    nan where the map is not finite. Raises `OptionError` for shares outside 0 to 1, `BadInput` for a map of another size.
    """
    check_shares(shares)
    if noise < 0:
        raise OptionError(f"noise={noise} is not possible.", hint="Give a standard deviation, 0 for none.")
    spatial.check_same_size(pixels, x[:, 0], "input")
    source = copied(generator)
    field = noise * torch.randn(x.shape[1:], generator=source, device=source.device).to(x)
    removed = torch.cat([highest(pixels, shares), highest(-pixels, shares)])

    def change(rows: Tensor, part: Tensor) -> Tensor:
        gone = removed[part][:, rows]
        copies = x[rows].expand(len(part), *(-1,) * x.ndim).flatten(0, 1)
        filled = impute(copies, gone.flatten(0, 1)).view(len(part), len(rows), *x.shape[1:])
        return torch.where(gone[:, :, None], filled + field, filled)

    changed = answers(call, x, target, task, change, len(removed), batch_size=batch_size)[1]
    found: dict[str, Tensor] = {}
    for name in ("probability", "log_odds"):
        morf, lerf = (half.mean(1) for half in changed.of(name).chunk(2, 1))
        found |= {name: (lerf - morf) / 2, f"lerf_{name}": lerf, f"morf_{name}": morf}
    return where_defined(found, pixels)


def highest(pixels: Float[Tensor, "batch *size"], shares: Sequence[float]) -> Bool[Tensor, "shares batch *size"]:
    """For each share of the samples, the highest ones of each map; a group of equal ones is in whole or not at all."""
    ordered = pixels.flatten(1).sort(dim=1, descending=True).values
    n = ordered.shape[1]
    first_left = torch.tensor([min(round(share * n), n - 1) for share in shares], device=pixels.device)
    return torch.stack([pixels > spatial.expand(column, pixels) for column in ordered[:, first_left].T])
