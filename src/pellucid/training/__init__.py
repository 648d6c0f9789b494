"""Training with a penalty on the evidence: settings, loop, resume, metrics. Importing this package imports no torch."""

from __future__ import annotations

from pellucid.registry import PenaltyRow

_SOFTCAM = "Djoumessi and Berens, SoftCAM, 2025"

# A is the evidence of a batch, (batch, classes, *grid); mean() is over all of it.
PENALTIES: dict[str, PenaltyRow] = {
    "l1": PenaltyRow("pellucid.training.penalties:l1", "Mean size of the evidence.", "mean(|A|)", _SOFTCAM),
    "l2": PenaltyRow(
        "pellucid.training.penalties:l2",
        "Mean square of the evidence.",
        "mean(A^2)",
        "Hoerl and Kennard, Ridge regression, 1970",
    ),
    "l2_norm": PenaltyRow(
        "pellucid.training.penalties:l2_norm",
        "Root mean square of each input's evidence.",
        "mean over inputs of sqrt(mean(A^2))",
        _SOFTCAM,
    ),
    "elastic_net": PenaltyRow(
        "pellucid.training.penalties:elastic_net",
        "l1 and l2 in the shares l1_share and 1 - l1_share.",
        "s mean(|A|) + (1 - s) mean(A^2)",
        "Zou and Hastie, Elastic net, 2005",
    ),
    "log_sum": PenaltyRow(
        "pellucid.training.penalties:log_sum",
        "Counts what is above a small scale: removes weak evidence and spares strong.",
        "mean(log(1 + |A| / s))",
        "Candes, Wakin and Boyd, Reweighted l1 minimization, 2008",
    ),
    "hoyer": PenaltyRow(
        "pellucid.training.penalties:hoyer",
        "Share of the cells that the evidence is spread over, whatever its size.",
        "mean over maps of mean(|A|)^2 / mean(A^2)",
        "Hoyer, Sparseness constraints, 2004; Yang and others, DeepHoyer, 2020",
    ),
    "total_variation": PenaltyRow(
        "pellucid.training.penalties:total_variation",
        "How far the evidence rises and falls along a line across the map.",
        "mean over axes and lines of the sum of |difference of neighbours|",
        "Rudin, Osher and Fatemi, Total variation, 1992",
    ),
    "entropy": PenaltyRow(
        "pellucid.training.penalties:entropy",
        "How evenly the size of the evidence is spread over the cells: 0 for an even map, else negative.",
        "mean over maps of -sum(p log p) - log(cells), p = |A| / sum(|A|)",
        "Shannon, 1948",
    ),
    "mask": PenaltyRow(
        "pellucid.training.penalties:mask",
        "Mean size of the evidence outside the sample's mask; samples without one do not count.",
        "mean(|A| outside)",
        "Ross, Hughes and Doshi-Velez, Right for the right reasons, 2017",
    ),
}

__all__ = ["PENALTIES"]
