"""From evidence per cell to one logit per class: four poolings, each with the share of the logit that every cell owns.

A 1x1 layer gives the evidence a(i) = W z(i) of every place; the pooling makes a logit of it, and b is added once:

    mean             mean of a                           each cell owns a / n; exact for every input
    lse              log(mean(exp(r a))) / r             each owns w a with w = softmax(r a);
                                                         the rest is (H(w) - log n) / r, with the entropy H of w
    top_k            mean of the k largest, per class    each of these owns a / k, the others nothing
    gated_attention  sum of g a, weights g(i) from z(i)  each owns g a

The last three hold at one input: with another input other cells are chosen or weighed. Their cells are the first-order
part of the logit with the choice held fixed. For lse that leaves a rest: the log-sum-exp is the largest value of
sum(w a) + (H(w) - log n) / r over all weights w that sum to one, taken where w = softmax(r a); at that w the rest is
minus the divergence of w from even weights, over r. It is never positive, and zero where all places speak alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import OptionError, nearest

PoolingName = Literal["mean", "lse", "top_k", "gated_attention"]

# What the decomposition of each is: for every input, or for the choice made at this one.
POOLINGS: Mapping[PoolingName, Literal["exact", "exact_at_this_image"]] = {
    "mean": "exact",
    "lse": "exact_at_this_image",
    "top_k": "exact_at_this_image",
    "gated_attention": "exact_at_this_image",
}


class EvidenceHead(nn.Module):
    """Class evidence at every place of a feature map, pooled into logits; any number of spatial axes.

    pooling: a name of `POOLINGS`. sharpness: r of lse, in 1/logit; 0 is the mean in the limit, large values the maximum
    (Pinheiro and Collobert 2015 use 5). k: of top_k, how many cells (1 or more) or which share of them (below
    1, at least one cell). hidden: width of the attention. bias: whether there is one.

    gated_attention weighs places by softmax(w' (tanh(V z) * sigmoid(U z))), alike for all classes (Ilse, Tomczak and
    Welling 2018, eq. 9). w starts at zero, so that it starts as the mean.

    Raises `OptionError` for an unknown pooling or an impossible option.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        pooling: PoolingName = "mean",
        *,
        sharpness: float = 1.0,
        k: float = 0.1,
        hidden: int = 64,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _check(pooling, sharpness, k, hidden)
        self.pooling, self.sharpness, self.k, self.hidden = pooling, float(sharpness), k, hidden
        self.evidence = nn.Linear(channels, classes, bias=bias)
        self.gate = _Gate(channels, hidden) if pooling == "gated_attention" else None

    @property
    def kind(self) -> Literal["exact", "exact_at_this_image"]:
        """Whether a cell's share is the same rule for every input."""
        return POOLINGS[self.pooling]

    def forward(self, features: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        rows = features.flatten(2)
        if self.pooling == "mean":
            return cast(Tensor, self.evidence(rows.mean(2)))
        if self.gate is not None:
            return cast(Tensor, self.evidence((rows * self.gate(rows)).sum(2)))
        own = F.linear(rows.transpose(1, 2), self.evidence.weight).transpose(1, 2)
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        pooled = self._log_sum_exp(own) if self.pooling == "lse" else own.topk(self._count(own.shape[2])).values.mean(2)
        bias = cast(Tensor | None, self.evidence.bias)
        return pooled if bias is None else pooled + bias

    def decompose(
        self, features: Float[Tensor, "batch channels *grid"]
    ) -> tuple[Float[Tensor, "batch classes *grid"], Float[Tensor, "batch classes"]]:
        """What each cell adds to each logit, and the constant: their sum is what `forward` gives, in logits.

        Computed from features and parameters, never from the logit; at least in float32, also under autocast.
        """
        kind = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            rows = features.flatten(2).to(kind)
            own = F.linear(rows.transpose(1, 2), self.evidence.weight.to(kind)).transpose(1, 2)
            shares, rest = self._shares(own, rows)
            bias = cast(Tensor | None, self.evidence.bias)
            constant = rest if bias is None else rest + bias.to(kind)
        return (shares * own).reshape(*own.shape[:2], *features.shape[2:]), constant

    def constant_is(self) -> str:
        """What the constant of `decompose` consists of, in words."""
        bias = "" if cast(Tensor | None, self.evidence.bias) is None else "the bias"
        if self.pooling != "lse":
            return bias or "zero"
        spread = "minus the divergence of the cells' weights from even ones, over the sharpness"
        return f"{bias} {spread}".strip()

    def options(self) -> dict[str, Any]:
        """The arguments that make a head like this one, as plain values."""
        out, channels = self.evidence.weight.shape
        return {
            "channels": channels, "classes": out, "pooling": self.pooling, "sharpness": self.sharpness, "k": self.k,
            "hidden": self.hidden, "bias": cast(Tensor | None, self.evidence.bias) is not None,
        }  # fmt: skip

    def extra_repr(self) -> str:
        option = {"lse": f", sharpness={self.sharpness:g}", "top_k": f", k={self.k:g}"}
        return f"pooling={self.pooling}{option.get(self.pooling, '')}"

    def _count(self, places: int) -> int:
        return min(int(self.k), places) if self.k >= 1 else max(1, round(self.k * places))

    def _log_sum_exp(self, own: Tensor) -> Tensor:
        return (torch.logsumexp(self.sharpness * own, 2) - log(own.shape[2])) / self.sharpness

    def _shares(self, own: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """By what each cell's evidence counts in the logit `(batch, classes or 1, places)`, and what no cell owns."""
        none, places = own.new_zeros(own.shape[:2]), own.shape[2]
        if self.pooling == "mean":
            return own.new_full((1, 1, 1), 1 / places), none
        if self.gate is not None:
            return self.gate.to_weights(rows), none
        if self.pooling == "top_k":
            count = self._count(places)
            return torch.zeros_like(own).scatter(2, own.topk(count).indices, 1 / count), none
        logs = (self.sharpness * own).log_softmax(2)
        entropy = -(logs.exp() * logs).sum(2)
        return logs.exp(), (entropy - log(places)) / self.sharpness


class _Gate(nn.Module):
    """Attention over places: softmax over i of w' (tanh(V z_i) * sigmoid(U z_i))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.V = nn.Linear(channels, hidden, bias=False)
        self.U = nn.Linear(channels, hidden, bias=False)
        self.w = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.w.weight)

    def forward(self, rows: Float[Tensor, "batch channels places"]) -> Float[Tensor, "batch 1 places"]:
        z = rows.transpose(1, 2)
        scores = self.w(self.V(z).tanh() * self.U(z).sigmoid())
        return cast(Tensor, scores.softmax(1).transpose(1, 2))

    def to_weights(self, rows: Tensor) -> Tensor:
        """The same in the precision of `rows`, whatever the parameters' is."""
        z = rows.transpose(1, 2)
        v, u, w = (layer.weight.to(rows.dtype) for layer in (self.V, self.U, self.w))
        scores = F.linear(F.linear(z, v).tanh() * F.linear(z, u).sigmoid(), w)
        return scores.softmax(1).transpose(1, 2)


def _check(pooling: Any, sharpness: float, k: float, hidden: int) -> None:
    if pooling not in get_args(PoolingName):
        raise OptionError(f"There is no pooling '{pooling}'.", hint=nearest(str(pooling), POOLINGS))
    wanted = {
        "sharpness": (sharpness, 0 < sharpness < float("inf"), "a positive number"),
        "k": (k, 0 < k < 1 or (k >= 1 and k == int(k)), "a whole number of cells, or a share of them between 0 and 1"),
        "hidden": (hidden, hidden >= 1, "at least 1"),
    }
    for name, (value, holds, words) in wanted.items():
        if not holds:
            raise OptionError(f"The pooling's {name} is {value}.", why=f"It must be {words}.", hint="Choose another.")
