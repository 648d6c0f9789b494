"""Model parameter randomisation test (Adebayo et al. 2018, section 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.call import Call
from pellucid.contracts import Again
from pellucid.errors import OptionError
from pellucid.metrics.perturbed import needed
from pellucid.metrics.randomised import randomised
from pellucid.metrics.ranking import spearman


def parameter_randomisation(
    call: Call,
    x: Float[Tensor, "batch channels *size"],
    map: Float[Tensor, "batch *grid"],
    again: Again,
    generator: torch.Generator,
    *,
    points: int = 4,
) -> dict[str, Float[Tensor, "batch"]]:
    """Likeness of the map to those of copies of the network that are made random from the output downwards. Lower is
    better: a map that stays does not tell what the network learned.

    "": rank correlation when all weights are random. "absolute": the same of sizes, without signs. "ssim": structural
    similarity of the two maps, each divided by its largest size, over one window that is the whole map. "top_layer":
    rank correlation when only the topmost layer is random, for a SoftCAM its evidence layer; "cascade": the mean over all
    `points` of the cascade (see `randomised`). The network itself is not touched; the target stays.

    All lie in -1 to 1, and 0 is what unrelated maps have on average over inputs and draws: a single draw on a grid of N
    cells spreads by 1 / sqrt(N - 1), and as one network is drawn for all inputs, their values are not independent. Far
    below 0 is no better than 0: the map is the same up to its sign, which "absolute" shows. Noise drawn anew scores low
    too. What the input alone decides (edges, bright places that every network answers to) keeps the likeness up; the
    order of layers and how maps are normalised change the value (Hedstrom et al. 2024), so compare within one setting.
    nan where a map is flat, as after a rectifier that lets nothing through. Costs `points` explanations.
    """
    again = needed(again)
    if points < 2:
        raise OptionError(
            f"points={points}.", why="The topmost layer and the whole network are two.", hint="Give 2 or more."
        )
    maps = [again(model=model).map.detach().clone() for model in randomised(call, x, generator, points)]
    alike = torch.stack([spearman(map, other) for other in maps])
    return {
        "": alike[-1],
        "absolute": spearman(map.abs(), maps[-1].abs()),
        "ssim": structural_similarity(map, maps[-1]),
        "top_layer": alike[0],
        "cascade": alike.mean(0),
    }


def structural_similarity(a: Float[Tensor, "batch *grid"], b: Float[Tensor, "batch *grid"]) -> Float[Tensor, "batch"]:
    """SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13) over one window, the whole map.

    Each map is divided by its largest size, so that zero stays zero and the range is 2. nan where one of them is flat.
    """
    a, b = (v.detach().double().flatten(1) for v in (a, b))
    undefined = (a.amax(1) == a.amin(1)) | (b.amax(1) == b.amin(1))
    a, b = (v / v.abs().amax(1, keepdim=True) for v in (a, b))
    mean_a, mean_b = a.mean(1), b.mean(1)
    spread = a.var(1, correction=0) + b.var(1, correction=0)
    together = ((a - mean_a[:, None]) * (b - mean_b[:, None])).mean(1)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    level = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (level * (2 * together + c2) / (spread + c2)).masked_fill(undefined, torch.nan)
