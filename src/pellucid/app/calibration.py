"""How sure a network may be: the temperature that fits predictions on inputs it did not learn from.

A run keeps such predictions where it was evaluated (`evaluate/scores.json`): out of fold, or on a test part. Nothing is
made up where it keeps none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pellucid import performance
from pellucid.record import Prediction, Table

LEAST = 30  # predictions: fewer leave a temperature that says little


@dataclass(frozen=True)
class Calibration:
    """temperature: by which logits are divided; None: not known. note: where it comes from, or why there is none."""

    temperature: float | None
    note: str


def calibration(network: Path) -> Calibration:
    """Of the network in a run's folder, from what the run around it was evaluated on."""
    scores = network.parent / "evaluate" / "scores.json"
    if not scores.is_file():
        return Calibration(None, "not calibrated: its run holds no evaluation")
    found = [p for p in Table.from_json(scores).predictions if _is_of(p, network)]
    if len(found) < LEAST:
        return Calibration(None, f"not calibrated: {len(found)} held-out predictions are too few")
    tiny = np.finfo(float).tiny
    given = np.array([p.probabilities for p in found])
    logits = np.log(np.maximum(performance.both_classes(given), tiny))
    labels = np.array([p.label for p in found])
    t = performance.temperature(logits, labels)
    return Calibration(t, f"temperature {t:.3f}, fitted on {len(found)} held-out predictions")


def _is_of(prediction: Prediction, network: Path) -> bool:
    """Whether the network in this folder made a prediction: by its fold, or by its name."""
    if prediction.fold is not None:
        return network.name == f"fold-{prediction.fold}"
    return prediction.model.casefold().replace(" ", "-") == network.name.casefold()
