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
}

__all__ = ["PENALTIES"]
